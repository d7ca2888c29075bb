//! Aligned chunks through which the engine reaches buffers a device cannot. Knows no request.

use std::collections::VecDeque;
use std::sync::Arc;

use spinel_mem::Region;

/// Bytes of one bounce chunk. Longer transfers go in rounds.
pub(crate) const CHUNK_BYTES: u32 = 64 * 1024;
/// One channel's bounce chunks. Its own, so that no other disk on the core can hold them all while it hangs. A slot that
/// finds none waits in line.
pub(crate) struct Pool {
    region: Arc<Region>,
    free: Vec<u16>,
    waiting: VecDeque<u32>,
}

impl Pool {
    /// `count` chunks, populated when first used, and room for `slots` to wait, so that waiting never allocates.
    pub(crate) fn new(count: u16, slots: u16) -> Result<Self, spinel_mem::MapError> {
        let count = count.clamp(1, slots.max(1));
        let region = Region::anonymous(u64::from(count) * u64::from(CHUNK_BYTES))?;
        Ok(Self { region, free: (0..count).rev().collect(), waiting: VecDeque::with_capacity(usize::from(slots)) })
    }

    /// A chunk at once, or a place in the line.
    pub(crate) fn want(&mut self, slot: u32) -> Option<u16> {
        let chunk = self.free.pop();
        if chunk.is_none() {
            self.waiting.push_back(slot);
        }
        chunk
    }

    /// Gives a chunk back: to the first in line if somebody waits.
    pub(crate) fn give(&mut self, chunk: u16) -> Option<u32> {
        let next = self.waiting.pop_front();
        if next.is_none() {
            self.free.push(chunk);
        }
        next
    }

    /// The first byte of a chunk.
    pub(crate) fn chunk(&self, chunk: u16) -> *mut u8 {
        let offset = usize::from(chunk) * usize::try_from(CHUNK_BYTES).expect("small");
        self.region.as_ptr().wrapping_add(offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_go_to_those_who_wait_in_the_order_they_came() {
        let mut pool = Pool::new(2, 8).unwrap();
        let (a, b) = (pool.want(0).unwrap(), pool.want(1).unwrap());
        assert_ne!(pool.chunk(a), pool.chunk(b));
        assert_eq!((pool.want(5), pool.want(2)), (None, None));
        assert_eq!(pool.give(a), Some(5));
        assert_eq!(pool.give(b), Some(2));
        assert_eq!(pool.give(a), None);
        assert_eq!(pool.want(3), Some(a));
    }
}
