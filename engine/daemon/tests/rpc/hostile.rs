//! Clients that send nonsense, or nothing. Knows no method.

use std::io::{Read as _, Write as _};

use serde_json::{Value, json};

use crate::harness::Daemon;

/// Sends `text`, and everything that comes back until the daemon closes.
fn exchange(daemon: &Daemon, text: &[u8]) -> String {
    let mut stream = daemon.connect();
    // The daemon may close before all is sent.
    let _ = stream.write_all(text);
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let mut reply = Vec::new();
    let _ = stream.read_to_end(&mut reply);
    String::from_utf8_lossy(&reply).into_owned()
}

#[test]
fn nonsense_costs_its_sender_the_connection_and_nobody_else_anything() {
    let daemon = Daemon::start();
    daemon.done("bdev_null_create", json!({"name": "n", "block_size": 512, "num_blocks": 8}));
    let garbage: Vec<u8> = (0..1_u32 << 20).map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
    let nested = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"bdev_get_bdevs","params":{}{}}}"#, "[".repeat(10_000), "]".repeat(10_000));
    for text in [
        &garbage[..],
        nested.as_bytes(),
        "[".repeat(20_000).as_bytes(),
        b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"bdev_null_cre",
        b"",
        b"\0\0\0\0",
    ] {
        let reply = exchange(&daemon, text);
        assert!(reply.is_empty() || reply.contains("-32700"), "{reply}");
        daemon.lives();
    }
    assert_eq!(daemon.done("bdev_get_bdevs", Value::Null).as_array().unwrap().len(), 1);
}

#[test]
fn two_hundred_idle_clients_are_not_in_the_way() {
    let daemon = Daemon::start();
    let idle: Vec<_> = (0..200).map(|_| daemon.connect()).collect();
    daemon.lives();
    drop(idle);
    daemon.lives();
}

#[test]
fn a_call_for_a_bdev_that_is_not_there_yet_waits_without_keeping_others_waiting() {
    let daemon = Daemon::start();
    let mut client = daemon.client();
    let wait = move || client.call("bdev_get_bdevs", Some(json!({"name": "late", "timeout": 60_000})));
    let waits = std::thread::Builder::new().spawn(wait).unwrap();
    let message = daemon.refused(-19, "bdev_get_bdevs", json!({"name": "late", "timeout": 30}));
    assert!(message.contains("'late'"), "{message}");
    daemon.done("bdev_null_create", json!({"name": "late", "block_size": 512, "num_blocks": 8}));
    assert_eq!(waits.join().unwrap().unwrap()[0]["name"], "late");
}

#[test]
fn a_daemon_with_a_waiting_client_stops_all_the_same() {
    let daemon = Daemon::start();
    let mut client = daemon.client();
    let wait = move || client.call("bdev_get_bdevs", Some(json!({"name": "never", "timeout": 600_000})));
    let waits = std::thread::Builder::new().spawn(wait).unwrap();
    daemon.lives();
    assert!(daemon.stop().status.success());
    assert!(waits.join().unwrap().is_err());
}
