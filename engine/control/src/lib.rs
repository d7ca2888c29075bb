//! JSON-RPC 2.0 on a Unix socket: its server, its client and the checking of parameters. It
//! refuses to know what any method does, and which devices, cores or disks exist.
#![forbid(unsafe_code)]

pub mod client;
pub mod histogram;
pub mod methods;
pub mod params;
pub mod server;
pub mod socket;

mod connection;
mod error;
mod request;
mod split;
mod strict;

pub use error::RpcError;
pub use split::{SplitError, Splitter};

use serde_json::Value;
use std::time::Duration;

/// What a [`server`] serves: one method call at a time, in the order in which they arrived.
///
/// A call that fails must have changed nothing.
pub trait Service: Send + Sync {
    /// Runs `method`. `params` is `None` when the caller sent none (or `null`), else an object or
    /// an array; [`params::parse`] turns it into a typed value.
    fn call(&self, method: &str, params: Option<&Value>) -> Result<Value, RpcError>;

    /// For how long a call that was just refused waits to succeed after all: it is made again, from
    /// the start, whenever another call has succeeded, and the refusal is sent only when this time
    /// is over. For methods that wait until something is there which other calls bring about. Other
    /// clients are served meanwhile. A call in a batch does not wait, nor does one of a client that
    /// has said it sends no more.
    fn patience(&self, method: &str, params: Option<&Value>) -> Duration {
        let _ = (method, params);
        Duration::ZERO
    }
}
