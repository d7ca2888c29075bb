//! A moment by which something has to be over. Knows nothing of what.

use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Select};

/// A moment by which something has to be over, or no such moment if it lies beyond what a clock can say.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline(Option<Instant>);

impl Deadline {
    pub(crate) fn after(duration: Duration) -> Self {
        #[allow(clippy::disallowed_methods, reason = "a control thread that waits for a core; no reactor takes this path")]
        Self(Instant::now().checked_add(duration))
    }

    /// Waits for a message until then.
    pub(crate) fn receive<T>(self, receiver: &Receiver<T>) -> Result<T, RecvTimeoutError> {
        match self.0 {
            Some(moment) => receiver.recv_deadline(moment),
            None => receiver.recv().map_err(|_| RecvTimeoutError::Disconnected),
        }
    }

    /// Waits until one of several channels has something to say; false if none had.
    pub(crate) fn select(self, select: &mut Select<'_>) -> bool {
        match self.0 {
            Some(moment) => select.ready_deadline(moment).is_ok(),
            None => {
                select.ready();
                true
            }
        }
    }
}
