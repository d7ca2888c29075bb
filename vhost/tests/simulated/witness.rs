//! A device that tells the guest what it is asked for and what it answers, and lets the guest act in between. Knows no data.

use std::sync::Arc;

use spinel_core::{Armed, Channel, Completions, Core, Device, Geometry, Instant, OpenError, Request};

use crate::guest::SharedGuest;

/// The device of one queue.
pub(crate) struct Witness {
    pub(crate) child: Arc<dyn Device>,
    pub(crate) guest: SharedGuest,
    pub(crate) queue: usize,
    /// It holds no more requests than this, however many the queue asks for.
    pub(crate) depth_max: u16,
}

struct WitnessChannel {
    child: Box<dyn Channel>,
    guest: SharedGuest,
    queue: usize,
}

impl Device for Witness {
    fn geometry(&self) -> Geometry {
        self.child.geometry()
    }

    fn open(&self, core: &mut Core, depth: u16) -> Result<Box<dyn Channel>, OpenError> {
        let child = self.child.open(core, depth.min(self.depth_max))?;
        Ok(Box::new(WitnessChannel { child, guest: self.guest.clone(), queue: self.queue }))
    }
}

impl Channel for WitnessChannel {
    fn room(&self) -> usize {
        self.guest.meddle();
        self.child.room()
    }

    fn submit(&mut self, request: Request<'_>) {
        self.guest.with(|guest| guest.asked(self.queue, &request));
        self.child.submit(request);
        self.guest.meddle();
    }

    fn kick(&mut self) {
        self.guest.with(|guest| guest.started(self.queue));
        self.child.kick();
        self.guest.meddle();
    }

    fn poll(&mut self, now: Instant, done: &mut Completions) {
        self.guest.meddle();
        let before = done.as_slice().len();
        self.child.poll(now, done);
        self.guest.with(|guest| done.as_slice()[before..].iter().for_each(|completion| guest.answered(self.queue, *completion)));
        self.guest.meddle();
    }

    fn arm(&mut self) -> Armed {
        self.guest.meddle();
        let armed = self.child.arm();
        self.guest.meddle();
        armed
    }
}
