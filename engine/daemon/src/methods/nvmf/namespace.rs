//! Namespaces: bdevs that hosts see. Knows no connection.

use std::path::PathBuf;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Value, json};
use spinel_control::{RpcError, params};
use spinel_nvmf::target::{NamespaceIds, NamespaceInfo, NamespaceSpec, SubsystemInfo, Visibility};
use uuid::Uuid;

use super::{Answer, check_target, name, refuse, wait};
use crate::engine::Engine;

/// A namespace as the methods have it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NamespaceParams {
    #[serde(default)]
    nsid: Option<u32>,
    bdev_name: String,
    #[serde(default)]
    nguid: Option<String>,
    #[serde(default)]
    eui64: Option<String>,
    #[serde(default)]
    uuid: Option<String>,
    #[serde(default)]
    ptpl_file: Option<PathBuf>,
    #[serde(default)]
    anagrpid: Option<u32>,
    #[serde(default)]
    no_auto_visible: bool,
    /// There is no metadata.
    #[serde(default, rename = "hide_metadata")]
    _hide_metadata: bool,
}

fn hex<const N: usize>(parameter: &str, text: &str) -> Result<[u8; N], RpcError> {
    let digits = || text.len() == 2 * N && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let refused = || params::refuse(&format!("namespace.{parameter}"), text, format!("{} hexadecimal digits", 2 * N));
    if !digits() {
        return Err(refused());
    }
    let mut bytes = [0; N];
    for (place, pair) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
        let pair = std::str::from_utf8(pair).map_err(|_| refused())?;
        *place = u8::from_str_radix(pair, 16).map_err(|_| refused())?;
    }
    Ok(bytes)
}

fn hex_text(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02X}")).collect()
}

/// `nvmf_subsystem_add_ns`.
pub(crate) fn add(engine: &Engine, params: Option<&Value>) -> Answer {
    #[derive(Deserialize)]
    struct Add {
        nqn: String,
        namespace: NamespaceParams,
        #[serde(default)]
        tgt_name: Option<String>,
    }
    let Add { nqn, namespace: asked, tgt_name } = params::parse(params)?;
    check_target(tgt_name.as_deref())?;
    let nguid = asked.nguid.as_deref().map(|text| hex("nguid", text)).transpose()?;
    let eui64 = asked.eui64.as_deref().map(|text| hex("eui64", text)).transpose()?;
    let uuid = asked.uuid.as_deref().map(|text| {
        Uuid::parse_str(text).map_err(|_| params::refuse("namespace.uuid", text, "a UUID such as 1f0e7b64-3c0a-4b55-9d6e-0d2f6c1a7e90"))
    });
    let uuid = uuid.transpose()?;
    let disks = engine.disks();
    let bdev = disks.bdev(&asked.bdev_name)?;
    disks.check_servable(bdev)?;
    // A namespace that is given no name has that of its bdev.
    let uuid = uuid.unwrap_or(bdev.uuid).into_bytes();
    let ids = NamespaceIds { uuid, nguid: nguid.unwrap_or(uuid), eui64: eui64.unwrap_or_default() };
    let spec = NamespaceSpec {
        nsid: asked.nsid.filter(|nsid| *nsid != 0),
        name: bdev.name.clone(),
        device: bdev.device(),
        meters: Arc::clone(bdev.counts.meters()),
        ids,
        group: asked.anagrpid.filter(|group| *group != 0),
        visible: !asked.no_auto_visible,
        reservations_file: asked.ptpl_file,
    };
    let (nsid, _) = engine.nvmf().target().add_namespace(&nqn, spec).map_err(|error| refuse(&error))?;
    tracing::info!("bdev '{}' is namespace {nsid} of {nqn}", bdev.name);
    Ok(nsid.into())
}

/// `nvmf_subsystem_remove_ns`.
pub(crate) fn remove(engine: &Engine, params: Option<&Value>) -> Answer {
    #[derive(Deserialize)]
    struct Remove {
        nqn: String,
        nsid: u32,
        #[serde(default)]
        tgt_name: Option<String>,
    }
    let Remove { nqn, nsid, tgt_name } = params::parse(params)?;
    check_target(tgt_name.as_deref())?;
    let pending = engine.nvmf().target().remove_namespace(&nqn, nsid).map_err(|error| refuse(&error))?;
    wait(&pending, &format!("namespace {nsid} of '{nqn}' is gone"))?;
    Ok(true.into())
}

/// `nvmf_subsystem_set_ns_ana_group`.
pub(crate) fn set_group(engine: &Engine, params: Option<&Value>) -> Answer {
    #[derive(Deserialize)]
    struct SetGroup {
        nqn: String,
        nsid: u32,
        anagrpid: u32,
        #[serde(default)]
        tgt_name: Option<String>,
    }
    let SetGroup { nqn, nsid, anagrpid, tgt_name } = params::parse(params)?;
    check_target(tgt_name.as_deref())?;
    let pending = engine.nvmf().target().set_namespace_group(&nqn, nsid, anagrpid).map_err(|error| refuse(&error))?;
    wait(&pending, &format!("namespace {nsid} of '{nqn}' is in group {anagrpid}"))?;
    Ok(true.into())
}

/// `nvmf_ns_add_host`.
pub(crate) fn show(engine: &Engine, params: Option<&Value>) -> Answer {
    set_shown(engine, params, true)
}

/// `nvmf_ns_remove_host`.
pub(crate) fn hide(engine: &Engine, params: Option<&Value>) -> Answer {
    set_shown(engine, params, false)
}

fn set_shown(engine: &Engine, params: Option<&Value>, shown: bool) -> Answer {
    #[derive(Deserialize)]
    struct OfHost {
        nqn: String,
        nsid: u32,
        host: String,
        #[serde(default)]
        tgt_name: Option<String>,
    }
    let OfHost { nqn, nsid, host, tgt_name } = params::parse(params)?;
    check_target(tgt_name.as_deref())?;
    let host = name("host", &host)?;
    let pending = engine.nvmf().target().show_namespace(&nqn, nsid, &host, shown).map_err(|error| refuse(&error))?;
    wait(&pending, &format!("namespace {nsid} of '{nqn}' is {} to {host}", if shown { "visible" } else { "hidden" }))?;
    Ok(true.into())
}

pub(super) fn describe(namespace: &NamespaceInfo) -> Value {
    let ids = &namespace.ids;
    let mut described = json!({
        "nsid": namespace.nsid,
        "bdev_name": namespace.name,
        "name": namespace.name,
        "uuid": Uuid::from_bytes(ids.uuid),
        "anagrpid": namespace.group,
    });
    if ids.nguid != [0; 16] {
        described["nguid"] = hex_text(&ids.nguid).into();
    }
    if ids.eui64 != [0; 8] {
        described["eui64"] = hex_text(&ids.eui64).into();
    }
    if let Some(file) = &namespace.reservations_file {
        described["ptpl_file"] = file.to_string_lossy().into_owned().into();
    }
    if let Visibility::Hosts(hosts) = &namespace.visible {
        described["no_auto_visible"] = true.into();
        described["hosts"] = hosts.iter().map(|host| json!({"nqn": host.as_str()})).collect();
    }
    described
}

/// The calls that make the namespaces of a subsystem again.
pub(super) fn creation(subsystem: &SubsystemInfo) -> Vec<(&'static str, Value)> {
    let nqn = subsystem.identity.nqn.as_str();
    let mut calls = Vec::new();
    for namespace in &subsystem.namespaces {
        let mut params = describe(namespace);
        let members = params.as_object_mut().expect("it is described as an object");
        members.shift_remove("name");
        members.shift_remove("hosts");
        calls.push(("nvmf_subsystem_add_ns", json!({"nqn": nqn, "namespace": params})));
        if let Visibility::Hosts(hosts) = &namespace.visible {
            calls.extend(hosts.iter().map(|host| ("nvmf_ns_add_host", json!({"nqn": nqn, "nsid": namespace.nsid, "host": host.as_str()}))));
        }
    }
    calls
}
