//! The methods about latency histograms, which are always counted: switching one on only says from when it is shown.

use serde::Deserialize;
use serde_json::Value;
use spinel_control::params::{self, Inert};
use spinel_control::{RpcError, histogram};
use spinel_core::OpKind;

use super::{Answer, Named};
use crate::engine::{Engine, TICK_RATE};

const INERT: &[Inert] = &[Inert::number("granularity", 7), Inert::number("min_nsec", 1000), Inert::number("max_nsec", 120_000_000_000)];

/// The last of the ranges of buckets into which SPDK divides 64 bits at a granularity of 7.
const RANGE_MAX: u32 = 57;

/// SPDK's names of the operations that are counted.
#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Opcode {
    Read,
    Write,
    Unmap,
    Flush,
    WriteZeroes,
}

impl Opcode {
    fn kind(self) -> OpKind {
        match self {
            Self::Read => OpKind::Read,
            Self::Write => OpKind::Write,
            Self::Unmap => OpKind::Discard,
            Self::Flush => OpKind::Flush,
            Self::WriteZeroes => OpKind::WriteZeroes,
        }
    }
}

/// `bdev_enable_histogram`.
pub(super) fn enable(engine: &Engine, params: Option<&Value>) -> Answer {
    #[derive(Deserialize)]
    struct Enable {
        name: String,
        enable: bool,
        #[serde(default)]
        opc: Option<Opcode>,
    }
    let Enable { name, enable, opc } = params::parse_beside(params, INERT)?;
    let mut disks = engine.disks();
    let counts = &mut disks.bdev_mut(&name)?.counts;
    if enable {
        counts.show_from_now(opc.map(Opcode::kind))
    } else {
        counts.hide()
    }
    Ok(true.into())
}

/// `bdev_get_histogram`.
pub(super) fn get(engine: &Engine, params: Option<&Value>) -> Answer {
    let Named { name } = params::parse(params)?;
    let shown = engine.disks().bdev(&name)?.counts.histogram();
    let buckets = shown.ok_or_else(|| {
        RpcError::wrong_state(format!("the histogram of bdev '{name}' was switched off; bdev_enable_histogram switches it on"))
    })?;
    let mut reply = histogram::to_spdk(buckets, TICK_RATE);
    // Since SPDK 26.05 the width and the number of the buckets have these names instead of bucket_shift.
    reply["granularity"] = reply["bucket_shift"].clone();
    reply["min_range"] = 0.into();
    reply["max_range"] = RANGE_MAX.into();
    Ok(reply)
}
