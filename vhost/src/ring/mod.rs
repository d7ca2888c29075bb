//! The virtqueue as an untrusted data structure in shared memory. Knows no request.

mod doze;
mod split;

pub(crate) use split::Descriptor;
pub use split::{RingAddresses, RingError, RingFault, SplitRing};
