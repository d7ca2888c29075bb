//! One running guest whose disks change under it: one grows, one fails on demand, one has a full file system below.

use crate::{Bench, DISK, Failure, Findings, allocated_bytes, claim};
use serde_json::{Value, json};
use spinel_testbed::backing::{SmallFileSystem, sparse_file};
use spinel_testbed::clock::Deadline;
use spinel_testbed::daemon::Daemon;
use spinel_testbed::guest::Guest;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

const CHANGE: &str = include_str!("../guest/change.sh");

const MIB: u64 = 1 << 20;
const SMALL_MIB: u64 = 64;
const GROWN_MIB: u64 = 128;

pub(crate) fn run(bench: &Bench) -> Result<Findings, Failure> {
    // Declared first: it is unmounted only when the daemon is gone.
    let (full, skipped) = match SmallFileSystem::mount(&bench.maker.packages, &bench.disk_file("small"), 64 * MIB) {
        Ok(file_system) => (Some(Full::set_up(file_system)?), Vec::new()),
        Err(error) => (None, vec![format!("full: {error}")]),
    };
    let mut daemon = bench.daemon("change")?;
    let mut script = format!("{DISK}\n{CHANGE}\ngrows 0 {SMALL_MIB} {GROWN_MIB}\nfails 1\n");
    let growing = bench.disk_file("growing");
    sparse_file(&growing, SMALL_MIB * MIB)?;
    create_file(&mut daemon, "growing", &growing)?;
    daemon.call("bdev_malloc_create", json!({"name": "sound", "num_blocks": 16 * MIB / 512, "block_size": 512}))?;
    daemon.call("bdev_error_create", json!({"base_name": "sound"}))?;
    let mut sockets = vec![daemon.serve("growing", false)?, daemon.serve("EE_sound", false)?];
    if let Some(full) = &full {
        create_file(&mut daemon, "full", &full.disk)?;
        sockets.push(daemon.serve("full", false)?);
        script += "fills 2\n";
    }
    let mut guest = bench.boot("change", 1, sockets, script + "conclude\n")?;

    at(&mut guest, "grow")?;
    File::options().write(true).open(&growing)?.set_len(GROWN_MIB * MIB)?;
    daemon.call("bdev_uring_rescan", json!({"name": "growing"}))?;
    guest.tell("grown")?;
    for (mark, io_type, num) in [("three reads", "read", 3), ("two writes", "write", 2), ("one read", "read", 1)] {
        at(&mut guest, mark)?;
        daemon.call("bdev_error_inject_error", injection(io_type, num))?;
        guest.tell("injected")?;
    }
    if let Some(full) = &full {
        at(&mut guest, "free")?;
        fs::remove_file(&full.ballast)?;
        guest.tell("freed")?;
    }
    let mut claims = guest.finish(Deadline::after_s(120))?;
    daemon.stop()?;
    if let Some(full) = &full {
        let text = "full: the host has its space back after the discard";
        claims.push(claim(text, allocated_bytes(&full.disk)? < MIB));
    }
    Ok(Findings { claims, skipped, ..Findings::default() })
}

/// A disk's file on a file system that cannot hold it, half of which a second file takes.
struct Full<'a> {
    _file_system: SmallFileSystem<'a>,
    disk: PathBuf,
    ballast: PathBuf,
}

impl<'a> Full<'a> {
    fn set_up(file_system: SmallFileSystem<'a>) -> io::Result<Self> {
        let (disk, ballast) = (file_system.folder().join("disk"), file_system.folder().join("ballast"));
        sparse_file(&disk, 64 * MIB)?;
        fs::write(&ballast, vec![0; 32 << 20])?;
        Ok(Self { _file_system: file_system, disk, ballast })
    }
}

fn create_file(daemon: &mut Daemon, name: &str, file: &Path) -> Result<Value, Failure> {
    Ok(daemon.call("bdev_uring_create", json!({"filename": file, "name": name, "block_size": 512}))?)
}

fn injection(io_type: &str, num: u32) -> Value {
    json!({"name": "EE_sound", "io_type": io_type, "error_type": "failure", "num": num})
}

/// Waits until the guest is at `mark`, where it waits for the host.
fn at(guest: &mut Guest, mark: &str) -> Result<(), Failure> {
    guest.until(&format!("reached: {mark}"), Deadline::after_s(120))?;
    Ok(())
}
