//! An apt that installs nothing: it resolves and downloads into a folder of ours, with the machine's own mirrors and
//! proxy. It does not know what the packages are for.

use crate::cache::CacheError;
use crate::mirror::Mirrors;
use crate::packages::{FetchError, Progress};
use crate::process::{RunError, open_log, run_logged, run_watched, tail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// An apt of our own, which takes nothing for installed and keeps everything it writes in one folder.
pub(crate) struct Apt<'a> {
    folder: PathBuf,
    archives: PathBuf,
    log: &'a Path,
}

impl<'a> Apt<'a> {
    /// Writes its configuration under `partial`; what it says goes to `log`.
    pub(crate) fn set_up(partial: &Path, log: &'a Path) -> Result<Self, FetchError> {
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
    fn ask(&self, doing: &'static str, command: &mut Command) -> Result<String, FetchError> {
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

    /// Resolves and downloads `wanted` with all it depends on, and the newest kernel of `series` by itself. The answer
    /// are the archives' paths.
    pub(crate) fn download(&self, wanted: &[&str], series: &str, report: &mut dyn FnMut(Progress)) -> Result<Vec<PathBuf>, FetchError> {
        let doing = "reading the package lists";
        report(Progress { doing, done: 0, of: 0, unit: "" });
        let limit = Duration::from_secs(300);
        run_logged("apt-get update", &mut self.command("apt-get", &["update"]), self.log, limit)
            .map_err(|source| FetchError::Step { doing, source })?;
        let names = self.ask(doing, &mut self.command("apt-cache", &["pkgnames", series]))?;
        let kernel = newest(&names, series).ok_or(FetchError::NoKernel)?;

        // The kernel goes by itself: its dependencies are what an installed kernel needs (udev, an initramfs).
        let alone = ["-qq", "download", kernel];
        let mut closure = vec!["-qq", "-y", "--download-only", "install"];
        closure.extend(wanted);
        let doing = "resolving the packages";
        let mut total = 0;
        for arguments in [&alone[..], &closure] {
            let text = self.ask(doing, self.command("apt-get", arguments).arg("--print-uris"))?;
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

    /// Removes everything it has written and downloaded.
    pub(crate) fn remove(&self) -> Result<(), CacheError> {
        for folder in [&self.folder, &self.archives] {
            fs::remove_dir_all(folder).map_err(CacheError::at(folder))?;
        }
        Ok(())
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
fn newest<'a>(names: &'a str, series: &str) -> Option<&'a str> {
    let version = |name: &str| -> Option<u32> {
        let (patch, flavour) = name.strip_prefix(series)?.split_once('+')?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_kernel_is_newest_by_number_and_is_the_plain_one() {
        let names = "linux-image-6.12.9+deb12-amd64\nlinux-image-6.12.117+deb12-amd64\n\
            linux-image-6.12.118+deb12-amd64-dbg\nlinux-image-6.12.118+deb12-amd64-unsigned\n\
            linux-image-6.12.119+deb12-rt-amd64\nlinux-image-6.12.30+deb12-amd64\n";
        assert_eq!(newest(names, "linux-image-6.12."), Some("linux-image-6.12.117+deb12-amd64"));
        assert_eq!(newest("linux-image-6.12.9+deb12-cloud-amd64\n", "linux-image-6.12."), None);
    }

    #[test]
    fn sizes_are_read_from_the_lines_that_name_a_package() {
        assert_eq!(size_bytes("'http://m/a.deb' a_1%3a2_amd64.deb 107179464 SHA256:80"), Some(107_179_464));
        assert_eq!(size_bytes("The following packages will be installed"), None);
    }
}
