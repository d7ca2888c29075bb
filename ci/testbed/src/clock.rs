//! Wall time for waiting and reporting. Nothing is measured or asserted with it.

use std::time::{Duration, Instant};

#[allow(clippy::disallowed_methods, reason = "the testbed waits for processes and reports wall times; no simulated code runs here")]
fn now() -> Instant {
    Instant::now()
}

/// Time since it was started.
#[derive(Debug, Clone, Copy)]
pub struct Stopwatch(Instant);

impl Stopwatch {
    /// Starts counting.
    #[must_use]
    pub fn start() -> Self {
        Self(now())
    }

    /// Wall time since the start.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        now().saturating_duration_since(self.0)
    }
}

/// The moment after which waiting is given up.
#[derive(Debug, Clone, Copy)]
pub struct Deadline(Instant);

impl Deadline {
    /// A deadline that lies `wait` ahead.
    #[must_use]
    pub fn after(wait: Duration) -> Self {
        Self(now() + wait)
    }

    /// A deadline that lies `wait_s` seconds ahead.
    #[must_use]
    pub fn after_s(wait_s: u64) -> Self {
        Self::after(Duration::from_secs(wait_s))
    }

    /// The time left, or nothing when the deadline has passed.
    #[must_use]
    pub fn left(&self) -> Option<Duration> {
        self.0.checked_duration_since(now()).filter(|left| !left.is_zero())
    }
}
