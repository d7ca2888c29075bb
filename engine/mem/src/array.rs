//! Words and descriptors in shared memory, read and written one at a time. Knows nothing of what they mean.

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

use crate::region::Region;

mod sealed {
    pub trait Sealed {}
    impl Sealed for u8 {}
    impl Sealed for u16 {}
    impl Sealed for u32 {}
    impl Sealed for u64 {}
    impl Sealed for [u32; 2] {}
    impl Sealed for [u64; 2] {}
}

/// Values for which every bit pattern is valid: `u8`, `u16`, `u32`, `u64`, and pairs of the last two. Read as the machine's own byte order.
pub trait Plain: sealed::Sealed + Copy + 'static {}
impl<T: sealed::Sealed + Copy + 'static> Plain for T {}

/// A checked array in shared memory that keeps its region mapped.
///
/// Another party may change any element at any time: `get` copies once, and the copy
/// is what must be checked.
#[derive(Debug)]
pub struct Array<T: Plain> {
    first: NonNull<T>,
    count: u32,
    region: Arc<Region>,
}

// SAFETY: the pointer stays valid as long as the Arc beside it, and access is volatile or atomic from any thread.
unsafe impl<T: Plain> Send for Array<T> {}
// SAFETY: as for Send; other processes write there anyway, and nothing here assumes that nobody else does.
unsafe impl<T: Plain> Sync for Array<T> {}

impl<T: Plain> Array<T> {
    /// # Safety
    /// `first` is aligned and `count` values from it lie inside `region`.
    pub(crate) unsafe fn new(region: Arc<Region>, first: NonNull<T>, count: u32) -> Self {
        Self { first, count, region }
    }

    /// How many elements there are.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// The region it lies in.
    #[must_use]
    pub fn region(&self) -> &Arc<Region> {
        &self.region
    }

    #[inline]
    fn at(&self, index: u32) -> NonNull<T> {
        if index >= self.count {
            outside(index, self.count);
        }
        // SAFETY: index < count, and `new` promised that count values lie inside the region.
        unsafe { self.first.add(index as usize) }
    }

    /// Copies one element out.
    ///
    /// # Panics
    /// If `index` is not below `count()`: callers mask or check it first.
    #[must_use]
    #[inline]
    pub fn get(&self, index: u32) -> T {
        // SAFETY: `at` returns an aligned address inside the live region, and any bit pattern is a T.
        unsafe { self.at(index).read_volatile() }
    }

    /// Stores one element.
    ///
    /// # Panics
    /// If `index` is not below `count()`.
    #[inline]
    pub fn set(&self, index: u32, value: T) {
        // SAFETY: `at` returns an aligned address inside the live, writable region.
        unsafe { self.at(index).write_volatile(value) };
    }
}

/// Apart, so that the index need not lie in memory for the sake of a message.
#[cold]
#[inline(never)]
fn outside(index: u32, count: u32) -> ! {
    panic!("index {index} of an array of {count}")
}

/// An array whose length is a power of two, so that any index is cut to one that it has.
#[derive(Debug)]
pub struct Wrapping<T: Plain> {
    array: Array<T>,
    mask: u32,
}

impl<T: Plain> Wrapping<T> {
    /// The same array; `None` if its length is no power of two.
    #[must_use]
    pub fn of(array: Array<T>) -> Option<Self> {
        let mask = array.count.wrapping_sub(1);
        array.count.is_power_of_two().then_some(Self { array, mask })
    }

    #[inline(always)]
    fn at(&self, index: u16) -> NonNull<T> {
        let index = u32::from(index) & self.mask;
        // SAFETY: what is left of the index is below the length, a power of two, and so lies inside the region.
        unsafe { self.array.first.add(index as usize) }
    }

    /// Copies one element out.
    #[must_use]
    #[inline(always)]
    pub fn get(&self, index: u16) -> T {
        // SAFETY: `at` returns an aligned address inside the live region, and any bit pattern is a T.
        unsafe { self.at(index).read_volatile() }
    }
}

impl Wrapping<[u32; 2]> {
    /// Stores both words of one element, one after the other.
    #[inline(always)]
    pub fn put(&self, index: u16, first: u32, second: u32) {
        let at = self.at(index).cast::<u32>();
        // SAFETY: the first word of an element inside the live, writable region.
        unsafe { at.write_volatile(first) };
        // SAFETY: the element has a second word.
        let at = unsafe { at.add(1) };
        // SAFETY: as the first.
        unsafe { at.write_volatile(second) };
    }
}

/// Asks the processor to fetch the cache line of an address inside a mapping, to be read.
#[inline(always)]
pub(crate) fn prefetch(address: NonNull<u8>) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch has no effect but on the cache.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(address.as_ptr().cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

impl Wrapping<[u64; 2]> {
    /// The second word of an element.
    #[inline(always)]
    fn second(&self, index: u16) -> &AtomicU64 {
        let at = self.at(index).cast::<u64>();
        // SAFETY: an element has two words.
        let at = unsafe { at.add(1) };
        // SAFETY: the address is aligned and live as long as self; every access of ours to it is atomic or volatile.
        unsafe { AtomicU64::from_ptr(at.as_ptr()) }
    }

    /// Loads the second word of an element, then the first: what was written before the second is seen with it.
    #[must_use]
    #[inline(always)]
    pub fn acquire(&self, index: u16) -> [u64; 2] {
        let second = self.second(index).load(Ordering::Acquire);
        // SAFETY: the first word of an element inside the live region; any bit pattern is a word.
        [unsafe { self.at(index).cast::<u64>().read_volatile() }, second]
    }

    /// Stores the second word of an element with the given ordering.
    #[inline(always)]
    pub fn store_second(&self, index: u16, word: u64, ordering: Ordering) {
        self.second(index).store(word, ordering);
    }

    /// Stores the first word of an element.
    #[inline(always)]
    pub fn set_first(&self, index: u16, word: u64) {
        // SAFETY: the first word of an element inside the live, writable region.
        unsafe { self.at(index).cast::<u64>().write_volatile(word) };
    }

    /// Stores the first word of an element with the given ordering.
    #[inline(always)]
    pub fn store_first(&self, index: u16, word: u64, ordering: Ordering) {
        // SAFETY: the first word of an element is aligned and live as long as self; every access of ours to it is atomic or volatile.
        let first = unsafe { AtomicU64::from_ptr(self.at(index).cast::<u64>().as_ptr()) };
        first.store(word, ordering);
    }
}

macro_rules! atomic_words {
    ($word:ty, $atomic:ty) => {
        impl Array<$word> {
            #[inline]
            fn atomic(&self, index: u32) -> &$atomic {
                // SAFETY: the address is aligned and live as long as self; every access of ours to it is atomic or volatile.
                unsafe { <$atomic>::from_ptr(self.at(index).as_ptr()) }
            }

            /// Loads one word with the given ordering.
            #[must_use]
            #[inline]
            pub fn load(&self, index: u32, ordering: Ordering) -> $word {
                self.atomic(index).load(ordering)
            }

            /// Stores one word with the given ordering.
            #[inline]
            pub fn store(&self, index: u32, value: $word, ordering: Ordering) {
                self.atomic(index).store(value, ordering);
            }
        }
    };
}

impl Array<u8> {
    /// Sets bits of one byte, which others may set or clear at the same time. What was written before can be seen with them.
    #[inline]
    pub fn set_bits(&self, index: u32, bits: u8) {
        // SAFETY: the address is live as long as self; every access of ours to it is atomic or volatile.
        let byte = unsafe { AtomicU8::from_ptr(self.at(index).as_ptr()) };
        if bits == u8::MAX {
            // Nobody's bits are lost, and many bytes in a row cost a store each.
            byte.store(bits, Ordering::Release);
        } else {
            byte.fetch_or(bits, Ordering::SeqCst);
        }
    }
}

atomic_words!(u16, AtomicU16);
atomic_words!(u32, AtomicU32);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_where_bytes_are() {
        let region = Region::anonymous(4096).unwrap();
        let words = region.array::<u32>(8, 4).unwrap();
        words.set(1, 0x0403_0201);
        let mut bytes = [0; 4];
        region.read(12, &mut bytes).unwrap();
        assert_eq!(bytes, 0x0403_0201_u32.to_ne_bytes());
        assert_eq!(words.get(1), 0x0403_0201);
    }

    #[test]
    fn an_array_keeps_its_region_mapped() {
        let region = Region::anonymous(4096).unwrap();
        let index = region.array::<u16>(2, 1).unwrap();
        drop(region);
        index.store(0, 9, Ordering::Release);
        assert_eq!(index.load(0, Ordering::Acquire), 9);
    }

    #[test]
    fn a_wrapping_array_cuts_every_index_to_one_it_has() {
        let region = Region::anonymous(4096).unwrap();
        let pairs = Wrapping::of(region.array::<[u32; 2]>(4, 8).unwrap()).unwrap();
        for index in 0..=u16::MAX {
            pairs.put(index, index.into(), 1);
            assert_eq!(pairs.get(index % 8), [index.into(), 1]);
        }
        let mut behind = [1; 8];
        region.read(4 + 64, &mut behind).unwrap();
        assert_eq!(behind, [0; 8], "nothing is written behind it");
        assert!(Wrapping::of(region.array::<u16>(0, 6).unwrap()).is_none());
        assert!(Wrapping::of(region.array::<u16>(0, 0).unwrap()).is_none());
    }

    #[test]
    fn a_pair_is_read_and_written_by_its_words() {
        let region = Region::anonymous(4096).unwrap();
        let pairs = Wrapping::of(region.array::<[u64; 2]>(16, 4).unwrap()).unwrap();
        pairs.set_first(1, 3);
        pairs.store_second(5, 4, Ordering::Release);
        assert_eq!((pairs.acquire(1), pairs.get(1)), ([3, 4], [3, 4]));
        assert_eq!([0, 2, 3].map(|index| pairs.get(index)), [[0; 2]; 3]);
        let words = region.array::<u32>(32, 2).unwrap();
        words.store(1, 7, Ordering::Relaxed);
        assert_eq!((words.load(0, Ordering::Acquire), pairs.get(1)[0]), (3, 7 << 32 | 3));
    }

    #[test]
    #[should_panic(expected = "index 4 of an array of 4")]
    fn an_index_past_the_end_is_our_own_fault_and_stops_us() {
        let region = Region::anonymous(4096).unwrap();
        let _ = region.array::<u32>(0, 4).unwrap().get(4);
    }
}
