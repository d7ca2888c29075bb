//! Buffers of every shape against a model: many, odd, scattered, larger than a bounce chunk. Knows no alignment itself.

mod common;

use common::{open, pattern, rig, rig_with, scratch};
use proptest::prelude::*;
use spinel_core::mem::{Region, Segment};
use spinel_core::{Op, Status};
use spinel_uring::Options;

const KIB: usize = 1024;

/// Splits `len_bytes` at the given places and lays the pieces into a region one after the other, `gap` bytes apart.
fn pieces(region: &Region, first: u64, gap: u64, len_bytes: u32, cuts: &[u32]) -> Vec<Segment> {
    let mut cuts: Vec<u32> = cuts.iter().map(|cut| cut % (len_bytes + 1)).chain([0, len_bytes]).collect();
    cuts.sort_unstable();
    let mut offset = first;
    cuts.windows(2)
        .map(|cut| {
            let here = cut[1] - cut[0];
            let segment = region.segment(offset, here).unwrap();
            offset += u64::from(here) + gap;
            segment
        })
        .collect()
}

fn fill(region: &Region, segments: &[Segment], bytes: &[u8]) {
    let mut at = 0;
    for segment in segments {
        region.write(segment.offset(), &bytes[at..at + segment.len_bytes() as usize]).unwrap();
        at += segment.len_bytes() as usize;
    }
}

fn take(region: &Region, segments: &[Segment]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for segment in segments {
        let mut here = vec![0; segment.len_bytes() as usize];
        region.read(segment.offset(), &mut here).unwrap();
        bytes.extend_from_slice(&here);
    }
    bytes
}

#[derive(Clone, Debug)]
struct Transfer {
    write: bool,
    start: u64,
    blocks: u32,
    first: u64,
    gap: u64,
    cuts: Vec<u32>,
}

prop_compose! {
    fn transfer()(
        write in any::<bool>(),
        start in 0u64..32,
        blocks in 1u32..=32,
        first in prop_oneof![Just(0u64), Just(512), Just(4096), 0u64..5000],
        gap in prop_oneof![Just(0u64), Just(512), Just(4096), 0u64..700],
        unit in prop_oneof![Just(1u32), Just(512), Just(4096)],
        cuts in prop::collection::vec(any::<u32>(), 0..12),
    ) -> Transfer {
        // Pieces of whole units, so that aligned scatter lists occur as often as odd ones.
        let cuts = cuts.iter().map(|cut| (cut % 64) * unit).collect();
        Transfer { write, start, blocks, first, gap, cuts }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn any_buffers_hold_what_the_model_holds(block_bytes in prop_oneof![Just(512u32), Just(4096)], transfers in prop::collection::vec(transfer(), 1..24)) {
        let scratch = scratch(64 * 4096);
        let device = open(&scratch, block_bytes);
        let mut rig = rig(&device, 4);
        let memory = rig.region(1024 * 1024);
        let mut model = scratch.bytes();
        for (seed, transfer) in (10..).zip(&transfers) {
            let len_bytes = transfer.blocks * block_bytes;
            let segments = pieces(&memory, transfer.first, transfer.gap, len_bytes, &transfer.cuts);
            let place = usize::try_from(transfer.start).unwrap() * block_bytes as usize;
            let range = place..place + len_bytes as usize;
            let data = pattern(seed, len_bytes as usize);
            fill(&memory, &segments, &data);
            if transfer.write {
                prop_assert_eq!(rig.run(Op::Write { fua: false }, transfer.start, transfer.blocks, &segments), Status::Ok);
                model[range].copy_from_slice(&data);
            } else {
                prop_assert_eq!(rig.run(Op::Read, transfer.start, transfer.blocks, &segments), Status::Ok);
                prop_assert_eq!(take(&memory, &segments), &model[range], "{:?}", transfer);
            }
        }
        prop_assert_eq!(scratch.bytes(), model);
    }
}

#[test]
fn an_odd_buffer_larger_than_a_chunk_goes_in_rounds() {
    let scratch = scratch(2048 * KIB);
    let device = open(&scratch, 512);
    let mut rig = rig(&device, 4);
    let memory = rig.region(2 * 1024 * 1024);
    let len_bytes = 1_000_448_u32;
    let data = pattern(3, len_bytes as usize);
    let out = pieces(&memory, 1, 3, len_bytes, &[5, 70_000, 70_001, 300_000, 999_999]);
    fill(&memory, &out, &data);
    assert_eq!(rig.run(Op::Write { fua: true }, 7, len_bytes / 512, &out), Status::Ok);
    assert_eq!(scratch.read_at(7 * 512, len_bytes as usize), data);
    let into = pieces(&memory, 517, 1, len_bytes, &[1, 2, 3, 65_536, 131_073]);
    assert_eq!(rig.run(Op::Read, 7, len_bytes / 512, &into), Status::Ok);
    assert_eq!(take(&memory, &into), data);
}

#[test]
fn more_odd_requests_than_chunks_wait_their_turn_on_every_channel_of_the_core() {
    let scratch = scratch(2048 * KIB);
    let device = open(&scratch, 512);
    let mut rig = rig_with(&device, 32, Options { bounce_chunks: 1, ..Options::default() });
    let other_scratch = common::scratch(2048 * KIB);
    let other_device = open(&other_scratch, 512);
    let mut other = spinel_core::Device::open(&other_device, &mut rig.core, 32).unwrap();
    let memory = rig.region(16 * 1024 * 1024);
    let len_bytes = 80 * 1024_u32;
    let place = |tag: u32| memory.segment(u64::from(tag) * 100_000 + 1, len_bytes).unwrap();
    for tag in 0..16 {
        rig.submit(tag, Op::Read, u64::from(tag), len_bytes / 512, &[place(tag)]);
        let (at, start) = (common::now(), spinel_core::Lba(u64::from(tag)));
        let segments = [place(tag + 16)];
        let tag = spinel_core::Tag(tag + 16);
        other.submit(spinel_core::Request { tag, op: Op::Read, at, start, blocks: len_bytes / 512, segments: &segments });
    }
    let mut done = spinel_core::Completions::limited(64);
    while done.as_slice().len() < 32 {
        rig.core.reap(common::now());
        rig.channel.poll(common::now(), &mut done);
        other.poll(common::now(), &mut done);
        rig.core.flush();
        let armed = rig.channel.arm().min(other.arm()).min(rig.core.arm());
        if armed == spinel_core::Armed::Idle && done.as_slice().len() < 32 {
            rig.core.sleep(None, common::now());
        }
    }
    for completion in done.as_slice() {
        assert_eq!(completion.status, Status::Ok);
        let start = completion.tag.index() % 16 * 512;
        let bytes = take(&memory, &[place(completion.tag.0)]);
        assert_eq!(bytes, pattern(1, 2048 * KIB)[start..start + len_bytes as usize]);
    }
}

#[test]
fn a_request_longer_than_the_kernel_transfers_at_once_is_continued() {
    // 2 GiB less a page is the most of one system call; the file is one hole, and all segments are the same memory.
    let (segments, segment_bytes) = (128_u32, 17 * 1024 * 1024_u32);
    let scratch = scratch(KIB);
    scratch.file().set_len(0).unwrap();
    scratch.file().set_len(u64::from(segments) * u64::from(segment_bytes)).unwrap();
    let device = open(&scratch, 4096);
    let mut rig = rig(&device, 1);
    let memory = rig.region(u64::from(segment_bytes));
    memory.write(0, &pattern(1, KIB)).unwrap();
    let same = vec![memory.segment(0, segment_bytes).unwrap(); segments as usize];
    assert_eq!(rig.run(Op::Read, 0, segments * (segment_bytes / 4096), &same), Status::Ok);
    assert_eq!(take(&memory, &[memory.segment(0, 1024).unwrap()]), [0; KIB]);
}
