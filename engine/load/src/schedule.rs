//! When requests are due. Knows no request and no clock.

use spinel_core::Instant;

use crate::job::Arrival;
use crate::prng::Prng;
use crate::zipf::{unit, whole};

/// 2^32: parts of a nanosecond in which gaps are counted, so that a rate stays what it is over days.
const PARTS: f64 = 4_294_967_296.0;
const NS_PER_SECOND: f64 = 1_000_000_000.0;
/// The longest gap, a few centuries: nothing is due then any more, and sums do not overflow.
const GAP_MAX_NS: f64 = 9_007_199_254_740_992_000.0;

/// More requests than this are not counted one by one: it takes a moment, on the core that works.
const COUNTED_MAX: u64 = 1_000_000;

/// When each request of a job is due, in order.
///
/// The moments depend on the rate and the seed alone: a request that is sent late does not
/// delay those that come after it.
#[derive(Clone, Debug)]
pub struct Schedule {
    arrival: Gaps,
    due: Instant,
    /// Of a nanosecond, beyond `due`, in 2^-32.
    parts: u32,
}

#[derive(Clone, Debug)]
enum Gaps {
    Closed,
    Steady(Gap),
    Poisson { mean_ns: f64, prng: Prng },
}

#[derive(Clone, Copy, Debug)]
struct Gap {
    ns: u64,
    parts: u32,
}

impl Gap {
    fn of(ns: f64) -> Self {
        let ns = ns.min(GAP_MAX_NS);
        let parts = u32::try_from(whole(ns.fract() * PARTS)).unwrap_or(u32::MAX);
        Self { ns: whole(ns), parts }
    }
}

impl Schedule {
    /// A schedule that begins at `start`. The first request of a steady one is due then.
    #[must_use]
    pub fn new(arrival: Arrival, seed: u64, start: Instant) -> Self {
        let mean_ns = |per_second: f64| NS_PER_SECOND / per_second;
        let arrival = match arrival {
            Arrival::Closed => Gaps::Closed,
            Arrival::Steady { per_second } => Gaps::Steady(Gap::of(mean_ns(per_second))),
            // Not the generator's own numbers.
            Arrival::Poisson { per_second } => Gaps::Poisson { mean_ns: mean_ns(per_second), prng: Prng::new(!seed) },
        };
        let mut schedule = Self { arrival, due: start, parts: 0 };
        if matches!(schedule.arrival, Gaps::Poisson { .. }) {
            schedule.advance();
        }
        schedule
    }

    /// When the next request is due; `None` in a closed loop, where it is as soon as there is room.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        if matches!(self.arrival, Gaps::Closed) { None } else { Some(self.due) }
    }

    /// Takes the next request if it is due at `now`: answers from when its latency counts.
    #[inline]
    pub fn take(&mut self, now: Instant) -> Option<Instant> {
        if matches!(self.arrival, Gaps::Closed) {
            return Some(now);
        }
        let due = self.due;
        if due > now {
            return None;
        }
        self.advance();
        Some(due)
    }

    /// Forgets what is due before `end`; answers how many requests that are. At most a million are counted.
    pub fn skip_to(&mut self, end: Instant) -> u64 {
        let mut skipped = 0;
        while self.due().is_some_and(|due| due < end) && skipped < COUNTED_MAX {
            self.advance();
            skipped += 1;
        }
        if skipped == COUNTED_MAX {
            self.due = self.due.max(end);
        }
        skipped
    }

    fn advance(&mut self) {
        let gap = match &mut self.arrival {
            Gaps::Closed => return,
            Gaps::Steady(gap) => *gap,
            Gaps::Poisson { mean_ns, prng } => Gap::of(-unit(prng).ln() * *mean_ns),
        };
        let (parts, carry) = self.parts.overflowing_add(gap.parts);
        self.parts = parts;
        self.due = self.due.after_ns(gap.ns + u64::from(carry));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ns: u64) -> Instant {
        Instant { ns }
    }

    #[test]
    fn a_steady_rate_does_not_drift() {
        let mut schedule = Schedule::new(Arrival::Steady { per_second: 300_000.0 }, 1, at(50));
        let dues: Vec<u64> = (0..3_000_001).map(|_| schedule.take(at(u64::MAX)).unwrap().ns).collect();
        assert_eq!((dues[0], dues[1], dues[2], dues[3]), (50, 3383, 6716, 10_049));
        assert!(dues[3_000_000].abs_diff(10_000_000_050) <= 2, "{} after ten seconds", dues[3_000_000]);
    }

    #[test]
    fn a_late_request_does_not_delay_those_after_it() {
        for arrival in [Arrival::Steady { per_second: 1000.0 }, Arrival::Poisson { per_second: 1000.0 }] {
            let (mut punctual, mut late) = (Schedule::new(arrival, 7, at(0)), Schedule::new(arrival, 7, at(0)));
            for _ in 0..100 {
                let due = punctual.due().unwrap();
                assert_eq!(punctual.take(at(due.ns - u64::from(due.ns > 0))), (due.ns == 0).then_some(due), "not a moment too early");
                if due.ns > 0 {
                    assert_eq!(punctual.take(due), Some(due));
                }
                assert_eq!(late.take(at(1 << 50)), Some(due));
            }
        }
    }

    #[test]
    fn what_is_skipped_is_counted_and_the_rest_stays_where_it_was() {
        let mut schedule = Schedule::new(Arrival::Steady { per_second: 1e6 }, 1, at(500));
        assert_eq!(schedule.skip_to(at(10_500)), 10);
        assert_eq!((schedule.due(), schedule.skip_to(at(10_500))), (Some(at(10_500)), 0));
        let mut flood = Schedule::new(Arrival::Steady { per_second: 1e9 }, 1, at(0));
        assert_eq!((flood.skip_to(at(1 << 40)), flood.due()), (COUNTED_MAX, Some(at(1 << 40))));
        assert_eq!(Schedule::new(Arrival::Closed, 1, at(0)).skip_to(at(9)), 0);
    }

    #[test]
    fn a_closed_loop_is_due_whenever_it_is_asked() {
        let mut schedule = Schedule::new(Arrival::Closed, 1, at(0));
        assert_eq!((schedule.due(), schedule.take(at(5)), schedule.take(at(5))), (None, Some(at(5)), Some(at(5))));
    }

    #[test]
    fn poisson_gaps_have_the_mean_and_the_spread_of_their_law() {
        let mut schedule = Schedule::new(Arrival::Poisson { per_second: 1_000_000.0 }, 5, at(0));
        let dues: Vec<u64> = (0..100_001).map(|_| schedule.take(at(u64::MAX)).unwrap().ns).collect();
        let mean = dues[100_000] / 100_000;
        assert!((990..1010).contains(&mean), "{mean}");
        // Of gaps with an exponential law, one in e^3 is three times as long as the mean, and the shortest are there, too.
        let long = dues.windows(2).filter(|pair| pair[1] - pair[0] > 3000).count();
        let short = dues.windows(2).filter(|pair| pair[1] - pair[0] < 100).count();
        let other = Schedule::new(Arrival::Poisson { per_second: 1_000_000.0 }, 6, at(0));
        assert_ne!(other.due(), Some(at(dues[0])), "another seed, other gaps");
        assert!((4_700..5_300).contains(&long) && (9_000..10_000).contains(&short), "{long}, {short}");
    }

    #[test]
    fn absurd_rates_are_survived() {
        for per_second in [f64::MIN_POSITIVE, 1e-300, 1e300, f64::MAX] {
            for arrival in [Arrival::Steady { per_second }, Arrival::Poisson { per_second }] {
                let mut schedule = Schedule::new(arrival, 1, at(0));
                let dues: Vec<Instant> = (0..10).map_while(|_| schedule.take(at(u64::MAX))).collect();
                assert!(dues.is_sorted() && dues.len() == 10);
            }
        }
    }
}
