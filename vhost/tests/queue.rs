//! A queue served by hand: what a guest sees of its requests, honest and hostile.

#[path = "queue/broken_records.rs"]
mod broken_records;
mod common;
#[path = "queue/fairness.rs"]
mod fairness;
#[path = "queue/malformed_packed.rs"]
mod malformed_packed;
#[path = "queue/paced.rs"]
mod paced;
#[path = "queue/recovery.rs"]
mod recovery;
#[path = "queue/together.rs"]
mod together;

use std::sync::Arc;

use common::Bench;
use spinel_core::mem::Region;
use spinel_core::{Armed, OpKind};
use spinel_sim::guest::{GUEST_BASE, GuestRequest, Layout, SimGuest};
use spinel_vhost::{AnyRing, QueueEvent, RingAddresses, RingFault, RingFeatures};
use spinel_volume::{MemoryDevice, NullDevice, Shape};

const LAYOUT: Layout = Layout { size: 64, packed: false, event_idx: true, indirect: true, data_bytes: 65536 };
const PACKED: Layout = Layout { packed: true, ..LAYOUT };

fn layouts() -> impl Iterator<Item = Layout> {
    let has = |layout: u8, bit: u8| layout & bit != 0;
    (0..8).map(move |bits| Layout { packed: has(bits, 1), event_idx: has(bits, 2), indirect: has(bits, 4), ..LAYOUT })
}

fn shape(block_bytes: u32, block_count: u64) -> Shape {
    Shape::new(block_bytes, block_count)
}

fn memory(block_bytes: u32) -> Arc<MemoryDevice> {
    Arc::new(MemoryDevice::new(shape(block_bytes, (1 << 20) / u64::from(block_bytes))).unwrap())
}

fn ask(bench: &mut Bench, request: GuestRequest) -> (u8, u32) {
    bench.guest.post(request);
    bench.guest.publish();
    let finished = bench.finish(1)[0];
    (finished.status, finished.written_bytes)
}

fn fault_of(bench: &mut Bench) -> RingFault {
    for _ in 0..10 {
        bench.turn();
    }
    let QueueEvent::Fault { index: 0, fault } = bench.events.try_recv().unwrap() else { panic!("the only queue") };
    assert!(bench.guest.reap().is_none(), "a broken chain is not finished");
    fault
}

#[test]
fn what_was_written_is_read_back_in_every_layout_and_cut() {
    for layout in layouts() {
        for pieces in [1, 3, 7] {
            let mut bench = Bench::new(memory(512), layout);
            let head = bench.guest.next_head().unwrap();
            let data: Vec<u8> = (0..=255).cycle().take(8192).collect();
            bench.guest.region().write(bench.guest.data_at(head), &data).unwrap();
            let written = ask(&mut bench, GuestRequest { pieces, ..GuestRequest::write(24, 8192) });
            assert_eq!(written, (0, 1));
            let head = bench.guest.next_head().unwrap();
            let read = ask(&mut bench, GuestRequest { pieces, ..GuestRequest::read(24, 8192) });
            assert_eq!(read, (0, 8193));
            let mut got = vec![0; 8192];
            bench.guest.region().read(bench.guest.data_at(head), &mut got).unwrap();
            assert!(got == data, "{layout:?}, {pieces} pieces");
        }
    }
}

#[test]
fn requests_that_make_no_sense_are_answered_with_an_error_and_the_queue_goes_on() {
    for layout in [LAYOUT, PACKED] {
        answers_what_makes_no_sense(layout);
    }
}

fn answers_what_makes_no_sense(layout: Layout) {
    let mut bench = Bench::new(memory(4096), layout);
    let cases = [
        ("a length that is no sector", GuestRequest::read(0, 100), 1),
        ("a length that is no block", GuestRequest::read(0, 512), 1),
        ("a start inside a block", GuestRequest::read(1, 4096), 1),
        ("nothing to read", GuestRequest { pieces: 0, ..GuestRequest::read(0, 0) }, 1),
        ("past the end", GuestRequest::read(2048, 4096), 1),
        ("far past the end", GuestRequest::read(u64::MAX - 7, 4096), 1),
        ("an unknown type", GuestRequest { kind: 99, ..GuestRequest::flush() }, 2),
        ("a secure erase, which is not offered", GuestRequest { kind: 14, ..GuestRequest::write(0, 16) }, 2),
        ("a discard of 15 bytes", GuestRequest { kind: 11, ..GuestRequest::write(0, 15) }, 1),
        ("a discard in two payloads", GuestRequest { kind: 11, pieces: 2, ..GuestRequest::write(0, 32) }, 1),
        ("an id of 19 bytes", GuestRequest { kind: 8, ..GuestRequest::read(0, 19) }, 1),
        ("the last block", GuestRequest::read(2040, 4096), 0),
        ("a flush", GuestRequest::flush(), 0),
    ];
    for (what, request, status) in cases {
        assert_eq!(ask(&mut bench, request).0, status, "{what}");
    }
    assert!(bench.events.try_recv().is_err());
}

#[test]
fn discard_and_write_zeroes_read_back_as_zeroes_and_only_there() {
    for (kind, layout) in [(11, LAYOUT), (13, LAYOUT), (11, PACKED), (13, PACKED)] {
        let mut bench = Bench::new(memory(512), layout);
        let head = bench.guest.next_head().unwrap();
        bench.guest.region().write(bench.guest.data_at(head), &[7; 4096]).unwrap();
        assert_eq!(ask(&mut bench, GuestRequest::write(0, 4096)).0, 0);
        let head = bench.guest.next_head().unwrap();
        let mut payload = [0; 16];
        payload[0] = 2;
        payload[8] = 3;
        bench.guest.region().write(bench.guest.data_at(head), &payload).unwrap();
        assert_eq!(ask(&mut bench, GuestRequest { kind, ..GuestRequest::write(0, 16) }).0, 0);
        let head = bench.guest.next_head().unwrap();
        assert_eq!(ask(&mut bench, GuestRequest::read(0, 4096)).0, 0);
        let mut got = [0; 4096];
        bench.guest.region().read(bench.guest.data_at(head), &mut got).unwrap();
        let zeroed: Vec<usize> = (0..8).filter(|sector| got[sector * 512..][..512].iter().all(|byte| *byte == 0)).collect();
        assert_eq!(zeroed, [2, 3, 4]);
    }
}

#[test]
fn the_disk_says_its_name() {
    let mut bench = Bench::new(memory(512), LAYOUT);
    let head = bench.guest.next_head().unwrap();
    assert_eq!(ask(&mut bench, GuestRequest { kind: 8, ..GuestRequest::read(0, 20) }), (0, 21));
    let mut id = [0; 20];
    bench.guest.region().read(bench.guest.data_at(head), &mut id).unwrap();
    assert_eq!(&id, b"disk0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
}

#[test]
fn a_read_only_disk_refuses_every_change() {
    let region = Region::anonymous(SimGuest::memory_bytes(LAYOUT)).unwrap();
    let mut bench = Bench::over(memory(512), SimGuest::new(region, LAYOUT), LAYOUT, true);
    assert_eq!(ask(&mut bench, GuestRequest::write(0, 512)).0, 1);
    assert_eq!(ask(&mut bench, GuestRequest { kind: 11, ..GuestRequest::write(0, 16) }).0, 2);
    assert_eq!(ask(&mut bench, GuestRequest { kind: 13, ..GuestRequest::write(0, 16) }).0, 2);
    assert_eq!(ask(&mut bench, GuestRequest::read(0, 512)).0, 0);
}

#[test]
fn the_rings_survive_their_indexes_wrapping() {
    for layout in layouts() {
        let mut bench = Bench::new(Arc::new(NullDevice::new(shape(512, 1 << 30)).unwrap()), Layout { size: 8, ..layout });
        let mut finished = 0;
        while finished < 150_000 {
            while bench.guest.room() > 0 {
                bench.guest.post(GuestRequest::read(0, 512));
            }
            bench.guest.publish();
            bench.turn();
            finished += std::iter::from_fn(|| bench.guest.reap()).count();
        }
        assert!(bench.events.try_recv().is_err());
        let snapshot = bench.disk.meters.snapshot();
        assert!(snapshot.of(OpKind::Read).ops() >= 150_000);
    }
}

#[test]
fn every_broken_rule_costs_the_queue_and_is_named() {
    let direct = Layout { indirect: false, ..LAYOUT };
    type Break = fn(&mut Bench, u16);
    type Expected = fn(RingFault) -> bool;
    let cases: [(Layout, Break, Expected); 11] = [
        (LAYOUT, |b, _| b.guest.offer(64), |f| matches!(f, RingFault::DescriptorIndex(64))),
        (LAYOUT, |b, head| b.guest.offer(head), |f| matches!(f, RingFault::HeadInFlight(_))),
        (LAYOUT, |b, _| (0..100).for_each(|_| b.guest.offer(0)), |f| matches!(f, RingFault::AvailableIndex { .. })),
        (LAYOUT, |b, head| b.guest.descriptors.set(u32::from(head), [GUEST_BASE, 17 | (4 << 32)]), |f| matches!(f, RingFault::Indirect(_))),
        (LAYOUT, |b, head| b.guest.descriptors.set(u32::from(head), [GUEST_BASE, 4 << 32]), |f| matches!(f, RingFault::Indirect(_))),
        (
            LAYOUT,
            |b, head| b.guest.descriptors.set(u32::from(head), [GUEST_BASE, (1025 * 16) | (4 << 32)]),
            |f| matches!(f, RingFault::Indirect(_)),
        ),
        (LAYOUT, |b, head| b.guest.descriptors.set(u32::from(head), [1, 16 | (4 << 32)]), |f| matches!(f, RingFault::Memory(_))),
        (
            direct,
            |b, head| b.guest.descriptors.set(u32::from(head), [GUEST_BASE, 16 | (1 << 32) | (u64::from(head) << 48)]),
            |f| matches!(f, RingFault::ChainTooLong(_)),
        ),
        (
            direct,
            |b, head| b.guest.descriptors.set(u32::from(head), [GUEST_BASE, 16 | (1 << 32) | (999 << 48)]),
            |f| matches!(f, RingFault::DescriptorIndex(999)),
        ),
        (direct, |b, head| b.guest.descriptors.set(u32::from(head), [GUEST_BASE, 8]), |f| matches!(f, RingFault::NoHeader(_))),
        (direct, |b, head| b.guest.descriptors.set(u32::from(head), [GUEST_BASE, 16]), |f| matches!(f, RingFault::NoStatus(_))),
    ];
    for (at, (layout, break_it, expected)) in cases.into_iter().enumerate() {
        let mut bench = Bench::new(memory(512), layout);
        let head = bench.guest.post(GuestRequest::read(0, 512));
        break_it(&mut bench, head);
        bench.guest.publish();
        for _ in 0..10 {
            bench.turn();
        }
        let QueueEvent::Fault { fault, .. } = bench.events.try_recv().unwrap_or_else(|_| panic!("case {at} was not noticed"));
        assert!(expected(fault), "case {at}: {fault}");
        bench.stop();
    }
}

#[test]
fn a_table_inside_a_table_or_without_the_feature_is_refused() {
    let mut bench = Bench::new(memory(512), Layout { indirect: false, ..LAYOUT });
    let head = bench.guest.post(GuestRequest::read(0, 512));
    bench.guest.descriptors.set(u32::from(head), [GUEST_BASE, 16 | (4 << 32)]);
    bench.guest.publish();
    assert!(matches!(fault_of(&mut bench), RingFault::Indirect(_)));
}

#[test]
fn a_stopped_queue_finishes_what_flies_and_says_where_to_go_on() {
    for layout in layouts() {
        let mut bench = Bench::new(memory(512), layout);
        for sector in 0..5 {
            bench.guest.post(GuestRequest::read(sector, 512));
        }
        bench.guest.publish();
        bench.turn();
        bench.guest.post(GuestRequest::read(9, 512));
        let remains = {
            bench.guest.publish();
            bench.stop()
        };
        let descriptors = if layout.indirect { 5 } else { 15 };
        // A packed ring says the place twice, with its wrap counter.
        let base = if layout.packed { 0x8000_8000 + 0x1_0001 * descriptors } else { 5 };
        assert_eq!(remains.base, base, "the sixth was not taken any more");
        assert_eq!(std::iter::from_fn(|| bench.guest.reap()).count(), 5);
        assert_eq!(bench.guest.base(), base);
    }
}

#[test]
fn a_core_may_sleep_only_when_the_guest_has_been_asked_to_kick() {
    for layout in layouts() {
        let mut bench = Bench::new(memory(512), layout);
        bench.turn();
        assert_eq!(bench.queue.as_mut().unwrap().arm(), Armed::Idle);
        bench.guest.post(GuestRequest::read(0, 512));
        assert!(bench.guest.publish(), "the guest must kick an armed queue: {layout:?}");
        assert_eq!(bench.queue.as_mut().unwrap().arm(), Armed::Ready, "and whoever arms now sees the request");
        bench.queue.as_mut().unwrap().disarm();
        bench.finish(1);
    }
}

/// Puts a chain of direct descriptors into the ring by hand: address from the guest's base, length, device-writable.
fn post_raw(bench: &mut Bench, layout: Layout, chain: &[(u64, u32, bool)]) {
    for (at, (address, len_bytes, writable)) in (0_u16..).zip(chain) {
        let last = usize::from(at) + 1 == chain.len();
        let flags = u16::from(!last) | (u16::from(*writable) << 1);
        if layout.packed {
            bench.guest.offer_descriptor(GUEST_BASE + address, *len_bytes, if last { 0 } else { 99 }, flags);
        } else {
            let rest = u64::from(*len_bytes) | (u64::from(flags) << 32) | (u64::from(at + 1) << 48);
            bench.guest.descriptors.set(at.into(), [GUEST_BASE + address, rest]);
        }
    }
    if !layout.packed {
        bench.guest.offer(0);
    }
    bench.guest.publish();
    for _ in 0..5 {
        bench.turn();
    }
}

#[test]
fn header_data_and_status_may_be_cut_and_joined_in_any_way() {
    const AT: u64 = 0x20000;
    let cuts: [&[(u64, u32, bool)]; 5] = [
        &[(AT, 5, false), (AT + 5, 11, false), (AT + 16, 1024, false), (AT + 2000, 1, true)],
        &[(AT, 16 + 1024, false), (AT + 2000, 1, true)],
        &[(AT, 0, false), (AT, 20, false), (AT + 20, 1020, false), (AT + 1999, 2, true)],
        &[(AT, 1, false), (AT + 1, 14, false), (AT + 15, 1, false), (AT + 16, 1024, false), (AT + 1990, 10, true), (AT + 2000, 1, true)],
        &[(AT, 16, false), (AT + 16, 1024, false), (AT + 1000, 0, true), (AT + 2000, 1, true)],
    ];
    for (case, chain) in cuts.into_iter().chain(cuts).enumerate() {
        let layout = Layout { indirect: false, packed: case >= cuts.len(), ..LAYOUT };
        let mut bench = Bench::new(memory(512), layout);
        let region = Arc::clone(bench.guest.region());
        let mut message = vec![0; 2001];
        message[0] = 1;
        message[8] = 3;
        message[16..16 + 1024].fill(0xa5);
        message[2000] = 0xff;
        region.write(AT, &message).unwrap();
        post_raw(&mut bench, layout, chain);
        let mut status = [0xee];
        region.read(AT + 2000, &mut status).unwrap();
        assert_eq!(status, [0], "case {case}");
        assert_eq!(bench.disk.meters.snapshot().of(OpKind::Write).bytes, 1024, "case {case}");
        assert!(bench.events.try_recv().is_err(), "case {case}");
    }
}

#[test]
fn a_read_may_share_its_last_buffer_with_the_status() {
    const AT: u64 = 0x20000;
    for packed in [false, true] {
        let layout = Layout { indirect: false, packed, ..LAYOUT };
        let mut bench = Bench::new(memory(512), layout);
        let region = Arc::clone(bench.guest.region());
        region.write(AT, &[0; 16]).unwrap();
        region.write(AT + 1000, &[0xee; 1025]).unwrap();
        post_raw(&mut bench, layout, &[(AT, 16, false), (AT + 1000, 400, true), (AT + 1400, 625, true)]);
        let mut got = [1; 1025];
        region.read(AT + 1000, &mut got).unwrap();
        assert_eq!(got, [0; 1025], "1024 bytes of an empty disk and a status of zero");
    }
}

#[test]
fn more_segments_than_were_offered_is_an_error_of_that_request_alone() {
    for layout in layouts() {
        let mut bench = Bench::new(memory(512), Layout { size: 256, data_bytes: 200 * 512, ..layout });
        assert_eq!(ask(&mut bench, GuestRequest { pieces: 129, ..GuestRequest::read(0, 129 * 512) }).0, 1);
        assert_eq!(ask(&mut bench, GuestRequest { pieces: 200, ..GuestRequest::read(0, 200 * 512) }).0, 1);
        assert_eq!(ask(&mut bench, GuestRequest { pieces: 128, ..GuestRequest::read(0, 128 * 512) }).0, 0);
        assert!(bench.events.try_recv().is_err());
    }
}

#[test]
fn a_new_queue_begins_where_the_used_ring_ends_and_repeats_nothing() {
    let region = Region::anonymous(SimGuest::memory_bytes(LAYOUT)).unwrap();
    let guest = SimGuest::new(region, LAYOUT);
    guest.available.set(1, 9);
    guest.used.set(1, 7);
    let [descriptors, available, used] = guest.addresses();
    let addresses = RingAddresses { descriptors, available, used };
    let features = RingFeatures { packed: false, event_idx: true, indirect: true };
    let ring = AnyRing::new(&guest.map(), LAYOUT.size, addresses, features, None).unwrap();
    assert_eq!(ring.base(), 7);
}

#[test]
fn a_turn_takes_no_more_than_its_share_of_bytes() {
    for layout in [LAYOUT, PACKED] {
        let layout = Layout { data_bytes: 1 << 20, ..layout };
        let mut bench = Bench::new(Arc::new(NullDevice::new(shape(512, 1 << 30)).unwrap()), layout);
        for _ in 0..64 {
            bench.guest.post(GuestRequest::read(0, 1 << 20));
        }
        bench.guest.publish();
        bench.turn();
        bench.turn();
        let taken = std::iter::from_fn(|| bench.guest.reap()).count();
        assert_eq!(taken, 4, "4 MiB in the first turn; the rest waits in the ring");
        assert_eq!(bench.finish(60).len(), 60);
    }
}
