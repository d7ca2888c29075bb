//! fio on the same file: what the machine gives without any server. Knows no table.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use spinel_testbed::process::tail;

use crate::Failure;
use crate::contest::{Latency, Seen};
use crate::servers::Place;
use crate::work::Work;

/// Does the work through io_uring past the page cache, by one thread on the client's core.
pub(crate) fn run(place: &Place, file: &Path, work: &Work, warm_up: Duration, length: Duration) -> Result<Seen, Failure> {
    let log = place.logs.join("fio.log");
    let mut command = place.command("fio");
    command.args(["--name=bench", "--ioengine=io_uring", "--direct=1", "--thread", "--time_based", "--allow_file_create=0"]);
    command.args(["--norandommap", "--randrepeat=0", "--lat_percentiles=1", "--clat_percentiles=0", "--output-format=json"]);
    // Reads and writes together. What is written is random, made once: to make it anew each time would be fio's cost alone.
    command.args(["--unified_rw_reporting=mixed", "--scramble_buffers=0"]).args(work.fio());
    command.arg("--percentile_list=50:99:99.9").arg(format!("--filename={}", file.display()));
    command.arg(format!("--ramp_time={}ms", warm_up.as_millis())).arg(format!("--runtime={}ms", length.as_millis()));
    command.arg(format!("--cpus_allowed={}", place.cores.client)).stdin(Stdio::null()).stderr(std::fs::File::create(&log)?);
    let output = command.output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    // It may say something before the report.
    let report = text.find('{').and_then(|at| serde_json::from_str::<Value>(&text[at..]).ok());
    let report = report.filter(|_| output.status.success()).ok_or_else(|| format!("fio failed ({}){}", output.status, tail(&log, 5)))?;
    read(&report["jobs"][0]).ok_or_else(|| "fio's report has another form".into())
}

fn read(job: &Value) -> Option<Seen> {
    let all = &job["mixed"];
    let took_ns = all["runtime"].as_u64()? * 1_000_000;
    let quantile = |name: &str| all["lat_ns"]["percentile"][name].as_u64();
    let percent = job["usr_cpu"].as_f64()? + job["sys_cpu"].as_f64()?;
    let requests = all["total_ios"].as_u64()?;
    Some(Seen {
        requests,
        bytes: all["io_bytes"].as_u64()?,
        errors: job["total_err"].as_u64().unwrap_or(0).max(u64::from(job["error"].as_i64()? != 0)),
        took_ns,
        latency: Latency {
            p50_ns: quantile("50.000000")?,
            p99_ns: quantile("99.000000")?,
            p99_9_ns: quantile("99.900000")?,
            max_ns: all["lat_ns"]["max"].as_u64()?,
        },
        cpu_ns: share_of(took_ns, percent),
        busy_ns: None,
    })
}

/// So many percent of a time.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "a figure read to three digits")]
fn share_of(took_ns: u64, percent: f64) -> u64 {
    (took_ns as f64 * percent / 100.0) as u64
}
