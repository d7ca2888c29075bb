//! The poller over channels that a test commands, and over devices that are checked. Knows no real time.
#![forbid(unsafe_code)]

mod held;
mod judged;

use std::collections::BTreeSet;
use std::sync::Arc;

use held::Hand;
use spinel_core::mem::RegionId;
use spinel_core::{Armed, Channel, Core, Device, Features, Geometry, Instant, OPS, Op, OpKind, OpenError, Poller, Progress, Status};
use spinel_load::{Arrival, Ended, Intake, Job, Length, Load, LoadPoller, LoadRemains, Memory, Mix, Sizes, Tally, feed};
use spinel_sim::{Prng, Rig};

fn geometry() -> Geometry {
    Geometry {
        block_bytes: 512,
        block_count: 1 << 20,
        memory_align_bytes: 1,
        segments_max: 1,
        transfer_max_bytes: 1 << 20,
        physical_block_bytes: 512,
        write_cache: true,
        read_only: false,
        features: Features { discard: true, write_zeroes: true },
    }
}

fn at(ns: u64) -> Instant {
    Instant { ns }
}

/// A poller over a held channel, its hand, and the watcher's end.
fn load(job: &Job) -> (LoadPoller, Hand, Intake) {
    let hand = Hand::default();
    let (outlet, intake) = feed(|kind| job.sends(kind));
    let memory = Memory::anonymous(job).unwrap();
    let poller = LoadPoller::new(job.clone(), geometry(), hand.channel(job.depth), memory, outlet).unwrap();
    (poller, hand, intake)
}

/// Everything that was handed over so far, as one.
fn taken(intake: &Intake) -> Tally {
    let mut all = Tally::of(|_| false);
    while let Ok(Some(())) = intake.take(|tally| all.add(tally)) {}
    all
}

fn requests(count: u64) -> Length {
    Length { requests: Some(count), ..Length::default() }
}

/// Turns a microsecond apart, in each of which everything ends that was held.
fn run(poller: &mut LoadPoller, hand: &Hand, from_ns: u64, turns: u64) {
    for turn in 0..turns {
        hand.end(hand.held(), Status::Ok);
        poller.poll(at(from_ns + turn * 1000));
    }
}

#[test]
fn as_many_are_in_flight_as_the_job_says_and_each_end_is_followed_by_another() {
    let job = Job { depth: 5, ..Job::new() };
    let (mut poller, hand, _intake) = load(&job);
    assert_eq!(poller.poll(at(10)), Progress::Busy);
    assert_eq!((hand.held(), hand.kicks()), (5, 1));
    assert_eq!(poller.poll(at(20)), Progress::Waiting);
    hand.end(2, Status::Ok);
    assert_eq!(poller.poll(at(30)), Progress::Busy);
    assert_eq!((hand.held(), hand.kicks()), (5, 2));
    assert!(hand.seen().iter().all(|seen| seen.bytes == 4096 && seen.blocks == 8));
}

#[test]
fn a_job_of_so_many_requests_sends_exactly_so_many_and_says_when_they_have_ended() {
    let job = Job { depth: 7, length: requests(1000), ..Job::new() };
    let (mut poller, hand, intake) = load(&job);
    run(&mut poller, &hand, 50, 500);
    assert!(intake.is_over() && hand.closed());
    let tally = taken(&intake);
    assert_eq!((tally.requests(), hand.seen().len(), tally.ended), (1000, 1000, Some(Ended::Done)));
    assert_eq!(tally.ops[0].as_ref().unwrap().bytes, 1000 * 4096);
    // 142 times 7, and 6; seen one turn later.
    assert_eq!((tally.from, tally.until), (at(50), at(50 + 143 * 1000)));
}

#[test]
fn a_job_that_is_over_keeps_no_core_awake_and_can_still_be_stopped() {
    let job = Job { length: requests(1), ..Job::new() };
    let (mut poller, hand, intake) = load(&job);
    run(&mut poller, &hand, 0, 2);
    assert!(intake.is_over());
    for ns in 3000..3010 {
        assert_eq!((poller.poll(at(ns)), poller.arm()), (Progress::Idle, Armed::Idle));
    }
    poller.stop();
    assert_eq!(poller.poll(at(4000)), Progress::Stopped);
    assert_eq!(taken(&intake).ended, Some(Ended::Done), "it had ended before it was stopped");
}

#[test]
fn bytes_and_time_end_a_job_too() {
    let bytes = Job { length: Length { bytes: Some(10_000), ..Length::default() }, ..Job::new() };
    let (mut poller, hand, intake) = load(&bytes);
    run(&mut poller, &hand, 0, 10);
    assert_eq!((taken(&intake).requests(), intake.is_over()), (3, true), "the third goes beyond");

    let time = Job { length: Length { time_ns: Some(5000), ..Length::default() }, ..Job::new() };
    let (mut poller, hand, intake) = load(&time);
    run(&mut poller, &hand, 100, 5);
    assert_eq!(poller.poll(at(5100)), Progress::Waiting, "one is still in flight");
    hand.end(1, Status::Ok);
    assert_eq!(poller.poll(at(6100)), Progress::Busy);
    let tally = taken(&intake);
    assert_eq!((tally.requests(), tally.ended, tally.until), (5, Some(Ended::Done), at(6100)));

    let nothing = Job { length: requests(0), ..Job::new() };
    let (mut poller, hand, intake) = load(&nothing);
    poller.poll(at(0));
    assert_eq!((hand.seen().len(), taken(&intake).ended), (0, Some(Ended::Done)));
}

#[test]
fn a_stop_sends_nothing_more_waits_for_what_flies_and_gives_everything_back() {
    let (mut poller, hand, intake) = load(&Job { depth: 3, ..Job::new() });
    poller.poll(at(0));
    poller.stop();
    hand.end(2, Status::Ok);
    assert_eq!((poller.poll(at(1000)), hand.held()), (Progress::Busy, 1));
    assert!(!intake.is_over() && !hand.closed());
    hand.end(1, Status::Aborted);
    assert_eq!(poller.poll(at(2000)), Progress::Stopped);
    let tally = taken(&intake);
    assert_eq!((tally.requests(), tally.ended), (3, Some(Ended::Stopped)));
    assert_eq!(tally.ops[0].as_ref().unwrap().errors(), 1);
    let mut rig = Rig::new(Prng::new(1), 4096);
    let remains = Box::new(poller).retire(&mut rig.core).downcast::<LoadRemains>().unwrap();
    assert_eq!(remains.memory.len_bytes(), 3 * 4096);
}

#[test]
fn a_turn_sends_no_more_than_a_batch() {
    let (mut poller, hand, _intake) = load(&Job { depth: 5, batch: 2, ..Job::new() });
    for (turn, sent) in [(0, 2), (1, 4), (2, 5), (3, 5)] {
        poller.poll(at(turn));
        assert_eq!(hand.seen().len(), sent);
    }
    assert!(matches!(Job { batch: 0, ..Job::new() }.check(&geometry()), Err(spinel_load::JobError::Batch { batch: 0 })));
}

#[test]
fn a_device_that_gives_requests_up_is_sent_nothing_more() {
    let (mut poller, hand, intake) = load(&Job { depth: 2, ..Job::new() });
    poller.poll(at(0));
    hand.end(1, Status::Aborted);
    poller.poll(at(1000));
    hand.end(1, Status::Ok);
    poller.poll(at(2000));
    let tally = taken(&intake);
    assert_eq!((hand.seen().len(), tally.requests(), tally.ended), (2, 2, Some(Ended::Gone)));
}

#[test]
fn what_ends_in_the_warm_up_is_not_counted() {
    let job = Job { depth: 2, warm_up_ns: 10_000, length: requests(6), ..Job::new() };
    let (mut poller, hand, intake) = load(&job);
    // Turns at 0 to 9 us are warm-up, and send two each; those of the last end at 10 us, and count.
    run(&mut poller, &hand, 0, 20);
    let tally = taken(&intake);
    assert_eq!((tally.requests(), hand.seen().len(), tally.from, tally.until), (6, 24, at(10_000), at(12_000)));
}

#[test]
fn a_stall_that_begins_in_the_warm_up_shows() {
    let (mut poller, hand, intake) = load(&Job { warm_up_ns: 10_000, length: requests(2), ..Job::new() });
    poller.poll(at(0));
    run(&mut poller, &hand, 50_000, 3);
    let tally = taken(&intake);
    let latency = &tally.ops[0].as_ref().unwrap().latency;
    assert_eq!((tally.requests(), latency.max(), tally.from), (2, 50_015, at(10_000)), "to three digits");
}

#[test]
fn an_open_loop_does_not_begin_with_the_backlog_of_its_warm_up_nor_hide_what_it_never_sent() {
    let length = Length { time_ns: Some(10_000), ..Length::default() };
    let job = Job { arrival: Arrival::Steady { per_second: 1e6 }, warm_up_ns: 10_000, length, ..Job::new() };
    let (mut poller, hand, intake) = load(&job);
    // One every microsecond is due, and the device takes 8 us for each: one in the warm-up, then those due at 10 us and later.
    for ns in (0..60_000).step_by(1000) {
        if ns % 8000 == 0 {
            hand.end(hand.held(), Status::Ok);
        }
        poller.poll(at(ns));
    }
    let tally = taken(&intake);
    let latency = &tally.ops[0].as_ref().unwrap().latency;
    assert!(latency.min() < 15_000, "the first one counted had not waited for those of the warm-up: {}", latency.min());
    assert_eq!(tally.requests() + tally.unsent, 10, "ten were due");
    assert!(tally.unsent > 5, "{} never sent", tally.unsent);
}

#[test]
fn a_stop_in_the_warm_up_leaves_an_empty_tally() {
    let (mut poller, hand, intake) = load(&Job { warm_up_ns: 1 << 40, ..Job::new() });
    run(&mut poller, &hand, 0, 20);
    poller.stop();
    run(&mut poller, &hand, 20_000, 1);
    let tally = taken(&intake);
    assert_eq!((tally.requests(), tally.until.since_ns(tally.from), tally.ended), (0, 0, Some(Ended::Stopped)));
}

#[test]
fn a_closed_loop_counts_from_the_turn_that_sent_and_an_open_one_from_when_it_was_due() {
    // The device does nothing for 100 us.
    let stall = |arrival| {
        let (mut poller, hand, intake) = load(&Job { arrival, depth: 4, length: requests(200), ..Job::new() });
        poller.poll(at(0));
        for ns in (1000..100_000).step_by(1000) {
            poller.poll(at(ns));
        }
        run(&mut poller, &hand, 100_000, 400);
        let tally = taken(&intake);
        assert_eq!(tally.requests(), 200);
        tally.ops[0].as_ref().unwrap().latency.clone()
    };
    let closed = stall(Arrival::Closed);
    assert_eq!(closed.count_between(50_000, 200_000), 4, "those in flight saw the stall, and nobody else");
    let open = stall(Arrival::Steady { per_second: 1_000_000.0 });
    assert!(open.count_between(50_000, 200_000) > 50, "{}", open.count_between(50_000, 200_000));
    assert!(open.max() >= 100_000);
}

#[test]
fn a_stall_at_the_end_of_an_open_loop_does_not_hide_what_was_due_in_it() {
    let length = Length { time_ns: Some(100_000), ..Length::default() };
    let (mut poller, hand, intake) = load(&Job { arrival: Arrival::Steady { per_second: 1_000_000.0 }, depth: 3, length, ..Job::new() });
    for ns in (0..150_000).step_by(1000) {
        poller.poll(at(ns));
    }
    run(&mut poller, &hand, 150_000, 40);
    let tally = taken(&intake);
    assert_eq!(
        (tally.requests(), tally.ended, tally.until),
        (100, Some(Ended::Done), at(183_000)),
        "33 times 3, and one, and none due later"
    );
    assert!(tally.ops[0].as_ref().unwrap().latency.min() > 50_000);
}

#[test]
fn a_rate_that_is_far_too_high_does_not_keep_an_open_loop_for_ever() {
    let length = Length { time_ns: Some(100_000), ..Length::default() };
    let (mut poller, hand, intake) = load(&Job { arrival: Arrival::Steady { per_second: 1e9 }, depth: 4, length, ..Job::new() });
    run(&mut poller, &hand, 0, 202);
    let tally = taken(&intake);
    assert_eq!((tally.requests(), tally.ended, tally.until), (1 + 199 * 4, Some(Ended::Done), at(200_000)), "as long again, and no longer");
}

#[test]
fn an_open_loop_sends_what_is_due_and_sleeps_until_a_little_before_the_next() {
    let (mut poller, hand, intake) = load(&Job { arrival: Arrival::Steady { per_second: 1000.0 }, depth: 2, ..Job::new() });
    assert_eq!(poller.arm(), Armed::Ready, "before its first turn");
    poller.poll(at(5000));
    assert_eq!(hand.held(), 1);
    assert_eq!((poller.poll(at(6000)), poller.arm()), (Progress::Waiting, Armed::Until(at(905_000))));
    hand.end(1, Status::Ok);
    poller.poll(at(905_000));
    assert_eq!((poller.poll(at(906_000)), poller.arm()), (Progress::Idle, Armed::Spin));
    assert_eq!((poller.poll(at(1_005_000)), hand.held()), (Progress::Busy, 1));
    poller.poll(at(1_005_001));
    // Nothing comes back: one more goes, then there is no room, and nothing to wake up for but the end of the stretch.
    poller.poll(at(2_005_000));
    poller.poll(at(3_005_000));
    assert_eq!((hand.held(), poller.arm()), (2, Armed::Until(at(1_000_005_000))));
    hand.end(2, Status::Ok);
    assert_eq!(poller.arm(), Armed::Ready);
    poller.poll(at(3_105_000));
    assert_eq!(hand.held(), 1, "the one that was due at 3 ms");
    poller.stop();
    hand.end(1, Status::Ok);
    poller.poll(at(3_205_000));
    let longest_ns = taken(&intake).ops[0].as_ref().unwrap().latency.max();
    assert!((2_100_000..2_102_000).contains(&longest_ns), "{longest_ns}: from 1.005 to 3.105 ms");
}

#[test]
fn a_stretch_is_handed_over_after_every_interval_also_while_nothing_moves() {
    let job = Job { interval_ns: 1_000_000, length: Length { time_ns: Some(10_000_000), ..Length::default() }, ..Job::new() };
    let (mut poller, hand, intake) = load(&job);
    let mut stretches = Vec::new();
    let mut look = |tally: &Tally| stretches.push((tally.from.ns, tally.until.ns, tally.requests()));
    poller.poll(at(500));
    assert_eq!(poller.arm(), Armed::Until(at(1_000_500)));
    poller.poll(at(1_000_600));
    intake.take(&mut look).unwrap();
    // The core was away for more than two intervals.
    hand.end(1, Status::Ok);
    poller.poll(at(3_700_000));
    intake.take(&mut look).unwrap();
    poller.poll(at(4_600_000));
    poller.poll(at(4_700_000));
    intake.take(&mut look).unwrap();
    assert_eq!(stretches, [(500, 1_000_600, 0), (1_000_600, 3_700_000, 1), (3_700_000, 4_700_000, 0)]);
}

#[test]
fn a_turn_sends_and_sees_no_more_than_a_batch() {
    let job = Job { depth: 1000, ..Job::new() };
    let (mut poller, hand, _intake) = load(&job);
    poller.poll(at(0));
    assert_eq!((hand.held(), poller.arm()), (64, Armed::Ready));
    for ns in 0..20 {
        poller.poll(at(ns));
    }
    assert_eq!(hand.held(), 1000);
    hand.end(1000, Status::Ok);
    poller.poll(at(100));
    assert_eq!(hand.held(), 64);
}

#[test]
fn every_kind_travels_with_its_modifiers_and_its_bytes() {
    let mix = Mix { read: 20, write: 40, flush: 10, discard: 10, write_zeroes: 20 };
    let job = Job { mix, fua: true, flush_every: 2, depth: 16, sizes: Sizes { min_bytes: 512, max_bytes: 8192 }, ..Job::new() };
    let (mut poller, hand, intake) = load(&Job { length: requests(2000), ..job });
    run(&mut poller, &hand, 0, 200);
    let mut bytes = [0; OPS.len()];
    let cells = |kind| hand.seen().iter().filter(|seen| seen.op.kind() == kind).map(|seen| seen.offset).collect::<BTreeSet<_>>();
    assert_eq!((cells(OpKind::Read).len(), cells(OpKind::Write).len()), (16, 16));
    assert!(cells(OpKind::Read).is_disjoint(&cells(OpKind::Write)), "what is read does not change what is written");
    for seen in hand.seen() {
        let asked = seen.blocks * 512;
        bytes[seen.op.kind().index()] += u64::from(asked);
        match seen.op {
            Op::Read | Op::Write { fua: true } => assert_eq!(seen.bytes, asked),
            Op::Flush => assert_eq!((seen.blocks, seen.start.0, seen.bytes), (0, 0, 0)),
            Op::Discard | Op::WriteZeroes { unmap: true, fua: true } => assert_eq!(seen.bytes, 0),
            other => panic!("{other:?} was not asked for"),
        }
        assert!(seen.at.ns < 200_000 && seen.tag.index() < 16);
    }
    let tally = taken(&intake);
    assert_eq!(tally.requests(), 2000);
    assert_eq!(tally.ops.map(|op| op.unwrap().bytes), bytes);
    assert!(bytes[OpKind::Flush.index()] == 0 && bytes.iter().filter(|bytes| **bytes > 0).count() == 4);
}

/// A device that opens for nobody, and sees which memory was announced before.
struct Shut(RegionId);

impl Device for Shut {
    fn geometry(&self) -> Geometry {
        geometry()
    }

    fn open(&self, core: &mut Core, _depth: u16) -> Result<Box<dyn Channel>, OpenError> {
        let region = core.unmap(self.0).expect("announced before the channel is opened");
        core.map(region);
        Err(OpenError::Gone)
    }
}

#[test]
fn a_load_that_does_not_start_leaves_no_memory_on_the_core() {
    let mut rig = Rig::new(Prng::new(1), 4096);
    let job = Job::new();
    let memory = Memory::anonymous(&job).unwrap();
    let region = memory.region().id();
    let (outlet, intake) = feed(|kind| job.sends(kind));
    let load = Load { name: "load".into(), job, device: Arc::new(Shut(region)), memory, outlet, judge: None };
    assert!(matches!(load.recipe()(&mut rig.core), Err(OpenError::Gone)));
    assert!(rig.core.unmap(region).is_none() && intake.is_over());
}

#[test]
#[should_panic(expected = "a request completes once")]
fn a_request_that_ends_twice_is_our_own_fault_and_stops_us() {
    let (mut poller, hand, _intake) = load(&Job { depth: 2, ..Job::new() });
    poller.poll(at(0));
    hand.end_twice();
    poller.poll(at(1));
}
