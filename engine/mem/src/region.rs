//! One stretch of shared memory: mapped once, unmapped with its last owner. Knows nothing of who uses it.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::{Arc, OnceLock};

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::mm::{MapFlags, ProtFlags};

use crate::array::{Array, Plain};
use crate::sigbus;

/// How many regions one process may hold at a time.
pub const REGIONS_MAX: u16 = 4096;

/// Names a region within this process; reused only after the last owner of the region is gone.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct RegionId(pub(crate) u16);

impl RegionId {
    /// The id as an index below [`REGIONS_MAX`], for tables keyed by region.
    #[must_use]
    #[inline]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// A checked piece of a region: it lay inside the region when it was made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment {
    pub(crate) offset: u64,
    pub(crate) len_bytes: u32,
    pub(crate) region: RegionId,
}

impl Segment {
    /// The region this is a piece of.
    #[must_use]
    #[inline]
    pub fn region(&self) -> RegionId {
        self.region
    }

    /// Where it begins, in bytes from the region's start.
    #[must_use]
    #[inline]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Its length in bytes; may be zero.
    #[must_use]
    #[inline]
    pub fn len_bytes(&self) -> u32 {
        self.len_bytes
    }

    /// Where its first byte lies, if it has one.
    #[must_use]
    #[inline]
    pub fn first(&self) -> Option<Spot> {
        (self.len_bytes > 0).then_some(Spot::new(self.region, self.offset))
    }

    /// The first `at` bytes and the rest.
    ///
    /// # Panics
    /// If `at` exceeds the length.
    #[must_use]
    #[inline]
    pub fn split_at(self, at: u32) -> (Self, Self) {
        let rest = self.len_bytes.checked_sub(at).expect("a split lies inside the segment");
        (Self { len_bytes: at, ..self }, Self { offset: self.offset + u64::from(at), len_bytes: rest, ..self })
    }
}

/// The place of one byte inside a region, as checked as a segment is: the region above the offset.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Spot(u64);

impl Spot {
    /// No region is longer than what offsets of so many bits reach.
    const OFFSET_BITS: u32 = 48;

    /// At an offset that was checked.
    #[inline(always)]
    pub(crate) fn new(region: RegionId, offset: u64) -> Self {
        debug_assert!(offset >> Self::OFFSET_BITS == 0, "offsets are those of mappings");
        Self(u64::from(region.0) << Self::OFFSET_BITS | offset)
    }

    /// The offset, if it is one of this region; else some number that no offset reaches.
    #[inline(always)]
    pub(crate) fn offset_in(self, region: RegionId) -> u64 {
        self.0 ^ u64::from(region.0) << Self::OFFSET_BITS
    }

    /// The region it lies in.
    #[must_use]
    #[inline]
    pub fn region(&self) -> RegionId {
        RegionId(u16::try_from(self.0 >> Self::OFFSET_BITS).expect("16 bits"))
    }

    /// Where, in bytes from the region's start.
    #[must_use]
    #[inline]
    pub fn offset(&self) -> u64 {
        self.offset_in(self.region())
    }
}

/// A piece that would not lie inside its region.
#[derive(Debug, PartialEq, Eq)]
pub struct BoundsError {
    /// First byte asked for, from the region's start.
    pub offset: u64,
    /// Bytes asked for.
    pub len_bytes: u64,
    /// Bytes the region has.
    pub region_bytes: u64,
}

impl fmt::Display for BoundsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { offset, len_bytes, region_bytes } = self;
        write!(f, "{len_bytes} bytes at offset {offset} do not lie (aligned) inside a region of {region_bytes} bytes")
    }
}

impl std::error::Error for BoundsError {}

/// Why memory could not be mapped.
#[derive(Debug)]
pub enum MapError {
    /// A region of no bytes, or one whose end overflows.
    Empty {
        /// Offset asked for.
        offset: u64,
        /// Length asked for.
        len_bytes: u64,
    },
    /// The file ends before the region does.
    PastEnd {
        /// Size of the file in bytes.
        file_bytes: u64,
        /// Where the region would end in it.
        end_bytes: u64,
    },
    /// All [`REGIONS_MAX`] ids are taken.
    TooMany,
    /// The kernel refused.
    Kernel(io::Error),
}

impl fmt::Display for MapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty { offset, len_bytes } => write!(f, "a memory region of {len_bytes} bytes at offset {offset} is empty or overflows"),
            Self::PastEnd { file_bytes, end_bytes } => {
                write!(f, "the memory region ends at byte {end_bytes} of a file that has {file_bytes} bytes")
            }
            Self::TooMany => write!(f, "all {REGIONS_MAX} memory regions of this process are in use"),
            Self::Kernel(_) => write!(f, "the kernel refused to map the memory region"),
        }
    }
}

impl std::error::Error for MapError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Kernel(error) => Some(error),
            _ => None,
        }
    }
}

/// Pages of a region pinned by the kernel: an io_uring whose buffer table holds them, to be cloned by each core.
#[derive(Debug)]
pub struct Pins {
    /// A ring that exists only to own the registered buffers.
    pub registrar: OwnedFd,
    /// How many entries of its buffer table, from 0, cover the region in order.
    pub entries: u16,
    /// Bytes each entry covers, the last one perhaps less.
    pub entry_bytes: u64,
}

/// Shared memory under one id. Unmapped when the last `Arc` goes, which must not be on a reactor: munmap of a large region takes long.
pub struct Region {
    id: RegionId,
    base: NonNull<u8>,
    len_bytes: usize,
    map_base: NonNull<u8>,
    map_bytes: usize,
    file: Option<MappedFile>,
    pins: OnceLock<Pins>,
}

/// What a region is a mapping of, kept so that another process can be given the same memory.
#[derive(Debug)]
pub struct MappedFile {
    /// The file.
    pub fd: OwnedFd,
    /// Where in it the region begins, in bytes.
    pub offset: u64,
}

// SAFETY: the region owns its mapping; all access goes through raw copies and atomics, which any thread may do.
unsafe impl Send for Region {}
// SAFETY: as for Send; the memory is shared with other processes anyway, so no method assumes exclusive access.
unsafe impl Sync for Region {}

impl fmt::Debug for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Region").field("id", &self.id).field("len_bytes", &self.len_bytes).finish_non_exhaustive()
    }
}

/// `f_type` of hugetlbfs (linux/magic.h), in whose files a page is huge.
const HUGETLBFS_MAGIC: i64 = 0x9584_58f6;

fn page_bytes() -> u64 {
    u64::try_from(rustix::param::page_size()).expect("a page size fits 64 bits")
}

/// Bytes of one page of a file: what offsets and lengths of its mappings are multiples of, also when they are unmapped.
fn file_page_bytes(file: BorrowedFd<'_>) -> Result<u64, MapError> {
    let stat = rustix::fs::fstatfs(file).map_err(|e| MapError::Kernel(e.into()))?;
    let huge = u64::try_from(stat.f_bsize).ok().filter(|_| stat.f_type == HUGETLBFS_MAGIC);
    Ok(huge.unwrap_or_else(page_bytes))
}

impl Region {
    /// Maps `len_bytes` of `file` from `offset`, shared, readable and writable.
    ///
    /// The file must already be long enough. Should it shrink later, touching the
    /// missing part reads zeroes and the region is [`poisoned`](Self::poisoned).
    ///
    /// # Errors
    /// Empty or overflowing ranges, a file that is too short, no free id, a refusal of the kernel.
    pub fn of_file(file: BorrowedFd<'_>, offset: u64, len_bytes: u64) -> Result<Arc<Self>, MapError> {
        let end_bytes = offset.checked_add(len_bytes).filter(|_| len_bytes > 0).ok_or(MapError::Empty { offset, len_bytes })?;
        let stat = rustix::fs::fstat(file).map_err(|e| MapError::Kernel(e.into()))?;
        let file_bytes = u64::try_from(stat.st_size).unwrap_or(0);
        if file_bytes < end_bytes {
            return Err(MapError::PastEnd { file_bytes, end_bytes });
        }
        let page_bytes = file_page_bytes(file)?;
        let kept = file.try_clone_to_owned().map_err(MapError::Kernel)?;
        let lead = offset % page_bytes;
        let overflow = MapError::Empty { offset, len_bytes };
        let whole = (len_bytes + lead).checked_next_multiple_of(page_bytes).and_then(|bytes| usize::try_from(bytes).ok());
        let map_bytes = whole.ok_or(overflow)?;
        // SAFETY: a null hint lets the kernel choose, so no existing mapping is replaced.
        let map = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                map_bytes,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED | MapFlags::NORESERVE,
                file,
                offset - lead,
            )
        };
        let map = map.map_err(|e| MapError::Kernel(e.into()))?;
        let inside = "inside the mapping";
        let (lead, len_bytes) = (usize::try_from(lead).expect(inside), usize::try_from(len_bytes).expect(inside));
        let kept = MappedFile { fd: kept, offset };
        Self::adopt(map, map_bytes, lead, len_bytes, Some(kept))
    }

    /// Zeroed memory of the engine's own that can be given to another process: a memfd that nobody can make shorter.
    ///
    /// # Errors
    /// As [`of_file`](Self::of_file).
    pub fn shared(len_bytes: u64) -> Result<Arc<Self>, MapError> {
        let kernel = |errno: rustix::io::Errno| MapError::Kernel(errno.into());
        let file = rustix::fs::memfd_create("spinel-memory", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).map_err(kernel)?;
        rustix::fs::ftruncate(&file, len_bytes).map_err(kernel)?;
        rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL).map_err(kernel)?;
        Self::of_file(file.as_fd(), 0, len_bytes)
    }

    /// Zeroed private memory of the engine's own, page-aligned, populated when first touched.
    ///
    /// # Errors
    /// An empty length, no free id, a refusal of the kernel.
    pub fn anonymous(len_bytes: u64) -> Result<Arc<Self>, MapError> {
        let empty = MapError::Empty { offset: 0, len_bytes };
        let map_bytes = usize::try_from(len_bytes).ok().filter(|len| *len > 0).ok_or(empty)?;
        // SAFETY: a null hint lets the kernel choose, so no existing mapping is replaced.
        let map = unsafe {
            rustix::mm::mmap_anonymous(
                std::ptr::null_mut(),
                map_bytes,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )
        };
        Self::adopt(map.map_err(|e| MapError::Kernel(e.into()))?, map_bytes, 0, map_bytes, None)
    }

    /// Takes over a fresh mapping of `map_bytes`, of which `len_bytes` behind the first `lead` are the region. With a
    /// file, all of it can vanish.
    fn adopt(
        map: *mut std::ffi::c_void,
        map_bytes: usize,
        lead: usize,
        len_bytes: usize,
        file: Option<MappedFile>,
    ) -> Result<Arc<Self>, MapError> {
        let map_base = NonNull::new(map.cast::<u8>()).expect("mmap never returns null");
        let may_vanish_bytes = if file.is_some() { map_bytes } else { 0 };
        let Some(index) = sigbus::guard(map_base.as_ptr().addr(), may_vanish_bytes) else {
            // SAFETY: the mapping was made by the caller a moment ago and nobody else knows of it.
            let _ = unsafe { rustix::mm::munmap(map, map_bytes) };
            return Err(MapError::TooMany);
        };
        // Guest memory must not end up in a core dump, nor in a forked child; neither is fatal.
        // SAFETY: the advice concerns only the mapping just made.
        let _ = unsafe { rustix::mm::madvise(map, map_bytes, rustix::mm::Advice::LinuxDontDump) };
        // SAFETY: the advice concerns only the mapping just made.
        let _ = unsafe { rustix::mm::madvise(map, map_bytes, rustix::mm::Advice::LinuxDontFork) };
        // SAFETY: lead is below map_bytes, so the result stays inside the mapping.
        let base = unsafe { map_base.add(lead) };
        Ok(Arc::new(Self { id: RegionId(index), base, len_bytes, map_base, map_bytes, file, pins: OnceLock::new() }))
    }

    /// This region's name in tables and segments.
    #[must_use]
    #[inline]
    pub fn id(&self) -> RegionId {
        self.id
    }

    /// Its length in bytes; never zero.
    #[must_use]
    #[inline]
    pub fn len_bytes(&self) -> u64 {
        u64::try_from(self.len_bytes).expect("lengths fit 64 bits")
    }

    /// The file it is a mapping of, if it is one.
    #[must_use]
    pub fn file(&self) -> Option<&MappedFile> {
        self.file.as_ref()
    }

    /// The first byte. Whoever dereferences it upholds the bounds and the sharing by themselves.
    #[must_use]
    pub fn as_ptr(&self) -> *mut u8 {
        self.base.as_ptr()
    }

    /// Whether part of the memory turned out to be missing when touched (its file had shrunk).
    #[must_use]
    pub fn poisoned(&self) -> bool {
        sigbus::poisoned(self.id.0)
    }

    /// The kernel's pins on this region, once there are any.
    #[must_use]
    pub fn pins(&self) -> Option<&Pins> {
        self.pins.get()
    }

    /// Attaches pins. They are dropped with the region; a second set is dropped at once.
    pub fn pin(&self, pins: Pins) {
        let _ = self.pins.set(pins);
    }

    /// A piece of this region, or an error if it would not lie inside.
    ///
    /// # Errors
    /// [`BoundsError`] when any byte would lie outside.
    #[inline]
    pub fn segment(&self, offset: u64, len_bytes: u32) -> Result<Segment, BoundsError> {
        self.check(offset, u64::from(len_bytes))?;
        Ok(Segment { offset, len_bytes, region: self.id })
    }

    /// `count` values of `T` from `offset`, naturally aligned.
    ///
    /// # Errors
    /// [`BoundsError`] when any byte would lie outside, or `offset` is not aligned for `T`.
    pub fn array<T: Plain>(self: &Arc<Self>, offset: u64, count: u32) -> Result<Array<T>, BoundsError> {
        let size = u64::try_from(size_of::<T>()).expect("a size fits 64 bits");
        let len_bytes = size * u64::from(count);
        let base = self.check(offset, len_bytes)?;
        if !base.addr().get().is_multiple_of(align_of::<T>()) {
            return Err(self.bounds_error(offset, len_bytes));
        }
        // SAFETY: `check` showed that `count` values lie inside the mapping, and the alignment was just checked.
        Ok(unsafe { Array::new(Arc::clone(self), base.cast::<T>(), count) })
    }

    /// Copies `into.len()` bytes out of the region. The bytes may change under the copy.
    ///
    /// # Errors
    /// [`BoundsError`] when any byte would lie outside.
    #[inline]
    pub fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), BoundsError> {
        let from = self.check(offset, u64::try_from(into.len()).expect("lengths fit 64 bits"))?;
        // SAFETY: `check` bounds the source; `into` is a live exclusive borrow, hence disjoint from the mapping.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), into.as_mut_ptr(), into.len()) };
        Ok(())
    }

    /// Copies whole values out of the region, whatever the alignment of `offset`. They may change under the copy.
    ///
    /// # Errors
    /// [`BoundsError`] when any byte would lie outside.
    #[inline]
    pub fn load<T: Plain>(&self, offset: u64, into: &mut [T]) -> Result<(), BoundsError> {
        let len = size_of_val(into);
        let from = self.check(offset, u64::try_from(len).expect("lengths fit 64 bits"))?;
        // SAFETY: `check` bounds the source; `into` is a live exclusive borrow of values for which every bit pattern is valid.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), into.as_mut_ptr().cast::<u8>(), len) };
        Ok(())
    }

    /// Copies `from` into the region.
    ///
    /// # Errors
    /// [`BoundsError`] when any byte would lie outside.
    #[inline]
    pub fn write(&self, offset: u64, from: &[u8]) -> Result<(), BoundsError> {
        let to = self.check(offset, u64::try_from(from.len()).expect("lengths fit 64 bits"))?;
        // SAFETY: `check` bounds the target; `from` is a live borrow, which never lies in a mapping.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to.as_ptr(), from.len()) };
        Ok(())
    }

    /// Sets `len_bytes` from `offset` to zero.
    ///
    /// # Errors
    /// [`BoundsError`] when any byte would lie outside.
    pub fn zero(&self, offset: u64, len_bytes: u64) -> Result<(), BoundsError> {
        let to = self.check(offset, len_bytes)?;
        let len = usize::try_from(len_bytes).expect("checked against a usize");
        // SAFETY: `check` bounds the target.
        unsafe { std::ptr::write_bytes(to.as_ptr(), 0, len) };
        Ok(())
    }

    /// Gives whole pages of the engine's own memory back to the kernel; they read as zeroes afterwards.
    ///
    /// # Errors
    /// [`BoundsError`] when any byte would lie outside or the range is not made of whole pages.
    pub fn release_pages(&self, offset: u64, len_bytes: u64) -> Result<(), BoundsError> {
        let from = self.check(offset, len_bytes)?;
        if !offset.is_multiple_of(page_bytes()) || !len_bytes.is_multiple_of(page_bytes()) {
            return Err(self.bounds_error(offset, len_bytes));
        }
        let len = usize::try_from(len_bytes).expect("checked against a usize");
        // A file's pages would only leave this mapping, and come back as they were: they have to leave the file.
        let advice = if self.file.is_some() { rustix::mm::Advice::LinuxRemove } else { rustix::mm::Advice::LinuxDontNeed };
        // SAFETY: `check` bounds the range and nothing outside raw copies ever looks at its bytes.
        let advised = unsafe { rustix::mm::madvise(from.as_ptr().cast(), len, advice) };
        if advised.is_err() {
            self.zero(offset, len_bytes)?;
        }
        Ok(())
    }

    /// Asks the processor for the cache lines of a range; any range is harmless.
    #[inline]
    pub fn prefetch(&self, offset: u64, len_bytes: u64) {
        const LINE_BYTES: usize = 64;
        let Ok(first) = self.check(offset, len_bytes) else { return };
        let len = usize::try_from(len_bytes).expect("checked against a usize");
        for line in (0..len).step_by(LINE_BYTES) {
            // SAFETY: the line begins inside the range, which lies inside the mapping.
            crate::array::prefetch(unsafe { first.add(line) });
        }
    }

    /// Copies between two regions (or within one, overlapping or not).
    ///
    /// # Errors
    /// [`BoundsError`] when any byte of either side would lie outside.
    pub fn copy(from: &Self, from_offset: u64, to: &Self, to_offset: u64, len_bytes: u64) -> Result<(), BoundsError> {
        let source = from.check(from_offset, len_bytes)?;
        let target = to.check(to_offset, len_bytes)?;
        let len = usize::try_from(len_bytes).expect("checked against a usize");
        if from.id == to.id {
            // SAFETY: both ranges were checked; `copy` allows overlap.
            unsafe { std::ptr::copy(source.as_ptr(), target.as_ptr(), len) };
        } else {
            // SAFETY: both ranges were checked; two mappings never overlap in this address space.
            unsafe { std::ptr::copy_nonoverlapping(source.as_ptr(), target.as_ptr(), len) };
        }
        Ok(())
    }

    #[cold]
    fn bounds_error(&self, offset: u64, len_bytes: u64) -> BoundsError {
        BoundsError { offset, len_bytes, region_bytes: self.len_bytes() }
    }

    /// The address of a range that lies inside, or an error.
    #[inline]
    pub(crate) fn check(&self, offset: u64, len_bytes: u64) -> Result<NonNull<u8>, BoundsError> {
        match offset.checked_add(len_bytes) {
            Some(end) if end <= self.len_bytes() => {
                let offset = usize::try_from(offset).expect("inside a mapping");
                // SAFETY: offset <= len_bytes of a live mapping.
                Ok(unsafe { self.base.add(offset) })
            }
            _ => Err(self.bounds_error(offset, len_bytes)),
        }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        sigbus::release(self.id.0);
        // SAFETY: the last owner is going; every Array holds an Arc, so no pointer of ours is left.
        let unmapped = unsafe { rustix::mm::munmap(self.map_base.as_ptr().cast(), self.map_bytes) };
        // The kernel refuses only near the limit of mappings, to which a hostile peer may have brought us: then it leaks.
        debug_assert!(unmapped.is_ok(), "a mapping goes as a whole: {unmapped:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    fn file_of(len_bytes: u64) -> std::fs::File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(len_bytes).unwrap();
        file
    }

    #[test]
    fn a_segment_never_reaches_past_its_region() {
        let region = Region::anonymous(8192).unwrap();
        assert_eq!(region.segment(4096, 4096).unwrap().len_bytes(), 4096);
        assert!(region.segment(4096, 4097).is_err());
        assert!(region.segment(u64::MAX, 2).is_err());
        assert!(region.segment(8192, 0).is_ok());
        assert!(region.segment(8193, 0).is_err());
    }

    #[test]
    fn a_file_shorter_than_the_region_is_refused() {
        let file = file_of(4096);
        let error = Region::of_file(file.as_fd(), 0, 4097).unwrap_err();
        assert!(matches!(error, MapError::PastEnd { file_bytes: 4096, end_bytes: 4097 }));
        assert!(matches!(Region::of_file(file.as_fd(), u64::MAX, 2), Err(MapError::Empty { .. })));
        assert!(matches!(Region::of_file(file.as_fd(), 0, 0), Err(MapError::Empty { .. })));
    }

    #[test]
    fn an_offset_inside_a_page_maps_the_right_bytes() {
        let file = file_of(3 * 4096);
        let whole = Region::of_file(file.as_fd(), 0, 3 * 4096).unwrap();
        whole.write(4096 + 512, b"spinel").unwrap();
        let part = Region::of_file(file.as_fd(), 4096 + 512, 4096).unwrap();
        let mut got = [0; 6];
        part.read(0, &mut got).unwrap();
        assert_eq!(&got, b"spinel");
        assert_eq!(part.len_bytes(), 4096);
    }

    #[test]
    fn a_piece_of_a_huge_page_is_mapped_and_unmapped() {
        use rustix::fs::MemfdFlags;
        let file = rustix::fs::memfd_create("huge", MemfdFlags::CLOEXEC | MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB).unwrap();
        rustix::fs::ftruncate(&file, 4 << 20).unwrap();
        // Mapping takes no huge page, so a machine without any can do this too.
        for (offset, len_bytes) in [(0, 4096), (4096, 8192), ((2 << 20) - 4096, 8192), (0, 4 << 20)] {
            let region = Region::of_file(file.as_fd(), offset, len_bytes).unwrap();
            assert_eq!(region.len_bytes(), len_bytes);
            assert!(region.segment(len_bytes, 1).is_err());
        }
    }

    #[test]
    fn a_file_that_shrinks_poisons_its_region_and_no_other() {
        let file = file_of(64 * 4096);
        let other = Region::of_file(file_of(4096).as_fd(), 0, 4096).unwrap();
        let region = Region::of_file(file.as_fd(), 0, 64 * 4096).unwrap();
        region.write(63 * 4096, b"x").unwrap();
        file.set_len(4096).unwrap();
        let mut got = [7];
        region.read(63 * 4096, &mut got).unwrap();
        assert_eq!(got, [0]);
        assert!(region.poisoned());
        other.write(0, b"y").unwrap();
        assert!(!other.poisoned());
    }

    #[test]
    fn copies_within_one_region_may_overlap() {
        let region = Region::anonymous(4096).unwrap();
        region.write(0, b"abcdef").unwrap();
        Region::copy(&region, 0, &region, 2, 4).unwrap();
        let mut got = [0; 6];
        region.read(0, &mut got).unwrap();
        assert_eq!(&got, b"ababcd");
    }

    #[test]
    fn released_pages_read_as_zeroes() {
        for region in [Region::anonymous(3 * 4096).unwrap(), Region::shared(3 * 4096).unwrap()] {
            region.write(4096, b"gone").unwrap();
            region.write(0, b"kept").unwrap();
            region.release_pages(4096, 4096).unwrap();
            let mut got = [1; 4];
            region.read(4096, &mut got).unwrap();
            assert_eq!(got, [0; 4]);
            region.read(0, &mut got).unwrap();
            assert_eq!(&got, b"kept");
            assert!(region.release_pages(1, 4096).is_err());
        }
    }

    #[test]
    fn shared_memory_is_mapped_again_by_its_file_and_nobody_can_shorten_it() {
        let region = Region::shared(3 * 4096).unwrap();
        region.write(4096, b"spinel").unwrap();
        let file = region.file().expect("it is of a file");
        assert!(rustix::fs::ftruncate(&file.fd, 4096).is_err());
        let part = Region::of_file(file.fd.as_fd(), 4096, 4096).unwrap();
        drop(region);
        let mut got = [0; 6];
        part.read(0, &mut got).unwrap();
        assert_eq!((&got, part.file().map(|file| file.offset)), (b"spinel", Some(4096)));
        assert!(Region::anonymous(4096).unwrap().file().is_none());
    }

    #[test]
    fn a_prefetch_changes_nothing() {
        let region = Region::anonymous(3 * 4096).unwrap();
        region.write(4000, b"stays").unwrap();
        for (offset, len_bytes) in [(0, 3 * 4096), (4000, 1), (3 * 4096, 0), (3 * 4096, 1), (u64::MAX, 2)] {
            region.prefetch(offset, len_bytes);
        }
        let mut got = [0; 5];
        region.read(4000, &mut got).unwrap();
        assert_eq!(&got, b"stays");
    }

    #[test]
    fn misaligned_arrays_are_refused() {
        let region = Region::anonymous(4096).unwrap();
        assert!(region.array::<u64>(4, 1).is_err());
        assert!(region.array::<u32>(4, 1023).is_ok());
        assert!(region.array::<u32>(4, 1024).is_err());
    }
}
