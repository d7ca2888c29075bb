//! Secrets by name: each is a file that only its owner may read, and that is read when the secret is used. Knows nobody who
//! proves anything.

use std::io::Read as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use spinel_control::{RpcError, params};
use spinel_nvmf::auth::Key;

use crate::disks::{check_name, errno};
use crate::engine::{Locked, locked};

/// Most keys.
const KEYS_MAX: usize = 1024;
/// The longest file of a key, in bytes.
const FILE_BYTES_MAX: u64 = 4096;

/// A secret's name and its file.
#[derive(Clone, Debug)]
pub(crate) struct KeyFile {
    pub(crate) name: String,
    pub(crate) path: PathBuf,
}

/// All of them, in the order in which they were added.
#[derive(Default)]
pub(crate) struct Keyring {
    keys: Locked<Vec<KeyFile>>,
}

impl Keyring {
    /// Every key.
    pub(crate) fn keys(&self) -> Vec<KeyFile> {
        locked(&self.keys).clone()
    }

    /// Adds a key, whose file is looked at, but not read.
    pub(crate) fn add(&self, name: String, path: PathBuf) -> Result<(), RpcError> {
        check_name("name", &name)?;
        if !path.is_absolute() {
            return Err(params::refuse("path", path.to_string_lossy(), "an absolute path"));
        }
        check_file(&path)?;
        let mut keys = locked(&self.keys);
        if keys.iter().any(|key| key.name == name) {
            return Err(RpcError::errno(
                errno::EXISTS,
                format!("there is a key '{name}' already; choose another name, or remove it first"),
            ));
        }
        if keys.len() >= KEYS_MAX {
            return Err(RpcError::errno(errno::NO_SPACE, format!("there are {KEYS_MAX} keys already; remove one first")));
        }
        keys.push(KeyFile { name, path });
        Ok(())
    }

    /// Takes a key out. Who uses its secret already goes on with that.
    pub(crate) fn remove(&self, name: &str) -> Result<(), RpcError> {
        let mut keys = locked(&self.keys);
        let at = keys.iter().position(|key| key.name == name).ok_or_else(|| unknown(name))?;
        keys.remove(at);
        Ok(())
    }

    /// The secret that a parameter names.
    pub(crate) fn secret(&self, parameter: &str, name: &str) -> Result<Key, RpcError> {
        let found = locked(&self.keys).iter().find(|key| key.name == name).cloned();
        let key = found.ok_or_else(|| unknown(name))?;
        check_file(&key.path)?;
        let refused = |error| RpcError::io(&error, format!("the file '{}' of key '{name}' cannot be read", key.path.display()));
        let mut text = String::new();
        let file = std::fs::File::open(&key.path).map_err(refused)?;
        file.take(FILE_BYTES_MAX).read_to_string(&mut text).map_err(refused)?;
        Key::parse(&text).map_err(|error| params::refuse(parameter, name, format!("a key whose file holds a secret: {error}")))
    }
}

fn unknown(name: &str) -> RpcError {
    RpcError::errno(errno::NO_DEVICE, format!("there is no key '{name}'; keyring_get_keys lists those there are"))
}

/// Refuses the file of a secret that others could read.
fn check_file(path: &Path) -> Result<(), RpcError> {
    let found = std::fs::metadata(path).map_err(|error| RpcError::io(&error, format!("the file '{}' cannot be used", path.display())))?;
    let own = found.uid() == rustix::process::geteuid().as_raw();
    if !found.is_file() || !own || found.permissions().mode() & 0o077 != 0 {
        let must_be = "a file of the daemon's own user that nobody else may read: chmod 0600";
        return Err(params::refuse("path", path.to_string_lossy(), must_be));
    }
    Ok(())
}
