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
