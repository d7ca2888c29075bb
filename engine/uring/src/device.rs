//! A file or block device as the engine's users see it. Knows no ring: channels bring their core's.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use spinel_core::{Channel, Core, Device, Features, Geometry, OpenError};

use crate::channel::UringChannel;
use crate::file::{DeviceOptions, FileError, Medium};
use crate::options::Options;
use crate::polled::PolledRing;
use crate::ring::Ring;
use crate::slot::Step;

/// Most segments of one request; each slot has room for as many.
pub(crate) const SEGMENTS_MAX: u16 = 128;
/// What is advertised as the longest transfer. Longer ones are served too.
const TRANSFER_MAX_BYTES: u32 = 1024 * 1024;
/// Most requests one channel holds.
const DEPTH_MAX: u16 = 4096;

/// What the channels of one device have in common, on whatever core.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) medium: Medium,
    block_count: AtomicU64,
    abilities: Abilities,
    polled: AtomicBool,
    lost_writes: AtomicBool,
}

/// Which ways to discard and to zero still seem to work. What is refused once is not tried again.
#[derive(Debug)]
struct Abilities {
    trim: AtomicBool,
    punch: AtomicBool,
    zero_range: AtomicBool,
}

impl Abilities {
    fn of(&self, step: Step) -> Option<&AtomicBool> {
        match step {
            Step::Trim => Some(&self.trim),
            Step::Punch => Some(&self.punch),
            Step::ZeroRange => Some(&self.zero_range),
            Step::Read | Step::Write | Step::Sync | Step::WriteZeroes => None,
        }
    }
}

impl Shared {
    /// Its size right now; may change under open channels.
    pub(crate) fn block_count(&self) -> u64 {
        self.block_count.load(Ordering::Relaxed)
    }

    /// Whether a flush has failed after which the kernel may have forgotten writes. Stays so until the device is opened again.
    pub(crate) fn lost_writes(&self) -> bool {
        self.lost_writes.load(Ordering::Relaxed)
    }

    /// See [`lost_writes`](Self::lost_writes).
    pub(crate) fn lose_writes(&self) {
        self.lost_writes.store(true, Ordering::Relaxed);
    }

    /// Whether a step is worth trying.
    pub(crate) fn can(&self, step: Step) -> bool {
        self.abilities.of(step).is_none_or(|ability| ability.load(Ordering::Relaxed))
    }

    /// A step was refused: other requests need not try it.
    pub(crate) fn cannot(&self, step: Step) {
        if let Some(ability) = self.abilities.of(step) {
            ability.store(false, Ordering::Relaxed);
        }
    }
}

/// A regular file or a block device.
///
/// Its size in blocks is rounded down: a rest behind the last whole block is not used.
/// A file is locked (`flock`) as long as the device or one of its channels exists, and
/// until the kernel has finished what a process that was killed had in flight: wait for
/// it ([`DeviceOptions::lock_wait`]) rather than around it.
#[derive(Debug)]
pub struct UringDevice {
    shared: Arc<Shared>,
}

impl UringDevice {
    /// Opens a file or a block device.
    ///
    /// # Errors
    /// [`FileError`], whose message says what to do about it.
    pub fn open(path: impl AsRef<Path>, options: &DeviceOptions) -> Result<Self, FileError> {
        Self::of(Medium::open(path.as_ref(), options)?)
    }

    /// Takes over what another process has opened by `path`: its [`file`](Self::file), and the lock with it. Of the
    /// options, `direct` is what it was opened with, and there is no lock to wait for.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn of_open(file: OwnedFd, path: impl AsRef<Path>, options: &DeviceOptions) -> Result<Self, FileError> {
        Self::of(Medium::of_open(file, path.as_ref(), options)?)
    }

    fn of(medium: Medium) -> Result<Self, FileError> {
        let block_count = AtomicU64::new(medium.block_count()?);
        // A block device that does not discard may still have a fast way to write zeroes.
        let abilities = Abilities {
            trim: AtomicBool::new(medium.block_device && medium.discard),
            punch: AtomicBool::new(medium.block_device || medium.discard),
            zero_range: AtomicBool::new(true),
        };
        let polled = AtomicBool::new(false);
        Ok(Self { shared: Arc::new(Shared { medium, block_count, abilities, polled, lost_writes: AtomicBool::new(false) }) })
    }

    /// What its channels share, for tests that open one by themselves.
    #[cfg(test)]
    pub(crate) fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    /// Reads the size again, for channels that are open too, and returns it in blocks. It may have grown or shrunk.
    ///
    /// # Errors
    /// [`FileError::Empty`] if not one block is left, [`FileError::System`]; the size then stays what it was.
    pub fn rescan(&self) -> Result<u64, FileError> {
        let block_count = self.shared.medium.block_count()?;
        self.shared.block_count.store(block_count, Ordering::Relaxed);
        Ok(block_count)
    }

    /// Whether the channel opened last has its reads and writes polled ([`Options::iopoll`]). It is so if the device accepts it.
    #[must_use]
    pub fn polled(&self) -> bool {
        self.shared.polled.load(Ordering::Relaxed)
    }

    /// The open file: what another process needs to have the same device without opening it.
    #[must_use]
    pub fn file(&self) -> BorrowedFd<'_> {
        self.shared.medium.file.as_fd()
    }

    /// Whether transfers bypass the page cache.
    #[must_use]
    pub fn is_direct(&self) -> bool {
        self.shared.medium.direct
    }

    /// Whether a flush has failed after which the kernel may have forgotten writes: no flush succeeds any more.
    #[must_use]
    pub fn has_lost_writes(&self) -> bool {
        self.shared.lost_writes()
    }

    /// Another process has seen such a flush fail on the same open file.
    pub fn note_lost_writes(&self) {
        self.shared.lose_writes();
    }

    /// The path it was opened by.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.shared.medium.path
    }
}

impl Device for UringDevice {
    fn geometry(&self) -> Geometry {
        let Shared { medium, .. } = &*self.shared;
        let discard = medium.discard && (self.shared.can(Step::Trim) || self.shared.can(Step::Punch));
        Geometry {
            block_bytes: medium.block_bytes,
            block_count: self.shared.block_count(),
            memory_align_bytes: medium.memory_align_bytes,
            segments_max: SEGMENTS_MAX,
            transfer_max_bytes: TRANSFER_MAX_BYTES,
            physical_block_bytes: medium.physical_block_bytes,
            write_cache: medium.write_cache,
            read_only: medium.read_only,
            features: Features { discard, write_zeroes: !medium.read_only },
        }
    }

    fn open(&self, core: &mut Core, depth: u16) -> Result<Box<dyn Channel>, OpenError> {
        if depth == 0 || depth > DEPTH_MAX {
            return Err(OpenError::Depth { asked: depth, max: DEPTH_MAX });
        }
        let ring = core.share(|_| Ring::new(&Options::default()))?;
        let mut polled = None;
        if ring.borrow().setup().iopoll {
            let Medium { block_bytes, .. } = self.shared.medium;
            polled = Some(core.share(|_| PolledRing::new(&Options::default()))?)
                .filter(|polled| polled.borrow_mut().accepts(self.shared.medium.fd(), block_bytes));
        }
        self.shared.polled.store(polled.is_some(), Ordering::Relaxed);
        Ok(Box::new(UringChannel::new(Arc::clone(&self.shared), ring, polled, core.regions(), depth)?))
    }
}
