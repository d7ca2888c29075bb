//! The split virtqueue, device side (virtio 1.2, 2.7). Trusts nothing the guest writes.

use std::fmt;
use std::sync::atomic::{Ordering, fence};

use spinel_core::mem::{Array, GuestMap, Look, Plain, Segment, TranslateError, Wrapping};

use super::record::{RecordError, RecordPlace, SplitRecord};
use super::{Offered, Ring, doze};
use crate::lot::Looked;

/// Where a ring's three parts lie, in the front end's virtual addresses (VHOST_USER_SET_VRING_ADDR).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingAddresses {
    /// The descriptor table.
    pub descriptors: u64,
    /// The driver area: the available ring.
    pub available: u64,
    /// The device area: the used ring.
    pub used: u64,
}

/// Why a ring cannot be set up as the front end asked.
#[derive(Debug, PartialEq, Eq)]
pub enum RingError {
    /// The size is zero, above 32768, or not a power of two.
    Size(u16),
    /// A part is not (wholly) in one region of guest memory.
    Memory {
        /// Which part.
        part: &'static str,
        /// What was asked for.
        source: TranslateError,
    },
    /// A part is not aligned as virtio demands.
    Alignment {
        /// Which part.
        part: &'static str,
        /// Its address.
        address: u64,
    },
    /// A packed ring cannot begin where VHOST_USER_SET_VRING_BASE says.
    Base(u32),
    /// What was in flight when the ring was served last is not to be had.
    Record(RecordError),
}

impl fmt::Display for RingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Size(size) => write!(f, "a ring of {size} descriptors: the size must be a power of two up to 32768"),
            Self::Memory { part, source } => write!(f, "the ring's {part}: {source}"),
            Self::Alignment { part, address } => write!(f, "the ring's {part} at {address:#x} is not aligned"),
            Self::Base(base) => write!(
                f,
                "a packed ring cannot begin at {base:#x}: both halves hold one place below the ring's size and its wrap counter (bit 15)"
            ),
            Self::Record(error) => write!(f, "the record of what is in flight (VHOST_USER_SET_INFLIGHT_FD): {error}"),
        }
    }
}

impl std::error::Error for RingError {}

/// How a guest broke its ring's rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RingFault {
    /// More buffers are available than the ring has descriptors.
    AvailableIndex {
        /// The index the guest published.
        published: u16,
        /// The index we were at.
        expected_from: u16,
    },
    /// A chain starts at, or goes on to, a descriptor outside its table, or has a buffer id outside a packed ring.
    DescriptorIndex(u16),
    /// A head, or a packed ring's buffer id, was offered again while its request is still in flight.
    HeadInFlight(u16),
    /// A packed ring's buffer lies in descriptors that are still in use.
    Overrun(u16),
    /// A chain has more descriptors than the ring, or loops.
    ChainTooLong(u16),
    /// An indirect table of a bad length, nested, or not negotiated.
    Indirect(u16),
    /// A readable descriptor follows a writable one.
    Order(u16),
    /// A chain without a readable request header.
    NoHeader(u16),
    /// A chain that does not end in a writable byte for the status.
    NoStatus(u16),
    /// A buffer is not guest memory.
    Memory(TranslateError),
    /// Memory that backs the guest has disappeared.
    MemoryLost,
}

impl fmt::Display for RingFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AvailableIndex { published, expected_from } => {
                write!(f, "the available index jumped from {expected_from} to {published}, further than the ring is long")
            }
            Self::DescriptorIndex(index) => write!(f, "descriptor or buffer id {index} is outside its table"),
            Self::HeadInFlight(head) => write!(f, "chain {head} was offered again while its request is in flight"),
            Self::Overrun(id) => write!(f, "chain {id} goes on into descriptors that are in use"),
            Self::ChainTooLong(head) => write!(f, "the chain at descriptor {head} is longer than the ring, or loops"),
            Self::Indirect(head) => {
                write!(f, "the indirect table of descriptor {head} is empty, ragged, too long, nested or not negotiated")
            }
            Self::Order(head) => write!(f, "the chain at descriptor {head} has a readable buffer behind a writable one"),
            Self::NoHeader(head) => write!(f, "the chain at descriptor {head} does not begin with 16 readable bytes of header"),
            Self::NoStatus(head) => write!(f, "the chain at descriptor {head} does not end in a writable status byte"),
            Self::Memory(error) => write!(f, "{error}"),
            Self::MemoryLost => write!(f, "memory that backs the guest has disappeared (its file shrank)"),
        }
    }
}

/// Descriptor flag: the chain goes on at `next` (virtio 1.2, 2.7.5).
pub(super) const NEXT: u16 = 1;
/// Descriptor flag: the device may write.
pub(super) const WRITE: u16 = 2;
/// Descriptor flag: the buffer is a table of descriptors (virtio 1.2, 2.7.5.3).
pub(super) const INDIRECT: u16 = 4;
/// Both rings' flag that asks the other side not to notify (virtio 1.2, 2.7.6 and 2.7.8).
const NO_NOTIFICATION: u16 = 1;

/// Most entries of an indirect table: what the largest queue of any current driver needs.
pub(super) const TABLE_MAX: u32 = 1024;
pub(super) const DESCRIPTOR_BYTES: u32 = 16;

/// A chain of 16 readable bytes of header, one buffer and one writable byte of status, as nearly every request is one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Usual {
    /// Guest-physical addresses of header, buffer and status.
    pub(crate) header: u64,
    pub(crate) data: u64,
    pub(crate) status: u64,
    /// Length of the buffer in bytes, and whether the device writes it.
    pub(crate) len_bytes: u32,
    pub(crate) writable: bool,
}

impl Usual {
    /// The chain of three descriptors whose kind is known, in the machine's own byte order.
    #[inline(always)]
    pub(super) fn of([header, data, status]: [[u64; 2]; 3]) -> Self {
        let [data, word] = data;
        let [a, b, c, d, ..] = word.to_le_bytes();
        let len_bytes = u32::from_le_bytes([a, b, c, d]);
        Self { header: header[0], data, status: status[0], len_bytes, writable: word >> 32 & u64::from(WRITE) != 0 }
    }
}

/// What the second words of an indirect descriptor of a usual chain, and of the header's and the status's, hold besides `next`.
const USUAL_TABLE: u64 = 3 * DESCRIPTOR_BYTES as u64 + ((INDIRECT as u64) << 32);
const USUAL_HEADER: u64 = 16 + ((NEXT as u64) << 32);
const USUAL_STATUS: u64 = 1 + ((WRITE as u64) << 32);
/// All but `next`.
const LEN_AND_FLAGS: u64 = (1 << 48) - 1;

/// One descriptor, copied out of the guest's memory (virtio 1.2, 2.7.5).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Descriptor(pub(crate) [u64; 2]);

impl Descriptor {
    /// Guest-physical address of the buffer.
    #[inline]
    pub(crate) fn address(self) -> u64 {
        u64::from_le(self.0[0])
    }

    /// Length of the buffer in bytes.
    #[inline]
    pub(crate) fn len_bytes(self) -> u32 {
        let [a, b, c, d, ..] = u64::from_le(self.0[1]).to_le_bytes();
        u32::from_le_bytes([a, b, c, d])
    }

    /// Whether the device writes the buffer.
    #[inline]
    pub(crate) fn writable(self) -> bool {
        self.has(WRITE)
    }

    /// The buffer behind its first `count` bytes, which exist.
    pub(crate) fn without_first(self, count: u32) -> Self {
        let address = self.address().wrapping_add(u64::from(count));
        Self([address.to_le(), u64::from_le(self.0[1]).wrapping_sub(u64::from(count)).to_le()])
    }

    #[inline]
    fn flags(self) -> u16 {
        let [_, _, _, _, a, b, ..] = u64::from_le(self.0[1]).to_le_bytes();
        u16::from_le_bytes([a, b])
    }

    #[inline]
    fn has(self, flag: u16) -> bool {
        self.flags() & flag != 0
    }

    #[inline]
    fn next(self) -> Option<u16> {
        let [.., a, b] = u64::from_le(self.0[1]).to_le_bytes();
        self.has(NEXT).then_some(u16::from_le_bytes([a, b]))
    }
}

/// A split virtqueue, as its device sees it.
#[derive(Debug)]
pub struct SplitRing {
    size: u16,
    event_idx: bool,
    indirect: bool,
    /// What the second word of an indirect descriptor of a usual chain holds besides `next`; nothing any does, if there are none.
    usual_table: u64,
    descriptors: Wrapping<[u64; 2]>,
    /// flags, idx.
    available: Array<u16>,
    /// Heads.
    offered: Wrapping<u16>,
    /// Behind the heads; only with EVENT_IDX.
    used_event: Option<Array<u16>>,
    /// flags, idx.
    used: Array<u16>,
    /// id and length of each element.
    elements: Wrapping<[u32; 2]>,
    /// Behind the elements; only with EVENT_IDX.
    avail_event: Option<Array<u16>>,
    next_avail: u16,
    next_used: u16,
    /// The used index as last published.
    published: u16,
    /// The used index at which the driver was last asked whether it wants to be notified.
    told: u16,
    /// Where indirect tables are copied to.
    table: Box<[[u64; 2]]>,
    /// Where chains whose links jump are put in order; never more than the ring and one table hold.
    chain: Vec<[u64; 2]>,
    record: Option<SplitRecord>,
}

pub(super) fn part<T: Plain>(guest: &GuestMap, part: &'static str, address: u64, count: u32) -> Result<Array<T>, RingError> {
    let len_bytes = u64::from(count) * u64::try_from(size_of::<T>()).expect("a size fits 64 bits");
    let (region, offset) = guest.user(address, len_bytes).map_err(|source| RingError::Memory { part, source })?;
    region.array(offset, count).map_err(|_| RingError::Alignment { part, address })
}

/// The same of an array whose length is the ring's.
pub(super) fn wrapping<T: Plain>(guest: &GuestMap, name: &'static str, address: u64, count: u32) -> Result<Wrapping<T>, RingError> {
    Ok(Wrapping::of(part(guest, name, address, count)?).expect("a ring's size was checked to be a power of two"))
}

pub(super) fn aligned(part: &'static str, address: u64, to: u64) -> Result<(), RingError> {
    if address.is_multiple_of(to) { Ok(()) } else { Err(RingError::Alignment { part, address }) }
}

impl SplitRing {
    /// Finds the three parts in guest memory; `event_idx` if VIRTIO_F_EVENT_IDX was negotiated, `indirect` likewise.
    ///
    /// It starts where the used ring ends. An earlier queue drained before this one could be made, so what it took is
    /// finished there; a front end whose connection broke in between remembers an older place, and chains from that
    /// one on would be executed twice.
    ///
    /// # Errors
    /// [`RingError`] if the ring cannot be where the front end says.
    pub fn new(guest: &GuestMap, size: u16, addresses: RingAddresses, event_idx: bool, indirect: bool) -> Result<Self, RingError> {
        if !size.is_power_of_two() || size > 32768 {
            return Err(RingError::Size(size));
        }
        aligned("descriptor table", addresses.descriptors, 16)?;
        aligned("available ring", addresses.available, 2)?;
        aligned("used ring", addresses.used, 4)?;
        let entries = u32::from(size);
        let elements_at = addresses.used.saturating_add(4);
        let event_at = elements_at.saturating_add(8 * u64::from(size));
        let offered_at = addresses.available.saturating_add(4);
        let used_event_at = offered_at.saturating_add(2 * u64::from(size));
        let used: Array<u16> = part(guest, "used ring", addresses.used, 2)?;
        let next_used = u16::from_le(used.load(1, Ordering::Acquire));
        Ok(Self {
            size,
            event_idx,
            indirect,
            usual_table: if indirect { USUAL_TABLE } else { u64::MAX },
            descriptors: wrapping(guest, "descriptor table", addresses.descriptors, entries)?,
            available: part(guest, "available ring", addresses.available, 2)?,
            offered: wrapping(guest, "available ring", offered_at, entries)?,
            used_event: event_idx.then(|| part(guest, "available ring", used_event_at, 1)).transpose()?,
            used,
            elements: wrapping(guest, "used ring", elements_at, entries)?,
            avail_event: event_idx.then(|| part(guest, "used ring", event_at, 1)).transpose()?,
            next_avail: next_used,
            next_used,
            published: next_used,
            told: next_used,
            table: vec![[0; 2]; TABLE_MAX as usize].into_boxed_slice(),
            chain: Vec::with_capacity(usize::from(size) + TABLE_MAX as usize),
            record: None,
        })
    }

    /// See [`AnyRing::on_record`](super::AnyRing::on_record).
    pub(super) fn on_record(mut self, place: &RecordPlace, anew: bool) -> Result<Self, RecordError> {
        let record = SplitRecord::open(place, self.size, self.next_used, anew)?;
        self.next_avail = self.next_used.wrapping_add(record.owed());
        self.record = Some(record);
        Ok(self)
    }

    pub(super) fn owed(&self) -> usize {
        self.record.as_ref().map_or(0, |record| record.owed().into())
    }

    /// The same without a table.
    #[inline(always)]
    fn usual_in_ring(&self, first: [u64; 2]) -> Option<Usual> {
        let second = self.linked(first)?;
        let chain = [first, second, self.linked(second)?];
        let [header, data, status] = chain.map(|descriptor| descriptor[1] & LEN_AND_FLAGS);
        let ordinary = header == USUAL_HEADER && status == USUAL_STATUS && (data >> 32) & !u64::from(WRITE) == u64::from(NEXT);
        ordinary.then_some(Usual::of(chain))
    }

    /// The descriptor that another one names as the next.
    #[inline(always)]
    fn linked(&self, before: [u64; 2]) -> Option<[u64; 2]> {
        let next = u16::try_from(before[1] >> 48).expect("16 bits");
        (next < self.size).then(|| self.descriptors.get(next).map(u64::from_le))
    }

    /// Copies an indirect table, all of it and once; the guest may change its own copy as it likes. Answers its number of entries.
    #[inline(always)]
    fn copy_table(&mut self, head: u16, outer: Descriptor, guest: &GuestMap) -> Result<usize, RingFault> {
        let entries = outer.len_bytes() / DESCRIPTOR_BYTES;
        let ragged = !outer.len_bytes().is_multiple_of(DESCRIPTOR_BYTES);
        if !self.indirect || outer.has(NEXT) || ragged || entries == 0 || entries > TABLE_MAX {
            return Err(RingFault::Indirect(head));
        }
        guest.load(outer.address(), &mut self.table[..entries as usize]).map_err(RingFault::Memory)?;
        Ok(entries as usize)
    }

    /// Puts a chain in order by its links: through the ring's table and, at its end, an indirect one (virtio 1.2, 2.7.5.3.1).
    fn follow(&mut self, head: u16, guest: &GuestMap) -> Result<&[[u64; 2]], RingFault> {
        self.chain.clear();
        let mut next = Some(head);
        while let Some(index) = next {
            if index >= self.size {
                return Err(RingFault::DescriptorIndex(index));
            }
            if self.chain.len() == usize::from(self.size) {
                return Err(RingFault::ChainTooLong(head));
            }
            let descriptor = Descriptor(self.descriptors.get(index));
            if descriptor.has(INDIRECT) {
                let entries = self.copy_table(head, descriptor, guest)?;
                return self.follow_table(head, entries);
            }
            self.chain.push(descriptor.0);
            next = descriptor.next();
        }
        Ok(&self.chain)
    }

    fn follow_table(&mut self, head: u16, entries: usize) -> Result<&[[u64; 2]], RingFault> {
        let mut next = Some(0);
        let mut left = entries;
        while let Some(index) = next {
            let raw = self.table[..entries].get(usize::from(index)).ok_or(RingFault::DescriptorIndex(index))?;
            let descriptor = Descriptor(*raw);
            if descriptor.has(INDIRECT) {
                return Err(RingFault::Indirect(head));
            }
            if left == 0 {
                return Err(RingFault::ChainTooLong(head));
            }
            left -= 1;
            self.chain.push(descriptor.0);
            next = descriptor.next();
        }
        Ok(&self.chain)
    }
}

impl Ring for SplitRing {
    const ONE_PLACE_EACH: bool = true;

    /// Number of descriptors.
    fn size(&self) -> u16 {
        self.size
    }

    /// The available index up to which chains were taken.
    fn base(&self) -> u32 {
        u32::from(self.next_avail)
    }

    /// A segment of no bytes, where the ring lies.
    fn nowhere(&self) -> Segment {
        self.used.region().segment(0, 0).expect("nothing lies inside everything")
    }

    /// How many chains wait.
    fn waiting(&mut self) -> Result<u16, RingFault> {
        let published = u16::from_le(self.available.load(1, Ordering::Acquire));
        let waiting = published.wrapping_sub(self.next_avail);
        if waiting > self.size {
            return Err(RingFault::AvailableIndex { published, expected_from: self.next_avail });
        }
        Ok(waiting)
    }

    #[inline(never)]
    fn look(&self, guest: &GuestMap, into: &mut [Looked]) -> usize {
        let near = guest.near();
        let mut at = self.next_avail;
        for chain in &mut *into {
            let number = u16::from_le(self.offered.get(at));
            let first = self.descriptors.get(number).map(u64::from_le);
            near.prefetch(first[0]);
            chain.offered = Offered { number, first };
            at = at.wrapping_add(1);
        }
        into.len()
    }

    #[inline(always)]
    fn usual_of(&self, &Offered { first, .. }: &Offered, guest: impl Look) -> Option<Usual> {
        if first[1] & LEN_AND_FLAGS != self.usual_table {
            return self.usual_in_ring(first);
        }
        let [a, header, b, data, c, status] = guest.words::<6>(first[0])?;
        let in_sequence = header == USUAL_HEADER | 1 << 48 && (data >> 32) & !u64::from(WRITE) == u64::from(NEXT) | 2 << 16;
        (in_sequence && status & LEN_AND_FLAGS == USUAL_STATUS).then_some(Usual::of([[a, header], [b, data], [c, status]]))
    }

    #[inline(always)]
    fn take_looked(&mut self, chains: &[Looked]) {
        if let Some(record) = &mut self.record {
            chains.iter().for_each(|chain| record.begin(chain.offered.number));
        }
        self.next_avail = self.next_avail.wrapping_add(u16::try_from(chains.len()).expect("at most a lot"));
    }

    /// Takes the next head, whatever the guest wrote there. Only while `waiting()` is not zero.
    #[inline(always)]
    fn take(&mut self) -> Result<Option<u16>, RingFault> {
        let head = u16::from_le(self.offered.get(self.next_avail));
        self.next_avail = self.next_avail.wrapping_add(1);
        Ok(Some(head))
    }

    /// The descriptors of a usual chain, each copied out of the guest's memory once. `None` if it is any other chain, or a wrong one.
    #[inline(always)]
    fn usual(&mut self, head: u16, guest: impl Look) -> Option<Usual> {
        self.usual_of(&Offered { number: head, first: self.descriptors.get(head).map(u64::from_le) }, guest)
    }

    /// The descriptors of a chain in their order, raw, each copied out of the guest's memory once; at least one, and none of them names a table.
    #[inline]
    fn chain(&mut self, head: u16, guest: &GuestMap) -> Result<&[[u64; 2]], RingFault> {
        let first = Descriptor(self.descriptors.get(head));
        if first.has(INDIRECT) {
            let entries = self.copy_table(head, first, guest)?;
            if in_sequence(&self.table[..entries]) {
                return Ok(&self.table[..entries]);
            }
        }
        self.follow(head, guest)
    }

    fn keeps_record(&self) -> bool {
        self.record.is_some()
    }

    #[inline(always)]
    fn record(&mut self, head: u16) -> Result<(), RingFault> {
        if let Some(record) = &mut self.record {
            record.begin(head);
        }
        Ok(())
    }

    fn replay(&mut self) -> Option<u16> {
        self.record.as_mut()?.replay()
    }

    /// Puts a finished chain into the used ring; `publish` makes it visible.
    #[inline(always)]
    fn put_used(&mut self, head: u16, written_bytes: u32) {
        self.elements.put(self.next_used, u32::from(head).to_le(), written_bytes.to_le());
        self.next_used = self.next_used.wrapping_add(1);
        if let Some(record) = &mut self.record {
            record.end(head);
        }
    }

    #[inline(always)]
    fn put_used_each(&mut self, finished: impl Iterator<Item = (u32, u32)>) {
        // Counted here, because each store into the guest's memory would have it reloaded from there.
        let mut next_used = self.next_used;
        for (head, written_bytes) in finished {
            self.elements.put(next_used, head.to_le(), written_bytes.to_le());
            next_used = next_used.wrapping_add(1);
        }
        self.next_used = next_used;
    }

    #[inline(always)]
    fn record_ends(&mut self, heads: impl Iterator<Item = u16>) {
        if let Some(record) = &mut self.record {
            heads.for_each(|head| record.end(head));
        }
    }

    /// Makes finished chains visible, all at once.
    fn publish(&mut self) {
        if self.next_used == self.published {
            return;
        }
        if let Some(record) = &mut self.record {
            record.announce();
        }
        self.used.store(1, self.next_used.to_le(), Ordering::Release);
        self.published = self.next_used;
        if let Some(record) = &mut self.record {
            record.settle(self.published);
        }
    }

    /// Whether the driver wants to be notified of what was published since this was asked last.
    fn wants_call(&mut self) -> bool {
        let (old, new) = (self.told, self.published);
        if old == new {
            return false;
        }
        self.told = new;
        // The index must be visible before the driver's wish is read, or both sides could wait for each other.
        fence(Ordering::SeqCst);
        if self.event_idx {
            let event = self.used_event.as_ref().map_or(new, |event| u16::from_le(event.load(0, Ordering::Relaxed)));
            // virtio 1.2, 2.7.10: notify if the event index lies in [old, new).
            new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
        } else {
            u16::from_le(self.available.load(0, Ordering::Relaxed)) & NO_NOTIFICATION == 0
        }
    }

    /// Asks the driver to kick for the next chain, fences, and looks once more. Says whether something waits already.
    fn want_kicks(&mut self) -> bool {
        doze::misses_something(self)
    }

    /// Asks the driver not to kick. With EVENT_IDX an index that is not moved on does that, but for one kick in 65,536.
    fn refuse_kicks(&mut self) {
        if self.avail_event.is_none() {
            self.used.store(0, NO_NOTIFICATION.to_le(), Ordering::Relaxed);
        }
    }
}

impl doze::Bedside for SplitRing {
    fn wish(&self) {
        match &self.avail_event {
            Some(event) => event.store(0, self.next_avail.to_le(), Ordering::Relaxed),
            None => self.used.store(0, 0, Ordering::Relaxed),
        }
    }

    fn fence(&self) {
        fence(Ordering::SeqCst);
    }

    fn look(&self) -> bool {
        u16::from_le(self.available.load(1, Ordering::Acquire)) != self.next_avail
    }
}

/// Whether a table's entries are one chain from the first to the last, as every ordinary driver lays them out.
#[inline]
fn in_sequence(table: &[[u64; 2]]) -> bool {
    (1..).zip(table).all(|(following, raw)| {
        let descriptor = Descriptor(*raw);
        let next = if usize::from(following) < table.len() { Some(following) } else { None };
        !descriptor.has(INDIRECT) && descriptor.next() == next
    })
}
