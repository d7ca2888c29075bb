//! Discovery controllers elsewhere are followed. Knows no namespace.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use spinel_control::{RpcError, params};
use spinel_nvmf::initiator::{DiscoverSpec, DiscoveryInfo};

use super::attach::{me, patience};
use super::show::place;
use super::{Answer, Where, refuse};
use crate::disks::{check_name, errno};
use crate::engine::Engine;
use crate::initiator::Followed;

/// How long it is waited for what a discovery controller names, unless somebody says otherwise.
const WAIT_TIME: Duration = Duration::from_secs(20);
/// The port of discovery controllers, as SPDK's users expect it.
const SERVICE_DEFAULT: &str = "8009";

/// `bdev_nvme_start_discovery`.
pub(crate) fn start(engine: &Engine, given: Option<&Value>) -> Answer {
    #[derive(Deserialize)]
    struct Start {
        name: String,
        trtype: String,
        traddr: String,
        #[serde(default)]
        adrfam: Option<String>,
        #[serde(default)]
        trsvcid: Option<String>,
        #[serde(default)]
        hostnqn: Option<String>,
        #[serde(default)]
        wait_for_attach: bool,
        #[serde(default)]
        attach_timeout_ms: Option<u64>,
        #[serde(default)]
        ctrlr_loss_timeout_sec: Option<i32>,
        #[serde(default)]
        reconnect_delay_sec: Option<u32>,
        #[serde(default)]
        fast_io_fail_timeout_sec: Option<u32>,
    }
    let asked: Start = params::parse(given)?;
    check_name("name", &asked.name)?;
    let trsvcid = Some(asked.trsvcid.unwrap_or_else(|| SERVICE_DEFAULT.into()));
    let address = Where { trtype: asked.trtype, traddr: asked.traddr, adrfam: asked.adrfam, trsvcid }.parse()?;
    let remote = engine.remote();
    let settings = remote.initiator().settings();
    let spec = DiscoverSpec {
        name: asked.name.clone(),
        address,
        me: me(engine, asked.hostnqn.as_deref())?,
        patience: patience(settings.patience, asked.ctrlr_loss_timeout_sec, asked.reconnect_delay_sec, asked.fast_io_fail_timeout_sec)?,
        wait: asked.wait_for_attach,
    };
    let time = asked.attach_timeout_ms.filter(|ms| *ms > 0).map_or(settings.connect_timeout + WAIT_TIME, Duration::from_millis);
    let attaching = remote.initiator().discover(spec).map_err(|error| refuse(&error))?;
    match attaching.wait(time) {
        Some(Ok(_)) => {
            remote.asked().followed.push(Followed { name: asked.name, params: given.cloned().unwrap_or_default() });
            Ok(true.into())
        }
        Some(Err(error)) => Err(refuse(&error)),
        None => {
            drop(remote.initiator().stop_discovery(&asked.name));
            let message = format!("discovery '{}' at {address} does not get ready within {} s", asked.name, time.as_secs());
            Err(RpcError::errno(errno::IO, message))
        }
    }
}

/// `bdev_nvme_stop_discovery`: what it has led to is detached.
pub(crate) fn stop(engine: &Engine, params: Option<&Value>) -> Answer {
    let super::super::Named { name } = params::parse(params)?;
    let remote = engine.remote();
    let known = remote.initiator().discoveries().into_iter().find(|discovery| discovery.name == name);
    let controllers: Vec<String> = known.into_iter().flat_map(|known| known.controllers).map(|(name, _, _)| name).collect();
    {
        let disks = engine.disks();
        let led_to = |controller: Option<&str>| controller.is_some_and(|controller| controllers.iter().any(|name| name == controller));
        for bdev in disks.bdevs().iter().filter(|bdev| led_to(bdev.kind.controller())) {
            disks.check_unused(&bdev.name)?;
        }
    }
    let stopping = remote.initiator().stop_discovery(&name).map_err(|error| refuse(&error))?;
    remote.asked().followed.retain(|followed| followed.name != name);
    if stopping.wait(WAIT_TIME) {
        return Ok(true.into());
    }
    Err(RpcError::errno(
        errno::BUSY,
        format!("controllers of discovery '{name}' do not answer; they are given up as soon as they are closed"),
    ))
}

/// `bdev_nvme_get_discovery_info`.
pub(crate) fn info(engine: &Engine, params: Option<&Value>) -> Answer {
    params::none(params)?;
    let describe = |discovery: DiscoveryInfo| {
        let mut trid = place(discovery.address);
        trid["subnqn"] = spinel_nvmf::nqn::DISCOVERY_NQN.into();
        let controllers: Value = discovery
            .controllers
            .iter()
            .map(|(name, address, subsystem)| {
                let mut trid = place(*address);
                trid["subnqn"] = subsystem.as_str().into();
                json!({"name": name, "trid": trid})
            })
            .collect();
        json!({"name": discovery.name, "trid": trid, "connected": discovery.connected, "referrals": [], "controllers": controllers})
    };
    Ok(engine.remote().initiator().discoveries().into_iter().map(describe).collect())
}
