//! Saving what runs and loading it again, as SPDK's clients do it. Knows no method's meaning.

use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{Daemon, file};

/// What SPDK's client saves: every subsystem's calls.
pub(crate) fn saved(daemon: &Daemon) -> Value {
    let subsystems = daemon.done("framework_get_subsystems", Value::Null);
    let names = subsystems.as_array().unwrap().iter().map(|subsystem| subsystem["subsystem"].clone());
    let subsystems: Value = names
        .map(|name| {
            let config = daemon.done("framework_get_config", json!({"name": name}));
            json!({"subsystem": name, "config": config})
        })
        .collect();
    json!({ "subsystems": subsystems })
}

fn furnish(daemon: &Daemon) {
    let (one, two) = (file(daemon.folder(), "one", 1 << 20), file(daemon.folder(), "two", 1 << 20));
    daemon.done("bdev_null_create", json!({"name": "null", "block_size": 512, "num_blocks": 2048, "physical_block_size": 4096}));
    daemon.done("bdev_uring_create", json!({"name": "z", "filename": one, "block_size": 4096}));
    daemon.done("bdev_aio_create", json!({"name": "b", "filename": two, "readonly": true, "fallocate": true}));
    daemon.done("bdev_malloc_create", json!({"block_size": 512, "num_blocks": 2048}));
    let latencies = json!({
        "name": "a", "base_bdev_name": "z", "avg_read_latency": 1, "p99_read_latency": 2, "avg_write_latency": 3, "p99_write_latency": 4,
    });
    daemon.done("bdev_delay_create", latencies);
    daemon.done("bdev_error_create", json!({"base_name": "a"}));
    daemon.done("bdev_null_resize", json!({"name": "null", "new_size": 16}));
    daemon.done("bdev_delay_update_latency", json!({"delay_bdev_name": "a", "latency_type": "p99_read", "latency_us": 77}));
    daemon.done("bdev_set_qos_limit", json!({"name": "a", "rw_ios_per_sec": 12_345, "w_mbytes_per_sec": 7, "w_mbytes_burst_ms": 250}));
    daemon.done("vhost_create_blk_controller", json!({"ctrlr": "vm0", "dev_name": "EE_a"}));
    daemon.done("vhost_create_blk_controller", json!({"ctrlr": "vm1", "dev_name": "b", "readonly": true}));
}

#[test]
fn what_was_saved_and_loaded_is_what_ran() {
    let daemon = Daemon::start();
    furnish(&daemon);
    let config = saved(&daemon);
    let before = (daemon.done("bdev_get_bdevs", Value::Null), daemon.done("vhost_get_controllers", Value::Null));
    let bdevs = config["subsystems"].as_array().unwrap().iter().find(|subsystem| subsystem["subsystem"] == "bdev").unwrap();
    assert_eq!(bdevs["config"].as_array().unwrap().len(), 7);
    let folder = daemon.stop().folder;
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let daemon = Daemon::start_with(folder, ["-c", "config.json"]);
    assert_eq!((daemon.done("bdev_get_bdevs", Value::Null), daemon.done("vhost_get_controllers", Value::Null)), before);
    assert_eq!(saved(&daemon), config);
}

/// What SPDK's client does to load: it asks which methods may be called now, and calls those, until none is left.
fn load(daemon: &Daemon, config: &Value) {
    let mut calls: Vec<&Value> = config["subsystems"].as_array().unwrap().iter().flat_map(|s| s["config"].as_array().unwrap()).collect();
    while !calls.is_empty() {
        let allowed = daemon.done("rpc_get_methods", json!({"current": true, "include_aliases": false}));
        let allowed = allowed.as_array().unwrap();
        let left = calls.len();
        calls.retain(|call| {
            let now = allowed.contains(&call["method"]);
            if now {
                daemon.done(call["method"].as_str().unwrap(), call["params"].clone());
            }
            !now
        });
        if allowed.contains(&json!("framework_start_init")) {
            daemon.done("framework_start_init", Value::Null);
        } else {
            assert!(calls.len() < left, "{calls:?}");
        }
    }
}

#[test]
fn spdks_way_of_loading_brings_the_same() {
    let daemon = Daemon::start();
    furnish(&daemon);
    let mut config = saved(&daemon);
    let before = daemon.done("bdev_get_bdevs", Value::Null);
    let folder = daemon.stop().folder;
    let options = json!({"method": "bdev_set_options", "params": {"bdev_io_pool_size": 65535}});
    config["subsystems"][0]["config"].as_array_mut().unwrap().push(options);
    let daemon = Daemon::start_with(folder, ["--wait-for-rpc"]);
    load(&daemon, &config);
    assert_eq!(daemon.done("bdev_get_bdevs", Value::Null), before);
}

fn start_of(config: &str) -> (Option<i32>, String) {
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("config.json"), config).unwrap();
    let ended = Daemon::launch(folder, ["-c", "config.json"]).wait();
    assert!(!Path::new(&ended.folder.path().join("rpc.sock")).exists(), "{}", ended.log);
    (ended.status.code(), ended.log)
}

#[test]
fn a_configuration_that_fails_stops_the_start_and_says_where() {
    let disk = json!({"method": "bdev_null_create", "params": {"name": "n", "block_size": 512, "num_blocks": 8}});
    let twice = json!({"subsystems": [{"subsystem": "bdev", "config": [disk, disk]}]});
    let (code, log) = start_of(&twice.to_string());
    assert_eq!(code, Some(1), "{log}");
    for part in ["config.json", "subsystem 'bdev'", "call 1", "bdev_null_create", "'n'", "-17"] {
        assert!(log.contains(part), "{part}: {log}");
    }
    for (config, part) in [
        ("{\"subsystems\": [", "line 1"),
        ("{}", "subsystems"),
        (r#"{"subsystems": [{"subsystem": "nvmf", "config": [{"method": "nvmf_create_transport"}]}]}"#, "nvmf_create_transport"),
    ] {
        let (code, log) = start_of(config);
        assert_eq!(code, Some(1), "{log}");
        assert!(log.contains(part) && log.contains("config.json"), "{part}: {log}");
    }
    let ended = Daemon::launch(TempDir::new().unwrap(), ["-c", "missing.json"]).wait();
    assert!(ended.status.code() == Some(1) && ended.log.contains("missing.json"), "{}", ended.log);
}
