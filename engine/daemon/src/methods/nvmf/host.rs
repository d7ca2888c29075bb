//! Hosts that may connect, and what they prove. Knows no namespace.

use serde::Deserialize;
use serde_json::{Value, json};
use spinel_control::{RpcError, params};
use spinel_nvmf::target::{HostInfo, HostSecrets, SubsystemInfo};

use super::{Answer, check_target, name, refuse, wait};
use crate::engine::Engine;

/// The secrets that two keys of the keyring are.
fn secrets(engine: &Engine, host: Option<String>, controller: Option<String>) -> Result<HostSecrets, RpcError> {
    if let (None, Some(controller)) = (&host, &controller) {
        return Err(params::refuse(
            "dhchap_ctrlr_key",
            controller.as_str(),
            "given with dhchap_key: only a host that proves itself may ask for proof",
        ));
    }
    let secret = |parameter: &str, key: Option<String>| {
        key.map(|key| engine.keyring().secret(parameter, &key).map(|secret| (key, secret))).transpose()
    };
    Ok(HostSecrets { host: secret("dhchap_key", host)?, controller: secret("dhchap_ctrlr_key", controller)? })
}

/// `nvmf_subsystem_add_host`.
pub(crate) fn add(engine: &Engine, params: Option<&Value>) -> Answer {
    #[derive(Deserialize)]
    struct AddHost {
        nqn: String,
        host: String,
        #[serde(default)]
        tgt_name: Option<String>,
        #[serde(default)]
        dhchap_key: Option<String>,
        #[serde(default)]
        dhchap_ctrlr_key: Option<String>,
        #[serde(default)]
        psk: Option<String>,
    }
    let AddHost { nqn, host, tgt_name, dhchap_key, dhchap_ctrlr_key, psk } = params::parse(params)?;
    check_target(tgt_name.as_deref())?;
    if let Some(psk) = psk {
        return Err(params::refuse("psk", psk, "left out, because TLS is not built"));
    }
    let secrets = secrets(engine, dhchap_key, dhchap_ctrlr_key)?;
    engine.nvmf().target().add_host(&nqn, &name("host", &host)?, secrets).map_err(|error| refuse(&error))?;
    Ok(true.into())
}

/// `nvmf_subsystem_set_keys`: for connections that come from now on. Without a key the host proves nothing.
pub(crate) fn set_keys(engine: &Engine, params: Option<&Value>) -> Answer {
    #[derive(Deserialize)]
    struct SetKeys {
        nqn: String,
        host: String,
        #[serde(default)]
        tgt_name: Option<String>,
        #[serde(default)]
        dhchap_key: Option<String>,
        #[serde(default)]
        dhchap_ctrlr_key: Option<String>,
    }
    let SetKeys { nqn, host, tgt_name, dhchap_key, dhchap_ctrlr_key } = params::parse(params)?;
    check_target(tgt_name.as_deref())?;
    let secrets = secrets(engine, dhchap_key, dhchap_ctrlr_key)?;
    engine.nvmf().target().set_secrets(&nqn, &name("host", &host)?, secrets).map_err(|error| refuse(&error))?;
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

/// A host and its keys, by their names.
pub(super) fn describe(host: &HostInfo) -> Value {
    let mut described = json!({"nqn": host.name.as_str()});
    if let Some(key) = &host.host_key {
        described["dhchap_key"] = key.as_str().into();
    }
    if let Some(key) = &host.controller_key {
        described["dhchap_ctrlr_key"] = key.as_str().into();
    }
    described
}

/// The calls that name the hosts of a subsystem again.
pub(super) fn creation(subsystem: &SubsystemInfo) -> Vec<(&'static str, Value)> {
    let nqn = subsystem.identity.nqn.as_str();
    let call = |host: &HostInfo| {
        let mut params = describe(host);
        params["host"] = params["nqn"].take();
        params["nqn"] = nqn.into();
        ("nvmf_subsystem_add_host", params)
    };
    subsystem.hosts.iter().map(call).collect()
}
