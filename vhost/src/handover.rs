//! What one process gives to the next, so that a guest's disk goes on there: the form in which it travels. Knows no socket and no queue.
//!
//! A parcel is made while the queues still run, and unpacked while they do: memory is
//! mapped and known to the cores before the first queue stops. Only [`Places`] are known
//! later. What comes from another process is checked as if a front end had sent it.
//!
//! A new field is added here, where the session packs it, and where it is unpacked
//! (`session/handover.rs`); one of type `Option<Fd>` takes its descriptor along.

use std::path::PathBuf;

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use spinel_handover::Fd;

/// A controller, and its client if it has one.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ControllerParcel {
    /// Where clients connect.
    pub socket_path: PathBuf,
    /// What listens there.
    pub listener: Fd,
    /// Its client.
    pub session: Option<SessionParcel>,
}

/// A connected client: everything that its front end has said and will not say again.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionParcel {
    pub(crate) socket: Fd,
    /// What has come of the next message.
    pub(crate) unread: Unread,
    pub(crate) features: Option<u64>,
    pub(crate) protocol_features: u64,
    pub(crate) status: u8,
    pub(crate) cache_wanted: bool,
    pub(crate) config_changed: bool,
    pub(crate) memory: Vec<RegionParcel>,
    pub(crate) rings: Vec<RingParcel>,
    pub(crate) inflight: Option<InflightParcel>,
    pub(crate) log: Option<LogParcel>,
    pub(crate) front_end: Option<FrontEndParcel>,
}

/// A part of a message.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Unread {
    pub(crate) bytes: Vec<u8>,
    pub(crate) fds: Vec<Fd>,
}

/// One region of a client's memory.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RegionParcel {
    pub(crate) guest: u64,
    pub(crate) user: u64,
    pub(crate) len_bytes: u64,
    pub(crate) offset: u64,
    pub(crate) file: Fd,
}

/// One ring as its front end has set it up, whether it is served or not.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RingParcel {
    pub(crate) size: Option<u16>,
    /// Descriptors, available and used.
    pub(crate) addresses: Option<[u64; 3]>,
    pub(crate) started: bool,
    pub(crate) enabled: bool,
    pub(crate) ran: bool,
    pub(crate) anew: bool,
    /// The core it belongs on; it stays there if the next process has it.
    pub(crate) core: u16,
    pub(crate) kick: Option<Fd>,
    pub(crate) call: Option<Fd>,
    pub(crate) error: Option<Fd>,
}

/// The memory in which what is in flight is on record.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct InflightParcel {
    pub(crate) len_bytes: u64,
    pub(crate) offset: u64,
    pub(crate) queues: u16,
    pub(crate) size: u16,
    pub(crate) file: Fd,
}

/// The memory in which is marked what was written.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LogParcel {
    pub(crate) offset: u64,
    pub(crate) len_bytes: u64,
    pub(crate) file: Fd,
}

/// The channel for requests of ours, and what is awaited there.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FrontEndParcel {
    pub(crate) socket: Fd,
    pub(crate) awaited: u32,
    /// What has come of the next reply.
    pub(crate) reply: Vec<u8>,
}

/// Where the rings of a client go on, once nothing of them flies.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Places {
    /// When its queues were told to stop, by [`now_ns`]; none if it had none running.
    pub since_ns: Option<u64>,
    /// By ring.
    pub(crate) rings: Vec<Place>,
}

/// Where one ring goes on.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Place {
    /// As VHOST_USER_GET_VRING_BASE has it; none at its beginning.
    pub(crate) base: Option<u32>,
    pub(crate) bar: Option<Bar>,
}

/// Why a ring that its front end wants served is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Bar {
    /// Its guest broke the ring's rules. Only a fresh start lifts this.
    Faulted,
    /// It does not lie in memory as it should. Lifted when its place or the memory changes.
    Misplaced,
}

/// Nanoseconds of a clock that all processes of a machine share, and that never jumps (CLOCK_MONOTONIC).
#[must_use]
pub fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(u64::try_from(now.tv_nsec).unwrap_or(0))
}
