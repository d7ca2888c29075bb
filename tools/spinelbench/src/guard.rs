//! What a disk holds, told from its first bytes: whoever writes to it should know. Knows no target.

use std::fs::File;
use std::path::Path;

use rustix::fs::{SeekFrom, seek};
use spinel_core::Status;

/// How many bytes from the start of a disk, and of an area, are looked at: all signatures lie there.
const START_BYTES: u64 = 128 << 10;
/// Some keep a copy at a disk's end.
const END_BYTES: u64 = 1 << 20;
/// So many pieces of an area are looked at, evenly spread ...
const SAMPLES: u64 = 64;
/// ... and this long.
const SAMPLE_BYTES: u64 = 4096;

/// Where which bytes stand on a disk that holds what.
const SIGNATURES: [(usize, &[u8], &str); 18] = [
    (0x438, b"\x53\xef", "an ext2, ext3 or ext4 file system"),
    (0, b"XFSB", "an XFS file system"),
    (0x10040, b"_BHRfS_M", "a Btrfs file system"),
    (0x400, b"\x10\x20\xf5\xf2", "an F2FS file system"),
    (0x1018, b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca", "a bcache device"),
    (0x2_0000 - 0x400, b"\x0c\xb1\xba\x00", "a ZFS pool"),
    (3, b"NTFS    ", "an NTFS file system"),
    (3, b"EXFAT   ", "an exFAT file system"),
    (0x36, b"FAT1", "a FAT file system"),
    (0x52, b"FAT32", "a FAT file system"),
    (0, b"LUKS\xba\xbe", "an encrypted disk (LUKS)"),
    (0x218, b"LVM2 001", "a physical volume of LVM"),
    (0x1000, b"\xfc\x4e\x2b\xa9", "a member of an MD array"),
    (4086, b"SWAPSPACE2", "swap space"),
    (0x200, b"EFI PART", "a partition table (GPT)"),
    (0x1000, b"EFI PART", "a partition table (GPT)"),
    (0, b"QFI\xfb", "a qcow2 image"),
    (0x1fe, b"\x55\xaa", "a partition table or boot sector"),
];

/// What a disk of so many bytes holds where an area is to be written, as far as samples show. `read` reads a part of it.
///
/// # Errors
/// What `read` answers.
pub(crate) fn look(
    disk_bytes: u64,
    (start, len_bytes): (u64, u64),
    read: &mut dyn FnMut(u64, u64) -> Result<Vec<u8>, Status>,
) -> Result<Option<&'static str>, Status> {
    let mut places = vec![(0, START_BYTES), (start, START_BYTES.min(len_bytes))];
    if start + len_bytes == disk_bytes {
        places.push((disk_bytes.saturating_sub(END_BYTES), END_BYTES));
    }
    places.extend((0..SAMPLES).map(|sample| (start + len_bytes / SAMPLES * sample, SAMPLE_BYTES)));
    for (at, len_bytes) in places {
        if let Some(what) = content(&read(at, len_bytes)?) {
            return Ok(Some(what));
        }
    }
    Ok(None)
}

/// Whether a file has data anywhere in an area. What is no file, or does not say, has none as far as this is concerned.
pub(crate) fn has_data(path: &Path, start: u64, len_bytes: u64) -> bool {
    let Ok(file) = File::open(path) else { return false };
    if !file.metadata().is_ok_and(|seen| seen.is_file()) {
        return false;
    }
    seek(&file, SeekFrom::Data(start)).is_ok_and(|at| at < start.saturating_add(len_bytes))
}

/// What a disk that begins so seems to hold; `None` if it begins with nothing but zeroes. `start` is its first bytes, as many as it has.
pub(crate) fn content(start: &[u8]) -> Option<&'static str> {
    let stands = |(at, bytes, _): &&(usize, &[u8], &str)| start.get(*at..at + bytes.len()) == Some(*bytes);
    if let Some((.., what)) = SIGNATURES.iter().find(stands) {
        return Some(what);
    }
    start.iter().any(|byte| *byte != 0).then_some("data")
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: usize = 128 << 10;

    #[test]
    fn what_a_disk_holds_is_called_by_its_name() {
        for (at, bytes, what) in SIGNATURES {
            let mut start = vec![0; ALL];
            start[at..at + bytes.len()].copy_from_slice(bytes);
            assert_eq!(content(&start), Some(what));
        }
        let mut start = vec![0; ALL];
        assert_eq!(content(&start), None);
        start[70_000] = 1;
        assert_eq!(content(&start), Some("data"));
        assert_eq!(content(&start[..512]), None, "a disk of one block");
    }

    #[test]
    fn the_area_and_the_disks_end_are_looked_at_too() {
        let disk_bytes = 64_u64 << 20;
        let found = |at: u64, area: (u64, u64)| {
            look(disk_bytes, area, &mut |start, len| {
                let mut bytes = vec![0; usize::try_from(len).unwrap()];
                if let Some(byte) = at.checked_sub(start).filter(|at| *at < len) {
                    bytes[usize::try_from(byte).unwrap()] = 1;
                }
                Ok(bytes)
            })
        };
        assert_eq!(found(10 << 20, (10 << 20, 1 << 20)), Ok(Some("data")), "the area's start");
        assert_eq!(found(disk_bytes - 512, (1 << 20, disk_bytes - (1 << 20))), Ok(Some("data")), "the copy at the end");
        assert_eq!(found(32 << 20, (0, disk_bytes)), Ok(Some("data")), "a sample");
        assert_eq!(found(40 << 20, (1 << 20, 1 << 20)), Ok(None), "elsewhere");
        assert_eq!(look(4096, (0, 4096), &mut |_, _| Err(Status::Medium)), Err(Status::Medium));
    }

    #[test]
    fn a_files_data_is_found_wherever_it_is() {
        use std::os::unix::fs::FileExt as _;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let file = File::create(&path).unwrap();
        file.set_len(64 << 20).unwrap();
        assert!(!has_data(&path, 0, 64 << 20));
        file.write_all_at(&[1], 33 << 20).unwrap();
        assert!(has_data(&path, 0, 64 << 20) && !has_data(&path, 34 << 20, 30 << 20) && !has_data(&path, 0, 1 << 20));
    }
}
