//! spinelbench beside a daemon that stalls, that damages data, and that is killed: it must show all of it. No guest.

use crate::spinelbench::{Spinelbench, figures, path, vhost};
use crate::{Bench, Failure, Findings, claim};
use serde_json::{Value, json};
use spinel_testbed::backing::sparse_file;
use spinel_testbed::clock::Deadline;
use spinel_testbed::daemon::Daemon;
use spinel_testbed::guest::Claim;
use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Duration;

/// The daemon is held so long, once in every second.
const STALL: Duration = Duration::from_millis(100);
const BETWEEN: Duration = Duration::from_millis(900);
/// A little less than a stall: the first request that meets one is sent after it has begun.
const STALLED_NS: u64 = 80_000_000;
/// Far more than a killed daemon holds a file.
const PATIENCE_S: u64 = 60;

/// Each kind of damage: of which requests, what the daemon calls it, and what spinelbench must call it.
const DAMAGE: [(&str, &str, &str); 4] = [
    ("write", "misdirect_write", "misdirected"),
    ("write", "lose_write", "lost"),
    ("write", "tear_write", "torn"),
    ("read", "stale_read", "stale"),
];

/// So often each is planted: a stale read is called so only where a newer one was seen before, and lost otherwise.
const PLANTED: u32 = 64;

/// Names the logs.
const CASE: &str = "instrument";

pub(crate) fn run(bench: &Bench) -> Result<Findings, Failure> {
    let mut claims = stalls(bench)?;
    claims.extend(damage(bench)?);
    claims.extend(kill(bench)?);
    Ok(Findings { claims, ..Findings::default() })
}

fn stalls(bench: &Bench) -> Result<Vec<Claim>, Failure> {
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
    Ok(claims)
}

/// Measures for five seconds while the daemon is held for a tenth of each, and answers the run's figures.
fn while_stalling(bench: &Bench, daemon: &mut Daemon, socket: &Path, arguments: &[&str]) -> Result<Value, Failure> {
    let report = bench.logs.join("instrument.json");
    let mut arguments = Vec::from(arguments);
    arguments.extend(["--time", "5s", "--warm-up", "0ms"]);
    let mut instrument =
        Spinelbench::start(bench, CASE, "run", &vhost(socket), &[&arguments, ["--json", path(&report)?].as_slice()].concat())?;
    while instrument.process.wait_until(Deadline::after(BETWEEN))?.is_none() {
        daemon.process().pause()?;
        // The instrument's end would be as good an event; what is waited for is the time.
        let ended = instrument.process.wait_until(Deadline::after(STALL));
        daemon.process().resume()?;
        if ended?.is_some() {
            break;
        }
    }
    instrument.ends_with(0)?;
    figures(&report)
}

/// Plants every kind of damage below a verified load, and reads what it is called.
fn damage(bench: &Bench) -> Result<Vec<Claim>, Failure> {
    let mut daemon = bench.daemon("instrument")?;
    daemon.call("bdev_malloc_create", json!({"name": "memory", "num_blocks": 1 << 14, "block_size": 512}))?;
    daemon.call("bdev_error_create", json!({"base_name": "memory"}))?;
    let socket = daemon.serve("EE_memory", false)?;
    let report = bench.logs.join("instrument.json");
    let load = ["-w", "randrw", "-b", "4K-32K", "-d", "8", "--allow-writes", "--verify", "--time", "2s", "--json", path(&report)?];
    Spinelbench::start(bench, CASE, "run", &vhost(&socket), &load)?.ends_with(0)?;
    let clean = figures(&report)?;
    let checked = clean["verified"]["stamps"].as_u64().unwrap_or(0);
    let mut claims = vec![claim("damage: a sound disk is found sound", checked > 1000 && clean["verified"]["wrong"] == 0)];
    for (io_type, error_type, word) in DAMAGE {
        let mut instrument = Spinelbench::start(bench, CASE, "run", &vhost(&socket), &load)?;
        // Something has been written by then that can be damaged.
        let _ = instrument.process.wait_until(Deadline::after(Duration::from_millis(700)))?;
        daemon
            .call("bdev_error_inject_error", json!({"name": "EE_memory", "io_type": io_type, "error_type": error_type, "num": PLANTED}))?;
        instrument.ends_with(1)?;
        let found = figures(&report)?["verified"]["findings"].clone();
        let named = found.as_array().is_some_and(|found| found.iter().any(|text| text.as_str().is_some_and(|text| text.contains(word))));
        claims.push(claim(&format!("damage: {error_type} is found and called {word}"), named));
    }
    daemon.stop()?;
    Ok(claims)
}

/// Kills the daemon under a verified load, and checks the disk by the log afterwards: as it is, and with a hole in it.
fn kill(bench: &Bench) -> Result<Vec<Claim>, Failure> {
    let file = bench.disk_file("instrument");
    sparse_file(&file, 64 << 20)?;
    let log = bench.logs.join("instrument.writes");
    let _ = fs::remove_file(&log);
    let create = json!({"filename": file, "name": "file", "block_size": 512});
    let mut daemon = bench.daemon("instrument")?;
    daemon.call("bdev_uring_create", create.clone())?;
    let socket = daemon.serve("file", false)?;
    let load = ["-w", "randwrite", "-b", "4K-32K", "-d", "8", "--verify", "--time", "60s", "--log", path(&log)?];
    let mut instrument = Spinelbench::start(bench, CASE, "run", &vhost(&socket), &load)?;
    let still_runs = instrument.process.wait_until(Deadline::after(Duration::from_millis(1500)))?.is_none();
    daemon.process().kill();
    instrument.ends_with(3)?;
    // What the killed daemon had in flight holds the file for a moment.
    let free = Deadline::after_s(PATIENCE_S);
    let mut daemon = bench.daemon("instrument")?;
    while let Err(error) = daemon.call("bdev_uring_create", create.clone()) {
        if free.left().is_none() {
            return Err(error.into());
        }
    }
    let socket = daemon.serve("file", false)?;
    let check = ["--log", path(&log)?];
    let sound = Spinelbench::start(bench, CASE, "verify", &vhost(&socket), &check)?.ends_with(0);
    daemon.call("vhost_delete_controller", json!({"ctrlr": "file.sock"}))?;
    daemon.call("bdev_uring_delete", json!({"name": "file"}))?;
    let hole = fs::OpenOptions::new().write(true).open(&file)?;
    hole.write_all_at(&vec![0; 8 << 20], 16 << 20)?;
    let found = Spinelbench::start(bench, CASE, "verify", &format!("file:{}", file.display()), &check)?.ends_with(1);
    daemon.stop()?;
    Ok(vec![
        claim("kill: the load ran until the daemon was killed, and said so", still_runs),
        claim("kill: everything acknowledged is there", sound.is_ok()),
        claim("kill: what is missing afterwards is found", found.is_ok()),
    ])
}
