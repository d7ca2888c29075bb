//! What another disk notices of front ends that mean harm. Knows no other row.
//!
//! The harm is done by a thread of this process that gives way to the client, one group of
//! the table after another: each window is one group, over and over.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use rustix::process::setpriority_process;
use spinel_reactor::Clock;
use spinel_vhost_hostile::{Target, table};

use super::{Ran, hold};
use crate::claims::{Claim, Figure, Target as Asked};
use crate::client::{BUFFERS_BYTES, Client};
use crate::contest::{Contender, Entrant, Seen};
use crate::cores::cpu_ns;
use crate::loader;
use crate::servers::{Place, Spineld};
use crate::work::Work;
use crate::{Failure, Pace};

/// Reads each second of the disk that is watched, from when each is due.
const LOAD_PER_SECOND: u32 = 2000;
const WORKS: [Work; 2] = [Work::random_reads("4k reads, 2,000 a second", 4096, 1), Work::random_reads("4k reads, 32 deep", 4096, 32)];
const DEVICES: [&str; 2] = ["null", "file"];
/// The table's own groups, and all of it.
const GROUPS: [&str; 11] =
    ["table", "message", "request", "cut", "flood", "descriptor", "memory", "sequence", "record", "log", "ring and race"];
const ALONE: &str = "alone";
/// What the 99th of a hundred may become.
const AT_MOST: f64 = 1.5;
/// Bytes of the disk that harm is done to, as the table wants it.
const HARMED_BYTES: u64 = 16 << 20;
/// The least share of a core there is: whoever else wants it gets it.
const NICE: i32 = 19;

/// A disk that does nothing and a file, under reads, alone and beside each group of the table.
pub(crate) fn hostile(place: &Place, file: &Path, pace: &Pace) -> Result<Ran, Failure> {
    println!("Harm is done from the client's core, at the lowest priority; spineld's own threads run where there is room.");
    let mut spineld = Spineld::start(place, &[])?;
    let sockets = [spineld.null("null")?, spineld.file("file", file)?];
    let harmed = Target { socket: spineld.memory_of("harmed", HARMED_BYTES)?, log: None };
    let (pid, spineld) = (spineld.pid(), Rc::new(Cell::new(Some(spineld))));
    let mut entrants = Vec::new();
    for (device, socket) in DEVICES.into_iter().zip(&sockets) {
        for name in std::iter::once(ALONE).chain(GROUPS) {
            let harm = (name != ALONE).then(|| Harm { target: harmed.clone(), group: name, next: Arc::default() });
            let contender = Watched { pid, spineld: Rc::clone(&spineld), socket: socket.clone(), harm };
            entrants.push(Entrant { device, name, contender: Box::new(contender) });
        }
    }
    let claims = WORKS.iter().flat_map(|work| {
        DEVICES.into_iter().flat_map(move |device| {
            GROUPS.map(|group| Claim {
                row: "hostile",
                work: work.name,
                ours: (device, group),
                baseline: (device, ALONE),
                figure: Figure::P99,
                target: Asked::AtMost(AT_MOST),
            })
        })
    });
    hold(place, pace, "hostile", &WORKS, entrants, &claims.collect::<Vec<_>>())
}

/// One disk of a server that others watch too.
struct Watched {
    pid: u32,
    /// Ended by whoever is the first to end.
    spineld: Rc<Cell<Option<Spineld>>>,
    socket: PathBuf,
    harm: Option<Harm>,
}

impl Contender for Watched {
    fn pid(&self) -> Option<u32> {
        Some(self.pid)
    }

    fn measure(&mut self, _place: &Place, work: &Work, pace: &Pace, _round: u32) -> Result<Seen, Failure> {
        let mut client = Client::connect(&self.socket, BUFFERS_BYTES)?;
        let under_way = self.harm.as_ref().map(Harm::start).transpose()?;
        client.run(work.depth, pace.warm_up)?;
        let before = cpu_ns(self.pid)?;
        let window = if work.depth == 1 {
            let end = Clock::system().now().after(pace.window);
            client.run_at_rate(LOAD_PER_SECOND, |now| now < end)?
        } else {
            client.run(work.depth, pace.window)?
        };
        let cpu_ns = cpu_ns(self.pid)? - before;
        under_way.map(UnderWay::end).transpose()?;
        let (requests, latency) = (window.reads(), loader::of_histogram(&window.latency));
        let bytes = requests * u64::from(work.bytes);
        Ok(Seen { requests, bytes, errors: window.errors, took_ns: window.took_ns, latency, cpu_ns, busy_ns: None })
    }

    fn end(self: Box<Self>) -> Result<(), Failure> {
        self.spineld.take().map_or(Ok(()), Spineld::stop)
    }
}

/// A part of the table that is gone through again and again, from window to window.
struct Harm {
    target: Target,
    group: &'static str,
    next: Arc<std::sync::atomic::AtomicUsize>,
}

/// Harm that is being done.
struct UnderWay {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<(), String>>,
}

impl Harm {
    fn start(&self) -> Result<UnderWay, Failure> {
        let (group, target, next) = (self.group, self.target.clone(), Arc::clone(&self.next));
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let harm = move || {
            // Of this thread alone, as Linux counts processes.
            setpriority_process(None, NICE).map_err(|errno| errno.to_string())?;
            let of_group = |name: &str| group == "table" || group.split(" and ").any(|kind| name.starts_with(kind));
            let entries: Vec<_> = table().into_iter().filter(|entry| of_group(&entry.name)).collect();
            while !stopped.load(Ordering::Relaxed) {
                let entry = &entries[next.fetch_add(1, Ordering::Relaxed) % entries.len()];
                entry.run(&target).map_err(|surprise| format!("{}: {surprise}", entry.name))?;
            }
            Ok(())
        };
        let thread = std::thread::Builder::new().name("harm".to_owned()).spawn(harm)?;
        Ok(UnderWay { stop, thread })
    }
}

impl UnderWay {
    fn end(self) -> Result<(), Failure> {
        self.stop.store(true, Ordering::Relaxed);
        Ok(self.thread.join().map_err(|_| "the thread that does harm panicked")??)
    }
}
