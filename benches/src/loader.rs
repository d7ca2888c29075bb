//! A reactor of this process's own that does a job on a device. Knows no server.

use std::sync::Arc;
use std::time::Duration;

use hdrhistogram::Histogram;
use spinel_core::{CoreId, Device, Instant, OpKind, PollerId};
use spinel_load::{Intake, Job, Length, Load, Memory, Mix, Tally, feed};
use spinel_reactor::{Clock, Handle, Mode, PaceLimits, ReactorConfig, start};

use crate::Failure;
use crate::contest::{Latency, Seen};
use crate::cores::sleep;

/// How long after its end a job may still have requests in flight.
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(1);
/// A core that leaves room to others spins for so long at most.
const SPIN_MAX_NS: u64 = 20_000;

/// How the loading core waits for what is in flight.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Waits {
    /// It polls, as a guest's driver on the measure would.
    Polling,
    /// It sleeps, so that others can run on its core.
    Sleeping,
}

/// A job that was begun.
pub(crate) struct Running {
    poller: PollerId,
    intake: Intake,
}

/// A running reactor for loads.
pub(crate) struct Loader {
    reactor: Handle,
}

impl Loader {
    pub(crate) fn start(core: usize, waits: Waits) -> Result<Self, Failure> {
        let (mode, limits) = match waits {
            Waits::Polling => (Mode::Poll, PaceLimits::default()),
            Waits::Sleeping => (Mode::Adaptive, PaceLimits { spin_max_ns: SPIN_MAX_NS, ..PaceLimits::default() }),
        };
        let make_core = Box::new(|id| spinel_uring::core(id, spinel_uring::Options::default()));
        let core = CoreId(u16::try_from(core)?);
        Ok(Self { reactor: start(ReactorConfig { core, mode, limits, pin: true, make_core })? })
    }

    pub(crate) fn thread_id(&self) -> i32 {
        self.reactor.thread_id()
    }

    /// Does a job until its end. Calls `look` shortly before what counts begins, and again after its end: not in
    /// between, where it would take the core from the load.
    pub(crate) fn run(
        &self,
        device: Arc<dyn Device>,
        memory: Memory,
        job: Job,
        look: &mut dyn FnMut() -> Result<(), Failure>,
    ) -> Result<Tally, Failure> {
        let (warm_up, length) = (Duration::from_nanos(job.warm_up_ns), Duration::from_nanos(job.length.time_ns.unwrap_or(0)));
        let running = self.begin(device, memory, job)?;
        sleep(warm_up / 2)?;
        look()?;
        sleep(warm_up / 2 + length)?;
        let clock = Clock::system();
        let deadline = clock.now().after(PATIENCE);
        while !running.intake.is_over() {
            if clock.now() > deadline {
                return Err(format!("what is in flight has not ended {PATIENCE:?} after the last was sent").into());
            }
            sleep(LOOK)?;
        }
        look()?;
        Ok(self.end(&running))
    }

    /// Begins a job that goes on beside others.
    pub(crate) fn begin(&self, device: Arc<dyn Device>, memory: Memory, job: Job) -> Result<Running, Failure> {
        job.check(&device.geometry())?;
        let (outlet, intake) = feed(|kind| job.sends(kind));
        let load = Load { name: "load".to_owned(), job, device, memory, outlet, judge: None };
        Ok(Running { poller: self.reactor.mailbox().add(load.recipe())?, intake })
    }

    /// Ends a job, wherever it is. Answers what was seen of it.
    pub(crate) fn end(&self, running: &Running) -> Tally {
        // What remains is dropped here, off the core.
        drop(self.reactor.mailbox().stop(running.poller).recv());
        let mut all = Tally::of(|_| false);
        while let Ok(Some(())) = running.intake.take(|tally| all.add(tally)) {}
        all
    }

    /// Flushes, and answers how long it took in nanoseconds.
    pub(crate) fn flush(&self, device: Arc<dyn Device>, memory: Memory) -> Result<Tally, Failure> {
        self.run(device, memory, flush_job(), &mut || Ok(()))
    }

    pub(crate) fn quit(self) {
        self.reactor.quit();
    }
}

/// One flush.
pub(crate) fn flush_job() -> Job {
    Job { mix: Mix { flush: 100, ..Mix::default() }, length: Length { requests: Some(1), ..Length::default() }, ..Job::new() }
}

/// What processor time a server, or a thread, had used by some moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Used {
    at: Instant,
    cpu_ns: u64,
    busy_ns: Option<u64>,
}

impl Used {
    /// By now.
    pub(crate) fn by_now(cpu_ns: u64, busy_ns: Option<u64>) -> Self {
        Self { at: Clock::system().now(), cpu_ns, busy_ns }
    }

    /// How much of it falls to `length_ns` between two looks, the load having been the same all the time.
    fn share_of(looks: &[Self], length_ns: u64) -> (u64, Option<u64>) {
        let [from, to] = looks else { return (0, None) };
        let share = |ns: u64| {
            let scaled = u128::from(ns) * u128::from(length_ns) / u128::from(to.at.since_ns(from.at).max(1));
            u64::try_from(scaled).unwrap_or(u64::MAX)
        };
        let busy_ns = to.busy_ns.zip(from.busy_ns).map(|(to, from)| share(to - from));
        (share(to.cpu_ns - from.cpu_ns), busy_ns)
    }
}

/// What tallies of reads and writes come to, all kinds together; `looks` are the two that were taken meanwhile.
pub(crate) fn seen(tally: &Tally, looks: &[Used]) -> Seen {
    let took_ns = tally.until.since_ns(tally.from);
    let (cpu_ns, busy_ns) = Used::share_of(looks, took_ns);
    let mut latency: Option<Histogram<u64>> = None;
    let (mut bytes, mut errors) = (0, 0);
    for op in tally.ops.iter().flatten() {
        bytes += op.bytes;
        errors += op.errors();
        match &mut latency {
            None => latency = Some(op.latency.clone()),
            Some(all) => all.add(&op.latency).expect("all tallies have the same bounds"),
        }
    }
    Seen {
        requests: tally.requests(),
        bytes,
        errors,
        took_ns,
        latency: latency.map(|latency| of_histogram(&latency)).unwrap_or_default(),
        cpu_ns,
        busy_ns,
    }
}

/// The latencies that are shown of all that were seen.
pub(crate) fn of_histogram(latency: &Histogram<u64>) -> Latency {
    let at = |quantile| latency.value_at_quantile(quantile);
    Latency { p50_ns: at(0.5), p99_ns: at(0.99), p99_9_ns: at(0.999), max_ns: latency.max() }
}

/// How long the one flush took.
pub(crate) fn flush_ns(tally: &Tally) -> Result<u64, Failure> {
    let flush = tally.ops[OpKind::Flush.index()].as_ref().ok_or("no flush was sent")?;
    if flush.requests() != 1 || flush.errors() > 0 {
        return Err("the flush at the end has failed".into());
    }
    Ok(flush.latency.max())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_used_is_scaled_to_the_time_that_counts() {
        let look = |ns, cpu_ns, busy_ns| Used { at: Instant { ns }, cpu_ns, busy_ns };
        let looks = [look(1_000, 100, Some(10)), look(3_000, 1_100, Some(510))];
        assert_eq!(Used::share_of(&looks, 1_000), (500, Some(250)));
        assert_eq!(Used::share_of(&looks[..1], 1_000), (0, None));
    }
}
