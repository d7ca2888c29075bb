//! The kinds of bdevs there are, and what each tells about itself. Knows no registry and no controller.

use std::error::Error;
use std::fmt::Write as _;
use std::sync::Arc;

use serde_json::{Value, json};
use spinel_control::{RpcError, params};
use spinel_core::Device;
use spinel_volume::{DelayDevice, ErrorDevice, MemoryDevice, NullDevice, ShapeError};
use uuid::Uuid;

use crate::disks::{Bdev, errno};
use crate::files::FileDisk;

/// What a bdev is.
pub(crate) enum Kind {
    Null(Arc<NullDevice>),
    Malloc(Arc<MemoryDevice>),
    Uring(FileDisk),
    Aio {
        disk: FileDisk,
        fallocate: bool,
    },
    Delay {
        device: Arc<DelayDevice>,
        base: String,
    },
    Error {
        device: Arc<ErrorDevice>,
        base: String,
    },
    /// A namespace of a controller elsewhere. If it has gone, its requests fail.
    Nvme {
        device: Arc<dyn Device>,
        controller: String,
        nsid: u32,
        gone: bool,
    },
}

impl Kind {
    /// The device itself.
    pub(crate) fn device(&self) -> Arc<dyn Device> {
        match self {
            Self::Null(device) => Arc::clone(device) as _,
            Self::Malloc(device) => Arc::clone(device) as _,
            Self::Uring(disk) | Self::Aio { disk, .. } => Arc::clone(&disk.device) as _,
            Self::Delay { device, .. } => Arc::clone(device) as _,
            Self::Error { device, .. } => Arc::clone(device) as _,
            Self::Nvme { device, .. } => Arc::clone(device),
        }
    }

    /// The controllers that lead to it, by their name, if it is a namespace.
    pub(crate) fn controller(&self) -> Option<&str> {
        if let Self::Nvme { controller, .. } = self { Some(controller) } else { None }
    }

    /// The bdev it is made of, if it is made of one.
    pub(crate) fn base(&self) -> Option<&str> {
        match self {
            Self::Delay { base, .. } | Self::Error { base, .. } => Some(base),
            _ => None,
        }
    }

    /// The file it is made of, if it is made of one.
    pub(crate) fn file(&self) -> Option<&FileDisk> {
        match self {
            Self::Uring(disk) | Self::Aio { disk, .. } => Some(disk),
            _ => None,
        }
    }

    /// Lets requests end that are held back on purpose.
    pub(crate) fn let_go(&self) {
        if let Self::Error { device, .. } = self {
            device.close();
        }
    }

    /// SPDK's name of such a product.
    pub(crate) fn product(&self) -> &'static str {
        match self {
            Self::Null(_) => "Null disk",
            Self::Malloc(_) => "Malloc disk",
            Self::Uring(_) => "URING bdev",
            Self::Aio { .. } => "AIO disk",
            Self::Delay { .. } => "delay",
            Self::Error { .. } => "Error Injection Disk",
            Self::Nvme { .. } => "NVMe disk",
        }
    }

    /// The method that deletes such a bdev.
    pub(crate) fn delete_method(&self) -> &'static str {
        match self {
            Self::Null(_) => "bdev_null_delete",
            Self::Malloc(_) => "bdev_malloc_delete",
            Self::Uring(_) => "bdev_uring_delete",
            Self::Aio { .. } => "bdev_aio_delete",
            Self::Delay { .. } => "bdev_delay_delete",
            Self::Error { .. } => "bdev_error_delete",
            Self::Nvme { .. } => "bdev_nvme_detach_controller",
        }
    }

    /// What `bdev_get_bdevs` shows of such bdevs only.
    pub(crate) fn specifics(&self, name: &str) -> Value {
        match self {
            Self::Null(_) | Self::Malloc(_) => json!({}),
            Self::Uring(disk) => json!({"uring": {"filename": disk.filename, "direct": disk.direct}}),
            Self::Aio { disk, fallocate } => {
                let (readonly, direct) = (disk.read_only, disk.direct);
                json!({"aio": {"filename": disk.filename, "readonly": readonly, "fallocate": fallocate, "direct": direct}})
            }
            Self::Delay { device, base } => {
                let latencies = device.latencies();
                json!({"delay": {
                    "name": name,
                    "base_bdev_name": base,
                    "avg_read_latency": latencies.average_read_us,
                    "p99_read_latency": latencies.p99_read_us,
                    "avg_write_latency": latencies.average_write_us,
                    "p99_write_latency": latencies.p99_write_us,
                }})
            }
            Self::Error { base, .. } => json!({"error_disk": {"base_bdev": base}}),
            Self::Nvme { controller, nsid, gone, .. } => {
                json!({"nvme": [{"controller": controller, "ns_data": {"id": nsid}, "gone": gone}]})
            }
        }
    }

    /// The call that makes a bdev of this name as it is now: its method and parameters. None if it comes by itself.
    pub(crate) fn creation(&self, name: &str, uuid: Uuid) -> Option<(&'static str, Value)> {
        let shape = || {
            let geometry = self.device().geometry();
            let (block_size, physical) = (geometry.block_bytes, geometry.physical_block_bytes);
            json!({
                "name": name, "num_blocks": geometry.block_count, "block_size": block_size, "physical_block_size": physical, "uuid": uuid,
            })
        };
        Some(match self {
            Self::Null(_) => ("bdev_null_create", shape()),
            Self::Malloc(_) => ("bdev_malloc_create", shape()),
            Self::Uring(disk) => (
                "bdev_uring_create",
                json!({"name": name, "filename": disk.filename, "block_size": disk.device.geometry().block_bytes, "uuid": uuid}),
            ),
            Self::Aio { disk, fallocate } => (
                "bdev_aio_create",
                json!({
                    "name": name, "filename": disk.filename, "block_size": disk.device.geometry().block_bytes,
                    "readonly": disk.read_only, "fallocate": fallocate, "uuid": uuid,
                }),
            ),
            Self::Delay { .. } => {
                let mut params = self.specifics(name)["delay"].take();
                params["uuid"] = uuid.to_string().into();
                ("bdev_delay_create", params)
            }
            Self::Error { base, .. } => ("bdev_error_create", json!({"base_name": base, "uuid": uuid})),
            Self::Nvme { .. } => return None,
        })
    }
}

/// The refusal (-19, as SPDK's) of a method that is not for this kind of bdev.
pub(crate) fn wrong_kind(bdev: &Bdev, because: &str) -> RpcError {
    RpcError::errno(errno::NO_DEVICE, format!("bdev '{}' is of the kind '{}': {because}", bdev.name, bdev.kind.product()))
}

/// The refusal of a shape, by the name of the parameter that is wrong.
pub(crate) fn refuse_shape(error: &ShapeError) -> RpcError {
    match error {
        ShapeError::BlockBytes { block_bytes } => params::refuse("block_size", *block_bytes, "512 or 4096"),
        ShapeError::PhysicalBlockBytes { physical_block_bytes, block_bytes } => params::refuse(
            "physical_block_size",
            *physical_block_bytes,
            format!("a power of two, and at least block_size, which is {block_bytes}"),
        ),
        ShapeError::BlockCount { block_count } => params::refuse("num_blocks", *block_count, "at least 1, and less than 2^63 bytes in all"),
    }
}

/// An error and its causes in one line. Some errors name their cause themselves.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            let _ = write!(text, ": {cause_text}");
        }
        source = cause.source();
    }
    text
}
