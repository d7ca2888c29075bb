//! A guest's disk through two daemons: its kernel's initiator, the near daemon's target and initiator, the far daemon's target, a
//! file. The far daemon is killed (SIGKILL) under verified load and started again, which must be a pause and nothing else.

use crate::fabric::{NVME_HOST, SUBSYSTEM, at, attachment, boot_host, controllers, free_ports, listen, subsystem};
use crate::pauses::Pauses;
use crate::{Bench, DISK, Failure, Findings, claim};
use serde_json::{Value, json};
use spinel_testbed::backing::sparse_file;
use spinel_testbed::clock::{Deadline, Stopwatch};
use spinel_testbed::daemon::Daemon;
use spinel_testbed::guest::Guest;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

const CHAIN: &str = include_str!("../guest/chain.sh");

/// What the far daemon offers to the near one.
const FAR: &str = "nqn.2026-11.example.spinel:far";
/// How often the far daemon is killed.
const KILLS: u32 = 3;
/// It is alive for so long before, and away for so long after.
const ALIVE: Duration = Duration::from_millis(1500);
const AWAY: Duration = Duration::from_millis(700);
/// The guest may stand still for so long after a restart: machines are busy.
const PATIENCE_S: u64 = 60;
/// How often the far daemon is asked what it has done.
const LOOK: Duration = Duration::from_millis(20);

pub(crate) fn run(bench: &Bench) -> Result<Findings, Failure> {
    let [near_port, far_port] = free_ports()?;
    let mut far = Far::begin(bench, far_port)?;
    let mut near = bench.daemon("chain-near")?;
    near.call("bdev_nvme_set_options", json!({"keep_alive_timeout_ms": 1000, "reconnect_delay_sec": 1, "ctrlr_loss_timeout_sec": 600}))?;
    near.call("bdev_nvme_attach_controller", attachment("far", FAR, far_port))?;
    subsystem(&mut near, SUBSYSTEM, true)?;
    near.call("nvmf_subsystem_add_ns", json!({"nqn": SUBSYSTEM, "namespace": {"nsid": 1, "bdev_name": "farn1"}}))?;
    listen(&mut near, SUBSYSTEM, near_port)?;
    let script = format!("{DISK}\n{NVME_HOST}\n{CHAIN}\nis_served {near_port}\nconclude\n");
    let mut guest = boot_host(bench, "chain", script)?;
    at(&mut guest, "busy")?;
    let mut findings = Findings::default();
    let mut pauses = Pauses::default();
    let mut went_on = false;
    for _ in 0..KILLS {
        guest.heard("\0", Deadline::after(ALIVE))?;
        let pause = Stopwatch::start();
        far.daemon.process().kill();
        guest.heard("\0", Deadline::after(AWAY))?;
        far.start()?;
        went_on = far.goes_on(&mut guest)?;
        if !went_on {
            break;
        }
        pauses.note(pause.elapsed());
    }
    findings.claims.push(claim("the guest goes on whenever the far daemon is back", went_on));
    findings.figures.push(format!("pauses from a kill to the first request that ends after it: {pauses}"));
    guest.tell("enough")?;
    findings.claims.extend(guest.finish(Deadline::after_s(2 * PATIENCE_S))?);
    findings.claims.push(claim("the near daemon has no controller left", controllers(&mut near, SUBSYSTEM)?.is_empty()));
    near.stop()?;
    findings.claims.push(claim("and has left the far one", far.is_left()?));
    far.daemon.stop()?;
    Ok(findings)
}

/// The daemon at the end of the chain. Between a kill and the next start nobody may ask it anything.
struct Far<'a> {
    bench: &'a Bench,
    sockets: PathBuf,
    config: PathBuf,
    daemon: Daemon,
}

impl<'a> Far<'a> {
    fn begin(bench: &'a Bench, port: u16) -> Result<Self, Failure> {
        let sockets = bench.sockets.join("far");
        fs::create_dir_all(&sockets)?;
        let file = bench.disk_file("chain");
        sparse_file(&file, 64 << 20)?;
        let mut daemon = start(bench, &sockets, &[])?;
        daemon.call("bdev_uring_create", json!({"filename": file, "name": "disk", "block_size": 4096}))?;
        subsystem(&mut daemon, FAR, true)?;
        daemon.call("nvmf_subsystem_add_ns", json!({"nqn": FAR, "namespace": {"nsid": 1, "bdev_name": "disk"}}))?;
        listen(&mut daemon, FAR, port)?;
        let config = bench.logs.join("chain-far.json");
        fs::write(&config, saved(&mut daemon)?.to_string())?;
        Ok(Self { bench, sockets, config, daemon })
    }

    fn start(&mut self) -> Result<(), Failure> {
        let config = self.config.to_str().ok_or("the path of the logs is not UTF-8")?;
        self.daemon = start(self.bench, &self.sockets, &["-c", config])?;
        Ok(())
    }

    /// Waits until nobody is connected any more.
    fn is_left(&mut self) -> Result<bool, Failure> {
        let deadline = Deadline::after_s(PATIENCE_S);
        while deadline.left().is_some() {
            if controllers(&mut self.daemon, FAR)?.is_empty() {
                return Ok(true);
            }
            // Its end would be as good an event; what is waited for is the time.
            let _ = self.daemon.process().wait_until(Deadline::after(LOOK))?;
        }
        Ok(false)
    }

    /// Waits until requests end again.
    fn goes_on(&mut self, guest: &mut Guest) -> Result<bool, Failure> {
        let deadline = Deadline::after_s(PATIENCE_S);
        while deadline.left().is_some() {
            let stats = self.daemon.call("bdev_get_iostat", json!({"name": "disk"}))?;
            if stats["bdevs"][0]["num_read_ops"].as_u64().is_some_and(|reads| reads > 0) {
                return Ok(true);
            }
            guest.heard("\0", Deadline::after(LOOK))?;
        }
        Ok(false)
    }
}

fn start(bench: &Bench, sockets: &Path, arguments: &[&str]) -> Result<Daemon, Failure> {
    Ok(Daemon::start(&bench.spineld, arguments, sockets, &bench.logs.join("chain-far.spineld.log"))?)
}

/// What the daemon has, as a file that it starts from.
fn saved(daemon: &mut Daemon) -> Result<Value, Failure> {
    let subsystems = daemon.call("framework_get_subsystems", Value::Null)?;
    let mut all = Vec::new();
    for name in subsystems.as_array().into_iter().flatten().map(|subsystem| &subsystem["subsystem"]) {
        all.push(json!({"subsystem": name, "config": daemon.call("framework_get_config", json!({"name": name}))?}));
    }
    Ok(json!({"subsystems": all}))
}
