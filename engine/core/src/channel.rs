//! One core's own way into a device. Knows nothing of who submits or what lies below.

use crate::request::{Completions, Request, Single};
use crate::units::Instant;

/// What must happen before something has to be polled again. Ordered: a composite answers the minimum of its parts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Armed {
    /// Work is there now: do not sleep.
    Ready,
    /// Something is in flight and nothing will wake the core for it (IOPOLL, no interrupt): keep polling.
    Spin,
    /// Poll again by then at the latest.
    Until(Instant),
    /// Whatever happens next will wake the core by itself.
    Idle,
}

/// One core's own way into a device; a layer is a channel that owns channels.
///
/// Contract:
/// - `submit` is called only while `room() > 0`, and cannot fail: every request
///   completes exactly once, errors included, through `poll`.
/// - Accepted is not started. What a channel holds is bounded by the depth it was
///   opened with; a request waiting for a resource waits in its own slot.
/// - While `room()` is zero it is polled each turn, even with nothing in flight: only time may give it room again.
/// - `poll` fills `done` up to its room and keeps the rest for the next call. It may
///   submit to children; then it kicks them.
/// - Nothing here allocates, blocks or reads a clock.
pub trait Channel {
    /// How many requests it would take now. Its own credits: siblings on a shared ring cannot take them.
    fn room(&self) -> usize;

    /// Takes one request.
    fn submit(&mut self, request: Request<'_>);

    /// Takes several requests, for which there is room, as if they were submitted one after the other. For channels whose
    /// own work on a request is less than that of calling them.
    fn submit_all(&mut self, at: Instant, requests: &[Single]) {
        for request in requests {
            self.submit(request.request(at));
        }
    }

    /// What was submitted should start now. A hint where a driver is shared: the driver's flush starts it anyway.
    fn kick(&mut self);

    /// Collects completions, at most `done.room()` of them.
    fn poll(&mut self, now: Instant, done: &mut Completions);

    /// May this core sleep, as far as this channel is concerned? Whoever waits for room asks for that first: after `room` was
    /// zero the answer covers when there may be some again.
    fn arm(&mut self) -> Armed;

    /// It is to end soon: from now on nothing is held back only to keep a pace. A layer passes it on.
    fn let_go(&mut self) {}

    /// It is not to end after all: takes `let_go` back.
    fn hold_on(&mut self) {}
}
