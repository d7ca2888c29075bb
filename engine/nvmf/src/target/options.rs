//! What one transport of a target allows. Knows no transport.

use crate::pool::{LARGE_UNIT_BYTES, PoolSize};

/// The most bytes of one transfer that can be asked for.
pub const TRANSFER_MAX_BYTES: u32 = 1 << 20;
/// The fewest and the most entries of a queue.
pub const QUEUE_ENTRIES: std::ops::RangeInclusive<u16> = 2..=4096;
/// The most queues for I/O of one controller.
pub const IO_QUEUES_MAX: u16 = 1024;
/// In-capsule data has at most so many bytes; what connects and administers needs as many whatever was asked for.
pub const IN_CAPSULE_MAX_BYTES: u32 = 8 << 10;

/// What a transport allows its hosts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// Most entries of a queue for I/O.
    pub io_queue_entries: u16,
    /// Most entries of an admin queue.
    pub admin_queue_entries: u16,
    /// Most queues for I/O of one controller.
    pub io_queues: u16,
    /// Most bytes of data that come with a command for I/O.
    pub in_capsule_bytes: u32,
    /// Most bytes of one transfer: 4 KiB times a power of two.
    pub transfer_bytes: u32,
    /// Whether a read that succeeded says so with its data.
    pub success_with_data: bool,
    /// Buffers of each core.
    pub pool: PoolSize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            io_queue_entries: 128,
            admin_queue_entries: 128,
            io_queues: 127,
            in_capsule_bytes: 4096,
            transfer_bytes: LARGE_UNIT_BYTES,
            success_with_data: true,
            pool: PoolSize::default(),
        }
    }
}

/// A value that no transport can have.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum OptionsError {
    /// A queue's size.
    #[error("a queue of {entries} entries is not possible; it has {} to {}", QUEUE_ENTRIES.start(), QUEUE_ENTRIES.end())]
    Entries {
        /// What was asked for.
        entries: u16,
    },
    /// How many queues.
    #[error("{queues} queues for I/O are not possible; a controller has 1 to {IO_QUEUES_MAX}")]
    Queues {
        /// What was asked for.
        queues: u16,
    },
    /// In-capsule data.
    #[error("{bytes} bytes of in-capsule data are not possible; it has at most {IN_CAPSULE_MAX_BYTES}, a multiple of 16")]
    InCapsule {
        /// What was asked for.
        bytes: u32,
    },
    /// Transfers.
    #[error("transfers of {bytes} bytes are not possible; they have 8192 to {TRANSFER_MAX_BYTES} bytes, a power of two")]
    Transfer {
        /// What was asked for.
        bytes: u32,
    },
}

impl Options {
    /// These options, if a transport can have them.
    ///
    /// # Errors
    /// [`OptionsError`] names the value that will not do.
    pub fn checked(self) -> Result<Self, OptionsError> {
        for entries in [self.io_queue_entries, self.admin_queue_entries] {
            if !QUEUE_ENTRIES.contains(&entries) {
                return Err(OptionsError::Entries { entries });
            }
        }
        if !(1..=IO_QUEUES_MAX).contains(&self.io_queues) {
            return Err(OptionsError::Queues { queues: self.io_queues });
        }
        let bytes = self.in_capsule_bytes;
        if bytes > IN_CAPSULE_MAX_BYTES || !bytes.is_multiple_of(16) {
            return Err(OptionsError::InCapsule { bytes });
        }
        let bytes = self.transfer_bytes;
        if !(8192..=TRANSFER_MAX_BYTES).contains(&bytes) || !bytes.is_power_of_two() {
            return Err(OptionsError::Transfer { bytes });
        }
        Ok(self)
    }

    /// The most bytes of one transfer as Identify Controller says it (MDTS): a power of two of 4 KiB.
    #[must_use]
    pub fn mdts(&self) -> u8 {
        u8::try_from(self.transfer_bytes.ilog2() - 12).expect("transfers are small")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_transport_can_have_is_refused_by_name() {
        let with = |change: fn(&mut Options)| {
            let mut options = Options::default();
            change(&mut options);
            options.checked()
        };
        assert_eq!(with(|_| ()).unwrap().mdts(), 5);
        assert_eq!(with(|o| o.io_queue_entries = 1), Err(OptionsError::Entries { entries: 1 }));
        assert_eq!(with(|o| o.admin_queue_entries = 5000), Err(OptionsError::Entries { entries: 5000 }));
        assert_eq!(with(|o| o.io_queues = 0), Err(OptionsError::Queues { queues: 0 }));
        assert_eq!(with(|o| o.in_capsule_bytes = 4097), Err(OptionsError::InCapsule { bytes: 4097 }));
        assert_eq!(with(|o| o.transfer_bytes = 3 << 16), Err(OptionsError::Transfer { bytes: 3 << 16 }));
        assert_eq!(with(|o| o.transfer_bytes = 1 << 20).unwrap().mdts(), 8);
    }
}
