//! Queues that move between cores: by hand, and by themselves.

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::guest::Guest;
use crate::harness::Daemon;

/// A daemon on two cores, which it need not have to itself, with a disk in memory offered as `vm0`.
fn daemon() -> Daemon {
    let daemon = Daemon::start_with(TempDir::new().unwrap(), ["--cores", "0,1"]);
    daemon.done("bdev_malloc_create", json!({"name": "m", "block_size": 512, "num_blocks": 2048}));
    daemon.done("vhost_create_blk_controller", json!({"ctrlr": "vm0", "dev_name": "m"}));
    daemon
}

fn lcore(daemon: &Daemon) -> u64 {
    let shown = daemon.done("vhost_get_controllers", json!({"name": "vm0"}));
    shown[0]["sessions"][0]["queues"][0]["lcore"].as_u64().unwrap()
}

fn threads(daemon: &Daemon) -> Vec<String> {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", daemon.pid())).unwrap();
    tasks.filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")).ok()).map(|name| name.trim().to_owned()).collect()
}

/// Where each thread of a daemon may run, by its name.
fn places(daemon: &Daemon) -> Vec<(String, String)> {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", daemon.pid())).unwrap();
    let status = |task: std::io::Result<std::fs::DirEntry>| std::fs::read_to_string(task.unwrap().path().join("status")).ok();
    let field = |status: &str, name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().to_owned()
    };
    tasks.filter_map(status).map(|status| (field(&status, "Name:"), field(&status, "Cpus_allowed_list:"))).collect()
}

#[test]
fn threads_that_answer_keep_off_the_cores_that_poll() {
    let daemon = Daemon::start_with(TempDir::new().unwrap(), ["--cores", "1"]);
    daemon.done("bdev_malloc_create", json!({"name": "m", "block_size": 512, "num_blocks": 2048}));
    daemon.done("vhost_create_blk_controller", json!({"ctrlr": "vm0", "dev_name": "m"}));
    let _guest = Guest::connect(&daemon.folder().join("vhost/vm0"));
    let places = places(&daemon);
    assert!(places.iter().any(|(name, list)| name == "reactor-1" && list == "1"), "{places:?}");
    let others: Vec<_> = places.iter().filter(|(name, _)| !name.starts_with("reactor-") && !name.starts_with("iou-")).collect();
    let on_core_1 = |list: &str| list.split(',').any(|part| part == "1" || part.starts_with("1-") || part.starts_with("0-"));
    assert!(others.len() > 1 && others.iter().all(|(_, list)| !on_core_1(list)), "{places:?}");
}

#[test]
fn a_queue_goes_where_it_is_told_to_and_its_guest_goes_on() {
    let daemon = daemon();
    for core in [1, 0] {
        // Before anybody is there, and while the guest runs.
        daemon.done("vhost_controller_move_queue", json!({"ctrlr": "vm0", "queue": 0, "lcore": core}));
        let mut guest = Guest::connect(&daemon.folder().join("vhost/vm0"));
        assert_eq!(guest.capacity_bytes(), 1 << 20);
        for core in [core, 1 - core, core] {
            daemon.done("vhost_controller_move_queue", json!({"ctrlr": "vm0", "queue": 0, "lcore": core}));
            assert_eq!(lcore(&daemon), core);
            guest.write_zeroes(4096);
            assert_eq!(guest.ended(), 0);
        }
    }
}

#[test]
fn a_move_that_makes_no_sense_is_refused_with_its_reason() {
    let daemon = daemon();
    let params = |ctrlr: &str, queue: u32, core: u32| json!({"ctrlr": ctrlr, "queue": queue, "lcore": core});
    let refused = |code, params| daemon.refused(code, "vhost_controller_move_queue", params);
    assert!(refused(-19, params("vm1", 0, 0)).contains("there is no controller 'vm1'"));
    assert_eq!(refused(-32602, params("vm0", 64, 0)), "parameter 'queue' is 64; it must be 0 to 63");
    let message = refused(-32602, params("vm0", 0, 9));
    assert_eq!(message, "parameter 'lcore' is 9; it must be a core that 'vm0' runs on, which are 0, 1");
    refused(-32602, json!({"ctrlr": "vm0", "queue": 0}));
}

#[test]
fn the_scheduler_is_static_until_told_and_only_the_dynamic_one_has_a_thread() {
    let daemon = daemon();
    let balanced = || threads(&daemon).iter().any(|name| name == "balancer");
    let shown = || daemon.done("framework_get_scheduler", Value::Null);
    let config = || daemon.done("framework_get_config", json!({"name": "scheduler"}));
    assert_eq!(shown(), json!({"scheduler_name": "static", "scheduler_period": 1_000_000}));
    assert_eq!((balanced(), config()), (false, json!([])));
    daemon.done("framework_set_scheduler", json!({"name": "dynamic", "period": 20_000, "core_busy": 80, "load_limit": 20}));
    assert_eq!(shown(), json!({"scheduler_name": "dynamic", "scheduler_period": 20_000, "core_busy": 80}));
    let call = json!({"method": "framework_set_scheduler", "params": {"name": "dynamic", "period": 20_000, "core_busy": 80}});
    assert!((0..1000).any(|_| balanced() || shown().is_null()));
    assert_eq!(config(), json!([call]));
    daemon.done("framework_set_scheduler", json!({"name": "static"}));
    assert_eq!(shown(), json!({"scheduler_name": "static", "scheduler_period": 20_000}), "the period stays");
    assert!(!balanced());
    daemon.done("framework_set_scheduler", json!({"name": "dynamic"}));
    for (params, named) in [
        (json!({"name": "gscheduler"}), "name"),
        (json!({"name": "dynamic", "period": 9_999}), "period"),
        (json!({"name": "dynamic", "core_busy": 100}), "core_busy"),
        (json!({"name": "dynamic", "core_limit": 42}), "core_limit"),
        (json!({"name": "static", "mappings": "1:2"}), "mappings"),
    ] {
        let message = daemon.refused(-32602, "framework_set_scheduler", params);
        assert!(message.contains(&format!("'{named}'")), "{message}");
    }
    // A thread names itself, which on a busy machine takes a while.
    let named = (0..1000).any(|_| balanced() || shown().is_null());
    assert!(named, "what was refused changes nothing");
    let ended = daemon.stop();
    assert!(ended.status.success(), "{}", ended.log);
}
