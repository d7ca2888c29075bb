//! How a simulated core sleeps: it says that it would, and its simulation decides what wakes it. Knows no thread.
//!
//! [`SimSleeper`] goes into the [`Core`](spinel_core::Core); its [`Bed`] stays with the
//! simulation. `sleep` returns at once, and from then on the simulation must not let that
//! core turn before it has called [`Bed::wake`], for a reason that [`Bed::reason`] found.
//! A core that is asleep without a reason while work waits for it has lost a wake-up.
//!
//! Watched descriptors are real eventfds, written by the code under test; how often they
//! were written is read from `/proc/self/fdinfo`, which leaves them as they are.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::os::fd::RawFd;
use std::rc::Rc;

use spinel_core::{Instant, Sleeper, Watch};

#[derive(Debug)]
struct Watched {
    fd: RawFd,
    /// What the counter said when this core was last awake.
    seen: u64,
}

#[derive(Debug, Default)]
struct State {
    watches: BTreeMap<u32, Watched>,
    next: u32,
    /// While asleep: until when at most.
    asleep: Option<Option<Instant>>,
    sleeps: u64,
}

/// The count of an eventfd.
fn eventfd_count(fd: RawFd) -> u64 {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).expect("a watched descriptor stays open");
    let count = info.lines().find_map(|line| line.strip_prefix("eventfd-count:")).expect("only eventfds are watched");
    u64::from_str_radix(count.trim(), 16).expect("the kernel prints it in base 16")
}

/// The core's end: see the module's first lines.
#[derive(Debug)]
pub struct SimSleeper {
    state: Rc<RefCell<State>>,
}

/// The simulation's end: see the module's first lines.
#[derive(Clone, Debug)]
pub struct Bed {
    state: Rc<RefCell<State>>,
}

/// What wakes a sleeping core.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reason {
    /// A watched eventfd was written.
    Signal,
    /// It asked to sleep until then at most.
    Time(Instant),
}

impl SimSleeper {
    /// A sleeper and its bed.
    #[must_use]
    pub fn new() -> (Self, Bed) {
        let state = Rc::default();
        (Self { state: Rc::clone(&state) }, Bed { state })
    }
}

impl Sleeper for SimSleeper {
    fn watch(&mut self, fd: RawFd) -> Watch {
        let mut state = self.state.borrow_mut();
        let watch = state.next;
        state.next += 1;
        state.watches.insert(watch, Watched { fd, seen: eventfd_count(fd) });
        Watch(watch)
    }

    fn unwatch(&mut self, watch: Watch) {
        self.state.borrow_mut().watches.remove(&watch.0).expect("a watch ends once");
    }

    fn sleep(&mut self, until: Option<Instant>, _now: Instant) {
        let mut state = self.state.borrow_mut();
        assert!(state.asleep.is_none(), "a sleeping core took a turn");
        for watched in state.watches.values_mut() {
            // Somebody may have emptied it; what was written since the last sleep still wakes.
            watched.seen = watched.seen.min(eventfd_count(watched.fd));
        }
        state.asleep = Some(until);
        state.sleeps += 1;
    }
}

impl Bed {
    /// Whether the core sleeps.
    #[must_use]
    pub fn is_asleep(&self) -> bool {
        self.state.borrow().asleep.is_some()
    }

    /// How often it went to sleep.
    #[must_use]
    pub fn sleeps(&self) -> u64 {
        self.state.borrow().sleeps
    }

    /// What will wake the sleeping core first as things stand: a signal that is there, else time; `None` if nothing will.
    ///
    /// # Panics
    /// If the core is awake.
    #[must_use]
    pub fn reason(&self) -> Option<Reason> {
        let state = self.state.borrow();
        let until = state.asleep.expect("only a sleeping core has to be woken");
        let signalled = state.watches.values().any(|watched| eventfd_count(watched.fd) > watched.seen);
        if signalled { Some(Reason::Signal) } else { until.map(Reason::Time) }
    }

    /// Wakes the core: it may turn again.
    pub fn wake(&self) {
        let mut state = self.state.borrow_mut();
        state.asleep = None;
        for watched in state.watches.values_mut() {
            watched.seen = eventfd_count(watched.fd);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use spinel_core::{Command, CoreId, mailbox};

    #[test]
    fn a_core_wakes_by_a_signal_or_by_time_and_by_nothing_else() {
        let (mailbox, inbox) = mailbox(CoreId(0)).unwrap();
        let (mut sleeper, bed) = SimSleeper::new();
        let watch = sleeper.watch(inbox.bell().fd());
        inbox.bell().hang();
        sleeper.sleep(None, Instant::default());
        assert_eq!((bed.is_asleep(), bed.reason()), (true, None));
        mailbox.post(Command::Quit);
        assert_eq!(bed.reason(), Some(Reason::Signal));
        bed.wake();
        inbox.bell().unhang();
        inbox.bell().hang();
        sleeper.sleep(Some(Instant { ns: 9 }), Instant::default());
        assert_eq!(bed.reason(), Some(Reason::Time(Instant { ns: 9 })), "the bell was emptied, its past is no reason");
        mailbox.post(Command::Quit);
        assert_eq!(bed.reason(), Some(Reason::Signal), "a bell that counts to one again is a new signal");
        bed.wake();
        sleeper.unwatch(watch);
        sleeper.sleep(None, Instant::default());
        assert_eq!((bed.reason(), bed.sleeps()), (None, 3));
    }
}
