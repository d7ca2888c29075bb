//! For how long disks stood still while one process took over from another, over all processes that have served them. Knows no protocol.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use spinel_core::{BUCKETS, bucket_of, bucket_range};

/// One disk's pause at one takeover.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Blackout {
    /// The controller.
    pub(crate) controller: String,
    /// From when its queues were told to stop until they ran again.
    pub(crate) took_ns: u64,
}

/// All of them: a histogram that goes from each process to the next.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Blackouts {
    /// How many processes have taken over.
    takeovers: u64,
    /// By bucket of the engine's histograms.
    counts: BTreeMap<usize, u64>,
    max_ns: u64,
    /// Those of the last takeover.
    last: Vec<Blackout>,
}

impl Blackouts {
    /// The same with one takeover more.
    pub(crate) fn add(&mut self, last: Vec<Blackout>) {
        self.takeovers += 1;
        for Blackout { took_ns, .. } in &last {
            *self.counts.entry(bucket_of(*took_ns)).or_default() += 1;
            self.max_ns = self.max_ns.max(*took_ns);
        }
        self.last = last;
    }

    /// Whether every count is of a bucket that there is; another process may say anything.
    pub(crate) fn is_valid(&self) -> bool {
        self.counts.keys().all(|bucket| *bucket < BUCKETS)
            && self.counts.values().try_fold(0, |sum: u64, more| sum.checked_add(*more)).is_some()
    }

    fn disks(&self) -> u64 {
        self.counts.values().sum()
    }

    /// The pause that so many of a thousand did not exceed; 0 if there was none.
    fn per_mille_ns(&self, per_mille: u64) -> u64 {
        let wanted = u128::from(self.disks()) * u128::from(per_mille);
        let mut seen = 0;
        for (bucket, count) in &self.counts {
            seen += u128::from(*count) * 1000;
            if seen >= wanted {
                return bucket_range(*bucket).1.min(self.max_ns);
            }
        }
        0
    }

    /// As RPC clients see it.
    pub(crate) fn tell(&self) -> Value {
        let last: Value = self.last.iter().map(|one| json!({"ctrlr": one.controller, "blackout_ns": one.took_ns})).collect();
        let buckets: Value = self
            .counts
            .iter()
            .map(|(bucket, count)| {
                let (low, high) = bucket_range(*bucket);
                json!([low, high, count])
            })
            .collect();
        json!({
            "takeovers": self.takeovers,
            "blackouts": self.disks(),
            "p50_ns": self.per_mille_ns(500),
            "p99_ns": self.per_mille_ns(990),
            "max_ns": self.max_ns,
            "buckets": buckets,
            "last": last,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blackout(took_ns: u64) -> Blackout {
        Blackout { controller: "vm0".into(), took_ns }
    }

    #[test]
    fn percentiles_are_over_all_takeovers_and_the_last_is_told_apart() {
        let mut all = Blackouts::default();
        assert_eq!((all.tell()["p99_ns"].clone(), all.is_valid()), (json!(0), true));
        all.add((1..=99).map(|_| blackout(1000)).collect());
        all.add(vec![blackout(1 << 20)]);
        let all: Blackouts = serde_json::from_str(&serde_json::to_string(&all).unwrap()).unwrap();
        let told = all.tell();
        assert_eq!((&told["takeovers"], &told["blackouts"], &told["max_ns"]), (&json!(2), &json!(100), &json!(1 << 20)));
        assert!(told["p50_ns"].as_u64().unwrap() < 1032 && told["p99_ns"].as_u64().unwrap() < 1032);
        assert_eq!(told["last"], json!([{"ctrlr": "vm0", "blackout_ns": 1 << 20}]));
        all.clone().add(vec![]);
    }

    #[test]
    fn a_bucket_that_does_not_exist_is_noticed() {
        let counts = BTreeMap::from([(BUCKETS, 1)]);
        assert!(!Blackouts { counts, ..Blackouts::default() }.is_valid());
        let counts = BTreeMap::from([(1, u64::MAX), (2, 1)]);
        assert!(!Blackouts { counts, ..Blackouts::default() }.is_valid());
    }
}
