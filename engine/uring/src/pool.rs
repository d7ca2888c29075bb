//! Aligned chunks through which the engine reaches buffers a device cannot, and a stretch of zeroes. Knows no request.

use std::collections::VecDeque;
use std::sync::Arc;

use spinel_mem::Region;

/// Bytes of one bounce chunk. Longer transfers go in rounds.
pub(crate) const CHUNK_BYTES: u32 = 64 * 1024;
/// Bytes of zeroes to write from.
pub(crate) const ZEROES_BYTES: u32 = 256 * 1024;

/// Who waits for a chunk: a port and one of its slots.
pub(crate) type Waiter = (u32, u32);

/// A core's bounce chunks. Whoever finds none waits in line; chunks are given in that order over all channels.
pub(crate) struct Pool {
    region: Arc<Region>,
    free: Vec<u16>,
    waiting: VecDeque<Waiter>,
}

impl Pool {
    /// `count` chunks, populated when first used.
    pub(crate) fn new(count: u16) -> Result<Self, spinel_mem::MapError> {
        let count = count.max(1);
        let region = Region::anonymous(u64::from(count) * u64::from(CHUNK_BYTES) + u64::from(ZEROES_BYTES))?;
        Ok(Self { region, free: (0..count).rev().collect(), waiting: VecDeque::new() })
    }

    /// Makes room for `waiters` in all, so that waiting never allocates.
    pub(crate) fn reserve(&mut self, waiters: usize) {
        self.waiting.reserve(waiters.saturating_sub(self.waiting.len()));
    }

    /// A chunk at once, or a place in the line.
    pub(crate) fn want(&mut self, waiter: Waiter) -> Option<u16> {
        let chunk = self.free.pop();
        if chunk.is_none() {
            self.waiting.push_back(waiter);
        }
        chunk
    }

    /// Gives a chunk back: to the first in line if somebody waits.
    pub(crate) fn give(&mut self, chunk: u16) -> Option<Waiter> {
        let next = self.waiting.pop_front();
        if next.is_none() {
            self.free.push(chunk);
        }
        next
    }

    /// The first byte of a chunk.
    pub(crate) fn chunk(&self, chunk: u16) -> *mut u8 {
        let offset = usize::try_from(ZEROES_BYTES).expect("small") + usize::from(chunk) * usize::try_from(CHUNK_BYTES).expect("small");
        self.region.as_ptr().wrapping_add(offset)
    }

    /// [`ZEROES_BYTES`] of zeroes that nobody writes to.
    pub(crate) fn zeroes(&self) -> *const u8 {
        self.region.as_ptr()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_go_to_those_who_wait_in_the_order_they_came() {
        let mut pool = Pool::new(2).unwrap();
        let (a, b) = (pool.want((0, 0)).unwrap(), pool.want((0, 1)).unwrap());
        assert_ne!(pool.chunk(a), pool.chunk(b));
        assert_eq!((pool.want((1, 5)), pool.want((0, 2))), (None, None));
        assert_eq!(pool.give(a), Some((1, 5)));
        assert_eq!(pool.give(b), Some((0, 2)));
        assert_eq!(pool.give(a), None);
        assert_eq!(pool.want((3, 3)), Some(a));
    }
}
