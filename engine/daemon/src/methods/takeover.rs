//! The methods by which one daemon takes over from another. Knows no message that the two exchange.

use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use serde::Deserialize;
use serde_json::Value;
use spinel_control::{RpcError, params};
use spinel_handover::{Link, VERSION};

use super::Answer;
use crate::disks::errno;
use crate::engine::Engine;
use crate::kinds::chain;
use crate::served::Served;

/// `spinel_hand_over`: connects to the socket of the process that is to take over, and gives it everything, if all goes well.
pub(super) fn hand_over(engine: &Engine, params: Option<&Value>) -> Answer {
    #[derive(Deserialize)]
    struct HandOver {
        socket: PathBuf,
        version: u32,
    }
    let HandOver { socket, version } = params::parse(params)?;
    if version != VERSION {
        return Err(params::refuse("version", version, format!("{VERSION}, the version of handing over that this daemon speaks")));
    }
    let busy = |because: String| RpcError::errno(errno::BUSY, because);
    {
        let disks = engine.disks();
        if let Some(bench) = disks.benches().iter().find(|bench| !bench.is_over()) {
            return Err(busy(format!("bench {} runs on bdev '{}', and cannot be handed over; stop it first", bench.id, bench.bdev)));
        }
        if let Some(served) = disks.controllers().iter().find(|served| Served::quarantined(served)) {
            return Err(busy(format!(
                "controller '{}' waits for requests of a client that has gone; try again when they have ended",
                served.name
            )));
        }
    }
    if let Some(subsystem) = engine.nvmf().target().subsystems().first() {
        let nqn = &subsystem.identity.nqn;
        return Err(busy(format!("connections of hosts cannot be handed over, and subsystem '{nqn}' may have some; delete it first")));
    }
    let front = engine.front().ok_or_else(|| RpcError::internal("this process does not serve yet"))?;
    let stream = UnixStream::connect(&socket).map_err(|error| RpcError::io(&error, format!("cannot connect to '{}'", socket.display())))?;
    let link = Link::new(stream).map_err(|error| busy(chain(&error)))?;
    front.begin_handing_over(engine, link);
    Ok(true.into())
}

/// `spinel_get_takeovers`: for how long disks stood still.
pub(super) fn get(engine: &Engine, params: Option<&Value>) -> Answer {
    params::none(params)?;
    Ok(engine.blackouts().tell())
}
