//! A guest under verified load that moves from QEMU to QEMU, each on a socket of its own that leads to the same disk.

use crate::load::{self, LOAD, Loaded};
use crate::pauses::Pauses;
use crate::{Bench, DISK, Failure, Findings, claim};
use serde_json::json;
use spinel_testbed::backing::sparse_file;
use spinel_testbed::clock::Deadline;
use spinel_testbed::daemon::Daemon;
use spinel_testbed::guest::{Claim, Disk, Guest, Maker, Moved, Plan, Rings};
use spinel_testbed::process::{Process, open_log};
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

const DISK_BYTES: u64 = 64 << 20;

/// What a move, and whatever else is waited for, may take.
const PATIENCE_S: u64 = 240;
/// A guest that has stood still for so long under a server to compare with is lost.
const PATIENCE_BESIDE_S: u64 = 30;
/// The guest is left alone for so long between two moves.
const BETWEEN: Duration = Duration::from_millis(1500);
/// QEMU's own default: the guest is stopped once the rest can be sent in so many milliseconds.
const DOWNTIME_LIMIT_MS: u64 = 300;

/// Who serves the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Server {
    /// The daemon under test.
    Spineld,
    /// QEMU's own server of disks, to compare with.
    StorageDaemon,
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Spineld => "spineld",
            Self::StorageDaemon => "qemu-storage-daemon",
        })
    }
}

/// What is to be done.
#[derive(Debug, Clone)]
pub struct MovePlan {
    /// How often the guest moves.
    pub moves: u32,
    /// Who serves its disk.
    pub server: Server,
    /// Whether the rings are packed, not split.
    pub packed: bool,
}

/// What has come of it.
#[derive(Debug)]
pub struct Moves {
    /// What was claimed. Of a server to compare with, nothing is.
    pub claims: Vec<Claim>,
    server: Server,
    layout: &'static str,
    moved: Vec<Moved>,
    /// After so many moves the guest did not come to an end.
    lost: u32,
    load: Loaded,
}

pub(crate) fn case(bench: &Bench) -> Result<Findings, Failure> {
    let mut findings = Findings::default();
    for packed in [false, true] {
        let moves = run(bench, &MovePlan { moves: 1, server: Server::Spineld, packed }, &mut |_| ())?;
        findings.figures.extend(moves.to_string().lines().map(str::to_owned));
        findings.claims.extend(moves.claims);
    }
    Ok(findings)
}

/// Moves a guest as planned, and tells `progress` how far it is. Under spineld, one guest makes all moves; under what it is
/// compared with each move has a guest and a server of its own, since not every guest survives.
///
/// # Errors
/// When a guest, a QEMU or the server ended in disorder, or a load failed.
pub fn run(bench: &Bench, plan: &MovePlan, progress: &mut dyn FnMut(&str)) -> Result<Moves, Failure> {
    let layout = if plan.packed { "packed" } else { "split" };
    let mut moves = Moves { claims: Vec::new(), server: plan.server, layout, moved: Vec::new(), lost: 0, load: Loaded::default() };
    if plan.server == Server::Spineld {
        let mut journey = Journey::begin(bench, plan, format!("migrate-{layout}"))?;
        for number in 1..=plan.moves {
            progress(&format!("move {number} of {}", plan.moves));
            moves.moved.push(journey.go_on()?);
        }
        (moves.claims, moves.load) = journey.end(PATIENCE_S)?;
        return Ok(moves);
    }
    for number in 1..=plan.moves {
        progress(&format!("move {number} of {}", plan.moves));
        let mut journey = Journey::begin(bench, plan, format!("migrate-{layout}-beside-{number}"))?;
        moves.moved.push(journey.go_on()?);
        match journey.end(PATIENCE_BESIDE_S) {
            Ok((_, load)) => moves.load.add(&load),
            Err(_) => moves.lost += 1,
        }
    }
    Ok(moves)
}

/// A guest under load, on its way through several QEMUs.
struct Journey<'a> {
    bench: &'a Bench,
    maker: Maker,
    name: String,
    packed: bool,
    serving: Serving,
    sockets: [PathBuf; 2],
    guest: Guest,
    moves: u32,
}

impl<'a> Journey<'a> {
    fn begin(bench: &'a Bench, plan: &MovePlan, name: String) -> Result<Self, Failure> {
        let file = bench.disk_file(&name);
        sparse_file(&file, DISK_BYTES)?;
        let (serving, sockets) = Serving::start(bench, plan.server, &name, &file)?;
        let maker = load::maker(bench)?;
        let mut guest = maker.boot(&stop(&name, plan.packed, &sockets, 0), &bench.sockets, &bench.logs)?;
        guest.until("reached: busy", Deadline::after_s(PATIENCE_S))?;
        Ok(Self { bench, maker, name, packed: plan.packed, serving, sockets, guest, moves: 0 })
    }

    /// Lets the guest work for a while, and moves it.
    fn go_on(&mut self) -> Result<Moved, Failure> {
        wait(&mut self.guest)?;
        self.moves += 1;
        let plan = stop(&self.name, self.packed, &self.sockets, self.moves);
        let mut other = self.maker.boot(&plan, &self.bench.sockets, &self.bench.logs)?;
        let moved = self.guest.move_to(&mut other, DOWNTIME_LIMIT_MS, Deadline::after_s(PATIENCE_S))?;
        self.guest = other;
        Ok(moved)
    }

    /// Lets the guest work for a while and come to its end, and answers its claims and what it has done.
    fn end(mut self, patience_s: u64) -> Result<(Vec<Claim>, Loaded), Failure> {
        wait(&mut self.guest)?;
        self.guest.tell("enough")?;
        self.guest.until("guest: the script ended", Deadline::after_s(patience_s))?;
        let load = Loaded::of(self.guest.reports(), 0);
        let mut claims = self.guest.finish(Deadline::after_s(patience_s))?;
        self.serving.stop()?;
        claims.push(claim(&format!("{}: sectors were checked", self.name), load.stamps > 0));
        Ok((claims, load))
    }
}

/// Lets the guest work for a while.
fn wait(guest: &mut Guest) -> Result<(), Failure> {
    match guest.heard("failed: ", Deadline::after(BETWEEN))? {
        Some(said) => Err(load::failed(guest, &said)),
        None => Ok(()),
    }
}

/// The QEMU of that number: the first boots the guest, the others wait for it. Neighbours use different sockets.
fn stop(name: &str, packed: bool, sockets: &[PathBuf; 2], number: u32) -> Plan {
    let checksums = "--bs=4k --size=8M --offset=32M --iodepth=4";
    let script = format!(
        "{DISK}\n{LOAD}\npacked {name} 0 {}\nload 0 5000 --depth 8 --flush-every 50 --area 16M &\n\
         checksums 0 {checksums} &\ncached 0 48 8 &\nuntil_told {name} 'load-0 checksums-0 cached-0'\nconclude\n",
        u8::from(packed)
    );
    let socket = sockets[if number.is_multiple_of(2) { 0 } else { 1 }].clone();
    let rings = Rings { packed, ..Rings::default() };
    Plan {
        name: format!("{name}-{number}"),
        memory_mib: 512,
        processors: 1,
        disks: vec![Disk { socket, queues: 1, rings, reconnects: false }],
        script,
        arrives: number > 0,
        network: None,
    }
}

/// A running server of one disk on two sockets.
enum Serving {
    Spineld(Daemon),
    /// Dropping it kills it.
    StorageDaemon {
        _process: Process,
    },
}

impl Serving {
    fn start(bench: &Bench, server: Server, name: &str, file: &Path) -> Result<(Self, [PathBuf; 2]), Failure> {
        let sockets = [0, 1].map(|number| bench.sockets.join(format!("move-{number}.sock")));
        let serving = match server {
            Server::Spineld => {
                let mut daemon = bench.daemon(name)?;
                daemon.call("bdev_uring_create", json!({"filename": file, "name": "moving", "block_size": 512}))?;
                for number in 0..sockets.len() {
                    let params = json!({"ctrlr": format!("move-{number}.sock"), "dev_name": "moving"});
                    daemon.call("vhost_create_blk_controller", params)?;
                }
                Self::Spineld(daemon)
            }
            Server::StorageDaemon => Self::StorageDaemon { _process: storage_daemon(bench, name, file, &sockets)? },
        };
        Ok((serving, sockets))
    }

    fn stop(self) -> Result<(), Failure> {
        match self {
            Self::Spineld(daemon) => Ok(daemon.stop()?),
            Self::StorageDaemon { .. } => Ok(()),
        }
    }
}

/// Starts qemu-storage-daemon, and waits until its sockets are there.
fn storage_daemon(bench: &Bench, name: &str, file: &Path, sockets: &[PathBuf]) -> Result<Process, Failure> {
    let program = "qemu-storage-daemon";
    let log = bench.logs.join(format!("{name}.storage-daemon.log"));
    let mut command = bench.maker.packages.command(program);
    command.arg("--blockdev").arg(format!("driver=file,node-name=disk,filename={},aio=io_uring,cache.direct=on", file.display()));
    for (number, socket) in sockets.iter().enumerate() {
        let _ = std::fs::remove_file(socket);
        let socket = socket.display();
        command.arg("--export").arg(format!(
            "type=vhost-user-blk,id=export{number},node-name=disk,addr.type=unix,addr.path={socket},writable=on,logical-block-size=512"
        ));
    }
    command.stdin(Stdio::null()).stdout(open_log(&log)?).stderr(open_log(&log)?);
    let mut process = Process::start(program, &mut command)?;
    let deadline = Deadline::after_s(PATIENCE_S);
    while !sockets.iter().all(|socket| socket.exists()) {
        // The event waited for is its end; the sockets are looked for at every round.
        if process.wait_until(Deadline::after(Duration::from_millis(20)))?.is_some() || deadline.left().is_none() {
            return Err(format!("{program} does not serve; its log is {}", log.display()).into());
        }
    }
    Ok(process)
}

impl fmt::Display for Moves {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mut downtime, mut total) = (Pauses::default(), Pauses::default());
        for moved in &self.moved {
            downtime.note(Duration::from_millis(moved.downtime_ms));
            total.note(Duration::from_millis(moved.total_ms));
        }
        let went_on = self.moved.len().saturating_sub(usize::try_from(self.lost).unwrap_or(usize::MAX));
        writeln!(f, "{}, {} rings: {} moves, after {went_on} of which the guest went on", self.server, self.layout, self.moved.len())?;
        writeln!(f, "  downtime: {downtime}")?;
        writeln!(f, "  from the first page to the last: {total}")?;
        let Loaded { rounds, requests, stamps, longest } = self.load;
        writeln!(f, "  in the guest: {requests} requests in {rounds} rounds, {stamps} sectors checked, longest {} ms", longest.as_millis())
    }
}
