//! One daemon takes over from another, and what happens when either dies. Knows no guest's driver.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use rustix::process::Signal;
use serde_json::{Value, json};
use spinel_handover::VERSION;
use tempfile::TempDir;

use crate::guest::Guest;
use crate::harness::{Daemon, command, file};
use crate::load::Loads;
use crate::successor::Played;

const BUSY: i32 = -16;

/// A daemon with a disk in a file and one in memory, each served.
fn daemon() -> Daemon {
    let daemon = Daemon::start();
    let path = file(daemon.folder(), "disk", 8 << 20);
    daemon.done("bdev_uring_create", json!({"name": "file", "filename": path, "block_size": 512}));
    daemon.done("bdev_malloc_create", json!({"name": "memory", "block_size": 512, "num_blocks": 16384}));
    for (ctrlr, bdev) in [("vm0", "file"), ("vm1", "memory")] {
        daemon.done("vhost_create_blk_controller", json!({"ctrlr": ctrlr, "dev_name": bdev}));
    }
    daemon
}

fn socket(daemon: &Daemon, ctrlr: &str) -> PathBuf {
    daemon.folder().join("vhost").join(ctrlr)
}

fn loads(daemon: &Daemon) -> Loads {
    let mut loads = Loads::start();
    loads.add(&socket(daemon, "vm0"), false);
    loads.add(&socket(daemon, "vm1"), true);
    loads.wait_for(100);
    loads
}

#[test]
fn five_daemons_after_one_another_serve_guests_that_notice_nothing() {
    let mut daemon = daemon();
    daemon.done(
        "bdev_set_qos_limit",
        json!({"name": "file", "rw_ios_per_sec": 1_000_000, "w_mbytes_per_sec": 4000, "w_mbytes_burst_ms": 250}),
    );
    daemon.done("framework_set_scheduler", json!({"name": "dynamic", "period": 500_000}));
    let shown = |daemon: &Daemon| {
        [("bdev_get_bdevs", Value::Null), ("framework_get_config", json!({"name": "vhost_blk"})), ("framework_get_scheduler", Value::Null)]
            .map(|(method, params)| daemon.done(method, params))
    };
    let before = shown(&daemon);
    let mut loads = loads(&daemon);
    for number in 1..=5 {
        let pid = daemon.pid();
        let (status, log) = daemon.take_over([""; 0]);
        assert!(status.success() && log.contains("this one ends"), "{status}: {log}");
        assert_ne!(daemon.pid(), pid);
        loads.wait_for(100);
        let told = daemon.done("spinel_get_takeovers", Value::Null);
        assert_eq!((&told["takeovers"], &told["blackouts"]), (&json!(number), &json!(2 * number)), "{told}");
        assert_eq!(told["last"].as_array().unwrap().len(), 2);
    }
    assert_eq!(shown(&daemon), before, "names, UUIDs, sizes, limits and the scheduler are what they were");
    assert!(loads.finish() > 1000);
    let other = daemon.refused(BUSY, "bdev_aio_create", json!({"name": "again", "filename": daemon.folder().join("disk")}));
    assert!(other.contains("'file'"), "{other}");
    let ended = daemon.stop();
    assert!(ended.status.success(), "{}", ended.log);
    let left: Vec<_> = ended.folder.path().join("vhost").read_dir().unwrap().collect();
    assert!(left.is_empty() && !ended.folder.path().join("rpc.sock").exists(), "sockets go with the last: {left:?}");
}

#[test]
fn a_successor_that_vanishes_at_any_step_changes_nothing() {
    let mut daemon = daemon();
    let mut loads = loads(&daemon);
    type Step = fn(&mut Played);
    let offered: Step = |played| {
        let offer = played.hear();
        let offer = &offer["Offer"];
        assert_eq!((offer["files"].as_array().unwrap().len(), offer["memories"].as_array().unwrap().len()), (1, 1), "{offer}");
        assert!(played.fds() > 10);
    };
    let ready: Step = |played| played.say(json!("Ready"));
    let stopped: Step = |played| {
        let stopped = played.hear();
        assert!(stopped["Stopped"][1][1]["since_ns"].as_u64() > Some(0), "{stopped}");
    };
    let prepared: Step = |played| {
        // What it would be told now must not be lost on it.
        played.deafen();
        played.say(json!("Prepared"));
    };
    let failed: Step = |played| played.say(json!({"Failed": "a reason of its own"}));
    let out_of_turn: Step = |played| played.say(json!("Serving"));
    let strange: Step = |played| played.say(json!({"Prepared": 1}));
    let ways: [(&[Step], &str); 8] = [
        (&[], "closed the connection"),
        (&[offered], "closed the connection"),
        (&[offered, ready], "closed the connection"),
        (&[offered, ready, stopped], "closed the connection"),
        (&[offered, ready, stopped, prepared], "closed the connection"),
        (&[offered, failed], "a reason of its own"),
        (&[offered, out_of_turn], "something else"),
        (&[offered, ready, stopped, strange], "another form"),
    ];
    for (steps, because) in ways {
        let mut played = Played::meet(&daemon);
        steps.iter().for_each(|step| step(&mut played));
        drop(played);
        daemon.wait_for_log("has not taken over");
        assert!(daemon.last_line().contains(because), "{because}: {}", daemon.last_line());
        loads.wait_for(50);
    }
    let null = json!({"name": "null", "block_size": 512, "num_blocks": 8});
    daemon.done_in_the_end("bdev_null_create", null);
    let (status, log) = daemon.take_over([""; 0]);
    assert!(status.success(), "{log}");
    loads.wait_for(50);
    loads.finish();
}

#[test]
fn a_successor_that_is_told_to_go_on_and_dies_is_a_crash() {
    let mut daemon = daemon();
    let mut played = Played::meet(&daemon);
    played.hear();
    played.say(json!("Ready"));
    played.hear();
    played.say(json!("Prepared"));
    assert_eq!(played.hear(), "Commit");
    drop(played);
    daemon.wait_for_log("ended before it served");
    let ended = daemon.wait();
    assert_eq!(ended.status.code(), Some(1), "a service manager starts it again: {}", ended.log);
    let daemon = Daemon::start_with(ended.folder, [""; 0]);
    daemon.lives();
}

#[test]
fn while_another_takes_over_nothing_changes_and_everything_can_be_read() {
    let mut daemon = daemon();
    let mut client = daemon.client();
    let mut played = Played::meet(&daemon);
    played.hear();
    let refused = daemon.refused(BUSY, "bdev_null_create", json!({"name": "null", "block_size": 512, "num_blocks": 8}));
    assert!(refused.contains("taking over"), "{refused}");
    daemon.refused(BUSY, "spinel_hand_over", json!({"socket": "x", "version": VERSION}));
    assert_eq!(daemon.done("vhost_get_controllers", Value::Null).as_array().unwrap().len(), 2);
    played.say(json!("Ready"));
    played.hear();
    // From here on new connections wait for whoever serves next; those that are there go on.
    assert!(client.call("spdk_get_version", None).is_ok());
    drop(played);
    daemon.wait_for_log("has not taken over");
    daemon.lives();
}

#[test]
fn a_daemon_told_to_stop_in_the_middle_of_it_stops() {
    let daemon = daemon();
    let mut played = Played::meet(&daemon);
    played.hear();
    daemon.signal(Signal::TERM);
    let refused = played.hear();
    assert!(refused["Refused"].as_str().unwrap().contains("told to stop"), "{refused}");
    let ended = daemon.wait();
    assert!(ended.status.success(), "{}", ended.log);
}

#[test]
fn requests_that_do_not_come_back_refuse_it_and_the_disk_goes_on_with_them() {
    let mut daemon = daemon();
    daemon.done("bdev_malloc_create", json!({"name": "m", "block_size": 512, "num_blocks": 2048}));
    daemon.done("bdev_error_create", json!({"base_name": "m"}));
    daemon.done("vhost_create_blk_controller", json!({"ctrlr": "vm2", "dev_name": "EE_m"}));
    let mut guest = Guest::connect(&socket(&daemon, "vm2"));
    daemon.done("bdev_error_inject_error", json!({"name": "EE_m", "io_type": "unmap", "error_type": "pending", "num": 1}));
    guest.discard(4096);
    guest.flush();
    assert_eq!(guest.ended(), 0, "the flush, for the discard is held back");
    let mut loads = loads(&daemon);
    let (status, log) = daemon.launch_successor([""; 0]).wait();
    assert!(status.code() == Some(1) && log.contains("did not come back"), "{status}: {log}");
    daemon.wait_for_log("has not taken over");
    guest.flush();
    assert_eq!(guest.ended(), 0, "its queue goes on");
    loads.wait_for(50);
    daemon.done_in_the_end("bdev_error_resume_pending", json!({"name": "EE_m"}));
    assert_eq!(guest.ended(), 0);
    let (status, log) = daemon.take_over([""; 0]);
    assert!(status.success(), "{log}");
    guest.flush();
    assert_eq!(guest.ended(), 0);
    loads.finish();
}

#[test]
fn a_running_daemon_that_dies_before_it_lets_go_is_followed_as_after_a_crash() {
    let mut daemon = daemon();
    let mut loads = loads(&daemon);
    loads.wait_for(500);
    loads.rest();
    // A request that takes a while holds the takeover up where the queues have been told to stop.
    let second_us = 1_500_000;
    let latencies = json!({
        "name": "slow", "base_bdev_name": "m", "avg_read_latency": 0, "p99_read_latency": 0,
        "avg_write_latency": second_us, "p99_write_latency": second_us,
    });
    daemon.done("bdev_malloc_create", json!({"name": "m", "block_size": 512, "num_blocks": 2048}));
    daemon.done("bdev_delay_create", latencies);
    daemon.done("vhost_create_blk_controller", json!({"ctrlr": "vm2", "dev_name": "slow"}));
    let mut guest = Guest::connect(&socket(&daemon, "vm2"));
    guest.write_zeroes(4096);
    let mut successor = daemon.launch_successor([""; 0]);
    successor.wait_for_log("ready to go on");
    daemon.signal(Signal::KILL);
    successor.wait_for_log("listens on");
    let (status, _) = daemon.become_successor(successor);
    assert_eq!(status.code(), None, "killed");
    assert_eq!(daemon.done("vhost_get_controllers", Value::Null).as_array().unwrap().len(), 3);
    assert_eq!(daemon.done("spinel_get_takeovers", Value::Null)["takeovers"], 0);
    // Guests that come back find what they wrote, in the file and in memory.
    drop(guest);
    loads.reconnect();
    assert!(loads.finish() > 1000);
    Guest::connect(&socket(&daemon, "vm2")).flush();
    let other = daemon.refused(BUSY, "bdev_aio_create", json!({"name": "again", "filename": daemon.folder().join("disk")}));
    assert!(other.contains("'file'"), "{other}");
    assert!(daemon.stop().status.success());
}

#[test]
fn half_a_message_is_finished_by_the_next_daemon() {
    const GET_FEATURES: [u8; 12] = [1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];
    let mut daemon = daemon();
    let mut client = UnixStream::connect(socket(&daemon, "vm0")).unwrap();
    client.write_all(&GET_FEATURES[..5]).unwrap();
    let connected = |daemon: &Daemon| daemon.done("vhost_get_controllers", json!({"name": "vm0"}))[0]["state"] == "connected";
    while !connected(&daemon) {}
    let (status, log) = daemon.take_over([""; 0]);
    assert!(status.success() && connected(&daemon), "{log}");
    client.write_all(&GET_FEATURES[5..]).unwrap();
    let mut reply = [0; 20];
    client.read_exact(&mut reply).unwrap();
    assert_eq!((&reply[..4], &reply[8..12]), (&[1, 0, 0, 0][..], &[8, 0, 0, 0][..]));
}

#[test]
fn what_cannot_be_taken_over_is_left_alone() {
    let daemon = daemon();
    daemon.done("vhost_create_blk_controller", json!({"ctrlr": "vm2", "dev_name": "memory", "cpumask": "0x2"}));
    let (status, log) = daemon.launch_successor(["--cores", "0"]).wait();
    assert!(status.code() == Some(1) && log.contains("vhost_create_blk_controller") && log.contains("cpumask"), "{status}: {log}");
    let message = daemon.refused(-32602, "spinel_hand_over", json!({"socket": "/nowhere", "version": VERSION + 1}));
    assert!(message.contains("'version'"), "{message}");
    daemon.refused(-2, "spinel_hand_over", json!({"socket": "/nowhere", "version": VERSION}));
    let alone = Daemon::launch(TempDir::new().unwrap(), ["--takeover"]).wait();
    assert!(alone.status.code() == Some(1) && alone.log.contains("no daemon to take over from"), "{}", alone.log);
    daemon.lives();
    assert!(daemon.stop().status.success());
}

#[test]
fn a_service_manager_hears_which_process_to_look_at() {
    let daemon = daemon();
    let path = daemon.folder().join("notify");
    let manager = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(std::time::Duration::from_secs(60))).unwrap();
    let mut child = command(daemon.folder()).arg("--takeover").env("NOTIFY_SOCKET", &path).spawn().unwrap();
    let mut state = [0; 64];
    let len = manager.recv(&mut state).expect("it is told");
    assert_eq!(std::str::from_utf8(&state[..len]).unwrap(), format!("MAINPID={}\nREADY=1", child.id()));
    assert!(daemon.wait().status.success());
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn one_that_is_detached_ends_when_the_other_serves_and_fails_if_it_does_not() {
    let daemon = daemon();
    let detach = |more: &[&str]| command(daemon.folder()).args(["--takeover", "--detach"]).args(more).output().unwrap();
    daemon.done("vhost_create_blk_controller", json!({"ctrlr": "vm2", "dev_name": "memory", "cpumask": "0x2"}));
    let failed = detach(&["--cores", "0"]);
    assert_eq!(failed.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&failed.stderr).contains("cpumask"), "{}", String::from_utf8_lossy(&failed.stderr));
    // Its log would keep a pipe open for as long as it runs.
    let status = command(daemon.folder()).args(["--takeover", "--detach"]).stderr(std::process::Stdio::null()).status().unwrap();
    assert!(status.success());
    let pid = daemon.done("framework_get_reactors", Value::Null)["pid"].as_i64().unwrap();
    let next = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    assert_ne!(next.as_raw_nonzero().get(), daemon.pid());
    let gone = rustix::process::pidfd_open(next, rustix::process::PidfdFlags::empty()).unwrap();
    rustix::process::kill_process(next, Signal::TERM).unwrap();
    rustix::event::poll(&mut [rustix::event::PollFd::new(&gone, rustix::event::PollFlags::IN)], None).unwrap();
    assert!(daemon.wait().status.success());
}
