//! Disks of other hosts, over TCP: attached, used, saved, refused, lost and found again. Knows nothing of the protocol.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;

use serde_json::{Value, json};
use spinel_load::{Job, Length, Mix};

use crate::bench::{add, ended, start};
use crate::harness::{Daemon, file};
use crate::saving::saved;

const NQN: &str = "nqn.2026-11.io.spinel:test";
const HOST: &str = "nqn.2014-08.org.nvmexpress:uuid:1f0e7b64-3c0a-4b55-9d6e-0d2f6c1a7e90";
const SECRET: &str = "DHHC-1:01:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh+KfiaR:";
const OTHER: &str = "DHHC-1:00:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh+KfiaR:";

/// A port that nobody listens at.
fn free_port() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("it has an address").port().to_string()
}

fn at(port: &str) -> Value {
    json!({"trtype": "TCP", "adrfam": "IPv4", "traddr": "127.0.0.1", "trsvcid": port})
}

/// Offers a disk by these ports.
fn export(daemon: &Daemon, nqn: &str, bdev: &str, ports: &[&str]) {
    // It may be there.
    let _ = daemon.call("nvmf_create_transport", json!({"trtype": "TCP"}));
    daemon.done("nvmf_create_subsystem", json!({"nqn": nqn, "allow_any_host": true, "ana_reporting": true}));
    daemon.done("nvmf_subsystem_add_ns", json!({"nqn": nqn, "namespace": {"bdev_name": bdev}}));
    for port in ports {
        daemon.done("nvmf_subsystem_add_listener", json!({"nqn": nqn, "listen_address": at(port)}));
    }
}

fn attachment(name: &str, nqn: &str, port: &str) -> Value {
    json!({"name": name, "trtype": "TCP", "adrfam": "IPv4", "traddr": "127.0.0.1", "trsvcid": port, "subnqn": nqn})
}

/// Reads, writes and everything else, so many of them.
fn load(requests: u64) -> Job {
    let mix = Mix { read: 50, write: 40, flush: 2, discard: 4, write_zeroes: 4 };
    Job { mix, depth: 16, interval_ns: 1_000_000, length: Length { requests: Some(requests), ..Length::default() }, ..Job::new() }
}

/// How many requests of a load failed.
fn failures(daemon: &Daemon, bdev: &str, requests: u64) -> u64 {
    let all = ended(daemon, &start(daemon, bdev, &load(requests)));
    assert_eq!(all.requests(), requests);
    all.ops.iter().flatten().map(|op| op.errors()).sum()
}

#[test]
fn a_disk_of_another_host_is_one_like_any_other() {
    let daemon = Daemon::start();
    let (one, other) = (free_port(), free_port());
    daemon.done("bdev_malloc_create", json!({"name": "m0", "block_size": 512, "num_blocks": 8192}));
    export(&daemon, NQN, "m0", &[&one, &other]);
    for port in [&one, &other] {
        assert_eq!(daemon.done("bdev_nvme_attach_controller", attachment("far", NQN, port)), json!(["farn1"]));
    }
    let shown = daemon.done("bdev_get_bdevs", json!({"name": "farn1"}))[0].take();
    assert_eq!((&shown["product_name"], &shown["num_blocks"]), (&json!("NVMe disk"), &json!(8192)));
    assert_eq!(shown["supported_io_types"]["unmap"], true);
    assert_eq!(failures(&daemon, "farn1", 2_000), 0);

    let controllers = daemon.done("bdev_nvme_get_controllers", json!({"name": "far"}))[0]["ctrlrs"].take();
    assert_eq!((controllers.as_array().map(Vec::len), &controllers[0]["state"]), (Some(2), &json!("enabled")));
    let paths = daemon.done("bdev_nvme_get_io_paths", json!({"name": "farn1"}))["poll_groups"][0]["io_paths"].take();
    assert_eq!((paths.as_array().map(Vec::len), &paths[1]["ana_state"]), (Some(2), &json!("optimized")));
    let policy = json!({"name": "far", "policy": "active_active", "selector": "round_robin", "rr_min_io": 2});
    daemon.done("bdev_nvme_set_multipath_policy", policy);
    assert_eq!(failures(&daemon, "farn1", 1_000), 0);
    daemon.done("bdev_nvme_reset_controller", json!({"name": "far"}));
    assert_eq!(failures(&daemon, "farn1", 1_000), 0);

    // Once more, through itself.
    export(&daemon, "nqn.2026-11.io.spinel:chain", "farn1", &[&one]);
    let used = daemon.refused(-16, "bdev_nvme_detach_controller", json!({"name": "far"}));
    assert!(used.contains("chain"), "{used}");
    assert_eq!(daemon.done("bdev_nvme_attach_controller", attachment("chain", "nqn.2026-11.io.spinel:chain", &one)), json!(["chainn1"]));
    assert_eq!(failures(&daemon, "chainn1", 1_000), 0);
    daemon.done("bdev_nvme_detach_controller", json!({"name": "chain"}));
    daemon.done("nvmf_delete_subsystem", json!({"nqn": "nqn.2026-11.io.spinel:chain"}));
    let way = json!({"name": "far", "trtype": "TCP", "traddr": "127.0.0.1", "trsvcid": one});
    daemon.done("bdev_nvme_detach_controller", way);
    assert_eq!(failures(&daemon, "farn1", 500), 0);
    daemon.done("bdev_nvme_detach_controller", json!({"name": "far"}));
    daemon.refused(-19, "bdev_get_bdevs", json!({"name": "farn1"}));
    assert_eq!(daemon.done("bdev_nvme_get_controllers", Value::Null), json!([]));
}

#[test]
fn what_is_attached_is_saved_and_a_namespace_that_grows_is_seen() {
    let target = Daemon::start();
    let port = free_port();
    target.done("bdev_null_create", json!({"name": "n0", "block_size": 512, "num_blocks": 2048}));
    export(&target, NQN, "n0", &[&port]);
    let daemon = Daemon::start();
    daemon.done("bdev_nvme_set_options", json!({"keep_alive_timeout_ms": 2000, "ctrlr_loss_timeout_sec": 30, "reconnect_delay_sec": 1}));
    let mut attachment = attachment("far", NQN, &port);
    (attachment["hdgst"], attachment["ddgst"], attachment["hostnqn"]) = (true.into(), true.into(), HOST.into());
    daemon.done("bdev_nvme_attach_controller", attachment);
    daemon.done("bdev_delay_create", json!({
        "base_bdev_name": "farn1", "name": "slow", "avg_read_latency": 1, "p99_read_latency": 1, "avg_write_latency": 1, "p99_write_latency": 1,
    }));
    assert_eq!(failures(&daemon, "slow", 500), 0);
    let config = saved(&daemon);
    let folder = daemon.stop().folder;
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let daemon = Daemon::start_with(folder, ["-c", "config.json"]);
    assert_eq!(saved(&daemon), config);
    target.done("bdev_null_resize", json!({"name": "n0", "new_size": 4}));
    let size = || daemon.done("bdev_get_bdevs", json!({"name": "farn1"}))[0]["num_blocks"].clone();
    while size() != json!(8192) {}
    target.done("nvmf_subsystem_remove_ns", json!({"nqn": NQN, "nsid": 1}));
    // It is in use, so its name stays until it is not.
    let gone = || daemon.done("bdev_get_bdevs", json!({"name": "farn1"}))[0]["driver_specific"]["nvme"][0]["gone"].clone();
    while gone() != json!(true) {}
    let gone = daemon.refused(-16, "bdev_bench_start", json!({"name": "slow", "job": load(100), "allow_writes": true}));
    assert!(gone.contains("removed"), "{gone}");
}

#[test]
fn a_target_that_is_killed_and_comes_back_costs_time_and_nothing_else() {
    let target = Daemon::start();
    let port = free_port();
    let disk = file(target.folder(), "disk", 8 << 20);
    target.done("bdev_uring_create", json!({"name": "f0", "filename": disk}));
    export(&target, NQN, "f0", &[&port]);
    let config = saved(&target);
    let daemon = Daemon::start();
    daemon.done("bdev_nvme_set_options", json!({"keep_alive_timeout_ms": 1000, "reconnect_delay_sec": 1}));
    daemon.done("bdev_nvme_attach_controller", attachment("far", NQN, &port));
    let bench = start(&daemon, "farn1", &load(u64::MAX));
    let mut all = spinel_load::Tally::of(|_| false);
    let done = |all: &mut spinel_load::Tally| {
        assert!(!add(all, &daemon.done("bdev_bench_get", json!({"id": bench}))), "it goes on");
        all.requests()
    };
    while done(&mut all) < 100 {}
    target.signal(rustix::process::Signal::KILL);
    let folder = target.wait().folder;
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let _target = Daemon::start_with(folder, ["-c", "config.json"]);
    let before = done(&mut all);
    while done(&mut all) < before + 100 {}
    let told = daemon.done("bdev_bench_stop", json!({"id": bench}));
    add(&mut all, &told);
    assert_eq!(all.ops.iter().flatten().map(|op| op.errors()).sum::<u64>(), 0, "{told}");
    let stat = daemon.done("bdev_nvme_get_controllers", json!({"name": "far"}));
    assert_eq!(stat[0]["ctrlrs"][0]["state"], "enabled");
}

#[test]
fn secrets_are_proved_and_what_does_not_fit_is_refused() {
    let daemon = Daemon::start();
    let port = free_port();
    daemon.done("bdev_malloc_create", json!({"name": "m0", "block_size": 4096, "num_blocks": 256}));
    for (name, secret) in [("right", SECRET), ("wrong", OTHER)] {
        let path = daemon.folder().join(name);
        std::fs::write(&path, secret).expect("a file");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("its mode");
        daemon.done("keyring_file_add_key", json!({"name": name, "path": path}));
    }
    daemon.done("nvmf_create_transport", json!({"trtype": "TCP"}));
    daemon.done("nvmf_create_subsystem", json!({"nqn": NQN}));
    daemon.done("nvmf_subsystem_add_host", json!({"nqn": NQN, "host": HOST, "dhchap_key": "right", "dhchap_ctrlr_key": "right"}));
    daemon.done("nvmf_subsystem_add_ns", json!({"nqn": NQN, "namespace": {"bdev_name": "m0"}}));
    daemon.done("nvmf_subsystem_add_listener", json!({"nqn": NQN, "listen_address": at(&port)}));
    let with = |key: Option<&str>, controller: Option<&str>| {
        let mut params = attachment("far", NQN, &port);
        params["hostnqn"] = HOST.into();
        for (parameter, key) in [("dhchap_key", key), ("dhchap_ctrlr_key", controller)] {
            if let Some(key) = key {
                params[parameter] = key.into();
            }
        }
        params
    };
    for (key, controller, said) in
        [(None, None, "prove who it is"), (Some("wrong"), None, "the other side"), (Some("right"), Some("wrong"), "refused here")]
    {
        let message = daemon.refused(-5, "bdev_nvme_attach_controller", with(key, controller));
        assert!(message.contains(said), "{message}");
    }
    daemon.refused(-32602, "bdev_nvme_attach_controller", with(None, Some("right")));
    daemon.done("bdev_nvme_attach_controller", with(Some("right"), Some("right")));
    assert_eq!(failures(&daemon, "farn1", 500), 0);
    let config = saved(&daemon).to_string();
    assert!(config.contains("bdev_nvme_attach_controller") && !config.contains("DHHC"), "no secret is saved");
}

#[test]
fn what_a_discovery_controller_names_becomes_disks() {
    let target = Daemon::start();
    let (one, other) = (free_port(), free_port());
    target.done("bdev_malloc_create", json!({"name": "m0", "block_size": 512, "num_blocks": 2048}));
    export(&target, NQN, "m0", &[&one, &other]);
    let daemon = Daemon::start();
    let start = json!({"name": "auto", "trtype": "TCP", "traddr": "127.0.0.1", "trsvcid": one, "wait_for_attach": true});
    daemon.done("bdev_nvme_start_discovery", start.clone());
    daemon.refused(-17, "bdev_nvme_start_discovery", start);
    let info = daemon.done("bdev_nvme_get_discovery_info", Value::Null);
    assert_eq!((&info[0]["name"], info[0]["controllers"].as_array().map(Vec::len)), (&json!("auto"), Some(2)));
    assert_eq!(failures(&daemon, "auto0n1", 500), 0);
    target.done("bdev_malloc_create", json!({"name": "m1", "block_size": 512, "num_blocks": 4096}));
    export(&target, "nqn.2026-11.io.spinel:second", "m1", &[&one]);
    daemon.done("bdev_get_bdevs", json!({"name": "auto0n1"}));
    let there = || daemon.call("bdev_get_bdevs", json!({"name": "auto1n1"})).is_ok();
    while !there() {}
    daemon.done("bdev_nvme_stop_discovery", json!({"name": "auto"}));
    assert_eq!(daemon.done("bdev_get_bdevs", Value::Null), json!([]));
}

#[test]
fn what_cannot_be_attached_is_refused_and_changes_nothing() {
    let daemon = Daemon::start();
    let port = free_port();
    let with = |name: &str, value: Value| {
        let mut params = attachment("far", NQN, &port);
        params[name] = value;
        params
    };
    for (name, value) in [
        ("trtype", json!("RDMA")),
        ("traddr", json!("example.org")),
        ("adrfam", json!("IPv6")),
        ("trsvcid", json!("0")),
        ("subnqn", json!("disk")),
        ("subnqn", json!("nqn.2014-08.org.nvmexpress.discovery")),
        ("multipath", json!("maybe")),
        ("num_io_queues", json!(0)),
        ("ctrlr_loss_timeout_sec", json!(-2)),
        ("psk", json!("key")),
        ("prchk_guard", json!(true)),
        ("multipath_opts", json!({"policy": "none"})),
    ] {
        let message = daemon.refused(-32602, "bdev_nvme_attach_controller", with(name, value));
        assert!(message.contains(name) || message.contains("policy"), "{name}: {message}");
    }
    let message = daemon.refused(-5, "bdev_nvme_attach_controller", attachment("far", NQN, &port));
    assert!(message.contains(&port), "{message}");
    daemon.refused(-19, "bdev_nvme_detach_controller", json!({"name": "far"}));
    daemon.refused(-19, "bdev_nvme_reset_controller", json!({"name": "far"}));
    daemon.refused(-19, "bdev_nvme_get_controllers", json!({"name": "far"}));
    daemon.refused(-19, "bdev_nvme_stop_discovery", json!({"name": "far"}));
    daemon.refused(-32602, "bdev_nvme_set_options", json!({"keep_alive_timeout_ms": 0}));
    daemon.refused(-32602, "bdev_nvme_set_options", json!({"action_on_timeout": "panic"}));
    assert_eq!((daemon.done("bdev_nvme_get_controllers", Value::Null), daemon.done("bdev_get_bdevs", Value::Null)), (json!([]), json!([])));
}
