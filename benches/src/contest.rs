//! The same work by several in turn, window by window, with what was around each. Knows nobody who takes part.

use serde::Serialize;

use crate::cores::{Around, Others, Placement, ratio, round_trip_ns};
use crate::servers::Place;
use crate::work::Work;
use crate::{Failure, Pace};

/// Some of the latencies that were seen, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Latency {
    pub(crate) p50_ns: u64,
    pub(crate) p99_ns: u64,
    pub(crate) p99_9_ns: u64,
    pub(crate) max_ns: u64,
}

/// What was seen in one window.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) requests: u64,
    pub(crate) bytes: u64,
    pub(crate) errors: u64,
    /// With the flush, if the work ends with one.
    pub(crate) took_ns: u64,
    pub(crate) latency: Latency,
    /// The server's processor time; of one without a server, its own.
    pub(crate) cpu_ns: u64,
    /// How long spineld's core did something.
    pub(crate) busy_ns: Option<u64>,
}

/// Someone who can do work on one disk.
pub(crate) trait Contender {
    /// The process that does it, if it is not this one and lives on.
    fn pid(&self) -> Option<u32>;

    /// Whether it does such work at all.
    fn does(&self, _work: &Work) -> bool {
        true
    }

    /// Does it for one window, of which the start is dropped.
    fn measure(&mut self, place: &Place, work: &Work, pace: &Pace, round: u32) -> Result<Seen, Failure>;

    /// Ends what it has started.
    fn end(self: Box<Self>) -> Result<(), Failure> {
        Ok(())
    }
}

/// Someone with one disk.
pub(crate) struct Entrant {
    /// What kind of disk.
    pub(crate) device: &'static str,
    /// Who; unique with the device.
    pub(crate) name: &'static str,
    pub(crate) contender: Box<dyn Contender>,
}

/// One stretch of one entrant, and what was around it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Window {
    pub(crate) scenario: &'static str,
    pub(crate) work: &'static str,
    pub(crate) device: &'static str,
    pub(crate) entrant: &'static str,
    /// Windows of the same round stand side by side.
    pub(crate) round: u32,
    #[serde(flatten)]
    pub(crate) around: Around,
    pub(crate) requests: u64,
    pub(crate) errors: u64,
    /// Records a second; requests, where a request holds one.
    pub(crate) per_second: f64,
    pub(crate) mib_per_second: f64,
    #[serde(flatten)]
    pub(crate) latency: Latency,
    /// The server's processor time for each request; of one without a server, its own.
    pub(crate) cpu_ns: f64,
    /// The time for each request in which spineld's core did something.
    pub(crate) busy_ns: Option<f64>,
}

/// Does all works with all entrants in turn, each until there are as many rounds to compare as are wanted, and ends the entrants.
pub(crate) fn run(
    place: &Place,
    pace: &Pace,
    scenario: &'static str,
    works: &[Work],
    mut entrants: Vec<Entrant>,
) -> Result<Vec<Window>, Failure> {
    let mut own: Vec<u32> = entrants.iter().filter_map(|entrant| entrant.contender.pid()).collect();
    // Some share a server, whose time is to be counted once.
    own.sort_unstable();
    own.dedup();
    let mut windows: Vec<Window> = Vec::new();
    for work in works {
        for round in 0..pace.rounds_max {
            for entrant in entrants.iter_mut().filter(|entrant| entrant.contender.does(work)) {
                place.wait_for_quiet(&own)?;
                let before = round_trip_ns(place.cores)?;
                let others = Others::look(&own)?;
                let seen = entrant.contender.measure(place, work, pace, round)?;
                let others = Others::look(&own)?.share_since(others);
                let after = round_trip_ns(place.cores)?;
                let around = Around { round_trip_ns: [before, after], others };
                windows.push(window(scenario, work, entrant, round, &seen, around));
            }
            let done: Vec<&Window> = windows.iter().filter(|window| window.work == work.name).collect();
            let entrants = entrants.iter().filter(|entrant| entrant.contender.does(work)).count();
            if comparable_rounds(&done, entrants) >= pace.windows {
                break;
            }
        }
        eprintln!("{scenario}: {} is done, {} windows so far", work.name, windows.len());
    }
    for entrant in entrants {
        entrant.contender.end()?;
    }
    Ok(windows)
}

/// In how many rounds all entrants' windows may be compared, in the placement that was met more often.
fn comparable_rounds(windows: &[&Window], entrants: usize) -> usize {
    let rounds = windows.iter().map(|window| window.round).max().map_or(0, |last| last + 1);
    let whole = |placement, round| {
        let there = |window: &&&Window| window.round == round && window.around.usable() && window.around.placement() == Some(placement);
        windows.iter().filter(there).count() == entrants
    };
    let count = |placement| (0..rounds).filter(|round| whole(placement, *round)).count();
    [Placement::Near, Placement::Far].into_iter().map(count).max().unwrap_or(0)
}

fn window(scenario: &'static str, work: &Work, entrant: &Entrant, round: u32, seen: &Seen, around: Around) -> Window {
    let of_mib = |bytes: f64| bytes / f64::from(1 << 20);
    Window {
        scenario,
        work: work.name,
        device: entrant.device,
        entrant: entrant.name,
        round,
        around,
        requests: seen.requests,
        errors: seen.errors,
        per_second: ratio(seen.requests * u64::from(work.records), seen.took_ns) * 1e9,
        mib_per_second: of_mib(ratio(seen.bytes, seen.took_ns) * 1e9),
        latency: seen.latency,
        cpu_ns: ratio(seen.cpu_ns, seen.requests),
        busy_ns: seen.busy_ns.map(|busy_ns| ratio(busy_ns, seen.requests)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_counts_when_all_its_windows_may_be_compared() {
        let work = Work::random_reads("reads", 4096, 1);
        let seen = Seen { requests: 10, bytes: 0, errors: 0, took_ns: 1, latency: Latency::default(), cpu_ns: 0, busy_ns: None };
        let of = |round, round_trip_ns, others| {
            let entrant = Entrant { device: "file", name: "one", contender: Box::new(Nobody) };
            window("x", &work, &entrant, round, &seen, Around { round_trip_ns: [round_trip_ns; 2], others })
        };
        let windows = [
            of(0, 80, 0.0),
            of(0, 80, 0.0),
            of(1, 80, 0.0),
            of(1, 400, 0.0),
            of(2, 80, 0.0),
            of(2, 80, 0.5),
            of(3, 80, 0.0),
            of(3, 80, 0.0),
        ];
        assert_eq!(comparable_rounds(&windows.iter().collect::<Vec<_>>(), 2), 2);
        assert_eq!(comparable_rounds(&[], 2), 0);
    }

    struct Nobody;

    impl Contender for Nobody {
        fn pid(&self) -> Option<u32> {
            None
        }

        fn measure(&mut self, _place: &Place, _work: &Work, _pace: &Pace, _round: u32) -> Result<Seen, Failure> {
            Err("nobody does nothing".into())
        }
    }
}
