//! 4k reads and writes over NVMe/TCP, beside bare requests and answers over the same calls. Knows no other row.

use std::net::Ipv4Addr;

use spinel_uring::StreamOptions;

use super::reads::ghz;
use super::{Ran, SPINELD, hold};
use crate::claims::{Claim, Figure, Finding, Target};
use crate::contenders::{Remote, Server, Shared, thread_cpu_ns};
use crate::contest::{Contender, Entrant, Seen, Window};
use crate::cores::{self, Placement};
use crate::floor::{BODY_BYTES_MAX, Floor};
use crate::loader::{self, Loader, Used, Waits};
use crate::servers::{Kind, Place, Spineld};
use crate::table::Spread;
use crate::work::Work;
use crate::{Failure, Pace};

const ROW: &str = "tcp";
const WORKS: [Work; 6] = [
    Work::random_reads("4k reads, 1 deep", BODY_BYTES_MAX, 1),
    Work::random_reads("4k reads, 32 deep", BODY_BYTES_MAX, 32),
    Work::random_reads("4k reads, 128 deep", BODY_BYTES_MAX, 128),
    Work::random_mix("4k writes, 1 deep", 0, BODY_BYTES_MAX, 1),
    Work::random_mix("4k writes, 32 deep", 0, BODY_BYTES_MAX, 32),
    Work::random_mix("4k writes, 128 deep", 0, BODY_BYTES_MAX, 128),
];
const NULL: &str = "null";
const FLOOR: &str = "floor";
/// How much longer than over the floor one request at a time may take.
const LATENCY_MAX: f64 = 1.25;

/// One connection from this process to a core of spineld's, and one to a core of this process that only answers.
pub(crate) fn tcp(place: &Place, pace: &Pace) -> Result<Ran, Failure> {
    println!("One connection over loopback. The floor: commands of 72 bytes, answers of 24 + 4096 + 24 bytes to reads and 24 to");
    println!(
        "writes, whose data come with the command; nothing is checked and nothing looked up: no target can be faster over these calls."
    );
    let mut spineld = Spineld::start(place, &[])?;
    let disk = spineld.far(place, Kind::Null, Ipv4Addr::LOCALHOST)?;
    let entrants = vec![
        Entrant {
            device: NULL,
            name: SPINELD,
            contender: Box::new(Remote { server: Shared::new(Server::Spineld(spineld)), disk: disk.into() }),
        },
        Entrant { device: NULL, name: FLOOR, contender: Box::new(Bare(Floor::start(place.cores.engine, StreamOptions::default())?)) },
    ];
    let mut ran = hold(place, pace, ROW, &WORKS, entrants, &claims())?;
    for placement in [Placement::Near, Placement::Far] {
        ran.findings.extend(cycles(&ran.windows, placement));
    }
    Ok(ran)
}

/// Beside the floor: how long one request takes, and how many there are of several.
fn claims() -> Vec<Claim> {
    let claim = |work: &Work| {
        let (figure, target) = if work.depth == 1 { (Figure::P50, Target::AtMost(LATENCY_MAX)) } else { (Figure::Rate, Target::Shown) };
        Claim { row: ROW, work: work.name, ours: (NULL, SPINELD), baseline: (NULL, FLOOR), figure, target }
    };
    WORKS.iter().map(claim).collect()
}

/// The processor's cycles for each request.
fn cycles(windows: &[Window], placement: Placement) -> Vec<Finding> {
    let Some(ghz) = ghz() else { return Vec::new() };
    let (usable, busy) = cores::chosen(windows, |window| &window.around);
    let there = cores::in_placement(&usable, placement, |window| &window.around);
    let mut found = Vec::new();
    for work in &WORKS {
        for name in [SPINELD, FLOOR] {
            let own = there.iter().filter(|window| (window.work, window.entrant) == (work.name, name));
            let shape = format!("{}: busy cycles each", work.name);
            let spread = Spread::of(own.filter_map(|window| Some(window.busy_ns? * ghz)));
            let found_of = |spread| Finding::of_value(ROW, &shape, spread, "cycles", Target::Shown, busy).by(name).placed(placement);
            found.extend(spread.map(found_of));
        }
    }
    found
}

struct Bare(Floor);

impl Contender for Bare {
    fn pid(&self) -> Option<u32> {
        None
    }

    fn measure(&mut self, place: &Place, work: &Work, pace: &Pace, round: u32) -> Result<Seen, Failure> {
        let loader = Loader::start(place.cores.client, Waits::Polling)?;
        let job = work.job(u64::from(round) + 1, pace.warm_up, pace.window)?;
        let memory = spinel_load::Memory::anonymous(&job)?;
        let mut looks = Vec::new();
        let tally = loader.run(self.0.device(), memory, job, &mut || {
            let (thread, busy_ns) = self.0.used();
            looks.push(Used::by_now(thread_cpu_ns(thread)?, Some(busy_ns)));
            Ok(())
        })?;
        loader.quit();
        Ok(loader::seen(&tally, &looks))
    }

    fn end(self: Box<Self>) -> Result<(), Failure> {
        self.0.end()
    }
}
