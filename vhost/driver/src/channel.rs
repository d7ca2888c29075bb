//! One queue as a channel: requests into the ring, completions out of it, and its sleep. Knows no message.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use rustix::io::Errno;
use spinel_core::mem::{RegionId, Segment};
use spinel_core::{Armed, Channel, Completion, Completions, Instant, Op, Request, Slots, Status, Tag};
use virtio_driver::{QueueNotifier, iovec};

use crate::geometry::Disk;
use crate::link::{Link, Queue};

/// While requests are in flight and none completes, so often it is looked whether the server is still there.
const LOOK_NS: u64 = 100_000_000;

/// Why the driver crate takes whatever gets so far.
const FITS: &str = "a request within room() fits into the ring, and is made of whole sectors";

/// A channel of a [`VhostDisk`](crate::VhostDisk).
pub(crate) struct VhostChannel {
    /// Before `link`, in whose memory it lies. What travels with a request is its place in `flights`.
    queue: Queue,
    notifier: Box<dyn QueueNotifier>,
    disk: Disk,
    event_idx: bool,
    /// The submitters' tags of what is in the ring.
    flights: Slots<Tag>,
    /// What is answered without the server.
    answered: VecDeque<Completion>,
    /// The buffers of one request, on their way into the ring.
    buffers: Vec<iovec>,
    region: RegionId,
    base: *mut u8,
    submitted: bool,
    /// The server notifies us of completions.
    interrupts: bool,
    look_at: Instant,
    gone: bool,
    link: Arc<Link>,
}

impl VhostChannel {
    pub(crate) fn new(
        mut queue: Queue,
        notifier: Box<dyn QueueNotifier>,
        link: Arc<Link>,
        disk: Disk,
        event_idx: bool,
        depth: u16,
    ) -> Self {
        queue.set_used_notif_enabled(false);
        Self {
            queue,
            notifier,
            event_idx,
            flights: Slots::new(depth.into()),
            answered: VecDeque::with_capacity(depth.into()),
            buffers: Vec::with_capacity(disk.geometry.segments_max.into()),
            region: link.region.id(),
            base: link.region.as_ptr(),
            disk,
            submitted: false,
            interrupts: false,
            look_at: Instant::default(),
            gone: false,
            link,
        }
    }

    /// Puts a request into the ring, or answers it.
    #[inline]
    fn start(&mut self, request: &Request<'_>) -> Option<Status> {
        let Request { op, start, blocks, segments, .. } = *request;
        if self.gone {
            return Some(Status::Aborted);
        }
        if op == Op::Flush {
            if !self.disk.flush {
                return Some(Status::Ok);
            }
            let flight = self.flights.put(request.tag);
            self.queue.flush(flight).expect(FITS);
            return None;
        }
        let geometry = &self.disk.geometry;
        if start.0.checked_add(blocks.into()).is_none_or(|end| end > geometry.block_count) {
            return Some(Status::Range);
        }
        if geometry.read_only && op.changes_data() {
            return Some(Status::Protected);
        }
        if let Op::Write { fua: true } | Op::WriteZeroes { fua: true, .. } = op {
            return Some(Status::Unsupported);
        }
        let (offset, len_bytes) = (start.0 * u64::from(geometry.block_bytes), u64::from(blocks) * u64::from(geometry.block_bytes));
        match op {
            Op::Read | Op::Write { .. } => self.transfer(op == Op::Read, request.tag, offset, len_bytes, segments),
            _ => self.change(op, request.tag, offset, len_bytes, blocks),
        }
    }

    #[inline]
    #[allow(unsafe_code, reason = "the driver's way to use memory that is not Rust's alone")]
    fn transfer(&mut self, read: bool, tag: Tag, offset: u64, len_bytes: u64, segments: &[Segment]) -> Option<Status> {
        if self.gather(segments) != Some(len_bytes) || len_bytes == 0 || len_bytes > u64::from(self.disk.geometry.transfer_max_bytes) {
            return Some(Status::Malformed);
        }
        let flight = self.flights.put(tag);
        let (buffers, count) = (self.buffers.as_ptr(), self.buffers.len());
        let queued = if read {
            // SAFETY: `gather` just filled `count` buffers from segments, which are proof that they lie in the region; `link`
            // keeps it mapped as long as this queue is, and nobody ever borrows it as Rust memory.
            unsafe { self.queue.readv(offset, buffers, count, flight) }
        } else {
            // SAFETY: as for reads.
            unsafe { self.queue.writev(offset, buffers, count, flight) }
        };
        queued.expect(FITS);
        None
    }

    /// Lists the segments by address. Their length; none if they are too many, or of other memory.
    #[inline]
    fn gather(&mut self, segments: &[Segment]) -> Option<u64> {
        self.buffers.clear();
        let mut len_bytes = 0;
        for segment in segments {
            if segment.region() != self.region {
                return None;
            }
            // A descriptor without bytes is none (virtio 1.2, 2.7.5).
            if segment.len_bytes() == 0 {
                continue;
            }
            if self.buffers.len() == usize::from(self.disk.geometry.segments_max) {
                return None;
            }
            len_bytes += u64::from(segment.len_bytes());
            let begin = usize::try_from(segment.offset()).expect("inside a mapping");
            self.buffers.push(iovec { iov_base: self.base.wrapping_add(begin).cast(), iov_len: segment.len_bytes() as usize });
        }
        Some(len_bytes)
    }

    /// Discards and write-zeroes; one request carries one range.
    fn change(&mut self, op: Op, tag: Tag, offset: u64, len_bytes: u64, blocks: u32) -> Option<Status> {
        let discard = op == Op::Discard;
        let max = if discard { self.disk.discard_max_blocks } else { self.disk.write_zeroes_max_blocks };
        if blocks == 0 {
            return Some(Status::Malformed);
        }
        if blocks > max {
            return Some(Status::Unsupported);
        }
        let flight = self.flights.put(tag);
        let queued = match op {
            Op::WriteZeroes { unmap, .. } => self.queue.write_zeroes(offset, len_bytes, unmap, flight),
            _ => self.queue.discard(offset, len_bytes, flight),
        };
        queued.expect(FITS);
        None
    }

    /// Takes completions out of the ring. Whether there were any.
    #[inline]
    fn reap(&mut self, done: &mut Completions) -> bool {
        let mut completions = self.queue.completions();
        let mut any = false;
        while done.room() > 0 {
            let Some(ended) = completions.next() else { break };
            done.push(Completion { tag: self.flights.take(ended.context), status: status(ended.ret) });
            any = true;
        }
        any
    }

    /// Nothing has come for a while: is the server still there? What it finished before it went is taken by the next poll.
    #[cold]
    fn look(&mut self, now: Instant) {
        self.look_at = now.after_ns(LOOK_NS);
        self.gone = self.link.closed();
    }

    /// Gives up what is in the ring.
    #[cold]
    fn abort(&mut self) {
        for at in 0..self.flights.held() + self.flights.room() {
            if self.flights.get(Tag::of(at)).is_some() {
                let tag = self.flights.take(Tag::of(at));
                self.answered.push_back(Completion { tag, status: Status::Aborted });
            }
        }
    }
}

impl Channel for VhostChannel {
    fn room(&self) -> usize {
        self.flights.room() - self.answered.len()
    }

    #[inline]
    fn submit(&mut self, request: Request<'_>) {
        assert!(self.room() > 0, "a request was submitted past room()");
        if self.flights.held() == 0 {
            self.look_at = request.at.after_ns(LOOK_NS);
        }
        match self.start(&request) {
            Some(status) => self.answered.push_back(Completion { tag: request.tag, status }),
            None => self.submitted = true,
        }
    }

    fn kick(&mut self) {
        if !self.submitted {
            return;
        }
        self.submitted = false;
        if !self.event_idx {
            // The request has to be seen before the flag is read. The driver crate does so for an index, but not for a flag.
            fence(Ordering::SeqCst);
        }
        if self.queue.avail_notif_needed() {
            // The one error of an eventfd is a full counter, which wakes just as well.
            let _ = self.notifier.notify();
        }
    }

    #[inline]
    fn poll(&mut self, now: Instant, done: &mut Completions) {
        if self.interrupts {
            self.interrupts = false;
            self.queue.set_used_notif_enabled(false);
        }
        while done.room() > 0
            && let Some(completion) = self.answered.pop_front()
        {
            done.push(completion);
        }
        if self.flights.held() == 0 || done.room() == 0 {
            return;
        }
        if self.reap(done) {
            self.look_at = now.after_ns(LOOK_NS);
        } else if self.gone {
            self.abort();
        } else if now >= self.look_at {
            self.look(now);
        }
    }

    fn arm(&mut self) -> Armed {
        if !self.answered.is_empty() || (self.gone && self.flights.held() > 0) {
            return Armed::Ready;
        }
        if self.flights.held() == 0 {
            return Armed::Idle;
        }
        self.interrupts = true;
        self.queue.set_used_notif_enabled(true);
        // The wish has to be seen before the ring is looked at again. The driver crate does so for an index, but not for a flag.
        fence(Ordering::SeqCst);
        if self.queue.completions().has_next() {
            return Armed::Ready;
        }
        Armed::Until(self.look_at)
    }
}

/// What the server said (virtio 1.2, 5.2.6), as the driver crate puts it.
fn status(result: i32) -> Status {
    if result == 0 {
        Status::Ok
    } else if result == -Errno::NOTSUP.raw_os_error() {
        Status::Unsupported
    } else {
        Status::Medium
    }
}
