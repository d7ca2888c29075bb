//! The simulated disk and the checker against each other: an honest disk is never accused, and each planted bug is found.

use std::mem::discriminant;

use spinel_core::{Channel, Completions, Device, Op, OpKind, OpenError, Status};
use spinel_sim::{Bug, Checked, Checker, DiskOptions, Failure, Load, LoadOptions, Mishap, Prng, Rig, SimDisk, Wrong, every_seed};

/// A disk whose shape is drawn: block size, cache, pace, errors.
fn drawn(prng: &mut Prng) -> DiskOptions {
    let large = prng.one_in(3);
    DiskOptions {
        block_bytes: if large { 4096 } else { 512 },
        block_count: if large { 64 } else { 256 },
        write_cache: !prng.one_in(3),
        latency_ns: *prng.pick(&[0, 1_000])..=*prng.pick(&[1_000, 50_000, 400_000]),
        fail_one_in: *prng.pick(&[0, 0, 40]),
        ..DiskOptions::default()
    }
}

/// Up to 16 sectors in a request, whatever the blocks are.
fn load_options(options: &DiskOptions) -> LoadOptions {
    LoadOptions { blocks_max: 16 * 512 / options.block_bytes, ..LoadOptions::default() }
}

/// Loads the disk between power cuts, and reads all of it in the end; answers what was checked and the hash of everything.
fn run(prng: &mut Prng, options: &DiskOptions, load_options: &LoadOptions) -> Result<(Checked, u64), Failure> {
    let mut rig = Rig::new(prng.fork(), 2 << 20);
    let disk = SimDisk::new(options.clone(), prng.fork());
    let mut checker = Checker::new(7, &disk.geometry());
    let mut hash = 0;
    for life in 0..4 {
        let mut load = Load::open(&mut rig, &disk, checker, load_options.clone(), prng.fork()).unwrap();
        load.run(&mut rig, 30 + prng.below(60))?;
        load.sweep(&mut rig)?;
        load.run(&mut rig, 60 + prng.below(60))?;
        hash ^= load.trace().hash().rotate_left(life);
        if prng.one_in(2) {
            // The power goes while requests are in flight: the last ones hang.
            for kind in [OpKind::Read, OpKind::Write, OpKind::Flush, OpKind::Discard, OpKind::WriteZeroes] {
                disk.inject(kind, Mishap::Hang, 3);
            }
            let outcome = load.run(&mut rig, 40);
            assert!(!matches!(outcome, Err(Failure::Unasked(_))), "{outcome:?}");
            if let Err(Failure::Violation(violation)) = outcome {
                return Err(Failure::Violation(violation));
            }
        }
        disk.cut_power();
        checker = load.close();
        checker.cut_power();
    }
    let mut load = Load::open(&mut rig, &disk, checker, load_options.clone(), prng.fork()).unwrap();
    load.sweep(&mut rig)?;
    Ok((load.checker().checked(), hash ^ load.trace().hash()))
}

#[test]
fn an_honest_disk_is_never_accused() {
    every_seed(300, |seed| {
        let mut prng = Prng::new(seed);
        let options = drawn(&mut prng);
        let outcome = run(&mut prng, &options, &load_options(&options));
        let (checked, _) = outcome.unwrap_or_else(|failure| panic!("{failure}\n{options:?}"));
        assert!(checked.stamps_read > 0 && checked.writes > 0 && checked.flushes > 0 && checked.cuts == 4, "{checked:?}");
    });
}

#[test]
fn the_same_seed_gives_the_same_run() {
    every_seed(20, |seed| {
        let hash = |seed| {
            let mut prng = Prng::new(seed);
            let options = drawn(&mut prng);
            run(&mut prng, &options, &load_options(&options)).unwrap().1
        };
        assert_eq!(hash(seed), hash(seed));
        assert_ne!(hash(seed), hash(seed + 1));
    });
}

/// What the checker says of a disk with a bug, if it notices.
fn accusation(bug: Bug, seed: u64) -> Option<Wrong> {
    let mut prng = Prng::new(seed);
    let options = DiskOptions { bug: Some(bug), write_cache: true, ..drawn(&mut prng) };
    match run(&mut prng, &options, &load_options(&options)) {
        Err(Failure::Violation(violation)) => Some(violation.wrong),
        Err(other) => panic!("{bug:?} with seed {seed}: {other}"),
        Ok(_) => None,
    }
}

#[test]
fn every_planted_bug_is_found_within_a_thousand_seeds_and_called_by_its_name() {
    let bugs = [
        (Bug::FlushIgnored, Wrong::Lost),
        (Bug::FuaIgnored, Wrong::Lost),
        (Bug::WriteMisdirected, Wrong::Misdirected { lba: 0 }),
        (Bug::WriteLost, Wrong::Lost),
        (Bug::WriteTorn, Wrong::Torn),
        (Bug::ReadStale, Wrong::Stale),
        (Bug::ReadRotten, Wrong::Rotten { at: 0 }),
    ];
    for (bug, name) in bugs {
        let is_its_name = |wrong: &Wrong| discriminant(wrong) == discriminant(&name);
        let found = (0..1000).find_map(|seed| Some((seed, accusation(bug, seed)?)));
        let (seed, wrong) = found.unwrap_or_else(|| panic!("{bug:?} was not found"));
        // A lost write may first be met as zeroes, and a misdirected one as what it did not overwrite.
        let named = (seed..1000).find(|seed| accusation(bug, *seed).as_ref().is_some_and(is_its_name));
        let named = named.unwrap_or_else(|| panic!("{bug:?} was never called by its name"));
        println!("{bug:?}: found with seed {seed} ({wrong:?}), called by its name with seed {named}");
    }
}

/// A rig, a disk that takes 1,000 ns for anything, and a channel into it.
fn plain_disk() -> (Rig, SimDisk, Box<dyn Channel>) {
    let mut rig = Rig::new(Prng::new(1), 1 << 16);
    let options = DiskOptions { latency_ns: 1_000..=1_000, slow_one_in: 0, ..DiskOptions::default() };
    let disk = SimDisk::new(options, Prng::new(2));
    let channel = disk.open(&mut rig.core, 8).unwrap();
    (rig, disk, channel)
}

#[test]
fn injected_mishaps_happen_to_the_next_requests_of_their_kind() {
    let (mut rig, disk, mut channel) = plain_disk();
    let segments = [rig.segment(0, 512)];
    let write = Op::Write { fua: false };
    disk.inject(OpKind::Write, Mishap::Fail, 1);
    disk.inject(OpKind::Write, Mishap::Slow { ns: 1_000_000 }, 1);
    disk.inject(OpKind::Write, Mishap::Hang, 1);
    assert_eq!(rig.ask(&mut *channel, Op::Read, 0, 1, &segments), Ok(Status::Ok));
    rig.memory.write(0, &[9; 512]).unwrap();
    assert_eq!(rig.ask(&mut *channel, write, 0, 1, &segments), Ok(Status::Medium));
    assert_eq!(disk.peek(0), [0; 512], "a request that was made to fail did nothing");
    let before = rig.clock.now();
    assert_eq!(rig.ask(&mut *channel, write, 0, 1, &segments), Ok(Status::Ok));
    assert!(rig.clock.now().since_ns(before) >= 1_001_000);
    assert_eq!(disk.peek(0), [9; 512]);
    assert!(rig.ask(&mut *channel, write, 1, 1, &segments).is_err(), "it hangs, and nothing will wake the core");
    disk.release();
    let mut done = Completions::new();
    while done.as_slice().is_empty() {
        channel.poll(rig.begin_turn(), &mut done);
        if done.as_slice().is_empty() {
            rig.rest(&mut *channel).unwrap();
        }
    }
    assert_eq!(disk.peek(1), [9; 512]);
}

#[test]
fn requests_that_make_no_sense_are_refused() {
    let (mut rig, disk, mut channel) = plain_disk();
    let whole = rig.segment(0, 512);
    let end = disk.geometry().block_count;
    for (start, blocks, segments, expected) in [
        (end, 1, &[whole][..], Status::Range),
        (u64::MAX, 1, &[whole], Status::Range),
        (0, 2, &[whole], Status::Malformed),
        (0, 1, &[], Status::Malformed),
    ] {
        assert_eq!(rig.ask(&mut *channel, Op::Read, start, blocks, segments), Ok(expected));
        assert_eq!(rig.ask(&mut *channel, Op::Write { fua: true }, start, blocks, segments), Ok(expected));
    }
    assert!(matches!(disk.open(&mut rig.core, 257), Err(OpenError::Depth { asked: 257, max: 256 })));
}

#[test]
fn a_channel_opened_before_a_power_cut_never_answers_again() {
    let (mut rig, disk, mut channel) = plain_disk();
    disk.cut_power();
    assert!(rig.ask(&mut *channel, Op::Flush, 0, 0, &[]).is_err());
    let mut fresh = disk.open(&mut rig.core, 1).unwrap();
    assert_eq!(rig.ask(&mut *fresh, Op::Flush, 0, 0, &[]), Ok(Status::Ok));
}

#[test]
fn what_was_poked_is_read_and_survives() {
    let (mut rig, disk, _) = plain_disk();
    disk.poke(5, &[3; 512]);
    disk.cut_power();
    let mut channel = disk.open(&mut rig.core, 1).unwrap();
    assert_eq!(rig.ask(&mut *channel, Op::Read, 5, 1, &[rig.segment(0, 512)]), Ok(Status::Ok));
    let mut got = [0; 512];
    rig.memory.read(0, &mut got).unwrap();
    assert_eq!(got, [3; 512]);
    let mut written = Vec::new();
    disk.visit(|sector, bytes| written.push((sector, bytes[0])));
    assert_eq!(written, [(5, 3)]);
}
