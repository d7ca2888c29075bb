//! The methods of bdevs in memory. Knows no other kind.

use std::os::fd::AsFd as _;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;
use spinel_control::RpcError;
use spinel_control::params::{self, Inert};
use spinel_volume::{MemoryDevice, MemoryError};
use uuid::Uuid;

use super::{Answer, Named};
use crate::disks::{Bdev, Disks, errno};
use crate::engine::Engine;
use crate::kinds::{Kind, chain, refuse_shape};

const INERT: &[Inert] = &[
    Inert::number("optimal_io_boundary", 0),
    Inert::number("md_size", 0),
    Inert::flag("md_interleave", false),
    Inert::number("dif_type", 0),
    Inert::flag("dif_is_head_of_md", false),
    Inert::number("dif_pi_format", 0),
    Inert::number("numa_id", -1),
];

/// `bdev_malloc_create`.
pub(super) fn create(engine: &Engine, params: Option<&Value>) -> Answer {
    #[derive(Deserialize)]
    struct Create {
        #[serde(default)]
        name: Option<String>,
        block_size: u32,
        num_blocks: u64,
        #[serde(default)]
        physical_block_size: u32,
        #[serde(default, deserialize_with = "super::uuid")]
        uuid: Option<Uuid>,
    }
    let Create { name, block_size, num_blocks, physical_block_size, uuid } = params::parse_beside(params, INERT)?;
    let mut disks = engine.disks();
    let (name, named) = match name {
        Some(name) => (name, disks.mallocs_named),
        None => next_name(&disks),
    };
    disks.check_vacant("name", &name, uuid)?;
    let shape = super::null::shape(block_size, num_blocks, physical_block_size);
    let device = match disks.inherited.take_memory(&name) {
        Some(memory) => MemoryDevice::of_memory(shape, memory.as_fd()),
        None => MemoryDevice::new(shape),
    };
    let device = device.map_err(|error| refuse(&error))?;
    disks.mallocs_named = named;
    Ok(disks.add(Bdev::new(name, uuid, Kind::Malloc(Arc::new(device)))).into())
}

/// SPDK's names: Malloc0, Malloc1 and so on, none twice; and how many were given then.
fn next_name(disks: &Disks) -> (String, u64) {
    (disks.mallocs_named..)
        .map(|number| (format!("Malloc{number}"), number + 1))
        .find(|(name, _)| !disks.has_bdev(name))
        .expect("there are fewer bdevs than numbers")
}

fn refuse(error: &MemoryError) -> RpcError {
    match error {
        MemoryError::Shape(error) => refuse_shape(error),
        MemoryError::Map { .. } => RpcError::errno(errno::NO_MEMORY, chain(error)),
    }
}

/// `bdev_malloc_delete`.
pub(super) fn delete(engine: &Engine, params: Option<&Value>) -> Answer {
    let Named { name } = params::parse(params)?;
    engine.disks().remove(&name, "bdev_malloc_delete")?;
    Ok(true.into())
}
