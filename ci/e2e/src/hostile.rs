//! Front ends that mean harm, on one disk after another, beside a disk under verified load. No guest.

use crate::{Bench, Failure, Findings, claim};
use serde_json::{Value, json};
use spinel_testbed::backing::sparse_file;
use spinel_testbed::clock::{Deadline, Stopwatch};
use spinel_testbed::daemon::Daemon;
use spinel_testbed::guest::Claim;
use spinel_testbed::process::{Process, open_log};
use spinel_vhost_hostile::{Entry, MEMORY_NAME, Target, serve_well, table};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// The disks that harm is done to, as the table wants them: 16 MiB in blocks of 512 bytes.
const DISKS: [&str; 2] = ["memory", "file"];
const DISK_BYTES: u64 = 16 << 20;
/// The disk that must not notice.
const WATCHED: &str = "watched";
/// Far longer than the table takes; the load is stopped before.
const LOAD_TIME: &str = "1800s";
const PATIENCE: Duration = Duration::from_secs(60);
/// How many mappings more a process may have that are its allocator's doing: the C library gives threads that meet in it arenas
/// of their own, up to eight per processor, of two mappings each. The table has over 1,000 entries: what one of them left
/// behind each time would be far more.
const MAPS_SLACK: usize = 48;
/// So many entries are wrong before the rest is left out.
const SURPRISES_MAX: usize = 5;

/// What a process holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Held {
    descriptors: usize,
    threads: usize,
    maps: usize,
    /// Those of memory that hostile front ends have shared.
    theirs: usize,
}

impl Held {
    fn by(pid: u32) -> Result<Self, Failure> {
        let entries = |of: &str| Ok::<_, Failure>(fs::read_dir(format!("/proc/{pid}/{of}"))?.count());
        let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
        let theirs = maps.lines().filter(|line| line.contains(MEMORY_NAME)).count();
        Ok(Self { descriptors: entries("fd")?, threads: entries("task")?, maps: maps.lines().count(), theirs })
    }

    /// Whether nothing of it is left over, compared with before.
    fn is_no_more_than(self, before: Self) -> bool {
        self.descriptors <= before.descriptors && self.threads <= before.threads && self.theirs == 0
    }
}

pub(crate) fn run(bench: &Bench) -> Result<Findings, Failure> {
    let mut daemon = bench.daemon("hostile")?;
    let targets = serve(bench, &mut daemon)?;
    daemon.call("bdev_malloc_create", json!({"name": WATCHED, "num_blocks": 1 << 17, "block_size": 512}))?;
    let watched = daemon.serve(WATCHED, false)?;
    let load = Load::start(bench, &watched)?;
    // Whatever is made at the first use only is there afterwards.
    for target in &targets {
        serve_well(target)?;
    }
    let pid = daemon.process().id();
    let before = Held::by(pid)?;
    let entries = table();
    let mut findings = Findings::default();
    for (target, disk) in targets.iter().zip(DISKS) {
        harm(&mut daemon, target, disk, &entries, before, &mut findings)?;
    }
    let after = Held::by(pid)?;
    findings.claims.push(claim("hostile: the daemon has the process it had", daemon.process().wait_until(Deadline::after_s(0))?.is_none()));
    let sound = after.is_no_more_than(before) && after.maps <= before.maps + MAPS_SLACK;
    findings.claims.push(claim(&format!("hostile: it holds nothing more than before ({before:?}, {after:?})"), sound));
    findings.claims.extend(load.end(&mut findings.figures)?);
    daemon.stop()?;
    Ok(findings)
}

/// Serves the disks that harm is done to.
fn serve(bench: &Bench, daemon: &mut Daemon) -> Result<Vec<Target>, Failure> {
    let [memory, file] = DISKS;
    daemon.call("bdev_malloc_create", json!({"name": memory, "num_blocks": DISK_BYTES / 512, "block_size": 512}))?;
    let path = bench.disk_file("hostile");
    sparse_file(&path, DISK_BYTES)?;
    daemon.call("bdev_uring_create", json!({"filename": path, "name": file, "block_size": 512}))?;
    let mut targets = Vec::new();
    for disk in DISKS {
        targets.push(Target { socket: daemon.serve(disk, false)?, log: Some(daemon.log().to_owned()) });
    }
    Ok(targets)
}

/// Does everything in the table to one disk.
fn harm(daemon: &mut Daemon, target: &Target, disk: &str, entries: &[Entry], before: Held, findings: &mut Findings) -> Result<(), Failure> {
    let pid = daemon.process().id();
    let whole = Stopwatch::start();
    let mut surprises = 0;
    for (at, entry) in entries.iter().enumerate() {
        let outcome = entry.run(target);
        if daemon.process().wait_until(Deadline::after_s(0))?.is_some() {
            return Err(format!("{disk}: the daemon has not survived \"{}\"; its log is {}", entry.name, daemon.log().display()).into());
        }
        let held = Held::by(pid)?;
        let mut text = format!("hostile: {disk}: {}: the daemon {}", entry.name, entry.must);
        if let Err(surprise) = &outcome {
            text += &format!("; but {surprise}");
        }
        if !held.is_no_more_than(before) {
            text += &format!("; but of {before:?} there is now {held:?}");
        }
        let as_it_must = outcome.is_ok() && held.is_no_more_than(before);
        findings.claims.push(claim(&text, as_it_must));
        surprises += usize::from(!as_it_must);
        if surprises == SURPRISES_MAX {
            findings.skipped.push(format!("{disk}: the {} entries after \"{}\": too many went wrong", entries.len() - at - 1, entry.name));
            break;
        }
    }
    let took = whole.elapsed().as_secs_f64();
    findings.figures.push(format!("{disk}: {} entries, {surprises} of them not as they must, {took:.1} s", entries.len()));
    Ok(())
}

/// A verified load on the disk that must not notice.
struct Load {
    process: Process,
    report: PathBuf,
    log: PathBuf,
}

impl Load {
    fn start(bench: &Bench, socket: &Path) -> Result<Self, Failure> {
        let (report, log) = (bench.logs.join("hostile.json"), bench.logs.join("hostile.spinelbench.log"));
        let mut command = Command::new(bench.program("spinelbench"));
        command.arg("run").arg(format!("vhost:{}", socket.display()));
        command.args(["-w", "randrw", "-b", "4K-32K", "-d", "16", "--rate", "2000", "--wait", "sleep", "--allow-writes", "--verify"]);
        command.args(["--time", LOAD_TIME, "--quiet", "--json"]).arg(&report);
        command.stdin(Stdio::null()).stdout(open_log(&log)?).stderr(open_log(&log)?);
        Ok(Self { process: Process::start("spinelbench", &mut command)?, report, log })
    }

    /// Stops it, and looks at what it has found.
    fn end(mut self, figures: &mut Vec<String>) -> Result<Vec<Claim>, Failure> {
        let ran = self.process.wait_until(Deadline::after_s(0))?.is_none();
        // One that is interrupted says by its exit code that it has not read everything back. What it has counts.
        let ended = self.process.stop(PATIENCE)?;
        if !ended.is_some_and(|status| matches!(status.code(), Some(0 | 1))) {
            return Err(format!("spinelbench has not ended in order ({ended:?}); its log is {}", self.log.display()).into());
        }
        let report: Value = serde_json::from_str(&fs::read_to_string(&self.report)?)?;
        let run = &report["runs"][0];
        let (checked, latency) = (run["verified"]["stamps"].as_u64().unwrap_or(0), &run["all"]["latency"]);
        let millis = |key: &str| latency[key].as_u64().unwrap_or(0) / 1_000_000;
        figures.push(format!(
            "{WATCHED}: {} requests, {checked} sectors checked, p99 {} ms, longest {} ms",
            run["all"]["requests"],
            millis("p99_ns"),
            millis("max_ns")
        ));
        let sound = run["verified"]["wrong"] == 0 && run["all"]["errors"] == 0;
        Ok(vec![
            claim("hostile: the disk beside them was under load all the time", ran && checked > 1000),
            claim("hostile: no request on the disk beside them failed, and nothing was wrong in it", sound),
        ])
    }
}
