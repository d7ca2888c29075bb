//! Makes a file to measure, full of data: holes and reserved space would answer reads without the disk. Knows no load.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

/// Bytes written at a time.
const STEP_BYTES: usize = 4 << 20;

/// Makes `path` with `len_bytes` bytes of noise and waits until they are on the medium. A file that is there already is refused.
/// `progress` is told how much is written, and says whether to go on.
///
/// # Errors
/// The system's; no unfinished file is left behind.
pub(crate) fn create(path: &Path, len_bytes: u64, mut progress: impl FnMut(u64) -> bool) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
    let filled = fill(&mut file, len_bytes, &mut progress);
    if filled.is_err() {
        // The reason matters more than a file that cannot be removed either.
        let _ = fs::remove_file(path);
    }
    filled
}

fn fill(file: &mut File, len_bytes: u64, progress: &mut impl FnMut(u64) -> bool) -> io::Result<()> {
    let mut step = vec![0; STEP_BYTES];
    let mut prng = spinel_load::Prng::new(len_bytes);
    prng.fill(&mut step);
    let mut written = 0;
    while written < len_bytes {
        let now = usize::try_from(len_bytes - written).map_or(STEP_BYTES, |left| left.min(STEP_BYTES));
        // Different data in each step, without drawing all of it anew.
        step[..8].copy_from_slice(&written.to_le_bytes());
        file.write_all(&step[..now])?;
        written += now as u64;
        if !progress(written) {
            return Err(io::ErrorKind::Interrupted.into());
        }
    }
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn the_file_has_its_size_and_no_hole_and_no_other_is_touched() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let len_bytes = 5 * 1024 * 1024 + 512;
        create(&path, len_bytes, |_| true).unwrap();
        let seen = fs::metadata(&path).unwrap();
        assert_eq!(seen.len(), len_bytes);
        assert!(seen.blocks() * 512 >= len_bytes);
        let again = create(&path, 512, |_| true).unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::metadata(&path).unwrap().len(), len_bytes);
        let other = folder.path().join("other");
        assert_eq!(create(&other, len_bytes, |_| false).unwrap_err().kind(), io::ErrorKind::Interrupted);
        assert!(!other.exists(), "nothing unfinished is left");
    }
}
