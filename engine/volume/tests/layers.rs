//! Devices and piles of layers under random requests, faults, hangs and power cuts, every byte checked.

use std::sync::Arc;

use spinel_core::{Device, OpKind};
use spinel_sim::{Checked, Checker, DiskOptions, Failure, Load, LoadOptions, Mishap, Prng, Rig, SimDisk, Wrong, every_seed};
use spinel_volume::{
    CAPS, DelayDevice, ErrorDevice, Fault, Injection, Latencies, LatencyKind, Limit, MemoryDevice, Shape, Target, Throttle,
};

/// Delay over error over limits over a simulated disk.
struct Pile {
    disk: SimDisk,
    throttle: Arc<Throttle>,
    error: Arc<ErrorDevice>,
    delay: DelayDevice,
    /// Requests that were seen hanging.
    hung: usize,
}

const TARGETS: [Target; 5] = [Target::Read, Target::Write, Target::Discard, Target::Flush, Target::All];
const LATENCIES: [LatencyKind; 4] = [LatencyKind::AverageRead, LatencyKind::P99Read, LatencyKind::AverageWrite, LatencyKind::P99Write];

impl Pile {
    fn new(prng: &mut Prng) -> Self {
        let large = prng.one_in(3);
        let options = DiskOptions {
            block_bytes: if large { 4096 } else { 512 },
            block_count: if large { 32 } else { 256 },
            write_cache: !prng.one_in(3),
            latency_ns: 0..=*prng.pick(&[0, 3_000, 200_000]),
            ..DiskOptions::default()
        };
        let disk = SimDisk::new(options, prng.fork());
        let throttle = Arc::new(Throttle::new(Arc::new(disk.clone())));
        let error = Arc::new(ErrorDevice::new(Arc::clone(&throttle) as _).unwrap());
        let child: Arc<dyn Device> = Arc::clone(&error) as Arc<dyn Device>;
        let delay = DelayDevice::new(child, Latencies { p99_read_us: 2_000, p99_write_us: 3_000, ..Latencies::default() }).unwrap();
        Self { disk, throttle, error, delay, hung: 0 }
    }

    /// Sets, changes or lifts a limit; the first and the last change what the next channel is.
    fn limit(&self, prng: &mut Prng) {
        let limit = Limit::new(prng.within(500..=100_000), prng.below(3)).unwrap();
        self.throttle.limits().set([(*prng.pick(&CAPS), (!prng.one_in(3)).then_some(limit))]);
    }

    /// Lets something happen to the requests to come.
    fn disturb(&self, prng: &mut Prng) {
        let target = *prng.pick(&TARGETS);
        let count = u32::try_from(prng.within(1..=4)).unwrap();
        let queue_depth = *prng.pick(&[0, 0, 3]);
        let inject = |fault| self.error.inject(Injection { target, fault, count, queue_depth }).unwrap();
        match prng.below(8) {
            0 => inject(Fault::Failure),
            1 => inject(Fault::NoMemory),
            2 | 3 => inject(Fault::Pending),
            4 => self.delay.set_latency(*prng.pick(&LATENCIES), prng.below(500)),
            5 => self.limit(prng),
            6 => self.disk.inject(*prng.pick(&[OpKind::Read, OpKind::Write]), Mishap::Hang, 2),
            _ => self.error.clear(),
        }
    }

    /// Runs requests. What hangs in the end is let go, and must then be done, unless it hangs once more further down.
    fn run(&mut self, load: &mut Load, rig: &mut Rig, requests: u64) -> Result<(), Failure> {
        let mut outcome = load.run(rig, requests);
        for _layer in 0..2 {
            let Err(Failure::LostWakeUp { in_flight, .. }) = outcome else { break };
            self.hung += in_flight;
            self.error.clear();
            self.error.resume_pending();
            self.disk.release();
            outcome = load.run(rig, 0);
        }
        outcome
    }
}

fn run(seed: u64) -> Result<(Checked, usize, u64), Failure> {
    let mut prng = Prng::new(seed);
    let mut rig = Rig::new(prng.fork(), 2 << 20);
    let mut pile = Pile::new(&mut prng);
    let geometry = pile.delay.geometry();
    let mut checker = Checker::new(seed, &geometry);
    let options = LoadOptions { depth: 12, blocks_max: if geometry.block_bytes == 512 { 8 } else { 2 }, ..LoadOptions::default() };
    let mut hash = 0;
    for life in 0..3 {
        pile.limit(&mut prng);
        let mut load = Load::open(&mut rig, &pile.delay, checker, options.clone(), prng.fork()).unwrap();
        load.sweep(&mut rig)?;
        for _ in 0..8 {
            pile.disturb(&mut prng);
            pile.run(&mut load, &mut rig, 25)?;
        }
        hash ^= load.trace().hash().rotate_left(life);
        checker = load.close();
        if prng.one_in(2) {
            pile.disk.cut_power();
            checker.cut_power();
        }
        pile.error.clear();
        pile.disk.clear();
    }
    let mut load = Load::open(&mut rig, &pile.delay, checker, options, prng.fork()).unwrap();
    load.sweep(&mut rig)?;
    Ok((load.checker().checked(), pile.hung, hash ^ load.trace().hash()))
}

#[test]
fn layers_keep_every_promise_of_the_disk_below() {
    every_seed(300, |seed| {
        let (checked, ..) = run(seed).unwrap_or_else(|failure| panic!("{failure}"));
        assert!(checked.stamps_read > 500 && checked.writes > 50 && checked.flushes > 0, "{checked:?}");
    });
}

#[test]
fn the_same_seed_gives_the_same_run_and_faults_do_fire() {
    let (mut hung, mut failures, mut cuts) = (0, 0, 0);
    for seed in 0..20 {
        let (one, other) = (run(seed).unwrap(), run(seed).unwrap());
        assert_eq!(one, other, "seed {seed}");
        assert_ne!(one.2, run(seed + 1).unwrap().2, "seed {seed}");
        hung += one.1;
        failures += one.0.failures;
        cuts += one.0.cuts;
    }
    assert!(hung > 50 && failures > 50 && cuts > 10, "{hung} hung, {failures} failed, {cuts} power cuts");
}

#[test]
fn a_corrupted_byte_is_found_where_it_is() {
    every_seed(50, |seed| {
        let mut prng = Prng::new(seed);
        let mut rig = Rig::new(prng.fork(), 2 << 20);
        let pile = Pile::new(&mut prng);
        let checker = Checker::new(seed, &pile.delay.geometry());
        let mut load = Load::open(&mut rig, &pile.delay, checker, LoadOptions::default(), prng.fork()).unwrap();
        load.fill(&mut rig).unwrap();
        load.sweep(&mut rig).unwrap();
        let at = 56 + prng.below(456);
        let target = *prng.pick(&[Target::Read, Target::All]);
        let fault = Fault::Corrupt { offset: at, value: 1 };
        pile.error.inject(Injection { target, fault, count: 1, queue_depth: 0 }).unwrap();
        let outcome = load.sweep(&mut rig);
        let Err(Failure::Violation(violation)) = outcome else { panic!("not found: {outcome:?}") };
        assert_eq!(violation.wrong, Wrong::Rotten { at: usize::try_from(at).unwrap() });
    });
}

#[test]
fn memory_holds_what_was_written_whatever_the_requests() {
    every_seed(100, |seed| {
        let mut prng = Prng::new(seed);
        let mut rig = Rig::new(prng.fork(), 2 << 20);
        let shape = Shape::new(*prng.pick(&[512, 4096]), prng.within(17..=300));
        let device = MemoryDevice::new(shape).unwrap();
        let checker = Checker::new(seed, &device.geometry());
        let mut load = Load::open(&mut rig, &device, checker, LoadOptions::default(), prng.fork()).unwrap();
        load.run(&mut rig, 300).unwrap();
        load.sweep(&mut rig).unwrap();
        let checked = load.checker().checked();
        assert!(checked.stamps_read > 0 && checked.writes > 0 && checked.failures == 0, "{checked:?}");
    });
}
