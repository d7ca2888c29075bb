//! A reactor on its own pinned thread, with the real clock. Knows no poller.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam_channel::bounded;
use spinel_core::{Command, Core, CoreId, CoreMeter, CoreUsage, Inbox, Instant, Mailbox, OpenError, Progress, mailbox};

use crate::clock::Clock;
use crate::pace::{Mode, Pace, PaceLimits};
use crate::reactor::{Reactor, Rest};

/// Makes a core's shared things on the core's own thread.
pub type MakeCore = Box<dyn FnOnce(CoreId) -> Result<Core, OpenError> + Send>;

/// How a reactor is to run.
pub struct ReactorConfig {
    /// The core by its number in the operating system.
    pub core: CoreId,
    /// Whether it may sleep.
    pub mode: Mode,
    /// Between which bounds it learns how long to spin.
    pub limits: PaceLimits,
    /// Whether the thread stays on its core.
    pub pin: bool,
    /// Makes the core's ring and whatever else its devices share.
    pub make_core: MakeCore,
}

/// Why a reactor did not start.
#[derive(Debug)]
pub enum StartError {
    /// This process may not run on that core.
    Pin(CoreId),
    /// The thread could not be made.
    Thread(io::Error),
    /// The core's shared things could not be made.
    Core(OpenError),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pin(core) => write!(f, "this process may not run on core {}: choose another, or widen its CPU affinity", core.0),
            Self::Thread(_) => write!(f, "the system refused another thread"),
            Self::Core(_) => write!(f, "a core's rings could not be set up"),
        }
    }
}

impl std::error::Error for StartError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Pin(_) => None,
            Self::Thread(error) => Some(error),
            Self::Core(error) => Some(error),
        }
    }
}

/// A running reactor as control threads see it.
#[derive(Debug)]
pub struct Handle {
    mailbox: Mailbox,
    meter: Arc<CoreMeter>,
    thread_id: i32,
    thread: JoinHandle<()>,
}

impl Handle {
    /// The way onto its core.
    #[must_use]
    pub fn mailbox(&self) -> &Mailbox {
        &self.mailbox
    }

    /// Where its time went up to now. Does not wake it.
    #[must_use]
    pub fn usage(&self) -> CoreUsage {
        self.meter.usage(Clock::system().now())
    }

    /// The same for others to look at.
    #[must_use]
    pub fn gauge(&self) -> Gauge {
        Gauge { core: self.mailbox.core(), meter: Arc::clone(&self.meter) }
    }

    /// The thread's id in the operating system.
    #[must_use]
    pub fn thread_id(&self) -> i32 {
        self.thread_id
    }

    /// Stops every poller, waits until they have drained, and ends the thread. A hung device delays this for ever: stop its pollers first.
    pub fn quit(self) {
        self.mailbox.post(Command::Quit);
        assert!(self.thread.join().is_ok(), "a reactor panicked");
    }
}

/// Shows where a reactor's time goes, for as long as anybody likes to look.
#[derive(Clone, Debug)]
pub struct Gauge {
    core: CoreId,
    meter: Arc<CoreMeter>,
}

impl Gauge {
    /// Which core it shows.
    #[must_use]
    pub fn core(&self) -> CoreId {
        self.core
    }

    /// Where its time went up to now. Does not wake it.
    #[must_use]
    pub fn usage(&self) -> CoreUsage {
        self.meter.usage(Clock::system().now())
    }
}

/// Starts a reactor and waits until it runs.
///
/// # Errors
/// [`StartError`] when the core may not be used or its rings cannot be made.
pub fn start(config: ReactorConfig) -> Result<Handle, StartError> {
    let (mailbox, inbox) = mailbox(config.core).map_err(StartError::Core)?;
    let meter = Arc::new(CoreMeter::default());
    let (ready, started) = bounded(1);
    let counted = Arc::clone(&meter);
    let body = move || match prepare(config.core, config.pin, config.make_core) {
        Ok(core) => {
            let _ = ready.send(Ok(rustix::thread::gettid().as_raw_nonzero().get()));
            Loop::new(Reactor::new(core, inbox), counted, config.mode, config.limits).run();
        }
        Err(error) => {
            drop::<Inbox>(inbox);
            let _ = ready.send(Err(error));
        }
    };
    let thread = std::thread::Builder::new().name(format!("reactor-{}", config.core.0)).spawn(body).map_err(StartError::Thread)?;
    let thread_id = started.recv().expect("the thread answers before it ends")?;
    Ok(Handle { mailbox, meter, thread_id, thread })
}

fn prepare(id: CoreId, pin: bool, make_core: MakeCore) -> Result<Core, StartError> {
    if pin && !core_affinity::set_for_current(core_affinity::CoreId { id: usize::from(id.0) }) {
        return Err(StartError::Pin(id));
    }
    make_core(id).map_err(StartError::Core)
}

/// Turns between two publications of the counts of a core that never sleeps.
const PUBLISH_TURNS: u64 = 4096;

struct Loop {
    reactor: Reactor,
    meter: Arc<CoreMeter>,
    clock: Clock,
    mode: Mode,
    pace: Pace,
    since: Instant,
    unpublished: CoreUsage,
}

impl Loop {
    fn new(reactor: Reactor, meter: Arc<CoreMeter>, mode: Mode, limits: PaceLimits) -> Self {
        let clock = Clock::system();
        let since = clock.now();
        Self { reactor, meter, clock, mode, pace: Pace::new(limits, since), since, unpublished: CoreUsage::default() }
    }

    fn run(mut self) {
        let mut before = Progress::Idle;
        while !self.reactor.finished() {
            let now = self.clock.now();
            self.account(before, now);
            let progress = self.reactor.turn(now);
            if progress >= Progress::Busy {
                self.pace.worked(now);
            } else if self.may_rest() && self.pace.tired(progress, now) {
                self.rest(progress);
            }
            before = progress;
        }
        self.publish();
    }

    /// A core without pollers has nothing to poll: in any mode it leaves the processor to others, such as the process that
    /// takes over from this one, or the one it takes over from.
    fn may_rest(&self) -> bool {
        self.mode == Mode::Adaptive || self.reactor.pollers() == 0
    }

    /// Counts the time of the turn before this one.
    fn account(&mut self, before: Progress, now: Instant) {
        let took_ns = now.since_ns(self.since);
        self.since = now;
        self.unpublished.turns += 1;
        if before >= Progress::Busy {
            self.unpublished.busy_ns += took_ns;
        } else {
            self.unpublished.spin_ns += took_ns;
        }
        if self.unpublished.turns >= PUBLISH_TURNS {
            self.publish();
        }
    }

    fn publish(&mut self) {
        self.unpublished.pollers = u64::try_from(self.reactor.pollers()).expect("a small count");
        self.meter.add(self.unpublished);
        self.unpublished = CoreUsage::default();
    }

    fn rest(&mut self, progress: Progress) {
        if let Rest::Granted(until) = self.reactor.arm() {
            let from = self.clock.now();
            self.unpublished.spin_ns += from.since_ns(self.since);
            self.publish();
            self.meter.set_asleep(Some(from));
            self.reactor.sleep(until, from);
            self.meter.set_asleep(None);
            self.since = self.clock.now();
            self.unpublished.sleep_ns += self.since.since_ns(from);
            self.unpublished.sleeps += 1;
            self.pace.slept(progress);
        }
        self.reactor.disarm();
    }
}
