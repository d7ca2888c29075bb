//! A layer that fails on purpose. Knows no reason of its own: it does what was injected, exactly as often.

use std::collections::VecDeque;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use spinel_core::mem::{MapError, Region, Regions, Segment};
use spinel_core::{
    Armed, Channel, Completion, Completions, Core, Device, Geometry, Instant, Lba, OPS, Op, OpKind, OpenError, Request, Slots, Status, Tag,
};

use crate::ended::Ended;
use crate::rule::{Fault, Rule};

mod plant;
use plant::Image;

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
    /// The operation writes nothing.
    #[error("a {target:?} writes nothing that could go astray; use write or all")]
    WriteTarget {
        /// What was asked for.
        target: Target,
    },
    /// The operation returns nothing.
    #[error("a {target:?} returns nothing that could be stale; use read or all")]
    ReadTarget {
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

/// A device that passes everything to its child except what was injected.
///
/// Its geometry is the child's, but for two segments: a corrupted write needs them.
pub struct ErrorDevice {
    child: Arc<dyn Device>,
    region: Arc<Region>,
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
        Ok(Self { child, region: plant::region()?, shared: Arc::default() })
    }

    /// Injects a fault for the next matching requests on any core.
    ///
    /// # Errors
    /// [`InjectError`] when it could not have an effect; nothing is changed then.
    pub fn inject(&self, injection: Injection) -> Result<(), InjectError> {
        let Injection { target, fault, count, queue_depth } = injection;
        let asked: &[OpKind] = match target {
            Target::Read => &[OpKind::Read],
            Target::Write => &[OpKind::Write],
            Target::Discard => &[OpKind::Discard],
            Target::Flush => &[OpKind::Flush],
            Target::All => &[OpKind::Read, OpKind::Write, OpKind::Discard, OpKind::Flush],
        };
        let (possible, refusal): (&[OpKind], _) = match fault {
            Fault::Corrupt { value: 0, .. } => return Err(InjectError::CorruptValue),
            Fault::Corrupt { .. } => (&[OpKind::Read, OpKind::Write], InjectError::CorruptTarget { target }),
            Fault::StaleRead => (&[OpKind::Read], InjectError::ReadTarget { target }),
            fault if fault.is_of_writes() => (&[OpKind::Write], InjectError::WriteTarget { target }),
            _ => (asked, InjectError::CorruptValue),
        };
        let kinds = asked.iter().filter(|kind| possible.contains(kind));
        if kinds.clone().next().is_none() {
            return Err(refusal);
        }
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
        core.map(Arc::clone(&self.region));
        let segments_max = usize::from(self.geometry().segments_max);
        let slots = usize::from(depth);
        Ok(Box::new(ErrorChannel {
            child,
            regions: core.regions(),
            device: Arc::clone(&self.child),
            region: Arc::clone(&self.region),
            images: Vec::with_capacity(IMAGES_MAX),
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

/// What a request does beyond being passed on.
#[derive(Clone, Copy, PartialEq)]
enum Plan {
    Pass,
    /// A read that is to return what images have.
    Stale,
    /// The old content of a write is being read; then the write is done, whole or torn.
    Capture {
        tear: bool,
    },
    /// The write whose old content was read is being done.
    Replace,
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
    plan: Plan,
}

/// Old contents that a channel keeps at most, so that others have some too.
const IMAGES_MAX: usize = 8;

/// Whether a request can suffer a fault.
fn can(fault: Fault, flight: &Flight, device: &dyn Device, images: &[(Tag, Image)]) -> bool {
    let Flight { start, blocks, .. } = *flight;
    match fault {
        Fault::MisdirectWrite => plant::astray(start, blocks, device.geometry().block_count).is_some(),
        Fault::TearWrite => blocks > 1 || (blocks == 1 && device.geometry().block_bytes > 512),
        Fault::StaleRead => images.iter().any(|(_, image)| image.can_fool(start, blocks)),
        _ => true,
    }
}

struct ErrorChannel {
    child: Box<dyn Channel>,
    /// The child as a device, which knows how large it is.
    device: Arc<dyn Device>,
    regions: Rc<Regions>,
    /// See [`plant::region`].
    region: Arc<Region>,
    /// Old contents: of writes being done, and while stale reads are injected also of those that were.
    images: Vec<(Tag, Image)>,
    shared: Arc<Shared>,
    slots: Slots<Flight>,
    /// By slot: the segments, which were only lent, of requests that need them after their submission.
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
    /// Sends a request where the rules want it; answers whether its segments will be needed again.
    fn route(&mut self, slot: Tag, at: Instant, segments: &[Segment]) -> bool {
        let flight = *self.slots.get(slot).expect("its slot was filled before");
        let stale = self.shared.rules[OpKind::Read.index()].is(Fault::StaleRead);
        if !stale && !self.images.is_empty() {
            self.images.retain(|(_, image)| !image.old);
        }
        let fault = self.shared.rules[flight.op.kind().index()].take(self.below, |fault| can(fault, &flight, &*self.device, &self.images));
        match fault {
            None if stale && flight.op.kind() == OpKind::Write => return self.capture(slot, at, segments, false),
            None => {
                if flight.op.kind() == OpKind::Read {
                    self.images.iter_mut().for_each(|(_, image)| image.see(flight.start, flight.blocks));
                }
                self.pass(slot, at, segments);
            }
            Some(Fault::Corrupt { offset, value }) => self.pass_corrupt(slot, at, segments, Spot::find(segments, offset, value)),
            Some(Fault::Failure) => self.end(slot, Status::Medium),
            Some(Fault::NoMemory) => self.end(slot, Status::Capacity),
            Some(Fault::LoseWrite) => self.end(slot, Status::Ok),
            Some(Fault::MisdirectWrite) => {
                let astray = plant::astray(flight.start, flight.blocks, self.device.geometry().block_count);
                self.pass_as(slot, at, flight.op, astray.unwrap_or(flight.start), flight.blocks, segments);
            }
            Some(Fault::TearWrite) if flight.blocks == 1 => return self.capture(slot, at, segments, true),
            Some(Fault::TearWrite) => {
                let blocks = flight.blocks / 2;
                let bytes = u64::from(blocks) * u64::from(self.device.geometry().block_bytes);
                let mut scratch = std::mem::take(&mut self.scratch);
                plant::prefix(segments, bytes, &mut scratch);
                self.pass_as(slot, at, flight.op, flight.start, blocks, &scratch);
                self.scratch = scratch;
            }
            Some(Fault::StaleRead) => {
                self.slots.get_mut(slot).expect("as above").plan = Plan::Stale;
                self.pass(slot, at, segments);
                return true;
            }
            Some(Fault::Pending) if self.shared.closed.load(Ordering::Acquire) => self.end(slot, Status::Aborted),
            Some(Fault::Pending) => {
                self.pending.push_back(slot);
                return true;
            }
        }
        false
    }

    /// Reads what a write is about to replace, and does the write afterwards. Without memory for that, it is done right away.
    fn capture(&mut self, slot: Tag, at: Instant, segments: &[Segment], tear: bool) -> bool {
        let flight = self.slots.get_mut(slot).expect("its slot was filled before");
        let Flight { start, blocks, .. } = *flight;
        let image = Some(&self.images).filter(|images| images.len() < IMAGES_MAX);
        let Some(image) = image.and_then(|_| Image::claim(start, blocks, self.device.geometry().block_bytes)) else {
            self.pass(slot, at, segments);
            return false;
        };
        flight.plan = Plan::Capture { tear };
        let into = image.segment(&self.region, 0);
        self.images.push((slot, image));
        self.pass_as(slot, at, Op::Read, start, blocks, &[into]);
        true
    }

    /// The old content was read: now the write.
    fn replace(&mut self, slot: Tag, now: Instant, status: Status, tear: bool) {
        let segments = std::mem::take(&mut self.segments[slot.index()]);
        self.slots.get_mut(slot).expect("it is in flight").plan = Plan::Replace;
        let image = self.images.iter().find(|(of, image)| *of == slot && !image.old);
        let mut scratch = std::mem::take(&mut self.scratch);
        match image {
            Some((_, image)) if tear && status == Status::Ok => {
                // Half of the block is new.
                let half = self.device.geometry().block_bytes / 2;
                plant::prefix(&segments, half.into(), &mut scratch);
                scratch.push(image.segment(&self.region, half));
                self.pass(slot, now, &scratch);
            }
            _ => self.pass(slot, now, &segments),
        }
        self.scratch = scratch;
        self.segments[slot.index()] = segments;
        // What is not known to be there before is not handed out after.
        if tear || status != Status::Ok {
            self.images.retain(|(of, image)| *of != slot || image.old);
        }
    }

    /// A write whose old content was kept has ended.
    fn replaced(&mut self, slot: Tag, status: Status) {
        match self.images.iter().position(|(of, image)| *of == slot && !image.old) {
            Some(at) if status == Status::Ok => {
                let (start, blocks) = (Lba(self.images[at].1.start), self.images[at].1.blocks);
                // What those hold now was written by this one, and has not been seen.
                self.images.iter_mut().for_each(|(_, image)| image.unsee(start, blocks));
                self.images[at].1.old = true;
            }
            _ => self.images.retain(|(of, image)| *of != slot || image.old),
        }
    }

    fn end(&mut self, slot: Tag, status: Status) {
        let flight = self.slots.take(slot);
        self.ended.push(flight.tag, status);
    }

    fn pass(&mut self, slot: Tag, at: Instant, segments: &[Segment]) {
        let Flight { op, start, blocks, .. } = *self.slots.get(slot).expect("its slot was filled before");
        self.pass_as(slot, at, op, start, blocks, segments);
    }

    fn pass_as(&mut self, slot: Tag, at: Instant, op: Op, start: Lba, blocks: u32, segments: &[Segment]) {
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
        let changed = self.region.segment(u64::from(byte[0] ^ value), 1).ok()?;
        let (before, rest) = segment.split_at(skip);
        let (_, after) = rest.split_at(1);
        self.scratch.clear();
        self.scratch.extend_from_slice(&segments[..index]);
        self.scratch.extend([before, changed, after].iter().filter(|part| part.len_bytes() > 0));
        self.scratch.extend_from_slice(&segments[index + 1..]);
        Some(())
    }

    /// The child has done a request.
    fn finish(&mut self, slot: Tag, status: Status) {
        let flight = self.slots.take(slot);
        if let Some(Spot { segment, skip, value, .. }) = flight.spot
            && status == Status::Ok
        {
            let mut byte = [0];
            // The child has just filled this memory; should it be gone, there is nothing left to corrupt.
            let _ = self.regions.read(&segment, skip, &mut byte);
            let _ = self.regions.write(&segment, skip, &[byte[0] ^ value]);
        }
        if flight.plan != Plan::Pass {
            let segments = &mut self.segments[slot.index()];
            if flight.plan == Plan::Stale && status == Status::Ok {
                self.images.iter().for_each(|(_, image)| image.show(&self.region, &self.regions, flight.start, flight.blocks, segments));
            }
            segments.clear();
            if flight.plan == Plan::Replace {
                self.replaced(slot, status);
            }
        }
        self.ended.push(flight.tag, status);
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
            let needed_again = if closed {
                self.end(slot, Status::Aborted);
                false
            } else {
                self.route(slot, now, &segments)
            };
            if !needed_again {
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
        let slot = self.slots.put(Flight { tag, op, start, blocks, spot: None, plan: Plan::Pass });
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
        let mut kick = false;
        for index in 0..self.batch.as_slice().len() {
            let Completion { tag: slot, status } = self.batch.as_slice()[index];
            self.below -= 1;
            if let Plan::Capture { tear } = self.slots.get(slot).expect("it was in flight").plan {
                // Its end has made room below.
                self.replace(slot, now, status, tear);
                kick = true;
            } else {
                self.finish(slot, status);
            }
        }
        if kick {
            self.child.kick();
        }
        self.ended.drain(done);
    }

    fn arm(&mut self) -> Armed {
        let resumed = self.shared.resumed.load(Ordering::Acquire) != self.resumed;
        // Without held requests there is nothing to resume, and nobody polls.
        let resumes = (resumed && !self.pending.is_empty()) || (self.resuming > 0 && self.child.room() > 0);
        if resumes || !self.ended.is_empty() { Armed::Ready } else { self.child.arm() }
    }

    fn let_go(&mut self) {
        self.child.let_go();
    }

    fn hold_on(&mut self) {
        self.child.hold_on();
    }
}

#[cfg(test)]
mod tests;
