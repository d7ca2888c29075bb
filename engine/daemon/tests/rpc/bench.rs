//! Loads inside the engine: what they tell, how they end, what they hold. Knows nothing of how requests are chosen.

use serde_json::{Value, json};
use spinel_core::OpKind;
use spinel_load::{Ended, Job, Length, Mix, Order, Sizes, Tally, WireTally};

use crate::harness::{Daemon, file};

fn with_disks() -> Daemon {
    let daemon = Daemon::start();
    daemon.done("bdev_null_create", json!({"name": "n", "block_size": 512, "num_blocks": 1 << 20}));
    daemon.done("bdev_malloc_create", json!({"name": "m", "block_size": 512, "num_blocks": 1 << 15}));
    daemon
}

fn requests(count: u64) -> Length {
    Length { requests: Some(count), ..Length::default() }
}

pub(crate) fn start(daemon: &Daemon, bdev: &str, job: &Job) -> Value {
    daemon.done("bdev_bench_start", json!({"name": bdev, "job": job, "allow_writes": job.mix.changes_data()}))["id"].take()
}

/// Adds what is told to `all`; answers whether the bench has ended.
pub(crate) fn add(all: &mut Tally, told: &Value) -> bool {
    for tally in told["tallies"].as_array().unwrap() {
        let wire: WireTally = serde_json::from_value(tally.clone()).unwrap();
        all.add(&Tally::try_from(&wire).unwrap());
    }
    !told["ended"].is_null()
}

/// Asks until the bench has ended; answers all that it told.
pub(crate) fn ended(daemon: &Daemon, id: &Value) -> Tally {
    let mut client = daemon.client();
    let mut all = Tally::of(|_| false);
    while !add(&mut all, &client.call("bdev_bench_get", Some(json!({"id": id}))).unwrap()) {}
    all
}

#[test]
fn the_tallies_of_a_bench_add_up_to_exactly_what_was_asked_for() {
    let daemon = with_disks();
    let job = Job { depth: 32, interval_ns: 1_000_000, length: requests(50_000), ..Job::new() };
    let all = ended(&daemon, &start(&daemon, "n", &job));
    assert_eq!((all.requests(), all.ended), (50_000, Some(Ended::Done)));
    assert_eq!(all.ops[OpKind::Read.index()].as_ref().unwrap().bytes, 50_000 * 4096);
    assert!(all.until > all.from);

    let mix = Mix { read: 50, write: 40, flush: 2, discard: 4, write_zeroes: 4 };
    let sizes = Sizes { min_bytes: 512, max_bytes: 16_384 };
    let job = Job { mix, sizes, order: Order::Zipf { theta: 0.99 }, fua: true, flush_every: 100, warm_up_ns: 1_000_000, ..job };
    let all = ended(&daemon, &start(&daemon, "m", &job));
    let ops: Vec<_> = all.ops.iter().flatten().collect();
    assert_eq!((all.requests(), ops.len()), (50_000, 5));
    assert!(ops.iter().all(|op| op.requests() > 100 && op.errors() == 0));
}

#[test]
fn a_bench_tells_where_it_runs_and_each_tally_once() {
    let daemon = with_disks();
    let core = daemon.done("framework_get_reactors", Value::Null)["reactors"][0]["lcore"].take();
    let id =
        daemon.done("bdev_bench_start", json!({"name": "n", "job": Job { length: requests(10), ..Job::new() }, "core": core}))["id"].take();
    assert_eq!(ended(&daemon, &id).requests(), 10);
    let told = daemon.done("bdev_bench_get", json!({"id": id}));
    assert_eq!((&told["id"], &told["name"], &told["core"], &told["ended"]), (&id, &json!("n"), &core, &json!("done")));
    assert_eq!((&told["tallies"], &told["geometry"]["num_blocks"]), (&json!([]), &json!(1 << 20)));
    assert_eq!(told["geometry"]["block_size"], 512);
    daemon.done("bdev_bench_stop", json!({"id": id}));
    daemon.refused(-19, "bdev_bench_get", json!({"id": id}));
}

#[test]
fn a_bench_without_a_length_runs_until_it_is_stopped() {
    let daemon = with_disks();
    let id = start(&daemon, "n", &Job { depth: 4, interval_ns: 1_000_000, ..Job::new() });
    let pollers = || daemon.done("thread_get_pollers", Value::Null)["threads"][0]["active_pollers"].take();
    assert_eq!(pollers()[0]["name"], format!("bench/{id}"));
    assert_eq!(daemon.done("thread_get_io_channels", Value::Null)["threads"][0]["io_channels"], json!([{"name": "n", "ref": 1}]));
    let mut all = Tally::of(|_| false);
    while all.requests() == 0 {
        assert!(!add(&mut all, &daemon.done("bdev_bench_get", json!({"id": id}))), "nobody stopped it");
    }
    assert!(add(&mut all, &daemon.done("bdev_bench_stop", json!({"id": id}))));
    assert_eq!((all.ended, pollers()), (Some(Ended::Stopped), json!([])));
    daemon.refused(-19, "bdev_bench_stop", json!({"id": id}));
    assert_eq!(daemon.done("thread_get_stats", Value::Null)["threads"][0]["active_pollers_count"], 0);
}

#[test]
fn a_bench_holds_its_bdev_until_it_is_over() {
    let daemon = with_disks();
    file(daemon.folder(), "disk", 1 << 20);
    daemon.done("bdev_uring_create", json!({"name": "u", "filename": "disk"}));
    let id = start(&daemon, "u", &Job::new());
    let message = daemon.refused(-16, "bdev_uring_delete", json!({"name": "u"}));
    assert!(message.contains("'u'") && message.contains(&format!("bench {id}")), "{message}");
    daemon.refused(-16, "bdev_error_create", json!({"base_name": "u"}));
    daemon.done("bdev_bench_stop", json!({"id": id}));
    // One that has ended by itself holds nothing, though nobody has stopped it.
    ended(&daemon, &start(&daemon, "u", &Job { length: requests(100), ..Job::new() }));
    daemon.done("bdev_uring_delete", json!({"name": "u"}));
    let disk = std::fs::File::open(daemon.folder().join("disk")).unwrap();
    rustix::fs::flock(&disk, rustix::fs::FlockOperation::NonBlockingLockExclusive).expect("nobody holds its lock");
}

#[test]
fn nobody_elses_data_is_written_over() {
    let daemon = with_disks();
    daemon.done("bdev_malloc_create", json!({"name": "base", "block_size": 512, "num_blocks": 2048}));
    daemon.done("bdev_error_create", json!({"base_name": "base"}));
    daemon.done("vhost_create_blk_controller", json!({"ctrlr": "vm0", "dev_name": "m"}));
    let reads = Job { length: requests(100), ..Job::new() };
    let writes = Job { mix: Mix { write: 100, ..Mix::default() }, ..reads.clone() };
    for bdev in ["base", "m"] {
        assert_eq!(ended(&daemon, &start(&daemon, bdev, &reads)).requests(), 100, "reading is allowed");
    }
    let refused = |code: i32, bdev: &str, allow: bool, parts: &[&str]| {
        let message = daemon.refused(code, "bdev_bench_start", json!({"name": bdev, "job": writes, "allow_writes": allow}));
        assert!(parts.iter().all(|part| message.contains(part)), "{message}");
    };
    refused(-32602, "n", false, &["allow_writes", "true", "'n'"]);
    refused(-16, "m", true, &["'m'", "controller 'vm0'", "only read"]);
    refused(-16, "base", true, &["'base'", "bdev 'EE_base'"]);
    // And while a bench writes, no guest comes.
    let id = start(&daemon, "n", &Job { length: Length::default(), ..writes.clone() });
    let message = daemon.refused(-16, "vhost_create_blk_controller", json!({"ctrlr": "vm1", "dev_name": "n"}));
    assert!(message.contains(&format!("bench {id} writes")), "{message}");
    daemon.done("bdev_bench_stop", json!({"id": id}));
    daemon.done("vhost_create_blk_controller", json!({"ctrlr": "vm1", "dev_name": "n"}));
}

#[test]
fn jobs_that_make_no_sense_are_refused_and_leave_nothing() {
    let daemon = with_disks();
    file(daemon.folder(), "disk", 1 << 20);
    daemon.done("bdev_aio_create", json!({"name": "reader", "filename": "disk", "readonly": true}));
    let job = |change: Value| {
        let mut job = serde_json::to_value(Job::new()).unwrap();
        job.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        json!({"name": "n", "job": job, "allow_writes": true})
    };
    let large = u64::MAX;
    for (params, parts) in [
        (json!({"name": "n"}), &["job", "missing"][..]),
        (json!({"name": "n", "job": null}), &["job"]),
        (json!({"name": "n", "job": 7}), &["job"]),
        (json!({"name": "n", "job": {}}), &["job", "mix"]),
        (job(json!({"speed": 9})), &["job", "speed"]),
        (job(json!({"mix": {"read": 50}})), &["50 percent"]),
        (job(json!({"mix": {"read": 300}})), &["300"]),
        (job(json!({"mix": {"read": 100, "trim": 1}})), &["trim"]),
        (job(json!({"depth": 0})), &["depth of 0"]),
        (job(json!({"depth": 65_536})), &["65536"]),
        (job(json!({"depth": -1})), &["-1"]),
        (job(json!({"order": "random"})), &["random"]),
        (job(json!({"order": {"zipf": {"theta": 0.0}}})), &["Zipf"]),
        (job(json!({"order": {"hot_spot": {"requests": 100, "area": 1}}})), &["hot spot"]),
        (job(json!({"arrival": {"steady": {"per_second": 0}}})), &["rate of 0"]),
        (job(json!({"arrival": {"poisson": {"per_second": -1.0}}})), &["rate of -1"]),
        (job(json!({"sizes": {"min_bytes": 0, "max_bytes": 0}})), &["0 to 0"]),
        (job(json!({"sizes": {"min_bytes": 512, "max_bytes": 1000}})), &["1000", "512"]),
        (job(json!({"sizes": {"min_bytes": 512, "max_bytes": 1 << 30}})), &["1073741824"]),
        (job(json!({"area": {"start_bytes": large - 511}})), &["'n'", "beyond"]),
        (job(json!({"area": {"start_bytes": 512, "len_bytes": large - 511}})), &["beyond"]),
        (job(json!({"area": {"len_bytes": 512}})), &["512", "nothing fits"]),
        (job(json!({"interval_ns": 1})), &["interval"]),
        (job(json!({"depth": 65_535, "sizes": {"min_bytes": 65_536, "max_bytes": 65_536}})), &["memory", "depth"]),
        (json!({"name": "n", "job": Job::new(), "core": 1000}), &["core", "1000", "runs on"]),
        (json!({"name": "n", "job": Job::new(), "core": -1}), &["core", "-1"]),
        (json!({"name": "n", "job": Job::new(), "allow_writes": "yes"}), &["allow_writes"]),
        (json!({"name": "n", "job": Job::new(), "depth": 1}), &["depth", "unknown"]),
        (json!({"name": "reader", "job": Job { mix: Mix { write: 100, ..Mix::default() }, ..Job::new() }}), &["read-only"]),
    ] {
        let message = daemon.refused(-32602, "bdev_bench_start", params.clone());
        assert!(parts.iter().all(|part| message.contains(part)), "{params}: {message}");
    }
    daemon.refused(-19, "bdev_bench_start", json!({"name": "x", "job": Job::new()}));
    for method in ["bdev_bench_get", "bdev_bench_stop"] {
        daemon.refused(-19, method, json!({"id": 1}));
        daemon.refused(-32602, method, json!({"id": "1"}));
        daemon.refused(-32602, method, Value::Null);
    }
    assert_eq!(daemon.done("thread_get_stats", Value::Null)["threads"][0]["active_pollers_count"], 0);
    for kind in ["null", "malloc"] {
        daemon.done(&format!("bdev_{kind}_delete"), json!({"name": kind[..1]}));
    }
}

#[test]
fn extreme_jobs_are_survived() {
    let daemon = with_disks();
    for job in [
        Job { depth: u16::MAX, length: requests(200_000), ..Job::new() },
        Job { length: requests(0), ..Job::new() },
        Job { warm_up_ns: u64::MAX, interval_ns: u64::MAX, ..Job::new() },
        Job { arrival: spinel_load::Arrival::Steady { per_second: f64::MIN_POSITIVE }, ..Job::new() },
        Job { arrival: spinel_load::Arrival::Poisson { per_second: f64::MAX }, length: requests(1000), ..Job::new() },
    ] {
        let id = start(&daemon, "n", &job);
        let mut all = Tally::of(|_| false);
        assert!(add(&mut all, &daemon.done("bdev_bench_stop", json!({"id": id}))));
        daemon.lives();
    }
}

#[test]
fn only_so_many_benches_run_and_those_that_ended_make_room() {
    let daemon = with_disks();
    let slow = Job { arrival: spinel_load::Arrival::Steady { per_second: 1.0 }, ..Job::new() };
    let short = start(&daemon, "n", &Job { length: requests(1), ..Job::new() });
    for _ in 1..64 {
        start(&daemon, "n", &slow);
    }
    ended(&daemon, &short);
    let last = start(&daemon, "n", &slow);
    daemon.refused(-19, "bdev_bench_get", json!({"id": short}));
    let message = daemon.refused(-28, "bdev_bench_start", json!({"name": "n", "job": slow}));
    assert!(message.contains("64"), "{message}");
    daemon.done("bdev_bench_stop", json!({"id": last}));
    start(&daemon, "n", &slow);
    assert!(daemon.stop().status.success(), "benches that run do not keep the daemon");
}

#[test]
fn a_bench_whose_requests_do_not_come_back_stays_until_they_do() {
    let daemon = with_disks();
    daemon.done("bdev_error_create", json!({"base_name": "m"}));
    daemon.done("bdev_error_inject_error", json!({"name": "EE_m", "io_type": "read", "error_type": "pending"}));
    let id = start(&daemon, "EE_m", &Job::new());
    let message = daemon.refused(-16, "bdev_bench_stop", json!({"id": id}));
    assert!(message.contains("'EE_m'") && message.contains("not come back"), "{message}");
    daemon.refused(-16, "bdev_error_delete", json!({"name": "EE_m"}));
    daemon.done("bdev_error_resume_pending", json!({"name": "EE_m"}));
    assert_eq!(daemon.done("bdev_bench_stop", json!({"id": id}))["ended"], "stopped");
    daemon.done("bdev_error_delete", json!({"name": "EE_m"}));
}
