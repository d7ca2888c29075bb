//! Sessions over real sockets and reactors, with clients that speak the raw protocol: honest, hostile and dying.

mod client;
mod guest;
mod host;
mod hostile;
mod journal;
mod memory;
mod negotiation;
mod notices;
mod rings;
mod rust_vmm;
mod teardown;
