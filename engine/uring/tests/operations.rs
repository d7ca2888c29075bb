//! Every operation against a real file. Knows the device by its contract alone.

mod common;

use common::{Rig, open, pattern, rig, rig_with, scratch};
use spinel_core::{Device, Op, Status};
use spinel_uring::{DeviceOptions, Options, UringDevice};

const KIB: usize = 1024;
const WRITE: Op = Op::Write { fua: false };

/// Both block sizes, as every test below runs with both.
const BLOCK_SIZES: [u32; 2] = [512, 4096];

/// Blocks in so many KiB.
fn blocks_of(kib: u32, block_bytes: u32) -> u32 {
    kib * 1024 / block_bytes
}

#[test]
fn what_was_written_is_read_back_and_lies_where_it_belongs() {
    for block_bytes in BLOCK_SIZES {
        let scratch = scratch(256 * KIB);
        let device = open(&scratch, block_bytes);
        let mut rig = rig(&device, 8);
        let memory = rig.region(64 * 1024);
        let data = pattern(2, 16 * KIB);
        memory.write(0, &data).unwrap();
        let blocks = blocks_of(16, block_bytes);
        let out = memory.segment(0, 16 * 1024).unwrap();
        let into = memory.segment(32 * 1024, 16 * 1024).unwrap();
        for fua in [false, true] {
            assert_eq!(rig.run(Op::Write { fua }, 3, blocks, &[out]), Status::Ok);
        }
        assert_eq!(rig.run(Op::Read, 3, blocks, &[into]), Status::Ok);
        let mut got = vec![0; 16 * KIB];
        memory.read(32 * 1024, &mut got).unwrap();
        assert_eq!(got, data);
        assert_eq!(rig.run(Op::Flush, 0, 0, &[]), Status::Ok);
        let mut expected = pattern(1, 256 * KIB);
        expected[3 * block_bytes as usize..][..16 * KIB].copy_from_slice(&data);
        assert_eq!(scratch.bytes(), expected);
        assert_eq!(device.geometry().len_bytes(), 256 * 1024);
    }
}

#[test]
fn discarded_and_zeroed_blocks_read_as_zeroes_and_their_neighbours_are_untouched() {
    let zeroing = [
        Op::Discard,
        Op::WriteZeroes { unmap: true, fua: false },
        Op::WriteZeroes { unmap: false, fua: false },
        Op::WriteZeroes { unmap: true, fua: true },
        Op::WriteZeroes { unmap: false, fua: true },
    ];
    for block_bytes in BLOCK_SIZES {
        for op in zeroing {
            let scratch = scratch(256 * KIB);
            let device = open(&scratch, block_bytes);
            assert!(device.geometry().features.discard && device.geometry().features.write_zeroes);
            let mut rig = rig(&device, 8);
            let (start, blocks) = (3, blocks_of(64, block_bytes));
            assert_eq!(rig.run(op, start, blocks, &[]), Status::Ok);
            let mut expected = pattern(1, 256 * KIB);
            expected[3 * block_bytes as usize..][..64 * KIB].fill(0);
            assert_eq!(scratch.bytes(), expected, "{op:?}");
        }
    }
}

#[test]
fn zeroing_with_unmap_gives_space_back_and_without_keeps_it() {
    use std::os::unix::fs::MetadataExt;
    let scratch = scratch(256 * KIB);
    scratch.file().sync_all().unwrap();
    let device = open(&scratch, 4096);
    let mut rig = rig(&device, 8);
    let space = || std::fs::metadata(&scratch.path).unwrap().blocks() * 512;
    assert_eq!(space(), 256 * 1024);
    assert_eq!(rig.run(Op::WriteZeroes { unmap: false, fua: true }, 0, 32, &[]), Status::Ok);
    assert_eq!(space(), 256 * 1024);
    assert_eq!(rig.run(Op::WriteZeroes { unmap: true, fua: true }, 0, 32, &[]), Status::Ok);
    assert_eq!(space(), 128 * 1024);
}

#[test]
fn blocks_outside_the_device_are_refused_and_the_last_one_is_not() {
    for block_bytes in BLOCK_SIZES {
        let scratch = scratch(64 * KIB);
        let device = open(&scratch, block_bytes);
        let mut rig = rig(&device, 8);
        let memory = rig.region(8192);
        let last = device.geometry().block_count - 1;
        let one = memory.segment(0, block_bytes).unwrap();
        let two = memory.segment(0, 2 * block_bytes).unwrap();
        for op in [Op::Read, WRITE] {
            assert_eq!(rig.run(op, last, 1, &[one]), Status::Ok);
            assert_eq!(rig.run(op, last, 2, &[two]), Status::Range);
            assert_eq!(rig.run(op, last + 1, 1, &[one]), Status::Range);
            assert_eq!(rig.run(op, u64::MAX, 1, &[one]), Status::Range);
        }
        for op in [Op::Discard, Op::WriteZeroes { unmap: false, fua: false }] {
            assert_eq!(rig.run(op, last, 1, &[]), Status::Ok);
            assert_eq!(rig.run(op, last, 2, &[]), Status::Range);
            assert_eq!(rig.run(op, u64::MAX, u32::MAX, &[]), Status::Range);
        }
        assert_eq!(scratch.bytes().len(), 64 * KIB);
    }
}

#[test]
fn lengths_that_disagree_are_refused_and_nothing_moves() {
    let scratch = scratch(256 * KIB);
    let device = open(&scratch, 512);
    let mut rig = rig(&device, 8);
    let memory = rig.region(64 * 1024);
    let piece = |len| memory.segment(0, len).unwrap();
    for segments in [&[][..], &[piece(511)], &[piece(513)], &[piece(512), piece(1)], &[piece(1024)]] {
        assert_eq!(rig.run(WRITE, 0, 1, segments), Status::Malformed);
        assert_eq!(rig.run(Op::Read, 0, 1, segments), Status::Malformed);
    }
    let too_many = vec![piece(512); usize::from(device.geometry().segments_max) + 1];
    assert_eq!(rig.run(WRITE, 0, u32::try_from(too_many.len()).unwrap(), &too_many), Status::Malformed);
    assert_eq!(scratch.bytes(), pattern(1, 256 * KIB));
    assert_eq!(rig.run(Op::Read, 0, 0, &[]), Status::Ok, "nothing asked for is nothing to refuse");
}

#[test]
fn memory_this_core_was_not_told_of_is_refused() {
    let scratch = scratch(64 * KIB);
    let device = open(&scratch, 512);
    let mut rig = rig(&device, 8);
    let stranger = spinel_core::mem::Region::anonymous(4096).unwrap();
    let segment = stranger.segment(0, 512).unwrap();
    assert_eq!(rig.run(WRITE, 0, 1, &[segment]), Status::Malformed);
    rig.core.map(std::sync::Arc::clone(&stranger));
    assert_eq!(rig.run(WRITE, 0, 1, &[segment]), Status::Ok);
    rig.core.unmap(stranger.id());
    assert_eq!(rig.run(Op::Read, 0, 1, &[segment]), Status::Malformed);
}

#[test]
fn a_read_only_device_refuses_every_change_and_serves_the_rest() {
    let scratch = scratch(64 * KIB);
    let options = DeviceOptions { read_only: true, ..DeviceOptions::default() };
    let device = UringDevice::open(&scratch.path, &options).unwrap();
    assert!(device.geometry().read_only);
    let mut rig = rig(&device, 8);
    let memory = rig.region(4096);
    let segment = memory.segment(0, 512).unwrap();
    for op in [WRITE, Op::Write { fua: true }] {
        assert_eq!(rig.run(op, 0, 1, &[segment]), Status::Protected);
    }
    for op in [Op::Discard, Op::WriteZeroes { unmap: true, fua: false }] {
        assert_eq!(rig.run(op, 0, 1, &[]), Status::Protected);
    }
    assert_eq!(rig.run(Op::Read, 0, 1, &[segment]), Status::Ok);
    assert_eq!(rig.run(Op::Flush, 0, 0, &[]), Status::Ok);
    assert_eq!(scratch.bytes(), pattern(1, 64 * KIB));
}

#[test]
fn a_buffered_device_serves_what_a_direct_one_does() {
    let scratch = scratch(64 * KIB);
    let options = DeviceOptions { direct: false, ..DeviceOptions::default() };
    let device = UringDevice::open(&scratch.path, &options).unwrap();
    assert_eq!(device.geometry().memory_align_bytes, 1);
    let mut rig = rig(&device, 8);
    let memory = rig.region(8192);
    memory.write(3, &pattern(5, 1024)).unwrap();
    let odd = memory.segment(3, 1024).unwrap();
    assert_eq!(rig.run(Op::Write { fua: true }, 2, 2, &[odd]), Status::Ok);
    assert_eq!(scratch.read_at(1024, 1024), pattern(5, 1024));
    assert_eq!(rig.run(Op::Flush, 0, 0, &[]), Status::Ok);
}

/// Writes and reads every block of 128 KiB in a scattered order, as many at once as the channel takes.
fn shuffle(rig: &mut Rig, scratch: &common::Scratch) {
    let memory = rig.region(256 * 1024);
    let data = pattern(9, 128 * KIB);
    memory.write(0, &data).unwrap();
    for (op, base) in [(WRITE, 0), (Op::Read, 128 * 1024)] {
        let mut ended = 0;
        for turn in 0..256_u32 {
            let block = u64::from((turn * 101) % 256);
            while rig.channel.room() == 0 {
                ended += rig.collect(1).len();
            }
            rig.submit(turn, op, block, 1, &[memory.segment(base + block * 512, 512).unwrap()]);
        }
        ended += rig.collect(256 - ended).len();
        assert_eq!(ended, 256);
    }
    assert_eq!(scratch.read_at(0, 128 * KIB), data);
    let mut got = vec![0; 128 * KIB];
    memory.read(128 * 1024, &mut got).unwrap();
    assert_eq!(got, data);
}

#[test]
fn more_in_flight_than_either_queue_holds_is_served() {
    let scratch = scratch(256 * KIB);
    let device = open(&scratch, 512);
    let tiny = Options { submissions: 2, completions: 4, ..Options::default() };
    shuffle(&mut rig_with(&device, 96, tiny), &scratch);
}

#[test]
fn a_kernel_thread_that_submits_serves_the_same() {
    let scratch = scratch(256 * KIB);
    let device = open(&scratch, 512);
    let mut rig = rig_with(&device, 16, Options { sqpoll: true, ..Options::default() });
    let ring = rig.core.share(|_| spinel_uring::Ring::new(&Options::default())).unwrap();
    println!("asked for sqpoll, got: {}", ring.borrow().setup());
    shuffle(&mut rig, &scratch);
}

#[test]
fn a_ring_without_registered_files_serves_the_same() {
    let scratch = scratch(256 * KIB);
    let device = open(&scratch, 512);
    shuffle(&mut rig_with(&device, 16, Options { files_max: 0, buffers_max: 0, ..Options::default() }), &scratch);
}

#[test]
fn room_is_a_channels_own_and_a_full_batch_leaves_the_rest_for_later() {
    let scratch = scratch(256 * KIB);
    let device = open(&scratch, 512);
    let mut rig = rig(&device, 100);
    let mut sibling = device.open(&mut rig.core, 3).unwrap();
    let memory = rig.region(4096);
    let segment = memory.segment(0, 512).unwrap();
    for tag in 0..100 {
        assert_eq!(rig.channel.room(), 100 - tag as usize);
        // Refused and served ones alike.
        rig.submit(tag, Op::Read, u64::from(tag) * 8, 1, &[segment]);
    }
    assert_eq!((rig.channel.room(), sibling.room()), (0, 3));
    let mut done = spinel_core::Completions::limited(7);
    let mut tags = Vec::new();
    while tags.len() < 100 {
        rig.core.reap(common::now());
        done.clear();
        rig.channel.poll(common::now(), &mut done);
        tags.extend(done.as_slice().iter().map(|completion| completion.tag.0));
        assert_eq!(rig.channel.room(), tags.len());
        rig.core.flush();
    }
    tags.sort_unstable();
    assert_eq!(tags, (0..100).collect::<Vec<_>>());
    sibling.poll(common::now(), &mut done);
}

#[test]
fn channels_come_and_go_on_one_ring_and_never_see_each_others_completions() {
    let scratches: Vec<_> = (0..3).map(|_| scratch(64 * KIB)).collect();
    let devices: Vec<_> = scratches.iter().map(|scratch| open(scratch, 512)).collect();
    let mut rig = rig(&devices[0], 4);
    let memory = rig.region(64 * 1024);
    for round in 0..50_u32 {
        let device = &devices[round as usize % 3];
        rig.channel = device.open(&mut rig.core, 4).unwrap();
        for slot in 0..4 {
            let segment = memory.segment(u64::from(slot) * 512, 512).unwrap();
            rig.submit(round * 4 + slot, Op::Read, u64::from(slot), 1, &[segment]);
        }
        let mut tags: Vec<u32> = rig.collect(4).iter().map(|completion| completion.tag.0).collect();
        tags.sort_unstable();
        assert_eq!(tags, (round * 4..round * 4 + 4).collect::<Vec<_>>());
    }
}

#[test]
#[should_panic(expected = "requests in flight")]
fn dropping_a_channel_with_requests_in_flight_is_our_own_fault_and_stops_us() {
    let scratch = scratch(64 * KIB);
    let device = open(&scratch, 512);
    let mut rig = rig(&device, 4);
    let memory = rig.region(4096);
    rig.submit(1, Op::Read, 0, 1, &[memory.segment(0, 512).unwrap()]);
    drop(rig.channel);
}
