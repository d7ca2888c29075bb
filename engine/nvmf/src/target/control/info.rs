//! What a target is at one moment, for those who look. Knows no report format.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use spinel_core::CoreId;

use super::super::reservation::HostId;
use super::super::view::{Address, AnaStates, Identity, NamespaceIds, PortId, Visibility};
use super::prove::HostSecrets;
use super::subsystem::{Controllers, Subsystem};
use super::{State, Target};
use crate::auth::Key;
use crate::nqn::Nqn;

/// A subsystem.
#[derive(Clone, Debug)]
pub struct SubsystemInfo {
    /// What it is.
    pub identity: Arc<Identity>,
    /// Whether hosts that are not named may connect.
    pub allow_any_host: bool,
    /// Those that are named.
    pub hosts: Vec<HostInfo>,
    /// Its namespaces.
    pub namespaces: Vec<NamespaceInfo>,
    /// How it is reached.
    pub listeners: Vec<ListenerInfo>,
    /// Who is connected.
    pub controllers: Vec<ControllerInfo>,
}

/// A host that is named.
#[derive(Clone, Debug)]
pub struct HostInfo {
    /// Its name.
    pub name: Nqn,
    /// What its secret is called, if it has to prove who it is.
    pub host_key: Option<String>,
    /// What the subsystem's secret is called that the target proves to know.
    pub controller_key: Option<String>,
}

/// A namespace.
#[derive(Clone, Debug)]
pub struct NamespaceInfo {
    /// Its number.
    pub nsid: u32,
    /// What its device is called.
    pub name: String,
    /// Its names.
    pub ids: NamespaceIds,
    /// Its ANA group.
    pub group: u32,
    /// Who sees it.
    pub visible: Visibility,
    /// Where its reservations survive a loss of power.
    pub reservations_file: Option<PathBuf>,
}

/// A way to a subsystem.
#[derive(Clone, Debug)]
pub struct ListenerInfo {
    /// By which port.
    pub port: PortId,
    /// Where that is.
    pub address: Address,
    /// Where hosts are told that it is, if that is another place.
    pub advertised: Option<Address>,
    /// How groups are reached by it.
    pub states: Arc<AnaStates>,
}

/// A controller.
#[derive(Clone, Debug)]
pub struct ControllerInfo {
    /// Its identifier.
    pub cntlid: u16,
    /// Whose it is.
    pub host: Nqn,
    /// That host's identifier.
    pub host_id: HostId,
    /// By which port it has come.
    pub port: PortId,
    /// Its queues, the admin queue first.
    pub queues: Vec<QueueInfo>,
}

/// A queue.
#[derive(Clone, Debug)]
pub struct QueueInfo {
    /// Its number.
    pub qid: u16,
    /// On which core it is served.
    pub core: CoreId,
    /// Where its host is.
    pub peer: String,
    /// Where it has arrived.
    pub arrived: Address,
}

/// Another place of discovery.
#[derive(Clone, Debug)]
pub struct ReferralInfo {
    /// Its name.
    pub subsystem: Nqn,
    /// Where.
    pub address: Address,
    /// Whether a secure channel is required there.
    pub secure: bool,
}

impl Target {
    /// Every subsystem, by name.
    #[must_use]
    pub fn subsystems(&self) -> Vec<SubsystemInfo> {
        let state = self.state();
        state.subsystems.values().map(|subsystem| state.describe(subsystem)).collect()
    }

    /// Who is connected to discovery.
    #[must_use]
    pub fn discovery_controllers(&self) -> Vec<ControllerInfo> {
        let state = self.state();
        state.describe_controllers(&state.discovery)
    }

    /// Every other place of discovery that hosts are told of.
    #[must_use]
    pub fn referrals(&self) -> Vec<ReferralInfo> {
        let describe = |referral: &super::Referral| ReferralInfo {
            subsystem: referral.subsystem.clone(),
            address: referral.address.clone(),
            secure: referral.secure,
        };
        self.state().referrals.iter().map(describe).collect()
    }

    /// Which namespaces are made of a device: subsystem and number of each.
    #[must_use]
    pub fn users_of(&self, name: &str) -> Vec<(Nqn, u32)> {
        let state = self.state();
        let of = |(nqn, subsystem): (&Nqn, &Subsystem)| {
            let used = subsystem.namespaces.iter().filter(|(_, kept)| kept.name == name).map(|(nsid, _)| (nqn.clone(), *nsid));
            used.collect::<Vec<_>>()
        };
        state.subsystems.iter().flat_map(of).collect()
    }

    /// How many connections each core has: admin queues, and queues for I/O. Connections that are no queue yet count as admin queues.
    #[must_use]
    pub fn connections_of_cores(&self) -> BTreeMap<CoreId, (usize, usize)> {
        let state = self.state();
        let mut counts = BTreeMap::<_, (usize, usize)>::new();
        for link in state.links.values() {
            let (admin, io) = counts.entry(link.mailbox.core()).or_default();
            *if link.belongs.as_ref().is_some_and(|belongs| belongs.qid > 0) { io } else { admin } += 1;
        }
        counts
    }
}

/// What hosts' connections make of one core.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CoreShare {
    /// Admin queues up to now.
    pub admin_queues: u64,
    /// Queues for I/O up to now.
    pub io_queues: u64,
    /// Admin queues at present, and connections that are no queue yet.
    pub admin_queues_now: u64,
    /// Queues for I/O at present.
    pub io_queues_now: u64,
    /// Requests of theirs that ended.
    pub requests: u64,
}

impl Target {
    /// What hosts' connections make of each core.
    #[must_use]
    pub fn usage_of_cores(&self) -> BTreeMap<CoreId, CoreShare> {
        let state = self.state();
        let mut shares = state.shares.clone();
        for link in state.links.values() {
            let share = shares.entry(link.mailbox.core()).or_default();
            let io = link.belongs.as_ref().is_some_and(|belongs| belongs.qid > 0);
            *if io { &mut share.io_queues_now } else { &mut share.admin_queues_now } += 1;
            share.requests += link.meters.iter().map(|(.., meter)| meter.requests()).sum::<u64>();
        }
        shares
    }
}

fn describe_host((name, secrets): (&Nqn, &HostSecrets)) -> HostInfo {
    let called = |secret: &Option<(String, Key)>| secret.as_ref().map(|(called, _)| called.clone());
    HostInfo { name: name.clone(), host_key: called(&secrets.host), controller_key: called(&secrets.controller) }
}

impl State {
    fn describe(&self, subsystem: &Subsystem) -> SubsystemInfo {
        let namespaces = subsystem.namespaces.values().map(|kept| NamespaceInfo {
            nsid: kept.namespace.nsid,
            name: kept.name.clone(),
            ids: kept.namespace.ids,
            group: kept.namespace.group,
            visible: kept.namespace.visible.clone(),
            reservations_file: kept.reservations_file.clone(),
        });
        let listeners = subsystem.ports.iter().filter_map(|(id, states)| {
            let port = self.ports.get(id)?;
            let (address, advertised) = (port.address.clone(), port.advertised.clone());
            Some(ListenerInfo { port: *id, address, advertised, states: Arc::clone(states) })
        });
        SubsystemInfo {
            identity: Arc::clone(&subsystem.identity),
            allow_any_host: subsystem.allow_any_host,
            hosts: subsystem.hosts.iter().map(describe_host).collect(),
            namespaces: namespaces.collect(),
            listeners: listeners.collect(),
            controllers: self.describe_controllers(&subsystem.controllers),
        }
    }

    fn describe_controllers(&self, controllers: &Controllers) -> Vec<ControllerInfo> {
        let describe = |(cntlid, controller): (&u16, &super::subsystem::Controller)| ControllerInfo {
            cntlid: *cntlid,
            host: controller.host.clone(),
            host_id: controller.host_id,
            port: controller.port,
            queues: controller
                .queues
                .iter()
                .filter_map(|(qid, connection)| {
                    let link = self.links.get(connection)?;
                    Some(QueueInfo { qid: *qid, core: link.mailbox.core(), peer: link.peer.clone(), arrived: link.arrived.clone() })
                })
                .collect(),
        };
        controllers.by_id.iter().map(describe).collect()
    }
}
