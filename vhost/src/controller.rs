//! A disk at a socket: one thread that accepts a client, serves its session, and cleans up after it. Knows no message.
//!
//! The thread sleeps until something happens; an idle controller costs nothing. There is
//! one session at a time: a further client waits in the socket's backlog. Requests that
//! do not come back by the drain deadline put what is left of a session into quarantine,
//! and no client is served until they have come back.

mod listener;
mod mover;
mod worker;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use rustix::event::{EventfdFlags, eventfd};
use spinel_core::{CoreId, Mailbox};
use spinel_mem::Region;

pub use listener::ListenError;
use listener::Listener;
pub use mover::{MoveError, Mover};
use worker::{Beginning, Command, Pinner, Worker};

use crate::blk::Disk;
use crate::handover::{ControllerParcel, Places};
use crate::queue::Poked;
use crate::session::{Homes, Served, Session, SessionInfo, UnpackError};

/// Most queues of one disk.
pub const QUEUES_MAX: u16 = 64;

/// Pins a region's pages so that devices reach them without help; may take seconds, and runs on a thread of its own.
pub type Pin = Arc<dyn Fn(&Arc<Region>) + Send + Sync>;

/// What a controller is to serve, and how.
pub struct ControllerConfig {
    /// Its name, in logs and lists.
    pub name: String,
    /// Where clients connect.
    pub socket_path: PathBuf,
    /// What they get.
    pub disk: Disk,
    /// The cores its queues are spread over.
    pub cores: Vec<Mailbox>,
    /// Most queues of a client, 1 to [`QUEUES_MAX`].
    pub queues_max: u16,
    /// How long requests may take to come back once their queue is stopped.
    pub drain_deadline: Duration,
    /// Pins guest memory once queues run; none leaves it unpinned.
    pub pin_guest_memory: Option<Pin>,
}

/// Why a controller could not be started.
#[derive(Debug, thiserror::Error)]
pub enum ControllerError {
    /// Not a possible number of queues.
    #[error("{queues} queues: a disk has 1 to {QUEUES_MAX}")]
    Queues {
        /// What was asked for.
        queues: u16,
    },
    /// There is nothing to run queues on.
    #[error("a controller needs at least one core")]
    NoCore,
    /// The socket could not be made.
    #[error("the controller's socket could not be made: {0}")]
    Listen(#[from] ListenError),
    /// What another process has handed over cannot be served here.
    #[error("the client of {name} cannot be taken over: {because}")]
    Parcel {
        /// The controller.
        name: String,
        /// What is wrong with it.
        because: String,
    },
    /// The operating system has run out of something.
    #[error("the system refused: {doing}")]
    System {
        /// What was being done.
        doing: &'static str,
        /// Its answer.
        source: io::Error,
    },
}

/// Why a controller cannot be handed over. It goes on, or does once it is [resumed](Controller::begin_resume).
#[derive(Debug, thiserror::Error)]
pub enum HandOverError {
    /// Requests of a client that has gone are still out.
    #[error("{name} waits for {outstanding} requests of a client that has gone")]
    Quarantined {
        /// The controller.
        name: String,
        /// Requests in flight.
        outstanding: u64,
    },
    /// Requests did not come back after their queue was told to stop.
    #[error("{name} has {outstanding} requests that did not come back within {} ms", patience.as_millis())]
    Hung {
        /// The controller.
        name: String,
        /// Requests in flight.
        outstanding: u64,
        /// How long they were waited for.
        patience: Duration,
    },
    /// It was stopped, or is in no state to do this.
    #[error("{name} cannot do this now")]
    Unready {
        /// The controller.
        name: String,
    },
    /// What was handed over does not fit.
    #[error("the client of {name} does not go on here: {because}")]
    Misfit {
        /// The controller.
        name: String,
        /// What is wrong.
        because: String,
    },
    /// No descriptor is left.
    #[error("{name} cannot be handed over: no descriptor is left")]
    Descriptors {
        /// The controller.
        name: String,
        /// The system's answer.
        source: io::Error,
    },
}

/// Why a controller has not stopped (EBUSY).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name} has {outstanding} requests that did not come back: it serves nobody any more, and ends when they do; try again then")]
pub struct StopError {
    /// The controller.
    pub name: String,
    /// Requests that are still in flight.
    pub outstanding: u64,
}

/// What a controller is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControllerState {
    /// Waits for a client.
    Listening,
    /// Serves a client.
    Connected(SessionInfo),
    /// Requests of a client that has gone did not come back in time; nobody is served until they do.
    Quarantined {
        /// Requests in flight when the deadline came.
        outstanding: u64,
    },
    /// It was stopped.
    Stopped,
}

/// A controller as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControllerInfo {
    /// Its name.
    pub name: String,
    /// Where clients connect.
    pub socket_path: PathBuf,
    /// Most queues of a client.
    pub queues_max: u16,
    /// What it is doing.
    pub state: ControllerState,
}

#[allow(clippy::disallowed_types, reason = "control threads only; no reactor ever takes it")]
type Locked<T> = std::sync::Mutex<T>;

fn locked<T>(mutex: &Locked<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// What the controller's owner and its thread both look at.
#[derive(Debug)]
struct Shared {
    state: Locked<ControllerState>,
    /// The disk's size has changed since the thread last looked.
    resized: AtomicBool,
    /// The device gives other channels than when the thread last looked.
    reopens: AtomicBool,
    poke: Arc<Poked>,
}

impl Shared {
    fn wake(&self) {
        // An eventfd that is full wakes just as well.
        let _ = rustix::io::write(&self.poke.0, &1_u64.to_ne_bytes());
    }
}

/// A disk served at a socket. Dropping it stops it, and waits as long as its drain deadline.
pub struct Controller {
    name: String,
    socket_path: PathBuf,
    queues_max: u16,
    core_ids: Vec<CoreId>,
    drain_deadline: Duration,
    shared: Arc<Shared>,
    commands: Sender<Command>,
    thread: Locked<Option<JoinHandle<()>>>,
}

impl fmt::Debug for Controller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Controller").field("name", &self.name).field("socket_path", &self.socket_path).finish_non_exhaustive()
    }
}

/// What a controller's thread is made of, before there is one.
struct Prepared {
    served: Arc<Served>,
    socket_path: PathBuf,
    shared: Arc<Shared>,
    pinner: Option<Pinner>,
}

impl Prepared {
    fn new(config: ControllerConfig) -> Result<Self, ControllerError> {
        let ControllerConfig { name, socket_path, disk, cores, queues_max, drain_deadline, pin_guest_memory } = config;
        if queues_max == 0 || queues_max > QUEUES_MAX {
            return Err(ControllerError::Queues { queues: queues_max });
        }
        if cores.is_empty() {
            return Err(ControllerError::NoCore);
        }
        let system = |doing| move |source| ControllerError::System { doing, source };
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let poke = Arc::new(Poked(wake.map_err(|errno| system("making an eventfd")(errno.into()))?));
        let (resized, reopens) = (AtomicBool::new(false), AtomicBool::new(false));
        let shared = Arc::new(Shared { state: Locked::new(ControllerState::Listening), resized, reopens, poke });
        let pinner = pin_guest_memory.map(|pin| Pinner::start(&name, pin, &shared)).transpose();
        let pinner = pinner.map_err(system("starting a thread that pins memory"))?;
        let served = Arc::new(Served {
            disk: Arc::new(disk),
            homes: Homes::spread(queues_max, FIRST_CORE.fetch_add(1, Ordering::Relaxed) % cores.len(), cores.len()),
            cores: cores.into(),
            queues_max,
            drain_deadline,
            pins: pinner.as_ref().map(Pinner::jobs),
            poke: Arc::clone(&shared.poke),
            name,
        });
        Ok(Self { served, socket_path, shared, pinner })
    }

    fn run(self, listener: Listener, beginning: Beginning) -> Result<Controller, ControllerError> {
        let Self { served, socket_path, shared, pinner } = self;
        let Served { name, queues_max, drain_deadline, .. } = &*served;
        let (name, queues_max, drain_deadline) = (name.clone(), *queues_max, *drain_deadline);
        let core_ids = served.cores.iter().map(Mailbox::core).collect();
        // Without a bound, because only then are commands that came too late dropped with the receiver, and their replies with
        // them. Each caller waits for its own.
        let (commands, received) = unbounded();
        let worker = Worker::new(served, Arc::clone(&shared), received, pinner);
        let thread = std::thread::Builder::new().name(format!("vhost-{name}")).spawn(move || worker.run(listener, beginning));
        let thread = thread.map_err(|source| ControllerError::System { doing: "starting a thread", source })?;
        tracing::info!(controller = name, socket = %socket_path.display(), queues = queues_max, "listening");
        Ok(Controller { name, socket_path, queues_max, core_ids, drain_deadline, shared, commands, thread: Locked::new(Some(thread)) })
    }
}

/// Each controller begins one core further, so that disks with one queue spread as well.
static FIRST_CORE: AtomicUsize = AtomicUsize::new(0);

impl Controller {
    /// Makes the socket and serves whoever connects.
    ///
    /// # Errors
    /// [`ControllerError`], and then nothing has changed.
    pub fn start(config: ControllerConfig) -> Result<Self, ControllerError> {
        let prepared = Prepared::new(config)?;
        let listener = Listener::bind(&prepared.socket_path)?;
        prepared.run(listener, Beginning::Listening)
    }

    /// Takes one over from another process: holds its socket and its client, and does nothing with either until it is
    /// [resumed](Self::begin_resume). Whatever takes long is done here: mapping and pinning memory, and letting the cores know of it.
    ///
    /// # Errors
    /// [`ControllerError`], and then nothing has changed, here or for the client.
    pub fn adopt(config: ControllerConfig, parcel: ControllerParcel) -> Result<Self, ControllerError> {
        let pin = config.pin_guest_memory.clone();
        let prepared = Prepared::new(ControllerConfig { socket_path: parcel.socket_path, ..config })?;
        let refused = |error: UnpackError| ControllerError::Parcel { name: prepared.served.name.clone(), because: error.to_string() };
        let socket = parcel.listener.into_owned().map_err(|error| refused(error.into()))?;
        let listener = Listener::adopt(socket, &prepared.socket_path)?;
        let unpack = |session| Session::unpack(Arc::clone(&prepared.served), session, pin.as_ref()).map(Box::new);
        let session = parcel.session.map(unpack).transpose().map_err(refused)?;
        prepared.run(listener, Beginning::Held(session))
    }

    /// Holds its client and its socket as they are, but for the queues, which go on; says what there is to hand over. Its
    /// front end waits for answers from now on, and new clients in the backlog.
    ///
    /// # Errors
    /// [`HandOverError`], and then it goes on as before.
    pub fn hold(&self) -> Result<ControllerParcel, HandOverError> {
        self.ask(|reply| Command::Hold { reply }).recv().map_err(|_| self.unready())?
    }

    /// Tells the queues of a held controller to stop, and waits for what is in flight no longer than `patience`. The
    /// receiver yields where the rings go on.
    #[must_use]
    pub fn begin_pause(&self, patience: Duration) -> Receiver<Result<Places, HandOverError>> {
        self.ask(|reply| Command::Pause { patience, reply })
    }

    /// Tells an adopted controller where its rings go on.
    ///
    /// # Errors
    /// [`HandOverError`] if that cannot be.
    pub fn place(&self, places: Places) -> Result<(), HandOverError> {
        self.ask(|reply| Command::Place { places, reply }).recv().map_err(|_| self.unready())?
    }

    /// Lets a held controller serve: its client goes on, and others may come. The receiver yields when the queues run, by
    /// [`now_ns`](crate::now_ns).
    #[must_use]
    pub fn begin_resume(&self) -> Receiver<u64> {
        self.ask(|reply| Command::Resume { reply })
    }

    fn unready(&self) -> HandOverError {
        HandOverError::Unready { name: self.name.clone() }
    }

    /// Sends a command. A thread that has ended drops it, and its reply with it.
    fn ask<T>(&self, command: impl FnOnce(Sender<T>) -> Command) -> Receiver<T> {
        let (reply, answer) = bounded(1);
        if self.commands.send(command(reply)).is_ok() {
            self.shared.wake();
        }
        answer
    }

    /// What it is now.
    #[must_use]
    pub fn info(&self) -> ControllerInfo {
        ControllerInfo {
            name: self.name.clone(),
            socket_path: self.socket_path.clone(),
            queues_max: self.queues_max,
            state: locked(&self.shared.state).clone(),
        }
    }

    /// The disk's size has changed: lets the guest know, at once or when it runs.
    pub fn resized(&self) {
        self.shared.resized.store(true, Ordering::Release);
        self.shared.wake();
    }

    /// The device gives other channels from now on: lets every queue drain, and open its channel again.
    ///
    /// It begins at once and ends as soon as what is in flight has ended; a message of the client is served after that.
    pub fn reopen(&self) {
        self.shared.reopens.store(true, Ordering::Release);
        self.shared.wake();
    }

    /// What moves its queues, from any thread.
    #[must_use]
    pub fn mover(&self) -> Mover {
        Mover::new(&self.name, self.queues_max, self.core_ids.clone(), self.commands.clone(), &self.shared)
    }

    /// Ends the session, if there is one, gives its requests until `deadline` to come back, and frees everything.
    ///
    /// Waits at most `deadline`, and before it the drain deadline if the client has just asked for a queue to stop.
    ///
    /// # Errors
    /// [`StopError`] if requests did not come back. Then nobody is served any more, and all
    /// is freed when they do; calling again answers whether they have.
    pub fn stop(&self, deadline: Duration) -> Result<(), StopError> {
        // It fails only once the thread has ended, which it does when everything is free.
        if let Ok(Err(outstanding)) = self.ask(|reply| Command::Stop { deadline, reply }).recv() {
            return Err(StopError { name: self.name.clone(), outstanding });
        }
        if let Some(thread) = locked(&self.thread).take() {
            assert!(thread.join().is_ok(), "the thread of {} panicked", self.name);
        }
        Ok(())
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        if let Err(error) = self.stop(self.drain_deadline) {
            tracing::error!(controller = self.name, reason = %error, "left behind");
        }
    }
}
