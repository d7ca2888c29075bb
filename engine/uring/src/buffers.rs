//! A ring's table of registered buffers: clones of pins made elsewhere. Knows nothing of how pins are made.

use std::os::fd::AsRawFd;

use io_uring::Submitter;
use io_uring::types::CloneBuffersFlags;
use spinel_mem::{REGIONS_MAX, Region, RegionId, Segment};

/// Where a region's clones lie in the table.
#[derive(Clone, Copy)]
struct Cloned {
    first: u16,
    count: u16,
    entry_bytes: u64,
}

/// Which entries hold which region.
pub(crate) struct Buffers {
    taken: Vec<bool>,
    by_region: Vec<Option<Cloned>>,
}

/// The kernel's own limit of a ring's table (`IORING_MAX_REG_BUFFERS`).
const ENTRIES_MAX: u32 = 1 << 14;

impl Buffers {
    /// Registers an empty table of `count` entries, or none if the kernel refuses.
    pub(crate) fn new(submitter: &Submitter<'_>, count: u32) -> Self {
        let count = count.min(ENTRIES_MAX);
        let granted = count > 0 && submitter.register_buffers_sparse(count).is_ok();
        let taken = vec![false; if granted { count as usize } else { 0 }];
        Self { taken, by_region: vec![None; usize::from(REGIONS_MAX)] }
    }

    /// How many entries there are.
    pub(crate) fn len(&self) -> u32 {
        u32::try_from(self.taken.len()).expect("a table's length")
    }

    /// Clones a region's pins into the table. Without pins or space the region is simply not registered.
    pub(crate) fn map(&mut self, submitter: &Submitter<'_>, region: &Region) {
        let Some(pins) = region.pins() else { return };
        if self.by_region[region.id().index()].is_some() {
            return;
        }
        let count = usize::from(pins.entries);
        let Some(first) = self.gap(count) else { return };
        let place = u32::try_from(first).expect("a table's length");
        let registrar = pins.registrar.as_raw_fd();
        let cloned = submitter.register_buffers_clone_offset(registrar, 0, place, u32::from(pins.entries), CloneBuffersFlags::DST_REPLACE);
        if cloned.is_ok() {
            self.taken[first..first + count].fill(true);
            let first = u16::try_from(first).expect("below ENTRIES_MAX");
            self.by_region[region.id().index()] = Some(Cloned { first, count: pins.entries, entry_bytes: pins.entry_bytes });
        }
    }

    /// The first of `count` free entries in a row.
    fn gap(&self, count: usize) -> Option<usize> {
        (0..(self.taken.len() + 1).checked_sub(count.max(1))?).find(|&first| self.taken[first..first + count].iter().all(|taken| !taken))
    }

    /// Empties a region's entries.
    pub(crate) fn unmap(&mut self, submitter: &Submitter<'_>, id: RegionId) {
        let Some(cloned) = self.by_region[id.index()].take() else { return };
        let empty = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }];
        for place in cloned.first..cloned.first + cloned.count {
            // SAFETY: an empty buffer refers to no memory.
            let emptied = unsafe { submitter.register_buffers_update(u32::from(place), &empty, None) };
            // An entry that could not be emptied still pins its pages; it is overwritten by the next clone.
            self.taken[usize::from(place)] = false;
            debug_assert!(emptied.is_ok(), "{emptied:?}");
        }
    }

    /// The entry that holds all of a segment, if there is one.
    pub(crate) fn find(&self, segment: &Segment) -> Option<u16> {
        let cloned = self.by_region[segment.region().index()]?;
        let first = segment.offset() / cloned.entry_bytes;
        let last = (segment.offset() + u64::from(segment.len_bytes()).saturating_sub(1)) / cloned.entry_bytes;
        let entry = u16::try_from(first).ok().filter(|&entry| first == last && entry < cloned.count)?;
        Some(cloned.first + entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn a_segment_is_found_where_its_region_was_cloned_and_nowhere_after_it_went() {
        let ring = io_uring::IoUring::new(4).unwrap();
        let mut buffers = Buffers::new(&ring.submitter(), 3);
        let regions: Vec<Arc<Region>> = (0..4).map(|_| Region::anonymous(65_536).unwrap()).collect();
        for region in &regions {
            if let Err(error) = crate::pin(region) {
                return println!("SKIPPED: nothing can be pinned here ({error})");
            }
            buffers.map(&ring.submitter(), region);
            // Announced again, it takes no second place.
            buffers.map(&ring.submitter(), region);
        }
        let find = |buffers: &Buffers, at: usize| buffers.find(&regions[at].segment(4096, 512).unwrap());
        if find(&buffers, 0).is_none() {
            return println!("SKIPPED: this kernel does not clone registered buffers (before Linux 6.12)");
        }
        assert_eq!([0, 1, 2, 3].map(|at| find(&buffers, at)), [Some(0), Some(1), Some(2), None]);
        buffers.unmap(&ring.submitter(), regions[1].id());
        assert_eq!(find(&buffers, 1), None);
        buffers.map(&ring.submitter(), &regions[3]);
        assert_eq!(find(&buffers, 3), Some(1));
    }

    #[test]
    fn a_segment_over_a_seam_lies_in_no_entry() {
        let region = Region::anonymous(10_000).unwrap();
        let mut buffers = Buffers { taken: vec![true; 8], by_region: vec![None; usize::from(REGIONS_MAX)] };
        buffers.by_region[region.id().index()] = Some(Cloned { first: 5, count: 3, entry_bytes: 4096 });
        let find = |offset, len_bytes| buffers.find(&region.segment(offset, len_bytes).unwrap());
        assert_eq!([find(0, 4096), find(4095, 1), find(4096, 4096), find(8192, 1808)], [Some(5), Some(5), Some(6), Some(7)]);
        assert_eq!([find(4095, 2), find(0, 4097), find(0, 10_000)], [None; 3]);
    }
}
