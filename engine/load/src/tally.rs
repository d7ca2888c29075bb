//! What came of a job in one stretch of time. Knows no report.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use spinel_core::{Instant, OPS, OpKind, Status};

/// How many ways a request can end.
pub const STATUSES: usize = 8;

/// A status's place in [`OpTally::ended`].
#[must_use]
pub fn status_index(status: Status) -> usize {
    usize::from(status as u8)
}

/// Longest latency that is told apart, in nanoseconds; longer ones count there.
const LATENCY_MAX_NS: u64 = 600_000_000_000;

/// What came of one kind of request.
#[derive(Clone, Debug)]
pub struct OpTally {
    /// Nanoseconds from when a request was sent, or in an open loop from when it was due, until its end was seen. Failed ones too.
    pub latency: Histogram<u64>,
    /// Bytes of the requests that succeeded.
    pub bytes: u64,
    /// How many ended in each way, by [`status_index`].
    pub ended: [u64; STATUSES],
}

impl OpTally {
    pub(crate) fn new() -> Self {
        let latency = Histogram::new_with_bounds(1, LATENCY_MAX_NS, 3).expect("the bounds are constants that fit");
        Self { latency, bytes: 0, ended: [0; STATUSES] }
    }

    /// How many requests ended.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.ended.iter().sum()
    }

    /// How many of them failed.
    #[must_use]
    pub fn errors(&self) -> u64 {
        self.requests() - self.ended[status_index(Status::Ok)]
    }
}

/// Why a job is over.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// Its length was reached.
    Done,
    /// It was stopped.
    Stopped,
    /// Its device went away: requests were given up ([`Status::Aborted`]), and more would be too.
    Gone,
}

/// What came of a job in one stretch of time.
#[derive(Clone, Debug)]
pub struct Tally {
    /// When the stretch began.
    pub from: Instant,
    /// When it ended.
    pub until: Instant,
    /// By kind, in the order of [`OPS`]; empty for kinds that the job never sends.
    pub ops: [Option<Box<OpTally>>; OPS.len()],
    /// Requests of an open loop that were due and could not be sent before the end. In the last tally of a job only.
    pub unsent: u64,
    /// In the last tally of a job only.
    pub ended: Option<Ended>,
}

impl Tally {
    /// An empty one for these kinds. Allocates; recording does not.
    #[must_use]
    pub fn of(kinds: impl Fn(OpKind) -> bool) -> Self {
        let ops = OPS.map(|kind| kinds(kind).then(|| Box::new(OpTally::new())));
        Self { from: Instant::default(), until: Instant::default(), ops, unsent: 0, ended: None }
    }

    /// Counts one request that ended.
    ///
    /// # Panics
    /// If its kind is none of those that the tally was made for.
    #[inline]
    pub fn record(&mut self, kind: OpKind, bytes: u64, latency_ns: u64, status: Status) {
        let op = self.ops[kind.index()].as_mut().expect("the kinds of a job are known from its start");
        op.latency.saturating_record(latency_ns);
        op.ended[status_index(status)] += 1;
        if status == Status::Ok {
            op.bytes += bytes;
        }
    }

    /// How many requests ended, of all kinds.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.ops.iter().flatten().map(|op| op.requests()).sum()
    }

    /// Adds another stretch. Kinds that only the other has are taken over.
    ///
    /// # Panics
    /// Never: all histograms have the same bounds.
    pub fn add(&mut self, other: &Self) {
        if self.requests() == 0 && self.from == Instant::default() {
            self.from = other.from;
        }
        self.from = self.from.min(other.from);
        self.until = self.until.max(other.until);
        self.ended = other.ended.or(self.ended);
        self.unsent += other.unsent;
        for (own, others) in self.ops.iter_mut().zip(&other.ops) {
            let Some(others) = others else { continue };
            let own = own.get_or_insert_with(|| Box::new(OpTally::new()));
            own.latency.add(&others.latency).expect("all tallies have the same bounds");
            own.bytes += others.bytes;
            own.ended.iter_mut().zip(others.ended).for_each(|(own, other)| *own += other);
        }
    }

    /// Empties it for reuse. Takes about 0.1 ms: not for the core that works.
    pub fn clear(&mut self) {
        for op in self.ops.iter_mut().flatten() {
            op.latency.reset();
            op.bytes = 0;
            op.ended = [0; STATUSES];
        }
        self.unsent = 0;
        self.ended = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stretches_add_up_and_a_cleared_one_is_empty() {
        let kinds = |kind| matches!(kind, OpKind::Read | OpKind::Write);
        let (mut a, mut b) = (Tally::of(kinds), Tally::of(kinds));
        (a.from, a.until) = (Instant { ns: 10 }, Instant { ns: 20 });
        (b.from, b.until, b.ended) = (Instant { ns: 20 }, Instant { ns: 40 }, Some(Ended::Done));
        a.record(OpKind::Read, 512, 100, Status::Ok);
        b.record(OpKind::Read, 512, 300, Status::Medium);
        b.record(OpKind::Write, 4096, 200, Status::Ok);
        a.add(&b);
        let read = a.ops[OpKind::Read.index()].as_ref().unwrap();
        assert_eq!((read.requests(), read.errors(), read.bytes, read.latency.max()), (2, 1, 512, 300));
        assert_eq!((a.from.ns, a.until.ns, a.requests(), a.ended), (10, 40, 3, Some(Ended::Done)));
        a.clear();
        assert_eq!((a.requests(), a.ended), (0, None));
    }

    #[test]
    fn every_status_has_a_place_of_its_own() {
        let mut places: Vec<usize> = crate::wire::STATUS_NAMES.iter().map(|(status, _)| status_index(*status)).collect();
        places.dedup();
        assert_eq!(places, (0..STATUSES).collect::<Vec<_>>());
    }
}
