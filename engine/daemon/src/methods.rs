//! Every method by its name, and when it may be called. What they do is in the files beside this one.

mod aio;
mod bdevs;
mod bench;
mod delay;
mod error;
pub(crate) mod framework;
mod histogram;
mod iostat;
mod keyring;
mod logging;
mod malloc;
mod null;
mod nvme;
mod nvmf;
mod options;
mod process;
mod qos;
mod scheduler;
mod takeover;
mod threads;
mod uring;
mod vhost;

use std::sync::LazyLock;
use std::time::Duration;

use serde::{Deserialize, Deserializer};
use serde_json::Value;
use spinel_control::RpcError;
use spinel_control::methods::{Methods, Phase, When};
use uuid::Uuid;

use crate::engine::Engine;

/// What a method answers.
type Answer = Result<Value, RpcError>;

/// All of them.
pub(crate) static METHODS: LazyLock<Methods<Engine>> = LazyLock::new(|| {
    let table = Methods::new();
    let table = about_the_process(table);
    let table = about_bdevs(table);
    let table = of_kinds(table);
    let table = about_benches(table);
    let table = about_vhost(table);
    let table = about_nvmf(table);
    about_nvme(table)
});

fn about_the_process(table: Methods<Engine>) -> Methods<Engine> {
    use When::{Always, Runtime, Startup};
    table
        .with("rpc_get_methods", Always, |engine, params| METHODS.list(engine.phase(), params))
        .with("spdk_get_version", Always, process::version)
        .with("spdk_kill_instance", Always, process::kill)
        .with("spinel_hand_over", Runtime, takeover::hand_over)
        .with("spinel_get_takeovers", Always, takeover::get)
        .with("framework_start_init", Startup, framework::start_init)
        .with("framework_wait_init", Always, framework::wait_init)
        .with("framework_get_subsystems", Always, framework::subsystems)
        .with("framework_get_config", Runtime, framework::config)
        .with("framework_set_scheduler", Always, scheduler::set)
        .with("framework_get_scheduler", Always, scheduler::get)
        .with("framework_get_reactors", Always, threads::reactors)
        .with("thread_get_stats", Always, threads::stats)
        .with("thread_get_pollers", Always, threads::pollers)
        .with("thread_get_io_channels", Always, threads::io_channels)
        .with("log_set_level", Always, logging::set_level)
        .with("log_get_level", Always, logging::level)
        .with("log_set_print_level", Always, logging::set_level)
        .with("log_get_print_level", Always, logging::level)
        .with("log_get_flags", Always, logging::flags)
        .with("log_set_flag", Always, logging::set_flag)
        .with("log_clear_flag", Always, logging::clear_flag)
        .with("iobuf_set_options", Startup, options::iobuf)
}

fn about_bdevs(table: Methods<Engine>) -> Methods<Engine> {
    use When::{Runtime, Startup};
    table
        .with("bdev_set_options", Startup, options::bdev)
        .with("bdev_get_bdevs", Runtime, bdevs::list)
        .with("bdev_wait_for_examine", Runtime, bdevs::wait_for_examine)
        .with("bdev_get_iostat", Runtime, iostat::get)
        .with("bdev_reset_iostat", Runtime, iostat::reset)
        .with("bdev_enable_histogram", Runtime, histogram::enable)
        .with("bdev_get_histogram", Runtime, histogram::get)
        .with("bdev_set_qos_limit", Runtime, qos::set_limit)
}

fn of_kinds(table: Methods<Engine>) -> Methods<Engine> {
    use When::Runtime;
    table
        .with("bdev_null_create", Runtime, null::create)
        .with("bdev_null_delete", Runtime, null::delete)
        .with("bdev_null_resize", Runtime, null::resize)
        .with("bdev_malloc_create", Runtime, malloc::create)
        .with("bdev_malloc_delete", Runtime, malloc::delete)
        .with("bdev_uring_create", Runtime, uring::create)
        .with("bdev_uring_rescan", Runtime, uring::rescan)
        .with("bdev_uring_delete", Runtime, uring::delete)
        .with("bdev_aio_create", Runtime, aio::create)
        .with("bdev_aio_rescan", Runtime, aio::rescan)
        .with("bdev_aio_delete", Runtime, aio::delete)
        .with("bdev_delay_create", Runtime, delay::create)
        .with("bdev_delay_delete", Runtime, delay::delete)
        .with("bdev_delay_update_latency", Runtime, delay::update_latency)
        .with("bdev_error_create", Runtime, error::create)
        .with("bdev_error_delete", Runtime, error::delete)
        .with("bdev_error_inject_error", Runtime, error::inject)
        .with("bdev_error_resume_pending", Runtime, error::resume_pending)
}

fn about_benches(table: Methods<Engine>) -> Methods<Engine> {
    use When::Runtime;
    table.with("bdev_bench_start", Runtime, bench::start).with("bdev_bench_get", Runtime, bench::get).with(
        "bdev_bench_stop",
        Runtime,
        bench::stop,
    )
}

fn about_vhost(table: Methods<Engine>) -> Methods<Engine> {
    use When::Runtime;
    table
        .with("vhost_create_blk_controller", Runtime, vhost::create)
        .with("vhost_get_controllers", Runtime, vhost::list)
        .with("vhost_delete_controller", Runtime, vhost::delete)
        .with("vhost_controller_move_queue", Runtime, scheduler::move_queue)
        .with("vhost_controller_set_coalescing", Runtime, vhost::set_coalescing)
        .with("virtio_blk_create_transport", Runtime, vhost::create_transport)
        .with("virtio_blk_get_transports", Runtime, vhost::transports)
}

fn about_nvmf(table: Methods<Engine>) -> Methods<Engine> {
    use When::Runtime;
    table
        .with("keyring_file_add_key", Runtime, keyring::add)
        .with("keyring_file_remove_key", Runtime, keyring::remove)
        .with("keyring_get_keys", Runtime, keyring::list)
        .with("nvmf_set_config", Runtime, nvmf::set_config)
        .with("nvmf_create_transport", Runtime, nvmf::create_transport)
        .with("nvmf_get_transports", Runtime, nvmf::transports)
        .with("nvmf_get_targets", Runtime, nvmf::targets)
        .with("nvmf_get_stats", Runtime, nvmf::stats)
        .with("nvmf_create_subsystem", Runtime, nvmf::create)
        .with("nvmf_delete_subsystem", Runtime, nvmf::delete)
        .with("nvmf_get_subsystems", Runtime, nvmf::list)
        .with("nvmf_subsystem_add_listener", Runtime, nvmf::add_listener)
        .with("nvmf_subsystem_remove_listener", Runtime, nvmf::remove_listener)
        .with("nvmf_subsystem_get_listeners", Runtime, nvmf::listeners)
        .with("nvmf_subsystem_listener_set_ana_state", Runtime, nvmf::set_ana_state)
        .with("spinel_nvmf_set_ana_states", Runtime, nvmf::set_ana_states)
        .with("nvmf_subsystem_add_ns", Runtime, nvmf::add_namespace)
        .with("nvmf_subsystem_remove_ns", Runtime, nvmf::remove_namespace)
        .with("nvmf_subsystem_set_ns_ana_group", Runtime, nvmf::set_group)
        .with("nvmf_ns_add_host", Runtime, nvmf::show)
        .with("nvmf_ns_remove_host", Runtime, nvmf::hide)
        .with("nvmf_subsystem_add_host", Runtime, nvmf::add_host)
        .with("nvmf_subsystem_remove_host", Runtime, nvmf::remove_host)
        .with("nvmf_subsystem_set_keys", Runtime, nvmf::set_host_keys)
        .with("nvmf_subsystem_allow_any_host", Runtime, nvmf::allow_any)
        .with("nvmf_subsystem_get_controllers", Runtime, nvmf::controllers)
        .with("nvmf_subsystem_get_qpairs", Runtime, nvmf::queues)
        .with("nvmf_discovery_add_referral", Runtime, nvmf::add_referral)
        .with("nvmf_discovery_remove_referral", Runtime, nvmf::remove_referral)
        .with("nvmf_discovery_get_referrals", Runtime, nvmf::referrals)
}

fn about_nvme(table: Methods<Engine>) -> Methods<Engine> {
    use When::{Always, Runtime};
    table
        .with("bdev_nvme_set_options", Always, nvme::set_options)
        .with("bdev_nvme_attach_controller", Runtime, nvme::attach)
        .with("bdev_nvme_detach_controller", Runtime, nvme::detach)
        .with("bdev_nvme_get_controllers", Runtime, nvme::controllers)
        .with("bdev_nvme_reset_controller", Runtime, nvme::reset)
        .with("bdev_nvme_get_io_paths", Runtime, nvme::paths)
        .with("bdev_nvme_set_multipath_policy", Runtime, nvme::set_policy)
        .with("bdev_nvme_set_preferred_path", Runtime, nvme::prefer_path)
        .with("bdev_nvme_start_discovery", Runtime, nvme::start_discovery)
        .with("bdev_nvme_stop_discovery", Runtime, nvme::stop_discovery)
        .with("bdev_nvme_get_discovery_info", Runtime, nvme::discovery_info)
}

/// The calls that attach disks of other hosts again, and name the secrets that this takes.
pub(crate) fn remote_calls(engine: &Engine) -> Vec<(&'static str, Value)> {
    let mut calls = keyring::creation(engine);
    calls.extend(engine.remote().creation());
    calls
}

/// For how long a call that was refused waits for what would let it succeed.
pub(crate) fn patience(engine: &Engine, method: &str, params: Option<&Value>) -> Duration {
    match method {
        "framework_wait_init" if engine.phase() == Phase::Startup => Duration::MAX,
        "bdev_get_bdevs" if engine.phase() == Phase::Runtime => bdevs::patience(engine, params),
        _ => Duration::ZERO,
    }
}

/// What may be called while this process hands over: it changes nothing that the next one was told.
const HARMLESS: &[&str] = &[
    "bdev_get_bdevs",
    "bdev_get_histogram",
    "bdev_get_iostat",
    "bdev_nvme_get_controllers",
    "bdev_nvme_get_discovery_info",
    "bdev_nvme_get_io_paths",
    "bdev_wait_for_examine",
    "framework_get_config",
    "framework_get_reactors",
    "framework_get_scheduler",
    "framework_get_subsystems",
    "framework_wait_init",
    "keyring_get_keys",
    "log_clear_flag",
    "log_get_flags",
    "log_get_level",
    "log_get_print_level",
    "log_set_flag",
    "log_set_level",
    "log_set_print_level",
    "nvmf_discovery_get_referrals",
    "nvmf_get_stats",
    "nvmf_get_subsystems",
    "nvmf_get_targets",
    "nvmf_get_transports",
    "nvmf_subsystem_get_controllers",
    "nvmf_subsystem_get_listeners",
    "nvmf_subsystem_get_qpairs",
    "rpc_get_methods",
    "spdk_get_version",
    "spdk_kill_instance",
    "spinel_get_takeovers",
    "thread_get_io_channels",
    "thread_get_pollers",
    "thread_get_stats",
    "vhost_get_controllers",
    "virtio_blk_get_transports",
];

/// Refuses (-16) a method that would change what is being handed over.
pub(crate) fn check_harmless(engine: &Engine, method: &str) -> Result<(), RpcError> {
    if !engine.is_handing_over() || HARMLESS.contains(&method) {
        return Ok(());
    }
    let message = format!("another process is taking over: '{method}' has to wait until it has, or has failed to; call it again then");
    Err(RpcError::errno(crate::disks::errno::BUSY, message))
}

/// The parameters of a method that only names a bdev.
#[derive(Deserialize)]
struct Named {
    name: String,
}

/// A UUID as a parameter.
#[derive(Clone, Copy)]
struct UuidText(Uuid);

impl<'de> Deserialize<'de> for UuidText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let expected = &"a UUID such as 1f0e7b64-3c0a-4b55-9d6e-0d2f6c1a7e90";
        Uuid::parse_str(&text).map(Self).map_err(|_| serde::de::Error::invalid_value(serde::de::Unexpected::Str(&text), expected))
    }
}

/// An optional UUID among the parameters: `#[serde(default, deserialize_with = "uuid")]`.
fn uuid<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Uuid>, D::Error> {
    UuidText::deserialize(deserializer).map(|text| Some(text.0))
}

#[cfg(test)]
mod tests {
    use super::{HARMLESS, METHODS};

    #[test]
    fn what_may_be_called_during_a_takeover_exists() {
        let names = METHODS.names(None, true);
        assert_eq!(HARMLESS.iter().find(|name| !names.contains(name)), None);
    }
}
