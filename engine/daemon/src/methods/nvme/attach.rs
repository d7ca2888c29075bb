//! Controllers are attached, reset and detached. Knows no option that holds for all.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use spinel_control::RpcError;
use spinel_control::params::{self, Inert};
use spinel_nvmf::auth::Policy as AuthPolicy;
use spinel_nvmf::initiator::{AttachSpec, Me, Patience, Secrets};
use spinel_nvmf::nqn::DISCOVERY_NQN;
use uuid::Uuid;

use super::{Answer, Multipath, Where, qualified, refuse};
use crate::disks::{check_name, errno};
use crate::engine::Engine;
use crate::initiator::{Attachment, bdev_name};

/// A controller that answers, but takes long, is waited for so much longer than it takes to connect.
const ATTACH_TIME: Duration = Duration::from_secs(20);
/// How long a controller is waited for that is to go.
const DETACH_TIME: Duration = Duration::from_secs(20);
/// Most namespaces of a controller, unless somebody says otherwise.
const BDEVS_DEFAULT: u32 = 128;
/// Most queues for I/O of a controller: one for each core that has a use for one.
const IO_QUEUES_MAX: u32 = 1024;

/// What SPDK's clients send at its defaults, and what is not built.
const INERT: &[Inert] = &[
    Inert::flag("prchk_reftag", false),
    Inert::flag("prchk_guard", false),
    Inert::flag("allow_unrecognized_csi", false),
    Inert::flag("disable_sq_flow_control", false),
    Inert::text("priority", "0"),
];

#[derive(Deserialize)]
struct Attach {
    name: String,
    trtype: String,
    traddr: String,
    #[serde(default)]
    adrfam: Option<String>,
    #[serde(default)]
    trsvcid: Option<String>,
    #[serde(default)]
    subnqn: Option<String>,
    #[serde(default)]
    hostnqn: Option<String>,
    #[serde(default)]
    hdgst: bool,
    #[serde(default)]
    ddgst: bool,
    #[serde(default)]
    multipath: Option<String>,
    #[serde(default)]
    num_io_queues: Option<u32>,
    #[serde(default)]
    ctrlr_loss_timeout_sec: Option<i32>,
    #[serde(default)]
    reconnect_delay_sec: Option<u32>,
    #[serde(default)]
    fast_io_fail_timeout_sec: Option<u32>,
    #[serde(default)]
    max_bdevs: Option<u32>,
    #[serde(default)]
    dhchap_key: Option<String>,
    #[serde(default)]
    dhchap_ctrlr_key: Option<String>,
    #[serde(default)]
    psk: Option<String>,
    #[serde(default)]
    hostaddr: Option<String>,
    #[serde(default)]
    hostsvcid: Option<String>,
    #[serde(default)]
    multipath_opts: Option<Multipath>,
    /// How long connecting may take holds for all controllers: bdev_nvme_set_options.
    #[serde(default, rename = "fabrics_connect_timeout_us")]
    _fabrics_connect_timeout_us: Option<u64>,
}

/// `bdev_nvme_attach_controller`: answers with the names of its bdevs once they are there.
pub(crate) fn attach(engine: &Engine, given: Option<&Value>) -> Answer {
    let asked: Attach = params::parse_beside(given, INERT)?;
    let spec = spec(engine, &asked)?;
    let (name, address) = (spec.name.clone(), spec.address);
    let remote = engine.remote();
    let patience = remote.initiator().settings().connect_timeout + ATTACH_TIME;
    let attaching = remote.initiator().attach(spec).map_err(|error| refuse(&error))?;
    match attaching.wait(patience) {
        Some(Ok(attached)) => {
            let params = given.cloned().unwrap_or_default();
            remote.asked().attachments.push(Attachment { name: name.clone(), address, params });
            let disks = engine.disks();
            let bdevs = attached.namespaces.iter().map(|nsid| bdev_name(&name, *nsid)).filter(|bdev| disks.has_bdev(bdev));
            Ok(bdevs.collect())
        }
        Some(Err(error)) => Err(refuse(&error)),
        None => {
            // It goes on in the background as far as it has to be taken back.
            drop(remote.initiator().detach(&name, Some(address)));
            let message = format!("controller '{name}' at {address} has not become ready within {} s", patience.as_secs());
            Err(RpcError::errno(errno::IO, message))
        }
    }
}

fn spec(engine: &Engine, asked: &Attach) -> Result<AttachSpec, RpcError> {
    check_name("name", &asked.name)?;
    for (parameter, value, why) in [
        ("psk", &asked.psk, "left out, because TLS is not built"),
        ("hostaddr", &asked.hostaddr, "left out: the system chooses it"),
        ("hostsvcid", &asked.hostsvcid, "left out: the system chooses it"),
    ] {
        if let Some(value) = value {
            return Err(params::refuse(parameter, value.as_str(), why));
        }
    }
    let (trtype, traddr) = (asked.trtype.clone(), asked.traddr.clone());
    let place = Where { trtype, traddr, adrfam: asked.adrfam.clone(), trsvcid: asked.trsvcid.clone() };
    let subsystem =
        asked.subnqn.as_deref().ok_or_else(|| RpcError::invalid_params("the parameter 'subnqn' is missing: the subsystem's name"))?;
    if subsystem == DISCOVERY_NQN {
        return Err(params::refuse("subnqn", subsystem, "a subsystem with namespaces; bdev_nvme_start_discovery is for this one"));
    }
    let io_queues = asked.num_io_queues.unwrap_or(IO_QUEUES_MAX);
    let io_queues = u16::try_from(io_queues.min(IO_QUEUES_MAX)).ok().filter(|queues| *queues > 0);
    let io_queues = io_queues.ok_or_else(|| params::refuse("num_io_queues", 0, "at least 1"))?;
    let multipath = match asked.multipath.as_deref() {
        None | Some("multipath" | "failover") => true,
        Some("disable") => false,
        Some(other) => return Err(params::refuse("multipath", other, "\"multipath\", \"failover\" or \"disable\"")),
    };
    let policy = asked.multipath_opts.as_ref().map(Multipath::parse).transpose()?;
    Ok(AttachSpec {
        name: asked.name.clone(),
        address: place.parse()?,
        subsystem: qualified("subnqn", subsystem)?,
        me: me(engine, asked.hostnqn.as_deref())?,
        header_digest: asked.hdgst,
        data_digest: asked.ddgst,
        io_queues,
        patience: patience(
            engine.remote().initiator().settings().patience,
            asked.ctrlr_loss_timeout_sec,
            asked.reconnect_delay_sec,
            asked.fast_io_fail_timeout_sec,
        )?,
        secrets: secrets(engine, asked)?,
        namespaces_max: asked.max_bdevs.unwrap_or(BDEVS_DEFAULT),
        multipath,
        policy,
    })
}

/// Who this host is, by the name that was given or its own.
pub(super) fn me(engine: &Engine, name: Option<&str>) -> Result<Me, RpcError> {
    let own = engine.remote().host_id();
    let Some(name) = name else {
        let name = format!("nqn.2014-08.org.nvmexpress:uuid:{own}");
        return Ok(Me { name: qualified("hostnqn", &name)?, id: own.into_bytes() });
    };
    // Hosts of one name have one identifier: where the name has one, it is that.
    let id = name.rsplit_once(":uuid:").and_then(|(_, uuid)| Uuid::parse_str(uuid).ok()).unwrap_or(own);
    Ok(Me { name: qualified("hostnqn", name)?, id: id.into_bytes() })
}

fn secrets(engine: &Engine, asked: &Attach) -> Result<Option<Secrets>, RpcError> {
    let secret = |parameter: &str, key: &Option<String>| key.as_deref().map(|key| engine.keyring().secret(parameter, key)).transpose();
    let controller = secret("dhchap_ctrlr_key", &asked.dhchap_ctrlr_key)?;
    match (secret("dhchap_key", &asked.dhchap_key)?, controller) {
        (Some(host), controller) => Ok(Some(Secrets { host, controller, policy: AuthPolicy::ALL })),
        (None, None) => Ok(None),
        (None, Some(_)) => {
            let name = asked.dhchap_ctrlr_key.clone().unwrap_or_default();
            Err(params::refuse("dhchap_ctrlr_key", name, "given with dhchap_key: only a host that proves itself may ask for proof"))
        }
    }
}

/// How long a controller is tried for, by the parameters that SPDK has for it.
pub(super) fn patience(usual: Patience, lost: Option<i32>, delay: Option<u32>, fail: Option<u32>) -> Result<Patience, RpcError> {
    let seconds = |count: u32| Duration::from_secs(count.into());
    let lost_after = match lost {
        None => usual.lost_after,
        Some(-1) => None,
        Some(lost) => {
            let must_be = "-1, which is for ever, 0, which is one attempt, or a number of seconds";
            Some(seconds(u32::try_from(lost).map_err(|_| params::refuse("ctrlr_loss_timeout_sec", lost, must_be))?))
        }
    };
    let reconnect_delay = delay.map_or(usual.reconnect_delay, seconds);
    let fail_after = match fail {
        None => usual.fail_after,
        Some(0) => None,
        Some(fail) => Some(seconds(fail)),
    };
    if let (Some(fail), Some(fail_after), Some(lost_after)) = (fail, fail_after, lost_after)
        && fail_after > lost_after
    {
        return Err(params::refuse(
            "fast_io_fail_timeout_sec",
            fail,
            format!("at most ctrlr_loss_timeout_sec, which is {}", lost_after.as_secs()),
        ));
    }
    Ok(Patience { lost_after, reconnect_delay, fail_after })
}

/// `bdev_nvme_detach_controller`: all of a name, or the one at an address.
pub(crate) fn detach(engine: &Engine, params: Option<&Value>) -> Answer {
    #[derive(Deserialize)]
    struct Detach {
        name: String,
        #[serde(default)]
        trtype: Option<String>,
        #[serde(default)]
        traddr: Option<String>,
        #[serde(default)]
        adrfam: Option<String>,
        #[serde(default)]
        trsvcid: Option<String>,
        #[serde(default)]
        subnqn: Option<String>,
    }
    let Detach { name, trtype, traddr, adrfam, trsvcid, subnqn } = params::parse(params)?;
    let _ = subnqn;
    let address = match traddr {
        None => None,
        Some(traddr) => Some(Where { trtype: trtype.unwrap_or_else(|| "TCP".into()), traddr, adrfam, trsvcid }.parse()?),
    };
    let remote = engine.remote();
    let stay =
        remote.initiator().controllers().iter().any(|path| path.name == name && address.is_some_and(|address| path.address != address));
    if !stay {
        // What nobody can reach any more must not be used by anybody.
        let disks = engine.disks();
        for bdev in disks.bdevs().iter().filter(|bdev| bdev.kind.controller() == Some(&name)) {
            disks.check_unused(&bdev.name)?;
        }
    }
    let detaching = remote.initiator().detach(&name, address).map_err(|error| refuse(&error))?;
    let mut asked = remote.asked();
    asked.attachments.retain(|attachment| attachment.name != name || address.is_some_and(|address| attachment.address != address));
    if !stay {
        asked.policies.retain(|(of, _)| *of != name);
    }
    drop(asked);
    if detaching.wait(DETACH_TIME) {
        return Ok(true.into());
    }
    Err(RpcError::errno(errno::BUSY, format!("controller '{name}' does not answer; it is given up as soon as its connections are closed")))
}

/// `bdev_nvme_reset_controller`.
pub(crate) fn reset(engine: &Engine, params: Option<&Value>) -> Answer {
    #[derive(Deserialize)]
    struct Reset {
        name: String,
        #[serde(default)]
        cntlid: Option<u16>,
    }
    let Reset { name, cntlid } = params::parse(params)?;
    engine.remote().initiator().reset(&name, cntlid).map_err(|error| refuse(&error))?;
    Ok(json!(true))
}
