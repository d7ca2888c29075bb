//! Verification of a load: every write carries stamps, every read is checked. Knows no device and no clock.
//!
//! What a disk held before is learnt: the first read of a sector that was not written
//! before is accepted whatever it returns, and from then on has to stay. Only stamps of
//! this very verification are never accepted where they were not written, which is how a
//! write that went astray is met. So a disk with old data is verified as it is; to know
//! every sector from the start, write the area once ([`fill_job`]). What was written and
//! not read since is checked by reading it in the end ([`sweep_job`]).

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};

use spinel_core::{Geometry, Op, Status};

use crate::checker::{Checked, Checker, Flush, Initial, Read, Write};
use crate::findings::{Findings, JOB_SEQUENCE_BITS};
use crate::job::{Area, Job, Length, Mix, Order, Sizes};
use crate::judge::{Case, Judge};
use crate::log::{Logged, Record, Sink, WriteLog};

/// Most bytes that all jobs of a run can verify together: every sector of them takes eight bytes of memory.
pub const VERIFIED_MAX_BYTES: u64 = 64 << 30;

const GIB: u64 = 1 << 30;

/// Why an area cannot be verified.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "verifying {} GiB would take {} GiB of memory, for each sector is remembered; choose an area of at most {} GiB with --area",
    area_bytes.div_ceil(GIB), (area_bytes / 64).div_ceil(GIB), VERIFIED_MAX_BYTES / GIB
)]
pub struct TooLarge {
    /// What was asked for.
    pub area_bytes: u64,
}

impl TooLarge {
    /// Whether an area can be verified: the whole of it, before jobs share it.
    ///
    /// # Errors
    /// [`TooLarge`] if not.
    pub fn check(area_bytes: u64) -> Result<(), Self> {
        if area_bytes > VERIFIED_MAX_BYTES { Err(Self { area_bytes }) } else { Ok(()) }
    }
}

/// What names a verification.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identity {
    /// Goes into every stamp, and must be new for every run: stamps of another run on the same disk are old data.
    pub volume: u64,
    /// How many crashes the run has seen.
    pub epoch: u32,
    /// The job, from 0 on; each verifies an area that no other writes to.
    pub job: u16,
}

/// What a verifier needs while a load runs.
#[derive(Debug)]
struct Judging {
    checker: Checker,
    log: Option<Sink>,
    /// Flushes so far; they have numbers of their own.
    flushes: u64,
}

#[allow(clippy::disallowed_types, reason = "taken when a load begins or ends and when something was found, never by a load that goes well")]
type Lock<T> = std::sync::Mutex<T>;

#[derive(Debug)]
struct Shared {
    identity: Identity,
    found: Lock<Findings>,
    violations: AtomicU64,
    sectors_read: AtomicU64,
    /// Here while no verifier has it.
    judging: Lock<Option<Box<Judging>>>,
}

fn locked<T>(lock: &Lock<T>) -> std::sync::MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The control side of one job's verification: what is known of its area, from one load to the next.
#[derive(Clone, Debug)]
pub struct Verification {
    shared: Arc<Shared>,
}

impl Verification {
    /// Of an area, which [`area_on`](Job::area_on) gives, and of which nothing is known. With a log, what is written is noted there.
    ///
    /// # Errors
    /// [`TooLarge`].
    pub fn new(
        identity: Identity,
        geometry: &Geometry,
        (start_bytes, len_bytes): (u64, u64),
        log: Option<&Arc<WriteLog>>,
    ) -> Result<Self, TooLarge> {
        TooLarge::check(len_bytes)?;
        let Identity { volume, epoch, job } = identity;
        let block_bytes = u64::from(geometry.block_bytes);
        let blocks = start_bytes / block_bytes..(start_bytes + len_bytes) / block_bytes;
        // A power cut during the run is a matter for the log, afterwards.
        let checker = Checker::over(volume, geometry, blocks, Initial::Unknown).without_power_cuts();
        let checker = checker.starting_at(epoch, u64::from(job) << JOB_SEQUENCE_BITS);
        Ok(Self::of(identity, checker, log.map(|log| Sink::new(Arc::clone(log)))))
    }

    pub(crate) fn of(identity: Identity, checker: Checker, log: Option<Sink>) -> Self {
        let judging = Box::new(Judging { checker, log, flushes: u64::from(identity.job) << JOB_SEQUENCE_BITS });
        let shared = Shared {
            identity,
            found: Lock::default(),
            violations: AtomicU64::new(0),
            sectors_read: AtomicU64::new(0),
            judging: Lock::new(Some(judging)),
        };
        Self { shared: Arc::new(shared) }
    }

    /// The judge of the next load, which has at most `depth` requests in flight.
    ///
    /// # Panics
    /// If the judge of another load is still at work.
    #[must_use]
    pub fn verifier(&self, depth: u16) -> Verifier {
        let judging = locked(&self.shared.judging).take().expect("one load at a time on one area");
        Verifier { judging: Some(judging), open: (0..depth).map(|_| None).collect(), shared: Arc::clone(&self.shared) }
    }

    /// What was found so far.
    #[must_use]
    pub fn findings(&self) -> Findings {
        locked(&self.shared.found).clone()
    }

    /// How many sectors were wrong when read so far, counted each time; cheap.
    #[must_use]
    pub fn violations(&self) -> u64 {
        self.shared.violations.load(Ordering::Relaxed)
    }

    /// How many sectors were read and judged so far; cheap.
    #[must_use]
    pub fn sectors_read(&self) -> u64 {
        self.shared.sectors_read.load(Ordering::Relaxed)
    }

    /// How much was checked; `None` while a load is at work.
    #[must_use]
    pub fn checked(&self) -> Option<Checked> {
        locked(&self.shared.judging).as_ref().map(|judging| judging.checker.checked())
    }
}

/// A request in flight.
#[derive(Debug)]
enum Open {
    Read(Read),
    Write(Write),
    Flush(Flush, u64),
}

/// The judge of one load; see the module's first lines.
#[derive(Debug)]
pub struct Verifier {
    judging: Option<Box<Judging>>,
    /// By tag.
    open: Box<[Option<Open>]>,
    shared: Arc<Shared>,
}

/// What a log calls a request that changes data.
fn logged(op: Op) -> (Logged, bool) {
    match op {
        Op::Write { fua } => (Logged::Write, fua),
        Op::WriteZeroes { fua, .. } => (Logged::Zeroes, fua),
        Op::Discard => (Logged::Discard, false),
        Op::Read | Op::Flush => unreachable!("they change nothing"),
    }
}

impl Judge for Verifier {
    fn begin(&mut self, case: Case, bytes: &mut [u8]) {
        let Judging { checker, log, flushes } = &mut **self.judging.as_mut().expect("a load begins nothing after its end");
        let Case { tag, op, start, blocks } = case;
        let open = match op {
            Op::Read => Open::Read(checker.begin_read(start, blocks)),
            Op::Write { fua } => Open::Write(checker.begin_write_into(self.shared.identity.job.into(), start, fua, bytes)),
            Op::WriteZeroes { fua, .. } => Open::Write(checker.begin_zeroes(start, blocks, fua)),
            Op::Discard => Open::Write(checker.begin_discard(start, blocks)),
            Op::Flush => {
                *flushes += 1;
                Open::Flush(checker.begin_flush(), *flushes)
            }
        };
        if let Some(log) = log {
            match &open {
                Open::Read(_) => {}
                Open::Flush(_, sequence) => {
                    log.begin(Record::Begin { kind: Logged::Flush, sequence: *sequence, first: 0, sectors: 0, fua: false })
                }
                Open::Write(write) => {
                    let (kind, fua) = logged(op);
                    let (first, sectors) = write.sectors();
                    log.begin(Record::Begin { kind, sequence: write.sequence(), first, sectors, fua });
                }
            }
        }
        let before = self.open[tag.index()].replace(open);
        assert!(before.is_none(), "a tag names one request in flight");
    }

    fn end(&mut self, case: Case, status: Status, bytes: &[u8]) {
        let Judging { checker, log, .. } = &mut **self.judging.as_mut().expect("nothing ends after a load's end");
        let open = self.open[case.tag.index()].take().expect("only what has begun ends");
        let ended = match open {
            Open::Write(write) => {
                let sequence = write.sequence();
                checker.end_write(write, status);
                Record::End { flush: false, sequence, status }
            }
            Open::Flush(flush, sequence) => {
                checker.end_flush(flush, status);
                Record::End { flush: true, sequence, status }
            }
            Open::Read(read) => {
                self.shared.judge(checker, read, status, bytes);
                return;
            }
        };
        if let Some(log) = log {
            log.end(ended);
        }
    }

    fn close(&mut self) {
        if let Some(mut judging) = self.judging.take() {
            judging.log.iter_mut().for_each(Sink::commit);
            *locked(&self.shared.judging) = Some(judging);
        }
    }
}

impl Drop for Verifier {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    /// A read has ended.
    fn judge(&self, checker: &mut Checker, read: Read, status: Status, bytes: &[u8]) {
        let before = checker.checked().sectors_read;
        let mut violations = Vec::new();
        checker.end_read_each(read, status, bytes, |violation| violations.push(violation));
        let had_some = self.violations.load(Ordering::Relaxed);
        let read = checker.checked().sectors_read - before;
        // One writer: the load's core.
        self.sectors_read.store(self.sectors_read.load(Ordering::Relaxed) + read, Ordering::Relaxed);
        if had_some == 0 && violations.is_empty() {
            return;
        }
        let mut found = locked(&self.found);
        found.reconsider(|violation| checker.reconsider(violation));
        violations.into_iter().for_each(|violation| found.note(violation));
        self.violations.store(found.violations(), Ordering::Relaxed);
    }
}

/// Disjoint parts of an area for so many jobs, as long as each other but for the last; each is a multiple of `unit_bytes` long.
///
/// `None` if there is not one unit for each.
#[must_use]
pub fn split_area((start_bytes, len_bytes): (u64, u64), jobs: u16, unit_bytes: u32) -> Option<Vec<Area>> {
    let (unit, jobs) = (u64::from(unit_bytes), u64::from(jobs));
    let units = len_bytes.checked_div(unit)?;
    let each = units.checked_div(jobs).filter(|each| *each > 0)? * unit;
    let area = |job: u64| {
        let len_bytes = if job + 1 == jobs { units * unit - job * each } else { each };
        Area { start_bytes: start_bytes + job * each, len_bytes: Some(len_bytes) }
    };
    Some((0..jobs).map(area).collect())
}

/// A job that goes once over the area of another.
fn pass(job: &Job, geometry: &Geometry, mix: Mix) -> Job {
    let (start_bytes, len_bytes) = job.area_on(geometry);
    let largest = geometry.transfer_max_bytes.min(PASS_BYTES_MAX);
    // A power of two of blocks of which the area is a multiple.
    let mut bytes = geometry.block_bytes;
    while bytes <= largest / 2 && len_bytes.is_multiple_of(2 * u64::from(bytes)) {
        bytes *= 2;
    }
    Job {
        mix,
        order: Order::Sequential,
        sizes: Sizes { min_bytes: bytes, max_bytes: bytes },
        depth: job.depth.clamp(1, PASS_DEPTH_MAX),
        area: Area { start_bytes, len_bytes: Some(len_bytes) },
        length: Length { bytes: Some(len_bytes), ..Length::default() },
        seed: job.seed,
        interval_ns: job.interval_ns,
        ..Job::new()
    }
}

/// Requests of a pass are no larger.
const PASS_BYTES_MAX: u32 = 128 << 10;
/// And no more are in flight.
const PASS_DEPTH_MAX: u16 = 32;

/// A job that writes the area of another once, so that every sector of it is known.
#[must_use]
pub fn fill_job(job: &Job, geometry: &Geometry) -> Job {
    pass(job, geometry, Mix { write: 100, ..Mix::default() })
}

/// A job that reads the area of another once.
#[must_use]
pub fn sweep_job(job: &Job, geometry: &Geometry) -> Job {
    pass(job, geometry, Mix { read: 100, ..Mix::default() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generator::Generator;
    use spinel_core::Features;

    fn geometry(block_count: u64) -> Geometry {
        Geometry {
            block_bytes: 512,
            block_count,
            memory_align_bytes: 1,
            segments_max: 1,
            transfer_max_bytes: 1 << 20,
            physical_block_bytes: 512,
            write_cache: true,
            read_only: false,
            features: Features::default(),
        }
    }

    #[test]
    fn an_area_that_is_too_large_is_refused_with_what_to_do() {
        let identity = Identity { volume: 1, epoch: 0, job: 0 };
        let huge = geometry(1 << 32);
        let error = Verification::new(identity, &huge, (0, huge.len_bytes()), None).unwrap_err();
        let sentence =
            "verifying 2048 GiB would take 32 GiB of memory, for each sector is remembered; choose an area of at most 64 GiB with --area";
        assert_eq!(error.to_string(), sentence);
        assert!(Verification::new(identity, &huge, (1 << 30, VERIFIED_MAX_BYTES), None).is_ok());
    }

    #[test]
    fn jobs_get_parts_that_do_not_meet() {
        for (len_bytes, jobs, unit) in [(1 << 20, 3, 4096), (40_960, 7, 4096), (12_288, 3, 4096), (512, 1, 512)] {
            let parts = split_area((8192, len_bytes), jobs, unit).unwrap();
            let mut at = 8192;
            for part in &parts {
                assert_eq!(part.start_bytes, at);
                at += part.len_bytes.unwrap();
                assert!(part.len_bytes.unwrap() > 0 && part.len_bytes.unwrap().is_multiple_of(unit.into()));
            }
            assert_eq!((parts.len(), at - 8192), (jobs.into(), len_bytes - len_bytes % u64::from(unit)));
        }
        assert_eq!((split_area((0, 8192), 3, 4096), split_area((0, 8192), 0, 512), split_area((0, 8192), 1, 0)), (None, None, None));
    }

    #[test]
    fn a_pass_meets_every_block_of_an_area_once() {
        for blocks in [1, 2, 7, 96, 1000, 1024] {
            let area = Area { start_bytes: 512 * 5, len_bytes: Some(512 * blocks) };
            let job = Job { area, depth: 100, ..Job::new() };
            let device = geometry(2000);
            for pass in [fill_job(&job, &device), sweep_job(&job, &device)] {
                pass.check(&device).unwrap();
                let mut generator = Generator::new(&pass, &device).unwrap();
                let mut next = 5;
                while next < 5 + blocks {
                    let ask = generator.draw();
                    assert_eq!(ask.start.0, next);
                    next += u64::from(ask.blocks);
                }
                assert_eq!((next, pass.length.bytes), (5 + blocks, Some(512 * blocks)));
            }
        }
    }
}
