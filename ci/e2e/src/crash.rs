//! The daemon killed (SIGKILL) again and again under verified load, and started again: its guest must notice pauses and nothing else.

use crate::chance::Chance;
use crate::load::{self, LOAD, Loaded};
use crate::pauses::Pauses;
use crate::{Bench, DISK, Failure, Findings, claim};
use serde_json::{Value, json};
use spinel_testbed::backing::sparse_file;
use spinel_testbed::clock::{Deadline, Stopwatch};
use spinel_testbed::daemon::Daemon;
use spinel_testbed::guest::{Claim, Disk, Guest, Plan, Rings};
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long the guest may stand still after a restart, and half of what it may take to begin and to end: machines are busy.
const PATIENCE_S: u64 = 120;
/// How often the daemon is asked what it has done.
const LOOK: Duration = Duration::from_millis(20);
/// The daemon is left alone for so long before a kill, or before one that is to meet what is done again after the last, and is away
/// for so long after it, in milliseconds.
const ALIVE_MS: (u64, u64) = (0, 2500);
const EARLY_MS: (u64, u64) = (0, 200);
const AWAY_MS: (u64, u64) = (0, 3000);

const DISK_BYTES: u64 = 64 << 20;

/// A disk of the guest: a file, and a layer that is slower.
struct Kind {
    name: &'static str,
    /// Reads, writes, in microseconds: most of them, and every hundredth.
    read_us: [u64; 2],
    write_us: [u64; 2],
    /// What the guest's script is told: how many requests a round has, and how they are sent.
    load: &'static str,
}

/// On the first disk many requests are in flight at any moment. On the second every hundredth write takes long after it has come to
/// the file, which is small: what it wrote is read and overwritten meanwhile, and must not come back. On the third no request can
/// end between a kill and the next start.
const KINDS: [Kind; 3] = [
    Kind { name: "quick", read_us: [100_000, 150_000], write_us: [150_000, 200_000], load: "2000 --depth 16 --flush-every 50 --area 16M" },
    Kind { name: "held", read_us: [1_000, 5_000], write_us: [2_000, 1_500_000], load: "2000 --depth 16 --flush-every 50 --area 1M" },
    Kind {
        name: "slow",
        read_us: [4_000_000, 5_000_000],
        write_us: [4_000_000, 5_000_000],
        load: "64 --depth 16 --flush-every 8 --area 1M",
    },
];

/// What is to be done.
#[derive(Debug, Clone)]
pub struct CrashPlan {
    /// How often the daemon is killed.
    pub kills: u32,
    /// The same seed chooses the same moments.
    pub seed: u64,
    /// Whether the rings are packed, not split.
    pub packed: bool,
    /// Of each disk; the guest has as many processors.
    pub queues: u16,
}

/// What has come of it.
#[derive(Debug, Default)]
pub struct Crashes {
    /// What was claimed.
    pub claims: Vec<Claim>,
    seed: u64,
    layout: &'static str,
    /// The requests of the guest's that were under way at each kill, by disk.
    in_flight: Vec<[u64; KINDS.len()]>,
    /// Kills before any request had ended since the last.
    early: u32,
    /// By disk: from a kill to the first request that ended after it, and from the daemon's last start to that.
    pauses: [Pauses; KINDS.len()],
    returns: [Pauses; KINDS.len()],
    loads: [Loaded; KINDS.len()],
}

pub(crate) fn case(bench: &Bench) -> Result<Findings, Failure> {
    let mut findings = Findings::default();
    for packed in [false, true] {
        let crashes = run(bench, &CrashPlan { kills: 6, seed: 1, packed, queues: 1 }, &mut |_| ())?;
        findings.figures.extend(crashes.to_string().lines().map(str::to_owned));
        findings.claims.extend(crashes.claims);
    }
    Ok(findings)
}

/// Kills and starts the daemon as planned, and tells `progress` how far it is.
///
/// # Errors
/// When the guest or the daemon ended in disorder, stood still, or met a failed or wrong request; the message says after which kill.
pub fn run(bench: &Bench, plan: &CrashPlan, progress: &mut dyn FnMut(&str)) -> Result<Crashes, Failure> {
    let mut soak = Soak::begin(bench, plan)?;
    match soak.kill_again_and_again(plan, progress) {
        Ok(()) => soak.end(),
        Err(source) => Err(Box::new(Stopped { kill: soak.crashes.in_flight.len(), so_far: soak.crashes.to_string(), source })),
    }
}

/// Where a run was when it failed.
#[derive(Debug)]
struct Stopped {
    kill: usize,
    so_far: String,
    source: Failure,
}

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "after kill {}, up to which this was counted:\n{}", self.kill, self.so_far)
    }
}

impl std::error::Error for Stopped {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&*self.source)
    }
}

/// A disk since the last kill.
#[derive(Debug, Clone, Copy, Default)]
struct State {
    /// Since when no request has ended, if none has since a kill.
    still_since: Option<Stopwatch>,
    in_flight_at_kill: u64,
    /// How many requests have ended under the daemon that runs now.
    ended: u64,
}

impl State {
    /// Whether more have ended than were in flight, so that the guest must have sent others.
    fn goes_on(&self) -> bool {
        self.ended > self.in_flight_at_kill
    }
}

/// A guest under load and its mortal daemon.
struct Soak<'a> {
    bench: &'a Bench,
    name: String,
    config: PathBuf,
    /// Dead between a kill and the next start, when nobody may ask it anything.
    daemon: Daemon,
    /// When it was started last.
    started: Stopwatch,
    guest: Guest,
    disks: [State; KINDS.len()],
    crashes: Crashes,
}

impl<'a> Soak<'a> {
    fn begin(bench: &'a Bench, plan: &CrashPlan) -> Result<Self, Failure> {
        let layout = if plan.packed { "packed" } else { "split" };
        let name = format!("crash-{layout}");
        let config = bench.logs.join(format!("{name}.json"));
        std::fs::write(&config, configuration(bench)?.to_string())?;
        let daemon = start(bench, &name, &config)?;
        let (mut disks, mut script) = (Vec::new(), format!("{DISK}\n{LOAD}\n"));
        // A job on each processor, and so on each queue.
        let jobs = format!("--jobs {} --cores 0-{}", plan.queues, plan.queues.saturating_sub(1));
        for (number, kind) in KINDS.iter().enumerate() {
            let rings = Rings { packed: plan.packed, ..Rings::default() };
            disks.push(Disk { socket: bench.sockets.join(socket(kind)), queues: plan.queues, rings, reconnects: true });
            script += &format!("packed {name} {number} {}\nload {number} {} {jobs} &\n", u8::from(plan.packed), kind.load);
        }
        let loads: Vec<String> = (0..KINDS.len()).map(|number| format!("load-{number}")).collect();
        script += &format!("until_told {name} '{}'\nconclude\n", loads.join(" "));
        let guest = Plan { name: name.clone(), memory_mib: 512, processors: plan.queues, disks, script, arrives: false, network: None };
        let mut guest = load::maker(bench)?.boot(&guest, &bench.sockets, &bench.logs)?;
        guest.until("reached: busy", Deadline::after_s(2 * PATIENCE_S))?;
        let crashes = Crashes { seed: plan.seed, layout, ..Crashes::default() };
        let (started, disks) = (Stopwatch::start(), Default::default());
        let mut soak = Self { bench, name, config, daemon, started, guest, disks, crashes };
        soak.until_going_on(KINDS.len())?;
        Ok(soak)
    }

    fn kill_again_and_again(&mut self, plan: &CrashPlan, progress: &mut dyn FnMut(&str)) -> Result<(), Failure> {
        let mut chance = Chance::new(plan.seed);
        for kill in 1..=plan.kills {
            progress(&format!("{}: kill {kill} of {}", self.name, plan.kills));
            let (least, most) = if kill % 5 == 2 { EARLY_MS } else { ALIVE_MS };
            self.look_for(chance.between_ms(least, most), None)?;
            self.kill()?;
            self.listen(chance.between_ms(AWAY_MS.0, AWAY_MS.1))?;
            self.started = Stopwatch::start();
            self.daemon = start(self.bench, &self.name, &self.config)?;
            self.until_served()?;
            // Now and then the next kill comes at once, and now and then the slow disk gets somewhere.
            match kill % 5 {
                1 => {}
                0 => self.until_going_on(KINDS.len())?,
                _ => self.until_going_on(1)?,
            }
        }
        self.until_going_on(KINDS.len())
    }

    /// Waits until the first so many disks go on.
    fn until_going_on(&mut self, disks: usize) -> Result<(), Failure> {
        if self.look_for(Duration::from_secs(PATIENCE_S), Some(disks))? { Ok(()) } else { Err(self.standstill()?) }
    }

    /// Waits until the queues of all disks run. A QEMU of 7.2 whose server dies in the middle of its first messages never speaks to
    /// the next: it connects, and that is all.
    fn until_served(&mut self) -> Result<(), Failure> {
        let deadline = Deadline::after_s(PATIENCE_S);
        while deadline.left().is_some() {
            if self.served()?.iter().all(|served| *served) {
                return Ok(());
            }
            self.listen(LOOK)?;
        }
        Err(self.standstill()?)
    }

    /// Of each disk, whether its queues run.
    fn served(&mut self) -> Result<Vec<bool>, Failure> {
        let controllers = self.daemon.call("vhost_get_controllers", Value::Null)?;
        let started = |controller: &Value| controller["sessions"][0]["started"] == true;
        Ok(controllers.as_array().into_iter().flatten().map(started).collect())
    }

    /// The failure of disks that stand still, with what is known of them.
    fn standstill(&mut self) -> Result<Failure, Failure> {
        let served = self.served()?;
        let ended: Vec<u64> = self.disks.iter().map(|state| state.ended).collect();
        let (daemon, guest) = (self.daemon.log().display(), self.guest.log().display());
        Ok(format!(
            "a disk stands still for {PATIENCE_S} s: served {served:?}, {ended:?} requests ended; the logs are {daemon} and {guest}"
        )
        .into())
    }

    /// Counts what is in flight, and kills the daemon.
    fn kill(&mut self) -> Result<(), Failure> {
        let stats = self.daemon.call("bdev_get_iostat", json!({}))?;
        self.daemon.process().kill();
        self.crashes.early += u32::from(KINDS.iter().all(|kind| count(&stats, kind, ENDED) == 0));
        for (kind, state) in KINDS.iter().zip(&mut self.disks) {
            // As long as none has ended, what was under way at the last kill is so now, whether the daemon has begun it again or not.
            let before = if count(&stats, kind, ENDED) == 0 { state.in_flight_at_kill } else { 0 };
            let in_flight_at_kill = count(&stats, kind, &["in_flight"]).max(before);
            *state = State { still_since: state.still_since.or_else(|| Some(Stopwatch::start())), in_flight_at_kill, ended: 0 };
        }
        self.crashes.in_flight.push(self.disks.map(|state| state.in_flight_at_kill));
        Ok(())
    }

    /// Looks at the disks for so long, or until the first so many go on. The answer is whether they do.
    fn look_for(&mut self, time: Duration, going_on: Option<usize>) -> Result<bool, Failure> {
        let deadline = Deadline::after(time);
        loop {
            self.look()?;
            if going_on.is_some_and(|disks| self.disks[..disks].iter().all(State::goes_on)) {
                return Ok(true);
            }
            let Some(left) = deadline.left() else { return Ok(false) };
            self.listen(left.min(LOOK))?;
        }
    }

    /// Notes what has ended.
    fn look(&mut self) -> Result<(), Failure> {
        let stats = self.daemon.call("bdev_get_iostat", json!({}))?;
        for (number, (kind, state)) in KINDS.iter().zip(&mut self.disks).enumerate() {
            state.ended = count(&stats, kind, ENDED);
            if let Some(since) = state.still_since.take_if(|_| state.ended > 0) {
                self.crashes.pauses[number].note(since.elapsed());
                self.crashes.returns[number].note(self.started.elapsed());
            }
        }
        Ok(())
    }

    /// Lets time pass, in which the guest may say that it has failed.
    fn listen(&mut self, time: Duration) -> Result<(), Failure> {
        match self.guest.heard("failed: ", Deadline::after(time))? {
            Some(said) => Err(load::failed(&self.guest, &said)),
            None => Ok(()),
        }
    }

    fn end(mut self) -> Result<Crashes, Failure> {
        // What is read back in the end need not be slow.
        for kind in &KINDS {
            for latency in ["avg_read", "avg_write", "p99_read", "p99_write"] {
                let params = json!({"delay_bdev_name": kind.name, "latency_type": latency, "latency_us": 0});
                self.daemon.call("bdev_delay_update_latency", params)?;
            }
        }
        self.guest.tell("enough")?;
        self.guest.until("guest: the script ended", Deadline::after_s(2 * PATIENCE_S))?;
        let reports = self.guest.reports().to_vec();
        let mut crashes = self.crashes;
        crashes.claims = self.guest.finish(Deadline::after_s(PATIENCE_S))?;
        self.daemon.stop()?;
        for (number, kind) in KINDS.iter().enumerate() {
            crashes.loads[number] = Loaded::of(&reports, number);
            let text = format!("{}: sectors of the {} disk were checked", self.name, kind.name);
            crashes.claims.push(claim(&text, crashes.loads[number].stamps > 0));
        }
        let fired = crashes.in_flight.iter().flatten().any(|count| *count > 0);
        crashes.claims.push(claim(&format!("{}: requests were in flight when the daemon was killed", self.name), fired));
        Ok(crashes)
    }
}

fn start(bench: &Bench, name: &str, config: &Path) -> Result<Daemon, Failure> {
    let config = config.to_str().ok_or("the path of the logs is not UTF-8")?;
    Ok(Daemon::start(&bench.spineld, &["-c", config], &bench.sockets, &bench.logs.join(format!("{name}.spineld.log")))?)
}

fn socket(kind: &Kind) -> String {
    format!("{}.sock", kind.name)
}

/// The disks as a file that the daemon reads when it starts.
fn configuration(bench: &Bench) -> Result<Value, Failure> {
    let (mut bdevs, mut controllers) = (Vec::new(), Vec::new());
    for kind in &KINDS {
        let Kind { name, read_us, write_us, .. } = kind;
        let (file, base) = (bench.disk_file(name), format!("{name}-file"));
        sparse_file(&file, DISK_BYTES)?;
        bdevs.push(json!({"method": "bdev_uring_create", "params": {"filename": file, "name": base, "block_size": 512}}));
        bdevs.push(json!({"method": "bdev_delay_create", "params": {
            "name": name, "base_bdev_name": base, "avg_read_latency": read_us[0], "p99_read_latency": read_us[1],
            "avg_write_latency": write_us[0], "p99_write_latency": write_us[1],
        }}));
        controllers.push(json!({"method": "vhost_create_blk_controller", "params": {"ctrlr": socket(kind), "dev_name": name}}));
    }
    Ok(json!({"subsystems": [{"subsystem": "bdev", "config": bdevs}, {"subsystem": "vhost_blk", "config": controllers}]}))
}

/// What the daemon calls the requests that have ended; flushes are not delayed, and say nothing of the others.
const ENDED: &[&str] = &["num_read_ops", "num_write_ops"];

/// The sum of these counts of a disk in an answer to bdev_get_iostat.
fn count(stats: &Value, kind: &Kind, names: &[&str]) -> u64 {
    let mut bdevs = stats["bdevs"].as_array().into_iter().flatten();
    let of = bdevs.find(|bdev| bdev["name"] == kind.name);
    names.iter().filter_map(|name| of?[*name].as_u64()).sum()
}

impl fmt::Display for Crashes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kills, all) = (self.in_flight.len(), self.in_flight.iter().map(|of| of.iter().sum()));
        writeln!(
            f,
            "{} rings, seed {}: {kills} kills, {} of them before any request had ended since the last",
            self.layout, self.seed, self.early
        )?;
        writeln!(f, "  all   in flight when killed: {}", InFlight(all.collect()))?;
        for (number, kind) in KINDS.iter().enumerate() {
            let in_flight = InFlight(self.in_flight.iter().map(|of| of[number]).collect());
            let Loaded { rounds, requests, stamps, longest } = self.loads[number];
            writeln!(f, "  {:<6}in flight when killed: {in_flight}", kind.name)?;
            writeln!(f, "        pauses: {}", self.pauses[number])?;
            writeln!(f, "        since the daemon's start: {}", self.returns[number])?;
            writeln!(
                f,
                "        in the guest: {requests} requests in {rounds} rounds, {stamps} sectors checked, longest {} ms",
                longest.as_millis()
            )?;
        }
        Ok(())
    }
}

/// How many requests were in flight at each kill.
struct InFlight(Vec<u64>);

impl fmt::Display for InFlight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let (total, median) = (sorted.iter().sum::<u64>(), sorted.get(sorted.len() / 2).copied().unwrap_or(0));
        let none = sorted.iter().filter(|count| **count == 0).count();
        write!(f, "{total} in all, median {median}, none at {none} kills")
    }
}
