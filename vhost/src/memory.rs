//! A client's shared memory: checked, mapped, and announced to the cores that serve it. Knows no message on the wire and no ring.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Weak};

use rustix::fs::fstatfs;
use spinel_core::Mailbox;
use spinel_mem::{GuestMap, GuestRange, GuestRangeError, MapError, Region};

use crate::message::{RegionOffer, RegionPlace};

/// Most regions of one client; the answer to VHOST_USER_GET_MAX_MEM_SLOTS. 64 clients can have as many without using up the process's.
pub(crate) const SLOTS_MAX: usize = 64;

/// Most memory of one client: 4 TiB. The address space of a process has room for 31 such clients, so that one cannot take it all.
pub(crate) const MEMORY_MAX_BYTES: u64 = 1 << 42;

/// File systems whose pages no other process has to deliver (linux/magic.h): a page fault on FUSE, say, could hold a core for ever.
const FILE_SYSTEMS: [i64; 8] = [
    0x0102_1994, // tmpfs, and with it every memfd
    0x9584_58f6, // hugetlbfs
    0x8584_58f6, // ramfs
    0xef53,      // ext2, ext3, ext4
    0x5846_5342, // xfs
    0x9123_683e, // btrfs
    0x2fc1_2fc1, // zfs
    0xf2f5_2010, // f2fs
];

/// Why a client's memory cannot be used as it asks.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MemoryError {
    #[error("{count} memory regions, of which a client may have {SLOTS_MAX}")]
    TooMany { count: usize },
    #[error("{len_bytes} bytes of shared memory, of which a client may have {MEMORY_MAX_BYTES}")]
    TooLarge { len_bytes: u64 },
    #[error("the memory region at guest address {guest:#x} cannot be mapped: {source}")]
    Map { guest: u64, source: MapError },
    #[error(
        "the memory region at guest address {guest:#x} lies on a file system of type {magic:#x}: use a memfd, hugetlbfs, or a file on tmpfs, ext4, xfs, btrfs, zfs or f2fs"
    )]
    FileSystem { guest: u64, magic: i64 },
    #[error(transparent)]
    Place(#[from] GuestRangeError),
    #[error("there is no memory region at guest address {guest:#x}, user address {user:#x} of {len_bytes} bytes", guest = .0.guest, user = .0.user, len_bytes = .0.len_bytes)]
    Unknown(RegionPlace),
}

/// A client's memory, and which cores know of it.
pub(crate) struct Memory {
    map: GuestMap,
    cores: Arc<[Mailbox]>,
    /// By core: whether every region of `map` is announced there.
    announced: Vec<bool>,
}

/// Regions that no new queue will use. Still announced; dropping this is a fault of ours, [`Memory::forget`] takes it.
#[must_use]
pub(crate) struct Leaving(Vec<Arc<Region>>);

impl Memory {
    pub(crate) fn new(cores: Arc<[Mailbox]>) -> Self {
        Self { map: GuestMap::default(), announced: vec![false; cores.len()], cores }
    }

    /// The memory as queues use it.
    pub(crate) fn map(&self) -> &GuestMap {
        &self.map
    }

    /// What the whole table would be if these were its regions. Nothing changes yet.
    pub(crate) fn with_table(&self, offers: &[RegionOffer]) -> Result<GuestMap, MemoryError> {
        let mut next = GuestMap::default();
        for offer in offers {
            add(&mut next, offer)?;
        }
        Ok(next)
    }

    /// What the table would be with one region more.
    pub(crate) fn with_region(&self, offer: &RegionOffer) -> Result<GuestMap, MemoryError> {
        let mut next = self.map.clone();
        add(&mut next, offer)?;
        Ok(next)
    }

    /// What the table would be with one region less.
    pub(crate) fn without(&self, place: RegionPlace) -> Result<GuestMap, MemoryError> {
        let mut next = self.map.clone();
        next.remove(place.guest, place.user, place.len_bytes).ok_or(MemoryError::Unknown(place))?;
        Ok(next)
    }

    /// Takes a new table into use; new regions are announced wherever the old ones were. No queue runs meanwhile.
    pub(crate) fn replace(&mut self, next: GuestMap) -> Leaving {
        let has = |map: &GuestMap, region: &Arc<Region>| map.ranges().iter().any(|range| range.region.id() == region.id());
        for region in regions(&next).filter(|region| !has(&self.map, region)) {
            for core in self.announced_cores() {
                core.map(Arc::clone(region));
            }
        }
        let leaving = regions(&self.map).filter(|region| !has(&next, region)).cloned().collect();
        self.map = next;
        Leaving(leaving)
    }

    /// Takes regions back from the cores and unmaps them here. Nothing that uses them flies any more.
    pub(crate) fn forget(&self, leaving: Leaving) {
        for region in leaving.0 {
            for core in self.announced_cores() {
                drop(core.unmap(region.id()));
            }
        }
    }

    /// Lets a core know every region, before a queue starts there.
    pub(crate) fn announce(&mut self, core: usize) {
        if !self.announced[core] {
            self.announced[core] = true;
            for region in regions(&self.map) {
                self.cores[core].map(Arc::clone(region));
            }
        }
    }

    /// Announces a region again that has been pinned meanwhile, if it is still this client's.
    pub(crate) fn announce_again(&self, pinned: &Weak<Region>) {
        let Some(pinned) = pinned.upgrade() else { return };
        if regions(&self.map).any(|region| Arc::ptr_eq(region, &pinned)) {
            for core in self.announced_cores() {
                core.map(Arc::clone(&pinned));
            }
        }
    }

    /// Gives all of it up. No queue that used it exists any more.
    pub(crate) fn release(mut self) {
        let leaving = self.replace(GuestMap::default());
        self.forget(leaving);
    }

    fn announced_cores(&self) -> impl Iterator<Item = &Mailbox> {
        self.cores.iter().zip(&self.announced).filter_map(|(core, announced)| announced.then_some(core))
    }
}

fn regions(map: &GuestMap) -> impl Iterator<Item = &Arc<Region>> {
    map.ranges().iter().map(|range| &range.region)
}

/// Maps a region and adds it. Its pages are not touched, however many there are.
fn add(map: &mut GuestMap, offer: &RegionOffer) -> Result<(), MemoryError> {
    let RegionPlace { guest, user, len_bytes } = offer.place;
    let count = map.ranges().len() + 1;
    if count > SLOTS_MAX {
        return Err(MemoryError::TooMany { count });
    }
    let total = regions(map).fold(len_bytes, |sum, region| sum.saturating_add(region.len_bytes()));
    if total > MEMORY_MAX_BYTES {
        return Err(MemoryError::TooLarge { len_bytes: total });
    }
    let map_error = |source| MemoryError::Map { guest, source };
    on_memory(&offer.fd).map_err(|magic| MemoryError::FileSystem { guest, magic })?;
    let region = Region::of_file(offer.fd.as_fd(), offer.offset, len_bytes).map_err(map_error)?;
    Ok(map.add(GuestRange { guest, user, region })?)
}

/// Whether a file's pages come from this machine's own memory or disks; if not, the type of the file system (0 if there is none).
pub(crate) fn on_memory(file: &OwnedFd) -> Result<(), i64> {
    let magic = fstatfs(file).map_or(0, |stat| stat.f_type);
    if FILE_SYSTEMS.contains(&magic) { Ok(()) } else { Err(magic) }
}
