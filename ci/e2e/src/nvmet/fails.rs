//! Linux' target that is cut off, held and killed under verified load, and returns: what its hosts see is a pause, or a failure where
//! that was asked for.

use super::{GENTLY, LOOK, PATIENCE, PORTS, SUBSYSTEM, Target};
use crate::fabric::attachment;
use crate::spinelbench::{Spinelbench, figures, path, vhost};
use crate::{Bench, Failure, Findings, claim};
use serde_json::json;
use spinel_testbed::clock::{Deadline, Stopwatch};
use std::path::PathBuf;
use std::time::Duration;

const CASE: &str = "nvmet-fails";

/// A target that is not heard of for so long is given up, and tried again so often.
const KEEP_ALIVE_MS: u32 = 1000;
const RECONNECT_S: u32 = 1;
/// QEMU takes connections for a guest that does not answer yet.
const CONNECT_MS: u32 = 2000;
/// Requests of the impatient controller fail after so long without one.
const FAIL_S: u32 = 1;
/// The target stands still for so long, which is more than enough to be given up.
const HELD: Duration = Duration::from_secs(4);
/// The load has run for so long before anything happens.
const BUSY: Duration = Duration::from_secs(1);

pub(crate) fn run(bench: &Bench) -> Result<Findings, Failure> {
    let mut target = Target::begin(bench, CASE, &[])?;
    let options = json!({
        "keep_alive_timeout_ms": KEEP_ALIVE_MS, "tcp_connect_timeout_ms": CONNECT_MS, "reconnect_delay_sec": RECONNECT_S,
        "ctrlr_loss_timeout_sec": 600,
    });
    target.daemon.call("bdev_nvme_set_options", options)?;
    target.attach(0)?;
    target.attach(1)?;
    let socket = target.daemon.serve("farn1", false)?;
    let mut findings = Findings::default();
    let log = bench.logs.join(format!("{CASE}.writes"));
    let load = ["-w", "randrw", "-b", "4K-32K", "-d", "8", "--time", "600s", "--allow-writes", "--verify", "--log", path(&log)?];
    let report = bench.logs.join(format!("{CASE}.json"));
    let all = [load.as_slice(), &GENTLY, &["--json", path(&report)?]].concat();
    let mut load = Spinelbench::start(bench, CASE, "run", &vhost(&socket), &all)?;
    wait(&mut load, BUSY)?;
    for way in [0, 1] {
        cut(&mut target, &mut load, way, &mut findings)?;
    }
    hold(&mut target, &mut load, &mut findings)?;
    kill(&mut target, &mut load, &mut findings)?;
    // What was written last has not been read back then, and spinelbench says so; by the log all of it is checked in the end.
    load.stops_with(1)?;
    let run = figures(&report)?;
    let count = |of: &serde_json::Value| of.as_u64().unwrap_or(0);
    let (requests, stamps, longest_ms) =
        (count(&run["all"]["requests"]), count(&run["verified"]["stamps"]), count(&run["all"]["latency"]["max_ns"]) / 1_000_000);
    findings.figures.push(format!("{requests} requests, {stamps} sectors checked, the longest took {longest_ms} ms"));
    findings.claims.push(claim("no request has failed", run["all"]["errors"] == 0));
    findings.claims.push(claim("everything that was read is right", run["verified"]["wrong"] == 0 && stamps > 1000));
    let sound = Spinelbench::start(bench, CASE, "verify", &vhost(&socket), &["--log", path(&log)?])?.ends_with(0);
    findings.claims.push(claim("everything acknowledged is there", sound.is_ok()));
    findings.claims.extend(target.end()?);
    Ok(findings)
}

/// Lets time pass under load, which must not end by itself.
fn wait(load: &mut Spinelbench, time: Duration) -> Result<(), Failure> {
    match load.process.wait_until(Deadline::after(time))? {
        Some(status) => Err(format!("the load has ended by itself ({status}); its log is {CASE}.spinelbench.log").into()),
        None => Ok(()),
    }
}

/// Waits until something is so. The answer says whether it ever was.
fn until(load: &mut Spinelbench, mut good: impl FnMut() -> Result<bool, Failure>) -> Result<bool, Failure> {
    let deadline = Deadline::after(PATIENCE);
    while deadline.left().is_some() {
        if good()? {
            return Ok(true);
        }
        wait(load, LOOK)?;
    }
    Ok(false)
}

/// How many requests of a disk have ended, and how many of them failed.
fn ended(target: &mut Target<'_>, bdev: &str) -> Result<(u64, u64), Failure> {
    let stats = target.daemon.call("bdev_get_iostat", json!({"name": bdev}))?;
    let of = &stats["bdevs"][0];
    let count = |name: &str| of[name].as_u64().unwrap_or(0);
    Ok((count("num_read_ops") + count("num_write_ops"), of["io_error"]["failed"].as_u64().unwrap_or(0)))
}

/// Whether so many more requests of the load end as can be in flight at once, so that some of them were sent only now.
fn goes_on(target: &mut Target<'_>, load: &mut Spinelbench) -> Result<bool, Failure> {
    let (before, _) = ended(target, "farn1")?;
    until(load, || Ok(ended(target, "farn1")?.0 > before + 8))
}

/// Takes one of the two ways, and gives it back.
fn cut(target: &mut Target<'_>, load: &mut Spinelbench, way: usize, findings: &mut Findings) -> Result<(), Failure> {
    let name = format!("way {} is cut", way + 1);
    target.order(&format!("unlinks {SUBSYSTEM} {}", PORTS[way]))?;
    let noticed = until(load, || Ok(target.connected("far")? == 1))?;
    let other = goes_on(target, load)?;
    target.order(&format!("links {SUBSYSTEM} {}", PORTS[way]))?;
    let mended = until(load, || Ok(target.connected("far")? == 2))?;
    findings.claims.extend([
        claim(&format!("{name}: that is noticed"), noticed),
        claim(&format!("{name}: the load goes on by the other"), other),
        claim(&format!("{name}: it is connected again"), mended),
    ]);
    Ok(())
}

/// Holds the target for longer than it may be silent, on both ways.
fn hold(target: &mut Target<'_>, load: &mut Spinelbench, findings: &mut Findings) -> Result<(), Failure> {
    target.guest().hold()?;
    let pause = Stopwatch::start();
    let noticed = until(load, || Ok(target.connected("far")? == 0))?;
    wait(load, HELD.saturating_sub(pause.elapsed()))?;
    target.guest().go_on()?;
    let again = Stopwatch::start();
    let mended = until(load, || Ok(target.connected("far")? == 2))?;
    let on = goes_on(target, load)?;
    let (noticed_text, on_text) = ("held: both ways are given up", "held: both are connected again, and the load goes on");
    findings.claims.extend([claim(noticed_text, noticed), claim(on_text, mended && on)]);
    findings.figures.push(format!("held for {} ms, goes on {} ms after that", HELD.as_millis(), again.elapsed().as_millis()));
    Ok(())
}

/// Kills the target, and boots it again. A second controller fails its requests meanwhile.
fn kill(target: &mut Target<'_>, load: &mut Spinelbench, findings: &mut Findings) -> Result<(), Failure> {
    let socket = impatient(target)?;
    let steady = ["--rate", "50", "-d", "8", "--time", "600s", "--warm-up", "0ms", "--area", "1M"];
    let other = Spinelbench::start(target.bench, CASE, "run", &vhost(&socket), &[steady.as_slice(), &GENTLY].concat())?;
    let served = until(load, || Ok(ended(target, "quickn1")?.0 > 8))?;
    let clean = ended(target, "quickn1")?.1 == 0;
    target.kill();
    let pause = Stopwatch::start();
    let failed = until(load, || Ok(ended(target, "quickn1")?.1 > 0))?;
    let failed_after = pause.elapsed();
    let (_, errors) = ended(target, "farn1")?;
    target.boot()?;
    let mended = until(load, || Ok(target.connected("far")? == 2 && target.connected("quick")? == 1))?;
    let on = goes_on(target, load)?;
    let took = pause.elapsed();
    // Some requests have failed, as they were to.
    other.stops_with(1)?;
    let read = ["--requests", "100", "--warm-up", "0ms", "--area", "1M"];
    let quick_again = Spinelbench::start(target.bench, CASE, "run", &vhost(&socket), &read)?.ends_with(0);
    findings.claims.extend([
        claim("killed: an impatient controller has served until then", served && clean),
        claim("killed: its requests fail", failed),
        claim("killed: those of the patient one wait", errors == 0),
        claim("killed: all ways are connected again when it is back, and the load goes on", mended && on),
        claim("killed: the impatient one serves again", quick_again.is_ok()),
    ]);
    let text = "killed: the first request of the impatient one failed";
    findings.figures.push(format!("{text} after {} ms; the load goes on after {} ms", failed_after.as_millis(), took.as_millis()));
    Ok(())
}

/// The same disk once more, by a controller that fails requests soon.
fn impatient(target: &mut Target<'_>) -> Result<PathBuf, Failure> {
    let mut params = attachment("quick", SUBSYSTEM, target.ports[0]);
    params["fast_io_fail_timeout_sec"] = FAIL_S.into();
    target.daemon.call("bdev_nvme_attach_controller", params)?;
    Ok(target.daemon.serve("quickn1", true)?)
}
