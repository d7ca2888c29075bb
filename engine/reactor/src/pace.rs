//! How long a core spins before it sleeps, learnt from how long it had to wait. Knows no reactor.
//!
//! Two waits are told apart: for a completion below (`Waiting`) and for new work
//! (`Idle`). For each, a budget doubles when a sleep turned out shorter than the
//! longest spin allowed, because spinning on would have caught the event, and halves
//! when it turned out longer, because the spin before it was wasted. A busy disk is
//! thus spun for, and a trickle of requests, or an idle guest, is slept for.
//!
//! After a silence of more than 8 ms nothing is spun for, not even a completion: where
//! requests are that rare, what spinning saves each of them is not worth the core's time.

use spinel_core::{Instant, Progress};

/// Whether a core sleeps at all.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Never sleeps: the least latency, a whole core.
    Poll,
    /// Spins for a learnt budget, then sleeps until something wakes it.
    Adaptive,
}

/// The bounds between which a budget is learnt, in nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PaceLimits {
    /// Spun at least.
    pub spin_min_ns: u64,
    /// Spun at most; should exceed the device's usual latency.
    pub spin_max_ns: u64,
}

impl Default for PaceLimits {
    fn default() -> Self {
        Self { spin_min_ns: 2_000, spin_max_ns: 100_000 }
    }
}

/// One core's judgement when to sleep.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    limits: PaceLimits,
    idle_ns: u64,
    waiting_ns: u64,
    quiet_since: Instant,
    slept: Option<Progress>,
    /// The last silence between two requests was a long one.
    sparse: bool,
}

/// A silence after which requests count as rare: a little less than between a hundred of them in a second.
const SPARSE_NS: u64 = 8_000_000;

impl Pace {
    /// Starts with the longest spin.
    #[must_use]
    pub fn new(limits: PaceLimits, now: Instant) -> Self {
        Self { limits, idle_ns: limits.spin_max_ns, waiting_ns: limits.spin_max_ns, quiet_since: now, slept: None, sparse: false }
    }

    /// A turn did something: the wait is over, and its length is learnt from if it was slept through.
    pub fn worked(&mut self, now: Instant) {
        if let Some(kind) = self.slept.take() {
            let wait_ns = now.since_ns(self.quiet_since);
            if kind != Progress::Waiting {
                self.sparse = wait_ns > SPARSE_NS;
            }
            let PaceLimits { spin_min_ns, spin_max_ns } = self.limits;
            let budget_ns = self.budget_mut(kind);
            let learnt = if wait_ns <= spin_max_ns { (*budget_ns * 2).max(wait_ns) } else { *budget_ns / 2 };
            *budget_ns = learnt.clamp(spin_min_ns.min(spin_max_ns), spin_max_ns);
        }
        self.quiet_since = now;
    }

    /// Whether a turn that achieved `progress` (not `Busy`) should be followed by sleep.
    #[must_use]
    pub fn tired(&self, progress: Progress, now: Instant) -> bool {
        let learnt_ns = if progress == Progress::Waiting { self.waiting_ns } else { self.idle_ns };
        let budget_ns = if self.sparse { learnt_ns.min(self.limits.spin_min_ns) } else { learnt_ns };
        now.since_ns(self.quiet_since) >= budget_ns
    }

    /// The core slept, having waited for what `progress` says.
    pub fn slept(&mut self, progress: Progress) {
        self.slept.get_or_insert(progress);
    }

    fn budget_mut(&mut self, kind: Progress) -> &mut u64 {
        if kind == Progress::Waiting { &mut self.waiting_ns } else { &mut self.idle_ns }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ns: u64) -> Instant {
        Instant { ns }
    }

    fn slept_for(pace: &mut Pace, kind: Progress, wait_ns: u64) {
        let from = pace.quiet_since;
        pace.slept(kind);
        pace.worked(from.after_ns(wait_ns));
    }

    fn spins_ns(pace: &Pace, kind: Progress) -> u64 {
        (0..=200_000).step_by(500).find(|ns| pace.tired(kind, pace.quiet_since.after_ns(*ns))).unwrap()
    }

    #[test]
    fn a_trickle_is_slept_for_and_a_busy_disk_is_spun_for() {
        let mut pace = Pace::new(PaceLimits::default(), at(0));
        for _ in 0..8 {
            slept_for(&mut pace, Progress::Idle, 5_000_000);
            pace.worked(pace.quiet_since.after_ns(35_000));
        }
        assert_eq!(spins_ns(&pace, Progress::Idle), 2_000, "the next request is far away");
        assert_eq!(spins_ns(&pace, Progress::Waiting), 100_000, "the completion is near");
    }

    #[test]
    fn a_sleep_that_was_too_short_lengthens_the_spin_past_it() {
        let mut pace = Pace::new(PaceLimits::default(), at(0));
        for _ in 0..10 {
            slept_for(&mut pace, Progress::Idle, 1_000_000);
        }
        slept_for(&mut pace, Progress::Idle, 40_000);
        assert!(spins_ns(&pace, Progress::Idle) >= 40_000);
    }

    #[test]
    fn after_a_long_silence_nothing_is_spun_for_until_requests_follow_each_other_again() {
        let mut pace = Pace::new(PaceLimits::default(), at(0));
        slept_for(&mut pace, Progress::Idle, 10_000_000);
        assert_eq!(spins_ns(&pace, Progress::Waiting), 2_000);
        slept_for(&mut pace, Progress::Waiting, 35_000);
        assert_eq!(spins_ns(&pace, Progress::Waiting), 2_000, "a completion is no request");
        slept_for(&mut pace, Progress::Idle, 1_000_000);
        assert_eq!(spins_ns(&pace, Progress::Waiting), 100_000, "and what was learnt is not forgotten");
    }

    #[test]
    fn several_early_wakings_are_one_wait() {
        let mut pace = Pace::new(PaceLimits::default(), at(0));
        pace.slept(Progress::Waiting);
        pace.slept(Progress::Idle);
        pace.worked(at(1_000_000));
        assert_eq!(spins_ns(&pace, Progress::Waiting), 50_000);
        assert_eq!(spins_ns(&pace, Progress::Idle), 100_000);
    }
}
