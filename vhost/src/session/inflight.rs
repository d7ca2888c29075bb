//! The memory in which what is in flight is on record, which the front end keeps for whoever serves next. Knows no ring.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use spinel_handover::Fd;
use spinel_mem::{MapError, Region};

use crate::handover::InflightParcel;
use crate::memory::on_memory;
use crate::message::InflightPlace;
use crate::ring::RecordPlace;

/// Most descriptors of a ring (virtio 1.2, 2.7 and 2.8).
const RING_SIZE_MAX: u16 = 32768;

/// Why there is no record.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InflightError {
    #[error(
        "a record of {queues} queues of {size} descriptors: there are {queues_max} queues at most, and a size is a power of two up to {RING_SIZE_MAX}"
    )]
    Shape { queues: u16, size: u16, queues_max: u16 },
    #[error("{len_bytes} bytes of a record, of which {queues} queues of {size} descriptors need {needed}")]
    Short { len_bytes: u64, queues: u16, size: u16, needed: u64 },
    #[error("the memory of the record cannot be mapped: {0}")]
    Map(#[from] MapError),
    #[error("the memory of the record lies on a file system of type {magic:#x}, not in a memfd")]
    FileSystem { magic: i64 },
    #[error("the system has no memory for a record: {0}")]
    System(#[from] io::Error),
}

/// The record's memory in use.
#[derive(Debug)]
pub(crate) struct Inflight {
    place: InflightPlace,
    region: Arc<Region>,
}

fn shape(place: InflightPlace, queues_max: u16) -> Result<u64, InflightError> {
    let InflightPlace { queues, size, .. } = place;
    if queues == 0 || queues > queues_max || !size.is_power_of_two() || size > RING_SIZE_MAX {
        return Err(InflightError::Shape { queues, size, queues_max });
    }
    Ok(RecordPlace::bytes(size) * u64::from(queues))
}

/// Makes the memory for a record of so many queues of such a size; in which layout does not matter. It cannot shrink.
pub(crate) fn make(wanted: InflightPlace, queues_max: u16) -> Result<(InflightPlace, OwnedFd), InflightError> {
    let len_bytes = shape(wanted, queues_max)?;
    let system = |errno: rustix::io::Errno| InflightError::System(errno.into());
    let fd = memfd_create("spinel-inflight", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).map_err(system)?;
    ftruncate(&fd, len_bytes).map_err(system)?;
    fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL).map_err(system)?;
    Ok((InflightPlace { len_bytes, offset: 0, ..wanted }, fd))
}

impl Inflight {
    /// Takes the memory into use that the front end has kept.
    pub(crate) fn map(place: InflightPlace, fd: &OwnedFd, queues_max: u16) -> Result<Self, InflightError> {
        let needed = shape(place, queues_max)?;
        let InflightPlace { len_bytes, offset, queues, size } = place;
        if len_bytes < needed {
            return Err(InflightError::Short { len_bytes, queues, size, needed });
        }
        if let Some(magic) = on_memory(fd).err() {
            return Err(InflightError::FileSystem { magic });
        }
        Ok(Self { place, region: Region::of_file(fd.as_fd(), offset, needed)? })
    }

    /// As it travels to another process.
    pub(crate) fn pack(&self) -> io::Result<InflightParcel> {
        let InflightPlace { len_bytes, offset, queues, size } = self.place;
        let file = self.region.file().expect("a record is of a file");
        Ok(InflightParcel { len_bytes, offset, queues, size, file: Fd::of(&file.fd)? })
    }

    /// As it came from another process.
    pub(crate) fn unpack(parcel: InflightParcel, queues_max: u16) -> Result<Self, InflightError> {
        let InflightParcel { len_bytes, offset, queues, size, file } = parcel;
        Self::map(InflightPlace { len_bytes, offset, queues, size }, &file.into_owned()?, queues_max)
    }

    /// Where the record of one queue lies, if it has one.
    pub(crate) fn record(&self, index: usize, size: u16) -> Option<RecordPlace> {
        let index = u16::try_from(index).ok().filter(|index| *index < self.place.queues && size <= self.place.size)?;
        Some(RecordPlace { region: Arc::clone(&self.region), offset: RecordPlace::bytes(self.place.size) * u64::from(index) })
    }
}
