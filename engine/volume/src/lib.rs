//! Devices without hardware, and devices made of devices. Knows no guest, no ring and no RPC.
//!
//! [`NullDevice`] and [`MemoryDevice`] are leaves; [`DelayDevice`], [`ErrorDevice`] and
//! [`Throttle`] are layers over any [`Device`](spinel_core::Device): one file each. A layer opens
//! its child with its own depth, puts its own tags in place, and never has more room than the child.
#![forbid(unsafe_code)]

mod delay;
mod ended;
mod error;
mod limits;
mod memory;
mod null;
mod rule;
mod shape;
mod throttle;

pub use delay::{DelayDevice, Latencies, LatencyError, LatencyKind};
pub use error::{ErrorDevice, InjectError, Injection, Target};
pub use limits::{BURST_MS_DEFAULT, BURST_MS_MAX, CAPS, Cap, Limit, LimitError, Limits, RATE_MAX};
pub use memory::{MemoryDevice, MemoryError};
pub use null::NullDevice;
pub use rule::Fault;
pub use shape::{Shape, ShapeError};
pub use throttle::Throttle;
