//! What stops the daemon: waits for the first signal, and lets a second end it at once. Knows nothing of what stopping means.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam_channel::never;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::flag::register_conditional_shutdown;
use signal_hook::iterator::Signals;

/// What the process ends with when it is told to end a second time.
const IMPATIENT_STATUS: i32 = 1;
/// How long after the first signal another one is taken for the same.
const MOMENT: Duration = Duration::from_millis(500);

/// The signals that are waited for.
pub(crate) struct Stop {
    signals: Signals,
    stopping: Arc<AtomicBool>,
}

impl Stop {
    /// From now on signals are kept for [`Stop::wait`].
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn install() -> io::Result<Self> {
        let stopping = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            register_conditional_shutdown(signal, IMPATIENT_STATUS, Arc::clone(&stopping))?;
        }
        Ok(Self { signals: Signals::new([SIGINT, SIGTERM, SIGHUP, SIGUSR1])?, stopping })
    }

    /// Waits until the process is told to stop. A moment later, the next such signal ends it.
    pub(crate) fn wait(mut self) {
        for signal in self.signals.forever() {
            let name = signal_hook::low_level::signal_name(signal).unwrap_or("a signal");
            match signal {
                SIGINT | SIGTERM => {
                    tracing::info!("{name} came: stopping");
                    return self.lose_patience();
                }
                _ => tracing::info!("{name} came and was ignored"),
            }
        }
    }

    /// Signals often come twice: timeout(1) sends one to the process and one to its group. Only those after a moment are meant.
    fn lose_patience(self) {
        let body = move || {
            let _ = never::<()>().recv_timeout(MOMENT);
            self.stopping.store(true, Ordering::Relaxed);
            tracing::info!("still stopping; another signal ends the daemon at once");
        };
        if let Err(error) = std::thread::Builder::new().name("spinel-patience".into()).spawn(body) {
            tracing::warn!("a second signal will not end the daemon at once: {error}");
        }
    }
}
