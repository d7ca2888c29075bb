//! L2: a disk over NVMe/TCP beside the link it goes through. Knows no other row.

use super::{Ran, SPINELD, hold};
use crate::claims::{Claim, Figure, Target};
use crate::contenders::{Remote, Server, Shared};
use crate::contest::Entrant;
use crate::link::{Bulk, Link, THERE};
use crate::servers::{Kind, Place, Spineld};
use crate::work::Work;
use crate::{Failure, Pace};

/// What the link carries in a second.
const LINK_BYTES: u64 = 46 << 20;
const WORKS: [Work; 2] = [
    Work::sequential_reads("128k sequential reads, 32 deep", 128 << 10, 32),
    Work::sequential_writes("128k sequential writes, 32 deep", 128 << 10, 32),
];
/// Of the link, for each of the works.
const TARGETS: [f64; 2] = [0.97, 0.95];
/// Windows last so many times as long as others.
const SLOWER: u32 = 5;
const MEMORY: &str = "memory";
const LINK: &str = "link";

/// A disk in memory, in a network namespace at the other end of a shaped link, beside bytes and nothing else.
pub(crate) fn l2(place: &Place, pace: &Pace) -> Result<Ran, Failure> {
    // So slow a link needs longer until one request more or less is nothing.
    let pace = Pace { warm_up: SLOWER * pace.warm_up, window: SLOWER * pace.window, ..*pace };
    println!("The link is shaped to {} MiB/s in both directions; each window lasts {:?}.", LINK_BYTES >> 20, pace.window);
    let link = Link::shaped(LINK_BYTES)?;
    let mut spineld = Spineld::start_behind(place, &link.prefix())?;
    let disk = spineld.far(place, Kind::Memory, THERE)?;
    let server = Shared::new(Server::Spineld(spineld));
    let entrants = vec![
        Entrant { device: MEMORY, name: SPINELD, contender: Box::new(Remote { server, disk: disk.into() }) },
        Entrant { device: MEMORY, name: LINK, contender: Box::new(Bulk::start(&link)?) },
    ];
    let claim = |(work, target): (&Work, f64)| Claim {
        row: "L2",
        work: work.name,
        ours: (MEMORY, SPINELD),
        baseline: (MEMORY, LINK),
        figure: Figure::Rate,
        target: Target::AtLeast(target),
    };
    let claims: Vec<Claim> = WORKS.iter().zip(TARGETS).map(claim).collect();
    hold(place, &pace, "l2", &WORKS, entrants, &claims)
}
