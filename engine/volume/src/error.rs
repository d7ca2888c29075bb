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
mod tests;
