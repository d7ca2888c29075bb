//! Controllers that were lost, and what they may still be doing. Knows no connection.
//!
//! The rule, and why. When its connections break, a controller may still have commands of this host: in the network, in
//! its own queues, on its disks. A write of them that is done late destroys what was written after it by another way. So
//! what changes blocks is sent again, or reported as failed, only when its old controller has certainly ended all of it:
//!
//! 1. every connection of the association is closed here, so that nothing more can reach the controller; and
//! 2. one of these is known:
//!    - the controller was disabled by its admin queue and answered that it is not ready any more (base 3.5.2);
//!    - another controller of the subsystem was given its number: numbers are unique among those there are (base 3.1.2);
//!    - its keep-alive timer has certainly expired, which ends its commands (base 2.1, 3.9 and 9.6): twice the timeout after
//!      the last connection was closed, because a command that came just before the end of one period starts another;
//!      three times if any command counts as a sign of life; rounded up to the controller's granularity, and then the time
//!      that it says it needs to come to rest (CQT).
//!
//! Linux (6.12) sends such commands another way as soon as its own end is closed, and so accepts the late write; what base
//! 2.1 says about it came later. Reads and flushes change nothing: they go another way at once here, too.

use spinel_core::Instant;

use super::super::note::Association;
use crate::nqn::Nqn;

/// How long nobody can say whether a controller has ended its commands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Rest {
    /// What Connect asked for.
    pub(super) keep_alive_ns: u64,
    /// The controller counts in steps of so much; zero if it does not say.
    pub(super) granularity_ns: u64,
    /// Any command counts as a sign of life.
    pub(super) by_traffic: bool,
    /// What it needs to come to rest.
    pub(super) quiesce_ns: u64,
}

impl Rest {
    /// In all, from when its last connection was closed.
    pub(super) fn total_ns(&self) -> u64 {
        let period = match self.granularity_ns {
            0 => self.keep_alive_ns,
            granularity => self.keep_alive_ns.next_multiple_of(granularity),
        };
        let periods = if self.by_traffic { 3 } else { 2 };
        period.saturating_mul(periods).saturating_add(self.quiesce_ns)
    }
}

/// A controller that was lost.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Ghost {
    pub(super) association: Association,
    /// Of which subsystem it is.
    pub(super) subsystem: Nqn,
    /// Its number.
    pub(super) controller: u16,
    pub(super) rest: Rest,
    /// When its last connection was closed; none if some are not.
    pub(super) closed: Option<Instant>,
    /// It was disabled, or its number was given to another.
    pub(super) proved: bool,
}

impl Ghost {
    /// When it is over at the latest; none as long as connections are there.
    pub(super) fn over_at(&self) -> Option<Instant> {
        self.closed.map(|closed| if self.proved { closed } else { closed.after_ns(self.rest.total_ns()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_controller_is_over_when_it_is_closed_and_that_is_proved_or_time_has_passed() {
        let rest = Rest { keep_alive_ns: 5_500, granularity_ns: 1_000, by_traffic: false, quiesce_ns: 70 };
        assert_eq!(rest.total_ns(), 12_070);
        assert_eq!(Rest { by_traffic: true, granularity_ns: 0, ..rest }.total_ns(), 16_570);
        let subsystem = Nqn::parse("nqn.2026-11.io.spinel:x").unwrap();
        let open = Ghost { association: Association(1), subsystem, controller: 1, rest, closed: None, proved: true };
        assert_eq!(open.over_at(), None, "a connection is still there");
        let closed = Ghost { closed: Some(Instant { ns: 100 }), ..open.clone() };
        assert_eq!(closed.over_at(), Some(Instant { ns: 100 }));
        assert_eq!(Ghost { proved: false, ..closed }.over_at(), Some(Instant { ns: 12_170 }));
    }
}
