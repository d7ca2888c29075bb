//! DH-HMAC-CHAP (NVMe base 2.0, 8.13): a host and a controller prove to each other that they know a secret. Messages in,
//! messages out; knows no queue, no clock and no file of keys.
//!
//! [`HostAuth`] and [`ControllerAuth`] are one transaction on one queue each. Large groups take milliseconds of arithmetic in a
//! single call: these machines belong on a control thread, not on a reactor. Where random bytes come from is the caller's
//! business; everything rests on their being unpredictable.

mod controller;
mod group;
mod hash;
mod host;
mod key;
mod message;
mod response;
#[cfg(test)]
mod tests;

use std::fmt;

use crate::nqn::Nqn;

pub use controller::{ControllerAuth, TooShort};
pub use group::Group;
pub use hash::Hash;
pub use host::{HostAuth, Step};
pub use key::{Key, KeyError};
pub use message::{Explanation, MESSAGE_BYTES_MAX};

/// Fills a slice with bytes that nobody can predict.
pub type Random<'a> = dyn FnMut(&mut [u8]) + 'a;

/// Which hash functions and groups are allowed. A target takes the strongest ones that the host offers, too.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Policy {
    hashes: u8,
    groups: u8,
}

impl Policy {
    /// All of them.
    pub const ALL: Self = Self { hashes: 0b111, groups: 0b11_1111 };

    /// Only these; `None` if there is no hash function or no group among them.
    #[must_use]
    pub fn new(hashes: &[Hash], groups: &[Group]) -> Option<Self> {
        let policy = Self {
            hashes: hashes.iter().fold(0, |bits, hash| bits | bit_of(*hash, &Hash::ALL)),
            groups: groups.iter().fold(0, |bits, group| bits | bit_of(*group, &Group::ALL)),
        };
        (policy.hashes != 0 && policy.groups != 0).then_some(policy)
    }

    /// The hash functions, strongest first.
    pub fn hashes(self) -> impl Iterator<Item = Hash> {
        Hash::ALL.into_iter().filter(move |hash| self.hashes & bit_of(*hash, &Hash::ALL) != 0)
    }

    /// The groups, strongest first.
    pub fn groups(self) -> impl Iterator<Item = Group> {
        Group::ALL.into_iter().filter(move |group| self.groups & bit_of(*group, &Group::ALL) != 0)
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self::ALL
    }
}

/// The bit of something in a set of what is in a list.
fn bit_of<T: PartialEq>(of: T, all: &[T]) -> u8 {
    1 << all.iter().position(|other| *other == of).expect("the list has all of them")
}

/// Who is who, and what they know.
#[derive(Clone, Debug)]
pub struct Parties {
    /// The host's name.
    pub host: Nqn,
    /// The subsystem's name.
    pub subsystem: Nqn,
    /// What the host proves to know.
    pub host_key: Key,
    /// What the controller proves to know: `None` if the host does not ask it to (there is no authentication in this
    /// direction), or if the controller cannot.
    pub controller_key: Option<Key>,
}

/// How a transaction stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// Messages are outstanding.
    Pending,
    /// The host has proved who it is, and the controller, too, if `mutual`.
    Done {
        /// Both have.
        mutual: bool,
    },
    /// It failed, and the other side knows: the queue has to be closed.
    Failed(Failure),
}

/// Why a transaction failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Failure {
    /// This side refused the other.
    Here(Explanation),
    /// The other side refused this one. It may send numbers that mean nothing.
    There(u8),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Here(explanation) => write!(f, "authentication was refused here: {explanation}"),
            Self::There(code) => match Explanation::of(*code) {
                Some(explanation) => write!(f, "authentication was refused by the other side: {explanation}"),
                None => write!(f, "authentication was refused by the other side, for the unknown reason {code:#04x}"),
            },
        }
    }
}
