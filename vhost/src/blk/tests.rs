//! What a disk offers and says about itself in its configuration space.

use super::*;
use spinel_core::{Channel, Core, Features, OpenError};

struct Flat(Geometry);

impl Device for Flat {
    fn geometry(&self) -> Geometry {
        self.0
    }
    fn open(&self, _core: &mut Core, _depth: u16) -> Result<Box<dyn Channel>, OpenError> {
        Err(OpenError::Gone)
    }
}

const GEOMETRY: Geometry = Geometry {
    block_bytes: 512,
    block_count: 0x0102_0304_0506,
    memory_align_bytes: 512,
    segments_max: 128,
    transfer_max_bytes: 1 << 20,
    physical_block_bytes: 4096,
    write_cache: true,
    read_only: false,
    features: Features { discard: true, write_zeroes: true },
};

fn disk(geometry: Geometry, read_only: bool) -> Disk {
    Disk { serial: "d".to_owned(), device: Arc::new(Flat(geometry)), meters: Arc::new(Meters::default()), read_only }
}

fn word(space: &[u8; CONFIG_BYTES], at: usize) -> u32 {
    u32::from_le_bytes([space[at], space[at + 1], space[at + 2], space[at + 3]])
}

#[test]
fn the_configuration_space_says_what_the_specification_puts_where() {
    let space = config(&disk(GEOMETRY, false), 4, true);
    assert_eq!(space[..8], 0x0102_0304_0506_u64.to_le_bytes(), "capacity in sectors");
    assert_eq!((word(&space, 8), word(&space, 12)), (1 << 20, 126), "size_max and seg_max");
    assert_eq!(word(&space, 20), 512, "blk_size");
    assert_eq!(space[24], 3, "eight logical blocks to a physical one, as a power of two");
    assert_eq!((space[32], space[34], space[35]), (1, 4, 0), "writeback and num_queues");
    assert_eq!((word(&space, 36), word(&space, 40), word(&space, 44)), (RANGE_SECTORS_MAX, 1, 8), "discard");
    assert_eq!((word(&space, 48), word(&space, 52), space[56]), (RANGE_SECTORS_MAX, 1, 1), "write zeroes");
}

#[test]
fn the_capacity_counts_sectors_of_512_bytes_whatever_the_blocks_are() {
    let space = config(&disk(Geometry { block_bytes: 4096, block_count: 10, ..GEOMETRY }, false), 1, false);
    assert_eq!(word(&space, 0), 80);
    assert_eq!((word(&space, 20), space[24], space[32]), (4096, 0, 0));
}

#[test]
fn what_is_not_offered_is_not_described() {
    let plain = Geometry { features: Features::default(), ..GEOMETRY };
    let space = config(&disk(plain, false), 1, true);
    assert!(space[36..].iter().all(|byte| *byte == 0));
    assert_eq!(features(&disk(plain, false), 1) & (feature::DISCARD | feature::WRITE_ZEROES | feature::MQ), 0);
}

#[test]
fn a_read_only_disk_offers_no_way_to_change_it() {
    let all = feature::DISCARD | feature::WRITE_ZEROES;
    assert_eq!(features(&disk(GEOMETRY, false), 2) & (all | feature::READ_ONLY | feature::MQ), all | feature::MQ);
    assert_eq!(features(&disk(GEOMETRY, true), 2) & (all | feature::READ_ONLY), feature::READ_ONLY);
    let locked = Geometry { read_only: true, ..GEOMETRY };
    assert_eq!(features(&disk(locked, false), 2) & (all | feature::READ_ONLY), feature::READ_ONLY);
}
