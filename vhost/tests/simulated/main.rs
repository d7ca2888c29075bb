//! Queues on simulated cores under seeded guests, disks, faults, moves and power cuts, every byte checked. Knows no thread and no real time.
//!
//! A generator decides who does the next small thing: a driver posts, publishes, kicks if it
//! was asked to, takes a notification or a finished request; a core turns, arms, falls
//! asleep, wakes; the session stops a queue and starts it elsewhere; the disk fails or
//! hangs; time jumps; the power goes. Drivers act in the middle of a core's turn as well,
//! wherever a queue calls its device. `SPINEL_SEEDS` and `SPINEL_SEED` choose the seeds.

mod driver;
mod failure;
mod guest;
mod host;
mod planted;
mod service;
mod witness;
mod world;

use failure::Failure;
use planted::Plant;
use spinel_sim::{Bug, every_seed};
use world::{Options, Outcome, run};

/// Seeds within which everything planted has to be found.
const SEEDS_MAX: u64 = 200;

fn honest(seed: u64) -> Outcome {
    run(seed, Options::default()).unwrap_or_else(|found| panic!("{}\n{}", found.failure, found.trace))
}

#[test]
fn a_guest_gets_what_it_asks_for_whatever_happens_and_when() {
    every_seed(300, |seed| {
        honest(seed);
    });
}

#[test]
fn the_same_seed_gives_the_same_run_and_everything_does_happen() {
    let outcomes: Vec<Outcome> = (0..20).map(honest).collect();
    assert_eq!(outcomes, (0..20).map(honest).collect::<Vec<_>>());
    assert!(outcomes.windows(2).all(|pair| pair[0].hash != pair[1].hash), "two seeds with one trace");
    let sum = |count: fn(&Outcome) -> u64| outcomes.iter().map(count).sum::<u64>();
    let happened = [
        ("stamps read", sum(|run| run.checked.stamps_read), 3_000),
        ("writes", sum(|run| run.checked.writes), 300),
        ("flushes", sum(|run| run.checked.flushes), 50),
        ("power cuts", sum(|run| run.checked.cuts), 20),
        ("errors", sum(|run| run.counts.errors), 50),
        ("answers without the device", sum(|run| run.counts.answered), 50),
        ("kicks", sum(|run| run.counts.kicks), 300),
        ("kicks spared", sum(|run| run.counts.kicks_spared), 300),
        ("notifications", sum(|run| run.counts.notifications), 300),
        ("sleeps", sum(|run| run.tally.sleeps), 1_000),
        ("sleeps refused", sum(|run| run.tally.stays), 100),
        ("sleeps while requests waited for room", sum(|run| run.tally.waits_for_room), 20),
        ("moves", sum(|run| run.tally.moves), 200),
        ("releases of hung requests", sum(|run| run.tally.releases), 20),
    ];
    for (what, count, least) in happened {
        println!("{count} {what}");
        assert!(count >= least, "only {count} {what}");
    }
    let layouts: std::collections::BTreeSet<_> = outcomes.iter().flat_map(|run| &run.tally.layouts).collect();
    assert_eq!(layouts.len(), 16, "packed x EVENT_IDX x indirect x block size: {layouts:?}");
}

/// The first seed with which something wrong is found, as one that `is_its_kind`.
fn found(options: Options, is_its_kind: impl Fn(&Failure) -> bool) {
    let what = format!("{:?}{:?}", options.plant, options.bug);
    let first = (0..SEEDS_MAX).find_map(|seed| Some((seed, run(seed, options).err()?.failure)));
    let (seed, failure) = first.unwrap_or_else(|| panic!("{what} was not found"));
    println!("{what}: seed {seed}: {failure}");
    assert!(is_its_kind(&failure), "{what} looks like something else: {failure}");
}

#[test]
fn queues_and_devices_that_break_a_promise_are_found() {
    type IsItsKind = fn(&Failure) -> bool;
    let is_wrong_data: IsItsKind = |failure| matches!(failure, Failure::Violation(_));
    let is_misreported: IsItsKind = |failure| matches!(failure, Failure::Misreported { .. });
    let cases: [(Plant, IsItsKind); 10] = [
        (Plant::IgnoresReady, |failure| matches!(failure, Failure::LostWakeUp { .. })),
        (Plant::TakesWishBack, |failure| matches!(failure, Failure::LostWakeUp { .. })),
        (Plant::ForgetsTime, |failure| matches!(failure, Failure::SleepsForGood { .. })),
        (Plant::NeverCalls, |failure| matches!(failure, Failure::LostNotification { .. })),
        (Plant::StopsAtOnce, |failure| matches!(failure, Failure::StoppedInFlight { .. })),
        (Plant::SwapsTags, is_misreported),
        (Plant::SwallowsErrors, is_misreported),
        (Plant::EndsAnother, is_wrong_data),
        (Plant::SkipsFlush, is_wrong_data),
        (Plant::AcknowledgesEarly, is_wrong_data),
    ];
    for (plant, is_its_kind) in cases {
        found(Options { plant: Some(plant), ..Options::default() }, is_its_kind);
    }
}

#[test]
fn a_disk_that_is_wrong_is_seen_through_the_queue() {
    let bugs = [Bug::FlushIgnored, Bug::FuaIgnored, Bug::WriteMisdirected, Bug::WriteLost, Bug::WriteTorn, Bug::ReadStale, Bug::ReadRotten];
    for bug in bugs {
        found(Options { bug: Some(bug), ..Options::default() }, |failure| matches!(failure, Failure::Violation(_)));
    }
}
