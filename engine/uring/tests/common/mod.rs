//! A core with one device and one caller, turned by hand. Knows no reactor.
#![allow(dead_code, reason = "each test file uses its own part")]

pub(crate) mod root;
pub(crate) mod wire;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use rustix::time::{ClockId, clock_gettime};
use spinel_core::mem::{Region, Segment};
use spinel_core::{Armed, Channel, Completion, Completions, Core, CoreId, Device, Instant, Lba, Op, Request, Status, Tag};
use spinel_uring::{DeviceOptions, Options, UringDevice};

/// The turn's clock.
pub(crate) fn now() -> Instant {
    let time = clock_gettime(ClockId::Monotonic);
    let part = |part: i64| u64::try_from(part).unwrap();
    Instant { ns: part(time.tv_sec) * 1_000_000_000 + part(time.tv_nsec) }
}

/// A file in a folder of its own on the disk the project is built on, gone with the value.
pub(crate) struct Scratch {
    folder: tempfile::TempDir,
    pub(crate) path: PathBuf,
}

/// A file of `len_bytes`, each byte told by its place.
pub(crate) fn scratch(len_bytes: usize) -> Scratch {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = folder.path().join("disk");
    std::fs::write(&path, pattern(1, len_bytes)).unwrap();
    Scratch { folder, path }
}

impl Scratch {
    /// The file's bytes, read around the device.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        std::fs::read(&self.path).unwrap()
    }

    pub(crate) fn file(&self) -> File {
        File::options().read(true).write(true).open(&self.path).unwrap()
    }

    pub(crate) fn read_at(&self, offset: u64, len_bytes: usize) -> Vec<u8> {
        let mut bytes = vec![0; len_bytes];
        self.file().read_exact_at(&mut bytes, offset).unwrap();
        bytes
    }
}

/// Bytes that differ with `seed` and place.
pub(crate) fn pattern(seed: u64, len_bytes: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len_bytes + 8);
    while bytes.len() < len_bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len_bytes);
    bytes
}

/// A core, a channel on it and a batch of completions.
pub(crate) struct Rig {
    pub(crate) core: Core,
    pub(crate) channel: Box<dyn Channel>,
    done: Completions,
}

pub(crate) fn rig_with(device: &UringDevice, depth: u16, options: Options) -> Rig {
    let mut core = spinel_uring::core(CoreId(0), options).unwrap();
    let channel = device.open(&mut core, depth).unwrap();
    Rig { core, channel, done: Completions::new() }
}

pub(crate) fn rig(device: &UringDevice, depth: u16) -> Rig {
    rig_with(device, depth, Options::default())
}

pub(crate) fn open(scratch: &Scratch, block_bytes: u32) -> UringDevice {
    UringDevice::open(&scratch.path, &DeviceOptions { block_bytes: Some(block_bytes), ..DeviceOptions::default() }).unwrap()
}

impl Rig {
    /// A region this core knows.
    pub(crate) fn region(&mut self, len_bytes: u64) -> Arc<Region> {
        let region = Region::anonymous(len_bytes).unwrap();
        self.core.map(Arc::clone(&region));
        region
    }

    /// Submits without waiting.
    pub(crate) fn submit(&mut self, tag: u32, op: Op, start: u64, blocks: u32, segments: &[Segment]) {
        self.channel.submit(Request { tag: Tag(tag), op, at: now(), start: Lba(start), blocks, segments });
    }

    /// One turn of a reactor; what completed in it.
    pub(crate) fn turn(&mut self) -> &[Completion] {
        let now = now();
        self.core.reap(now);
        self.done.clear();
        self.channel.poll(now, &mut self.done);
        self.core.flush();
        self.done.as_slice()
    }

    /// Turns, and sleeps in between, until `count` requests have completed.
    pub(crate) fn collect(&mut self, count: usize) -> Vec<Completion> {
        let mut all = Vec::new();
        while all.len() < count {
            let got = self.turn().to_vec();
            all.extend_from_slice(&got);
            if got.is_empty() {
                self.rest();
            }
        }
        all
    }

    /// Sleeps if everything agrees.
    pub(crate) fn rest(&mut self) {
        match self.channel.arm().min(self.core.arm()) {
            Armed::Ready | Armed::Spin => {}
            Armed::Until(until) => self.core.sleep(Some(until), now()),
            Armed::Idle => self.core.sleep(None, now()),
        }
    }

    /// One request from start to end.
    pub(crate) fn run(&mut self, op: Op, start: u64, blocks: u32, segments: &[Segment]) -> Status {
        self.submit(7, op, start, blocks, segments);
        let done = self.collect(1);
        assert_eq!((done.len(), done[0].tag), (1, Tag(7)));
        done[0].status
    }
}
