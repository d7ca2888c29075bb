//! One guest with a disk of every kind: the same claims on each. A read-only disk stands beside them.

use crate::{Bench, DISK, Failure, Findings, QUEUES, allocated_bytes, claim};
use serde_json::json;
use spinel_testbed::backing::{LoopDevice, sparse_file};
use spinel_testbed::clock::Deadline;
use spinel_testbed::daemon::Daemon;
use std::path::{Path, PathBuf};

const LEN_BYTES: u64 = 128 << 20;
const BLOCKS_BYTES: [u32; 2] = [512, 4096];

/// The disks of the guest, in its order.
#[derive(Default)]
struct Disks<'a> {
    sockets: Vec<PathBuf>,
    script: String,
    skipped: Vec<String>,
    loops: Vec<LoopDevice<'a>>,
}

impl Disks<'_> {
    /// Serves a device of the daemon's to the guest, which does to it what `act` says.
    fn add(&mut self, daemon: &mut Daemon, bdev: &str, readonly: bool, act: &str) -> Result<(), Failure> {
        let number = self.sockets.len();
        self.sockets.push(daemon.serve(bdev, readonly)?);
        self.script += &format!("{act} {number}\n");
        Ok(())
    }
}

pub(crate) fn run(bench: &Bench) -> Result<Findings, Failure> {
    let mut disks = Disks::default();
    let mut daemon = bench.daemon("devices")?;
    let mut files = Vec::new();
    for block_bytes in BLOCKS_BYTES {
        files.push(add_file(bench, &mut daemon, &mut disks, block_bytes)?);
        add_loop(bench, &mut daemon, &mut disks, block_bytes)?;
        add_memory(&mut daemon, &mut disks, block_bytes)?;
    }
    let kept = bench.disk_file("readonly");
    std::fs::write(&kept, vec![0x5a; 1 << 20])?;
    daemon.call("bdev_uring_create", json!({"filename": kept, "name": "readonly", "block_size": 512}))?;
    disks.add(&mut daemon, "readonly", true, "takes_no_write")?;

    let script = format!("{DISK}\n{}conclude\n", disks.script);
    // As many processors as queues: with fewer, the guest's driver uses fewer.
    let guest = bench.boot("devices", QUEUES, disks.sockets, script)?;
    let mut claims = guest.finish(Deadline::after_s(300))?;
    daemon.stop()?;
    for file in &files {
        let text = format!("{}: what the guest has discarded takes no space on the host", name_of(file));
        claims.push(claim(&text, allocated_bytes(file)? == 0));
    }
    claims.push(claim("readonly: the file behind it is as it was", std::fs::read(&kept)? == vec![0x5a; 1 << 20]));
    Ok(Findings { claims, skipped: disks.skipped, ..Findings::default() })
}

fn add_file(bench: &Bench, daemon: &mut Daemon, disks: &mut Disks<'_>, block_bytes: u32) -> Result<PathBuf, Failure> {
    let name = format!("file-{block_bytes}");
    let file = bench.disk_file(&name);
    sparse_file(&file, LEN_BYTES)?;
    daemon.call("bdev_uring_create", json!({"filename": file, "name": name, "block_size": block_bytes}))?;
    disks.add(daemon, &name, false, &format!("served {name} {block_bytes}"))?;
    Ok(file)
}

fn add_loop<'a>(bench: &'a Bench, daemon: &mut Daemon, disks: &mut Disks<'a>, block_bytes: u32) -> Result<(), Failure> {
    let name = format!("loop-{block_bytes}");
    let file = bench.disk_file(&name);
    sparse_file(&file, LEN_BYTES)?;
    match LoopDevice::attach(&bench.maker.packages, &file, block_bytes) {
        Ok(device) => {
            daemon.call("bdev_uring_create", json!({"filename": device.path(), "name": name, "block_size": block_bytes}))?;
            disks.add(daemon, &name, false, &format!("served {name} {block_bytes}"))?;
            disks.loops.push(device);
        }
        Err(error) => disks.skipped.push(format!("{name}: {error}")),
    }
    Ok(())
}

fn add_memory(daemon: &mut Daemon, disks: &mut Disks<'_>, block_bytes: u32) -> Result<(), Failure> {
    let name = format!("memory-{block_bytes}");
    let num_blocks = LEN_BYTES / u64::from(block_bytes);
    daemon.call("bdev_malloc_create", json!({"name": name, "num_blocks": num_blocks, "block_size": block_bytes}))?;
    disks.add(daemon, &name, false, &format!("served {name} {block_bytes}"))
}

fn name_of(file: &Path) -> String {
    file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}
