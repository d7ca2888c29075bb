//! The methods of NVMe over Fabrics. Knows no connection.

mod discovery;
mod host;
mod namespace;
mod subsystem;
mod transport;

use serde::Deserialize;
use serde_json::{Value, json};
use spinel_control::{RpcError, params};
use spinel_nvmf::nqn::Nqn;
use spinel_nvmf::target::{Address, Family, Pending, TargetError};

pub(super) use discovery::{add_referral, referrals, remove_referral};
pub(super) use host::{add as add_host, allow_any, remove as remove_host, set_keys as set_host_keys};
pub(super) use namespace::{add as add_namespace, hide, remove as remove_namespace, set_group, show};
pub(super) use subsystem::{
    add_listener, controllers, create, delete, list, listeners, queues, remove_listener, set_ana_state, set_ana_states,
};
pub(super) use transport::{create as create_transport, list as transports, set_config, stats, targets};

use super::Answer;
use crate::disks::errno;
use crate::engine::Engine;
use crate::kinds::chain;
use crate::nvmf::{DRAIN_TIME, ListenError, TARGET, TRANSPORT};

/// The calls that make all of it again.
pub(super) fn creation(engine: &Engine) -> Vec<(&'static str, Value)> {
    let mut calls = transport::creation(engine);
    calls.extend(subsystem::creation(engine));
    calls.extend(discovery::creation(engine));
    calls
}

/// There is one target; whoever names it means that one.
fn check_target(name: Option<&str>) -> Result<(), RpcError> {
    match name {
        Some(name) if name != TARGET => Err(params::refuse("tgt_name", name, format!("\"{TARGET}\", which is the only one"))),
        _ => Ok(()),
    }
}

/// An address as the methods have it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ListenAddress {
    trtype: String,
    #[serde(default)]
    adrfam: Option<String>,
    traddr: String,
    #[serde(default)]
    trsvcid: Option<String>,
}

/// The port where hosts look for subsystems.
const SERVICE_DEFAULT: &str = "4420";

impl ListenAddress {
    fn parse(&self, parameter: &str) -> Result<Address, RpcError> {
        let Self { trtype, adrfam, traddr, trsvcid } = self;
        if !trtype.eq_ignore_ascii_case(TRANSPORT) {
            return Err(params::refuse(&format!("{parameter}.trtype"), trtype.as_str(), format!("\"{TRANSPORT}\"")));
        }
        let family = match adrfam.as_deref() {
            Some(name) if name.eq_ignore_ascii_case("ipv4") => Family::Ipv4,
            Some(name) if name.eq_ignore_ascii_case("ipv6") => Family::Ipv6,
            Some(name) => return Err(params::refuse(&format!("{parameter}.adrfam"), name, "\"IPv4\" or \"IPv6\"")),
            None if traddr.contains(':') => Family::Ipv6,
            None => Family::Ipv4,
        };
        if traddr.is_empty() || traddr.len() > 255 {
            return Err(params::refuse(&format!("{parameter}.traddr"), traddr.as_str(), "an address of 1 to 255 bytes"));
        }
        let service = trsvcid.clone().unwrap_or_else(|| SERVICE_DEFAULT.into());
        Ok(Address { family, host: traddr.clone(), service })
    }
}

fn describe_address(address: &Address) -> Value {
    let family = match address.family {
        Family::Ipv4 => "IPv4",
        Family::Ipv6 => "IPv6",
    };
    json!({"trtype": TRANSPORT, "adrfam": family, "traddr": address.host, "trsvcid": address.service})
}

/// The name of a host or subsystem among the parameters.
fn name(parameter: &str, text: &str) -> Result<Nqn, RpcError> {
    Nqn::parse(text).map_err(|error| params::refuse(parameter, text, format!("an NVMe qualified name: {error}")))
}

fn refuse(error: &TargetError) -> RpcError {
    let code = match error {
        TargetError::NoSubsystem { .. } | TargetError::NoNamespace { .. } | TargetError::NoHost { .. } | TargetError::NoListener { .. } => {
            errno::NO_DEVICE
        }
        TargetError::SubsystemExists { .. } | TargetError::HostExists { .. } | TargetError::ListenerExists { .. } => errno::EXISTS,
        TargetError::Full { .. } => errno::NO_SPACE,
        _ => RpcError::INVALID_PARAMS,
    };
    RpcError::new(code, error.to_string())
}

fn refuse_listening(error: &ListenError) -> RpcError {
    match error {
        ListenError::Target(error) => refuse(error),
        ListenError::Address { .. } => RpcError::invalid_params(error.to_string()),
        ListenError::System(refused) => {
            let source = std::error::Error::source(refused).and_then(|source| source.downcast_ref::<std::io::Error>());
            let code = source.and_then(std::io::Error::raw_os_error);
            code.map_or_else(|| RpcError::internal(chain(error)), |code| RpcError::errno(code, chain(error)))
        }
    }
}

/// Waits until a change is seen by every host's connection.
fn wait(pending: &Pending, what: &str) -> Result<(), RpcError> {
    if pending.wait(DRAIN_TIME) {
        return Ok(());
    }
    let message = format!("{what}, but requests under way have not ended within {} s", DRAIN_TIME.as_secs());
    Err(RpcError::errno(errno::BUSY, message))
}
