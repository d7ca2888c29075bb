//! The file that every server reads from. Knows no server.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::Failure;

/// Larger than a disk's cache is likely to be of use for, small enough to write in seconds.
const FILE_BYTES: u64 = 2 << 30;
const PIECE_BYTES: usize = 4 << 20;

/// A file of data in `folder`, every block of which is on the disk. One that is there already is used again.
pub(crate) fn file(folder: &Path) -> Result<PathBuf, Failure> {
    file_named(folder, "disk.img")
}

/// Another such file, for a device that shares its file with nobody.
pub(crate) fn own_file(folder: &Path) -> Result<PathBuf, Failure> {
    file_named(folder, "own.img")
}

/// A third one, for who loads the disk and no server.
pub(crate) fn other_file(folder: &Path) -> Result<PathBuf, Failure> {
    file_named(folder, "other.img")
}

fn file_named(folder: &Path, name: &str) -> Result<PathBuf, Failure> {
    let path = folder.join(name);
    let whole = fs::metadata(&path).is_ok_and(|found| found.len() == FILE_BYTES && found.blocks() * 512 >= FILE_BYTES);
    if !whole {
        let mut piece = vec![0; PIECE_BYTES];
        let mut file = File::create(&path)?;
        for number in 0..FILE_BYTES / PIECE_BYTES as u64 {
            // No two pieces alike: a disk below may keep equal ones once.
            for (at, word) in (number..).zip(piece.chunks_exact_mut(8)) {
                word.copy_from_slice(&at.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
            }
            file.write_all(&piece)?;
        }
        file.sync_all()?;
    }
    Ok(path)
}
