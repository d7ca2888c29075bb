//! Virtual time. Knows no wall and no tick: it stands still until somebody moves it.

use std::cell::Cell;
use std::rc::Rc;

use spinel_core::Instant;

/// A clock that its simulation moves; clones show the same time.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    ns: Rc<Cell<u64>>,
}

impl Clock {
    /// The time.
    #[must_use]
    pub fn now(&self) -> Instant {
        Instant { ns: self.ns.get() }
    }

    /// Lets time pass.
    pub fn pass_ns(&self, ns: u64) {
        self.jump_to(self.now().after_ns(ns));
    }

    /// Moves to a later instant; an earlier one leaves it where it is, as time never goes back.
    pub fn jump_to(&self, instant: Instant) {
        self.ns.set(self.ns.get().max(instant.ns));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_never_goes_back() {
        let clock = Clock::default();
        let other = clock.clone();
        clock.pass_ns(70);
        other.jump_to(Instant { ns: 50 });
        assert_eq!(other.now(), Instant { ns: 70 });
        other.pass_ns(u64::MAX);
        assert_eq!(clock.now(), Instant { ns: u64::MAX });
    }
}
