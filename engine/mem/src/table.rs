//! The regions one core may touch, by id. Knows nothing of how a leaf maps them further.

use std::cell::RefCell;
use std::sync::Arc;

use crate::region::{BoundsError, REGIONS_MAX, Region, RegionId, Segment};

/// One core's table of announced regions; shared on that core behind an `Rc`.
#[derive(Debug)]
pub struct Regions {
    slots: RefCell<Vec<Option<Arc<Region>>>>,
}

impl Default for Regions {
    fn default() -> Self {
        Self { slots: RefCell::new(vec![None; usize::from(REGIONS_MAX)]) }
    }
}

impl Regions {
    /// Enters a region; entering it again replaces the same entry.
    pub fn insert(&self, region: Arc<Region>) {
        let index = region.id().index();
        self.slots.borrow_mut()[index] = Some(region);
    }

    /// Takes a region out and returns it, so that it can be dropped off the reactor.
    pub fn remove(&self, id: RegionId) -> Option<Arc<Region>> {
        self.slots.borrow_mut()[id.index()].take()
    }

    /// The address of a segment's byte `skip`, or `None` if its region is not announced here.
    #[must_use]
    pub fn resolve(&self, segment: &Segment, skip: u32) -> Option<*mut u8> {
        let slots = self.slots.borrow();
        let region = slots[segment.region().index()].as_ref()?;
        let len_bytes = segment.len_bytes().checked_sub(skip)?;
        region.check(segment.offset() + u64::from(skip), u64::from(len_bytes)).ok().map(std::ptr::NonNull::as_ptr)
    }

    /// Asks the processor for the cache lines of a segment's first bytes, at most so many.
    #[inline]
    pub fn prefetch(&self, segment: &Segment, len_bytes: u32) {
        if let Some(region) = self.slots.borrow()[segment.region().index()].as_ref() {
            region.prefetch(segment.offset(), u64::from(segment.len_bytes().min(len_bytes)));
        }
    }

    fn with<T>(&self, segment: &Segment, run: impl FnOnce(&Region) -> Result<T, BoundsError>) -> Result<T, BoundsError> {
        let slots = self.slots.borrow();
        let region = slots[segment.region().index()].as_ref();
        run(region.ok_or(BoundsError { offset: segment.offset(), len_bytes: u64::from(segment.len_bytes()), region_bytes: 0 })?)
    }

    /// Copies from `from` at `from_offset` into all of `segment`.
    ///
    /// # Errors
    /// [`BoundsError`] when the segment's region is not announced here, or `from` ends too early.
    pub fn copy_in(&self, segment: &Segment, from: &Region, from_offset: u64) -> Result<(), BoundsError> {
        self.with(segment, |to| Region::copy(from, from_offset, to, segment.offset(), u64::from(segment.len_bytes())))
    }

    /// Copies all of `segment` to `to` at `to_offset`.
    ///
    /// # Errors
    /// [`BoundsError`] when the segment's region is not announced here, or `to` ends too early.
    pub fn copy_out(&self, segment: &Segment, to: &Region, to_offset: u64) -> Result<(), BoundsError> {
        self.with(segment, |from| Region::copy(from, segment.offset(), to, to_offset, u64::from(segment.len_bytes())))
    }

    /// Copies bytes of `segment` from its byte `skip` into `into`.
    ///
    /// # Errors
    /// [`BoundsError`] when the region is not announced here or the segment ends too early.
    pub fn read(&self, segment: &Segment, skip: u32, into: &mut [u8]) -> Result<(), BoundsError> {
        let end = u64::from(skip) + u64::try_from(into.len()).expect("lengths fit 64 bits");
        self.with(segment, |region| {
            within(segment, end)?;
            region.read(segment.offset() + u64::from(skip), into)
        })
    }

    /// Copies `from` into `segment` from its byte `skip`.
    ///
    /// # Errors
    /// [`BoundsError`] when the region is not announced here or the segment ends too early.
    pub fn write(&self, segment: &Segment, skip: u32, from: &[u8]) -> Result<(), BoundsError> {
        let end = u64::from(skip) + u64::try_from(from.len()).expect("lengths fit 64 bits");
        self.with(segment, |region| {
            within(segment, end)?;
            region.write(segment.offset() + u64::from(skip), from)
        })
    }
}

fn within(segment: &Segment, end: u64) -> Result<(), BoundsError> {
    let region_bytes = u64::from(segment.len_bytes());
    if end <= region_bytes { Ok(()) } else { Err(BoundsError { offset: segment.offset(), len_bytes: end, region_bytes }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_that_was_taken_out_is_no_longer_reached() {
        let regions = Regions::default();
        let guest = Region::anonymous(4096).unwrap();
        let own = Region::anonymous(4096).unwrap();
        own.write(100, b"data").unwrap();
        let segment = guest.segment(8, 4).unwrap();
        regions.insert(Arc::clone(&guest));
        regions.copy_in(&segment, &own, 100).unwrap();
        let mut got = [0; 4];
        regions.read(&segment, 0, &mut got).unwrap();
        assert_eq!(&got, b"data");
        assert!(regions.read(&segment, 1, &mut got).is_err(), "a read may not leave its segment");
        assert_eq!(regions.remove(guest.id()).unwrap().id(), guest.id());
        assert!(regions.copy_in(&segment, &own, 100).is_err());
        assert!(regions.resolve(&segment, 0).is_none());
    }
}
