//! What the tests of a whole target need around them: cores, a connection in memory, a host.
#![allow(dead_code, reason = "every test uses a part of it")]

pub(crate) mod host;
pub(crate) mod wire;
pub(crate) mod world;
