//! The control side: which controllers there are, how they stand, and which devices they lead to. Knows no request.
//!
//! Everything is a message: cores tell what happened ([`Said`]), and are told what to do. Nothing here is on the way of a
//! request, and nothing waits: a turn does what has become due.

mod attach;
mod devices;
mod discovery;
mod facts;
mod ghost;
mod info;
mod path;
mod run;
mod script;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use spinel_core::{Core, Device, Instant, OpenError};

use super::host::{Host, Network};
use super::note::{Association, HostId, LaneId, Link, Said, Told};
use super::options::Settings;
use super::view::{DeviceId, PathId};
use crate::auth::HostAuth;
pub use attach::{AttachError, Attached, Attaching, Detaching};
use devices::Group;
use discovery::Discovery;
pub use discovery::{DiscoverSpec, DiscoveryInfo};
use ghost::Ghost;
pub use info::{PathInfo, PathState, Reach, WayInfo};
use path::Path;
pub use script::ScriptError;

/// What becomes of namespaces.
pub enum Event {
    /// One is there.
    Appeared {
        /// The controller's name.
        name: String,
        /// The namespace.
        nsid: u32,
        /// Its UUID, if it has one.
        uuid: Option<[u8; 16]>,
        /// As a device.
        device: Arc<dyn Device>,
    },
    /// One has another size, or may be written to or not.
    Changed {
        /// The controller's name.
        name: String,
        /// The namespace.
        nsid: u32,
    },
    /// One has gone: its requests fail.
    Vanished {
        /// The controller's name.
        name: String,
        /// The namespace.
        nsid: u32,
    },
}

#[allow(clippy::disallowed_types, reason = "control threads only; no reactor ever takes it")]
type Locked<T> = std::sync::Mutex<T>;

/// Fills a slice with random bytes.
type Random = Box<dyn FnMut(&mut [u8]) + Send>;

/// Everything that is known.
struct State<N> {
    network: Arc<N>,
    said: Sender<Said>,
    settings: Settings,
    hosts: BTreeMap<HostId, Link>,
    /// Cores that stay: where admin queues are.
    homes: BTreeSet<HostId>,
    groups: BTreeMap<String, Group<N>>,
    paths: BTreeMap<PathId, Path>,
    discoveries: BTreeMap<String, Discovery>,
    lanes: BTreeMap<LaneId, PathId>,
    /// Where channels of devices are open.
    wanted: BTreeMap<DeviceId, BTreeSet<HostId>>,
    ghosts: Vec<Ghost>,
    random: Random,
    events: Vec<Event>,
    /// Who is to be told what of controllers they wait for; and who, that one has gone.
    answers: attach::Answers,
    farewells: Vec<Sender<()>>,
    /// Authentications that are under way, and the question that is outstanding of each.
    auths: BTreeMap<LaneId, (HostAuth, u64)>,
    next_id: u64,
    now: Instant,
    quitting: bool,
}

struct Shared<N> {
    state: Locked<State<N>>,
    heard: Receiver<Said>,
    wake: Sender<Said>,
}

/// The initiator. Cloned freely: all clones are one.
pub struct Initiator<N> {
    shared: Arc<Shared<N>>,
}

impl<N> Clone for Initiator<N> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<N: Network> Initiator<N> {
    /// An initiator without controllers, which connects by this network. `random` fills a slice with bytes that nobody can
    /// predict.
    #[must_use]
    pub fn new(network: N, settings: Settings, random: impl FnMut(&mut [u8]) + Send + 'static) -> Self {
        let (said, heard) = unbounded();
        let state = State {
            network: Arc::new(network),
            said: said.clone(),
            settings,
            hosts: BTreeMap::new(),
            homes: BTreeSet::new(),
            groups: BTreeMap::new(),
            paths: BTreeMap::new(),
            discoveries: BTreeMap::new(),
            lanes: BTreeMap::new(),
            wanted: BTreeMap::new(),
            ghosts: Vec::new(),
            random: Box::new(random),
            events: Vec::new(),
            answers: Vec::new(),
            farewells: Vec::new(),
            auths: BTreeMap::new(),
            next_id: 0,
            now: Instant::default(),
            quitting: false,
        };
        Self { shared: Arc::new(Shared { state: Locked::new(state), heard, wake: said }) }
    }

    #[allow(clippy::disallowed_types, reason = "see the type")]
    fn state(&self) -> std::sync::MutexGuard<'_, State<N>> {
        self.shared.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Lets admin queues live on this core, which has to stay as long as there are controllers.
    ///
    /// # Errors
    /// When the core has no memory or no descriptor left.
    pub fn join(&self, core: &mut Core) -> Result<(), OpenError> {
        let (network, said) = {
            let state = self.state();
            (Arc::clone(&state.network), state.said.clone())
        };
        let host = Host::of(core, &*network, &said)?;
        let _ = said.send(Said::Home(host.borrow().id()));
        Ok(())
    }

    /// What holds for every controller.
    #[must_use]
    pub fn settings(&self) -> Settings {
        self.state().settings.clone()
    }

    /// Changes that; controllers that are connected go on as they were.
    pub fn set_settings(&self, settings: Settings) {
        self.state().settings = settings;
    }

    /// Does what cores have said, and what has become due by now. Says when something will be due next. What becomes of
    /// namespaces is told to `listener`, which may ask anything here.
    pub fn turn(&self, now: Instant, listener: &mut dyn FnMut(Event)) -> Option<Instant> {
        let next = {
            let mut state = self.state();
            state.now = now;
            while let Ok(said) = self.shared.heard.try_recv() {
                state.hear(said);
            }
            state.keep_time();
            state.next_at()
        };
        self.tell(listener);
        next
    }

    fn tell(&self, listener: &mut dyn FnMut(Event)) {
        let (events, answers, farewells) = {
            let mut state = self.state();
            (std::mem::take(&mut state.events), state.take_answers(), std::mem::take(&mut state.farewells))
        };
        events.into_iter().for_each(listener);
        // Whoever waits finds the devices there.
        answers.into_iter().for_each(|(to, answer)| {
            let _ = to.send(answer);
        });
        farewells.into_iter().for_each(|to| {
            let _ = to.send(());
        });
    }

    /// Takes turns until [`quit`](Self::quit), for a thread of its own with this clock.
    pub fn run(&self, clock: impl Fn() -> Instant, mut listener: impl FnMut(Event)) {
        loop {
            let next = self.turn(clock(), &mut listener);
            if self.state().quitting {
                return;
            }
            let said = match next {
                Some(next) => self.shared.heard.recv_timeout(std::time::Duration::from_nanos(next.since_ns(clock()).max(1_000_000))),
                None => self.shared.heard.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            if let Ok(said) = said {
                let mut state = self.state();
                state.now = clock();
                state.hear(said);
            }
        }
    }

    /// Lets [`run`](Self::run) end. Controllers stay as they are: detach them first.
    pub fn quit(&self) {
        self.state().quitting = true;
        self.poke();
    }

    /// Has the thread look what is to be done.
    fn poke(&self) {
        let _ = self.shared.wake.send(Said::Nothing);
    }
}

impl<N: Network> State<N> {
    fn next(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    fn tell(&self, host: HostId, told: Told) {
        if let Some(link) = self.hosts.get(&host) {
            link.tell(told);
        }
    }

    /// Which controller a connection belongs to, if it is not forgotten.
    fn path_of(&mut self, lane: LaneId) -> Option<(PathId, &mut Path)> {
        let id = *self.lanes.get(&lane)?;
        Some((id, self.paths.get_mut(&id)?))
    }

    fn path(&mut self, id: PathId) -> &mut Path {
        self.paths.get_mut(&id).expect("a controller that is named is there")
    }

    fn ghost(&mut self, association: Association) -> Option<&mut Ghost> {
        self.ghosts.iter_mut().find(|ghost| ghost.association == association)
    }
}
