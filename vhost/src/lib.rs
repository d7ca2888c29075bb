//! vhost-user-blk: a disk served to a virtual machine over shared memory. Knows no device below and no reactor; it is given both as contracts.
//!
//! `session` speaks the messages of the vhost-user protocol on a control thread,
//! `ring` reads and writes the untrusted virtqueue, `blk` turns its chains into
//! requests, and `queue` is the poller that joins them on a core.
//!
//! # Threat model
//! The guest, and the front end that speaks for it, are hostile: every descriptor,
//! header and index is copied once and checked once; every passed file is checked
//! against what it backs. What goes wrong costs that queue or that connection, and is
//! logged with its reason. Memory whose pages another process would have to deliver
//! (FUSE, say) is refused, for a page fault holds a core.
//!
//! One thing is open: an eventfd's owner can make it block and fill it up, and the core that
//! notifies then waits for it. `write` cannot refuse to wait, and clearing the blocking flag
//! here would clear it for the owner, who may read with it; only the kernel's own signal (a
//! ring's registered eventfd) never waits.
#![forbid(unsafe_code)]

pub mod blk;
mod controller;
mod dirty;
mod handover;
mod lot;
mod memory;
mod message;
mod queue;
mod ring;
mod session;

pub use blk::{BlkFeatures, Disk};
pub use controller::{
    Controller, ControllerConfig, ControllerError, ControllerInfo, ControllerState, HandOverError, ListenError, MoveError, Mover, Pin,
    QUEUES_MAX, StopError,
};
pub use dirty::{DirtyLog, RingLog, Stretch};
pub use handover::{ControllerParcel, Places, SessionParcel, now_ns};
pub use queue::{Poked, QueueEvent, QueueRemains, QueueSetup, recipe};
pub use ring::{AnyRing, PackedRing, RecordError, RecordPlace, RingAddresses, RingError, RingFault, RingFeatures, SplitRing};
pub use session::{MemoryInfo, QueueInfo, SessionInfo};
