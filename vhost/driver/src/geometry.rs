//! From a configuration space (virtio 1.2, 5.2.4) to a geometry. Knows no connection.

use spinel_core::{Features, Geometry};
use virtio_driver::{VirtioBlkConfig, VirtioBlkFeatureFlags as Blk};

use crate::error::Reason;

/// Bytes of a virtio sector, whatever the disk's blocks are.
pub(crate) const SECTOR_BYTES: u32 = 512;
/// Longest transfer where the server names no limit.
const TRANSFER_MAX_BYTES: u32 = 1 << 30;

/// What a server's disk is like, beyond its geometry.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Disk {
    pub(crate) geometry: Geometry,
    /// The server knows how to flush; without it every write that completes is stable.
    pub(crate) flush: bool,
    pub(crate) discard_max_blocks: u32,
    pub(crate) write_zeroes_max_blocks: u32,
}

impl Disk {
    /// What the configuration says where a feature makes it valid. `segments_max` is what we want at most.
    pub(crate) fn new(config: &VirtioBlkConfig, features: Blk, segments_max: u16) -> Result<Self, Reason> {
        let has = |feature| features.contains(feature);
        let given = |feature, value: u32, otherwise| if has(feature) { value } else { otherwise };
        let sectors = u64::from(config.capacity);
        let block_bytes = given(Blk::BLK_SIZE, config.blk_size.into(), SECTOR_BYTES);
        let sectors_per_block = u64::from(block_bytes / SECTOR_BYTES);
        let possible = matches!(block_bytes, 512 | 4096) && sectors < (1 << 54) && sectors.is_multiple_of(sectors_per_block);
        if !possible {
            return Err(Reason::Shape { sectors, block_bytes });
        }
        let blocks = |sectors: u32| sectors / (block_bytes / SECTOR_BYTES);
        let discard_max_blocks = blocks(given(Blk::DISCARD, config.max_discard_sectors.into(), 0));
        let write_zeroes_max_blocks = blocks(given(Blk::WRITE_ZEROES, config.max_write_zeroes_sectors.into(), 0));
        // qemu-storage-daemon offers the limit and then says 0.
        let transfer_max = match given(Blk::SIZE_MAX, config.size_max.into(), 0) {
            0 => TRANSFER_MAX_BYTES,
            size_max => size_max.min(TRANSFER_MAX_BYTES),
        };
        // Without SEG_MAX a request has one segment.
        let server_segments = u16::try_from(given(Blk::SEG_MAX, config.seg_max.into(), 1)).unwrap_or(u16::MAX);
        let physical_exponent = if has(Blk::TOPOLOGY) { u32::from(config.physical_block_exp) } else { 0 };
        let geometry = Geometry {
            block_bytes,
            block_count: sectors / sectors_per_block,
            // What a server does with its memory is unknown; one that does direct I/O is content with this.
            memory_align_bytes: block_bytes,
            segments_max: segments_max.min(server_segments).max(1),
            transfer_max_bytes: (transfer_max / block_bytes).max(1) * block_bytes,
            physical_block_bytes: block_bytes.checked_shl(physical_exponent).filter(|bytes| *bytes >= block_bytes).unwrap_or(block_bytes),
            // Without a switch, a device that can flush has a cache to flush (virtio 1.2, 5.2.5).
            write_cache: has(Blk::FLUSH) && (!has(Blk::CONFIG_WCE) || config.writeback != 0),
            read_only: has(Blk::RO),
            features: Features { discard: discard_max_blocks > 0, write_zeroes: write_zeroes_max_blocks > 0 },
        };
        Ok(Self { geometry, flush: has(Blk::FLUSH), discard_max_blocks, write_zeroes_max_blocks })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> VirtioBlkConfig {
        let mut config = VirtioBlkConfig::default();
        config.capacity = 2048.into();
        config.size_max = 65_536.into();
        config.seg_max = 126.into();
        config.blk_size = 4096.into();
        config.physical_block_exp = 1;
        config.writeback = 1;
        config.max_discard_sectors = 800.into();
        config.max_write_zeroes_sectors = 1600.into();
        config
    }

    #[test]
    fn every_field_counts_only_with_its_feature() {
        let bare = Disk::new(&config(), Blk::empty(), 8).unwrap();
        let expected = Geometry {
            block_bytes: 512,
            block_count: 2048,
            memory_align_bytes: 512,
            segments_max: 1,
            transfer_max_bytes: TRANSFER_MAX_BYTES,
            physical_block_bytes: 512,
            write_cache: false,
            read_only: false,
            features: Features::default(),
        };
        assert_eq!((bare.geometry, bare.flush), (expected, false));
        let full = Disk::new(&config(), Blk::all(), 8).unwrap();
        let expected = Geometry {
            block_bytes: 4096,
            block_count: 256,
            memory_align_bytes: 4096,
            segments_max: 8,
            transfer_max_bytes: 65_536,
            physical_block_bytes: 8192,
            write_cache: true,
            read_only: true,
            features: Features { discard: true, write_zeroes: true },
        };
        assert_eq!((full.geometry, full.flush), (expected, true));
        assert_eq!((full.discard_max_blocks, full.write_zeroes_max_blocks), (100, 200));
    }

    #[test]
    fn a_cache_that_is_switched_off_is_none() {
        let mut off = config();
        off.writeback = 0;
        let cache = |config, features| Disk::new(config, features, 1).unwrap().geometry.write_cache;
        assert!(!cache(&off, Blk::FLUSH | Blk::CONFIG_WCE));
        assert!(cache(&off, Blk::FLUSH), "the byte says nothing without its feature");
        assert!(!cache(&config(), Blk::CONFIG_WCE), "what cannot be flushed is no cache");
    }

    #[test]
    fn strange_disks_are_refused() {
        let disk = |capacity: u64, blk_size: u32| {
            let mut config = config();
            (config.capacity, config.blk_size) = (capacity.into(), blk_size.into());
            Disk::new(&config, Blk::BLK_SIZE, 1)
        };
        for (capacity, blk_size) in [(2048, 520), (2048, 0), (2048, 1 << 31), (2047, 4096), (u64::MAX, 512)] {
            assert!(matches!(disk(capacity, blk_size), Err(Reason::Shape { .. })), "{capacity} sectors, blocks of {blk_size}");
        }
        assert_eq!(disk(0, 512).unwrap().geometry.block_count, 0, "an empty disk is one");
    }

    #[test]
    fn impossible_numbers_of_a_server_are_bent_to_possible_ones() {
        let mut odd = config();
        (odd.size_max, odd.seg_max, odd.physical_block_exp) = (100.into(), 0.into(), 200);
        let geometry = Disk::new(&odd, Blk::all(), 4).unwrap().geometry;
        assert_eq!((geometry.transfer_max_bytes, geometry.segments_max, geometry.physical_block_bytes), (4096, 1, 4096));
        odd.size_max = 0.into();
        assert_eq!(Disk::new(&odd, Blk::all(), 4).unwrap().geometry.transfer_max_bytes, TRANSFER_MAX_BYTES);
    }
}
