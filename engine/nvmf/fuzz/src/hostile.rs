//! The target of the initiator's tests that does what it is told, for [`crate::world`].

#[path = "../../tests/initiator/hostile/scripted.rs"]
#[allow(dead_code)]
pub(crate) mod scripted;

pub(crate) use scripted::{At, Mischief, Say, Scripted};
