//! What administrators do with a target. Knows no RPC.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use super::super::note::{Closing, Until};
use super::super::options::Options;
use super::super::reservation::{Reservations, SavedError};
use super::super::view::{Address, AnaState, AnaStates, Identity, NAMESPACES_MAX, PortId, Visibility};
use super::changes::{Pending, pending};
use super::prove::HostSecrets;
use super::subsystem::{NamespaceSpec, Subsystem};
use super::{Change, HOSTS_MAX, PORTS_MAX, Port, Referral, SUBSYSTEMS_MAX, State, Target, file};
use crate::nqn::Nqn;

/// A subsystem that is to be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SubsystemSpec {
    /// What it is.
    pub identity: Identity,
    /// Whether hosts that are not named may connect.
    pub allow_any_host: bool,
}

/// A way to a subsystem that is to be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListenerSpec {
    /// By which port.
    pub port: PortId,
    /// How every group is reached by it.
    pub state: AnaState,
}

/// Another place of discovery that hosts are told of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReferralSpec {
    /// Its name, which usually is that of every such place.
    pub subsystem: Nqn,
    /// Where.
    pub address: Address,
    /// Whether a secure channel is required there.
    pub secure: bool,
}

/// Why something could not be changed. Then nothing has.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// There is none of this name.
    #[error("there is no subsystem '{nqn}'; nvmf_get_subsystems lists those there are")]
    NoSubsystem {
        /// The name.
        nqn: String,
    },
    /// There is one of this name.
    #[error("there is a subsystem '{nqn}' already; choose another name, or delete it first")]
    SubsystemExists {
        /// The name.
        nqn: Nqn,
    },
    /// Too many of something.
    #[error("there are {most} {what} already; remove one first")]
    Full {
        /// Of what.
        what: &'static str,
        /// How many there may be.
        most: usize,
    },
    /// A value that no subsystem can have.
    #[error("{what}")]
    Identity {
        /// What is wrong, and what would do.
        what: String,
    },
    /// There is none of this number.
    #[error("subsystem '{nqn}' has no namespace {nsid}; nvmf_get_subsystems lists those it has")]
    NoNamespace {
        /// Of which subsystem.
        nqn: Nqn,
        /// Which.
        nsid: u32,
    },
    /// The number is taken, or too high.
    #[error(
        "namespace {nsid} of subsystem '{nqn}' cannot be: it is there already, or above {most}, the highest; leave the number out for the lowest that is free"
    )]
    NamespaceTaken {
        /// Of which subsystem.
        nqn: Nqn,
        /// Which.
        nsid: u32,
        /// The highest.
        most: u32,
    },
    /// The device takes less at once than hosts may send.
    #[error(
        "device '{name}' takes {bytes} bytes at once, and hosts may send {transfer_bytes}; create the transport with a max_io_size of at most {bytes}"
    )]
    Transfer {
        /// Which device.
        name: String,
        /// What it takes.
        bytes: u32,
        /// What hosts may send.
        transfer_bytes: u32,
    },
    /// Reservations cannot be restored.
    #[error("the reservations in {} cannot be restored: {because}; remove the file if they are not wanted", path.display())]
    Reservations {
        /// Where they were saved.
        path: PathBuf,
        /// What is wrong.
        because: String,
    },
    /// The host is not named.
    #[error("host '{host}' is not among those that may connect to '{nqn}'")]
    NoHost {
        /// Which host.
        host: Nqn,
        /// To what.
        nqn: Nqn,
    },
    /// The host is named already.
    #[error("host '{host}' is among those already for which this is to be")]
    HostExists {
        /// Which host.
        host: Nqn,
    },
    /// There is no such way, or place.
    #[error("there is no listener at {address}")]
    NoListener {
        /// Where.
        address: String,
    },
    /// There is such a way, or place.
    #[error("there is one at {address} already")]
    ListenerExists {
        /// Where.
        address: String,
    },
    /// Every group has the best state where states are not reported.
    #[error("subsystem '{nqn}' does not report ANA states; create it with ana_reporting")]
    NoAna {
        /// Which subsystem.
        nqn: Nqn,
    },
    /// Not a group.
    #[error("ANA group {group} is not possible; groups have numbers from 1 to {most}")]
    Group {
        /// Which group.
        group: u32,
        /// The highest.
        most: u32,
    },
    /// A namespace that everybody sees is not shown to hosts one by one.
    #[error("namespace {nsid} is visible to every host; add it with no_auto_visible to choose hosts")]
    VisibleToAll {
        /// Which.
        nsid: u32,
    },
}

impl Target {
    /// Other options of the transport, for connections that come from now on.
    pub fn set_options(&self, options: Options) {
        self.state().options = Arc::new(options);
    }

    /// Adds a subsystem.
    ///
    /// # Errors
    /// [`TargetError`]
    pub fn create_subsystem(&self, spec: SubsystemSpec) -> Change<()> {
        let mut state = self.state();
        let SubsystemSpec { identity, allow_any_host } = spec;
        check_identity(&identity)?;
        if state.subsystems.contains_key(&identity.nqn) {
            return Err(TargetError::SubsystemExists { nqn: identity.nqn });
        }
        if state.subsystems.len() >= SUBSYSTEMS_MAX {
            return Err(TargetError::Full { what: "subsystems", most: SUBSYSTEMS_MAX });
        }
        state.subsystems.insert(identity.nqn.clone(), Subsystem::new(identity, allow_any_host));
        Ok(())
    }

    /// Lets nobody in any more, and ends every connection. [`forget_subsystem`](Self::forget_subsystem) when that is made.
    ///
    /// # Errors
    /// [`TargetError::NoSubsystem`]
    pub fn close_subsystem(&self, nqn: &str) -> Change<Pending> {
        let mut state = self.state();
        let nqn = state.subsystem(nqn)?.identity.nqn.clone();
        state.subsystem(nqn.as_str())?.closing = true;
        state.publish_discovery();
        let (pending, then) = pending();
        state.close_controllers(&nqn, |_| true, then);
        Ok(pending)
    }

    /// Takes away a subsystem without connections. Whether there was one that has none.
    #[must_use]
    pub fn forget_subsystem(&self, nqn: &str) -> bool {
        let mut state = self.state();
        let found = state.subsystems.iter().find(|(name, found)| name.as_str() == nqn && found.controllers.by_id.is_empty());
        let found = found.map(|(name, _)| name.clone());
        found.is_some_and(|nqn| state.subsystems.remove(&nqn).is_some())
    }

    /// Adds a namespace; answers its number.
    ///
    /// # Errors
    /// [`TargetError`]
    pub fn add_namespace(&self, nqn: &str, spec: NamespaceSpec) -> Change<(u32, Pending)> {
        let mut state = self.state();
        let (bytes, transfer_bytes) = (spec.device.geometry().transfer_max_bytes, state.options.transfer_bytes);
        let instance = state.next_instance();
        let subsystem = state.subsystem(nqn)?;
        let (nqn, most) = (subsystem.identity.nqn.clone(), subsystem.identity.namespaces_max);
        let vacant = subsystem.vacant(spec.nsid);
        let nsid = match (vacant, spec.nsid) {
            (Some(nsid), _) => nsid,
            (None, Some(nsid)) => return Err(TargetError::NamespaceTaken { nqn, nsid, most }),
            (None, None) => return Err(TargetError::Full { what: "namespaces", most: subsystem.namespaces.len() }),
        };
        if let Some(group) = spec.group.filter(|group| !(1..=most).contains(group)) {
            return Err(TargetError::Group { group, most });
        }
        if bytes < transfer_bytes {
            return Err(TargetError::Transfer { name: spec.name, bytes, transfer_bytes });
        }
        let reservations = restore(spec.reservations_file.as_ref())?;
        subsystem.add(nsid, spec, instance, reservations);
        Ok((nsid, state.show(&nqn)))
    }

    /// Takes a namespace away. It is made when nothing uses its device any more.
    ///
    /// # Errors
    /// [`TargetError`]
    pub fn remove_namespace(&self, nqn: &str, nsid: u32) -> Change<Pending> {
        let mut state = self.state();
        let subsystem = state.subsystem(nqn)?;
        let nqn = subsystem.identity.nqn.clone();
        let Some(kept) = subsystem.namespaces.remove(&nsid) else { return Err(TargetError::NoNamespace { nqn, nsid }) };
        for waiter in kept.holds {
            let token = waiter.token;
            state.tell(waiter.hold.by, move || super::Told::Held { token, granted: false });
        }
        let (pending, then) = pending();
        state.publish(&nqn, Until::Drained(nsid), Some(then));
        Ok(pending)
    }

    /// The size of this device has changed: lets hosts know.
    pub fn resized(&self, name: &str) {
        self.state().touch(name, |_, kept| kept.namespace.change += 1);
    }

    /// This device gives other channels from now on: lets every queue open them again.
    pub fn reopen(&self, name: &str) {
        self.state().touch(name, |instance, kept| kept.namespace.instance = *instance);
    }

    /// Moves a namespace to another ANA group.
    ///
    /// # Errors
    /// [`TargetError`]
    pub fn set_namespace_group(&self, nqn: &str, nsid: u32, group: u32) -> Change<Pending> {
        let mut state = self.state();
        let subsystem = state.subsystem(nqn)?;
        let (nqn, most) = (subsystem.identity.nqn.clone(), subsystem.identity.namespaces_max);
        if !(1..=most).contains(&group) {
            return Err(TargetError::Group { group, most });
        }
        let Some(kept) = subsystem.namespaces.get_mut(&nsid) else { return Err(TargetError::NoNamespace { nqn, nsid }) };
        kept.namespace.group = group;
        kept.namespace.change += 1;
        Ok(state.show(&nqn))
    }

    /// Shows a namespace to one host, or hides it.
    ///
    /// # Errors
    /// [`TargetError`]
    pub fn show_namespace(&self, nqn: &str, nsid: u32, host: &Nqn, shown: bool) -> Change<Pending> {
        let mut state = self.state();
        let subsystem = state.subsystem(nqn)?;
        let nqn = subsystem.identity.nqn.clone();
        let Some(kept) = subsystem.namespaces.get_mut(&nsid) else { return Err(TargetError::NoNamespace { nqn, nsid }) };
        let Visibility::Hosts(hosts) = &mut kept.namespace.visible else { return Err(TargetError::VisibleToAll { nsid }) };
        match (hosts.iter().position(|named| named == host), shown) {
            (Some(_), true) => return Err(TargetError::HostExists { host: host.clone() }),
            (None, false) => return Err(TargetError::NoHost { host: host.clone(), nqn }),
            (None, true) if hosts.len() >= HOSTS_MAX => return Err(TargetError::Full { what: "hosts", most: HOSTS_MAX }),
            (None, true) => hosts.push(host.clone()),
            (Some(at), false) => drop(hosts.remove(at)),
        }
        let (pending, then) = pending();
        state.publish(&nqn, Until::Drained(nsid), Some(then));
        Ok(pending)
    }

    /// Lets hosts connect that are not named, or not any more. Those that have stay.
    ///
    /// # Errors
    /// [`TargetError::NoSubsystem`]
    pub fn allow_any_host(&self, nqn: &str, allow: bool) -> Change<()> {
        let mut state = self.state();
        state.subsystem(nqn)?.allow_any_host = allow;
        state.publish_discovery();
        Ok(())
    }

    /// Names a host that may connect, and what it proves.
    ///
    /// # Errors
    /// [`TargetError`]
    pub fn add_host(&self, nqn: &str, host: &Nqn, secrets: HostSecrets) -> Change<()> {
        let mut state = self.state();
        let subsystem = state.subsystem(nqn)?;
        if subsystem.hosts.len() >= HOSTS_MAX {
            return Err(TargetError::Full { what: "hosts", most: HOSTS_MAX });
        }
        if subsystem.hosts.contains_key(host) {
            return Err(TargetError::HostExists { host: host.clone() });
        }
        subsystem.hosts.insert(host.clone(), secrets);
        state.publish_discovery();
        Ok(())
    }

    /// Takes a host's permission away, and ends its connections.
    ///
    /// # Errors
    /// [`TargetError`]
    pub fn remove_host(&self, nqn: &str, host: &Nqn) -> Change<Pending> {
        let mut state = self.state();
        let subsystem = state.subsystem(nqn)?;
        let nqn = subsystem.identity.nqn.clone();
        if subsystem.hosts.remove(host).is_none() {
            return Err(TargetError::NoHost { host: host.clone(), nqn });
        }
        let still_may = subsystem.allow_any_host;
        state.publish_discovery();
        let (pending, then) = pending();
        state.close_controllers(&nqn, |controller| !still_may && controller.host == *host, then);
        Ok(pending)
    }

    /// A place where hosts connect; the caller listens there.
    ///
    /// # Errors
    /// [`TargetError`]
    pub fn add_port(&self, address: Address, advertised: Option<Address>) -> Change<PortId> {
        let mut state = self.state();
        if state.ports.values().any(|port| port.address == address) {
            return Err(TargetError::ListenerExists { address: address.to_string() });
        }
        let vacant = (1..=u16::MAX).map(PortId).find(|id| !state.ports.contains_key(id)).filter(|_| state.ports.len() < PORTS_MAX);
        let id = vacant.ok_or(TargetError::Full { what: "addresses where hosts connect", most: PORTS_MAX })?;
        state.ports.insert(id, Port { address, advertised });
        Ok(id)
    }

    /// Forgets a port that nobody listens at any more. No subsystem may use it.
    pub fn remove_port(&self, id: PortId) {
        self.state().ports.remove(&id);
    }

    /// The port of this address.
    #[must_use]
    pub fn port(&self, address: &Address) -> Option<PortId> {
        self.state().ports.iter().find(|(_, port)| port.address == *address).map(|(id, _)| *id)
    }

    /// Whether a subsystem is reached by this port.
    #[must_use]
    pub fn port_is_used(&self, id: PortId) -> bool {
        self.state().subsystems.values().any(|subsystem| subsystem.ports.contains_key(&id))
    }

    /// Lets hosts reach a subsystem by a port.
    ///
    /// # Errors
    /// [`TargetError`]
    pub fn add_listener(&self, nqn: &str, spec: &ListenerSpec) -> Change<Pending> {
        let mut state = self.state();
        let Some(port) = state.ports.get(&spec.port) else {
            return Err(TargetError::NoListener { address: format!("port {}", spec.port.0) });
        };
        let address = port.address.to_string();
        let subsystem = state.subsystem(nqn)?;
        let nqn = subsystem.identity.nqn.clone();
        if subsystem.ports.contains_key(&spec.port) {
            return Err(TargetError::ListenerExists { address });
        }
        if spec.state != AnaState::Optimized && !subsystem.identity.ana {
            return Err(TargetError::NoAna { nqn });
        }
        let mut states = AnaStates::default();
        for group in 1..=subsystem.identity.namespaces_max {
            states.set(group, spec.state);
        }
        subsystem.ports.insert(spec.port, Arc::new(states));
        state.publish_discovery();
        Ok(state.show(&nqn))
    }

    /// Lets hosts reach a subsystem by a port no longer, and ends the connections of those that do.
    ///
    /// # Errors
    /// [`TargetError`]
    pub fn remove_listener(&self, nqn: &str, port: PortId) -> Change<Pending> {
        let mut state = self.state();
        let subsystem = state.subsystem(nqn)?;
        let nqn = subsystem.identity.nqn.clone();
        if subsystem.ports.remove(&port).is_none() {
            return Err(TargetError::NoListener { address: format!("port {} of '{nqn}'", port.0) });
        }
        subsystem.refresh();
        state.publish_discovery();
        let (pending, then) = pending();
        state.close_controllers(&nqn, |controller| controller.port == port, then);
        Ok(pending)
    }

    /// Sets how groups are reached by a port, all at once: every connection sees all of it or nothing. No group is every one.
    ///
    /// # Errors
    /// [`TargetError`]
    pub fn set_ana_states(&self, nqn: &str, port: PortId, states: &[(Option<u32>, AnaState)]) -> Change<Pending> {
        let mut state = self.state();
        let subsystem = state.subsystem(nqn)?;
        let (nqn, most) = (subsystem.identity.nqn.clone(), subsystem.identity.namespaces_max);
        if !subsystem.identity.ana {
            return Err(TargetError::NoAna { nqn });
        }
        if let Some(group) = states.iter().filter_map(|(group, _)| *group).find(|group| !(1..=most).contains(group)) {
            return Err(TargetError::Group { group, most });
        }
        let Some(present) = subsystem.ports.get_mut(&port) else {
            return Err(TargetError::NoListener { address: format!("port {} of '{nqn}'", port.0) });
        };
        let present = Arc::make_mut(present);
        for (group, state) in states {
            let groups = group.map_or(1..=most, |group| group..=group);
            for group in groups {
                present.set(group, *state);
            }
        }
        Ok(state.show(&nqn))
    }

    /// Tells hosts of another place of discovery.
    ///
    /// # Errors
    /// [`TargetError`]
    pub fn add_referral(&self, spec: ReferralSpec) -> Change<()> {
        let mut state = self.state();
        let ReferralSpec { subsystem, address, secure } = spec;
        if state.referrals.iter().any(|found| found.address == address && found.subsystem == subsystem) {
            return Err(TargetError::ListenerExists { address: address.to_string() });
        }
        if state.referrals.len() >= PORTS_MAX {
            return Err(TargetError::Full { what: "referrals", most: PORTS_MAX });
        }
        state.referrals.push(Referral { subsystem, address, secure });
        state.publish_discovery();
        Ok(())
    }

    /// Tells hosts of it no longer.
    ///
    /// # Errors
    /// [`TargetError::NoListener`]
    pub fn remove_referral(&self, subsystem: &Nqn, address: &Address) -> Change<()> {
        let mut state = self.state();
        let before = state.referrals.len();
        state.referrals.retain(|found| found.address != *address || found.subsystem != *subsystem);
        if state.referrals.len() == before {
            return Err(TargetError::NoListener { address: address.to_string() });
        }
        state.publish_discovery();
        Ok(())
    }

    /// Ends every connection; made when nothing of them flies any more.
    pub fn close_all(&self) -> Pending {
        let mut state = self.state();
        let all: BTreeSet<_> = state.links.keys().copied().collect();
        let (pending, then) = pending();
        state.close(all, Closing::Administrator, then);
        pending
    }
}

impl State {
    pub(super) fn subsystem(&mut self, nqn: &str) -> Change<&mut Subsystem> {
        let found = self.subsystems.iter_mut().find(|(name, _)| name.as_str() == nqn).map(|(_, subsystem)| subsystem);
        found.ok_or_else(|| TargetError::NoSubsystem { nqn: nqn.to_owned() })
    }

    fn next_instance(&mut self) -> u64 {
        self.instances += 1;
        self.instances
    }

    /// Shows everybody what a subsystem is now; made when all have seen it.
    fn show(&mut self, nqn: &Nqn) -> Pending {
        let (pending, then) = pending();
        self.publish(nqn, Until::Seen, Some(then));
        pending
    }

    /// Changes every namespace made of this device, and shows that.
    fn touch(&mut self, name: &str, change: impl Fn(&u64, &mut super::subsystem::Kept)) {
        let instance = self.next_instance();
        let mut touched = Vec::new();
        for (nqn, subsystem) in &mut self.subsystems {
            let mut any = false;
            for kept in subsystem.namespaces.values_mut().filter(|kept| kept.name == name) {
                change(&instance, kept);
                any = true;
            }
            if any {
                touched.push(nqn.clone());
            }
        }
        touched.iter().for_each(|nqn| self.publish(nqn, Until::Seen, None));
    }
}

fn check_identity(identity: &Identity) -> Change<()> {
    let Identity { nqn, serial, model, namespaces_max, cntlids: (first, last), ana: _ } = identity;
    let printable = |text: &str, most: usize| text.len() <= most && text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    let refused = |what: String| Err(TargetError::Identity { what });
    if nqn.is_discovery() {
        return refused("discovery is always there; a subsystem needs a name of its own".into());
    }
    if !printable(serial, 20) {
        return refused(format!("the serial number '{serial}' must be at most 20 printable characters of ASCII"));
    }
    if !printable(model, 40) {
        return refused(format!("the model number '{model}' must be at most 40 printable characters of ASCII"));
    }
    if !(1..=NAMESPACES_MAX).contains(namespaces_max) {
        return refused(format!("{namespaces_max} namespaces are not possible; a subsystem has 1 to {NAMESPACES_MAX}"));
    }
    if *first == 0 || first > last || *last > 0xffef {
        return refused(format!("controller identifiers from {first} to {last} are not possible; they lie between 1 and 65519"));
    }
    Ok(())
}

fn restore(path: Option<&PathBuf>) -> Change<Reservations> {
    let Some(path) = path else { return Ok(Reservations::default()) };
    let refused = |because: String| TargetError::Reservations { path: path.clone(), because };
    let text = file::load(path).map_err(|error| refused(error.to_string()))?;
    let restored = text.map(|text| Reservations::restored(&text).map_err(|error: SavedError| refused(error.to_string())));
    Ok(restored.transpose()?.unwrap_or_default())
}
