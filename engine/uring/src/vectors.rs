//! Scatter-gather lists, one per slot, in one preallocated arena. Knows nothing of what is read or written.

use libc::iovec;

/// The part of a slot's stride that is still to be transferred.
#[derive(Clone, Copy, Default, Debug)]
struct Span {
    first: u16,
    end: u16,
}

/// The lists of all slots of one channel: `stride` entries each.
pub(crate) struct Vectors {
    entries: Box<[iovec]>,
    spans: Box<[Span]>,
    stride: usize,
}

impl Vectors {
    /// Lists for `depth` slots. The arena is populated when a slot first needs it.
    pub(crate) fn new(depth: usize, stride: u16) -> Self {
        let entries = Box::<[iovec]>::new_zeroed_slice(depth * usize::from(stride));
        // SAFETY: an iovec of zeroes is a valid, empty one.
        let entries = unsafe { entries.assume_init() };
        Self { entries, spans: vec![Span::default(); depth].into_boxed_slice(), stride: usize::from(stride) }
    }

    /// Empties a slot's list.
    pub(crate) fn clear(&mut self, slot: usize) {
        self.spans[slot] = Span::default();
    }

    /// Adds a buffer; the caller keeps within the stride.
    pub(crate) fn push(&mut self, slot: usize, address: *mut u8, len_bytes: u32) {
        let span = &mut self.spans[slot];
        assert!(usize::from(span.end) < self.stride, "a slot's list is full");
        self.entries[slot * self.stride + usize::from(span.end)] = iovec { iov_base: address.cast(), iov_len: len_bytes as usize };
        span.end += 1;
    }

    /// What is still to be transferred.
    pub(crate) fn left(&self, slot: usize) -> &[iovec] {
        let Span { first, end } = self.spans[slot];
        &self.entries[slot * self.stride + usize::from(first)..slot * self.stride + usize::from(end)]
    }

    /// Takes the first `len_bytes` off the list.
    pub(crate) fn consume(&mut self, slot: usize, mut len_bytes: usize) {
        let base = slot * self.stride;
        let span = &mut self.spans[slot];
        while len_bytes > 0 {
            assert!(span.first < span.end, "no more is taken off a list than it holds");
            let entry = &mut self.entries[base + usize::from(span.first)];
            let here = entry.iov_len.min(len_bytes);
            entry.iov_base = entry.iov_base.wrapping_byte_add(here);
            entry.iov_len -= here;
            len_bytes -= here;
            span.first += u16::from(entry.iov_len == 0);
        }
    }

    /// Calls `each` with the buffers of the first `len_bytes`, in order.
    fn walk(&self, slot: usize, mut len_bytes: usize, mut each: impl FnMut(*mut u8, usize)) {
        for entry in self.left(slot) {
            let here = entry.iov_len.min(len_bytes);
            each(entry.iov_base.cast(), here);
            len_bytes -= here;
        }
        assert_eq!(len_bytes, 0, "no more is copied than a list holds");
    }

    /// Copies the first `len_bytes` of the listed buffers to `to`.
    ///
    /// # Safety
    /// The listed buffers are mapped, and `to` is the first of `len_bytes` writable bytes that none of them overlaps.
    pub(crate) unsafe fn gather(&self, slot: usize, len_bytes: usize, mut to: *mut u8) {
        self.walk(slot, len_bytes, |from, here| {
            // SAFETY: the caller vouches for both sides, and `walk` asserts that no more than `len_bytes` is copied.
            unsafe { std::ptr::copy_nonoverlapping(from, to, here) };
            to = to.wrapping_add(here);
        });
    }

    /// Copies `len_bytes` from `from` into the first of the listed buffers.
    ///
    /// # Safety
    /// The listed buffers are mapped and writable, and `from` is the first of `len_bytes` bytes that none of them overlaps.
    pub(crate) unsafe fn scatter(&self, slot: usize, len_bytes: usize, mut from: *const u8) {
        self.walk(slot, len_bytes, |to, here| {
            // SAFETY: the caller vouches for both sides, and `walk` asserts that no more than `len_bytes` is copied.
            unsafe { std::ptr::copy_nonoverlapping(from, to, here) };
            from = from.wrapping_add(here);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_taken_in_rounds_is_what_was_listed(lens in prop::collection::vec(1usize..40, 1..8), rounds in prop::collection::vec(1usize..60, 1..20)) {
            let mut bytes = (0..=u8::MAX).cycle();
            let mut buffers: Vec<Vec<u8>> = lens.iter().map(|&len| bytes.by_ref().take(len).collect()).collect();
            let all: Vec<u8> = buffers.concat();
            let mut vectors = Vectors::new(3, 8);
            for buffer in &mut buffers {
                vectors.push(1, buffer.as_mut_ptr(), u32::try_from(buffer.len()).unwrap());
            }
            let mut taken = 0;
            for round in rounds {
                let here = round.min(all.len() - taken);
                let mut got = vec![0; here];
                // SAFETY: the buffers live as long as the test, and `got` has `here` bytes.
                unsafe { vectors.gather(1, here, got.as_mut_ptr()) };
                prop_assert_eq!(&got, &all[taken..taken + here]);
                let flipped: Vec<u8> = got.iter().map(|byte| !byte).collect();
                // SAFETY: as above.
                unsafe { vectors.scatter(1, here, flipped.as_ptr()) };
                vectors.consume(1, here);
                taken += here;
            }
            let left: usize = vectors.left(1).iter().map(|entry| entry.iov_len).sum();
            prop_assert_eq!(left, all.len() - taken);
            let expected: Vec<u8> = all.iter().enumerate().map(|(at, byte)| if at < taken { !byte } else { *byte }).collect();
            prop_assert_eq!(buffers.concat(), expected);
            prop_assert!(vectors.left(0).is_empty() && vectors.left(2).is_empty());
        }
    }

    #[test]
    #[should_panic(expected = "a slot's list is full")]
    fn a_list_longer_than_its_stride_is_our_own_fault_and_stops_us() {
        let mut vectors = Vectors::new(2, 1);
        let mut byte = 0;
        vectors.push(0, &raw mut byte, 1);
        vectors.push(0, &raw mut byte, 1);
    }
}
