//! A guest's address space: which guest-physical and which front-end addresses lie in which region. Knows no ring and no message.

use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::Arc;

use crate::array::Plain;
use crate::region::{Region, RegionId, Segment, Spot};

/// One range of guest memory as the front end describes it (vhost-user: "Memory region description").
#[derive(Clone, Debug)]
pub struct GuestRange {
    /// Guest-physical address of its first byte.
    pub guest: u64,
    /// The front end's own virtual address of the same byte; ring addresses come in this form.
    pub user: u64,
    /// The memory itself; its length is the range's length.
    pub region: Arc<Region>,
}

/// An address range that is not (wholly) guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TranslateError {
    /// First address asked for.
    pub address: u64,
    /// Bytes asked for.
    pub len_bytes: u64,
}

impl fmt::Display for TranslateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes at {:#x} are not all guest memory", self.len_bytes, self.address)
    }
}

impl std::error::Error for TranslateError {}

/// A range that cannot be part of a guest's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuestRangeError {
    /// Its last address overflows.
    Overflow {
        /// The first address of the range.
        address: u64,
    },
    /// It overlaps another range of the same guest.
    Overlap {
        /// Guest-physical address of the refused range.
        guest: u64,
    },
}

impl fmt::Display for GuestRangeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Overflow { address } => write!(f, "the memory region at {address:#x} ends past the last address"),
            Self::Overlap { guest } => write!(f, "the memory region at guest address {guest:#x} overlaps another"),
        }
    }
}

impl std::error::Error for GuestRangeError {}

/// A word at any address: nobody says that a driver puts its requests at multiples of 8.
#[derive(Clone, Copy)]
#[repr(C, packed)]
struct AnyWord(u64);

/// A range that matched, flat, so that a match touches one cache line.
#[derive(Clone, Copy, Debug)]
struct Last {
    guest: u64,
    /// At how many offsets nothing at all would lie in it: one more than its length, or none if nothing has matched yet.
    places: u64,
    /// Where the range is mapped. The map owns a share of its region, and forgets this when it gives that up.
    base: NonNull<u8>,
    index: usize,
    region: RegionId,
}

/// Matches nothing.
const NOWHERE: Last = Last { guest: 0, places: 0, base: NonNull::dangling(), index: 0, region: RegionId(u16::MAX) };

impl Last {
    /// The offset of `len_bytes` from a guest-physical address on, if all of them lie here.
    #[inline(always)]
    fn offset(&self, guest: u64, len_bytes: u64) -> Option<u64> {
        // At how many offsets so many bytes would lie here: for a fixed length, loops work that out once.
        let places = self.places.saturating_sub(len_bytes);
        // Below the range the difference wraps to a huge number, which no range has places for.
        let offset = guest.wrapping_sub(self.guest);
        (offset < places).then_some(offset)
    }

    #[inline(always)]
    fn segment(&self, guest: u64, len_bytes: u32) -> Option<Segment> {
        let offset = self.offset(guest, u64::from(len_bytes))?;
        Some(Segment { offset, len_bytes, region: self.region })
    }

    #[inline(always)]
    fn spot(&self, guest: u64) -> Option<Spot> {
        Some(Spot::new(self.region, self.offset(guest, 1)?))
    }

    /// Sets a byte if it lies here. Says whether it does.
    #[inline(always)]
    fn put(&self, spot: Spot, byte: u8) -> bool {
        let offset = spot.offset_in(self.region);
        let here = offset < self.places.saturating_sub(1);
        if here {
            // SAFETY: the offset lies inside the mapping.
            unsafe { self.at(offset).write_volatile(byte) };
        }
        here
    }

    /// Words, each copied once; `None` if they do not all lie here.
    #[inline(always)]
    fn words<const N: usize>(&self, guest: u64) -> Option<[u64; N]> {
        let first = self.at(self.offset(guest, bytes_of_words::<N>())?).cast::<AnyWord>();
        Some(std::array::from_fn(|index| {
            // SAFETY: N words from there on lie inside the mapping.
            let word = unsafe { first.add(index) };
            // SAFETY: it lies inside the mapping, needs no alignment, and every bit pattern is a word.
            let AnyWord(word) = unsafe { word.read_volatile() };
            u64::from_le(word)
        }))
    }

    /// The address of an offset that lies here.
    #[inline(always)]
    fn at(&self, offset: u64) -> NonNull<u8> {
        let offset = usize::try_from(offset).expect("an offset inside a mapping");
        // SAFETY: callers got the offset from `Last::offset`, or from a segment of this region: it lies inside the mapping.
        unsafe { self.base.add(offset) }
    }
}

/// A guest's memory: ranges sorted by guest address, which never overlap.
#[derive(Clone, Debug)]
pub struct GuestMap {
    ranges: Vec<GuestRange>,
    /// Where the last words were, and the last buffer. What belongs to rings mostly lies in one range and data in another,
    /// if not all in the same; and few guests have more than two.
    words: Cell<Last>,
    buffers: Cell<Last>,
}

/// Looks into a guest's memory at guest-physical addresses: at one range of it, or wherever it is.
pub trait Look: Copy {
    /// A guest buffer as one segment; `None` if it does not lie in one range that can be seen.
    #[must_use]
    fn segment(self, guest: u64, len_bytes: u32) -> Option<Segment>;

    /// The place of one byte; `None` if it cannot be seen.
    #[must_use]
    fn spot(self, guest: u64) -> Option<Spot>;

    /// Little-endian words at any address, each copied once; `None` if they do not lie in one range that can be seen.
    #[must_use]
    fn words<const N: usize>(self, guest: u64) -> Option<[u64; N]>;
}

/// The ranges of a guest's memory that matched last: the others are not seen.
#[derive(Clone, Copy, Debug)]
pub struct Near<'a> {
    words: Last,
    buffers: Last,
    _map: PhantomData<&'a GuestMap>,
}

const fn bytes_of_words<const N: usize>() -> u64 {
    8 * N as u64
}

impl Near<'_> {
    /// Asks the processor to fetch the cache line of a guest-physical address where words are; any address is harmless.
    #[inline(always)]
    pub fn prefetch(self, guest: u64) {
        // An address elsewhere is not worth a branch: the range's first line is fetched then.
        let offset = self.words.offset(guest, 1).unwrap_or(0);
        crate::array::prefetch(self.words.at(offset));
    }

    /// Sets a byte if it lies here. Says whether it does.
    #[must_use]
    #[inline(always)]
    pub fn put(self, spot: Spot, byte: u8) -> bool {
        self.words.put(spot, byte)
    }
}

impl Look for Near<'_> {
    #[inline(always)]
    fn segment(self, guest: u64, len_bytes: u32) -> Option<Segment> {
        self.buffers.segment(guest, len_bytes)
    }

    #[inline(always)]
    fn spot(self, guest: u64) -> Option<Spot> {
        self.words.spot(guest)
    }

    #[inline(always)]
    fn words<const N: usize>(self, guest: u64) -> Option<[u64; N]> {
        self.words.words(guest)
    }
}

impl Look for &GuestMap {
    fn segment(self, guest: u64, len_bytes: u32) -> Option<Segment> {
        self.find_buffer(guest)?.segment(guest, len_bytes)
    }

    fn spot(self, guest: u64) -> Option<Spot> {
        self.find_words(guest)?.spot(guest)
    }

    fn words<const N: usize>(self, guest: u64) -> Option<[u64; N]> {
        self.find_words(guest)?.words(guest)
    }
}

// SAFETY: what matched last points into mappings that live as long as the map's own shares of their regions; nothing else
// about it belongs to a thread.
unsafe impl Send for GuestMap {}

impl Default for GuestMap {
    fn default() -> Self {
        Self { ranges: Vec::new(), words: Cell::new(NOWHERE), buffers: Cell::new(NOWHERE) }
    }
}

impl GuestMap {
    /// Adds a range.
    ///
    /// # Errors
    /// [`GuestRangeError`] if an address would overflow or the range overlaps another in guest space.
    pub fn add(&mut self, range: GuestRange) -> Result<(), GuestRangeError> {
        let len_bytes = range.region.len_bytes();
        for address in [range.guest, range.user] {
            address.checked_add(len_bytes).ok_or(GuestRangeError::Overflow { address })?;
        }
        let end = range.guest + len_bytes;
        if self.ranges.iter().any(|other| range.guest < other.guest + other.region.len_bytes() && other.guest < end) {
            return Err(GuestRangeError::Overlap { guest: range.guest });
        }
        let at = self.ranges.partition_point(|other| other.guest < range.guest);
        self.ranges.insert(at, range);
        self.forget();
        Ok(())
    }

    /// Takes out the range that has exactly these addresses and this length.
    pub fn remove(&mut self, guest: u64, user: u64, len_bytes: u64) -> Option<GuestRange> {
        let at = self.ranges.iter().position(|r| r.guest == guest && r.user == user && r.region.len_bytes() == len_bytes)?;
        self.forget();
        Some(self.ranges.remove(at))
    }

    /// All ranges, by guest address.
    #[must_use]
    pub fn ranges(&self) -> &[GuestRange] {
        &self.ranges
    }

    /// Whether memory of any range has gone missing under us.
    #[must_use]
    pub fn poisoned(&self) -> bool {
        self.ranges.iter().any(|range| range.region.poisoned())
    }

    /// Forgets what matched last.
    fn forget(&self) {
        self.words.set(NOWHERE);
        self.buffers.set(NOWHERE);
    }

    /// The range of an address where words are.
    #[inline]
    fn find_words(&self, guest: u64) -> Option<Last> {
        self.find(&self.words, &self.buffers, guest)
    }

    /// The range of an address where a buffer begins.
    #[inline]
    fn find_buffer(&self, guest: u64) -> Option<Last> {
        self.find(&self.buffers, &self.words, guest)
    }

    /// A last match that covers `guest`, else what a search finds, which becomes the first.
    #[inline]
    fn find(&self, first: &Cell<Last>, second: &Cell<Last>, guest: u64) -> Option<Last> {
        let covers = |last: &Last| last.offset(guest, 1).is_some();
        Some(first.get()).filter(covers).or_else(|| {
            // Where both are in use they stay apart, so that of two ranges none is ever searched for again.
            let found = Some(second.get()).filter(covers);
            let apart = found.is_some() && first.get().places > 0;
            let found = found.or_else(|| self.search(guest))?;
            if !apart {
                first.set(found);
            }
            Some(found)
        })
    }

    #[cold]
    #[inline(never)]
    fn search(&self, guest: u64) -> Option<Last> {
        let index = self.ranges.partition_point(|range| range.guest <= guest).checked_sub(1)?;
        let range = &self.ranges[index];
        let base = NonNull::new(range.region.as_ptr()).expect("a mapping is not at zero");
        let found = Last { guest: range.guest, places: range.region.len_bytes() + 1, base, index, region: range.region.id() };
        found.offset(guest, 1).map(|_| found)
    }

    /// The ranges that matched last, to look at several addresses without asking for them each time.
    #[must_use]
    #[inline(always)]
    pub fn near(&self) -> Near<'_> {
        Near { words: self.words.get(), buffers: self.buffers.get(), _map: PhantomData }
    }

    /// Sets a byte of this guest's memory; one of other memory is left alone.
    #[inline(always)]
    pub fn put(&self, spot: Spot, byte: u8) {
        if !self.near().put(spot, byte) {
            self.put_elsewhere(spot, byte);
        }
    }

    #[cold]
    fn put_elsewhere(&self, spot: Spot, byte: u8) {
        if let Some(region) = self.search_region(spot.region()) {
            let written = region.write(spot.offset(), &[byte]);
            debug_assert!(written.is_ok(), "spots stay inside their region");
        }
    }

    /// Turns a guest buffer into segments: one as a rule, more where it crosses from one range into the next.
    ///
    /// # Errors
    /// [`TranslateError`] if any byte is not guest memory; `each` may have been called for a part.
    #[inline]
    pub fn segments(&self, guest: u64, len_bytes: u32, mut each: impl FnMut(Segment)) -> Result<(), TranslateError> {
        let error = TranslateError { address: guest, len_bytes: u64::from(len_bytes) };
        let range = self.find_buffer(guest).ok_or(error)?;
        if let Some(segment) = range.segment(guest, len_bytes) {
            each(segment);
            return Ok(());
        }
        self.segments_across(guest, len_bytes, &mut each).ok_or(error)
    }

    /// As `segments`, where the buffer goes on in the next range.
    #[cold]
    fn segments_across(&self, guest: u64, len_bytes: u32, each: &mut dyn FnMut(Segment)) -> Option<()> {
        let mut at = guest;
        let mut left = len_bytes;
        loop {
            let range = self.find_buffer(at)?;
            let offset = at - range.guest;
            let here = u32::try_from(range.places - 1 - offset).map_or(left, |room| room.min(left));
            each(Segment { offset, len_bytes: here, region: range.region });
            left -= here;
            if left == 0 {
                return Some(());
            }
            at = at.checked_add(u64::from(here))?;
        }
    }

    /// The region a segment of this guest lies in.
    #[must_use]
    #[inline]
    pub fn region(&self, segment: &Segment) -> Option<&Arc<Region>> {
        let last = self.buffers.get();
        if last.region == segment.region() {
            self.ranges.get(last.index).map(|range| &range.region)
        } else {
            self.search_region(segment.region())
        }
    }

    #[cold]
    fn search_region(&self, id: RegionId) -> Option<&Arc<Region>> {
        self.ranges.iter().map(|range| &range.region).find(|region| region.id() == id)
    }

    /// Copies values out of guest memory at a guest-physical address, once.
    ///
    /// # Errors
    /// [`TranslateError`] if any byte is not guest memory, or a value lies across a seam.
    #[inline]
    pub fn load<T: Plain>(&self, guest: u64, into: &mut [T]) -> Result<(), TranslateError> {
        let len_bytes = u64::try_from(size_of_val(into)).expect("lengths fit 64 bits");
        let error = TranslateError { address: guest, len_bytes };
        let range = self.find_words(guest).ok_or(error)?;
        if self.ranges[range.index].region.load(guest - range.guest, into).is_ok() {
            return Ok(());
        }
        self.load_across(guest, into).map_err(|()| error)
    }

    /// As `load`, where the values go on in the next range.
    #[cold]
    fn load_across<T: Plain>(&self, guest: u64, into: &mut [T]) -> Result<(), ()> {
        let mut at = guest;
        for value in into {
            let range = self.find_words(at).ok_or(())?;
            self.ranges[range.index].region.load(at - range.guest, std::slice::from_mut(value)).map_err(|_| ())?;
            at = at.checked_add(u64::try_from(size_of::<T>()).expect("small")).ok_or(())?;
        }
        Ok(())
    }

    /// The region and offset of a front-end virtual address, with at least `len_bytes` behind it in the same region.
    ///
    /// # Errors
    /// [`TranslateError`] if the bytes do not lie in one range.
    pub fn user(&self, user: u64, len_bytes: u64) -> Result<(&Arc<Region>, u64), TranslateError> {
        let (range, offset) = self.find_user(user, len_bytes).ok_or(TranslateError { address: user, len_bytes })?;
        Ok((&range.region, offset))
    }

    /// The guest-physical address of a front-end virtual one, with at least `len_bytes` behind it in the same range.
    #[must_use]
    pub fn guest_of_user(&self, user: u64, len_bytes: u64) -> Option<u64> {
        self.find_user(user, len_bytes).map(|(range, offset)| range.guest + offset)
    }

    fn find_user(&self, user: u64, len_bytes: u64) -> Option<(&GuestRange, u64)> {
        self.ranges.iter().find_map(|range| {
            let offset = user.checked_sub(range.user)?;
            (offset.checked_add(len_bytes)? <= range.region.len_bytes()).then_some((range, offset))
        })
    }

    /// The region and offset of a guest-physical address, with at least `len_bytes` behind it in the same region.
    ///
    /// # Errors
    /// [`TranslateError`] if the bytes do not lie in one range.
    pub fn guest(&self, guest: u64, len_bytes: u64) -> Result<(&Arc<Region>, u64), TranslateError> {
        let error = TranslateError { address: guest, len_bytes };
        let range = self.find_words(guest).ok_or(error)?;
        let offset = range.offset(guest, len_bytes).ok_or(error)?;
        Ok((&self.ranges[range.index].region, offset))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn range(guest: u64, user: u64, len_bytes: u64) -> GuestRange {
        GuestRange { guest, user, region: Region::anonymous(len_bytes).unwrap() }
    }

    fn two() -> GuestMap {
        let mut map = GuestMap::default();
        map.add(range(0x10000, 0x7000_0000, 0x1000)).unwrap();
        map.add(range(0x11000, 0x9000_0000, 0x2000)).unwrap();
        map.add(range(0x20000, 0x5000_0000, 0x1000)).unwrap();
        map
    }

    #[test]
    fn a_buffer_across_two_neighbours_is_split_at_the_seam() {
        let map = two();
        let mut got = Vec::new();
        map.segments(0x10ff0, 0x20, |s| got.push((s.region(), s.offset(), s.len_bytes()))).unwrap();
        assert_eq!(got, [(map.ranges()[0].region.id(), 0xff0, 0x10), (map.ranges()[1].region.id(), 0, 0x10)]);
    }

    #[test]
    fn a_buffer_into_a_hole_or_past_the_end_is_refused() {
        let map = two();
        for (at, len) in [(0x12ff0, 0x20), (0xffff, 1), (0x20fff, 2), (u64::MAX, 1), (0x21000, 0)] {
            assert!(map.segments(at, len, |_| ()).is_err(), "{at:#x}+{len}");
        }
    }

    #[test]
    fn overlapping_and_overflowing_ranges_are_refused() {
        let mut map = two();
        assert_eq!(map.add(range(0x10fff, 0, 0x1000)).unwrap_err(), GuestRangeError::Overlap { guest: 0x10fff });
        assert!(matches!(map.add(range(u64::MAX - 5, 0, 0x1000)), Err(GuestRangeError::Overflow { .. })));
        assert!(matches!(map.add(range(0x90000, u64::MAX - 5, 0x1000)), Err(GuestRangeError::Overflow { .. })));
    }

    #[test]
    fn reads_cross_a_seam_and_stop_at_a_hole() {
        let map = two();
        map.ranges()[0].region.write(0xffe, b"ab").unwrap();
        map.ranges()[1].region.write(0, b"cd").unwrap();
        let mut got = [0; 4];
        map.load(0x10ffe, &mut got).unwrap();
        assert_eq!(&got, b"abcd");
        assert!(map.load(0x12ffe, &mut got).is_err());
    }

    #[test]
    fn what_matched_last_is_seen_at_once_and_all_else_by_a_search() {
        let map = two();
        assert_eq!(map.near().segment(0x10000, 1), None, "nothing has matched yet");
        assert_eq!((map.near().segment(0, 0), map.near().words::<1>(0)), (None, None));
        let first = (&map).segment(0x10ff8, 8).unwrap();
        assert_eq!((&map).words::<1>(0x10000), Some([0]));
        let near = map.near();
        assert_eq!((near.segment(0x10ff8, 8), near.segment(0x10ff8, 9), near.segment(0x20000, 1)), (Some(first), None, None));
        map.ranges()[0].region.write(0xff0, &[[1, 0, 0, 0, 0, 0, 0, 0], [2; 8]].concat()).unwrap();
        assert_eq!(near.words::<2>(0x10ff0), Some([1, 0x0202_0202_0202_0202]));
        assert_eq!(
            (near.words::<1>(0x10ff1), near.words::<2>(0x10ff1)),
            (Some([0x0200_0000_0000_0000]), None),
            "at any address, up to the end"
        );
        assert_eq!((near.spot(0x10fff).is_some(), near.spot(0x11000)), (true, None));
        assert_eq!((&map).words::<2>(0x10ff8), None, "a seam is for those who look more slowly");
    }

    #[test]
    fn two_ranges_in_turns_stay_near() {
        let map = two();
        assert!((&map).words::<1>(0x10000).is_some() && (&map).segment(0x20000, 1).is_some());
        // The other way round: both are known, and neither takes the other's place.
        assert!((&map).words::<1>(0x20000).is_some() && (&map).segment(0x10000, 1).is_some());
        let near = map.near();
        assert!(near.words::<1>(0x10000).is_some() && near.segment(0x20000, 1).is_some());
        assert!(near.words::<1>(0x20000).is_none() && near.segment(0x10000, 1).is_none());
        // A third one takes the place of what it is used for.
        assert!((&map).segment(0x11000, 1).is_some());
        let near = map.near();
        assert!(near.words::<1>(0x10000).is_some() && near.segment(0x11000, 1).is_some() && near.segment(0x20000, 1).is_none());
    }

    #[test]
    fn a_byte_is_put_where_its_spot_is_and_nowhere_else() {
        let map = two();
        let (first, other) = ((&map).spot(0x10ff8).unwrap(), map.ranges()[2].region.segment(3, 9).unwrap().first().unwrap());
        assert_eq!((first.region(), first.offset()), (map.ranges()[0].region.id(), 0xff8));
        assert!(map.near().put(first, 7));
        assert!(!map.near().put(other, 8), "of a range that is not near");
        map.put(other, 9);
        let byte = |range: usize, offset| {
            let mut byte = [0];
            map.ranges()[range].region.read(offset, &mut byte).unwrap();
            byte[0]
        };
        assert_eq!((byte(0, 0xff8), byte(2, 3)), (7, 9));
        map.put(Region::anonymous(4096).unwrap().segment(0, 1).unwrap().first().unwrap(), 5);
        assert_eq!(map.ranges()[2].region.segment(3, 0).unwrap().first(), None, "no bytes have no first one");
    }

    #[test]
    fn a_removed_range_is_no_longer_found() {
        let mut map = two();
        map.segments(0x20000, 1, |_| ()).unwrap();
        assert!(map.remove(0x20000, 0x5000_0000, 0x999).is_none());
        assert!(map.remove(0x20000, 0x5000_0000, 0x1000).is_some());
        assert!(map.segments(0x20000, 1, |_| ()).is_err());
        assert!(map.user(0x5000_0000, 1).is_err());
    }

    proptest! {
        #[test]
        fn segments_cover_exactly_what_was_asked(at in 0x0f000u64..0x22000, len in 1u32..0x4000) {
            let map = two();
            let mut covered = 0;
            let inside = |a: u64| map.ranges().iter().any(|r| a >= r.guest && a < r.guest + r.region.len_bytes());
            let whole = (at..at + u64::from(len)).step_by(0x100).chain([at + u64::from(len) - 1]).all(inside);
            let outcome = map.segments(at, len, |s| covered += s.len_bytes());
            prop_assert_eq!(outcome.is_ok(), whole);
            if whole { prop_assert_eq!(covered, len); }
        }
    }
}
