//! One core's way into a file or block device. Knows neither its size for long nor who submits.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use spinel_core::{Armed, Channel, Completion, Completions, Instant, Op, Request, Status, Tag};
use spinel_mem::{Regions, Segment};

use crate::device::{SEGMENTS_MAX, Shared};
use crate::entry::{self, Buffer};
use crate::files::Target;
use crate::pool::{CHUNK_BYTES, ZEROES_BYTES};
use crate::ring::{Event, PortId, Ring};
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

/// A channel's own state, apart from the ring it shares.
struct State {
    shared: Arc<Shared>,
    regions: Rc<Regions>,
    port: PortId,
    target: Target,
    slots: Box<[Option<Slot>]>,
    free: Vec<u32>,
    vectors: Vectors,
    /// Requests that ended before they began.
    refused: VecDeque<(u32, Completion)>,
}

/// A channel on a core's ring.
pub(crate) struct UringChannel {
    ring: Rc<RefCell<Ring>>,
    state: State,
}

impl UringChannel {
    pub(crate) fn new(shared: Arc<Shared>, ring: Rc<RefCell<Ring>>, regions: Rc<Regions>, depth: u16) -> Self {
        let (port, target) = {
            let mut ring = ring.borrow_mut();
            (ring.open_port(depth), ring.add_file(shared.medium.fd()))
        };
        let slots = usize::from(depth);
        let state = State {
            shared,
            regions,
            port,
            target,
            slots: vec![None; slots].into_boxed_slice(),
            free: (0..u32::from(depth)).rev().collect(),
            vectors: Vectors::new(slots, SEGMENTS_MAX),
            refused: VecDeque::with_capacity(slots),
        };
        Self { ring, state }
    }
}

impl Drop for UringChannel {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        let mut ring = self.ring.borrow_mut();
        ring.close_port(self.state.port);
        ring.remove_file(self.state.target);
    }
}

impl Channel for UringChannel {
    fn room(&self) -> usize {
        self.state.free.len()
    }

    fn submit(&mut self, request: Request<'_>) {
        let index = self.state.free.pop().expect("room() was looked at before");
        let ring = &mut *self.ring.borrow_mut();
        match self.state.accept(ring, index, &request) {
            Ok(slot) => {
                self.state.slots[index as usize] = Some(slot);
                self.state.start(ring, index);
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
        let mut ring = self.ring.borrow_mut();
        // Every event ends a request or starts something new in the kernel, so there are at most as many as slots.
        while done.room() > 0
            && let Some((index, event)) = ring.next(state.port)
        {
            if let Some(completion) = state.proceed(&mut ring, index, event, now) {
                done.push(completion);
            }
        }
    }

    fn arm(&mut self) -> Armed {
        let waits = !self.state.refused.is_empty() || self.ring.borrow().has_event(self.state.port);
        if waits { Armed::Ready } else { Armed::Idle }
    }
}

impl State {
    /// Checks a request and turns it into a slot's content, or says what is wrong with it.
    fn accept(&mut self, ring: &Ring, index: u32, request: &Request<'_>) -> Result<Slot, Status> {
        let Request { tag, op, start, blocks, segments, .. } = *request;
        let medium = &self.shared.medium;
        let align_bytes = medium.offset_align_bytes;
        let job = |step, offset, len_bytes| Job::new(op, step, offset, len_bytes, align_bytes);
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
        let way = if transfer { self.list(ring, index, segments, len_bytes)? } else { Way::Direct };
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
    fn start(&mut self, ring: &mut Ring, index: u32) {
        let slot = self.slots[index as usize].as_mut().expect("a started slot is taken");
        if slot.way == Way::Parked {
            match ring.want_chunk(self.port, index) {
                Some(chunk) => slot.way = Way::Bounce(chunk),
                None => return,
            }
        }
        self.launch(ring, index);
    }

    /// Asks the kernel for the next step of a request.
    fn launch(&mut self, ring: &mut Ring, index: u32) {
        let Slot { job, way, .. } = self.slots[index as usize].expect("a launched slot is taken");
        let write = job.step == Step::Write;
        let fua = job.op == Op::Write { fua: true };
        let entry = match (job.step, way) {
            (Step::Read | Step::Write, Way::Bounce(chunk)) => {
                let address = ring.pool().chunk(chunk);
                let len_bytes = at_most(job.left_bytes(), CHUNK_BYTES);
                if write {
                    // SAFETY: the listed buffers stay mapped until the request completes, and a chunk belongs to one slot.
                    unsafe { self.vectors.gather(index as usize, len_bytes as usize, address) };
                }
                entry::transfer(self.target, write, fua, job.at(), Buffer { address, len_bytes, registered: None })
            }
            (Step::Read | Step::Write, _) => {
                let registered = if let Way::Registered(buffer) = way { Some(buffer) } else { None };
                match self.vectors.left(index as usize) {
                    [one] if u32::try_from(one.iov_len).is_ok() => {
                        let buffer = Buffer { address: one.iov_base.cast(), len_bytes: at_most(job.left_bytes(), u32::MAX), registered };
                        entry::transfer(self.target, write, fua, job.at(), buffer)
                    }
                    many => entry::vectored(self.target, write, fua, job.at(), many),
                }
            }
            (Step::WriteZeroes, _) => {
                let len_bytes = at_most(job.left_bytes(), ZEROES_BYTES);
                let address = ring.pool().zeroes().cast_mut();
                entry::transfer(self.target, true, false, job.at(), Buffer { address, len_bytes, registered: None })
            }
            (step, _) => entry::command(self.target, step, job.offset, job.len_bytes),
        };
        // SAFETY: the listed buffers stay mapped until the request completes (whoever unmaps a region waits for that),
        // the lists and chunks live as long as the slot is taken, and a channel is dropped only with all slots free.
        unsafe { ring.submit(self.port, index, entry) };
    }

    /// Takes an event for a slot; its completion if that was the last.
    fn proceed(&mut self, ring: &mut Ring, index: u32, event: Event, now: Instant) -> Option<Completion> {
        let slot = self.slots[index as usize].as_mut().expect("events are for taken slots");
        match event {
            Event::Chunk(chunk) => slot.way = Way::Bounce(chunk),
            Event::Pause => {}
            Event::Answer(result) => {
                let before = slot.job;
                let next = slot.job.advance(result);
                let Slot { tag, job, way } = *slot;
                self.account(ring, index, before, job, way);
                match next {
                    Next::Again => {}
                    Next::Later => {
                        ring.pause(self.port, index, now);
                        return None;
                    }
                    Next::Done(status) => return Some(self.finish(ring, index, Completion { tag, status })),
                }
            }
        }
        self.launch(ring, index);
        None
    }

    /// Moves the bytes of a round to their buffers and off the list; remembers a step that was refused.
    fn account(&mut self, ring: &Ring, index: u32, before: Job, after: Job, way: Way) {
        if after.step != before.step && after.done_bytes == before.done_bytes {
            self.shared.cannot(before.step);
        }
        if !matches!(before.step, Step::Read | Step::Write) {
            return;
        }
        let moved = usize::try_from(after.done_bytes - before.done_bytes).expect("one transfer fits memory");
        if let (Step::Read, Way::Bounce(chunk)) = (before.step, way) {
            // SAFETY: the listed buffers stay mapped until the request completes, and a chunk belongs to one slot.
            unsafe { self.vectors.scatter(index as usize, moved, ring.pool().chunk(chunk)) };
        }
        self.vectors.consume(index as usize, moved);
    }

    /// Frees a slot and what it held.
    fn finish(&mut self, ring: &mut Ring, index: u32, completion: Completion) -> Completion {
        let slot = self.slots[index as usize].take().expect("a slot ends once");
        if let Way::Bounce(chunk) = slot.way {
            ring.give_chunk(chunk);
        }
        self.free.push(index);
        completion
    }
}

fn at_most(len_bytes: u64, limit: u32) -> u32 {
    u32::try_from(len_bytes).map_or(limit, |len_bytes| len_bytes.min(limit))
}
