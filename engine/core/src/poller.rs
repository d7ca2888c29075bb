//! What a reactor runs: something that is polled, armed, stopped and retired. Knows no reactor.

use std::any::Any;

use crate::channel::Armed;
use crate::core::Core;
use crate::device::OpenError;
use crate::units::Instant;

/// What one poll achieved. Ordered: a turn's progress is the maximum over its pollers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Progress {
    /// Nothing happened and nothing is in flight.
    Idle,
    /// Nothing happened, but requests are in flight below.
    Waiting,
    /// Something was done.
    Busy,
    /// After `stop`: nothing flies any more; retire it.
    Stopped,
}

/// State that outlives a poller and may travel to another core or process.
pub type Remains = Box<dyn Any + Send>;

/// Names a poller on one reactor; never reused there.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct PollerId(pub u64);

/// Makes a poller on the core it will live on.
pub type Recipe = Box<dyn FnOnce(&mut Core) -> Result<Box<dyn Poller>, OpenError> + Send>;

/// Something a reactor runs, every turn, for a bounded time.
///
/// Stopping, moving, handing over and tearing down are one mechanism: `stop`, polled
/// until `Stopped`, then `retire`.
pub trait Poller {
    /// A short name for statistics.
    fn name(&self) -> &str;

    /// Does a bounded amount of work. After `stop` it answers `Stopped` once nothing flies.
    fn poll(&mut self, now: Instant) -> Progress;

    /// Enables the wake-ups, fences, looks again. `Ready` means that something is there already.
    fn arm(&mut self) -> Armed;

    /// Undoes `arm`. Idempotent; also called when another poller refused to sleep.
    fn disarm(&mut self);

    /// Takes no new work from now on.
    fn stop(&mut self);

    /// Undoes `stop` while something still flies. Whether it goes on as before; a poller that cannot stays stopped.
    fn resume(&mut self) -> bool {
        false
    }

    /// Gives up what it holds on this core. Called once, only after `Stopped`.
    fn retire(self: Box<Self>, core: &mut Core) -> Remains;
}
