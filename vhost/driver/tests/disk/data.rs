//! What is written is read back, by every operation and through every queue.

use std::path::Path;
use std::sync::Arc;

use spinel_core::{Device, Op, Status};
use spinel_sim::Prng;
use spinel_vhost_driver::{Options, VhostDisk};

use crate::front::Front;
use crate::host::{BLOCKS, Cached, Host, memory};

const WRITE: Op = Op::Write { fua: false };

/// What block `block` holds after its `version`th write.
fn pattern(block: u64, version: u8) -> u8 {
    u8::try_from(block % 251).unwrap() ^ version
}

fn agree_with_a_model(options: &Options, depth: u16, seed: u64) {
    let host = Host::new();
    let _controller = host.serve(memory(), 1);
    agree_with_a_model_over(&host.socket(), options, depth, seed);
}

/// Random writes, reads, zeroes and discards at a depth, against a model of what the disk holds.
pub(crate) fn agree_with_a_model_over(socket: &Path, options: &Options, depth: u16, seed: u64) {
    let disk = VhostDisk::connect(socket, options).unwrap();
    let mut front = Front::open(&disk, depth);
    let mut model = vec![0_u8; usize::try_from(BLOCKS).unwrap()];
    let mut prng = Prng::new(seed);
    for round in 0..200_u32 {
        // Requests of one round are of blocks of their own, so that their order does not matter.
        let lane = BLOCKS / u64::from(depth);
        let mut reads = Vec::new();
        for slot in 0..u32::from(depth) {
            let start = u64::from(slot) * lane + prng.below(lane - 8);
            let blocks = u32::try_from(prng.within(1..=8)).unwrap();
            let at = u64::from(slot) * 4096;
            let len_bytes = blocks * 512;
            let place = usize::try_from(start).unwrap()..usize::try_from(start).unwrap() + blocks as usize;
            let cut = len_bytes / 2;
            let whole = [front.segment(at, len_bytes)];
            let halves = [front.segment(at, cut), front.segment(0, 0), front.segment(at + u64::from(cut), len_bytes - cut)];
            let segments = if options.segments_max > 1 && slot % 2 == 1 { &halves[..] } else { &whole[..] };
            match prng.below(8) {
                0 => {
                    front.submit(slot, Op::WriteZeroes { unmap: slot % 2 == 0, fua: false }, start, blocks, &[]);
                    model[place].fill(0);
                }
                1 => {
                    // Memory that was discarded reads as zeroes with this device.
                    front.submit(slot, Op::Discard, start, blocks, &[]);
                    model[place].fill(0);
                }
                2 => front.submit(slot, Op::Flush, 0, 0, &[]),
                3 | 4 => {
                    let value = pattern(start, u8::try_from(round % 256).unwrap());
                    front.fill(at, len_bytes as usize, value);
                    front.submit(slot, WRITE, start, blocks, segments);
                    model[place].fill(value);
                }
                _ => {
                    front.fill(at, len_bytes as usize, 0xee);
                    front.submit(slot, Op::Read, start, blocks, segments);
                    reads.push((at, place));
                }
            }
        }
        assert_eq!(front.channel.room(), 0);
        let done = front.wait_for(usize::from(depth));
        assert!(done.iter().all(|done| done.status == Status::Ok), "{done:?}");
        let mut tags: Vec<u32> = done.iter().map(|done| done.tag.0).collect();
        tags.sort_unstable();
        assert_eq!(tags, (0..u32::from(depth)).collect::<Vec<_>>());
        for (at, place) in reads {
            let expected: Vec<u8> = model[place].iter().flat_map(|value| [*value; 512]).collect();
            assert_eq!(front.bytes(at, expected.len()), expected, "round {round}");
        }
    }
}

#[test]
fn a_random_load_agrees_with_a_model_whatever_the_ring() {
    let plain = Options::default();
    agree_with_a_model(&plain, 1, 1);
    agree_with_a_model(&plain.for_depth(32), 32, 2);
    agree_with_a_model(&Options { event_idx: false, ..plain }.for_depth(32), 32, 3);
    agree_with_a_model(&Options { segments_max: 2, ..plain }.for_depth(16), 16, 4);
    // The ring is full with this: not one descriptor is left over.
    let full = Options { queue_size: 128, segments_max: 2, ..plain };
    agree_with_a_model(&full, 32, 5);
    let packed = Options { packed: true, ..plain };
    agree_with_a_model(&Options { queue_size: 4, ..packed }, 1, 6);
    agree_with_a_model(&packed.for_depth(32), 32, 7);
    agree_with_a_model(&Options { packed: true, ..full }, 32, 8);
}

#[test]
fn every_queue_leads_to_the_same_disk() {
    let host = Host::new();
    let _controller = host.serve(memory(), 3);
    for packed in [false, true] {
        lead_to_the_same_disk(&host, &Options { queues: 3, packed, ..Options::default() });
    }
}

fn lead_to_the_same_disk(host: &Host, options: &Options) {
    let disk = VhostDisk::connect(&host.socket(), options).unwrap();
    let mut fronts: Vec<Front> = (0..3).map(|_| Front::open(&disk, 4)).collect();
    for at in 0..30_u64 {
        let (value, block) = (pattern(at, 7), at * 8);
        let writer = &mut fronts[usize::try_from(at % 3).unwrap()];
        writer.fill(0, 512, value);
        let segment = [writer.segment(0, 512)];
        assert_eq!(writer.ask(WRITE, block, 1, &segment), Status::Ok);
        let reader = &mut fronts[usize::try_from((at + 1) % 3).unwrap()];
        let segment = [reader.segment(8192, 512)];
        assert_eq!(reader.ask(Op::Read, block, 1, &segment), Status::Ok);
        assert_eq!(reader.bytes(8192, 512), vec![value; 512]);
    }
}

#[test]
fn the_geometry_is_the_served_devices() {
    let host = Host::new();
    let device = Arc::new(Cached(memory()));
    let _controller = host.serve(Arc::clone(&device) as _, 1);
    let disk = VhostDisk::connect(&host.socket(), &Options { segments_max: 4, ..Options::default() }).unwrap();
    let (seen, served) = (disk.geometry(), device.geometry());
    assert_eq!((seen.block_bytes, seen.block_count), (served.block_bytes, served.block_count));
    assert_eq!((seen.write_cache, seen.read_only, seen.features), (served.write_cache, served.read_only, served.features));
    assert_eq!((seen.transfer_max_bytes, seen.physical_block_bytes), (served.transfer_max_bytes, served.physical_block_bytes));
    assert_eq!((seen.segments_max, disk.depth_max()), (4, 128 / 6));
}
