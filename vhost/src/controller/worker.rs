//! The controller's thread: listening, serving, and waiting for what is left of a session. Knows no request.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use spinel_core::OpenError;
use spinel_mem::Region;

use super::listener::Listener;
use super::{ControllerState, HandOverError, Pin, Shared, locked};
use crate::handover::{ControllerParcel, Places, now_ns};
use crate::memory::SLOTS_MAX;
use crate::message::ReadError;
use crate::session::{Deadline, End, Hung, Quarantine, Served, Session};

/// How long the listener rests after the system had no descriptor for a client.
const ACCEPT_REST: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };
/// How often a queue that moves is looked after while its requests are out.
const MOVE_REST: Timespec = Timespec { tv_sec: 0, tv_nsec: 5_000_000 };

/// What a controller's owner tells its thread.
pub(super) enum Command {
    /// End the session and the thread. The reply is what is outstanding at the deadline, if anything is.
    Stop { deadline: Duration, reply: Sender<Result<(), u64>> },
    /// This queue belongs on the core at `to`. The reply is why it cannot run there, if it cannot.
    Move { queue: u16, to: usize, reply: Sender<Option<OpenError>> },
    /// Touch neither socket nor client from now on, but let the queues run. The reply is what there is to hand over.
    Hold { reply: Sender<Result<ControllerParcel, HandOverError>> },
    /// Stop the queues of what is held. The reply is where the rings go on.
    Pause { patience: Duration, reply: Sender<Result<Places, HandOverError>> },
    /// The rings of what is held go on there.
    Place { places: Places, reply: Sender<Result<(), HandOverError>> },
    /// Serve what is held. The reply is when its queues run.
    Resume { reply: Sender<u64> },
}

/// How a controller's thread begins.
pub(super) enum Beginning {
    Listening,
    /// With what another process has handed over, perhaps a client.
    Held(Option<Box<Session>>),
}

/// Pins regions one after another on a thread of its own, which ends with the last sender of jobs.
pub(super) struct Pinner {
    jobs: Sender<Weak<Region>>,
    pinned: Receiver<Weak<Region>>,
}

impl Pinner {
    pub(super) fn start(name: &str, pin: Pin, shared: &Arc<Shared>) -> io::Result<Self> {
        let (jobs, todo) = bounded::<Weak<Region>>(2 * SLOTS_MAX);
        let (done, pinned) = bounded(2 * SLOTS_MAX);
        let shared = Arc::clone(shared);
        let body = move || {
            for job in todo {
                // A region that is gone, or has its pins from an earlier job, needs none.
                if let Some(region) = job.upgrade().filter(|region| region.pins().is_none()) {
                    pin(&region);
                    drop(region);
                    if done.send(job).is_err() {
                        return;
                    }
                    shared.wake();
                }
            }
        };
        std::thread::Builder::new().name(format!("pin-{name}")).spawn(body)?;
        Ok(Self { jobs, pinned })
    }

    pub(super) fn jobs(&self) -> Sender<Weak<Region>> {
        self.jobs.clone()
    }
}

/// What the thread is about.
enum Phase {
    Listening,
    Serving(Box<Session>),
    /// It is between two processes, perhaps with a client.
    Held(Option<Box<Session>>),
    /// Requests did not come back in time.
    Waiting(Box<Quarantine>),
    Ended,
}

/// The controller's thread.
pub(super) struct Worker {
    served: Arc<Served>,
    shared: Arc<Shared>,
    commands: Receiver<Command>,
    pinner: Option<Pinner>,
    /// The system had no descriptor for the client that waits.
    resting: bool,
    /// It was logged that another client waits behind the one that is served.
    queue_noticed: bool,
}

impl Worker {
    pub(super) fn new(served: Arc<Served>, shared: Arc<Shared>, commands: Receiver<Command>, pinner: Option<Pinner>) -> Self {
        Self { served, shared, commands, pinner, resting: false, queue_noticed: false }
    }

    pub(super) fn run(mut self, listener: Listener, beginning: Beginning) {
        let mut listener = Some(listener);
        let mut phase = match beginning {
            Beginning::Listening => Phase::Listening,
            Beginning::Held(session) => Phase::Held(session),
        };
        loop {
            self.publish(&phase);
            phase = match phase {
                Phase::Listening => self.listen(&mut listener),
                Phase::Serving(session) => self.serve(session, &mut listener),
                Phase::Held(session) => self.keep(session, &mut listener),
                Phase::Waiting(quarantine) => self.wait(*quarantine, &mut listener),
                Phase::Ended => return,
            };
        }
    }

    fn publish(&self, phase: &Phase) {
        *locked(&self.shared.state) = match phase {
            Phase::Listening | Phase::Held(None) => ControllerState::Listening,
            Phase::Serving(session) | Phase::Held(Some(session)) => ControllerState::Connected(session.describe()),
            Phase::Waiting(quarantine) => ControllerState::Quarantined { outstanding: quarantine.outstanding() },
            Phase::Ended => ControllerState::Stopped,
        };
    }

    fn listen(&mut self, listener: &mut Option<Listener>) -> Phase {
        // It is given up when the owner asks to stop.
        let Some(listening) = listener else { return Phase::Ended };
        let poke = self.shared.poke.0.as_fd();
        let rest = self.resting.then_some(&ACCEPT_REST);
        let ready = wait_for(&[Some(poke), (!self.resting).then(|| listening.as_fd())], rest);
        self.resting = false;
        match self.obey() {
            Some(Command::Stop { reply, .. }) => return self.end(None, &reply, listener),
            Some(Command::Hold { reply }) => return self.hold(None, &reply, listener),
            // Whoever asked for anything else hears that it was dropped.
            Some(_) | None => {}
        }
        // A session that begins now reads the size as it is now, and opens channels as they are now.
        self.shared.resized.store(false, Ordering::Relaxed);
        self.shared.reopens.store(false, Ordering::Relaxed);
        if !ready[1] {
            return Phase::Listening;
        }
        match listening.accept() {
            Ok(Some(client)) => self.welcome(client),
            Ok(None) => Phase::Listening,
            Err(error) => {
                tracing::warn!(controller = self.served.name, reason = %error, "a client could not be accepted; trying again in a second");
                self.resting = true;
                Phase::Listening
            }
        }
    }

    fn welcome(&mut self, client: OwnedFd) -> Phase {
        tracing::info!(controller = self.served.name, "a client has connected");
        self.queue_noticed = false;
        Phase::Serving(Box::new(Session::new(Arc::clone(&self.served), client)))
    }

    fn serve(&mut self, mut session: Box<Session>, listener: &mut Option<Listener>) -> Phase {
        let poke = self.shared.poke.0.as_fd();
        let others = listener.as_ref().filter(|_| !self.queue_noticed).map(AsFd::as_fd);
        let rest = session.is_moving().then_some(&MOVE_REST);
        let ready = wait_for(&[Some(poke), Some(session.socket()), session.front_end(), others], rest);
        let command = match self.obey_beside(&mut session) {
            Ok(command) => command,
            Err(end) => return self.part(*session, &end),
        };
        match command {
            Some(Command::Stop { deadline, reply }) => return self.stop_session(*session, deadline, &reply, listener),
            Some(Command::Hold { reply }) => return self.hold(Some(session), &reply, listener),
            Some(_) | None => {}
        }
        if ready[3] {
            self.queue_noticed = true;
            tracing::warn!(controller = self.served.name, "another client waits until this one has left");
        }
        if self.shared.resized.swap(false, Ordering::Acquire) {
            session.resized();
        }
        for region in self.pinner.iter().flat_map(|pinner| pinner.pinned.try_iter()) {
            session.pinned(&region);
        }
        if ready[2] {
            session.receive_answer();
        }
        let reopened = if self.shared.reopens.swap(false, Ordering::Acquire) { session.reopen() } else { Ok(()) };
        let mut outcome = reopened.and_then(|()| session.settle());
        if ready[1] && outcome.is_ok() {
            outcome = session.receive();
        }
        match outcome {
            Ok(()) => Phase::Serving(session),
            Err(end) => self.part(*session, &end),
        }
    }

    fn stop_session(
        &self,
        session: Session,
        deadline: Duration,
        reply: &Sender<Result<(), u64>>,
        listener: &mut Option<Listener>,
    ) -> Phase {
        tracing::info!(controller = self.served.name, "the session ends: the controller is stopped");
        let (left, _connection) = session.end(deadline);
        self.end(left, reply, listener)
    }

    /// Packs what there is to hand over, and keeps it as it is from then on.
    fn hold(
        &self,
        session: Option<Box<Session>>,
        reply: &Sender<Result<ControllerParcel, HandOverError>>,
        listener: &Option<Listener>,
    ) -> Phase {
        let name = || self.served.name.clone();
        let resized = self.shared.resized.load(Ordering::Acquire);
        let parcel = listener.as_ref().ok_or_else(|| HandOverError::Unready { name: name() }).and_then(|listener| {
            let parcel = listener.pack(session.as_deref().map(|session| session.pack(resized)));
            parcel.map_err(|source| HandOverError::Descriptors { name: name(), source })
        });
        let held = parcel.is_ok();
        let _ = reply.send(parcel);
        match session {
            session if held => Phase::Held(session),
            Some(session) => Phase::Serving(session),
            None => Phase::Listening,
        }
    }

    /// Waits for what is to become of what is held.
    fn keep(&self, mut session: Option<Box<Session>>, listener: &mut Option<Listener>) -> Phase {
        let name = || self.served.name.clone();
        // One at a time: what was poked for once may be several.
        if self.commands.is_empty() {
            wait_for(&[Some(self.shared.poke.0.as_fd())], None);
            self.empty_poke();
        }
        match self.commands.try_recv().ok() {
            // Whoever asked for one of these hears that it was dropped.
            None | Some(Command::Hold { .. } | Command::Move { .. }) => {}
            Some(Command::Stop { deadline, reply }) => {
                return match session {
                    Some(session) => self.stop_session(*session, deadline, &reply, listener),
                    None => self.end(None, &reply, listener),
                };
            }
            Some(Command::Pause { patience, reply }) => {
                let places = session.as_mut().map_or_else(|| Ok(Places::default()), |session| session.pause(patience));
                let outstanding = |hung: Hung| HandOverError::Hung { name: name(), outstanding: hung.outstanding, patience };
                let _ = reply.send(places.map_err(outstanding));
            }
            Some(Command::Place { places, reply }) => {
                let placed = session.as_mut().map_or(Ok(()), |session| session.place(&places));
                let _ = reply.send(placed.map_err(|error| HandOverError::Misfit { name: name(), because: error.to_string() }));
            }
            Some(Command::Resume { reply }) => return self.go_on(session, &reply, listener),
        }
        Phase::Held(session)
    }

    /// Serves what was held.
    fn go_on(&self, session: Option<Box<Session>>, reply: &Sender<u64>, listener: &mut Option<Listener>) -> Phase {
        if let Some(listener) = listener {
            listener.own();
        }
        let Some(mut session) = session else {
            let _ = reply.send(now_ns());
            return Phase::Listening;
        };
        let outcome = session.settle();
        let _ = reply.send(now_ns());
        // What was asked of it meanwhile is looked at once more.
        self.shared.wake();
        match outcome {
            Ok(()) => Phase::Serving(session),
            Err(end) => self.part(*session, &end),
        }
    }

    /// Ends a session for a reason of its own.
    fn part(&self, session: Session, end: &End) -> Phase {
        let name = &self.served.name;
        // Whoever has waited in vain once need not do so again.
        let patience = if matches!(end, End::Hung { .. }) { Duration::ZERO } else { self.served.drain_deadline };
        if matches!(end, End::Read(ReadError::Closed)) {
            tracing::info!(controller = name, reason = %end, "the session ends");
        } else {
            tracing::warn!(controller = name, reason = %end, "the connection is closed");
        }
        let (left, connection) = session.end(patience);
        let phase = match left {
            None => {
                tracing::info!(controller = name, "the session's queues have drained and its memory is unmapped");
                Phase::Listening
            }
            Some(quarantine) => {
                let outstanding = quarantine.outstanding();
                tracing::error!(controller = name, outstanding, "requests did not come back in time: no client is served until they do");
                Phase::Waiting(Box::new(quarantine))
            }
        };
        // Whoever sees the connection close finds the controller's state up to date.
        self.publish(&phase);
        drop(connection);
        phase
    }

    /// Waits for requests that missed their deadline, or for the owner.
    fn wait(&self, quarantine: Quarantine, listener: &mut Option<Listener>) -> Phase {
        let never = Deadline::after(Duration::MAX);
        let Some(quarantine) = quarantine.wait(&self.commands, never) else {
            tracing::info!(controller = self.served.name, "the last requests have come back: the quarantine is over");
            return if listener.is_some() { Phase::Listening } else { Phase::Ended };
        };
        match self.obey() {
            Some(Command::Stop { deadline, reply }) => {
                let left = quarantine.wait(&self.commands, Deadline::after(deadline));
                return self.end(left, &reply, listener);
            }
            Some(Command::Hold { reply }) => {
                let name = self.served.name.clone();
                let _ = reply.send(Err(HandOverError::Quarantined { name, outstanding: quarantine.outstanding() }));
            }
            Some(_) | None => {}
        }
        Phase::Waiting(Box::new(quarantine))
    }

    /// Answers the owner, who wants this thread to end: now, or once the quarantine is over.
    fn end(&self, left: Option<Quarantine>, reply: &Sender<Result<(), u64>>, listener: &mut Option<Listener>) -> Phase {
        // Whoever waits in the backlog is turned away, and the file is gone before the owner hears of it.
        *listener = None;
        let outcome = left.as_ref().map_or(Ok(()), |quarantine| Err(quarantine.outstanding()));
        let phase = left.map_or(Phase::Ended, |quarantine| Phase::Waiting(Box::new(quarantine)));
        self.publish(&phase);
        let _ = reply.send(outcome);
        phase
    }

    /// Obeys the owner while nobody is served, as far as the thread goes on as before.
    fn obey(&self) -> Option<Command> {
        self.empty_poke();
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::Move { queue, to, reply } => {
                    self.served.homes.put(queue, to);
                    let _ = reply.send(None);
                }
                other => return Some(other),
            }
        }
        None
    }

    /// The same during a session.
    fn obey_beside(&self, session: &mut Session) -> Result<Option<Command>, End> {
        self.empty_poke();
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::Move { queue, to, reply } => {
                    let refused = session.move_queue(queue, to)?;
                    // Whoever asked finds the queue where it is now.
                    *locked(&self.shared.state) = ControllerState::Connected(session.describe());
                    let _ = reply.send(refused);
                }
                other => return Ok(Some(other)),
            }
        }
        Ok(None)
    }

    /// Before commands are looked for: in this order none is missed.
    fn empty_poke(&self) {
        let mut count = [0; 8];
        let _ = rustix::io::read(&self.shared.poke.0, &mut count);
    }
}

/// Sleeps until one of these can be read, has ended, or `rest` is over. By place: whether it is.
fn wait_for<const N: usize>(watched: &[Option<BorrowedFd<'_>>; N], rest: Option<&Timespec>) -> [bool; N] {
    let mut fds: Vec<PollFd<'_>> = watched.iter().flatten().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
    match poll(&mut fds, rest) {
        Ok(_) | Err(Errno::INTR) => {}
        Err(errno) => panic!("poll of a few descriptors of our own cannot fail: {errno}"),
    }
    let mut fds = fds.iter();
    std::array::from_fn(|at| watched[at].is_some() && fds.next().is_some_and(|fd| !fd.revents().is_empty()))
}
