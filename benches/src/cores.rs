//! Two cores, how near they are to each other, and who else runs. Knows no server and no client.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::thread::{CpuSet, nanosleep, sched_setaffinity};
use rustix::time::Timespec;
use serde::Serialize;
use spinel_reactor::Clock;

use crate::Failure;

/// Where the server and the client run.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Cores {
    pub(crate) engine: usize,
    pub(crate) client: usize,
}

impl Cores {
    /// Two cores this process may use: where there are enough, none that `busy` names; else at least not for the engine.
    pub(crate) fn choose(busy: &[usize]) -> Result<Self, Failure> {
        let mut ids: Vec<usize> = core_affinity::get_core_ids().unwrap_or_default().iter().map(|core| core.id).collect();
        ids.sort_by_key(|id| (busy.contains(id), *id));
        match ids.as_slice() {
            [engine, client, ..] => Ok(Self { engine: *engine, client: *client }),
            _ => Err("two cores are needed, one for the server and one for its client".into()),
        }
    }
}

/// The cores that take the interrupts of the disk under `path`, as far as that can be told.
///
/// A disk with a queue for each core interrupts the core that asked; then none stands out, and none is named.
pub(crate) fn disk_cores(path: &Path) -> Vec<usize> {
    let named = || {
        let disk = fs::metadata(path).ok()?.dev();
        let (major, minor) = (rustix::fs::major(disk), rustix::fs::minor(disk));
        let block = fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")).ok()?;
        // /sys/devices/pci.../virtio1/block/vda/vda1: the device's name is that of a folder above.
        let names: Vec<String> = block.iter().map(|part| part.to_string_lossy().into_owned()).collect();
        let interrupts = fs::read_to_string("/proc/interrupts").ok()?;
        let of_disk = |line: &&str| line.split_whitespace().last().is_some_and(|by| names.iter().any(|name| is_queue_of(by, name)));
        let numbers = interrupts.lines().filter(of_disk).filter_map(|line| line.trim().split(':').next());
        let core = |number: &str| fs::read_to_string(format!("/proc/irq/{number}/effective_affinity_list")).ok()?.trim().parse().ok();
        let mut cores: Vec<usize> = numbers.filter_map(core).collect();
        cores.sort_unstable();
        cores.dedup();
        Some(cores)
    };
    let cores = named().unwrap_or_default();
    let all = core_affinity::get_core_ids().map_or(0, |ids| ids.len());
    if cores.len() < all { cores } else { Vec::new() }
}

/// Whether an interrupt's name ("virtio1-req.0", "nvme0q3") is that of a queue of a device ("virtio1", "nvme0").
fn is_queue_of(interrupt: &str, device: &str) -> bool {
    interrupt.strip_prefix(device).is_some_and(|queue| queue.starts_with("-req") || queue.starts_with('q') && queue != "q0")
}

/// Keeps the calling thread, and whatever it starts from now on, on these cores.
pub(crate) fn pin(cores: &[usize]) -> Result<(), Failure> {
    let mut set = CpuSet::new();
    cores.iter().for_each(|core| set.set(*core));
    sched_setaffinity(None, &set).map_err(|errno| format!("this process may not run on cores {cores:?}: {errno}").into())
}

/// How near the two cores are. On a virtual machine this changes while a benchmark runs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Placement {
    Near,
    Far,
}

/// Round trips at least this long are far.
const FAR_NS: u64 = 150;

impl Placement {
    fn of(round_trip_ns: u64) -> Self {
        if round_trip_ns < FAR_NS { Self::Near } else { Self::Far }
    }
}

/// A stretch in which others took more of one core than this is not used.
pub(crate) const OTHERS_MAX: f64 = 0.1;

const BATCHES: usize = 15;
const ROUND_TRIPS: u64 = 400;

/// How long a cache line takes to the engine's core and back, in nanoseconds: the median of some batches.
///
/// The caller is on the client's core.
pub(crate) fn round_trip_ns(cores: Cores) -> Result<u64, Failure> {
    let total = ROUND_TRIPS * BATCHES as u64;
    let ball = Arc::new(Ball(AtomicU64::new(0)));
    let partner = Arc::clone(&ball);
    let answer = move || {
        let pinned = pin(&[cores.engine]).is_ok();
        for round in 0..total {
            while partner.0.load(Ordering::Acquire) != 2 * round + 1 {}
            partner.0.store(2 * round + 2, Ordering::Release);
        }
        pinned
    };
    let thread = std::thread::Builder::new().name("pong".to_owned()).spawn(answer)?;
    let clock = Clock::system();
    let mut batches = [0; BATCHES];
    let mut round = 0;
    for took_ns in &mut batches {
        let start = clock.now();
        for _ in 0..ROUND_TRIPS {
            ball.0.store(2 * round + 1, Ordering::Release);
            round += 1;
            while ball.0.load(Ordering::Acquire) != 2 * round {}
        }
        *took_ns = clock.now().since_ns(start) / ROUND_TRIPS;
    }
    if !thread.join().is_ok_and(|pinned| pinned) {
        return Err(format!("this process may not run on core {}", cores.engine).into());
    }
    batches.sort_unstable();
    Ok(batches[BATCHES / 2])
}

/// Alone in its cache line, and in the one that is fetched with it.
#[repr(align(128))]
struct Ball(AtomicU64);

/// Processor time a process has used, in nanoseconds, as the scheduler counts it: exact, but for threads that ended.
pub(crate) fn cpu_ns(pid: u32) -> Result<u64, Failure> {
    let mut sum = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread may end while its folder is read.
        let text = fs::read_to_string(task?.path().join("schedstat")).unwrap_or_default();
        sum += text.split(' ').next().and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
    }
    Ok(sum)
}

/// A process's time in user mode and in the kernel as /proc counts it, in steps of 10 ms.
#[derive(Clone, Copy)]
pub(crate) struct Times {
    /// Of all of its threads, those that have ended too.
    pub(crate) own_ns: u64,
    /// Of its children that were waited for.
    pub(crate) children_ns: u64,
}

impl Times {
    pub(crate) fn of(pid: u32) -> Result<Self, Failure> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        Self::parse(&stat).map(|(_, times)| times).ok_or_else(|| "the kernel's /proc/PID/stat has another form".into())
    }

    /// The parent, and the times.
    fn parse(stat: &str) -> Option<(u32, Self)> {
        // The name in brackets may hold anything. After it, the 2nd field is the parent, and the 12th to 15th are
        // utime, stime, cutime and cstime.
        let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
        let ticks = |at: usize| fields.get(at)?.parse::<u64>().ok();
        let (own, children) = (ticks(11)? + ticks(12)?, ticks(13)? + ticks(14)?);
        Some((fields.get(1)?.parse().ok()?, Self { own_ns: own * TICK_NS, children_ns: children * TICK_NS }))
    }
}

/// The parent of all threads of the kernel's.
const KTHREADD: u32 = 2;

/// Processor time of the kernel's own threads: they finish writes to files, for instance, and work for nobody but others.
fn kernel_threads_ns() -> Result<u64, Failure> {
    let mut sum = 0;
    for entry in fs::read_dir("/proc")? {
        // Most of what is there is no process, and a process may end meanwhile.
        let stat = fs::read_to_string(entry?.path().join("stat")).unwrap_or_default();
        if let Some((KTHREADD, times)) = Times::parse(&stat) {
            sum += times.own_ns;
        }
    }
    Ok(sum)
}

/// USER_HZ is 100 on every Linux.
const TICK_NS: u64 = 10_000_000;

/// What was around a stretch of measuring.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Around {
    /// A cache line to the other core and back, before and after, in nanoseconds.
    pub(crate) round_trip_ns: [u64; 2],
    /// Which part of one core other programs took.
    pub(crate) others: f64,
}

impl Around {
    /// Where the cores were, if they stayed there.
    pub(crate) fn placement(&self) -> Option<Placement> {
        let [before, after] = self.round_trip_ns.map(Placement::of);
        (before == after).then_some(before)
    }

    /// Whether what was measured may be compared with other stretches.
    pub(crate) fn usable(&self) -> bool {
        self.placement().is_some() && self.others <= OTHERS_MAX
    }
}

/// The stretches that may be compared. Where there is none, those in which the cores stayed in place; what was done is printed.
pub(crate) fn usable<T>(all: &[T], around: impl Fn(&T) -> &Around) -> Vec<&T> {
    let left_out = all.iter().filter(|one| !around(one).usable()).count();
    println!("{} windows, {left_out} left out: the cores moved in them, or others ran.", all.len());
    let (chosen, busy) = chosen(all, around);
    if busy {
        println!("THE MACHINE WAS BUSY: what follows is from windows in which others ran, and compares little.");
    }
    chosen
}

/// The same without a word: the stretches, and whether others ran in all of them.
pub(crate) fn chosen<T>(all: &[T], around: impl Fn(&T) -> &Around) -> (Vec<&T>, bool) {
    let usable: Vec<&T> = all.iter().filter(|one| around(one).usable()).collect();
    if usable.is_empty() {
        (all.iter().filter(|one| around(one).placement().is_some()).collect(), !all.is_empty())
    } else {
        (usable, false)
    }
}

/// Those in which the cores stood so.
pub(crate) fn in_placement<'a, T>(all: &[&'a T], placement: Placement, around: impl Fn(&T) -> &Around) -> Vec<&'a T> {
    all.iter().copied().filter(|one| around(one).placement() == Some(placement)).collect()
}

/// What this machine's cores did in all, and which of it was part of the measurement. The rest was others' or the host's.
#[derive(Clone, Copy)]
pub(crate) struct Others {
    all_ns: u64,
    own_ns: u64,
    at_ns: u64,
}

impl Others {
    /// Looks now; `own` are the processes that belong to the measurement, beside this one.
    pub(crate) fn look(own: &[u32]) -> Result<Self, Failure> {
        let stat = fs::read_to_string("/proc/stat")?;
        let line = stat.lines().next().unwrap_or_default();
        let ticks: Vec<u64> = line.split_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
        // Interrupts are left out: those of the disk are our own doing.
        let [user, nice, system, _idle, _waiting, _interrupts, _soft_interrupts, stolen, ..] = ticks.as_slice() else {
            return Err("the kernel's /proc/stat has another form".into());
        };
        let this = Times::of(std::process::id())?;
        // Like interrupts, what the kernel's threads do is our own doing: others who use them are seen themselves.
        let mut own_ns = this.own_ns + this.children_ns + kernel_threads_ns()?;
        for pid in own {
            own_ns += Times::of(*pid)?.own_ns;
        }
        let all_ns = (user + nice + system + stolen) * TICK_NS;
        Ok(Self { all_ns, own_ns, at_ns: Clock::system().now().ns })
    }

    /// Which part of one core went elsewhere since then.
    pub(crate) fn share_since(self, then: Self) -> f64 {
        let others_ns = (self.all_ns - then.all_ns).saturating_sub(self.own_ns.saturating_sub(then.own_ns));
        ratio(others_ns, self.at_ns - then.at_ns)
    }
}

/// Lets time pass without using any.
pub(crate) fn sleep(length: Duration) -> Result<(), Failure> {
    let end = Clock::system().now().after(length);
    loop {
        let left_ns = end.since_ns(Clock::system().now());
        if left_ns == 0 {
            return Ok(());
        }
        // A signal wakes early; the rest is slept then.
        let _ = nanosleep(&Timespec::try_from(Duration::from_nanos(left_ns))?);
    }
}

/// A quotient of figures, 0 where there is nothing to divide by.
pub(crate) fn quotient(of: f64, by: f64) -> f64 {
    if by > 0.0 { of / by } else { 0.0 }
}

/// A quotient for people to read.
#[allow(clippy::cast_precision_loss, reason = "figures are read to three digits")]
pub(crate) fn ratio(of: u64, by: u64) -> f64 {
    if by == 0 { 0.0 } else { of as f64 / by as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_read_whatever_its_name() {
        let (parent, times) = Times::parse("7 (a) b (c) S 2 0 0 0 -1 0 0 0 0 0 3 4 5 6 20 0 1").unwrap();
        assert_eq!((parent, times.own_ns, times.children_ns), (2, 7 * TICK_NS, 11 * TICK_NS));
        assert!(Times::parse("cpu 1 2 3").is_none());
    }

    #[test]
    fn a_disks_queues_are_told_from_other_interrupts() {
        assert!(is_queue_of("virtio1-req.0", "virtio1"));
        assert!(is_queue_of("nvme0q3", "nvme0"));
        for (interrupt, device) in [("virtio1-config", "virtio1"), ("virtio11-req.0", "virtio1"), ("nvme0q0", "nvme0"), ("timer", "block")]
        {
            assert!(!is_queue_of(interrupt, device), "{interrupt} of {device}");
        }
    }
}
