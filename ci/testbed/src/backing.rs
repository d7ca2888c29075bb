//! What disks are kept on: sparse files, loop devices, and a file system small enough to fill. It knows no engine.

use crate::packages::Packages;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Makes a file of `len_bytes` that takes no space yet, in place of whatever was there.
///
/// # Errors
/// What the file system said.
pub fn sparse_file(path: &Path, len_bytes: u64) -> io::Result<()> {
    File::create(path)?.set_len(len_bytes)
}

/// Why this machine, or this user, cannot have such a backing. Tests skip for it, and say so.
#[derive(Debug, thiserror::Error)]
#[error("{what} needs root and the kernel's help: {reason}")]
pub struct Unavailable {
    what: &'static str,
    reason: String,
}

/// A loop device over a file. Dropping it detaches it.
#[derive(Debug)]
pub struct LoopDevice<'a> {
    packages: &'a Packages,
    path: PathBuf,
}

impl<'a> LoopDevice<'a> {
    /// Attaches `file` with blocks of `block_bytes`, past the page cache where the kernel can.
    ///
    /// # Errors
    /// [`Unavailable`] without root, or without loop devices.
    pub fn attach(packages: &'a Packages, file: &Path, block_bytes: u32) -> Result<Self, Unavailable> {
        let mut command = packages.command("losetup");
        command.args(["--find", "--show", "--direct-io=on", "--sector-size"]);
        let path = run("a loop device", command.arg(block_bytes.to_string()).arg(file))?;
        Ok(Self { packages, path: PathBuf::from(path.trim()) })
    }

    /// The device node.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for LoopDevice<'_> {
    fn drop(&mut self) {
        let detached = run("a loop device", self.packages.command("losetup").arg("--detach").arg(&self.path));
        if let Err(error) = detached {
            eprintln!("{} stays attached: {error}", self.path.display());
        }
    }
}

/// A mounted ext4 of its own. Dropping it unmounts it.
#[derive(Debug)]
pub struct SmallFileSystem<'a> {
    device: LoopDevice<'a>,
    folder: PathBuf,
}

impl<'a> SmallFileSystem<'a> {
    /// Makes and mounts one of `len_bytes` in `folder`, which is made too.
    ///
    /// # Errors
    /// [`Unavailable`] without root, loop devices or ext4.
    pub fn mount(packages: &'a Packages, folder: &Path, len_bytes: u64) -> Result<Self, Unavailable> {
        let what = "a small file system";
        let file = folder.with_extension("ext4");
        let made = sparse_file(&file, len_bytes).and_then(|()| fs::create_dir_all(folder));
        made.map_err(|e| Unavailable { what, reason: e.to_string() })?;
        // No journal and no reserve: nearly all of it can be filled.
        run(what, packages.command("mke2fs").args(["-q", "-t", "ext4", "-O", "^has_journal", "-m", "0"]).arg(&file))?;
        let device = LoopDevice::attach(packages, &file, 512)?;
        run(what, packages.command("mount").args(["-t", "ext4"]).arg(device.path()).arg(folder))?;
        Ok(Self { device, folder: folder.to_owned() })
    }

    /// Where it is mounted.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Drop for SmallFileSystem<'_> {
    fn drop(&mut self) {
        // Lazily: a daemon that was killed may not have closed its files yet.
        let unmounted = run("a small file system", self.device.packages.command("umount").arg("--lazy").arg(&self.folder));
        if let Err(error) = unmounted {
            eprintln!("{} stays mounted: {error}", self.folder.display());
        }
    }
}

/// Runs a short program, and answers what it printed.
fn run(what: &'static str, command: &mut Command) -> Result<String, Unavailable> {
    let failed = |reason| Unavailable { what, reason };
    let output = command.output().map_err(|e| failed(e.to_string()))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}
