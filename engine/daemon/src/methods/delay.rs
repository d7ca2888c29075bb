//! The methods of bdevs that are slower than what they are made of. Knows no other kind.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;
use spinel_control::params;
use spinel_volume::{DelayDevice, Latencies, LatencyKind};
use uuid::Uuid;

use super::{Answer, Named};
use crate::disks::Bdev;
use crate::engine::Engine;
use crate::kinds::{Kind, wrong_kind};

/// `bdev_delay_create`. Latencies are in microseconds.
pub(super) fn create(engine: &Engine, params: Option<&Value>) -> Answer {
    #[derive(Deserialize)]
    struct Create {
        name: String,
        base_bdev_name: String,
        avg_read_latency: u64,
        p99_read_latency: u64,
        avg_write_latency: u64,
        p99_write_latency: u64,
        #[serde(default, deserialize_with = "super::uuid")]
        uuid: Option<Uuid>,
    }
    let create: Create = params::parse(params)?;
    let mut disks = engine.disks();
    disks.check_vacant("name", &create.name, create.uuid)?;
    let base = disks.bdev(&create.base_bdev_name)?;
    disks.check_unused(&base.name)?;
    let latencies = Latencies {
        average_read_us: create.avg_read_latency,
        p99_read_us: create.p99_read_latency,
        average_write_us: create.avg_write_latency,
        p99_write_us: create.p99_write_latency,
    };
    let device = DelayDevice::new(base.device(), latencies).map_err(|error| {
        params::refuse(
            &format!("p99_{}_latency", error.what),
            error.p99_us,
            format!("at least avg_{}_latency, which is {}", error.what, error.average_us),
        )
    })?;
    let kind = Kind::Delay { device: Arc::new(device), base: base.name.clone() };
    Ok(disks.add(Bdev::new(create.name, create.uuid, kind)).into())
}

/// `bdev_delay_delete`.
pub(super) fn delete(engine: &Engine, params: Option<&Value>) -> Answer {
    let Named { name } = params::parse(params)?;
    engine.disks().remove(&name, "bdev_delay_delete")?;
    Ok(true.into())
}

/// SPDK's names of the latencies.
#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum LatencyType {
    AvgRead,
    P99Read,
    AvgWrite,
    P99Write,
}

/// `bdev_delay_update_latency`.
pub(super) fn update_latency(engine: &Engine, params: Option<&Value>) -> Answer {
    #[derive(Deserialize)]
    struct Update {
        delay_bdev_name: String,
        latency_type: LatencyType,
        latency_us: u64,
    }
    let Update { delay_bdev_name, latency_type, latency_us } = params::parse(params)?;
    let disks = engine.disks();
    let bdev = disks.bdev(&delay_bdev_name)?;
    let Kind::Delay { device, .. } = &bdev.kind else {
        return Err(wrong_kind(bdev, "it has no latencies to change"));
    };
    let kind = match latency_type {
        LatencyType::AvgRead => LatencyKind::AverageRead,
        LatencyType::P99Read => LatencyKind::P99Read,
        LatencyType::AvgWrite => LatencyKind::AverageWrite,
        LatencyType::P99Write => LatencyKind::P99Write,
    };
    device.set_latency(kind, latency_us);
    Ok(true.into())
}
