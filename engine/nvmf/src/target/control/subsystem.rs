//! One subsystem as the control side keeps it: names, namespaces, hosts, ports, controllers. Knows no connection's other end.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;

use spinel_core::{Device, Meters};

use super::super::reservation::{HostId, Reservations};
use super::super::view::{AnaStates, ConnectionId, Hold, Identity, Namespace, NamespaceIds, PortId, View, Visibility};
use super::prove::HostSecrets;
use crate::nqn::Nqn;

/// A namespace that is to be.
pub struct NamespaceSpec {
    /// Its identifier; none is the lowest that is free.
    pub nsid: Option<u32>,
    /// What it is called among the engine's devices.
    pub name: String,
    /// What it is made of.
    pub device: Arc<dyn Device>,
    /// Where its users count.
    pub meters: Arc<Meters>,
    /// Its names.
    pub ids: NamespaceIds,
    /// Its ANA group; none is one of its own.
    pub group: Option<u32>,
    /// Whether every host sees it that may connect.
    pub visible: bool,
    /// Where its reservations survive a loss of power.
    pub reservations_file: Option<PathBuf>,
}

/// Somebody who wants others to keep away from some blocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiter {
    pub(super) hold: Hold,
    pub(super) token: u32,
}

/// A namespace and what only the control side knows of it.
pub(super) struct Kept {
    pub(super) name: String,
    pub(super) reservations_file: Option<PathBuf>,
    pub(super) holds: VecDeque<Waiter>,
    pub(super) namespace: Namespace,
}

/// A controller: the queues of one host.
#[derive(Clone, Debug)]
pub(super) struct Controller {
    pub(super) host: Nqn,
    pub(super) host_id: HostId,
    pub(super) port: PortId,
    pub(super) enabled: bool,
    /// By queue; the admin queue is 0.
    pub(super) queues: BTreeMap<u16, ConnectionId>,
}

/// The controllers of one subsystem by their identifiers.
#[derive(Debug)]
pub(super) struct Controllers {
    range: (u16, u16),
    next: u16,
    pub(super) by_id: BTreeMap<u16, Controller>,
}

impl Controllers {
    pub(super) fn new(range: (u16, u16)) -> Self {
        Self { range, next: range.0, by_id: BTreeMap::new() }
    }

    /// A new controller's identifier, which has not been in use for as long as possible; none if all are.
    pub(super) fn add(&mut self, controller: Controller) -> Option<u16> {
        let (first, last) = self.range;
        let free = (self.next..=last).chain(first..self.next).find(|id| !self.by_id.contains_key(id))?;
        self.next = if free == last { first } else { free + 1 };
        self.by_id.insert(free, controller);
        Some(free)
    }

    /// Every connection of these controllers.
    pub(super) fn connections(&self, of: impl Fn(&Controller) -> bool) -> BTreeSet<ConnectionId> {
        self.by_id.values().filter(|controller| of(controller)).flat_map(|controller| controller.queues.values().copied()).collect()
    }
}

/// A subsystem.
pub(super) struct Subsystem {
    pub(super) identity: Arc<Identity>,
    pub(super) allow_any_host: bool,
    /// Hosts that are named, and what they prove.
    pub(super) hosts: BTreeMap<Nqn, HostSecrets>,
    pub(super) namespaces: BTreeMap<u32, Kept>,
    pub(super) ports: BTreeMap<PortId, Arc<AnaStates>>,
    pub(super) controllers: Controllers,
    pub(super) view: Arc<View>,
    /// It is being deleted: nobody new is let in.
    pub(super) closing: bool,
}

impl Subsystem {
    pub(super) fn new(identity: Identity, allow_any_host: bool) -> Self {
        let identity = Arc::new(identity);
        let view = View { generation: 0, identity: Arc::clone(&identity), namespaces: Vec::new(), ports: Vec::new() };
        Self {
            controllers: Controllers::new(identity.cntlids),
            identity,
            allow_any_host,
            hosts: BTreeMap::new(),
            namespaces: BTreeMap::new(),
            ports: BTreeMap::new(),
            view: Arc::new(view),
            closing: false,
        }
    }

    /// Whether this host may connect.
    pub(super) fn admits(&self, host: &Nqn) -> bool {
        !self.closing && (self.allow_any_host || self.hosts.contains_key(host))
    }

    /// Who is told of it.
    pub(super) fn visible(&self) -> Visibility {
        if self.allow_any_host { Visibility::Everybody } else { Visibility::Hosts(self.hosts.keys().cloned().collect()) }
    }

    /// Makes the view anew, after something has changed.
    pub(super) fn refresh(&mut self) {
        self.view = Arc::new(View {
            generation: self.view.generation + 1,
            identity: Arc::clone(&self.identity),
            namespaces: self.namespaces.values().map(|kept| Arc::new(kept.namespace.clone())).collect(),
            ports: self.ports.iter().map(|(port, states)| (*port, Arc::clone(states))).collect(),
        });
    }

    /// Where a new namespace of this identifier, or of any, would be.
    pub(super) fn vacant(&self, nsid: Option<u32>) -> Option<u32> {
        let fits = |nsid: &u32| (1..=self.identity.namespaces_max).contains(nsid) && !self.namespaces.contains_key(nsid);
        match nsid {
            Some(nsid) => Some(nsid).filter(fits),
            None => (1..=self.identity.namespaces_max).find(fits),
        }
    }

    /// Adds a namespace where there is none.
    pub(super) fn add(&mut self, nsid: u32, spec: NamespaceSpec, instance: u64, reservations: Reservations) {
        let NamespaceSpec { name, device, meters, ids, group, visible, reservations_file, nsid: _ } = spec;
        let visible = if visible { Visibility::Everybody } else { Visibility::Hosts(Vec::new()) };
        let namespace = Namespace {
            nsid,
            instance,
            change: 0,
            device,
            meters,
            ids,
            group: group.unwrap_or(nsid),
            visible,
            reservations: Arc::new(reservations),
            may_persist: reservations_file.is_some(),
            hold: None,
        };
        let before = self.namespaces.insert(nsid, Kept { name, reservations_file, holds: VecDeque::new(), namespace });
        assert!(before.is_none(), "the place was vacant");
        self.refresh();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_controllers_identifier_is_used_again_as_late_as_possible() {
        let mut controllers = Controllers::new((5, 7));
        let controller = Controller {
            host: Nqn::of_peer(b"host").unwrap(),
            host_id: HostId::default(),
            port: PortId(1),
            enabled: false,
            queues: BTreeMap::new(),
        };
        let mut add = |gone: Option<u16>| {
            gone.map(|gone| controllers.by_id.remove(&gone));
            controllers.add(controller.clone())
        };
        assert_eq!([add(None), add(Some(5)), add(None), add(None), add(None)], [Some(5), Some(6), Some(7), Some(5), None]);
        assert_eq!(add(Some(6)), Some(6));
    }
}
