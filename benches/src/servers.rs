//! The servers that are compared, as child processes. Knows no measurement.

use std::cell::Cell;
use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use spinel_core::CoreId;
use spinel_nvmf::nqn::Nqn;
use spinel_nvmf_driver::{FarDisk, FarSpec};
use spinel_testbed::clock::Deadline;
use spinel_testbed::daemon::Daemon;
use spinel_testbed::packages::Packages;
use spinel_testbed::process::{Process, open_log, tail};
use tempfile::TempDir;

use crate::Failure;
use crate::client::Client;
use crate::cores::{self, Cores, OTHERS_MAX, Others, sleep};
use crate::loader::Waits;

/// Bytes of the disks without a file.
pub(crate) const DISK_BYTES: u64 = 1 << 30;
/// In adaptive mode, the longest spineld spins before it sleeps. Its own default, said here so that it can be printed.
pub(crate) const SPIN_US: u32 = 100;
/// Where disks are served over NVMe/TCP, beside a daemon at the usual port.
pub(crate) const FAR_PORT: u16 = 44_200;
/// The subsystem there.
pub(crate) const FAR_SUBSYSTEM: &str = "nqn.2026-11.io.spinel:disk";
/// What a disk consists of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// It answers at once and moves no data.
    Null,
    /// Memory.
    Memory,
}

/// The user that has no rights.
const NOBODY: u32 = 65534;

/// What every server needs to be started.
pub(crate) struct Place {
    pub(crate) cores: Cores,
    /// Which cores take the interrupts of the disk that files lie on, if not all do.
    pub(crate) disk_cores: Vec<usize>,
    pub(crate) spineld: PathBuf,
    /// Programs of Debian's that were fetched; without, those of the machine are used.
    pub(crate) packages: Option<Packages>,
    pub(crate) logs: PathBuf,
    /// How much longer all measurements together wait for others to be quiet.
    pub(crate) patience: Cell<Duration>,
}

impl Place {
    /// Waits until no others run, or patience is at its end; `own` belong to the measurement.
    pub(crate) fn wait_for_quiet(&self, own: &[u32]) -> Result<(), Failure> {
        const LOOK: Duration = Duration::from_millis(200);
        const PAUSE: Duration = Duration::from_secs(1);
        while !self.patience.get().is_zero() {
            let look = Others::look(own)?;
            sleep(LOOK)?;
            if Others::look(own)?.share_since(look) <= OTHERS_MAX {
                break;
            }
            sleep(PAUSE)?;
            self.patience.set(self.patience.get().saturating_sub(LOOK + PAUSE));
        }
        Ok(())
    }

    /// How a load on `core` is to wait while a file is written.
    ///
    /// The kernel finishes such writes on a core that takes the disk's interrupts: one that polls there would hold
    /// each of them up until the next tick.
    pub(crate) fn beside_file_writes(&self, core: usize) -> Waits {
        if self.disk_cores.contains(&core) { Waits::Sleeping } else { Waits::Polling }
    }

    /// A command for a program that is not ours.
    pub(crate) fn command(&self, program: &str) -> Command {
        self.packages.as_ref().map_or_else(|| Command::new(program), |packages| packages.command(program))
    }

    /// Starts something on these cores; the caller goes back to the client's.
    pub(crate) fn on<T>(&self, cores: &[usize], start: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
        cores::pin(cores)?;
        let started = start();
        cores::pin(&[self.cores.client])?;
        started
    }

    fn log(&self, name: &str) -> PathBuf {
        self.logs.join(format!("{name}.log"))
    }
}

/// A running spineld.
pub(crate) struct Spineld {
    daemon: Daemon,
    pid: u32,
    _sockets: TempDir,
}

impl Spineld {
    /// Starts one on the engine's core, in adaptive mode unless `arguments` say otherwise.
    pub(crate) fn start(place: &Place, arguments: &[&str]) -> Result<Self, Failure> {
        let sockets = sockets()?;
        Self::run(place, &place.spineld, sockets, arguments)
    }

    /// Starts one as a user without rights, who may lock 8 MiB of memory.
    pub(crate) fn start_unprivileged(place: &Place, arguments: &[&str]) -> Result<Self, Failure> {
        let sockets = sockets()?;
        let mut script = "#!/bin/sh\nulimit -l 8192 || exit 1\nexec ".to_owned();
        let binary = sockets.path().join("spineld");
        // The folder it was built in may be closed to others.
        fs::copy(&place.spineld, &binary)?;
        if rustix::process::geteuid().is_root() {
            chown(sockets.path(), Some(NOBODY), Some(NOBODY))?;
            script += &format!("setpriv --reuid={NOBODY} --regid={NOBODY} --clear-groups --inh-caps=-all --bounding-set=-all ");
        }
        script += &format!("'{}' \"$@\"\n", binary.display());
        let path = sockets.path().join("start");
        fs::write(&path, script)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        Self::run(place, &path, sockets, arguments)
    }

    /// Starts one by what a shell runs programs with there, such as in a network namespace.
    pub(crate) fn start_behind(place: &Place, prefix: &str) -> Result<Self, Failure> {
        let sockets = sockets()?;
        let path = sockets.path().join("start");
        fs::write(&path, format!("#!/bin/sh\nexec {prefix}'{}' \"$@\"\n", place.spineld.display()))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        Self::run(place, &path, sockets, &[])
    }

    fn run(place: &Place, binary: &Path, sockets: TempDir, arguments: &[&str]) -> Result<Self, Failure> {
        let (engine, spin_us) = (place.cores.engine.to_string(), SPIN_US.to_string());
        let mut all = vec!["--cores", &engine, "--spin-us", &spin_us];
        all.extend(arguments);
        let log = place.log("spineld");
        // Its threads that poll pin themselves; those that answer calls may run where there is room.
        let both = [place.cores.engine, place.cores.client];
        let mut daemon = place.on(&both, || Ok(Daemon::start(binary, &all, sockets.path(), &log)?))?;
        let pid = pid_of(&mut daemon)?;
        Ok(Self { daemon, pid, _sockets: sockets })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Has another one take over from it. From then on it is that one.
    pub(crate) fn take_over(&mut self, place: &Place) -> Result<(), Failure> {
        let (engine, spin_us) = (place.cores.engine.to_string(), SPIN_US.to_string());
        let arguments = ["--cores", &engine, "--spin-us", &spin_us];
        let both = [place.cores.engine, place.cores.client];
        place.on(&both, || Ok(self.daemon.take_over(&place.spineld, &arguments)?))?;
        self.pid = pid_of(&mut self.daemon)?;
        Ok(())
    }

    /// For how long disks stood still when one took over from another: its answer to spinel_get_takeovers.
    pub(crate) fn takeovers(&mut self) -> Result<Value, Failure> {
        Ok(self.daemon.call("spinel_get_takeovers", Value::Null)?)
    }

    /// Serves a disk that answers at once and moves no data.
    pub(crate) fn null(&mut self, name: &str) -> Result<PathBuf, Failure> {
        self.daemon.call("bdev_null_create", json!({"name": name, "block_size": 512, "num_blocks": DISK_BYTES / 512}))?;
        Ok(self.daemon.serve(name, false)?)
    }

    /// Serves a disk in memory.
    pub(crate) fn memory(&mut self, name: &str) -> Result<PathBuf, Failure> {
        self.memory_of(name, DISK_BYTES)
    }

    /// Serves a disk of so many bytes in memory.
    pub(crate) fn memory_of(&mut self, name: &str, len_bytes: u64) -> Result<PathBuf, Failure> {
        self.daemon.call("bdev_malloc_create", json!({"name": name, "block_size": 512, "num_blocks": len_bytes / 512}))?;
        Ok(self.daemon.serve(name, false)?)
    }

    /// Serves a file.
    pub(crate) fn file(&mut self, name: &str, path: &Path) -> Result<PathBuf, Failure> {
        self.daemon.call("bdev_uring_create", json!({"name": name, "filename": path, "block_size": 512}))?;
        Ok(self.daemon.serve(name, false)?)
    }

    /// A disk over NVMe/TCP, at this address of the daemon's.
    pub(crate) fn far(&mut self, place: &Place, kind: Kind, address: Ipv4Addr) -> Result<FarDisk, Failure> {
        let subsystem = FAR_SUBSYSTEM;
        let listener = json!({"trtype": "TCP", "adrfam": "IPv4", "traddr": address.to_string(), "trsvcid": FAR_PORT.to_string()});
        let disk = json!({"name": "disk", "block_size": 512, "num_blocks": DISK_BYTES / 512});
        for (method, params) in [
            (if kind == Kind::Null { "bdev_null_create" } else { "bdev_malloc_create" }, disk),
            ("nvmf_create_transport", json!({"trtype": "TCP"})),
            ("nvmf_create_subsystem", json!({"nqn": subsystem, "allow_any_host": true})),
            ("nvmf_subsystem_add_ns", json!({"nqn": subsystem, "namespace": {"nsid": 1, "bdev_name": "disk"}})),
            ("nvmf_subsystem_add_listener", json!({"nqn": subsystem, "listen_address": listener})),
        ] {
            self.daemon.call(method, params)?;
        }
        let spec = FarSpec {
            addresses: vec![(address, FAR_PORT).into()],
            subsystem: Nqn::parse(subsystem)?,
            nsid: 1,
            host: Nqn::parse("nqn.2026-11.io.spinel:benches")?,
            host_id: [1; 16],
            header_digest: false,
            data_digest: false,
            fail_after: None,
            keep_alive: None,
            round_robin: false,
        };
        Ok(FarDisk::attach(&spec, CoreId(u16::try_from(place.cores.client)?))?)
    }

    /// How long its core has been doing something, in nanoseconds.
    pub(crate) fn busy_ns(&mut self) -> Result<u64, Failure> {
        let reactors = self.daemon.call("framework_get_reactors", Value::Null)?;
        reactors["reactors"][0]["busy"].as_u64().ok_or_else(|| "spineld does not say how busy it is".into())
    }

    /// The latencies of a disk's reads since the last call, as the engine saw them: its answer to bdev_get_iostat.
    pub(crate) fn read_percentiles(&mut self, disk: &str) -> Result<Value, Failure> {
        let stats = self.daemon.call("bdev_get_iostat", json!({"name": disk, "reset_mode": "all"}))?;
        Ok(stats["bdevs"][0]["percentiles"]["read"].clone())
    }

    /// Whether all memory of a disk's guest is pinned; nothing if there is no guest.
    pub(crate) fn pinned(&mut self, disk: &str) -> Result<Option<bool>, Failure> {
        let answer = self.daemon.call("vhost_get_controllers", json!({"name": format!("{disk}.sock")}))?;
        let memory = answer[0]["sessions"][0]["memory"].as_array().cloned().unwrap_or_default();
        let all = memory.iter().all(|region| region["pinned"] == true);
        Ok(Some(all).filter(|_| !memory.is_empty()))
    }

    pub(crate) fn stop(self) -> Result<(), Failure> {
        Ok(self.daemon.stop()?)
    }
}

fn pid_of(daemon: &mut Daemon) -> Result<u32, Failure> {
    let reactors = daemon.call("framework_get_reactors", Value::Null)?;
    reactors["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).ok_or_else(|| "spineld does not say its process id".into())
}

/// A running qemu-storage-daemon with one export.
pub(crate) struct StorageDaemon {
    process: Process,
    socket: PathBuf,
    log: PathBuf,
    _sockets: TempDir,
}

impl StorageDaemon {
    /// Starts one on the engine's core that exports `blockdev`, whose node is named `disk`, from a thread of its own.
    pub(crate) fn start(place: &Place, blockdev: &str) -> Result<Self, Failure> {
        let sockets = sockets()?;
        let socket = sockets.path().join("disk.sock");
        let log = place.log("qemu-storage-daemon");
        let mut command = place.command("qemu-storage-daemon");
        command.args(["--object", "iothread,id=io", "--blockdev", blockdev, "--export"]).arg(format!(
            "type=vhost-user-blk,id=export,node-name=disk,addr.type=unix,addr.path={},num-queues=1,writable=on,iothread=io",
            socket.display()
        ));
        command.stdin(Stdio::null()).stdout(open_log(&log)?).stderr(open_log(&log)?);
        let process = place.on(&[place.cores.engine], || Ok(Process::start("qemu-storage-daemon", &mut command)?))?;
        Ok(Self { process, socket, log, _sockets: sockets })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Waits until it listens, and answers where.
    pub(crate) fn socket(&mut self) -> Result<PathBuf, Failure> {
        drop(self.connect(1 << 20)?);
        Ok(self.socket.clone())
    }

    /// Connects as soon as it listens.
    pub(crate) fn connect(&mut self, memory_bytes: u64) -> Result<Client, Failure> {
        let deadline = Deadline::after_s(20);
        loop {
            match Client::connect(&self.socket, memory_bytes) {
                Ok(client) => return Ok(client),
                Err(failure) if deadline.left().is_none() => {
                    return Err(format!("qemu-storage-daemon does not serve: {failure}{}", tail(&self.log, 5)).into());
                }
                Err(_) => {}
            }
            if let Some(status) = self.process.wait_until(Deadline::after(Duration::from_millis(20)))? {
                return Err(format!("qemu-storage-daemon ended ({status}){}", tail(&self.log, 5)).into());
            }
        }
    }
}

/// A folder for sockets, whose paths the kernel wants short.
fn sockets() -> Result<TempDir, Failure> {
    Ok(tempfile::Builder::new().prefix("spinel-").tempdir()?)
}
