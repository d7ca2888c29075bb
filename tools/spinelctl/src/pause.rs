//! Waiting for time to pass. It refuses to know what for.

use std::time::Duration;

/// Waits for the next sample. There is no event to wait for: time itself is.
#[allow(clippy::disallowed_methods, reason = "sampling waits for time to pass, and nothing else")]
pub(crate) fn pause(time: Duration) {
    std::thread::sleep(time);
}
