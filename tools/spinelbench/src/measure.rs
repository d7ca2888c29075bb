//! From jobs on a target to the figures of one run, with a live line and Ctrl-C on the way. Knows no command line.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use spinel_load::{Arrival, Ended, Job, Judge};
use spinel_reactor::Clock;
use spinelbench::report::Run;
use spinelbench::report::collect::{Collector, Setting};
use spinelbench::report::progress::Progress;

use crate::crew::Crew;
use crate::failure::Failure;
use crate::machine;
use crate::target::Target;

/// How long requests in flight are waited for once nothing more is sent. What has not come back then is left out, and said to be.
const PATIENCE_NS: u64 = 5_000_000_000;
/// How often the jobs are looked at.
const LOOK: Duration = Duration::from_millis(20);

/// Whether the user has had enough: the first Ctrl-C asks to end in order, the next ends the program.
#[derive(Clone, Debug)]
pub(crate) struct Interrupt(Arc<AtomicBool>);

/// What comes so soon after the first signal is the same wish: `timeout` sends each signal twice.
const ONE_WISH: Duration = Duration::from_millis(200);

impl Interrupt {
    /// Listens from now on.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn listen() -> io::Result<Self> {
        let asked = Arc::new(AtomicBool::new(false));
        // Under nohup a hang-up is to be ignored.
        let wanted: &[i32] = if is_ignored(SIGHUP) { &[SIGINT, SIGTERM] } else { &[SIGINT, SIGTERM, SIGHUP] };
        let mut signals = Signals::new(wanted)?;
        let noticed = Arc::clone(&asked);
        let body = move || {
            signals.forever().next();
            noticed.store(true, Ordering::Relaxed);
            #[allow(clippy::disallowed_methods, reason = "what is waited for is that time passes")]
            std::thread::sleep(ONE_WISH);
            signals.pending().for_each(drop);
            if let Some(signal) = signals.forever().next() {
                std::process::exit(128 + signal);
            }
        };
        std::thread::Builder::new().name("signals".to_owned()).spawn(body)?;
        Ok(Self(asked))
    }

    pub(crate) fn came(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Whether whoever started this program had a signal ignored.
fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask & 1 << (signal - 1) != 0)
}

/// What is to be measured.
pub(crate) struct Order {
    pub(crate) name: String,
    /// As it was typed.
    pub(crate) target: String,
    pub(crate) jobs: Vec<Job>,
    /// As many as jobs, or none.
    pub(crate) judges: Vec<Box<dyn Judge>>,
    pub(crate) quiet: bool,
}

/// What came of it.
pub(crate) struct Measured {
    pub(crate) run: Run,
    /// The target went away before the end.
    pub(crate) is_lost: bool,
}

/// Runs jobs to their end, to Ctrl-C, or until the target is gone.
///
/// # Errors
/// When they could not start.
pub(crate) fn measure(target: &Target, order: Order, interrupt: &Interrupt) -> Result<Measured, Failure> {
    let Order { name, target: typed, jobs, judges, quiet } = order;
    let job = jobs[0].clone();
    let cores = target.cores(jobs.len());
    let mut watch = Watch {
        collector: Collector::new(jobs.len(), job.interval_ns),
        progress: (!quiet).then(|| Progress::new(&name, job.length.time_ns)),
        warm_up_ns: job.warm_up_ns,
        // An open loop sends what is late for as long again.
        length_ns: job.length.time_ns.map(|time_ns| if job.arrival == Arrival::Closed { time_ns } else { time_ns.saturating_mul(2) }),
        is_lost: false,
        cpu: None,
    };
    let started_unix_ms = machine::unix_ms();
    let mut crew = target.start(jobs, judges)?;
    let outcome = watch.until_over(crew.as_mut(), target, interrupt);
    let (client_cpu_ns, server_cpu_ns) = watch.cpu_ns(crew.as_ref(), target);
    if let Some(progress) = &watch.progress {
        progress.clear();
    }
    crew.dismiss();
    outcome?;
    let is_lost = watch.is_lost;
    let run = watch.collector.finish(Setting {
        name,
        target: typed,
        disk_bytes: target.geometry().len_bytes(),
        block_bytes: target.geometry().block_bytes,
        job,
        cores,
        started_unix_ms,
        client_cpu_ns,
        server_cpu_ns,
        verified: None,
    });
    Ok(Measured { run, is_lost })
}

/// Processor time at one moment, in nanoseconds.
#[derive(Clone, Copy)]
struct Cpu {
    client_ns: u64,
    server_ns: Option<u64>,
}

impl Cpu {
    fn now(crew: &dyn Crew, target: &Target) -> Self {
        Self { client_ns: crew.cpu_ns(), server_ns: target.server_cpu_ns() }
    }
}

struct Watch {
    collector: Collector,
    progress: Option<Progress>,
    warm_up_ns: u64,
    /// Of the measurement, at most.
    length_ns: Option<u64>,
    is_lost: bool,
    /// Since the warm-up.
    cpu: Option<Cpu>,
}

impl Watch {
    fn until_over(&mut self, crew: &mut dyn Crew, target: &Target, interrupt: &Interrupt) -> Result<(), Failure> {
        let clock = Clock::system();
        let start = clock.now();
        if self.warm_up_ns == 0 {
            self.cpu = Some(Cpu::now(crew, target));
        }
        let mut is_stopped = false;
        // When the jobs should be over, but for what is in flight.
        let mut over_at = self.length_ns.map(|length_ns| start.after_ns(self.warm_up_ns.saturating_add(length_ns)));
        loop {
            // There is no event to wait for: the jobs must not be disturbed by having to send one.
            #[allow(clippy::disallowed_methods, reason = "sampling waits for time to pass, and nothing else")]
            std::thread::sleep(LOOK);
            if self.cpu.is_none() && clock.now().since_ns(start) >= self.warm_up_ns {
                self.cpu = Some(Cpu::now(crew, target));
            }
            if self.look(crew)? {
                return Ok(());
            }
            let now = clock.now();
            if over_at.is_some_and(|over_at| now.since_ns(over_at) > PATIENCE_NS) {
                eprintln!("spinelbench: requests have not come back for {} s; they are left out", PATIENCE_NS / 1_000_000_000);
                self.is_lost = true;
                return Ok(());
            }
            if !is_stopped && (self.is_lost || interrupt.came()) {
                is_stopped = true;
                over_at = Some(now);
                if let Some(progress) = &self.progress {
                    progress.say("waiting for what is in flight; Ctrl-C again gives up");
                }
                crew.stop(&mut |job, tally| self.collector.take(job, tally))?;
            }
        }
    }

    fn look(&mut self, crew: &mut dyn Crew) -> Result<bool, Failure> {
        let Self { collector, is_lost, .. } = self;
        let is_over = crew.collect(&mut |job, tally| {
            collector.take(job, tally);
            *is_lost |= tally.ended == Some(Ended::Gone);
        })?;
        if let Some(progress) = &mut self.progress {
            match self.collector.latest() {
                Some(stretch) => progress.show(&stretch, self.collector.so_far().1),
                None if self.collector.so_far().0 == 0 => progress.say("warming up"),
                None => {}
            }
        }
        Ok(is_over)
    }

    /// Processor time of both sides since the warm-up.
    fn cpu_ns(&self, crew: &dyn Crew, target: &Target) -> (u64, Option<u64>) {
        let Some(since) = self.cpu else { return (0, None) };
        let now = Cpu::now(crew, target);
        let server = now.server_ns.zip(since.server_ns).map(|(now, since)| now.saturating_sub(since));
        (now.client_ns.saturating_sub(since.client_ns), server)
    }
}
