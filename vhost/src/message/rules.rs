//! The table of requests: names, and which sizes and how many descriptors each may have. Knows no bodies.

use std::fmt;
use std::ops::RangeInclusive;

use super::{BODY_BYTES_MAX, CONFIG_BYTES_MAX, CONFIG_HEAD_BYTES, FDS_MAX, INFLIGHT_BYTES, MessageError, REGION_BYTES};

/// A request's number. Printed with its name, if it has one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Code(pub(crate) u32);

/// What one request may look like.
struct Rule {
    code: Code,
    name: &'static str,
    body_bytes: RangeInclusive<usize>,
    fds: RangeInclusive<usize>,
    /// Whether the specification gives it a reply of its own, REPLY_ACK or not.
    answered: bool,
}

const NONE: RangeInclusive<usize> = 0..=0;
const U64: RangeInclusive<usize> = 8..=8;
/// A vring state: index and number.
const STATE: RangeInclusive<usize> = 8..=8;
/// A vring address: index, flags, and four addresses.
const ADDRESS: RangeInclusive<usize> = 40..=40;
/// Padding and one memory region.
const REGION: RangeInclusive<usize> = 8 + REGION_BYTES..=8 + REGION_BYTES;
/// An inflight description: size, offset, number of queues and their size; front ends pad it to whole words.
const INFLIGHT: RangeInclusive<usize> = INFLIGHT_BYTES..=24;
const CONFIG: RangeInclusive<usize> = CONFIG_HEAD_BYTES..=CONFIG_HEAD_BYTES + CONFIG_BYTES_MAX;

const fn rule(code: Code, name: &'static str, body_bytes: RangeInclusive<usize>, fds: RangeInclusive<usize>, answered: bool) -> Rule {
    Rule { code, name, body_bytes, fds, answered }
}

impl Code {
    pub(crate) const GET_FEATURES: Self = Self(1);
    pub(crate) const SET_FEATURES: Self = Self(2);
    pub(crate) const SET_OWNER: Self = Self(3);
    pub(crate) const RESET_OWNER: Self = Self(4);
    pub(crate) const SET_MEM_TABLE: Self = Self(5);
    pub(crate) const SET_LOG_BASE: Self = Self(6);
    pub(crate) const SET_LOG_FD: Self = Self(7);
    pub(crate) const SET_VRING_NUM: Self = Self(8);
    pub(crate) const SET_VRING_ADDR: Self = Self(9);
    pub(crate) const SET_VRING_BASE: Self = Self(10);
    pub(crate) const GET_VRING_BASE: Self = Self(11);
    pub(crate) const SET_VRING_KICK: Self = Self(12);
    pub(crate) const SET_VRING_CALL: Self = Self(13);
    pub(crate) const SET_VRING_ERR: Self = Self(14);
    pub(crate) const GET_PROTOCOL_FEATURES: Self = Self(15);
    pub(crate) const SET_PROTOCOL_FEATURES: Self = Self(16);
    pub(crate) const GET_QUEUE_NUM: Self = Self(17);
    pub(crate) const SET_VRING_ENABLE: Self = Self(18);
    pub(crate) const SET_BACKEND_REQ_FD: Self = Self(21);
    pub(crate) const GET_CONFIG: Self = Self(24);
    pub(crate) const SET_CONFIG: Self = Self(25);
    pub(crate) const GET_INFLIGHT_FD: Self = Self(31);
    pub(crate) const SET_INFLIGHT_FD: Self = Self(32);
    pub(crate) const RESET_DEVICE: Self = Self(34);
    pub(crate) const GET_MAX_MEM_SLOTS: Self = Self(36);
    pub(crate) const ADD_MEM_REG: Self = Self(37);
    pub(crate) const REM_MEM_REG: Self = Self(38);
    pub(crate) const SET_STATUS: Self = Self(39);
    pub(crate) const GET_STATUS: Self = Self(40);
}

/// Every request this back end serves.
static RULES: [Rule; 29] = [
    rule(Code::GET_FEATURES, "GET_FEATURES", NONE, NONE, true),
    rule(Code::SET_FEATURES, "SET_FEATURES", U64, NONE, false),
    rule(Code::SET_OWNER, "SET_OWNER", NONE, NONE, false),
    rule(Code::RESET_OWNER, "RESET_OWNER", NONE, NONE, false),
    rule(Code::SET_MEM_TABLE, "SET_MEM_TABLE", 8..=BODY_BYTES_MAX, 0..=FDS_MAX, false),
    // Its size and its offset, and the file; with LOG_SHMFD it is answered.
    rule(Code::SET_LOG_BASE, "SET_LOG_BASE", 16..=16, 1..=1, true),
    rule(Code::SET_LOG_FD, "SET_LOG_FD", NONE, 1..=1, false),
    rule(Code::SET_VRING_NUM, "SET_VRING_NUM", STATE, NONE, false),
    rule(Code::SET_VRING_ADDR, "SET_VRING_ADDR", ADDRESS, NONE, false),
    rule(Code::SET_VRING_BASE, "SET_VRING_BASE", STATE, NONE, false),
    rule(Code::GET_VRING_BASE, "GET_VRING_BASE", STATE, NONE, true),
    rule(Code::SET_VRING_KICK, "SET_VRING_KICK", U64, 0..=1, false),
    rule(Code::SET_VRING_CALL, "SET_VRING_CALL", U64, 0..=1, false),
    rule(Code::SET_VRING_ERR, "SET_VRING_ERR", U64, 0..=1, false),
    rule(Code::GET_PROTOCOL_FEATURES, "GET_PROTOCOL_FEATURES", NONE, NONE, true),
    rule(Code::SET_PROTOCOL_FEATURES, "SET_PROTOCOL_FEATURES", U64, NONE, false),
    rule(Code::GET_QUEUE_NUM, "GET_QUEUE_NUM", NONE, NONE, true),
    rule(Code::SET_VRING_ENABLE, "SET_VRING_ENABLE", STATE, NONE, false),
    rule(Code::SET_BACKEND_REQ_FD, "SET_BACKEND_REQ_FD", NONE, 1..=1, false),
    rule(Code::GET_CONFIG, "GET_CONFIG", CONFIG, NONE, true),
    rule(Code::SET_CONFIG, "SET_CONFIG", CONFIG, NONE, false),
    rule(Code::GET_INFLIGHT_FD, "GET_INFLIGHT_FD", INFLIGHT, NONE, true),
    rule(Code::SET_INFLIGHT_FD, "SET_INFLIGHT_FD", INFLIGHT, 1..=1, false),
    rule(Code::RESET_DEVICE, "RESET_DEVICE", NONE, NONE, false),
    rule(Code::GET_MAX_MEM_SLOTS, "GET_MAX_MEM_SLOTS", NONE, NONE, true),
    rule(Code::ADD_MEM_REG, "ADD_MEM_REG", REGION, 1..=1, false),
    // The specification lets a front end pass a descriptor here by mistake; it is closed unused.
    rule(Code::REM_MEM_REG, "REM_MEM_REG", REGION, 0..=1, false),
    rule(Code::SET_STATUS, "SET_STATUS", U64, NONE, false),
    rule(Code::GET_STATUS, "GET_STATUS", NONE, NONE, true),
];

impl Code {
    fn rule(self) -> Option<&'static Rule> {
        RULES.iter().find(|rule| rule.code == self)
    }

    /// Refuses a body that this request cannot have, before a byte of it is read.
    pub(super) fn check_size(self, size: u32) -> Result<(), MessageError> {
        let fits = |bytes: usize| match self.rule() {
            Some(rule) => rule.body_bytes.contains(&bytes),
            None => bytes <= BODY_BYTES_MAX,
        };
        if usize::try_from(size).is_ok_and(fits) { Ok(()) } else { Err(MessageError::Size { code: self, size }) }
    }

    /// Refuses descriptors that this request cannot carry. Those of unknown requests are closed unused.
    pub(super) fn check_fds(self, count: usize) -> Result<(), MessageError> {
        let fits = self.rule().is_none_or(|rule| rule.fds.contains(&count));
        if fits { Ok(()) } else { Err(MessageError::Descriptors { code: self, count }) }
    }

    /// Whether the request has a reply of its own, so that a bare acknowledgement would be misread.
    pub(crate) fn answered(self) -> bool {
        self.rule().is_some_and(|rule| rule.answered)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.rule() {
            Some(rule) => write!(f, "VHOST_USER_{}", rule.name),
            None => write!(f, "request {}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_request_has_one_rule_that_no_message_can_outgrow() {
        for (at, rule) in RULES.iter().enumerate() {
            assert!(RULES[..at].iter().all(|other| other.code != rule.code), "{} twice", rule.name);
            assert!(*rule.body_bytes.end() <= BODY_BYTES_MAX && *rule.fds.end() <= FDS_MAX, "{}", rule.name);
        }
    }

    #[test]
    fn sizes_and_descriptor_counts_outside_the_table_are_refused() {
        type Case = (Code, &'static [u32], &'static [u32], &'static [usize], &'static [usize]);
        let table: [Case; 7] = [
            (Code::GET_FEATURES, &[0], &[1, 8, u32::MAX], &[0], &[1, 32]),
            (Code::SET_FEATURES, &[8], &[0, 7, 9], &[0], &[1]),
            (Code::SET_MEM_TABLE, &[8, 40, 1032], &[0, 7, 1033, u32::MAX], &[0, 8, 32], &[33]),
            (Code::SET_VRING_ADDR, &[40], &[8, 39, 41], &[0], &[1]),
            (Code::SET_VRING_KICK, &[8], &[0, 4, 16], &[0, 1], &[2]),
            (Code::GET_CONFIG, &[12, 72, 268], &[0, 11, 269], &[0], &[1]),
            (Code::ADD_MEM_REG, &[40], &[32, 48], &[1], &[0, 2]),
        ];
        for (code, sizes, not_sizes, fds, not_fds) in table {
            assert!(sizes.iter().all(|size| code.check_size(*size).is_ok()), "{code}");
            assert!(not_sizes.iter().all(|size| code.check_size(*size).is_err()), "{code}");
            assert!(fds.iter().all(|count| code.check_fds(*count).is_ok()), "{code}");
            assert!(not_fds.iter().all(|count| code.check_fds(*count).is_err()), "{code}");
        }
    }
}
