//! Text that is in its file, whole, when it counts as saved. Knows nothing of what it says.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::Path;

/// The longest text that is read, in bytes: far more than reservations take.
const TEXT_BYTES_MAX: u64 = 1 << 20;

/// Puts `text` in place of what the file says. After a crash at any time it says the one or the other.
pub(super) fn save(path: &Path, text: &str) -> io::Result<()> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut beside = name.to_owned();
    beside.push(".new");
    let beside = folder.join(beside);
    let mut file = File::create(&beside)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&beside, path)?;
    File::open(folder)?.sync_all()
}

/// What the file says; none if there is no file.
pub(super) fn load(path: &Path) -> io::Result<Option<String>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let mut text = String::new();
    let read = file.take(TEXT_BYTES_MAX + 1).read_to_string(&mut text)?;
    let fits = u64::try_from(read).is_ok_and(|read| read <= TEXT_BYTES_MAX);
    if fits { Ok(Some(text)) } else { Err(io::ErrorKind::FileTooLarge.into()) }
}

/// Takes the file away for good. It need not be there.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        removed => removed?,
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_saved_last_is_what_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("reservations");
        assert_eq!(load(&path).unwrap(), None);
        save(&path, "one\n").unwrap();
        save(&path, "two\n").unwrap();
        assert_eq!(load(&path).unwrap().as_deref(), Some("two\n"));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
        remove(&path).unwrap();
        remove(&path).unwrap();
        assert_eq!(load(&path).unwrap(), None);
        assert!(save(&folder.path().join("no/where"), "x").is_err());
    }
}
