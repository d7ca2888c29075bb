//! Debian packages, fetched and unpacked into a folder of ours: nothing is installed, and no root is needed.
//! It knows which programs guests need, and not what is done with them.

use crate::apt::Apt;
use crate::cache::{CacheError, Fingerprint, Lock};
use crate::process::{RunError, run_logged, tail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// What is fetched, with everything these depend on.
const WANTED: &[&str] = &[
    "qemu-system-x86",
    // qemu-storage-daemon, which the side-by-side benchmarks compare with.
    "qemu-utils",
    "fio",
    "nvme-cli",
    "busybox-static",
    "e2fsprogs",
    "util-linux",
    "mount",
    "xz-utils",
    // Counts instructions, for the budgets.
    "valgrind",
];

/// The guest's kernel: the newest of this series. Debian 12's own 6.1 lacks what later tests need (ublk, vduse,
/// NVMe/TCP with TLS), its security archive carries this one.
const KERNEL_SERIES: &str = "linux-image-6.12.";

/// About what is fetched on a machine that has nothing yet, for the question asked before.
pub const DOWNLOAD_MIB: u32 = 227;

/// Counted into the folder's name: another layout is another folder.
const LAYOUT: &str = "1";

const LIBRARIES: &[&str] = &["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu/ceph"];
const LOADER: &str = "lib/x86_64-linux-gnu/ld-linux-x86-64.so.2";
const PROGRAMS: &[&str] = &["usr/bin", "usr/sbin", "bin", "sbin"];

/// Why the packages cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The programs are for another processor.
    #[error("the guests' programs are Debian's for x86-64, which this machine cannot run")]
    Processor,
    /// There is no apt.
    #[error("Debian packages are fetched with apt-get and dpkg-deb, and this machine lacks {0}")]
    NoTool(&'static str),
    /// A step of apt's or dpkg's failed.
    #[error("{doing} failed; is the network there?")]
    Step {
        /// What was being done.
        doing: &'static str,
        /// The program and its log.
        source: RunError,
    },
    /// The archive does not carry the kernel any more.
    #[error("the Debian archive offers no {KERNEL_SERIES}*-amd64")]
    NoKernel,
    /// The folder cannot be written.
    #[error(transparent)]
    Cache(#[from] CacheError),
}

/// How far fetching has come.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    /// What is being done.
    pub doing: &'static str,
    /// How much of it is done, in `unit`.
    pub done: u64,
    /// How much there is to do, in `unit`; zero when that is not known.
    pub of: u64,
    /// What is counted.
    pub unit: &'static str,
}

/// The unpacked packages.
#[derive(Debug, Clone)]
pub struct Packages {
    root: PathBuf,
    manifest: String,
}

impl Packages {
    /// The folder these packages have, or will have, under `cache`.
    #[must_use]
    pub fn folder(cache: &Path) -> PathBuf {
        let mut parts = vec![LAYOUT, KERNEL_SERIES];
        parts.extend(WANTED);
        cache.join(format!("packages-{}", Fingerprint::of(&parts)))
    }

    /// The packages an earlier run has left under `cache`.
    #[must_use]
    pub fn cached(cache: &Path) -> Option<Self> {
        let folder = Self::folder(cache);
        let manifest = fs::read_to_string(folder.join("manifest")).ok()?;
        Some(Self { root: folder.join("root"), manifest })
    }

    /// The cached packages, or else fetched ones: everything is resolved, downloaded and unpacked beside the
    /// folder, which appears only when it is complete.
    ///
    /// # Errors
    /// See [`FetchError`]; what went wrong in apt is in the log its source names.
    pub fn fetch(cache: &Path, log: &Path, report: &mut dyn FnMut(Progress)) -> Result<Self, FetchError> {
        if !cfg!(target_arch = "x86_64") {
            return Err(FetchError::Processor);
        }
        let _lock = Lock::take(cache)?;
        if let Some(packages) = Self::cached(cache) {
            return Ok(packages);
        }
        let folder = Self::folder(cache);
        let partial = folder.with_extension("partial");
        if partial.exists() {
            fs::remove_dir_all(&partial).map_err(CacheError::at(&partial))?;
        }
        let apt = Apt::set_up(&partial, log)?;
        let archives = apt.download(WANTED, KERNEL_SERIES, report)?;
        unpack(&archives, &partial.join("root"), log, report)?;
        let manifest: String = archives.iter().map(|path| file_name(path) + "\n").collect();
        let path = partial.join("manifest");
        fs::write(&path, &manifest).map_err(CacheError::at(&path))?;
        apt.remove()?;
        fs::rename(&partial, &folder).map_err(CacheError::at(&folder))?;
        Ok(Self { root: folder.join("root"), manifest })
    }

    /// Which packages these are: their archives' names with versions, one on a line.
    #[must_use]
    pub fn manifest(&self) -> &str {
        &self.manifest
    }

    /// A file of the packages, by its path on a system that had them installed (without the leading slash).
    #[must_use]
    pub fn path(&self, relative: &str) -> PathBuf {
        self.root.join(relative)
    }

    /// The file of a program.
    ///
    /// # Panics
    /// When no package of the list contains it, which is a fault of the list.
    #[must_use]
    pub fn program(&self, name: &str) -> PathBuf {
        let mut places = PROGRAMS.iter().map(|folder| self.root.join(folder).join(name));
        let found = places.find(|path| path.exists());
        found.unwrap_or_else(|| panic!("no package of the testbed contains the program {name}"))
    }

    /// A command that runs `program` with the packages' own C library and loader. Nothing of the machine's is
    /// mixed in, and no LD_LIBRARY_PATH leaks into what the program starts.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.root.join(LOADER));
        command.arg("--library-path").arg(self.library_path());
        command.args(["--argv0", program]).arg(self.program(program));
        command.env_remove("LD_LIBRARY_PATH").env_remove("LD_PRELOAD");
        command
    }

    /// The shared libraries a program loads, the loader among them; none for a static program.
    ///
    /// # Errors
    /// [`RunError`] when the loader cannot say; its answer is in `log`.
    pub fn libraries(&self, program: &Path, log: &Path) -> Result<Vec<PathBuf>, RunError> {
        let failed = |source| RunError::Start { program: LOADER.to_owned(), source };
        let mut command = Command::new(self.root.join(LOADER));
        command.arg("--library-path").arg(self.library_path()).arg("--list").arg(program);
        let output = command.output().map_err(failed)?;
        let text = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() || text.contains("not found") {
            let refused = String::from_utf8_lossy(&output.stderr);
            fs::write(log, format!("{text}{refused}")).map_err(failed)?;
            return Err(RunError::Failed {
                program: format!("listing the libraries of {}", program.display()),
                status: output.status,
                log: log.to_owned(),
                tail: tail(log, 5),
            });
        }
        Ok(linked(&text))
    }

    /// The guest's kernel image and the folder of its modules.
    ///
    /// # Errors
    /// [`FetchError::NoKernel`] when the unpacked packages lack either.
    pub fn kernel(&self) -> Result<(PathBuf, PathBuf), FetchError> {
        let only = |folder: &str, prefix: &str| {
            let entries = fs::read_dir(self.root.join(folder)).ok()?.flatten();
            let mut paths = entries.map(|entry| entry.path());
            paths.find(|path| file_name(path).starts_with(prefix))
        };
        let image = only("boot", "vmlinuz-6.12.");
        let modules = only("lib/modules", "6.12.");
        image.zip(modules).ok_or(FetchError::NoKernel)
    }

    fn library_path(&self) -> String {
        let folders = LIBRARIES.iter().map(|folder| self.root.join(folder).display().to_string());
        folders.collect::<Vec<_>>().join(":")
    }
}

/// The files in a loader's list of libraries, its own among them.
pub(crate) fn linked(list: &str) -> Vec<PathBuf> {
    // "libc.so.6 => /path/libc.so.6 (0x...)"; the loader's own line has the path only.
    let path = |line: &str| {
        let line = line.trim();
        let found = line.split_once("=> ").map_or(line, |(_, found)| found);
        Some(PathBuf::from(found.split(" (").next()?)).filter(|path| path.is_absolute())
    };
    list.lines().filter_map(path).collect()
}

fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

fn unpack(archives: &[PathBuf], root: &Path, log: &Path, report: &mut dyn FnMut(Progress)) -> Result<(), FetchError> {
    let doing = "unpacking packages";
    let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
    for (number, archive) in archives.iter().enumerate() {
        report(Progress { doing, done: count(number), of: count(archives.len()), unit: "packages" });
        let mut command = Command::new("dpkg-deb");
        command.arg("-x").arg(archive).arg(root);
        let program = format!("dpkg-deb -x {}", file_name(archive));
        run_logged(&program, &mut command, log, Duration::from_secs(300)).map_err(|source| FetchError::Step { doing, source })?;
    }
    Ok(())
}
