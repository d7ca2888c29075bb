//! How long things stood still. It knows not which.

use std::fmt;
use std::time::Duration;

/// Pauses, as they came.
#[derive(Debug, Default)]
pub(crate) struct Pauses(Vec<Duration>);

impl Pauses {
    pub(crate) fn note(&mut self, pause: Duration) {
        self.0.push(pause);
    }

    /// The smallest that so many percent of them do not exceed.
    fn percentile(sorted: &[Duration], percent: usize) -> Duration {
        let rank = (sorted.len() * percent).div_ceil(100).max(1);
        sorted.get(rank - 1).copied().unwrap_or_default()
    }
}

impl fmt::Display for Pauses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let [p50, p99, max] = [50, 99, 100].map(|percent| Self::percentile(&sorted, percent).as_millis());
        write!(f, "{}, p50 {p50} ms, p99 {p99} ms, longest {max} ms", sorted.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_pauses_that_were() {
        let mut pauses = Pauses::default();
        assert_eq!(pauses.to_string(), "0, p50 0 ms, p99 0 ms, longest 0 ms");
        (1..=200).rev().for_each(|ms| pauses.note(Duration::from_millis(ms)));
        assert_eq!(pauses.to_string(), "200, p50 100 ms, p99 198 ms, longest 200 ms");
    }
}
