//! A virtio-blk queue (virtio 1.2, 5.2.6): requests in by tag, statuses out. Knows no memory but its own, and no device.

use spinel_core::Tag;
use virtio_driver::iovec;
use virtio_driver::virtqueue::Virtqueue;

/// Requests by their number on the wire.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub(crate) enum Kind {
    Read = 0,
    Write = 1,
    Flush = 4,
    Discard = 11,
    WriteZeroes = 13,
}

/// What a request did not say yet: no status that a server may give.
const NO_STATUS: u8 = 0xff;

/// What both sides see of a request beside its data, in a cache line of its own. Numbers are little-endian.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Shared {
    header: Header,
    range: Range,
    status: u8,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct Header {
    kind: u32,
    reserved: u32,
    sector: u64,
}

/// What is discarded or becomes zeroes.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Range {
    sector: u64,
    sectors: u32,
    flags: u32,
}

impl Range {
    pub(crate) fn new(sector: u64, sectors: u32, unmap: bool) -> Self {
        Self { sector: sector.to_le(), sectors: sectors.to_le(), flags: u32::from(unmap).to_le() }
    }
}

/// Why the driver crate takes whatever gets so far.
const FITS: &str = "a request within the credits fits into the ring";

/// One queue and what is in it. Its memory goes with the transport, although `'static` does not say so.
pub(crate) struct Ring {
    queue: Virtqueue<'static, Shared>,
    /// By chain.
    tags: Box<[Option<Tag>]>,
    held: usize,
}

impl Ring {
    pub(crate) fn new(mut queue: Virtqueue<'static, Shared>) -> Self {
        queue.set_used_notif_enabled(false);
        let size = usize::from(queue.queue_size());
        Self { queue, tags: vec![None; size].into_boxed_slice(), held: 0 }
    }

    /// How many requests are in it.
    #[inline]
    pub(crate) fn held(&self) -> usize {
        self.held
    }

    /// A request with `buffers`, which have to stay where they are until it ends.
    #[inline]
    pub(crate) fn push(&mut self, tag: Tag, kind: Kind, sector: u64, buffers: impl Iterator<Item = iovec>) {
        let chain = self.queue.add_request(|shared, add| {
            shared.header = Header { kind: (kind as u32).to_le(), reserved: 0, sector: sector.to_le() };
            shared.status = NO_STATUS;
            add(place(&mut shared.header), false)?;
            for buffer in buffers {
                add(buffer, kind == Kind::Read)?;
            }
            add(place(&mut shared.status), true)
        });
        self.note(chain.expect(FITS), tag);
    }

    /// A request that carries a range.
    pub(crate) fn push_range(&mut self, tag: Tag, kind: Kind, range: Range) {
        let chain = self.queue.add_request(|shared, add| {
            shared.header = Header { kind: (kind as u32).to_le(), reserved: 0, sector: 0 };
            shared.range = range;
            shared.status = NO_STATUS;
            add(place(&mut shared.header), false)?;
            add(place(&mut shared.range), false)?;
            add(place(&mut shared.status), true)
        });
        self.note(chain.expect(FITS), tag);
    }

    #[inline]
    fn note(&mut self, chain: u16, tag: Tag) {
        let before = self.tags[usize::from(chain)].replace(tag);
        assert!(before.is_none(), "a chain is free before it is used again");
        self.held += 1;
    }

    /// The next request that ended, with its status. A chain that was never given out is ignored; for the rest the server is trusted.
    #[inline]
    pub(crate) fn pop(&mut self) -> Option<(Tag, u8)> {
        for ended in self.queue.completions() {
            if let Some(tag) = self.tags[usize::from(ended.id)].take() {
                self.held -= 1;
                return Some((tag, ended.req.status));
            }
        }
        None
    }

    /// Whether some request ended.
    pub(crate) fn has_next(&mut self) -> bool {
        self.queue.completions().has_next()
    }

    /// Forgets all that is in it. Nothing may be pushed or popped afterwards.
    pub(crate) fn abandon(&mut self, mut each: impl FnMut(Tag)) {
        self.held = 0;
        self.tags.iter_mut().filter_map(Option::take).for_each(&mut each);
    }

    /// Whether the server has to be told of what was pushed.
    #[inline]
    pub(crate) fn wants_kick(&mut self) -> bool {
        self.queue.avail_notif_needed()
    }

    /// Whether the server is to tell us of what ends.
    #[inline]
    pub(crate) fn want_calls(&mut self, wanted: bool) {
        self.queue.set_used_notif_enabled(wanted);
    }
}

/// Where a part of the shared memory is.
#[inline]
fn place<T>(part: &mut T) -> iovec {
    iovec { iov_base: std::ptr::from_mut(part).cast(), iov_len: size_of::<T>() }
}
