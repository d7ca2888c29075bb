//! `cargo xtask demo`: from a checkout to a guest on a Spinel disk, step by step. It asserts no speed.

use crate::kept::Kept;
use crate::project::Project;
use crate::steps::{Step, Steps};
use crate::{Failure, bed, report};
use serde_json::{Value, json};
use spinel_testbed::backing::sparse_file;
use spinel_testbed::clock::{Deadline, Stopwatch};
use spinel_testbed::daemon::Daemon;
use spinel_testbed::guest::{Disk, Guest, Maker, Plan, Rings};
use std::path::{Path, PathBuf};

const SCRIPT: &str = include_str!("../guest/demo.sh");

const DISK_BYTES: u64 = 1 << 30;
const QUEUES: u16 = 4;

/// What the guest does, and the mark at which it has done it.
const PHASES: [(&str, &str); 4] = [
    ("look at the disk in the guest", "features"),
    ("fio: random reads and writes, verified with crc32c", "fio"),
    ("discard and write zeroes", "discard"),
    ("mkfs, mount, 16 MiB file, fstrim, fsck", "file system"),
];

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Fetch what is missing without asking (as CI=true does)
    #[arg(long, short)]
    yes: bool,
    /// Leave the guest and the daemon running, and say how to look around
    #[arg(long)]
    keep: bool,
}

/// What the steps hand on to each other.
struct Demo<'a> {
    project: &'a Project,
    logs: PathBuf,
    sockets: PathBuf,
}

pub(crate) fn run(project: &Project, options: &Options) -> Result<(), Failure> {
    Kept::refuse_a_second(project)?;
    bed::agree(options.yes)?;
    let watch = Stopwatch::start();
    let logs = project.fresh_folder("demo")?;
    let sockets = bed::sockets()?;
    let demo = Demo { project, logs, sockets: sockets.path().to_owned() };
    let seen = demo.steps(options.keep)?;

    println!();
    seen.reports.iter().for_each(|line| println!("{line}"));
    println!("The engine's own histograms, each request from its guest's ring and back:\n{}", report::latencies(&seen.stats));
    println!("Every claim held, in {:.0} s. Logs: {}", watch.elapsed().as_secs_f64(), demo.logs.display());
    match seen.running {
        None => println!("The guest and the daemon are stopped."),
        Some((daemon, guest)) => {
            // What goes on running needs its sockets.
            let kept = Kept { guest: guest.leave_running(), spineld: daemon.leave_running(), sockets: sockets.keep() };
            kept.remember(project)?;
        }
    }
    Ok(())
}

/// What the demonstration has brought to light.
struct Seen {
    /// In the guest's words.
    reports: Vec<String>,
    /// In the engine's: its answer to bdev_get_iostat.
    stats: Value,
    /// What is to go on running.
    running: Option<(Daemon, Guest)>,
}

impl Demo<'_> {
    fn steps(&self, keep: bool) -> Result<Seen, Failure> {
        let mut steps = Steps::new(5 + PHASES.len() + usize::from(!keep));
        let log = |name: &str| self.logs.join(format!("{name}.log"));
        let packages = steps.run("fetch QEMU, a guest kernel and fio", |step| bed::packages(&log("fetch"), step))?;
        let maker = steps.run("build the guest's image, and try KVM", |_| bed::maker(self.project, packages, &self.sockets))?;
        let programs = steps.run("build spineld and spinelctl", |step| self.project.build_programs(&log("build"), step))?;
        let start = |_: &Step| self.start(&programs.join("spineld"), &log("spineld"));
        let (mut daemon, socket) = steps.run("start spineld with a disk on a file", start)?;
        let title = format!("boot a guest on the disk, under {}", maker.accelerator);
        let mut guest = steps.run(&title, |_| self.boot(&maker, socket, keep))?;
        for (title, mark) in PHASES {
            steps.run(title, |_| phase(&mut guest, mark))?;
        }
        if keep {
            guest.until("done: everything", Deadline::after_s(60))?;
        }
        let reports = guest.reports().to_vec();
        let stats = daemon.call("bdev_get_iostat", json!({"names": ["demo"]}))?;
        if keep {
            return Ok(Seen { reports, stats, running: Some((daemon, guest)) });
        }
        steps.run("stop the guest and the daemon", |_| {
            guest.finish(Deadline::after_s(60))?;
            Ok(daemon.stop()?)
        })?;
        Ok(Seen { reports, stats, running: None })
    }

    fn start(&self, spineld: &Path, log: &Path) -> Result<(Daemon, PathBuf), Failure> {
        let file = self.logs.join("disk.img");
        sparse_file(&file, DISK_BYTES)?;
        let mut daemon = Daemon::start(spineld, &[], &self.sockets, log)?;
        daemon.call("bdev_uring_create", json!({"filename": file, "name": "demo", "block_size": 512}))?;
        let socket = daemon.serve("demo", false)?;
        Ok((daemon, socket))
    }

    fn boot(&self, maker: &Maker, socket: PathBuf, keep: bool) -> Result<Guest, Failure> {
        let keep = if keep { "yes" } else { "" };
        let plan = Plan {
            name: "demo-guest".to_owned(),
            memory_mib: 512,
            // As many as queues: the guest's driver uses no more queues than it has processors.
            processors: QUEUES,
            disks: vec![Disk { socket, queues: QUEUES, rings: Rings::default(), reconnects: false }],
            script: format!("KEEP={keep}\n{}\n{SCRIPT}", spinel_e2e::DISK),
            arrives: false,
            network: None,
        };
        let mut guest = maker.boot(&plan, &self.sockets, &self.logs)?;
        guest.until("guest: up", Deadline::after_s(120))?;
        Ok(guest)
    }
}

/// Waits until the guest is through a phase. A claim that did not hold fails it.
fn phase(guest: &mut Guest, mark: &str) -> Result<(), Failure> {
    guest.until(&format!("done: {mark}"), Deadline::after_s(240))?;
    match guest.broken() {
        None => Ok(()),
        Some(claim) => Err(format!("it does not hold that {}; the guest's console is {}", claim.text, guest.log().display()).into()),
    }
}
