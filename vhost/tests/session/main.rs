//! Sessions over real sockets and reactors, with clients that speak the raw protocol: honest, hostile and dying.
//! Their rings are split; `session_packed.rs` runs the same with packed ones.

mod client;
mod guest;
mod host;
mod hostile;
mod journal;
mod log;
mod memory;
mod moving;
mod negotiation;
mod notices;
mod recovery;
mod reopening;
mod rings;
mod rust_vmm;
mod teardown;

/// Whether the guests' rings are packed.
const PACKED: bool = false;
