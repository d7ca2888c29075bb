//! Tallies of several jobs become the figures of one run. Knows no clock, no target and no terminal.
//!
//! Jobs turn their tallies over at moments of their own, and a job whose watcher was late
//! hands over one tally for several intervals. So tallies are put side by side on a grid
//! of intervals, and those whose places overlap become one stretch.

use std::collections::BTreeMap;
use std::ops::Range;

use hdrhistogram::Histogram;
use spinel_core::{Instant, OPS};
use spinel_load::{Ended, Job, OpTally, STATUS_NAMES, STATUSES, Tally};

use super::words::KINDS;
use super::{Interval, Latency, Outcome, Run, Stretch, Verified, histogram};

/// Most tallies kept of one job. When there are more, intervals become twice as long: fewer stretches, the same requests.
const TALLIES_MAX: usize = 2048;

/// What ran, and what it cost: the part of a run that tallies do not tell.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "each is a field of Run and explained there")]
pub struct Setting {
    pub name: String,
    pub target: String,
    pub disk_bytes: u64,
    pub block_bytes: u32,
    pub job: Job,
    pub cores: Vec<u16>,
    pub started_unix_ms: u64,
    pub client_cpu_ns: u64,
    pub server_cpu_ns: Option<u64>,
    pub verified: Option<Verified>,
}

/// Gathers what several jobs hand over while they work.
#[derive(Debug)]
pub struct Collector {
    /// How long a tally is.
    tally_ns: u64,
    /// How long a place on the grid is: as long as a tally, or in long runs a multiple.
    interval_ns: u64,
    /// Most tallies kept of one job.
    tallies_max: usize,
    /// When each job began to measure, and how far it came.
    jobs: Vec<Progress>,
    total: Tally,
    pieces: Vec<Piece>,
    /// Where the grid begins: with the first tally of all.
    origin: Option<Instant>,
    /// The first place on the grid that was not shown yet.
    unseen: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    /// How many pieces it has, and where the last of them is.
    pieces: usize,
    last: Option<usize>,
    from: Option<Instant>,
    until: Instant,
    ended: Option<Ended>,
}

/// Some tallies of one job, mostly one, their histograms packed: 300 KiB become some hundred bytes.
#[derive(Clone, Debug)]
struct Piece {
    job: usize,
    from: Instant,
    until: Instant,
    ops: [Option<Part>; OPS.len()],
}

#[derive(Clone, Debug)]
struct Part {
    bytes: u64,
    errors: u64,
    packed: Vec<u8>,
}

/// Pieces whose places on the grid overlap, as indices.
#[derive(Debug)]
struct Group {
    places: Range<u64>,
    pieces: Vec<usize>,
}

impl Part {
    fn of(op: &OpTally) -> Option<Self> {
        (op.requests() > 0).then(|| Self { bytes: op.bytes, errors: op.errors(), packed: histogram::bytes(&op.latency) })
    }

    fn add_to(&self, sum: &mut Histogram<u64>) {
        sum.add(self.latency()).expect("a histogram made to grow takes every other");
    }

    fn latency(&self) -> Histogram<u64> {
        histogram::from_bytes(&self.packed).expect("it was packed here")
    }

    fn merge(&mut self, other: &Self) {
        let mut sum = histogram::empty();
        self.add_to(&mut sum);
        other.add_to(&mut sum);
        *self = Self { bytes: self.bytes + other.bytes, errors: self.errors + other.errors, packed: histogram::bytes(&sum) };
    }
}

impl Piece {
    fn took_ns(&self) -> u64 {
        self.until.ns.saturating_sub(self.from.ns)
    }

    fn merge(&mut self, other: &Self) {
        self.from = self.from.min(other.from);
        self.until = self.until.max(other.until);
        for (own, other) in self.ops.iter_mut().zip(&other.ops) {
            match (own, other) {
                (Some(own), Some(other)) => own.merge(other),
                (own @ None, other) => own.clone_from(other),
                (Some(_), None) => {}
            }
        }
    }
}

impl Collector {
    /// For so many jobs, whose tallies last about `interval_ns` each.
    ///
    /// # Panics
    /// If there is no job or no interval.
    #[must_use]
    pub fn new(jobs: usize, interval_ns: u64) -> Self {
        assert!(jobs > 0 && interval_ns > 0, "a run has jobs, and tallies have a length");
        Self {
            tally_ns: interval_ns,
            interval_ns,
            tallies_max: TALLIES_MAX,
            jobs: vec![Progress::default(); jobs],
            total: Tally::of(|_| false),
            pieces: Vec::new(),
            origin: None,
            unseen: 0,
        }
    }

    /// Takes in a tally of a job. Each job's come in their order; its first begins where its measurement begins.
    ///
    /// # Panics
    /// If there is no such job.
    pub fn take(&mut self, job: usize, tally: &Tally) {
        self.total.add(tally);
        self.origin = Some(self.origin.map_or(tally.from, |origin| origin.min(tally.from)));
        let progress = &mut self.jobs[job];
        progress.from.get_or_insert(tally.from);
        progress.until = tally.until;
        progress.ended = tally.ended.or(progress.ended);
        let ops = tally.ops.each_ref().map(|op| op.as_deref().and_then(Part::of));
        let piece = Piece { job, from: tally.from, until: tally.until, ops };
        self.keep(piece);
        if self.jobs[job].pieces > self.tallies_max {
            self.coarsen();
        }
    }

    /// Puts a piece behind the others, or into the last one of its job if both together are about as long as an interval.
    ///
    /// So what a job did after its last full interval belongs to that: a stretch of microseconds says nothing.
    fn keep(&mut self, piece: Piece) {
        let longest_ns = self.interval_ns + self.tally_ns / 2;
        let progress = &mut self.jobs[piece.job];
        if let Some(last) = progress.last.map(|last| &mut self.pieces[last])
            && last.took_ns() + piece.took_ns() < longest_ns
        {
            last.merge(&piece);
            return;
        }
        progress.pieces += 1;
        progress.last = Some(self.pieces.len());
        self.pieces.push(piece);
    }

    /// How many requests have ended so far, and how many of them failed.
    #[must_use]
    pub fn so_far(&self) -> (u64, u64) {
        (self.total.requests(), self.total.ops.iter().flatten().map(|op| op.errors()).sum())
    }

    /// Whether every job has ended.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.jobs.iter().all(|job| job.ended.is_some())
    }

    /// The last stretch that no job will add anything to, unless it was returned before.
    pub fn latest(&mut self) -> Option<Stretch> {
        // A little early is on time: clocks are looked at now and then.
        let full = |until| (self.since_origin_ns(until) + self.tally_ns / 4) / self.interval_ns;
        let reached = self.jobs.iter().filter(|job| job.ended.is_none()).map(|job| full(job.until)).min();
        let groups = self.groups();
        let group = groups.iter().rfind(|group| reached.is_none_or(|reached| group.places.end <= reached))?;
        if group.places.end <= self.unseen {
            return None;
        }
        self.unseen = group.places.end;
        Some(self.stretch(group))
    }

    /// The whole of it.
    #[must_use]
    pub fn finish(self, setting: Setting) -> Run {
        let groups = self.groups();
        let took_ns = self.took_ns();
        let has_limit = {
            let length = &setting.job.length;
            length.time_ns.is_some() || length.bytes.is_some() || length.requests.is_some()
        };
        let kinds = self.total.ops.iter().zip(KINDS);
        let sent = kinds.filter_map(|(op, kind)| op.as_deref().filter(|op| op.requests() > 0).map(|op| (kind, op)));
        let ops: BTreeMap<String, Outcome> = sent.map(|(kind, op)| (kind.to_owned(), outcome(&[op], took_ns))).collect();
        let all: Vec<&OpTally> = self.total.ops.iter().flatten().map(AsRef::as_ref).collect();
        Run {
            name: setting.name,
            target: setting.target,
            disk_bytes: setting.disk_bytes,
            block_bytes: setting.block_bytes,
            job: setting.job,
            cores: setting.cores,
            started_unix_ms: setting.started_unix_ms,
            took_ns,
            ops,
            all: outcome(&all, took_ns),
            client_cpu_ns: setting.client_cpu_ns,
            server_cpu_ns: setting.server_cpu_ns,
            series: groups.iter().map(|group| self.stretch(group)).collect(),
            intervals: groups.iter().flat_map(|group| self.intervals(group)).collect(),
            // A job without a length ends by being stopped.
            unsent: self.total.unsent,
            interrupted: has_limit && self.jobs.iter().any(|job| job.ended != Some(Ended::Done)),
            verified: setting.verified,
        }
    }

    /// How long the jobs took, on average: they do not begin together, and rates add up over those that do.
    fn took_ns(&self) -> u64 {
        let took = |job: &Progress| Some(job.until.ns.saturating_sub(job.from?.ns));
        let took: Vec<u64> = self.jobs.iter().filter_map(took).collect();
        took.iter().sum::<u64>() / u64::try_from(took.len()).unwrap_or(1).max(1)
    }

    fn since_origin_ns(&self, at: Instant) -> u64 {
        at.ns.saturating_sub(self.origin.unwrap_or_default().ns)
    }

    /// The nearest line of the grid.
    fn place(&self, at: Instant) -> u64 {
        (self.since_origin_ns(at) + self.interval_ns / 2) / self.interval_ns
    }

    fn places(&self, piece: &Piece) -> Range<u64> {
        let (first, end) = (self.place(piece.from), self.place(piece.until));
        first..end.max(first + 1)
    }

    /// Everything in stretches, ordered by time.
    fn groups(&self) -> Vec<Group> {
        let mut placed: Vec<(Range<u64>, usize)> = self.pieces.iter().map(|piece| self.places(piece)).zip(0..).collect();
        placed.sort_by_key(|(places, _)| places.start);
        let mut groups: Vec<Group> = Vec::new();
        for (places, index) in placed {
            match groups.last_mut().filter(|group| places.start < group.places.end) {
                Some(group) => {
                    group.places.end = group.places.end.max(places.end);
                    group.pieces.push(index);
                }
                None => groups.push(Group { places, pieces: vec![index] }),
            }
        }
        groups
    }

    /// When a group began, from the start of the measurement, and the longest that one of its jobs worked in it.
    fn span(&self, group: &Group) -> (u64, u64) {
        let mut worked_ns = vec![0; self.jobs.len()];
        for &index in &group.pieces {
            worked_ns[self.pieces[index].job] += self.pieces[index].took_ns();
        }
        let from = group.pieces.iter().map(|&index| self.pieces[index].from).min().unwrap_or_default();
        (self.since_origin_ns(from), worked_ns.into_iter().max().unwrap_or_default())
    }

    fn stretch(&self, group: &Group) -> Stretch {
        let (at_ns, took_ns) = self.span(group);
        let mut latency = histogram::empty();
        let (mut bytes, mut errors) = (0, 0);
        for part in group.pieces.iter().flat_map(|&index| self.pieces[index].ops.iter().flatten()) {
            part.add_to(&mut latency);
            bytes += part.bytes;
            errors += part.errors;
        }
        let Latency { p50_ns, p99_ns, p99_9_ns, max_ns, .. } = Latency::of(&latency);
        Stretch { at_ns, took_ns, requests: latency.len(), bytes, errors, p50_ns, p99_ns, p99_9_ns, max_ns }
    }

    fn intervals(&self, group: &Group) -> Vec<Interval> {
        let (at_ns, took_ns) = self.span(group);
        let of_kind = |(index, kind): (usize, &str)| {
            let mut latency = histogram::empty();
            group.pieces.iter().filter_map(|&piece| self.pieces[piece].ops[index].as_ref()).for_each(|part| part.add_to(&mut latency));
            (!latency.is_empty()).then(|| Interval { kind: kind.to_owned(), at_ns, took_ns, histogram: histogram::packed_text(&latency) })
        };
        KINDS.into_iter().enumerate().filter_map(of_kind).collect()
    }

    /// Makes the grid twice as coarse: of each job, neighbours become one.
    fn coarsen(&mut self) {
        self.interval_ns *= 2;
        self.unseen = self.unseen.div_ceil(2);
        self.jobs.iter_mut().for_each(|job| (job.pieces, job.last) = (0, None));
        let pieces = std::mem::take(&mut self.pieces);
        pieces.into_iter().for_each(|piece| self.keep(piece));
    }
}

/// What came of some kinds of requests together.
fn outcome(ops: &[&OpTally], took_ns: u64) -> Outcome {
    let mut latency = histogram::empty();
    let mut ended = [0; STATUSES];
    for op in ops {
        latency.add(&op.latency).expect("a histogram made to grow takes every other");
        ended.iter_mut().zip(op.ended).for_each(|(sum, count)| *sum += count);
    }
    let failed = STATUS_NAMES.into_iter().zip(ended).skip(1).filter(|(_, count)| *count > 0);
    let (requests, bytes): (u64, u64) = (ended.iter().sum(), ops.iter().map(|op| op.bytes).sum());
    let per_s = |count: u64| if took_ns == 0 { 0.0 } else { count as f64 * 1e9 / took_ns as f64 };
    Outcome {
        requests,
        bytes,
        errors: requests - ended[0],
        errors_by_status: failed.map(|((_, name), count)| (name.to_owned(), count)).collect(),
        iops: per_s(requests),
        bandwidth: per_s(bytes),
        latency: Latency::of(&latency),
        histogram: if requests == 0 { String::new() } else { histogram::text(&latency) },
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample::{setting, tally};
    use super::*;
    use spinel_core::{OpKind, Status};

    const MS: u64 = 1_000_000;

    /// A tally of so many reads of 10 us between two milliseconds.
    fn reads(from_ms: u64, until_ms: u64, count: u64) -> Tally {
        let mut tally = tally(from_ms * MS, until_ms * MS);
        (0..count).for_each(|_| tally.record(OpKind::Read, 4096, 10_000, Status::Ok));
        tally
    }

    fn last(mut tally: Tally, ended: Ended) -> Tally {
        tally.ended = Some(ended);
        tally
    }

    fn shape(run: &Run) -> Vec<(u64, u64, u64)> {
        run.series.iter().map(|stretch| (stretch.at_ns / MS, stretch.took_ns / MS, stretch.requests)).collect()
    }

    #[test]
    fn jobs_that_turn_over_at_different_moments_share_stretches() {
        let mut collector = Collector::new(3, 100 * MS);
        collector.take(0, &reads(1000, 1100, 5));
        collector.take(0, &reads(1100, 1200, 6));
        collector.take(2, &reads(1010, 1095, 0));
        collector.take(2, &last(reads(1095, 1200, 0), Ended::Done));
        collector.take(1, &reads(1030, 1130, 7));
        collector.take(1, &last(reads(1130, 1230, 8), Ended::Done));
        collector.take(0, &last(reads(1200, 1300, 9), Ended::Done));
        let run = collector.finish(setting());
        assert_eq!(shape(&run), [(0, 100, 12), (95, 105, 14), (200, 100, 9)]);
        assert_eq!(run.series[0].bytes, 12 * 4096);
        assert_eq!((run.all.requests, run.all.bytes, run.took_ns / MS), (35, 35 * 4096, 230), "300, 200 and 190 ms on average");
        assert!((run.all.iops - 35.0 / 0.23).abs() < 1e-6);
    }

    #[test]
    fn a_late_tally_of_one_job_joins_the_stretches_of_another() {
        let mut collector = Collector::new(2, 100 * MS);
        for k in 0..4 {
            collector.take(0, &reads(k * 100, (k + 1) * 100, 1));
        }
        collector.take(1, &reads(100, 300, 10));
        let run = collector.finish(setting());
        assert_eq!(shape(&run), [(0, 100, 1), (100, 200, 12), (300, 100, 1)]);
    }

    #[test]
    fn a_silent_stretch_is_kept_and_a_splinter_at_the_end_joins_the_last() {
        let mut collector = Collector::new(1, 100 * MS);
        collector.take(0, &reads(0, 100, 5));
        collector.take(0, &reads(100, 200, 0));
        collector.take(0, &reads(200, 300, 4));
        collector.take(0, &last(reads(300, 301, 1), Ended::Done));
        let run = collector.finish(setting());
        assert_eq!(shape(&run), [(0, 100, 5), (100, 100, 0), (200, 101, 5)]);
        assert_eq!(run.series[1].p50_ns, 0);
        // What is silent has no histogram.
        assert_eq!(run.intervals.iter().map(|interval| interval.at_ns / MS).collect::<Vec<_>>(), [0, 200]);
    }

    #[test]
    fn kinds_are_apart_in_outcomes_and_together_in_all() {
        let mut tally = tally(0, 100 * MS);
        tally.record(OpKind::Read, 4096, 10_000, Status::Ok);
        tally.record(OpKind::Write, 8192, 20_000, Status::Ok);
        tally.record(OpKind::Write, 8192, 40_000, Status::Medium);
        let mut collector = Collector::new(1, 100 * MS);
        collector.take(0, &last(tally, Ended::Done));
        assert_eq!(collector.so_far(), (3, 1));
        assert!(collector.is_over());
        let run = collector.finish(setting());
        assert_eq!(run.ops.keys().collect::<Vec<_>>(), ["read", "write"]);
        let write = &run.ops["write"];
        assert_eq!((write.requests, write.bytes, write.errors, write.errors_by_status["medium"]), (2, 8192, 1, 1));
        assert_eq!((run.all.requests, run.all.errors, run.all.latency.min_ns), (3, 1, 10_000));
        assert_eq!(histogram::from_text(&run.all.histogram).unwrap().len(), 3);
        assert_eq!(run.intervals.iter().map(|interval| interval.kind.as_str()).collect::<Vec<_>>(), ["read", "write"]);
    }

    #[test]
    fn the_latest_stretch_waits_for_the_slowest_job_and_comes_once() {
        let mut collector = Collector::new(2, 100 * MS);
        assert!(collector.latest().is_none());
        collector.take(0, &reads(0, 100, 1));
        assert!(collector.latest().is_none());
        collector.take(1, &reads(10, 110, 2));
        assert_eq!(collector.latest().map(|stretch| stretch.requests), Some(3));
        assert!(collector.latest().is_none());
        collector.take(0, &last(reads(100, 150, 4), Ended::Done));
        collector.take(1, &reads(110, 210, 8));
        assert_eq!(collector.latest().map(|stretch| stretch.requests), Some(12));
    }

    #[test]
    fn only_a_run_that_had_a_length_can_be_interrupted() {
        for (length, ended, interrupted) in [
            (Some(MS), Some(Ended::Done), false),
            (Some(MS), Some(Ended::Stopped), true),
            (Some(MS), None, true),
            (None, Some(Ended::Stopped), false),
        ] {
            let mut collector = Collector::new(1, MS);
            let mut only = reads(0, 1, 1);
            only.ended = ended;
            collector.take(0, &only);
            let mut setting = setting();
            setting.job.length.time_ns = length;
            assert_eq!(collector.finish(setting).interrupted, interrupted);
        }
    }

    #[test]
    fn a_long_run_gets_longer_stretches_and_keeps_every_request() {
        let mut collector = Collector { tallies_max: 64, ..Collector::new(2, MS) };
        for k in 0..300 {
            collector.take(0, &reads(k, k + 1, 2));
            collector.take(1, &reads(k, k + 1, 1));
            collector.latest();
            assert!(collector.pieces.len() <= 2 * 64);
        }
        let run = collector.finish(setting());
        assert_eq!(run.all.requests, 900);
        assert_eq!(run.series.iter().map(|stretch| stretch.requests).sum::<u64>(), 900);
        assert_eq!(run.series.iter().map(|stretch| stretch.took_ns).sum::<u64>(), run.took_ns);
        assert!((32..=64).contains(&run.series.len()), "{}", run.series.len());
    }

    #[test]
    fn nothing_at_all_is_a_run_of_zeros() {
        let run = Collector::new(1, MS).finish(setting());
        assert_eq!((run.all.requests, run.took_ns, run.series.len(), run.ops.len()), (0, 0, 0, 0));
        assert!(run.all.iops == 0.0 && run.all.histogram.is_empty());
    }
}
