//! The target: what hosts connect to. Knows no socket; what carries bytes is a `Stream`.

mod admin;
mod connection;
mod control;
mod hub;
mod note;
mod options;
mod queue;
pub mod reservation;
mod view;

pub use control::{
    CONNECTIONS_MAX, CONNECTIONS_OF_HOST_MAX, ControllerInfo, CoreShare, HOSTS_MAX, HostInfo, HostSecrets, ListenerInfo, ListenerSpec,
    NamespaceInfo, NamespaceSpec, PORTS_MAX, Pending, QueueInfo, ReferralInfo, ReferralSpec, STRANGERS_MAX, SUBSYSTEMS_MAX, SubsystemInfo,
    SubsystemSpec, Target, TargetError,
};
pub use options::{IN_CAPSULE_MAX_BYTES, IO_QUEUES_MAX, Options, OptionsError, QUEUE_ENTRIES, TRANSFER_MAX_BYTES};
pub use view::{
    Address, AnaState, AnaStates, ConnectionId, DiscoveryRecord, DiscoveryView, Family, Hold, Identity, NAMESPACES_MAX, Namespace,
    NamespaceIds, PortId, Scene, View, Visibility,
};
