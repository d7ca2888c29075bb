//! The methods of controllers elsewhere, and of the disks they lead to. Knows no connection.

mod attach;
mod discovery;
mod options;
mod show;

use std::net::{IpAddr, SocketAddr};

use serde::Deserialize;
use spinel_control::{RpcError, params};
use spinel_nvmf::initiator::{AttachError, Policy};
use spinel_nvmf::nqn::Nqn;

pub(super) use attach::{attach, detach, reset};
pub(super) use discovery::{info as discovery_info, start as start_discovery, stop as stop_discovery};
pub(super) use options::{prefer_path, set_options, set_policy};
pub(super) use show::{controllers, paths};

use super::Answer;
use crate::disks::errno;
use crate::nvmf::TRANSPORT;

/// The port of controllers.
const SERVICE_DEFAULT: &str = "4420";

/// Where a controller is, as the methods have it.
#[derive(Clone, Debug)]
struct Where {
    trtype: String,
    traddr: String,
    adrfam: Option<String>,
    trsvcid: Option<String>,
}

impl Where {
    fn parse(&self) -> Result<SocketAddr, RpcError> {
        let Self { trtype, traddr, adrfam, trsvcid } = self;
        if !trtype.eq_ignore_ascii_case(TRANSPORT) {
            return Err(params::refuse("trtype", trtype.as_str(), format!("\"{TRANSPORT}\"")));
        }
        let must_be = "an IP address, such as 192.0.2.7 or fd00::7";
        let host: IpAddr = traddr.parse().map_err(|_| params::refuse("traddr", traddr.as_str(), must_be))?;
        let family = if host.is_ipv4() { "IPv4" } else { "IPv6" };
        if let Some(adrfam) = adrfam.as_deref().filter(|adrfam| !adrfam.eq_ignore_ascii_case(family)) {
            return Err(params::refuse("adrfam", adrfam, format!("\"{family}\", as traddr is")));
        }
        let service = trsvcid.as_deref().unwrap_or(SERVICE_DEFAULT);
        let port = service.parse().ok().filter(|port| *port != 0);
        let port = port.ok_or_else(|| params::refuse("trsvcid", service, "a port, such as 4420"))?;
        Ok(SocketAddr::new(host, port))
    }
}

/// Which of several ways is taken, as the methods have it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Multipath {
    policy: String,
    #[serde(default)]
    selector: Option<String>,
    #[serde(default)]
    min_io: Option<u32>,
}

impl Multipath {
    fn parse(&self) -> Result<Policy, RpcError> {
        let Self { policy, selector, min_io } = self;
        match (policy.as_str(), selector.as_deref()) {
            ("active_passive", None) if min_io.is_none() => Ok(Policy::ActivePassive),
            ("active_passive", Some(selector)) => {
                Err(params::refuse("selector", selector, "left out, because it is for the policy active_active"))
            }
            ("active_passive", None) => {
                Err(params::refuse("rr_min_io", min_io.unwrap_or(0), "left out: it is for the selector round_robin"))
            }
            ("active_active", None | Some("round_robin")) => match min_io.unwrap_or(1) {
                0 => Err(params::refuse("rr_min_io", 0, "at least 1")),
                requests => Ok(Policy::RoundRobin { requests }),
            },
            ("active_active", Some("queue_depth")) if min_io.is_none() => Ok(Policy::QueueDepth),
            ("active_active", Some("queue_depth")) => {
                Err(params::refuse("rr_min_io", min_io.unwrap_or(0), "left out: it is for the selector round_robin"))
            }
            ("active_active", Some(selector)) => Err(params::refuse("selector", selector, "\"round_robin\" or \"queue_depth\"")),
            (policy, _) => Err(params::refuse("policy", policy, "\"active_passive\" or \"active_active\"")),
        }
    }
}

fn qualified(parameter: &str, text: &str) -> Result<Nqn, RpcError> {
    Nqn::parse(text).map_err(|error| params::refuse(parameter, text, format!("an NVMe qualified name: {error}")))
}

fn refuse(error: &AttachError) -> RpcError {
    let code = match error {
        AttachError::Exists { .. } | AttachError::Same { .. } => errno::EXISTS,
        AttachError::Unknown { .. } => errno::NO_DEVICE,
        AttachError::Full => errno::NO_SPACE,
        AttachError::Subsystem { .. } => RpcError::INVALID_PARAMS,
        AttachError::Failed { .. } | AttachError::Detached => errno::IO,
    };
    RpcError::errno(code, error.to_string())
}
