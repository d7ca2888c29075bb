//! A core that waits in its own ring. Knows no thread: whoever calls runs on the right one.

use std::cell::RefCell;
use std::os::fd::RawFd;
use std::rc::Rc;

use spinel_core::{Core, CoreId, Instant, OpenError, Sleeper, Watch};

use crate::options::Options;
use crate::polled::PolledRing;
use crate::ring::Ring;

/// Sleeping in a ring that the core's channels share.
struct RingSleeper(Rc<RefCell<Ring>>);

impl Sleeper for RingSleeper {
    fn watch(&mut self, fd: RawFd) -> Watch {
        Watch(self.0.borrow_mut().watch(fd))
    }

    fn unwatch(&mut self, watch: Watch) {
        self.0.borrow_mut().unwatch(watch.0);
    }

    fn sleep(&mut self, until: Option<Instant>, now: Instant) {
        self.0.borrow_mut().sleep(until, now);
    }
}

/// A core with a ring of its own, which its devices share and in which it sleeps.
///
/// Call it on the thread that will run the core: the kernel takes submissions to such
/// a ring from the thread that made it only. Devices opened on the core find the ring
/// by themselves; `core.share(|_| Ring::new(..))` finds it too, for [`Ring::setup`].
///
/// # Errors
/// [`OpenError::System`] if the kernel gives no ring.
pub fn core(id: CoreId, options: Options) -> Result<Core, OpenError> {
    let ring = Rc::new(RefCell::new(Ring::new(&options)?));
    let mut core = Core::new(id, Box::new(RingSleeper(Rc::clone(&ring))));
    if options.iopoll
        && let Ok(polled) = PolledRing::new(&options)
    {
        ring.borrow_mut().beside_polled();
        core.adopt(Rc::new(RefCell::new(polled)));
    }
    core.adopt(ring);
    Ok(core)
}
