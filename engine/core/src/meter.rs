//! What one queue and one core count about themselves. Knows no report format.
//!
//! Each counter has one writer, the core that owns it, and is written with relaxed
//! stores; readers are control threads, which pay for the cache lines they look at and
//! never wake a sleeping core.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::histogram::{BUCKETS, Histogram, bump};
use crate::request::{OPS, OpKind};
use crate::units::Instant;

#[derive(Debug, Default)]
struct PerOp {
    latency: Histogram,
    sum_ns: AtomicU64,
    max_ns: AtomicU64,
    bytes: AtomicU64,
}

/// One queue's counts: operations, bytes, latencies, errors, and what is in flight.
#[derive(Debug, Default)]
pub struct Meter {
    ops: [PerOp; OPS.len()],
    errors: AtomicU64,
    in_flight: AtomicU64,
}

impl Meter {
    /// Counts one request that ended. Only the owning core calls this.
    #[inline]
    pub fn record(&self, op: OpKind, bytes: u64, latency_ns: u64, ok: bool) {
        self.record_alike(op, 1, bytes, latency_ns, ok);
    }

    /// Counts so many requests that took the same time and ended the same way; `bytes` of all of them. Only the owning core calls this.
    #[inline]
    pub fn record_alike(&self, op: OpKind, count: u64, bytes: u64, latency_ns: u64, ok: bool) {
        let per = &self.ops[op.index()];
        per.latency.record_alike(latency_ns, count);
        bump(&per.sum_ns, latency_ns.saturating_mul(count));
        bump(&per.bytes, bytes);
        if latency_ns > per.max_ns.load(Ordering::Relaxed) {
            per.max_ns.store(latency_ns, Ordering::Relaxed);
        }
        if !ok {
            bump(&self.errors, count);
        }
    }

    /// Says how many requests are in flight now.
    #[inline]
    pub fn set_in_flight(&self, count: usize) {
        self.in_flight.store(u64::try_from(count).expect("a small count"), Ordering::Relaxed);
    }

    /// How many requests are in flight, as the queue last said.
    #[must_use]
    pub fn in_flight(&self) -> u64 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// How many requests ended. Looks at every bucket of the histograms.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.ops.iter().flat_map(|per| per.latency.counts()).sum()
    }

    fn add_to(&self, total: &mut Snapshot) {
        for (per, sum) in self.ops.iter().zip(&mut total.ops) {
            for (count, into) in per.latency.counts().into_iter().zip(&mut sum.counts) {
                *into += count;
            }
            sum.sum_ns += per.sum_ns.load(Ordering::Relaxed);
            sum.bytes += per.bytes.load(Ordering::Relaxed);
            sum.max_ns = sum.max_ns.max(per.max_ns.load(Ordering::Relaxed));
        }
        total.errors += self.errors.load(Ordering::Relaxed);
        total.in_flight += self.in_flight.load(Ordering::Relaxed);
    }
}

/// The counts of one kind of operation at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpCounts {
    /// Requests by latency bucket (see [`bucket_range`](crate::bucket_range)), in nanoseconds.
    pub counts: Vec<u64>,
    /// Sum of all latencies in nanoseconds.
    pub sum_ns: u64,
    /// The longest latency in nanoseconds.
    pub max_ns: u64,
    /// Bytes moved, or covered by a discard or write-zeroes.
    pub bytes: u64,
}

impl OpCounts {
    /// How many requests ended.
    #[must_use]
    pub fn ops(&self) -> u64 {
        self.counts.iter().sum()
    }
}

/// The counts of one disk at one moment, over all its queues, past and present.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// By kind of operation, in the order of [`OPS`].
    pub ops: Vec<OpCounts>,
    /// Requests that ended with anything but success.
    pub errors: u64,
    /// Requests in flight.
    pub in_flight: u64,
}

impl Default for Snapshot {
    fn default() -> Self {
        let empty = OpCounts { counts: vec![0; BUCKETS], sum_ns: 0, max_ns: 0, bytes: 0 };
        Self { ops: vec![empty; OPS.len()], errors: 0, in_flight: 0 }
    }
}

impl Snapshot {
    /// The counts of one kind of operation.
    #[must_use]
    pub fn of(&self, op: OpKind) -> &OpCounts {
        &self.ops[op.index()]
    }
}

#[derive(Debug, Default)]
struct Gathered {
    live: Vec<Arc<Meter>>,
    past: Snapshot,
}

/// All meters of one disk. Control threads only, except that a queue writes its own meter.
#[derive(Debug, Default)]
pub struct Meters {
    #[allow(clippy::disallowed_types, reason = "control threads only; no reactor ever takes it")]
    gathered: std::sync::Mutex<Gathered>,
}

impl Meters {
    fn locked(&self) -> std::sync::MutexGuard<'_, Gathered> {
        self.gathered.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// A new meter for a queue that starts.
    #[must_use]
    pub fn start(&self) -> Arc<Meter> {
        let meter = Arc::new(Meter::default());
        self.locked().live.push(Arc::clone(&meter));
        meter
    }

    /// Keeps the counts of a queue that ended.
    pub fn end(&self, meter: &Arc<Meter>) {
        let mut gathered = self.locked();
        let before = gathered.live.len();
        gathered.live.retain(|live| !Arc::ptr_eq(live, meter));
        if gathered.live.len() < before {
            meter.set_in_flight(0);
            meter.add_to(&mut gathered.past);
        }
    }

    /// How many queues count at present: those that started and have not ended.
    #[must_use]
    pub fn live(&self) -> usize {
        self.locked().live.len()
    }

    /// The sum over all queues, past and present.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let gathered = self.locked();
        let mut total = gathered.past.clone();
        for meter in &gathered.live {
            meter.add_to(&mut total);
        }
        total
    }
}

/// Where one core's time went. Written by its reactor only.
#[derive(Debug, Default)]
pub struct CoreMeter {
    busy_ns: AtomicU64,
    spin_ns: AtomicU64,
    sleep_ns: AtomicU64,
    turns: AtomicU64,
    sleeps: AtomicU64,
    pollers: AtomicU64,
    /// When the sleep that lasts now began; zero while awake.
    asleep_since: AtomicU64,
}

/// Where one core's time went, at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CoreUsage {
    /// Turns that did something.
    pub busy_ns: u64,
    /// Turns that found nothing.
    pub spin_ns: u64,
    /// Asleep in the kernel.
    pub sleep_ns: u64,
    /// How many turns there were.
    pub turns: u64,
    /// How many times it slept.
    pub sleeps: u64,
    /// How many pollers it runs.
    pub pollers: u64,
}

impl CoreMeter {
    /// Adds time and turns since the last call.
    pub fn add(&self, more: CoreUsage) {
        bump(&self.busy_ns, more.busy_ns);
        bump(&self.spin_ns, more.spin_ns);
        bump(&self.sleep_ns, more.sleep_ns);
        bump(&self.turns, more.turns);
        bump(&self.sleeps, more.sleeps);
        self.pollers.store(more.pollers, Ordering::Relaxed);
    }

    /// The core falls asleep, or with `None` wakes, so that a sleep shows while it lasts.
    pub fn set_asleep(&self, since: Option<Instant>) {
        self.asleep_since.store(since.map_or(0, |since| since.ns), Ordering::Relaxed);
    }

    /// Where its time went up to `now`, a sleep that lasts still included.
    #[must_use]
    pub fn usage(&self, now: Instant) -> CoreUsage {
        let asleep_since = self.asleep_since.load(Ordering::Relaxed);
        let dozing_ns = if asleep_since == 0 { 0 } else { now.ns.saturating_sub(asleep_since) };
        CoreUsage {
            busy_ns: self.busy_ns.load(Ordering::Relaxed),
            spin_ns: self.spin_ns.load(Ordering::Relaxed),
            sleep_ns: self.sleep_ns.load(Ordering::Relaxed) + dozing_ns,
            turns: self.turns.load(Ordering::Relaxed),
            sleeps: self.sleeps.load(Ordering::Relaxed),
            pollers: self.pollers.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sleep_shows_while_it_lasts() {
        let meter = CoreMeter::default();
        meter.add(CoreUsage { sleep_ns: 5, ..CoreUsage::default() });
        meter.set_asleep(Some(Instant { ns: 100 }));
        assert_eq!(meter.usage(Instant { ns: 130 }).sleep_ns, 35);
        meter.set_asleep(None);
        assert_eq!(meter.usage(Instant { ns: 130 }).sleep_ns, 5);
    }

    #[test]
    fn counts_of_a_queue_that_ended_are_kept_once() {
        let meters = Meters::default();
        let (a, b) = (meters.start(), meters.start());
        a.record(OpKind::Read, 4096, 1000, true);
        a.set_in_flight(3);
        b.record(OpKind::Write, 512, 70, false);
        assert_eq!((a.requests(), b.requests()), (1, 1));
        let before = meters.snapshot();
        assert_eq!((before.of(OpKind::Read).ops(), before.of(OpKind::Write).ops()), (1, 1));
        assert_eq!((before.errors, before.in_flight), (1, 3));
        meters.end(&a);
        meters.end(&a);
        assert_eq!(meters.live(), 1);
        let after = meters.snapshot();
        assert_eq!(after.of(OpKind::Read), before.of(OpKind::Read));
        assert_eq!(after.in_flight, 0);
        assert_eq!((after.of(OpKind::Read).max_ns, after.of(OpKind::Read).bytes), (1000, 4096));
    }
}
