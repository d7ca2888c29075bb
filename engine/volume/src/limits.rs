//! Rates that the channels of several cores keep together, exact and without a lock. Knows no request and no device.

use std::sync::atomic::{AtomicU64, Ordering};

use spinel_core::Instant;

/// The highest rate, a second.
pub const RATE_MAX: u64 = 1 << 50;
/// The longest burst, in milliseconds.
pub const BURST_MS_MAX: u64 = 3_600_000;
/// The burst where none is asked for, in milliseconds: a core that comes late, because it slept or had to share its processor,
/// makes up for as much. That is longer than a tick of the scheduler, and still one hundredth of a second's requests at most.
pub const BURST_MS_DEFAULT: u64 = 10;

const SECOND_NS: u64 = 1_000_000_000;

/// What can be limited of one device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cap {
    /// Requests of every kind but flush.
    Ios,
    /// Bytes read and written.
    Bytes,
    /// Reads.
    ReadIos,
    /// Bytes read.
    ReadBytes,
    /// Requests that change data: writes, discards, write-zeroes.
    WriteIos,
    /// Bytes written.
    WriteBytes,
}

/// Every cap.
pub const CAPS: [Cap; 6] = [Cap::Ios, Cap::Bytes, Cap::ReadIos, Cap::ReadBytes, Cap::WriteIos, Cap::WriteBytes];

/// A rate, and what may come at once after a pause.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limit {
    per_second: u64,
    burst_ms: u64,
}

/// A limit that cannot be kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LimitError {
    /// No rate, or too high a one.
    #[error("a rate of {per_second} a second is not possible; use 1 to {RATE_MAX}")]
    Rate {
        /// What was asked for.
        per_second: u64,
    },
    /// Too long a burst.
    #[error("a burst of {burst_ms} ms is not possible; use at most {BURST_MS_MAX}")]
    Burst {
        /// What was asked for.
        burst_ms: u64,
    },
}

impl Limit {
    /// So much a second, in requests or bytes, of which the share of `burst_ms` may come at once. One request always may.
    ///
    /// # Errors
    /// [`LimitError`] names the value that is out of bounds.
    pub fn new(per_second: u64, burst_ms: u64) -> Result<Self, LimitError> {
        if !(1..=RATE_MAX).contains(&per_second) {
            return Err(LimitError::Rate { per_second });
        }
        if burst_ms > BURST_MS_MAX {
            return Err(LimitError::Burst { burst_ms });
        }
        Ok(Self { per_second, burst_ms })
    }

    /// The rate, a second.
    #[must_use]
    pub fn per_second(self) -> u64 {
        self.per_second
    }

    /// Of how long a time the share may come at once, in milliseconds.
    #[must_use]
    pub fn burst_ms(self) -> u64 {
        self.burst_ms
    }
}

/// A device's limits, and how far each is used up: changed by control threads, used by all cores.
#[derive(Debug, Default)]
pub struct Limits {
    /// By cap.
    buckets: [Bucket; CAPS.len()],
    /// Counts the changes.
    generation: AtomicU64,
}

impl Limits {
    /// Sets, or with `None` lifts, the limits of these caps. What was owed under their old ones is forgiven.
    ///
    /// Each core sees it with its next turn. Control threads take turns.
    pub fn set(&self, changes: impl IntoIterator<Item = (Cap, Option<Limit>)>) {
        for (cap, limit) in changes {
            let bucket = self.bucket(cap);
            bucket.per_second.store(limit.map_or(0, Limit::per_second), Ordering::Relaxed);
            bucket.burst_ns.store(limit.map_or(0, Limit::burst_ms) * 1_000_000, Ordering::Relaxed);
            bucket.paid_by_ns.store(0, Ordering::Relaxed);
        }
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// The limit of one cap, if there is one.
    #[must_use]
    pub fn get(&self, cap: Cap) -> Option<Limit> {
        let bucket = self.bucket(cap);
        let burst_ms = bucket.burst_ns.load(Ordering::Relaxed) / 1_000_000;
        Some(Limit { per_second: bucket.per_second(), burst_ms }).filter(|limit| limit.per_second > 0)
    }

    /// Whether anything is limited.
    #[must_use]
    pub fn any(&self) -> bool {
        self.buckets.iter().any(|bucket| bucket.per_second() > 0)
    }

    /// Changes with every [`set`](Self::set).
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    pub(crate) fn bucket(&self, cap: Cap) -> &Bucket {
        &self.buckets[cap as usize]
    }
}

/// One rate. What is taken from it has to be paid for with time, each after the other; a burst is how far that may lie ahead.
///
/// (The theoretical arrival time of the Generic Cell Rate Algorithm, ITU-T I.371, without its cells: things cost what they are.)
#[derive(Debug, Default)]
pub(crate) struct Bucket {
    /// 0 if nothing is limited.
    per_second: AtomicU64,
    burst_ns: AtomicU64,
    /// When all that was taken is paid for.
    paid_by_ns: AtomicU64,
}

impl Bucket {
    pub(crate) fn per_second(&self) -> u64 {
        self.per_second.load(Ordering::Relaxed)
    }

    /// Takes what costs so much, whether it is there or not. Answers from when on it may be used.
    pub(crate) fn take(&self, cost_ns: u64, now: Instant) -> Instant {
        let paid_by_ns = self.update(|paid_by_ns| paid_by_ns.max(now.ns).saturating_add(cost_ns));
        Instant { ns: paid_by_ns.saturating_sub(self.burst_ns.load(Ordering::Relaxed)) }
    }

    /// Gives back what was taken in advance and not needed.
    pub(crate) fn give_back(&self, cost_ns: u64) {
        self.update(|paid_by_ns| paid_by_ns.saturating_sub(cost_ns));
    }

    /// For how long what is there would last; none if more was taken than that.
    pub(crate) fn credit_ns(&self, now: Instant) -> Option<u64> {
        let ahead_ns = self.paid_by_ns.load(Ordering::Relaxed).saturating_sub(now.ns);
        self.burst_ns.load(Ordering::Relaxed).checked_sub(ahead_ns)
    }

    /// Answers what was there before. Only another core's success makes it look again.
    fn update(&self, change: impl Fn(u64) -> u64) -> u64 {
        let changed = self.paid_by_ns.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |paid_by_ns| Some(change(paid_by_ns)));
        changed.expect("it is always changed")
    }
}

/// What so much costs at a rate. The fraction of a nanosecond is kept in `rest` for the next time, so that the sum is exact.
pub(crate) fn cost_ns(amount: u64, per_second: u64, rest: &mut u64) -> u64 {
    let scaled = amount.saturating_mul(SECOND_NS).saturating_add(*rest);
    *rest = scaled % per_second;
    scaled / per_second
}

/// How many things of `size` a rate gives in this time.
pub(crate) fn count_within(time_ns: u64, per_second: u64, size: u64) -> u64 {
    time_ns.saturating_mul(per_second) / SECOND_NS / size
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_limits_that_can_be_kept_are_made() {
        assert_eq!(Limit::new(0, 0), Err(LimitError::Rate { per_second: 0 }));
        assert_eq!(Limit::new(RATE_MAX + 1, 0), Err(LimitError::Rate { per_second: RATE_MAX + 1 }));
        assert_eq!(Limit::new(1, BURST_MS_MAX + 1), Err(LimitError::Burst { burst_ms: BURST_MS_MAX + 1 }));
        let limit = Limit::new(RATE_MAX, BURST_MS_MAX).unwrap();
        assert_eq!((limit.per_second(), limit.burst_ms()), (RATE_MAX, BURST_MS_MAX));
    }

    #[test]
    fn what_was_set_is_there_until_it_is_lifted() {
        let limits = Limits::default();
        assert!(!limits.any());
        let limit = Limit::new(5, 7).unwrap();
        limits.set([(Cap::ReadBytes, Some(limit))]);
        assert_eq!(CAPS.map(|cap| limits.get(cap)), [None, None, None, Some(limit), None, None]);
        assert!(limits.any());
        limits.set([(Cap::ReadBytes, None), (Cap::Ios, None)]);
        assert!(!limits.any());
    }

    #[test]
    fn the_fractions_of_many_costs_add_up() {
        for (per_second, amount, times) in [(3, 1, 1_000), (7_777_777, 1, 1_000_000), (3_000_000_007, 4_096, 100_000)] {
            let mut rest = 0;
            let sum_ns: u64 = (0..times).map(|_| cost_ns(amount, per_second, &mut rest)).sum();
            assert_eq!(sum_ns, times * amount * SECOND_NS / per_second, "{times} times {amount} at {per_second} a second");
        }
    }

    #[test]
    fn cores_that_take_at_the_same_time_wait_behind_each_other() {
        let limits = Limits::default();
        limits.set([(Cap::Ios, Some(Limit::new(1_000_000, 0).unwrap()))]);
        let take = || (0..10_000).map(|_| limits.bucket(Cap::Ios).take(1_000, Instant { ns: 50 }).ns).collect::<Vec<_>>();
        let mut taken: Vec<u64> = std::thread::scope(|scope| {
            let takers = [scope.spawn(take), scope.spawn(take)];
            takers.map(|taker| taker.join().unwrap()).concat()
        });
        taken.sort_unstable();
        assert_eq!(taken[0], 0, "the first finds nothing taken");
        let later = taken[1..].iter().zip(1..).all(|(from, before)| *from == 50 + before * 1_000);
        assert!(later, "each of the others follows the one before");
    }
}
