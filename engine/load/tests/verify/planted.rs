//! Faults planted in a sound device, one at a time.

use std::sync::Arc;

use spinel_core::{Device as _, Geometry};
use spinel_load::{Job, Length, Mix};
use spinel_sim::{Prng, Rig, every_seed};
use spinel_volume::{ErrorDevice, Fault, Injection, MemoryDevice, Shape, Target};

use crate::{Bench, mixed, names, words};

/// Reads or writes of two blocks.
fn only(mix: Mix, geometry: &Geometry, seed: u64, requests: u64) -> Job {
    let mut job = mixed(geometry, seed, requests);
    job.mix = mix;
    job.sizes.min_bytes = 2 * geometry.block_bytes;
    job.sizes.max_bytes = job.sizes.min_bytes;
    job.length = Length { requests: Some(requests), ..Length::default() };
    job
}

const WRITES: Mix = Mix { read: 0, write: 100, flush: 0, discard: 0, write_zeroes: 0 };

/// What is said of a device that does this wrong once, in a write of two blocks to a disk that was written before.
fn verdict(shape: Shape, target: Target, fault: Fault, seed: u64) -> (Vec<&'static str>, String) {
    let device = ErrorDevice::new(Arc::new(MemoryDevice::new(shape).unwrap())).unwrap();
    let geometry = device.geometry();
    let mut bench = Bench::new(Rig::new(Prng::new(seed), 4096), &device, seed + 1, None);
    let one = only(WRITES, &geometry, seed, 1);
    bench.fill(&one);
    bench.sweep(&one);
    assert_eq!(bench.verification.violations(), 0);
    let Job { area, .. } = one.clone();
    device.inject(Injection { target, fault, count: 1, queue_depth: 0 }).unwrap();
    bench.run(&Job { area, ..one.clone() });
    bench.sweep(&one);
    bench.sweep(&one);
    let findings = bench.findings();
    (names(&findings).into_iter().map(|(name, _)| name).collect(), words(&findings))
}

#[test]
fn each_planted_fault_is_found_and_named_for_what_it_is() {
    for shape in [Shape::new(512, 256), Shape::new(4096, 32)] {
        every_seed(20, |seed| {
            let say = |target, fault| verdict(shape, target, fault, seed);
            let (names, words) = say(Target::Write, Fault::LoseWrite);
            assert_eq!(names, ["lost"], "{words}");
            assert!(
                words.contains(": lost write: write ") && words.contains(" was acknowledged, and what is there is still write "),
                "{words}"
            );
            let (names, words) = say(Target::Write, Fault::MisdirectWrite);
            assert_eq!(names, ["misdirected"], "{words}");
            assert!(words.contains(": misdirected write: holds what was written to sector "), "{words}");
            assert!(words.contains(" was acknowledged, and lies at sector "), "{words}");
            let (names, words) = say(Target::Write, Fault::TearWrite);
            assert_eq!(names, ["torn"], "{words}");
            let (names, words) = say(Target::Read, Fault::Corrupt { offset: 700, value: 4 });
            assert_eq!(names, ["rotten"], "{words}");
            assert!(words.contains("rotten data: from byte 188 of the sector on"), "{words}");
        });
    }
}

#[test]
fn a_block_of_4096_bytes_is_torn_too() {
    let device = ErrorDevice::new(Arc::new(MemoryDevice::new(Shape::new(4096, 32)).unwrap())).unwrap();
    let geometry = device.geometry();
    let mut bench = Bench::new(Rig::new(Prng::new(1), 4096), &device, 1, None);
    let mut one = only(WRITES, &geometry, 1, 1);
    one.sizes.min_bytes = 4096;
    one.sizes.max_bytes = 4096;
    bench.fill(&one);
    device.inject(Injection { target: Target::Write, fault: Fault::TearWrite, count: 1, queue_depth: 0 }).unwrap();
    bench.run(&one);
    bench.sweep(&one);
    assert_eq!(names(&bench.findings()), [("torn", 4)], "{}", words(&bench.findings()));
}

#[test]
fn faults_under_load_are_found_on_a_disk_whose_content_nobody_knew() {
    // What is overwritten before it is read again stays with the name that one look gives it.
    for (target, fault, name, also) in [
        (Target::Write, Fault::LoseWrite, "lost", &[][..]),
        (Target::Write, Fault::MisdirectWrite, "misdirected", &["lost", "torn"]),
        (Target::Write, Fault::TearWrite, "torn", &["lost"]),
        (Target::Read, Fault::StaleRead, "stale", &["lost", "torn", "uninitialised"]),
    ] {
        every_seed(20, |seed| {
            let device = ErrorDevice::new(Arc::new(MemoryDevice::new(Shape::new(512, 1024)).unwrap())).unwrap();
            let job = mixed(&device.geometry(), seed, 1000);
            let mut bench = Bench::new(Rig::new(Prng::new(seed), 4096), &device, 7, None);
            bench.run(&job);
            device.inject(Injection { target, fault, count: 30, queue_depth: 0 }).unwrap();
            // A stale read takes two reads of one of a few blocks.
            bench.run(&mixed(&device.geometry(), seed + 1000, 4000));
            bench.sweep(&job);
            let (given, words) = (names(&bench.findings()), words(&bench.findings()));
            assert!(given.iter().any(|(given, _)| *given == name), "{fault:?} {given:?} {words}");
            assert!(given.iter().all(|(given, _)| *given == name || also.contains(given)), "{fault:?} {given:?} {words}");
        });
    }
}
