//! What a disk holds, told from its first bytes: whoever writes to it should know. Knows no target.

/// How many bytes from the start of a disk are looked at.
pub(crate) const LOOKED_AT_BYTES: u64 = 128 << 10;

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

/// What the disk seems to hold; `None` if it begins with nothing but zeroes. `start` is its first bytes, as many as it has.
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
}
