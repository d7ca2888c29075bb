//! One daemon takes over from another again and again, and either is killed (SIGKILL) in the middle of it: its guest notices nothing, or a pause.

use crate::chance::Chance;
use crate::load::{self, LOAD, Loaded};
use crate::pauses::Pauses;
use crate::{Bench, DISK, Failure, Findings, claim};
use serde_json::{Value, json};
use spinel_testbed::backing::sparse_file;
use spinel_testbed::clock::{Deadline, Stopwatch};
use spinel_testbed::daemon::{Daemon, DaemonError};
use spinel_testbed::guest::{Claim, Disk, Guest, Plan, Rings};
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// How long the guest may stand still, and half of what it may take to begin and to end: machines are busy.
const PATIENCE_S: u64 = 120;
/// How often the daemon is asked what it has done.
const LOOK: Duration = Duration::from_millis(20);
/// The guest is left alone for so long between two takeovers, and a process lives for so long after the next one was started, in
/// milliseconds. A takeover takes from some milliseconds to some tens of them.
const BETWEEN_MS: (u64, u64) = (0, 500);
const KILLED_MS: (u64, u64) = (0, 60);
/// How long a process that has let go may take to notice that the next one is gone.
const NOTICE: Duration = Duration::from_secs(3);

const DISK_BYTES: u64 = 64 << 20;
const NAMES: [&str; 2] = ["quick", "slow"];
/// Of reads and writes of the slow disk: some are under way at any moment.
const SLOW_US: u64 = 5_000;

/// What is to be done.
#[derive(Debug, Clone)]
pub struct TakeoverPlan {
    /// How often one takes over in peace.
    pub takeovers: u32,
    /// How often one of the two is killed in the middle of it.
    pub kills: u32,
    /// The same seed chooses the same moments.
    pub seed: u64,
    /// Whether the rings are packed, not split.
    pub packed: bool,
}

/// What has come of it.
#[derive(Debug, Default)]
pub struct Takeovers {
    /// What was claimed.
    pub claims: Vec<Claim>,
    seed: u64,
    layout: &'static str,
    takeovers: u32,
    /// The engine's own figures of how long disks stood still, in its words, after the last peaceful one.
    told: Value,
    kills: u32,
    /// What had become of it when the one that was killed had gone.
    went_on: u32,
    began_anew: u32,
    taken_over: u32,
    neither: u32,
    /// From a kill to when both disks went on.
    pauses: Pauses,
    loads: [Loaded; NAMES.len()],
}

pub(crate) fn case(bench: &Bench) -> Result<Findings, Failure> {
    let mut findings = Findings::default();
    for packed in [false, true] {
        let plan = TakeoverPlan { takeovers: 5, kills: 6, seed: 1, packed };
        let takeovers = run(bench, &plan, &mut |_| ())?;
        findings.figures.extend(takeovers.to_string().lines().map(str::to_owned));
        findings.claims.extend(takeovers.claims);
    }
    Ok(findings)
}

/// Has daemons take over from each other, and kills them, as planned; tells `progress` how far it is.
///
/// # Errors
/// When the guest or a daemon ended in disorder, stood still, or met a failed or wrong request.
pub fn run(bench: &Bench, plan: &TakeoverPlan, progress: &mut dyn FnMut(&str)) -> Result<Takeovers, Failure> {
    let mut relay = Relay::begin(bench, plan)?;
    let mut chance = Chance::new(plan.seed);
    for number in 1..=plan.takeovers {
        progress(&format!("{}: takeover {number} of {}", relay.name, plan.takeovers));
        relay.listen(chance.between_ms(BETWEEN_MS.0, BETWEEN_MS.1))?;
        relay.daemon.take_over(&bench.spineld, &[])?;
        relay.takeovers.takeovers += 1;
        relay.until_going_on()?;
    }
    relay.takeovers.told = relay.daemon.call("spinel_get_takeovers", Value::Null)?;
    for number in 1..=plan.kills {
        progress(&format!("{}: kill {number} of {}", relay.name, plan.kills));
        relay.listen(chance.between_ms(BETWEEN_MS.0, BETWEEN_MS.1))?;
        let lives = chance.between_ms(KILLED_MS.0, KILLED_MS.1);
        if number % 2 == 0 { relay.kill_next(lives)? } else { relay.kill_running(lives)? }
    }
    relay.end()
}

/// A guest under load, and the daemon that serves it now.
struct Relay<'a> {
    bench: &'a Bench,
    name: String,
    config: PathBuf,
    daemon: Daemon,
    guest: Guest,
    takeovers: Takeovers,
}

impl<'a> Relay<'a> {
    fn begin(bench: &'a Bench, plan: &TakeoverPlan) -> Result<Self, Failure> {
        let layout = if plan.packed { "packed" } else { "split" };
        let name = format!("takeover-{layout}");
        let config = bench.logs.join(format!("{name}.json"));
        std::fs::write(&config, configuration(bench)?.to_string())?;
        let daemon = start(bench, &name, &config)?;
        let (mut disks, mut script) = (Vec::new(), format!("{DISK}\n{LOAD}\n"));
        for (number, disk) in NAMES.iter().enumerate() {
            let rings = Rings { packed: plan.packed, ..Rings::default() };
            disks.push(Disk { socket: bench.sockets.join(socket(disk)), queues: 1, rings, reconnects: true });
            script += &format!("packed {name} {number} {}\n", u8::from(plan.packed));
            script += &format!("load {number} 4000 --depth 16 --flush-every 50 --area 16M &\n");
        }
        script += &format!("until_told {name} 'load-0 load-1'\nconclude\n");
        let guest = Plan { name: name.clone(), memory_mib: 512, processors: 1, disks, script, arrives: false, network: None };
        let mut guest = load::maker(bench)?.boot(&guest, &bench.sockets, &bench.logs)?;
        guest.until("reached: busy", Deadline::after_s(2 * PATIENCE_S))?;
        let takeovers = Takeovers { seed: plan.seed, layout, ..Takeovers::default() };
        let mut relay = Self { bench, name, config, daemon, guest, takeovers };
        relay.until_going_on()?;
        Ok(relay)
    }

    /// Lets the next one live for so long, and then kills it.
    fn kill_next(&mut self, lives: Duration) -> Result<(), Failure> {
        let mut next = self.daemon.begin_takeover(&self.bench.spineld, &[])?;
        self.listen(lives)?;
        next.kill();
        self.takeovers.kills += 1;
        let killed = Stopwatch::start();
        // One that had let go ends when it notices; any other goes on.
        if self.daemon.process().wait_until(Deadline::after(NOTICE))?.is_some() {
            self.takeovers.neither += 1;
            self.daemon = start(self.bench, &self.name, &self.config)?;
        } else {
            self.takeovers.went_on += 1;
        }
        self.note_pause(killed)
    }

    /// Has one take over, and kills the one that runs in the middle of it.
    fn kill_running(&mut self, lives: Duration) -> Result<(), Failure> {
        let next = self.daemon.begin_takeover(&self.bench.spineld, &[])?;
        self.listen(lives)?;
        self.daemon.process().kill();
        self.takeovers.kills += 1;
        let killed = Stopwatch::start();
        match self.daemon.become_next(next) {
            Ok(()) => {
                let took = self.daemon.call("spinel_get_takeovers", Value::Null)?["takeovers"] != 0;
                *if took { &mut self.takeovers.taken_over } else { &mut self.takeovers.began_anew } += 1;
            }
            // There was nobody yet, or nobody any more, to take over from.
            Err(DaemonError::Ended { .. }) => {
                self.takeovers.neither += 1;
                self.daemon = start(self.bench, &self.name, &self.config)?;
            }
            Err(error) => return Err(error.into()),
        }
        self.note_pause(killed)
    }

    fn note_pause(&mut self, killed: Stopwatch) -> Result<(), Failure> {
        self.until_going_on()?;
        self.takeovers.pauses.note(killed.elapsed());
        Ok(())
    }

    /// Waits until both disks have had more requests served than may have been under way.
    fn until_going_on(&mut self) -> Result<(), Failure> {
        const MORE: u64 = 40;
        let before = self.ended()?;
        let deadline = Deadline::after_s(PATIENCE_S);
        while deadline.left().is_some() {
            let now = self.ended()?;
            if now.iter().zip(&before).all(|(now, before)| *now >= before + MORE) {
                return Ok(());
            }
            self.listen(LOOK)?;
        }
        let (daemon, guest) = (self.daemon.log().display(), self.guest.log().display());
        Err(format!("a disk stands still for {PATIENCE_S} s; the logs are {daemon} and {guest}").into())
    }

    /// How many reads and writes of each disk the daemon has served.
    fn ended(&mut self) -> Result<[u64; NAMES.len()], Failure> {
        let stats = self.daemon.call("bdev_get_iostat", json!({}))?;
        let count = |name: &str| {
            let bdev = stats["bdevs"].as_array().into_iter().flatten().find(|bdev| bdev["name"] == name);
            ["num_read_ops", "num_write_ops"].iter().filter_map(|count| bdev?[*count].as_u64()).sum()
        };
        Ok(NAMES.map(count))
    }

    /// Lets time pass, in which the guest may say that it has failed.
    fn listen(&mut self, time: Duration) -> Result<(), Failure> {
        match self.guest.heard("failed: ", Deadline::after(time))? {
            Some(said) => Err(load::failed(&self.guest, &said)),
            None => Ok(()),
        }
    }

    fn end(mut self) -> Result<Takeovers, Failure> {
        self.guest.tell("enough")?;
        self.guest.until("guest: the script ended", Deadline::after_s(2 * PATIENCE_S))?;
        let reports = self.guest.reports().to_vec();
        let mut takeovers = self.takeovers;
        takeovers.claims = self.guest.finish(Deadline::after_s(PATIENCE_S))?;
        self.daemon.stop()?;
        for (number, disk) in NAMES.iter().enumerate() {
            takeovers.loads[number] = Loaded::of(&reports, number);
            let text = format!("{}: sectors of the {disk} disk were checked", self.name);
            takeovers.claims.push(claim(&text, takeovers.loads[number].stamps > 0));
        }
        Ok(takeovers)
    }
}

fn start(bench: &Bench, name: &str, config: &std::path::Path) -> Result<Daemon, Failure> {
    let config = config.to_str().ok_or("the path of the logs is not UTF-8")?;
    Ok(Daemon::start(&bench.spineld, &["-c", config], &bench.sockets, &bench.logs.join(format!("{name}.spineld.log")))?)
}

fn socket(name: &str) -> String {
    format!("{name}.takeover")
}

/// The disks as a file that the daemon reads when it starts.
fn configuration(bench: &Bench) -> Result<Value, Failure> {
    let (mut bdevs, mut controllers) = (Vec::new(), Vec::new());
    for name in NAMES {
        let (file, base) = (bench.disk_file(&format!("takeover-{name}")), format!("{name}-file"));
        sparse_file(&file, DISK_BYTES)?;
        let us = if name == "slow" { SLOW_US } else { 0 };
        bdevs.push(json!({"method": "bdev_uring_create", "params": {"filename": file, "name": base, "block_size": 512}}));
        bdevs.push(json!({"method": "bdev_delay_create", "params": {
            "name": name, "base_bdev_name": base, "avg_read_latency": us, "p99_read_latency": us,
            "avg_write_latency": us, "p99_write_latency": us,
        }}));
        controllers.push(json!({"method": "vhost_create_blk_controller", "params": {"ctrlr": socket(name), "dev_name": name}}));
    }
    Ok(json!({"subsystems": [{"subsystem": "bdev", "config": bdevs}, {"subsystem": "vhost_blk", "config": controllers}]}))
}

impl fmt::Display for Takeovers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |key: &str| self.told[key].as_u64().unwrap_or(0) / 1_000_000;
        writeln!(f, "{} rings, seed {}: {} takeovers in peace", self.layout, self.seed, self.takeovers)?;
        writeln!(f, "  a disk stood still: p50 {} ms, p99 {} ms, longest {} ms", ms("p50_ns"), ms("p99_ns"), ms("max_ns"))?;
        let Self { kills, went_on, began_anew, taken_over, neither, .. } = self;
        writeln!(
            f,
            "  {kills} kills in the middle: {went_on} times the running one went on, {taken_over} times the next one had taken over, \
             {began_anew} times it began anew, {neither} times neither was left"
        )?;
        writeln!(f, "  from a kill to disks that go on: {}", self.pauses)?;
        for (name, Loaded { rounds, requests, stamps, longest }) in NAMES.iter().zip(&self.loads) {
            let longest_ms = longest.as_millis();
            writeln!(
                f,
                "  {name:<6}in the guest: {requests} requests in {rounds} rounds, {stamps} sectors checked, longest {longest_ms} ms"
            )?;
        }
        Ok(())
    }
}
