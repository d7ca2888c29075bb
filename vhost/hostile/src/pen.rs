//! Writes chains into a guest's first ring, right or wrong, in either layout. Knows no rule that a chain could break.

use spinel_sim::guest::SimGuest;

use crate::guest::{Guest, Kind, ring_up, take};
use crate::{Must, Outcome, Surprise};

/// Descriptor flags (virtio 1.2, 2.7.5 and 2.8.1).
pub(crate) const NEXT: u16 = 1;
pub(crate) const WRITE: u16 = 2;
pub(crate) const INDIRECT: u16 = 4;

/// Request types (virtio 1.2, 5.2.6).
pub(crate) const IN: u32 = 0;
pub(crate) const OUT: u32 = 1;
pub(crate) const FLUSH: u32 = 4;
pub(crate) const GET_ID: u32 = 8;
pub(crate) const DISCARD: u32 = 11;
pub(crate) const WRITE_ZEROES: u32 = 13;

/// Where in the scratch memory things lie.
const HEADER: u64 = 0;
const STATUS: u64 = 64;
const TABLE: u64 = 4096;
const DATA: u64 = 128 << 10;

/// A status that no device writes.
const NO_STATUS: u8 = 0xee;

/// One buffer of a chain.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Buffer {
    pub(crate) address: u64,
    pub(crate) len_bytes: u32,
    pub(crate) flags: u16,
}

/// Writes into a guest's first ring.
pub(crate) struct Pen<'a> {
    guest: &'a mut Guest,
    /// The next free descriptor of a split ring, and the next id of a packed one.
    next: u16,
}

impl<'a> Pen<'a> {
    pub(crate) fn new(guest: &'a mut Guest) -> Self {
        Self { guest, next: 0 }
    }

    pub(crate) fn ring(&mut self) -> &mut SimGuest {
        &mut self.guest.queues[0].ring
    }

    /// The guest-physical address of the ring's own memory.
    pub(crate) fn ring_at(&self) -> u64 {
        spinel_sim::guest::GUEST_BASE
    }

    pub(crate) fn kind(&self) -> Kind {
        self.guest.kind
    }

    fn at(&self, offset: u64) -> u64 {
        self.guest.scratch_at() + offset
    }

    fn write(&self, offset: u64, bytes: &[u8]) {
        self.guest.scratch.write(offset, bytes).expect("inside the scratch memory");
    }

    /// A header that asks for this.
    pub(crate) fn header(&self, kind: u32, sector: u64) -> Buffer {
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&kind.to_le_bytes());
        bytes[8..].copy_from_slice(&sector.to_le_bytes());
        self.write(HEADER, &bytes);
        Buffer { address: self.at(HEADER), len_bytes: 16, flags: 0 }
    }

    /// Where a status may be written.
    pub(crate) fn status(&self) -> Buffer {
        self.write(STATUS, &[NO_STATUS]);
        Buffer { address: self.at(STATUS), len_bytes: 1, flags: WRITE }
    }

    /// Memory for data, the same every time.
    pub(crate) fn data(&self, len_bytes: u32, flags: u16) -> Buffer {
        Buffer { address: self.at(DATA), len_bytes, flags }
    }

    /// The same with this content, to be read.
    pub(crate) fn payload(&self, bytes: &[u8]) -> Buffer {
        self.write(DATA, bytes);
        self.data(u32::try_from(bytes.len()).expect("few bytes"), 0)
    }

    /// Offers a chain whose links are in order.
    pub(crate) fn chain(&mut self, buffers: &[Buffer]) {
        let (first, id) = (self.next, self.next);
        for (at, buffer) in buffers.iter().enumerate() {
            let flags = buffer.flags | if at + 1 < buffers.len() { NEXT } else { 0 };
            match self.kind() {
                Kind::Split => self.descriptor(*buffer, flags, self.next + 1),
                Kind::Packed => self.ring().offer_descriptor(buffer.address, buffer.len_bytes, id, flags),
            }
        }
        match self.kind() {
            Kind::Split => self.ring().offer(first),
            Kind::Packed => self.next += 1,
        }
    }

    /// Split: writes the next descriptor, of which no head is offered.
    pub(crate) fn descriptor(&mut self, buffer: Buffer, flags: u16, next: u16) {
        let word = u64::from(buffer.len_bytes) | u64::from(flags) << 32 | u64::from(next) << 48;
        let at = u32::from(self.next);
        self.ring().descriptors.set(at, [buffer.address, word]);
        self.next += 1;
    }

    /// A request of the usual form.
    pub(crate) fn request(&mut self, kind: u32, sector: u64, data: &[Buffer]) {
        let (header, status) = (self.header(kind, sector), self.status());
        self.chain(&[&[header], data, &[status]].concat());
    }

    /// A table of these buffers with their links in order, as one buffer.
    pub(crate) fn table(&self, buffers: &[Buffer]) -> Buffer {
        let last = buffers.len().saturating_sub(1);
        let link = |at: usize| if at < last { (NEXT, u16::try_from(at + 1).expect("a short table")) } else { (0, 0) };
        self.raw_table(buffers, link)
    }

    /// The same with links that are said: flags and the next entry of each.
    pub(crate) fn raw_table(&self, buffers: &[Buffer], link: impl Fn(usize) -> (u16, u16)) -> Buffer {
        let entries = buffers.iter().enumerate().flat_map(|(at, buffer)| {
            let (flags, next) = link(at);
            // In a packed ring's table flags and id change places, and of the flags only WRITE counts.
            let (low, high) = match self.guest.kind {
                Kind::Split => (buffer.flags | flags, next),
                Kind::Packed => (0, buffer.flags),
            };
            let word = u64::from(buffer.len_bytes) | u64::from(low) << 32 | u64::from(high) << 48;
            [buffer.address.to_le_bytes(), word.to_le_bytes()].concat()
        });
        let bytes: Vec<u8> = entries.collect();
        self.write(TABLE, &bytes);
        Buffer { address: self.at(TABLE), len_bytes: u32::try_from(bytes.len()).expect("a short table"), flags: INDIRECT }
    }

    /// Makes what was offered visible, and waits for its answer if there has to be one. Says whether other rings are still served.
    pub(crate) fn seen(mut self, must: Must) -> Result<bool, Surprise> {
        self.publish()?;
        if let Must::Answer(wanted) = must {
            while self.ring().peek().is_none() {
                take(&self.guest.queues[0].call, "the answer")?;
            }
            let mut status = [0];
            self.guest.scratch.read(STATUS, &mut status).expect("inside the scratch memory");
            if status != [wanted] {
                return Err(Surprise::of(format!("the request was answered with status {}", status[0])));
            }
        }
        Ok(true)
    }

    /// Makes what was offered visible.
    pub(crate) fn publish(&mut self) -> Outcome {
        self.ring().publish();
        ring_up(&self.guest.queues[0].kick)
    }
}
