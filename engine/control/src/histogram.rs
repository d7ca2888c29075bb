//! Latency histograms as others read them: hdrhistogram's, percentiles, and the reply of SPDK's
//! `bdev_get_histogram`. It refuses to know how the engine records them: it takes buckets as
//! `(lowest value, highest value, count)`, both ends included, in any order and width.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hdrhistogram::Histogram;
use serde_json::{Value, json};

/// Buckets as they are passed in: lowest and highest value (both included) and count.
pub type Bucket = (u64, u64, u64);

/// What [`to_hdr`] tells apart, in ns: up to an hour. Longer is counted as an hour.
const HDR_MAX_NS: u64 = 3_600_000_000_000;
/// Three significant digits.
const HDR_DIGITS: u8 = 3;

/// SPDK's histograms (its histogram_data.h): 2^7 buckets to a range. The first two ranges have
/// buckets one value wide; in every further range they are twice as wide as in the one before.
const BUCKET_SHIFT: u32 = 7;
const BUCKETS_PER_RANGE: usize = 1 << BUCKET_SHIFT;
/// From the granularity that a reply may name: finer would be gigabytes, and SPDK itself is
/// content with 7.
const BUCKET_SHIFT_MAX: u32 = 16;

/// The same counts as an [`hdrhistogram::Histogram`], in the buckets' unit (ns). Each bucket
/// counts at its highest value, so that a percentile read from it is an upper bound.
pub fn to_hdr(buckets: impl IntoIterator<Item = Bucket>) -> Histogram<u64> {
    let mut histogram = Histogram::new_with_bounds(1, HDR_MAX_NS, HDR_DIGITS).expect("the bounds are constants that hdrhistogram accepts");
    for (_, highest, count) in buckets {
        histogram.saturating_record_n(highest, count);
    }
    histogram
}

/// The percentiles that `bdev_get_iostat` reports for an operation, in ns:
/// `{p50, p90, p99, p999, p9999, max, count}`; all zero where nothing was recorded.
pub fn percentiles(histogram: &Histogram<u64>) -> Value {
    let at = |quantile| histogram.value_at_quantile(quantile);
    json!({
        "p50": at(0.5),
        "p90": at(0.9),
        "p99": at(0.99),
        "p999": at(0.999),
        "p9999": at(0.9999),
        "max": histogram.max(),
        "count": histogram.len(),
    })
}

/// The reply of SPDK's `bdev_get_histogram`: the counts of all its buckets as little-endian u64,
/// in base64, with `tick_rate` ticks to a second. A bucket counts where its middle lies.
pub fn to_spdk(buckets: impl IntoIterator<Item = Bucket>, tick_rate: u64) -> Value {
    let mut counts = vec![0_u64; spdk_buckets(BUCKET_SHIFT)];
    for (lowest, highest, count) in buckets {
        let middle = lowest + highest.saturating_sub(lowest) / 2;
        if let Some(sum) = counts.get_mut(spdk_index(middle)) {
            *sum = sum.saturating_add(count);
        }
    }
    let bytes: Vec<u8> = counts.into_iter().flat_map(u64::to_le_bytes).collect();
    json!({
        "histogram": BASE64.encode(bytes),
        "bucket_shift": BUCKET_SHIFT,
        "tsc_rate": tick_rate,
    })
}

/// Why a reply is no histogram.
#[derive(Debug, thiserror::Error)]
#[error("the reply holds no histogram: {reason}")]
pub struct NotAHistogram {
    reason: String,
}

/// The filled buckets of a `bdev_get_histogram` reply, in ns.
pub fn from_spdk(reply: &Value) -> Result<Vec<Bucket>, NotAHistogram> {
    let refused = |reason: &str| NotAHistogram { reason: reason.to_owned() };
    let number = |name: &str| reply[name].as_u64().ok_or_else(|| refused(&format!("'{name}' is missing")));
    let shift = u32::try_from(number("bucket_shift")?).ok().filter(|shift| (1..=BUCKET_SHIFT_MAX).contains(shift));
    let shift = shift.ok_or_else(|| refused("'bucket_shift' is not between 1 and 16"))?;
    let tick_rate = number("tsc_rate")?;
    let text = reply["histogram"].as_str().ok_or_else(|| refused("'histogram' is missing"))?;
    let bytes = BASE64.decode(text).map_err(|error| refused(&error.to_string()))?;
    if bytes.len() != spdk_buckets(shift) * size_of::<u64>() || tick_rate == 0 {
        return Err(refused("its length does not fit 'bucket_shift'"));
    }
    let (counts, _) = bytes.as_chunks();
    let filled = counts.iter().map(|count| u64::from_le_bytes(*count)).enumerate().filter(|(_, count)| *count > 0);
    Ok(filled
        .map(|(index, count)| {
            let (lowest, highest) = spdk_bounds(index, shift);
            (ticks_to_ns(lowest, tick_rate), ticks_to_ns(highest, tick_rate), count)
        })
        .collect())
}

fn spdk_buckets(shift: u32) -> usize {
    let ranges = 64 - shift as usize + 1;
    ranges << shift
}

/// The bucket, counted through all ranges, that holds `value`.
fn spdk_index(value: u64) -> usize {
    let bits = u64::BITS - value.leading_zeros();
    let range = bits.saturating_sub(BUCKET_SHIFT);
    let within = (value >> range.saturating_sub(1)) % BUCKETS_PER_RANGE as u64;
    let within = usize::try_from(within).expect("less than the buckets of one range");
    range as usize * BUCKETS_PER_RANGE + within
}

/// The lowest and highest value of a bucket.
fn spdk_bounds(index: usize, shift: u32) -> (u64, u64) {
    let (range, within) = (index >> shift, index as u64 % (1 << shift));
    let Some(width_shift) = range.checked_sub(1) else {
        return (within, within);
    };
    let lowest = ((1 << shift) + within) << width_shift;
    (lowest, lowest + ((1 << width_shift) - 1))
}

fn ticks_to_ns(ticks: u64, tick_rate: u64) -> u64 {
    let ns = u128::from(ticks) * 1_000_000_000 / u128::from(tick_rate);
    u64::try_from(ns).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::{BUCKET_SHIFT, from_spdk, percentiles, spdk_bounds, spdk_buckets, spdk_index, to_hdr, to_spdk};
    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};
    use serde_json::{Value, json};

    #[test]
    fn the_buckets_are_where_spdk_puts_them() {
        assert_eq!(spdk_buckets(BUCKET_SHIFT), 58 * 128);
        // Range 0: 0 to 127, range 1: 128 to 255, one value each; range 2: 256 to 511, two each.
        for (value, index) in [(0, 0), (127, 127), (128, 128), (255, 255), (256, 256), (257, 256), (258, 257), (511, 383), (512, 384)] {
            assert_eq!(spdk_index(value), index, "{value}");
        }
        assert_eq!(spdk_index(u64::MAX), 58 * 128 - 1);
        assert_eq!(spdk_bounds(58 * 128 - 1, BUCKET_SHIFT).1, u64::MAX);
    }

    proptest! {
        #[test]
        fn a_value_lies_within_the_bounds_of_its_bucket(value in any::<u64>(), shift in 0_u32..64) {
            let value = value >> shift;
            let (lowest, highest) = spdk_bounds(spdk_index(value), BUCKET_SHIFT);
            prop_assert!((lowest..=highest).contains(&value));
            prop_assert!(highest - lowest <= value / 128);
        }

        #[test]
        fn what_is_written_for_spdk_reads_back(values in proptest::collection::vec(0_u64..1 << 62, 0..20)) {
            let buckets = values.iter().map(|value| (*value, *value, 3));
            let read = from_spdk(&to_spdk(buckets, 1_000_000_000)).expect("our own");
            prop_assert_eq!(read.iter().map(|(_, _, count)| count).sum::<u64>(), 3 * values.len() as u64);
            for value in &values {
                prop_assert!(read.iter().any(|(lowest, highest, _)| (lowest..=highest).contains(&value)));
            }
        }
    }

    #[test]
    fn a_reply_in_another_tick_rate_is_read_in_nanoseconds() {
        let reply = to_spdk([(200, 200, 5)], 2_000_000_000);
        assert_eq!(from_spdk(&reply).expect("ours"), [(100, 100, 5)]);
    }

    #[test]
    fn a_reply_that_is_no_histogram_is_refused() {
        let good = to_spdk([(1, 1, 1)], 1000);
        let with = |name: &str, value: Value| {
            let mut reply = good.clone();
            reply[name] = value;
            reply
        };
        for bad in [
            json!({}),
            json!(null),
            with("bucket_shift", json!(64)),
            with("bucket_shift", json!(8)),
            with("tsc_rate", json!(0)),
            with("histogram", json!("AAAA")),
            with("histogram", json!("*")),
            with("histogram", json!(1)),
        ] {
            assert!(from_spdk(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn percentiles_are_upper_bounds_of_their_buckets() {
        let histogram = to_hdr([(1000, 1015, 50), (8000, 8127, 40), (100_000, 101_000, 9), (900_000, 950_000, 1)]);
        let read = percentiles(&histogram);
        let within = |name: &str, exact: u64| {
            let value = read[name].as_u64().expect("a number");
            assert!((exact..=exact + exact / 1000 + 1).contains(&value), "{name}: {value}, not {exact}");
        };
        within("p50", 1015);
        within("p90", 8127);
        within("p99", 101_000);
        within("p999", 950_000);
        within("max", 950_000);
        assert_eq!(read["count"], 100);
    }

    #[test]
    fn an_empty_histogram_has_percentiles_of_zero() {
        let read = percentiles(&to_hdr([]));
        assert!(read.as_object().expect("an object").values().all(|value| value == 0), "{read}");
    }

    #[test]
    fn more_than_an_hour_counts_as_an_hour() {
        let histogram = to_hdr([(u64::MAX - 1, u64::MAX, 1)]);
        assert_eq!(histogram.len(), 1);
        assert!(histogram.max() >= 3_600_000_000_000);
    }
}
