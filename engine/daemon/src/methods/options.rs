//! The options of pools that SPDK has and this engine does not need. Accepted at SPDK's defaults, which ask for nothing.

use serde::Deserialize;
use serde_json::Value;
use spinel_control::params::{self, Inert};

use super::Answer;
use crate::engine::Engine;

const BDEV: &[Inert] = &[
    Inert::number("bdev_io_pool_size", 65_535),
    Inert::number("bdev_io_cache_size", 256),
    Inert::flag("bdev_auto_examine", true),
    Inert::number("iobuf_small_cache_size", 128),
    Inert::number("iobuf_large_cache_size", 16),
];

const IOBUF: &[Inert] = &[
    Inert::number("small_pool_count", 8192),
    Inert::number("large_pool_count", 1024),
    Inert::number("small_bufsize", 8192),
    Inert::number("large_bufsize", 135_168),
    Inert::flag("enable_numa", false),
];

#[derive(Deserialize)]
struct Nothing {}

/// `bdev_set_options`.
pub(super) fn bdev(_: &Engine, params: Option<&Value>) -> Answer {
    params::parse_beside(params, BDEV).map(|Nothing {}| true.into())
}

/// `iobuf_set_options`.
pub(super) fn iobuf(_: &Engine, params: Option<&Value>) -> Answer {
    params::parse_beside(params, IOBUF).map(|Nothing {}| true.into())
}
