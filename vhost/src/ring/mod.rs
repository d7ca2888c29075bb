//! The virtqueue as an untrusted data structure in shared memory. Knows no request.

mod doze;
mod split;

pub(crate) use split::{Descriptor, Usual};
pub use split::{RingAddresses, RingError, RingFault, SplitRing};
