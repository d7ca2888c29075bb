//! The way of tallies from the core that works to whoever watches, and back. Knows neither end.

use std::sync::atomic::{Ordering, fence};
use std::sync::{Arc, Weak};

use crossbeam_channel::{Receiver, Sender, TryRecvError, TrySendError, bounded};
use spinel_core::{Instant, OpKind};

use crate::tally::{Ended, Tally};

/// Tallies between the two ends: a watcher who is late by more gets longer stretches, never fewer requests.
const TALLIES: usize = 8;

/// The working core's end: a tally that fills up, and empty ones to go on with.
#[derive(Debug)]
pub struct Outlet {
    current: Box<Tally>,
    full: Sender<Box<Tally>>,
    empty: Receiver<Box<Tally>>,
    /// Held for as long as there is work. The last field: dropped when everything was handed over.
    _working: Arc<()>,
}

/// The watcher's end.
#[derive(Debug)]
pub struct Intake {
    full: Receiver<Box<Tally>>,
    empty: Sender<Box<Tally>>,
    working: Weak<()>,
}

/// Both ends, for a job that sends requests of these kinds.
#[must_use]
pub fn feed(kinds: impl Fn(OpKind) -> bool) -> (Outlet, Intake) {
    let (full, filled) = bounded(TALLIES);
    let (empty, emptied) = bounded(TALLIES);
    for _ in 1..TALLIES {
        empty.send(Box::new(Tally::of(&kinds))).expect("there is room for all of them");
    }
    let working = Arc::new(());
    let intake = Intake { full: filled, empty, working: Arc::downgrade(&working) };
    (Outlet { current: Box::new(Tally::of(kinds)), full, empty: emptied, _working: working }, intake)
}

impl Outlet {
    /// The tally to record into.
    #[inline]
    pub fn current(&mut self) -> &mut Tally {
        &mut self.current
    }

    /// The stretch is over at `now`: hands it over if there is an empty one to go on with. Neither allocates nor waits.
    pub fn turn_over(&mut self, now: Instant) {
        let Ok(mut next) = self.empty.try_recv() else { return };
        self.current.until = now;
        next.from = now;
        let full = std::mem::replace(&mut self.current, next);
        // There are only as many tallies as fit; without a watcher nobody misses it.
        if let Err(TrySendError::Full(_)) = self.full.try_send(full) {
            unreachable!("there are fewer tallies than places");
        }
    }

    /// The job is over: hands over the last tally.
    pub fn close(mut self, now: Instant, ended: Ended, unsent: u64) {
        self.current.until = now;
        self.current.ended = Some(ended);
        self.current.unsent = unsent;
        let _ = self.full.try_send(self.current);
    }
}

impl Intake {
    /// Takes the next tally, shows it, and sends it back empty. `None` if there is none now.
    ///
    /// # Errors
    /// [`Gone`] when the working end is gone and everything it sent was taken.
    pub fn take<T>(&self, show: impl FnOnce(&Tally) -> T) -> Result<Option<T>, Gone> {
        let mut tally = match self.full.try_recv() {
            Ok(tally) => tally,
            Err(TryRecvError::Empty) => return Ok(None),
            Err(TryRecvError::Disconnected) => return Err(Gone),
        };
        let shown = show(&tally);
        tally.clear();
        // The working end may be gone by now.
        let _ = self.empty.try_send(tally);
        Ok(Some(shown))
    }

    /// Whether the working end is gone. What it handed over before may still wait to be taken.
    #[must_use]
    pub fn is_over(&self) -> bool {
        let over = self.working.strong_count() == 0;
        // So that whoever was told sees all that happened before.
        fence(Ordering::Acquire);
        over
    }
}

/// The core that worked has ended; nothing more will come.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the load has ended")]
pub struct Gone;

#[cfg(test)]
mod tests {
    use super::*;
    use spinel_core::Status;

    #[test]
    fn a_late_watcher_gets_longer_stretches_and_every_request() {
        let (mut outlet, intake) = feed(|kind| kind == OpKind::Read);
        for ns in 0..100 {
            outlet.current().record(OpKind::Read, 512, ns + 1, Status::Ok);
            outlet.turn_over(Instant { ns });
        }
        assert!(!intake.is_over());
        outlet.close(Instant { ns: 100 }, Ended::Done, 0);
        assert!(intake.is_over());
        let (mut requests, mut stretches, mut last) = (0, 0, None);
        while let Ok(Some((count, ended))) = intake.take(|tally| (tally.requests(), tally.ended)) {
            requests += count;
            stretches += 1;
            last = ended;
        }
        assert_eq!((requests, stretches, last), (100, TALLIES, Some(Ended::Done)));
        assert_eq!(intake.take(|_| ()), Err(Gone));
    }
}
