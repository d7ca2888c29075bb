//! Every method as it is meant to be called. Knows nothing of refusals.

use serde_json::{Value, json};

use crate::harness::{Daemon, file};

#[test]
fn every_method_is_listed_once() {
    let daemon = Daemon::start();
    let methods = daemon.done("rpc_get_methods", Value::Null);
    let methods: Vec<&str> = methods.as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
    for name in [
        "rpc_get_methods spdk_get_version spdk_kill_instance framework_start_init framework_wait_init framework_get_subsystems",
        "framework_get_config framework_get_reactors thread_get_stats thread_get_pollers thread_get_io_channels",
        "log_set_level log_get_level log_set_print_level log_get_print_level log_get_flags log_set_flag log_clear_flag",
        "bdev_set_options iobuf_set_options bdev_get_bdevs bdev_wait_for_examine bdev_get_iostat bdev_reset_iostat",
        "bdev_enable_histogram bdev_get_histogram bdev_null_create bdev_null_delete bdev_null_resize bdev_malloc_create",
        "bdev_malloc_delete bdev_uring_create bdev_uring_rescan bdev_uring_delete bdev_aio_create bdev_aio_rescan",
        "bdev_aio_delete bdev_delay_create bdev_delay_delete bdev_delay_update_latency bdev_error_create bdev_error_delete",
        "bdev_error_inject_error bdev_error_resume_pending vhost_create_blk_controller vhost_get_controllers",
        "vhost_delete_controller vhost_controller_set_coalescing virtio_blk_create_transport virtio_blk_get_transports",
        "bdev_bench_start bdev_bench_get bdev_bench_stop bdev_set_qos_limit",
        "framework_set_scheduler framework_get_scheduler vhost_controller_move_queue",
        "keyring_file_add_key keyring_file_remove_key keyring_get_keys nvmf_set_config nvmf_create_transport nvmf_get_transports",
        "nvmf_get_targets nvmf_get_stats nvmf_create_subsystem nvmf_delete_subsystem nvmf_get_subsystems",
        "nvmf_subsystem_add_listener nvmf_subsystem_remove_listener nvmf_subsystem_get_listeners",
        "nvmf_subsystem_listener_set_ana_state spinel_nvmf_set_ana_states nvmf_subsystem_add_ns nvmf_subsystem_remove_ns",
        "nvmf_subsystem_set_ns_ana_group nvmf_ns_add_host nvmf_ns_remove_host nvmf_subsystem_add_host nvmf_subsystem_remove_host",
        "nvmf_subsystem_set_keys nvmf_subsystem_allow_any_host nvmf_subsystem_get_controllers nvmf_subsystem_get_qpairs",
        "nvmf_discovery_add_referral nvmf_discovery_remove_referral nvmf_discovery_get_referrals",
    ]
    .into_iter()
    .flat_map(|line| line.split(' '))
    {
        assert_eq!(methods.iter().filter(|listed| **listed == name).count(), 1, "{name}");
    }
    let current = daemon.done("rpc_get_methods", json!({"current": true, "include_aliases": false}));
    assert!(current.as_array().unwrap().len() < methods.len(), "startup methods are over");
}

#[test]
fn a_null_bdev_is_made_shown_grown_and_deleted() {
    let daemon = Daemon::start();
    // With everything that SPDK's own client sends along.
    let params = json!({
        "name": "null0", "block_size": 512, "num_blocks": 2048, "physical_block_size": 4096, "md_size": 0, "dif_type": 0,
        "dif_is_head_of_md": false, "dif_pi_format": 0, "uuid": "1f0e7b64-3c0a-4b55-9d6e-0d2f6c1a7e90",
    });
    assert_eq!(daemon.done("bdev_null_create", params), "null0");
    let shown = daemon.done("bdev_get_bdevs", json!({"name": "null0"}));
    let expected = json!({
        "name": "null0", "aliases": ["1f0e7b64-3c0a-4b55-9d6e-0d2f6c1a7e90"], "product_name": "Null disk", "block_size": 512,
        "num_blocks": 2048, "physical_block_size": 4096, "claimed": false, "zoned": false, "driver_specific": {},
    });
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(&shown[0][name], value, "{name}");
    }
    assert_eq!(shown[0]["supported_io_types"]["unmap"], true);
    assert_eq!(daemon.done("bdev_null_resize", json!({"name": "null0", "new_size": 8})), true);
    // By its UUID, too.
    let shown = daemon.done("bdev_get_bdevs", json!({"name": "1f0e7b64-3c0a-4b55-9d6e-0d2f6c1a7e90"}));
    assert_eq!(shown[0]["num_blocks"], 8 * 2048);
    assert_eq!(daemon.done("bdev_null_delete", json!({"name": "null0"})), true);
    assert_eq!(daemon.done("bdev_get_bdevs", Value::Null), json!([]));
}

#[test]
fn malloc_bdevs_without_a_name_are_numbered() {
    let daemon = Daemon::start();
    let create = |more: Value| {
        let mut params = json!({"block_size": 4096, "num_blocks": 256, "md_interleave": false, "dif_is_head_of_md": false, "numa_id": -1});
        params.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        daemon.done("bdev_malloc_create", params)
    };
    assert_eq!(create(json!({"name": "Malloc1"})), "Malloc1");
    assert_eq!(create(json!({})), "Malloc0");
    assert_eq!(create(json!({})), "Malloc2");
    assert_eq!(daemon.done("bdev_malloc_delete", json!({"name": "Malloc0"})), true);
    assert_eq!(create(json!({})), "Malloc3", "a name is not given twice");
}

#[test]
fn files_are_opened_measured_and_given_back() {
    let daemon = Daemon::start();
    let (one, two) = (file(daemon.folder(), "one", 1 << 20), file(daemon.folder(), "two", (1 << 20) + 100));
    // Relative to where the daemon was started.
    assert_eq!(daemon.done("bdev_uring_create", json!({"name": "u", "filename": "one"})), "u");
    let aio = json!({"name": "a", "filename": two, "block_size": 4096, "readonly": true, "fallocate": false});
    assert_eq!(daemon.done("bdev_aio_create", aio), "a");
    let shown = daemon.done("bdev_get_bdevs", Value::Null);
    assert_eq!((&shown[0]["block_size"], &shown[0]["num_blocks"]), (&json!(512), &json!(2048)));
    assert_eq!(shown[0]["driver_specific"]["uring"]["filename"], one.to_str().unwrap());
    assert_eq!((&shown[1]["block_size"], &shown[1]["num_blocks"]), (&json!(4096), &json!(256)), "the rest is not used");
    assert_eq!((&shown[1]["supported_io_types"]["write"], &shown[1]["supported_io_types"]["read"]), (&json!(false), &json!(true)));

    std::fs::File::options().write(true).open(&one).unwrap().set_len(4 << 20).unwrap();
    assert_eq!(daemon.done("bdev_uring_rescan", json!({"name": "u"})), true);
    assert_eq!(daemon.done("bdev_aio_rescan", json!({"name": "a"})), true);
    assert_eq!(daemon.done("bdev_get_bdevs", json!({"name": "u"}))[0]["num_blocks"], 8192);
    assert_eq!(daemon.done("bdev_uring_delete", json!({"name": "u"})), true);
    assert_eq!(daemon.done("bdev_aio_delete", json!({"name": "a"})), true);
    daemon.done("bdev_uring_create", json!({"name": "again", "filename": one}));
}

#[test]
fn layers_are_stacked_changed_and_taken_down_from_the_top() {
    let daemon = Daemon::start();
    daemon.done("bdev_malloc_create", json!({"name": "m", "block_size": 512, "num_blocks": 2048}));
    let delay = json!({
        "name": "slow", "base_bdev_name": "m", "avg_read_latency": 10, "p99_read_latency": 20, "avg_write_latency": 30, "p99_write_latency": 40,
    });
    assert_eq!(daemon.done("bdev_delay_create", delay.clone()), "slow");
    assert_eq!(daemon.done("bdev_error_create", json!({"base_name": "slow"})), true);
    let update = json!({"delay_bdev_name": "slow", "latency_type": "p99_write", "latency_us": 500});
    assert_eq!(daemon.done("bdev_delay_update_latency", update), true);
    for (io_type, error_type) in [("read", "failure"), ("write", "pending"), ("unmap", "nomem"), ("flush", "failure"), ("all", "failure")] {
        let inject = json!({"name": "EE_slow", "io_type": io_type, "error_type": error_type, "num": 3});
        assert_eq!(daemon.done("bdev_error_inject_error", inject), true);
    }
    let corrupt = json!({"name": "EE_slow", "io_type": "read", "error_type": "corrupt_data", "corrupt_offset": 7, "corrupt_value": 255});
    assert_eq!(daemon.done("bdev_error_inject_error", corrupt), true);
    assert_eq!(daemon.done("bdev_error_inject_error", json!({"name": "EE_slow", "io_type": "clear", "error_type": "failure"})), true);
    assert_eq!(daemon.done("bdev_error_resume_pending", json!({"name": "EE_slow"})), true);

    let shown = daemon.done("bdev_get_bdevs", Value::Null);
    let names: Vec<&Value> = shown.as_array().unwrap().iter().map(|bdev| &bdev["name"]).collect();
    assert_eq!(names, ["m", "slow", "EE_slow"]);
    assert_eq!(shown[1]["driver_specific"]["delay"]["p99_write_latency"], 500);
    assert_eq!((&shown[0]["claimed"], &shown[1]["claimed"], &shown[2]["claimed"]), (&json!(true), &json!(true), &json!(false)));
    assert_eq!(daemon.done("bdev_error_delete", json!({"name": "EE_slow"})), true);
    assert_eq!(daemon.done("bdev_delay_delete", json!({"name": "slow"})), true);
    assert_eq!(daemon.done("bdev_malloc_delete", json!({"name": "m"})), true);
}

#[test]
fn controllers_are_made_shown_and_deleted() {
    let daemon = Daemon::start();
    daemon.done("bdev_null_create", json!({"name": "n", "block_size": 512, "num_blocks": 2048}));
    let create = json!({"ctrlr": "vm0", "dev_name": "n", "readonly": true, "packed_ring": true, "transport": "vhost_user_blk"});
    assert_eq!(daemon.done("vhost_create_blk_controller", create), true);
    assert_eq!(daemon.done("vhost_create_blk_controller", json!({"ctrlr": "vm1", "dev_name": "n"})), true);
    let coalescing = json!({"ctrlr": "vm0", "delay_base_us": 0, "iops_threshold": 60000});
    assert_eq!(daemon.done("vhost_controller_set_coalescing", coalescing), true);
    let shown = daemon.done("vhost_get_controllers", json!({"name": "vm0"}));
    assert_eq!(shown[0]["ctrlr"], "vm0");
    assert_eq!((&shown[0]["delay_base_us"], &shown[0]["iops_threshold"]), (&json!(0), &json!(60000)));
    assert_eq!(shown[0]["backend_specific"]["block"], json!({"readonly": true, "bdev": "n", "transport": "vhost_user_blk"}));
    assert_eq!(shown[0]["socket"], daemon.folder().join("vhost/vm0").to_str().unwrap());
    assert_eq!(shown[0]["sessions"], json!([]));
    assert_eq!(daemon.done("vhost_get_controllers", Value::Null).as_array().unwrap().len(), 2);
    assert_eq!(daemon.done("vhost_delete_controller", json!({"ctrlr": "vm0"})), true);
    assert!(!daemon.folder().join("vhost/vm0").exists());
    assert_eq!(daemon.done("vhost_delete_controller", json!({"ctrlr": "vm1"})), true);
    assert_eq!(daemon.done("bdev_null_delete", json!({"name": "n"})), true);
    assert_eq!(daemon.done("virtio_blk_create_transport", json!({"name": "vhost_user_blk"})), true);
    assert_eq!(daemon.done("virtio_blk_get_transports", Value::Null), json!([{"name": "vhost_user_blk"}]));
    assert_eq!(daemon.done("virtio_blk_get_transports", json!({"name": "vhost_user_blk"})), json!([{"name": "vhost_user_blk"}]));
}

#[test]
fn statistics_have_every_field_a_client_reads() {
    let daemon = Daemon::start();
    daemon.done("bdev_null_create", json!({"name": "n", "block_size": 512, "num_blocks": 2048}));
    let stats = daemon.done("bdev_get_iostat", Value::Null);
    assert_eq!(stats["tick_rate"], 1_000_000_000);
    assert!(stats["ticks"].as_u64().unwrap() > 0);
    let n = &stats["bdevs"][0];
    for name in [
        "bytes_read num_read_ops bytes_written num_write_ops bytes_unmapped num_unmap_ops bytes_copied num_copy_ops",
        "read_latency_ticks max_read_latency_ticks min_read_latency_ticks write_latency_ticks max_write_latency_ticks",
        "min_write_latency_ticks unmap_latency_ticks max_unmap_latency_ticks min_unmap_latency_ticks copy_latency_ticks",
        "max_copy_latency_ticks min_copy_latency_ticks in_flight num_flush_ops num_write_zeroes_ops bytes_write_zeroes",
    ]
    .into_iter()
    .flat_map(|line| line.split(' '))
    {
        assert_eq!(n[name], 0, "{name}");
    }
    assert_eq!(n["io_error"], json!({}));
    for op in ["read", "write", "flush", "unmap", "write_zeroes"] {
        for name in ["count", "p50", "p90", "p99", "p999", "p9999", "max", "mean"] {
            assert_eq!(n["percentiles"][op][name], 0, "{op} {name}");
        }
    }
    assert_eq!(daemon.done("bdev_get_iostat", json!({"name": "n"}))["bdevs"].as_array().unwrap().len(), 1);
    assert_eq!(daemon.done("bdev_get_iostat", json!({"names": ["n"], "reset_mode": "maxmin"}))["bdevs"][0]["name"], "n");
    let channels = daemon.done("bdev_get_iostat", json!({"names": ["n"], "per_channel": true}));
    assert_eq!((&channels["name"], &channels["channels"]), (&json!("n"), &json!([])));
    for params in [Value::Null, json!({"name": "n"}), json!({"name": "n", "mode": "error"})] {
        assert_eq!(daemon.done("bdev_reset_iostat", params), true);
    }
}

#[test]
fn histograms_are_there_from_the_start_and_can_be_switched_off() {
    let daemon = Daemon::start();
    daemon.done("bdev_null_create", json!({"name": "n", "block_size": 512, "num_blocks": 2048}));
    let empty = daemon.done("bdev_get_histogram", json!({"name": "n"}));
    assert_eq!(spinel_control::histogram::from_spdk(&empty).unwrap(), []);
    assert_eq!(empty["tsc_rate"], 1_000_000_000);
    assert_eq!((&empty["granularity"], &empty["min_range"], &empty["max_range"]), (&json!(7), &json!(0), &json!(57)));
    assert_eq!(daemon.done("bdev_enable_histogram", json!({"name": "n", "enable": false})), true);
    daemon.refused(-1, "bdev_get_histogram", json!({"name": "n"}));
    let enable = json!({"name": "n", "enable": true, "opc": "write_zeroes", "granularity": 7, "min_nsec": 1000});
    assert_eq!(daemon.done("bdev_enable_histogram", enable), true);
    daemon.done("bdev_get_histogram", json!({"name": "n"}));
}

#[test]
fn reactors_and_threads_say_where_their_time_goes() {
    let daemon = Daemon::start();
    let reactors = daemon.done("framework_get_reactors", Value::Null);
    let core = &reactors["reactors"][0];
    for name in ["lcore", "tid", "busy", "idle", "spin", "sleep", "loops", "sleeps"] {
        assert!(core[name].is_u64(), "{name}: {core}");
    }
    assert_eq!(core["idle"].as_u64().unwrap(), core["spin"].as_u64().unwrap() + core["sleep"].as_u64().unwrap());
    let name = format!("core_{}", core["lcore"]);
    assert_eq!((&core["lw_threads"][0]["name"], &core["lw_threads"][0]["id"]), (&json!(name), &json!(1)));
    for (method, list) in
        [("thread_get_stats", "active_pollers_count"), ("thread_get_pollers", "active_pollers"), ("thread_get_io_channels", "io_channels")]
    {
        let threads = daemon.done(method, Value::Null);
        assert_eq!((&threads["tick_rate"], &threads["threads"][0]["name"]), (&json!(1_000_000_000), &json!(name)), "{method}");
        assert!(!threads["threads"][0][list].is_null(), "{method}");
    }
}

#[test]
fn the_log_says_as_much_as_it_is_told_to() {
    let mut daemon = Daemon::start();
    assert_eq!(daemon.done("log_get_level", Value::Null), "NOTICE");
    assert_eq!(daemon.done("log_set_print_level", json!({"level": "ERROR"})), true);
    assert_eq!(
        (daemon.done("log_get_level", Value::Null), daemon.done("log_get_print_level", Value::Null)),
        (json!("ERROR"), json!("ERROR"))
    );
    let create = |name: &str| daemon.done("bdev_null_create", json!({"name": name, "block_size": 512, "num_blocks": 8}));
    create("quiet");
    assert_eq!(daemon.done("log_set_flag", json!({"flag": "daemon"})), true);
    assert_eq!(daemon.done("log_get_flags", Value::Null), json!({"daemon": true, "rpc": false, "vhost": false}));
    create("loud");
    assert_eq!(daemon.done("log_clear_flag", json!({"flag": "all"})), true);
    daemon.done("log_set_level", json!({"level": "DEBUG"}));
    daemon.wait_for_log("'loud'");
    let ended = daemon.stop();
    assert!(!ended.log.contains("'quiet'"), "{}", ended.log);
}

#[test]
fn the_version_is_in_numbers_too() {
    let daemon = Daemon::start();
    let version = daemon.done("spdk_get_version", Value::Null);
    for name in ["major", "minor", "patch"] {
        assert!(version["fields"][name].is_u64(), "{version}");
    }
    assert!(version["fields"]["suffix"].is_string());
    assert_eq!(daemon.done("bdev_wait_for_examine", Value::Null), true);
    assert_eq!(daemon.done("framework_wait_init", Value::Null), true);
}
