//! What the channels of one core share, and how that core waits. Knows no particular ring.

use std::os::fd::RawFd;
use std::sync::Arc;

use spinel_mem::{Region, RegionId};

use crate::channel::Armed;
use crate::poller::Progress;
use crate::units::Instant;

/// What the channels of one core share: a ring, a queue pair, a buffer pool.
pub trait Driver {
    /// Start of a turn: takes completions and hands them to their channels.
    fn reap(&mut self, now: Instant) -> Progress;

    /// End of a turn, whatever its progress was: starts what was submitted and not started yet.
    fn flush(&mut self);

    /// A region was announced, or announced again with pins. Bounded time: clones pins, never makes them.
    fn map(&mut self, region: &Arc<Region>);

    /// A region goes; every request with a segment in it has completed.
    fn unmap(&mut self, id: RegionId);

    /// May this core sleep, as far as this driver is concerned?
    fn arm(&mut self) -> Armed;
}

/// Names a watched file descriptor on one core.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Watch(pub u32);

/// How one core waits.
pub trait Sleeper {
    /// From now on `fd` becoming readable wakes this core; it is never read here. For life, without a call per sleep.
    fn watch(&mut self, fd: RawFd) -> Watch;

    /// Ends a watch. The caller closes the descriptor afterwards.
    fn unwatch(&mut self, watch: Watch);

    /// Sleeps until something watched or in flight happens, or `until`. May return early.
    fn sleep(&mut self, until: Option<Instant>, now: Instant);
}
