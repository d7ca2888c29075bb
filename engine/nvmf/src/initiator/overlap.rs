//! Which blocks requests change that may have to be sent again, so that no other changes them meanwhile. Knows no connection.
//!
//! A write whose answer was lost is sent again. It must not undo one that was done after it: so a request that changes blocks
//! is sent only when none is under way that changes any of them. Hardly anybody asks for such a thing, and who does waits; for
//! all others a filter of counters answers without looking at what is under way.

use spinel_core::Lba;

/// Counters of the filter, a power of two.
const COUNTERS: usize = 2048;
/// Blocks of one granule of the filter, as a power of two.
const GRANULE_SHIFT: u32 = 3;
/// A request of more granules is not put into the filter: it is compared with all.
const GRANULES_MAX: u64 = 64;

/// What one request changes: nothing if both are the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Extent {
    start: u64,
    end: u64,
}

impl Extent {
    fn overlaps(self, other: Self) -> bool {
        self.start < other.end && other.start < self.end
    }

    /// The granules it touches, if they are few.
    #[inline]
    fn granules(self) -> Option<std::ops::RangeInclusive<u64>> {
        let (first, last) = (self.start >> GRANULE_SHIFT, (self.end - 1) >> GRANULE_SHIFT);
        (last - first < GRANULES_MAX).then_some(first..=last)
    }
}

/// Neighbours are far apart, so that those who write one stretch each do not meet.
#[inline]
fn counter_of(granule: u64) -> usize {
    usize::try_from(granule.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (u64::BITS - COUNTERS.ilog2())).expect("below COUNTERS")
}

/// The blocks that requests under way change.
#[derive(Debug)]
pub(super) struct Changes {
    extents: Box<[Extent]>,
    /// How many requests touch a granule that has this counter.
    filter: Box<[u16; COUNTERS]>,
    /// Requests that are not in the filter.
    long: u16,
}

impl Changes {
    /// For so many requests.
    pub(super) fn new(depth: usize) -> Self {
        Self { extents: vec![Extent::default(); depth].into_boxed_slice(), filter: Box::new([0; COUNTERS]), long: 0 }
    }

    /// A request begins to change blocks, unless another one changes any of them: then false, and nothing happens.
    #[inline]
    pub(super) fn begin(&mut self, slot: u32, start: Lba, blocks: u32) -> bool {
        let extent = Extent { start: start.0, end: start.0.saturating_add(u64::from(blocks)) };
        if extent.start == extent.end {
            return true;
        }
        let filter = &self.filter;
        let alone =
            self.long == 0 && extent.granules().is_some_and(|mut granules| granules.all(|granule| filter[counter_of(granule)] == 0));
        if !alone && self.extents.iter().any(|other| other.overlaps(extent)) {
            return false;
        }
        self.count(extent, |count| *count += 1);
        self.extents[slot as usize] = extent;
        true
    }

    /// A request has ended, whatever it was.
    #[inline]
    pub(super) fn end(&mut self, slot: u32) {
        let extent = std::mem::take(&mut self.extents[slot as usize]);
        if extent.start < extent.end {
            self.count(extent, |count| *count -= 1);
        }
    }

    #[inline]
    fn count(&mut self, extent: Extent, change: impl Fn(&mut u16)) {
        match extent.granules() {
            None => change(&mut self.long),
            Some(granules) => granules.for_each(|granule| change(&mut self.filter[counter_of(granule)])),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use spinel_sim::Prng;

    #[test]
    fn two_that_touch_one_block_are_not_under_way_together() {
        let mut changes = Changes::new(4);
        assert!(changes.begin(0, Lba(100), 10));
        assert!(!changes.begin(1, Lba(109), 1) && !changes.begin(1, Lba(0), 10_000));
        assert!(changes.begin(1, Lba(110), 10) && changes.begin(2, Lba(90), 10));
        changes.end(0);
        assert!(changes.begin(3, Lba(100), 10));
    }

    #[test]
    fn the_filter_answers_as_a_comparison_with_all_does() {
        let mut prng = Prng::new(7);
        let mut changes = Changes::new(64);
        let mut known: Vec<Option<(u64, u64)>> = vec![None; 64];
        let mut refused = 0;
        for _ in 0..20_000 {
            let slot = prng.index(64);
            if known[slot].take().is_some() {
                changes.end(u32::try_from(slot).unwrap());
                continue;
            }
            let longest = if prng.one_in(10) { 2_000 } else { 20 };
            let (start, blocks) = (prng.below(30_000), prng.below(longest));
            let free = known.iter().flatten().all(|(from, to)| start >= *to || start + blocks <= *from) || blocks == 0;
            assert_eq!(changes.begin(u32::try_from(slot).unwrap(), Lba(start), u32::try_from(blocks).unwrap()), free);
            refused += u32::from(!free);
            known[slot] = (free && blocks > 0).then_some((start, start + blocks));
        }
        assert!(refused > 100, "they met {refused} times");
    }
}
