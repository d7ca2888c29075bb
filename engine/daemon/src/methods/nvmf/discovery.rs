//! Other places of discovery that hosts are told of. Knows no subsystem.

use serde::Deserialize;
use serde_json::{Value, json};
use spinel_control::params;
use spinel_nvmf::nqn::{DISCOVERY_NQN, Nqn};
use spinel_nvmf::target::{ReferralInfo, ReferralSpec};

use super::{Answer, ListenAddress, check_target, describe_address, name, refuse};
use crate::engine::Engine;

/// The port where hosts look for discovery.
const DISCOVERY_SERVICE: &str = "8009";

fn subsystem(named: Option<&str>) -> Result<Nqn, spinel_control::RpcError> {
    name("subnqn", named.unwrap_or(DISCOVERY_NQN))
}

fn address(given: &ListenAddress) -> Result<spinel_nvmf::target::Address, spinel_control::RpcError> {
    let given = ListenAddress { trsvcid: given.trsvcid.clone().or_else(|| Some(DISCOVERY_SERVICE.into())), ..given.clone() };
    given.parse("address")
}

/// `nvmf_discovery_add_referral`.
pub(crate) fn add_referral(engine: &Engine, params: Option<&Value>) -> Answer {
    #[derive(Deserialize)]
    struct AddReferral {
        #[serde(default)]
        tgt_name: Option<String>,
        address: ListenAddress,
        #[serde(default)]
        secure_channel: bool,
        #[serde(default)]
        subnqn: Option<String>,
    }
    let asked: AddReferral = params::parse(params)?;
    check_target(asked.tgt_name.as_deref())?;
    let spec =
        ReferralSpec { subsystem: subsystem(asked.subnqn.as_deref())?, address: address(&asked.address)?, secure: asked.secure_channel };
    engine.nvmf().target().add_referral(spec).map_err(|error| refuse(&error))?;
    Ok(true.into())
}

/// `nvmf_discovery_remove_referral`.
pub(crate) fn remove_referral(engine: &Engine, params: Option<&Value>) -> Answer {
    #[derive(Deserialize)]
    struct RemoveReferral {
        #[serde(default)]
        tgt_name: Option<String>,
        address: ListenAddress,
        #[serde(default)]
        subnqn: Option<String>,
    }
    let asked: RemoveReferral = params::parse(params)?;
    check_target(asked.tgt_name.as_deref())?;
    let subsystem = subsystem(asked.subnqn.as_deref())?;
    engine.nvmf().target().remove_referral(&subsystem, &address(&asked.address)?).map_err(|error| refuse(&error))?;
    Ok(true.into())
}

/// `nvmf_discovery_get_referrals`.
pub(crate) fn referrals(engine: &Engine, params: Option<&Value>) -> Answer {
    #[derive(Deserialize)]
    struct GetReferrals {
        #[serde(default)]
        tgt_name: Option<String>,
    }
    let GetReferrals { tgt_name } = params::parse(params)?;
    check_target(tgt_name.as_deref())?;
    Ok(engine.nvmf().target().referrals().iter().map(describe).collect())
}

fn describe(referral: &ReferralInfo) -> Value {
    json!({
        "address": describe_address(&referral.address),
        "secure_channel": referral.secure,
        "subnqn": referral.subsystem.as_str(),
    })
}

/// The calls that tell hosts of all of them again.
pub(super) fn creation(engine: &Engine) -> Vec<(&'static str, Value)> {
    engine.nvmf().target().referrals().iter().map(|referral| ("nvmf_discovery_add_referral", describe(referral))).collect()
}
