//! What the verbs call, and what they show.

use crate::fake::{fake, spinelctl};
use serde_json::{Value, json};

#[test]
fn disks_are_listed_in_a_table() {
    let ran = fake().run(&["disk", "list"]);
    let expected = "\
NAME      KIND           SIZE  BLOCK  USED  ON
d0        uring        10 GiB   4096  yes   /srv/d0.img
odd?[2J   Raid Volume  1.5 KiB    512  no    -
n0        null          1 MiB    512  no    -
";
    assert_eq!(columns(&ran.out), columns(expected));
    assert!(!ran.out.contains('\u{1b}'), "a disk's name moves the cursor");
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
}

/// Lines of words: how wide the columns are is `table`'s affair.
fn columns(text: &str) -> Vec<Vec<&str>> {
    text.lines().map(|line| line.split_whitespace().collect()).collect()
}

#[test]
fn json_is_the_daemons_own_reply() {
    let fake = fake();
    let ran = fake.run(&["disk", "list", "--json"]);
    let reply: Value = serde_json::from_str(&ran.out).expect("JSON");
    assert_eq!((&reply[0]["name"], reply.as_array().map(Vec::len)), (&json!("d0"), Some(3)));
    let one: Value = serde_json::from_str(&fake.run(&["--json", "disk", "show", "d0"]).out).expect("JSON");
    assert_eq!(one, reply[0]);
}

#[test]
fn a_disk_is_shown_with_what_its_driver_tells() {
    let ran = fake().run(&["disk", "show", "d0"]);
    let expected = [
        "name:             d0",
        "kind:             uring",
        "size:             10 GiB (2621440 blocks of 4096 bytes)",
        "uuid:             6d1f4c2a-0000-4000-8000-000000000001",
        "also called:      lvs/d0",
        "used:             yes",
        "limited to:       5000 requests/s (burst 10 ms), 100 MiB/s read",
        "can:              read, write",
        "filename:         /srv/d0.img",
        "direct:           true",
    ];
    assert_eq!(ran.out.lines().collect::<Vec<_>>(), expected);
}

#[test]
fn each_verb_makes_the_call_that_spdk_has_for_it() {
    let fake = fake();
    let cases: &[(&[&str], &str, Value)] = &[
        (&["disk", "create", "uring", "d1", "/srv/d1.img"], "bdev_uring_create", json!({"name": "d1", "filename": "/srv/d1.img"})),
        (
            &["disk", "create", "aio", "d1", "/srv/d1.img", "-b", "4K", "--readonly"],
            "bdev_aio_create",
            json!({"name": "d1", "filename": "/srv/d1.img", "block_size": 4096, "readonly": true}),
        ),
        (
            &["disk", "create", "memory", "m0", "64M", "--uuid", "6d1f4c2a-0000-4000-8000-000000000001"],
            "bdev_malloc_create",
            json!({"name": "m0", "num_blocks": 131_072, "block_size": 512, "uuid": "6d1f4c2a-0000-4000-8000-000000000001"}),
        ),
        (
            &["disk", "create", "null", "n1", "1G", "-b", "4096"],
            "bdev_null_create",
            json!({"name": "n1", "num_blocks": 262_144, "block_size": 4096}),
        ),
        (
            &["disk", "create", "delay", "s0", "d0", "--read", "100us", "--read-p99", "5ms"],
            "bdev_delay_create",
            json!({
                "name": "s0", "base_bdev_name": "d0", "avg_read_latency": 100, "p99_read_latency": 5000,
                "avg_write_latency": 0, "p99_write_latency": 0,
            }),
        ),
        (&["disk", "create", "error", "d0"], "bdev_error_create", json!({"base_name": "d0"})),
        (&["disk", "delete", "d0"], "bdev_uring_delete", json!({"name": "d0"})),
        (&["disk", "delete", "n0"], "bdev_null_delete", json!({"name": "n0"})),
        (&["disk", "resize", "n0", "2G"], "bdev_null_resize", json!({"name": "n0", "new_size": 2048})),
        (&["disk", "rescan", "d0"], "bdev_uring_rescan", json!({"name": "d0"})),
        (
            &["disk", "inject", "EE_d0", "read", "-n", "3"],
            "bdev_error_inject_error",
            json!({"name": "EE_d0", "io_type": "read", "error_type": "failure", "num": 3}),
        ),
        (
            &["vhost", "create", "vm1", "d0", "--readonly", "--cpumask", "0x2"],
            "vhost_create_blk_controller",
            json!({"ctrlr": "vm1", "dev_name": "d0", "readonly": true, "cpumask": "0x2"}),
        ),
        (&["vhost", "delete", "vm0"], "vhost_delete_controller", json!({"ctrlr": "vm0"})),
        (
            &["vhost", "coalesce", "vm0", "20us"],
            "vhost_controller_set_coalescing",
            json!({"ctrlr": "vm0", "delay_base_us": 20, "iops_threshold": 60000}),
        ),
        (&["log-level", "debug"], "log_set_level", json!({"level": "DEBUG"})),
        (&["stop", "--no-wait"], "spdk_kill_instance", json!({"sig_name": "SIGTERM"})),
        (&["rpc", "some_method", r#"{"a": [1]}"#], "some_method", json!({"a": [1]})),
        (&["rpc", "some_method"], "some_method", Value::Null),
    ];
    for (arguments, method, params) in cases {
        assert_eq!(fake.only_call(arguments), ((*method).to_owned(), params.clone()), "{arguments:?}");
    }
}

const NQN: &str = "nqn.2026-11.io.spinel:disks";

fn at(address: &str, port: &str) -> Value {
    json!({"trtype": "TCP", "adrfam": if address.contains(':') { "IPv6" } else { "IPv4" }, "traddr": address, "trsvcid": port})
}

#[test]
fn each_verb_of_nvme_over_fabrics_makes_its_one_call() {
    let fake = fake();
    let cases: &[(&[&str], &str, Value)] = &[
        (
            &["nvmf", "create", NQN, "--serial", "S1", "--any-host", "--ana"],
            "nvmf_create_subsystem",
            json!({"nqn": NQN, "allow_any_host": true, "ana_reporting": true, "serial_number": "S1"}),
        ),
        (&["nvmf", "rm", NQN], "nvmf_delete_subsystem", json!({"nqn": NQN})),
        (
            &["remote", "attach", "far", NQN, "fd00::7", "--digests", "--key", "k", "--give-up", "-1", "--fail", "5"],
            "bdev_nvme_attach_controller",
            json!({
                "name": "far", "subnqn": NQN, "trtype": "TCP", "adrfam": "IPv6", "traddr": "fd00::7", "trsvcid": "4420", "hdgst": true,
                "ddgst": true, "dhchap_key": "k", "ctrlr_loss_timeout_sec": -1, "fast_io_fail_timeout_sec": 5,
            }),
        ),
        (
            &["remote", "detach", "far", "--address", "192.0.2.7"],
            "bdev_nvme_detach_controller",
            json!({"name": "far", "trtype": "TCP", "adrfam": "IPv4", "traddr": "192.0.2.7", "trsvcid": "4420"}),
        ),
        (&["remote", "reset", "far"], "bdev_nvme_reset_controller", json!({"name": "far"})),
        (
            &["remote", "policy", "far", "round-robin", "--requests", "8"],
            "bdev_nvme_set_multipath_policy",
            json!({"name": "far", "policy": "active_active", "selector": "round_robin", "rr_min_io": 8}),
        ),
        (
            &["remote", "discover", "auto", "192.0.2.7", "--wait"],
            "bdev_nvme_start_discovery",
            json!({
                "name": "auto", "trtype": "TCP", "adrfam": "IPv4", "traddr": "192.0.2.7", "trsvcid": "8009", "wait_for_attach": true,
            }),
        ),
        (&["remote", "forget", "auto"], "bdev_nvme_stop_discovery", json!({"name": "auto"})),
        (
            &["nvmf", "namespace", "add", NQN, "d0", "--nsid", "3", "--group", "2", "--reservations", "/srv/r"],
            "nvmf_subsystem_add_ns",
            json!({"nqn": NQN, "namespace": {"bdev_name": "d0", "nsid": 3, "anagrpid": 2, "ptpl_file": "/srv/r"}}),
        ),
        (&["nvmf", "namespace", "rm", NQN, "3"], "nvmf_subsystem_remove_ns", json!({"nqn": NQN, "nsid": 3})),
        (
            &["nvmf", "listener", "add", NQN, "192.0.2.7", "--state", "non-optimized", "--advertise", "203.0.113.1"],
            "nvmf_subsystem_add_listener",
            json!({
                "nqn": NQN, "listen_address": at("192.0.2.7", "4420"), "advertised_address": at("203.0.113.1", "4420"),
                "ana_state": "non_optimized",
            }),
        ),
        (
            &["nvmf", "listener", "rm", NQN, "fd00::7", "4421"],
            "nvmf_subsystem_remove_listener",
            json!({"nqn": NQN, "listen_address": at("fd00::7", "4421")}),
        ),
    ];
    for (arguments, method, params) in cases {
        assert_eq!(fake.only_call(arguments), ((*method).to_owned(), params.clone()), "{arguments:?}");
    }
}

#[test]
fn each_verb_of_hosts_and_their_ways_makes_its_one_call() {
    let fake = fake();
    let cases: &[(&[&str], &str, Value)] = &[
        (
            &["nvmf", "host", "add", NQN, "nqn.h", "--key", "k", "--controller-key", "c"],
            "nvmf_subsystem_add_host",
            json!({"nqn": NQN, "host": "nqn.h", "dhchap_key": "k", "dhchap_ctrlr_key": "c"}),
        ),
        (&["nvmf", "host", "rm", NQN, "nqn.h"], "nvmf_subsystem_remove_host", json!({"nqn": NQN, "host": "nqn.h"})),
        (&["nvmf", "host", "any", NQN, "no"], "nvmf_subsystem_allow_any_host", json!({"nqn": NQN, "allow_any_host": false})),
        (
            &["nvmf", "ana", NQN, "192.0.2.7", "--state", "inaccessible"],
            "nvmf_subsystem_listener_set_ana_state",
            json!({"nqn": NQN, "listen_address": at("192.0.2.7", "4420"), "ana_state": "inaccessible"}),
        ),
        (
            &["nvmf", "ana", NQN, "192.0.2.7", "--state", "optimized", "--group", "1", "--group", "2"],
            "spinel_nvmf_set_ana_states",
            json!({
                "nqn": NQN, "listen_address": at("192.0.2.7", "4420"),
                "groups": [{"anagrpid": 1, "ana_state": "optimized"}, {"anagrpid": 2, "ana_state": "optimized"}],
            }),
        ),
        (&["nvmf", "referral", "add", "192.0.2.9"], "nvmf_discovery_add_referral", json!({"address": at("192.0.2.9", "8009")})),
        (&["nvmf", "referral", "rm", "192.0.2.9"], "nvmf_discovery_remove_referral", json!({"address": at("192.0.2.9", "8009")})),
        (&["key", "add", "k", "/etc/k"], "keyring_file_add_key", json!({"name": "k", "path": "/etc/k"})),
        (&["key", "rm", "k"], "keyring_file_remove_key", json!({"name": "k"})),
    ];
    for (arguments, method, params) in cases {
        assert_eq!(fake.only_call(arguments), ((*method).to_owned(), params.clone()), "{arguments:?}");
    }
}

#[test]
fn subsystems_are_listed_without_discovery() {
    let ran = fake().run(&["nvmf", "ls"]);
    let expected = "NQN NAMESPACES LISTENERS HOSTS\nnqn.2026-11.io.spinel:disks 1=d0,3=d1 192.0.2.7:4420,[fd00::7]:4420 2\n";
    assert_eq!(columns(&ran.out), columns(expected));
}

#[test]
fn exporting_a_disk_makes_what_is_missing_and_says_how_to_connect_it() {
    let fake = fake();
    let ran = fake.run(&["nvmf", "export", "d0", "192.0.2.7", "--host", "nqn.h"]);
    let methods: Vec<String> = fake.calls().into_iter().map(|(method, _)| method).collect();
    let expected = [
        "nvmf_create_transport",
        "nvmf_create_subsystem",
        "nvmf_subsystem_add_host",
        "nvmf_subsystem_add_ns",
        "nvmf_subsystem_add_listener",
    ];
    assert_eq!(methods, expected);
    assert!(ran.out.contains("nvme connect -t tcp -a 192.0.2.7 -s 4420 -n nqn.2026-11.io.spinel:d0"), "{}", ran.out);
}

#[test]
fn limits_are_set_by_their_names_and_shown_as_they_are_then() {
    let fake = fake();
    let cases: &[(&[&str], Value)] = &[
        (
            &["disk", "limit", "n0", "--iops", "5000", "--read-bandwidth", "100M", "--write-iops", "0", "--burst", "50ms"],
            json!({
                "name": "n0", "rw_ios_per_sec": 5000, "rw_ios_burst_ms": 50, "r_mbytes_per_sec": 100, "r_mbytes_burst_ms": 50,
                "w_ios_per_sec": 0,
            }),
        ),
        (
            &["disk", "limit", "n0", "--none"],
            json!({
                "name": "n0", "rw_ios_per_sec": 0, "r_ios_per_sec": 0, "w_ios_per_sec": 0, "rw_mbytes_per_sec": 0, "r_mbytes_per_sec": 0,
                "w_mbytes_per_sec": 0,
            }),
        ),
    ];
    for (arguments, params) in cases {
        assert_eq!(fake.only_call(arguments), ("bdev_set_qos_limit".to_owned(), params.clone()), "{arguments:?}");
    }
    let ran = fake.run(&["disk", "limit", "d0", "--iops", "5000"]);
    assert_eq!((ran.out.as_str(), ran.code), ("d0 is limited to 5000 requests/s (burst 10 ms), 100 MiB/s read\n", 0));
    assert_eq!(fake.run(&["disk", "limit", "n0", "--none"]).out, "n0 is not limited\n");
    assert_eq!(fake.run(&["disk", "limit", "n0", "--none", "--json"]).out, "true\n");
}

#[test]
fn a_relative_file_is_taken_from_the_callers_folder() {
    let fake = fake();
    let mut command = fake.command(&["disk", "create", "uring", "d1", "d1.img"]);
    assert!(command.current_dir(fake.folder.path()).output().expect("it runs").status.success());
    let (_, params) = fake.calls().remove(0);
    let expected = fake.folder.path().join("d1.img");
    assert_eq!(params["filename"].as_str(), expected.to_str());
}

#[test]
fn a_new_controller_comes_with_the_options_for_qemu() {
    let ran = fake().run(&["vhost", "create", "vm0", "d0"]);
    assert!(ran.out.starts_with("created vm0 on d0\n"), "{}", ran.out);
    assert!(ran.out.contains("-chardev socket,id=vm0,path=/run/spinel/vm0 -device vhost-user-blk-pci,chardev=vm0"), "{}", ran.out);
}

#[test]
fn controllers_are_listed_in_a_table() {
    let ran = fake().run(&["vhost", "ls"]);
    let expected = "NAME DISK ACCESS GUESTS CORES SOCKET\nvm0 d0 read-only 1 0x3 /run/spinel/vm0\n";
    assert_eq!(columns(&ran.out), columns(expected));
}

#[test]
fn stats_show_each_operation_with_its_percentiles_where_there_are_any() {
    let fake = fake();
    let ran = fake.run(&["stats"]);
    let expected = "\
DISK OPERATION COUNT BYTES MEAN P50 P90 P99 P99.9 P99.99 MAX
d0 read 1000 3.91 MiB 21 us 20 us 30 us 45.6 us 1.2 ms 1.3 ms 1.4 ms
d0 write 0 0 B - - - - - - -
d0 flush 7 - 21 us 20 us 30 us 45.6 us 1.2 ms 1.3 ms 1.4 ms
n0 read 0 0 B - - - - - - -
n0 write 1 512 B 3 us - - - - - -
d0: 4 in flight, 2 errors (failed)
";
    assert_eq!(columns(&ran.out), columns(expected));
    fake.calls();
    fake.run(&["stats", "n0", "--reset"]);
    assert_eq!(fake.calls(), [("bdev_get_iostat".into(), json!({"names": ["n0"], "reset_mode": "all"}))]);
}

#[test]
fn cores_show_where_their_time_went_as_far_as_the_daemon_tells() {
    let fake = fake();
    fake.run(&["stats"]);
    let ran = fake.run(&["cores"]);
    let expected = "CORE THREAD BUSY SPIN SLEEP LOOPS\n0 77 10.0 % 30.0 % 60.0 % 12.3k\n5 - 100 % 0 % - -\n";
    assert_eq!(columns(&ran.out), columns(expected));
}

#[test]
fn rpc_reads_its_parameters_from_standard_input() {
    let fake = fake();
    let ran = fake.run_with_input(&["rpc", "some_method", "-"], "{\"name\":\n \"d0\"}\n");
    assert_eq!((ran.code, ran.out.as_str()), (0, "true\n"));
    assert_eq!(fake.calls(), [("some_method".into(), json!({"name": "d0"}))]);
}

#[test]
fn the_version_is_the_programs_and_the_daemons() {
    let ran = fake().run(&["version"]);
    assert_eq!(ran.out, format!("spinelctl  {}\ndaemon     Spinel v9.8.7\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn completions_and_manual_pages_need_no_daemon() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = spinelctl().args(["completion", shell]).output().expect("it runs");
        assert!(script.status.success() && String::from_utf8_lossy(&script.stdout).contains("spinelctl"), "{shell}");
    }
    for (verb, expected) in [(&[][..], "Exit codes"), (&["disk", "create", "delay"], "read\\-p99"), (&["top"], "iterations")] {
        let page = spinelctl().arg("man").args(verb).output().expect("it runs");
        let text = String::from_utf8_lossy(&page.stdout).into_owned();
        assert!(page.status.success() && text.contains(".TH") && text.contains(expected), "{verb:?}: {text}");
    }
    assert_eq!(spinelctl().args(["man", "no-such-verb"]).output().expect("it runs").status.code(), Some(2));
}

#[test]
fn the_socket_is_taken_from_the_environment_where_none_is_named() {
    let fake = fake();
    let ran = spinelctl().arg("log-level").env("SPINEL_RPC_SOCKET", &fake.path).output().expect("it runs");
    assert_eq!(String::from_utf8_lossy(&ran.stdout), "NOTICE\n");
}
