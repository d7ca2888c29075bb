//! Jobs at work somewhere, as the one who waits for them sees them. Knows no report and no command line.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, bounded};
use spinel_core::{CoreId, Device, Geometry, Mailbox, PollerId, Remains};
use spinel_load::{Intake, Job, Judge, Load, Memory, Tally, feed};
use spinel_reactor::{Handle, Mode, PaceLimits, ReactorConfig};

use crate::cli::Wait;
use crate::failure::{Failure, with_causes};
use crate::machine;

/// Jobs at work.
pub(crate) trait Crew {
    /// Takes what they have handed over since the last call, with the number of the job; true once all of them are over.
    ///
    /// # Errors
    /// What became of them instead.
    fn collect(&mut self, take: &mut dyn FnMut(usize, &Tally)) -> Result<bool, Failure>;

    /// Ends them early; what they hand over at once is taken as by `collect`.
    ///
    /// # Errors
    /// What is in the way.
    fn stop(&mut self, take: &mut dyn FnMut(usize, &Tally)) -> Result<(), Failure>;

    /// Processor time of the threads of this process that work, in nanoseconds.
    fn cpu_ns(&self) -> u64;

    /// Takes them apart after all is over.
    fn dismiss(self: Box<Self>);
}

/// One job, and what it needs besides a device.
pub(crate) struct Assignment {
    pub(crate) job: Job,
    pub(crate) memory: Memory,
    pub(crate) judge: Option<Box<dyn Judge>>,
}

/// How long requests in flight are waited for when all is over: a target that hangs must not keep this program.
const PATIENCE: Duration = Duration::from_secs(1);

/// One core of this process with its reactor.
pub(crate) struct Seat {
    handle: Handle,
    core: u16,
}

/// Starts a reactor on each core, once.
///
/// # Errors
/// When a core may not be used.
pub(crate) fn seats(cores: &[u16], wait: Wait) -> Result<Vec<Seat>, Failure> {
    let mut seats: Vec<Seat> = Vec::new();
    for core in cores {
        if !seats.iter().any(|seat| seat.core == *core) {
            let handle = reactor(*core, wait)?;
            seats.push(Seat { handle, core: *core });
        }
    }
    Ok(seats)
}

fn reactor(core: u16, wait: Wait) -> Result<Handle, Failure> {
    let (mode, limits) = match wait {
        Wait::Poll => (Mode::Poll, PaceLimits::default()),
        Wait::Adaptive => (Mode::Adaptive, PaceLimits::default()),
        Wait::Sleep => (Mode::Adaptive, PaceLimits { spin_min_ns: 0, spin_max_ns: 0 }),
    };
    let make_core = Box::new(|id| spinel_uring::core(id, spinel_uring::Options::default()));
    let config = ReactorConfig { core: CoreId(core), mode, limits, pin: true, make_core };
    spinel_reactor::start(config).map_err(|error| Failure::Usage(with_causes(&error)))
}

impl Seat {
    pub(crate) fn mailbox(&self) -> &Mailbox {
        self.handle.mailbox()
    }

    /// Ends its thread; nothing may run on it any more that hangs.
    pub(crate) fn leave(self) {
        self.handle.quit();
    }
}

struct Member {
    intake: Intake,
    seat: usize,
    poller: PollerId,
    is_over: bool,
    retiring: Option<Receiver<Remains>>,
}

/// Jobs on reactors of this process.
pub(crate) struct OwnCrew {
    members: Vec<Member>,
    seats: Vec<Seat>,
}

impl OwnCrew {
    /// Puts the jobs to work on these cores in turn, each with a channel of its own.
    ///
    /// # Errors
    /// When the device gives no channel; jobs that have started are stopped.
    pub(crate) fn start(device: &Arc<dyn Device>, cores: &[u16], wait: Wait, assignments: Vec<Assignment>) -> Result<Self, Failure> {
        let seats = seats(&cores[..cores.len().min(assignments.len())], wait)?;
        let mut crew = Self { members: Vec::new(), seats };
        for (number, assignment) in assignments.into_iter().enumerate() {
            let seat = number % crew.seats.len();
            match post(crew.seats[seat].mailbox(), device, assignment) {
                Ok((intake, poller)) => crew.members.push(Member { intake, seat, poller, is_over: false, retiring: None }),
                Err(failure) => {
                    Box::new(crew).dismiss();
                    return Err(failure);
                }
            }
        }
        Ok(crew)
    }
}

/// Sends a job to a core and waits until it is there.
fn post(mailbox: &Mailbox, device: &Arc<dyn Device>, assignment: Assignment) -> Result<(Intake, PollerId), Failure> {
    let Assignment { job, memory, judge } = assignment;
    let (outlet, intake) = feed(|kind| job.sends(kind));
    let load = Load { name: "load".to_owned(), job, device: Arc::clone(device), memory, outlet, judge };
    let poller = mailbox.add(load.recipe()).map_err(|error| Failure::Unreachable(with_causes(&error)))?;
    Ok((intake, poller))
}

impl Crew for OwnCrew {
    fn collect(&mut self, take: &mut dyn FnMut(usize, &Tally)) -> Result<bool, Failure> {
        for (number, member) in self.members.iter_mut().enumerate() {
            while let Ok(Some(is_over)) = member.intake.take(|tally| {
                take(number, tally);
                tally.ended.is_some()
            }) {
                member.is_over |= is_over;
            }
        }
        Ok(self.members.iter().all(|member| member.is_over))
    }

    fn stop(&mut self, _take: &mut dyn FnMut(usize, &Tally)) -> Result<(), Failure> {
        for member in &mut self.members {
            if member.retiring.is_none() {
                member.retiring = Some(self.seats[member.seat].mailbox().stop(member.poller));
            }
        }
        Ok(())
    }

    fn cpu_ns(&self) -> u64 {
        self.seats
            .iter()
            .map(|seat| machine::thread_cpu_ns(seat.handle.thread_id()) + machine::helpers_cpu_ns(seat.handle.thread_id()))
            .sum()
    }

    fn dismiss(mut self: Box<Self>) {
        // It cannot fail here; and what was stopped already stays so.
        let _ = self.stop(&mut |_, _| ());
        let wait = |member: &mut Member| member.retiring.take()?.recv_timeout(PATIENCE).ok();
        let remains: Vec<Option<Remains>> = self.members.iter_mut().map(wait).collect();
        if remains.iter().all(Option::is_some) {
            self.seats.into_iter().for_each(Seat::leave);
        }
    }
}

struct Thread {
    intake: Intake,
    is_over: bool,
    thread_id: i32,
    /// Processor time of a thread that has ended.
    cpu_ns: Arc<AtomicU64>,
    thread: Option<JoinHandle<std::io::Result<()>>>,
}

/// Jobs through tokio-uring, each on a thread of its own.
pub(crate) struct TokioCrew {
    threads: Vec<Thread>,
    stop: Arc<AtomicBool>,
}

impl TokioCrew {
    /// Puts the jobs to work.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(crate) fn start(path: &Path, geometry: Geometry, cores: &[u16], jobs: Vec<Job>) -> Result<Self, Failure> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        for (number, job) in jobs.into_iter().enumerate() {
            let (outlet, intake) = feed(|kind| job.sends(kind));
            let (path, stop, core) = (path.to_owned(), Arc::clone(&stop), cores[number % cores.len()]);
            let (ready, started) = bounded(1);
            let cpu_ns = Arc::new(AtomicU64::new(0));
            let used = Arc::clone(&cpu_ns);
            let body = move || {
                let done = pinned(core, &ready).and_then(|()| crate::tokio::run(&path, job, &geometry, outlet, stop));
                used.store(machine::thread_cpu_ns(own_id()), Ordering::Relaxed);
                done
            };
            let thread = std::thread::Builder::new().name(format!("tokio-{number}")).spawn(body);
            let thread = thread.map_err(|error| Failure::Unreachable(format!("the system refused another thread: {error}")))?;
            let thread_id = started.recv().unwrap_or_default();
            threads.push(Thread { intake, is_over: false, thread_id, cpu_ns, thread: Some(thread) });
        }
        Ok(Self { threads, stop })
    }
}

fn pinned(core: u16, ready: &crossbeam_channel::Sender<i32>) -> std::io::Result<()> {
    let pinned = core_affinity::set_for_current(core_affinity::CoreId { id: usize::from(core) });
    let _ = ready.send(own_id());
    if pinned { Ok(()) } else { Err(std::io::Error::other(format!("this process may not run on core {core}"))) }
}

fn own_id() -> i32 {
    rustix::thread::gettid().as_raw_nonzero().get()
}

impl Crew for TokioCrew {
    fn collect(&mut self, take: &mut dyn FnMut(usize, &Tally)) -> Result<bool, Failure> {
        for (number, member) in self.threads.iter_mut().enumerate() {
            loop {
                let taken = member.intake.take(|tally| {
                    take(number, tally);
                    tally.ended
                });
                match taken {
                    Ok(None) => break,
                    Ok(Some(ended)) => member.is_over |= ended.is_some(),
                    Err(_) if member.is_over => break,
                    Err(_) => return Err(Failure::Unreachable(member.failure())),
                }
            }
        }
        Ok(self.threads.iter().all(|member| member.is_over))
    }

    fn stop(&mut self, _take: &mut dyn FnMut(usize, &Tally)) -> Result<(), Failure> {
        self.stop.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn cpu_ns(&self) -> u64 {
        // A thread that has ended is not counted by the system any more.
        self.threads.iter().map(|member| machine::thread_cpu_ns(member.thread_id).max(member.cpu_ns.load(Ordering::Relaxed))).sum()
    }

    fn dismiss(self: Box<Self>) {
        self.stop.store(true, Ordering::Relaxed);
        for member in self.threads {
            // Whatever went wrong was told by `collect`.
            let _ = member.thread.map(JoinHandle::join);
        }
    }
}

impl Thread {
    /// Why it has ended without a last tally.
    fn failure(&mut self) -> String {
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(Err(error))) => format!("tokio-uring: {error}"),
            _ => "the thread that worked has ended".to_owned(),
        }
    }
}
