//! The target: what hosts connect to. Knows no socket; what carries bytes is a `Stream`.

pub mod reservation;
