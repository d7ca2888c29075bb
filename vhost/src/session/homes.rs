//! Where each queue of a disk runs, one client after the other. Knows no queue.

use std::sync::atomic::{AtomicUsize, Ordering};

/// By queue: the core that serves it, or will when it runs, as its place among the disk's cores.
///
/// Only the controller's thread writes; it is shared with the sessions that this thread serves.
pub(crate) struct Homes(Box<[AtomicUsize]>);

impl Homes {
    /// Queue 0 on the core at `first`, the others on those that follow, in turn.
    pub(crate) fn spread(queues: u16, first: usize, cores: usize) -> Self {
        Self((0..usize::from(queues)).map(|queue| AtomicUsize::new((first + queue) % cores)).collect())
    }

    pub(crate) fn of(&self, queue: u16) -> usize {
        self.0[usize::from(queue)].load(Ordering::Relaxed)
    }

    /// From now on this queue belongs there. Answers where it belonged before.
    pub(crate) fn put(&self, queue: u16, core: usize) -> usize {
        self.0[usize::from(queue)].swap(core, Ordering::Relaxed)
    }
}
