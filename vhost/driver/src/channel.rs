//! One queue as a channel: credits, checks, completions, and its sleep. Knows no message and no descriptor.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use spinel_core::mem::{RegionId, Segment};
use spinel_core::{Armed, Channel, Completion, Completions, Instant, Op, Request, Status, Tag};
use virtio_driver::{QueueNotifier, VirtioTransport, iovec};

use crate::geometry::{Disk, SECTOR_BYTES};
use crate::link::Link;
use crate::ring::{Kind, Range, Ring};

/// While requests are in flight and none ends, so often it is looked whether the server is still there.
const LOOK_NS: u64 = 100_000_000;

/// A channel of a [`VhostDisk`](crate::VhostDisk).
pub(crate) struct VhostChannel {
    /// Before `link`, in whose memory it lies.
    ring: Ring,
    depth: usize,
    /// What is answered without the server.
    answered: VecDeque<Completion>,
    disk: Disk,
    region: RegionId,
    base: *mut u8,
    /// The server was not told yet of something in the ring.
    untold: bool,
    /// The server tells us of what ends.
    calls: bool,
    look_at: Instant,
    gone: bool,
    event_idx: bool,
    notifier: Box<dyn QueueNotifier>,
    link: Arc<Link>,
}

impl VhostChannel {
    pub(crate) fn new(ring: Ring, index: usize, link: Arc<Link>, disk: Disk, event_idx: bool, depth: u16) -> Self {
        Self {
            ring,
            depth: depth.into(),
            answered: VecDeque::with_capacity(depth.into()),
            disk,
            region: link.region.id(),
            base: link.region.as_ptr(),
            untold: false,
            calls: false,
            look_at: Instant::default(),
            gone: false,
            event_idx,
            notifier: link.transport.get_submission_notifier(index),
            link,
        }
    }

    /// Puts a request into the ring, or answers it.
    #[inline]
    fn start(&mut self, request: &Request<'_>) -> Result<(), Status> {
        let Request { tag, op, start, blocks, segments, .. } = *request;
        if self.gone {
            return Err(Status::Aborted);
        }
        let geometry = &self.disk.geometry;
        let inside = start.0.checked_add(blocks.into()).is_some_and(|end| end <= geometry.block_count);
        let sector = start.0.wrapping_mul(u64::from(geometry.block_bytes / SECTOR_BYTES));
        let kind = match op {
            Op::Flush => return self.flush(tag),
            _ if !inside => return Err(Status::Range),
            Op::Read => Kind::Read,
            _ if geometry.read_only => return Err(Status::Protected),
            Op::Write { fua: false } => Kind::Write,
            Op::Discard => return self.range(tag, Kind::Discard, sector, blocks, false),
            Op::WriteZeroes { unmap, fua: false } => return self.range(tag, Kind::WriteZeroes, sector, blocks, unmap),
            Op::Write { fua: true } | Op::WriteZeroes { fua: true, .. } => return Err(Status::Unsupported),
        };
        self.transfer(tag, kind, sector, blocks, segments)
    }

    /// A server that does not know how to flush has nothing to flush.
    fn flush(&mut self, tag: Tag) -> Result<(), Status> {
        if !self.disk.flush {
            return Err(Status::Ok);
        }
        self.ring.push(tag, Kind::Flush, 0, std::iter::empty());
        Ok(())
    }

    #[inline]
    fn transfer(&mut self, tag: Tag, kind: Kind, sector: u64, blocks: u32, segments: &[Segment]) -> Result<(), Status> {
        let geometry = &self.disk.geometry;
        let (mut count, mut len_bytes) = (0_u16, 0);
        for segment in segments {
            count += u16::from(segment.len_bytes() > 0);
            // Segments are proof that they lie in their region, and `link` keeps ours mapped.
            if segment.region() != self.region || count > geometry.segments_max {
                return Err(Status::Malformed);
            }
            len_bytes += u64::from(segment.len_bytes());
        }
        let asked = u64::from(blocks) * u64::from(geometry.block_bytes);
        if len_bytes != asked || asked == 0 || asked > u64::from(geometry.transfer_max_bytes) {
            return Err(Status::Malformed);
        }
        let base = self.base;
        let buffer = |segment: &Segment| {
            let begin = usize::try_from(segment.offset()).expect("inside a mapping");
            iovec { iov_base: base.wrapping_add(begin).cast(), iov_len: segment.len_bytes() as usize }
        };
        // A descriptor without bytes is none (virtio 1.2, 2.7.5).
        self.ring.push(tag, kind, sector, segments.iter().filter(|segment| segment.len_bytes() > 0).map(buffer));
        Ok(())
    }

    /// Discards and write-zeroes. One request carries one range, as long as the server allows.
    fn range(&mut self, tag: Tag, kind: Kind, sector: u64, blocks: u32, unmap: bool) -> Result<(), Status> {
        let max = if kind == Kind::Discard { self.disk.discard_max_blocks } else { self.disk.write_zeroes_max_blocks };
        if blocks == 0 {
            return Err(Status::Malformed);
        }
        if blocks > max {
            return Err(Status::Unsupported);
        }
        let sectors = blocks * (self.disk.geometry.block_bytes / SECTOR_BYTES);
        self.ring.push_range(tag, kind, Range::new(sector, sectors, unmap));
        Ok(())
    }

    /// Takes completions out of the ring. Whether there were any.
    #[inline]
    fn reap(&mut self, done: &mut Completions) -> bool {
        let mut any = false;
        while done.room() > 0
            && let Some((tag, said)) = self.ring.pop()
        {
            done.push(Completion { tag, status: status(said) });
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
        let Self { ring, answered, .. } = self;
        ring.abandon(|tag| answered.push_back(Completion { tag, status: Status::Aborted }));
    }
}

impl Channel for VhostChannel {
    #[inline]
    fn room(&self) -> usize {
        self.depth - self.ring.held() - self.answered.len()
    }

    #[inline]
    fn submit(&mut self, request: Request<'_>) {
        assert!(self.room() > 0, "a request was submitted past room()");
        if self.ring.held() == 0 {
            self.look_at = request.at.after_ns(LOOK_NS);
        }
        match self.start(&request) {
            Ok(()) => self.untold = true,
            Err(status) => self.answered.push_back(Completion { tag: request.tag, status }),
        }
    }

    #[inline]
    fn kick(&mut self) {
        if !self.untold {
            return;
        }
        self.untold = false;
        if !self.event_idx {
            // The request has to be seen before the flag is read. The driver crate does so for an index, but not for a flag.
            fence(Ordering::SeqCst);
        }
        if self.ring.wants_kick() {
            // The one error of an eventfd is a full counter, which wakes just as well.
            let _ = self.notifier.notify();
        }
    }

    #[inline]
    fn poll(&mut self, now: Instant, done: &mut Completions) {
        if self.calls {
            self.calls = false;
            self.ring.want_calls(false);
        }
        while done.room() > 0
            && let Some(completion) = self.answered.pop_front()
        {
            done.push(completion);
        }
        if self.ring.held() == 0 || done.room() == 0 {
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
        if !self.answered.is_empty() {
            return Armed::Ready;
        }
        if self.ring.held() == 0 {
            return Armed::Idle;
        }
        if self.gone {
            return Armed::Ready;
        }
        self.calls = true;
        self.ring.want_calls(true);
        // The wish has to be seen before the ring is looked at again. The driver crate does so for an index, but not for a flag.
        fence(Ordering::SeqCst);
        if self.ring.has_next() { Armed::Ready } else { Armed::Until(self.look_at) }
    }
}

/// What the server said (virtio 1.2, 5.2.6).
#[inline]
fn status(said: u8) -> Status {
    match said {
        0 => Status::Ok,
        2 => Status::Unsupported,
        _ => Status::Medium,
    }
}
