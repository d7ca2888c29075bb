//! One core's loop: pollers, mailbox, pinning, sleeping, and the only real clock. Knows no device and no protocol.
//!
//! [`Reactor`] is the loop's body, a value that a simulator can own and turn; [`start`]
//! puts one on a pinned thread with the real clock. Timers are pollers that answer
//! [`Armed::Until`](spinel_core::Armed::Until).
#![forbid(unsafe_code)]

mod clock;
mod pace;
mod reactor;
mod thread;

pub use clock::Clock;
pub use pace::{Mode, Pace, PaceLimits};
pub use reactor::{Reactor, Rest};
pub use thread::{Gauge, Handle, MakeCore, ReactorConfig, StartError, start};
