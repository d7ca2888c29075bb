//! Who takes part: servers under a polling client or under the load generator, loads without a server, and fio. Knows no scenario.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use spinel_core::Device;
use spinel_load::{Job, Length, Memory, Mix, Order, Sizes};
use spinel_nvmf_driver::FarDisk;
use spinel_vhost_driver::{Options, VhostDisk};

use crate::client::Client;
use crate::contest::{Contender, Seen};
use crate::cores::cpu_ns;
use crate::loader::{self, Loader, Used, Waits};
use crate::servers::{Place, Spineld, StorageDaemon};
use crate::work::Work;
use crate::{Failure, Pace, fio};

/// Bytes of each request where a device is filled, of which the sizes of all devices are multiples.
const FILL_BYTES: u32 = 4096;
/// And how many of them are in flight, so that filling a device takes seconds on a busy machine, too.
const FILL_DEPTH: u16 = 32;

/// A server of disks in a process of its own.
pub(crate) enum Server {
    Spineld(Spineld),
    StorageDaemon(StorageDaemon),
}

/// A server that several take part with.
#[derive(Clone)]
pub(crate) struct Shared(Rc<RefCell<Server>>);

impl Shared {
    pub(crate) fn new(server: Server) -> Self {
        Self(Rc::new(RefCell::new(server)))
    }

    pub(crate) fn pid(&self) -> u32 {
        match &*self.0.borrow() {
            Server::Spineld(spineld) => spineld.pid(),
            Server::StorageDaemon(server) => server.pid(),
        }
    }

    /// Its processor time, and how long its core was busy, as far as it says so.
    pub(crate) fn used(&self) -> Result<(u64, Option<u64>), Failure> {
        let busy_ns = match &mut *self.0.borrow_mut() {
            Server::Spineld(spineld) => Some(spineld.busy_ns()?),
            Server::StorageDaemon(_) => None,
        };
        Ok((cpu_ns(self.pid())?, busy_ns))
    }

    /// Ends it with the last of those who have it.
    pub(crate) fn end(self) -> Result<(), Failure> {
        match Rc::into_inner(self.0).map(RefCell::into_inner) {
            Some(Server::Spineld(spineld)) => spineld.stop(),
            // Dropping it kills it.
            Some(Server::StorageDaemon(_)) | None => Ok(()),
        }
    }
}

/// A server under the leanest client there is, for 4k random reads only.
pub(crate) struct Polled {
    pub(crate) server: Shared,
    pub(crate) client: Box<Client>,
}

impl Contender for Polled {
    fn pid(&self) -> Option<u32> {
        Some(self.server.pid())
    }

    fn measure(&mut self, _place: &Place, work: &Work, pace: &Pace, _round: u32) -> Result<Seen, Failure> {
        self.client.run(work.depth, pace.warm_up)?;
        let before = self.server.used()?;
        let window = self.client.run(work.depth, pace.window)?;
        let after = self.server.used()?;
        let (cpu_ns, busy_ns) = (after.0 - before.0, after.1.zip(before.1).map(|(after, before)| after - before));
        let requests = window.reads();
        let latency = loader::of_histogram(&window.latency);
        let bytes = requests * u64::from(work.bytes);
        Ok(Seen { requests, bytes, errors: window.errors, took_ns: window.took_ns, latency, cpu_ns, busy_ns })
    }

    fn end(self: Box<Self>) -> Result<(), Failure> {
        drop(self.client);
        self.server.end()
    }
}

/// A server under the load generator, over vhost-user-blk: connected anew for each window.
pub(crate) struct Served {
    pub(crate) server: Shared,
    pub(crate) socket: PathBuf,
    /// The front end's memory, of which only what requests need is ever touched.
    pub(crate) memory_bytes: u64,
    /// Its disk is a file, whose writes need the core that takes the disk's interrupts.
    pub(crate) on_file: bool,
}

impl Served {
    fn connect(&self, depth: u16, needed_bytes: u64) -> Result<Arc<VhostDisk>, Failure> {
        let memory_bytes = self.memory_bytes.max(needed_bytes).next_multiple_of(1 << 21);
        let options = Options { memory_bytes, ..Options::default() }.for_depth(depth);
        Ok(Arc::new(VhostDisk::connect(&self.socket, &options)?))
    }

    /// Writes all of a disk in memory once: what was never written is one page of zeroes, over and over.
    pub(crate) fn fill(&self, place: &Place) -> Result<(), Failure> {
        let disk = self.connect(FILL_DEPTH, u64::from(FILL_DEPTH) * u64::from(FILL_BYTES))?;
        let job = filling(&*disk);
        let memory = Memory::within(Arc::clone(disk.region()), 0, &job)?;
        fill(place.cores.client, disk, memory, job)
    }
}

impl Contender for Served {
    fn pid(&self) -> Option<u32> {
        Some(self.server.pid())
    }

    fn measure(&mut self, place: &Place, work: &Work, pace: &Pace, round: u32) -> Result<Seen, Failure> {
        let waits = if self.on_file && work.writes() { place.beside_file_writes(place.cores.client) } else { Waits::Polling };
        let loader = Loader::start(place.cores.client, waits)?;
        let job = work.job(u64::from(round) + 1, pace.warm_up, pace.window)?;
        let disk = self.connect(work.depth, Memory::bytes_for(&job))?;
        let memory = Memory::within(Arc::clone(disk.region()), 0, &job)?;
        let mut looks = Vec::new();
        let tally = loader.run(disk, memory, job, &mut || {
            let (cpu_ns, busy_ns) = self.server.used()?;
            looks.push(Used::by_now(cpu_ns, busy_ns));
            Ok(())
        })?;
        let mut seen = loader::seen(&tally, &looks);
        if work.flushed {
            let disk = self.connect(1, 0)?;
            let memory = Memory::within(Arc::clone(disk.region()), 0, &loader::flush_job())?;
            seen.took_ns += loader::flush_ns(&loader.flush(disk, memory)?)?;
        }
        loader.quit();
        Ok(seen)
    }

    fn end(self: Box<Self>) -> Result<(), Failure> {
        self.server.end()
    }
}

/// A server's namespace over NVMe/TCP, under the load generator: connected once, with I/O queues for each window.
pub(crate) struct Remote {
    pub(crate) server: Shared,
    pub(crate) disk: Rc<FarDisk>,
}

impl Contender for Remote {
    fn pid(&self) -> Option<u32> {
        Some(self.server.pid())
    }

    fn measure(&mut self, place: &Place, work: &Work, pace: &Pace, round: u32) -> Result<Seen, Failure> {
        let loader = Loader::start(place.cores.client, Waits::Polling)?;
        let job = work.job(u64::from(round) + 1, pace.warm_up, pace.window)?;
        let memory = Memory::anonymous(&job)?;
        let mut looks = Vec::new();
        let tally = loader.run(self.disk.device(), memory, job, &mut || {
            let (cpu_ns, busy_ns) = self.server.used()?;
            looks.push(Used::by_now(cpu_ns, busy_ns));
            Ok(())
        })?;
        loader.quit();
        Ok(loader::seen(&tally, &looks))
    }

    fn end(self: Box<Self>) -> Result<(), Failure> {
        drop(self.disk);
        self.server.end()
    }
}

/// A device of the engine's under the load generator, on one reactor: no server and no transport.
pub(crate) struct InProcess {
    pub(crate) device: Arc<dyn Device>,
    pub(crate) core: usize,
    pub(crate) on_file: bool,
}

impl InProcess {
    /// Writes all of the device once: memory that was never written is one page of zeroes, over and over.
    pub(crate) fn fill(&self) -> Result<(), Failure> {
        let job = filling(&*self.device);
        let memory = Memory::anonymous(&job)?;
        fill(self.core, Arc::clone(&self.device), memory, job)
    }
}

/// Writes to all of a device, one after the other.
fn filling(device: &dyn Device) -> Job {
    let length = Length { bytes: Some(device.geometry().len_bytes()), ..Length::default() };
    Job {
        mix: Mix { write: 100, ..Mix::default() },
        order: Order::Sequential,
        sizes: Sizes { min_bytes: FILL_BYTES, max_bytes: FILL_BYTES },
        depth: FILL_DEPTH,
        length,
        ..Job::new()
    }
}

fn fill(core: usize, device: Arc<dyn Device>, memory: Memory, job: Job) -> Result<(), Failure> {
    let loader = Loader::start(core, Waits::Sleeping)?;
    let tally = loader.run(device, memory, job, &mut || Ok(()))?;
    loader.quit();
    let failed = loader::seen(&tally, &[]).errors;
    if failed > 0 { Err(format!("{failed} writes to a device in memory failed").into()) } else { Ok(()) }
}

impl Contender for InProcess {
    fn pid(&self) -> Option<u32> {
        None
    }

    fn measure(&mut self, place: &Place, work: &Work, pace: &Pace, round: u32) -> Result<Seen, Failure> {
        let waits = if self.on_file && work.writes() { place.beside_file_writes(self.core) } else { Waits::Polling };
        let loader = Loader::start(self.core, waits)?;
        let job = work.job(u64::from(round) + 1, pace.warm_up, pace.window)?;
        let memory = Memory::anonymous(&job)?;
        let thread = loader.thread_id();
        let mut looks = Vec::new();
        let tally = loader.run(Arc::clone(&self.device), memory, job, &mut || {
            looks.push(Used::by_now(thread_cpu_ns(thread)?, None));
            Ok(())
        })?;
        loader.quit();
        Ok(loader::seen(&tally, &looks))
    }
}

/// Processor time of one of this process's threads.
pub(crate) fn thread_cpu_ns(thread: i32) -> Result<u64, Failure> {
    let text = std::fs::read_to_string(format!("/proc/self/task/{thread}/schedstat"))?;
    text.split(' ').next().and_then(|field| field.parse().ok()).ok_or_else(|| "the kernel's schedstat has another form".into())
}

/// fio on a file.
pub(crate) struct Fio {
    pub(crate) file: PathBuf,
}

impl Contender for Fio {
    fn pid(&self) -> Option<u32> {
        None
    }

    fn measure(&mut self, place: &Place, work: &Work, pace: &Pace, _round: u32) -> Result<Seen, Failure> {
        fio::run(place, &self.file, work, pace.warm_up, pace.window)
    }
}

/// A qemu-storage-daemon that exports a file.
pub(crate) fn storage_daemon_of_file(place: &Place, file: &Path) -> Result<StorageDaemon, Failure> {
    // spineld holds a lock on the file that the others neither take nor mind.
    let blockdev = format!("driver=file,node-name=disk,filename={},cache.direct=on,aio=io_uring,locking=off", file.display());
    StorageDaemon::start(place, &blockdev)
}
