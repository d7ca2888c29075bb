//! The methods about initialisation and about saving the configuration. Knows no parameters of other methods.

use serde::Deserialize;
use serde_json::{Value, json};
use spinel_control::methods::Phase;
use spinel_control::{RpcError, params};

use super::{Answer, qos, scheduler};
use crate::disks::Disks;
use crate::engine::Engine;
use crate::scheduler::Policy;

/// The subsystems in the order in which their configuration is loaded, and what each needs before.
const SUBSYSTEMS: &[(&str, &[&str])] =
    &[("keyring", &[]), ("bdev", &["keyring"]), ("vhost_blk", &["bdev"]), ("nvmf", &["bdev", "keyring"]), ("scheduler", &[])];

/// `framework_start_init`.
pub(super) fn start_init(engine: &Engine, params: Option<&Value>) -> Answer {
    params::none(params)?;
    engine.initialise();
    Ok(true.into())
}

/// `framework_wait_init`: refused until then; the server repeats the call.
pub(super) fn wait_init(engine: &Engine, params: Option<&Value>) -> Answer {
    params::none(params)?;
    match engine.phase() {
        Phase::Runtime => Ok(true.into()),
        Phase::Startup => Err(RpcError::wrong_state("the daemon is not initialised yet; framework_start_init does that")),
    }
}

/// `framework_get_subsystems`.
pub(super) fn subsystems(_: &Engine, params: Option<&Value>) -> Answer {
    params::none(params)?;
    Ok(SUBSYSTEMS.iter().map(|(name, needs)| json!({"subsystem": name, "depends_on": needs})).collect())
}

/// `framework_get_config`: the calls that recreate one subsystem.
pub(super) fn config(engine: &Engine, params: Option<&Value>) -> Answer {
    #[derive(Deserialize)]
    struct GetConfig {
        name: String,
        #[serde(default)]
        with_batches: bool,
    }
    let GetConfig { name, with_batches } = params::parse(params)?;
    if with_batches {
        return Err(params::refuse("with_batches", with_batches, "false, because what it asks for is not built"));
    }
    let refused = || {
        let names: Vec<&str> = SUBSYSTEMS.iter().map(|(name, _)| *name).collect();
        params::refuse("name", name.as_str(), format!("one of \"{}\"", names.join("\", \"")))
    };
    // The target has locks of its own, and knows which bdevs it offers.
    let calls = match name.as_str() {
        "nvmf" => super::nvmf::creation(engine),
        "keyring" => super::keyring::creation(engine),
        // Disks of other hosts first: what is made of them comes after.
        "bdev" => {
            let remote = engine.remote().creation();
            remote.into_iter().chain(calls(engine.policy(), &engine.disks(), "bdev").into_iter().flatten()).collect()
        }
        _ => calls(engine.policy(), &engine.disks(), &name).ok_or_else(refused)?,
    };
    Ok(calls.into_iter().map(|(method, params)| json!({"method": method, "params": params})).collect())
}

/// The calls that recreate everything, in their order.
pub(crate) fn all_calls(policy: Policy, disks: &Disks) -> Vec<(&'static str, Value)> {
    SUBSYSTEMS.iter().filter_map(|(name, _)| calls(policy, disks, name)).flatten().collect()
}

/// The calls that recreate one subsystem; `None` if there is no such subsystem.
fn calls(policy: Policy, disks: &Disks, name: &str) -> Option<Vec<(&'static str, Value)>> {
    Some(match name {
        "bdev" => {
            disks.bdevs().iter().flat_map(|bdev| bdev.kind.creation(&bdev.name, bdev.uuid).into_iter().chain(qos::creation(bdev))).collect()
        }
        "scheduler" => scheduler::creation(policy).into_iter().collect(),
        "vhost_blk" => disks.controllers().iter().flat_map(|served| served.creation()).collect(),
        _ => return None,
    })
}
