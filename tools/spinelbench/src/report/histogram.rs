//! Histograms of latencies as text, there and back. Knows no run.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{DeserializeError, Deserializer, Serializer as _, V2DeflateSerializer, V2Serializer};

/// Why a text is no histogram.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum HistogramError {
    #[error("a histogram's base64 is broken; the file was damaged or changed by hand")]
    Base64(#[source] base64::DecodeError),
    #[error("a histogram's content is broken ({what}); the file was damaged or changed by hand")]
    Content { what: DeserializeError },
}

/// HdrHistogram's V2 encoding, not compressed.
///
/// # Panics
/// Never: memory takes what is written to it.
#[must_use]
pub fn bytes(histogram: &Histogram<u64>) -> Vec<u8> {
    let mut bytes = Vec::new();
    V2Serializer::new().serialize(histogram, &mut bytes).expect("a vector takes whatever is written to it");
    bytes
}

pub use spinel_load::histogram_to_text as text;

/// HdrHistogram's V2 encoding, compressed, in base64: a third as long where there are many.
///
/// # Panics
/// Never: memory takes what is written to it.
#[must_use]
pub fn packed_text(histogram: &Histogram<u64>) -> String {
    let mut bytes = Vec::new();
    V2DeflateSerializer::new().serialize(histogram, &mut bytes).expect("a vector takes whatever is written to it");
    STANDARD.encode(bytes)
}

/// The histogram that [`bytes`] made.
///
/// # Errors
/// [`HistogramError::Content`].
pub fn from_bytes(bytes: &[u8]) -> Result<Histogram<u64>, HistogramError> {
    Deserializer::new().deserialize(&mut &*bytes).map_err(|what| HistogramError::Content { what })
}

/// The histogram that [`text`] or [`packed_text`] made; an empty one if the text is empty.
///
/// # Errors
/// [`HistogramError`].
pub fn from_text(text: &str) -> Result<Histogram<u64>, HistogramError> {
    if text.is_empty() {
        return Ok(empty());
    }
    from_bytes(&STANDARD.decode(text).map_err(HistogramError::Base64)?)
}

/// One without any value, which takes what others hold.
///
/// # Panics
/// Never.
#[must_use]
pub fn empty() -> Histogram<u64> {
    Histogram::new(3).expect("three digits are possible")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_survives_the_way_through_text() {
        let mut histogram = empty();
        for value in [1, 999, 1_234_567, 600_000_000_000] {
            histogram += value;
        }
        assert_eq!(from_text(&text(&histogram)).unwrap(), histogram);
        assert_eq!(from_text(&packed_text(&histogram)).unwrap(), histogram);
        assert!(from_text("").unwrap().is_empty());
    }

    #[test]
    fn a_damaged_histogram_is_an_error_and_no_panic() {
        let mut histogram = empty();
        histogram += 5;
        let good = text(&histogram);
        assert!(matches!(from_text("?"), Err(HistogramError::Base64(_))));
        assert!(matches!(from_text(&good[..20]), Err(HistogramError::Content { .. })));
    }
}
