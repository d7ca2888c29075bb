//! A host that falls silent under verified load, because nothing gets through to it or it stands still: its target gives it up,
//! keeps nothing of it, and serves it again when it returns.

use crate::fabric::{NVME_HOST, SUBSYSTEM, at, boot_host, controllers, free_ports, listen, subsystem};
use crate::{Bench, DISK, Failure, Findings, claim};
use serde_json::{Value, json};
use spinel_testbed::backing::sparse_file;
use spinel_testbed::clock::{Deadline, Stopwatch};
use spinel_testbed::daemon::Daemon;
use spinel_testbed::guest::Guest;
use std::fs;
use std::time::Duration;

const LOSS: &str = include_str!("../guest/loss.sh");

/// The host says that it will be heard of so often.
const KEEP_ALIVE_S: u64 = 2;
/// It is given up, and comes back, within this time: machines are busy.
const PATIENCE_S: u64 = 60;
/// How often the daemon is asked.
const LOOK: Duration = Duration::from_millis(50);
/// It is at work for so long before it falls silent.
const BUSY: Duration = Duration::from_secs(1);
/// It has an admin queue and as many others as processors.
const QUEUES: usize = 3;

pub(crate) fn run(bench: &Bench) -> Result<Findings, Failure> {
    let mut daemon = bench.daemon("loss")?;
    let ([port], file) = (free_ports()?, bench.disk_file("loss"));
    sparse_file(&file, 64 << 20)?;
    daemon.call("bdev_uring_create", json!({"filename": file, "name": "disk", "block_size": 512}))?;
    subsystem(&mut daemon, SUBSYSTEM, true)?;
    daemon.call("nvmf_subsystem_add_ns", json!({"nqn": SUBSYSTEM, "namespace": {"nsid": 1, "bdev_name": "disk"}}))?;
    listen(&mut daemon, SUBSYSTEM, port)?;
    let alone = Held::by(&mut daemon)?;
    let script = format!("{DISK}\n{NVME_HOST}\n{LOSS}\nis_lost {port} {KEEP_ALIVE_S}\nconclude\n");
    let mut guest = boot_host(bench, "loss", script)?;
    at(&mut guest, "busy")?;
    let mut findings = Findings::default();
    let with_host = Held::by(&mut daemon)?;
    findings.claims.push(claim("the daemon serves every queue of the host", with_host.queues == QUEUES && with_host.controllers == 1));
    for way in [Way::CutOff, Way::Held] {
        lose(&mut daemon, &mut guest, way, &alone, &mut findings)?;
    }
    guest.tell("enough")?;
    at(&mut guest, "end")?;
    let end = until(&mut daemon, &mut guest, |held| *held == alone)?;
    findings.claims.push(claim("the daemon holds nothing of a host that has disconnected", end));
    guest.tell("seen")?;
    findings.claims.extend(guest.finish(Deadline::after_s(PATIENCE_S))?);
    daemon.stop()?;
    Ok(findings)
}

/// How a host falls silent.
#[derive(Clone, Copy)]
enum Way {
    /// Nothing gets through.
    CutOff,
    /// Its processors stand still; what its network sends to it waits.
    Held,
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Self::CutOff => "cut off",
            Self::Held => "held",
        }
    }

    fn begin(self, guest: &Guest) -> Result<(), Failure> {
        match self {
            Self::CutOff => guest.cut_off()?,
            Self::Held => guest.hold()?,
        }
        Ok(())
    }

    fn end(self, guest: &Guest) -> Result<(), Failure> {
        match self {
            Self::CutOff => guest.join_again()?,
            Self::Held => guest.go_on()?,
        }
        Ok(())
    }
}

/// What the daemon has because of hosts.
#[derive(PartialEq, Eq)]
struct Held {
    controllers: usize,
    /// As the subsystem has them, and as the cores count them.
    queues: usize,
    counted: u64,
    /// Requests of the disk's.
    in_flight: u64,
    /// Descriptors of the process.
    files: usize,
}

impl Held {
    fn by(daemon: &mut Daemon) -> Result<Self, Failure> {
        let queues = daemon.call("nvmf_subsystem_get_qpairs", json!({"nqn": SUBSYSTEM}))?;
        let stats = daemon.call("nvmf_get_stats", Value::Null)?;
        let groups = stats["poll_groups"].as_array().into_iter().flatten();
        let counts = groups.flat_map(|group| ["current_admin_qpairs", "current_io_qpairs"].map(|name| group[name].as_u64().unwrap_or(0)));
        Ok(Self {
            controllers: controllers(daemon, SUBSYSTEM)?.len(),
            queues: queues.as_array().map_or(0, Vec::len),
            counted: counts.sum(),
            in_flight: disk(daemon, "in_flight")?,
            files: fs::read_dir(format!("/proc/{}/fd", daemon.process().id()))?.count(),
        })
    }
}

/// A count of the disk's.
fn disk(daemon: &mut Daemon, name: &str) -> Result<u64, Failure> {
    let stats = daemon.call("bdev_get_iostat", json!({"name": "disk"}))?;
    stats["bdevs"][0][name].as_u64().ok_or_else(|| format!("bdev_get_iostat has no {name}").into())
}

/// Looks at what the daemon has until that is as it should be. The answer says whether it ever was.
fn until(daemon: &mut Daemon, guest: &mut Guest, good: impl Fn(&Held) -> bool) -> Result<bool, Failure> {
    let deadline = Deadline::after_s(PATIENCE_S);
    while deadline.left().is_some() {
        if good(&Held::by(daemon)?) {
            return Ok(true);
        }
        // The guest has nothing to say; its end would be told.
        guest.heard("\0", Deadline::after(LOOK))?;
    }
    Ok(false)
}

/// Loses the host in the middle of its work, and has it back.
fn lose(daemon: &mut Daemon, guest: &mut Guest, way: Way, alone: &Held, findings: &mut Findings) -> Result<(), Failure> {
    let (name, log_bytes) = (way.name(), fs::read_to_string(daemon.log())?.len());
    guest.heard("\0", Deadline::after(BUSY))?;
    way.begin(guest)?;
    let silence = Stopwatch::start();
    let given_up = until(daemon, guest, |held| held.controllers == 0)?;
    let silent = silence.elapsed();
    findings.claims.push(claim(&format!("{name}: the host is given up"), given_up));
    if !given_up {
        // Nothing else can be seen of it then.
        return way.end(guest);
    }
    // What it had under way comes back from the disk first.
    let free = until(daemon, guest, |held| held == alone)?;
    let because = format!("was not heard of for {} ms", KEEP_ALIVE_S * 1000);
    let said = fs::read_to_string(daemon.log())?[log_bytes..].contains(&because);
    let reads = disk(daemon, "num_read_ops")?;
    way.end(guest)?;
    let absence = Stopwatch::start();
    let back = until(daemon, guest, |held| held.controllers == 1 && held.queues == QUEUES)?;
    let absent = absence.elapsed();
    let goes_on = until_read(daemon, guest, reads)?;
    findings.claims.extend([
        claim(&format!("{name}: the daemon says why"), said),
        claim(&format!("{name}: it holds nothing of the host any more"), free),
        claim(&format!("{name}: the host returns with every queue"), back),
        claim(&format!("{name}: and goes on"), goes_on),
    ]);
    let (silent, absent) = (silent.as_millis(), absent.as_millis());
    findings.figures.push(format!("{name}: given up after {silent} ms of silence, back {absent} ms after its end"));
    Ok(())
}

/// Waits until the disk has been read more often than so.
fn until_read(daemon: &mut Daemon, guest: &mut Guest, reads: u64) -> Result<bool, Failure> {
    let deadline = Deadline::after_s(PATIENCE_S);
    while deadline.left().is_some() {
        if disk(daemon, "num_read_ops")? > reads {
            return Ok(true);
        }
        guest.heard("\0", Deadline::after(LOOK))?;
    }
    Ok(false)
}
