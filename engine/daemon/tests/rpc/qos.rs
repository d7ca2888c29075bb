//! Limits: how they are set and shown, and that they are kept. Knows nothing of how they are kept.

use serde_json::{Value, json};
use spinel_load::{Job, Length, Tally, WireTally};

use crate::guest::Guest;
use crate::harness::Daemon;

const SECOND_NS: u64 = 1_000_000_000;

fn with_disks() -> Daemon {
    let daemon = Daemon::start();
    for name in ["limited", "free"] {
        daemon.done("bdev_null_create", json!({"name": name, "block_size": 512, "num_blocks": 1 << 20}));
    }
    daemon
}

fn limits(daemon: &Daemon, name: &str) -> Value {
    daemon.done("bdev_get_bdevs", json!({"name": name}))[0]["assigned_rate_limits"].take()
}

fn set(daemon: &Daemon, name: &str, limits: Value) {
    let mut params = json!({"name": name});
    params.as_object_mut().unwrap().extend(limits.as_object().unwrap().clone());
    assert_eq!(daemon.done("bdev_set_qos_limit", params), true);
}

fn start(daemon: &Daemon, bdev: &str, job: &Job) -> Value {
    daemon.done("bdev_bench_start", json!({"name": bdev, "job": job, "allow_writes": true}))["id"].take()
}

/// Asks until the bench has ended; answers what it did.
fn ended(daemon: &Daemon, id: &Value) -> Tally {
    let mut client = daemon.client();
    let mut all = Tally::of(|_| false);
    loop {
        let told = client.call("bdev_bench_get", Some(json!({"id": id}))).unwrap();
        for tally in told["tallies"].as_array().unwrap() {
            let wire: WireTally = serde_json::from_value(tally.clone()).unwrap();
            all.add(&Tally::try_from(&wire).unwrap());
        }
        if !told["ended"].is_null() {
            return all;
        }
    }
}

fn requests(count: u64) -> Job {
    Job { depth: 32, length: Length { requests: Some(count), ..Length::default() }, ..Job::new() }
}

#[test]
fn limits_are_shown_kept_apart_and_lifted_one_by_one() {
    let daemon = with_disks();
    let none = json!({
        "rw_ios_per_sec": 0, "rw_mbytes_per_sec": 0, "r_mbytes_per_sec": 0, "w_mbytes_per_sec": 0, "r_ios_per_sec": 0, "w_ios_per_sec": 0,
    });
    assert_eq!(limits(&daemon, "limited"), none);
    // As SPDK's client sends it.
    set(&daemon, "limited", json!({"rw_ios_per_sec": 20_001, "rw_mbytes_per_sec": 100, "r_mbytes_per_sec": 0, "w_mbytes_per_sec": 0}));
    set(&daemon, "limited", json!({"w_ios_per_sec": 7, "w_ios_burst_ms": 500}));
    let shown = limits(&daemon, "limited");
    let mut expected = none.clone();
    for (name, value) in [("rw_ios_per_sec", 20_001), ("rw_ios_burst_ms", 10), ("rw_mbytes_per_sec", 100), ("rw_mbytes_burst_ms", 10)] {
        expected[name] = value.into();
    }
    (expected["w_ios_per_sec"], expected["w_ios_burst_ms"]) = (7.into(), 500.into());
    assert_eq!(shown, expected);
    set(&daemon, "limited", json!({"w_ios_per_sec": 8, "rw_mbytes_per_sec": 0, "rw_ios_burst_ms": 0}));
    let shown = limits(&daemon, "limited");
    assert_eq!((&shown["w_ios_per_sec"], &shown["w_ios_burst_ms"]), (&json!(8), &json!(500)), "a burst stays with its limit");
    assert_eq!((&shown["rw_mbytes_per_sec"], &shown["rw_mbytes_burst_ms"]), (&json!(0), &Value::Null));
    assert_eq!((&shown["rw_ios_per_sec"], &shown["rw_ios_burst_ms"]), (&json!(20_001), &json!(0)));
    set(&daemon, "limited", json!({"w_ios_per_sec": 0, "rw_ios_per_sec": 0}));
    assert_eq!(limits(&daemon, "limited"), none);
    set(&daemon, "limited", json!({"w_ios_per_sec": 9}));
    assert_eq!(limits(&daemon, "limited")["w_ios_burst_ms"], 10, "a lifted limit takes its burst along");
    assert_eq!(limits(&daemon, "free"), none);
    daemon.done("bdev_null_delete", json!({"name": "limited"}));
    daemon.done("bdev_null_create", json!({"name": "limited", "block_size": 512, "num_blocks": 8}));
    assert_eq!(limits(&daemon, "limited"), none, "a limit goes with its bdev");
}

#[test]
fn limits_that_cannot_be_kept_are_refused_and_change_nothing() {
    let daemon = with_disks();
    set(&daemon, "limited", json!({"rw_ios_per_sec": 5, "r_mbytes_per_sec": 5}));
    let before = limits(&daemon, "limited");
    for (params, parts) in [
        (json!({"name": "limited"}), &["no limit is given", "rw_ios_per_sec", "w_ios_per_sec"][..]),
        (json!({"rw_ios_per_sec": 5}), &["name", "missing"]),
        (json!({"name": "limited", "rw_ios_per_sec": -1}), &["rw_ios_per_sec", "-1"]),
        (json!({"name": "limited", "rw_ios_per_sec": null}), &["rw_ios_per_sec"]),
        (json!({"name": "limited", "rw_mbytes_per_sec": 1.5}), &["rw_mbytes_per_sec", "1.5"]),
        (json!({"name": "limited", "rw_iops": 5}), &["rw_iops", "unknown"]),
        (json!({"name": "limited", "rw_ios_per_sec": u64::MAX}), &["rw_ios_per_sec", "18446744073709551615", "1125899906842624"]),
        (json!({"name": "limited", "w_mbytes_per_sec": 1_073_741_825}), &["w_mbytes_per_sec", "1073741825", "1073741824"]),
        (json!({"name": "limited", "rw_ios_per_sec": 9, "r_ios_burst_ms": 9}), &["r_ios_burst_ms", "9", "left out", "r_ios_per_sec"]),
        (json!({"name": "limited", "rw_ios_per_sec": 0, "rw_ios_burst_ms": 9}), &["rw_ios_burst_ms", "9", "left out"]),
        (json!({"name": "limited", "rw_ios_per_sec": 9, "r_mbytes_burst_ms": 3_600_001}), &["r_mbytes_burst_ms", "3600001", "3600000"]),
    ] {
        let message = daemon.refused(-32602, "bdev_set_qos_limit", params.clone());
        assert!(parts.iter().all(|part| message.contains(part)), "{params}: {message}");
    }
    let message = daemon.refused(-19, "bdev_set_qos_limit", json!({"name": "x", "rw_ios_per_sec": 5}));
    assert!(message.contains("'x'"), "{message}");
    assert_eq!(limits(&daemon, "limited"), before);
}

#[test]
fn a_disk_gets_what_its_limit_allows_and_its_core_sleeps_meanwhile() {
    let daemon = with_disks();
    for (limit, per_second) in [(json!({"rw_ios_per_sec": 2_000}), 2_000), (json!({"r_mbytes_per_sec": 4}), 1024)] {
        set(&daemon, "limited", json!({"rw_ios_per_sec": 0, "r_mbytes_per_sec": 0}));
        set(&daemon, "limited", limit);
        let free = start(&daemon, "free", &requests(200_000));
        let limited = start(&daemon, "limited", &requests(1_000));
        let rate = |tally: &Tally| tally.requests() * SECOND_NS / tally.until.since_ns(tally.from);
        let free = rate(&ended(&daemon, &free));
        let before = daemon.done("framework_get_reactors", Value::Null)["reactors"][0].take();
        let tally = ended(&daemon, &limited);
        let after = daemon.done("framework_get_reactors", Value::Null)["reactors"][0].take();
        let got = rate(&tally);
        assert!(tally.requests() == 1_000 && got <= per_second * 105 / 100, "{got} a second of {per_second}");
        assert!(free > per_second * 105 / 100, "the other disk has no limit: {free}");
        let passed = |what: &str| after[what].as_u64().unwrap() - before[what].as_u64().unwrap();
        let (slept_ns, awake_ns) = (passed("sleep"), passed("busy") + passed("spin"));
        println!("limited to {per_second}: {got} a second, asleep {slept_ns} ns, awake {awake_ns} ns; without a limit {free} a second");
        assert!(slept_ns > awake_ns, "asleep {slept_ns} ns, awake {awake_ns} ns");
    }
}

#[test]
fn a_bench_that_is_stopped_does_not_wait_for_its_limit() {
    let daemon = with_disks();
    set(&daemon, "limited", json!({"r_ios_per_sec": 1}));
    let id = start(&daemon, "limited", &Job { depth: 64, ..Job::new() });
    assert_eq!(daemon.done("bdev_bench_stop", json!({"id": id}))["ended"], "stopped");
}

#[test]
fn a_change_wakes_a_core_that_sleeps_because_of_what_is_owed() {
    let daemon = with_disks();
    set(&daemon, "limited", json!({"r_ios_per_sec": 1}));
    // A request for each of the next 64 seconds, all in its first turn; what it owes stays when it ends.
    let id = start(&daemon, "limited", &Job { depth: 64, batch: 64, ..Job::new() });
    daemon.done("bdev_bench_stop", json!({"id": id}));
    let id = start(&daemon, "limited", &Job { interval_ns: u64::MAX, ..requests(1) });
    let before = ticks(&daemon);
    set(&daemon, "limited", json!({"r_ios_per_sec": 1_000_000}));
    assert_eq!(ended(&daemon, &id).requests(), 1);
    let took_ns = ticks(&daemon) - before;
    assert!(took_ns < 30 * SECOND_NS, "{took_ns} ns: it slept on");
}

/// A guest on a bdev that is made of `limited`.
fn served() -> (Daemon, Guest) {
    let daemon = with_disks();
    daemon.done("bdev_error_create", json!({"base_name": "limited"}));
    daemon.done("vhost_create_blk_controller", json!({"ctrlr": "vm0", "dev_name": "EE_limited"}));
    let guest = Guest::connect(&daemon.folder().join("vhost/vm0"));
    (daemon, guest)
}

fn ticks(daemon: &Daemon) -> u64 {
    daemon.done("bdev_get_iostat", Value::Null)["ticks"].as_u64().unwrap()
}

/// Zeroes so often, with up to 16 requests in flight.
fn zero(guest: &mut Guest, count: usize) {
    let mut sent = 0;
    for done in 0..count {
        while sent < count && sent - done < 16 {
            guest.write_zeroes(4096);
            sent += 1;
        }
        assert_eq!(guest.ended(), 0, "request {done}");
    }
}

#[test]
fn a_limit_below_a_layer_is_kept_from_the_first_to_the_last() {
    let (daemon, mut guest) = served();
    zero(&mut guest, 100);
    for limit in ["rw_ios", "w_ios"] {
        set(&daemon, "limited", json!({format!("{limit}_per_sec"): 1_000, format!("{limit}_burst_ms"): 0}));
        // Answered once the queues have reopened.
        guest.capacity_bytes();
        let before = ticks(&daemon);
        zero(&mut guest, 300);
        let took_ns = ticks(&daemon) - before;
        assert!(took_ns >= 300 * SECOND_NS / 1_050, "{limit}: 300 took {took_ns} ns at 1,000 a second");
        set(&daemon, "limited", json!({format!("{limit}_per_sec"): 0}));
        guest.capacity_bytes();
        zero(&mut guest, 1_000);
    }
}

#[test]
fn limits_that_come_and_go_under_load_lose_no_request() {
    let (daemon, mut guest) = served();
    let mut in_flight = 0;
    for round in 0..60 {
        while in_flight < 16 {
            guest.write_zeroes(4096);
            in_flight += 1;
        }
        let limit = match round % 6 {
            0 => json!({"rw_ios_per_sec": 1, "rw_ios_burst_ms": 0}),
            1 => json!({"rw_ios_per_sec": 4_000}),
            2 => json!({"w_ios_per_sec": 1, "w_ios_burst_ms": 0}),
            3 => json!({"rw_ios_per_sec": 0}),
            4 => json!({"w_ios_per_sec": 3_000, "r_mbytes_per_sec": 1}),
            _ => json!({"w_ios_per_sec": 0, "r_mbytes_per_sec": 0}),
        };
        set(&daemon, "limited", limit);
        let crawls = round % 6 == 0 || round % 6 == 2 || round % 6 == 3;
        for _ in 0..if crawls { 0 } else { in_flight } {
            assert_eq!(guest.ended(), 0);
            in_flight -= 1;
        }
    }
    assert_eq!(in_flight, 0);
    let counts = daemon.done("bdev_get_iostat", json!({"names": ["EE_limited"]}));
    assert_eq!(counts["bdevs"][0]["io_error"], json!({}));
}

#[test]
fn a_guest_that_leaves_does_not_wait_for_its_limit() {
    let (daemon, mut guest) = served();
    set(&daemon, "limited", json!({"w_ios_per_sec": 1}));
    guest.capacity_bytes();
    for _ in 0..16 {
        guest.write_zeroes(4096);
    }
    assert_eq!(guest.ended(), 0);
    let count = |what: &str| daemon.done("bdev_get_iostat", json!({"names": ["EE_limited"]}))["bdevs"][0][what].take();
    while count("in_flight") != 15 {}
    daemon.done("vhost_delete_controller", json!({"ctrlr": "vm0"}));
    assert_eq!(count("num_write_zeroes_ops"), 16);
}
