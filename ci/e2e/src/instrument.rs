//! spinelbench beside a daemon that stalls: an open loop must show it, a closed loop cannot. No guest.

use crate::{Bench, Failure, Findings, claim};
use serde_json::{Value, json};
use spinel_testbed::clock::Deadline;
use spinel_testbed::daemon::Daemon;
use spinel_testbed::process::{Process, open_log};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// The daemon is held so long, once in every second.
const STALL: Duration = Duration::from_millis(100);
const BETWEEN: Duration = Duration::from_millis(900);
/// A little less than a stall: the first request that meets one is sent after it has begun.
const STALLED_NS: u64 = 80_000_000;
/// Far more than a run of a few seconds takes.
const PATIENCE_S: u64 = 60;

pub(crate) fn run(bench: &Bench) -> Result<Findings, Failure> {
    let mut daemon = bench.daemon("instrument")?;
    daemon.call("bdev_null_create", json!({"name": "null", "num_blocks": 1 << 21, "block_size": 512}))?;
    let socket = daemon.serve("null", false)?;
    let mut claims = Vec::new();
    let open = while_stalling(bench, &mut daemon, &socket, &["--rate", "1000", "--depth", "128"])?;
    let closed = while_stalling(bench, &mut daemon, &socket, &[])?;
    let p99_9 = |run: &Value| run["all"]["latency"]["p99_9_ns"].as_u64().unwrap_or(0);
    let max = |run: &Value| run["all"]["latency"]["max_ns"].as_u64().unwrap_or(0);
    let no_errors = |run: &Value| run["all"]["errors"] == 0 && run["interrupted"] == false;
    claims.push(claim("stalls: no request fails", no_errors(&open) && no_errors(&closed)));
    claims.push(claim("stalls: the p99.9 of an open loop at 1,000 a second shows them", p99_9(&open) >= STALLED_NS));
    claims.push(claim("stalls: the p99.9 of a closed loop does not", p99_9(&closed) < STALLED_NS));
    claims.push(claim("stalls: only its maximum does", max(&closed) >= STALLED_NS));
    daemon.stop()?;
    Ok(Findings { claims, skipped: Vec::new() })
}

/// Measures for five seconds while the daemon is held for a tenth of each, and answers the run's figures.
fn while_stalling(bench: &Bench, daemon: &mut Daemon, socket: &Path, arguments: &[&str]) -> Result<Value, Failure> {
    let report = bench.logs.join("instrument.json");
    let log = bench.logs.join("instrument.spinelbench.log");
    let mut command = Command::new(bench.program("spinelbench"));
    command.arg("run").arg(format!("vhost:{}", socket.display())).args(["--time", "5s", "--warm-up", "0ms", "--quiet"]);
    command.arg("--json").arg(&report).args(arguments);
    command.stdin(Stdio::null()).stdout(open_log(&log)?).stderr(open_log(&log)?);
    let mut instrument = Process::start("spinelbench", &mut command)?;
    while instrument.wait_until(Deadline::after(BETWEEN))?.is_none() {
        daemon.process().pause()?;
        // The instrument's end would be as good an event; what is waited for is the time.
        let ended = instrument.wait_until(Deadline::after(STALL));
        daemon.process().resume()?;
        if ended?.is_some() {
            break;
        }
    }
    match instrument.wait_until(Deadline::after_s(PATIENCE_S))? {
        Some(status) if status.success() => {}
        ended => return Err(format!("spinelbench {} ended with {ended:?}; its log is {}", arguments.join(" "), log.display()).into()),
    }
    let report: Value = serde_json::from_str(&fs::read_to_string(&report)?)?;
    Ok(report["runs"][0].clone())
}
