//! The disk as a device: what it is like, and its queues to be opened. Knows no request.

use std::fmt;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::fcntl_dupfd_cloexec;
use spinel_core::mem::Region;
use spinel_core::{Channel, Core, Device, Geometry, OpenError};
use virtio_driver::VirtioTransport;

use crate::channel::VhostChannel;
use crate::error::{ConnectError, Reason};
use crate::geometry::Disk;
use crate::link::{Agreed, Link, agree};
use crate::ring::Ring;

/// Descriptors that a request takes besides its segments: its header and its status.
const EXTRA_DESCRIPTORS: u16 = 2;
/// Largest queue (virtio 1.2, 2.7).
const QUEUE_SIZE_MAX: u16 = 1 << 15;

/// How a disk is to be connected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    /// How many queues are set up; each serves one channel.
    pub queues: u16,
    /// Descriptors of each queue, a power of two. See [`Options::for_depth`].
    pub queue_size: u16,
    /// Most segments of one request; less if the server takes less. Each request in flight takes two descriptors more.
    pub segments_max: u16,
    /// Packed rings instead of split ones.
    pub packed: bool,
    /// Each side says at which index it wants to be notified. Split rings only: with packed rings the driver
    /// crate's count of descriptors overflows while a server polls, and the notification after that is lost.
    pub event_idx: bool,
    /// Bytes of memory for buffers.
    pub memory_bytes: u64,
    /// How long the server may say nothing while all this is agreed on.
    pub patience: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            queues: 1,
            queue_size: 128,
            segments_max: 1,
            packed: false,
            event_idx: true,
            memory_bytes: 1 << 20,
            patience: Duration::from_secs(5),
        }
    }
}

impl Options {
    /// The same with queues of the smallest size that holds `depth` requests, as far as there is one.
    #[must_use]
    pub fn for_depth(self, depth: u16) -> Self {
        let each = u32::from(self.segments_max) + u32::from(EXTRA_DESCRIPTORS);
        let size = (u32::from(depth) * each).next_power_of_two();
        Self { queue_size: u16::try_from(size).unwrap_or(QUEUE_SIZE_MAX).min(QUEUE_SIZE_MAX), ..self }
    }

    pub(crate) fn has_event_idx(&self) -> bool {
        self.event_idx && !self.packed
    }

    fn check(&self) -> Result<(), Reason> {
        let Self { queues, queue_size, segments_max, .. } = *self;
        if queues == 0 {
            return Err(Reason::Queues { asked: 0, max: 1 });
        }
        let fits = segments_max.checked_add(EXTRA_DESCRIPTORS).is_some_and(|least| queue_size >= least);
        if segments_max == 0 || !fits || !queue_size.is_power_of_two() {
            return Err(Reason::QueueSize { queue_size, segments_max });
        }
        Ok(())
    }
}

/// A queue that nobody has opened yet.
struct Unopened {
    index: usize,
    ring: Ring,
}

#[allow(clippy::disallowed_types, reason = "taken when a channel is opened, never by one that is open")]
type Locked<T> = std::sync::Mutex<T>;

/// A disk that another process serves, connected until it and all its channels are dropped.
pub struct VhostDisk {
    disk: Disk,
    event_idx: bool,
    queues: u16,
    queue_size: u16,
    /// The last is opened next. Before `link`, in whose memory they lie.
    unopened: Locked<Vec<Unopened>>,
    link: Arc<Link>,
}

impl fmt::Debug for VhostDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VhostDisk").field("disk", &self.disk).field("queues", &self.queues).finish_non_exhaustive()
    }
}

impl VhostDisk {
    /// Connects to the vhost-user-blk server at `socket`, agrees on everything, and sets up all queues.
    ///
    /// Waits no longer than [`Options::patience`] for each of the server's answers.
    ///
    /// # Errors
    /// [`ConnectError`], which says what to do about it.
    pub fn connect(socket: &Path, options: &Options) -> Result<Self, ConnectError> {
        Self::try_connect(socket, options).map_err(|reason| ConnectError { socket: socket.to_owned(), reason })
    }

    fn try_connect(socket: &Path, options: &Options) -> Result<Self, Reason> {
        options.check()?;
        let Agreed { rings, link, config, features } = agree(socket, options)?;
        let disk = Disk::new(&config, features, options.segments_max)?;
        let unopened = rings.into_iter().enumerate().map(|(index, ring)| Unopened { index, ring }).rev().collect();
        Ok(Self {
            disk,
            event_idx: options.has_event_idx(),
            queues: options.queues,
            queue_size: options.queue_size,
            unopened: Locked::new(unopened),
            link: Arc::new(link),
        })
    }

    /// The memory for buffers, all zeroes at first: every segment of a request has to lie here.
    #[must_use]
    pub fn region(&self) -> &Arc<Region> {
        &self.link.region
    }

    /// Most requests in flight of one channel.
    #[must_use]
    pub fn depth_max(&self) -> u16 {
        self.queue_size / (self.disk.geometry.segments_max + EXTRA_DESCRIPTORS)
    }

    fn next(&self) -> Option<Unopened> {
        self.unopened.lock().unwrap_or_else(std::sync::PoisonError::into_inner).pop()
    }
}

impl Device for VhostDisk {
    /// As it was when it was connected: a server's news of a changed size are not heard.
    fn geometry(&self) -> Geometry {
        self.disk.geometry
    }

    /// Opens the next queue that was not opened yet, and announces the region on `core`; whoever opened it takes the
    /// region from there again. A queue is opened once: requests of a channel that was dropped may still be in it.
    ///
    /// Drop the disk last, so that its memory is not unmapped on a core.
    fn open(&self, core: &mut Core, depth: u16) -> Result<Box<dyn Channel>, OpenError> {
        let max = self.depth_max();
        if depth == 0 || depth > max {
            return Err(OpenError::Depth { asked: depth, max });
        }
        let Some(Unopened { index, ring }) = self.next() else { return Err(OpenError::Queues { max: self.queues }) };
        let completed = self.link.transport.get_completion_fd(index);
        let bell = fcntl_dupfd_cloexec(completed.as_fd(), 0)
            .map_err(|errno| OpenError::System { doing: "one more descriptor for a queue's completions", source: errno.into() })?;
        core.watch_owned(bell);
        core.map(Arc::clone(&self.link.region));
        Ok(Box::new(VhostChannel::new(ring, index, Arc::clone(&self.link), self.disk, self.event_idx, depth)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_for_a_depth_is_the_smallest_that_holds_it() {
        let size = |depth, segments_max| Options { segments_max, ..Options::default() }.for_depth(depth).queue_size;
        assert_eq!([size(1, 1), size(32, 1), size(43, 1), size(128, 1), size(32, 6)], [4, 128, 256, 512, 256]);
        assert_eq!(size(u16::MAX, 100), QUEUE_SIZE_MAX);
    }

    #[test]
    fn impossible_queues_are_refused() {
        let check = |queue_size, segments_max| Options { queue_size, segments_max, ..Options::default() }.check();
        assert!(check(4, 2).is_ok());
        for (queue_size, segments_max) in [(0, 1), (2, 1), (4, 3), (6, 1), (4, 0), (1 << 15, u16::MAX)] {
            assert!(matches!(check(queue_size, segments_max), Err(Reason::QueueSize { .. })), "{queue_size} for {segments_max}");
        }
        assert!(matches!(Options { queues: 0, ..Options::default() }.check(), Err(Reason::Queues { asked: 0, .. })));
    }
}
