//! What is being written right now, so that of two requests which write to the same place one waits for the other. Knows no ring and no device.
//!
//! Requests that are on record are done again when the process dies. A write that is done
//! again must not undo another one that was done after it and is off the record: so a
//! request that changes blocks starts only when no other that changes them is in flight.
//! Drivers hardly ever ask for such a thing, and pay for it themselves; for all others a
//! filter of counters answers without looking at what is in flight.

use spinel_core::Lba;

/// Counters of the filter, a power of two.
const COUNTERS: usize = 4096;
/// Blocks of one granule of the filter.
const GRANULE_SHIFT: u32 = 3;
/// A request of more granules is not put into the filter: it is compared with all.
const GRANULES_MAX: u64 = 16;

/// Where a request in flight writes.
#[derive(Clone, Copy, Debug, Default)]
struct Extent {
    start: u64,
    /// The first block behind it; as `start` if nothing is being written.
    end: u64,
}

impl Extent {
    fn overlaps(self, other: Self) -> bool {
        self.start < other.end && other.start < self.end
    }

    /// The granules it touches, the first and the last. It has a block.
    #[inline(always)]
    fn granules(self) -> (u64, u64) {
        (self.start >> GRANULE_SHIFT, (self.end - 1) >> GRANULE_SHIFT)
    }
}

/// Neighbours are far apart, so that those who write one stretch each do not meet.
#[inline(always)]
fn counter_of(granule: u64) -> usize {
    usize::try_from(granule.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (u64::BITS - COUNTERS.ilog2())).expect("below COUNTERS")
}

/// The blocks that requests in flight change.
#[derive(Debug)]
pub(super) struct Writes {
    /// By head.
    extents: Box<[Extent]>,
    /// By granule, how many requests write there: of those that several granules share, the sum.
    filter: Box<[u16; COUNTERS]>,
    /// Requests that are not in the filter.
    long: u16,
}

impl Writes {
    /// For heads below `size`.
    pub(super) fn new(size: u16) -> Self {
        let extents = vec![Extent::default(); usize::from(size)].into_boxed_slice();
        Self { extents, filter: Box::new([0; COUNTERS]), long: 0 }
    }

    /// A request that changes blocks starts, unless another one changes any of them: then false, and nothing happens.
    #[inline(always)]
    pub(super) fn begin(&mut self, head: u16, start: Lba, blocks: u32) -> bool {
        let extent = Extent { start: start.0, end: start.0.saturating_add(u64::from(blocks)) };
        if extent.start == extent.end {
            return true;
        }
        let (first, last) = extent.granules();
        // Most requests are about one granule that nobody else is about.
        let count = &mut self.filter[counter_of(first)];
        if first != last || *count != 0 || self.long != 0 {
            return self.begin_beside_others(head, extent);
        }
        *count = 1;
        self.extents[usize::from(head)] = extent;
        true
    }

    #[inline(never)]
    fn begin_beside_others(&mut self, head: u16, extent: Extent) -> bool {
        let (first, last) = extent.granules();
        let alone = self.long == 0 && last - first < GRANULES_MAX && (first..=last).all(|granule| self.filter[counter_of(granule)] == 0);
        if !alone && self.extents.iter().any(|other| other.overlaps(extent)) {
            return false;
        }
        self.count(extent, |count| *count += 1);
        self.extents[usize::from(head)] = extent;
        true
    }

    /// The request with this head has ended, whatever it was.
    #[inline(always)]
    pub(super) fn end(&mut self, head: u16) {
        let extent = std::mem::take(&mut self.extents[usize::from(head)]);
        if extent.start < extent.end {
            self.count(extent, |count| *count -= 1);
        }
    }

    #[inline(always)]
    fn count(&mut self, extent: Extent, change: impl Fn(&mut u16)) {
        let (first, last) = extent.granules();
        if last - first >= GRANULES_MAX {
            change(&mut self.long);
        } else {
            (first..=last).for_each(|granule| change(&mut self.filter[counter_of(granule)]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn who_writes_where_another_does_waits_until_that_has_ended() {
        let mut writes = Writes::new(8);
        assert!(writes.begin(0, Lba(8), 8));
        assert!(!writes.begin(1, Lba(15), 1));
        assert!(writes.begin(2, Lba(16), 8) && writes.begin(3, Lba(0), 8));
        assert!(!writes.begin(1, Lba(0), 1 << 20), "one that is too long for the filter meets them too");
        writes.end(0);
        assert!(writes.begin(1, Lba(15), 1));
        assert!(writes.begin(4, Lba(1 << 20), 1 << 21));
        assert!(!writes.begin(5, Lba((1 << 20) + 77), 1), "and is met by them");
    }

    #[test]
    fn nothing_stays_behind() {
        let mut writes = Writes::new(4);
        for (start, blocks) in [(0, 1), (7, 2), (100, 120), (5, 1 << 21), (u64::MAX - 3, 3), (9, 0)] {
            assert!(writes.begin(1, Lba(start), blocks));
            writes.end(1);
            writes.end(1);
        }
        assert_eq!((writes.long, writes.filter.iter().sum::<u16>()), (0, 0));
    }

    proptest! {
        /// Against a list that is searched each time.
        #[test]
        fn the_filter_changes_nothing(steps in proptest::collection::vec((0_u16..16, 0_u64..400, 1_u32..200, any::<bool>()), 1..200)) {
            let mut writes = Writes::new(16);
            let mut list: Vec<(u16, u64, u64)> = Vec::new();
            for (head, start, blocks, end) in steps {
                if end || list.iter().any(|(other, ..)| *other == head) {
                    list.retain(|(other, ..)| *other != head);
                    writes.end(head);
                    continue;
                }
                let behind = start + u64::from(blocks);
                let free = list.iter().all(|(_, from, to)| behind <= *from || *to <= start);
                prop_assert_eq!(writes.begin(head, Lba(start), blocks), free);
                if free {
                    list.push((head, start, behind));
                }
            }
        }
    }
}
