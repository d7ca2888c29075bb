//! What a QEMU guest must see on Spinel's disks, as cases that `cargo xtask test` runs. It knows nothing of how guests
//! are made, and asserts no speed: an emulated guest shows correctness only.
#![forbid(unsafe_code)]

mod chain;
mod chance;
mod change;
mod crash;
mod death;
mod devices;
mod fabric;
mod hostile;
mod instrument;
mod load;
mod loss;
mod migrate;
mod nvme;
mod nvmet;
mod pauses;
mod proofs;
mod rings;
mod spinelbench;
mod takeover;
mod testbed;

pub use crash::{CrashPlan, Crashes, run as crash};
pub use migrate::{MovePlan, Moves, Server, run as migrate};
pub use takeover::{TakeoverPlan, Takeovers, run as take_over};

use spinel_testbed::daemon::Daemon;
use spinel_testbed::guest::{Claim, Disk, Guest, GuestError, Maker, Plan, Rings};
use std::error::Error;
use std::path::{Path, PathBuf};

/// Shell functions for guest scripts: what a disk must do in a guest, claim by claim.
pub const DISK: &str = include_str!("../guest/disk.sh");

/// Any failure of a case other than a claim that did not hold.
pub type Failure = Box<dyn Error>;

/// Guests ask for this many queues on every disk.
const QUEUES: u16 = 4;

/// What cases run on.
#[derive(Debug)]
pub struct Bench {
    /// Makes the guests.
    pub maker: Maker,
    /// The daemon under test.
    pub spineld: PathBuf,
    /// For sockets: a folder with a short path.
    pub sockets: PathBuf,
    /// For the disks' files: on a file system that has O_DIRECT, with 1 GiB free.
    pub disks: PathBuf,
    /// For logs.
    pub logs: PathBuf,
}

/// What a case has found.
#[derive(Debug, Default)]
pub struct Findings {
    /// What was claimed, and whether it held.
    pub claims: Vec<Claim>,
    /// What could not be run on this machine, and why.
    pub skipped: Vec<String>,
    /// Figures worth a look, a line each. Nothing is asserted of them.
    pub figures: Vec<String>,
}

/// One case: at least one guest or other client, and claims.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    /// Its name on the command line and in logs.
    pub name: &'static str,
    /// What it shows, in one line.
    pub shows: &'static str,
    run: fn(&Bench) -> Result<Findings, Failure>,
}

/// Every case, in the order in which they are best run.
pub const CASES: &[Case] = &[
    Case { name: "testbed", shows: "a guest that fails, panics or powers off is never taken for one that passed", run: testbed::run },
    Case { name: "devices", shows: "files, loop devices and memory serve a guest, with blocks of 512 and 4096 bytes", run: devices::run },
    Case {
        name: "rings",
        shows: "every kind of ring that a guest can choose serves verified load, with one queue and with four",
        run: rings::run,
    },
    Case { name: "change", shows: "growth, injected errors and a full file system reach a running guest", run: change::run },
    Case { name: "death", shows: "a guest killed with I/O in flight finds its disk again", run: death::run },
    Case {
        name: "crash",
        shows: "the daemon killed under load and started again is a pause to its guest, and nothing else",
        run: crash::case,
    },
    Case {
        name: "takeover",
        shows: "a daemon that takes over from another is unnoticed, and either killed in the middle of it a pause to the guest",
        run: takeover::case,
    },
    Case { name: "migrate", shows: "a guest under load moves to another QEMU and notices nothing", run: migrate::case },
    Case { name: "hostile", shows: "front ends that mean harm cost themselves their disk, and nobody else anything", run: hostile::run },
    Case { name: "nvme", shows: "a Linux host finds, uses and keeps namespaces over NVMe/TCP, whatever happens to them", run: nvme::run },
    Case { name: "proofs", shows: "Linux hosts and the target prove to each other who they are, or get nothing", run: proofs::run },
    Case {
        name: "loss",
        shows: "a Linux host that falls silent is given up with all it had, and served again when it returns",
        run: loss::run,
    },
    Case {
        name: "chain",
        shows: "a Linux host's disk through two daemons, of which the far one dies again and again, is whole",
        run: chain::run,
    },
    Case { name: "nvmet", shows: "Linux' own target is used, followed and believed by this initiator", run: nvmet::uses },
    Case {
        name: "nvmet-fails",
        shows: "a target that is cut off, held or killed is a pause, or a failure where that was asked for",
        run: nvmet::fails,
    },
    Case { name: "instrument", shows: "spinelbench sees stalls, and every kind of damage by its name", run: instrument::run },
];

impl Case {
    /// Runs the case, once more when the emulator itself has died. The answer says whether it was run twice.
    ///
    /// # Errors
    /// When a guest or the daemon ended in disorder, or something needed could not be set up.
    pub fn run(&self, bench: &Bench) -> Result<(Findings, bool), Failure> {
        match (self.run)(bench) {
            Err(error) if is_emulator_panic(error.as_ref()) => Ok(((self.run)(bench)?, true)),
            result => Ok((result?, false)),
        }
    }
}

fn is_emulator_panic(error: &(dyn Error + 'static)) -> bool {
    let causes = std::iter::successors(Some(error), |error: &&(dyn Error + 'static)| (*error).source());
    causes.filter_map(|error| error.downcast_ref::<GuestError>()).any(GuestError::is_emulator_panic)
}

impl Bench {
    /// A program that was built beside the daemon.
    fn program(&self, name: &str) -> PathBuf {
        self.spineld.with_file_name(name)
    }

    /// Starts the daemon under test; its log is named after the case.
    fn daemon(&self, case: &str) -> Result<Daemon, Failure> {
        Ok(Daemon::start(&self.spineld, &[], &self.sockets, &self.logs.join(format!("{case}.spineld.log")))?)
    }

    /// Boots a guest with these disks.
    fn boot(&self, name: &str, processors: u16, sockets: Vec<PathBuf>, script: String) -> Result<Guest, Failure> {
        let disks = sockets.into_iter().map(|socket| Disk { socket, queues: QUEUES, rings: Rings::default(), reconnects: false }).collect();
        self.boot_with(name, processors, disks, script)
    }

    /// The same with disks of any kind.
    fn boot_with(&self, name: &str, processors: u16, disks: Vec<Disk>, script: String) -> Result<Guest, Failure> {
        let plan = Plan { name: name.to_owned(), memory_mib: 512, processors, disks, script, arrives: false, network: None };
        Ok(self.maker.boot(&plan, &self.sockets, &self.logs)?)
    }

    fn disk_file(&self, name: &str) -> PathBuf {
        self.disks.join(name)
    }
}

/// A claim made on the host's side.
fn claim(text: &str, held: bool) -> Claim {
    Claim { text: text.to_owned(), held }
}

/// The bytes a file takes on its file system, in the kernel's units of 512.
fn allocated_bytes(file: &Path) -> std::io::Result<u64> {
    use std::os::unix::fs::MetadataExt;
    Ok(std::fs::metadata(file)?.blocks() * 512)
}
