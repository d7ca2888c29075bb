//! What the RPC tells, and does, while a guest uses a disk. Knows nothing of how it is served.

use serde_json::{Value, json};

use crate::guest::Guest;
use crate::harness::{Daemon, file};

/// A daemon that serves `bdev`, which `make` makes, as `vm0`.
fn serving(make: impl FnOnce(&Daemon), bdev: &str) -> (Daemon, Guest) {
    let daemon = Daemon::start();
    make(&daemon);
    daemon.done("vhost_create_blk_controller", json!({"ctrlr": "vm0", "dev_name": bdev}));
    let guest = Guest::connect(&daemon.folder().join("vhost/vm0"));
    (daemon, guest)
}

fn memory(daemon: &Daemon) {
    daemon.done("bdev_malloc_create", json!({"name": "m", "block_size": 512, "num_blocks": 2048}));
}

/// Memory with an error bdev over it, `EE_m`.
fn faulty(daemon: &Daemon) {
    memory(daemon);
    daemon.done("bdev_error_create", json!({"base_name": "m"}));
}

fn inject(daemon: &Daemon, io_type: &str, error_type: &str) {
    daemon.done("bdev_error_inject_error", json!({"name": "EE_m", "io_type": io_type, "error_type": error_type}));
}

fn counts(daemon: &Daemon, bdev: &str) -> Value {
    daemon.done("bdev_get_iostat", json!({"names": [bdev]}))["bdevs"][0].take()
}

#[test]
fn what_a_guest_does_is_counted_and_a_reset_starts_anew() {
    let (daemon, mut guest) = serving(memory, "m");
    guest.flush();
    assert_eq!(guest.ended(), 0);
    guest.discard(64 << 10);
    assert_eq!(guest.ended(), 0);
    for _ in 0..3 {
        guest.write_zeroes(4096);
        assert_eq!(guest.ended(), 0);
    }
    let m = counts(&daemon, "m");
    assert_eq!((&m["num_flush_ops"], &m["num_write_zeroes_ops"], &m["num_unmap_ops"]), (&json!(1), &json!(3), &json!(1)));
    assert_eq!((&m["bytes_write_zeroes"], &m["bytes_unmapped"]), (&json!(3 * 4096), &json!(64 << 10)));
    let zeroed = &m["percentiles"]["write_zeroes"];
    let [p50, p99, max, mean] = ["p50", "p99", "max", "mean"].map(|name| zeroed[name].as_u64().unwrap());
    assert!(zeroed["count"] == 3 && 0 < p50 && p50 <= p99 && p99 <= max && 0 < mean && mean <= max, "{zeroed}");
    assert!(m["unmap_latency_ticks"] == m["max_unmap_latency_ticks"], "{m}");
    let histogram = spinel_control::histogram::from_spdk(&daemon.done("bdev_get_histogram", json!({"name": "m"}))).unwrap();
    assert_eq!(histogram.iter().map(|(_, _, count)| count).sum::<u64>(), 5);
    let channels = daemon.done("bdev_get_iostat", json!({"names": ["m"], "per_channel": true}));
    assert_eq!((&channels["channels"][0]["thread_id"], &channels["channels"][0]["num_write_zeroes_ops"]), (&json!(1), &json!(3)));

    daemon.done("bdev_reset_iostat", json!({"name": "m"}));
    guest.flush();
    assert_eq!(guest.ended(), 0);
    let m = counts(&daemon, "m");
    assert_eq!((&m["num_flush_ops"], &m["num_write_zeroes_ops"], &m["bytes_unmapped"]), (&json!(1), &json!(0), &json!(0)));
    daemon.done("bdev_enable_histogram", json!({"name": "m", "enable": true, "opc": "flush"}));
    guest.flush();
    guest.ended();
    guest.write_zeroes(512);
    guest.ended();
    let histogram = spinel_control::histogram::from_spdk(&daemon.done("bdev_get_histogram", json!({"name": "m"}))).unwrap();
    assert_eq!(histogram.iter().map(|(_, _, count)| count).sum::<u64>(), 1);
    drop(guest);
    assert_eq!(counts(&daemon, "m")["num_flush_ops"], 2, "what a guest that left did stays counted");
}

#[test]
fn a_running_queue_is_listed_with_its_core() {
    let (daemon, guest) = serving(memory, "m");
    // Answered by the session's thread after it has told what it did before.
    assert_eq!(guest.capacity_bytes(), 1 << 20);
    let shown = daemon.done("vhost_get_controllers", json!({"name": "vm0"}));
    let session = &shown[0]["sessions"][0];
    assert_eq!((&shown[0]["state"], &session["name"], &session["started"]), (&json!("connected"), &json!("vm0s0"), &json!(true)));
    assert_eq!((&session["queues"][0]["index"], &session["queues"][0]["size"]), (&json!(0), &json!(64)));
    let reactors = daemon.done("framework_get_reactors", Value::Null);
    assert_eq!(session["queues"][0]["lcore"], reactors["reactors"][0]["lcore"]);
    assert_eq!(daemon.done("thread_get_pollers", Value::Null)["threads"][0]["active_pollers"][0]["name"], "vm0/q0");
    assert_eq!(daemon.done("thread_get_io_channels", Value::Null)["threads"][0]["io_channels"], json!([{"name": "m", "ref": 1}]));
    assert_eq!(daemon.done("thread_get_stats", Value::Null)["threads"][0]["active_pollers_count"], 1);
}

#[test]
fn an_injected_error_fails_exactly_the_requests_it_was_meant_for() {
    let (daemon, mut guest) = serving(faulty, "EE_m");
    inject(&daemon, "flush", "failure");
    guest.write_zeroes(512);
    assert_eq!(guest.ended(), 0);
    guest.flush();
    assert!(guest.ended() < 0);
    guest.flush();
    assert_eq!(guest.ended(), 0);
    assert_eq!(counts(&daemon, "EE_m")["io_error"], json!({"failed": 1}));
    assert_eq!(daemon.done("bdev_reset_iostat", json!({"mode": "error"})), true);
    assert_eq!(counts(&daemon, "EE_m")["io_error"], json!({}));
}

#[test]
fn faults_without_an_error_are_injected_by_names_of_our_own() {
    let (daemon, mut guest) = serving(faulty, "EE_m");
    for (io_type, error_type) in [("write", "misdirect_write"), ("all", "lose_write"), ("write", "tear_write"), ("read", "stale_read")] {
        inject(&daemon, io_type, error_type);
    }
    guest.write_zeroes(512);
    assert_eq!(guest.ended(), 0, "zeroes are never touched");
}

#[test]
fn a_request_held_back_is_in_flight_until_it_is_resumed() {
    let (daemon, mut guest) = serving(faulty, "EE_m");
    inject(&daemon, "flush", "pending");
    guest.flush();
    guest.write_zeroes(512);
    assert_eq!(guest.ended(), 0, "the zeroes, which were not held back");
    // The core may not have counted the zeroes out yet.
    assert!(counts(&daemon, "EE_m")["in_flight"].as_u64().unwrap() >= 1);
    // The core sleeps by now, as likely as not; resuming wakes it.
    daemon.done("bdev_error_resume_pending", json!({"name": "EE_m"}));
    assert_eq!(guest.ended(), 0);
    daemon.done("vhost_delete_controller", json!({"ctrlr": "vm0"}));
    assert_eq!(counts(&daemon, "EE_m")["in_flight"], 0);
}

#[test]
fn a_daemon_that_stops_lets_go_of_what_it_holds_back() {
    let (daemon, mut guest) = serving(faulty, "EE_m");
    inject(&daemon, "flush", "pending");
    guest.flush();
    guest.write_zeroes(512);
    guest.ended();
    let ended = daemon.stop();
    assert!(ended.status.success(), "{}", ended.log);
}

#[test]
fn a_second_signal_ends_a_stop_that_takes_its_time() {
    let (mut daemon, mut guest) = serving(faulty, "EE_m");
    inject(&daemon, "flush", "pending");
    guest.flush();
    guest.write_zeroes(512);
    guest.ended();
    // Takes until the drain deadline, and a method under way is waited for.
    let mut client = daemon.client();
    let delete = move || client.call("vhost_delete_controller", Some(json!({"ctrlr": "vm0"})));
    let deletes = std::thread::Builder::new().spawn(delete).unwrap();
    daemon.wait_for_log("the controller is stopped");
    daemon.signal(rustix::process::Signal::TERM);
    daemon.wait_for_log("another signal ends");
    daemon.signal(rustix::process::Signal::INT);
    let ended = daemon.wait();
    assert!(ended.status.code() == Some(1) && !ended.log.contains("NOTICE  stopped"), "{}", ended.log);
    assert!(deletes.join().unwrap().is_err());
}

#[test]
fn a_controller_whose_requests_do_not_come_back_is_busy_until_they_do() {
    let (daemon, mut guest) = serving(faulty, "EE_m");
    inject(&daemon, "flush", "pending");
    guest.flush();
    guest.write_zeroes(512);
    guest.ended();
    let message = daemon.refused(-16, "vhost_delete_controller", json!({"ctrlr": "vm0"}));
    assert!(message.contains("vm0") && message.contains("1 request"), "{message}");
    assert_eq!(daemon.done("vhost_get_controllers", Value::Null)[0]["state"], "quarantined");
    daemon.refused(-16, "bdev_error_delete", json!({"name": "EE_m"}));
    let message = daemon.refused(-16, "vhost_create_blk_controller", json!({"ctrlr": "vm1", "dev_name": "EE_m"}));
    assert!(message.contains("'vm0'") && message.contains("an old write"), "{message}");
    daemon.done("bdev_error_resume_pending", json!({"name": "EE_m"}));
    daemon.done("vhost_delete_controller", json!({"ctrlr": "vm0"}));
    daemon.done("bdev_error_delete", json!({"name": "EE_m"}));
}

#[test]
fn a_guest_sees_its_disk_grow_through_every_layer() {
    let make = |daemon: &Daemon| {
        file(daemon.folder(), "disk", 1 << 20);
        daemon.done("bdev_uring_create", json!({"name": "u", "filename": "disk"}));
        daemon.done("bdev_error_create", json!({"base_name": "u"}));
    };
    let (daemon, guest) = serving(make, "EE_u");
    assert_eq!(guest.capacity_bytes(), 1 << 20);
    std::fs::File::options().write(true).open(daemon.folder().join("disk")).unwrap().set_len(3 << 20).unwrap();
    daemon.done("bdev_uring_rescan", json!({"name": "u"}));
    assert_eq!(guest.capacity_bytes(), 3 << 20);
    assert_eq!(daemon.done("bdev_get_bdevs", json!({"name": "EE_u"}))[0]["num_blocks"], 3 * 2048);
}

#[test]
fn deleting_a_controller_ends_its_guests_session() {
    let (daemon, mut guest) = serving(memory, "m");
    guest.flush();
    guest.ended();
    daemon.done("vhost_delete_controller", json!({"ctrlr": "vm0"}));
    assert_eq!(daemon.done("thread_get_stats", Value::Null)["threads"][0]["active_pollers_count"], 0);
    daemon.done("bdev_malloc_delete", json!({"name": "m"}));
    daemon.lives();
}

#[test]
fn both_modes_serve() {
    for mode in ["poll", "adaptive"] {
        let daemon = Daemon::start_with(tempfile::TempDir::new().unwrap(), ["--mode", mode, "--no-pin", "--spin-us", "0"]);
        memory(&daemon);
        daemon.done("vhost_create_blk_controller", json!({"ctrlr": "vm0", "dev_name": "m", "cpumask": "0x2"}));
        let mut guest = Guest::connect(&daemon.folder().join("vhost/vm0"));
        let mut flush = || {
            guest.flush();
            assert_eq!(guest.ended(), 0);
        };
        // Before there is a queue to poll, it sleeps in any mode; what it has counted until then is told with its next turns.
        let counted = |what: &str| daemon.done("framework_get_reactors", Value::Null)["reactors"][0][what].clone();
        flush();
        let told = counted("loops");
        while counted("loops") == told {
            flush();
        }
        let sleeps = || counted("sleeps");
        let before = sleeps();
        (0..100).for_each(|_| flush());
        assert_eq!(sleeps() == before, mode == "poll", "{mode}: {before} sleeps before");
        assert!(daemon.stop().status.success());
    }
}

#[test]
fn guest_memory_is_pinned_where_that_is_asked_for() {
    let mut daemon = Daemon::start_with(tempfile::TempDir::new().unwrap(), ["--pin-guest-memory", "--log-level", "INFO"]);
    memory(&daemon);
    daemon.done("vhost_create_blk_controller", json!({"ctrlr": "vm0", "dev_name": "m"}));
    let mut guest = Guest::connect(&daemon.folder().join("vhost/vm0"));
    guest.flush();
    assert_eq!(guest.ended(), 0);
    daemon.wait_for_log("guest memory are pinned");
    guest.flush();
    assert_eq!(guest.ended(), 0);
}

#[test]
fn a_file_that_was_served_is_free_once_its_bdev_is_deleted() {
    let make = |daemon: &Daemon| {
        file(daemon.folder(), "disk", 1 << 20);
        daemon.done("bdev_uring_create", json!({"name": "u", "filename": "disk"}));
    };
    let (daemon, mut guest) = serving(make, "u");
    guest.write_zeroes(4096);
    assert_eq!(guest.ended(), 0);
    guest.flush();
    assert_eq!(guest.ended(), 0);
    daemon.done("vhost_delete_controller", json!({"ctrlr": "vm0"}));
    daemon.done("bdev_uring_delete", json!({"name": "u"}));
    let disk = std::fs::File::open(daemon.folder().join("disk")).unwrap();
    rustix::fs::flock(&disk, rustix::fs::FlockOperation::NonBlockingLockExclusive).expect("nobody holds its lock");
}
