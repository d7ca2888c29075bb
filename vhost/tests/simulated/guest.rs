//! A guest that uses a disk through one queue or two: what it asks for, when it acts, and whether it got what it asked for. Knows no core.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use spinel_core::mem::GuestMap;
use spinel_core::{Completion, Geometry, Lba, Op, Request, Status};
use spinel_sim::guest::{Finished, GuestRequest, Layout};
use spinel_sim::{Checked, Checker, Flush, Prng, Read, Trace, Write};

use crate::driver::Driver;
use crate::failure::Failure;

/// Answered to GET_ID.
pub(crate) const SERIAL: &str = "simulated";
/// Bytes of data buffer per request.
pub(crate) const DATA_BYTES: u32 = 8192;
/// What a buffer holds that no read has filled.
const UNTOUCHED: u8 = 0xa5;
/// Sectors of virtio-blk, whatever the blocks are.
const SECTOR_BYTES: u32 = 512;

/// What a request means to the checker.
enum Meaning {
    Read(Read),
    Write(Write),
    Flush(Flush),
    Identity,
    Nothing,
}

/// What the device is to be asked for.
#[derive(Clone, Copy)]
struct Job {
    op: Op,
    start: Lba,
    blocks: u32,
}

/// How a request is to be answered: status byte and bytes written.
type Answer = (u8, u32);

/// Who answers a request, and how.
enum Due {
    /// The queue itself.
    Queue(Answer),
    /// The device, which has not been asked.
    Device(Job),
    /// The device, which has been asked.
    Asked(Job),
    /// The device, which has answered.
    Answered(Answer),
}

impl Due {
    /// Whether this is what the device has to be asked for. More stable than necessary will do.
    fn is_met_by(&self, op: Op, start: Lba, blocks: u32) -> bool {
        let Self::Device(job) = self else { return false };
        let met = match (job.op, op) {
            (Op::Write { fua: false }, Op::Write { .. }) => true,
            (Op::WriteZeroes { unmap, fua: false }, Op::WriteZeroes { unmap: asked, .. }) => unmap == asked,
            (due, asked) => due == asked,
        };
        met && (job.start, job.blocks) == (start, blocks)
    }
}

pub(crate) struct Flight {
    meaning: Meaning,
    due: Due,
    /// Its index in the available ring.
    index: u16,
}

/// What the guest wants next.
#[derive(Clone, Copy)]
enum Ask {
    Do(Job),
    /// Ask for the disk's name.
    Identify,
    /// A type that does not exist.
    Unknown,
    /// A length that is no sector.
    Ragged,
    /// A block past the end.
    PastEnd,
}

/// How often things happened. Zero of anything that a test is about means that it showed nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) kicks: u64,
    /// Publications for which no kick was wanted.
    pub(crate) kicks_spared: u64,
    pub(crate) notifications: u64,
    /// Requests that the device answered with an error.
    pub(crate) errors: u64,
    /// Requests that the queue answered by itself.
    pub(crate) answered: u64,
}

/// How a guest behaves between two boots.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Habits {
    pub(crate) queues: usize,
    /// Completed writes may sit in a cache until a flush, at first. The guest may change its mind, once.
    pub(crate) writeback: bool,
    /// It looks for what has finished all the time, and is not notified.
    pub(crate) polls: bool,
    /// Random requests after the first reading of everything.
    pub(crate) requests: u64,
    /// It posts once in so many times that it could.
    pub(crate) posts_one_in: u64,
}

/// See the module's first line.
pub(crate) struct Guest {
    habits: Habits,
    block_bytes: u32,
    block_count: u64,
    /// The disk has a cache that a power cut empties.
    is_volatile: bool,
    checker: Checker,
    prng: Prng,
    pub(crate) trace: Trace,
    pub(crate) drivers: Vec<Driver<Flight>>,
    /// What the configuration space says; its queues share it.
    pub(crate) writeback: Arc<AtomicBool>,
    /// The next block of the first reading of everything.
    sweep_at: u64,
    requests_left: u64,
    pub(crate) counts: Counts,
    /// Requests of each queue that the device has answered, and those of them with an error.
    pub(crate) served: Vec<(u64, u64)>,
    /// The queue for which a kick was wanted last, until somebody asks.
    kick_wanted: Option<usize>,
    failure: Option<Failure>,
}

impl Guest {
    /// A guest that is switched off.
    pub(crate) fn new(geometry: &Geometry, mut prng: Prng) -> Self {
        Self {
            habits: Habits::default(),
            block_bytes: geometry.block_bytes,
            block_count: geometry.block_count,
            is_volatile: geometry.write_cache,
            checker: Checker::new(prng.bits(), geometry),
            prng,
            trace: Trace::default(),
            drivers: Vec::new(),
            writeback: Arc::default(),
            sweep_at: 0,
            requests_left: 0,
            counts: Counts::default(),
            served: Vec::new(),
            kick_wanted: None,
            failure: None,
        }
    }

    /// Starts with empty rings of this layout, and reads everything first.
    pub(crate) fn boot(&mut self, layout: Layout, habits: Habits) {
        const APART_BYTES: u64 = 1 << 30;
        self.drivers = (0..).take(habits.queues).map(|at| Driver::new(layout, at * APART_BYTES, habits.polls)).collect();
        self.served = vec![(0, 0); habits.queues];
        self.writeback = Arc::new(AtomicBool::new(habits.writeback));
        self.habits = habits;
        self.sweep_at = 0;
        self.requests_left = habits.requests;
    }

    /// The power is gone, and with it everything that has not ended.
    pub(crate) fn lose_power(&mut self) {
        self.drivers.clear();
        self.checker.cut_power();
    }

    /// All of its memory, in both address spaces.
    pub(crate) fn map(&self) -> GuestMap {
        let mut map = GuestMap::default();
        for driver in &self.drivers {
            map.add(driver.range()).expect("their memory lies apart");
        }
        map
    }

    pub(crate) fn checked(&self) -> Checked {
        self.checker.checked()
    }

    /// How many requests have not ended.
    pub(crate) fn outstanding(&self) -> usize {
        self.drivers.iter().map(Driver::outstanding).sum()
    }

    /// Whether it has asked for everything and everything has ended.
    pub(crate) fn is_done(&self) -> bool {
        self.sweep_at >= self.block_count && self.requests_left == 0 && self.outstanding() == 0
    }

    /// What was found wrong, once.
    pub(crate) fn take_failure(&mut self) -> Option<Failure> {
        self.failure.take()
    }

    /// The queue for which a kick was wanted since the last question.
    pub(crate) fn take_kick_wanted(&mut self) -> Option<usize> {
        self.kick_wanted.take()
    }

    fn fail(&mut self, failure: Failure) {
        self.failure.get_or_insert(failure);
    }

    /// Does one random thing or nothing; answers whether it did something.
    pub(crate) fn act(&mut self) -> bool {
        if self.failure.is_some() {
            return false;
        }
        let queue = self.prng.index(self.drivers.len());
        match self.prng.below(8) {
            0..=2 => self.prng.one_in(self.habits.posts_one_in) && self.post(queue),
            3 => self.publish(queue),
            4 => self.kick(queue),
            _ => self.look(queue),
        }
    }

    /// Does everything that cannot be put off for ever; answers whether there was anything.
    pub(crate) fn act_on_everything(&mut self) -> bool {
        let queues = 0..self.drivers.len();
        self.failure.is_none()
            && queues.fold(false, |any, queue| {
                let posted = self.post(queue);
                let published = self.publish(queue);
                let kicked = self.kick(queue);
                self.look(queue) || posted || published || kicked || any
            })
    }

    fn publish(&mut self, queue: usize) -> bool {
        let Some(wanted) = self.drivers[queue].publish() else { return false };
        self.counts.kicks_spared += u64::from(!wanted);
        self.kick_wanted = wanted.then_some(queue).or(self.kick_wanted);
        self.note("publish", queue, &[u64::from(wanted)]);
        true
    }

    fn kick(&mut self, queue: usize) -> bool {
        let kicked = self.drivers[queue].kick();
        if kicked {
            self.counts.kicks += 1;
            self.note("kick", queue, &[]);
        }
        kicked
    }

    /// Takes a notification, or some of what has finished.
    fn look(&mut self, queue: usize) -> bool {
        if !self.drivers[queue].awake() {
            let refuse_more = self.prng.one_in(2);
            let notified = self.drivers[queue].take_notification(refuse_more);
            self.counts.notifications += u64::from(notified);
            return notified;
        }
        let mut did = false;
        for _ in 0..self.prng.within(1..=4) {
            match self.drivers[queue].reap(queue) {
                Ok(Some((finished, flight, data))) => self.end(queue, finished, flight, &data),
                Ok(None) => return self.drivers[queue].doze() || did,
                Err(failure) => self.fail(failure),
            }
            did = true;
        }
        did
    }

    pub(crate) fn note(&mut self, what: &'static str, queue: usize, numbers: &[u64]) {
        self.trace.note(what, &[&[u64::try_from(queue).expect("few queues")], numbers].concat());
    }

    fn post(&mut self, queue: usize) -> bool {
        let Some(pieces_max) = self.drivers[queue].pieces_max() else { return false };
        let Some(ask) = self.next() else { return false };
        let pieces = u16::try_from(self.prng.within(1..=u64::from(pieces_max))).expect("at most pieces_max");
        let (request, data, meaning, due) = self.dress(ask);
        let request = GuestRequest { pieces: if request.pieces > 0 && data.len() > 16 { pieces } else { request.pieces }, ..request };
        let index = self.drivers[queue].next_index();
        let head = self.drivers[queue].post(request, &data, Flight { meaning, due, index });
        let numbers = [u64::from(head), u64::from(request.kind), request.sector, u64::from(request.len_bytes), u64::from(request.pieces)];
        self.note("post", queue, &numbers);
        true
    }

    fn next(&mut self) -> Option<Ask> {
        let blocks_max = u64::from(DATA_BYTES / self.block_bytes);
        if self.sweep_at < self.block_count {
            let (start, blocks) = (self.sweep_at, blocks_max.min(self.block_count - self.sweep_at));
            self.sweep_at += blocks;
            return Some(Ask::Do(Job { op: Op::Read, start: Lba(start), blocks: u32::try_from(blocks).expect("at most blocks_max") }));
        }
        self.requests_left = self.requests_left.checked_sub(1)?;
        if self.prng.one_in(40) {
            self.writeback.store(false, Ordering::Relaxed);
        }
        let fua = self.is_volatile && !self.writeback.load(Ordering::Relaxed);
        let op = match self.prng.below(80) {
            0..=35 => Op::Read,
            36..=59 => Op::Write { fua },
            60..=65 => return Some(Ask::Do(Job { op: Op::Flush, start: Lba(0), blocks: 0 })),
            66..=69 => Op::Discard,
            70..=73 => Op::WriteZeroes { unmap: self.prng.one_in(2), fua },
            74 => return Some(Ask::Unknown),
            75 => return Some(Ask::Ragged),
            76 => return Some(Ask::PastEnd),
            _ => return Some(Ask::Identify),
        };
        let blocks = self.prng.within(1..=blocks_max);
        let last = self.block_count - blocks;
        // Half of them go to a small part of the disk, so that they meet.
        let highest = if self.prng.one_in(2) { last } else { last.min(2 * blocks_max) };
        let start = Lba(self.prng.within(0..=highest));
        Some(Ask::Do(Job { op, start, blocks: u32::try_from(blocks).expect("at most blocks_max") }))
    }

    /// A request as a driver makes it, with the content of its buffer, and how it has to end.
    fn dress(&mut self, ask: Ask) -> (GuestRequest, Vec<u8>, Meaning, Due) {
        let sectors_per_block = u64::from(self.block_bytes / SECTOR_BYTES);
        let blank = |len_bytes: u32| vec![UNTOUCHED; usize::try_from(len_bytes).expect("small buffers")];
        let job = match ask {
            Ask::Do(job) => job,
            Ask::Identify => {
                return (GuestRequest { kind: 8, ..GuestRequest::read(0, 20) }, blank(20), Meaning::Identity, Due::Queue((0, 21)));
            }
            Ask::Unknown => return (GuestRequest { kind: 99, ..GuestRequest::flush() }, Vec::new(), Meaning::Nothing, Due::Queue((2, 1))),
            Ask::Ragged => return (GuestRequest::read(0, 100), blank(100), Meaning::Nothing, Due::Queue((1, 1))),
            Ask::PastEnd => {
                let request = GuestRequest::read(self.block_count * sectors_per_block, self.block_bytes);
                let job = Job { op: Op::Read, start: Lba(self.block_count), blocks: 1 };
                return (request, blank(self.block_bytes), Meaning::Nothing, Due::Device(job));
            }
        };
        let Job { op, start, blocks } = job;
        let (sector, len_bytes) = (start.0 * sectors_per_block, blocks * self.block_bytes);
        let range = |kind, flags: u32| {
            let sectors = len_bytes / SECTOR_BYTES;
            let payload = [&sector.to_le_bytes()[..], &sectors.to_le_bytes(), &flags.to_le_bytes()].concat();
            (GuestRequest { kind, ..GuestRequest::write(0, 16) }, payload)
        };
        let ((request, data), meaning) = match op {
            Op::Read => {
                let read = self.checker.begin_read(start, blocks);
                ((GuestRequest::read(sector, len_bytes), blank(len_bytes)), Meaning::Read(read))
            }
            Op::Write { fua } => {
                let (write, bytes) = self.checker.begin_write(1, start, blocks, fua);
                ((GuestRequest::write(sector, len_bytes), bytes), Meaning::Write(write))
            }
            Op::Flush => ((GuestRequest::flush(), Vec::new()), Meaning::Flush(self.checker.begin_flush())),
            Op::Discard => (range(11, 0), Meaning::Write(self.checker.begin_zeroes(start, blocks, false))),
            Op::WriteZeroes { unmap, fua } => (range(13, u32::from(unmap)), Meaning::Write(self.checker.begin_zeroes(start, blocks, fua))),
        };
        (request, data, meaning, Due::Device(job))
    }

    /// The device of a queue is asked for something.
    pub(crate) fn asked(&mut self, queue: usize, request: &Request<'_>) {
        let Request { tag, op, start, blocks, .. } = *request;
        let driver = &mut self.drivers[queue];
        driver.submitted = driver.submitted.wrapping_add(1);
        driver.is_unstarted = true;
        let published = driver.flight_mut(tag.0).map(|flight| flight.index).is_some_and(|index| driver.is_published(index));
        match driver.flight_mut(tag.0) {
            Some(Flight { due: due @ Due::Device(_), .. }) if published && due.is_met_by(op, start, blocks) => {
                *due = Due::Asked(Job { op, start, blocks });
            }
            _ => self.fail(Failure::Unasked { queue, head: tag.0 }),
        }
        self.note("submit", queue, &[u64::from(tag.0), start.0, u64::from(blocks)]);
    }

    /// The device of a queue is told to start.
    pub(crate) fn started(&mut self, queue: usize) {
        self.drivers[queue].is_unstarted = false;
    }

    /// The device of a queue has answered.
    pub(crate) fn answered(&mut self, queue: usize, completion: Completion) {
        let Completion { tag, status } = completion;
        let block_bytes = self.block_bytes;
        let driver = &mut self.drivers[queue];
        driver.completed = driver.completed.wrapping_add(1);
        match driver.flight_mut(tag.0) {
            Some(Flight { due: due @ Due::Asked(_), .. }) => {
                let Due::Asked(Job { op, blocks, .. }) = *due else { unreachable!("the pattern says so") };
                let data_bytes = if status == Status::Ok && op == Op::Read { blocks * block_bytes } else { 0 };
                // virtio 1.2, 5.2.6: 0 is OK, 1 an I/O error; what the disk was told that it has, it does.
                *due = Due::Answered((u8::from(status != Status::Ok), data_bytes + 1));
            }
            _ => self.fail(Failure::Unasked { queue, head: tag.0 }),
        }
        self.note("end", queue, &[u64::from(tag.0), status as u64]);
    }

    /// A request has ended for the driver.
    fn end(&mut self, queue: usize, finished: Finished, flight: Flight, data: &[u8]) {
        let Finished { head, written_bytes, status } = finished;
        self.note("reap", queue, &[u64::from(head), u64::from(status), u64::from(written_bytes)]);
        let expected = match flight.due {
            Due::Queue(answer) => {
                self.counts.answered += 1;
                Some(answer)
            }
            Due::Answered(answer) => {
                let (requests, errors) = &mut self.served[queue];
                *requests += 1;
                *errors += u64::from(answer.0 != 0);
                self.counts.errors += u64::from(answer.0 != 0);
                Some(answer)
            }
            Due::Device(_) | Due::Asked(_) => None,
        };
        let got = (status, written_bytes);
        if expected != Some(got) {
            return self.fail(Failure::Misreported { queue, head, expected, got });
        }
        let outcome = if status == 0 { Status::Ok } else { Status::Medium };
        match flight.meaning {
            Meaning::Write(write) => self.checker.end_write(write, outcome),
            Meaning::Flush(flush) => self.checker.end_flush(flush, outcome),
            Meaning::Read(read) => {
                let bytes = &data[..usize::try_from(written_bytes - 1).expect("small buffers")];
                self.trace.fold(bytes);
                if let Err(violation) = self.checker.end_read(read, outcome, bytes) {
                    self.fail(Failure::Violation(violation));
                }
            }
            Meaning::Identity if !data.starts_with(SERIAL.as_bytes()) || data[SERIAL.len()..20].iter().any(|byte| *byte != 0) => {
                self.fail(Failure::Misnamed { queue });
            }
            Meaning::Identity | Meaning::Nothing => {}
        }
    }
}

#[allow(
    clippy::disallowed_types,
    reason = "a simulation runs on one thread; the lock only satisfies the contract of devices and is never waited for"
)]
type Lock = std::sync::Mutex<Guest>;

/// A guest that its devices can see, so that it can act in the middle of a core's turn.
#[derive(Clone)]
pub(crate) struct SharedGuest(Arc<Lock>);

impl SharedGuest {
    pub(crate) fn new(guest: Guest) -> Self {
        Self(Arc::new(Lock::new(guest)))
    }

    /// # Panics
    /// If the guest is in use already, further up the stack.
    pub(crate) fn with<T>(&self, act: impl FnOnce(&mut Guest) -> T) -> T {
        act(&mut self.0.try_lock().expect("one thread, one user at a time"))
    }

    /// Sometimes, the guest does something: it runs on another core, so that may be at any moment.
    pub(crate) fn meddle(&self) {
        self.with(|guest| {
            if guest.prng.one_in(3) {
                guest.act();
            }
        });
    }
}
