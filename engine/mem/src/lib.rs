//! Memory that more than one party may touch: regions, checked segments, guest maps. Knows no device, no queue and no request.
//!
//! A [`Region`] is a stretch of shared memory under one id. A [`Segment`] is a checked
//! piece of a region and the only form in which buffers travel through the engine. A
//! guest, a peer or a kernel may write to a region at any moment, so nothing here ever
//! hands out a `&[u8]` into one: bytes are copied, single words are read atomically.
//!
//! This package is one of the few that contain `unsafe`; what it exports is safe.

mod array;
mod guest;
mod region;
mod sigbus;
mod table;

pub use array::{Array, Plain, Wrapping};
pub use guest::{GuestMap, GuestRange, GuestRangeError, Look, Near, TranslateError};
pub use region::{BoundsError, MapError, MappedFile, Pins, REGIONS_MAX, Region, RegionId, Segment, Spot};
pub use sigbus::losses;
pub use table::Regions;
