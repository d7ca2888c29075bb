//! L1: a volume's export beside the raw file. Knows no other row.

use std::path::Path;

use super::{FIO, Ran, SPINELD, fio, hold, say_how_files_are_written, spineld_of_file};
use crate::claims::{Claim, Figure, Target};
use crate::contest::Entrant;
use crate::servers::Place;
use crate::work::Work;
use crate::{Failure, Pace};

const WORKS: [Work; 4] = [
    Work::random_reads("4k random reads, 1 deep", 4096, 1),
    Work::random_reads("4k random reads, 32 deep", 4096, 32),
    Work::sequential_reads("1M sequential reads, 4 deep", 1 << 20, 4),
    Work::sequential_writes("1M sequential writes, 4 deep", 1 << 20, 4),
];
/// Of fio's rate, for each of the works.
const TARGETS: [f64; 4] = [0.90, 0.95, 0.97, 0.97];

/// A file over vhost-user-blk beside fio on the same file.
pub(crate) fn l1(place: &Place, file: &Path, pace: &Pace) -> Result<Ran, Failure> {
    say_how_files_are_written(place);
    let entrants = vec![
        Entrant { device: "file", name: SPINELD, contender: Box::new(spineld_of_file(place, file, 0)?) },
        Entrant { device: "file", name: FIO, contender: Box::new(fio(file)) },
    ];
    let claim = |(work, target): (&Work, f64)| Claim {
        row: "L1",
        work: work.name,
        ours: ("file", SPINELD),
        baseline: ("file", FIO),
        figure: Figure::Rate,
        target: Target::AtLeast(target),
    };
    let claims: Vec<Claim> = WORKS.iter().zip(TARGETS).map(claim).collect();
    hold(place, pace, "l1", &WORKS, entrants, &claims)
}
