//! How a core waits in its ring: watches, deadlines, completions. Knows no device but for one completion.

mod common;

use std::cell::RefCell;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;

use common::{now, open, rig, scratch};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use spinel_core::{Armed, Core, CoreId, Op, Progress};
use spinel_uring::{Options, Ring};

fn core() -> Core {
    spinel_uring::core(CoreId(0), Options::default()).unwrap()
}

fn bell() -> OwnedFd {
    eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap()
}

fn ring(bell: &OwnedFd) {
    rustix::io::write(bell, &1_u64.to_ne_bytes()).unwrap();
}

/// Brings the core to where nothing is left to do.
fn settle(core: &mut Core) {
    while core.arm() == Armed::Ready {
        core.flush();
        core.reap(now());
    }
}

const SECOND_NS: u64 = 1_000_000_000;

#[test]
fn a_watched_descriptor_wakes_the_core_every_time_without_being_read() {
    let mut core = core();
    let bell = bell();
    core.watch(bell.as_raw_fd());
    for round in 0..1000 {
        settle(&mut core);
        let before = now();
        if round % 2 == 0 {
            ring(&bell);
            core.sleep(Some(now().after_ns(60 * SECOND_NS)), now());
        } else {
            let bell = bell.try_clone().unwrap();
            let ringer = std::thread::Builder::new().spawn(move || ring(&bell)).unwrap();
            core.sleep(Some(now().after_ns(60 * SECOND_NS)), now());
            ringer.join().unwrap();
        }
        assert!(now().since_ns(before) < 59 * SECOND_NS, "the deadline is not what woke us");
        assert_eq!(core.reap(now()), Progress::Idle, "a kick is no progress by itself");
    }
}

#[test]
fn a_core_without_events_sleeps_until_its_deadline() {
    let mut core = core();
    let bell = bell();
    core.watch(bell.as_raw_fd());
    settle(&mut core);
    let before = now();
    core.sleep(Some(before.after_ns(20_000_000)), before);
    let slept_ns = now().since_ns(before);
    assert!(slept_ns >= 20_000_000, "{slept_ns}");
    // A deadline that has passed is no reason to enter the kernel at all.
    core.sleep(Some(before), now());
}

#[test]
fn a_descriptor_may_be_closed_as_soon_as_its_watch_has_ended() {
    let mut core = core();
    let stays = bell();
    core.watch(stays.as_raw_fd());
    for _ in 0..200 {
        let (read, write) = rustix::pipe::pipe().unwrap();
        let watch = core.watch(read.as_raw_fd());
        settle(&mut core);
        core.unwatch(watch);
        drop(read);
        // With the reading end really closed, writing says so.
        let broken = || rustix::io::write(&write, b"x") == Err(rustix::io::Errno::PIPE);
        settle(&mut core);
        assert!(broken());
    }
    settle(&mut core);
    ring(&stays);
    core.sleep(None, now());
}

#[test]
fn a_watch_that_never_was_armed_ends_as_well() {
    let mut core = core();
    let bells: Vec<_> = (0..10).map(|_| bell()).collect();
    let watches: Vec<_> = bells.iter().map(|bell| core.watch(bell.as_raw_fd())).collect();
    for watch in watches {
        core.unwatch(watch);
    }
    settle(&mut core);
    let again = core.watch(bells[3].as_raw_fd());
    settle(&mut core);
    ring(&bells[3]);
    core.sleep(None, now());
    core.unwatch(again);
}

#[test]
fn a_descriptor_that_cannot_be_watched_keeps_the_core_from_sleeping_long() {
    let mut core = core();
    // No process of a test has so many.
    core.watch(1_000_000);
    settle(&mut core);
    let before = now();
    core.sleep(Some(before.after_ns(60 * SECOND_NS)), before);
    assert!(now().since_ns(before) < 30 * SECOND_NS);
}

#[test]
fn a_completion_wakes_the_core_and_an_unsubmitted_request_keeps_it_awake() {
    let scratch = scratch(64 * 1024);
    let device = open(&scratch, 512);
    let mut rig = rig(&device, 8);
    let memory = rig.region(4096);
    for _ in 0..100 {
        settle(&mut rig.core);
        assert_eq!(rig.core.reap(now()), Progress::Idle);
        rig.submit(1, Op::Read, 0, 1, &[memory.segment(0, 512).unwrap()]);
        assert_eq!(rig.core.arm(), Armed::Ready, "nobody has told the kernel yet");
        rig.core.flush();
        while rig.turn().is_empty() {
            rig.rest();
        }
    }
}

#[test]
fn a_core_that_ends_lets_go_of_what_it_watched() {
    let (read, write) = rustix::pipe::pipe().unwrap();
    let mut core = core();
    core.watch(read.as_raw_fd());
    settle(&mut core);
    drop(read);
    drop(core);
    // Once the last holder of the reading end is gone, the writing end says so.
    let mut ends = [PollFd::new(&write, PollFlags::empty())];
    let half_a_minute = Timespec { tv_sec: 30, tv_nsec: 0 };
    assert_eq!(poll(&mut ends, Some(&half_a_minute)).unwrap(), 1);
    assert!(ends[0].revents().contains(PollFlags::ERR));
}

/// The ring a core sleeps in.
fn ring_of(core: &mut Core) -> Rc<RefCell<Ring>> {
    core.share(|_| -> Result<Ring, _> { unreachable!("the core has a ring") }).unwrap()
}

/// System calls of the core's ring so far.
fn enters(core: &mut Core) -> u64 {
    ring_of(core).borrow().enters()
}

#[test]
fn an_idle_core_makes_no_system_call_per_turn() {
    let mut core = core();
    let bell = bell();
    core.watch(bell.as_raw_fd());
    settle(&mut core);
    let before = enters(&mut core);
    for _ in 0..1000 {
        assert_eq!(core.reap(now()), Progress::Idle);
        core.flush();
        assert_eq!(core.arm(), Armed::Idle);
    }
    assert_eq!(enters(&mut core), before);
}

#[test]
fn four_requests_are_worth_a_system_call_and_the_rest_waits_for_the_turns_end() {
    let scratch = scratch(64 * 1024);
    let device = open(&scratch, 512);
    let mut rig = rig(&device, 16);
    let memory = rig.region(4096);
    settle(&mut rig.core);
    let before = enters(&mut rig.core);
    let mut counts = Vec::new();
    for tag in 0..10 {
        rig.submit(tag, Op::Read, u64::from(tag), 1, &[memory.segment(0, 512).unwrap()]);
        counts.push(enters(&mut rig.core) - before);
    }
    assert_eq!(counts, [0, 0, 0, 1, 1, 1, 1, 2, 2, 2]);
    rig.core.flush();
    assert_eq!(enters(&mut rig.core) - before, 3);
    rig.core.flush();
    assert_eq!(enters(&mut rig.core) - before, 3, "nothing is left to submit");
    rig.collect(10);
}

#[test]
fn a_spinning_core_is_lent_to_the_kernels_helpers_only_while_they_have_work() {
    let scratch = scratch(64 * 1024);
    let device = open(&scratch, 512);
    let mut rig = rig(&device, 16);
    let memory = rig.region(4096);
    let ring = ring_of(&mut rig.core);
    let mut turn_ns = 1_000_000_000_000;
    // A hundred turns of a microsecond each that find nothing, because the kernel was told of nothing.
    let mut spin = |core: &mut Core| {
        let before = ring.borrow().lent();
        for _ in 0..100 {
            turn_ns += 1_000;
            core.reap(spinel_core::Instant { ns: turn_ns });
        }
        ring.borrow().lent() - before
    };
    rig.submit(0, Op::Read, 0, 1, &[memory.segment(0, 512).unwrap()]);
    assert_eq!(spin(&mut rig.core), 0, "a read is ended by the interrupt alone");
    rig.collect(1);
    rig.submit(1, Op::Flush, 0, 0, &[]);
    assert_eq!(spin(&mut rig.core), 10);
    rig.collect(1);
    assert_eq!(spin(&mut rig.core), 0, "nothing is in flight any more");
}
