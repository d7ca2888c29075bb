//! Chains that wait, looked at together before any of them is taken. Knows no channel and no request in flight.
//!
//! A chain's descriptor, its table and its header lie in cache lines that another core has just
//! written. One chain after the other, each of them would be waited for; here all descriptors are
//! read, then all tables, and the lines of what comes next are on their way meanwhile. Everything
//! is copied out of the guest's memory once, and what is kept of it here has been checked.

use spinel_core::mem::{GuestMap, Segment};
use spinel_core::{Lba, Op, Single, Tag};

use crate::blk::{self, Parts};
use crate::ring::{Offered, Ring};

/// Most chains looked at together, and taken in one turn, so that one guest cannot hold a core.
pub(crate) const LOT_MAX: usize = 64;

/// A chain that waits, and what it is made of if it is a usual one.
#[derive(Clone, Copy, Default)]
pub(crate) struct Looked {
    pub(crate) offered: Offered,
    pub(crate) parts: Option<Parts>,
}

/// The next chains of a ring in their order.
pub(crate) struct Lot {
    chains: Box<[Looked; LOT_MAX]>,
    /// By chain, the request that it becomes, of which the segment is known already if it is a usual one.
    requests: Box<[Single; LOT_MAX]>,
    /// Those that are left: from here on ...
    start: usize,
    /// ... up to here.
    end: usize,
    /// Whether there were as many as could be looked at.
    full: bool,
}

impl Lot {
    /// Without a chain; `nowhere` is any segment. Allocates; the other operations do not.
    pub(crate) fn new(nowhere: Segment) -> Self {
        let none = Single { tag: Tag(0), op: Op::Read, start: Lba(0), blocks: 0, segment: nowhere };
        Self { chains: Box::new([Looked::default(); LOT_MAX]), requests: Box::new([none; LOT_MAX]), start: 0, end: 0, full: false }
    }

    /// Looks at the next chains of a ring, at most `count` and as far as it can tell where they begin; none of them is taken.
    #[inline(never)]
    pub(crate) fn look(&mut self, ring: &impl Ring, guest: &GuestMap, count: usize) {
        let near = guest.near();
        let found = ring.look(guest, &mut self.chains[..count]);
        (self.start, self.end, self.full) = (0, found, found == count);
        let mut all_near = true;
        for (Looked { offered, parts }, request) in self.chains[..found].iter_mut().zip(self.requests.iter_mut()) {
            let Some((seen, data)) = ring.usual_of(offered, near).and_then(|chain| blk::parts_of(&chain, near)) else {
                *parts = None;
                all_near = false;
                continue;
            };
            near.prefetch(seen.header);
            *parts = Some(seen);
            request.segment = data;
        }
        if !all_near {
            self.look_further(ring, guest);
        }
    }

    /// Looks again at those chains that are not usual ones, or of which a part was not near.
    #[inline(never)]
    fn look_further(&mut self, ring: &impl Ring, guest: &GuestMap) {
        for (Looked { offered, parts }, request) in self.chains[..self.end].iter_mut().zip(self.requests.iter_mut()) {
            if parts.is_none()
                && let Some((seen, data)) = ring.usual_of(offered, guest).and_then(|chain| blk::parts_of(&chain, guest))
            {
                *parts = Some(seen);
                request.segment = data;
            }
        }
    }

    /// The chains that are left.
    #[inline(always)]
    pub(crate) fn left(&self) -> &[Looked] {
        &self.chains[self.start..self.end]
    }

    /// The same, and their requests.
    #[inline(always)]
    pub(crate) fn left_mut(&mut self) -> (&[Looked], &mut [Single]) {
        (&self.chains[self.start..self.end], &mut self.requests[self.start..self.end])
    }

    #[inline(always)]
    pub(crate) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Whether all are gone, and there may be more like them: not if what came next could not be looked at.
    #[inline(always)]
    pub(crate) fn was_full(&self) -> bool {
        self.is_empty() && self.full
    }

    /// Forgets all of them.
    #[inline(always)]
    pub(crate) fn clear(&mut self) {
        (self.start, self.end) = (0, 0);
    }

    /// Forgets the first ones, at most `count`.
    #[inline(always)]
    pub(crate) fn skip(&mut self, count: usize) {
        self.start = (self.start + count).min(self.end);
    }
}
