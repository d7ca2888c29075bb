//! What a session looks like from outside, for whoever lists controllers. Knows no wire format.

use std::sync::Arc;

use spinel_core::{CoreId, Meter};

use super::Session;

/// A running queue.
#[derive(Clone, Debug)]
pub struct QueueInfo {
    /// Which of the disk's queues, from 0.
    pub index: u16,
    /// The core that serves it.
    pub core: CoreId,
    /// Descriptors of its ring.
    pub size: u16,
    /// What it counts, now and later, since it started on this core.
    pub meter: Arc<Meter>,
}

/// Of the same run.
impl PartialEq for QueueInfo {
    fn eq(&self, other: &Self) -> bool {
        (self.index, self.core, self.size) == (other.index, other.core, other.size) && Arc::ptr_eq(&self.meter, &other.meter)
    }
}

impl Eq for QueueInfo {}

/// One region of a client's memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryInfo {
    /// Guest-physical address of its first byte.
    pub guest: u64,
    /// Its length in bytes.
    pub len_bytes: u64,
    /// Whether its pages are pinned for the device.
    pub pinned: bool,
}

/// A connected client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionInfo {
    /// The negotiated virtio feature bits; zero before negotiation.
    pub features: u64,
    /// The negotiated protocol feature bits.
    pub protocol_features: u64,
    /// The device status, if the front end tells it (virtio 1.2, 2.1).
    pub status: u8,
    /// Whether completed writes may stay in a volatile cache until a flush.
    pub writeback: bool,
    /// The queues that run.
    pub queues: Vec<QueueInfo>,
    /// The client's memory, by guest address.
    pub memory: Vec<MemoryInfo>,
}

impl Session {
    /// What it looks like now.
    pub(crate) fn describe(&self) -> SessionInfo {
        let queues = (0..self.served.queues_max).zip(&self.vrings);
        let queues = queues.filter_map(|(index, vring)| {
            Some(QueueInfo { index, core: vring.core()?, size: vring.size?, meter: Arc::clone(vring.meter()?) })
        });
        let memory = self.memory.map().ranges().iter().map(|range| MemoryInfo {
            guest: range.guest,
            len_bytes: range.region.len_bytes(),
            pinned: range.region.pins().is_some(),
        });
        SessionInfo {
            features: self.features.unwrap_or(0),
            protocol_features: self.protocol_features,
            status: self.status,
            writeback: self.writeback(),
            queues: queues.collect(),
            memory: memory.collect(),
        }
    }
}
