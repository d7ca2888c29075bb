//! The host's side of NVMe over Fabrics: queues, controllers, and namespaces as devices. Knows no socket.

mod channel;
mod control;
mod device;
mod host;
mod lane;
mod note;
mod options;
mod overlap;
mod queue;
mod view;

pub use control::{
    AttachError, Attached, Attaching, Detaching, DiscoverSpec, DiscoveryInfo, Event, Initiator, PathInfo, PathState, Reach, ScriptError,
    WayInfo,
};
pub use device::RemoteDevice;
pub use host::Network;
pub use options::{AttachSpec, Me, OnTimeout, Patience, Secrets, Settings};
pub use queue::{Awaited, Loss};
pub use spinel_nvme::log::AnaState;
pub use view::Policy;
