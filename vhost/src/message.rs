//! The messages of the vhost-user protocol, from bytes and descriptors to checked requests. Knows no queue, no memory and no disk.
//!
//! Source: QEMU's `docs/interop/vhost-user.rst`. A [`Message`] exists only if its size,
//! its counts and its descriptors are exactly what its request may carry; indexes and
//! addresses in it are still the front end's word, and checked by whoever uses them.

mod body;
mod rules;
mod socket;

use std::os::fd::OwnedFd;

use crate::ring::RingAddresses;

pub(crate) use rules::Code;
pub(crate) use socket::{Inlet, ReadError, WriteError, reply, reply_with, send};

/// Bytes of a header: request, flags and size, 32 bits each, in the machine's byte order.
pub(crate) const HEADER_BYTES: usize = 12;
/// Most regions of one memory table. The specification says 8; rust-vmm's front end sends up to 32.
pub(crate) const TABLE_REGIONS_MAX: usize = 32;
/// Bytes of one memory region description.
const REGION_BYTES: usize = 32;
/// The longest body any request may have: a full memory table.
pub(crate) const BODY_BYTES_MAX: usize = 8 + REGION_BYTES * TABLE_REGIONS_MAX;
/// Most descriptors of one message: one for each region of a memory table.
pub(crate) const FDS_MAX: usize = TABLE_REGIONS_MAX;
/// Most bytes of configuration space one message carries (VHOST_USER_MAX_CONFIG_SIZE of QEMU).
pub(crate) const CONFIG_BYTES_MAX: usize = 256;
/// Bytes of an inflight description.
pub(crate) const INFLIGHT_BYTES: usize = 20;
/// Bytes before the content of a configuration message: offset, size and flags.
pub(crate) const CONFIG_HEAD_BYTES: usize = 12;

/// The two version bits of every header.
const VERSION: u32 = 1;
const VERSION_MASK: u32 = 3;
/// Header flag: this is a reply.
pub(crate) const FLAG_REPLY: u32 = 1 << 2;
/// Header flag: the sender wants a reply (VHOST_USER_PROTOCOL_F_REPLY_ACK).
pub(crate) const FLAG_NEED_REPLY: u32 = 1 << 3;

/// A message whose form cannot be trusted; the connection it came from ends.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum MessageError {
    #[error("a header with flags {flags:#x}: protocol version 1 and at most need_reply were expected")]
    Flags { flags: u32 },
    #[error("{code} with a body of {size} bytes, which it cannot have")]
    Size { code: Code, size: u32 },
    #[error("{code} with {count} file descriptors, which it cannot carry")]
    Descriptors { code: Code, count: usize },
    #[error("{code} whose invalid-descriptor flag and {count} descriptors contradict each other")]
    DescriptorFlag { code: Code, count: usize },
    #[error("{code} with value {value:#x}, which has bits that mean nothing")]
    Value { code: Code, value: u64 },
    #[error("{code} says it holds {said} bytes or regions, and does not")]
    Count { code: Code, said: u32 },
    #[error("file descriptors in the middle of a message")]
    StrayDescriptors,
    #[error("more file descriptors than any message may carry")]
    DescriptorFlood,
}

/// A message header whose flags were checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) code: Code,
    pub(crate) flags: u32,
    pub(crate) size: u32,
}

impl Header {
    pub(crate) fn parse(bytes: [u8; HEADER_BYTES]) -> Result<Self, MessageError> {
        let [code, flags, size] = body::words(&bytes);
        if flags & VERSION_MASK != VERSION || flags & !(VERSION_MASK | FLAG_NEED_REPLY) != 0 {
            return Err(MessageError::Flags { flags });
        }
        let header = Self { code: Code(code), flags, size };
        header.code.check_size(size)?;
        Ok(header)
    }

    /// The header's bytes, with the protocol's version set.
    pub(crate) fn bytes(self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        for (at, word) in [self.code.0, self.flags | VERSION, self.size].into_iter().enumerate() {
            bytes[at * 4..at * 4 + 4].copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }
}

/// One memory region as the front end describes it, with the file it lies in.
#[derive(Debug)]
pub(crate) struct RegionOffer {
    pub(crate) place: RegionPlace,
    /// Where the region begins in the file.
    pub(crate) offset: u64,
    pub(crate) fd: OwnedFd,
}

/// Where a memory region lies: its identity as far as the protocol is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RegionPlace {
    pub(crate) guest: u64,
    pub(crate) user: u64,
    pub(crate) len_bytes: u64,
}

/// A ring's eventfd: a message of SET_VRING_KICK, _CALL or _ERR.
#[derive(Debug)]
pub(crate) struct RingFd {
    pub(crate) index: u32,
    /// None if the ring is to be polled instead.
    pub(crate) fd: Option<OwnedFd>,
}

/// Where the record of what is in flight lies, and for which queues.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct InflightPlace {
    /// Bytes of it, from `offset` on in its file.
    pub(crate) len_bytes: u64,
    pub(crate) offset: u64,
    pub(crate) queues: u16,
    /// Most descriptors of one of them.
    pub(crate) size: u16,
}

impl InflightPlace {
    pub(crate) fn bytes(self) -> [u8; INFLIGHT_BYTES] {
        let mut bytes = [0; INFLIGHT_BYTES];
        bytes[..8].copy_from_slice(&self.len_bytes.to_ne_bytes());
        bytes[8..16].copy_from_slice(&self.offset.to_ne_bytes());
        bytes[16..18].copy_from_slice(&self.queues.to_ne_bytes());
        bytes[18..].copy_from_slice(&self.size.to_ne_bytes());
        bytes
    }
}

/// What a front end can ask, as far as this back end knows it.
#[derive(Debug)]
pub(crate) enum Request {
    GetFeatures,
    SetFeatures(u64),
    SetOwner,
    ResetOwner,
    SetMemTable(Vec<RegionOffer>),
    SetRingSize {
        index: u32,
        size: u32,
    },
    SetRingAddresses {
        index: u32,
        flags: u32,
        addresses: RingAddresses,
    },
    SetRingBase {
        index: u32,
        base: u32,
    },
    GetRingBase {
        index: u32,
    },
    SetRingKick(RingFd),
    SetRingCall(RingFd),
    SetRingError(RingFd),
    GetProtocolFeatures,
    SetProtocolFeatures(u64),
    GetQueueCount,
    EnableRing {
        index: u32,
        enable: bool,
    },
    SetBackEndSocket(OwnedFd),
    GetConfig {
        offset: u32,
        size: u32,
        flags: u32,
    },
    SetConfig {
        offset: u32,
        flags: u32,
        content: Vec<u8>,
    },
    ResetDevice,
    GetMemorySlots,
    AddRegion(RegionOffer),
    RemoveRegion(RegionPlace),
    SetStatus(u64),
    GetStatus,
    /// A request of the protocol, or of none, that this back end does not serve.
    /// With the size that the answer's body has to have.
    GetInflight {
        place: InflightPlace,
        answer_bytes: usize,
    },
    SetLog {
        len_bytes: u64,
        offset: u64,
        fd: OwnedFd,
    },
    /// An eventfd to be written to whenever something is logged. Nobody waits for that any more, and it is closed.
    SetLogEvent,
    SetInflight {
        place: InflightPlace,
        fd: OwnedFd,
    },
    Unknown,
}

/// One request, complete and well-formed.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) code: Code,
    pub(crate) need_reply: bool,
    pub(crate) request: Request,
}
