//! A report in the shape of fio's JSON, for scripts that read that. Knows fio's keys; refuses to guess what was not measured.
//!
//! The shape is that of fio 3.33. What has no counterpart here is 0: submission latency,
//! context switches, page faults, and depths as they were reached. `slat_ns` is 0 and
//! `clat_ns` is the same as `lat_ns`, because a request's latency is measured as a whole.
//! Discards stand under "trim", flushes under "sync". Write zeroes, which fio does not
//! have, stand under a key of their own.

use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};
use spinel_load::{Arrival, Order};

use super::histogram::{HistogramError, empty, from_text};
use super::words::{self, whole};
use super::{Outcome, Report, Run};

/// Percentiles that fio prints unless told otherwise.
const PERCENTILES: [f64; 17] = [1.0, 5.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 90.0, 95.0, 99.0, 99.5, 99.9, 99.95, 99.99];

/// Upper ends of fio's classes of latency, in each of its three units.
const CLASSES: [u64; 10] = [2, 4, 10, 20, 50, 100, 250, 500, 750, 1000];

/// The error number that fio would have met: EIO.
const EIO: u8 = 5;

/// All runs, one of fio's jobs each.
///
/// # Errors
/// [`HistogramError`], if a report from a file is damaged.
pub fn json(report: &Report) -> Result<Value, HistogramError> {
    let ended_ms = report.runs.iter().map(|run| run.started_unix_ms.saturating_add((run.job.warm_up_ns + run.took_ns) / 1_000_000));
    let ended_ms = ended_ms.max().unwrap_or_default();
    let jobs: Vec<Value> = report.runs.iter().map(job).collect::<Result<_, _>>()?;
    Ok(json!({
        "fio version": format!("fio-3.33 ({})", report.tool),
        "timestamp": ended_ms / 1000,
        "timestamp_ms": ended_ms,
        "time": words::ctime(ended_ms),
        "jobs": jobs,
        "disk_util": [],
    }))
}

fn job(run: &Run) -> Result<Value, HistogramError> {
    let runtime_ms = run.took_ns / 1_000_000;
    let all = from_text(&run.all.histogram)?;
    let mut job = json!({
        "jobname": run.name,
        "groupid": 0,
        "error": if run.all.errors == 0 { 0 } else { EIO },
        "eta": 0,
        "elapsed": (run.job.warm_up_ns + run.took_ns).div_ceil(1_000_000_000),
        "job options": options(run),
        "read": side(run, "read")?,
        "write": side(run, "write")?,
        "trim": side(run, "discard")?,
        "sync": {
            "total_ios": run.ops.get("flush").map_or(0, |flush| flush.requests),
            "lat_ns": with_percentiles(&latency(run, "flush")?),
        },
        "job_runtime": runtime_ms * u64::try_from(run.cores.len().max(1)).unwrap_or(1),
        // Whether it was spent in the kernel is not known.
        "usr_cpu": processor_percent(run),
        "sys_cpu": 0.0,
        "ctx": 0,
        "majf": 0,
        "minf": 0,
        "iodepth_level": depths(run),
        "iodepth_submit": zeros(&["0", "4", "8", "16", "32", "64", ">=64"]),
        "iodepth_complete": zeros(&["0", "4", "8", "16", "32", "64", ">=64"]),
        "latency_ns": classes(&all, 1, &[]),
        "latency_us": classes(&all, 1_000, &[]),
        "latency_ms": classes(&all, 1_000_000, &[2000]),
        "latency_depth": run.job.depth,
        "latency_target": 0,
        "latency_percentile": 100.0,
        "latency_window": 0,
    });
    let members = job.as_object_mut().expect("it was made an object");
    if run.ops.contains_key("write_zeroes") {
        members.insert("write_zeroes".into(), side(run, "write_zeroes")?);
    }
    if run.all.errors > 0 {
        members.insert("total_err".into(), run.all.errors.into());
        members.insert("first_error".into(), EIO.into());
    }
    Ok(job)
}

/// What was asked for, in fio's words as far as it has them.
fn options(run: &Run) -> Value {
    let job = &run.job;
    let (read, write, trim) = (job.mix.read, job.mix.write + job.mix.write_zeroes, job.mix.discard);
    let order = if job.order == Order::Sequential { "" } else { "rand" };
    let rw = match (read, write, trim) {
        (_, 0, 0) => format!("{order}read"),
        (0, _, 0) => format!("{order}write"),
        (0, 0, _) => format!("{order}trim"),
        (0, _, _) => "trimwrite".to_owned(),
        _ if order.is_empty() => "rw".to_owned(),
        _ => "randrw".to_owned(),
    };
    let block = match job.sizes {
        sizes if sizes.min_bytes == sizes.max_bytes => ("bs", sizes.min_bytes.to_string()),
        sizes => ("bsrange", format!("{}-{}", sizes.min_bytes, sizes.max_bytes)),
    };
    let mut options = Map::new();
    let mut set = |key: &str, value: String| options.insert(key.to_owned(), Value::String(value));
    set("name", run.name.clone());
    set("filename", run.target.clone());
    set("size", job.area.len_bytes.unwrap_or(run.disk_bytes.saturating_sub(job.area.start_bytes)).to_string());
    set("rw", rw);
    set(block.0, block.1);
    set("iodepth", job.depth.to_string());
    set("ioengine", "spinelbench".to_owned());
    set("direct", "1".to_owned());
    set("numjobs", run.cores.len().max(1).to_string());
    if read > 0 && write > 0 {
        set("rwmixread", read.to_string());
    }
    match job.order {
        Order::Zipf { theta } => drop(set("random_distribution", format!("zipf:{theta}"))),
        Order::HotSpot { requests, area } => {
            drop(set("random_distribution", format!("zoned:{requests}/{area}:{}/{}", 100 - requests.min(100), 100 - area.min(100))))
        }
        Order::Sequential | Order::Uniform => {}
    }
    if let Arrival::Steady { per_second } | Arrival::Poisson { per_second } = job.arrival {
        set("rate_iops", whole(per_second).to_string());
        set("rate_process", if matches!(job.arrival, Arrival::Poisson { .. }) { "poisson" } else { "linear" }.to_owned());
    }
    if job.flush_every > 0 {
        set("fsync", job.flush_every.to_string());
    }
    if let Some(time_ns) = job.length.time_ns {
        set("runtime", (time_ns / 1_000_000_000).to_string());
    }
    Value::Object(options)
}

fn latency(run: &Run, kind: &str) -> Result<Histogram<u64>, HistogramError> {
    run.ops.get(kind).map_or_else(|| Ok(empty()), |outcome| from_text(&outcome.histogram))
}

/// One direction: what fio prints under "read", "write" and "trim".
fn side(run: &Run, kind: &str) -> Result<Value, HistogramError> {
    let none = Outcome::default();
    let outcome = run.ops.get(kind).unwrap_or(&none);
    let latency = latency(run, kind)?;
    let iops = Samples::of(run, kind)?;
    // The size of a request is what it is on average: stretches do not tell kinds apart by bytes.
    let mean_kib = if outcome.requests == 0 { 0.0 } else { outcome.bytes as f64 / outcome.requests as f64 / 1024.0 };
    let runtime_ms = if outcome.requests == 0 { 0 } else { run.took_ns / 1_000_000 };
    Ok(json!({
        "io_bytes": outcome.bytes,
        "io_kbytes": outcome.bytes / 1024,
        "bw_bytes": whole(outcome.bandwidth),
        "bw": whole(outcome.bandwidth) / 1024,
        "iops": outcome.iops,
        "runtime": runtime_ms,
        "total_ios": outcome.requests,
        "short_ios": 0,
        "drop_ios": 0,
        "slat_ns": moments(&empty()),
        "clat_ns": with_percentiles(&latency),
        "lat_ns": moments(&latency),
        "bw_min": whole(iops.min * mean_kib),
        "bw_max": whole(iops.max * mean_kib),
        "bw_agg": if outcome.requests == 0 { 0.0 } else { 100.0 },
        "bw_mean": iops.mean * mean_kib,
        "bw_dev": iops.deviation * mean_kib,
        "bw_samples": iops.count,
        "iops_min": whole(iops.min),
        "iops_max": whole(iops.max),
        "iops_mean": iops.mean,
        "iops_stddev": iops.deviation,
        "iops_samples": iops.count,
    }))
}

/// A kind's rates, stretch by stretch.
#[derive(Default)]
struct Samples {
    min: f64,
    max: f64,
    mean: f64,
    deviation: f64,
    count: u32,
}

impl Samples {
    fn of(run: &Run, kind: &str) -> Result<Self, HistogramError> {
        let mut rates: Vec<f64> = Vec::new();
        let intervals: Vec<_> = run.intervals.iter().filter(|interval| interval.kind == kind).collect();
        let mut ended = intervals.iter().peekable();
        // A stretch in which nothing of the kind ended is a rate of 0.
        for stretch in run.series.iter().filter(|stretch| stretch.took_ns > 0 && !intervals.is_empty()) {
            let interval = ended.next_if(|interval| interval.at_ns == stretch.at_ns);
            let requests = interval.map_or(Ok(0), |interval| from_text(&interval.histogram).map(|latency| latency.len()))?;
            rates.push(requests as f64 * 1e9 / stretch.took_ns as f64);
        }
        let Ok(count @ 1..) = u32::try_from(rates.len()) else { return Ok(Self::default()) };
        let mean = rates.iter().sum::<f64>() / f64::from(count);
        let squares: f64 = rates.iter().map(|rate| (rate - mean).powi(2)).sum();
        Ok(Self {
            min: rates.iter().copied().fold(f64::INFINITY, f64::min),
            max: rates.iter().copied().fold(0.0, f64::max),
            mean,
            deviation: (squares / f64::from(count.saturating_sub(1).max(1))).sqrt(),
            count,
        })
    }
}

fn moments(latency: &Histogram<u64>) -> Value {
    let min = if latency.is_empty() { 0 } else { latency.min() };
    json!({ "min": min, "max": latency.max(), "mean": latency.mean(), "stddev": latency.stdev(), "N": latency.len() })
}

fn with_percentiles(latency: &Histogram<u64>) -> Value {
    let mut members = moments(latency);
    if !latency.is_empty() {
        let at = |percent: f64| (format!("{percent:.6}"), latency.value_at_percentile(percent).into());
        members["percentile"] = Value::Object(PERCENTILES.into_iter().map(at).collect());
    }
    members
}

fn processor_percent(run: &Run) -> f64 {
    if run.took_ns == 0 { 0.0 } else { run.client_cpu_ns as f64 * 100.0 / run.took_ns as f64 }
}

fn zeros(keys: &[&str]) -> Value {
    Value::Object(keys.iter().map(|key| ((*key).to_owned(), 0.0.into())).collect())
}

/// A closed loop is always as deep as it was told to be. How deep an open one got was not measured.
fn depths(run: &Run) -> Value {
    let mut members = zeros(&["1", "2", "4", "8", "16", "32", ">=64"]);
    let class = match run.job.depth {
        0..=1 => "1",
        2..=3 => "2",
        4..=7 => "4",
        8..=15 => "8",
        16..=31 => "16",
        32..=63 => "32",
        _ => ">=64",
    };
    if run.job.arrival == Arrival::Closed && run.all.requests > 0 {
        members[class] = 100.0.into();
    }
    members
}

/// Percent of all requests in each class of a unit: above the class before it, the last of the unit below included.
fn classes(latency: &Histogram<u64>, unit_ns: u64, more: &[u64]) -> Value {
    let percent = |from_ns: u64, until_ns: u64| match latency.len() {
        0 => 0.0,
        all if from_ns < until_ns => latency.count_between(from_ns, until_ns - 1) as f64 * 100.0 / all as f64,
        _ => 0.0,
    };
    let mut members = Map::new();
    // Below 1000 of the smaller unit is in that unit's classes; nanoseconds begin at nothing.
    let mut from_ns = if unit_ns == 1 { 0 } else { unit_ns };
    for class in CLASSES.into_iter().chain(more.iter().copied()) {
        let until_ns = class * unit_ns;
        members.insert(class.to_string(), percent(from_ns, until_ns).into());
        from_ns = until_ns;
    }
    if let Some(last) = more.last() {
        members.insert(format!(">={last}"), percent(from_ns, latency.max().max(from_ns) + 1).into());
    }
    Value::Object(members)
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;
    use std::collections::BTreeMap;

    /// Each place in a value and what is there. Elements of a list share a place.
    fn places(value: &Value, at: &str, found: &mut BTreeMap<String, &'static str>) {
        match value {
            Value::Object(members) => members.iter().for_each(|(key, value)| places(value, &format!("{at}/{key}"), found)),
            Value::Array(elements) => elements.iter().for_each(|value| places(value, &format!("{at}[]"), found)),
            leaf => {
                let kind = match leaf {
                    Value::String(_) => "string",
                    Value::Number(number) if number.is_f64() => "float",
                    Value::Number(_) => "integer",
                    _ => "other",
                };
                found.insert(at.to_owned(), kind);
            }
        }
    }

    #[test]
    fn every_key_that_fio_prints_for_random_reads_is_there_with_its_type() {
        let value = json(&sample::reads()).unwrap();
        let mut found = BTreeMap::new();
        places(&value, "", &mut found);
        let keys: Vec<(&str, &str)> = include_str!("fio_keys.txt").lines().map(|line| line.rsplit_once(' ').unwrap()).collect();
        assert!(keys.len() > 150, "{}", keys.len());
        for (key, kind) in keys {
            assert_eq!(found.get(key).copied(), Some(kind), "{key}");
        }
    }

    #[test]
    fn figures_are_those_of_the_report() {
        let report = sample::mixed();
        let run = &report.runs[0];
        let value = json(&report).unwrap();
        let job = &value["jobs"][0];
        let read = &job["read"];
        assert_eq!(read["total_ios"], run.ops["read"].requests);
        assert_eq!(read["io_bytes"], run.ops["read"].bytes);
        assert_eq!(read["clat_ns"]["percentile"]["99.000000"], run.ops["read"].latency.p99_ns);
        assert_eq!(read["lat_ns"]["max"], run.ops["read"].latency.max_ns);
        assert_eq!(read["iops_samples"], 20);
        let mean = read["iops_mean"].as_f64().unwrap();
        assert!((mean / run.ops["read"].iops - 1.0).abs() < 1e-3, "{mean}");
        assert!(read["iops_min"].as_f64() < Some(mean) && read["iops_max"].as_f64() > Some(mean));
        assert_eq!(job["sync"]["total_ios"], run.ops["flush"].requests);
        assert_eq!(job["job options"]["rw"], "randrw");
        assert_eq!(job["job options"]["fsync"], "32");
        assert_eq!(value["time"], words::ctime(value["timestamp"].as_u64().unwrap() * 1000));
    }

    #[test]
    fn classes_of_latency_add_up_to_all_requests() {
        let value = json(&sample::mixed()).unwrap();
        let job = &value["jobs"][0];
        let classes = ["latency_ns", "latency_us", "latency_ms"].into_iter().flat_map(|unit| job[unit].as_object().unwrap().values());
        let sum: f64 = classes.filter_map(Value::as_f64).sum();
        assert!((sum - 100.0).abs() < 0.2, "{sum}");
    }

    #[test]
    fn errors_are_in_it_and_an_empty_run_is_no_failure() {
        let value = json(&sample::troubled()).unwrap();
        assert_eq!((&value["jobs"][0]["error"], &value["jobs"][0]["total_err"]), (&json!(5), &json!(20)));
        let value = json(&sample::hung()).unwrap();
        assert_eq!((&value["jobs"][0]["read"]["total_ios"], &value["jobs"][0]["error"]), (&json!(0), &json!(0)));
    }
}
