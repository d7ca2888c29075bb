//! How long a queue lets chains gather before it takes them. Knows no ring.
//!
//! A driver makes requests available one by one. A queue that is faster takes them one by
//! one too, and with each look takes the cache lines away that the driver is about to write:
//! both sides then spend their time waiting for lines. So where several chains came last time,
//! chains are let come as long as each look finds more of them, and half a microsecond at
//! most. A chain that comes alone is taken at once.

use spinel_core::Instant;

use crate::lot::LOT_MAX;

/// The longest that a chain is let wait for others: far less than any device takes, and time for a lot from a driver nearby.
const GATHER_NS: u64 = 500;

/// What the last looks found.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Gather {
    /// More than one chain was taken together last time.
    several: bool,
    /// How many waited at the last look, if they were let wait, and since when they do.
    seen: usize,
    since: Instant,
}

impl Gather {
    /// Whether so many chains, at least one, are to wait for more.
    #[inline(always)]
    pub(super) fn waits(&mut self, waiting: usize, now: Instant) -> bool {
        if self.several && (self.seen + 1..LOT_MAX).contains(&waiting) {
            if self.seen == 0 {
                self.since = now;
            }
            if now.since_ns(self.since) < GATHER_NS {
                self.seen = waiting;
                return true;
            }
        }
        self.seen = 0;
        false
    }

    /// So many were taken together.
    #[inline(always)]
    pub(super) fn took(&mut self, count: usize) {
        self.several = count > 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many are taken at which look, if at each look, so many nanoseconds apart, so many wait.
    fn takes(looks: &[usize], apart_ns: u64) -> Vec<Option<usize>> {
        let mut gather = Gather::default();
        let mut now = Instant { ns: 1 };
        looks
            .iter()
            .map(|waiting| {
                now = now.after_ns(apart_ns);
                (!gather.waits(*waiting, now)).then(|| {
                    gather.took(*waiting);
                    *waiting
                })
            })
            .collect()
    }

    #[test]
    fn chains_that_come_alone_are_taken_at_once() {
        assert_eq!(takes(&[1, 1, 1], 50), [Some(1); 3]);
        assert_eq!(takes(&[1, 2], 50), [Some(1), Some(2)], "and the first of several");
    }

    #[test]
    fn where_several_came_they_are_let_come_while_they_do() {
        assert_eq!(takes(&[2, 1, 3, 7, 7, 1, 1], 50), [Some(2), None, None, None, Some(7), None, Some(1)]);
        assert_eq!(takes(&[2, 1, 1, 1], 50), [Some(2), None, Some(1), Some(1)], "until they come alone again");
        assert_eq!(takes(&[2, 9, LOT_MAX, LOT_MAX], 50), [Some(2), None, Some(LOT_MAX), Some(LOT_MAX)], "a lot is enough");
    }

    #[test]
    fn nobody_waits_long() {
        assert_eq!(takes(&[2, 1, 2, 3, 4], 250), [Some(2), None, None, Some(3), None]);
        assert_eq!(takes(&[2, 1, 2], 1_000), [Some(2), None, Some(2)]);
    }
}
