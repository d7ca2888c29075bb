//! What is measured, opened: its geometry, what it holds, and jobs put to work on it. Knows no figures.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use spinel_core::mem::Region;
use spinel_core::{Device, Geometry, Lba, Status};
use spinel_load::{Job, Judge, Memory};
use spinel_nvmf_driver::FarDisk;
use spinel_uring::{DeviceOptions, UringDevice};
use spinel_vhost_driver::VhostDisk;

use crate::cli::{Wait, Way};
use crate::crew::{Assignment, Crew, OwnCrew, TokioCrew, seats};
use crate::fabric;
use crate::failure::{Failure, with_causes};
use crate::guard;
use crate::machine;
use crate::reader::{CHUNK_BYTES, Reader};
use crate::remote::{Remote, RemoteCrew};
use crate::tokio;
use crate::url::Url;

/// An opened target.
pub(crate) struct Target {
    url: Url,
    geometry: Geometry,
    cores: Vec<u16>,
    wait: Wait,
    kind: Kind,
}

enum Kind {
    /// Driven by reactors of this process.
    Own { device: Arc<dyn Device>, shared: Option<Arc<Region>>, server: Option<i32>, _far: Option<FarDisk> },
    /// By tokio-uring.
    Tokio { path: PathBuf },
    /// By the daemon itself.
    Remote(Remote),
}

/// What the target will be used for, as far as opening it depends on that.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Purpose {
    /// Something will be written.
    pub(crate) writes: bool,
    /// How many channels will be opened.
    pub(crate) channels: u16,
    /// Most requests in flight on each.
    pub(crate) depth: u16,
    /// Bytes of memory for all of them.
    pub(crate) memory_bytes: u64,
}

impl Purpose {
    /// What these jobs need.
    pub(crate) fn of(jobs: &[Job]) -> Self {
        let memory_bytes = jobs.iter().map(Memory::bytes_for).sum();
        let channels = u16::try_from(jobs.len()).unwrap_or(u16::MAX);
        let depth = jobs.iter().map(|job| job.depth).max().unwrap_or(1);
        Self { writes: jobs.iter().any(|job| job.mix.changes_data()), channels, depth, memory_bytes }
    }

    /// To be read from start to end.
    pub(crate) fn reading() -> Self {
        Self { writes: false, channels: 1, depth: 1, memory_bytes: u64::from(CHUNK_BYTES) }
    }
}

impl Target {
    /// Opens what a URL names.
    ///
    /// # Errors
    /// What is in the way, in a sentence.
    pub(crate) fn open(url: &Url, way: &Way, purpose: Purpose) -> Result<Self, Failure> {
        refuse_misfits(url, way)?;
        let (kind, geometry) = match url {
            Url::File(path) => {
                let device = open_file(path, purpose.writes)?;
                let geometry = device.geometry();
                (Kind::Own { device: Arc::new(device), shared: None, server: None, _far: None }, geometry)
            }
            Url::FileTokio(path) => (Kind::Tokio { path: path.clone() }, open_file(path, purpose.writes)?.geometry()),
            Url::Vhost(socket) => {
                let options = spinel_vhost_driver::Options {
                    queues: purpose.channels,
                    packed: way.packed,
                    memory_bytes: purpose.memory_bytes,
                    ..Default::default()
                };
                let options = match way.queue_size {
                    Some(queue_size) => spinel_vhost_driver::Options { queue_size, ..options },
                    None => options.for_depth(purpose.depth),
                };
                let disk = VhostDisk::connect(socket, &options).map_err(|error| Failure::Unreachable(error.to_string()))?;
                let (geometry, shared) = (disk.geometry(), Some(Arc::clone(disk.region())));
                (Kind::Own { device: Arc::new(disk), shared, server: machine::listener_of(socket), _far: None }, geometry)
            }
            Url::Far(far) => {
                let far = fabric::attach(far)?;
                let device = far.device();
                let geometry = device.geometry();
                (Kind::Own { device, shared: None, server: None, _far: Some(far) }, geometry)
            }
            Url::Rpc { socket, bdev } => {
                let remote = Remote::connect(socket, bdev, purpose.writes)?;
                let geometry = remote.geometry();
                (Kind::Remote(remote), geometry)
            }
        };
        let default = if matches!(url, Url::Vhost(_)) { Wait::Poll } else { Wait::Sleep };
        let server = if let Kind::Own { server, .. } = &kind { *server } else { None };
        let cores = match &way.cores {
            Some(cores) => cores.0.clone(),
            None => vec![last_core(&server.map(machine::cores_of).unwrap_or_default())?],
        };
        Ok(Self { url: url.clone(), geometry, cores, wait: way.wait.unwrap_or(default), kind })
    }

    pub(crate) fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// The cores that so many jobs work on, one each; of a daemon's disk those of the daemon.
    pub(crate) fn cores(&self, jobs: usize) -> Vec<u16> {
        match &self.kind {
            Kind::Remote(_) => Vec::new(),
            _ => self.cores.iter().copied().cycle().take(jobs).collect(),
        }
    }

    /// Processor time of the process behind the target, in nanoseconds.
    pub(crate) fn server_cpu_ns(&self) -> Option<u64> {
        match &self.kind {
            Kind::Own { server, .. } => machine::process_cpu_ns((*server)?),
            Kind::Tokio { .. } => None,
            Kind::Remote(remote) => machine::process_cpu_ns(remote.server_pid()?),
        }
    }

    /// Puts jobs to work. Judges, if any, are as many as the jobs.
    ///
    /// # Errors
    /// What is in the way.
    pub(crate) fn start(&self, jobs: Vec<Job>, judges: Vec<Box<dyn Judge>>) -> Result<Box<dyn Crew>, Failure> {
        match &self.kind {
            Kind::Own { device, shared, .. } => {
                let assignments = assign(jobs, judges, shared.as_ref())?;
                Ok(Box::new(OwnCrew::start(device, &self.cores, self.wait, assignments)?))
            }
            Kind::Tokio { path } => {
                jobs.iter().try_for_each(tokio::check)?;
                Ok(Box::new(TokioCrew::start(path, self.geometry, &self.cores, jobs)?))
            }
            Kind::Remote(remote) => Ok(Box::new(RemoteCrew::start(remote, &jobs)?)),
        }
    }

    /// Whether requests can be judged here, one by one.
    ///
    /// # Errors
    /// That they cannot.
    pub(crate) fn check_judged(&self) -> Result<(), Failure> {
        match self.kind {
            Kind::Own { .. } => Ok(()),
            Kind::Tokio { .. } | Kind::Remote(_) => {
                Err(Failure::usage(format!("{} cannot be verified, its data does not come here; use file:, vhost: or nvme-tcp:", self.url)))
            }
        }
    }

    /// A way to read what the disk holds.
    ///
    /// # Errors
    /// When its data does not come here, or it gives no channel.
    pub(crate) fn reader(&self) -> Result<Reader, Failure> {
        let Kind::Own { device, shared, .. } = &self.kind else {
            return Err(Failure::usage(format!(
                "{} cannot be read back, its data does not come here; use file:, vhost: or nvme-tcp:",
                self.url
            )));
        };
        let private = || Region::anonymous(u64::from(CHUNK_BYTES)).map_err(|error| Failure::Unreachable(with_causes(&error)));
        let memory = shared.clone().map_or_else(private, Ok)?;
        Reader::open(device, memory, seats(&self.cores[..1], Wait::Poll)?.remove(0))
    }
}

fn open_file(path: &Path, writes: bool) -> Result<UringDevice, Failure> {
    let options = DeviceOptions { read_only: !writes, ..DeviceOptions::default() };
    UringDevice::open(path, &options).map_err(|error| Failure::unreachable(&error))
}

/// Gives each job its memory, in a region that the server sees too if there is one.
fn assign(jobs: Vec<Job>, judges: Vec<Box<dyn Judge>>, shared: Option<&Arc<Region>>) -> Result<Vec<Assignment>, Failure> {
    let mut at = 0;
    let mut judges = judges.into_iter();
    let each = |job: Job| {
        let memory = match shared {
            Some(region) => Memory::within(Arc::clone(region), at, &job),
            None => Memory::anonymous(&job),
        };
        at += Memory::bytes_for(&job);
        let memory = memory.map_err(|error| Failure::unreachable(&error))?;
        Ok(Assignment { job, memory, judge: judges.next() })
    };
    jobs.into_iter().map(each).collect()
}

/// The last core that this process may use, but for those that are taken: the first ones are where most interrupts go.
pub(crate) fn last_core(taken: &[u16]) -> Result<u16, Failure> {
    let allowed = core_affinity::get_core_ids().unwrap_or_default();
    let cores: Vec<u16> = allowed.iter().filter_map(|core| u16::try_from(core.id).ok()).collect();
    let free = cores.iter().rfind(|core| !taken.contains(core)).or(cores.last()).copied();
    free.ok_or_else(|| Failure::usage("the system does not say which cores there are; name one"))
}

/// Options that say nothing about this kind of target are mistakes.
fn refuse_misfits(url: &Url, way: &Way) -> Result<(), Failure> {
    let is_vhost = matches!(url, Url::Vhost(_));
    if !is_vhost && (way.packed || way.queue_size.is_some()) {
        return Err(Failure::usage(format!("--packed and --queue-size are for vhost: targets, not for {url}")));
    }
    if way.wait.is_some() && matches!(url, Url::FileTokio(_) | Url::Rpc { .. }) {
        return Err(Failure::usage(format!("--wait has no say in how {url} waits: its runtime decides")));
    }
    if way.cores.is_some() && matches!(url, Url::Rpc { .. }) {
        return Err(Failure::usage("--cores has no say in an rpc: target; the daemon's own cores do the work"));
    }
    Ok(())
}

/// Refuses to write over something, unless it was allowed.
///
/// Of a file, all of the job's area is looked at; of anything else, where signatures are, and samples of the area.
///
/// # Errors
/// What the disk holds, and how to write all the same.
pub(crate) fn refuse_to_overwrite(url: &Url, way: &Way, job: &Job) -> Result<(), Failure> {
    if let Url::Rpc { .. } = url {
        return Err(Failure::usage(format!(
            "{url} would be written to, and what it holds cannot be seen from here; --allow-writes allows it"
        )));
    }
    let holds = |what: &str| Err(Failure::usage(format!("{url} holds {what}, which this would overwrite; --allow-writes allows it")));
    let opened = match url {
        Url::FileTokio(path) => &Url::File(path.clone()),
        url => url,
    };
    let way = Way { cores: way.cores.clone(), wait: None, packed: way.packed, queue_size: None };
    let target = Target::open(opened, &way, Purpose::reading())?;
    let geometry = *target.geometry();
    let (start, len_bytes) = job.area_on(&geometry);
    let mut reader = target.reader()?;
    let mut look = |at: u64, len_bytes: u64| -> Result<Vec<u8>, Status> {
        let block_bytes = u64::from(geometry.block_bytes);
        let at = at / block_bytes * block_bytes;
        let len_bytes = len_bytes.min(geometry.len_bytes().saturating_sub(at)) / block_bytes * block_bytes;
        let mut bytes = vec![0; usize::try_from(len_bytes).expect("a piece fits memory")];
        match reader.read(Lba(at / block_bytes), &mut bytes) {
            Status::Ok => Ok(bytes),
            status => Err(status),
        }
    };
    let found = guard::look(geometry.len_bytes(), (start, len_bytes), &mut look);
    reader.close();
    match found {
        Err(status) => Err(Failure::Unreachable(format!("{url}: what it holds cannot be read ({status:?})"))),
        Ok(Some(what)) => holds(what),
        Ok(None) if url.path().is_some_and(|path| guard::has_data(path, start, len_bytes)) => holds("data"),
        Ok(None) => Ok(()),
    }
}
