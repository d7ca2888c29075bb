//! Real guests on a small machine: what they are made of, how they are started and watched. It knows no test.
#![forbid(unsafe_code)]

pub mod accelerator;
mod apt;
pub mod backing;
pub mod cache;
pub mod clock;
mod cpio;
pub mod daemon;
pub mod guest;
pub mod image;
mod mirror;
mod modules;
pub mod packages;
pub mod process;
pub mod qmp;
