//! A vhost-user-blk disk as a device: the front end's side of the protocol. Knows no server.
//!
//! [`VhostDisk::connect`] does what a virtual machine does with such a disk: it agrees on
//! features, shares memory, and sets up queues. Then the disk is a [`Device`] whose
//! channels each drive one queue. Rings and messages are those of the `virtio-driver`
//! crate; this package adds time limits, credits, statuses and sleep.
//!
//! - Buffers lie in the disk's own [`region`](VhostDisk::region), the only memory that the
//!   server sees; segments of any other are answered `Malformed`.
//! - virtio-blk has no FUA: writes that ask for it are answered `Unsupported`.
//! - **The server is trusted.** The rings lie in memory that it can write, and the crate below
//!   follows free descriptors through that memory without checking them: a server that lies
//!   can make this process write where it should not, hang, or panic. Connect to servers that
//!   you would run yourself. A ring with a free list of its own would change that.
//!
//! [`Device`]: spinel_core::Device
#![deny(unsafe_code)]

mod between;
mod channel;
mod disk;
mod error;
mod geometry;
mod link;
mod ring;

pub use disk::{Options, VhostDisk};
pub use error::{ConnectError, Reason};
