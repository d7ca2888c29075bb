//! Loop devices and small file systems for tests, where the machine allows them. Knows no engine.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Runs a command; its output if it succeeded.
fn run(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8(output.stdout).unwrap().trim().to_owned())
}

/// Says that a test could not run here; without it a machine that cannot run it would look like one that did.
pub(crate) fn skip(what: &str) {
    println!("SKIPPED: {what} is not to be had here (root, util-linux and kernel support are needed)");
}

/// A loop device over a file, gone with the value.
pub(crate) struct Loop {
    pub(crate) path: PathBuf,
}

impl Loop {
    pub(crate) fn over(file: &Path, sector_bytes: u32) -> Option<Self> {
        let sector = sector_bytes.to_string();
        let path = run("losetup", &["--find", "--show", "--direct-io=on", "--sector-size", &sector, file.to_str()?])?;
        Some(Self { path: path.into() })
    }

    /// Tells the kernel that the file behind it has another size now.
    pub(crate) fn resize(&self) {
        run("losetup", &["--set-capacity", self.path.to_str().unwrap()]).unwrap();
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        run("losetup", &["--detach", self.path.to_str().unwrap()]);
    }
}

/// A mounted file system, unmounted with the value.
pub(crate) struct Mount {
    pub(crate) folder: tempfile::TempDir,
}

impl Mount {
    /// A memory file system of this size.
    pub(crate) fn tmpfs(len_bytes: u32) -> Option<Self> {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        run("mount", &["-t", "tmpfs", "-o", &format!("size={len_bytes}"), "spinel-test", folder.path().to_str()?])?;
        Some(Self { folder })
    }

    /// An ext4 on a loop device.
    pub(crate) fn ext4(device: &Loop) -> Option<Self> {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let path = device.path.to_str()?;
        run("mkfs.ext4", &["-q", "-O", "^has_journal", "-m", "0", path])?;
        run("mount", &[path, folder.path().to_str()?])?;
        Some(Self { folder })
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        run("umount", &["--lazy", self.folder.path().to_str().unwrap()]);
    }
}
