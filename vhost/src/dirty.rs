//! Which pages of a guest's memory were written, for whoever is copying it to another machine (VHOST_F_LOG_ALL). Knows no ring and no request.
//!
//! A page is marked after it was written, and before the guest can see that it was: whoever
//! finds the mark, takes it back and copies the page then copies what was written.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use spinel_core::mem::{Array, GuestMap, Segment, Spot};
use spinel_handover::Fd;
use spinel_mem::{BoundsError, MapError, Region};

use crate::handover::LogParcel;
use crate::memory::on_memory;

/// Bytes of guest memory that one bit stands for (vhost-user: `VHOST_LOG_PAGE`).
const PAGE_BYTES: u64 = 4096;
/// Most bytes of a log: enough for 2 PiB of guest-physical addresses.
const LOG_BYTES_MAX: u64 = 1 << 36;

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LogError {
    #[error("a log of {len_bytes} bytes: it has 1 to {LOG_BYTES_MAX}")]
    Size { len_bytes: u64 },
    #[error("the log lies on a file system of type {magic:#x}, not in a memfd")]
    FileSystem { magic: i64 },
    #[error("the log cannot be mapped: {0}")]
    Map(#[from] MapError),
    #[error("the log does not lie where it should: {0}")]
    Place(#[from] BoundsError),
}

/// A bit for every page, from guest-physical address 0 on.
#[derive(Debug)]
pub struct DirtyLog {
    bytes: Array<u8>,
}

impl DirtyLog {
    /// Takes the memory into use that a front end reads the marks from.
    pub(crate) fn map(fd: &OwnedFd, offset: u64, len_bytes: u64) -> Result<Self, LogError> {
        let count = u32::try_from(len_bytes).ok().filter(|_| len_bytes > 0 && len_bytes <= LOG_BYTES_MAX);
        let count = count.ok_or(LogError::Size { len_bytes })?;
        on_memory(fd).map_err(|magic| LogError::FileSystem { magic })?;
        let region = Region::of_file(fd.as_fd(), offset, len_bytes)?;
        Ok(Self { bytes: region.array(0, count)? })
    }

    /// As it travels to another process.
    pub(crate) fn pack(&self) -> io::Result<LogParcel> {
        let file = self.bytes.region().file().expect("a log is of a file");
        Ok(LogParcel { offset: file.offset, len_bytes: self.bytes.region().len_bytes(), file: Fd::of(&file.fd)? })
    }

    /// Whether it has a bit for every page of this memory.
    pub(crate) fn covers(&self, guest: &GuestMap) -> bool {
        let end = guest.ranges().last().map_or(0, |range| range.guest.saturating_add(range.region.len_bytes()));
        end.div_ceil(PAGE_BYTES).div_ceil(8) <= u64::from(self.bytes.count())
    }

    /// Marks the pages of a stretch of guest-physical addresses, which were written.
    fn mark(&self, guest: u64, len_bytes: u64) {
        let Some(last) = len_bytes.checked_sub(1).map(|rest| guest.saturating_add(rest) / PAGE_BYTES) else { return };
        let first = guest / PAGE_BYTES;
        for at in first / 8..=last / 8 {
            // It was made sure that the log covers all memory.
            let Some(index) = u32::try_from(at).ok().filter(|index| *index < self.bytes.count()) else { return };
            let from = if at == first / 8 { u8::MAX << (first % 8) } else { u8::MAX };
            let to = if at == last / 8 { u8::MAX >> (7 - last % 8) } else { u8::MAX };
            self.bytes.set_bits(index, from & to);
        }
    }
}

/// A stretch of guest-physical addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// The first address.
    pub guest: u64,
    /// Its length in bytes.
    pub len_bytes: u64,
}

/// A log, and which parts of a ring the device writes.
#[derive(Clone, Debug)]
pub struct RingLog {
    /// The log.
    pub log: Arc<DirtyLog>,
    /// The used ring, or a packed ring's descriptors and the device's wishes.
    pub ring: [Option<Stretch>; 2],
}

/// What one queue has written and is about to write.
#[derive(Debug)]
pub(crate) struct Marker {
    to: RingLog,
    /// By head, what the device writes for its request in flight.
    written: Box<[Vec<Segment>]>,
}

impl Marker {
    /// For heads below `size`, and requests of so many segments.
    pub(crate) fn new(to: RingLog, size: u16, segments_max: usize) -> Self {
        let written = (0..size).map(|_| Vec::with_capacity(segments_max)).collect();
        Self { to, written }
    }

    /// The request with this head will have these written.
    pub(crate) fn begin(&mut self, head: u16, segments: &[Segment]) {
        self.written[usize::from(head)].extend_from_slice(segments);
    }

    /// So many bytes of these were written for the request with this head.
    pub(crate) fn begin_within(&mut self, head: u16, segments: &[Segment], len_bytes: u32) {
        let mut left = len_bytes;
        for segment in segments {
            let (piece, _) = segment.split_at(left.min(segment.len_bytes()));
            left -= piece.len_bytes();
            if piece.len_bytes() > 0 {
                self.written[usize::from(head)].push(piece);
            }
        }
    }

    /// The request with this head was refused: nothing was written for it. It has yet to `end`.
    pub(crate) fn refuse(&mut self, head: u16) {
        self.written[usize::from(head)].clear();
    }

    /// It has ended, and its status is written.
    pub(crate) fn end(&mut self, head: u16, status: Spot, guest: &GuestMap) {
        let segments = self.written[usize::from(head)].drain(..);
        let stretches = segments.map(|segment| (segment.region(), segment.offset(), segment.len_bytes().into()));
        for (region, offset, len_bytes) in stretches.chain([(status.region(), status.offset(), 1)]) {
            if let Some(range) = guest.ranges().iter().find(|range| range.region.id() == region) {
                self.to.log.mark(range.guest + offset, len_bytes);
            }
        }
    }

    /// The ring was written.
    pub(crate) fn mark_ring(&self) {
        for stretch in self.to.ring.iter().flatten() {
            self.to.log.mark(stretch.guest, stretch.len_bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

    #[test]
    fn a_write_marks_every_page_that_it_touches_and_no_other() {
        for (guest, len_bytes, marked) in [
            (0, 1, vec![0]),
            (4095, 1, vec![0]),
            (4095, 2, vec![0, 1]),
            (8 * 4096, 4096, vec![8]),
            (7 * 4096 + 4095, 8194, vec![7, 8, 9, 10]),
            (5, 0, vec![]),
            (63 * 4096, 1 << 20, vec![63]),
            (5 * 4096, 30 * 4096, (5..35).collect()),
            (8 * 4096, 16 * 4096, (8..24).collect()),
            (u64::MAX, 1, vec![]),
        ] {
            let fd = memfd_create("log", MemfdFlags::CLOEXEC).unwrap();
            ftruncate(&fd, 8).unwrap();
            DirtyLog::map(&fd, 0, 8).unwrap().mark(guest, len_bytes);
            let mut bytes = [0; 8];
            rustix::io::pread(&fd, &mut bytes, 0).unwrap();
            let bits = u64::from_le_bytes(bytes);
            assert_eq!((0..64).filter(|page| bits >> page & 1 == 1).collect::<Vec<u64>>(), marked, "{len_bytes} bytes at {guest:#x}");
        }
    }

    #[test]
    fn marks_that_are_there_stay() {
        let fd = memfd_create("log", MemfdFlags::CLOEXEC).unwrap();
        rustix::io::pwrite(&fd, &[0x81; 8], 0).unwrap();
        DirtyLog::map(&fd, 0, 8).unwrap().mark(4096, 1);
        let mut bytes = [0; 8];
        rustix::io::pread(&fd, &mut bytes, 0).unwrap();
        assert_eq!(bytes, [0x83, 0x81, 0x81, 0x81, 0x81, 0x81, 0x81, 0x81]);
    }

    /// What the log of a guest of 16 pages says once a request with head 1 has ended whose status lies on the last of them.
    fn marked(begin: impl FnOnce(&mut Marker, &[Segment])) -> Vec<u32> {
        let fd = memfd_create("log", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&fd, 8).unwrap();
        let log = Arc::new(DirtyLog::map(&fd, 0, 8).unwrap());
        let region = Region::anonymous(16 * PAGE_BYTES).unwrap();
        let mut guest = GuestMap::default();
        guest.add(spinel_core::mem::GuestRange { guest: 0, user: 0, region: Arc::clone(&region) }).unwrap();
        let segments = [region.segment(0, 5).unwrap(), region.segment(2 * 4096, 3 * 4096).unwrap()];
        let status = region.segment(15 * 4096, 1).unwrap().first().unwrap();
        let mut marker = Marker::new(RingLog { log, ring: [None; 2] }, 4, 8);
        begin(&mut marker, &segments);
        marker.end(1, status, &guest);
        let mut bytes = [0; 8];
        rustix::io::pread(&fd, &mut bytes, 0).unwrap();
        (0..64).filter(|page| u64::from_le_bytes(bytes) >> page & 1 == 1).collect()
    }

    #[test]
    fn what_was_written_is_marked_and_not_what_might_have_been() {
        assert_eq!(marked(|marker, all| marker.begin(1, all)), [0, 2, 3, 4, 15]);
        assert_eq!(marked(|marker, all| marker.begin_within(1, all, 5)), [0, 15]);
        assert_eq!(marked(|marker, all| marker.begin_within(1, all, 4102)), [0, 2, 3, 15]);
        assert_eq!(marked(|marker, all| marker.begin_within(1, all, 0)), [15]);
        let refused = marked(|marker, all| {
            marker.begin(1, all);
            marker.refuse(1);
        });
        assert_eq!(refused, [15]);
    }
}
