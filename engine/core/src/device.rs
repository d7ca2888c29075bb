//! A block device as its users see it: a geometry, and channels to open. Knows nothing of who serves it.

use std::fmt;
use std::io;

use crate::channel::Channel;
use crate::core::Core;

/// Which operations beyond read, write and flush a device does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Features {
    /// Discard does something.
    pub discard: bool,
    /// Write zeroes is done by the device.
    pub write_zeroes: bool,
}

/// What a device is like right now. `block_count` may change while channels are open.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Geometry {
    /// Bytes of one logical block: 512 or 4096.
    pub block_bytes: u32,
    /// Number of blocks.
    pub block_count: u64,
    /// Segments aligned to this many bytes in memory are served without a copy; others are served too.
    pub memory_align_bytes: u32,
    /// Most segments of one request.
    pub segments_max: u16,
    /// Most bytes of one read or write.
    pub transfer_max_bytes: u32,
    /// Bytes of one physical block, for alignment hints; a multiple of `block_bytes`.
    pub physical_block_bytes: u32,
    /// Whether completed writes may still be lost in a power cut until a flush succeeds.
    pub write_cache: bool,
    /// Whether the device refuses every operation that changes data.
    pub read_only: bool,
    /// Which operations it does beyond the basic three.
    pub features: Features,
}

impl Geometry {
    /// Size in bytes.
    #[must_use]
    pub fn len_bytes(&self) -> u64 {
        self.block_count.saturating_mul(u64::from(self.block_bytes))
    }
}

/// Why a channel could not be opened.
#[derive(Debug)]
pub enum OpenError {
    /// More requests in flight were asked for than the device can hold.
    Depth {
        /// What was asked for.
        asked: u16,
        /// What it can hold.
        max: u16,
    },
    /// The device has a fixed number of queues, and each of them was opened before.
    Queues {
        /// How many it has.
        max: u16,
    },
    /// The device is being removed.
    Gone,
    /// The operating system refused something.
    System {
        /// What was being done.
        doing: &'static str,
        /// Its answer.
        source: io::Error,
    },
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Depth { asked, max } => write!(f, "a queue of depth {asked} was asked for, the device takes at most {max}"),
            Self::Queues { max } => {
                write!(f, "another queue was asked for, and all of the device's queues were opened before: it has {max}")
            }
            Self::Gone => write!(f, "the device is being removed"),
            Self::System { doing, .. } => write!(f, "the system refused: {doing}"),
        }
    }
}

impl std::error::Error for OpenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::System { source, .. } => Some(source),
            _ => None,
        }
    }
}

/// A block device: shared by control threads, opened once per core and queue.
pub trait Device: Send + Sync {
    /// What it is like right now; cheap, and may be asked from any thread.
    fn geometry(&self) -> Geometry;

    /// Opens a channel on `core` that holds up to `depth` requests.
    ///
    /// Give it a depth of at least the ring it serves: with fewer slots than the guest
    /// can post, slow writes at the head of the ring would hold back every read.
    ///
    /// # Errors
    /// [`OpenError`] when the device or the system cannot serve another channel.
    fn open(&self, core: &mut Core, depth: u16) -> Result<Box<dyn Channel>, OpenError>;
}
