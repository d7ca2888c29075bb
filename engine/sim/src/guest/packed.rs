//! The driver's side of a packed ring (virtio 1.2, 2.8): descriptors in, used descriptors out. Knows no request.
//!
//! A place in the ring is counted on without end; modulo the size it is a slot, and an even
//! lap has the wrap counter 1.

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use spinel_mem::{Array, Region, Wrapping};

use super::Layout;

const NEXT: u16 = 1;
const AVAILABLE: u64 = 1 << 55;
const USED: u64 = 1 << 63;

/// A descriptor with its flags as a packed ring has them, out of one as a split ring has it.
pub(super) fn entry([address, rest]: [u64; 2]) -> [u64; 2] {
    [address, (rest & u64::from(u32::MAX)) | (rest >> 32 << 48)]
}

#[derive(Debug)]
pub(super) struct Packed {
    size: u16,
    event_idx: bool,
    descriptors: Wrapping<[u64; 2]>,
    /// Our wish for notifications.
    driver_event: Array<u32>,
    /// The device's wish for kicks.
    device_event: Array<u32>,
    next_avail: u16,
    next_used: u16,
    kicked: u16,
    /// Slot and second word of the first descriptor that was not published: it keeps the others from being seen.
    held: Option<(u16, u64)>,
    /// By id, the descriptors of its chain; zero if it has none.
    lengths: Vec<u16>,
}

impl Packed {
    /// `at` is where descriptors, driver's and device's event suppression lie.
    pub(super) fn new(region: &Arc<Region>, layout: Layout, at: [u64; 3]) -> Self {
        let part = "inside the region";
        Self {
            size: layout.size,
            event_idx: layout.event_idx,
            descriptors: Wrapping::of(region.array(at[0], layout.size.into()).expect(part)).expect("a power of two"),
            driver_event: region.array(at[1], 1).expect(part),
            device_event: region.array(at[2], 1).expect(part),
            next_avail: 0,
            next_used: 0,
            kicked: 0,
            held: None,
            lengths: vec![0; usize::from(layout.size)],
        }
    }

    fn slot(&self, place: u16) -> u16 {
        place & (self.size - 1)
    }

    /// Slot and wrap counter.
    fn word(&self, place: u16) -> u32 {
        u32::from(self.slot(place)) | if place & self.size == 0 { 1 << 15 } else { 0 }
    }

    /// Descriptors that are not in use.
    pub(super) fn room(&self) -> usize {
        usize::from(self.size - self.next_avail.wrapping_sub(self.next_used))
    }

    /// Puts a chain into the ring, of descriptors as a split ring has them.
    pub(super) fn offer(&mut self, id: u16, chain: &[[u64; 2]]) {
        assert!(chain.len() <= self.room(), "room() was looked at before");
        self.lengths[usize::from(id)] = u16::try_from(chain.len()).expect("at most the ring");
        for (at, [address, rest]) in (1..).zip(chain) {
            let [a, b, c, d, e, f, ..] = rest.to_le_bytes();
            let next = if at < chain.len() { NEXT } else { 0 };
            self.put(*address, u32::from_le_bytes([a, b, c, d]), id, u16::from_le_bytes([e, f]) | next);
        }
    }

    /// Puts one descriptor into the next slot, which is not looked at.
    pub(super) fn put(&mut self, address: u64, len_bytes: u32, id: u16, flags: u16) {
        let slot = self.slot(self.next_avail);
        let sign = if self.next_avail & self.size == 0 { AVAILABLE } else { USED };
        let word = u64::from(len_bytes) | u64::from(id) << 32 | u64::from(flags) << 48 | sign;
        self.descriptors.set_first(slot, address);
        match self.held {
            None => self.held = Some((slot, word)),
            Some(_) => self.descriptors.store_second(slot, word, Ordering::Relaxed),
        }
        self.next_avail = self.next_avail.wrapping_add(1);
    }

    pub(super) fn publish(&mut self) -> bool {
        if let Some((slot, word)) = self.held.take() {
            self.descriptors.store_second(slot, word, Ordering::Release);
        }
        fence(Ordering::SeqCst);
        let (old, new) = (std::mem::replace(&mut self.kicked, self.next_avail), self.next_avail);
        let event = self.device_event.load(0, Ordering::Relaxed);
        match event >> 16 {
            0 => true,
            1 => false,
            2 if self.event_idx => {
                // As drivers do it: places of the lap before lie below zero.
                let wrapped = event >> 15 & 1 != self.word(new) >> 15;
                let wished = i32::try_from(event & 0x7fff).expect("15 bits") - if wrapped { i32::from(self.size) } else { 0 };
                let end = i32::from(new & (self.size - 1));
                (end - i32::from(new.wrapping_sub(old))..end).contains(&wished)
            }
            flags => panic!("a device must not ask for notifications by {flags:#x}"),
        }
    }

    /// Id and bytes of the used descriptor at a place, if it is one.
    fn used(&self, place: u16) -> Option<(u32, u32)> {
        let [_, word] = self.descriptors.acquire(self.slot(place));
        let sign = if place & self.size == 0 { AVAILABLE | USED } else { 0 };
        let [a, b, c, d, e, f, ..] = word.to_le_bytes();
        (word & (AVAILABLE | USED) == sign).then(|| (u16::from_le_bytes([e, f]).into(), u32::from_le_bytes([a, b, c, d])))
    }

    /// The next used descriptor.
    pub(super) fn peek(&self) -> Option<(u32, u32)> {
        if self.next_used == self.next_avail { None } else { self.used(self.next_used) }
    }

    /// How many used descriptors there are, and the place behind them twice: as where a device has taken and used everything.
    pub(super) fn finished(&self) -> (u16, u32) {
        let (mut place, mut count) = (self.next_used, 0);
        while place != self.next_avail
            && let Some((id, _)) = self.used(place)
        {
            count += 1;
            // An id that was not offered has no length; whoever takes it will see.
            let length = usize::try_from(id).ok().and_then(|id| self.lengths.get(id)).copied().unwrap_or(0);
            if length == 0 {
                break;
            }
            place = place.wrapping_add(length);
        }
        let word = self.word(place);
        (count, word | word << 16)
    }

    /// Goes on behind the used descriptor of `id`.
    pub(super) fn release(&mut self, id: u16) {
        let length = std::mem::take(&mut self.lengths[usize::from(id)]);
        self.next_used = self.next_used.wrapping_add(length);
    }

    pub(super) fn want_calls(&self) {
        let wish = if self.event_idx { self.word(self.next_used) | 2 << 16 } else { 0 };
        self.driver_event.store(0, wish, Ordering::Relaxed);
    }

    pub(super) fn refuse_calls(&self) {
        self.driver_event.store(0, 1 << 16, Ordering::Relaxed);
    }
}
