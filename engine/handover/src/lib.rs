//! Messages between two processes of one machine, as JSON with open file descriptors among their fields. Knows no message.
//!
//! A message is any serde type; a field of type [`Fd`] travels as a descriptor (SCM_RIGHTS),
//! and in the JSON as its number among the message's descriptors. Both sides check what
//! comes: another version, a size or count out of bounds, JSON of another form, a
//! descriptor named twice or not at all end the conversation with a reason.
#![forbid(unsafe_code)]

mod fd;
mod link;

pub use fd::Fd;
pub use link::{BODY_BYTES_MAX, FDS_MAX, Link, LinkError, VERSION};
