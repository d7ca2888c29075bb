//! Hosts that may connect. Knows no namespace.

use serde::Deserialize;
use serde_json::{Value, json};
use spinel_control::params;
use spinel_nvmf::target::SubsystemInfo;

use super::{Answer, check_target, name, refuse, wait};
use crate::engine::Engine;

/// `nvmf_subsystem_add_host`.
pub(crate) fn add(engine: &Engine, params: Option<&Value>) -> Answer {
    #[derive(Deserialize)]
    struct AddHost {
        nqn: String,
        host: String,
        #[serde(default)]
        tgt_name: Option<String>,
    }
    let AddHost { nqn, host, tgt_name } = params::parse(params)?;
    check_target(tgt_name.as_deref())?;
    engine.nvmf().target().add_host(&nqn, &name("host", &host)?).map_err(|error| refuse(&error))?;
    Ok(true.into())
}

/// `nvmf_subsystem_remove_host`: its connections end.
pub(crate) fn remove(engine: &Engine, params: Option<&Value>) -> Answer {
    #[derive(Deserialize)]
    struct RemoveHost {
        nqn: String,
        host: String,
        #[serde(default)]
        tgt_name: Option<String>,
        /// How long they are waited for is the same for everybody.
        #[serde(default, rename = "timeout_ms")]
        _timeout_ms: Option<u64>,
    }
    let RemoveHost { nqn, host, tgt_name, .. } = params::parse(params)?;
    check_target(tgt_name.as_deref())?;
    let pending = engine.nvmf().target().remove_host(&nqn, &name("host", &host)?).map_err(|error| refuse(&error))?;
    wait(&pending, &format!("host '{host}' may not connect to '{nqn}' any more"))?;
    Ok(true.into())
}

/// `nvmf_subsystem_allow_any_host`.
pub(crate) fn allow_any(engine: &Engine, params: Option<&Value>) -> Answer {
    #[derive(Deserialize)]
    struct AllowAnyHost {
        nqn: String,
        allow_any_host: bool,
        #[serde(default)]
        tgt_name: Option<String>,
    }
    let AllowAnyHost { nqn, allow_any_host, tgt_name } = params::parse(params)?;
    check_target(tgt_name.as_deref())?;
    engine.nvmf().target().allow_any_host(&nqn, allow_any_host).map_err(|error| refuse(&error))?;
    Ok(true.into())
}

/// The calls that name the hosts of a subsystem again.
pub(super) fn creation(subsystem: &SubsystemInfo) -> Vec<(&'static str, Value)> {
    let nqn = subsystem.identity.nqn.as_str();
    subsystem.hosts.iter().map(|host| ("nvmf_subsystem_add_host", json!({"nqn": nqn, "host": host.as_str()}))).collect()
}
