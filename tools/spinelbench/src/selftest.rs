//! `spinelbench selftest`: what the instrument itself costs. Knows no disk but the one that does nothing.

use std::sync::Arc;

use serde::Serialize;
use spinel_core::Device;
use spinel_load::{Arrival, Job, Length, Load, Memory, Mix, Sizes, Tally, feed};
use spinel_reactor::Clock;
use spinel_units::time;
use spinel_volume::{NullDevice, Shape};

use crate::cli::{self, Wait};
use crate::crew::seats;
use crate::failure::{Failure, with_causes};
use crate::outputs;

/// What was found out.
#[derive(Debug, Serialize)]
struct Findings {
    core: u16,
    /// What reading the clock takes.
    clock_read_ns: f64,
    /// The smallest step that two readings of the clock differ by.
    clock_step_ns: u64,
    /// A closed loop over a disk that does nothing.
    closed: Vec<Closed>,
    /// An open loop over a disk that does nothing: how late requests are sent.
    late: Vec<Late>,
}

#[derive(Debug, Serialize)]
struct Closed {
    depth: u16,
    /// For each request: choosing, timing, sending, counting it, and the disk that does nothing.
    request_ns: f64,
    /// What the instrument takes for the latency of a disk that has none.
    p50_ns: u64,
}

#[derive(Debug, Serialize)]
struct Late {
    waits: &'static str,
    per_second: u32,
    p50_ns: u64,
    p99_ns: u64,
    max_ns: u64,
}

const DEPTHS: [u16; 3] = [1, 32, 128];
const TIME_NS: u64 = 500_000_000;
const RATE: u32 = 1000;
const LATE_TIME_NS: u64 = 2_000_000_000;

/// Measures the instrument and prints what it costs.
///
/// # Errors
/// When the core may not be used.
pub(crate) fn run(arguments: &cli::Selftest) -> Result<(), Failure> {
    let core = match arguments.core {
        Some(core) => core,
        None => crate::target::last_core(&[])?,
    };
    let (clock_read_ns, clock_step_ns) = clock_on(core)?;
    let closed = DEPTHS.map(|depth| closed(core, depth)).into_iter().collect::<Result<_, _>>()?;
    let late = [("asleep until 0.1 ms before", Wait::Sleep), ("awake all the time", Wait::Poll)]
        .map(|(waits, wait)| late(core, waits, wait))
        .into_iter()
        .collect::<Result<_, _>>()?;
    let findings = Findings { core, clock_read_ns, clock_step_ns, closed, late };
    if arguments.json {
        let json = serde_json::to_string_pretty(&findings).map_err(|error| Failure::Local(error.to_string()))?;
        return outputs::print(&format!("{json}\n"));
    }
    outputs::print(&text(&findings))
}

fn text(findings: &Findings) -> String {
    let mut text = format!(
        "On core {}:\n\
         \x20 reading the clock takes {:.1} ns; two readings differ by {} ns or more\n",
        findings.core, findings.clock_read_ns, findings.clock_step_ns
    );
    for Closed { depth, request_ns, p50_ns } in &findings.closed {
        text.push_str(&format!(
            "  depth {depth:>3}: {request_ns:.1} ns for each request of a closed loop, and a disk without latency shows {}\n",
            time(*p50_ns)
        ));
    }
    for Late { waits, per_second, p50_ns, p99_ns, max_ns } in &findings.late {
        text.push_str(&format!(
            "  at {per_second} a second, {waits}: requests are sent {} late (p50), {} (p99), {} (max)\n",
            time(*p50_ns),
            time(*p99_ns),
            time(*max_ns)
        ));
    }
    text.push_str("Latencies contain these costs; nothing is subtracted.\n");
    text
}

/// The same on a thread of that core, for this one must not disturb what is measured there later.
fn clock_on(core: u16) -> Result<(f64, u64), Failure> {
    let body = move || core_affinity::set_for_current(core_affinity::CoreId { id: usize::from(core) }).then(clock);
    let thread = std::thread::Builder::new().name("clock".to_owned()).spawn(body);
    let found = thread.ok().and_then(|thread| thread.join().ok()).flatten();
    found.ok_or_else(|| Failure::usage(format!("this process may not run on core {core}: choose another, or widen its CPU affinity")))
}

/// What reading the clock takes, and its smallest step.
fn clock() -> (f64, u64) {
    const READINGS: u32 = 1_000_000;
    let clock = Clock::system();
    let start = clock.now();
    let (mut before, mut step_ns) = (start, u64::MAX);
    for _ in 0..READINGS {
        let now = clock.now();
        if now > before {
            step_ns = step_ns.min(now.since_ns(before));
        }
        before = now;
    }
    (before.since_ns(start) as f64 / f64::from(READINGS), step_ns)
}

fn closed(core: u16, depth: u16) -> Result<Closed, Failure> {
    let job = Job { depth, warm_up_ns: TIME_NS / 10, length: Length { time_ns: Some(TIME_NS), ..Length::default() }, ..base() };
    let tally = measure(core, Wait::Poll, job)?;
    let took_ns = tally.until.since_ns(tally.from);
    let p50_ns = tally.ops.iter().flatten().next().map_or(0, |op| op.latency.value_at_quantile(0.5));
    Ok(Closed { depth, request_ns: took_ns as f64 / tally.requests().max(1) as f64, p50_ns })
}

fn late(core: u16, waits: &'static str, wait: Wait) -> Result<Late, Failure> {
    let job = Job {
        depth: 32,
        arrival: Arrival::Steady { per_second: f64::from(RATE) },
        length: Length { time_ns: Some(LATE_TIME_NS), ..Length::default() },
        ..base()
    };
    let tally = measure(core, wait, job)?;
    let latency = tally.ops.iter().flatten().next().map(|op| &op.latency);
    let at = |quantile| latency.map_or(0, |latency| latency.value_at_quantile(quantile));
    Ok(Late { waits, per_second: RATE, p50_ns: at(0.5), p99_ns: at(0.99), max_ns: latency.map_or(0, hdrhistogram::Histogram::max) })
}

/// 4 KiB random reads, one at a time.
fn base() -> Job {
    Job { mix: Mix { read: 100, ..Mix::default() }, sizes: Sizes { min_bytes: 4096, max_bytes: 4096 }, ..Job::new() }
}

/// Runs a job on the disk that does nothing.
fn measure(core: u16, wait: Wait, job: Job) -> Result<Tally, Failure> {
    let refused = |error: &dyn std::error::Error| Failure::Usage(with_causes(error));
    let device: Arc<dyn Device> = Arc::new(NullDevice::new(Shape::new(512, 1 << 30)).map_err(|error| refused(&error))?);
    let memory = Memory::anonymous(&job).map_err(|error| refused(&error))?;
    let (outlet, intake) = feed(|kind| job.sends(kind));
    let seat = seats(&[core], wait)?.remove(0);
    let load = Load { name: "selftest".to_owned(), job, device, memory, outlet, judge: None };
    let poller = seat.mailbox().add(load.recipe()).map_err(|error| refused(&error))?;
    let mut sum = Tally::of(|_| false);
    let mut is_over = false;
    while !is_over {
        #[allow(clippy::disallowed_methods, reason = "sampling waits for time to pass, and nothing else")]
        std::thread::sleep(std::time::Duration::from_millis(100));
        while let Ok(Some(ended)) = intake.take(|tally| {
            sum.add(tally);
            tally.ended.is_some()
        }) {
            is_over |= ended;
        }
    }
    let _ = seat.mailbox().stop(poller).recv();
    seat.leave();
    Ok(sum)
}
