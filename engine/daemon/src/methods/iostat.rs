//! The methods about what disks counted. Counts are of guests' requests, where a guest's queue meets its disk.

use serde::Deserialize;
use serde_json::{Map, Value, json};
use spinel_control::{histogram, params};
use spinel_core::OpKind;

use super::Answer;
use crate::counts::{Counted, Report, Reset};
use crate::disks::Bdev;
use crate::engine::{Engine, TICK_RATE};

/// How many names a call may give, as in SPDK.
const NAMES_MAX: usize = 1024;

#[derive(Deserialize)]
struct GetIostat {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    names: Option<Vec<String>>,
    #[serde(default)]
    per_channel: bool,
    #[serde(default)]
    reset_mode: Reset,
}

impl GetIostat {
    /// The names given, in either way; none if all bdevs are meant.
    fn names(&mut self) -> Result<Option<Vec<String>>, spinel_control::RpcError> {
        match (self.name.take(), self.names.take()) {
            (Some(name), Some(_)) => Err(params::refuse("name", name, "left out where 'names' is given")),
            (Some(name), None) => Ok(Some(vec![name])),
            (None, Some(names)) if names.len() > NAMES_MAX => {
                Err(params::refuse("names", names.len(), format!("at most {NAMES_MAX} names")))
            }
            (None, names) => Ok(names),
        }
    }
}

/// `bdev_get_iostat`.
pub(super) fn get(engine: &Engine, params: Option<&Value>) -> Answer {
    let mut asked: GetIostat = params::parse(params)?;
    let names = asked.names()?;
    let mut disks = engine.disks();
    if asked.per_channel {
        return match names.as_deref() {
            Some([name]) => per_channel(engine, disks.bdev_mut(name)?, asked.reset_mode),
            _ => Err(params::refuse("per_channel", true, "false, unless 'names' names one bdev")),
        };
    }
    let names: Vec<String> = match names {
        None => disks.bdevs().iter().map(|bdev| bdev.name.clone()).collect(),
        // All are looked up before any is reset.
        Some(names) => names.iter().map(|name| disks.bdev(name).map(|bdev| bdev.name.clone())).collect::<Result<_, _>>()?,
    };
    let mut bdevs = Vec::new();
    for name in names {
        let report = disks.bdev_mut(&name)?.counts.report(asked.reset_mode);
        bdevs.push(describe(("name", name.into()), &report));
    }
    Ok(json!({"tick_rate": TICK_RATE, "ticks": engine.ticks(), "bdevs": bdevs}))
}

/// `bdev_reset_iostat`.
pub(super) fn reset(engine: &Engine, params: Option<&Value>) -> Answer {
    #[derive(Deserialize)]
    struct ResetIostat {
        #[serde(default)]
        name: Option<String>,
        #[serde(default)]
        mode: Option<Reset>,
    }
    let ResetIostat { name, mode } = params::parse(params)?;
    let mode = mode.unwrap_or(Reset::All);
    let mut disks = engine.disks();
    match name {
        Some(name) => drop(disks.bdev_mut(&name)?.counts.report(mode)),
        None => disks.bdevs_mut().iter_mut().for_each(|bdev| drop(bdev.counts.report(mode))),
    }
    Ok(true.into())
}

/// The counts by thread. They are not kept by core, so this is for a daemon that has one.
fn per_channel(engine: &Engine, bdev: &mut Bdev, reset: Reset) -> Answer {
    if engine.reactors().len() > 1 {
        return Err(params::refuse("per_channel", true, "false, because counts are not kept by core; a daemon on one core answers"));
    }
    let report = bdev.counts.report(reset);
    let channels = if report.is_empty() { json!([]) } else { json!([describe(("thread_id", 1.into()), &report)]) };
    Ok(json!({"tick_rate": TICK_RATE, "ticks": engine.ticks(), "name": bdev.name, "channels": channels}))
}

fn describe((name, value): (&str, Value), report: &Report) -> Value {
    let mut all = Map::new();
    all.insert(name.into(), value);
    for (op, [bytes, ops, latency]) in SPDK_NAMES {
        let counted = report.of(op);
        all.insert(bytes.into(), counted.bytes.into());
        all.insert(ops.into(), counted.ops.into());
        all.insert(format!("{latency}_latency_ticks"), counted.sum_ns.into());
        all.insert(format!("max_{latency}_latency_ticks"), counted.max_ns.into());
        all.insert(format!("min_{latency}_latency_ticks"), counted.min_ns.into());
    }
    for name in ["bytes_copied", "num_copy_ops", "copy_latency_ticks", "max_copy_latency_ticks", "min_copy_latency_ticks"] {
        all.insert(name.into(), 0.into());
    }
    all.insert("io_error".into(), if report.errors == 0 { json!({}) } else { json!({"failed": report.errors}) });
    all.insert("in_flight".into(), report.in_flight.into());
    all.insert("num_flush_ops".into(), report.of(OpKind::Flush).ops.into());
    let zeroed = report.of(OpKind::WriteZeroes);
    all.insert("num_write_zeroes_ops".into(), zeroed.ops.into());
    all.insert("bytes_write_zeroes".into(), zeroed.bytes.into());
    let names = [
        ("read", OpKind::Read),
        ("write", OpKind::Write),
        ("flush", OpKind::Flush),
        ("unmap", OpKind::Discard),
        ("write_zeroes", OpKind::WriteZeroes),
    ];
    let percentiles = names.map(|(name, op)| (name.to_owned(), percentiles(&report.of(op))));
    all.insert("percentiles".into(), percentiles.into_iter().collect::<Map<_, _>>().into());
    all.into()
}

/// What SPDK calls the bytes, the number and the latencies of these operations.
const SPDK_NAMES: [(OpKind, [&str; 3]); 3] = [
    (OpKind::Read, ["bytes_read", "num_read_ops", "read"]),
    (OpKind::Write, ["bytes_written", "num_write_ops", "write"]),
    (OpKind::Discard, ["bytes_unmapped", "num_unmap_ops", "unmap"]),
];

fn percentiles(counted: &Counted) -> Value {
    let mut all = histogram::percentiles(&histogram::to_hdr(counted.buckets.iter().copied()));
    all["mean"] = counted.sum_ns.checked_div(counted.ops).unwrap_or(0).into();
    all
}
