//! What holds for all controllers, and which of several ways is taken. Knows no controller.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use spinel_control::params::{self, Inert};
use spinel_nvmf::initiator::OnTimeout;

use super::attach::patience;
use super::{Answer, Multipath, refuse};
use crate::engine::Engine;

/// What SPDK's clients send at its defaults, and what means nothing here.
const INERT: &[Inert] = &[
    Inert::flag("disable_auto_failback", false),
    Inert::flag("generate_uuids", false),
    Inert::flag("nvme_error_stat", false),
    Inert::flag("io_path_stat", false),
    Inert::flag("allow_accel_sequence", false),
    Inert::flag("rdma_umr_per_io", false),
    Inert::number("transport_tos", 0),
];

#[derive(Deserialize)]
struct SetOptions {
    #[serde(default)]
    action_on_timeout: Option<String>,
    #[serde(default)]
    timeout_us: Option<u64>,
    #[serde(default)]
    timeout_admin_us: Option<u64>,
    #[serde(default)]
    keep_alive_timeout_ms: Option<u32>,
    #[serde(default)]
    io_queue_requests: Option<u32>,
    #[serde(default)]
    bdev_retry_count: Option<i32>,
    #[serde(default)]
    ctrlr_loss_timeout_sec: Option<i32>,
    #[serde(default)]
    reconnect_delay_sec: Option<u32>,
    #[serde(default)]
    fast_io_fail_timeout_sec: Option<u32>,
    #[serde(default)]
    tcp_connect_timeout_ms: Option<u32>,
    #[serde(default)]
    multipath_opts: Option<Multipath>,
    /// How SPDK polls, arbitrates and speaks to hardware: nothing here depends on these.
    #[serde(default, rename = "arbitration_burst")]
    _arbitration_burst: Option<u32>,
    #[serde(default, rename = "low_priority_weight")]
    _low_priority_weight: Option<u32>,
    #[serde(default, rename = "medium_priority_weight")]
    _medium_priority_weight: Option<u32>,
    #[serde(default, rename = "high_priority_weight")]
    _high_priority_weight: Option<u32>,
    #[serde(default, rename = "nvme_adminq_poll_period_us")]
    _nvme_adminq_poll_period_us: Option<u64>,
    #[serde(default, rename = "nvme_ioq_poll_period_us")]
    _nvme_ioq_poll_period_us: Option<u64>,
    #[serde(default, rename = "delay_cmd_submit")]
    _delay_cmd_submit: Option<bool>,
    #[serde(default, rename = "transport_retry_count")]
    _transport_retry_count: Option<u32>,
    #[serde(default, rename = "transport_ack_timeout")]
    _transport_ack_timeout: Option<u8>,
    #[serde(default, rename = "rdma_srq_size")]
    _rdma_srq_size: Option<u32>,
    #[serde(default, rename = "rdma_max_cq_size")]
    _rdma_max_cq_size: Option<u32>,
    #[serde(default, rename = "rdma_cm_event_timeout_ms")]
    _rdma_cm_event_timeout_ms: Option<u16>,
    #[serde(default, rename = "enable_flush")]
    _enable_flush: Option<bool>,
}

/// The least and the most time without a sign of life.
const KEEP_ALIVE_MS: std::ops::RangeInclusive<u32> = 500..=600_000;
/// The least and the most requests of one queue at a time.
const QUEUE_REQUESTS: std::ops::RangeInclusive<u32> = 1..=4095;

/// `bdev_nvme_set_options`: for controllers that are connected from now on.
pub(crate) fn set_options(engine: &Engine, given: Option<&Value>) -> Answer {
    let asked: SetOptions = params::parse_beside(given, INERT)?;
    let remote = engine.remote();
    let mut settings = remote.initiator().settings();
    if let Some(action) = asked.action_on_timeout.as_deref() {
        settings.on_timeout = match action {
            "none" => OnTimeout::Nothing,
            "reset" => OnTimeout::Reset,
            "abort" => OnTimeout::Abort,
            other => return Err(params::refuse("action_on_timeout", other, "\"none\", \"reset\" or \"abort\"")),
        };
    }
    if let Some(us) = asked.timeout_us {
        settings.timeout = (us > 0).then(|| Duration::from_micros(us));
    }
    if let Some(us) = asked.timeout_admin_us.filter(|us| *us > 0) {
        settings.admin_timeout = Duration::from_micros(us);
    }
    if let Some(ms) = asked.keep_alive_timeout_ms {
        if !KEEP_ALIVE_MS.contains(&ms) {
            // Without one nobody knows when a lost controller has ended its commands.
            return Err(params::refuse("keep_alive_timeout_ms", ms, format!("{} to {}", KEEP_ALIVE_MS.start(), KEEP_ALIVE_MS.end())));
        }
        settings.keep_alive = Duration::from_millis(ms.into());
    }
    if let Some(requests) = asked.io_queue_requests.filter(|requests| *requests > 0) {
        let must_be = || format!("{} to {}, or 0 for the usual number", QUEUE_REQUESTS.start(), QUEUE_REQUESTS.end());
        let allowed = u16::try_from(requests).ok().filter(|_| QUEUE_REQUESTS.contains(&requests));
        settings.queue_requests = allowed.ok_or_else(|| params::refuse("io_queue_requests", requests, must_be()))?;
    }
    if let Some(count) = asked.bdev_retry_count {
        settings.retries = match count {
            -1 => u32::MAX,
            count => u32::try_from(count).map_err(|_| params::refuse("bdev_retry_count", count, "-1, which is for ever, or a number"))?,
        };
    }
    if let Some(ms) = asked.tcp_connect_timeout_ms.filter(|ms| *ms > 0) {
        settings.connect_timeout = Duration::from_millis(ms.into());
    }
    if let Some(multipath) = &asked.multipath_opts {
        settings.policy = multipath.parse()?;
    }
    let SetOptions { ctrlr_loss_timeout_sec, reconnect_delay_sec, fast_io_fail_timeout_sec, .. } = asked;
    settings.patience = patience(settings.patience, ctrlr_loss_timeout_sec, reconnect_delay_sec, fast_io_fail_timeout_sec)?;
    remote.initiator().set_settings(settings);
    remote.asked().options = given.cloned();
    Ok(true.into())
}

/// `bdev_nvme_set_multipath_policy`.
pub(crate) fn set_policy(engine: &Engine, params: Option<&Value>) -> Answer {
    #[derive(Deserialize)]
    struct SetPolicy {
        name: String,
        policy: String,
        #[serde(default)]
        selector: Option<String>,
        #[serde(default)]
        rr_min_io: Option<u32>,
    }
    let SetPolicy { name, policy, selector, rr_min_io } = params::parse(params)?;
    let parsed = Multipath { policy, selector, min_io: rr_min_io }.parse()?;
    let controller = controller_of(engine, &name);
    let remote = engine.remote();
    remote.initiator().set_policy(&controller, parsed).map_err(|error| refuse(&error))?;
    let mut asked = remote.asked();
    asked.policies.retain(|(of, _)| *of != controller);
    asked.policies.push((controller, params.cloned().unwrap_or_default()));
    Ok(true.into())
}

/// `bdev_nvme_set_preferred_path`.
pub(crate) fn prefer_path(engine: &Engine, params: Option<&Value>) -> Answer {
    #[derive(Deserialize)]
    struct Prefer {
        name: String,
        cntlid: u16,
    }
    let Prefer { name, cntlid } = params::parse(params)?;
    engine.remote().initiator().prefer(&controller_of(engine, &name), cntlid).map_err(|error| refuse(&error))?;
    Ok(json!(true))
}

/// The controllers that a bdev is reached by; SPDK's clients name the bdev here.
fn controller_of(engine: &Engine, name: &str) -> String {
    let disks = engine.disks();
    disks.bdev(name).ok().and_then(|bdev| bdev.kind.controller().map(str::to_owned)).unwrap_or_else(|| name.to_owned())
}
