//! A judge behind the poller: every write is stamped, every read is checked. Knows no schedule.

use std::sync::mpsc::{Sender, channel};

use spinel_core::{Device as _, Op, Poller as _, Progress, Status, Tag};
use spinel_load::{
    Case, Checked, Checker, Flush, Job, Judge, Length, LoadPoller, Memory, Mix, Read, Sizes, UNTOUCHED, Violation, Write, feed,
};
use spinel_sim::{Bug, DiskOptions, Prng, Rig, SimDisk, every_seed};

use crate::{at, load};

enum Asked {
    Read(Read),
    Write(Write),
    Flush(Flush),
}

/// A checker, and what is in flight by tag.
struct Checking {
    checker: Checker,
    flying: Vec<Option<Asked>>,
    violations: usize,
    verdict: Sender<(Checked, usize)>,
}

impl Judge for Checking {
    fn begin(&mut self, case: Case, bytes: &mut [u8]) {
        let Case { tag, op, start, blocks } = case;
        let asked = match op {
            Op::Read => Asked::Read(self.checker.begin_read(start, blocks)),
            Op::Write { fua } => {
                let (write, stamped) = self.checker.begin_write(1, start, blocks, fua);
                bytes.copy_from_slice(&stamped);
                Asked::Write(write)
            }
            Op::WriteZeroes { fua, .. } => Asked::Write(self.checker.begin_zeroes(start, blocks, fua)),
            Op::Discard => Asked::Write(self.checker.begin_zeroes(start, blocks, false)),
            Op::Flush => Asked::Flush(self.checker.begin_flush()),
        };
        assert!(self.flying[tag.index()].replace(asked).is_none(), "a tag in flight is not given twice");
    }

    fn end(&mut self, case: Case, status: Status, bytes: &[u8]) {
        match self.flying[case.tag.index()].take().expect("it began") {
            Asked::Read(read) => {
                let judged: Result<(), Violation> = self.checker.end_read(read, status, bytes);
                self.violations += usize::from(judged.is_err());
            }
            Asked::Write(write) => self.checker.end_write(write, status),
            Asked::Flush(flush) => self.checker.end_flush(flush, status),
        }
    }

    fn close(&mut self) {
        assert!(self.flying.iter().all(Option::is_none));
        self.verdict.send((self.checker.checked(), self.violations)).expect("the test waits");
    }
}

/// A judged job on a simulated disk, to its end.
fn judge(seed: u64, bug: Option<Bug>) -> (Checked, usize) {
    let mut prng = Prng::new(seed);
    let mut rig = Rig::new(prng.fork(), 4096);
    let disk = SimDisk::new(DiskOptions { bug, ..DiskOptions::default() }, prng.fork());
    let geometry = disk.geometry();
    let job = Job {
        mix: Mix { read: 50, write: 40, flush: 2, discard: 4, write_zeroes: 4 },
        sizes: Sizes { min_bytes: geometry.block_bytes, max_bytes: 4 * geometry.block_bytes },
        depth: 8,
        seed,
        length: Length { requests: Some(2000), ..Length::default() },
        ..Job::new()
    };
    let (outlet, intake) = feed(|kind| job.sends(kind));
    let memory = Memory::anonymous(&job).unwrap();
    memory.announce(&mut rig.core);
    let opened = disk.open(&mut rig.core, job.depth).unwrap();
    let (verdict, judged) = channel();
    let flying = (0..job.depth).map(|_| None).collect();
    let checking = Checking { checker: Checker::new(7, &geometry), flying, violations: 0, verdict };
    let mut poller = LoadPoller::new(job, geometry, opened, memory, outlet).unwrap().judged(Box::new(checking));
    while !intake.is_over() {
        assert_ne!(poller.poll(rig.begin_turn()), Progress::Stopped);
        rig.end_turn();
    }
    judged.recv().unwrap()
}

#[test]
fn a_judge_sees_every_request_and_finds_nothing_wrong_with_a_good_disk() {
    every_seed(20, |seed| {
        let (checked, violations) = judge(seed, None);
        assert_eq!(violations, 0);
        assert!(checked.stamps_read > 100 && checked.writes > 500 && checked.flushes > 10, "{checked:?}");
    });
}

#[test]
fn a_judge_finds_what_a_bad_disk_does() {
    for bug in [Bug::WriteMisdirected, Bug::WriteLost, Bug::WriteTorn, Bug::ReadStale, Bug::ReadRotten] {
        let (checked, violations) = judge(1, Some(bug));
        assert!(violations > 0, "{bug:?}: {checked:?}");
    }
}

/// Notes what it is shown.
struct Noting(Sender<(&'static str, Tag, Vec<u8>)>);

impl Judge for Noting {
    fn begin(&mut self, case: Case, bytes: &mut [u8]) {
        bytes.fill(7);
        self.0.send(("begin", case.tag, bytes.to_vec())).unwrap();
    }

    fn end(&mut self, case: Case, _: Status, bytes: &[u8]) {
        self.0.send(("end", case.tag, bytes.to_vec())).unwrap();
    }

    fn close(&mut self) {
        self.0.send(("close", Tag(0), Vec::new())).unwrap();
    }
}

#[test]
fn a_read_that_filled_nothing_shows_untouched_memory_and_one_that_failed_shows_none() {
    let sizes = Sizes { min_bytes: 512, max_bytes: 512 };
    let (poller, hand, intake) = load(&Job { sizes, length: Length { requests: Some(2), ..Length::default() }, ..Job::new() });
    let (notes, noted) = channel();
    let mut poller = poller.judged(Box::new(Noting(notes)));
    for (ns, status) in [(0, None), (1, Some(Status::Ok)), (2, Some(Status::Medium))] {
        status.into_iter().for_each(|status| hand.end(1, status));
        poller.poll(at(ns));
    }
    assert!(intake.is_over());
    let noted: Vec<_> = noted.try_iter().collect();
    let none = Vec::new;
    let expected = [("begin", none()), ("end", vec![UNTOUCHED; 512]), ("begin", none()), ("end", none()), ("close", none())];
    assert_eq!(noted, expected.map(|(what, bytes)| (what, Tag(0), bytes)));
}
