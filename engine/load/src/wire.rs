//! A tally as it travels in JSON. Knows no transport.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Deserializer, Serializer as _, V2Serializer};
use serde::{Deserialize, Serialize};
use spinel_core::{Instant, OPS, OpKind, Status};

use crate::tally::{Ended, OpTally, STATUSES, Tally, status_index};

/// A [`Tally`] as JSON: times in nanoseconds of the sender's clock, and one member for each kind of request.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WireTally {
    /// When the stretch began.
    pub from_ns: u64,
    /// When it ended.
    pub until_ns: u64,
    /// What came of each kind that the job sends: "read", "write", "flush", "discard", "write_zeroes".
    pub ops: BTreeMap<String, WireOp>,
    /// In the last tally of a job only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Ended>,
    /// Requests that were due and never sent.
    #[serde(default)]
    pub unsent: u64,
}

/// An [`OpTally`] as JSON.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WireOp {
    /// Latencies in nanoseconds: HdrHistogram's V2 encoding in base64.
    pub latency: String,
    /// Bytes of the requests that succeeded.
    pub bytes: u64,
    /// How many ended in each way that occurred: "ok", "medium", "unsupported", "aborted", "capacity", "range", "protected", "malformed".
    pub ended: BTreeMap<String, u64>,
}

/// Why something that arrived is no tally.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum WireError {
    #[error("'{name}' is no kind of request")]
    Kind { name: String },
    #[error("'{name}' is no way in which a request ends")]
    Status { name: String },
    #[error("the latencies of '{name}' are no HdrHistogram (V2, base64) with a tally's bounds")]
    Latency { name: String },
    #[error("of '{name}', {latencies} latencies came, and {requests} requests that ended")]
    Count { name: String, latencies: u64, requests: u64 },
}

/// The name of a kind of request, here and in reports.
#[must_use]
pub const fn kind_name(kind: OpKind) -> &'static str {
    match kind {
        OpKind::Read => "read",
        OpKind::Write => "write",
        OpKind::Flush => "flush",
        OpKind::Discard => "discard",
        OpKind::WriteZeroes => "write_zeroes",
    }
}

/// Every way in which a request can end, in the order of [`status_index`], with its name here and in reports.
pub const STATUS_NAMES: [(Status, &str); STATUSES] = [
    (Status::Ok, "ok"),
    (Status::Medium, "medium"),
    (Status::Unsupported, "unsupported"),
    (Status::Aborted, "aborted"),
    (Status::Capacity, "capacity"),
    (Status::Range, "range"),
    (Status::Protected, "protected"),
    (Status::Malformed, "malformed"),
];

impl From<&Tally> for WireTally {
    fn from(tally: &Tally) -> Self {
        let ops = OPS.into_iter().zip(&tally.ops);
        Self {
            from_ns: tally.from.ns,
            until_ns: tally.until.ns,
            ops: ops.filter_map(|(kind, op)| Some((kind_name(kind).to_owned(), WireOp::from(&**op.as_ref()?)))).collect(),
            ended: tally.ended,
            unsent: tally.unsent,
        }
    }
}

impl From<&OpTally> for WireOp {
    fn from(op: &OpTally) -> Self {
        let occurred = STATUS_NAMES.iter().map(|(status, name)| (*name, op.ended[status_index(*status)])).filter(|(_, count)| *count > 0);
        Self {
            latency: histogram_to_text(&op.latency),
            bytes: op.bytes,
            ended: occurred.map(|(name, count)| (name.to_owned(), count)).collect(),
        }
    }
}

/// HdrHistogram's V2 encoding in base64.
#[must_use]
pub fn histogram_to_text(histogram: &Histogram<u64>) -> String {
    let mut bytes = Vec::new();
    V2Serializer::new().serialize(histogram, &mut bytes).expect("a histogram of ours fits memory");
    STANDARD.encode(bytes)
}

impl TryFrom<&WireTally> for Tally {
    type Error = WireError;

    fn try_from(wire: &WireTally) -> Result<Self, WireError> {
        let mut tally = Self::of(|_| false);
        (tally.from, tally.until) = (Instant { ns: wire.from_ns }, Instant { ns: wire.until_ns });
        tally.ended = wire.ended;
        tally.unsent = wire.unsent;
        for (name, op) in &wire.ops {
            let kind = OPS.into_iter().find(|kind| kind_name(*kind) == name);
            let kind = kind.ok_or_else(|| WireError::Kind { name: name.clone() })?;
            tally.ops[kind.index()] = Some(Box::new(op.tally(name)?));
        }
        Ok(tally)
    }
}

impl WireOp {
    fn tally(&self, name: &str) -> Result<OpTally, WireError> {
        let mut op = OpTally::new();
        for (name, count) in &self.ended {
            let known = STATUS_NAMES.iter().find(|(_, known)| known == name);
            let (status, _) = known.ok_or_else(|| WireError::Status { name: name.clone() })?;
            op.ended[status_index(*status)] = *count;
        }
        let latency = self.histogram().filter(|latency| {
            // Histograms of other bounds could not be added to one of ours.
            (latency.low(), latency.high(), latency.sigfig()) == (op.latency.low(), op.latency.high(), op.latency.sigfig())
        });
        op.latency = latency.ok_or_else(|| WireError::Latency { name: name.to_owned() })?;
        op.bytes = self.bytes;
        let (latencies, requests) = (op.latency.len(), self.ended.values().fold(0_u64, |sum, count| sum.saturating_add(*count)));
        if latencies != requests {
            return Err(WireError::Count { name: name.to_owned(), latencies, requests });
        }
        Ok(op)
    }

    fn histogram(&self) -> Option<Histogram<u64>> {
        let bytes = STANDARD.decode(&self.latency).ok()?;
        Deserializer::new().deserialize(&mut bytes.as_slice()).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn tally(requests: &[(usize, u64, usize)]) -> Tally {
        let mut tally = Tally::of(|kind| kind != OpKind::Discard);
        (tally.from, tally.until) = (Instant { ns: 5 }, Instant { ns: 1 << 60 });
        for (kind, latency_ns, status) in requests {
            let kind = [OpKind::Read, OpKind::Write, OpKind::Flush, OpKind::WriteZeroes][kind % 4];
            tally.record(kind, 4096, *latency_ns, STATUS_NAMES[status % STATUSES].0);
        }
        tally
    }

    /// There and back, through text.
    fn travelled(tally: &Tally) -> Tally {
        let text = serde_json::to_string(&WireTally::from(tally)).unwrap();
        Tally::try_from(&serde_json::from_str::<WireTally>(&text).unwrap()).unwrap()
    }

    proptest! {
        #[test]
        fn a_tally_arrives_as_it_left(
            requests in proptest::collection::vec((0..4_usize, 0..1_u64 << 42, 0..STATUSES), 0..200), done: Option<bool>,
        ) {
            let mut sent = tally(&requests);
            sent.ended = done.map(|done| if done { Ended::Done } else { Ended::Stopped });
            let mut got = travelled(&sent);
            prop_assert_eq!((got.from, got.until, got.ended), (sent.from, sent.until, sent.ended));
            for (sent, got) in sent.ops.iter().zip(&got.ops) {
                let all = |op: &Option<Box<OpTally>>| op.as_ref().map(|op| (op.latency.clone(), op.bytes, op.ended));
                prop_assert_eq!(all(got), all(sent));
            }
            let twice = 2 * sent.requests();
            got.add(&sent);
            prop_assert_eq!(got.requests(), twice, "what arrived can be added to");
        }

        #[test]
        fn no_text_makes_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), garble in 0..40_usize) {
            let mut wire = WireTally::from(&tally(&[(0, 1000, 0)]));
            let op = wire.ops.get_mut("read").unwrap();
            let mut histogram = STANDARD.decode(&op.latency).unwrap();
            let from = garble.min(histogram.len());
            histogram.splice(from.., bytes);
            op.latency = STANDARD.encode(histogram);
            if let Ok(mut tally) = Tally::try_from(&wire) {
                tally.add(&super::tests::tally(&[(0, 1, 0)]));
            }
        }
    }

    #[test]
    fn what_is_no_tally_is_refused_by_name() {
        let good = serde_json::to_value(WireTally::from(&tally(&[(0, 1000, 0), (0, 2000, 1)]))).unwrap();
        assert_eq!(good["ops"]["read"]["ended"], json!({"ok": 1, "medium": 1}));
        let with = |path: &str, value: serde_json::Value| {
            let mut bad = good.clone();
            *bad.pointer_mut(path).unwrap() = value;
            let wire: WireTally = serde_json::from_value(bad).unwrap();
            Tally::try_from(&wire).unwrap_err().to_string()
        };
        let other = Histogram::<u64>::new_with_bounds(1, 1000, 2).unwrap();
        for (path, value, named) in [
            ("/ops", json!({"trim": good["ops"]["read"]}), "'trim'"),
            ("/ops/read/ended", json!({"lost": 2}), "'lost'"),
            ("/ops/read/ended", json!({"ok": 3}), "3 requests"),
            ("/ops/read/ended", json!({"ok": u64::MAX, "medium": 2}), "2 latencies"),
            ("/ops/read/latency", json!("?"), "'read'"),
            ("/ops/read/latency", json!(""), "'read'"),
            ("/ops/write/latency", json!(histogram_to_text(&other)), "'write'"),
        ] {
            let message = with(path, value);
            assert!(message.contains(named), "{message}");
        }
    }
}
