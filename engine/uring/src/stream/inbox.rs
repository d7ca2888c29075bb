//! What has come and was not taken: a ring of bytes that the kernel fills. Knows no socket.
//!
//! The memory is cut into a few buffers. Lent to the kernel in their order, and each
//! used up to its last byte before the next (`IOU_PBUF_RING_INC`), they are one ring of
//! bytes: a receive appends where the last one ended. A buffer whose bytes were all taken
//! is lent again. When all are full the kernel has nowhere to put more, receiving ends, and the
//! other side finds its window closed.
//!
//! The ring is the connection's own. A shared one would need a limit for each connection all
//! the same, or one that nobody reads would hold every buffer of the others; and its bytes
//! would lie scattered.

use std::ffi::c_void;
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::opcode;
use io_uring::squeue::Entry;
use io_uring::types::{BufRingEntry, Fd};

use super::memory::Memory;
use crate::entry::aimed;
use crate::files::Target;
use crate::party::Answer;

/// A page holds the entries of so many buffers, more than anybody needs.
pub(crate) const BUFFERS_MAX: u16 = 256;
const PAGE_BYTES: usize = 4096;

/// The bytes of one connection that have come.
pub(crate) struct Inbox {
    /// The buffers' entries in the first page, then the buffers.
    memory: Memory,
    buffers: u16,
    buffer_bytes: u32,
    /// The group under which the buffers are lent; without one each receive is asked for by itself.
    group: Option<u16>,
    /// Bytes that have come since the beginning.
    come: u64,
    /// Those that were taken.
    taken: u64,
}

impl Inbox {
    /// An empty one. The number of buffers is a power of two.
    pub(crate) fn new(buffers: u16, buffer_bytes: u32) -> io::Result<Self> {
        assert!(buffers.is_power_of_two() && buffers <= BUFFERS_MAX, "{buffers} buffers: a power of two up to {BUFFERS_MAX}");
        assert!(buffer_bytes > 0, "buffers hold something");
        let memory = Memory::new(PAGE_BYTES + usize::from(buffers) * buffer_bytes as usize)?;
        Ok(Self { memory, buffers, buffer_bytes, group: None, come: 0, taken: 0 })
    }

    /// Where the entries of the buffers lie, and their number.
    pub(crate) fn entries(&self) -> (u64, u16) {
        let address = self.memory.at(0, PAGE_BYTES).addr().get();
        (u64::try_from(address).expect("addresses fit 64 bits"), self.buffers)
    }

    /// The buffers were registered under this group: lends them all.
    pub(crate) fn lend_as(&mut self, group: u16) {
        self.group = Some(group);
        for number in 0..u64::from(self.buffers) {
            self.lend(number);
        }
    }

    /// The group, if there is one.
    pub(crate) fn group(&self) -> Option<u16> {
        self.group
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.memory.len_bytes()
    }

    fn capacity_bytes(&self) -> u64 {
        u64::from(self.buffers) * u64::from(self.buffer_bytes)
    }

    /// The place of a byte in the ring, by its number since the beginning.
    fn place(&self, byte: u64) -> usize {
        usize::try_from(byte % self.capacity_bytes()).expect("inside the memory")
    }

    fn at(&self, place: usize, len_bytes: usize) -> NonNull<c_void> {
        self.memory.at(PAGE_BYTES + place, len_bytes)
    }

    /// Lends a buffer, by its number since the beginning.
    fn lend(&self, number: u64) {
        let index = u16::try_from(number % u64::from(self.buffers)).expect("below the number of buffers");
        let len_bytes = self.buffer_bytes as usize;
        let address = self.at(usize::from(index) * len_bytes, len_bytes).addr().get();
        let entry = self.memory.at(usize::from(index) * size_of::<BufRingEntry>(), size_of::<BufRingEntry>());
        // SAFETY: the entries fill at most the first page, any bytes are one, and the kernel has given this one back.
        let entry = unsafe { entry.cast::<BufRingEntry>().as_mut() };
        entry.set_addr(u64::try_from(address).expect("addresses fit 64 bits"));
        entry.set_len(self.buffer_bytes);
        entry.set_bid(index);
        // The ring counts modulo 2^16.
        let tail = u16::try_from((number + 1) & u64::from(u16::MAX)).expect("masked");
        self.tail().store(tail, Ordering::Release);
    }

    /// Behind the last entry that was lent. It lies in a field of the first entry that nothing else uses.
    fn tail(&self) -> &AtomicU16 {
        let entries = self.memory.at(0, PAGE_BYTES).cast::<BufRingEntry>();
        // SAFETY: the page begins with an entry.
        let tail = unsafe { BufRingEntry::tail(entries.as_ptr()) };
        // SAFETY: it lies in the mapping, aligned, and whoever shares it with the kernel does so atomically.
        unsafe { AtomicU16::from_ptr(tail.cast_mut()) }
    }

    /// Bytes for which there is room now, as far as the kernel knows.
    fn free_bytes(&self) -> u64 {
        let kept_from = match self.group {
            Some(_) => self.taken - self.taken % u64::from(self.buffer_bytes),
            None => self.taken,
        };
        self.capacity_bytes() - (self.come - kept_from)
    }

    /// Whether the kernel has room for more.
    pub(crate) fn has_room(&self) -> bool {
        self.free_bytes() > 0
    }

    /// The submission that receives more, if there is room.
    pub(crate) fn receive(&self, socket: Target) -> Option<Entry> {
        if !self.has_room() {
            return None;
        }
        let fd = Fd(socket.number);
        Some(match self.group {
            Some(group) => aimed(socket, opcode::RecvMulti::new(fd, group).build()),
            None => {
                let (place, free_bytes) =
                    (self.place(self.come), self.free_bytes().min(self.capacity_bytes() - self.come % self.capacity_bytes()));
                let len_bytes = usize::try_from(free_bytes).expect("inside the memory");
                let address = self.at(place, len_bytes).cast().as_ptr();
                aimed(socket, opcode::Recv::new(fd, address, u32::try_from(len_bytes).expect("a ring is below 4 GiB")).build())
            }
        })
    }

    /// Takes an answer to that: so many bytes, not zero, have come.
    pub(crate) fn received(&mut self, answer: Answer) {
        let len_bytes = u64::try_from(answer.result).expect("a length");
        let number = self.come / u64::from(self.buffer_bytes) % u64::from(self.buffers);
        let expected = self.group.map(|_| u16::try_from(number).expect("below the number of buffers"));
        assert_eq!(answer.buffer, expected, "the kernel fills the buffers in the order in which they were lent");
        assert!(len_bytes <= self.free_bytes(), "and puts nothing where there is no room");
        self.come += len_bytes;
    }

    /// What has come and was not taken, as far as it lies in one piece.
    pub(crate) fn incoming(&self) -> NonNull<[u8]> {
        let place = self.place(self.taken);
        let waiting = usize::try_from(self.come - self.taken).expect("inside the memory");
        let to_end = usize::try_from(self.capacity_bytes()).expect("inside the memory") - place;
        let len_bytes = waiting.min(to_end);
        NonNull::slice_from_raw_parts(self.at(place, len_bytes).cast(), len_bytes)
    }

    /// The first of them are done with.
    pub(crate) fn take(&mut self, count: usize) {
        assert!(count <= self.incoming().len(), "no more is taken than has come");
        let buffer_bytes = u64::from(self.buffer_bytes);
        let before = self.taken / buffer_bytes;
        self.taken += u64::try_from(count).expect("lengths fit 64 bits");
        if self.group.is_some() {
            for number in before..self.taken / buffer_bytes {
                self.lend(number + u64::from(self.buffers));
            }
        }
    }
}
