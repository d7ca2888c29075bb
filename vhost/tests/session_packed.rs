//! The same sessions as in `session/main.rs`, over packed rings.

#[path = "session/client.rs"]
mod client;
#[path = "session/guest.rs"]
mod guest;
#[path = "session/host.rs"]
mod host;
#[path = "session/hostile.rs"]
mod hostile;
#[path = "session/journal.rs"]
mod journal;
#[path = "session/log.rs"]
mod log;
#[path = "session/memory.rs"]
mod memory;
#[path = "session/moving.rs"]
mod moving;
#[path = "session/negotiation.rs"]
mod negotiation;
#[path = "session/notices.rs"]
mod notices;
#[path = "session/recovery.rs"]
mod recovery;
#[path = "session/reopening.rs"]
mod reopening;
#[path = "session/rings.rs"]
mod rings;
#[path = "session/rust_vmm.rs"]
mod rust_vmm;
#[path = "session/teardown.rs"]
mod teardown;

/// Whether the guests' rings are packed.
const PACKED: bool = true;
