//! A log-linear histogram with one writer. Knows no unit; the engine records nanoseconds.
//!
//! 32 buckets for each power of two, so a bucket is at most 1/32 (3.2 %) wide; 8 KiB.
//! One core writes with relaxed stores, so recording costs no more than plain memory;
//! any thread may read at any time and sees each count at some recent value.

use std::sync::atomic::{AtomicU64, Ordering};

const SUB_BITS: u32 = 5;
const SUBS: u64 = 1 << SUB_BITS;
/// The largest value told apart: 2^36 - 1 ns, about 69 s. Larger ones are counted there.
const VALUE_MAX: u64 = (1 << 36) - 1;
/// How many buckets there are.
pub const BUCKETS: usize = 1024;

/// The bucket of a value.
#[must_use]
#[inline]
pub fn bucket_of(value: u64) -> usize {
    let value = value.min(VALUE_MAX);
    let exponent = 63 - (value | SUBS).leading_zeros();
    let shift = exponent - SUB_BITS;
    usize::try_from((u64::from(shift) << SUB_BITS) + (value >> shift)).expect("below BUCKETS")
}

/// The lowest and the highest value of a bucket, inclusive.
///
/// # Panics
/// If `bucket` is not below [`BUCKETS`].
#[must_use]
pub fn bucket_range(bucket: usize) -> (u64, u64) {
    assert!(bucket < BUCKETS, "bucket {bucket} of {BUCKETS}");
    let bucket = u64::try_from(bucket).expect("small");
    let shift = (bucket >> SUB_BITS).saturating_sub(1);
    let low = (bucket - (shift << SUB_BITS)) << shift;
    (low, low + (1 << shift) - 1)
}

/// Counts of values. See the module's first lines for who may do what.
#[derive(Debug)]
pub struct Histogram {
    counts: Box<[AtomicU64; BUCKETS]>,
}

impl Default for Histogram {
    fn default() -> Self {
        let counts: Vec<AtomicU64> = (0..BUCKETS).map(|_| AtomicU64::new(0)).collect();
        Self { counts: counts.into_boxed_slice().try_into().expect("exactly BUCKETS") }
    }
}

impl Histogram {
    /// Counts one value. Only the owning core calls this.
    #[inline]
    pub fn record(&self, value: u64) {
        self.record_alike(value, 1);
    }

    /// Counts a value so many times. Only the owning core calls this.
    #[inline]
    pub fn record_alike(&self, value: u64, count: u64) {
        bump(&self.counts[bucket_of(value)], count);
    }

    /// A copy of all counts.
    #[must_use]
    pub fn counts(&self) -> Vec<u64> {
        self.counts.iter().map(|count| count.load(Ordering::Relaxed)).collect()
    }
}

/// Adds without a locked instruction: there is one writer.
#[inline]
pub(crate) fn bump(counter: &AtomicU64, by: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(by), Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn buckets_follow_each_other_without_a_gap() {
        let mut next = 0;
        for bucket in 0..BUCKETS {
            let (low, high) = bucket_range(bucket);
            assert_eq!(low, next, "bucket {bucket}");
            next = high + 1;
        }
        assert_eq!(next, VALUE_MAX + 1);
    }

    proptest! {
        #[test]
        fn a_value_lies_in_its_bucket_and_the_bucket_is_narrow(value in 0..=VALUE_MAX) {
            let (low, high) = bucket_range(bucket_of(value));
            prop_assert!(low <= value && value <= high);
            prop_assert!((high - low) * 32 <= low.max(32));
        }
    }

    #[test]
    fn values_beyond_the_range_count_in_the_last_bucket() {
        let histogram = Histogram::default();
        histogram.record(u64::MAX);
        assert_eq!(histogram.counts()[BUCKETS - 1], 1);
    }
}
