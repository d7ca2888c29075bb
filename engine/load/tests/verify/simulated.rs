//! Disks that are right or wrong in ways of their own.

use spinel_core::Device as _;
use spinel_load::{Job, Length, Mix, Stamp};
use spinel_sim::{Bug, DiskOptions, Prng, Rig, SimDisk, every_seed};

use crate::{Bench, everything, mixed, names, words};

/// A disk whose shape is drawn, with old data on it: noise, zeroes, and stamps of somebody else's verification.
fn old_disk(prng: &mut Prng, options: DiskOptions) -> SimDisk {
    let large = prng.one_in(3);
    let options = DiskOptions {
        block_bytes: if large { 4096 } else { 512 },
        block_count: if large { 32 } else { 256 },
        write_cache: !prng.one_in(3),
        latency_ns: *prng.pick(&[0, 1_000])..=*prng.pick(&[1_000, 50_000]),
        ..options
    };
    let disk = SimDisk::new(options, prng.fork());
    for lba in 0..256 {
        let mut bytes = [0; 512];
        match prng.below(3) {
            0 => prng.fill(&mut bytes),
            1 => bytes = Stamp { volume: 8, lba: lba ^ 1, writer: 0, epoch: 0, sequence: lba, start: lba, sectors: 1 }.encode(),
            _ => {}
        }
        disk.poke(lba, &bytes);
    }
    disk
}

#[test]
fn a_sound_disk_with_old_data_is_never_accused() {
    every_seed(150, |seed| {
        let mut prng = Prng::new(seed);
        let fail_one_in = *prng.pick(&[0, 0, 40]);
        let disk = old_disk(&mut prng, DiskOptions { fail_one_in, ..DiskOptions::default() });
        let job = everything(&disk.geometry(), seed, 400);
        let mut bench = Bench::new(Rig::new(prng.fork(), 4096), &disk, 9, None);
        if prng.one_in(2) {
            bench.fill(&job);
        }
        bench.run(&job);
        bench.sweep(&job);
        bench.run(&mixed(&disk.geometry(), seed, 100));
        assert_eq!(bench.verification.violations(), 0, "{}", words(&bench.findings()));
        let checked = bench.verification.checked().unwrap();
        assert!(checked.stamps_read > 100 && checked.writes > 100 && checked.flushes > 0, "{checked:?}");
        assert_eq!(bench.verification.sectors_read(), checked.sectors_read);
    });
}

/// What a verification says of a disk with a bug that strikes once in so many requests.
fn accusations(bug: Bug, seed: u64) -> Vec<(&'static str, u64)> {
    let mut prng = Prng::new(seed);
    let disk = old_disk(&mut prng, DiskOptions { bug: Some(bug), bug_one_in: 100, ..DiskOptions::default() });
    let job = mixed(&disk.geometry(), seed, 600);
    let mut bench = Bench::new(Rig::new(prng.fork(), 4096), &disk, 9, None);
    bench.fill(&job);
    // Stale reads of a cache that was never flushed return what nobody knows.
    bench.run(&Job { mix: Mix { flush: 100, ..Mix::default() }, length: Length { requests: Some(1), ..Length::default() }, ..job.clone() });
    bench.run(&job);
    bench.sweep(&job);
    bench.sweep(&job);
    names(&bench.findings())
}

#[test]
fn every_bug_of_a_disk_is_found_and_named_for_what_it_is() {
    // What is overwritten before it is read again stays with the name that one look gives it.
    for (bug, name, allowed) in [
        (Bug::WriteMisdirected, "misdirected", &["lost", "torn", "stale"][..]),
        (Bug::WriteLost, "lost", &["stale"]),
        (Bug::WriteTorn, "torn", &["lost", "stale"]),
        (Bug::ReadStale, "stale", &["lost", "torn"]),
        (Bug::ReadRotten, "rotten", &[]),
    ] {
        let (mut named, mut found) = (0, 0);
        for seed in 0..20 {
            let names = accusations(bug, seed);
            found += u32::from(!names.is_empty());
            named += u32::from(names.iter().any(|(given, _)| *given == name));
            let strange = names.iter().find(|(given, _)| *given != name && !allowed.contains(given));
            assert_eq!(strange, None, "{bug:?} with seed {seed}: {names:?}");
        }
        println!("{bug:?}: found with {found} of 20 seeds, named with {named}");
        assert!(found >= 10 && named >= found / 2, "{bug:?} was found with {found} seeds, and named with {named}");
    }
}
