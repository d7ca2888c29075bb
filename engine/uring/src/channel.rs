//! One core's way into a file or block device. Knows neither its size for long nor who submits.

use std::cell::{RefCell, RefMut};
use std::collections::VecDeque;
use std::os::fd::RawFd;
use std::rc::Rc;
use std::sync::Arc;

use spinel_core::{Armed, Channel, Completion, Completions, Instant, Op, OpenError, Request, Status, Tag};
use spinel_mem::{Regions, Segment};

use crate::device::{SEGMENTS_MAX, Shared};
use crate::entry::{self, Buffer};
use crate::files::Target;
use crate::polled::PolledRing;
use crate::pool::CHUNK_BYTES;
use crate::ring::{Event, PortId, Ring, ZEROES_BYTES};
use crate::slot::{Job, Next, Step};
use crate::vectors::Vectors;

/// How a transfer reaches its memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    /// From or to the listed buffers themselves.
    Direct,
    /// The one listed buffer, which lies in this registered one.
    Registered(u16),
    /// Through a chunk, which is still waited for.
    Parked,
    /// Through this chunk, in rounds.
    Bounce(u16),
}

/// A request in its slot.
#[derive(Clone, Copy, Debug)]
struct Slot {
    tag: Tag,
    job: Job,
    way: Way,
}

/// A channel's place on a ring, and its file's.
#[derive(Clone, Copy, Debug)]
struct Lane {
    port: PortId,
    target: Target,
}

impl Lane {
    fn open(ring: &mut Ring, fd: RawFd, depth: u16) -> Result<Self, OpenError> {
        Ok(Self { port: ring.open_port(depth)?, target: ring.add_file(fd) })
    }

    fn close(self, ring: &mut Ring) {
        ring.close_port(self.port);
        ring.remove_file(self.target);
    }
}

/// The rings a channel submits to: its core's, and the polled one if its device accepts that.
struct Rings<'a> {
    main: RefMut<'a, Ring>,
    polled: Option<RefMut<'a, PolledRing>>,
}

/// The flushes of a channel. One is in the kernel at a time: those that come meanwhile wait for the next, and share it.
struct Syncs {
    /// The slot whose flush is in the kernel.
    leader: Option<u32>,
    /// Slots that end as the leader does: they were all there when it began.
    riders: VecDeque<u32>,
    /// Slots that came after the leader began.
    waiting: VecDeque<u32>,
}

/// A channel's own state, apart from the rings it shares.
struct State {
    shared: Arc<Shared>,
    regions: Rc<Regions>,
    lane: Lane,
    polled: Option<Lane>,
    slots: Box<[Option<Slot>]>,
    free: Vec<u32>,
    vectors: Vectors,
    syncs: Syncs,
    /// Requests that ended without a step of their own in the kernel.
    refused: VecDeque<(u32, Completion)>,
}

/// A channel on a core's rings.
pub(crate) struct UringChannel {
    ring: Rc<RefCell<Ring>>,
    polled: Option<Rc<RefCell<PolledRing>>>,
    state: State,
}

impl UringChannel {
    pub(crate) fn new(
        shared: Arc<Shared>,
        ring: Rc<RefCell<Ring>>,
        polled: Option<Rc<RefCell<PolledRing>>>,
        regions: Rc<Regions>,
        depth: u16,
    ) -> Result<Self, OpenError> {
        let fd = shared.medium.fd();
        let slots = usize::from(depth);
        let lane = Lane::open(&mut ring.borrow_mut(), fd, depth)?;
        let polled_lane = match &polled {
            Some(polled) => {
                Lane::open(polled.borrow_mut().ring(), fd, depth).inspect_err(|_| lane.close(&mut ring.borrow_mut())).map(Some)?
            }
            None => None,
        };
        let state = State {
            lane,
            polled: polled_lane,
            syncs: Syncs { leader: None, riders: VecDeque::with_capacity(slots), waiting: VecDeque::with_capacity(slots) },
            shared,
            regions,
            slots: vec![None; slots].into_boxed_slice(),
            free: (0..u32::from(depth)).rev().collect(),
            vectors: Vectors::new(slots, SEGMENTS_MAX),
            refused: VecDeque::with_capacity(slots),
        };
        Ok(Self { ring, polled, state })
    }
}

/// Borrows a channel's rings beside its state.
fn rings<'a>(ring: &'a Rc<RefCell<Ring>>, polled: Option<&'a Rc<RefCell<PolledRing>>>) -> Rings<'a> {
    Rings { main: ring.borrow_mut(), polled: polled.map(|polled| polled.borrow_mut()) }
}

impl Drop for UringChannel {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        let held = self.state.slots.len() - self.state.free.len();
        assert_eq!(held, 0, "a channel was dropped with {held} requests in flight");
        self.state.lane.close(&mut self.ring.borrow_mut());
        if let (Some(lane), Some(polled)) = (self.state.polled, &self.polled) {
            lane.close(polled.borrow_mut().ring());
        }
    }
}

impl Channel for UringChannel {
    fn room(&self) -> usize {
        self.state.free.len()
    }

    fn submit(&mut self, request: Request<'_>) {
        let index = self.state.free.pop().expect("room() was looked at before");
        let mut rings = rings(&self.ring, self.polled.as_ref());
        match self.state.accept(&mut rings, index, &request) {
            Ok(slot) => {
                self.state.slots[index as usize] = Some(slot);
                self.state.start(&mut rings, index);
            }
            Err(status) => self.state.refused.push_back((index, Completion { tag: request.tag, status })),
        }
    }

    fn kick(&mut self) {
        // The ring starts a batch by itself as soon as it is worth a system call, and the rest at the turn's end.
    }

    fn poll(&mut self, now: Instant, done: &mut Completions) {
        let state = &mut self.state;
        while done.room() > 0
            && let Some((index, completion)) = state.refused.pop_front()
        {
            state.free.push(index);
            done.push(completion);
        }
        let mut rings = rings(&self.ring, self.polled.as_ref());
        // Every event ends a request or starts something new in the kernel, so there are at most as many as slots.
        while done.room() > 0
            && let Some((index, event)) = state.next(&mut rings)
        {
            if let Some(completion) = state.proceed(&mut rings, index, event, now) {
                done.push(completion);
            }
        }
    }

    fn arm(&mut self) -> Armed {
        let polled = self.polled.as_ref().zip(self.state.polled);
        let waits = !self.state.refused.is_empty()
            || self.ring.borrow().has_event(self.state.lane.port)
            || polled.is_some_and(|(ring, lane)| ring.borrow_mut().ring().has_event(lane.port));
        if waits { Armed::Ready } else { Armed::Idle }
    }
}

impl State {
    /// The next event of either lane.
    fn next(&self, rings: &mut Rings<'_>) -> Option<(u32, Event)> {
        if let (Some(lane), Some(polled)) = (self.polled, &mut rings.polled)
            && let Some(event) = polled.ring().next(lane.port)
        {
            return Some(event);
        }
        rings.main.next(self.lane.port)
    }

    /// Where a step of an operation is submitted. Only plain reads and writes can be polled for.
    fn lane<'r>(&self, rings: &'r mut Rings<'_>, op: Op) -> (&'r mut Ring, Lane) {
        match (self.polled, &mut rings.polled, op) {
            (Some(lane), Some(polled), Op::Read | Op::Write { fua: false }) => (polled.ring(), lane),
            _ => (&mut rings.main, self.lane),
        }
    }

    /// Checks a request and turns it into a slot's content, or says what is wrong with it.
    fn accept(&mut self, rings: &mut Rings<'_>, index: u32, request: &Request<'_>) -> Result<Slot, Status> {
        let Request { tag, op, start, blocks, segments, .. } = *request;
        let medium = &self.shared.medium;
        let align_bytes = medium.offset_align_bytes;
        let job = |step, offset, len_bytes| Job::new(op, step, offset, len_bytes, align_bytes);
        let stable = matches!(op, Op::Flush | Op::Write { fua: true } | Op::WriteZeroes { fua: true, .. });
        if stable && self.shared.lost_writes() {
            return Err(Status::Medium);
        }
        if op == Op::Flush {
            return Ok(Slot { tag, job: job(Step::Sync, 0, 0), way: Way::Direct });
        }
        let end = start.0.checked_add(u64::from(blocks));
        if end.is_none_or(|end| end > self.shared.block_count()) {
            return Err(Status::Range);
        }
        if medium.read_only && op.changes_data() {
            return Err(Status::Protected);
        }
        let block_bytes = u64::from(medium.block_bytes);
        // No overflow: the range lies inside the device, whose bytes were counted.
        let (offset, len_bytes) = (start.0 * block_bytes, u64::from(blocks) * block_bytes);
        let transfer = matches!(op, Op::Read | Op::Write { .. });
        let way = if transfer { self.list(self.lane(rings, op).0, index, segments, len_bytes)? } else { Way::Direct };
        if blocks == 0 {
            return Err(Status::Ok);
        }
        Ok(Slot { tag, job: job(self.first_step(op)?, offset, len_bytes), way })
    }

    /// The best way known to work for an operation.
    fn first_step(&self, op: Op) -> Result<Step, Status> {
        let first = |steps: &[Step]| steps.iter().copied().find(|&step| self.shared.can(step));
        match op {
            Op::Read => Ok(Step::Read),
            Op::Write { .. } => Ok(Step::Write),
            Op::Flush => Ok(Step::Sync),
            Op::Discard => first(&[Step::Trim, Step::Punch]).ok_or(Status::Unsupported),
            Op::WriteZeroes { unmap: true, .. } => Ok(first(&[Step::Punch, Step::ZeroRange]).unwrap_or(Step::WriteZeroes)),
            Op::WriteZeroes { unmap: false, .. } => Ok(first(&[Step::ZeroRange]).unwrap_or(Step::WriteZeroes)),
        }
    }

    /// Lists a request's buffers by address and finds out how the device can reach them.
    fn list(&mut self, ring: &Ring, index: u32, segments: &[Segment], len_bytes: u64) -> Result<Way, Status> {
        let slot = index as usize;
        let medium = &self.shared.medium;
        let lengths: u64 = segments.iter().map(|segment| u64::from(segment.len_bytes())).sum();
        if lengths != len_bytes || segments.len() > usize::from(SEGMENTS_MAX) {
            return Err(Status::Malformed);
        }
        let (memory, piece) = (medium.memory_align_bytes as usize, medium.offset_align_bytes);
        let mut aligned = true;
        self.vectors.clear(slot);
        for segment in segments.iter().filter(|segment| segment.len_bytes() > 0) {
            let address = self.regions.resolve(segment, 0).ok_or(Status::Malformed)?;
            aligned &= address.addr().is_multiple_of(memory) && segment.len_bytes().is_multiple_of(piece);
            self.vectors.push(slot, address, segment.len_bytes());
        }
        Ok(match segments {
            _ if !aligned => Way::Parked,
            [one] => ring.buffer_of(one).map_or(Way::Direct, Way::Registered),
            _ => Way::Direct,
        })
    }

    /// Begins a request: at once, or as soon as there is a chunk for it.
    fn start(&mut self, rings: &mut Rings<'_>, index: u32) {
        let slot = self.slots[index as usize].as_mut().expect("a started slot is taken");
        if slot.job.op == Op::Flush {
            if self.syncs.leader.is_some() {
                self.syncs.waiting.push_back(index);
                return;
            }
            self.syncs.leader = Some(index);
        } else if slot.way == Way::Parked {
            match rings.main.want_chunk(self.lane.port, index) {
                Some(chunk) => slot.way = Way::Bounce(chunk),
                None => return,
            }
        }
        self.launch(rings, index);
    }

    /// Asks the kernel for the next step of a request.
    fn launch(&mut self, rings: &mut Rings<'_>, index: u32) {
        let Slot { job, way, .. } = self.slots[index as usize].expect("a launched slot is taken");
        let write = job.step == Step::Write;
        let fua = job.op == Op::Write { fua: true };
        let target = self.lane(rings, job.op).1.target;
        let entry = match (job.step, way) {
            (Step::Read | Step::Write, Way::Bounce(chunk)) => {
                let address = rings.main.chunk(self.lane.port, chunk);
                let len_bytes = at_most(job.left_bytes(), CHUNK_BYTES);
                if write {
                    // SAFETY: the listed buffers stay mapped until the request completes, and a chunk belongs to one slot.
                    unsafe { self.vectors.gather(index as usize, len_bytes as usize, address) };
                }
                entry::transfer(target, write, fua, job.at(), Buffer { address, len_bytes, registered: None })
            }
            (Step::Read | Step::Write, _) => {
                let registered = if let Way::Registered(buffer) = way { Some(buffer) } else { None };
                match self.vectors.left(index as usize) {
                    [one] => {
                        let buffer = Buffer { address: one.iov_base.cast(), len_bytes: at_most(job.left_bytes(), u32::MAX), registered };
                        entry::transfer(target, write, fua, job.at(), buffer)
                    }
                    many => entry::vectored(target, write, fua, job.at(), many),
                }
            }
            (Step::WriteZeroes, _) => {
                let len_bytes = at_most(job.left_bytes(), ZEROES_BYTES);
                let address = rings.main.zeroes();
                entry::transfer(target, true, false, job.at(), Buffer { address, len_bytes, registered: None })
            }
            (step, _) => entry::command(target, step, job.offset, job.len_bytes),
        };
        // Only plain transfers of a block device, and reads, are the interrupt's work alone.
        let helped = job.step != Step::Read && (job.step != Step::Write || fua || !self.shared.medium.block_device);
        let (ring, lane) = self.lane(rings, job.op);
        // SAFETY: the listed buffers stay mapped until the request completes (whoever unmaps a region waits for that),
        // the lists and chunks live as long as the slot is taken, and a channel is dropped only with all slots free.
        unsafe { ring.submit(lane.port, index, entry, helped) };
    }

    /// Takes an event for a slot; its completion if that was the last.
    fn proceed(&mut self, rings: &mut Rings<'_>, index: u32, event: Event, now: Instant) -> Option<Completion> {
        let slot = self.slots[index as usize].as_mut().expect("events are for taken slots");
        match event {
            Event::Chunk(chunk) => slot.way = Way::Bounce(chunk),
            Event::Pause => {}
            Event::Answer(result) => {
                let before = slot.job;
                let next = slot.job.advance(result);
                let Slot { tag, job, way } = *slot;
                self.account(&mut rings.main, index, before, job, way);
                match next {
                    Next::Again => {}
                    Next::Later => {
                        rings.main.pause(self.lane.port, index, now);
                        return None;
                    }
                    Next::Done(status) => {
                        let failed_sync = job.step == Step::Sync && status != Status::Ok;
                        if failed_sync || (job.op == Op::Write { fua: true } && status == Status::Medium) {
                            self.note_failed_sync();
                        }
                        if job.op == Op::Flush {
                            self.end_flush(rings, status);
                        }
                        return Some(self.finish(&mut rings.main, index, Completion { tag, status }));
                    }
                }
            }
        }
        self.launch(rings, index);
        None
    }

    /// Without direct I/O the kernel reports a write that it lost once, and then calls the pages clean: nothing written
    /// before can be vouched for from then on.
    fn note_failed_sync(&self) {
        if !self.shared.medium.direct {
            self.shared.lose_writes();
        }
    }

    /// The flush in the kernel ended: so do its riders, and those that waited begin, as one.
    fn end_flush(&mut self, rings: &mut Rings<'_>, status: Status) {
        while let Some(rider) = self.syncs.riders.pop_front() {
            let slot = self.slots[rider as usize].take().expect("a rider's slot is taken");
            self.refused.push_back((rider, Completion { tag: slot.tag, status }));
        }
        self.syncs.leader = self.syncs.waiting.pop_front();
        std::mem::swap(&mut self.syncs.riders, &mut self.syncs.waiting);
        if let Some(leader) = self.syncs.leader {
            self.launch(rings, leader);
        }
    }

    /// Moves the bytes of a round to their buffers and off the list; remembers a step that was refused.
    fn account(&mut self, ring: &mut Ring, index: u32, before: Job, after: Job, way: Way) {
        if after.step != before.step && after.done_bytes == before.done_bytes {
            self.shared.cannot(before.step);
        }
        if !matches!(before.step, Step::Read | Step::Write) {
            return;
        }
        let moved = usize::try_from(after.done_bytes - before.done_bytes).expect("one transfer fits memory");
        if let (Step::Read, Way::Bounce(chunk)) = (before.step, way) {
            // SAFETY: the listed buffers stay mapped until the request completes, and a chunk belongs to one slot.
            unsafe { self.vectors.scatter(index as usize, moved, ring.chunk(self.lane.port, chunk)) };
        }
        self.vectors.consume(index as usize, moved);
    }

    /// Frees a slot and what it held.
    fn finish(&mut self, ring: &mut Ring, index: u32, completion: Completion) -> Completion {
        let slot = self.slots[index as usize].take().expect("a slot ends once");
        if let Way::Bounce(chunk) = slot.way {
            ring.give_chunk(self.lane.port, chunk);
        }
        self.free.push(index);
        completion
    }
}

fn at_most(len_bytes: u64, limit: u32) -> u32 {
    u32::try_from(len_bytes).map_or(limit, |len_bytes| len_bytes.min(limit))
}

#[cfg(test)]
mod tests;
