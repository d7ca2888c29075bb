//! Pinning a region's pages once, off the reactor. Knows no core: each clones the pins by itself.

use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use io_uring::IoUring;
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};
use rustix::thread::{CapabilitySet, capabilities};
use spinel_mem::{Pins, Region};

/// The most that one registered buffer may hold (linux/io_uring/rsrc.c).
const ENTRY_BYTES: u64 = 1 << 30;

/// Why a region could not be pinned. It is served all the same, only not as registered memory.
#[derive(Debug)]
pub enum PinError {
    /// Neither the right nor the limit for so much locked memory.
    Limit {
        /// What the region needs.
        needed_bytes: u64,
        /// What `RLIMIT_MEMLOCK` allows.
        limit_bytes: u64,
    },
    /// The machine has not so much memory to spare: pinning populates all of it.
    Memory {
        /// What the region needs.
        needed_bytes: u64,
        /// What is available.
        available_bytes: u64,
    },
    /// The region has more parts of 1 GiB than a table can name.
    TooLarge {
        /// The region's length.
        len_bytes: u64,
    },
    /// The kernel does not pin this kind of memory, as with files of an ordinary file system.
    Kind {
        /// The kernel's answer.
        source: io::Error,
    },
    /// The kernel refused for another reason.
    Kernel {
        /// What was being done.
        doing: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
}

impl fmt::Display for PinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Limit { needed_bytes, limit_bytes } => write!(
                f,
                "{needed_bytes} bytes cannot be pinned: the limit of locked memory is {limit_bytes} bytes in all; \
                 raise it (ulimit -l, LimitMEMLOCK=) or grant CAP_IPC_LOCK"
            ),
            Self::Memory { needed_bytes, available_bytes } => {
                write!(f, "{needed_bytes} bytes cannot be pinned: only {available_bytes} bytes of memory are available")
            }
            Self::TooLarge { len_bytes } => write!(f, "a region of {len_bytes} bytes is too large to be registered"),
            Self::Kind { .. } => write!(f, "this memory cannot be pinned: share it from a memfd, tmpfs or hugetlbfs"),
            Self::Kernel { doing, .. } => write!(f, "the kernel refused: {doing}"),
        }
    }
}

impl std::error::Error for PinError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Kind { source } | Self::Kernel { source, .. } => Some(source),
            _ => None,
        }
    }
}

/// Pins a region's pages and attaches the pins to it; announce the region (again) afterwards, and each core clones them.
///
/// This populates and locks all of the region's memory, which takes seconds for
/// gigabytes that were never touched: call it on a control thread. The pins go with
/// the region. The kernel accounts them against `RLIMIT_MEMLOCK` of the user unless
/// the process has `CAP_IPC_LOCK`; that is looked at first, because the kernel notices
/// only after most of the work.
///
/// # Errors
/// [`PinError`]; the region is then as it was.
pub fn pin(region: &Arc<Region>) -> Result<(), PinError> {
    if region.pins().is_some() {
        return Ok(());
    }
    let len_bytes = region.len_bytes();
    let entries = u16::try_from(len_bytes.div_ceil(ENTRY_BYTES)).map_err(|_| PinError::TooLarge { len_bytes })?;
    check_limit(len_bytes)?;
    check_memory(len_bytes)?;
    let ring =
        IoUring::builder().dontfork().build(1).map_err(|source| PinError::Kernel { doing: "making an io_uring for pins", source })?;
    let parts: Vec<libc::iovec> = (0..u64::from(entries))
        .map(|entry| {
            let offset = entry * ENTRY_BYTES;
            let part_bytes = (len_bytes - offset).min(ENTRY_BYTES);
            libc::iovec { iov_base: region.as_ptr().wrapping_add(in_memory(offset)).cast(), iov_len: in_memory(part_bytes) }
        })
        .collect();
    // SAFETY: the parts lie inside the region, which owns the registration from here on and stays mapped as long as it.
    let registered = unsafe { ring.submitter().register_buffers(&parts) };
    registered.map_err(|source| match Errno::from_io_error(&source) {
        Some(Errno::FAULT | Errno::OPNOTSUPP) => PinError::Kind { source },
        // The limit counts what other regions and processes of this user have pinned, too.
        Some(Errno::NOMEM) if let Some(limit_bytes) = limit() => PinError::Limit { needed_bytes: len_bytes, limit_bytes },
        _ => PinError::Kernel { doing: "registering the region's memory", source },
    })?;
    region.pin(Pins { registrar: keep(&ring)?, entries, entry_bytes: ENTRY_BYTES });
    Ok(())
}

fn in_memory(bytes: u64) -> usize {
    usize::try_from(bytes).expect("a mapped region fits memory")
}

/// The ring's descriptor alone keeps the registration; its queues are never used.
fn keep(ring: &IoUring) -> Result<OwnedFd, PinError> {
    // SAFETY: the ring owns this descriptor and outlives the borrow.
    let fd = unsafe { BorrowedFd::borrow_raw(ring.as_raw_fd()) };
    fd.try_clone_to_owned().map_err(|source| PinError::Kernel { doing: "keeping the io_uring of pins", source })
}

/// How much memory this user may lock, if there is a limit that applies to this process.
fn limit() -> Option<u64> {
    if capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::IPC_LOCK)) {
        return None;
    }
    getrlimit(Resource::Memlock).current
}

/// Whether the machine can do without so much memory: a client chooses how much it shares, and a sparse file costs it nothing.
fn check_memory(needed_bytes: u64) -> Result<(), PinError> {
    let info = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = info.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    match kib.map(|kib| kib.saturating_mul(1024)) {
        Some(available_bytes) if available_bytes < needed_bytes => Err(PinError::Memory { needed_bytes, available_bytes }),
        _ => Ok(()),
    }
}

/// Whether so much memory may be locked at all.
fn check_limit(needed_bytes: u64) -> Result<(), PinError> {
    match limit() {
        Some(limit_bytes) if limit_bytes < needed_bytes => Err(PinError::Limit { needed_bytes, limit_bytes }),
        _ => Ok(()),
    }
}
