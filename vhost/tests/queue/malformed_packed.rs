//! Packed rings that break the rules, and some that only look as if they did.

use std::sync::Arc;

use spinel_core::Progress;
use spinel_sim::guest::{GUEST_BASE, Layout};
use spinel_vhost::{QueueEvent, RingFault};
use spinel_volume::{ErrorDevice, Fault, Injection, Target};

use crate::common::Bench;
use crate::memory;

const PACKED: Layout = Layout { size: 64, packed: true, event_idx: true, indirect: true, data_bytes: 65536 };

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// Where a table, a header and a buffer lie that break no rule.
const TABLE: u64 = GUEST_BASE + 0x20000;
const HEADER: u64 = GUEST_BASE + 0x21000;
const STATUS: u64 = GUEST_BASE + 0x22000;

/// Address, length, id and flags of a descriptor.
type Offered = (u64, u32, u16, u16);
type Expected = fn(RingFault) -> bool;

/// A disk that keeps what it is asked for.
fn hung() -> Arc<ErrorDevice> {
    let disk = ErrorDevice::new(memory(512)).unwrap();
    disk.inject(Injection { target: Target::All, fault: Fault::Pending, count: u32::MAX, queue_depth: 0 }).unwrap();
    Arc::new(disk)
}

/// A chain that breaks no rule.
fn sound(id: u16) -> Vec<Offered> {
    vec![(HEADER, 16, id, NEXT), (STATUS, 1, id, WRITE)]
}

/// A chain of id 5 in a table.
fn table(len_bytes: u32, flags: u16) -> Vec<Offered> {
    vec![(TABLE, len_bytes, 5, INDIRECT | flags)]
}

/// What a driver must not offer, and how that is called: first what concerns the ring.
fn broken_rings() -> Vec<(&'static str, Layout, Vec<Offered>, Expected)> {
    let is_indirect: Expected = |fault| matches!(fault, RingFault::Indirect(_));
    vec![
        ("an id as high as the ring is long", PACKED, sound(64), |f| matches!(f, RingFault::DescriptorIndex(64))),
        ("the highest id there is", PACKED, sound(u16::MAX), |f| matches!(f, RingFault::DescriptorIndex(u16::MAX))),
        ("an id in flight", PACKED, [sound(3), sound(3)].concat(), |f| matches!(f, RingFault::HeadInFlight(3))),
        ("an id in flight, behind others", PACKED, [sound(3), sound(4), sound(3)].concat(), |f| matches!(f, RingFault::HeadInFlight(3))),
        ("an id in flight, for a table", PACKED, [sound(5), table(48, 0)].concat(), |f| matches!(f, RingFault::HeadInFlight(5))),
        ("a chain without an end", PACKED, vec![(HEADER, 16, 0, NEXT); 64], |f| matches!(f, RingFault::ChainTooLong(_))),
        ("a chain that goes round twice", PACKED, vec![(HEADER, 16, 0, NEXT); 128], |f| matches!(f, RingFault::ChainTooLong(_))),
        ("a chain over another one in flight", PACKED, [sound(1), vec![(HEADER, 16, 2, NEXT); 62], sound(2)].concat(), |f| {
            matches!(f, RingFault::Overrun(2))
        }),
        ("a table of no entry", PACKED, table(0, 0), is_indirect),
        ("a table of half an entry", PACKED, table(8, 0), is_indirect),
        ("a ragged table", PACKED, table(49, 0), is_indirect),
        ("a table of too many entries", PACKED, table(1025 * 16, 0), is_indirect),
        ("a table as long as can be", PACKED, table(0xffff_fff0, 0), is_indirect),
        ("a table with a successor", PACKED, [table(48, NEXT), sound(6)].concat(), is_indirect),
        ("a table at the end of a chain", PACKED, [vec![(HEADER, 16, 5, NEXT)], table(48, 0)].concat(), is_indirect),
        ("a table that was not negotiated", Layout { indirect: false, ..PACKED }, table(48, 0), is_indirect),
    ]
}

/// Then what concerns memory and requests.
fn broken_chains() -> Vec<(&'static str, Layout, Vec<Offered>, Expected)> {
    let is_memory: Expected = |fault| matches!(fault, RingFault::Memory(_));
    vec![
        ("a table nowhere", PACKED, vec![(1, 48, 5, INDIRECT)], is_memory),
        ("a table half in memory", PACKED, vec![(GUEST_BASE - 16, 48, 5, INDIRECT)], is_memory),
        ("a table at the last address", PACKED, vec![(u64::MAX - 8, 48, 5, INDIRECT)], is_memory),
        ("a header nowhere", PACKED, vec![(1, 16, 5, NEXT), (STATUS, 1, 5, WRITE)], is_memory),
        ("a status nowhere", PACKED, vec![(HEADER, 16, 5, NEXT), (u64::MAX, 1, 5, WRITE)], is_memory),
        (
            "data across the end of memory",
            PACKED,
            vec![(HEADER, 16, 5, NEXT), (STATUS, u32::MAX, 5, NEXT | WRITE), (STATUS, 1, 5, WRITE)],
            is_memory,
        ),
        ("a short header", PACKED, vec![(HEADER, 8, 5, 0)], |f| matches!(f, RingFault::NoHeader(5))),
        ("a header that the device writes", PACKED, vec![(HEADER, 16, 5, NEXT | WRITE), (STATUS, 1, 5, WRITE)], |f| {
            matches!(f, RingFault::NoHeader(5))
        }),
        ("no status", PACKED, vec![(HEADER, 16, 5, 0)], |f| matches!(f, RingFault::NoStatus(5))),
        ("a status of no bytes", PACKED, vec![(HEADER, 16, 5, NEXT), (STATUS, 0, 5, WRITE)], |f| matches!(f, RingFault::NoStatus(5))),
        ("a status that is only read", PACKED, vec![(HEADER, 16, 5, NEXT), (STATUS, 1, 5, 0)], |f| matches!(f, RingFault::NoStatus(5))),
        (
            "readable behind writable",
            PACKED,
            vec![(HEADER, 16, 5, NEXT), (STATUS, 512, 5, NEXT | WRITE), (STATUS, 512, 5, NEXT), (STATUS, 1, 5, WRITE)],
            |f| matches!(f, RingFault::Order(5)),
        ),
        ("nothing at all", PACKED, vec![(0, 0, 0, 0)], is_memory_or_no_header),
    ]
}

#[test]
fn every_broken_rule_of_a_packed_ring_costs_the_queue_and_is_named() {
    for (what, layout, offered, expected) in [broken_rings(), broken_chains()].concat() {
        let disk = hung();
        let mut bench = Bench::new(Arc::clone(&disk) as _, layout);
        // A flush, so that what is sound is in flight.
        bench.guest.region().write(HEADER - GUEST_BASE, &[4]).unwrap();
        for (address, len_bytes, id, flags) in offered {
            bench.guest.offer_descriptor(address, len_bytes, id, flags);
            if flags & NEXT == 0 {
                bench.guest.publish();
                bench.turn();
            }
        }
        bench.guest.publish();
        for _ in 0..10 {
            bench.turn();
        }
        let QueueEvent::Fault { fault, .. } = bench.events.try_recv().unwrap_or_else(|_| panic!("{what} was not noticed"));
        assert!(expected(fault), "{what}: {fault}");
        disk.clear();
        disk.resume_pending();
        bench.stop();
    }
}

fn is_memory_or_no_header(fault: RingFault) -> bool {
    matches!(fault, RingFault::Memory(_) | RingFault::NoHeader(_))
}

#[test]
fn descriptors_that_are_no_longer_available_or_not_yet_are_left_alone() {
    for (packed_word, what) in [(0_u64, "nothing"), (1 << 55 | 1 << 63, "used"), (1 << 63, "of the lap to come")] {
        let mut bench = Bench::new(memory(512), PACKED);
        bench.guest.descriptors.set(0, [GUEST_BASE, 16 | packed_word]);
        for _ in 0..10 {
            assert_eq!(bench.turn(), Progress::Idle, "{what}");
        }
        assert!(bench.events.try_recv().is_err(), "{what}");
    }
}

#[test]
fn a_table_may_say_things_that_mean_nothing_in_it() {
    // Of the flags in a packed ring's table only WRITE counts, and ids count for nothing (virtio 1.2, 2.8.7).
    let mut bench = Bench::new(memory(512), PACKED);
    let region = Arc::clone(bench.guest.region());
    region.write(0x21000, &[0; 16]).unwrap();
    region.write(0x22000, &[0xee; 513]).unwrap();
    let table = region.array::<[u64; 2]>(0x20000, 3).unwrap();
    let strange = 0x7777 << 32 | 0xfffd << 48;
    table.set(0, [GUEST_BASE + 0x21000, 16 | strange]);
    table.set(1, [GUEST_BASE + 0x22000, 512 | 2 << 48 | strange]);
    table.set(2, [GUEST_BASE + 0x22200, 1 | 2 << 48 | strange]);
    // WRITE counts for nothing in the descriptor of a table.
    bench.guest.offer_descriptor(GUEST_BASE + 0x20000, 48, 9, 4 | 2);
    bench.guest.publish();
    for _ in 0..5 {
        bench.turn();
    }
    let mut got = [1; 513];
    region.read(0x22000, &mut got).unwrap();
    assert_eq!(got, [0; 513]);
    assert_eq!(bench.guest.peek(), Some((9, 513)));
}
