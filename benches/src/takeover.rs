//! What guests notice of one spineld taking over from another: how long each disk stands still, and whether anything is lost. Knows no other server.

use std::fs::File;
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;
use spinel_core::{CoreId, Device as _, PollerId};
use spinel_load::{Identity, Intake, Job, Load, Memory, Mix, Prng, Sizes, Tally, Verification, feed, fill_job, sweep_job};
use spinel_reactor::{Clock, Handle, Mode, PaceLimits, ReactorConfig, start};
use spinel_vhost_driver::{Options, VhostDisk};

use crate::claims::{Finding, Target};
use crate::cores::{OTHERS_MAX, Others, sleep};
use crate::rows::Ran;
use crate::servers::{Place, Spineld};
use crate::table::Spread;
use crate::{Failure, Pace, micros};

const ROW: &str = "T1";
const DISKS: usize = 10;
const DISK_BYTES: u64 = 64 << 20;
/// The others are memory.
const ON_FILE: usize = 5;
const DEPTH: u16 = 4;
/// Of the passes that write and read everything.
const PASS_DEPTH: u16 = 32;
/// Between two takeovers, at random.
const GAP_MS: RangeInclusive<u64> = 20..=200;
/// The longest that 99 of 100 pauses may be.
const P99_MS_MAX: f64 = 100.0;
/// How long what is in flight is waited for.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(5);
/// A guest's driver that leaves room to others.
const SPIN_MAX_NS: u64 = 20_000;

/// What it came to.
#[derive(Debug, Serialize)]
struct Figures {
    takeovers: u64,
    blackouts: u64,
    requests: u64,
    errors: u64,
    /// Sectors that were read and judged, and those that were not what they should be.
    sectors_read: u64,
    sectors_wrong: u64,
    /// As the engine measures it, for each disk: from the stop of its queues until they run again.
    p50_ms: f64,
    p99_ms: f64,
    max_ms: f64,
    /// Lowest and highest nanoseconds of each bucket, and how many.
    buckets: Value,
    /// The longest request, as a guest sees it.
    longest_request_ms: f64,
    /// From the start of the next process to the end of the one before: the median and the longest.
    whole_p50_ms: f64,
    whole_max_ms: f64,
    others: f64,
}

/// A guest: its disk, what it does there, and what it knows of it.
struct Guest {
    disk: Arc<VhostDisk>,
    job: Job,
    verification: Verification,
    running: Option<(PollerId, Intake)>,
    seen: Tally,
}

/// Has one take over from the other again and again, under verified load.
pub(crate) fn run(place: &Place, folder: &Path, pace: &Pace) -> Result<Ran, Failure> {
    let mut spineld = Spineld::start(place, &[])?;
    let make_core = Box::new(|id| spinel_uring::core(id, spinel_uring::Options::default()));
    let limits = PaceLimits { spin_max_ns: SPIN_MAX_NS, ..PaceLimits::default() };
    let core = CoreId(u16::try_from(place.cores.client)?);
    let reactor = start(ReactorConfig { core, mode: Mode::Adaptive, limits, pin: true, make_core })?;
    println!(
        "{DISKS} disks, {ON_FILE} of them files, under verified load: 4k to 16k, half reads, {DEPTH} deep; every other with packed rings."
    );
    let mut guests = Vec::new();
    for number in 0..DISKS {
        guests.push(Guest::attach(&mut spineld, folder, number)?);
    }
    for guest in &mut guests {
        guest.pass(&reactor, &fill_job(&guest.job, &guest.disk.geometry()))?;
        guest.seen = Tally::of(|_| false);
    }
    for guest in &mut guests {
        guest.begin(&reactor, &guest.job.clone())?;
    }
    let others = Others::look(&[spineld.pid()])?;
    let mut prng = Prng::new(1);
    let mut whole_ms = Vec::new();
    for _ in 0..pace.takeovers {
        sleep(Duration::from_millis(prng.within(GAP_MS)))?;
        let from = Clock::system().now();
        spineld.take_over(place)?;
        whole_ms.push(micros(Clock::system().now().since_ns(from)) / 1000.0);
        guests.iter_mut().for_each(Guest::collect);
    }
    let others = Others::look(&[spineld.pid()])?.share_since(others);
    for guest in &mut guests {
        guest.end(&reactor)?;
    }
    let longest_ns = guests.iter().map(Guest::longest_ns).max().unwrap_or(0);
    for guest in &mut guests {
        guest.pass(&reactor, &sweep_job(&guest.job, &guest.disk.geometry()))?;
    }
    let told = spineld.takeovers()?;
    let figures = Figures::of(&guests, &told, longest_ns, &whole_ms, others)?;
    drop(guests);
    reactor.quit();
    spineld.stop()?;
    figures.print();
    Ok(Ran { findings: figures.find(), ..Ran::of_figures(&[&figures])? })
}

impl Guest {
    fn attach(spineld: &mut Spineld, folder: &Path, number: usize) -> Result<Self, Failure> {
        let name = format!("disk{number}");
        let socket = if number < ON_FILE {
            let path = folder.join(format!("takeover{number}.img"));
            File::create(&path)?.set_len(DISK_BYTES)?;
            spineld.file(&name, &path)?
        } else {
            spineld.memory_of(&name, DISK_BYTES)?
        };
        let seed = u64::try_from(number)?;
        let job = Job {
            mix: Mix { read: 49, write: 49, flush: 2, ..Mix::default() },
            sizes: Sizes { min_bytes: 4 << 10, max_bytes: 16 << 10 },
            depth: DEPTH,
            seed,
            ..Job::new()
        };
        // One for the load, and one each for writing everything before it and reading everything after it.
        let options = Options { queues: 3, packed: number % 2 == 1, memory_bytes: 16 << 20, ..Options::default() };
        let disk = Arc::new(VhostDisk::connect(&socket, &options.for_depth(PASS_DEPTH))?);
        let identity = Identity { volume: seed + 1, epoch: 0, job: 0 };
        let verification = Verification::new(identity, &disk.geometry(), (0, DISK_BYTES), None)?;
        Ok(Self { disk, job, verification, running: None, seen: Tally::of(|_| false) })
    }

    /// Begins a job on its next queue.
    fn begin(&mut self, reactor: &Handle, job: &Job) -> Result<(), Failure> {
        let (outlet, intake) = feed(|kind| job.sends(kind));
        let memory = Memory::within(Arc::clone(self.disk.region()), 0, job)?;
        let judge = Some(Box::new(self.verification.verifier(job.depth)) as _);
        let device = Arc::clone(&self.disk) as _;
        let load = Load { name: "load".to_owned(), job: job.clone(), device, memory, outlet, judge };
        self.running = Some((reactor.mailbox().add(load.recipe())?, intake));
        Ok(())
    }

    fn collect(&mut self) {
        let Some((_, intake)) = &self.running else { return };
        while let Ok(Some(())) = intake.take(|tally| self.seen.add(tally)) {}
    }

    /// Ends it, and waits for what is in flight.
    fn end(&mut self, reactor: &Handle) -> Result<(), Failure> {
        let Some((poller, _)) = &self.running else { return Ok(()) };
        let remains = reactor.mailbox().stop(*poller).recv_timeout(PATIENCE);
        drop(remains.map_err(|_| "a disk's requests do not come back")?);
        self.collect();
        self.running = None;
        Ok(())
    }

    /// A job that ends by itself.
    fn pass(&mut self, reactor: &Handle, job: &Job) -> Result<(), Failure> {
        self.begin(reactor, job)?;
        let deadline = Clock::system().now().after(PATIENCE);
        while self.running.as_ref().is_some_and(|(_, intake)| !intake.is_over()) {
            if Clock::system().now() > deadline {
                return Err("a disk cannot be written or read as a whole".into());
            }
            sleep(LOOK)?;
        }
        self.end(reactor)
    }

    fn longest_ns(&self) -> u64 {
        self.seen.ops.iter().flatten().map(|op| op.latency.max()).max().unwrap_or(0)
    }
}

impl Figures {
    fn of(guests: &[Guest], told: &Value, longest_ns: u64, whole_ms: &[f64], others: f64) -> Result<Self, Failure> {
        let ms = |key: &str| told[key].as_u64().map(|ns| micros(ns) / 1000.0).ok_or_else(|| format!("spineld does not say its {key}"));
        let whole = Spread::of(whole_ms.iter().copied()).ok_or("nothing was taken over")?;
        Ok(Self {
            takeovers: told["takeovers"].as_u64().unwrap_or(0),
            blackouts: told["blackouts"].as_u64().unwrap_or(0),
            requests: guests.iter().map(|guest| guest.seen.requests()).sum(),
            errors: guests.iter().flat_map(|guest| guest.seen.ops.iter().flatten()).map(|op| op.errors()).sum(),
            sectors_read: guests.iter().map(|guest| guest.verification.sectors_read()).sum(),
            sectors_wrong: guests.iter().map(|guest| guest.verification.violations()).sum(),
            p50_ms: ms("p50_ns")?,
            p99_ms: ms("p99_ns")?,
            max_ms: ms("max_ns")?,
            buckets: told["buckets"].clone(),
            longest_request_ms: micros(longest_ns) / 1000.0,
            whole_p50_ms: whole.median,
            whole_max_ms: whole.high,
            others,
        })
    }

    fn print(&self) {
        let Self { takeovers, blackouts, requests, errors, sectors_read, sectors_wrong, .. } = self;
        println!(
            "{takeovers} takeovers, {requests} requests: {errors} failed; {sectors_read} sectors read, {sectors_wrong} of them wrong."
        );
        println!(
            "How long a disk stood still ({blackouts} times): p50 {:.1} ms, p99 {:.1} ms, longest {:.1} ms. The longest request took {:.1} ms.",
            self.p50_ms, self.p99_ms, self.max_ms, self.longest_request_ms
        );
        println!(
            "From the start of a process to the end of the one before: p50 {:.0} ms, longest {:.0} ms. Others took {:.2} of a core.",
            self.whole_p50_ms, self.whole_max_ms, self.others
        );
        self.print_histogram();
    }

    /// A line for each power of two.
    fn print_histogram(&self) {
        let mut lines: Vec<(u64, u64)> = Vec::new();
        for bucket in self.buckets.as_array().into_iter().flatten() {
            let (low, count) = (bucket[0].as_u64().unwrap_or(0), bucket[2].as_u64().unwrap_or(0));
            let below_us = (low / 1000 + 1).next_power_of_two();
            match lines.last_mut() {
                Some((below, sum)) if *below == below_us => *sum += count,
                _ => lines.push((below_us, count)),
            }
        }
        for (below_us, count) in lines {
            println!("  below {:>8.1} ms  {count:>6}  {}", micros(below_us), "#".repeat(bar(count, self.blackouts)));
        }
    }

    fn find(&self) -> Vec<Finding> {
        let busy = self.others > OTHERS_MAX;
        let value = |value| Spread { low: value, median: value, high: value };
        let of = |shape, figure, unit, target| Finding::of_value(ROW, shape, value(figure), unit, target, busy);
        vec![
            of("p99 of a disk's pause, 10 disks", self.p99_ms, "ms", Target::AtMost(P99_MS_MAX)),
            of("requests that failed", micros(self.errors) * 1000.0, "", Target::AtMost(0.0)),
            of("sectors that were wrong", micros(self.sectors_wrong) * 1000.0, "", Target::AtMost(0.0)),
        ]
    }
}

fn bar(count: u64, of: u64) -> usize {
    usize::try_from((count * 50).div_ceil(of.max(1))).unwrap_or(50)
}
