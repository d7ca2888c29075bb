//! Guests whose disks are under verified load all the time, and what they say of it. It knows nothing of what is done to the disks.

use crate::{Bench, Failure};
use spinel_testbed::guest::{Guest, Maker};
use std::time::Duration;

/// The functions that guests under load need; they follow those for disks.
pub(crate) const LOAD: &str = include_str!("../guest/load.sh");

/// What one load has done in all its rounds.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Loaded {
    /// Each ended with everything read back.
    pub(crate) rounds: u64,
    /// Reads, writes and flushes, without those that read everything back.
    pub(crate) requests: u64,
    /// Sectors that were read and had been written before in the same round.
    pub(crate) stamps: u64,
    /// The longest that one request took.
    pub(crate) longest: Duration,
}

impl Loaded {
    /// What the guest has reported of the load on its disk of that number.
    pub(crate) fn of(reports: &[String], number: usize) -> Self {
        let mark = format!("load {number} ");
        let line = reports.iter().find_map(|line| line.strip_prefix(&mark)).unwrap_or_default();
        let mut words = line.split(' ').map(|word| word.parse().unwrap_or(0));
        let mut next = || words.next().unwrap_or(0);
        Self { rounds: next(), requests: next(), stamps: next(), longest: Duration::from_micros(next()) }
    }

    /// Adds what another guest has done.
    pub(crate) fn add(&mut self, other: &Self) {
        self.rounds += other.rounds;
        self.requests += other.requests;
        self.stamps += other.stamps;
        self.longest = self.longest.max(other.longest);
    }
}

/// Makes guests that have spinelbench.
pub(crate) fn maker(bench: &Bench) -> Result<Maker, Failure> {
    let image = bench.maker.image.with_program(&bench.program("spinelbench"), &bench.logs.join("guest-with-spinelbench.cpio"))?;
    Ok(Maker { image, ..bench.maker.clone() })
}

/// The failure of a load that has ended early, if the guest has told of one.
pub(crate) fn failed(guest: &Guest, said: &str) -> Failure {
    format!("the load in the guest failed: {said}; its console is {}", guest.log().display()).into()
}
