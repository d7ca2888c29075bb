//! Tells a service manager that the daemon is ready, or stopping (sd_notify(3)). Knows nothing of what that means.

use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// The daemon serves.
pub(crate) const READY: &str = "READY=1";
/// The daemon serves in the place of another one, and is the process to look at from now on.
pub(crate) fn ready_instead() -> String {
    format!("MAINPID={}\n{READY}", std::process::id())
}

/// The daemon was told to stop.
pub(crate) const STOPPING: &str = "STOPPING=1";

/// Sends `state` to the manager that `$NOTIFY_SOCKET` names, if one is named.
pub(crate) fn notify(state: &str) {
    let Some(manager) = std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else { return };
    let sent = address(manager.as_bytes()).and_then(|address| UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address));
    if let Err(error) = sent {
        tracing::warn!("the service manager at {} cannot be told {state}: {error}", manager.display());
    }
}

fn address(name: &[u8]) -> io::Result<SocketAddr> {
    match name {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        path => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(path)),
    }
}
