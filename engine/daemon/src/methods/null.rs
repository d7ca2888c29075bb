//! The methods of bdevs without data. Knows no other kind.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;
use spinel_control::params::{self, Inert};
use spinel_volume::{NullDevice, Shape};
use uuid::Uuid;

use super::{Answer, Named};
use crate::disks::Bdev;
use crate::engine::Engine;
use crate::kinds::{Kind, refuse_shape, wrong_kind};

const MIB_BYTES: u64 = 1 << 20;

const INERT: &[Inert] = &[
    Inert::number("md_size", 0),
    Inert::number("dif_type", 0),
    Inert::number("dif_pi_format", 0),
    Inert::flag("dif_is_head_of_md", false),
    Inert::number("preferred_write_granularity", 0),
    Inert::number("preferred_write_alignment", 0),
    Inert::number("optimal_write_size", 0),
    Inert::number("preferred_unmap_granularity", 0),
    Inert::number("preferred_unmap_alignment", 0),
];

/// `bdev_null_create`.
pub(super) fn create(engine: &Engine, params: Option<&Value>) -> Answer {
    #[derive(Deserialize)]
    struct Create {
        name: String,
        block_size: u32,
        num_blocks: u64,
        #[serde(default)]
        physical_block_size: u32,
        #[serde(default, deserialize_with = "super::uuid")]
        uuid: Option<Uuid>,
    }
    let Create { name, block_size, num_blocks, physical_block_size, uuid } = params::parse_beside(params, INERT)?;
    let mut disks = engine.disks();
    disks.check_vacant("name", &name, uuid)?;
    let device = NullDevice::new(shape(block_size, num_blocks, physical_block_size)).map_err(|error| refuse_shape(&error))?;
    Ok(disks.add(Bdev::new(name, uuid, Kind::Null(Arc::new(device)))).into())
}

/// The shape that the parameters of null and malloc bdevs describe; a physical size of 0 is none of its own.
pub(super) fn shape(block_size: u32, num_blocks: u64, physical_block_size: u32) -> Shape {
    let shape = Shape::new(block_size, num_blocks);
    if physical_block_size == 0 { shape } else { Shape { physical_block_bytes: physical_block_size, ..shape } }
}

/// `bdev_null_delete`.
pub(super) fn delete(engine: &Engine, params: Option<&Value>) -> Answer {
    let Named { name } = params::parse(params)?;
    engine.disks().remove(&name, "bdev_null_delete")?;
    Ok(true.into())
}

/// `bdev_null_resize`: only upwards, as in SPDK.
pub(super) fn resize(engine: &Engine, params: Option<&Value>) -> Answer {
    #[derive(Deserialize)]
    struct Resize {
        name: String,
        /// In MiB.
        new_size: u64,
    }
    let Resize { name, new_size } = params::parse(params)?;
    let disks = engine.disks();
    let bdev = disks.bdev(&name)?;
    let Kind::Null(device) = &bdev.kind else {
        return Err(wrong_kind(bdev, "bdev_null_resize resizes null bdevs only"));
    };
    let geometry = spinel_core::Device::geometry(&**device);
    let block_count = new_size.checked_mul(MIB_BYTES / u64::from(geometry.block_bytes));
    let block_count = block_count.filter(|count| *count >= geometry.block_count);
    let refused = || {
        params::refuse(
            "new_size",
            new_size,
            format!("at least {}, in MiB, as many as there are now", geometry.len_bytes().div_ceil(MIB_BYTES)),
        )
    };
    device.resize(block_count.ok_or_else(refused)?).map_err(|error| params::refuse("new_size", new_size, error))?;
    disks.announce_size(&bdev.name);
    Ok(true.into())
}
