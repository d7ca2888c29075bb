//! The methods of bdevs over files and block devices. Knows no other kind.

use serde::Deserialize;
use serde_json::Value;
use spinel_control::params;
use uuid::Uuid;

use super::{Answer, Named};
use crate::disks::Bdev;
use crate::engine::Engine;
use crate::files::{self, FileDisk};
use crate::kinds::{Kind, wrong_kind};

/// `bdev_uring_create`.
pub(super) fn create(engine: &Engine, params: Option<&Value>) -> Answer {
    #[derive(Deserialize)]
    struct Create {
        filename: String,
        name: String,
        #[serde(default)]
        block_size: Option<u32>,
        #[serde(default, deserialize_with = "super::uuid")]
        uuid: Option<Uuid>,
    }
    let Create { filename, name, block_size, uuid } = params::parse(params)?;
    let mut disks = engine.disks();
    disks.check_vacant("name", &name, uuid)?;
    let disk = FileDisk::open(&mut disks, &name, &filename, block_size, false)?;
    Ok(disks.add(Bdev::new(name, uuid, Kind::Uring(disk))).into())
}

/// `bdev_uring_rescan`.
pub(super) fn rescan(engine: &Engine, params: Option<&Value>) -> Answer {
    let Named { name } = params::parse(params)?;
    let disks = engine.disks();
    let bdev = disks.bdev(&name)?;
    let Kind::Uring(disk) = &bdev.kind else {
        return Err(wrong_kind(bdev, "bdev_uring_rescan is for what bdev_uring_create made"));
    };
    files::rescan(&disks, bdev, disk)?;
    Ok(true.into())
}

/// `bdev_uring_delete`.
pub(super) fn delete(engine: &Engine, params: Option<&Value>) -> Answer {
    let Named { name } = params::parse(params)?;
    engine.disks().remove(&name, "bdev_uring_delete")?;
    Ok(true.into())
}
