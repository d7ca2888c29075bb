//! A controller: a bdev offered to guests on a vhost-user socket. Knows no method's parameters.

use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use spinel_control::{RpcError, params};
use spinel_core::Mailbox;
use spinel_vhost::{
    Controller, ControllerConfig, ControllerError, ControllerParcel, ControllerState, Disk, ListenError, Pin, QUEUES_MAX, StopError,
};

use crate::cores::CoreList;
use crate::disks::{Bdev, errno};
use crate::kinds::chain;

/// The only transport there is.
pub(crate) const TRANSPORT: &str = "vhost_user_blk";
/// SPDK's threshold of interrupt coalescing, which means nothing while there is no delay.
pub(crate) const IOPS_THRESHOLD_DEFAULT: u32 = 60_000;

/// How long the requests of a guest that leaves are waited for before the disk is quarantined.
const DRAIN_DEADLINE: Duration = Duration::from_secs(5);

/// A running controller and what it was made with.
pub(crate) struct Served {
    pub(crate) name: String,
    pub(crate) bdev: String,
    pub(crate) read_only: bool,
    /// The cores its queues are spread over.
    pub(crate) cores: CoreList,
    /// Whether these cores were named, or are simply all.
    pub(crate) cores_named: bool,
    /// As it was set last.
    pub(crate) iops_threshold: u32,
    controller: Controller,
}

/// What a controller is to be.
pub(crate) struct Offer<'a> {
    pub(crate) name: String,
    pub(crate) bdev: &'a Bdev,
    pub(crate) read_only: bool,
    pub(crate) cores: CoreList,
    pub(crate) cores_named: bool,
    pub(crate) mailboxes: Vec<Mailbox>,
    pub(crate) folder: &'a Path,
    pub(crate) pin: Option<Pin>,
    /// What another process has handed over of it: it is held then, until it is resumed.
    pub(crate) parcel: Option<ControllerParcel>,
}

impl Served {
    /// Makes the socket and serves whoever connects.
    pub(crate) fn start(offer: Offer<'_>) -> Result<Self, RpcError> {
        let Offer { name, bdev, read_only, cores, cores_named, mailboxes, folder, pin, parcel } = offer;
        let disk = Disk { serial: bdev.name.clone(), device: bdev.device(), meters: Arc::clone(bdev.counts.meters()), read_only };
        let config = ControllerConfig {
            socket_path: folder.join(&name),
            disk,
            cores: mailboxes,
            queues_max: QUEUES_MAX,
            drain_deadline: DRAIN_DEADLINE,
            pin_guest_memory: pin,
            name: name.clone(),
        };
        let controller = match parcel {
            None => Controller::start(config),
            Some(parcel) => Controller::adopt(config, parcel),
        };
        let controller = controller.map_err(|error| refuse(&name, &error))?;
        let bdev = bdev.name.clone();
        Ok(Self { name, bdev, read_only, cores, cores_named, iops_threshold: IOPS_THRESHOLD_DEFAULT, controller })
    }

    /// Whether requests of a client that has left are still out, so that nobody else may be served.
    pub(crate) fn quarantined(&self) -> bool {
        matches!(self.controller.info().state, ControllerState::Quarantined { .. })
    }

    /// The calls that make this controller again.
    pub(crate) fn creation(&self) -> Vec<(&'static str, Value)> {
        let mut params = json!({"ctrlr": self.name, "dev_name": self.bdev, "readonly": self.read_only, "transport": TRANSPORT});
        if self.cores_named {
            params["cpumask"] = format!("0x{}", self.cores.mask()).into();
        }
        let mut calls = vec![("vhost_create_blk_controller", params)];
        if self.iops_threshold != IOPS_THRESHOLD_DEFAULT {
            let params = json!({"ctrlr": self.name, "delay_base_us": 0, "iops_threshold": self.iops_threshold});
            calls.push(("vhost_controller_set_coalescing", params));
        }
        calls
    }

    /// The controller itself.
    pub(crate) fn controller(&self) -> &Controller {
        &self.controller
    }

    /// Ends the session, if there is one, and frees everything; waits for requests under way as long as for a guest that leaves.
    pub(crate) fn stop(&self) -> Result<(), StopError> {
        self.controller.stop(DRAIN_DEADLINE)
    }

    /// The same, without waiting.
    pub(crate) fn begin_to_stop(&self) {
        // What is still under way is waited for by stopping once more.
        let _ = self.controller.stop(Duration::ZERO);
    }
}

fn refuse(name: &str, error: &ControllerError) -> RpcError {
    match error {
        ControllerError::Listen(ListenError::TooLong { .. }) => params::refuse("ctrlr", name, format!("shorter: {}", chain(error))),
        ControllerError::Listen(ListenError::InUse { .. }) => RpcError::errno(errno::BUSY, chain(error)),
        ControllerError::Listen(ListenError::NotASocket { .. }) => RpcError::errno(errno::EXISTS, chain(error)),
        ControllerError::Listen(ListenError::System { source, .. }) | ControllerError::System { source, .. } => {
            source.raw_os_error().map_or_else(|| RpcError::internal(chain(error)), |code| RpcError::errno(code, chain(error)))
        }
        ControllerError::Queues { .. } | ControllerError::NoCore | ControllerError::Parcel { .. } => RpcError::internal(chain(error)),
    }
}

/// Why there is no folder for the controllers' sockets.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FolderError {
    /// It cannot be made or looked at.
    #[error("the folder {} for the disks' sockets cannot be made: {source}; -S names another", folder.display())]
    System {
        /// Which folder.
        folder: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Somebody else could put sockets of their own there.
    #[error("the folder {} belongs to user {owner}; the disks' sockets must lie in a folder of root's or of this user's, which -S names", folder.display())]
    Foreign {
        /// Which folder.
        folder: PathBuf,
        /// Its owner's user id.
        owner: u32,
    },
}

/// Makes the folder for the controllers' sockets, for this user only, unless it is there.
pub(crate) fn make_folder(folder: &Path) -> Result<(), FolderError> {
    let system = |source| FolderError::System { folder: folder.to_owned(), source };
    match std::fs::DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(system(error)),
        _ => {}
    }
    let found = std::fs::metadata(folder).map_err(system)?;
    if !found.is_dir() {
        return Err(system(io::ErrorKind::NotADirectory.into()));
    }
    match found.uid() {
        owner if owner == 0 || owner == rustix::process::geteuid().as_raw() => Ok(()),
        owner => Err(FolderError::Foreign { folder: folder.to_owned(), owner }),
    }
}
