//! A namespace of a controller on the network as a target. Knows no job.

use std::net::ToSocketAddrs as _;

use spinel_core::CoreId;
use spinel_nvmf::nqn::Nqn;
use spinel_nvmf_driver::{FarDisk, FarSpec};

use crate::failure::Failure;
use crate::target::last_core;
use crate::url::Far;

/// Attaches what a URL names, by all the ways that it names.
///
/// # Errors
/// What is in the way.
pub(crate) fn attach(far: &Far) -> Result<FarDisk, Failure> {
    FarDisk::attach(&spec(far)?, CoreId(last_core(&[])?)).map_err(|error| Failure::unreachable(&error))
}

fn spec(far: &Far) -> Result<FarSpec, Failure> {
    let name = |text: &str| Nqn::parse(text).map_err(|error| Failure::usage(format!("'{text}' is no name: {error}")));
    let address = |place: &String| {
        let mut addresses = place.to_socket_addrs().map_err(|error| Failure::Unreachable(format!("{place}: {error}")))?;
        addresses.next().ok_or_else(|| Failure::Unreachable(format!("{place} has no address")))
    };
    let mut host_id = [0x5b; 16];
    host_id[..4].copy_from_slice(&std::process::id().to_le_bytes());
    let host = far.host.clone().unwrap_or_else(|| "nqn.2026-11.io.spinel:spinelbench".to_owned());
    Ok(FarSpec {
        addresses: far.places.iter().map(address).collect::<Result<_, _>>()?,
        subsystem: name(&far.subsystem)?,
        nsid: far.nsid,
        host: name(&host)?,
        host_id,
        header_digest: far.header_digest,
        data_digest: far.data_digest,
        fail_after: far.fail_after,
        keep_alive: far.keep_alive,
        round_robin: far.round_robin,
    })
}
