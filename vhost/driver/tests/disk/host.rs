//! A reactor that serves disks at sockets. Knows no front end.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use spinel_core::{Channel, Core, CoreId, Device, Geometry, Meters, OpenError};
use spinel_reactor::{Handle, Mode, PaceLimits, ReactorConfig};
use spinel_vhost::{Controller, ControllerConfig, Disk};
use spinel_volume::{MemoryDevice, Shape};

/// Blocks of a disk whose size no test cares about.
pub(crate) const BLOCKS: u64 = 4096;

/// One reactor, and a folder for sockets. Dropped after its controllers.
pub(crate) struct Host {
    reactor: Option<Handle>,
    folder: tempfile::TempDir,
}

impl Host {
    pub(crate) fn new() -> Self {
        Self::spinning_for(PaceLimits::default())
    }

    pub(crate) fn spinning_for(limits: PaceLimits) -> Self {
        let make_core = Box::new(|id| spinel_uring::core(id, spinel_uring::Options::default()));
        let config = ReactorConfig { core: CoreId(0), mode: Mode::Adaptive, limits, pin: false, make_core };
        Self { reactor: Some(spinel_reactor::start(config).unwrap()), folder: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn serve(&self, device: Arc<dyn Device>, queues_max: u16) -> Controller {
        self.serve_as(device, queues_max, false)
    }

    pub(crate) fn serve_as(&self, device: Arc<dyn Device>, queues_max: u16, read_only: bool) -> Controller {
        let disk = Disk { serial: "disk".to_owned(), device, meters: Arc::new(Meters::default()), read_only };
        let cores = self.reactor.iter().map(|reactor| reactor.mailbox().clone()).collect();
        let config = ControllerConfig {
            name: "disk".to_owned(),
            socket_path: self.path("disk"),
            disk,
            cores,
            queues_max,
            drain_deadline: Duration::from_secs(60),
            pin_guest_memory: None,
        };
        Controller::start(config).unwrap()
    }

    /// Where `serve` serves.
    pub(crate) fn socket(&self) -> PathBuf {
        self.path("disk")
    }

    /// Lets the core look at what it was not told of.
    pub(crate) fn turn(&self) {
        self.reactor.iter().for_each(|reactor| reactor.mailbox().visit(|_| ()).unwrap());
    }

    pub(crate) fn sleeps(&self) -> u64 {
        self.reactor.as_ref().map_or(0, |reactor| reactor.usage().sleeps)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // A failed test may have left queues behind that would never drain.
        if !std::thread::panicking()
            && let Some(reactor) = self.reactor.take()
        {
            reactor.quit();
        }
    }
}

pub(crate) fn memory() -> Arc<MemoryDevice> {
    Arc::new(MemoryDevice::new(Shape::new(512, BLOCKS)).unwrap())
}

/// Memory that says of itself that a power cut loses what was not flushed.
pub(crate) struct Cached(pub(crate) Arc<MemoryDevice>);

impl Device for Cached {
    fn geometry(&self) -> Geometry {
        Geometry { write_cache: true, physical_block_bytes: 4096, ..self.0.geometry() }
    }

    fn open(&self, core: &mut Core, depth: u16) -> Result<Box<dyn Channel>, OpenError> {
        self.0.open(core, depth)
    }
}

/// A socket of a server that is gone.
pub(crate) fn deserted(path: &Path) {
    drop(std::os::unix::net::UnixListener::bind(path).unwrap());
}
