//! Chains that are looked at together, beside the same ones one by one: nobody can tell the difference.

use std::os::fd::AsFd;
use std::sync::Arc;

use proptest::prelude::*;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use spinel_core::mem::{GuestMap, GuestRange, Region};
use spinel_sim::guest::{GUEST_BASE, GuestRequest, Layout, SimGuest, USER_BASE};

use super::common::{Bench, find};
use super::memory;

const DATA_BYTES: u32 = 8192;
const PAGE_BYTES: u64 = 4096;
/// What a read finds where nothing was read.
const UNTOUCHED: u8 = 0xee;

/// A guest whose memory the queue sees in ranges that meet at these pages.
fn bench(layout: Layout, seams: &[u64]) -> Bench {
    let len_bytes = SimGuest::memory_bytes(layout);
    let fd = memfd_create("guest", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&fd, len_bytes).unwrap();
    let mut cuts: Vec<u64> = seams.iter().map(|page| page * PAGE_BYTES % len_bytes).chain([0, len_bytes]).collect();
    cuts.sort_unstable();
    cuts.dedup();
    let mut map = GuestMap::default();
    for cut in cuts.windows(2) {
        let region = Region::of_file(fd.as_fd(), cut[0], cut[1] - cut[0]).unwrap();
        map.add(GuestRange { guest: GUEST_BASE + cut[0], user: USER_BASE + cut[0], region }).unwrap();
    }
    let guest = SimGuest::new(Region::of_file(fd.as_fd(), 0, len_bytes).unwrap(), layout);
    let ring = find(&guest, layout);
    Bench::seen_as(memory(512), guest, map, ring, false)
}

fn requests() -> impl Strategy<Value = Vec<GuestRequest>> {
    let request = (0..12_u32, 0..40_u64, 0..17_u32, 0..4_u16).prop_map(|(kind, sector, sectors, pieces)| match kind {
        // Reads and writes of one piece are what most are looked at for.
        0..4 => GuestRequest::read(sector, 512 * sectors.clamp(1, 16)),
        4..8 => GuestRequest::write(sector, 512 * sectors.clamp(1, 16)),
        8 => GuestRequest::flush(),
        9 => GuestRequest { pieces: pieces.max(1), ..GuestRequest::read(sector, 512 * sectors.min(16)) },
        10 => GuestRequest { pieces: pieces.max(1), ..GuestRequest::write(1 << 40, 511 * sectors.min(16)) },
        // A name, something that does not exist, and buffers that do not fit their type.
        _ => GuestRequest { kind: [0, 1, 8, 77][usize::from(pieces)], device_writes: sectors % 2 == 0, ..GuestRequest::read(sector, 512) },
    });
    proptest::collection::vec(request, 1..60)
}

/// What became of each request, and what is in its buffer afterwards.
fn outcomes(bench: &mut Bench, requests: &[GuestRequest], at_once: usize) -> Vec<(u8, u32, Vec<u8>)> {
    let mut outcomes = vec![(0xff, 0, Vec::new()); requests.len()];
    for (from, some) in requests.chunks(at_once).enumerate().map(|(chunk, some)| (chunk * at_once, some)) {
        let mut posted = Vec::new();
        for (number, request) in (from..).zip(some) {
            let head = bench.guest.next_head().unwrap();
            let fill = if request.device_writes { UNTOUCHED } else { u8::try_from(number).unwrap() };
            bench.guest.region().write(bench.guest.data_at(head), &vec![fill; DATA_BYTES as usize]).unwrap();
            assert_eq!(bench.guest.post(*request), head);
            posted.push((head, number));
        }
        bench.guest.publish();
        for finished in bench.finish(some.len()) {
            let number = posted.iter().find(|(head, _)| *head == finished.head).unwrap().1;
            let mut data = vec![0; DATA_BYTES as usize];
            bench.guest.region().read(bench.guest.data_at(finished.head), &mut data).unwrap();
            outcomes[number] = (finished.status, finished.written_bytes, data);
        }
    }
    outcomes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn what_is_asked_at_once_ends_as_it_does_one_by_one(
        bits in 0..8_u8, seams in proptest::collection::vec(0..4096_u64, 0..4), requests in requests(),
    ) {
        let has = |bit: u8| bits & bit != 0;
        let layout = Layout { size: 256, packed: has(1), event_idx: has(2), indirect: has(4), data_bytes: DATA_BYTES };
        let (mut together, mut alone) = (bench(layout, &seams), bench(layout, &seams));
        let at_once = together.guest.room().min(60);
        prop_assert_eq!(outcomes(&mut together, &requests, at_once), outcomes(&mut alone, &requests, 1));
        // And the disks are the same.
        let sweep: Vec<GuestRequest> = (0..8).map(|part| GuestRequest::read(8 * part, 4096)).collect();
        prop_assert_eq!(outcomes(&mut together, &sweep, 8), outcomes(&mut alone, &sweep, 1));
        let counted = [together, alone].map(|bench| Arc::clone(&bench.disk).meters.snapshot());
        prop_assert!(counted[0].ops.iter().zip(&counted[1].ops).all(|(a, b)| (a.ops(), a.bytes) == (b.ops(), b.bytes)));
    }
}
