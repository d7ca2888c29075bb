//! Messages of an authentication, byte for byte (base 8.13.4, 8.13.5). Every length is checked; knows no secret.

use std::fmt;

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Group, Hash, Policy};

/// Most bytes of one message: a reply with the longest results and the largest group, rounded up.
pub const MESSAGE_BYTES_MAX: usize = 4096;

const TYPE_COMMON: u8 = 0;
const TYPE_CHAP: u8 = 1;

const NEGOTIATE: u8 = 0x00;
const CHALLENGE: u8 = 0x01;
const REPLY: u8 = 0x02;
const SUCCESS_1: u8 = 0x03;
const SUCCESS_2: u8 = 0x04;
const FAILURE_2: u8 = 0xf0;
const FAILURE_1: u8 = 0xf1;

/// The identifier of DH-HMAC-CHAP among protocols.
const PROTOCOL_CHAP: u8 = 1;
/// Hash functions that one offer has room for; groups come behind them.
const HASHES_MAX: usize = 30;
/// Groups that one offer has room for.
const GROUPS_MAX: usize = 30;
/// The only reason for a failure.
const REASON_FAILED: u8 = 1;

/// Why one side refuses the other (base 8.13.4, reason code explanations).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Explanation {
    /// The secrets differ, or there is none.
    Failed = 1,
    /// No common protocol.
    ProtocolUnusable = 2,
    /// A secure channel was, or was not, to be concatenated.
    ConcatenationMismatch = 3,
    /// No common hash function.
    HashUnusable = 4,
    /// No common group.
    GroupUnusable = 5,
    /// A message that makes no sense.
    IncorrectPayload = 6,
    /// A message that was not the next.
    IncorrectMessage = 7,
}

impl Explanation {
    /// The one of this number.
    #[must_use]
    pub fn of(code: u8) -> Option<Self> {
        use Explanation::{
            ConcatenationMismatch, Failed, GroupUnusable, HashUnusable, IncorrectMessage, IncorrectPayload, ProtocolUnusable,
        };
        let all = [Failed, ProtocolUnusable, ConcatenationMismatch, HashUnusable, GroupUnusable, IncorrectPayload, IncorrectMessage];
        all.into_iter().find(|explanation| explanation.code() == code)
    }

    /// Its number.
    #[must_use]
    pub fn code(self) -> u8 {
        self as u8
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Failed => "the secrets do not fit, or there is none",
            Self::ProtocolUnusable => "no common protocol",
            Self::ConcatenationMismatch => "a secure channel cannot be concatenated here",
            Self::HashUnusable => "no hash function that both allow",
            Self::GroupUnusable => "no group that both allow",
            Self::IncorrectPayload => "a message that makes no sense",
            Self::IncorrectMessage => "a message that was not the next one",
        })
    }
}

/// How every message begins.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Head {
    kind: u8,
    id: u8,
    reserved: [u8; 2],
    transaction: U16,
}

/// One protocol in an offer.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Protocol {
    id: u8,
    reserved: u8,
    hashes: u8,
    groups: u8,
    ids: [u8; HASHES_MAX + GROUPS_MAX],
}

/// What stands between the head and the values of a challenge or of a reply.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Values {
    hash_bytes: u8,
    reserved_7: u8,
    /// The hash function of a challenge; whether a reply has a challenge of its own.
    hash_or_valid: u8,
    /// The group of a challenge.
    group: u8,
    public_bytes: U16,
    sequence: U32,
}

/// What stands between the head and the answer of a first success.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Answered {
    hash_bytes: u8,
    reserved_7: u8,
    valid: u8,
    reserved_9: [u8; 7],
}

const _: () = assert!(size_of::<Head>() == 6 && size_of::<Protocol>() == 64);
const _: () = assert!(size_of::<Values>() == 10 && size_of::<Answered>() == 10);

/// A message.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Body<'a> {
    /// The host offers protocols: of DH-HMAC-CHAP these hash functions and groups, if it offers that at all.
    Negotiate { concatenation: u8, offer: Option<Offer<'a>> },
    /// The controller has chosen, and challenges.
    Challenge { hash: u8, group: u8, sequence: u32, value: &'a [u8], public: &'a [u8] },
    /// The host answers, and challenges, too, if there is a `challenge`.
    Reply { answer: &'a [u8], sequence: u32, challenge: Option<&'a [u8]>, public: &'a [u8] },
    /// The host's answer was right; here is the controller's, if it was challenged.
    Success1 { hash_bytes: u8, answer: Option<&'a [u8]> },
    /// The controller's answer was right.
    Success2,
    /// The controller refuses.
    Failure1 { explanation: u8 },
    /// The host refuses.
    Failure2 { explanation: u8 },
}

/// Hash functions and groups that a host offers, by their identifiers.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct Offer<'a> {
    pub(super) hashes: &'a [u8],
    pub(super) groups: &'a [u8],
}

/// A message and the transaction that it belongs to.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct Message<'a> {
    pub(super) transaction: u16,
    pub(super) body: Body<'a>,
}

impl<'a> Message<'a> {
    /// Of these bytes, behind which there may be more: an Authentication Receive has room for the longest message.
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, Explanation> {
        let (head, rest) = Head::ref_from_prefix(bytes).map_err(|_| Explanation::IncorrectPayload)?;
        let body = match (head.kind, head.id) {
            (TYPE_COMMON, NEGOTIATE) => negotiate(rest),
            (TYPE_COMMON, FAILURE_1) => rest.get(1).map(|explanation| Body::Failure1 { explanation: *explanation }),
            (TYPE_COMMON, FAILURE_2) => rest.get(1).map(|explanation| Body::Failure2 { explanation: *explanation }),
            (TYPE_CHAP, CHALLENGE) => challenge(rest),
            (TYPE_CHAP, REPLY) => reply(rest),
            (TYPE_CHAP, SUCCESS_1) => success_1(rest),
            (TYPE_CHAP, SUCCESS_2) => Some(Body::Success2),
            _ => return Err(Explanation::IncorrectMessage),
        };
        let body = body.ok_or(Explanation::IncorrectPayload)?;
        Ok(Self { transaction: head.transaction.get(), body })
    }

    /// As bytes. Of hash functions and groups only as many are offered as there is room for.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let (kind, id) = match self.body {
            Body::Negotiate { .. } => (TYPE_COMMON, NEGOTIATE),
            Body::Failure1 { .. } => (TYPE_COMMON, FAILURE_1),
            Body::Failure2 { .. } => (TYPE_COMMON, FAILURE_2),
            Body::Challenge { .. } => (TYPE_CHAP, CHALLENGE),
            Body::Reply { .. } => (TYPE_CHAP, REPLY),
            Body::Success1 { .. } => (TYPE_CHAP, SUCCESS_1),
            Body::Success2 => (TYPE_CHAP, SUCCESS_2),
        };
        let mut bytes = Head { kind, id, reserved: [0; 2], transaction: self.transaction.into() }.as_bytes().to_vec();
        self.body.append(&mut bytes);
        bytes
    }
}

impl Body<'_> {
    fn append(&self, to: &mut Vec<u8>) {
        match *self {
            Body::Negotiate { concatenation, ref offer } => {
                to.extend([concatenation, u8::from(offer.is_some())]);
                to.extend(offer.iter().flat_map(|offer| offer.protocol().as_bytes().to_vec()));
            }
            Body::Challenge { hash, group, sequence, value, public } => {
                to.extend(Values::new(hash, group, sequence, value, public).as_bytes());
                to.extend([value, public].concat());
            }
            Body::Reply { answer, sequence, challenge, public } => {
                to.extend(Values::new(u8::from(challenge.is_some()), 0, sequence, answer, public).as_bytes());
                let none = vec![0; answer.len()];
                to.extend([answer, challenge.unwrap_or(&none), public].concat());
            }
            Body::Success1 { hash_bytes, answer } => {
                let valid = u8::from(answer.is_some());
                to.extend(Answered { hash_bytes, valid, ..Answered::new_zeroed() }.as_bytes());
                to.extend(answer.unwrap_or(&[]));
            }
            // The rest of a head of sixteen bytes.
            Body::Success2 => to.extend([0; 10]),
            Body::Failure1 { explanation } | Body::Failure2 { explanation } => to.extend([REASON_FAILED, explanation]),
        }
    }
}

impl Offer<'_> {
    fn protocol(&self) -> Protocol {
        let mut protocol = Protocol { id: PROTOCOL_CHAP, ..Protocol::new_zeroed() };
        let (hashes, groups) = protocol.ids.split_at_mut(HASHES_MAX);
        protocol.hashes = fill(hashes, self.hashes);
        protocol.groups = fill(groups, self.groups);
        protocol
    }
}

/// Copies as much as there is room for, and says how much that was.
fn fill(place: &mut [u8], from: &[u8]) -> u8 {
    let count = from.len().min(place.len());
    place[..count].copy_from_slice(&from[..count]);
    u8::try_from(count).expect("there is room for 30")
}

impl Values {
    fn new(hash_or_valid: u8, group: u8, sequence: u32, value: &[u8], public: &[u8]) -> Self {
        let hash_bytes = u8::try_from(value.len()).expect("results of hash functions have 64 bytes at most");
        let public_bytes = u16::try_from(public.len()).expect("public values have 1,024 bytes at most");
        let (public_bytes, sequence) = (public_bytes.into(), sequence.into());
        Self { hash_bytes, hash_or_valid, group, public_bytes, sequence, ..Self::new_zeroed() }
    }

    /// The values behind it: `count` that are as long as results of the hash function, and the public value.
    fn split<'a>(&self, rest: &'a [u8], count: usize) -> Option<(&'a [u8], &'a [u8])> {
        let (values, rest) = rest.split_at_checked(usize::from(self.hash_bytes) * count)?;
        Some((values, rest.get(..usize::from(self.public_bytes.get()))?))
    }
}

fn negotiate(rest: &[u8]) -> Option<Body<'_>> {
    let ([concatenation, count], rest) = rest.split_first_chunk()?;
    let (protocols, _) = <[Protocol]>::ref_from_prefix_with_elems(rest, usize::from(*count)).ok()?;
    let Some(chap) = protocols.iter().find(|protocol| protocol.id == PROTOCOL_CHAP) else {
        return Some(Body::Negotiate { concatenation: *concatenation, offer: None });
    };
    let (hashes, groups) = chap.ids.split_at(HASHES_MAX);
    let offer = Offer { hashes: hashes.get(..usize::from(chap.hashes))?, groups: groups.get(..usize::from(chap.groups))? };
    Some(Body::Negotiate { concatenation: *concatenation, offer: Some(offer) })
}

fn challenge(rest: &[u8]) -> Option<Body<'_>> {
    let (values, rest) = Values::ref_from_prefix(rest).ok()?;
    let (value, public) = values.split(rest, 1)?;
    Some(Body::Challenge { hash: values.hash_or_valid, group: values.group, sequence: values.sequence.get(), value, public })
}

fn reply(rest: &[u8]) -> Option<Body<'_>> {
    let (values, rest) = Values::ref_from_prefix(rest).ok()?;
    let (both, public) = values.split(rest, 2)?;
    let (answer, challenge) = both.split_at(usize::from(values.hash_bytes));
    let challenge = (values.hash_or_valid & 1 != 0).then_some(challenge);
    Some(Body::Reply { answer, sequence: values.sequence.get(), challenge, public })
}

fn success_1(rest: &[u8]) -> Option<Body<'_>> {
    let (answered, rest) = Answered::ref_from_prefix(rest).ok()?;
    let hash_bytes = answered.hash_bytes;
    let answer = if answered.valid & 1 != 0 { Some(rest.get(..usize::from(hash_bytes))?) } else { None };
    Some(Body::Success1 { hash_bytes, answer })
}

/// What a host that follows this policy offers: identifiers of hash functions and of groups.
pub(super) fn offered(policy: Policy) -> (Vec<u8>, Vec<u8>) {
    (policy.hashes().map(Hash::code).collect(), policy.groups().map(Group::code).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offer_lies_as_the_specification_draws_it() {
        let offer = Some(Offer { hashes: &[1, 2, 3], groups: &[0, 1] });
        let message = Message { transaction: 0x0102, body: Body::Negotiate { concatenation: 0, offer } };
        let mut bytes = vec![0; 8 + 64];
        bytes[4..8].copy_from_slice(&[2, 1, 0, 1]);
        bytes[8..15].copy_from_slice(&[1, 0, 3, 2, 1, 2, 3]);
        bytes[8 + 4 + 30 + 1] = 1;
        assert_eq!(message.bytes(), bytes);
        assert_eq!(Message::parse(&bytes), Ok(message));
        // A protocol that nobody knows stands before it.
        bytes[7] = 2;
        bytes.splice(8..8, [0xee; 64]);
        let Ok(Message { body: Body::Negotiate { offer: Some(offer), .. }, .. }) = Message::parse(&bytes) else { panic!() };
        assert_eq!((offer.hashes, offer.groups), (&[1, 2, 3][..], &[0, 1][..]));
        bytes.truncate(8 + 64);
        assert_eq!(Message::parse(&bytes), Err(Explanation::IncorrectPayload), "fewer protocols than it says");
    }

    #[test]
    fn challenges_replies_and_successes_lie_as_the_specification_draws_them() {
        let challenge = Body::Challenge { hash: 1, group: 2, sequence: 0x0a0b_0c0d, value: &[7; 32], public: &[8; 4] };
        let bytes = Message { transaction: 3, body: challenge }.bytes();
        assert_eq!(bytes[..16], [1, 1, 0, 0, 3, 0, 32, 0, 1, 2, 4, 0, 0x0d, 0x0c, 0x0b, 0x0a]);
        assert_eq!((&bytes[16..48], &bytes[48..]), (&[7; 32][..], &[8; 4][..]));
        let reply = Body::Reply { answer: &[5; 32], sequence: 6, challenge: None, public: &[9; 4] };
        let bytes = Message { transaction: 3, body: reply }.bytes();
        assert_eq!(bytes[..16], [1, 2, 0, 0, 3, 0, 32, 0, 0, 0, 4, 0, 6, 0, 0, 0]);
        assert_eq!((&bytes[16..48], &bytes[48..80], &bytes[80..]), (&[5; 32][..], &[0; 32][..], &[9; 4][..]));
        let success = Body::Success1 { hash_bytes: 32, answer: Some(&[4; 32]) };
        let bytes = Message { transaction: 3, body: success }.bytes();
        assert_eq!(bytes[..16], [1, 3, 0, 0, 3, 0, 32, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes[16..], [4; 32]);
        let bytes = Message { transaction: 3, body: Body::Success2 }.bytes();
        assert_eq!(bytes, [1, 4, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        let bytes = Message { transaction: 3, body: Body::Failure1 { explanation: 6 } }.bytes();
        assert_eq!(bytes, [0, 0xf1, 0, 0, 3, 0, 1, 6]);
    }

    #[test]
    fn no_message_is_cut_anywhere_without_being_refused() {
        let (value, public) = ([7; 64], [8; 1024]);
        for body in [
            Body::Negotiate { concatenation: 0, offer: Some(Offer { hashes: &[1], groups: &[0] }) },
            Body::Challenge { hash: 3, group: 5, sequence: 1, value: &value, public: &public },
            Body::Reply { answer: &value, sequence: 1, challenge: Some(&value), public: &public },
            Body::Success1 { hash_bytes: 64, answer: Some(&value) },
            Body::Failure1 { explanation: 1 },
            Body::Failure2 { explanation: 1 },
        ] {
            let message = Message { transaction: 1, body };
            let bytes = message.bytes();
            assert!(bytes.len() <= MESSAGE_BYTES_MAX);
            assert_eq!(Message::parse(&bytes), Ok(message));
            for cut in 0..bytes.len() {
                assert_eq!(Message::parse(&bytes[..cut]), Err(Explanation::IncorrectPayload), "{cut} of {bytes:?}");
            }
        }
        assert_eq!(Message::parse(&[2, 0, 0, 0, 0, 0]), Err(Explanation::IncorrectMessage));
    }

    #[test]
    fn an_offer_cannot_name_more_than_it_has_room_for() {
        let offer = Some(Offer { hashes: &[1], groups: &[0] });
        let mut bytes = Message { transaction: 1, body: Body::Negotiate { concatenation: 0, offer } }.bytes();
        for place in [10, 11] {
            let good = std::mem::replace(&mut bytes[place], 31);
            assert_eq!(Message::parse(&bytes), Err(Explanation::IncorrectPayload));
            bytes[place] = good;
        }
        assert!(Message::parse(&bytes).is_ok());
    }
}
