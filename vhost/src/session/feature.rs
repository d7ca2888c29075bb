//! Feature bits that the session itself understands. Knows no disk.

/// Every write to the guest's memory is to be logged (VHOST_F_LOG_ALL).
pub(crate) const LOG_ALL: u64 = 1 << 26;
/// The guest may put a chain's descriptors into a table of their own (virtio 1.2, 6: VIRTIO_F_INDIRECT_DESC).
pub(crate) const INDIRECT_DESC: u64 = 1 << 28;
/// Both sides say at which index they want to be notified (virtio 1.2, 6: VIRTIO_F_EVENT_IDX).
pub(crate) const EVENT_IDX: u64 = 1 << 29;
/// The front end may negotiate protocol features, and rings start disabled (VHOST_USER_F_PROTOCOL_FEATURES).
pub(crate) const PROTOCOL_FEATURES: u64 = 1 << 30;
/// The device follows virtio 1 (virtio 1.2, 6: VIRTIO_F_VERSION_1).
pub(crate) const VERSION_1: u64 = 1 << 32;
/// The ring is one array that both sides write (virtio 1.2, 6: VIRTIO_F_RING_PACKED).
pub(crate) const RING_PACKED: u64 = 1 << 34;

/// What every disk offers besides its own features.
pub(crate) const OFFERED: u64 = LOG_ALL | INDIRECT_DESC | EVENT_IDX | PROTOCOL_FEATURES | VERSION_1 | RING_PACKED;

/// Protocol features (`VHOST_USER_PROTOCOL_F_*`).
pub(crate) mod protocol {
    /// More than one queue.
    pub(crate) const MQ: u64 = 1 << 0;
    /// The log of writes is shared memory.
    pub(crate) const LOG_SHMFD: u64 = 1 << 1;
    /// The front end may ask for an acknowledgement of anything.
    pub(crate) const REPLY_ACK: u64 = 1 << 3;
    /// The back end may send requests of its own.
    pub(crate) const BACKEND_REQ: u64 = 1 << 5;
    /// The configuration space travels over the protocol.
    pub(crate) const CONFIG: u64 = 1 << 9;
    /// What is in flight is on record in memory that the front end keeps.
    pub(crate) const INFLIGHT_SHMFD: u64 = 1 << 12;
    /// The device can be reset.
    pub(crate) const RESET_DEVICE: u64 = 1 << 13;
    /// Memory regions come and go one by one.
    pub(crate) const CONFIGURE_MEM_SLOTS: u64 = 1 << 15;
    /// The device status travels over the protocol.
    pub(crate) const STATUS: u64 = 1 << 16;

    /// What this back end does.
    pub(crate) const OFFERED: u64 =
        MQ | LOG_SHMFD | REPLY_ACK | BACKEND_REQ | CONFIG | INFLIGHT_SHMFD | RESET_DEVICE | CONFIGURE_MEM_SLOTS | STATUS;
}
