//! What came of runs, as it is kept in JSON and shown by every kind of output. Knows no target and no terminal.

pub mod collect;
pub mod compare;
pub mod fio;
pub mod histogram;
pub mod hlog;
pub mod html;
pub mod json;
pub mod progress;
#[cfg(test)]
mod sample;
pub mod table;
pub mod words;

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use spinel_load::Job;

/// The version of the JSON's shape. A reader refuses one that it does not know.
pub const VERSION: u32 = 1;

/// One file of figures: runs that belong together, in the order in which they ran.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// [`VERSION`].
    pub version: u32,
    /// Who wrote it, with its version: "spinelbench 0.1.0".
    pub tool: String,
    /// Where it ran.
    pub machine: Machine,
    /// What ran. A sweep has one run for each rate.
    pub runs: Vec<Run>,
    /// Of a sweep: the index of the last run before latency takes off.
    pub knee: Option<usize>,
}

/// The machine under all runs of a report.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Its name.
    pub host: String,
    /// The processor's model name.
    pub processor: String,
    /// How many processors are online.
    pub processors: usize,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// The kernel's release.
    pub kernel: String,
}

/// One job on one target, or several alike on several cores.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Run {
    /// What people call it; unique in a report.
    pub name: String,
    /// The target as it was typed.
    pub target: String,
    /// Bytes of the disk.
    pub disk_bytes: u64,
    /// Bytes of one block of it.
    pub block_bytes: u32,
    /// What was asked for, of each core.
    pub job: Job,
    /// The cores that worked, one job each.
    pub cores: Vec<u16>,
    /// When it started, in milliseconds since 1970.
    pub started_unix_ms: u64,
    /// How long was measured, the warm-up left out.
    pub took_ns: u64,
    /// What came of each kind of request that was sent: "read", "write", "flush", "discard", "write_zeroes".
    pub ops: BTreeMap<String, Outcome>,
    /// All kinds together.
    pub all: Outcome,
    /// Processor time of this program's working threads.
    pub client_cpu_ns: u64,
    /// Processor time of the process behind the target, where it could be found.
    pub server_cpu_ns: Option<u64>,
    /// Stretch by stretch.
    pub series: Vec<Stretch>,
    /// The latencies behind the series: one for each stretch and kind of which requests ended in it, ordered by time.
    #[serde(default)]
    pub intervals: Vec<Interval>,
    /// Requests of an open loop that were due and could not be sent in time: the latencies leave out how long they would have waited.
    #[serde(default)]
    pub unsent: u64,
    /// It was interrupted before its length was reached.
    pub interrupted: bool,
    /// What verification saw, if it was asked for.
    pub verified: Option<Verified>,
}

/// What came of some requests.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Outcome {
    /// How many ended.
    pub requests: u64,
    /// Bytes of those that succeeded.
    pub bytes: u64,
    /// How many failed.
    pub errors: u64,
    /// The failed ones by what was wrong: "medium", "unsupported", "aborted", "capacity", "range", "protected", "malformed".
    pub errors_by_status: BTreeMap<String, u64>,
    /// Requests a second.
    pub iops: f64,
    /// Bytes a second.
    pub bandwidth: f64,
    /// How long they took.
    pub latency: Latency,
    /// Every latency in nanoseconds: HdrHistogram's V2 encoding in base64.
    pub histogram: String,
}

/// Latencies in nanoseconds; all 0 if there was no request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names are what statisticians call them")]
pub struct Latency {
    pub min_ns: u64,
    pub mean_ns: f64,
    pub stdev_ns: f64,
    pub p50_ns: u64,
    pub p90_ns: u64,
    pub p99_ns: u64,
    pub p99_9_ns: u64,
    pub p99_99_ns: u64,
    pub max_ns: u64,
}

/// What came of a short stretch of a run, all kinds together.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Stretch {
    /// When it began, after the start of the measurement.
    pub at_ns: u64,
    /// How long it was.
    pub took_ns: u64,
    /// How many requests ended.
    pub requests: u64,
    /// Their bytes.
    pub bytes: u64,
    /// How many failed.
    pub errors: u64,
    /// Their median.
    pub p50_ns: u64,
    /// 99 of 100 were at most so long.
    pub p99_ns: u64,
    /// 999 of 1000.
    pub p99_9_ns: u64,
    /// The longest.
    pub max_ns: u64,
}

/// The latencies of one kind of request in one stretch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interval {
    /// The kind, as in [`Run::ops`].
    pub kind: String,
    /// When the stretch began, as in [`Stretch::at_ns`].
    pub at_ns: u64,
    /// How long it was.
    pub took_ns: u64,
    /// Every latency in nanoseconds: HdrHistogram's V2 encoding, compressed, in base64.
    pub histogram: String,
}

/// What verification saw.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Verified {
    /// Sectors of 512 bytes that were read and checked.
    pub sectors: u64,
    /// How many of those held something that had been written before.
    pub stamps: u64,
    /// How many of them were wrong.
    pub wrong: u64,
    /// Requests that failed when everything was read back in the end.
    #[serde(default)]
    pub unreadable: u64,
    /// Everything was read back in the end.
    #[serde(default)]
    pub read_back: bool,
    /// The first of the wrong ones, in words: what, where, and what should have been there.
    pub findings: Vec<String>,
}

impl Verified {
    /// Whether everything could be read back in the end.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.read_back && self.unreadable == 0
    }
}

impl Latency {
    /// What a histogram of nanoseconds says.
    #[must_use]
    pub fn of(histogram: &Histogram<u64>) -> Self {
        if histogram.is_empty() {
            return Self::default();
        }
        let at = |quantile| histogram.value_at_quantile(quantile);
        Self {
            min_ns: histogram.min(),
            mean_ns: histogram.mean(),
            stdev_ns: histogram.stdev(),
            p50_ns: at(0.5),
            p90_ns: at(0.9),
            p99_ns: at(0.99),
            p99_9_ns: at(0.999),
            p99_99_ns: at(0.9999),
            max_ns: histogram.max(),
        }
    }
}
