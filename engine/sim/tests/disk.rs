//! The simulated disk and the checker against each other: an honest disk is never accused, and each planted bug is found.

use spinel_core::{Device, OpKind};
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

/// Runs seeds until the bug is found, and answers the seed and the accusation.
fn find(bug: Bug) -> (u64, Wrong) {
    let accusation = |seed| {
        let mut prng = Prng::new(seed);
        let options = DiskOptions { bug: Some(bug), write_cache: true, ..drawn(&mut prng) };
        match run(&mut prng, &options, &load_options(&options)) {
            Err(Failure::Violation(violation)) => Some((seed, violation.wrong)),
            Err(other) => panic!("{bug:?} with seed {seed}: {other}"),
            Ok(_) => None,
        }
    };
    (0..1000).find_map(accusation).unwrap_or_else(|| panic!("{bug:?} was not found within 1,000 seeds"))
}

#[test]
fn every_planted_bug_is_found_within_a_thousand_seeds() {
    for bug in [Bug::FlushIgnored, Bug::FuaIgnored, Bug::WriteMisdirected, Bug::WriteLost, Bug::WriteTorn, Bug::ReadStale, Bug::ReadRotten]
    {
        let (seed, wrong) = find(bug);
        println!("{bug:?}: seed {seed}, {wrong:?}");
    }
}
