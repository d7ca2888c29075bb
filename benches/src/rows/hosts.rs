//! What a host of NVMe/TCP notices of others that are slow, deaf, or gone again. Knows no other row.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::rc::Rc;

use spinel_nvmf::pool::{LARGE_UNIT_BYTES, PoolSize, SMALL_UNIT_BYTES};

use super::{Ran, hold};
use crate::claims::{Claim, Figure, Target};
use crate::contenders::{Remote, Server, Shared};
use crate::contest::{Contender, Entrant, Seen};
use crate::hosts::{Harmful, Place as Where, Way};
use crate::servers::{FAR_PORT, FAR_SUBSYSTEM, Kind, Place, Spineld};
use crate::work::Work;
use crate::{Failure, Pace};

const ROW: &str = "hosts";
const WORKS: [Work; 2] = [Work::random_reads("4k reads, 1 deep", 4096, 1), Work::random_reads("4k reads, 32 deep", 4096, 32)];
const MEMORY: &str = "memory";
const QUIET: &str = "quiet";
/// What the 99th of a hundred may become.
const AT_MOST: f64 = 2.0;
const WAYS: [(&str, Way, Target); 6] = [
    ("one deaf", Way::Deaf { queues: 1 }, Target::AtMost(AT_MOST)),
    ("sixteen deaf", Way::Deaf { queues: 16 }, Target::AtMost(AT_MOST)),
    ("a byte a second", Way::Dripping, Target::AtMost(AT_MOST)),
    ("1,000 a minute", Way::Fleeting { per_minute: 1000 }, Target::AtMost(AT_MOST)),
    ("30,000 a minute", Way::Fleeting { per_minute: 30_000 }, Target::Shown),
    ("64 half open", Way::Idle, Target::AtMost(AT_MOST)),
];

/// A disk in memory under reads, while nobody else is there and beside each kind of harmful host.
pub(crate) fn hosts(place: &Place, pace: &Pace) -> Result<Ran, Failure> {
    println!("Harmful hosts work from the client's core, at the lowest priority. Those that are deaf have 120 reads of 128 KiB under");
    println!("way on each connection and take nothing; sixteen connections in every stage say a byte a second; others vanish after");
    println!("anything between nothing at all and an Identify.");
    let mut spineld = Spineld::start(place, &[])?;
    let disk = Rc::new(spineld.far(place, Kind::Memory, Ipv4Addr::LOCALHOST)?);
    let pid = spineld.pid();
    let harm = Where { address: (Ipv4Addr::LOCALHOST, FAR_PORT).into(), subsystem: spinel_nvmf::nqn::Nqn::parse(FAR_SUBSYSTEM)? };
    let server = Shared::new(Server::Spineld(spineld));
    let before_kib = resident_kib(pid)?;
    let memory = Rc::new(RefCell::new(BTreeMap::new()));
    let ways = std::iter::once((QUIET, None)).chain(WAYS.map(|(name, way, _)| (name, Some(way))));
    let entrants = ways.map(|(name, way)| {
        let remote = Remote { server: server.clone(), disk: Rc::clone(&disk) };
        let contender = Beside { remote, name, harm: way.map(|way| (way, harm.clone())), pid, memory: Rc::clone(&memory) };
        Entrant { device: MEMORY, name, contender: Box::new(contender) }
    });
    let entrants = entrants.collect();
    drop((server, disk));
    let claims = WORKS.iter().flat_map(|work| {
        WAYS.map(|(name, _, target)| Claim {
            row: ROW,
            work: work.name,
            ours: (MEMORY, name),
            baseline: (MEMORY, QUIET),
            figure: Figure::P99,
            target,
        })
    });
    let ran = hold(place, pace, ROW, &WORKS, entrants, &claims.collect::<Vec<_>>())?;
    print_memory(before_kib, &memory.borrow());
    Ok(ran)
}

/// What spineld has in memory with each kind of host.
fn print_memory(before_kib: u64, most: &BTreeMap<&str, Memory>) {
    let PoolSize { small_units, large_units } = PoolSize::default();
    let pool_bytes = u64::from(small_units) * u64::from(SMALL_UNIT_BYTES) + u64::from(large_units) * u64::from(LARGE_UNIT_BYTES);
    println!(
        "Buffers of each core: at most {} MiB. Spineld had {} MiB in memory at first, disks apart.",
        pool_bytes >> 20,
        before_kib >> 10
    );
    for (name, Memory { most_kib, connections }) in most {
        println!("{name:<18}{:>8} MiB at most, {connections} connections", most_kib >> 10);
    }
}

#[derive(Clone, Copy, Default)]
struct Memory {
    most_kib: u64,
    connections: u64,
}

/// The host that is watched, and the one beside it.
struct Beside {
    remote: Remote,
    name: &'static str,
    harm: Option<(Way, Where)>,
    pid: u32,
    memory: Rc<RefCell<BTreeMap<&'static str, Memory>>>,
}

impl Contender for Beside {
    fn pid(&self) -> Option<u32> {
        Some(self.pid)
    }

    fn measure(&mut self, place: &Place, work: &Work, pace: &Pace, round: u32) -> Result<Seen, Failure> {
        let harmful = self.harm.as_ref().map(|(way, place)| Harmful::start(*way, place)).transpose()?;
        let seen = self.remote.measure(place, work, pace, round)?;
        let now_kib = resident_kib(self.pid)?;
        let connections = harmful.map_or(Ok(0), Harmful::end)?;
        let mut memory = self.memory.borrow_mut();
        let memory = memory.entry(self.name).or_default();
        memory.most_kib = memory.most_kib.max(now_kib);
        memory.connections += connections;
        Ok(seen)
    }

    fn end(self: Box<Self>) -> Result<(), Failure> {
        Box::new(self.remote).end()
    }
}

/// What a process has in memory for itself: a disk in memory is shared, and grows with what was read of it.
fn resident_kib(pid: u32) -> Result<u64, Failure> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kib = text.lines().find_map(|line| line.strip_prefix("RssAnon:")?.trim().strip_suffix(" kB")?.parse().ok());
    kib.ok_or_else(|| "the kernel does not say how much memory spineld uses".into())
}
