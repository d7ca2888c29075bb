//! Connections that become queues of controllers, and that end. Knows no administrator.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::super::hub::tell;
use super::super::note::{Admission, Closing, ConnectRefusal, ConnectRequest, Parameter, Told};
use super::super::view::{ConnectionId, PortId, Scene};
use super::subsystem::{Controller, Controllers};
use super::{Belongs, CONNECTIONS_OF_HOST_MAX, Link, State, Then};
use crate::nqn::Nqn;

/// The host leaves the choice of the controller to the target.
const ANY_CONTROLLER: u16 = 0xffff;

impl State {
    /// Makes a connection a queue of a controller.
    pub(super) fn connect(&mut self, from: ConnectionId, request: &ConnectRequest) -> Result<Admission, ConnectRefusal> {
        let port = match self.links.get(&from) {
            Some(Link { belongs: None, port, .. }) => *port,
            _ => return Err(ConnectRefusal::Sequence),
        };
        self.check_host(request)?;
        self.check_size(request)?;
        let scene = self.scene(port, request)?;
        let controllers = match &scene {
            Scene::Storage(_) => &mut self.subsystems.get_mut(&request.subsystem).expect("its view was found").controllers,
            Scene::Discovery(_) => &mut self.discovery,
        };
        let cntlid = if request.qid == 0 {
            admit_controller(controllers, from, port, request)?
        } else {
            let may_have_queues = matches!(scene, Scene::Storage(_)) && request.qid <= self.options.io_queues;
            admit_queue(controllers, from, port, request, may_have_queues)?
        };
        let subsystem = matches!(scene, Scene::Storage(_)).then(|| request.subsystem.clone());
        let auth = self.begin_proof(&request.subsystem, &request.host).map(Box::new);
        let authenticate = auth.is_some();
        let link = self.links.get_mut(&from).expect("it was found above");
        link.auth = auth;
        link.belongs = Some(Belongs { subsystem, cntlid, qid: request.qid });
        self.strangers.remove(&from);
        let share = self.shares.entry(link.mailbox.core()).or_default();
        *if request.qid > 0 { &mut share.io_queues } else { &mut share.admin_queues } += 1;
        let (peer, arrived) = (&link.peer, link.arrived.clone());
        let (host, subsystem, qid) = (&request.host, &request.subsystem, request.qid);
        tracing::info!("{host} at {peer} has connected queue {qid} of controller {cntlid} of {subsystem}");
        Ok(Admission { cntlid, port, arrived, scene, authenticate })
    }

    fn check_host(&self, request: &ConnectRequest) -> Result<(), ConnectRefusal> {
        let controllers = self.subsystems.values().map(|subsystem| &subsystem.controllers).chain([&self.discovery]);
        let of_host = controllers.flat_map(|controllers| controllers.by_id.values()).filter(|found| found.host == request.host);
        let queues: usize = of_host.map(|controller| controller.queues.len()).sum();
        if queues < CONNECTIONS_OF_HOST_MAX { Ok(()) } else { Err(ConnectRefusal::Busy) }
    }

    fn check_size(&self, request: &ConnectRequest) -> Result<(), ConnectRefusal> {
        let most = if request.qid == 0 { self.options.admin_queue_entries } else { self.options.io_queue_entries };
        let fits = (2..=u32::from(most)).contains(&request.entries);
        if fits { Ok(()) } else { Err(ConnectRefusal::Parameter(Parameter::QueueSize)) }
    }

    /// What a host finds behind a name, by this port.
    fn scene(&self, port: PortId, request: &ConnectRequest) -> Result<Scene, ConnectRefusal> {
        if request.subsystem.is_discovery() {
            return Ok(Scene::Discovery(Arc::clone(&self.discovery_view)));
        }
        let subsystem = self.subsystems.get(&request.subsystem).filter(|subsystem| !subsystem.closing);
        let subsystem = subsystem.filter(|subsystem| subsystem.ports.contains_key(&port));
        let subsystem = subsystem.ok_or(ConnectRefusal::Parameter(Parameter::SubsystemName))?;
        if subsystem.admits(&request.host) { Ok(Scene::Storage(Arc::clone(&subsystem.view))) } else { Err(ConnectRefusal::Host) }
    }

    /// A host has enabled its controller, or reset it, which ends its queues.
    pub(super) fn enabled(&mut self, from: ConnectionId, enabled: bool) {
        let Some(belongs) = self.links.get(&from).and_then(|link| link.belongs.clone()) else { return };
        let Some(controller) = self.controllers(&belongs).and_then(|controllers| controllers.by_id.get_mut(&belongs.cntlid)) else {
            return;
        };
        controller.enabled = enabled;
        if !enabled {
            let queues: Vec<ConnectionId> = controller.queues.iter().filter(|(qid, _)| **qid > 0).map(|(_, queue)| *queue).collect();
            queues.into_iter().for_each(|queue| self.tell(queue, || Told::Close(Closing::Controller)));
        }
    }

    fn controllers(&mut self, belongs: &Belongs) -> Option<&mut Controllers> {
        match &belongs.subsystem {
            Some(nqn) => self.subsystems.get_mut(nqn).map(|subsystem| &mut subsystem.controllers),
            None => Some(&mut self.discovery),
        }
    }

    /// A queue needs a channel to a namespace.
    pub(super) fn open(&mut self, from: ConnectionId, nsid: u32, depth: u16) {
        let Some((subsystem, _)) = self.home(from) else { return };
        // One that is not there any more was taken from its view, too, and is not waited for.
        let Some(kept) = subsystem.namespaces.get(&nsid) else { return };
        let (device, instance) = (Arc::clone(&kept.namespace.device), kept.namespace.instance);
        let meters = Arc::clone(&kept.namespace.meters);
        let meter = meters.start();
        let link = self.links.get_mut(&from).expect("it has a home");
        link.meters.push((nsid, instance, meters, Arc::clone(&meter)));
        let mailbox = link.mailbox.clone();
        tell(&mailbox, from, move |core| {
            let channel = device.open(core, depth).map(|channel| (channel, meter));
            if let Err(error) = &channel {
                tracing::error!("namespace {nsid} cannot be opened on core {}: {error}", core.id().0);
            }
            Told::Opened { nsid, instance, channel }
        });
    }

    /// A queue has closed a channel.
    pub(super) fn closed(&mut self, from: ConnectionId, nsid: u32, instance: u64) {
        let Some(link) = self.links.get_mut(&from) else { return };
        let share = self.shares.entry(link.mailbox.core()).or_default();
        for (.., meters, meter) in link.meters.extract_if(.., |(of, at, ..)| *of == nsid && *at == instance) {
            share.requests += meter.requests();
            meters.end(&meter);
        }
    }

    /// A connection is over. With its admin queue goes the controller.
    pub(super) fn ended(&mut self, who: ConnectionId) {
        let Some(link) = self.links.remove(&who) else { return };
        self.strangers.remove(&who);
        link.note_unproven();
        let share = self.shares.entry(link.mailbox.core()).or_default();
        for (.., meters, meter) in &link.meters {
            share.requests += meter.requests();
            meters.end(meter);
        }
        if let Some(belongs) = &link.belongs {
            self.leave(belongs);
            if let Some(nqn) = &belongs.subsystem {
                self.drop_holds(nqn, who);
            }
        }
        let made = self.changes.gone(who);
        self.go_on(made);
    }

    fn leave(&mut self, belongs: &Belongs) {
        let Some(controllers) = self.controllers(belongs) else { return };
        let Some(controller) = controllers.by_id.get_mut(&belongs.cntlid) else { return };
        controller.queues.remove(&belongs.qid);
        let others: BTreeSet<ConnectionId> = controller.queues.values().copied().collect();
        if belongs.qid == 0 {
            // Nobody can join it any more.
            controller.enabled = false;
            others.iter().for_each(|queue| self.tell(*queue, || Told::Close(Closing::Controller)));
        }
        if others.is_empty()
            && let Some(controllers) = self.controllers(belongs)
        {
            controllers.by_id.remove(&belongs.cntlid);
        }
    }

    /// Ends every connection of some controllers of a subsystem.
    pub(super) fn close_controllers(&mut self, nqn: &Nqn, of: impl Fn(&Controller) -> bool, then: Then) {
        let connections = self.subsystems.get(nqn).map_or_else(BTreeSet::new, |subsystem| subsystem.controllers.connections(of));
        self.close(connections, Closing::Administrator, then);
    }
}

fn admit_controller(
    controllers: &mut Controllers,
    from: ConnectionId,
    port: PortId,
    request: &ConnectRequest,
) -> Result<u16, ConnectRefusal> {
    if request.cntlid != ANY_CONTROLLER {
        return Err(ConnectRefusal::Parameter(Parameter::ControllerId));
    }
    let queues = BTreeMap::from([(0, from)]);
    let controller = Controller { host: request.host.clone(), host_id: request.host_id, port, enabled: false, queues };
    controllers.add(controller).ok_or(ConnectRefusal::Busy)
}

fn admit_queue(
    controllers: &mut Controllers,
    from: ConnectionId,
    port: PortId,
    request: &ConnectRequest,
    may_have_queues: bool,
) -> Result<u16, ConnectRefusal> {
    let refuse = |parameter| Err(ConnectRefusal::Parameter(parameter));
    if !may_have_queues {
        return refuse(Parameter::QueueId);
    }
    let Some(controller) = controllers.by_id.get_mut(&request.cntlid) else { return refuse(Parameter::ControllerId) };
    // An I/O queue's host is its admin queue's, and comes by the same way.
    if controller.host != request.host {
        return refuse(Parameter::HostName);
    }
    if controller.host_id != request.host_id {
        return refuse(Parameter::HostId);
    }
    if controller.port != port || !controller.queues.contains_key(&0) {
        return refuse(Parameter::ControllerId);
    }
    if !controller.enabled {
        return Err(ConnectRefusal::Sequence);
    }
    if controller.queues.contains_key(&request.qid) {
        return refuse(Parameter::QueueId);
    }
    controller.queues.insert(request.qid, from);
    Ok(request.cntlid)
}
