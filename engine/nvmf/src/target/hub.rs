//! Where the connections of one core find what the control side tells them. Knows no command and no byte.
//!
//! The control side reaches a core by its mailbox alone: a visit puts what is told onto a connection's seat, and the mailbox
//! wakes the core for it. So a connection that looks whether there is something looks at its own memory only.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use spinel_core::{Armed, Command, Core, Driver, Instant, Mailbox, OpenError, Progress};
use spinel_mem::{Region, RegionId};

use super::note::Told;
use super::view::ConnectionId;

/// The connections of one core.
#[derive(Default)]
struct Hub {
    seats: BTreeMap<ConnectionId, Rc<Seat>>,
}

impl Driver for Hub {
    fn reap(&mut self, _now: Instant) -> Progress {
        Progress::Idle
    }

    fn flush(&mut self) {}

    fn map(&mut self, _region: &Arc<Region>) {}

    fn unmap(&mut self, _id: RegionId) {}

    fn arm(&mut self) -> Armed {
        Armed::Idle
    }
}

fn hub(core: &mut Core) -> Rc<RefCell<Hub>> {
    core.share(|_| Ok::<_, OpenError>(Hub::default())).expect("a table is always there")
}

/// Where one connection finds what it is told.
#[derive(Default)]
pub(crate) struct Seat {
    any: Cell<bool>,
    told: RefCell<VecDeque<Told>>,
}

impl Seat {
    /// Takes a seat on this core.
    pub(crate) fn take(core: &mut Core, id: ConnectionId) -> Rc<Self> {
        let seat = Rc::new(Self::default());
        let before = hub(core).borrow_mut().seats.insert(id, Rc::clone(&seat));
        assert!(before.is_none(), "a connection takes a seat once");
        seat
    }

    /// Leaves it.
    pub(crate) fn leave(core: &mut Core, id: ConnectionId) {
        hub(core).borrow_mut().seats.remove(&id);
    }

    /// Whether something was told.
    #[inline]
    pub(crate) fn any(&self) -> bool {
        self.any.get()
    }

    /// What was told first, of what was not taken yet.
    pub(crate) fn next(&self) -> Option<Told> {
        let mut told = self.told.borrow_mut();
        let next = told.pop_front();
        self.any.set(!told.is_empty());
        next
    }
}

/// Tells a connection something, by what is made on its core. A connection that has gone is not told.
pub(crate) fn tell(mailbox: &Mailbox, to: ConnectionId, make: impl FnOnce(&mut Core) -> Told + Send + 'static) {
    mailbox.post(Command::Visit(Box::new(move |core| {
        let seat = hub(core).borrow().seats.get(&to).cloned();
        if let Some(seat) = seat {
            let told = make(core);
            seat.told.borrow_mut().push_back(told);
            seat.any.set(true);
        }
    })));
}
