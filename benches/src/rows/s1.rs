//! S1: 1 KiB slots in memory, one thread: a block store beside a key-value store. Knows no other row.

use std::sync::Arc;

use spinel_volume::{MemoryDevice, Shape};

use super::{Ran, hold, in_process};
use crate::claims::{Claim, Figure, Target};
use crate::contest::Entrant;
use crate::servers::Place;
use crate::work::Work;
use crate::{Failure, Pace};

/// As many slots, or keys.
const SLOTS: u32 = 10_000;
/// Bytes of each slot, or value.
const SLOT_BYTES: u32 = 1024;
/// Bytes of one read of a scan.
const SCAN_BYTES: u32 = 64 << 10;
const WRITES: Work = Work::random_mix("1 KiB writes", 0, SLOT_BYTES, 1);
const READS: Work = Work::random_reads("1 KiB reads", SLOT_BYTES, 1);
const SCAN: Work = Work::sequential_reads("scan, records", SCAN_BYTES, 1).of_records(SCAN_BYTES / SLOT_BYTES);
const WORKS: [Work; 5] = [
    WRITES,
    READS,
    SCAN,
    // What a queue gives; a call that returns its result has none.
    Work::random_mix("1 KiB writes, 32 deep", 0, SLOT_BYTES, 32),
    Work::random_reads("1 KiB reads, 32 deep", SLOT_BYTES, 32),
];
const CLAIMS: [(Work, f64); 3] = [(WRITES, 3.0), (READS, 1.3), (SCAN, 1.0)];
const SPINEL: &str = "one reactor";
const ROCKSDB: &str = "rocksdb";

/// A reactor with its memory device under the load generator, and RocksDB under a loop of calls, each on the client's core.
pub(crate) fn s1(place: &Place, pace: &Pace) -> Result<Ran, Failure> {
    println!("A block store beside a key-value store: slots are found by number here, and by key there, in order.");
    println!("Nothing is durable on either side: a memory device here; there a log in memory (/dev/shm) that is never synchronised.");
    let shape = Shape::new(512, u64::from(SLOTS * (SLOT_BYTES / 512)));
    let memory = in_process(Arc::new(MemoryDevice::new(shape)?), place.cores.client, false);
    memory.fill()?;
    let mut entrants = vec![Entrant { device: "memory", name: SPINEL, contender: Box::new(memory) }];
    entrants.extend(rocksdb(place)?);
    let claim = |(work, target): &(Work, f64)| Claim {
        row: "S1",
        work: work.name,
        ours: ("memory", SPINEL),
        baseline: ("memory", ROCKSDB),
        figure: Figure::Rate,
        target: Target::AtLeast(*target),
    };
    hold(place, pace, "s1", &WORKS, entrants, &CLAIMS.each_ref().map(claim))
}

#[cfg(feature = "rocksdb")]
fn rocksdb(place: &Place) -> Result<Option<Entrant>, Failure> {
    let contender = Box::new(crate::rocks::Rocks::open(place, SLOTS, SLOT_BYTES, SCAN_BYTES / SLOT_BYTES)?);
    Ok(Some(Entrant { device: "memory", name: ROCKSDB, contender }))
}

#[cfg(not(feature = "rocksdb"))]
fn rocksdb(_place: &Place) -> Result<Option<Entrant>, Failure> {
    println!("RocksDB is not built in, so nothing is compared: cargo xtask bench s1 --rocksdb");
    Ok(None)
}
