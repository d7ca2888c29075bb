//! A layer that fails on purpose. Knows no reason of its own: it does what was injected, exactly as often.

use std::collections::VecDeque;
use std::fmt;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use spinel_core::mem::{MapError, Region, Regions, Segment};
use spinel_core::{
    Armed, Channel, Completions, Core, Device, Geometry, Instant, Lba, OPS, Op, OpKind, OpenError, Request, Slots, Status, Tag,
};

use crate::ended::Ended;
use crate::rule::{Fault, Rule};

/// Which requests an injection concerns. Write-zeroes are never touched.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Target {
    /// Reads.
    Read,
    /// Writes.
    Write,
    /// Discards.
    Discard,
    /// Flushes.
    Flush,
    /// Each of the four, with a count of its own.
    All,
}

/// A fault for the next requests of a kind. It replaces what was injected for that kind before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Injection {
    /// Which requests.
    pub target: Target,
    /// What happens to them.
    pub fault: Fault,
    /// How many, counted over all cores together.
    pub count: u32,
    /// Only requests that find at least this many of their channel with the child.
    pub queue_depth: u64,
}

/// Why a fault cannot be injected.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum InjectError {
    /// Exclusive-or with 0 changes nothing.
    #[error("a corrupt value of 0 changes no data; use 1 to 255")]
    CorruptValue,
    /// The operation has no data.
    #[error("a {target:?} has no data to corrupt; use read, write or all")]
    CorruptTarget {
        /// What was asked for.
        target: Target,
    },
}

#[derive(Debug, Default)]
struct Shared {
    rules: [Rule; OPS.len()],
    /// How often pending requests were resumed: a channel that knows fewer hands its own down.
    resumed: AtomicU64,
    closed: AtomicBool,
    #[allow(clippy::disallowed_types, reason = "control threads take turns to inject; no reactor ever takes it")]
    injecting: std::sync::Mutex<()>,
}

/// Byte `i` is `i`. A write is corrupted by pointing one byte of it in here, so that the
/// guest's memory stays as it is. One for the process: it is announced to cores for good.
static BYTES: OnceLock<Arc<Region>> = OnceLock::new();

fn bytes() -> Result<Arc<Region>, MapError> {
    if BYTES.get().is_none() {
        let region = Region::anonymous(256)?;
        for value in 0..=u8::MAX {
            region.write(u64::from(value), &[value]).expect("256 bytes were asked for");
        }
        let _ = BYTES.set(region);
    }
    Ok(Arc::clone(BYTES.get().expect("set above or by another thread")))
}

/// A device that passes everything to its child except what was injected.
///
/// Its geometry is the child's, but for two segments: a corrupted write needs them.
pub struct ErrorDevice {
    child: Arc<dyn Device>,
    bytes: Arc<Region>,
    shared: Arc<Shared>,
}

impl fmt::Debug for ErrorDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ErrorDevice").field("shared", &self.shared).finish_non_exhaustive()
    }
}

/// Segments that a corrupted write has more than the write it was.
const SEGMENTS_EXTRA: u16 = 2;

impl ErrorDevice {
    /// A layer over `child` that does not fail yet.
    ///
    /// # Errors
    /// [`MapError`] when the system has no page of memory for it.
    ///
    /// # Panics
    /// If the child takes fewer than three segments, which no device of ours does.
    pub fn new(child: Arc<dyn Device>) -> Result<Self, MapError> {
        assert!(child.geometry().segments_max > SEGMENTS_EXTRA, "a child must take at least three segments");
        Ok(Self { child, bytes: bytes()?, shared: Arc::default() })
    }

    /// Injects a fault for the next matching requests on any core.
    ///
    /// # Errors
    /// [`InjectError`] when it could not have an effect; nothing is changed then.
    pub fn inject(&self, injection: Injection) -> Result<(), InjectError> {
        let Injection { target, fault, count, queue_depth } = injection;
        let corrupts = match fault {
            Fault::Corrupt { value: 0, .. } => return Err(InjectError::CorruptValue),
            Fault::Corrupt { .. } if matches!(target, Target::Discard | Target::Flush) => {
                return Err(InjectError::CorruptTarget { target });
            }
            Fault::Corrupt { .. } => true,
            _ => false,
        };
        let kinds: &[OpKind] = match target {
            Target::Read => &[OpKind::Read],
            Target::Write => &[OpKind::Write],
            Target::Discard => &[OpKind::Discard],
            Target::Flush => &[OpKind::Flush],
            Target::All if corrupts => &[OpKind::Read, OpKind::Write],
            Target::All => &[OpKind::Read, OpKind::Write, OpKind::Discard, OpKind::Flush],
        };
        let _turn = self.shared.injecting.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        for kind in kinds {
            self.shared.rules[kind.index()].set(fault, count, queue_depth);
        }
        Ok(())
    }

    /// Ends every injection. What is pending stays so.
    pub fn clear(&self) {
        let _turn = self.shared.injecting.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        for rule in &self.shared.rules {
            rule.set(Fault::Failure, 0, 0);
        }
    }

    /// Lets what is pending now continue, as if it had just been submitted: an injection that is left takes it again.
    ///
    /// A core looks at its next turn; send a sleeping one a command, any command, to make it turn.
    pub fn resume_pending(&self) {
        self.shared.resumed.fetch_add(1, Ordering::Release);
    }

    /// The device is going away: what is or would be pending ends with [`Status::Aborted`] and no channel opens any more.
    ///
    /// A core looks at its next turn; send a sleeping one a command, any command, to make it turn.
    pub fn close(&self) {
        self.clear();
        self.shared.closed.store(true, Ordering::Release);
        self.resume_pending();
    }
}

impl Device for ErrorDevice {
    fn geometry(&self) -> Geometry {
        let child = self.child.geometry();
        Geometry { segments_max: child.segments_max - SEGMENTS_EXTRA, ..child }
    }

    fn open(&self, core: &mut Core, depth: u16) -> Result<Box<dyn Channel>, OpenError> {
        if self.shared.closed.load(Ordering::Acquire) {
            return Err(OpenError::Gone);
        }
        let child = self.child.open(core, depth)?;
        core.map(Arc::clone(&self.bytes));
        let segments_max = usize::from(self.geometry().segments_max);
        let slots = usize::from(depth);
        Ok(Box::new(ErrorChannel {
            child,
            regions: core.regions(),
            bytes: Arc::clone(&self.bytes),
            resumed: self.shared.resumed.load(Ordering::Acquire),
            shared: Arc::clone(&self.shared),
            slots: Slots::new(slots),
            segments: (0..slots).map(|_| Vec::with_capacity(segments_max)).collect(),
            pending: VecDeque::with_capacity(slots),
            resuming: 0,
            below: 0,
            segments_max,
            scratch: Vec::with_capacity(segments_max + usize::from(SEGMENTS_EXTRA)),
            ended: Ended::new(depth),
            batch: Completions::new(),
        }))
    }
}

/// One byte of a request's data that is to come out changed.
#[derive(Clone, Copy)]
struct Spot {
    segment: Segment,
    /// Where in the segment.
    skip: u32,
    /// Which segment of the request.
    index: usize,
    value: u8,
}

impl Spot {
    fn find(segments: &[Segment], offset: u64, value: u8) -> Option<Self> {
        let mut skip = offset;
        for (index, segment) in segments.iter().enumerate() {
            match u32::try_from(skip) {
                Ok(skip) if skip < segment.len_bytes() => return Some(Self { segment: *segment, skip, index, value }),
                _ => skip -= u64::from(segment.len_bytes()),
            }
        }
        None
    }
}

/// A request from its submission until it ended.
#[derive(Clone, Copy)]
struct Flight {
    tag: Tag,
    op: Op,
    start: Lba,
    blocks: u32,
    /// What to change when a read has ended.
    spot: Option<Spot>,
}

struct ErrorChannel {
    child: Box<dyn Channel>,
    regions: Rc<Regions>,
    bytes: Arc<Region>,
    shared: Arc<Shared>,
    slots: Slots<Flight>,
    /// By slot: the segments of a pending request, which were only lent.
    segments: Box<[Vec<Segment>]>,
    /// Slots of pending requests, the oldest first.
    pending: VecDeque<Tag>,
    /// How many of them are to continue.
    resuming: usize,
    /// The count of resumptions that this channel has acted on.
    resumed: u64,
    /// Requests with the child.
    below: u64,
    segments_max: usize,
    /// The segments of a corrupted write while it is submitted.
    scratch: Vec<Segment>,
    ended: Ended,
    batch: Completions,
}

impl ErrorChannel {
    /// Sends a request where the rules want it; answers whether it is pending now.
    fn route(&mut self, slot: Tag, at: Instant, segments: &[Segment]) -> bool {
        let flight = *self.slots.get(slot).expect("its slot was filled before");
        match self.shared.rules[flight.op.kind().index()].take(self.below) {
            None => self.pass(slot, at, segments),
            Some(Fault::Corrupt { offset, value }) => self.pass_corrupt(slot, at, segments, Spot::find(segments, offset, value)),
            Some(Fault::Failure) => self.end(slot, Status::Medium),
            Some(Fault::NoMemory) => self.end(slot, Status::Capacity),
            Some(Fault::Pending) if self.shared.closed.load(Ordering::Acquire) => self.end(slot, Status::Aborted),
            Some(Fault::Pending) => {
                self.pending.push_back(slot);
                return true;
            }
        }
        false
    }

    fn end(&mut self, slot: Tag, status: Status) {
        let flight = self.slots.take(slot);
        self.ended.push(flight.tag, status);
    }

    fn pass(&mut self, slot: Tag, at: Instant, segments: &[Segment]) {
        let Flight { op, start, blocks, .. } = *self.slots.get(slot).expect("its slot was filled before");
        self.below += 1;
        self.child.submit(Request { tag: slot, op, at, start, blocks, segments });
    }

    fn pass_corrupt(&mut self, slot: Tag, at: Instant, segments: &[Segment], spot: Option<Spot>) {
        let flight = self.slots.get_mut(slot).expect("its slot was filled before");
        if flight.op == Op::Read {
            flight.spot = spot;
        } else if let Some(spot) = spot
            && self.splice(segments, spot).is_some()
        {
            let scratch = std::mem::take(&mut self.scratch);
            self.pass(slot, at, &scratch);
            self.scratch = scratch;
            return;
        }
        self.pass(slot, at, segments);
    }

    /// Makes `scratch` the segments with one byte taken from the table of bytes; `None` if their memory is not mapped.
    fn splice(&mut self, segments: &[Segment], spot: Spot) -> Option<()> {
        let Spot { segment, skip, index, value } = spot;
        let mut byte = [0];
        self.regions.read(&segment, skip, &mut byte).ok()?;
        let changed = self.bytes.segment(u64::from(byte[0] ^ value), 1).ok()?;
        let (before, rest) = segment.split_at(skip);
        let (_, after) = rest.split_at(1);
        self.scratch.clear();
        self.scratch.extend_from_slice(&segments[..index]);
        self.scratch.extend([before, changed, after].iter().filter(|part| part.len_bytes() > 0));
        self.scratch.extend_from_slice(&segments[index + 1..]);
        Some(())
    }

    /// Lets what was pending at the last resumption continue, or end if the device is going away.
    fn resume(&mut self, now: Instant) {
        let resumed = self.shared.resumed.load(Ordering::Acquire);
        if resumed != self.resumed {
            self.resumed = resumed;
            self.resuming = self.pending.len();
        }
        if self.resuming == 0 {
            return;
        }
        let closed = self.shared.closed.load(Ordering::Acquire);
        while self.resuming > 0 && (closed || self.child.room() > 0) {
            self.resuming -= 1;
            let slot = self.pending.pop_front().expect("as many as were counted");
            let mut segments = std::mem::take(&mut self.segments[slot.index()]);
            let pending_again = if closed {
                self.end(slot, Status::Aborted);
                false
            } else {
                self.route(slot, now, &segments)
            };
            if !pending_again {
                segments.clear();
            }
            self.segments[slot.index()] = segments;
        }
        self.child.kick();
    }
}

impl Channel for ErrorChannel {
    fn room(&self) -> usize {
        (self.slots.room() - self.ended.len()).min(self.child.room())
    }

    fn submit(&mut self, request: Request<'_>) {
        let Request { tag, op, at, start, blocks, segments } = request;
        if segments.len() > self.segments_max {
            return self.ended.push(tag, Status::Malformed);
        }
        let slot = self.slots.put(Flight { tag, op, start, blocks, spot: None });
        if self.route(slot, at, segments) {
            self.segments[slot.index()].extend_from_slice(segments);
        }
    }

    fn kick(&mut self) {
        self.child.kick();
    }

    fn poll(&mut self, now: Instant, done: &mut Completions) {
        self.resume(now);
        self.batch.clear();
        self.child.poll(now, &mut self.batch);
        for completion in self.batch.as_slice() {
            let flight = self.slots.take(completion.tag);
            self.below -= 1;
            if let Some(Spot { segment, skip, value, .. }) = flight.spot
                && completion.status == Status::Ok
            {
                let mut byte = [0];
                // The child has just filled this memory; should it be gone, there is nothing left to corrupt.
                let _ = self.regions.read(&segment, skip, &mut byte);
                let _ = self.regions.write(&segment, skip, &[byte[0] ^ value]);
            }
            self.ended.push(flight.tag, completion.status);
        }
        self.ended.drain(done);
    }

    fn arm(&mut self) -> Armed {
        let resumed = self.shared.resumed.load(Ordering::Acquire) != self.resumed;
        // Without held requests there is nothing to resume, and nobody polls.
        let resumes = (resumed && !self.pending.is_empty()) || (self.resuming > 0 && self.child.room() > 0);
        if resumes || !self.ended.is_empty() { Armed::Ready } else { self.child.arm() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use spinel_core::Completion;
    use spinel_sim::{Prng, Rig};

    use crate::{MemoryDevice, Shape};

    const WRITE: Op = Op::Write { fua: false };
    const ALL: [Op; 5] = [Op::Read, WRITE, Op::Flush, Op::Discard, Op::WriteZeroes { unmap: false, fua: false }];

    struct Bench {
        rig: Rig,
        device: ErrorDevice,
        channel: Box<dyn Channel>,
    }

    impl Bench {
        fn new() -> Self {
            let mut rig = Rig::new(Prng::new(1), 1 << 16);
            let device = ErrorDevice::new(Arc::new(MemoryDevice::new(Shape::new(512, 64)).unwrap())).unwrap();
            let channel = device.open(&mut rig.core, 4).unwrap();
            Self { rig, device, channel }
        }

        fn inject(&self, target: Target, fault: Fault, count: u32) {
            self.device.inject(Injection { target, fault, count, queue_depth: 0 }).unwrap();
        }

        /// One request of one block over two segments, the first of 100 bytes.
        fn ask(&mut self, op: Op) -> Status {
            let segments = [self.rig.segment(0, 100), self.rig.segment(1000, 412)];
            let segments: &[_] = if matches!(op, Op::Read | Op::Write { .. }) { &segments } else { &[] };
            self.rig.ask(&mut *self.channel, op, 3, u32::from(op != Op::Flush), segments).unwrap()
        }

        fn submit(&mut self, tag: u32, op: Op) {
            let segments = [self.rig.segment(0, 512)];
            let at = self.rig.begin_turn();
            self.channel.submit(Request { tag: Tag(tag), op, at, start: Lba(0), blocks: 1, segments: &segments });
        }

        fn poll(&mut self) -> Vec<(u32, Status)> {
            let mut done = Completions::new();
            self.channel.poll(self.rig.begin_turn(), &mut done);
            done.as_slice().iter().map(|&Completion { tag, status }| (tag.0, status)).collect()
        }

        fn memory(&self) -> Vec<u8> {
            let mut bytes = vec![0; 512];
            self.rig.memory.read(0, &mut bytes[..100]).unwrap();
            self.rig.memory.read(1000, &mut bytes[100..]).unwrap();
            bytes
        }

        fn fill(&self, byte: u8) {
            self.rig.memory.write(0, &[byte; 4096]).unwrap();
        }
    }

    #[test]
    fn exactly_the_next_requests_of_the_kind_fail() {
        let kinds = [(Target::Read, &ALL[..1]), (Target::Write, &ALL[1..2]), (Target::Flush, &ALL[2..3]), (Target::Discard, &ALL[3..4])];
        for (target, ops) in kinds.into_iter().chain([(Target::All, &ALL[..4])]) {
            let mut bench = Bench::new();
            bench.inject(target, Fault::Failure, 2);
            for round in 0..4 {
                for op in ALL {
                    let expected = if ops.contains(&op) && round < 2 { Status::Medium } else { Status::Ok };
                    assert_eq!(bench.ask(op), expected, "{target:?} {op:?} {round}");
                }
            }
        }
    }

    #[test]
    fn a_request_that_failed_was_not_done() {
        let mut bench = Bench::new();
        for (fault, status) in [(Fault::Failure, Status::Medium), (Fault::NoMemory, Status::Capacity)] {
            bench.inject(Target::Write, fault, 1);
            bench.fill(8);
            assert_eq!(bench.ask(WRITE), status);
            assert_eq!(bench.ask(Op::Read), Status::Ok);
            assert_eq!(bench.memory(), [0; 512]);
        }
    }

    #[test]
    fn clearing_and_replacing_end_what_was_injected() {
        let mut bench = Bench::new();
        bench.inject(Target::All, Fault::Failure, u32::MAX);
        bench.inject(Target::Read, Fault::NoMemory, 1);
        assert_eq!((bench.ask(Op::Read), bench.ask(Op::Read), bench.ask(WRITE)), (Status::Capacity, Status::Ok, Status::Medium));
        bench.device.clear();
        assert!(ALL.iter().all(|op| bench.ask(*op) == Status::Ok));
    }

    #[test]
    fn a_corrupted_read_differs_in_one_byte_and_only_in_memory() {
        let mut bench = Bench::new();
        for offset in [0, 99, 100, 511] {
            bench.inject(Target::Read, Fault::Corrupt { offset, value: 0x81 }, 1);
            assert_eq!(bench.ask(Op::Read), Status::Ok);
            let mut expected = [0; 512];
            expected[usize::try_from(offset).unwrap()] = 0x81;
            assert_eq!(bench.memory(), expected, "offset {offset}");
            assert_eq!(bench.ask(Op::Read), Status::Ok);
            assert_eq!(bench.memory(), [0; 512]);
        }
    }

    #[test]
    fn a_corrupted_write_differs_in_one_byte_on_the_medium_and_not_in_memory() {
        let mut bench = Bench::new();
        for offset in [0, 1, 99, 100, 511, 512] {
            bench.inject(Target::Write, Fault::Corrupt { offset, value: 0xff }, 1);
            bench.fill(0x33);
            assert_eq!(bench.ask(WRITE), Status::Ok);
            assert_eq!(bench.memory(), [0x33; 512], "the guest's memory is the guest's");
            bench.fill(0);
            assert_eq!(bench.ask(Op::Read), Status::Ok);
            let mut expected = [0x33; 512];
            if let Some(byte) = expected.get_mut(usize::try_from(offset).unwrap()) {
                *byte = 0xcc;
            }
            assert_eq!(bench.memory(), expected, "offset {offset}");
        }
    }

    #[test]
    fn what_cannot_have_an_effect_is_refused() {
        let bench = Bench::new();
        let inject =
            |target, value| bench.device.inject(Injection { target, fault: Fault::Corrupt { offset: 0, value }, count: 1, queue_depth: 0 });
        assert_eq!(inject(Target::Read, 0), Err(InjectError::CorruptValue));
        assert_eq!(inject(Target::Flush, 1), Err(InjectError::CorruptTarget { target: Target::Flush }));
        assert_eq!(inject(Target::Discard, 1), Err(InjectError::CorruptTarget { target: Target::Discard }));
        assert_eq!(inject(Target::All, 1), Ok(()));
    }

    #[test]
    fn a_pending_request_hangs_until_it_is_resumed_and_then_is_done() {
        let mut bench = Bench::new();
        bench.inject(Target::Write, Fault::Pending, 1);
        bench.fill(6);
        bench.submit(1, WRITE);
        bench.submit(2, Op::Read);
        assert_eq!(bench.poll(), [(2, Status::Ok)]);
        assert_eq!((bench.poll(), bench.channel.arm(), bench.channel.room()), (vec![], Armed::Idle, 3));
        bench.fill(7);
        bench.device.resume_pending();
        assert_eq!(bench.channel.arm(), Armed::Ready, "a resumption keeps the core from falling asleep");
        assert_eq!(bench.poll(), [(1, Status::Ok)]);
        bench.fill(0);
        assert_eq!(bench.rig.ask(&mut *bench.channel, Op::Read, 0, 1, &[bench.rig.segment(0, 512)]), Ok(Status::Ok));
        assert_eq!(bench.memory()[..100], [7; 100], "its segments were kept, its bytes are fetched when it is done");
        assert_eq!((bench.channel.arm(), bench.channel.room()), (Armed::Idle, 4));
    }

    #[test]
    fn a_resumed_request_can_be_taken_again() {
        let mut bench = Bench::new();
        bench.inject(Target::Read, Fault::Pending, 3);
        bench.submit(1, Op::Read);
        bench.submit(2, Op::Read);
        bench.device.resume_pending();
        assert_eq!(bench.poll(), [(2, Status::Ok)], "one of the two found the third injection");
        assert_eq!(bench.poll(), []);
        bench.device.resume_pending();
        assert_eq!(bench.poll(), [(1, Status::Ok)]);
    }

    #[test]
    fn closing_aborts_what_hangs_and_opens_no_more() {
        let mut bench = Bench::new();
        bench.inject(Target::All, Fault::Pending, 9);
        bench.submit(1, Op::Read);
        bench.submit(2, Op::Discard);
        bench.device.close();
        assert_eq!(bench.poll(), [(1, Status::Aborted), (2, Status::Aborted)]);
        bench.submit(3, Op::Read);
        assert_eq!(bench.poll(), [(3, Status::Ok)], "what is not pending drains as ever");
        bench.inject(Target::Read, Fault::Pending, 1);
        bench.submit(4, Op::Read);
        assert_eq!(bench.poll(), [(4, Status::Aborted)]);
        assert!(matches!(bench.device.open(&mut bench.rig.core, 1), Err(OpenError::Gone)));
    }

    #[test]
    fn a_queue_depth_spares_requests_that_find_fewer_below() {
        let mut bench = Bench::new();
        bench.device.inject(Injection { target: Target::Read, fault: Fault::Failure, count: 9, queue_depth: 2 }).unwrap();
        for tag in 0..4 {
            bench.submit(tag, Op::Read);
        }
        let mut ended = bench.poll();
        ended.sort_by_key(|(tag, _)| *tag);
        assert_eq!(ended, [(0, Status::Ok), (1, Status::Ok), (2, Status::Medium), (3, Status::Medium)]);
    }

    #[test]
    fn more_segments_than_the_geometry_says_are_refused() {
        let mut bench = Bench::new();
        let max = usize::from(bench.device.geometry().segments_max);
        let mut segments = vec![bench.rig.segment(0, 0); max];
        segments[5] = bench.rig.segment(0, 512);
        bench.inject(Target::Write, Fault::Corrupt { offset: 9, value: 1 }, 1);
        assert_eq!(bench.rig.ask(&mut *bench.channel, WRITE, 0, 1, &segments), Ok(Status::Ok));
        segments.push(bench.rig.segment(0, 0));
        assert_eq!(bench.rig.ask(&mut *bench.channel, WRITE, 0, 1, &segments), Ok(Status::Malformed));
    }
}
