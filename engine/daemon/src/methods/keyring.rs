//! The methods of secrets. They show names and files, never a secret.

use std::path::PathBuf;

use serde::Deserialize;
use serde_json::{Value, json};
use spinel_control::params;

use super::{Answer, Named};
use crate::engine::Engine;

/// `keyring_file_add_key`.
pub(super) fn add(engine: &Engine, params: Option<&Value>) -> Answer {
    #[derive(Deserialize)]
    struct AddKey {
        name: String,
        path: PathBuf,
    }
    let AddKey { name, path } = params::parse(params)?;
    engine.keyring().add(name, path)?;
    Ok(true.into())
}

/// `keyring_file_remove_key`.
pub(super) fn remove(engine: &Engine, params: Option<&Value>) -> Answer {
    let Named { name } = params::parse(params)?;
    engine.keyring().remove(&name)?;
    Ok(true.into())
}

/// `keyring_get_keys`.
pub(super) fn list(engine: &Engine, params: Option<&Value>) -> Answer {
    params::none(params)?;
    let describe = |key: crate::keyring::KeyFile| json!({"name": key.name, "module": "keyring_file", "path": key.path, "removed": false});
    Ok(engine.keyring().keys().into_iter().map(describe).collect())
}

/// The calls that name them again.
pub(super) fn creation(engine: &Engine) -> Vec<(&'static str, Value)> {
    let call = |key: crate::keyring::KeyFile| ("keyring_file_add_key", json!({"name": key.name, "path": key.path}));
    engine.keyring().keys().into_iter().map(call).collect()
}
