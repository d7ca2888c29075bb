//! virtio-blk requests (virtio 1.2, 5.2): from untrusted chains to checked requests, and the configuration space. Knows no ring layout.

use std::sync::Arc;

use spinel_core::{Device, Meters};

/// A disk as vhost serves it.
pub struct Disk {
    /// The block device's name; its first 20 bytes are the answer to VIRTIO_BLK_T_GET_ID.
    pub serial: String,
    /// The device itself.
    pub device: Arc<dyn Device>,
    /// Where each queue's counts are gathered.
    pub meters: Arc<Meters>,
    /// Whether the guest may only read, whatever the device allows.
    pub read_only: bool,
}

/// The negotiated features that change what a request may be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlkFeatures {
    /// VIRTIO_BLK_F_FLUSH: the driver knows how to flush; without it every write must be stable when it completes.
    pub flush: bool,
    /// VIRTIO_BLK_F_DISCARD.
    pub discard: bool,
    /// VIRTIO_BLK_F_WRITE_ZEROES.
    pub write_zeroes: bool,
}

/// virtio feature bits of a block device (virtio 1.2, 5.2.3).
pub mod feature {
    /// `seg_max` is valid.
    pub const SEG_MAX: u64 = 1 << 2;
    /// The disk is read-only.
    pub const READ_ONLY: u64 = 1 << 5;
}

/// What the disk offers, as virtio feature bits (device-specific ones only).
#[must_use]
pub fn features(disk: &Disk, queues: u16) -> u64 {
    let _ = (disk, queues);
    0
}

/// The configuration space (virtio 1.2, 5.2.4), 60 bytes, little-endian, as of now.
#[must_use]
pub fn config(disk: &Disk, queues: u16, writeback: bool) -> [u8; 60] {
    let _ = (disk, queues, writeback);
    [0; 60]
}
