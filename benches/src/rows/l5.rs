//! L5: a guest's disk beside QEMU's own, as far as the host can show it. Knows no other row.

use std::path::Path;

use super::{Ran, SPINELD, STORAGE_DAEMON, hold, say_how_files_are_written, spineld_of_file, storage_daemon};
use crate::claims::{Claim, Figure, Target};
use crate::contest::Entrant;
use crate::servers::Place;
use crate::work::Work;
use crate::{Failure, Pace};

const WORKS: [Work; 4] = [
    Work::sequential_writes("1M sequential writes, 4 deep", 1 << 20, 4),
    Work::sequential_reads("1M sequential reads, 4 deep", 1 << 20, 4),
    Work::random_reads("4k random reads, 1 deep", 4096, 1),
    Work::random_reads("4k random reads, 32 deep", 4096, 32),
];

/// A file over vhost-user-blk beside qemu-storage-daemon's export of the same file, with the same client.
pub(crate) fn l5(place: &Place, file: &Path, pace: &Pace) -> Result<Ran, Failure> {
    println!("A client on the host stands in for the guest.");
    say_how_files_are_written(place);
    let entrants = vec![
        Entrant { device: "file", name: SPINELD, contender: Box::new(spineld_of_file(place, file, 0)?) },
        Entrant { device: "file", name: STORAGE_DAEMON, contender: Box::new(storage_daemon(place, file)?) },
    ];
    let claim = |work: &Work| Claim {
        row: "L5",
        work: work.name,
        ours: ("file", SPINELD),
        baseline: ("file", STORAGE_DAEMON),
        figure: Figure::Rate,
        target: Target::AtLeast(1.0),
    };
    hold(place, pace, "l5", &WORKS, entrants, &WORKS.each_ref().map(claim))
}
