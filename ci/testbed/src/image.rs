//! The guest's root file system: an initramfs of a few programs, their libraries and a few kernel modules.
//! It knows no test and starts nothing.

use crate::cache::{CacheError, Fingerprint, Lock, replace};
use crate::cpio::Archive;
use crate::modules;
use crate::packages::{FetchError, Packages, linked};
use crate::process::RunError;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The programs a guest has beside busybox's; busybox's own of the same name give way.
const TOOLS: &[&str] = &["fio", "mke2fs", "mkfs.ext4", "e2fsck", "blkdiscard", "blockdev", "fstrim", "nvme"];

/// The kernel modules every guest loads when it starts, with what they depend on. ext4 asks for crc32c by a name
/// which only modprobe's tables would resolve, so it is here by its own.
const MODULES: &[&str] = &["qemu_fw_cfg", "virtio_blk", "crc32c_generic", "ext4"];

/// Modules that a guest loads when its script asks for them, by the set's name.
const SETS: &[(&str, &[&str])] = &[("network", &["virtio_net"]), ("nvme-host", &["nvme_tcp"]), ("nvme-target", &["nvmet_tcp"])];

const INIT: &str = include_str!("../guest/init");

/// Counted into the inputs: another layout is another image.
const LAYOUT: &str = "2";

/// Where a program that was built on this machine is in the guest, with this machine's libraries.
const OWN: &str = "own";

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// A program or module cannot be put into it.
    #[error("{what} cannot be put into the guest's image")]
    Content {
        /// What was being put in.
        what: String,
        /// Why not.
        source: io::Error,
    },
    /// A program's libraries are not all there.
    #[error("the guest's programs lack libraries")]
    Libraries(#[from] RunError),
    /// The packages lack the kernel.
    #[error(transparent)]
    Kernel(#[from] FetchError),
    /// The image cannot be written.
    #[error(transparent)]
    Cache(#[from] CacheError),
}

/// What a guest is booted from.
#[derive(Debug, Clone)]
pub struct Image {
    /// The kernel.
    pub kernel: PathBuf,
    /// The initramfs.
    pub initramfs: PathBuf,
    /// Tells this image from one with other contents.
    pub inputs: Fingerprint,
}

impl Image {
    /// The image in `folder`, built anew when it is missing or made of other inputs.
    ///
    /// # Errors
    /// See [`ImageError`].
    pub fn ready(packages: &Packages, folder: &Path) -> Result<Self, ImageError> {
        let _lock = Lock::take(folder)?;
        let (kernel, modules) = packages.kernel()?;
        let parts = [LAYOUT, INIT, packages.manifest(), &TOOLS.join(" "), &MODULES.join(" "), &format!("{SETS:?}")];
        let inputs = Fingerprint::of(&parts);
        let initramfs = folder.join("guest.cpio");
        let stamp = folder.join("guest.cpio.inputs");
        let built_of = fs::read_to_string(&stamp).unwrap_or_default();
        if built_of != inputs.to_string() || !initramfs.exists() {
            let content = build(packages, &modules, folder)?;
            replace(&initramfs, &content)?;
            replace(&stamp, inputs.to_string().as_bytes())?;
        }
        Ok(Self { kernel, initramfs, inputs })
    }

    /// This image with one more program, which was built on this machine and may need newer libraries than the packages': it
    /// brings its own. The image is written to `file`.
    ///
    /// # Errors
    /// [`ImageError::Content`] when the program or one of its libraries cannot be read, or the image not be written.
    pub fn with_program(&self, program: &Path, file: &Path) -> Result<Self, ImageError> {
        let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let added = own_program(&name, program).map_err(content_error(&name))?;
        // The kernel unpacks archives that stand one behind the other into one file system.
        let joined = fs::read(&self.initramfs).and_then(|base| fs::write(file, [base, added].concat()));
        joined.map_err(content_error("the image with one more program"))?;
        Ok(Self { initramfs: file.to_owned(), ..self.clone() })
    }
}

/// An archive of a program, the libraries it loads here, and a word that starts it with them.
fn own_program(name: &str, program: &Path) -> io::Result<Vec<u8>> {
    let mut archive = Archive::new(Vec::new());
    archive.folder(OWN)?;
    let mut put = |path: &Path| -> io::Result<String> {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        archive.file(&format!("{OWN}/{name}"), true, &fs::read(path)?)?;
        Ok(name)
    };
    put(program)?;
    let listed = Command::new("ldd").arg(program).output()?;
    let mut loader = None;
    for library in linked(&String::from_utf8_lossy(&listed.stdout)) {
        let name = put(&library)?;
        loader = loader.or_else(|| name.starts_with("ld-linux").then_some(name));
    }
    let start = loader.map_or(String::new(), |loader| format!("/{OWN}/{loader} --library-path /{OWN} "));
    archive.file(&format!("usr/bin/{name}"), true, format!("#!/bin/sh\nexec {start}/{OWN}/{name} \"$@\"\n").as_bytes())?;
    archive.finish()
}

fn content_error(what: &str) -> impl FnOnce(io::Error) -> ImageError + '_ {
    |source| ImageError::Content { what: what.to_owned(), source }
}

fn build(packages: &Packages, modules: &Path, folder: &Path) -> Result<Vec<u8>, ImageError> {
    let mut archive = Archive::new(Vec::new());
    skeleton(&mut archive).map_err(content_error("the skeleton"))?;
    programs(&mut archive, packages, folder)?;
    add_modules(&mut archive, packages, modules).map_err(content_error("the kernel's modules"))?;
    archive.finish().map_err(content_error("the end mark"))
}

/// The folders and small files every system has.
fn skeleton(archive: &mut Archive<Vec<u8>>) -> io::Result<()> {
    for folder in ["dev", "etc", "mnt", "modules", "proc", "root", "run", "sys", "tmp"] {
        archive.folder(folder)?;
    }
    for folder in ["usr", "usr/bin", "usr/lib", "usr/lib/x86_64-linux-gnu", "usr/lib64"] {
        archive.folder(folder)?;
    }
    for (link, target) in [
        ("bin", "usr/bin"),
        ("sbin", "usr/bin"),
        ("lib", "usr/lib"),
        ("lib64", "usr/lib64"),
        ("usr/sbin", "bin"),
        ("etc/mtab", "/proc/self/mounts"),
    ] {
        archive.link(link, target)?;
    }
    archive.file("etc/passwd", false, b"root:x:0:0::/root:/bin/sh\n")?;
    archive.file("init", true, INIT.as_bytes())
}

fn programs(archive: &mut Archive<Vec<u8>>, packages: &Packages, folder: &Path) -> Result<(), ImageError> {
    let busybox = packages.program("busybox");
    let put = |archive: &mut Archive<Vec<u8>>, path: &str, from: &Path| {
        let content = fs::read(from);
        let done = content.and_then(|content| archive.file(path, true, &content));
        done.map_err(content_error(path))
    };
    put(archive, "usr/bin/busybox", &busybox)?;
    // It is a static program: it runs as it is, wherever it was unpacked.
    let applets = Command::new(&busybox).arg("--list").output();
    let applets = applets.map_err(content_error("the list of busybox's programs"))?;
    for applet in String::from_utf8_lossy(&applets.stdout).lines() {
        if applet != "busybox" && !TOOLS.contains(&applet) {
            let link = format!("usr/bin/{applet}");
            archive.link(&link, "busybox").map_err(content_error(applet))?;
        }
    }
    // One name, one file: libraries are found by their name alone, and most serve several programs.
    let mut libraries = BTreeMap::new();
    for tool in TOOLS {
        let program = packages.program(tool);
        put(archive, &format!("usr/bin/{tool}"), &program)?;
        for library in packages.libraries(&program, &folder.join("libraries.log"))? {
            let name = library.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let place = if name.starts_with("ld-linux") { "lib64" } else { "lib/x86_64-linux-gnu" };
            libraries.insert(format!("usr/{place}/{name}"), library);
        }
    }
    for (path, from) in &libraries {
        put(archive, path, from)?;
    }
    put(archive, "etc/mke2fs.conf", &packages.path("etc/mke2fs.conf"))
}

/// The modules, and of each set the order in which the guest loads them.
fn add_modules(archive: &mut Archive<Vec<u8>>, packages: &Packages, folder: &Path) -> io::Result<()> {
    let read = |path: &Path| match path.extension() {
        Some(extension) if extension == "xz" => {
            let output = packages.command("xz").arg("-dc").arg(path).output()?;
            match output.status.success() {
                true => Ok(output.stdout),
                false => Err(io::Error::other(format!("xz cannot read {}", path.display()))),
            }
        }
        _ => fs::read(path),
    };
    let mut written = BTreeSet::new();
    for (set, wanted) in [("always", MODULES)].iter().chain(SETS) {
        let modules = modules::with_dependencies(folder, wanted, read)?;
        for (name, content) in &modules {
            if written.insert(name.clone()) {
                archive.file(&format!("modules/{name}.ko"), false, content)?;
            }
        }
        let order: String = modules.iter().map(|(name, _)| format!("{name}\n")).collect();
        archive.file(&format!("modules/{set}.order"), false, order.as_bytes())?;
    }
    Ok(())
}
