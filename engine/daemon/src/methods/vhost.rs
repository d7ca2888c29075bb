//! The methods of controllers: bdevs offered to guests. Knows no kind of bdev.

use serde::Deserialize;
use serde_json::{Value, json};
use spinel_control::RpcError;
use spinel_control::params;
use spinel_reactor::Handle;
use spinel_vhost::{ControllerInfo, ControllerState, SessionInfo};

use super::Answer;
use crate::cores::CoreList;
use crate::disks::errno;
use crate::engine::Engine;
use crate::served::{Offer, Served, TRANSPORT};

/// The longest name of a controller, in bytes: its socket's path has to fit into 107 with the folder.
const NAME_BYTES_MAX: usize = 63;

fn check_name(name: &str) -> Result<(), RpcError> {
    let fits = !name.is_empty() && name.len() <= NAME_BYTES_MAX && name != "." && name != "..";
    if fits && !name.contains('/') && !name.chars().any(char::is_control) {
        return Ok(());
    }
    Err(params::refuse("ctrlr", name, format!("a file name of 1 to {NAME_BYTES_MAX} bytes, without '/' and control characters")))
}

fn check_transport(parameter: &str, name: &str) -> Result<(), RpcError> {
    if name.eq_ignore_ascii_case(TRANSPORT) { Ok(()) } else { Err(params::refuse(parameter, name, format!("\"{TRANSPORT}\""))) }
}

/// `vhost_create_blk_controller`.
pub(super) fn create(engine: &Engine, params: Option<&Value>) -> Answer {
    #[derive(Deserialize)]
    struct Create {
        ctrlr: String,
        dev_name: String,
        #[serde(default)]
        readonly: bool,
        #[serde(default)]
        cpumask: Option<String>,
        #[serde(default)]
        transport: Option<String>,
        /// Either is true: packed rings are offered to everybody, and whoever wants split ones gets them.
        #[serde(default, rename = "packed_ring")]
        _packed_ring: Option<bool>,
    }
    let Create { ctrlr, dev_name, readonly, cpumask, transport, .. } = params::parse(params)?;
    check_name(&ctrlr)?;
    check_transport("transport", transport.as_deref().unwrap_or(TRANSPORT))?;
    let all = engine.cores();
    let cores = match &cpumask {
        None => all,
        Some(mask) => {
            let refused = |because: String| params::refuse("cpumask", mask.as_str(), because);
            let named =
                CoreList::parse_mask(mask).map_err(|error| refused(format!("a mask such as 0x6 or a list such as [1,4-5]: {error}")))?;
            if named.ids().iter().any(|core| !all.ids().contains(core)) {
                return Err(refused(format!("of cores the daemon runs on, which are 0x{}", all.mask())));
            }
            named
        }
    };
    let mailboxes = engine.reactors().iter().map(Handle::mailbox).filter(|mailbox| cores.ids().contains(&mailbox.core())).cloned();
    let mut disks = engine.disks();
    disks.check_controller_vacant(&ctrlr)?;
    let parcel = disks.inherited.take_controller(&ctrlr);
    let bdev = disks.bdev(&dev_name)?;
    disks.check_servable(bdev)?;
    let served = Served::start(Offer {
        name: ctrlr,
        bdev,
        read_only: readonly,
        cores_named: cpumask.is_some(),
        mailboxes: mailboxes.collect(),
        folder: engine.vhost_folder(),
        pin: engine.pin(),
        parcel,
        cores,
    })?;
    disks.add_controller(served);
    Ok(true.into())
}

/// `vhost_get_controllers`.
pub(super) fn list(engine: &Engine, params: Option<&Value>) -> Answer {
    #[derive(Deserialize)]
    struct GetControllers {
        #[serde(default)]
        name: Option<String>,
    }
    let GetControllers { name } = params::parse(params)?;
    let disks = engine.disks();
    Ok(match name {
        Some(name) => json!([describe(disks.controller(&name)?)]),
        None => disks.controllers().iter().map(describe).collect(),
    })
}

fn describe(served: &Served) -> Value {
    let info = served.controller().info();
    let (state, sessions) = match &info.state {
        ControllerState::Listening => ("listening", json!([])),
        ControllerState::Connected(session) => ("connected", json!([describe_session(served, &info, session)])),
        ControllerState::Quarantined { .. } => ("quarantined", json!([])),
        ControllerState::Stopped => ("stopped", json!([])),
    };
    json!({
        "ctrlr": served.name,
        "cpumask": format!("0x{}", served.cores.mask()),
        "delay_base_us": 0,
        "iops_threshold": served.iops_threshold,
        "socket": info.socket_path,
        "state": state,
        "sessions": sessions,
        "backend_specific": {"block": {"readonly": served.read_only, "bdev": served.bdev, "transport": TRANSPORT}},
    })
}

/// There is one session at a time, so it is always session 0.
fn describe_session(served: &Served, info: &ControllerInfo, session: &SessionInfo) -> Value {
    let queues: Value =
        session.queues.iter().map(|queue| json!({"index": queue.index, "lcore": queue.core.0, "size": queue.size})).collect();
    let memory = session.memory.iter().map(|region| json!({"guest": region.guest, "bytes": region.len_bytes, "pinned": region.pinned}));
    json!({
        "vid": 0,
        "id": 0,
        "name": format!("{}s0", served.name),
        "started": !session.queues.is_empty(),
        "max_queues": info.queues_max,
        "features": format!("{:#x}", session.features),
        "protocol_features": format!("{:#x}", session.protocol_features),
        "queues": queues,
        "memory": memory.collect::<Value>(),
    })
}

/// `vhost_delete_controller`: takes the disk from its guest.
///
/// Requests that do not come back in time keep the controller, which then serves nobody; deleting it again succeeds when they have.
pub(super) fn delete(engine: &Engine, params: Option<&Value>) -> Answer {
    #[derive(Deserialize)]
    struct Delete {
        ctrlr: String,
    }
    let Delete { ctrlr } = params::parse(params)?;
    let mut disks = engine.disks();
    disks.controller(&ctrlr)?.stop().map_err(|error| RpcError::errno(errno::BUSY, error.to_string()))?;
    disks.remove_controller(&ctrlr)?;
    Ok(true.into())
}

/// `vhost_controller_set_coalescing`: there is no delay; interrupts are left out where the guest asks for that (EVENT_IDX).
pub(super) fn set_coalescing(engine: &Engine, params: Option<&Value>) -> Answer {
    #[derive(Deserialize)]
    struct SetCoalescing {
        ctrlr: String,
        delay_base_us: u32,
        iops_threshold: u32,
    }
    let SetCoalescing { ctrlr, delay_base_us, iops_threshold } = params::parse(params)?;
    let mut disks = engine.disks();
    let served = disks.controller_mut(&ctrlr)?;
    if delay_base_us != 0 {
        return Err(params::refuse("delay_base_us", delay_base_us, "0, because interrupts are not delayed here"));
    }
    served.iops_threshold = iops_threshold;
    Ok(true.into())
}

/// `virtio_blk_create_transport`: the one there is exists from the start, so making it again changes nothing.
pub(super) fn create_transport(_: &Engine, params: Option<&Value>) -> Answer {
    #[derive(Deserialize)]
    struct CreateTransport {
        name: String,
    }
    let CreateTransport { name } = params::parse(params)?;
    check_transport("name", &name)?;
    Ok(true.into())
}

/// `virtio_blk_get_transports`.
pub(super) fn transports(_: &Engine, params: Option<&Value>) -> Answer {
    #[derive(Deserialize)]
    struct GetTransports {
        #[serde(default)]
        name: Option<String>,
    }
    let GetTransports { name } = params::parse(params)?;
    if let Some(name) = name {
        check_transport("name", &name)?;
    }
    Ok(json!([{"name": TRANSPORT}]))
}
