//! Reactors and controllers for tests. Knows no client.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use spinel_core::{CoreId, Device, Mailbox, Meters};
use spinel_reactor::{Handle, Mode, PaceLimits, ReactorConfig};
use spinel_vhost::{Controller, ControllerConfig, Disk, Pin};
use spinel_volume::{MemoryDevice, Shape};

use crate::journal;

/// Two reactors, and a folder for sockets. Dropped after its controllers.
pub(crate) struct Host {
    reactors: Vec<Handle>,
    folder: tempfile::TempDir,
}

/// A controller with what a test wants to know about it.
pub(crate) struct Served {
    pub(crate) controller: Controller,
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    pub(crate) meters: Arc<Meters>,
}

/// How a controller differs from the usual.
pub(crate) struct Options {
    pub(crate) queues_max: u16,
    pub(crate) drain_deadline: Duration,
    pub(crate) pin: Option<Pin>,
}

impl Default for Options {
    fn default() -> Self {
        Self { queues_max: 2, drain_deadline: Duration::from_secs(60), pin: None }
    }
}

static NAMES: AtomicU32 = AtomicU32::new(0);

/// A name no other test has.
pub(crate) fn name(what: &str) -> String {
    format!("{what}{}", NAMES.fetch_add(1, Ordering::Relaxed))
}

/// A megabyte of memory as a disk.
pub(crate) fn memory_disk() -> Arc<dyn Device> {
    Arc::new(MemoryDevice::new(Shape::new(512, 2048)).unwrap())
}

impl Host {
    pub(crate) fn new() -> Self {
        journal::install();
        let reactor = |core| {
            let make_core = Box::new(|id| spinel_uring::core(id, spinel_uring::Options::default()));
            let limits = PaceLimits::default();
            spinel_reactor::start(ReactorConfig { core: CoreId(core), mode: Mode::Adaptive, limits, pin: false, make_core }).unwrap()
        };
        Self { reactors: vec![reactor(0), reactor(1)], folder: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    pub(crate) fn cores(&self) -> Vec<Mailbox> {
        self.reactors.iter().map(|reactor| reactor.mailbox().clone()).collect()
    }

    pub(crate) fn serve(&self, device: Arc<dyn Device>) -> Served {
        self.serve_with(device, Options::default())
    }

    pub(crate) fn serve_with(&self, device: Arc<dyn Device>, options: Options) -> Served {
        let name = name("disk");
        let path = self.folder.path().join(&name);
        let meters = Arc::new(Meters::default());
        let disk = Disk { serial: name.clone(), device, meters: Arc::clone(&meters), read_only: false };
        let controller = Controller::start(ControllerConfig {
            name: name.clone(),
            socket_path: path.clone(),
            disk,
            cores: self.cores(),
            queues_max: options.queues_max,
            drain_deadline: options.drain_deadline,
            pin_guest_memory: options.pin,
        });
        Served { controller: controller.unwrap(), name, path, meters }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // A failed test may have left queues behind that would never drain.
            return;
        }
        for reactor in self.reactors.drain(..) {
            reactor.quit();
        }
    }
}

/// How many mappings of this process are of a file with this name.
pub(crate) fn mappings_of(file: &str) -> usize {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    maps.lines().filter(|line| line.contains(file)).count()
}
