//! What was sent and has not gone yet: a ring of vectors, of which one call of the kernel takes a stretch. Knows no socket.

use std::io;

use io_uring::opcode;
use io_uring::squeue::Entry;
use io_uring::types::Fd;
use libc::{iovec, msghdr};
use spinel_core::{STREAM_HEAD_BYTES_MAX, STREAM_SEGMENTS_MAX};

use super::memory::Memory;
use crate::entry::aimed;
use crate::files::Target;

/// Most vectors of one send: its head, its segments, its tail.
const VECTORS_MAX: usize = STREAM_SEGMENTS_MAX + 2;
/// Vectors that a send usually needs, and more.
const VECTORS_USUAL: usize = 4;
/// So many sends of any size there is room for at least, when nothing waits.
const LARGE_SENDS: usize = 4;
/// The kernel takes no more in one call (`UIO_MAXIOV`).
const CALL_VECTORS_MAX: usize = 1024;
/// So many bytes end a call: it copies them, and the core does nothing else meanwhile.
const CALL_BYTES_MAX: usize = 256 * 1024;
/// No page is smaller.
const PAGE_BYTES: usize = 4096;

/// The sends of one connection that have not gone yet.
pub(crate) struct Outbox {
    /// Heads and tails, a slot for each send.
    heads: Memory,
    slots: usize,
    vectors: Box<[iovec]>,
    /// The first vector that has not gone as a whole, and how many there are. Whenever there are none it starts from 0 again,
    /// as the slots do: what is used again soon is still in the cache.
    first: usize,
    listed: usize,
    /// Where each send ends, in bytes since the beginning.
    ends: Box<[u64]>,
    /// The slot of the first send that has not gone.
    front: usize,
    /// Sends since the beginning: those that were queued, and those that have gone.
    queued: u64,
    sent: u64,
    /// The same in bytes.
    queued_bytes: u64,
    gone_bytes: u64,
    /// The kernel has a call.
    calling: bool,
    /// At which byte memory was last looked for that the kernel had not found.
    touched_at: Option<u64>,
    message: Box<msghdr>,
}

impl Outbox {
    /// An empty one for so many sends.
    pub(crate) fn new(slots: u16) -> io::Result<Self> {
        let slots = usize::from(slots.max(1));
        let vectors = Box::<[iovec]>::new_zeroed_slice(slots * VECTORS_USUAL + LARGE_SENDS * VECTORS_MAX);
        let message = Box::<msghdr>::new_zeroed();
        Ok(Self {
            heads: Memory::new(slots * STREAM_HEAD_BYTES_MAX)?,
            slots,
            // SAFETY: an iovec of zeroes is a valid, empty one.
            vectors: unsafe { vectors.assume_init() },
            first: 0,
            listed: 0,
            ends: vec![0; slots].into_boxed_slice(),
            front: 0,
            queued: 0,
            sent: 0,
            queued_bytes: 0,
            gone_bytes: 0,
            calling: false,
            touched_at: None,
            // SAFETY: a message header of zeroes is a valid, empty one.
            message: unsafe { message.assume_init() },
        })
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.heads.len_bytes() + size_of_val(&*self.vectors) + size_of_val(&*self.ends) + size_of::<msghdr>()
    }

    fn waiting(&self) -> usize {
        usize::try_from(self.queued - self.sent).expect("at most the slots")
    }

    /// How many more sends there is room for, whatever they consist of.
    pub(crate) fn room(&self) -> usize {
        (self.slots - self.waiting()).min((self.vectors.len() - self.listed) / VECTORS_MAX)
    }

    /// How many sends have gone.
    pub(crate) fn sent(&self) -> u64 {
        self.sent
    }

    /// Whether something waits for a call.
    pub(crate) fn waits(&self) -> bool {
        !self.calling && self.listed > 0
    }

    pub(crate) fn calling(&self) -> bool {
        self.calling
    }

    /// Queues a send; `body` calls back with each of its stretches of memory.
    pub(crate) fn queue(&mut self, head: &[u8], body: impl Iterator<Item = (*mut u8, u32)>, tail: &[u8]) {
        assert!(self.room() > 0, "room() was looked at before");
        assert!(head.len() + tail.len() <= STREAM_HEAD_BYTES_MAX, "head and tail have a limit");
        let slot = (self.front + self.waiting()) % self.slots;
        let own = self.heads.at(slot * STREAM_HEAD_BYTES_MAX, STREAM_HEAD_BYTES_MAX).cast::<u8>().as_ptr();
        self.copy(head, own);
        for (address, len_bytes) in body {
            self.list(address, len_bytes as usize);
        }
        self.copy(tail, own.wrapping_add(head.len()));
        self.ends[slot] = self.queued_bytes;
        self.queued += 1;
        self.count();
    }

    /// Copies a head or tail into its slot, and lists it.
    fn copy(&mut self, from: &[u8], to: *mut u8) {
        // SAFETY: the slot has room for head and tail, belongs to one send, and is nobody else's memory.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to, from.len()) };
        self.list(to, from.len());
    }

    fn list(&mut self, address: *mut u8, len_bytes: usize) {
        if len_bytes == 0 {
            return;
        }
        assert!(self.listed < self.vectors.len(), "a send has a limited number of segments");
        let place = (self.first + self.listed) % self.vectors.len();
        self.vectors[place] = iovec { iov_base: address.cast(), iov_len: len_bytes };
        self.listed += 1;
        self.queued_bytes += u64::try_from(len_bytes).expect("lengths fit 64 bits");
    }

    /// The call that sends what waits, as much as one takes.
    pub(crate) fn call(&mut self, socket: Target) -> Option<Entry> {
        if !self.waits() {
            return None;
        }
        self.calling = true;
        let row = &self.vectors[self.first..][..self.listed.min(self.vectors.len() - self.first).min(CALL_VECTORS_MAX)];
        let mut bytes = 0;
        let full = |vector: &iovec| {
            bytes += vector.iov_len;
            bytes >= CALL_BYTES_MAX
        };
        let count = row.iter().position(full).map_or(row.len(), |last| last + 1);
        let fd = Fd(socket.number);
        let flags = libc::MSG_NOSIGNAL;
        Some(match (&row[..count], u32::try_from(row[0].iov_len)) {
            ([one], Ok(len_bytes)) => aimed(socket, opcode::Send::new(fd, one.iov_base.cast(), len_bytes).flags(flags).build()),
            (row, _) => {
                self.message.msg_iov = row.as_ptr().cast_mut();
                self.message.msg_iovlen = row.len();
                aimed(socket, opcode::SendMsg::new(fd, &raw const *self.message).flags(flags.unsigned_abs()).build())
            }
        })
    }

    /// The call ended, and so many bytes have gone: perhaps fewer than it had.
    pub(crate) fn called(&mut self, gone_bytes: usize) {
        self.calling = false;
        self.gone_bytes += u64::try_from(gone_bytes).expect("lengths fit 64 bits");
        let mut left = gone_bytes;
        while left > 0 {
            assert!(self.listed > 0, "no more goes than was listed");
            let vector = &mut self.vectors[self.first];
            let here = vector.iov_len.min(left);
            vector.iov_base = vector.iov_base.wrapping_byte_add(here);
            vector.iov_len -= here;
            left -= here;
            if vector.iov_len == 0 {
                self.first = (self.first + 1) % self.vectors.len();
                self.listed -= 1;
            }
        }
        self.count();
    }

    /// The kernel found no memory where a call should go on: a front end has made its file shorter. Touched from here, what is
    /// missing becomes zeroes, so that one guest's fault does not end what others send. Whether that may help.
    pub(crate) fn touch(&mut self) -> bool {
        if self.touched_at.replace(self.gone_bytes) == Some(self.gone_bytes) {
            return false;
        }
        let mut bytes = 0;
        for number in 0..self.listed {
            let vector = &self.vectors[(self.first + number) % self.vectors.len()];
            let address = vector.iov_base.cast::<u8>();
            for offset in (0..vector.iov_len).step_by(PAGE_BYTES).chain([vector.iov_len - 1]) {
                // SAFETY: listed memory is mapped until its send is counted; what others do to it does not matter.
                unsafe { address.wrapping_add(offset).read_volatile() };
            }
            bytes += vector.iov_len;
            if bytes >= CALL_BYTES_MAX {
                break;
            }
        }
        true
    }

    /// Counts the sends that have gone as a whole.
    fn count(&mut self) {
        while self.sent < self.queued && self.ends[self.front] <= self.gone_bytes {
            self.sent += 1;
            self.front = (self.front + 1) % self.slots;
        }
        self.restart();
    }

    fn restart(&mut self) {
        if self.sent == self.queued && self.listed == 0 {
            (self.first, self.front) = (0, 0);
        }
    }

    /// Nothing goes any more, and the kernel has no call: everything counts as sent.
    pub(crate) fn abandon(&mut self) {
        assert!(!self.calling, "the kernel still reads what it has");
        self.gone_bytes = self.queued_bytes;
        self.sent = self.queued;
        self.listed = 0;
        self.restart();
    }
}
