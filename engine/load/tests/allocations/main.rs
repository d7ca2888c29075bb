//! A load allocates nothing once it runs, whatever it does: counted, not believed.

use spinel_core::{Device as _, Instant, Poller as _, Progress};
use spinel_load::{Arrival, Intake, Job, Length, LoadPoller, Memory, Mix, Order, Sizes, feed};
use spinel_sim::{Prng, Rig};
use spinel_volume::{NullDevice, Shape};

/// Runs a job to its end and answers how many requests were counted, and how often memory was allocated meanwhile.
fn count(job: Job) -> (u64, u64) {
    let mut rig = Rig::new(Prng::new(1), 4096);
    let device = NullDevice::new(Shape::new(512, 1 << 30)).unwrap();
    let (outlet, intake) = feed(|kind| job.sends(kind));
    let memory = Memory::anonymous(&job).unwrap();
    memory.announce(&mut rig.core);
    let channel = device.open(&mut rig.core, job.depth).unwrap();
    let mut poller = LoadPoller::new(job, device.geometry(), channel, memory, outlet).unwrap();
    let mut requests = 0;
    let mut take = |intake: &Intake| {
        while let Ok(Some(more)) = intake.take(spinel_load::Tally::requests) {
            requests += more;
        }
    };
    let mut now = Instant::default();
    let mut turn = || {
        now = now.after_ns(700);
        assert_ne!(poller.poll(now), Progress::Stopped);
        poller.arm();
    };
    // What a thread allocates once, on first use, is not meant.
    for _ in 0..10 {
        turn();
        take(&intake);
    }
    let before = spinel_counting::by_this_thread();
    while !intake.is_over() {
        turn();
        take(&intake);
    }
    let allocated = spinel_counting::by_this_thread() - before;
    take(&intake);
    (requests, allocated)
}

#[test]
fn nothing_is_allocated_between_the_first_request_and_the_last() {
    let mix = Mix { read: 60, write: 30, flush: 2, discard: 4, write_zeroes: 4 };
    let usual = Job {
        mix,
        sizes: Sizes { min_bytes: 512, max_bytes: 65_536 },
        depth: 48,
        interval_ns: 1_000_000,
        length: Length { requests: Some(100_000), ..Length::default() },
        ..Job::new()
    };
    let rate = 20_000_000.0;
    for order in [Order::Sequential, Order::Uniform, Order::Zipf { theta: 0.99 }, Order::HotSpot { requests: 80, area: 20 }] {
        for arrival in [Arrival::Closed, Arrival::Steady { per_second: rate }, Arrival::Poisson { per_second: rate }] {
            assert_eq!(count(Job { order, arrival, ..usual.clone() }), (100_000, 0), "{order:?}, {arrival:?}");
        }
    }
}

#[test]
fn an_allocation_would_be_seen() {
    let before = spinel_counting::by_this_thread();
    let grown = std::hint::black_box(Vec::<u64>::with_capacity(4));
    assert_eq!((spinel_counting::by_this_thread() - before, grown.len()), (1, 0));
}
