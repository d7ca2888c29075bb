//! The methods of bdevs that fail on purpose. Knows no other kind.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use spinel_control::RpcError;
use spinel_control::params::{self, Inert};
use spinel_volume::{ErrorDevice, Fault, InjectError, Injection, Target};
use uuid::Uuid;

use super::{Answer, Named};
use crate::disks::{Bdev, errno};
use crate::engine::Engine;
use crate::kinds::{Kind, chain, wrong_kind};

/// `bdev_error_create`: a bdev EE_base over base.
pub(super) fn create(engine: &Engine, params: Option<&Value>) -> Answer {
    #[derive(Deserialize)]
    struct Create {
        base_name: String,
        #[serde(default, deserialize_with = "super::uuid")]
        uuid: Option<Uuid>,
    }
    let Create { base_name, uuid } = params::parse(params)?;
    let mut disks = engine.disks();
    let base = disks.bdev(&base_name)?;
    let name = format!("EE_{}", base.name);
    disks.check_vacant("base_name", &name, uuid)?;
    disks.check_unused(&base.name)?;
    let device = ErrorDevice::new(base.device()).map_err(|error| RpcError::errno(errno::NO_MEMORY, chain(&error)))?;
    let kind = Kind::Error { device: Arc::new(device), base: base.name.clone() };
    disks.add(Bdev::new(name, uuid, kind));
    Ok(true.into())
}

/// `bdev_error_delete`.
pub(super) fn delete(engine: &Engine, params: Option<&Value>) -> Answer {
    let Named { name } = params::parse(params)?;
    engine.disks().remove(&name, "bdev_error_delete")?;
    Ok(true.into())
}

/// SPDK's names of what is injected into.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum IoType {
    Clear,
    Read,
    Write,
    Unmap,
    Flush,
    All,
}

/// SPDK's names of what is injected, then our own of what a disk does wrong without saying so.
#[derive(Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ErrorType {
    Failure,
    Pending,
    CorruptData,
    Nomem,
    NvmeFailure,
    MisdirectWrite,
    LoseWrite,
    TearWrite,
    StaleRead,
}

#[derive(Deserialize)]
struct Inject {
    name: String,
    io_type: IoType,
    error_type: ErrorType,
    #[serde(default)]
    num: Option<u32>,
    #[serde(default)]
    queue_depth: u64,
    #[serde(default)]
    corrupt_offset: u64,
    #[serde(default)]
    corrupt_value: u8,
}

const INERT: &[Inert] = &[Inert::number("nvme_sct", 0), Inert::number("nvme_sc", 0)];

/// `bdev_error_inject_error`.
pub(super) fn inject(engine: &Engine, params: Option<&Value>) -> Answer {
    let inject: Inject = params::parse_beside(params, INERT)?;
    let disks = engine.disks();
    let bdev = disks.bdev(&inject.name)?;
    let Kind::Error { device, .. } = &bdev.kind else {
        return Err(wrong_kind(bdev, "errors are injected into error bdevs, which bdev_error_create makes"));
    };
    let fault = match inject.error_type {
        ErrorType::Failure => Fault::Failure,
        ErrorType::Pending => Fault::Pending,
        ErrorType::Nomem => Fault::NoMemory,
        ErrorType::CorruptData => Fault::Corrupt { offset: inject.corrupt_offset, value: inject.corrupt_value },
        ErrorType::MisdirectWrite => Fault::MisdirectWrite,
        ErrorType::LoseWrite => Fault::LoseWrite,
        ErrorType::TearWrite => Fault::TearWrite,
        ErrorType::StaleRead => Fault::StaleRead,
        ErrorType::NvmeFailure => {
            let must_be = "one of \"failure\", \"pending\", \"corrupt_data\", \"nomem\", \"misdirect_write\", \"lose_write\", \"tear_write\", \"stale_read\"; NVMe's own errors are not built";
            return Err(params::refuse("error_type", "nvme_failure", must_be));
        }
    };
    let target = match inject.io_type {
        IoType::Clear => {
            device.clear();
            return Ok(true.into());
        }
        IoType::Read => Target::Read,
        IoType::Write => Target::Write,
        IoType::Unmap => Target::Discard,
        IoType::Flush => Target::Flush,
        IoType::All => Target::All,
    };
    let injection = Injection { target, fault, count: inject.num.unwrap_or(1), queue_depth: inject.queue_depth };
    device.inject(injection).map_err(|error| refuse(&inject, error))?;
    Ok(true.into())
}

fn refuse(inject: &Inject, error: InjectError) -> RpcError {
    let io_type = || serde_json::to_value(inject.io_type).unwrap_or_default();
    match error {
        InjectError::CorruptValue => params::refuse("corrupt_value", inject.corrupt_value, "1 to 255, or no byte would change"),
        InjectError::CorruptTarget { .. } => params::refuse("error_type", "corrupt_data", error),
        InjectError::WriteTarget { .. } => params::refuse("io_type", io_type(), "\"write\" or \"all\" for a fault of writes"),
        InjectError::ReadTarget { .. } => params::refuse("io_type", io_type(), "\"read\" or \"all\" for a fault of reads"),
    }
}

/// `bdev_error_resume_pending`.
pub(super) fn resume_pending(engine: &Engine, params: Option<&Value>) -> Answer {
    let Named { name } = params::parse(params)?;
    let disks = engine.disks();
    let bdev = disks.bdev(&name)?;
    let Kind::Error { device, .. } = &bdev.kind else {
        return Err(wrong_kind(bdev, "it holds no requests back"));
    };
    device.resume_pending();
    engine.wake();
    Ok(true.into())
}
