//! Why a connection ended, from a host's side. Knows no stream.

use spinel_core::Break;
use thiserror::Error;

use crate::tcp::{Fault, Terminate};

/// Why a connection ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum Loss {
    /// The system says so.
    #[error("the connection broke: {0}")]
    Broke(Break),
    /// The controller sends no more.
    #[error("the controller closed the connection")]
    Ended,
    /// The controller broke the rules.
    #[error("the controller broke the rules of NVMe/TCP: {0}")]
    Fault(Fault),
    /// The controller says that this side did.
    #[error("the controller gave up: status {:#06x}, information {:#010x}", .0.status, .0.info)]
    Terminated(Terminate),
    /// The controller does not do a digest that was asked for.
    #[error("the controller does not do the digests that were asked for")]
    NoDigests,
    /// Something did not come in time.
    #[error("the controller took too long: {0}")]
    Late(Awaited),
    /// It was closed on this side.
    #[error("it was closed on this side")]
    Closed,
}

/// What a host waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Awaited {
    /// The answer to how this host wants to talk.
    Agreement,
    /// The answer to Connect.
    Connect,
    /// The rest of a PDU.
    Pdu,
    /// The answer to a keep-alive.
    KeepAlive,
}

impl std::fmt::Display for Awaited {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Agreement => "the connection was not set up",
            Self::Connect => "Connect was not answered",
            Self::Pdu => "a PDU began and did not end",
            Self::KeepAlive => "Keep Alive was not answered",
        })
    }
}
