//! What can be asked about controllers and their namespaces. Changes nothing.

use std::net::SocketAddr;

use spinel_nvme::log::AnaState;

use super::super::host::Network;
use super::Initiator;
use super::path::{Path, Stage, Use};

/// How a controller stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PathState {
    /// It is being connected.
    Connecting,
    /// It can be used.
    Live,
    /// It is being stopped.
    Resetting,
    /// It is lost, and tried again.
    Lost,
    /// It is to go.
    Leaving,
}

/// A controller.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PathInfo {
    /// Its name here.
    pub name: String,
    /// Where it is.
    pub address: SocketAddr,
    /// Its subsystem.
    pub subsystem: String,
    /// Who this host says it is.
    pub host: String,
    /// How it stands.
    pub state: PathState,
    /// Its number.
    pub number: Option<u16>,
    /// Its model.
    pub model: String,
    /// Its serial number.
    pub serial: String,
    /// Its firmware.
    pub firmware: String,
    /// Connections for I/O that requests may take.
    pub io_queues: usize,
    /// Its namespaces.
    pub namespaces: Vec<u32>,
    /// Why it does not work, if it does not.
    pub trouble: Option<String>,
    /// Digests of headers, and of data.
    pub digests: (bool, bool),
}

/// A way to a namespace.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WayInfo {
    /// The controller's number.
    pub number: Option<u16>,
    /// Where it is.
    pub address: SocketAddr,
    /// Whether it works at all.
    pub connected: bool,
    /// How well it reaches the namespace.
    pub state: AnaState,
    /// Whether the administrator prefers it.
    pub preferred: bool,
}

/// How a namespace is reached.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reach {
    /// The controllers' name.
    pub name: String,
    /// The namespace.
    pub nsid: u32,
    /// Every way, usable or not.
    pub ways: Vec<WayInfo>,
}

impl<N: Network> Initiator<N> {
    /// Every controller, in the order they were attached.
    #[must_use]
    pub fn controllers(&self) -> Vec<PathInfo> {
        self.state().paths.values().filter(|path| !path.spec.subsystem.is_discovery()).map(describe).collect()
    }

    /// How every namespace is reached.
    #[must_use]
    pub fn ways(&self) -> Vec<Reach> {
        let state = self.state();
        let mut found = Vec::new();
        for (name, group) in &state.groups {
            for nsid in group.members.keys() {
                let paths = state.paths.values().filter(|path| path.spec.name == *name);
                let ways = paths.filter_map(|path| {
                    let facts = path.script.namespaces.get(nsid)?;
                    Some(WayInfo {
                        number: path.number,
                        address: path.spec.address,
                        connected: path.is_live(),
                        state: path.script.state_of(facts),
                        preferred: path.preferred,
                    })
                });
                found.push(Reach { name: name.clone(), nsid: *nsid, ways: ways.collect() });
            }
        }
        found
    }
}

fn describe(path: &Path) -> PathInfo {
    let state = match path.stage {
        _ if path.leaving => PathState::Leaving,
        Stage::Live => PathState::Live,
        Stage::Stopping(_) => PathState::Resetting,
        Stage::Starting => PathState::Connecting,
        Stage::Resting(_) | Stage::Closing => PathState::Lost,
    };
    let facts = path.script.controller.as_ref();
    let text = |of: fn(&super::facts::ControllerFacts) -> &String| facts.map(of).cloned().unwrap_or_default();
    PathInfo {
        name: path.spec.name.clone(),
        address: path.spec.address,
        subsystem: path.spec.subsystem.to_string(),
        host: path.spec.me.name.to_string(),
        state,
        number: path.number,
        model: text(|facts| &facts.model),
        serial: text(|facts| &facts.serial),
        firmware: text(|facts| &facts.firmware),
        io_queues: path.wires.values().filter(|wire| matches!(wire.what, Use::Io { serves: true, .. })).count(),
        namespaces: path.script.namespaces.keys().copied().collect(),
        trouble: path.trouble.clone(),
        digests: (path.spec.header_digest, path.spec.data_digest),
    }
}
