//! Debian packages, fetched and unpacked into a folder of ours: nothing is installed, and no root is needed.
//! It knows which programs guests need, and not what is done with them.

use crate::cache::{CacheError, Fingerprint, Lock};
use crate::mirror::Mirrors;
use crate::process::{RunError, open_log, run_logged, run_watched, tail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// What is fetched, with everything these depend on.
const WANTED: &[&str] = &[
    "qemu-system-x86",
    // qemu-storage-daemon, which the side-by-side benchmarks compare with.
    "qemu-utils",
    "fio",
    "busybox-static",
    "e2fsprogs",
    "util-linux",
    "mount",
    "xz-utils",
];

/// The guest's kernel: the newest of this series. Debian 12's own 6.1 lacks what later tests need (ublk, vduse,
/// NVMe/TCP with TLS), its security archive carries this one.
const KERNEL_SERIES: &str = "linux-image-6.12.";

/// About what is fetched on a machine that has nothing yet, for the question asked before.
pub const DOWNLOAD_MIB: u32 = 205;

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
        let archives = apt.download(report)?;
        unpack(&archives, &partial.join("root"), log, report)?;
        let manifest: String = archives.iter().map(|path| file_name(path) + "\n").collect();
        let path = partial.join("manifest");
        fs::write(&path, &manifest).map_err(CacheError::at(&path))?;
        for scratch in [&apt.folder, &apt.archives] {
            fs::remove_dir_all(scratch).map_err(CacheError::at(scratch))?;
        }
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
        // "libc.so.6 => /path/libc.so.6 (0x...)"; the loader's own line has the path only.
        let path = |line: &str| {
            let line = line.trim();
            let found = line.split_once("=> ").map_or(line, |(_, found)| found);
            Some(PathBuf::from(found.split(" (").next()?)).filter(|path| path.is_absolute())
        };
        Ok(text.lines().filter_map(path).collect())
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

fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// An apt of our own, which takes nothing for installed and keeps everything it writes in one folder.
struct Apt<'a> {
    folder: PathBuf,
    archives: PathBuf,
    log: &'a Path,
}

impl<'a> Apt<'a> {
    fn set_up(partial: &Path, log: &'a Path) -> Result<Self, FetchError> {
        let runs = |tool: &&str| {
            let mut command = Command::new(tool);
            command.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
            command.status().is_ok_and(|status| status.success())
        };
        if let Some(missing) = ["apt-get", "apt-cache", "dpkg-deb"].into_iter().find(|t| !runs(t)) {
            return Err(FetchError::NoTool(missing));
        }
        let (folder, archives) = (partial.join("apt"), partial.join("archives"));
        for made in [folder.join("lists/partial"), archives.join("partial")] {
            fs::create_dir_all(&made).map_err(CacheError::at(&made))?;
        }
        let files = [
            ("status", String::new()),
            ("sources.list", Mirrors::of_system(Path::new("/etc/apt")).sources_list()),
            ("apt.conf", configuration(&folder, &archives)),
        ];
        for (name, text) in files {
            let path = folder.join(name);
            fs::write(&path, text).map_err(CacheError::at(&path))?;
        }
        Ok(Self { folder, archives, log })
    }

    fn command(&self, tool: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(tool);
        command.arg("-c").arg(self.folder.join("apt.conf")).args(arguments);
        command.current_dir(&self.archives);
        command
    }

    /// What a short apt command prints.
    fn ask(&self, doing: &'static str, mut command: Command) -> Result<String, FetchError> {
        let failed = |source| FetchError::Step { doing, source };
        let log = open_log(self.log).map_err(failed)?;
        let output = command.stdin(Stdio::null()).stderr(log).output();
        let program = || "apt-get".to_owned();
        let output = output.map_err(|source| failed(RunError::Start { program: program(), source }))?;
        if !output.status.success() {
            return Err(failed(RunError::Failed {
                program: program(),
                status: output.status,
                log: self.log.to_owned(),
                tail: tail(self.log, 5),
            }));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Resolves and downloads everything, and answers the archives' paths.
    fn download(&self, report: &mut dyn FnMut(Progress)) -> Result<Vec<PathBuf>, FetchError> {
        let doing = "reading the package lists";
        report(Progress { doing, done: 0, of: 0, unit: "" });
        let limit = Duration::from_secs(300);
        run_logged("apt-get update", &mut self.command("apt-get", &["update"]), self.log, limit)
            .map_err(|source| FetchError::Step { doing, source })?;
        let names = self.ask(doing, self.command("apt-cache", &["pkgnames", KERNEL_SERIES]))?;
        let kernel = newest_kernel(&names).ok_or(FetchError::NoKernel)?;

        // The kernel goes by itself: its dependencies are what an installed kernel needs (udev, an initramfs).
        let alone = ["-qq", "download", kernel];
        let mut closure = vec!["-qq", "-y", "--download-only", "install"];
        closure.extend(WANTED);
        let doing = "resolving the packages";
        let mut total = 0;
        for arguments in [&alone[..], &closure] {
            let mut command = self.command("apt-get", arguments);
            let text = self.ask(doing, {
                command.arg("--print-uris");
                command
            })?;
            total += text.lines().filter_map(size_bytes).sum::<u64>();
        }
        for arguments in [&alone[..], &closure] {
            self.watch(self.command("apt-get", arguments), total, report)?;
        }
        let entries = fs::read_dir(&self.archives).map_err(CacheError::at(&self.archives))?;
        let paths = entries.flatten().map(|entry| entry.path());
        let mut debs: Vec<_> = paths.filter(|path| path.extension().is_some_and(|e| e == "deb")).collect();
        debs.sort();
        Ok(debs)
    }

    /// Runs a downloading command, reporting how much has arrived.
    fn watch(&self, mut command: Command, total: u64, report: &mut dyn FnMut(Progress)) -> Result<(), FetchError> {
        let doing = "downloading packages";
        let mib = |bytes: u64| bytes >> 20;
        let mut look = || {
            let done = mib(held_bytes(&self.archives).min(total));
            report(Progress { doing, done, of: mib(total), unit: "MiB" });
        };
        run_watched("apt-get", &mut command, self.log, Duration::from_secs(1200), &mut look)
            .map_err(|source| FetchError::Step { doing, source })
    }
}

/// The machine's apt configuration stays in force (its proxy, above all); what belongs to an installed system, and
/// what would run programs of it, does not.
fn configuration(folder: &Path, archives: &Path) -> String {
    let (folder, archives) = (folder.display(), archives.display());
    format!(
        r#"Dir::State "{folder}";
Dir::State::lists "{folder}/lists";
Dir::State::status "{folder}/status";
Dir::Cache "{folder}";
Dir::Cache::archives "{archives}";
Dir::Etc::sourcelist "{folder}/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
#clear APT::Update;
#clear DPkg::Pre-Install-Pkgs;
#clear DPkg::Post-Invoke;
#clear Acquire::IndexTargets::deb::DEP-11;
Acquire::Languages "none";
APT::Architecture "amd64";
APT::Architectures "amd64";
APT::Install-Recommends "false";
APT::Keep-Downloaded-Packages "true";
APT::Sandbox::User "";
"#
    )
}

/// The highest version of the series among apt's package names.
fn newest_kernel(names: &str) -> Option<&str> {
    let version = |name: &str| -> Option<u32> {
        let (patch, flavour) = name.strip_prefix(KERNEL_SERIES)?.split_once('+')?;
        (flavour == "deb12-amd64").then(|| patch.parse().ok())?
    };
    names.lines().filter(|name| version(name).is_some()).max_by_key(|name| version(name))
}

/// The size in a line of `--print-uris`: `'URI' file size hash`.
fn size_bytes(line: &str) -> Option<u64> {
    line.strip_prefix('\'')?.split_whitespace().nth(2)?.parse().ok()
}

fn held_bytes(archives: &Path) -> u64 {
    let folders = [archives.to_owned(), archives.join("partial")];
    let entries = folders.iter().flat_map(|folder| fs::read_dir(folder).into_iter().flatten());
    let files = entries.flatten().filter_map(|entry| entry.metadata().ok()).filter(|m| m.is_file());
    files.map(|file| file.len()).sum()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_kernel_is_newest_by_number_and_is_the_plain_one() {
        let names = "linux-image-6.12.9+deb12-amd64\nlinux-image-6.12.117+deb12-amd64\n\
            linux-image-6.12.118+deb12-amd64-dbg\nlinux-image-6.12.118+deb12-amd64-unsigned\n\
            linux-image-6.12.119+deb12-rt-amd64\nlinux-image-6.12.30+deb12-amd64\n";
        assert_eq!(newest_kernel(names), Some("linux-image-6.12.117+deb12-amd64"));
        assert_eq!(newest_kernel("linux-image-6.12.9+deb12-cloud-amd64\n"), None);
    }

    #[test]
    fn sizes_are_read_from_the_lines_that_name_a_package() {
        assert_eq!(size_bytes("'http://m/a.deb' a_1%3a2_amd64.deb 107179464 SHA256:80"), Some(107_179_464));
        assert_eq!(size_bytes("The following packages will be installed"), None);
    }
}
