//! The replies that verbs read, with everything optional that one daemon says and another does
//! not. It refuses to know how they are shown.

use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// One of `bdev_get_bdevs`.
#[derive(Debug, Deserialize)]
pub(crate) struct Bdev {
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) aliases: Vec<String>,
    #[serde(default)]
    pub(crate) product_name: String,
    pub(crate) block_size: u64,
    pub(crate) num_blocks: u64,
    #[serde(default)]
    pub(crate) uuid: String,
    #[serde(default)]
    pub(crate) claimed: bool,
    #[serde(default)]
    pub(crate) assigned_rate_limits: Map<String, Value>,
    #[serde(default)]
    pub(crate) supported_io_types: Map<String, Value>,
    #[serde(default)]
    pub(crate) driver_specific: Map<String, Value>,
}

impl Bdev {
    pub(crate) fn size(&self) -> u64 {
        self.block_size.saturating_mul(self.num_blocks)
    }

    /// What its driver tells: the file, or the disk below.
    pub(crate) fn backing(&self) -> &str {
        let told = self.driver_specific.values().find_map(|driver| {
            let names = ["filename", "base_bdev_name", "base_bdev"];
            names.iter().find_map(|name| driver[name].as_str())
        });
        told.unwrap_or("-")
    }

    /// Which verbs' word it is made by; `None` for a product this program does not know.
    pub(crate) fn kind(&self) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.product() == self.product_name)
    }
}

/// The kinds of disks that there are verbs for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Uring,
    Aio,
    Memory,
    Null,
    Delay,
    Error,
}

impl Kind {
    const ALL: [Self; 6] = [Self::Uring, Self::Aio, Self::Memory, Self::Null, Self::Delay, Self::Error];

    /// SPDK's product name of it.
    fn product(self) -> &'static str {
        match self {
            Self::Uring => "URING bdev",
            Self::Aio => "AIO disk",
            Self::Memory => "Malloc disk",
            Self::Null => "Null disk",
            Self::Delay => "delay",
            Self::Error => "Error Injection Disk",
        }
    }

    /// The verbs' word for it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Uring => "uring",
            Self::Aio => "aio",
            Self::Memory => "memory",
            Self::Null => "null",
            Self::Delay => "delay",
            Self::Error => "error",
        }
    }

    /// The method that does `act` to one: `bdev_malloc_delete`.
    pub(crate) fn method(self, act: &str) -> String {
        let name = match self {
            Self::Memory => "malloc",
            _ => self.word(),
        };
        format!("bdev_{name}_{act}")
    }
}

/// One of `vhost_get_controllers`.
#[derive(Debug, Deserialize)]
pub(crate) struct Controller {
    pub(crate) ctrlr: String,
    #[serde(default)]
    pub(crate) cpumask: String,
    #[serde(default)]
    pub(crate) socket: Option<String>,
    #[serde(default)]
    pub(crate) sessions: Option<Vec<Value>>,
    #[serde(default)]
    pub(crate) backend_specific: Value,
}

/// `framework_get_reactors`; times in ticks.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Reactors {
    tick_rate: u64,
    pub(crate) reactors: Vec<Reactor>,
}

impl Reactors {
    /// How many ticks so many seconds are.
    pub(crate) fn ticks(&self, seconds: f64) -> f64 {
        seconds * self.tick_rate as f64
    }
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Reactor {
    pub(crate) lcore: u64,
    #[serde(default)]
    pub(crate) tid: Option<u64>,
    pub(crate) busy: u64,
    /// All that is not busy.
    pub(crate) idle: u64,
    /// The part of `idle` spent looking for work; SPDK does nothing else.
    #[serde(default)]
    pub(crate) spin: Option<u64>,
    #[serde(default)]
    pub(crate) sleep: Option<u64>,
    #[serde(default)]
    pub(crate) loops: Option<u64>,
}

/// `bdev_get_iostat`.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Iostat {
    pub(crate) tick_rate: u64,
    pub(crate) ticks: u64,
    pub(crate) bdevs: Vec<BdevStat>,
}

/// What one disk has done; latencies in ticks, percentiles in ns.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct BdevStat {
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) in_flight: Option<u64>,
    #[serde(default)]
    pub(crate) io_error: Map<String, Value>,
    #[serde(default)]
    pub(crate) percentiles: BTreeMap<String, Percentiles>,
    /// The numbers, whose names follow a pattern: see [`BdevStat::operation`].
    #[serde(flatten)]
    numbers: Map<String, Value>,
}

/// Percentiles of one operation's latency, in ns.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Percentiles {
    pub(crate) p50: u64,
    pub(crate) p90: u64,
    pub(crate) p99: u64,
    pub(crate) p999: u64,
    pub(crate) p9999: u64,
    pub(crate) max: u64,
    pub(crate) mean: Option<u64>,
}

/// What one disk has done of one operation.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Operation {
    pub(crate) count: u64,
    /// Where the daemon counts bytes of it.
    pub(crate) bytes: Option<u64>,
    /// The sum, in ticks, where the daemon counts it.
    pub(crate) latency_ticks: Option<u64>,
}

/// The operations' names in `percentiles` and `num_{}_ops`, and of their bytes.
pub(crate) const OPERATIONS: [(&str, &str); 5] = [
    ("read", "bytes_read"),
    ("write", "bytes_written"),
    ("flush", "bytes_flush"),
    ("unmap", "bytes_unmapped"),
    ("write_zeroes", "bytes_write_zeroes"),
];

impl BdevStat {
    /// The numbers of one of [`OPERATIONS`]; zero where the daemon does not tell.
    pub(crate) fn operation(&self, (name, bytes): (&str, &str)) -> Operation {
        let number = |name: &str| self.numbers.get(name).and_then(Value::as_u64);
        Operation {
            count: number(&format!("num_{name}_ops")).unwrap_or(0),
            bytes: number(bytes),
            latency_ticks: number(&format!("{name}_latency_ticks")),
        }
    }
}
