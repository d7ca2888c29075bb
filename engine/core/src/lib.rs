//! Contracts and units of the engine. Knows no device, no protocol and no operating system call beyond a wake-up.
//!
//! Everything asynchronous has one shape: `room`, `submit`, `kick`, `poll` ([`Channel`]).
//! A [`Device`] opens channels on a [`Core`]; a [`Poller`] drives one; a [`Driver`] is
//! what the channels of one core share. Credits replace errors: a caller never submits
//! past `room()`, so every request completes exactly once.
#![forbid(unsafe_code)]

mod channel;
mod core;
mod crowd;
mod device;
mod driver;
mod histogram;
mod mailbox;
mod meter;
mod poller;
mod request;
mod slots;
mod stream;
mod units;

pub use channel::{Armed, Channel};
pub use core::{Core, CoreId};
pub use crowd::{Company, Crowd, Member};
pub use device::{Device, Features, Geometry, OpenError};
pub use driver::{Driver, Sleeper, Watch};
pub use histogram::{BUCKETS, Histogram, bucket_of, bucket_range};
pub use mailbox::{Bell, Command, Inbox, Mailbox, mailbox};
pub use meter::{CoreMeter, CoreUsage, Meter, Meters, OpCounts, Snapshot};
pub use poller::{Poller, PollerId, Progress, Recipe, Remains};
pub use request::{Completion, Completions, OPS, Op, OpKind, Request, Single, Status};
pub use slots::Slots;
pub use stream::{Break, STREAM_HEAD_BYTES_MAX, STREAM_SEGMENTS_MAX, Stream, StreamState};
pub use units::{Instant, Lba, Tag};

pub use spinel_mem as mem;
