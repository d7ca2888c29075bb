//! A queue over a device that is kept to a rate.

use std::sync::Arc;

use spinel_core::{Armed, Progress};
use spinel_sim::guest::{GuestRequest, Layout};
use spinel_volume::{Cap, Limit, NullDevice, Shape, Throttle};

use super::common::Bench;
use super::{LAYOUT, PACKED};

fn limited(cap: Cap, per_second: u64, layout: Layout) -> Bench {
    let device = Throttle::new(Arc::new(NullDevice::new(Shape::new(512, 2048)).unwrap()));
    device.limits().set([(cap, Some(Limit::new(per_second, 0).unwrap()))]);
    Bench::new(Arc::new(device), layout)
}

fn post(bench: &mut Bench, count: u64) {
    for number in 0..count {
        bench.guest.post(GuestRequest::read(8 * number, 4096));
    }
    bench.guest.publish();
}

/// Turns, and where the core may sleep jumps to when it wakes by itself, until so many have finished. Answers when that was.
fn finished_ns(bench: &mut Bench, count: usize) -> u64 {
    let mut finished = 0;
    loop {
        finished += std::iter::from_fn(|| bench.guest.reap()).count();
        if finished >= count {
            return bench.now.ns;
        }
        if bench.turn() != Progress::Busy {
            let queue = bench.queue.as_mut().unwrap();
            if let Armed::Until(due) = queue.arm() {
                assert!(due > bench.now, "a core that sleeps until the past spins");
                bench.now = due;
            }
            queue.disarm();
        }
    }
}

#[test]
fn a_queue_with_nothing_in_flight_goes_on_when_time_gives_it_room() {
    for layout in [LAYOUT, PACKED] {
        let mut bench = limited(Cap::Ios, 1_000, layout);
        post(&mut bench, 1);
        let begins_ns = finished_ns(&mut bench, 1);
        post(&mut bench, 20);
        let took_ns = finished_ns(&mut bench, 20) - begins_ns;
        assert!((19_900_000..20_100_000).contains(&took_ns), "20 at 1,000 a second took {took_ns} ns");
    }
}

#[test]
fn a_queue_without_room_takes_kicks_again_once_it_has_some() {
    let mut bench = limited(Cap::Ios, 1_000, LAYOUT);
    post(&mut bench, 1);
    finished_ns(&mut bench, 1);
    while bench.turn() == Progress::Busy {}
    let Armed::Until(due) = bench.queue.as_mut().unwrap().arm() else { panic!("there is room at some time") };
    bench.now = due;
    assert_eq!(bench.turn(), Progress::Idle);
    assert_eq!(bench.queue.as_mut().unwrap().arm(), Armed::Idle, "the guest's kick wakes it");
}

#[test]
fn a_queue_that_stops_does_not_wait_for_what_is_only_paced() {
    for layout in [LAYOUT, PACKED] {
        let mut bench = limited(Cap::ReadIos, 1, layout);
        post(&mut bench, 32);
        for _ in 0..10 {
            bench.turn();
        }
        assert_eq!(std::iter::from_fn(|| bench.guest.reap()).count(), 1);
        let stopped_ns = bench.now.ns;
        bench.stop();
        assert_eq!(std::iter::from_fn(|| bench.guest.reap()).count(), 31);
        assert!(bench.now.ns - stopped_ns < 100_000, "{} ns", bench.now.ns - stopped_ns);
    }
}
