//! What connections see of a subsystem: made whole by the control side, never changed, replaced. Knows nobody who looks.

use std::fmt;
use std::sync::Arc;

use spinel_core::{Device, Meters};

use super::reservation::{HostId, Reservations, Rights};
use crate::nqn::Nqn;

/// How many namespaces a subsystem may have at most, and the highest identifier of one.
pub const NAMESPACES_MAX: u32 = 1024;

/// Names a connection for as long as the process lives.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ConnectionId(pub u64);

/// Names a place where hosts connect, as discovery does (PORTID).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct PortId(pub u16);

/// How a group of namespaces is reached by one way (NVMe base 2.0, 8.1.3).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
#[repr(u8)]
pub enum AnaState {
    /// Best.
    #[default]
    Optimized = 1,
    /// Possible.
    NonOptimized = 2,
    /// Not now.
    Inaccessible = 3,
}

impl AnaState {
    /// Its number in the log page.
    #[must_use]
    pub fn code(self) -> u8 {
        self as u8
    }
}

/// The states of all groups by one way.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct AnaStates {
    /// By group, ascending. Those not here are optimized, and never were anything else.
    groups: Vec<AnaGroup>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct AnaGroup {
    group: u32,
    state: AnaState,
    changes: u64,
}

impl AnaStates {
    /// How a group is reached.
    #[must_use]
    pub fn state(&self, group: u32) -> AnaState {
        self.find(group).map_or(AnaState::Optimized, |at| self.groups[at].state)
    }

    /// How often that has changed.
    #[must_use]
    pub fn changes(&self, group: u32) -> u64 {
        self.find(group).map_or(0, |at| self.groups[at].changes)
    }

    /// Sets the state of a group; whether that is another one.
    pub fn set(&mut self, group: u32, state: AnaState) -> bool {
        if self.state(group) == state {
            return false;
        }
        match self.groups.binary_search_by_key(&group, |entry| entry.group) {
            Ok(at) => {
                self.groups[at].state = state;
                self.groups[at].changes += 1;
            }
            Err(at) => self.groups.insert(at, AnaGroup { group, state, changes: 1 }),
        }
        true
    }

    /// Every group that is in another state than [`AnaState::Optimized`].
    pub fn others(&self) -> impl Iterator<Item = (u32, AnaState)> {
        self.groups.iter().filter(|entry| entry.state != AnaState::Optimized).map(|entry| (entry.group, entry.state))
    }

    fn find(&self, group: u32) -> Option<usize> {
        self.groups.binary_search_by_key(&group, |entry| entry.group).ok()
    }
}

/// What a subsystem is, as long as it lives.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    /// Its name.
    pub nqn: Nqn,
    /// Its serial number, at most 20 characters of ASCII.
    pub serial: String,
    /// Its model, at most 40 characters of ASCII.
    pub model: String,
    /// The highest namespace identifier.
    pub namespaces_max: u32,
    /// Whether it says by which ways namespaces are reached best.
    pub ana: bool,
    /// The lowest and the highest controller identifier.
    pub cntlids: (u16, u16),
}

/// By what a namespace is known all over the world. Zeroes are none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct NamespaceIds {
    /// UUID.
    pub uuid: [u8; 16],
    /// NGUID.
    pub nguid: [u8; 16],
    /// EUI-64.
    pub eui64: [u8; 8],
}

/// Who sees something.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Visibility {
    /// Every host that may connect.
    Everybody,
    /// These hosts.
    Hosts(Vec<Nqn>),
}

impl Visibility {
    /// Whether this host does.
    #[must_use]
    pub fn includes(&self, host: &Nqn) -> bool {
        match self {
            Self::Everybody => true,
            Self::Hosts(hosts) => hosts.contains(host),
        }
    }
}

/// A range of blocks that one connection works on; writes of all others wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hold {
    /// Whose it is.
    pub by: ConnectionId,
    /// First block.
    pub start: u64,
    /// How many.
    pub blocks: u32,
}

impl Hold {
    /// Whether it keeps others from changing these blocks.
    #[must_use]
    pub fn bars(&self, start: u64, blocks: u32) -> bool {
        start < self.start.saturating_add(u64::from(self.blocks)) && self.start < start.saturating_add(u64::from(blocks))
    }
}

/// One namespace.
#[derive(Clone)]
pub struct Namespace {
    /// Its identifier in the subsystem, from 1.
    pub nsid: u32,
    /// Another number means that channels opened before serve no longer.
    pub instance: u64,
    /// Another number means that hosts should look at it again.
    pub change: u64,
    /// What it is made of.
    pub device: Arc<dyn Device>,
    /// Where its users count.
    pub meters: Arc<Meters>,
    /// Its names.
    pub ids: NamespaceIds,
    /// Its ANA group.
    pub group: u32,
    /// Who sees it.
    pub visible: Visibility,
    /// Who may do what with it.
    pub reservations: Arc<Reservations>,
    /// Whether reservations may survive a loss of power.
    pub may_persist: bool,
    /// What is worked on by one connection alone.
    pub hold: Option<Hold>,
}

impl fmt::Debug for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Namespace").field("nsid", &self.nsid).field("instance", &self.instance).finish_non_exhaustive()
    }
}

impl Namespace {
    /// What a host may do with it.
    #[must_use]
    pub fn rights(&self, host: &HostId) -> Rights {
        self.reservations.rights(host)
    }
}

/// A subsystem with namespaces, at one moment.
#[derive(Clone, Debug)]
pub struct View {
    /// Counts the views of this subsystem.
    pub generation: u64,
    /// What it is.
    pub identity: Arc<Identity>,
    /// What it has, by ascending identifier.
    pub namespaces: Vec<Arc<Namespace>>,
    /// How it is reached, by ascending port.
    pub ports: Vec<(PortId, Arc<AnaStates>)>,
}

impl View {
    /// The namespace of this identifier.
    #[must_use]
    pub fn namespace(&self, nsid: u32) -> Option<&Arc<Namespace>> {
        self.namespaces.binary_search_by_key(&nsid, |namespace| namespace.nsid).ok().map(|at| &self.namespaces[at])
    }

    /// The states of groups by one way. Nothing is reached by a way that is not there.
    #[must_use]
    pub fn ana(&self, port: PortId) -> Option<&Arc<AnaStates>> {
        self.ports.iter().find(|(id, _)| *id == port).map(|(_, states)| states)
    }
}

/// The family of an address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Family {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
}

/// Where hosts connect by TCP.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Address {
    /// What `host` is an address of.
    pub family: Family,
    /// The address (TRADDR), at most 255 bytes.
    pub host: String,
    /// The port (TRSVCID), at most 31 bytes.
    pub service: String,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.family {
            Family::Ipv4 => write!(f, "{}:{}", self.host, self.service),
            Family::Ipv6 => write!(f, "[{}]:{}", self.host, self.service),
        }
    }
}

/// What discovery says of one way to one subsystem.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DiscoveryRecord {
    /// Which subsystem.
    pub subsystem: Nqn,
    /// Whether that is another place of discovery.
    pub referral: bool,
    /// Whether a secure channel is required there.
    pub secure: bool,
    /// Which port of this target; of a referral, none.
    pub port: Option<PortId>,
    /// Where; none is where the host that asks has connected.
    pub address: Option<Address>,
    /// Who is told.
    pub visible: Visibility,
}

/// What discovery says, at one moment.
#[derive(Clone, Debug, Default)]
pub struct DiscoveryView {
    /// Counts the changes (GENCTR).
    pub generation: u64,
    /// By subsystem and port.
    pub records: Vec<DiscoveryRecord>,
}

/// What a controller belongs to.
#[derive(Clone, Debug)]
pub enum Scene {
    /// A subsystem with namespaces.
    Storage(Arc<View>),
    /// Discovery.
    Discovery(Arc<DiscoveryView>),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_optimized_until_somebody_says_otherwise_and_changes_are_counted() {
        let mut states = AnaStates::default();
        assert_eq!((states.state(7), states.changes(7)), (AnaState::Optimized, 0));
        assert!(!states.set(7, AnaState::Optimized));
        assert!(states.set(7, AnaState::Inaccessible) && states.set(3, AnaState::NonOptimized));
        assert_eq!(states.others().collect::<Vec<_>>(), [(3, AnaState::NonOptimized), (7, AnaState::Inaccessible)]);
        assert!(states.set(7, AnaState::Optimized));
        assert_eq!((states.changes(7), states.changes(3), states.changes(4)), (2, 1, 0));
    }

    #[test]
    fn a_hold_bars_others_where_it_is() {
        let hold = Hold { by: ConnectionId(1), start: 10, blocks: 2 };
        assert!(hold.bars(10, 1) && hold.bars(11, 9) && hold.bars(0, 11) && hold.bars(0, u32::MAX));
        assert!(!hold.bars(12, 1) && !hold.bars(0, 10) && !hold.bars(u64::MAX, 5));
    }
}
