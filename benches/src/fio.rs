//! fio on the same file: what the machine gives without any server. Knows no table.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use spinel_testbed::process::tail;

use crate::Failure;
use crate::client::BLOCK_BYTES;
use crate::servers::Place;

/// What one run of fio saw.
pub(crate) struct Run {
    pub(crate) reads: u64,
    pub(crate) errors: u64,
    pub(crate) took_ns: u64,
    pub(crate) p50_ns: u64,
    pub(crate) p99_ns: u64,
    pub(crate) cpu_ns: u64,
}

/// Random reads through io_uring past the page cache, by one thread on the client's core.
pub(crate) fn run(place: &Place, file: &Path, depth: u16, warm_up: Duration, length: Duration) -> Result<Run, Failure> {
    let log = place.logs.join("fio.log");
    let mut command = place.command("fio");
    command.args(["--name=reads", "--rw=randread", "--ioengine=io_uring", "--direct=1", "--readonly", "--thread", "--time_based"]);
    command.args(["--norandommap", "--randrepeat=0", "--lat_percentiles=1", "--clat_percentiles=0", "--output-format=json"]);
    command.arg(format!("--filename={}", file.display())).arg(format!("--bs={BLOCK_BYTES}")).arg(format!("--iodepth={depth}"));
    command.arg(format!("--ramp_time={}ms", warm_up.as_millis())).arg(format!("--runtime={}ms", length.as_millis()));
    command.arg(format!("--cpus_allowed={}", place.cores.client)).stdin(Stdio::null()).stderr(std::fs::File::create(&log)?);
    let output = command.output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    // It may say something before the report.
    let report = text.find('{').and_then(|at| serde_json::from_str::<Value>(&text[at..]).ok());
    let report = report.filter(|_| output.status.success()).ok_or_else(|| format!("fio failed ({}){}", output.status, tail(&log, 5)))?;
    read(&report["jobs"][0]).ok_or_else(|| "fio's report has another form".into())
}

fn read(job: &Value) -> Option<Run> {
    let read = &job["read"];
    let took_ns = read["runtime"].as_u64()? * 1_000_000;
    let quantile = |name: &str| read["lat_ns"]["percentile"][name].as_u64();
    let percent = job["usr_cpu"].as_f64()? + job["sys_cpu"].as_f64()?;
    Some(Run {
        reads: read["total_ios"].as_u64()?,
        errors: job["error"].as_u64()?,
        took_ns,
        p50_ns: quantile("50.000000")?,
        p99_ns: quantile("99.000000")?,
        cpu_ns: share_of(took_ns, percent),
    })
}

/// So many percent of a time.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "a figure read to three digits")]
fn share_of(took_ns: u64, percent: f64) -> u64 {
    (took_ns as f64 * percent / 100.0) as u64
}
