//! What a bdev counted since somebody last asked for a reset. Knows no method and no report format.
//!
//! The meters themselves have one writer each, a core; a reset therefore only
//! remembers where they stood.

use std::sync::Arc;

use spinel_core::{BUCKETS, Meters, OpCounts, OpKind, Snapshot, bucket_range};

/// What `bdev_reset_iostat` can reset; SPDK's names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Reset {
    /// Everything.
    All,
    /// The longest and shortest latencies.
    MaxMin,
    /// The errors.
    Error,
    /// Nothing.
    #[default]
    None,
}

/// Which part of the counts `bdev_get_histogram` shows.
#[derive(Debug)]
enum Shown {
    /// Everything since the bdev was made.
    Everything,
    /// What came since then, of one operation or of all.
    Since(Box<Snapshot>, Option<OpKind>),
    /// It was switched off.
    Nothing,
}

/// A bdev's meters, and where they stood at the last resets.
#[derive(Debug)]
pub(crate) struct Counts {
    meters: Arc<Meters>,
    zero: Snapshot,
    extremes_zero: Snapshot,
    errors_zero: u64,
    shown: Shown,
}

impl Default for Counts {
    fn default() -> Self {
        let zero = Snapshot::default;
        Self { meters: Arc::default(), zero: zero(), extremes_zero: zero(), errors_zero: 0, shown: Shown::Everything }
    }
}

/// The counts of one operation since the last reset.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Counted {
    /// How many ended.
    pub(crate) ops: u64,
    /// Bytes moved or covered.
    pub(crate) bytes: u64,
    /// Sum of the latencies.
    pub(crate) sum_ns: u64,
    /// The longest latency; 0 if there was none.
    pub(crate) max_ns: u64,
    /// The shortest latency, to 3 %; 0 if there was none.
    pub(crate) min_ns: u64,
    /// By latency: lowest and highest of each bucket, and how many.
    pub(crate) buckets: Vec<(u64, u64, u64)>,
}

/// A bdev's counts since the last reset.
pub(crate) struct Report {
    now: Snapshot,
    zero: Snapshot,
    extremes_zero: Snapshot,
    /// Requests that failed.
    pub(crate) errors: u64,
    /// Requests in flight now.
    pub(crate) in_flight: u64,
}

impl Counts {
    /// Where queues count.
    pub(crate) fn meters(&self) -> &Arc<Meters> {
        &self.meters
    }

    /// What was counted since the last reset, and then `reset`.
    pub(crate) fn report(&mut self, reset: Reset) -> Report {
        let now = self.meters.snapshot();
        let report = Report {
            errors: now.errors.saturating_sub(self.errors_zero),
            in_flight: now.in_flight,
            zero: self.zero.clone(),
            extremes_zero: self.extremes_zero.clone(),
            now: now.clone(),
        };
        match reset {
            Reset::None => {}
            Reset::Error => self.errors_zero = now.errors,
            Reset::MaxMin => self.extremes_zero = now,
            Reset::All => {
                self.errors_zero = now.errors;
                self.extremes_zero = now.clone();
                self.zero = now;
            }
        }
        report
    }

    /// From now on the histogram shows what comes, of one operation or of all.
    pub(crate) fn show_from_now(&mut self, op: Option<OpKind>) {
        self.shown = Shown::Since(Box::new(self.meters.snapshot()), op);
    }

    /// The histogram is not shown any more. It is still counted.
    pub(crate) fn hide(&mut self) {
        self.shown = Shown::Nothing;
    }

    /// The histogram; none if it was switched off.
    pub(crate) fn histogram(&self) -> Option<Vec<(u64, u64, u64)>> {
        let now = self.meters.snapshot();
        let none = Snapshot::default();
        let (zero, op) = match &self.shown {
            Shown::Nothing => return None,
            Shown::Everything => (&none, None),
            Shown::Since(zero, op) => (zero.as_ref(), *op),
        };
        let mut sum = vec![0; BUCKETS];
        for kind in spinel_core::OPS.into_iter().filter(|kind| op.is_none_or(|op| op == *kind)) {
            for (sum, count) in sum.iter_mut().zip(difference(now.of(kind), zero.of(kind))) {
                *sum += count;
            }
        }
        Some(buckets(sum))
    }
}

impl Report {
    /// Whether nothing was ever counted.
    pub(crate) fn is_empty(&self) -> bool {
        self.in_flight == 0 && self.now.ops.iter().all(|op| op.ops() == 0)
    }

    /// The counts of one operation.
    pub(crate) fn of(&self, op: OpKind) -> Counted {
        let (now, zero) = (self.now.of(op), self.zero.of(op));
        let buckets = buckets(difference(now, zero));
        let extremes_zero = self.extremes_zero.of(op);
        let extremes = self::buckets(difference(now, extremes_zero));
        Counted {
            ops: buckets.iter().map(|(_, _, count)| count).sum(),
            bytes: now.bytes.saturating_sub(zero.bytes),
            sum_ns: now.sum_ns.saturating_sub(zero.sum_ns),
            // Known to the nanosecond if it is the longest ever, else to its bucket.
            max_ns: match extremes.last() {
                Some(_) if now.max_ns > extremes_zero.max_ns => now.max_ns,
                Some((_, highest, _)) => (*highest).min(now.max_ns),
                None => 0,
            },
            min_ns: extremes.first().map_or(0, |(lowest, _, _)| *lowest),
            buckets,
        }
    }
}

fn difference(now: &OpCounts, zero: &OpCounts) -> Vec<u64> {
    now.counts.iter().zip(&zero.counts).map(|(now, zero)| now.saturating_sub(*zero)).collect()
}

/// The filled buckets, with their bounds.
fn buckets(counts: Vec<u64>) -> Vec<(u64, u64, u64)> {
    let filled = counts.into_iter().enumerate().filter(|(_, count)| *count > 0);
    filled
        .map(|(bucket, count)| {
            let (lowest, highest) = bucket_range(bucket);
            (lowest, highest, count)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorded(latencies_ns: &[u64]) -> Counts {
        let counts = Counts::default();
        let meter = counts.meters().start();
        latencies_ns.iter().for_each(|ns| meter.record(OpKind::Read, 512, *ns, *ns != 13));
        counts
    }

    #[test]
    fn a_reset_of_all_starts_from_nothing() {
        let mut counts = recorded(&[1000, 2000, 13]);
        let before = counts.report(Reset::All);
        let reads = before.of(OpKind::Read);
        assert_eq!((reads.ops, reads.bytes, reads.sum_ns, reads.max_ns, reads.min_ns), (3, 1536, 3013, 2000, 13));
        assert_eq!(before.errors, 1);
        let after = counts.report(Reset::None);
        let none = Counted { ops: 0, bytes: 0, sum_ns: 0, max_ns: 0, min_ns: 0, buckets: Vec::new() };
        assert_eq!((after.of(OpKind::Read), after.errors), (none, 0));
    }

    #[test]
    fn the_extremes_and_the_errors_are_reset_by_themselves() {
        let mut counts = recorded(&[1000, 5000, 13]);
        counts.report(Reset::MaxMin);
        let meter = counts.meters().start();
        meter.record(OpKind::Read, 512, 3000, true);
        let reads = counts.report(Reset::Error).of(OpKind::Read);
        assert_eq!((reads.ops, reads.sum_ns), (4, 9013));
        assert!((2900..=3000).contains(&reads.min_ns) && (3000..=3100).contains(&reads.max_ns), "{reads:?}");
        let after = counts.report(Reset::None);
        assert_eq!((after.errors, after.of(OpKind::Read).ops), (0, 4));
        meter.record(OpKind::Read, 512, 70_001, true);
        assert_eq!(counts.report(Reset::None).of(OpKind::Read).max_ns, 70_001, "the longest ever is known exactly");
    }

    #[test]
    fn the_histogram_is_there_unless_switched_off_and_counts_from_when_it_was_switched_on() {
        let mut counts = recorded(&[1000; 3]);
        let total = |counts: &Counts| counts.histogram().map(|buckets| buckets.iter().map(|(_, _, count)| count).sum::<u64>());
        assert_eq!(total(&counts), Some(3));
        counts.hide();
        assert_eq!(total(&counts), None);
        counts.show_from_now(Some(OpKind::Write));
        let meter = counts.meters().start();
        meter.record(OpKind::Write, 512, 3000, true);
        meter.record(OpKind::Read, 512, 3000, true);
        assert_eq!(total(&counts), Some(1));
        counts.show_from_now(None);
        assert_eq!(total(&counts), Some(0));
    }
}
