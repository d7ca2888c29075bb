//! The real monotonic clock. The only place in the engine that reads it.

use std::sync::OnceLock;

use spinel_core::Instant;

static ORIGIN: OnceLock<std::time::Instant> = OnceLock::new();

/// Reads monotonic time since an origin that all reactors of this process share.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: std::time::Instant,
}

impl Clock {
    /// The clock of this process.
    #[must_use]
    #[allow(clippy::disallowed_methods, reason = "this is the clock that everybody else is given")]
    pub fn system() -> Self {
        Self { origin: *ORIGIN.get_or_init(std::time::Instant::now) }
    }

    /// Now.
    #[must_use]
    #[allow(clippy::disallowed_methods, reason = "this is the clock that everybody else is given")]
    pub fn now(&self) -> Instant {
        Instant { ns: u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX) }
    }
}
