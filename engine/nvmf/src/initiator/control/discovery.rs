//! Discovery: a controller elsewhere says which subsystems there are and where, and they are attached and detached as it says.
//! Knows no namespace.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use crossbeam_channel::{Sender, bounded};
use spinel_nvme::log::{DiscoveryEntry, EntryKind, TransportType};

use super::super::host::Network;
use super::super::options::{AttachSpec, Me, Patience};
use super::super::view::PathId;
use super::attach::PATHS_MAX;
use super::devices::Group;
use super::path::Path;
use super::{AttachError, Attached, Attaching, Detaching, Initiator, State};
use crate::nqn::{DISCOVERY_NQN, Nqn};

/// A discovery controller to be followed.
#[derive(Clone, Debug)]
pub struct DiscoverSpec {
    /// What it is called here; the controllers that it leads to are called so with a number behind.
    pub name: String,
    /// Where it is.
    pub address: SocketAddr,
    /// Who asks, of all of them.
    pub me: Me,
    /// How long each of them is tried for.
    pub patience: Patience,
    /// Whether it is there only when all that it names is.
    pub wait: bool,
}

/// A subsystem, by what a discovery controller says.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Found {
    pub(super) address: SocketAddr,
    pub(super) subsystem: Nqn,
}

/// What one entry of the log says; none if it is nothing that can be attached.
pub(super) fn found(entry: &DiscoveryEntry) -> Option<Found> {
    if entry.transport != TransportType::Tcp.code() || entry.kind != EntryKind::Nvm.code() {
        return None;
    }
    let host: IpAddr = entry.address_text()?.trim().parse().ok()?;
    let port = entry.service_text()?.trim().parse().ok().filter(|port| *port != 0)?;
    let subsystem = Nqn::of_field(&entry.subsystem).ok().filter(|name| !name.is_discovery())?;
    Some(Found { address: SocketAddr::new(host, port), subsystem })
}

/// A discovery controller that is followed.
pub(super) struct Discovery {
    spec: DiscoverSpec,
    path: PathId,
    /// What it has named, and the controller that was attached for it.
    attached: BTreeMap<Found, PathId>,
    /// What each subsystem's controllers are called.
    names: BTreeMap<Nqn, String>,
    /// The log was read.
    read: bool,
    awaited: Option<Sender<Result<Attached, AttachError>>>,
}

/// A discovery controller, as it stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DiscoveryInfo {
    /// Its name here.
    pub name: String,
    /// Where it is.
    pub address: SocketAddr,
    /// Whether it is connected.
    pub connected: bool,
    /// The controllers that it has led to: name, place and subsystem of each.
    pub controllers: Vec<(String, SocketAddr, String)>,
}

/// What its own controller is called among all others.
fn path_name(name: &str) -> String {
    format!("{name} (discovery)")
}

impl<N: Network> Initiator<N> {
    /// Follows a discovery controller, in the background.
    ///
    /// # Errors
    /// [`AttachError`] if that is known to be in vain.
    pub fn discover(&self, spec: DiscoverSpec) -> Result<Attaching, AttachError> {
        let attaching = self.state().discover(spec)?;
        self.poke();
        Ok(attaching)
    }

    /// Follows it no more, and detaches what it has led to.
    ///
    /// # Errors
    /// [`AttachError::Unknown`].
    pub fn stop_discovery(&self, name: &str) -> Result<Detaching, AttachError> {
        let detaching = self.state().stop_discovery(name)?;
        self.poke();
        Ok(detaching)
    }

    /// Every discovery controller that is followed.
    #[must_use]
    pub fn discoveries(&self) -> Vec<DiscoveryInfo> {
        let state = self.state();
        let describe = |(name, discovery): (&String, &Discovery)| {
            let controllers = discovery.attached.iter().filter(|(_, path)| state.paths.contains_key(path));
            let controllers = controllers.map(|(found, _)| {
                let name = discovery.names.get(&found.subsystem).cloned().unwrap_or_default();
                (name, found.address, found.subsystem.to_string())
            });
            let connected = state.paths.get(&discovery.path).is_some_and(Path::is_live);
            DiscoveryInfo { name: name.clone(), address: discovery.spec.address, connected, controllers: controllers.collect() }
        };
        state.discoveries.iter().map(describe).collect()
    }
}

impl<N: Network> State<N> {
    fn discover(&mut self, spec: DiscoverSpec) -> Result<Attaching, AttachError> {
        if self.discoveries.contains_key(&spec.name) {
            return Err(AttachError::Exists { name: spec.name });
        }
        if self.paths.len() >= PATHS_MAX {
            return Err(AttachError::Full);
        }
        let (awaited, decided) = bounded(1);
        let id = PathId(self.next());
        let own = attach_spec(&spec, path_name(&spec.name), spec.address, Nqn::of_peer(DISCOVERY_NQN.as_bytes()).expect("it is a name"));
        let (first, later) = if spec.wait { (None, Some(awaited)) } else { (Some(awaited), None) };
        // Whoever waits for all learns from the discovery; its own controller must not vanish unnoticed meanwhile.
        let first = first.unwrap_or_else(|| bounded(1).0);
        self.paths.insert(id, Path::new(own, self.now, first));
        let (attached, names) = Default::default();
        let discovery = Discovery { path: id, attached, names, read: false, awaited: later, spec };
        self.discoveries.insert(discovery.spec.name.clone(), discovery);
        Ok(Attaching::of(decided))
    }

    fn stop_discovery(&mut self, name: &str) -> Result<Detaching, AttachError> {
        let discovery = self.discoveries.remove(name).ok_or_else(|| AttachError::Unknown { name: name.into(), address: None })?;
        let mut gone = Vec::new();
        for id in discovery.attached.values().copied().chain([discovery.path]) {
            if let Some(path) = self.paths.get_mut(&id) {
                let (sender, receiver) = bounded(1);
                path.missed.push(sender);
                gone.push(receiver);
                self.leave(id);
            }
        }
        Ok(Detaching::of(gone))
    }

    /// A discovery controller's log was read: what it names is attached, and what it names no more is detached.
    pub(super) fn follow(&mut self, id: PathId) {
        let Some(name) = self.discoveries.iter().find(|(_, discovery)| discovery.path == id).map(|(name, _)| name.clone()) else { return };
        let wanted: BTreeSet<Found> = self.paths[&id].script.found.iter().cloned().collect();
        let discovery = self.discoveries.get_mut(&name).expect("just found");
        discovery.read = true;
        let lost: Vec<Found> = discovery.attached.keys().filter(|found| !wanted.contains(*found)).cloned().collect();
        for found in lost {
            let discovery = self.discoveries.get_mut(&name).expect("just found");
            if let Some(path) = discovery.attached.remove(&found).filter(|path| self.paths.contains_key(path)) {
                self.leave(path);
            }
        }
        for found in wanted {
            self.attach_found(&name, found);
        }
        self.tell_discovered();
    }

    fn attach_found(&mut self, name: &str, found: Found) {
        let discovery = &self.discoveries[name];
        let there = discovery.attached.get(&found).is_some_and(|path| self.paths.contains_key(path));
        let elsewhere = self.paths.values().any(|path| path.spec.address == found.address && path.spec.subsystem == found.subsystem);
        if there || elsewhere || self.paths.len() >= PATHS_MAX {
            return;
        }
        let known = discovery.names.get(&found.subsystem).cloned();
        let called = known.unwrap_or_else(|| {
            let taken = |called: &String| self.groups.contains_key(called) || discovery.names.values().any(|other| other == called);
            (0..).map(|number| format!("{name}{number}")).find(|called| !taken(called)).expect("numbers do not end")
        });
        let spec = attach_spec(&discovery.spec, called.clone(), found.address, found.subsystem.clone());
        let id = PathId(self.next());
        let mut path = Path::new(spec, self.now, bounded(1).0);
        // Nobody waits for it, and it is tried again like one that was lost.
        path.awaited = None;
        self.paths.insert(id, path);
        let usual = self.settings.policy;
        self.groups.entry(called.clone()).or_insert_with(|| Group::new(usual));
        let discovery = self.discoveries.get_mut(name).expect("just found");
        discovery.names.insert(found.subsystem.clone(), called);
        discovery.attached.insert(found, id);
    }

    /// Whoever waits for all that a discovery controller names is told when it is there, or will not be.
    pub(super) fn tell_discovered(&mut self) {
        for discovery in self.discoveries.values_mut().filter(|discovery| discovery.awaited.is_some()) {
            let paths = &self.paths;
            let there = |path: &PathId| paths.get(path).is_none_or(Path::is_live);
            let answer = if !paths.contains_key(&discovery.path) {
                let (address, why) = (discovery.spec.address, "it cannot be reached, or does not say what there is".into());
                Err(AttachError::Failed { address, why })
            } else if discovery.read && discovery.attached.values().all(there) {
                Ok(Attached { namespaces: Vec::new() })
            } else {
                continue;
            };
            self.answers.extend(discovery.awaited.take().map(|awaited| (awaited, answer)));
        }
        // One whose controller has gone for good is followed no more.
        let gone: Vec<String> = self
            .discoveries
            .iter()
            .filter(|(_, discovery)| !self.paths.contains_key(&discovery.path) && discovery.awaited.is_none())
            .map(|(name, _)| name.clone())
            .collect();
        for name in gone {
            tracing::warn!("discovery '{name}' has ended; what it has led to stays");
            self.discoveries.remove(&name);
        }
    }
}

fn attach_spec(spec: &DiscoverSpec, name: String, address: SocketAddr, subsystem: Nqn) -> AttachSpec {
    AttachSpec {
        name,
        address,
        subsystem,
        me: spec.me.clone(),
        header_digest: false,
        data_digest: false,
        io_queues: 1024,
        patience: spec.patience,
        secrets: None,
        namespaces_max: 128,
        multipath: true,
        policy: None,
    }
}
