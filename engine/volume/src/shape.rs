//! The shape of a device that has no medium to ask for it. Knows no device.

use spinel_core::{Features, Geometry, Lba};

/// Most segments of one request to a leaf of this package.
pub(crate) const SEGMENTS_MAX: u16 = 128;
/// Most bytes of one read or write to a leaf of this package: what Linux sends at most, and a bound on the time of one copy.
pub(crate) const TRANSFER_MAX_BYTES: u32 = 4 << 20;

/// Block sizes and count of a new device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shape {
    /// Bytes of one logical block: 512 or 4096.
    pub block_bytes: u32,
    /// Bytes of one physical block: a power of two, at least `block_bytes`.
    pub physical_block_bytes: u32,
    /// Number of blocks, at least one.
    pub block_count: u64,
}

/// Why no device can have this shape.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ShapeError {
    /// Blocks of this size are not served.
    #[error("a block of {block_bytes} bytes is not possible; use 512 or 4096")]
    BlockBytes {
        /// What was asked for.
        block_bytes: u32,
    },
    /// Physical blocks of this size make no sense.
    #[error("a physical block of {physical_block_bytes} bytes is not possible; use a power of two of at least {block_bytes}")]
    PhysicalBlockBytes {
        /// What was asked for.
        physical_block_bytes: u32,
        /// Bytes of one logical block.
        block_bytes: u32,
    },
    /// No blocks, or more bytes than 63 bits can count.
    #[error("a size of {block_count} blocks is not possible; use at least 1 and less than 2^63 bytes in all")]
    BlockCount {
        /// What was asked for.
        block_count: u64,
    },
}

impl Shape {
    /// A shape whose physical blocks are its logical ones.
    #[must_use]
    pub fn new(block_bytes: u32, block_count: u64) -> Self {
        Self { block_bytes, physical_block_bytes: block_bytes, block_count }
    }

    /// Itself, if a device can have it.
    ///
    /// # Errors
    /// [`ShapeError`] names the value that is out of bounds.
    pub fn checked(self) -> Result<Self, ShapeError> {
        let Self { block_bytes, physical_block_bytes, block_count } = self;
        if !matches!(block_bytes, 512 | 4096) {
            return Err(ShapeError::BlockBytes { block_bytes });
        }
        if !physical_block_bytes.is_power_of_two() || physical_block_bytes < block_bytes {
            return Err(ShapeError::PhysicalBlockBytes { physical_block_bytes, block_bytes });
        }
        let len_bytes = block_count.checked_mul(u64::from(block_bytes)).filter(|len| i64::try_from(*len).is_ok());
        if block_count == 0 || len_bytes.is_none() {
            return Err(ShapeError::BlockCount { block_count });
        }
        Ok(self)
    }

    /// Size in bytes of a checked shape.
    pub(crate) fn len_bytes(self) -> u64 {
        self.block_count * u64::from(self.block_bytes)
    }

    /// The geometry of a leaf in memory: no alignment, no cache, every operation.
    pub(crate) fn geometry(self) -> Geometry {
        Geometry {
            block_bytes: self.block_bytes,
            block_count: self.block_count,
            memory_align_bytes: 1,
            segments_max: SEGMENTS_MAX,
            transfer_max_bytes: TRANSFER_MAX_BYTES,
            physical_block_bytes: self.physical_block_bytes,
            write_cache: false,
            read_only: false,
            features: Features { discard: true, write_zeroes: true },
        }
    }
}

/// Whether `blocks` from `start` lie on a device of `block_count` blocks.
pub(crate) fn inside(start: Lba, blocks: u32, block_count: u64) -> bool {
    // A sum that overflows is still more blocks than there are.
    start.0.saturating_add(u64::from(blocks)) <= block_count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_possible_shapes_are_taken() {
        let shape = |block_bytes, physical_block_bytes, block_count| Shape { block_bytes, physical_block_bytes, block_count }.checked();
        assert!(shape(512, 512, 1).is_ok());
        assert!(shape(512, 4096, 1 << 40).is_ok());
        assert!(shape(4096, 4096, (1 << 51) - 1).is_ok());
        assert_eq!(shape(520, 520, 1), Err(ShapeError::BlockBytes { block_bytes: 520 }));
        assert_eq!(shape(4096, 512, 1), Err(ShapeError::PhysicalBlockBytes { physical_block_bytes: 512, block_bytes: 4096 }));
        assert_eq!(shape(512, 1536, 1), Err(ShapeError::PhysicalBlockBytes { physical_block_bytes: 1536, block_bytes: 512 }));
        for block_count in [0, 1 << 51, u64::MAX] {
            assert_eq!(shape(4096, 4096, block_count), Err(ShapeError::BlockCount { block_count }));
        }
    }

    #[test]
    fn a_range_that_overflows_is_outside() {
        for (start, blocks, expected) in [(0, 8, true), (7, 1, true), (8, 0, true), (8, 1, false), (u64::MAX, 1, false)] {
            assert_eq!(inside(Lba(start), blocks, 8), expected, "{blocks} blocks from {start}");
        }
    }
}
