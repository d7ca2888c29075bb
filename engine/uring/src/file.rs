//! Opening a file or a block device: its lock, its alignment, its size. Knows no ring.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{AtFlags, FallocateFlags, FileType, FlockOperation, Mode, OFlags, SeekFrom, StatxFlags};
use rustix::io::Errno;

/// How a device is to be opened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeviceOptions {
    /// Bytes of one block: 512 or 4096. Without: the device's logical block, and for files the least they allow.
    pub block_bytes: Option<u32>,
    /// Refuse every operation that changes data.
    pub read_only: bool,
    /// Go past the page cache (`O_DIRECT`). Without, reads and writes are copied through it; flush still reaches the medium.
    pub direct: bool,
    /// How long to wait for the lock while somebody else, perhaps a process that was just killed, still holds it.
    ///
    /// Opening sleeps for up to this long, so it belongs on a control thread.
    pub lock_wait: Duration,
}

impl DeviceOptions {
    fn check(&self) -> Result<(), FileError> {
        match self.block_bytes {
            Some(asked) if ![512, 4096].contains(&asked) => Err(FileError::BlockBytes { asked }),
            _ => Ok(()),
        }
    }
}

impl Default for DeviceOptions {
    fn default() -> Self {
        Self { block_bytes: None, read_only: false, direct: true, lock_wait: Duration::ZERO }
    }
}

/// Why a file or block device could not be opened or measured.
#[derive(Debug)]
pub enum FileError {
    /// The system does not open it.
    Open {
        /// The path as given.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// Neither a regular file nor a block device.
    Kind {
        /// The path as given.
        path: PathBuf,
    },
    /// Its file system does not do direct I/O.
    Direct {
        /// The path as given.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// Somebody else has it open.
    InUse {
        /// The path as given.
        path: PathBuf,
        /// How long the lock was waited for.
        waited: Duration,
    },
    /// A block size that is not 512 or 4096.
    BlockBytes {
        /// What was asked for.
        asked: u32,
    },
    /// A block size below what direct I/O can address.
    BlockTooSmall {
        /// The path as given.
        path: PathBuf,
        /// What was asked for.
        asked: u32,
        /// The least possible.
        least: u32,
    },
    /// Not even one block.
    Empty {
        /// The path as given.
        path: PathBuf,
        /// Its size.
        len_bytes: u64,
        /// The block size.
        block_bytes: u32,
    },
    /// The system refused something else.
    System {
        /// The path as given.
        path: PathBuf,
        /// What was being done.
        doing: &'static str,
        /// The system's answer.
        source: io::Error,
    },
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open { path, .. } => write!(f, "{} cannot be opened", path.display()),
            Self::Kind { path } => write!(f, "{} is neither a regular file nor a block device", path.display()),
            Self::Direct { path, .. } => {
                write!(f, "the file system of {} does not do direct I/O: put the file elsewhere, or open it buffered", path.display())
            }
            Self::InUse { path, waited } => {
                write!(f, "{} is in use by another process (waited {} ms for it)", path.display(), waited.as_millis())
            }
            Self::BlockBytes { asked } => write!(f, "a block size of {asked} bytes was asked for: it can be 512 or 4096"),
            Self::BlockTooSmall { path, asked, least } => {
                write!(f, "{} needs blocks of at least {least} bytes for direct I/O; {asked} were asked for", path.display())
            }
            Self::Empty { path, len_bytes, block_bytes } => {
                write!(f, "{} has {len_bytes} bytes, less than one block of {block_bytes}", path.display())
            }
            Self::System { path, doing, .. } => write!(f, "{}: the system refused: {doing}", path.display()),
        }
    }
}

impl std::error::Error for FileError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Open { source, .. } | Self::Direct { source, .. } | Self::System { source, .. } => Some(source),
            _ => None,
        }
    }
}

/// An open file or block device and what it is like.
#[derive(Debug)]
pub(crate) struct Medium {
    pub(crate) file: OwnedFd,
    pub(crate) path: PathBuf,
    pub(crate) block_device: bool,
    /// Whether transfers bypass the page cache.
    pub(crate) direct: bool,
    pub(crate) block_bytes: u32,
    pub(crate) physical_block_bytes: u32,
    /// What an address in memory, and the length of each piece, must be multiples of.
    pub(crate) memory_align_bytes: u32,
    /// What an offset in the file must be a multiple of.
    pub(crate) offset_align_bytes: u32,
    pub(crate) write_cache: bool,
    pub(crate) read_only: bool,
    /// It can give space back, by one way or another.
    pub(crate) discard: bool,
}

/// How often a lock is asked for while somebody else holds it.
const LOCK_PAUSE: Duration = Duration::from_millis(5);

impl Medium {
    /// Opens, locks and measures.
    pub(crate) fn open(path: &Path, options: &DeviceOptions) -> Result<Self, FileError> {
        options.check()?;
        let kind = FileType::from_raw_mode(rustix::fs::stat(path).map_err(|errno| opening(path, errno))?.st_mode);
        let block_device = is_block_device(kind).ok_or_else(|| FileError::Kind { path: path.into() })?;
        let file = patiently(options.lock_wait, || open_and_lock(path, options, block_device))?;
        Self::measure(file, path, options, block_device)
    }

    /// Measures what another process has opened and locked. Whether it goes past the page cache was decided when it was opened.
    pub(crate) fn of_open(file: OwnedFd, path: &Path, options: &DeviceOptions) -> Result<Self, FileError> {
        options.check()?;
        let system = |doing: &'static str| move |errno: Errno| FileError::System { path: path.into(), doing, source: errno.into() };
        let stat = rustix::fs::fstat(&file).map_err(system("reading its attributes"))?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        let block_device = is_block_device(kind).ok_or_else(|| FileError::Kind { path: path.into() })?;
        let flags = rustix::fs::fcntl_getfl(&file).map_err(system("reading how it was opened"))?;
        if !options.read_only && !flags.contains(OFlags::RDWR) {
            return Err(FileError::Open { path: path.into(), source: Errno::ROFS.into() });
        }
        let options = DeviceOptions { direct: flags.contains(OFlags::DIRECT), ..options.clone() };
        Self::measure(file, path, &options, block_device)
    }

    fn measure(file: OwnedFd, path: &Path, options: &DeviceOptions, block_device: bool) -> Result<Self, FileError> {
        let system = |doing: &'static str| move |errno: Errno| FileError::System { path: path.into(), doing, source: errno.into() };
        let stat = rustix::fs::fstat(&file).map_err(system("reading its attributes"))?;
        if is_block_device(FileType::from_raw_mode(stat.st_mode)) != Some(block_device) {
            return Err(FileError::Kind { path: path.into() });
        }
        let (memory_align_bytes, offset_align_bytes) = alignment(&file, path, block_device, options.direct)?;
        let queue = if block_device { Queue::of(stat.st_rdev) } else { Queue::default() };
        let logical = if block_device { rustix::fs::ioctl_blksszget(&file).map_err(system("reading its block size"))? } else { 512 };
        let least = logical.max(offset_align_bytes);
        let block_bytes = options.block_bytes.unwrap_or(if least <= 512 { 512 } else { 4096 });
        if block_bytes < least {
            return Err(FileError::BlockTooSmall { path: path.into(), asked: block_bytes, least });
        }
        let physical = if block_device { rustix::fs::ioctl_blkpbszget(&file).map_err(system("reading its block size"))? } else { 4096 };
        Ok(Self {
            block_device,
            direct: options.direct,
            block_bytes,
            physical_block_bytes: physical.max(block_bytes),
            memory_align_bytes,
            offset_align_bytes,
            write_cache: queue.write_cache,
            read_only: options.read_only,
            discard: !options.read_only && if block_device { queue.discard } else { punches(file.as_fd()) },
            path: path.into(),
            file,
        })
    }

    /// Its size now, in whole blocks; a rest is not used.
    pub(crate) fn block_count(&self) -> Result<u64, FileError> {
        // The end of a block device is not in its attributes, but both kinds can be sought to the end of.
        let end = rustix::fs::seek(&self.file, SeekFrom::End(0));
        let len_bytes =
            end.map_err(|errno| FileError::System { path: self.path.clone(), doing: "reading its size", source: errno.into() })?;
        let blocks = len_bytes / u64::from(self.block_bytes);
        if blocks == 0 {
            return Err(FileError::Empty { path: self.path.clone(), len_bytes, block_bytes: self.block_bytes });
        }
        Ok(blocks)
    }

    /// The descriptor, for as long as this lives.
    pub(crate) fn fd(&self) -> std::os::fd::RawFd {
        self.file.as_raw_fd()
    }
}

/// Whether it is a block device rather than a regular file; `None` if it is neither.
fn is_block_device(kind: FileType) -> Option<bool> {
    match kind {
        FileType::BlockDevice => Some(true),
        FileType::RegularFile => Some(false),
        _ => None,
    }
}

fn opening(path: &Path, errno: Errno) -> FileError {
    FileError::Open { path: path.into(), source: errno.into() }
}

/// Tries until it works, fails for another reason than use by others, or `wait` is over.
fn patiently<T>(wait: Duration, mut attempt: impl FnMut() -> Result<T, FileError>) -> Result<T, FileError> {
    let mut waited = Duration::ZERO;
    loop {
        match attempt() {
            Err(FileError::InUse { path, .. }) if waited >= wait => return Err(FileError::InUse { path, waited }),
            Err(FileError::InUse { .. }) => {}
            outcome => return outcome,
        }
        let pause = LOCK_PAUSE.min(wait - waited);
        #[allow(clippy::disallowed_methods, reason = "a lock has no event with a deadline; control threads only")]
        std::thread::sleep(pause);
        waited += pause;
    }
}

/// Opens, and takes what keeps others out: an exclusive claim on a block device, a lock on a file (shared if only read).
fn open_and_lock(path: &Path, options: &DeviceOptions, block_device: bool) -> Result<OwnedFd, FileError> {
    let mut flags = OFlags::CLOEXEC | if options.read_only { OFlags::RDONLY } else { OFlags::RDWR };
    flags.set(OFlags::EXCL, block_device);
    flags.set(OFlags::DIRECT, options.direct);
    let in_use = || FileError::InUse { path: path.into(), waited: Duration::ZERO };
    let file = rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| match errno {
        Errno::BUSY if block_device => in_use(),
        Errno::INVAL if options.direct => FileError::Direct { path: path.into(), source: errno.into() },
        _ => opening(path, errno),
    })?;
    if !block_device {
        let lock = if options.read_only { FlockOperation::NonBlockingLockShared } else { FlockOperation::NonBlockingLockExclusive };
        rustix::fs::flock(&file, lock).map_err(|errno| match errno {
            Errno::WOULDBLOCK => in_use(),
            _ => FileError::System { path: path.into(), doing: "locking it", source: errno.into() },
        })?;
    }
    Ok(file)
}

/// What memory addresses and file offsets must be multiples of. Buffered I/O takes anything.
fn alignment(file: &OwnedFd, path: &Path, block_device: bool, direct: bool) -> Result<(u32, u32), FileError> {
    if !direct {
        return Ok((1, 1));
    }
    // STATX_DIOALIGN, since Linux 6.1.
    let dioalign = StatxFlags::from_bits_retain(0x2000);
    if let Ok(statx) = rustix::fs::statx(file, "", AtFlags::EMPTY_PATH, dioalign)
        && statx.stx_mask & dioalign.bits() != 0
        && statx.stx_dio_offset_align != 0
    {
        return Ok((statx.stx_dio_mem_align.max(1), statx.stx_dio_offset_align));
    }
    if block_device && let Ok(logical) = rustix::fs::ioctl_blksszget(file) {
        return Ok((logical, logical));
    }
    probe(file).map(|bytes| (bytes, bytes)).map_err(|source| FileError::Direct { path: path.into(), source })
}

/// The least alignment a direct read accepts, found by reading.
fn probe(file: &OwnedFd) -> io::Result<u32> {
    let file = File::from(file.try_clone()?);
    let mut space = vec![0; 8192];
    let mut refusal = io::Error::from(Errno::INVAL);
    for align in [512_u32, 1024, 2048, 4096] {
        let len = align as usize;
        // Aligned to `align` and to nothing more, so that a success shows that this much is enough.
        let first = space.as_ptr().align_offset(len * 2) % (len * 2);
        let first = if first >= len { first - len } else { first + len };
        match file.read_at(&mut space[first..first + len], 0) {
            Ok(_) => return Ok(align),
            Err(error) => refusal = error,
        }
    }
    Err(refusal)
}

/// Whether a file's space can be given back. Asked for behind its end, where nothing is.
fn punches(file: BorrowedFd<'_>) -> bool {
    let Ok(end) = rustix::fs::seek(file, SeekFrom::End(0)) else { return false };
    let behind = end.next_multiple_of(4096);
    rustix::fs::fallocate(file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, behind, 4096).is_ok()
}

/// What sysfs says of a block device's queue.
struct Queue {
    write_cache: bool,
    discard: bool,
}

impl Default for Queue {
    /// A file: what it caches, it loses.
    fn default() -> Self {
        Self { write_cache: true, discard: false }
    }
}

impl Queue {
    fn of(device: u64) -> Self {
        let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
        // A partition's queue is its disk's.
        let read = |name: &str| {
            let at = |folder: &str| std::fs::read_to_string(format!("/sys/dev/block/{major}:{minor}{folder}/queue/{name}")).ok();
            at("").or_else(|| at("/.."))
        };
        let discard_bytes = read("discard_max_bytes").and_then(|text| text.trim().parse::<u64>().ok());
        Self {
            // What cannot be read is taken for the worse.
            write_cache: read("write_cache").is_none_or(|text| text.trim() != "write through"),
            discard: discard_bytes.is_some_and(|bytes| bytes > 0),
        }
    }
}
