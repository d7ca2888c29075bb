//! What is refused, with which code, and what the message names. Nothing that is refused may change anything.

use serde_json::{Value, json};

use crate::harness::{Daemon, file};

const UUID: &str = "1f0e7b64-3c0a-4b55-9d6e-0d2f6c1a7e90";

/// A daemon with something of everything.
fn furnished() -> Daemon {
    let daemon = Daemon::start();
    file(daemon.folder(), "disk", 1 << 20);
    file(daemon.folder(), "empty", 0);
    file(daemon.folder(), "shared", 1 << 20);
    file(daemon.folder(), "spare", 1 << 20);
    daemon.done("bdev_uring_create", json!({"name": "file", "filename": "disk", "block_size": 512}));
    daemon.done("bdev_aio_create", json!({"name": "reader", "filename": "shared", "readonly": true}));
    daemon.done("bdev_null_create", json!({"name": "null", "block_size": 512, "num_blocks": 2048, "uuid": UUID}));
    daemon.done("bdev_malloc_create", json!({"name": "served", "block_size": 512, "num_blocks": 2048}));
    daemon.done("bdev_malloc_create", json!({"name": "base", "block_size": 512, "num_blocks": 2048}));
    daemon.done("bdev_error_create", json!({"base_name": "base"}));
    daemon.done("vhost_create_blk_controller", json!({"ctrlr": "vm0", "dev_name": "served"}));
    daemon
}

/// Everything that a refused call could have changed.
fn state(daemon: &Daemon) -> [Value; 5] {
    let ask = |method: &str, params: Value| daemon.done(method, params);
    [
        ask("bdev_get_bdevs", Value::Null),
        ask("vhost_get_controllers", Value::Null),
        ask("framework_get_config", json!({"name": "bdev"})),
        ask("framework_get_config", json!({"name": "vhost_blk"})),
        ask("log_get_level", Value::Null),
    ]
}

fn check(cases: &[(i32, &str, Value, &[&str])]) {
    let daemon = furnished();
    let before = state(&daemon);
    for (code, method, params, parts) in cases {
        let message = daemon.refused(*code, method, params.clone());
        for part in *parts {
            assert!(message.contains(part), "{method} {params}: '{message}' does not name '{part}'");
        }
    }
    assert_eq!(state(&daemon), before);
}

fn null(more: Value) -> Value {
    over(json!({"name": "x", "block_size": 512, "num_blocks": 8}), &more)
}

fn delay(more: Value) -> Value {
    let usual = json!({
        "name": "x", "base_bdev_name": "null", "avg_read_latency": 1, "p99_read_latency": 1, "avg_write_latency": 1, "p99_write_latency": 1,
    });
    over(usual, &more)
}

fn inject(more: Value) -> Value {
    over(json!({"name": "EE_base", "io_type": "read", "error_type": "failure"}), &more)
}

fn over(mut usual: Value, more: &Value) -> Value {
    usual.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    usual
}

#[test]
fn parameters_that_will_not_do_are_named_with_their_value() {
    check(&[
        (-32602, "bdev_null_create", json!({"name": "x"}), &["block_size", "missing"]),
        (-32602, "bdev_null_create", json!(["x", 512, 8]), &["object"]),
        (-32602, "bdev_null_create", null(json!({"block_size": 520})), &["block_size", "520", "512 or 4096"]),
        (-32602, "bdev_null_create", null(json!({"block_size": -1})), &["block_size", "-1"]),
        (-32602, "bdev_null_create", null(json!({"num_blocks": 0})), &["num_blocks", "0", "at least 1"]),
        (-32602, "bdev_null_create", null(json!({"num_blocks": u64::MAX})), &["num_blocks", "18446744073709551615"]),
        (-32602, "bdev_null_create", null(json!({"num_blocks": "8"})), &["num_blocks", "\"8\""]),
        (-32602, "bdev_null_create", null(json!({"physical_block_size": 1536})), &["physical_block_size", "1536"]),
        (-32602, "bdev_null_create", null(json!({"md_size": 8})), &["md_size", "8", "0", "not built"]),
        (-32602, "bdev_null_create", null(json!({"uuid": "x"})), &["uuid", "\"x\"", "a UUID such as"]),
        (-32602, "bdev_null_create", null(json!({"uuid": null})), &["uuid", "null"]),
        (-32602, "bdev_null_create", null(json!({"name": ""})), &["name", "\"\""]),
        (-32602, "bdev_null_create", null(json!({"name": "a\nb"})), &["name", "control characters"]),
        (-32602, "bdev_null_create", null(json!({"name": "x".repeat(256)})), &["name", "255"]),
        (-32602, "bdev_null_create", null(json!({"blocks": 8})), &["blocks", "unknown"]),
        (-32602, "bdev_null_resize", json!({"name": "null", "new_size": 0}), &["new_size", "0", "at least 1"]),
        (-32602, "bdev_null_resize", json!({"name": "null", "new_size": u64::MAX}), &["new_size"]),
        (
            -32602,
            "bdev_malloc_create",
            json!({"block_size": 512, "num_blocks": 8, "md_interleave": true}),
            &["md_interleave", "true", "false"],
        ),
        (-32602, "bdev_malloc_create", json!({"block_size": 512, "num_blocks": 8, "numa_id": 0}), &["numa_id", "-1"]),
        (-12, "bdev_malloc_create", json!({"block_size": 512, "num_blocks": 1_u64 << 53}), &["4611686018427387904"]),
        (-32602, "bdev_uring_create", json!({"name": "x", "filename": ""}), &["filename"]),
        (-32602, "bdev_uring_create", json!({"name": "x", "filename": "."}), &["filename", "regular file"]),
        (-32602, "bdev_uring_create", json!({"name": "x", "filename": "empty"}), &["filename", "empty", "512"]),
        (-32602, "bdev_uring_create", json!({"name": "x", "filename": "spare", "block_size": 1024}), &["block_size", "1024"]),
        (-32602, "bdev_aio_create", json!({"name": "x", "filename": "spare", "nowait": true}), &["nowait"]),
        (-32602, "bdev_delay_create", delay(json!({"p99_read_latency": 0})), &["p99_read_latency", "0", "avg_read_latency", "1"]),
        (-32602, "bdev_delay_create", delay(json!({"avg_write_latency": 5})), &["p99_write_latency", "1", "5"]),
        (
            -32602,
            "bdev_delay_update_latency",
            json!({"delay_bdev_name": "x", "latency_type": "p50", "latency_us": 1}),
            &["latency_type", "avg_read"],
        ),
        (-32602, "bdev_error_inject_error", inject(json!({"io_type": "reads"})), &["io_type", "reads", "unmap"]),
        (-32602, "bdev_error_inject_error", inject(json!({"error_type": "nvme_failure"})), &["error_type", "nvme_failure"]),
        (-32602, "bdev_error_inject_error", inject(json!({"error_type": "corrupt_data"})), &["corrupt_value", "0"]),
        (
            -32602,
            "bdev_error_inject_error",
            inject(json!({"error_type": "corrupt_data", "corrupt_value": 1, "io_type": "flush"})),
            &["error_type"],
        ),
        (-32602, "bdev_error_inject_error", inject(json!({"error_type": "lose_write"})), &["io_type", "read", "write"]),
        (-32602, "bdev_error_inject_error", inject(json!({"error_type": "stale_read", "io_type": "write"})), &["io_type", "write", "read"]),
        (-32602, "bdev_error_inject_error", inject(json!({"nvme_sct": 1})), &["nvme_sct"]),
        (-32602, "bdev_enable_histogram", json!({"name": "null", "enable": true, "opc": "compare"}), &["opc", "compare", "write_zeroes"]),
        (-32602, "bdev_enable_histogram", json!({"name": "null", "enable": true, "granularity": 5}), &["granularity", "7"]),
        (-32602, "bdev_get_iostat", json!({"names": ["null"], "reset_mode": "some"}), &["reset_mode", "maxmin"]),
        (-32602, "bdev_get_iostat", json!({"name": "null", "names": ["null"]}), &["name"]),
        (-32602, "bdev_get_iostat", json!({"names": ["null", "file"], "per_channel": true}), &["per_channel"]),
    ]);
}

#[test]
fn what_is_not_there_or_there_already_is_named() {
    check(&[
        (-17, "bdev_null_create", null(json!({"name": "file"})), &["'file'", "already"]),
        (-17, "bdev_null_create", null(json!({"uuid": UUID})), &["'null'", UUID]),
        (-17, "bdev_null_create", null(json!({"name": UUID})), &[UUID, "already"]),
        (-17, "bdev_error_create", json!({"base_name": "base"}), &["'EE_base'"]),
        (-17, "vhost_create_blk_controller", json!({"ctrlr": "vm0", "dev_name": "null"}), &["'vm0'"]),
        (-19, "bdev_get_bdevs", json!({"name": "x"}), &["'x'"]),
        (-19, "bdev_get_iostat", json!({"names": ["null", "x"], "reset_mode": "all"}), &["'x'"]),
        (-19, "bdev_reset_iostat", json!({"name": "x"}), &["'x'"]),
        (-19, "bdev_enable_histogram", json!({"name": "x", "enable": true}), &["'x'"]),
        (-19, "bdev_get_histogram", json!({"name": "x"}), &["'x'"]),
        (-19, "bdev_null_delete", json!({"name": "x"}), &["'x'"]),
        (-19, "bdev_null_delete", json!({"name": "file"}), &["'file'", "bdev_uring_delete"]),
        (-19, "bdev_uring_delete", json!({"name": "reader"}), &["bdev_aio_delete"]),
        (-19, "bdev_null_resize", json!({"name": "base", "new_size": 8}), &["'base'", "Malloc disk"]),
        (-19, "bdev_uring_rescan", json!({"name": "null"}), &["'null'"]),
        (-19, "bdev_aio_rescan", json!({"name": "file"}), &["'file'"]),
        (-19, "bdev_delay_create", delay(json!({"base_bdev_name": "y"})), &["'y'"]),
        (-19, "bdev_delay_update_latency", json!({"delay_bdev_name": "null", "latency_type": "avg_read", "latency_us": 1}), &["'null'"]),
        (-19, "bdev_error_create", json!({"base_name": "y"}), &["'y'"]),
        (-19, "bdev_error_inject_error", inject(json!({"name": "base"})), &["'base'", "bdev_error_create"]),
        (-19, "bdev_error_resume_pending", json!({"name": "base"}), &["'base'"]),
        (-19, "vhost_create_blk_controller", json!({"ctrlr": "vm1", "dev_name": "y"}), &["'y'"]),
        (-19, "vhost_get_controllers", json!({"name": "vm1"}), &["'vm1'"]),
        (-19, "vhost_delete_controller", json!({"ctrlr": "vm1"}), &["'vm1'"]),
        (-19, "vhost_controller_set_coalescing", json!({"ctrlr": "vm1", "delay_base_us": 0, "iops_threshold": 0}), &["'vm1'"]),
        (-2, "bdev_uring_create", json!({"name": "x", "filename": "nowhere"}), &["nowhere"]),
    ]);
}

#[test]
fn what_is_in_use_is_kept_and_its_user_named() {
    check(&[
        (-16, "bdev_malloc_delete", json!({"name": "served"}), &["'served'", "controller 'vm0'"]),
        (-16, "bdev_malloc_delete", json!({"name": "base"}), &["'base'", "bdev 'EE_base'"]),
        (-16, "bdev_delay_create", delay(json!({"base_bdev_name": "served"})), &["'served'", "controller 'vm0'"]),
        (-16, "bdev_delay_create", delay(json!({"base_bdev_name": "base"})), &["bdev 'EE_base'"]),
        (-16, "vhost_create_blk_controller", json!({"ctrlr": "vm1", "dev_name": "base"}), &["bdev 'EE_base'"]),
        (-16, "bdev_uring_create", json!({"name": "x", "filename": "disk"}), &["bdev 'file'"]),
        (-16, "bdev_aio_create", json!({"name": "x", "filename": "shared"}), &["bdev 'reader'"]),
    ]);
}

#[test]
fn controllers_stay_in_their_folder_and_on_the_daemons_cores() {
    let create = |more: Value| over(json!({"ctrlr": "x", "dev_name": "null"}), &more);
    let mut cases: Vec<(i32, &str, Value, &[&str])> = Vec::new();
    for name in ["", ".", "..", "a/b", "/tmp/x", "../x", "a\0b", "a\nb"] {
        cases.push((-32602, "vhost_create_blk_controller", create(json!({"ctrlr": name})), &["ctrlr"]));
    }
    cases.push((-32602, "vhost_create_blk_controller", create(json!({"ctrlr": "x".repeat(64)})), &["ctrlr", "63"]));
    cases.push((-32602, "vhost_create_blk_controller", create(json!({"cpumask": "[1000]"})), &["cpumask", "[1000]", "runs on"]));
    cases.push((-32602, "vhost_create_blk_controller", create(json!({"cpumask": "x"})), &["cpumask", "0x6"]));
    cases.push((-32602, "vhost_create_blk_controller", create(json!({"transport": "vfio_user"})), &["transport", "vhost_user_blk"]));
    cases.push((-32602, "vhost_create_blk_controller", create(json!({"packed_ring": "on"})), &["packed_ring", "on"]));
    cases.push((-32602, "virtio_blk_create_transport", json!({"name": "vfio_user"}), &["vhost_user_blk"]));
    check(&cases);
}

#[test]
fn the_process_refuses_what_it_does_not_know() {
    check(&[
        (-32601, "bdev_raid_create", json!({}), &["'bdev_raid_create'"]),
        (-32602, "framework_get_config", json!({"name": "nbd"}), &["name", "nbd", "vhost_blk"]),
        (-32602, "log_set_level", json!({"level": "LOUD"}), &["level", "LOUD", "WARNING"]),
        (-32602, "log_set_flag", json!({"flag": "nvme"}), &["flag", "nvme", "vhost"]),
        (-32602, "spdk_kill_instance", json!({"sig_name": "SIGSTOP"}), &["sig_name", "SIGTERM"]),
        (-32602, "spdk_get_version", json!({"x": 1}), &["x"]),
        (-1, "framework_start_init", Value::Null, &["framework_start_init"]),
    ]);
}
