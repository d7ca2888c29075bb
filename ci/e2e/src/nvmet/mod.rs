//! A guest that is Linux' own target (nvmet), which does what it is told, and the daemon and spinelbench as its hosts. What they do
//! to each other is in the files below.

mod fails;
mod uses;

pub(crate) use fails::run as fails;
pub(crate) use uses::run as uses;

use crate::fabric::{attachment, free_ports, plan};
use crate::{Bench, DISK, Failure};
use serde_json::json;
use spinel_testbed::backing::sparse_file;
use spinel_testbed::clock::Deadline;
use spinel_testbed::daemon::Daemon;
use spinel_testbed::guest::{Claim, Disk, Guest, Plan, Rings};
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

const NVMET: &str = include_str!("../../guest/nvmet.sh");

/// The subsystem whose namespace 1 outlives the guest, and the ports by which the guest offers it.
const SUBSYSTEM: &str = "nqn.2026-11.example.linux:disks";
const PORTS: [u16; 2] = [4420, 4421];
/// Loads sleep while they wait: the guest needs the processors.
const GENTLY: [&str; 2] = ["--wait", "sleep"];
/// What it may take until something is so: machines are busy.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often it is looked.
const LOOK: Duration = Duration::from_millis(50);

/// The daemon, and the guest with a disk of the daemon's, which it offers by two ports.
struct Target<'a> {
    bench: &'a Bench,
    case: &'static str,
    daemon: Daemon,
    /// None between its end and the next.
    guest: Option<Guest>,
    disk: PathBuf,
    /// Where the guest's ports are on this machine.
    ports: [u16; 2],
    claims: Vec<Claim>,
}

impl<'a> Target<'a> {
    /// Boots it, and has it offer the disk.
    fn begin(bench: &'a Bench, case: &'static str, arguments: &[&str]) -> Result<Self, Failure> {
        let file = bench.disk_file(case);
        sparse_file(&file, 64 << 20)?;
        let mut daemon = Daemon::start(&bench.spineld, arguments, &bench.sockets, &bench.logs.join(format!("{case}.spineld.log")))?;
        daemon.call("bdev_uring_create", json!({"filename": file, "name": "disk", "block_size": 512}))?;
        let disk = daemon.serve("disk", false)?;
        let ports = free_ports()?;
        let mut target = Self { bench, case, daemon, guest: None, disk, ports, claims: Vec::new() };
        target.boot()?;
        Ok(target)
    }

    /// Boots the guest where there is none, on the same disk.
    fn boot(&mut self) -> Result<(), Failure> {
        let disk = Disk { socket: self.disk.clone(), queues: 2, rings: Rings::default(), reconnects: false };
        let forwards = self.ports.into_iter().zip(PORTS).collect();
        let plan = Plan { disks: vec![disk], ..plan(self.case, format!("{DISK}\n{NVMET}\nbegins\nobeys\nconclude\n"), forwards) };
        let mut guest = self.bench.maker.boot(&plan, &self.bench.sockets, &self.bench.logs)?;
        guest.until("ready", Deadline::after(PATIENCE))?;
        self.guest = Some(guest);
        self.order(&format!("offers {SUBSYSTEM} 1"))?;
        self.order(&format!("holds {SUBSYSTEM} 1 $(disk 0)"))?;
        for port in PORTS {
            self.order(&format!("listens {port}"))?;
            self.order(&format!("links {SUBSYSTEM} {port}"))?;
        }
        Ok(())
    }

    fn guest(&mut self) -> &mut Guest {
        self.guest.as_mut().expect("nobody talks to a guest that was killed")
    }

    /// Has the guest do something, which is a claim of its own.
    fn order(&mut self, order: &str) -> Result<(), Failure> {
        self.guest().tell(order)?;
        self.guest().until("done", Deadline::after(PATIENCE))?;
        Ok(())
    }

    /// Kills the guest (SIGKILL).
    fn kill(&mut self) {
        if let Some(guest) = self.guest.take() {
            self.claims.extend(guest.kill());
        }
    }

    /// Attaches the disk as the bdev farn1, by one of the ports.
    fn attach(&mut self, way: usize) -> Result<(), Failure> {
        let params = attachment("far", SUBSYSTEM, self.ports[way]);
        self.daemon.call("bdev_nvme_attach_controller", params)?;
        Ok(())
    }

    /// How many of the ways to a controller's namespaces are connected.
    fn connected(&mut self, name: &str) -> Result<usize, Failure> {
        let shown = self.daemon.call("bdev_nvme_get_controllers", json!({"name": name}))?;
        Ok(shown[0]["ctrlrs"].as_array().into_iter().flatten().filter(|of| of["state"] == "enabled").count())
    }

    /// Ends everything in order, and answers every claim.
    fn end(mut self) -> Result<Vec<Claim>, Failure> {
        self.guest().tell("enough")?;
        if let Some(guest) = self.guest.take() {
            self.claims.extend(guest.finish(Deadline::after(PATIENCE))?);
        }
        self.daemon.stop()?;
        Ok(self.claims)
    }
}

/// The cores that this process may use, as spinelbench and the daemon take them, two at most.
fn two_cores() -> Result<String, Failure> {
    let status = fs::read_to_string("/proc/self/status")?;
    let list =
        status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).ok_or("the kernel does not say which cores there are")?;
    let bounds = list.trim().split(',').flat_map(|part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        [first.to_owned(), last.to_owned()]
    });
    let mut cores: Vec<String> = bounds.collect();
    cores.dedup();
    cores.truncate(2);
    Ok(cores.join(","))
}
