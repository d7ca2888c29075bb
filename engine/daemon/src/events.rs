//! What the main thread waits for: a signal to stop, or another process that is to take over. Knows nothing of what either means.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, never, unbounded};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::flag::register_conditional_shutdown;
use signal_hook::iterator::Signals;
use spinel_handover::Link;

/// What the process ends with when it is told to end a second time.
const IMPATIENT_STATUS: i32 = 1;
/// How long after the first signal another one is taken for the same.
const MOMENT: Duration = Duration::from_millis(500);

/// Something that the main thread has to do.
pub(crate) enum Event {
    /// Stop everything and end.
    Stop,
    /// Give everything to the process at the other end.
    HandOver(Link),
}

/// What has to be done, in the order in which it came.
pub(crate) struct Events {
    /// Few: one stop, and one takeover at a time.
    events: Receiver<Event>,
    sender: Sender<Event>,
    stopping: Arc<AtomicBool>,
}

impl Events {
    /// From now on signals are kept for [`Events::next`].
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn install() -> io::Result<Self> {
        let stopping = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            register_conditional_shutdown(signal, IMPATIENT_STATUS, Arc::clone(&stopping))?;
        }
        let (sender, events) = unbounded();
        let signals = Signals::new([SIGINT, SIGTERM, SIGHUP, SIGUSR1])?;
        let stop = sender.clone();
        std::thread::Builder::new().name("spinel-signals".into()).spawn(move || watch(signals, &stop))?;
        Ok(Self { events, sender, stopping })
    }

    /// Where a takeover is asked for.
    pub(crate) fn sender(&self) -> Sender<Event> {
        self.sender.clone()
    }

    /// Whether there is something to do.
    pub(crate) fn is_due(&self) -> bool {
        !self.events.is_empty()
    }

    /// Waits for the next thing to do.
    pub(crate) fn next(&self) -> Event {
        self.events.recv().expect("a sender is here")
    }

    /// Signals often come twice: timeout(1) sends one to the process and one to its group. Only those after a moment are
    /// meant, and end the process at once.
    pub(crate) fn lose_patience(self) {
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

/// Passes on the first signal that stops, and ignores those before it.
fn watch(mut signals: Signals, stop: &Sender<Event>) {
    for signal in signals.forever() {
        let name = signal_hook::low_level::signal_name(signal).unwrap_or("a signal");
        if let SIGINT | SIGTERM = signal {
            tracing::info!("{name} came: stopping");
            // The main thread may be ending already.
            let _ = stop.send(Event::Stop);
            return;
        }
        tracing::info!("{name} came and was ignored");
    }
}
