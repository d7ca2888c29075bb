//! SPDK's older methods of bdevs over files and block devices; the device behind them is io_uring's here too.

use serde::Deserialize;
use serde_json::Value;
use spinel_control::params::{self, Inert};
use uuid::Uuid;

use super::{Answer, Named};
use crate::disks::Bdev;
use crate::engine::Engine;
use crate::files::{self, FileDisk};
use crate::kinds::{Kind, wrong_kind};

const INERT: &[Inert] = &[Inert::flag("nowait", false)];

/// `bdev_aio_create`. `fallocate` is accepted either way: space is given back wherever the file system can.
pub(super) fn create(engine: &Engine, params: Option<&Value>) -> Answer {
    #[derive(Deserialize)]
    struct Create {
        name: String,
        filename: String,
        #[serde(default)]
        block_size: Option<u32>,
        #[serde(default)]
        readonly: bool,
        #[serde(default)]
        fallocate: bool,
        #[serde(default, deserialize_with = "super::uuid")]
        uuid: Option<Uuid>,
    }
    let Create { name, filename, block_size, readonly, fallocate, uuid } = params::parse_beside(params, INERT)?;
    let mut disks = engine.disks();
    disks.check_vacant("name", &name, uuid)?;
    let disk = FileDisk::open(&mut disks, &name, &filename, block_size, readonly)?;
    Ok(disks.add(Bdev::new(name, uuid, Kind::Aio { disk, fallocate })).into())
}

/// `bdev_aio_rescan`.
pub(super) fn rescan(engine: &Engine, params: Option<&Value>) -> Answer {
    let Named { name } = params::parse(params)?;
    let disks = engine.disks();
    let bdev = disks.bdev(&name)?;
    let Kind::Aio { disk, .. } = &bdev.kind else {
        return Err(wrong_kind(bdev, "bdev_aio_rescan is for what bdev_aio_create made"));
    };
    files::rescan(&disks, bdev, disk)?;
    Ok(true.into())
}

/// `bdev_aio_delete`.
pub(super) fn delete(engine: &Engine, params: Option<&Value>) -> Answer {
    let Named { name } = params::parse(params)?;
    engine.disks().remove(&name, "bdev_aio_delete")?;
    Ok(true.into())
}
