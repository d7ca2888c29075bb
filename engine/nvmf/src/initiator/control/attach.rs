//! Controllers are attached and detached. Knows no connection.

use std::net::SocketAddr;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use spinel_nvme::fabrics::{Authentication, Connected};

use super::super::host::Network;
use super::super::note::{LaneId, Reply, Told};
use super::super::options::AttachSpec;
use super::super::queue::End;
use super::super::view::{PathId, Policy};
use super::devices::Group;
use super::path::{Path, Stage, Use};
use super::{Initiator, State};
use crate::auth::{HostAuth, Parties, Step};

/// Most controllers.
pub(super) const PATHS_MAX: usize = 256;

/// A controller that is there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Attached {
    /// Its namespaces.
    pub namespaces: Vec<u32>,
}

/// Why a controller is not attached, or cannot be changed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AttachError {
    /// The name is taken.
    #[error("there is a controller '{name}' already, and another way to it was not asked for")]
    Exists {
        /// The name.
        name: String,
    },
    /// It is attached already.
    #[error("controller '{name}' is reached by {address} already")]
    Same {
        /// The name.
        name: String,
        /// Where.
        address: SocketAddr,
    },
    /// The name is that of another subsystem's controller.
    #[error("controller '{name}' is one of {subsystem}: another way to it has to be, too")]
    Subsystem {
        /// The name.
        name: String,
        /// The subsystem.
        subsystem: String,
    },
    /// There are too many.
    #[error("there are {PATHS_MAX} controllers already; detach one first")]
    Full,
    /// There is none.
    #[error("there is no controller '{name}'{}", address.map_or(String::new(), |address| format!(" at {address}")))]
    Unknown {
        /// The name.
        name: String,
        /// Where.
        address: Option<SocketAddr>,
    },
    /// It cannot be used.
    #[error("controller at {address}: {why}")]
    Failed {
        /// Where.
        address: SocketAddr,
        /// Why.
        why: String,
    },
    /// It is detached before it is there.
    #[error("it was detached before it was there")]
    Detached,
}

/// A controller that is being attached.
#[derive(Debug)]
#[must_use = "it is attached in the background"]
pub struct Attaching(Receiver<Result<Attached, AttachError>>);

impl Attaching {
    pub(super) fn of(decided: Receiver<Result<Attached, AttachError>>) -> Self {
        Self(decided)
    }

    /// Waits for it; `None` if that takes longer.
    #[must_use]
    pub fn wait(&self, patience: Duration) -> Option<Result<Attached, AttachError>> {
        self.0.recv_timeout(patience).ok()
    }

    /// What became of it, if it is decided.
    #[must_use]
    pub fn decided(&self) -> Option<Result<Attached, AttachError>> {
        self.0.try_recv().ok()
    }
}

/// Controllers that are being detached.
#[derive(Debug)]
#[must_use = "they are detached in the background"]
pub struct Detaching(Vec<Receiver<()>>);

impl Detaching {
    pub(super) fn of(gone: Vec<Receiver<()>>) -> Self {
        Self(gone)
    }

    /// Waits until they have gone; false if that takes longer.
    #[must_use]
    pub fn wait(&self, patience: Duration) -> bool {
        self.0.iter().all(|gone| gone.recv_timeout(patience).is_ok())
    }

    /// Whether they have gone.
    pub fn is_done(&mut self) -> bool {
        self.0.retain(|gone| matches!(gone.try_recv(), Err(crossbeam_channel::TryRecvError::Empty)));
        self.0.is_empty()
    }
}

impl<N: Network> Initiator<N> {
    /// Attaches a controller, in the background.
    ///
    /// # Errors
    /// [`AttachError`] if that is known to be in vain.
    pub fn attach(&self, spec: AttachSpec) -> Result<Attaching, AttachError> {
        let attaching = self.state().attach(spec)?;
        self.poke();
        Ok(attaching)
    }

    /// Detaches the controllers of a name, or the one of them at this address.
    ///
    /// # Errors
    /// [`AttachError::Unknown`].
    pub fn detach(&self, name: &str, address: Option<SocketAddr>) -> Result<Detaching, AttachError> {
        let detaching = self.state().detach(name, address)?;
        self.poke();
        Ok(detaching)
    }

    /// Resets the controllers of a name, or the one of them that has this number: each is stopped and connected again.
    ///
    /// # Errors
    /// [`AttachError::Unknown`].
    pub fn reset(&self, name: &str, number: Option<u16>) -> Result<(), AttachError> {
        let mut state = self.state();
        let paths = state.paths_of(name, |path| number.is_none() || path.number == number)?;
        for id in paths {
            state.stop(id, "an administrator asked for it");
        }
        Ok(())
    }

    /// Chooses which of several ways requests take.
    ///
    /// # Errors
    /// [`AttachError::Unknown`].
    pub fn set_policy(&self, name: &str, policy: Policy) -> Result<(), AttachError> {
        let mut state = self.state();
        state.paths_of(name, |_| true)?;
        if let Some(group) = state.groups.get_mut(name) {
            group.policy = policy;
        }
        state.publish(name, false);
        Ok(())
    }

    /// Prefers the way by the controller of this number.
    ///
    /// # Errors
    /// [`AttachError::Unknown`].
    pub fn prefer(&self, name: &str, number: u16) -> Result<(), AttachError> {
        let mut state = self.state();
        let chosen = state.paths_of(name, |path| path.number == Some(number))?;
        for id in state.paths_of(name, |_| true)? {
            state.path(id).preferred = chosen.contains(&id);
        }
        state.publish(name, false);
        Ok(())
    }
}

impl<N: Network> State<N> {
    fn attach(&mut self, spec: AttachSpec) -> Result<Attaching, AttachError> {
        let name = spec.name.clone();
        let known = self.paths.values().filter(|path| path.spec.name == name);
        for path in known {
            if path.spec.subsystem != spec.subsystem {
                return Err(AttachError::Subsystem { name, subsystem: path.spec.subsystem.to_string() });
            }
            if path.spec.address == spec.address {
                return Err(AttachError::Same { name, address: spec.address });
            }
            if !spec.multipath {
                return Err(AttachError::Exists { name });
            }
        }
        if self.paths.len() >= PATHS_MAX {
            return Err(AttachError::Full);
        }
        let usual = self.settings.policy;
        let group = self.groups.entry(name).or_insert_with(|| Group::new(usual));
        if let Some(policy) = spec.policy {
            group.policy = policy;
        }
        let (awaited, decided) = bounded(1);
        let id = PathId(self.next());
        let now = self.now;
        self.paths.insert(id, Path::new(spec, now, awaited));
        Ok(Attaching(decided))
    }

    /// The controllers of a name, of which some fact holds.
    fn paths_of(&self, name: &str, which: impl Fn(&Path) -> bool) -> Result<Vec<PathId>, AttachError> {
        let found = self.paths.iter().filter(|(_, path)| path.spec.name == name && !path.leaving && which(path));
        let found: Vec<PathId> = found.map(|(id, _)| *id).collect();
        if found.is_empty() { Err(AttachError::Unknown { name: name.into(), address: None }) } else { Ok(found) }
    }

    fn detach(&mut self, name: &str, address: Option<SocketAddr>) -> Result<Detaching, AttachError> {
        let found = self.paths_of(name, |path| address.is_none_or(|address| path.spec.address == address));
        let found = found.map_err(|_| AttachError::Unknown { name: name.into(), address })?;
        let mut gone = Vec::new();
        for id in found {
            let (sender, receiver) = bounded(1);
            self.path(id).missed.push(sender);
            gone.push(receiver);
            self.leave(id);
        }
        Ok(Detaching(gone))
    }

    /// A controller is to go.
    pub(super) fn leave(&mut self, id: PathId) {
        let path = self.path(id);
        path.leaving = true;
        let (stage, name) = (path.stage, path.spec.name.clone());
        match stage {
            Stage::Live => self.stop(id, "it is detached"),
            Stage::Starting => self.close(id),
            Stage::Resting(_) => self.forget(id),
            Stage::Stopping(_) | Stage::Closing => {}
        }
        self.publish(&name, false);
    }

    /// Nothing is left of a controller.
    pub(super) fn forget(&mut self, id: PathId) {
        let Some(path) = self.paths.remove(&id) else { return };
        let name = path.spec.name.clone();
        if let Some(awaited) = path.awaited {
            let why = path.trouble.unwrap_or_else(|| "it cannot be reached".into());
            let error = if path.leaving { AttachError::Detached } else { AttachError::Failed { address: path.spec.address, why } };
            self.answers.push((awaited, Err(error)));
        }
        self.farewells.extend(path.missed);
        self.update(&name);
        self.publish(&name, false);
        if !self.paths.values().any(|other| other.spec.name == name) {
            self.groups.remove(&name);
        }
        self.tell_discovered();
    }

    /// Whoever waits for a controller is told that it is there.
    pub(super) fn answer_awaited(&mut self, id: PathId) {
        let path = self.path(id);
        let namespaces = path.script.namespaces.keys().copied().collect();
        if let Some(awaited) = path.awaited.take() {
            self.answers.push((awaited, Ok(Attached { namespaces })));
        }
        self.tell_discovered();
    }

    /// What is to be told to whoever waits.
    pub(super) fn take_answers(&mut self) -> Answers {
        std::mem::take(&mut self.answers)
    }

    /// A queue has to authenticate before it is used.
    pub(super) fn authenticate(&mut self, id: PathId, lane: LaneId, connected: Connected) {
        if connected.authenticate_secured {
            return self.fail(id, "it wants to authenticate over a secure channel, which is not there");
        }
        let transaction = u16::try_from(self.next() & 0xffff).expect("masked");
        let path = self.path(id);
        let Some(secrets) = path.spec.secrets.clone() else {
            return self.fail(id, "it wants this host to prove who it is, and there is no secret for that");
        };
        let parties = Parties {
            host: path.spec.me.name.clone(),
            subsystem: path.spec.subsystem.clone(),
            host_key: secrets.host,
            controller_key: secrets.controller,
        };
        self.auths.insert(lane, (HostAuth::new(parties, secrets.policy, transaction), 0));
        self.prove(id, lane);
    }

    /// The next message of an authentication.
    fn prove(&mut self, id: PathId, lane: LaneId) {
        let ask = self.next();
        let Some((auth, asked)) = self.auths.get_mut(&lane) else { return };
        let none = spinel_nvme::sgl::Sgl::transport(0);
        let (command, out, room_bytes) = match auth.step() {
            Step::Send(bytes) => {
                let len_bytes = u32::try_from(bytes.len()).expect("messages are short");
                (Authentication::new(len_bytes).send(none), bytes.to_vec(), 0)
            }
            Step::Receive { room_bytes } => {
                let room_bytes = u32::try_from(room_bytes).expect("messages are short");
                (Authentication::new(room_bytes).receive(none), Vec::new(), room_bytes)
            }
            Step::End(state) => {
                self.auths.remove(&lane);
                return self.proved(id, lane, state);
            }
        };
        *asked = ask;
        if let Some(wire) = self.path(id).wires.get(&lane).copied() {
            self.tell(wire.host, Told::Ask { lane, ask, command, out, room_bytes });
        }
    }

    pub(super) fn auth_answered(&mut self, id: PathId, lane: LaneId, ask: u64, reply: &Reply) {
        let Some((auth, asked)) = self.auths.get_mut(&lane) else { return };
        if *asked != ask {
            return;
        }
        match (reply.end, auth.step()) {
            (End::Answered { status, .. }, _) if !status.is_success() => {
                return self.fail(id, &format!("it refuses to authenticate: {status}"));
            }
            (End::Lost, _) => return,
            (_, Step::Send(_)) => auth.sent(),
            (_, Step::Receive { .. }) => auth.received(&reply.data, &mut *self.random),
            (_, Step::End(_)) => {}
        }
        self.prove(id, lane);
    }

    fn proved(&mut self, id: PathId, lane: LaneId, state: crate::auth::State) {
        match state {
            crate::auth::State::Done { .. } => match self.path(id).wires.get(&lane).map(|wire| wire.what) {
                Some(Use::Admin) => self.go_on(id),
                Some(Use::Io { .. }) => self.serve(id, lane),
                None => {}
            },
            crate::auth::State::Failed(failure) => self.fail(id, &failure.to_string()),
            crate::auth::State::Pending => unreachable!("it has ended"),
        }
    }
}

/// What is to be told to whoever waits for controllers to be there.
pub(super) type Answers = Vec<(Sender<Result<Attached, AttachError>>, Result<Attached, AttachError>)>;
