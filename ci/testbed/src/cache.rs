//! Folders that survive a run: where they are, who may change them, and when what they hold is out of date.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Why a folder for fetched or built things cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// Nothing says where such folders are.
    #[error("there is no folder to keep packages in: set XDG_CACHE_HOME or HOME")]
    Nowhere,
    /// A file or folder in it cannot be written or read.
    #[error("{} cannot be used; is its disk full, or does it belong to another user?", path.display())]
    Files {
        /// Which one.
        path: PathBuf,
        /// What the file system said.
        source: io::Error,
    },
}

impl CacheError {
    /// Names the path in front of what the file system said.
    pub(crate) fn at(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        |source| Self::Files { path: path.to_owned(), source }
    }
}

/// The user's folder for what was fetched: `$XDG_CACHE_HOME/spinel`, else `$HOME/.cache/spinel`.
/// It survives `cargo clean`, and every checkout shares it.
///
/// # Errors
/// [`CacheError::Nowhere`] when the environment names neither.
pub fn user_folder() -> Result<PathBuf, CacheError> {
    let of = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let folder = of("XDG_CACHE_HOME").or_else(|| Some(of("HOME")?.join(".cache")));
    folder.map(|folder| folder.join("spinel")).ok_or(CacheError::Nowhere)
}

/// Holds everybody else out of a folder until it is dropped. Other processes wait; so does this one.
#[derive(Debug)]
pub struct Lock(#[allow(dead_code, reason = "held for its lock alone")] File);

impl Lock {
    /// Makes the folder where missing, and takes its lock.
    ///
    /// # Errors
    /// [`CacheError::Files`] when the folder or its lock file cannot be written.
    pub fn take(folder: &Path) -> Result<Self, CacheError> {
        fs::create_dir_all(folder).map_err(CacheError::at(folder))?;
        let path = folder.join(".lock");
        let file = File::create(&path).map_err(CacheError::at(&path))?;
        file.lock().map_err(CacheError::at(&path))?;
        Ok(Self(file))
    }
}

/// Tells two sets of inputs apart: 64-bit FNV-1a, which is the same on every run and machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint(u64);

impl Fingerprint {
    /// The fingerprint of these parts in this order.
    #[must_use]
    pub fn of(parts: &[&str]) -> Self {
        let separated = parts.iter().flat_map(|part| part.bytes().chain([0xff]));
        let hash = separated.fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
        Self(hash)
    }
}

impl std::fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Writes a file in one piece: whoever opens `path` sees the old content or the whole of the new.
pub(crate) fn replace(path: &Path, content: &[u8]) -> Result<(), CacheError> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let written = tempfile::NamedTempFile::new_in(folder).and_then(|mut file| {
        file.write_all(content)?;
        Ok(file)
    });
    let file = written.map_err(CacheError::at(folder))?;
    file.persist(path).map_err(|e| e.error).map_err(CacheError::at(path))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moving_a_byte_between_parts_changes_the_fingerprint() {
        assert_ne!(Fingerprint::of(&["ab", "c"]), Fingerprint::of(&["a", "bc"]));
        assert_eq!(Fingerprint::of(&["ab", "c"]), Fingerprint::of(&["ab", "c"]));
    }

    #[test]
    fn replacing_leaves_nothing_else_behind() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("verdict");
        replace(&path, b"one").unwrap();
        replace(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
