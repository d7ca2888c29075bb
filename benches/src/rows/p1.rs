//! P1: random writes of three sizes, and a front end's memory that must not matter. Knows no other row.

use std::path::Path;

use super::{FIO, Ran, SPINELD, STORAGE_DAEMON, fio, hold, say_how_files_are_written, spineld_of_file, storage_daemon};
use crate::claims::{Claim, Figure, Target};
use crate::contenders::Served;
use crate::contest::Entrant;
use crate::servers::Place;
use crate::work::Work;
use crate::{Failure, Pace};

const WORKS: [Work; 3] = [
    Work::random_mix("4k random writes, 1 deep", 0, 4096, 1).flushed(),
    Work::random_mix("64k random writes, 16 deep", 0, 64 << 10, 16).flushed(),
    Work::random_mix("1M random writes, 1 deep", 0, 1 << 20, 1).flushed(),
];
const GIB: u64 = 1 << 30;
/// spineld under front ends with other memories than the first's 2 GiB.
const LARGER: [(&str, u64); 2] = [("spineld, 4 GiB", 4 * GIB), ("spineld, 8 GiB", 8 * GIB)];
/// How much a larger memory may change.
const MEMORY_MATTERS: f64 = 0.03;

/// Writes to a file over vhost-user-blk, past every cache, with a flush that counts, beside qemu-storage-daemon and fio.
pub(crate) fn p1(place: &Place, file: &Path, pace: &Pace) -> Result<Ran, Failure> {
    println!("A client on the host stands in for the guest, with 2 GiB of memory where nothing else is said.");
    say_how_files_are_written(place);
    let first = spineld_of_file(place, file, 2 * GIB)?;
    let (server, socket) = (first.server.clone(), first.socket.clone());
    let mut entrants = vec![Entrant { device: "file", name: SPINELD, contender: Box::new(first) }];
    for (name, memory_bytes) in LARGER {
        let served = Served { server: server.clone(), socket: socket.clone(), memory_bytes, on_file: true };
        entrants.push(Entrant { device: "file", name, contender: Box::new(served) });
    }
    let storage_daemon = Served { memory_bytes: 2 * GIB, ..storage_daemon(place, file)? };
    entrants.push(Entrant { device: "file", name: STORAGE_DAEMON, contender: Box::new(storage_daemon) });
    entrants.push(Entrant { device: "file", name: FIO, contender: Box::new(fio(file)) });
    drop(server);
    let mut claims = Vec::new();
    for work in &WORKS {
        let claim = |ours, baseline, target| Claim {
            row: "P1",
            work: work.name,
            ours: ("file", ours),
            baseline: ("file", baseline),
            figure: Figure::Rate,
            target,
        };
        claims.push(claim(SPINELD, FIO, Target::Shown));
        claims.push(claim(STORAGE_DAEMON, FIO, Target::Shown));
        claims.push(claim(SPINELD, STORAGE_DAEMON, Target::Shown));
        claims.extend(LARGER.map(|(name, _)| claim(name, SPINELD, Target::Within(MEMORY_MATTERS))));
    }
    hold(place, pace, "p1", &WORKS, entrants, &claims)
}
