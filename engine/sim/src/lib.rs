//! Seeded, deterministic stand-ins for what lies around the engine: for tests only. Knows no real clock, disk or guest.
#![forbid(unsafe_code)]

pub mod guest;
