//! The transport, what it counts, and what belongs to no subsystem. Knows no subsystem.

use serde::Deserialize;
use serde_json::{Map, Value, json};
use spinel_control::RpcError;
use spinel_control::params::{self, Inert};
use spinel_nvmf::auth::{Group, Hash, Policy};
use spinel_nvmf::pool::PoolSize;
use spinel_nvmf::target::{Options, OptionsError};

use super::{Answer, TARGET, TRANSPORT, check_target};
use crate::cores::CoreList;
use crate::disks::errno;
use crate::engine::{Engine, TICK_RATE};
use crate::nvmf::Transport;

/// What SPDK's clients send at its defaults, and what means nothing here.
const INERT: &[Inert] = &[Inert::flag("zcopy", false), Inert::flag("dif_insert_or_strip", false), Inert::number("sock_priority", 0)];

#[derive(Deserialize)]
struct CreateTransport {
    trtype: String,
    #[serde(default)]
    tgt_name: Option<String>,
    #[serde(default)]
    max_queue_depth: Option<u16>,
    #[serde(default)]
    max_io_qpairs_per_ctrlr: Option<u16>,
    #[serde(default)]
    in_capsule_data_size: Option<u32>,
    #[serde(default)]
    max_io_size: Option<u32>,
    #[serde(default)]
    max_aq_depth: Option<u32>,
    #[serde(default)]
    num_shared_buffers: Option<u32>,
    #[serde(default)]
    c2h_success: Option<bool>,
    /// Sizes of SPDK's own memory, and how it waits: nothing here depends on them.
    #[serde(default, rename = "io_unit_size")]
    _io_unit_size: Option<u32>,
    #[serde(default, rename = "buf_cache_size")]
    _buf_cache_size: Option<u32>,
    #[serde(default, rename = "iobuf_small_cache_size")]
    _iobuf_small_cache_size: Option<u32>,
    #[serde(default, rename = "iobuf_large_cache_size")]
    _iobuf_large_cache_size: Option<u32>,
    #[serde(default, rename = "abort_timeout_sec")]
    _abort_timeout_sec: Option<u32>,
    #[serde(default, rename = "control_msg_num")]
    _control_msg_num: Option<u16>,
    #[serde(default, rename = "ack_timeout")]
    _ack_timeout: Option<u32>,
    #[serde(default, rename = "data_wr_pool_size")]
    _data_wr_pool_size: Option<u32>,
    #[serde(default, rename = "acceptor_poll_rate")]
    _acceptor_poll_rate: Option<u32>,
}

/// `nvmf_create_transport`.
pub(crate) fn create(engine: &Engine, given: Option<&Value>) -> Answer {
    let asked: CreateTransport = params::parse_beside(given, INERT)?;
    check_target(asked.tgt_name.as_deref())?;
    if !asked.trtype.eq_ignore_ascii_case(TRANSPORT) {
        return Err(params::refuse("trtype", asked.trtype, format!("\"{TRANSPORT}\"")));
    }
    let usual = Options::default();
    let admin = asked.max_aq_depth.map_or(Ok(usual.admin_queue_entries), |depth| {
        u16::try_from(depth).map_err(|_| params::refuse("max_aq_depth", depth, "at most 4096"))
    })?;
    let large_units = asked.num_shared_buffers.unwrap_or(usual.pool.large_units);
    if !(32..=65_536).contains(&large_units) {
        return Err(params::refuse("num_shared_buffers", large_units, "32 to 65536, of 128 KiB each, for each core"));
    }
    let options = Options {
        io_queue_entries: asked.max_queue_depth.unwrap_or(usual.io_queue_entries),
        admin_queue_entries: admin,
        io_queues: asked.max_io_qpairs_per_ctrlr.unwrap_or(usual.io_queues),
        in_capsule_bytes: asked.in_capsule_data_size.unwrap_or(usual.in_capsule_bytes),
        transfer_bytes: asked.max_io_size.unwrap_or(usual.transfer_bytes),
        success_with_data: asked.c2h_success.unwrap_or(usual.success_with_data),
        pool: PoolSize { large_units, ..usual.pool },
    };
    let options = options.checked().map_err(|error| refuse(&error))?;
    let given = given.and_then(Value::as_object).cloned().unwrap_or_default();
    if engine.nvmf().create_transport(Transport { options, given }) {
        Ok(true.into())
    } else {
        Err(RpcError::errno(errno::EXISTS, "the transport is there already; it is made once, before the first subsystem is reached by it"))
    }
}

fn refuse(error: &OptionsError) -> RpcError {
    RpcError::invalid_params(error.to_string())
}

/// `nvmf_get_transports`.
pub(crate) fn list(engine: &Engine, params: Option<&Value>) -> Answer {
    #[derive(Deserialize)]
    struct GetTransports {
        #[serde(default)]
        trtype: Option<String>,
        #[serde(default)]
        tgt_name: Option<String>,
    }
    let GetTransports { trtype, tgt_name } = params::parse(params)?;
    check_target(tgt_name.as_deref())?;
    let transport = engine.nvmf().transport();
    match (&transport, trtype) {
        (None, Some(trtype)) => {
            Err(RpcError::errno(errno::NO_DEVICE, format!("there is no transport '{trtype}'; nvmf_create_transport makes one")))
        }
        (Some(_), Some(trtype)) if !trtype.eq_ignore_ascii_case(TRANSPORT) => {
            Err(RpcError::errno(errno::NO_DEVICE, format!("there is no transport '{trtype}', only {TRANSPORT}")))
        }
        _ => Ok(transport.iter().map(|transport| describe(&transport.options)).collect()),
    }
}

fn describe(options: &Options) -> Value {
    json!({
        "trtype": TRANSPORT,
        "max_queue_depth": options.io_queue_entries,
        "max_io_qpairs_per_ctrlr": options.io_queues,
        "in_capsule_data_size": options.in_capsule_bytes,
        "max_io_size": options.transfer_bytes,
        "io_unit_size": spinel_nvmf::pool::LARGE_UNIT_BYTES,
        "max_aq_depth": options.admin_queue_entries,
        "num_shared_buffers": options.pool.large_units,
        "dif_insert_or_strip": false,
        "zcopy": false,
        "c2h_success": options.success_with_data,
        "sock_priority": 0,
    })
}

/// `nvmf_get_targets`.
pub(crate) fn targets(_: &Engine, params: Option<&Value>) -> Answer {
    params::none(params)?;
    Ok(json!([TARGET]))
}

/// `nvmf_get_stats`.
pub(crate) fn stats(engine: &Engine, params: Option<&Value>) -> Answer {
    #[derive(Deserialize)]
    struct GetStats {
        #[serde(default)]
        tgt_name: Option<String>,
    }
    let GetStats { tgt_name } = params::parse(params)?;
    check_target(tgt_name.as_deref())?;
    let usage = engine.nvmf().target().usage_of_cores();
    let describe = |reactor: &spinel_reactor::Handle| {
        let core = reactor.mailbox().core();
        let usage = usage.get(&core).copied().unwrap_or_default();
        json!({
            "name": format!("core_{}", core.0),
            "admin_qpairs": usage.admin_queues,
            "io_qpairs": usage.io_queues,
            "current_admin_qpairs": usage.admin_queues_now,
            "current_io_qpairs": usage.io_queues_now,
            "pending_bdev_io": 0,
            "completed_nvme_io": usage.requests,
            "transports": [{"trtype": TRANSPORT}],
        })
    };
    let groups: Value = engine.reactors().iter().map(describe).collect();
    Ok(json!({"tick_rate": TICK_RATE, "poll_groups": groups}))
}

/// `nvmf_set_config`.
pub(crate) fn set_config(engine: &Engine, params: Option<&Value>) -> Answer {
    const INERT: &[Inert] = &[
        Inert::text("discovery_filter", "match_any"),
        Inert::text("discovery_filters", "match_any"),
        Inert::text("dup_host_policy", "allow"),
    ];
    #[derive(Deserialize)]
    struct SetConfig {
        #[serde(default)]
        poll_groups_mask: Option<String>,
        #[serde(default)]
        dhchap_digests: Option<Vec<String>>,
        #[serde(default)]
        dhchap_dhgroups: Option<Vec<String>>,
        /// Nothing is passed through.
        #[serde(default, rename = "admin_cmd_passthru")]
        _admin_cmd_passthru: Option<Map<String, Value>>,
    }
    let SetConfig { poll_groups_mask, dhchap_digests, dhchap_dhgroups, .. } = params::parse_beside(params, INERT)?;
    let policy = policy(dhchap_digests.as_deref(), dhchap_dhgroups.as_deref())?;
    if let Some(mask) = poll_groups_mask {
        let refused = |because: String| params::refuse("poll_groups_mask", mask.as_str(), because);
        let cores =
            CoreList::parse_mask(&mask).map_err(|error| refused(format!("a mask such as 0x6 or a list such as [1,4-5]: {error}")))?;
        let all = engine.cores();
        if cores.ids().iter().any(|core| !all.ids().contains(core)) {
            return Err(refused(format!("of cores the daemon runs on, which are 0x{}", all.mask())));
        }
        engine.nvmf().set_cores(cores);
    }
    if let Some(policy) = policy {
        engine.nvmf().set_policy(policy);
    }
    Ok(true.into())
}

/// The hash functions and groups that are named; all where none are. Nothing if neither is said.
fn policy(digests: Option<&[String]>, groups: Option<&[String]>) -> Result<Option<Policy>, RpcError> {
    if digests.is_none() && groups.is_none() {
        return Ok(None);
    }
    let known = |names: Vec<&str>| format!("some of \"{}\"", names.join("\", \""));
    let hash = |name: &String| {
        let refused = || params::refuse("dhchap_digests", name.as_str(), known(Hash::ALL.iter().map(|hash| hash.name()).collect()));
        Hash::named(name).ok_or_else(refused)
    };
    let group = |name: &String| {
        let refused = || params::refuse("dhchap_dhgroups", name.as_str(), known(Group::ALL.iter().map(|group| group.name()).collect()));
        Group::named(name).ok_or_else(refused)
    };
    let hashes = digests.map_or_else(|| Ok(Hash::ALL.to_vec()), |names| names.iter().map(hash).collect::<Result<Vec<_>, _>>())?;
    let groups = groups.map_or_else(|| Ok(Group::ALL.to_vec()), |names| names.iter().map(group).collect::<Result<Vec<_>, _>>())?;
    let nothing = || RpcError::invalid_params("dhchap_digests and dhchap_dhgroups must name one each at least");
    Policy::new(&hashes, &groups).map(Some).ok_or_else(nothing)
}

/// The calls that make the transport again.
pub(super) fn creation(engine: &Engine) -> Vec<(&'static str, Value)> {
    let mut config = Map::new();
    if let Some(cores) = engine.nvmf().cores() {
        config.insert("poll_groups_mask".into(), format!("0x{}", cores.mask()).into());
    }
    if let Some(policy) = engine.nvmf().policy() {
        config.insert("dhchap_digests".into(), policy.hashes().map(Hash::name).collect());
        config.insert("dhchap_dhgroups".into(), policy.groups().map(Group::name).collect());
    }
    let config = (!config.is_empty()).then_some(("nvmf_set_config", Value::Object(config)));
    let transport = engine.nvmf().transport().map(|transport| ("nvmf_create_transport", Value::Object(transport.given)));
    config.into_iter().chain(transport).collect()
}
