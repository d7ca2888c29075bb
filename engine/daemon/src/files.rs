//! Files and block devices as bdevs: opening one, and looking at its size again. Knows neither method that does so.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use spinel_control::{RpcError, params};
use spinel_core::Device as _;
use spinel_handover::Fd;
use spinel_uring::{DeviceOptions, FileError, UringDevice};

use crate::disks::{Bdev, Disks, errno};
use crate::kinds::chain;
use crate::takeover::FileParcel;

/// How long a file's lock is waited for: what a killed daemon had in flight holds it a little longer than the daemon lived.
const LOCK_WAIT: Duration = Duration::from_secs(2);

/// An open file or block device.
pub(crate) struct FileDisk {
    pub(crate) device: Arc<UringDevice>,
    /// Its absolute path as it was given, symbolic links and all.
    pub(crate) filename: PathBuf,
    pub(crate) read_only: bool,
    /// Whether the page cache is gone past.
    pub(crate) direct: bool,
}

impl FileDisk {
    /// Opens `filename` for the bdev `name`, or takes what another process had open for it; a block size of 0 or none is
    /// the device's own. Goes through the page cache where the file system knows no other way.
    pub(crate) fn open(disks: &mut Disks, name: &str, filename: &str, block_size: Option<u32>, read_only: bool) -> Result<Self, RpcError> {
        if filename.is_empty() || filename.contains('\0') {
            return Err(params::refuse("filename", filename, "the path of a file or a block device"));
        }
        let absolute =
            std::path::absolute(filename).map_err(|error| RpcError::io(&error, format!("the path '{filename}' cannot be resolved")))?;
        check_unshared(&*disks, &absolute, read_only)?;
        let options = DeviceOptions { block_bytes: block_size.filter(|bytes| *bytes != 0), read_only, direct: true, lock_wait: LOCK_WAIT };
        if let Some(parcel) = disks.inherited.take_file(name) {
            return Self::inherit(parcel, absolute, &options);
        }
        let (opened, direct) = match UringDevice::open(&absolute, &options) {
            Err(FileError::Direct { .. }) => (UringDevice::open(&absolute, &DeviceOptions { direct: false, ..options }), false),
            opened => (opened, true),
        };
        let device = Arc::new(opened.map_err(|error| refuse(filename, &error))?);
        if !direct {
            tracing::warn!("{} goes through the page cache: its file system does no direct I/O", absolute.display());
        }
        Ok(Self { device, filename: absolute, read_only, direct })
    }

    fn inherit(parcel: FileParcel, filename: PathBuf, options: &DeviceOptions) -> Result<Self, RpcError> {
        let FileParcel { file, lost_writes, .. } = parcel;
        let file = file.into_owned().map_err(|error| RpcError::io(&error, "no descriptor is left"))?;
        let device = UringDevice::of_open(file, &filename, options).map_err(|error| refuse(&filename.to_string_lossy(), &error))?;
        if lost_writes {
            device.note_lost_writes();
        }
        let direct = device.is_direct();
        Ok(Self { device: Arc::new(device), filename, read_only: options.read_only, direct })
    }

    /// As it travels to another process, which has it open from then on, too.
    pub(crate) fn pack(&self, bdev: &str) -> io::Result<FileParcel> {
        Ok(FileParcel {
            bdev: bdev.to_owned(),
            file: Fd::of(self.device.file())?,
            blocks: self.device.geometry().block_count,
            lost_writes: self.device.has_lost_writes(),
        })
    }
}

/// Refuses a file that is a bdev already, by that bdev's name. What escapes this comparison, the file's lock finds.
fn check_unshared(disks: &Disks, filename: &Path, read_only: bool) -> Result<(), RpcError> {
    let Ok(real) = filename.canonicalize() else { return Ok(()) };
    let is_same = |bdev: &&Bdev| {
        let file = bdev.kind.file().filter(|file| !(read_only && file.read_only));
        file.is_some_and(|file| file.filename.canonicalize().is_ok_and(|other| other == real))
    };
    match disks.bdevs().iter().find(is_same) {
        None => Ok(()),
        Some(bdev) => Err(RpcError::errno(errno::BUSY, format!("'{}' is bdev '{}' already", filename.display(), bdev.name))),
    }
}

/// The refusal of a file.
fn refuse(filename: &str, error: &FileError) -> RpcError {
    match error {
        FileError::BlockBytes { asked } => params::refuse("block_size", *asked, "512 or 4096"),
        FileError::BlockTooSmall { asked, least, .. } => {
            params::refuse("block_size", *asked, format!("at least {least}, the least that direct I/O to '{filename}' allows"))
        }
        FileError::Kind { .. } => params::refuse("filename", filename, "a regular file or a block device"),
        FileError::Empty { block_bytes, .. } => params::refuse(
            "filename",
            filename,
            format!("a file of at least one block of {block_bytes} bytes; truncate(1) makes it longer"),
        ),
        FileError::InUse { .. } => RpcError::errno(errno::BUSY, error.to_string()),
        FileError::Open { source, .. } | FileError::Direct { source, .. } | FileError::System { source, .. } => match source.raw_os_error()
        {
            Some(code) => RpcError::errno(code, chain(error)),
            None => RpcError::internal(chain(error)),
        },
    }
}

/// Looks at the size of a bdev's file again, and tells its guests.
pub(crate) fn rescan(disks: &Disks, bdev: &Bdev, disk: &FileDisk) -> Result<(), RpcError> {
    disk.device.rescan().map_err(|error| refuse(&disk.filename.to_string_lossy(), &error))?;
    let geometry = disk.device.geometry();
    tracing::info!("bdev '{}' has {} blocks of {} bytes", bdev.name, geometry.block_count, geometry.block_bytes);
    disks.announce_size(&bdev.name);
    Ok(())
}
