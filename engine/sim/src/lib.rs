//! placeholder

#![forbid(unsafe_code)]

mod clock;
pub mod guest;
mod prng;
mod rig;
mod sleeper;

pub use clock::Clock;
pub use prng::Prng;
pub use rig::{LostWakeUp, Rig};
pub use sleeper::{Bed, Reason, SimSleeper};
