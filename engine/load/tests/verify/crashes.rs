//! Logs after a kill and after a power cut: what is legal is accepted, what is not is found.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use spinel_core::mem::Segment;
use spinel_core::{Channel, Device as _, Geometry, Lba, Op, OpKind, Poller as _, Status};
use spinel_load::{After, Job, LogHeader, Mix, Outcome, Verification, WriteLog, replay, split_area, verify_log};
use spinel_sim::{Bug, DiskOptions, Mishap, Prng, Rig, SimDisk, every_seed};

use crate::{Bench, everything, mixed, names, words};

fn header(geometry: &Geometry) -> LogHeader {
    LogHeader {
        volume: 9,
        seed: 1,
        epoch: 0,
        block_bytes: geometry.block_bytes,
        disk_bytes: geometry.len_bytes(),
        area_bytes: (0, geometry.len_bytes()),
        write_cache: geometry.write_cache,
        target: "a simulated disk".to_owned(),
    }
}

/// A disk that was written to under a log until everything stopped with requests in flight.
struct Crashed {
    rig: Rig,
    disk: SimDisk,
    _folder: tempfile::TempDir,
    log: PathBuf,
}

impl Crashed {
    fn after(seed: u64, options: DiskOptions, job: impl Fn(&Geometry) -> Job) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let mut prng = Prng::new(seed);
        let disk = SimDisk::new(options, prng.fork());
        let geometry = disk.geometry();
        let writes = Arc::new(WriteLog::create(&log, &header(&geometry)).unwrap());
        let mut bench = Bench::new(Rig::new(prng.fork(), 1 << 20), &disk, 9, Some(&writes));
        let job = job(&geometry);
        bench.run(&job);
        // And once more, until the last ones hang.
        let kinds = [OpKind::Write, OpKind::WriteZeroes, OpKind::Discard, OpKind::Flush];
        let (mut poller, intake) = bench.load(&Job { seed: seed + 1, ..job });
        for turn in 0..200 {
            if turn == 40 {
                kinds.into_iter().for_each(|kind| disk.inject(kind, Mishap::Hang, 3));
            }
            poller.poll(bench.rig.begin_turn());
            bench.rig.end_turn();
        }
        disk.clear();
        assert_eq!((writes.failure().is_none(), bench.verification.violations()), (true, 0), "{}", words(&bench.findings()));
        drop((poller, intake));
        let Bench { rig, .. } = bench;
        Self { rig, disk, _folder: folder, log }
    }

    fn verify(&mut self, after: After) -> Outcome {
        let mut channel = self.disk.open(&mut self.rig.core, 1).unwrap();
        let block_bytes = usize::try_from(self.disk.geometry().block_bytes).unwrap();
        let rig = &mut self.rig;
        let mut read = |start: Lba, into: &mut [u8]| read(rig, &mut *channel, start, into, block_bytes);
        verify_log(&self.log, after, &mut read, &mut |_| {}).unwrap()
    }
}

fn read(rig: &mut Rig, channel: &mut dyn Channel, start: Lba, into: &mut [u8], block_bytes: usize) -> Status {
    let segment: Segment = rig.segment(0, u32::try_from(into.len()).unwrap());
    let blocks = u32::try_from(into.len() / block_bytes).unwrap();
    // The disk fails now and then.
    let mut ask = || rig.ask(channel, Op::Read, start.0, blocks, &[segment]).unwrap();
    let status = (0..10).map(|_| ask()).find(|status| *status == Status::Ok).unwrap_or(Status::Medium);
    rig.memory.read(0, into).unwrap();
    status
}

/// A disk with a cache or without, that fails now and then or never.
fn drawn(seed: u64) -> DiskOptions {
    let mut prng = Prng::new(seed ^ 0xc0ffee);
    let large = prng.one_in(3);
    DiskOptions {
        block_bytes: if large { 4096 } else { 512 },
        block_count: if large { 32 } else { 256 },
        write_cache: !prng.one_in(3),
        latency_ns: 0..=20_000,
        fail_one_in: *prng.pick(&[0, 40]),
        ..DiskOptions::default()
    }
}

#[test]
fn what_a_kill_leaves_is_accepted() {
    let (mut open, mut stamps) = (0, 0);
    for seed in 0..60 {
        let mut crashed = Crashed::after(seed, drawn(seed), |geometry| everything(geometry, seed, 300));
        let outcome = crashed.verify(After::Kill);
        assert_eq!(outcome.findings.violations(), 0, "seed {seed}: {}", words(&outcome.findings));
        assert!(outcome.logs.acknowledged > 100 && outcome.logs.flushes > 0 && outcome.unreadable == 0, "{outcome:?}");
        open += outcome.logs.open;
        stamps += outcome.checked.stamps_read;
    }
    assert!(open > 60 && stamps > 5000, "{open} requests were in flight, {stamps} stamps were read");
}

#[test]
fn what_a_power_cut_leaves_is_accepted_and_nothing_less() {
    let mut lossy = 0;
    for seed in 0..60 {
        let mut crashed = Crashed::after(seed, drawn(seed), |geometry| everything(geometry, seed, 300));
        crashed.disk.cut_power();
        let outcome = crashed.verify(After::PowerCut);
        assert_eq!(outcome.findings.violations(), 0, "seed {seed}: {}", words(&outcome.findings));
        assert!(outcome.checked.stamps_read > 0);
        lossy += u64::from(crashed.verify(After::Kill).findings.violations() > 0);
    }
    assert!(lossy > 10, "a power cut is no kill: {lossy} of 60 disks lost what they had acknowledged");
}

#[test]
fn a_disk_that_only_says_that_it_flushes_is_found_after_a_power_cut() {
    let mut found = 0;
    for seed in 0..20 {
        let options = DiskOptions { bug: Some(Bug::FlushIgnored), bug_one_in: 1, write_cache: true, fail_one_in: 0, ..drawn(seed) };
        let job = |geometry: &Geometry| Job { mix: Mix { read: 20, write: 70, flush: 10, ..Mix::default() }, ..mixed(geometry, seed, 300) };
        let mut crashed = Crashed::after(seed, options, job);
        crashed.disk.cut_power();
        found += u32::from(crashed.verify(After::PowerCut).findings.violations() > 0);
    }
    assert!(found >= 15, "found on {found} of 20 disks");
}

#[test]
fn what_is_lost_behind_the_log_is_found_and_named() {
    every_seed(20, |seed| {
        let options = DiskOptions { fail_one_in: 0, write_cache: false, ..drawn(seed) };
        let mut crashed = Crashed::after(seed, options, |geometry| mixed(geometry, seed, 300));
        let mut written = Vec::new();
        crashed.disk.visit(|sector, _| written.push(sector));
        let sector = *Prng::new(seed).pick(&written);
        let held = crashed.disk.peek(sector);
        crashed.disk.poke(sector, &[0; 512]);
        let outcome = crashed.verify(After::Kill);
        let given = names(&outcome.findings);
        // What was written once, by a request that was in flight in the end, may be gone.
        let is_allowed = outcome.logs.open > 0 && given.is_empty();
        assert!(is_allowed || matches!(given[..], [("lost" | "torn" | "uninitialised", 1)]), "{outcome:?}");
        crashed.disk.poke(sector, &held);
        assert_eq!(crashed.verify(After::Kill).findings.violations(), 0);
        let other = *written.iter().find(|other| **other != sector).unwrap();
        crashed.disk.poke(other, &held);
        let outcome = crashed.verify(After::Kill);
        assert_eq!(names(&outcome.findings), [("misdirected", 1)], "{outcome:?}");
    });
}

#[test]
fn a_replayed_log_can_judge_a_load_too() {
    let mut crashed = Crashed::after(3, drawn(3), |geometry| mixed(geometry, 3, 300));
    let sound = crashed.verify(After::Kill);
    let replayed = replay(&crashed.log, After::Kill, &mut |_| {}).unwrap();
    assert_eq!((replayed.header().target.as_str(), replayed.logs()), ("a simulated disk", sound.logs));
    let Crashed { rig, disk, .. } = crashed;
    let mut bench = Bench { rig, device: &disk, verification: replayed.verification() };
    let job = mixed(&disk.geometry(), 3, 300);
    bench.sweep(&job);
    assert_eq!(bench.verification.violations(), 0);
    let checked = bench.verification.checked().unwrap();
    assert!(
        checked.stamps_read == sound.checked.stamps_read && checked.sectors_read >= sound.checked.sectors_read,
        "{checked:?} {sound:?}"
    );
    let mut sector = 0;
    disk.visit(|written, _| sector = written);
    disk.poke(sector, &[1; 512]);
    bench.sweep(&job);
    assert!(bench.verification.violations() > 0);
}

/// Two jobs on halves of a disk, under one log.
fn two_jobs(path: &Path, disk: &SimDisk) {
    let geometry = disk.geometry();
    let log = Arc::new(WriteLog::create(path, &header(&geometry)).unwrap());
    let areas = split_area((0, geometry.len_bytes()), 2, 4 * geometry.block_bytes).unwrap();
    for (job, area) in (0..).zip(areas) {
        let mut job_of = mixed(&geometry, u64::from(job) + 1, 300);
        job_of.area = area;
        let mut bench = Bench::new(Rig::new(Prng::new(1), 4096), disk, 9, None);
        let identity = spinel_load::Identity { volume: 9, epoch: 0, job };
        bench.verification = Verification::new(identity, &geometry, job_of.area_on(&geometry), Some(&log)).unwrap();
        bench.run(&job_of);
        bench.sweep(&job_of);
        assert_eq!(bench.verification.violations(), 0);
    }
}

#[test]
fn several_jobs_share_a_log_and_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let disk = SimDisk::new(DiskOptions { write_cache: false, ..DiskOptions::default() }, Prng::new(5));
    two_jobs(&log, &disk);
    let mut crashed = Crashed { rig: Rig::new(Prng::new(1), 1 << 20), disk, _folder: folder, log };
    assert_eq!(crashed.verify(After::PowerCut).findings.violations(), 0);
    // A sector of the second job turns up in the first one's half.
    let (mut first, mut second) = (None, None);
    crashed.disk.visit(|sector, _| if sector < 512 { first = Some(sector) } else { second = second.or(Some(sector)) });
    let (first, second) = (first.unwrap(), second.unwrap());
    crashed.disk.poke(first, &crashed.disk.peek(second));
    let outcome = crashed.verify(After::PowerCut);
    let words = words(&outcome.findings);
    let expected = format!("sector {first} (byte {}): misdirected write: holds what was written to sector {second} by write ", first * 512);
    assert!(words.starts_with(&expected) && words.contains(" of job 2"), "{words}");
}
