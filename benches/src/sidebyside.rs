//! 4k random reads through a vhost-user client, Spinel beside others, window by window in turn. Knows no table.

use std::path::Path;

use serde::Serialize;

use crate::client::{BUFFERS_BYTES, Client};
use crate::cores::{Around, Others, cpu_ns, ratio, round_trip_ns};
use crate::servers::{DISK_BYTES, Place, Spineld, StorageDaemon};
use crate::{Failure, Pace, fio};

/// Requests in flight, one table row each.
pub(crate) const DEPTHS: [u16; 3] = [1, 32, 128];

/// Every device with every server that has it, in the order in which they are measured and shown.
pub(crate) const ROWS: [(&str, &str); 6] =
    [("null", SPINELD), ("null", STORAGE_DAEMON), ("memory", SPINELD), ("file", SPINELD), ("file", STORAGE_DAEMON), ("file", FIO)];
pub(crate) const SPINELD: &str = "spineld";
const STORAGE_DAEMON: &str = "qemu-storage-daemon";
const FIO: &str = "fio";

/// One stretch of one server, and what was around it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Window {
    pub(crate) device: &'static str,
    pub(crate) server: &'static str,
    pub(crate) depth: u16,
    /// Windows of the same round stand side by side.
    pub(crate) round: u32,
    #[serde(flatten)]
    pub(crate) around: Around,
    pub(crate) reads: u64,
    pub(crate) errors: u64,
    pub(crate) reads_per_second: f64,
    pub(crate) p50_ns: u64,
    pub(crate) p99_ns: u64,
    /// The server's processor time for each read; for fio, its own.
    pub(crate) cpu_ns: f64,
    /// The time for each read in which spineld's core did something.
    pub(crate) busy_ns: Option<f64>,
}

enum How {
    Spineld(Box<Spineld>, Box<Client>),
    StorageDaemon(Box<StorageDaemon>, Box<Client>),
    Fio,
}

/// One server with one device.
struct Entrant {
    device: &'static str,
    server: &'static str,
    how: How,
}

/// What an entrant saw in one window.
struct Seen {
    reads: u64,
    errors: u64,
    took_ns: u64,
    p50_ns: u64,
    p99_ns: u64,
    cpu_ns: u64,
    busy_ns: Option<u64>,
}

/// Starts all servers and measures them in turn, each depth for as many rounds as there are usable windows wanted.
pub(crate) fn run(place: &Place, file: &Path, pace: &Pace) -> Result<Vec<Window>, Failure> {
    let mut entrants = entrants(place, file)?;
    let own: Vec<u32> = entrants.iter().filter_map(Entrant::pid).collect();
    let mut windows = Vec::new();
    for depth in DEPTHS {
        for round in 0..pace.rounds_max {
            for entrant in &mut entrants {
                place.wait_for_quiet(&own)?;
                let before = round_trip_ns(place.cores)?;
                let others = Others::look(&own)?;
                let seen = entrant.measure(place, file, depth, pace)?;
                let others = Others::look(&own)?.share_since(others);
                let after = round_trip_ns(place.cores)?;
                windows.push(window(entrant, depth, round, seen, Around { round_trip_ns: [before, after], others }));
            }
            let of_depth = || windows.iter().filter(|window| window.depth == depth && window.around.usable());
            let enough = |entrant: &Entrant| of_depth().filter(|window| entrant.made(window)).count() >= pace.windows;
            if entrants.iter().all(enough) {
                break;
            }
        }
        eprintln!("depth {depth} is done, {} windows so far", windows.len());
    }
    for entrant in entrants {
        if let How::Spineld(spineld, client) = entrant.how {
            drop(client);
            spineld.stop()?;
        }
    }
    Ok(windows)
}

fn window(entrant: &Entrant, depth: u16, round: u32, seen: Seen, around: Around) -> Window {
    Window {
        device: entrant.device,
        server: entrant.server,
        depth,
        round,
        around,
        reads: seen.reads,
        errors: seen.errors,
        reads_per_second: ratio(seen.reads, seen.took_ns) * 1e9,
        p50_ns: seen.p50_ns,
        p99_ns: seen.p99_ns,
        cpu_ns: ratio(seen.cpu_ns, seen.reads),
        busy_ns: seen.busy_ns.map(|busy_ns| ratio(busy_ns, seen.reads)),
    }
}

/// Starts every server with every device it has, each in a process of its own, so that none polls for another.
fn entrants(place: &Place, file: &Path) -> Result<Vec<Entrant>, Failure> {
    let how = |(device, server)| match server {
        SPINELD => spineld(place, device, file),
        STORAGE_DAEMON => storage_daemon(place, device, file),
        _ => Ok(How::Fio),
    };
    ROWS.into_iter().map(|(device, server)| Ok(Entrant { device, server, how: how((device, server))? })).collect()
}

fn spineld(place: &Place, device: &str, file: &Path) -> Result<How, Failure> {
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
    Ok(How::Spineld(Box::new(spineld), Box::new(client)))
}

fn storage_daemon(place: &Place, device: &str, file: &Path) -> Result<How, Failure> {
    let blockdev = match device {
        "null" => format!("driver=null-co,node-name=disk,size={DISK_BYTES},read-zeroes=off"),
        // spineld holds a lock on the file that the others neither take nor mind.
        _ => format!("driver=file,node-name=disk,filename={},cache.direct=on,aio=io_uring,locking=off", file.display()),
    };
    let mut server = StorageDaemon::start(place, &blockdev)?;
    let client = server.connect(BUFFERS_BYTES)?;
    Ok(How::StorageDaemon(Box::new(server), Box::new(client)))
}

impl Entrant {
    fn pid(&self) -> Option<u32> {
        match &self.how {
            How::Spineld(spineld, _) => Some(spineld.pid()),
            How::StorageDaemon(server, _) => Some(server.pid()),
            How::Fio => None,
        }
    }

    fn made(&self, window: &Window) -> bool {
        (self.device, self.server) == (window.device, window.server)
    }

    fn measure(&mut self, place: &Place, file: &Path, depth: u16, pace: &Pace) -> Result<Seen, Failure> {
        match &mut self.how {
            How::Spineld(spineld, client) => {
                client.run(depth, pace.warm_up)?;
                let (busy, cpu) = (spineld.busy_ns()?, cpu_ns(spineld.pid())?);
                let seen = client.run(depth, pace.window)?;
                let used = cpu_ns(spineld.pid())? - cpu;
                Ok(Seen::of(&seen, used, Some(spineld.busy_ns()? - busy)))
            }
            How::StorageDaemon(server, client) => {
                client.run(depth, pace.warm_up)?;
                let cpu = cpu_ns(server.pid())?;
                let seen = client.run(depth, pace.window)?;
                Ok(Seen::of(&seen, cpu_ns(server.pid())? - cpu, None))
            }
            How::Fio => {
                let fio::Run { reads, errors, took_ns, p50_ns, p99_ns, cpu_ns } = fio::run(place, file, depth, pace.warm_up, pace.window)?;
                Ok(Seen { reads, errors, took_ns, p50_ns, p99_ns, cpu_ns, busy_ns: None })
            }
        }
    }
}

impl Seen {
    fn of(window: &crate::client::Window, cpu_ns: u64, busy_ns: Option<u64>) -> Self {
        Self {
            reads: window.reads(),
            errors: window.errors,
            took_ns: window.took_ns,
            p50_ns: window.quantile_ns(0.5),
            p99_ns: window.quantile_ns(0.99),
            cpu_ns,
            busy_ns,
        }
    }
}
