//! 4k random reads over null, memory and a file, under the leanest client there is. Knows no other row.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use spinel_uring::{DeviceOptions, UringDevice};

use super::{FIO, Ran, SPINELD, STORAGE_DAEMON, fio, hold, in_process};
use crate::claims::{Claim, Figure, Finding, Target};
use crate::client::BUFFERS_BYTES;
use crate::client::Client;
use crate::contenders::{Polled, Server, Shared, storage_daemon_of_file};
use crate::contest::{Entrant, Window};
use crate::cores::{self, Placement, ratio};
use crate::servers::{DISK_BYTES, Place, Spineld, StorageDaemon};
use crate::table::Spread;
use crate::work::Work;
use crate::{Failure, Pace};

const WORKS: [Work; 3] = [
    Work::random_reads("4k random reads, 1 deep", 4096, 1),
    Work::random_reads("4k random reads, 32 deep", 4096, 32),
    Work::random_reads("4k random reads, 128 deep", 4096, 128),
];

const ROW: &str = "reads";
const IN_PROCESS: &str = "in process";
/// qemu-storage-daemon, whose null disk reads as zeroes.
const ZEROES: &str = "qsd's zeroes";
/// Round trips of a cache line in which one read of the null disk is to be over.
const ROUND_TRIPS_MAX: f64 = 4.0;
/// Where files lie in memory.
const SHARED_MEMORY: &str = "/dev/shm";
/// Cycles of its core for each read of the null disk, where the cores are near.
const CYCLES_MAX: f64 = 150.0;
/// What vhost may add to a read of a file, in microseconds.
const ADDED_US_MAX: f64 = 3.0;

/// Spinel beside others, every server in a process of its own, so that none polls for another.
pub(crate) fn reads(place: &Place, file: &Path, own_file: &Path, pace: &Pace) -> Result<Ran, Failure> {
    // Another file: spineld holds a lock on its own.
    let device = Arc::new(UringDevice::open(own_file, &DeviceOptions::default())?);
    let entrants = vec![
        Entrant { device: "null", name: SPINELD, contender: Box::new(spineld(place, "null", file)?) },
        Entrant { device: "null", name: STORAGE_DAEMON, contender: Box::new(null_of_storage_daemon(place, false)?) },
        Entrant { device: "memory", name: SPINELD, contender: Box::new(spineld(place, "memory", file)?) },
        Entrant { device: "memory", name: STORAGE_DAEMON, contender: Box::new(memory_of_storage_daemon(place)?) },
        // No memory is read for these: every buffer is filled with zeroes.
        Entrant { device: "memory", name: ZEROES, contender: Box::new(null_of_storage_daemon(place, true)?) },
        Entrant { device: "file", name: SPINELD, contender: Box::new(spineld(place, "file", file)?) },
        Entrant { device: "file", name: STORAGE_DAEMON, contender: Box::new(file_of_storage_daemon(place, file)?) },
        Entrant { device: "file", name: IN_PROCESS, contender: Box::new(in_process(device, place.cores.client, true)) },
        Entrant { device: "file", name: FIO, contender: Box::new(fio(file)) },
    ];
    let mut ran = hold(place, pace, ROW, &WORKS, entrants, &claims())?;
    for placement in [Placement::Near, Placement::Far] {
        ran.findings.extend(values(&ran.windows, placement));
    }
    Ok(ran)
}

/// Beside qemu-storage-daemon over memory, and beside the file without vhost.
fn claims() -> Vec<Claim> {
    let beside = |device, work: &Work, baseline, target| Claim {
        row: ROW,
        work: work.name,
        ours: (device, SPINELD),
        baseline: (device, baseline),
        figure: Figure::Rate,
        target,
    };
    let mut claims = Vec::new();
    for work in &WORKS[1..] {
        claims.extend(["null", "memory"].map(|device| beside(device, work, STORAGE_DAEMON, Target::AtLeastBy { near: 3.5, far: 2.2 })));
        claims.push(beside("memory", work, ZEROES, Target::Shown));
    }
    claims.push(beside("file", &WORKS[1], IN_PROCESS, Target::AtLeast(0.95)));
    claims
}

/// What is judged by itself: one read at a time in round trips of a cache line, and the processor's cycles for each of many.
fn values(windows: &[Window], placement: Placement) -> Vec<Finding> {
    let (usable, busy) = cores::chosen(windows, |window| &window.around);
    let there = cores::in_placement(&usable, placement, |window| &window.around);
    let of = |work: &Work, device, entrant| {
        let own = |window: &&&Window| (window.work, window.device, window.entrant) == (work.name, device, entrant);
        there.iter().copied().filter(|window| own(&window)).collect::<Vec<&Window>>()
    };
    let value = |shape: String, values: &mut dyn Iterator<Item = f64>, unit, target| {
        Spread::of(values).map(|spread| Finding::of_value(ROW, &shape, spread, unit, target, busy).placed(placement))
    };
    let trips = |window: &&Window| {
        let [before, after] = window.around.round_trip_ns;
        2.0 * ratio(window.latency.p50_ns, before + after)
    };
    let shape = format!("null, {}: p50", WORKS[0].name);
    let mut found = Vec::new();
    let one_deep = of(&WORKS[0], "null", SPINELD);
    found.extend(value(shape, &mut one_deep.iter().map(trips), "round trips", Target::AtMost(ROUND_TRIPS_MAX)));
    if let Some(ghz) = ghz() {
        let target = if placement == Placement::Near { Target::AtMost(CYCLES_MAX) } else { Target::Shown };
        for work in &WORKS[1..] {
            let own = of(work, "null", SPINELD);
            let shape = format!("null, {}: busy cycles each", work.name);
            found.extend(value(shape, &mut own.iter().filter_map(|window| Some(window.busy_ns? * ghz)), "cycles", target));
        }
    }
    let (served, raw) = (of(&WORKS[0], "file", SPINELD), of(&WORKS[0], "file", IN_PROCESS));
    let mut added = served.iter().filter_map(|served| {
        let beside = raw.iter().find(|raw| raw.round == served.round)?;
        Some(crate::micros(served.latency.p50_ns) - crate::micros(beside.latency.p50_ns))
    });
    found.extend(value(format!("file, {}: p50 beyond in process", WORKS[0].name), &mut added, "us", Target::AtMost(ADDED_US_MAX)));
    found
}

/// What the processor's clock makes in a nanosecond, as the kernel has measured it.
pub(super) fn ghz() -> Option<f64> {
    let cpus = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = cpus.lines().find(|line| line.starts_with("cpu MHz"))?;
    Some(line.rsplit(':').next()?.trim().parse::<f64>().ok()? / 1000.0)
}

fn spineld(place: &Place, device: &str, file: &Path) -> Result<Polled, Failure> {
    let mut spineld = Spineld::start(place, &[])?;
    let socket = match device {
        "null" => spineld.null("disk"),
        "memory" => spineld.memory("disk"),
        _ => spineld.file("disk", file),
    }?;
    let mut client = Client::connect(&socket, BUFFERS_BYTES)?;
    if device == "memory" {
        // Memory that was never written is one page of zeroes, over and over.
        client.fill()?;
    }
    Ok(Polled { server: Shared::new(Server::Spineld(spineld)), client: Box::new(client) })
}

fn null_of_storage_daemon(place: &Place, zeroes: bool) -> Result<Polled, Failure> {
    let zeroes = if zeroes { "on" } else { "off" };
    polled(StorageDaemon::start(place, &format!("driver=null-co,node-name=disk,size={DISK_BYTES},read-zeroes={zeroes}"))?)
}

/// It has no disk in memory of its own: a file in memory is what its users take.
fn memory_of_storage_daemon(place: &Place) -> Result<Polled, Failure> {
    let file = tempfile::NamedTempFile::new_in(SHARED_MEMORY)?;
    file.as_file().set_len(DISK_BYTES)?;
    let blockdev = format!("driver=file,node-name=disk,filename={},aio=io_uring,locking=off", file.path().display());
    let mut polled = polled(StorageDaemon::start(place, &blockdev)?)?;
    // It is open over there; its memory goes with the last who has it open.
    drop(file);
    polled.client.fill()?;
    Ok(polled)
}

fn file_of_storage_daemon(place: &Place, file: &Path) -> Result<Polled, Failure> {
    polled(storage_daemon_of_file(place, file)?)
}

fn polled(mut server: StorageDaemon) -> Result<Polled, Failure> {
    let client = server.connect(BUFFERS_BYTES)?;
    Ok(Polled { server: Shared::new(Server::StorageDaemon(server)), client: Box::new(client) })
}
