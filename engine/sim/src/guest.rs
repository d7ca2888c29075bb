//! A guest's side of a virtqueue (virtio 1.2, 2.7 and 2.8), as a well-behaved block driver keeps it, in memory of its own. Knows no device.
//!
//! Tests, fuzzers and benchmarks drive a device's queue with it. Its raw parts are
//! open, so that a test can also break every rule.

mod packed;

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use packed::Packed;
use spinel_mem::{Array, GuestMap, GuestRange, Region};

/// Guest-physical address of the first byte of a simulated guest's memory.
pub const GUEST_BASE: u64 = 0x4000_0000;
/// The front end's virtual address of the same byte.
pub const USER_BASE: u64 = 0x7f00_0000_0000;

/// Bytes set aside for each head: header, status, an indirect table, data.
const SLOT_META_BYTES: u64 = 4096;
/// At no multiple of anything: nothing says where a driver has to put its requests, and nothing may cost more for it.
const HEADER_AT: u64 = 3;
const STATUS_AT: u64 = HEADER_AT + 16;
const TABLE_AT: u64 = 64;

/// How a simulated driver lays out its requests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Layout {
    /// Number of descriptors; a power of two.
    pub size: u16,
    /// The ring is a packed one.
    pub packed: bool,
    /// VIRTIO_F_EVENT_IDX was negotiated.
    pub event_idx: bool,
    /// Requests go through indirect tables.
    pub indirect: bool,
    /// Bytes of data buffer per request.
    pub data_bytes: u32,
}

/// A driver's side of one virtqueue, with a data buffer for each request. A request goes by its head, or its buffer id.
#[derive(Debug)]
pub struct SimGuest {
    layout: Layout,
    region: Arc<Region>,
    /// Where its memory begins, from [`GUEST_BASE`] and [`USER_BASE`].
    shift: u64,
    /// Split: flags, idx, the ring, used_event. Packed: place and flags of the driver's event suppression.
    pub available: Array<u16>,
    /// Split: flags, idx. Packed: place and flags of the device's event suppression.
    pub used: Array<u16>,
    /// Split: id and length of each element.
    pub elements: Array<u32>,
    /// Split: the device's wish for kicks.
    pub avail_event: Array<u16>,
    /// The descriptor table.
    pub descriptors: Array<[u64; 2]>,
    free: Vec<u16>,
    next_avail: u16,
    next_used: u16,
    kicked: u16,
    packed: Option<Packed>,
}

/// A request as a driver sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GuestRequest {
    /// virtio-blk request type.
    pub kind: u32,
    /// First sector of 512 bytes.
    pub sector: u64,
    /// Bytes of the data buffer that are used.
    pub len_bytes: u32,
    /// Whether the device writes the data buffer.
    pub device_writes: bool,
    /// Into how many descriptors the data is cut.
    pub pieces: u16,
}

impl GuestRequest {
    /// A read of `len_bytes` in one piece.
    #[must_use]
    pub fn read(sector: u64, len_bytes: u32) -> Self {
        Self { kind: 0, sector, len_bytes, device_writes: true, pieces: 1 }
    }

    /// A write of `len_bytes` in one piece.
    #[must_use]
    pub fn write(sector: u64, len_bytes: u32) -> Self {
        Self { kind: 1, sector, len_bytes, device_writes: false, pieces: 1 }
    }

    /// A flush.
    #[must_use]
    pub fn flush() -> Self {
        Self { kind: 4, sector: 0, len_bytes: 0, device_writes: false, pieces: 0 }
    }
}

/// A finished request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Finished {
    /// The head it was posted at, or its id.
    pub head: u16,
    /// Bytes the device says it wrote.
    pub written_bytes: u32,
    /// The status byte.
    pub status: u8,
}

fn whole(len_bytes: u64) -> u64 {
    len_bytes.next_multiple_of(4096)
}

impl SimGuest {
    /// Bytes of memory such a guest needs.
    #[must_use]
    pub fn memory_bytes(layout: Layout) -> u64 {
        Self::rings_bytes(layout) + u64::from(layout.size) * (SLOT_META_BYTES + whole(u64::from(layout.data_bytes)))
    }

    fn rings_bytes(layout: Layout) -> u64 {
        whole(16 * u64::from(layout.size)) + whole(6 + 2 * u64::from(layout.size)) + whole(6 + 8 * u64::from(layout.size))
    }

    /// Sets up empty rings in `region`, which has at least [`memory_bytes`](Self::memory_bytes).
    ///
    /// # Panics
    /// If the region is too small.
    #[must_use]
    pub fn new(region: Arc<Region>, layout: Layout) -> Self {
        Self::shifted(region, layout, 0)
    }

    /// The same with its memory `shift` bytes further on in both address spaces: one of several queues.
    ///
    /// # Panics
    /// If the region is too small.
    #[must_use]
    pub fn shifted(region: Arc<Region>, layout: Layout, shift: u64) -> Self {
        assert!(region.len_bytes() >= Self::memory_bytes(layout), "the region is too small for this layout");
        let size = u32::from(layout.size);
        let available_at = whole(16 * u64::from(size));
        let used_at = available_at + whole(6 + 2 * u64::from(size));
        let part = "inside the region";
        Self {
            descriptors: region.array(0, size).expect(part),
            available: region.array(available_at, 3 + size).expect(part),
            used: region.array(used_at, 2).expect(part),
            elements: region.array(used_at + 4, 2 * size).expect(part),
            avail_event: region.array(used_at + 4 + 8 * u64::from(size), 1).expect(part),
            // Requests through tables need one descriptor each, others up to as many as they have pieces.
            free: (0..layout.size).rev().collect(),
            next_avail: 0,
            next_used: 0,
            kicked: 0,
            packed: layout.packed.then(|| Packed::new(&region, layout, [0, available_at, used_at])),
            layout,
            region,
            shift,
        }
    }

    /// This guest's memory as a device sees it.
    ///
    /// # Panics
    /// Never: one range cannot overlap another.
    #[must_use]
    pub fn map(&self) -> GuestMap {
        let mut map = GuestMap::default();
        let range = GuestRange { guest: GUEST_BASE + self.shift, user: USER_BASE + self.shift, region: Arc::clone(&self.region) };
        map.add(range).expect("one range");
        map
    }

    /// The memory itself.
    #[must_use]
    pub fn region(&self) -> &Arc<Region> {
        &self.region
    }

    /// Front-end addresses of descriptor table, available ring and used ring; of a packed ring those of its descriptors
    /// and of the driver's and the device's event suppression.
    #[must_use]
    pub fn addresses(&self) -> [u64; 3] {
        let size = u64::from(self.layout.size);
        let available = whole(16 * size);
        let user = USER_BASE + self.shift;
        [user, user + available, user + available + whole(6 + 2 * size)]
    }

    fn meta_at(&self, head: u16) -> u64 {
        Self::rings_bytes(self.layout) + u64::from(head) * SLOT_META_BYTES
    }

    /// Where a head's request header lies in the region.
    #[must_use]
    pub fn header_at(&self, head: u16) -> u64 {
        self.meta_at(head) + HEADER_AT
    }

    /// Where a head's data buffer lies in the region.
    #[must_use]
    pub fn data_at(&self, head: u16) -> u64 {
        let metas = u64::from(self.layout.size) * SLOT_META_BYTES;
        Self::rings_bytes(self.layout) + metas + u64::from(head) * whole(u64::from(self.layout.data_bytes))
    }

    /// How many more requests fit. Without indirect tables each takes three descriptors or more; then this is a floor for three.
    #[must_use]
    pub fn room(&self) -> usize {
        let descriptors = self.packed.as_ref().map_or(self.free.len(), Packed::room);
        if self.layout.indirect { descriptors } else { descriptors / 3 }
    }

    /// The head or id the next request gets, so that its data can be put in place before.
    #[must_use]
    pub fn next_head(&self) -> Option<u16> {
        self.free.last().copied()
    }

    /// Posts a request at the next free head; `publish` makes it visible.
    ///
    /// # Panics
    /// If there is no room, or the request is larger than the layout allows.
    pub fn post(&mut self, request: GuestRequest) -> u16 {
        assert!(request.len_bytes <= self.layout.data_bytes, "the data buffer is smaller than the request");
        let head = *self.free.last().expect("room() was looked at before");
        let mut header = [0; 16];
        header[..4].copy_from_slice(&request.kind.to_le_bytes());
        header[8..].copy_from_slice(&request.sector.to_le_bytes());
        let meta = self.meta_at(head);
        self.region.write(self.header_at(head), &header).expect("inside the region");
        self.region.write(meta + STATUS_AT, &[0xff]).expect("inside the region");
        let pieces = request.pieces;
        let chain = (0..pieces + 2).map(|at| self.buffer(head, request, at));
        if self.layout.packed {
            let chain: Vec<[u64; 2]> = chain.collect();
            self.post_packed(head, &chain);
            return head;
        }
        if self.layout.indirect {
            let table: Vec<[u64; 2]> = chain.collect();
            let entries = self.region.array(meta + TABLE_AT, u32::from(pieces) + 2).expect("a table of at most 250 entries");
            for (at, [address, rest]) in (0..).zip(table) {
                let next = if at < u64::from(pieces) + 1 { (1 << 32) | ((at + 1) << 48) } else { 0 };
                entries.set(u32::try_from(at).expect("small"), [address, rest | next]);
            }
            let len_bytes = 16 * (u64::from(pieces) + 2);
            self.descriptors.set(u32::from(head), [GUEST_BASE + self.shift + meta + TABLE_AT, len_bytes | (4 << 32)]);
            self.free.pop();
        } else {
            let chain: Vec<[u64; 2]> = chain.collect();
            let heads: Vec<u16> = self.free.drain(self.free.len() - chain.len()..).rev().collect();
            for (at, [address, rest]) in chain.into_iter().enumerate() {
                let next = heads.get(at + 1).map_or(0, |next| (1 << 32) | (u64::from(*next) << 48));
                self.descriptors.set(u32::from(heads[at]), [address, rest | next]);
            }
        }
        self.offer(head);
        head
    }

    fn post_packed(&mut self, id: u16, chain: &[[u64; 2]]) {
        self.free.pop();
        let packed = self.packed.as_mut().expect("the layout says so");
        if !self.layout.indirect {
            return packed.offer(id, chain);
        }
        let meta = self.meta_at(id);
        let count = u32::try_from(chain.len()).expect("few");
        let entries = self.region.array(meta + TABLE_AT, count).expect("a table of at most 250 entries");
        for (at, entry) in (0..).zip(chain) {
            entries.set(at, packed::entry(*entry));
        }
        let table = [GUEST_BASE + self.shift + meta + TABLE_AT, (16 * u64::from(count)) | (4 << 32)];
        self.packed.as_mut().expect("as above").offer(id, &[table]);
    }

    /// Descriptor `at` of a request without its NEXT flag: header, data in pieces, status.
    fn buffer(&self, head: u16, request: GuestRequest, at: u16) -> [u64; 2] {
        const DEVICE_WRITES: u64 = 2 << 32;
        let meta = GUEST_BASE + self.shift + self.meta_at(head);
        if at == 0 {
            return [meta + HEADER_AT, 16];
        }
        if at > request.pieces {
            return [meta + STATUS_AT, 1 | DEVICE_WRITES];
        }
        let each = request.len_bytes / u32::from(request.pieces);
        let from = each * u32::from(at - 1);
        let len_bytes = if at == request.pieces { request.len_bytes - from } else { each };
        let flags = if request.device_writes { DEVICE_WRITES } else { 0 };
        [GUEST_BASE + self.shift + self.data_at(head) + u64::from(from), u64::from(len_bytes) | flags]
    }

    /// Split: puts any head into the available ring, valid or not.
    pub fn offer(&mut self, head: u16) {
        let slot = u32::from(self.next_avail & (self.layout.size - 1));
        self.available.set(2 + slot, head);
        self.next_avail = self.next_avail.wrapping_add(1);
    }

    /// Packed: puts any descriptor into the next slot, valid or not; the flags without those that make it available.
    ///
    /// # Panics
    /// If the ring is a split one.
    pub fn offer_descriptor(&mut self, address: u64, len_bytes: u32, id: u16, flags: u16) {
        self.packed.as_mut().expect("a packed ring").put(address, len_bytes, id, flags);
    }

    /// Makes what was posted visible. Says whether the device wants a kick for it.
    pub fn publish(&mut self) -> bool {
        if let Some(packed) = &mut self.packed {
            return packed.publish();
        }
        self.available.store(1, self.next_avail, Ordering::Release);
        fence(Ordering::SeqCst);
        let old = std::mem::replace(&mut self.kicked, self.next_avail);
        if self.layout.event_idx {
            let event = self.avail_event.load(0, Ordering::Relaxed);
            self.next_avail.wrapping_sub(event).wrapping_sub(1) < self.next_avail.wrapping_sub(old)
        } else {
            self.used.load(0, Ordering::Relaxed) & 1 == 0
        }
    }

    /// Takes one finished request, if there is one, and asks to be notified of the next.
    ///
    /// # Panics
    /// If the device finishes something that was never posted.
    pub fn reap(&mut self) -> Option<Finished> {
        let (id, written_bytes) = self.peek()?;
        let head = u16::try_from(id).expect("the device returns heads");
        assert!(head < self.layout.size && !self.free.contains(&head), "the device finished head {head}, which was not posted");
        let mut status = [0];
        self.region.read(self.meta_at(head) + STATUS_AT, &mut status).expect("inside the region");
        if let Some(packed) = &mut self.packed {
            packed.release(head);
            self.free.push(head);
        } else {
            self.next_used = self.next_used.wrapping_add(1);
            self.release(head);
        }
        if self.layout.event_idx {
            self.want_calls();
        }
        Some(Finished { head, written_bytes, status: status[0] })
    }

    /// What the device says of the next finished request, if there is one: its head or id, and the bytes it wrote.
    #[must_use]
    pub fn peek(&self) -> Option<(u32, u32)> {
        if let Some(packed) = &self.packed {
            return packed.peek();
        }
        if self.used.load(1, Ordering::Acquire) == self.next_used {
            return None;
        }
        let slot = 2 * u32::from(self.next_used & (self.layout.size - 1));
        Some((self.elements.get(slot), self.elements.get(slot + 1)))
    }

    /// How many requests the device has finished that were not taken.
    #[must_use]
    pub fn finished(&self) -> u16 {
        match &self.packed {
            Some(packed) => packed.finished().0,
            None => self.used.load(1, Ordering::Acquire).wrapping_sub(self.next_used),
        }
    }

    /// Where a device goes on that has finished everything it took, as VHOST_USER_SET_VRING_BASE has it.
    #[must_use]
    pub fn base(&self) -> u32 {
        match &self.packed {
            Some(packed) => packed.finished().1,
            None => u32::from(self.used.load(1, Ordering::Acquire)),
        }
    }

    /// Asks to be notified of the next finished request. One that is finished already may not count.
    pub fn want_calls(&self) {
        match &self.packed {
            Some(packed) => packed.want_calls(),
            None => {
                self.available.store(0, 0, Ordering::Relaxed);
                if self.layout.event_idx {
                    self.available.store(2 + u32::from(self.layout.size), self.next_used, Ordering::Relaxed);
                }
            }
        }
        fence(Ordering::SeqCst);
    }

    /// Asks not to be notified. With EVENT_IDX a split ring has a place for that, which the device reaches once in 65,536 requests.
    pub fn refuse_calls(&self) {
        match &self.packed {
            Some(packed) => packed.refuse_calls(),
            None if self.layout.event_idx => {
                self.available.store(2 + u32::from(self.layout.size), self.next_used.wrapping_sub(1), Ordering::Relaxed);
            }
            None => self.available.store(0, 1, Ordering::Relaxed),
        }
    }

    fn release(&mut self, head: u16) {
        let mut at = head;
        loop {
            let [_, rest] = self.descriptors.get(u32::from(at));
            self.free.push(at);
            if rest & (1 << 32) == 0 {
                break;
            }
            at = u16::try_from(rest >> 48).expect("16 bits are left");
        }
    }
}
