//! The packed virtqueue, device side (virtio 1.2, 2.8). Trusts nothing the guest writes.
//!
//! Both sides go round one ring of descriptors. A place in it is a slot and a wrap counter,
//! which changes from lap to lap. Where places are compared, they are numbers below twice
//! the ring's size: first the slots with wrap counter 1, then those with 0.

use std::sync::atomic::{Ordering, fence};

use spinel_core::mem::{Array, GuestMap, Look, Segment, Wrapping};

use super::batch::{Batch, Slots};
use super::record::{PackedRecord, RecordError, RecordPlace, UsedPlace};
use super::split::{DESCRIPTOR_BYTES, RingAddresses, RingError, RingFault, TABLE_MAX, Usual, aligned, part, wrapping};
use super::{Offered, Ring, doze};
use crate::lot::Looked;

/// A descriptor's second word (virtio 1.2, 2.8.13): its length, the buffer's id from here on, and the flags behind that.
const ID_SHIFT: u32 = 32;
/// Flag: the chain goes on in the next slot.
const NEXT: u64 = 1 << 48;
/// Flag: the device may write, or has written.
const WRITE: u64 = 2 << 48;
/// Flag: the buffer is a table of descriptors.
const INDIRECT: u64 = 4 << 48;
/// Flag: the wrap counter of the driver when it made the descriptor available, and of the device when it used it.
const AVAILABLE: u64 = 1 << 55;
/// Flag: the wrap counter's opposite in an available descriptor, the wrap counter in a used one.
const USED: u64 = 1 << 63;
/// The length.
const LEN: u64 = u32::MAX as u64;

/// The flag WRITE where a split ring has it.
const SPLIT_WRITE: u64 = WRITE >> 16;

/// What the second words of an indirect descriptor of a usual chain, and of the header and the status in its table, hold besides flags that mean nothing there.
const USUAL_TABLE: u64 = (3 * DESCRIPTOR_BYTES as u64) | INDIRECT;
const USUAL_HEADER: u64 = 16;
const USUAL_STATUS: u64 = 1 | WRITE;

/// A place's wrap counter in a word of 16 bits, above its slot.
const WRAP: u16 = 1 << 15;

/// What an event suppression structure asks for (virtio 1.2, 2.8.10), in the upper half of its word. Zero asks for every notification.
const DISABLE: u32 = 1 << 16;
const AT_PLACE: u32 = 2 << 16;
const EVENTS: u32 = 3 << 16;

/// A place that one side has come to.
#[derive(Clone, Copy, Debug)]
struct Cursor {
    slot: u16,
    /// How a descriptor there looks, but for what it is about: the only one of a usual chain that is available, or a used one.
    sign: u64,
}

impl Cursor {
    /// What a lap changes in a sign, and what tells available descriptors from others.
    const LAP: u64 = AVAILABLE | USED;

    /// At the beginning, with the sign that is right in the first lap: AVAILABLE is set.
    fn new(sign: u64) -> Self {
        Self { slot: 0, sign }
    }

    /// The same at another place.
    fn at(self, place: u16, size: u16) -> Self {
        let is_first_lap = self.sign & AVAILABLE != 0;
        let sign = if (place < size) == is_first_lap { self.sign } else { self.sign ^ Self::LAP };
        Self { slot: place & (size - 1), sign }
    }

    /// Whether what lies here is available, one descriptor, and the table of a usual chain: all in one look.
    #[inline(always)]
    fn is_usual(&self, word: u64) -> bool {
        word & (Self::LAP | INDIRECT | NEXT | LEN) == self.sign
    }

    /// So many slots further, at most a lap.
    #[inline(always)]
    fn step(&mut self, slots: u16, size: u16) {
        self.slot += slots;
        if self.slot >= size {
            self.slot -= size;
            self.sign ^= Self::LAP;
        }
    }
}

/// A packed virtqueue, as its device sees it.
#[derive(Debug)]
pub struct PackedRing {
    size: u16,
    event_idx: bool,
    indirect: bool,
    descriptors: Wrapping<[u64; 2]>,
    /// Which notifications the driver wants: place and flags.
    driver_event: Array<u32>,
    /// Which kicks we want.
    device_event: Array<u32>,
    /// Where the next chain is.
    avail: Cursor,
    /// Where the next used descriptor goes.
    used: Cursor,
    /// The place up to which used descriptors were published.
    published: u16,
    /// The place at which the driver was last asked whether it wants to be notified, and whether more was published since:
    /// a whole lap leads to the same place.
    told: u16,
    untold: bool,
    batch: Batch,
    /// By id, how many descriptors its chain in flight has beyond the first; zero if there is none.
    links: Box<[u16]>,
    /// How many chains in flight have such.
    linked: u16,
    /// Below this slot a used descriptor is put without a further look: the batch is not empty, this is not the end of the
    /// ring, and no chain in flight has more than one descriptor.
    plain_below: u16,
    /// The first descriptor of the chain that was taken last, and whether it names a usual chain's table.
    first: [u64; 2],
    by_table: bool,
    /// The descriptors of that chain if it has more than one, or those of its table, as a split ring has them: raw, and
    /// of the flags only WRITE. Never more than the ring or a table holds.
    chain: Vec<[u64; 2]>,
    record: Option<PackedRecord>,
}

impl PackedRing {
    /// The first place in both halves, as VHOST_USER_SET_VRING_BASE has it: slot 0, wrap counter 1.
    pub(crate) const BEGINNING: u32 = 0x8000_8000;

    /// Finds the three parts in guest memory; `event_idx` if VIRTIO_F_EVENT_IDX was negotiated, `indirect` likewise.
    ///
    /// It starts at `base`, as VHOST_USER_SET_VRING_BASE has it, or else at the beginning: nothing in the guest's
    /// memory says where the device was. A front end that knows nothing of used descriptors leaves the upper half
    /// zero, and one that knows nothing of wrap counters sends zero: that is taken for the beginning in a ring that
    /// no device has used.
    ///
    /// # Errors
    /// [`RingError`] if the ring cannot be where the front end says, or not begin there.
    pub fn new(
        guest: &GuestMap,
        size: u16,
        addresses: RingAddresses,
        base: Option<u32>,
        event_idx: bool,
        indirect: bool,
    ) -> Result<Self, RingError> {
        if !size.is_power_of_two() || size > 32768 {
            return Err(RingError::Size(size));
        }
        aligned("descriptor ring", addresses.descriptors, 16)?;
        aligned("driver event suppression", addresses.available, 4)?;
        aligned("device event suppression", addresses.used, 4)?;
        let mut ring = Self {
            size,
            event_idx,
            indirect,
            descriptors: wrapping(guest, "descriptor ring", addresses.descriptors, size.into())?,
            driver_event: part(guest, "driver event suppression", addresses.available, 1)?,
            device_event: part(guest, "device event suppression", addresses.used, 1)?,
            // Without tables no chain is usual by one: what is compared with this has no id.
            avail: Cursor::new(AVAILABLE | if indirect { USUAL_TABLE } else { 1 << ID_SHIFT }),
            used: Cursor::new(AVAILABLE | USED | WRITE),
            published: 0,
            told: 0,
            untold: false,
            batch: Batch::default(),
            links: vec![0; usize::from(size)].into_boxed_slice(),
            linked: 0,
            plain_below: 0,
            first: [0; 2],
            by_table: false,
            chain: Vec::with_capacity(usize::from(size).max(TABLE_MAX as usize)),
            record: None,
        };
        let begins = ring.begins(base.unwrap_or(Self::BEGINNING))?;
        ring.begin_at(begins, begins);
        Ok(ring)
    }

    /// Goes on at these places.
    fn begin_at(&mut self, used: u16, avail: u16) {
        self.avail = self.avail.at(avail, self.size);
        self.used = self.used.at(used, self.size);
        (self.published, self.told) = (used, used);
    }

    /// See [`AnyRing::on_record`](super::AnyRing::on_record).
    pub(super) fn on_record(mut self, place: &RecordPlace, anew: bool) -> Result<Self, RecordError> {
        let holds = |place: UsedPlace| {
            let sign = if place.wrap { AVAILABLE } else { USED };
            (u64::from_le(self.descriptors.get(place.slot)[1]) ^ sign) & Cursor::LAP == 0
        };
        let record = PackedRecord::open(place, self.size, self.used_place(), anew, holds)?;
        let UsedPlace { slot, wrap } = record.used();
        let used = slot | if wrap { 0 } else { self.size };
        let avail = used.wrapping_add(record.owed()) & (self.size << 1).wrapping_sub(1);
        self.begin_at(used, avail);
        self.hide_unpublished(record.owed());
        self.record = Some(record);
        Ok(self)
    }

    /// A process that was killed may have written used descriptors of a batch whose first it came not to publish. They lie
    /// in the slots of chains that are done again, and would be seen with the first that is used now: so they become
    /// unused ones again.
    fn hide_unpublished(&self, slots: u16) {
        let mut at = self.used;
        for _ in 0..slots {
            let [_, word] = self.descriptors.get(at.slot).map(u64::from_le);
            if (word ^ at.sign) & Cursor::LAP == 0 {
                self.descriptors.store_second(at.slot, (word ^ USED).to_le(), Ordering::Release);
            }
            at.step(1, self.size);
        }
    }

    pub(super) fn owed(&self) -> usize {
        self.record.as_ref().map_or(0, PackedRecord::chains_owed)
    }

    /// Where the next used descriptor goes, as a record has it.
    #[inline(always)]
    fn used_place(&self) -> UsedPlace {
        UsedPlace { slot: self.used.slot, wrap: self.used.sign & AVAILABLE != 0 }
    }

    /// Whether a front end may ask for this: one place, in both halves or in the lower one alone. What lies between two
    /// different ones would be in flight in nobody's hands.
    pub(crate) fn is_base(base: u32) -> bool {
        let (available, used) = halves(base);
        used == available || used == 0
    }

    /// The place that a front end names.
    fn begins(&self, base: u32) -> Result<u16, RingError> {
        let (available, _) = halves(base);
        if !Self::is_base(base) || available & !WRAP >= self.size {
            return Err(RingError::Base(base));
        }
        let is_first_lap = base == 0 && (0..self.size).all(|slot| self.descriptors.get(slot).map(u64::from_le)[1] & USED == 0);
        Ok(if is_first_lap { 0 } else { self.place(available) })
    }

    /// A place out of a word that has its slot and its wrap counter.
    fn place(&self, word: u16) -> u16 {
        (word & (self.size - 1)) | if word & WRAP == 0 { self.size } else { 0 }
    }

    /// The same as a word.
    fn word(&self, place: u16) -> u32 {
        u32::from(place & (self.size - 1)) | if place & self.size == 0 { u32::from(WRAP) } else { 0 }
    }

    /// Where we are: of the wrap counter both signs have the same flag.
    fn place_of(&self, cursor: Cursor) -> u16 {
        cursor.slot | if cursor.sign & AVAILABLE == 0 { self.size } else { 0 }
    }

    /// How far it is from one place to another.
    fn distance(&self, from: u16, to: u16) -> u16 {
        // Two laps, which may be as many as 65,536 places.
        to.wrapping_sub(from) & (self.size << 1).wrapping_sub(1)
    }

    /// The next descriptor, available or not. All that the driver wrote before its flags can be seen then: length and id
    /// come in one load with them.
    #[inline(always)]
    fn next(&self) -> [u64; 2] {
        self.descriptors.acquire(self.avail.slot).map(u64::from_le)
    }

    /// Whether a descriptor is available here.
    #[inline(always)]
    fn is_available(&self, word: u64) -> bool {
        (word ^ self.avail.sign) & Cursor::LAP == 0
    }

    /// Looks at chains from a place on, as long as they are usual ones by a table; at most to the end of the ring.
    #[inline(always)]
    fn look_on(&self, at: Cursor, guest: &GuestMap, into: &mut [Looked]) -> usize {
        let near = guest.near();
        for (count, (slot, chain)) in (at.slot..).zip(&mut *into).enumerate() {
            let first = self.descriptors.acquire(slot).map(u64::from_le);
            if !at.is_usual(first[1]) {
                return count;
            }
            near.prefetch(first[0]);
            chain.offered = Offered { number: id_of(first[1]), first };
        }
        into.len()
    }

    /// Takes the next chain, whatever it is.
    #[inline(never)]
    fn take_any(&mut self) -> Result<Option<u16>, RingFault> {
        let [_, word] = self.first;
        if !self.is_available(word) {
            return Ok(None);
        }
        if word & NEXT != 0 {
            return self.take_links().map(Some);
        }
        self.avail.step(1, self.size);
        Ok(Some(id_of(word)))
    }

    /// Takes a chain of more than one descriptor, whose last one has the id.
    fn take_links(&mut self) -> Result<u16, RingFault> {
        self.chain.clear();
        let mut last = self.first;
        let mut next = self.avail;
        loop {
            let id = id_of(last[1]);
            if last[1] & INDIRECT != 0 {
                return Err(RingFault::Indirect(id));
            }
            if self.chain.len() == usize::from(self.size) {
                return Err(RingFault::ChainTooLong(id));
            }
            self.chain.push(as_split(last));
            next.step(1, self.size);
            if last[1] & NEXT == 0 {
                break;
            }
            last = self.descriptors.get(next.slot).map(u64::from_le);
        }
        let id = id_of(last[1]);
        let in_use = self.distance(self.place_of(self.used), self.place_of(self.avail));
        if self.chain.len() > usize::from(self.size.saturating_sub(in_use)) {
            return Err(RingFault::Overrun(id));
        }
        self.avail = next;
        Ok(id)
    }

    /// Whether the chain that was taken has more than one descriptor in the ring.
    #[inline(always)]
    fn is_linked(&self) -> bool {
        self.first[1] & NEXT != 0
    }

    /// Remembers how many descriptors a chain has that is in flight from now on.
    fn note_links(&mut self, id: u16) {
        let links = &mut self.links[usize::from(id)];
        if *links == 0 {
            *links = u16::try_from(self.chain.len()).expect("at most the size") - 1;
            self.linked += 1;
            self.plain_below = 0;
        }
    }

    /// The same without a table.
    #[inline(always)]
    fn usual_in_ring(&mut self, id: u16) -> Option<Usual> {
        if !self.is_linked() {
            return None;
        }
        self.note_links(id);
        let chain = <&[[u64; 2]; 3]>::try_from(&self.chain[..]).ok()?.map(|raw| raw.map(u64::from_le));
        (chain[0][1] == USUAL_HEADER && chain[2][1] == 1 | SPLIT_WRITE).then(|| Usual::of(chain))
    }

    /// Copies an indirect table, all of it and once; the guest may change its own copy as it likes.
    fn copy_table(&mut self, id: u16, guest: &GuestMap) -> Result<(), RingFault> {
        let [address, word] = self.first;
        let len_bytes = u32::try_from(word & LEN).expect("cut to 32 bits");
        let entries = len_bytes / DESCRIPTOR_BYTES;
        if !self.indirect || !len_bytes.is_multiple_of(DESCRIPTOR_BYTES) || entries == 0 || entries > TABLE_MAX {
            return Err(RingFault::Indirect(id));
        }
        self.chain.resize(entries as usize, [0; 2]);
        guest.load(address, &mut self.chain).map_err(RingFault::Memory)?;
        for raw in &mut self.chain {
            // In a table WRITE is the only flag there is (virtio 1.2, 2.8.7).
            *raw = as_split(raw.map(u64::from_le));
        }
        Ok(())
    }

    fn replay_one(&mut self, descriptor: [u64; 2]) -> u16 {
        self.first = [descriptor[0], descriptor[1] & !NEXT];
        self.by_table = self.indirect && self.first[1] & (INDIRECT | LEN) == USUAL_TABLE;
        id_of(descriptor[1])
    }

    #[inline(never)]
    fn put_used_anywhere(&mut self, id: u32, written_bytes: u32) {
        self.batch.put(&self.descriptors, self.used.slot, used_word(id, written_bytes, self.used.sign));
        let links = if self.linked > 0 { std::mem::take(&mut self.links[id as usize]) } else { 0 };
        self.linked -= u16::from(links > 0);
        self.used.step(1 + links, self.size);
        self.plain_below = if self.linked == 0 { self.size - 1 } else { 0 };
    }
}

impl Ring for PackedRing {
    const ONE_PLACE_EACH: bool = false;

    /// Number of descriptors.
    fn size(&self) -> u16 {
        self.size
    }

    /// Where to go on once nothing is in flight, as VHOST_USER_GET_VRING_BASE has it. A chain that broke the rules was not taken.
    fn base(&self) -> u32 {
        let word = self.word(self.place_of(self.used));
        word | word << 16
    }

    /// A segment of no bytes, where the ring lies.
    fn nowhere(&self) -> Segment {
        self.driver_event.region().segment(0, 0).expect("nothing lies inside everything")
    }

    /// How many chains may wait: none, one, or at most so many.
    #[inline(always)]
    fn waiting(&mut self) -> Result<u16, RingFault> {
        if !self.is_available(self.next()[1]) {
            return Ok(0);
        }
        let mut behind = self.avail;
        behind.step(1, self.size);
        let [_, word] = self.descriptors.get(behind.slot).map(u64::from_le);
        Ok(if (word ^ behind.sign) & Cursor::LAP == 0 { self.size } else { 1 })
    }

    /// Goes on as long as chains are usual ones by a table, which take one descriptor each, and there is room on record.
    #[inline(never)]
    fn look(&self, guest: &GuestMap, into: &mut [Looked]) -> usize {
        let room = self.record.as_ref().map_or(into.len(), |record| into.len().min(record.room().into()));
        let to_end = usize::from(self.size - self.avail.slot).min(room);
        let count = self.look_on(self.avail, guest, &mut into[..to_end]);
        if count < to_end || to_end == room {
            return count;
        }
        let mut next_lap = self.avail;
        next_lap.step(self.size - next_lap.slot, self.size);
        count + self.look_on(next_lap, guest, &mut into[to_end..room])
    }

    #[inline(always)]
    fn usual_of(&self, chain: &Offered, guest: impl Look) -> Option<Usual> {
        let [a, header, b, data, c, status] = guest.words::<6>(chain.first[0])?;
        let ordinary = header & (LEN | WRITE) == USUAL_HEADER && status & (LEN | WRITE) == USUAL_STATUS;
        let len_bytes = u32::try_from(data & LEN).expect("cut to 32 bits");
        ordinary.then_some(Usual { header: a, data: b, status: c, len_bytes, writable: data & WRITE != 0 })
    }

    #[inline(always)]
    fn take_looked(&mut self, chains: &[Looked]) {
        if let Some(record) = &mut self.record {
            for Looked { offered, .. } in chains {
                let fits = record.begin(offered.number, 1, std::iter::once(offered.first));
                assert!(fits, "no more chains were looked at than have room on record");
            }
        }
        self.avail.step(u16::try_from(chains.len()).expect("at most a lot"), self.size);
    }

    /// Takes the next chain, if one waits. Answers its id, whatever the guest wrote there; the caller knows whether it is in
    /// flight, and asks for `usual` or `chain` next if it is not.
    #[inline(always)]
    fn take(&mut self) -> Result<Option<u16>, RingFault> {
        self.first = self.next();
        let [_, word] = self.first;
        self.by_table = self.avail.is_usual(word);
        if !self.by_table {
            return self.take_any();
        }
        self.avail.step(1, self.size);
        Ok(Some(id_of(word)))
    }

    /// The descriptors of the chain that was taken, if it is a usual one. `None` if it is any other chain, or a wrong one.
    #[inline(always)]
    fn usual(&mut self, id: u16, guest: impl Look) -> Option<Usual> {
        if !self.by_table {
            return self.usual_in_ring(id);
        }
        self.usual_of(&Offered { number: id, first: self.first }, guest)
    }

    /// The descriptors of the chain that was taken in their order, raw and as a split ring has them; at least one, and none of them names a table.
    #[inline(never)]
    fn chain(&mut self, id: u16, guest: &GuestMap) -> Result<&[[u64; 2]], RingFault> {
        if self.is_linked() {
            self.note_links(id);
        } else if self.first[1] & INDIRECT != 0 {
            self.copy_table(id, guest)?;
        } else {
            self.chain.clear();
            self.chain.push(as_split(self.first));
        }
        Ok(&self.chain)
    }

    fn keeps_record(&self) -> bool {
        self.record.is_some()
    }

    #[inline(always)]
    fn record(&mut self, id: u16) -> Result<(), RingFault> {
        let Some(record) = &mut self.record else { return Ok(()) };
        let fits = if self.first[1] & NEXT == 0 {
            record.begin(id, 1, std::iter::once(self.first))
        } else {
            let last = self.chain.len() - 1;
            let in_ring = |(at, raw): (usize, &[u64; 2])| as_packed(*raw, id, at < last);
            record.begin(id, self.chain.len(), self.chain.iter().enumerate().map(in_ring))
        };
        if fits { Ok(()) } else { Err(RingFault::Overrun(id)) }
    }

    fn replay(&mut self) -> Option<u16> {
        let kept = self.record.as_mut()?.replay()?;
        let [first, .., last] = *kept.descriptors else { return Some(self.replay_one(kept.descriptors[0])) };
        self.chain.clear();
        self.chain.extend(kept.descriptors.iter().map(|raw| as_split(*raw)));
        (self.first, self.by_table) = ([first[0], first[1] | NEXT], false);
        Some(id_of(last[1]))
    }

    /// Puts a finished chain, into which something was written, among the used descriptors; `publish` makes it visible.
    #[inline(always)]
    fn put_used(&mut self, id: u16, written_bytes: u32) {
        if let Some(record) = &mut self.record {
            record.end(id);
        }
        let Cursor { slot, .. } = self.used;
        if slot >= self.plain_below {
            return self.put_used_anywhere(id.into(), written_bytes);
        }
        self.batch.put_further(&self.descriptors, slot, used_word(id.into(), written_bytes, self.used.sign));
        self.used.slot = slot + 1;
    }

    #[inline(always)]
    fn put_used_each(&mut self, mut finished: impl Iterator<Item = (u32, u32)>) {
        loop {
            let sign = self.used.sign;
            for slot in self.used.slot..self.plain_below {
                let Some((id, written_bytes)) = finished.next() else {
                    self.used.slot = slot;
                    return;
                };
                self.batch.put_further(&self.descriptors, slot, used_word(id, written_bytes, sign));
            }
            self.used.slot = self.used.slot.max(self.plain_below);
            let Some((id, written_bytes)) = finished.next() else { return };
            self.put_used_anywhere(id, written_bytes);
        }
    }

    #[inline(always)]
    fn record_ends(&mut self, ids: impl Iterator<Item = u16>) {
        if let Some(record) = &mut self.record {
            ids.for_each(|id| record.end(id));
        }
    }

    /// Makes finished chains visible, all at once.
    fn publish(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        let new = self.place_of(self.used);
        let used = self.used_place();
        if let Some(record) = &mut self.record {
            record.announce(used);
        }
        self.batch.publish(&self.descriptors);
        self.plain_below = 0;
        self.published = new;
        self.untold = true;
        if let Some(record) = &mut self.record {
            record.settle();
        }
    }

    /// Whether the driver wants to be notified of what was published since this was asked last.
    fn wants_call(&mut self) -> bool {
        if !std::mem::take(&mut self.untold) {
            return false;
        }
        let (old, new) = (std::mem::replace(&mut self.told, self.published), self.published);
        // The descriptor must be visible before the driver's wish is read, or both sides could wait for each other.
        fence(Ordering::SeqCst);
        // One load: the place belongs to the flags.
        let event = u32::from_le(self.driver_event.load(0, Ordering::Relaxed));
        match event & EVENTS {
            DISABLE => false,
            AT_PLACE if self.event_idx => {
                // Notify if the wished place lies in [old, new).
                let wished = self.place(halves(event).0);
                // Two laps, which lead to the same place, have passed every other.
                old == new || self.distance(old, wished) < self.distance(old, new)
            }
            _ => true,
        }
    }

    /// Asks the driver to kick for the next chain, fences, and looks once more. Says whether something waits already.
    fn want_kicks(&mut self) -> bool {
        doze::misses_something(self)
    }

    /// Asks the driver not to kick.
    fn refuse_kicks(&mut self) {
        self.device_event.store(0, DISABLE.to_le(), Ordering::Relaxed);
    }
}

impl doze::Bedside for PackedRing {
    fn wish(&self) {
        let wish = if self.event_idx { AT_PLACE | self.word(self.place_of(self.avail)) } else { 0 };
        self.device_event.store(0, wish.to_le(), Ordering::Relaxed);
    }

    fn fence(&self) {
        fence(Ordering::SeqCst);
    }

    fn look(&self) -> bool {
        self.is_available(self.next()[1])
    }
}

impl Slots for Wrapping<[u64; 2]> {
    #[inline(always)]
    fn store(&self, slot: u16, word: u64) {
        // One store: a driver that sees the flags sees length and id.
        self.store_second(slot, word.to_le(), Ordering::Relaxed);
    }

    #[inline(always)]
    fn release(&self, slot: u16, word: u64) {
        self.store_second(slot, word.to_le(), Ordering::Release);
    }
}

/// The second word of a used descriptor.
#[inline(always)]
fn used_word(id: u32, written_bytes: u32, sign: u64) -> u64 {
    u64::from(written_bytes) | u64::from(id) << ID_SHIFT | sign
}

/// The buffer id in a descriptor's second word.
#[inline(always)]
fn id_of(word: u64) -> u16 {
    let [_, _, _, _, a, b, ..] = word.to_le_bytes();
    u16::from_le_bytes([a, b])
}

/// The lower and the upper half.
fn halves(word: u32) -> (u16, u16) {
    let [a, b, c, d] = word.to_le_bytes();
    (u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d]))
}

/// A descriptor as a split ring has it, raw, without flags other than WRITE.
#[inline(always)]
fn as_split([address, word]: [u64; 2]) -> [u64; 2] {
    [address, word & LEN | word >> 16 & SPLIT_WRITE].map(u64::to_le)
}

/// The reverse, with an id, and for a chain that goes on or ends here.
fn as_packed([address, word]: [u64; 2], id: u16, goes_on: bool) -> [u64; 2] {
    let word = u64::from_le(word);
    let next = if goes_on { NEXT } else { 0 };
    [u64::from_le(address), word & LEN | (word & SPLIT_WRITE) << 16 | u64::from(id) << ID_SHIFT | next]
}

#[cfg(test)]
mod tests;
