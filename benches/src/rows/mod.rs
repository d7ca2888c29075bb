//! The rows of the workloads: who takes part, in which works, and what is to be shown. Knows no way to measure.

mod agree;
mod fair;
mod hostile;
mod hosts;
mod k1;
mod l1;
mod l2;
mod l5;
mod p1;
mod reads;
mod s1;
mod tcp;

use std::path::Path;
use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;
use spinel_core::Device;

use crate::claims::{Claim, Finding, find};
use crate::contenders::{Fio, InProcess, Served, Server, Shared, storage_daemon_of_file};
use crate::contest::{self, Entrant, Window};
use crate::servers::{Place, Spineld};
use crate::work::Work;
use crate::{Failure, Pace, table};

pub(crate) use {
    agree::agree, fair::fair, hostile::hostile, hosts::hosts, k1::k1, l1::l1, l2::l2, l5::l5, p1::p1, reads::reads, s1::s1, tcp::tcp,
};

/// Spineld, as tables call it.
const SPINELD: &str = "spineld";
const STORAGE_DAEMON: &str = "qemu-storage-daemon";
const FIO: &str = "fio";

/// What a scenario came to.
#[derive(Default)]
pub(crate) struct Ran {
    pub(crate) windows: Vec<Window>,
    pub(crate) findings: Vec<Finding>,
    /// What is neither: an array of objects.
    pub(crate) figures: Value,
}

impl Ran {
    /// Of figures of a shape of their own.
    pub(crate) fn of_figures(figures: &impl Serialize) -> Result<Self, Failure> {
        Ok(Self { figures: serde_json::to_value(figures)?, ..Self::default() })
    }
}

/// Has all entrants do all works, prints what came of it, and looks at the claims.
fn hold(
    place: &Place,
    pace: &Pace,
    scenario: &'static str,
    works: &[Work],
    entrants: Vec<Entrant>,
    claims: &[Claim],
) -> Result<Ran, Failure> {
    let windows = contest::run(place, pace, scenario, works, entrants)?;
    table::print(place, &windows);
    let findings = find(claims, works, &windows);
    Ok(Ran { windows, findings, ..Ran::default() })
}

/// Says how writes to files are measured here.
fn say_how_files_are_written(place: &Place) {
    match place.disk_cores.as_slice() {
        [] => println!("The disk interrupts every core alike: clients poll while files are written."),
        cores if cores.contains(&place.cores.client) => println!(
            "Core {} takes the disk's interrupts: while a file is written the client there sleeps in between, for a core \
             that polls would hold up the kernel's end of every write.",
            place.cores.client
        ),
        cores => println!("Cores {cores:?} take the disk's interrupts, and neither client nor server is there."),
    }
}

/// A spineld that serves a file, under the load generator.
fn spineld_of_file(place: &Place, file: &Path, memory_bytes: u64) -> Result<Served, Failure> {
    let mut spineld = Spineld::start(place, &[])?;
    let socket = spineld.file("disk", file)?;
    Ok(Served { server: Shared::new(Server::Spineld(spineld)), socket, memory_bytes, on_file: true })
}

/// A qemu-storage-daemon that serves a file, under the load generator.
fn storage_daemon(place: &Place, file: &Path) -> Result<Served, Failure> {
    let mut server = storage_daemon_of_file(place, file)?;
    let socket = server.socket()?;
    Ok(Served { server: Shared::new(Server::StorageDaemon(server)), socket, memory_bytes: 0, on_file: true })
}

fn fio(file: &Path) -> Fio {
    Fio { file: file.to_owned() }
}

fn in_process(device: Arc<dyn Device>, core: usize, on_file: bool) -> InProcess {
    InProcess { device, core, on_file }
}
