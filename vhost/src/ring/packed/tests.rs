//! The packed ring by itself, against a driver that keeps the rules: laps, order, notifications, and where it goes on.

use std::sync::Arc;

use spinel_core::mem::Region;
use spinel_sim::Prng;
use spinel_sim::guest::{GuestRequest, Layout, SimGuest, USER_BASE};

use super::*;

const LAYOUT: Layout = Layout { size: 8, packed: true, event_idx: true, indirect: true, data_bytes: 512 };

fn addresses(guest: &SimGuest) -> RingAddresses {
    let [descriptors, available, used] = guest.addresses();
    RingAddresses { descriptors, available, used }
}

fn ring_at(guest: &SimGuest, layout: Layout, base: Option<u32>) -> Result<PackedRing, RingError> {
    PackedRing::new(&guest.map(), layout.size, addresses(guest), base, layout.event_idx, layout.indirect)
}

fn pair(layout: Layout) -> (SimGuest, PackedRing) {
    let guest = SimGuest::new(Region::anonymous(SimGuest::memory_bytes(layout)).unwrap(), layout);
    let ring = ring_at(&guest, layout, None).unwrap();
    (guest, ring)
}

/// Takes the next chain as a queue does.
fn take(ring: &mut PackedRing, guest: &SimGuest) -> Option<u16> {
    let id = ring.take().unwrap()?;
    ring.chain(id, &guest.map()).unwrap();
    Some(id)
}

#[test]
fn chains_of_any_length_come_back_in_any_order_for_lap_after_lap() {
    for (size, indirect) in [(8, false), (8, true), (256, false), (1, true)] {
        let layout = Layout { size, indirect, ..LAYOUT };
        let (mut guest, mut ring) = pair(layout);
        let mut prng = Prng::new(u64::from(size));
        let (mut held, mut ended) = (Vec::new(), 0_u32);
        while ended < 150_000 {
            while guest.room() > 0 && prng.one_in(2) {
                let pieces = u16::try_from(prng.within(1..=2)).unwrap();
                let fits = indirect || 3 * guest.room() >= usize::from(pieces) + 2;
                guest.post(GuestRequest { pieces: if fits { pieces } else { 1 }, ..GuestRequest::read(0, 512) });
            }
            guest.publish();
            while let Some(id) = take(&mut ring, &guest) {
                held.push(id);
            }
            while !held.is_empty() && prng.one_in(2) {
                let id = held.swap_remove(prng.index(held.len()));
                ring.put_used(id, u32::from(id) + 7);
            }
            ring.publish();
            while let Some(finished) = guest.reap() {
                assert_eq!(finished.written_bytes, u32::from(finished.head) + 7);
                ended += 1;
            }
        }
        while let Some(id) = held.pop() {
            ring.put_used(id, 1);
        }
        ring.publish();
        assert_eq!(guest.base(), ring.base(), "nothing is in flight");
    }
}

#[test]
fn a_usual_chain_is_found_in_the_ring_and_in_a_table_and_is_the_same_as_any_other() {
    for indirect in [false, true] {
        let layout = Layout { indirect, ..LAYOUT };
        let (mut guest, mut ring) = pair(layout);
        let map = guest.map();
        for request in [GuestRequest::read(5, 512), GuestRequest::write(5, 512)] {
            guest.post(request);
            guest.publish();
            let id = ring.take().unwrap().unwrap();
            let usual = ring.usual(id, &map).expect("header, data and status");
            let chain = <[[u64; 2]; 3]>::try_from(ring.chain(id, &map).unwrap()).unwrap();
            assert_eq!(Usual::of(chain.map(|raw| raw.map(u64::from_le))), usual);
            assert_eq!((usual.len_bytes, usual.writable), (512, request.device_writes));
        }
        for request in [GuestRequest { pieces: 2, ..GuestRequest::read(0, 512) }, GuestRequest::flush()] {
            let (mut guest, mut ring) = pair(layout);
            guest.post(request);
            guest.publish();
            let id = ring.take().unwrap().unwrap();
            assert!(ring.usual(id, &map).is_none(), "another number of descriptors");
            assert_eq!(ring.chain(id, &map).unwrap().len(), usize::from(request.pieces) + 2);
        }
    }
}

#[test]
fn a_chain_with_a_header_or_status_of_another_kind_is_not_usual() {
    /// In place of header and status: length and flags.
    const CASES: [[(u32, u16); 2]; 4] = [[(15, 0), (1, 2)], [(16, 2), (1, 2)], [(16, 0), (2, 2)], [(16, 0), (1, 0)]];
    for [header, status] in CASES {
        let (mut guest, mut ring) = pair(LAYOUT);
        for ((len_bytes, flags), next) in [(header, 1), ((512, 2), 1), (status, 0)] {
            guest.offer_descriptor(USER_BASE, len_bytes, 3, flags | next);
        }
        guest.publish();
        assert_eq!(ring.take().unwrap(), Some(3));
        assert!(ring.usual(3, &guest.map()).is_none(), "{header:?} {status:?}");
        let table = guest.region().array::<[u64; 2]>(0x3000, 3).unwrap();
        for (at, (len_bytes, flags)) in (0..).zip([header, (512, 2), status]) {
            table.set(at, [0, u64::from(len_bytes) | u64::from(flags) << 48]);
        }
        guest.offer_descriptor(spinel_sim::guest::GUEST_BASE + 0x3000, 48, 4, 4);
        guest.publish();
        assert_eq!(ring.take().unwrap(), Some(4));
        assert!(ring.usual(4, &guest.map()).is_none(), "{header:?} {status:?} in a table");
    }
}

#[test]
fn nothing_of_a_batch_is_visible_before_it_is_published() {
    let (mut guest, mut ring) = pair(LAYOUT);
    for _ in 0..3 {
        guest.post(GuestRequest::read(0, 512));
    }
    assert_eq!((ring.waiting().unwrap(), ring.take().unwrap()), (0, None), "nor what the driver holds back");
    guest.publish();
    for id in std::iter::from_fn(|| take(&mut ring, &guest)).collect::<Vec<_>>() {
        ring.put_used(id, 1);
        assert_eq!((guest.finished(), guest.peek()), (0, None));
    }
    ring.publish();
    assert!(!ring.wants_call() || guest.finished() == 3);
    assert_eq!(guest.finished(), 3);
    ring.publish();
    assert!(!ring.wants_call(), "there is nothing left to be notified of");
}

#[test]
fn a_driver_is_notified_exactly_when_the_place_it_wishes_is_used() {
    let (mut guest, mut ring) = pair(Layout { indirect: false, ..LAYOUT });
    // Many laps, in batches of one and of two, with every wish for places up to a lap ahead.
    let mut used = 0_u16;
    for round in 0..2_000_u16 {
        let chains = 1 + round % 2;
        for _ in 0..chains {
            guest.post(GuestRequest::read(0, 512));
        }
        guest.publish();
        let ahead = round / 2 % 8;
        let wished = used.wrapping_add(ahead);
        let word = ring.word(wished);
        guest.available.set(0, u16::try_from(word).unwrap());
        guest.available.set(1, 2);
        for _ in 0..chains {
            let id = take(&mut ring, &guest).unwrap();
            ring.put_used(id, 1);
        }
        let step = 3 * chains;
        ring.publish();
        assert_eq!(ring.wants_call(), ahead < step, "round {round}: {ahead} places ahead, {step} used");
        used = used.wrapping_add(step);
        while guest.reap().is_some() {}
    }
}

#[test]
fn who_uses_two_laps_before_it_asks_has_passed_every_place() {
    for wished in 0..LAYOUT.size {
        let (mut guest, mut ring) = pair(LAYOUT);
        guest.available.set(0, u16::try_from(ring.word(wished)).unwrap());
        guest.available.set(1, 2);
        for _ in 0..2 {
            for _ in 0..LAYOUT.size {
                guest.post(GuestRequest::read(0, 512));
            }
            guest.publish();
            while let Some(id) = take(&mut ring, &guest) {
                ring.put_used(id, 1);
            }
            ring.publish();
            while guest.reap().is_some() {}
        }
        assert!(ring.wants_call() && !ring.wants_call(), "once, at {wished}");
    }
}

#[test]
fn a_drivers_flags_are_obeyed_and_places_only_where_they_were_negotiated() {
    for (event_idx, flags, notified) in [
        (false, 0, true),
        (false, 1, false),
        (false, 2, true),
        (false, 3, true),
        (true, 0, true),
        (true, 1, false),
        (true, 2, false),
        (true, 3, true),
        (true, 4, true),
        (true, 5, false),
    ] {
        let (mut guest, mut ring) = pair(Layout { event_idx, ..LAYOUT });
        guest.post(GuestRequest::read(0, 512));
        guest.publish();
        // Slot 5 of the first lap, which is not reached.
        guest.available.set(0, 0x8005);
        guest.available.set(1, flags);
        let id = take(&mut ring, &guest).unwrap();
        ring.put_used(id, 1);
        ring.publish();
        assert_eq!(ring.wants_call(), notified, "event_idx {event_idx}, flags {flags}");
    }
}

#[test]
fn a_place_outside_the_ring_in_a_drivers_wish_is_harmless() {
    let (mut guest, mut ring) = pair(LAYOUT);
    for place in [8, 0x7fff, 0x8008, 0xffff] {
        guest.post(GuestRequest::read(0, 512));
        guest.publish();
        guest.available.set(0, place);
        guest.available.set(1, 2);
        let id = take(&mut ring, &guest).unwrap();
        ring.put_used(id, 1);
        ring.publish();
        assert!(guest.reap().is_some());
    }
}

#[test]
fn kicks_are_asked_for_at_the_next_place_and_refused_altogether() {
    for event_idx in [false, true] {
        let (mut guest, mut ring) = pair(Layout { event_idx, ..LAYOUT });
        for round in 0..100_u32 {
            ring.refuse_kicks();
            guest.post(GuestRequest::read(0, 512));
            assert!(!guest.publish(), "nobody wants to be told");
            assert!(ring.want_kicks(), "one is there already");
            let id = ring.take().unwrap().unwrap();
            assert!(!ring.want_kicks());
            let event = guest.region().array::<u32>(addresses(&guest).used - USER_BASE, 1).unwrap().get(0);
            let word = ring.word(ring.place_of(ring.avail));
            assert_eq!(event, if event_idx { 2 << 16 | word } else { 0 }, "round {round}");
            guest.post(GuestRequest::read(0, 512));
            assert!(guest.publish(), "round {round}");
            let next = ring.take().unwrap().unwrap();
            for id in [id, next] {
                ring.put_used(id, 1);
            }
            ring.publish();
            while guest.reap().is_some() {}
        }
    }
}

#[test]
fn a_ring_goes_on_wherever_it_stopped() {
    let layout = Layout { indirect: false, ..LAYOUT };
    let (mut guest, mut ring) = pair(layout);
    for round in 0..100 {
        guest.post(GuestRequest::read(0, 512));
        guest.publish();
        let id = take(&mut ring, &guest).unwrap();
        ring.put_used(id, 1);
        ring.publish();
        assert!(guest.reap().is_some(), "round {round}");
        let base = ring.base();
        // Some front ends keep the lower half alone.
        let kept = if round % 2 == 0 { base } else { base & 0xffff };
        ring = ring_at(&guest, layout, Some(kept)).unwrap();
        assert_eq!(ring.base(), base);
    }
}

#[test]
fn a_front_end_that_knows_no_wrap_counters_begins_at_the_beginning() {
    let (mut guest, ring) = pair(LAYOUT);
    assert_eq!(ring.base(), 0x8000_8000);
    for _ in 0..8 {
        guest.post(GuestRequest::read(0, 512));
    }
    guest.publish();
    let mut ring = ring_at(&guest, LAYOUT, Some(0)).unwrap();
    assert_eq!(ring.base(), 0x8000_8000, "no device has used this ring");
    while let Some(id) = take(&mut ring, &guest) {
        ring.put_used(id, 1);
    }
    ring.publish();
    assert_eq!(ring.base(), 0, "one lap");
    assert_eq!(ring_at(&guest, LAYOUT, Some(0)).unwrap().base(), 0, "now this is the place");
    while guest.reap().is_some() {}
    for _ in 0..8 {
        guest.post(GuestRequest::read(0, 512));
    }
    guest.publish();
    let mut ring = ring_at(&guest, LAYOUT, Some(0)).unwrap();
    assert_eq!(ring.base(), 0, "even where nothing is left of the first lap");
    assert!(ring.take().unwrap().is_some());
}

#[test]
fn a_ring_that_cannot_be_there_or_not_begin_there_is_refused() {
    let (guest, _) = pair(LAYOUT);
    for base in [8, 0x8008_8008, 0x7fff, 0x8001_8000, 0x0001_8001, 0x8000_0000] {
        assert_eq!(ring_at(&guest, LAYOUT, Some(base)).unwrap_err(), RingError::Base(base));
    }
    for base in [0, 7, 0x8007, 0x0007_0007, 0x8007_8007] {
        assert!(ring_at(&guest, LAYOUT, Some(base)).is_ok(), "{base:#x}");
    }
    let map = guest.map();
    let good = addresses(&guest);
    let end = USER_BASE + Arc::clone(guest.region()).len_bytes();
    for (size, addresses, part) in [
        (8, RingAddresses { descriptors: good.descriptors + 8, ..good }, "descriptor ring"),
        (8, RingAddresses { available: good.available + 2, ..good }, "driver event suppression"),
        (8, RingAddresses { used: good.used + 2, ..good }, "device event suppression"),
        (8, RingAddresses { used: end, ..good }, "device event suppression"),
        (8, RingAddresses { available: 0, ..good }, "driver event suppression"),
        (8, RingAddresses { descriptors: end - 64, ..good }, "descriptor ring"),
        (0, good, "size"),
        (12, good, "size"),
        (65535, good, "size"),
    ] {
        let error = PackedRing::new(&map, size, addresses, None, true, true).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
    // A structure's four bytes may be the last of the memory.
    assert!(PackedRing::new(&map, 8, RingAddresses { used: end - 4, ..good }, None, true, true).is_ok());
}

#[test]
fn the_largest_ring_there_is_can_be_full() {
    let layout = Layout { size: 32768, data_bytes: 0, ..LAYOUT };
    let region = Region::anonymous(SimGuest::memory_bytes(layout)).unwrap();
    let guest = SimGuest::new(region, layout);
    let mut ring = ring_at(&guest, layout, None).unwrap();
    let words = guest.region().array::<u64>(0, 65536).unwrap();
    for lap in 0..3_u32 {
        let sign = if lap % 2 == 0 { AVAILABLE } else { USED };
        for slot in 0..32768_u32 {
            words.set(2 * slot + 1, sign | 16 | u64::from(slot) << 32);
        }
        let taken: Vec<u16> = std::iter::from_fn(|| ring.take().unwrap()).collect();
        assert_eq!(taken, (0..32768).collect::<Vec<u16>>());
        taken.into_iter().for_each(|id| ring.put_used(id, 1));
        ring.publish();
    }
}

#[test]
fn what_was_used_and_not_published_is_not_seen_with_what_the_next_process_publishes() {
    for indirect in [false, true] {
        let layout = Layout { size: 16, indirect, ..LAYOUT };
        let (mut guest, ring) = pair(layout);
        let place = RecordPlace { region: Region::anonymous(RecordPlace::bytes(layout.size)).unwrap(), offset: 0 };
        let mut ring = ring.on_record(&place, false).unwrap();
        for _ in 0..3 {
            guest.post(GuestRequest::read(0, 512));
        }
        guest.publish();
        let taken: Vec<u16> = std::iter::from_fn(|| {
            let id = take(&mut ring, &guest)?;
            ring.record(id).unwrap();
            Some(id)
        })
        .collect();
        // All but the first are in the ring when the process is killed.
        taken.iter().for_each(|id| ring.put_used(*id, 1));
        let mut next = ring_at(&guest, layout, None).unwrap().on_record(&place, false).unwrap();
        for id in &taken {
            assert_eq!(next.replay(), Some(*id));
            next.record(*id).unwrap();
        }
        assert_eq!(next.replay(), None);
        next.put_used(taken[0], 1);
        next.publish();
        assert_eq!(guest.finished(), 1, "indirect {indirect}");
        assert_eq!(std::iter::from_fn(|| guest.reap()).map(|finished| finished.head).collect::<Vec<_>>(), taken[..1]);
    }
}
