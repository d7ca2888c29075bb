//! Controllers and ways are shown. Changes nothing.

use std::net::SocketAddr;

use serde::Deserialize;
use serde_json::{Value, json};
use spinel_control::{RpcError, params};
use spinel_nvmf::initiator::{AnaState, PathInfo, PathState, Reach, WayInfo};

use super::Answer;
use crate::disks::errno;
use crate::engine::Engine;
use crate::initiator::bdev_name;
use crate::nvmf::TRANSPORT;

pub(super) fn place(address: SocketAddr) -> Value {
    let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
    json!({"trtype": TRANSPORT, "adrfam": family, "traddr": address.ip().to_string(), "trsvcid": address.port().to_string()})
}

/// `bdev_nvme_get_controllers`.
pub(crate) fn controllers(engine: &Engine, params: Option<&Value>) -> Answer {
    #[derive(Deserialize)]
    struct GetControllers {
        #[serde(default)]
        name: Option<String>,
    }
    let GetControllers { name: asked } = params::parse(params)?;
    let paths = engine.remote().initiator().controllers();
    let mut names: Vec<&str> = Vec::new();
    for path in &paths {
        if !names.contains(&path.name.as_str()) && asked.as_ref().is_none_or(|asked| *asked == path.name) {
            names.push(&path.name);
        }
    }
    if let Some(asked) = asked
        && names.is_empty()
    {
        let message = format!("there is no controller '{asked}'; bdev_nvme_get_controllers without a name lists those there are");
        return Err(RpcError::errno(errno::NO_DEVICE, message));
    }
    let of = |name: &str| -> Value { paths.iter().filter(|path| path.name == name).map(describe).collect() };
    Ok(names.iter().map(|name| json!({"name": name, "ctrlrs": of(name)})).collect())
}

fn describe(path: &PathInfo) -> Value {
    // SPDK's words.
    let state = match path.state {
        PathState::Live => "enabled",
        PathState::Resetting | PathState::Connecting => "resetting",
        PathState::Lost => "reconnect_is_delayed",
        PathState::Leaving => "deleting",
    };
    let mut trid = place(path.address);
    trid["subnqn"] = path.subsystem.as_str().into();
    let mut described = json!({
        "state": state,
        "trid": trid,
        "cntlid": path.number.unwrap_or(0),
        "host": {"nqn": path.host, "addr": "", "svcid": ""},
        "numa_id": -1,
        "model": path.model,
        "serial": path.serial,
        "firmware": path.firmware,
        "io_queues": path.io_queues,
        "namespaces": path.namespaces,
        "hdgst": path.digests.0,
        "ddgst": path.digests.1,
    });
    if let Some(trouble) = &path.trouble {
        described["trouble"] = trouble.as_str().into();
    }
    described
}

/// `bdev_nvme_get_io_paths`.
pub(crate) fn paths(engine: &Engine, params: Option<&Value>) -> Answer {
    #[derive(Deserialize)]
    struct GetPaths {
        #[serde(default)]
        name: Option<String>,
    }
    let GetPaths { name } = params::parse(params)?;
    if let Some(name) = &name {
        engine.disks().bdev(name)?;
    }
    let mut paths = Vec::new();
    for Reach { name: controller, nsid, ways } in engine.remote().initiator().ways() {
        let bdev = bdev_name(&controller, nsid);
        if name.as_ref().is_none_or(|name| *name == bdev) {
            paths.extend(ways.iter().map(|way| describe_way(&bdev, way)));
        }
    }
    // As in SPDK, for each thread the ways it sees; here all threads see the same.
    Ok(json!({"poll_groups": [{"thread": "all", "io_paths": paths}]}))
}

fn describe_way(bdev: &str, way: &WayInfo) -> Value {
    let usable = way.connected && matches!(way.state, AnaState::Optimized | AnaState::NonOptimized);
    let state = match way.state {
        AnaState::Optimized => "optimized",
        AnaState::NonOptimized => "non_optimized",
        AnaState::Inaccessible => "inaccessible",
        AnaState::PersistentLoss => "persistent_loss",
        AnaState::Change => "change",
    };
    json!({
        "bdev_name": bdev,
        "cntlid": way.number.unwrap_or(0),
        "current": usable,
        "connected": way.connected,
        "accessible": usable,
        "ana_state": state,
        "preferred": way.preferred,
        "transport": place(way.address),
    })
}
