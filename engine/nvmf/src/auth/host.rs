//! The host's side of DH-HMAC-CHAP: says what to send and when to receive. Knows no queue.

use super::controller::sequence;
use super::group::{Exponent, Group};
use super::hash::Hash;
use super::message::{Body, MESSAGE_BYTES_MAX, Message, Offer, offered};
use super::response::{Challenge, Role};
use super::{Explanation, Failure, Parties, Policy, Random, State};

/// One queue's authentication, from the host's side.
pub struct HostAuth {
    parties: Parties,
    policy: Policy,
    transaction: u16,
    step: Inner,
}

/// What to do next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step<'a> {
    /// Send this with Authentication Send, then call [`HostAuth::sent`].
    Send(&'a [u8]),
    /// Ask for so many bytes with Authentication Receive, then call [`HostAuth::received`] with all of them.
    Receive {
        /// How many.
        room_bytes: usize,
    },
    /// There is nothing more to do.
    End(State),
}

enum Inner {
    /// The offer is to be sent.
    Offer(Vec<u8>),
    /// The controller's challenge comes.
    Challenge,
    /// The answer is to be sent.
    Reply(Vec<u8>, Asked),
    /// The controller says how it was, and answers if it was challenged.
    Success1(Asked),
    /// The last message is to be sent, and then it stands so.
    Last(Vec<u8>, State),
    /// It is over.
    End(State),
}

/// What the host expects of the controller.
struct Asked {
    hash: Hash,
    /// The host's own challenge, if it has a secret of the controller to check the answer with.
    challenge: Option<Box<Challenge>>,
}

impl HostAuth {
    /// Nothing has been said yet. Transactions of one queue that follow each other have different numbers.
    #[must_use]
    pub fn new(parties: Parties, policy: Policy, transaction: u16) -> Self {
        let (hashes, groups) = offered(policy);
        let offer = Some(Offer { hashes: &hashes, groups: &groups });
        let offer = Message { transaction, body: Body::Negotiate { concatenation: 0, offer } }.bytes();
        Self { parties, policy, transaction, step: Inner::Offer(offer) }
    }

    /// What to do next.
    #[must_use]
    pub fn step(&self) -> Step<'_> {
        match &self.step {
            Inner::Offer(bytes) | Inner::Reply(bytes, _) | Inner::Last(bytes, _) => Step::Send(bytes),
            Inner::Challenge | Inner::Success1(_) => Step::Receive { room_bytes: MESSAGE_BYTES_MAX },
            Inner::End(state) => Step::End(*state),
        }
    }

    /// What was to be sent was sent, and the command is done.
    ///
    /// # Panics
    /// If nothing was to be sent.
    pub fn sent(&mut self) {
        self.step = match std::mem::replace(&mut self.step, Inner::Challenge) {
            Inner::Offer(_) => Inner::Challenge,
            Inner::Reply(_, asked) => Inner::Success1(asked),
            Inner::Last(_, state) => Inner::End(state),
            Inner::Challenge | Inner::Success1(_) | Inner::End(_) => panic!("nothing was to be sent"),
        };
    }

    /// Takes what an Authentication Receive brought.
    ///
    /// # Panics
    /// If nothing was to be received.
    pub fn received(&mut self, bytes: &[u8], random: &mut Random<'_>) {
        let next = match Message::parse(bytes) {
            Ok(Message { body: Body::Failure1 { explanation }, .. }) => Ok(Inner::End(State::Failed(Failure::There(explanation)))),
            Ok(message) if message.transaction != self.transaction => Err(Explanation::IncorrectPayload),
            Ok(message) => self.take(&message, random),
            Err(explanation) => Err(explanation),
        };
        self.step = next.unwrap_or_else(|explanation| {
            let body = Body::Failure2 { explanation: explanation.code() };
            let state = State::Failed(Failure::Here(explanation));
            Inner::Last(Message { transaction: self.transaction, body }.bytes(), state)
        });
    }

    fn take(&self, message: &Message<'_>, random: &mut Random<'_>) -> Result<Inner, Explanation> {
        match (&self.step, &message.body) {
            (Inner::Challenge, Body::Challenge { hash, group, sequence, value, public }) => {
                let hash = self.policy.hashes().find(|allowed| allowed.code() == *hash);
                let group = self.policy.groups().find(|allowed| allowed.code() == *group);
                let (hash, group) = (hash.ok_or(Explanation::HashUnusable)?, group.ok_or(Explanation::GroupUnusable)?);
                if value.len() != usize::from(hash.len_bytes()) {
                    return Err(Explanation::IncorrectPayload);
                }
                let (value, transaction) = (value.to_vec(), self.transaction);
                let challenge = Challenge { hash, value, sequence: *sequence, transaction, shared: None };
                self.reply(challenge, group, public, random)
            }
            (Inner::Success1(asked), Body::Success1 { hash_bytes, answer }) => {
                if *hash_bytes != asked.hash.len_bytes() {
                    return Err(Explanation::IncorrectPayload);
                }
                let Some(challenge) = &asked.challenge else { return Ok(Inner::End(State::Done { mutual: false })) };
                // A controller that does not answer has not proved anything, whatever it says.
                if !answer.is_some_and(|answer| challenge.is_answer(Role::Controller, &self.parties, answer)) {
                    return Err(Explanation::Failed);
                }
                let last = Message { transaction: self.transaction, body: Body::Success2 }.bytes();
                Ok(Inner::Last(last, State::Done { mutual: true }))
            }
            (Inner::Challenge | Inner::Success1(_), _) => Err(Explanation::IncorrectMessage),
            (Inner::Offer(_) | Inner::Reply(..) | Inner::Last(..) | Inner::End(_), _) => panic!("nothing was to be received"),
        }
    }

    /// Answers the controller's challenge, and challenges it if there is a secret to check its answer with.
    fn reply(&self, theirs: Challenge, group: Group, public: &[u8], random: &mut Random<'_>) -> Result<Inner, Explanation> {
        let exponent = Exponent::new(random);
        let shared = match group {
            Group::Null if public.is_empty() => None,
            Group::Null => return Err(Explanation::IncorrectPayload),
            group => Some(group.shared(&exponent, public).ok_or(Explanation::IncorrectPayload)?),
        };
        let theirs = Challenge { shared, ..theirs };
        let answer = theirs.answer(Role::Host, &self.parties).expect("a host has a secret");
        let hash = theirs.hash;
        let ours = self.parties.controller_key.is_some().then(|| {
            let mut value = vec![0; usize::from(hash.len_bytes())];
            random(&mut value);
            Box::new(Challenge { value, sequence: sequence(random), ..theirs })
        });
        let body = Body::Reply {
            answer: &answer,
            sequence: ours.as_ref().map_or(0, |ours| ours.sequence),
            challenge: ours.as_ref().map(|ours| &ours.value[..]),
            public: &group.public(&exponent),
        };
        let bytes = Message { transaction: self.transaction, body }.bytes();
        Ok(Inner::Reply(bytes, Asked { hash, challenge: ours }))
    }
}
