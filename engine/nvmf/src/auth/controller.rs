//! The controller's side of DH-HMAC-CHAP: what Authentication Send brings goes in, what Authentication Receive asks for comes
//! out. Knows no queue.

use super::group::{Exponent, Group};
use super::hash::Hash;
use super::message::{Body, Message, Offer};
use super::response::{Challenge, Role};
use super::{Explanation, Failure, Parties, Policy, Random, State};
use crate::nqn::Nqn;

/// One queue's authentication, from the controller's side. A host may authenticate again when it has before.
pub struct ControllerAuth {
    parties: Parties,
    policy: Policy,
    step: Step,
    transaction: u16,
    /// How it ended the last time, if it ever did well.
    done: Option<State>,
}

/// What comes next.
enum Step {
    /// The host negotiates.
    Negotiate,
    /// The host asks for a challenge, of these.
    Choose(Hash, Group),
    /// The host answers the challenge.
    Reply(Box<Given>),
    /// The host asks how that was; it was right. If it has challenged, here is the answer.
    Success1 { hash: Hash, answer: Option<Vec<u8>> },
    /// The host says how the controller's answer was.
    Success2,
    /// The host asks for something, and will be refused.
    Refuse(Explanation),
    /// It is over.
    Failed(Failure),
}

/// What the controller remembers of its challenge.
struct Given {
    challenge: Challenge,
    group: Group,
    exponent: Exponent,
}

/// The host's Authentication Receive has no room for the message: an invalid field in its command.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the message for the host has {needed} bytes, more than it asks for")]
pub struct TooShort {
    /// How long the message is.
    pub needed: usize,
}

impl ControllerAuth {
    /// Nothing has been said yet.
    #[must_use]
    pub fn new(parties: Parties, policy: Policy) -> Self {
        Self { parties, policy, step: Step::Negotiate, transaction: 0, done: None }
    }

    /// Who is to prove that it is this one.
    #[must_use]
    pub fn host(&self) -> &Nqn {
        &self.parties.host
    }

    /// How it stands. Who has authenticated stays so while it does it again, unless that fails. Who is to be refused learns
    /// it first, so whoever keeps a queue gives hosts a time to ask.
    #[must_use]
    pub fn state(&self) -> State {
        match &self.step {
            Step::Failed(failure) => State::Failed(*failure),
            _ => self.done.unwrap_or(State::Pending),
        }
    }

    /// It ended well.
    fn end(&mut self, mutual: bool) {
        self.done = Some(State::Done { mutual });
        self.step = Step::Negotiate;
    }

    /// Takes what an Authentication Send brought. The command itself is done in any case: what is wrong with the message is
    /// told when the host asks for the next one.
    pub fn send(&mut self, message: &[u8]) {
        let taken = Message::parse(message).and_then(|message| self.take(&message));
        match taken {
            Ok(Some(step)) => self.step = step,
            Ok(None) => self.end(true),
            Err(_) if matches!(self.step, Step::Failed(_) | Step::Refuse(_)) => {}
            Err(explanation) => self.step = Step::Refuse(explanation),
        }
    }

    /// What comes after this message; `None` if it was the last one.
    fn take(&mut self, message: &Message<'_>) -> Result<Option<Step>, Explanation> {
        match (&self.step, &message.body) {
            (Step::Negotiate, Body::Negotiate { concatenation, offer }) => {
                self.transaction = message.transaction;
                let (hash, group) = self.choose(*concatenation, offer.as_ref())?;
                Ok(Some(Step::Choose(hash, group)))
            }
            (Step::Failed(_) | Step::Refuse(_), _) => Err(Explanation::IncorrectMessage),
            (Step::Negotiate, body) if !matches!(body, Body::Failure2 { .. }) => Err(Explanation::IncorrectMessage),
            _ if message.transaction != self.transaction => Err(Explanation::IncorrectPayload),
            // Also behind the end: the host did not like what it was told last.
            (_, Body::Failure2 { explanation }) => Ok(Some(Step::Failed(Failure::There(*explanation)))),
            (Step::Reply(given), Body::Reply { answer, sequence, challenge, public }) => {
                self.check(given, answer, *sequence, *challenge, public).map(Some)
            }
            (Step::Success2, Body::Success2) => Ok(None),
            _ => Err(Explanation::IncorrectMessage),
        }
    }

    /// The strongest hash function and group that both allow.
    fn choose(&self, concatenation: u8, offer: Option<&Offer<'_>>) -> Result<(Hash, Group), Explanation> {
        if concatenation != 0 {
            return Err(Explanation::ConcatenationMismatch);
        }
        let offer = offer.ok_or(Explanation::ProtocolUnusable)?;
        let hash = self.policy.hashes().find(|hash| offer.hashes.contains(&hash.code()));
        let group = self.policy.groups().find(|group| offer.groups.contains(&group.code()));
        Ok((hash.ok_or(Explanation::HashUnusable)?, group.ok_or(Explanation::GroupUnusable)?))
    }

    /// Whether the host's answer is right, and what the controller answers to its challenge, if there is one.
    fn check(&self, given: &Given, answer: &[u8], sequence: u32, challenge: Option<&[u8]>, public: &[u8]) -> Result<Step, Explanation> {
        let hash = given.challenge.hash;
        if answer.len() != usize::from(hash.len_bytes()) {
            return Err(Explanation::IncorrectPayload);
        }
        let shared = match given.group {
            Group::Null if public.is_empty() => None,
            Group::Null => return Err(Explanation::IncorrectPayload),
            group => Some(group.shared(&given.exponent, public).ok_or(Explanation::IncorrectPayload)?),
        };
        let ours = Challenge { shared, ..given.challenge.clone() };
        if !ours.is_answer(Role::Host, &self.parties, answer) {
            return Err(Explanation::Failed);
        }
        let Some(value) = challenge else { return Ok(Step::Success1 { hash, answer: None }) };
        // A challenge that is our own sent back is no challenge.
        if sequence == 0 || value == ours.value {
            return Err(Explanation::IncorrectPayload);
        }
        let theirs = Challenge { value: value.to_vec(), sequence, ..ours };
        let answer = theirs.answer(Role::Controller, &self.parties).ok_or(Explanation::Failed)?;
        Ok(Step::Success1 { hash, answer: Some(answer.to_vec()) })
    }

    /// What an Authentication Receive is answered with, if it has room for `room_bytes`. The rest of its data are zeroes. Look
    /// at the state afterwards: if it has failed, the queue is to be closed behind this answer.
    ///
    /// # Errors
    /// [`TooShort`]: the same can be asked for again.
    pub fn receive(&mut self, room_bytes: usize, random: &mut Random<'_>) -> Result<Vec<u8>, TooShort> {
        let explanation = match &self.step {
            Step::Choose(hash, group) => {
                let needed = 16 + usize::from(hash.len_bytes()) + usize::from(group.len_bytes());
                if needed > room_bytes {
                    return Err(TooShort { needed });
                }
                return Ok(self.challenge(*hash, *group, random));
            }
            Step::Success1 { hash, answer } => {
                let body = Body::Success1 { hash_bytes: hash.len_bytes(), answer: answer.as_deref() };
                let (bytes, mutual) = (self.fitting(body, room_bytes)?, answer.is_some());
                if mutual {
                    self.step = Step::Success2;
                } else {
                    self.end(false);
                }
                return Ok(bytes);
            }
            Step::Refuse(explanation) => *explanation,
            Step::Failed(Failure::Here(explanation)) => *explanation,
            // Nothing is there to be asked for.
            Step::Negotiate | Step::Reply(_) | Step::Success2 | Step::Failed(Failure::There(_)) => Explanation::IncorrectMessage,
        };
        let bytes = self.fitting(Body::Failure1 { explanation: explanation.code() }, room_bytes)?;
        if !matches!(self.step, Step::Failed(_)) {
            self.step = Step::Failed(Failure::Here(explanation));
        }
        Ok(bytes)
    }

    fn fitting(&self, body: Body<'_>, room_bytes: usize) -> Result<Vec<u8>, TooShort> {
        let bytes = Message { transaction: self.transaction, body }.bytes();
        if bytes.len() > room_bytes { Err(TooShort { needed: bytes.len() }) } else { Ok(bytes) }
    }

    fn challenge(&mut self, hash: Hash, group: Group, random: &mut Random<'_>) -> Vec<u8> {
        let mut value = vec![0; usize::from(hash.len_bytes())];
        random(&mut value);
        let exponent = Exponent::new(random);
        let (sequence, transaction) = (sequence(random), self.transaction);
        let public = group.public(&exponent);
        let body = Body::Challenge { hash: hash.code(), group: group.code(), sequence, value: &value, public: &public };
        let bytes = Message { transaction, body }.bytes();
        let challenge = Challenge { hash, value, sequence, transaction, shared: None };
        self.step = Step::Reply(Box::new(Given { challenge, group, exponent }));
        bytes
    }
}

/// A sequence number: never zero. The specification counts from a random number on; a random one each time is as unlikely to
/// come again, and needs no counter that queues share.
pub(super) fn sequence(random: &mut Random<'_>) -> u32 {
    let mut bytes = [0; 4];
    random(&mut bytes);
    u32::from_le_bytes(bytes).max(1)
}
