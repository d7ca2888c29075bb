//! What goes wrong, said in one sentence, with the exit code that the help text promises.

use crate::fake::{Ran, fake, spinelctl};
use std::io::Read as _;
use std::os::unix::net::UnixListener;
use std::process::Stdio;

/// Fails with this code, one line that holds all of `parts`, and nothing on standard output.
fn assert_fails(ran: &Ran, code: i32, parts: &[&str]) {
    assert_eq!(ran.code, code, "{ran:?}");
    assert_eq!((ran.err.lines().count(), ran.out.as_str()), (1, ""), "{ran:?}");
    assert!(ran.err.starts_with("spinelctl: "), "{ran:?}");
    for part in parts {
        assert!(ran.err.contains(part), "no {part:?} in {ran:?}");
    }
}

#[test]
fn a_socket_that_is_not_there_is_unreachable() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("rpc.sock");
    let run = || Ran::from(spinelctl().arg("-s").arg(&path).args(["disk", "list"]).output().expect("it runs"));
    let named = path.to_str().expect("UTF-8");
    assert_fails(&run(), 3, &[named, "start spineld"]);
    drop(UnixListener::bind(&path).expect("a socket"));
    assert_fails(&run(), 3, &[named, "nobody serves"]);
}

#[test]
fn a_daemon_that_does_not_answer_is_given_up() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("rpc.sock");
    let _listener = UnixListener::bind(&path).expect("a socket");
    let ran = spinelctl().arg("-s").arg(&path).args(["--timeout", "1", "disk", "list"]).output();
    assert_fails(&Ran::from(ran.expect("it runs")), 3, &["bdev_get_bdevs", "within 1s", "--timeout"]);
}

#[test]
fn what_is_no_daemon_at_all_is_told_so() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("rpc.sock");
    let listener = UnixListener::bind(&path).expect("a socket");
    let server = std::thread::Builder::new().spawn(move || {
        let (mut stream, _) = listener.accept().expect("a call");
        std::io::Write::write_all(&mut stream, b"220 smtp ready\r\n").expect("sent");
        let _ = stream.read_to_string(&mut String::new());
    });
    let ran = Ran::from(spinelctl().arg("-s").arg(&path).args(["disk", "list"]).output().expect("it runs"));
    assert_fails(&ran, 1, &["not JSON-RPC", "spineld"]);
    server.expect("a thread").join().expect("no panic");
}

#[test]
fn a_refusal_is_the_daemons_sentence_and_code() {
    let fake = fake();
    let ran = fake.run(&["disk", "create", "null", "taken", "1M"]);
    assert_fails(&ran, 1, &["bdev_null_create", "bdev 'taken' exists already", "-17"]);
    assert_fails(&fake.run(&["disk", "show", "d9"]), 1, &["no bdev 'd9'", "-19"]);
    assert_fails(&fake.run(&["rpc", "no_such_method"]), 1, &["no_such_method", "rpc_get_methods"]);
}

#[test]
fn a_verb_that_a_disk_has_not_is_refused_before_anything_is_called() {
    let fake = fake();
    let cases: &[(&[&str], i32, &[&str])] = &[
        (&["disk", "delete", "odd\u{1b}[2J"], 1, &["'Raid Volume'", "spinelctl rpc"]),
        (&["disk", "resize", "d0", "20G"], 1, &["truncate", "disk rescan d0"]),
        (&["disk", "rescan", "n0"], 1, &["no file", "null"]),
        (&["disk", "resize", "n0", "1537K"], 2, &["whole MiB"]),
        (&["disk", "limit", "n0", "--bandwidth", "1537K"], 2, &["bandwidth", "whole MiB"]),
        (&["disk", "limit", "n0", "--iops", "5", "--burst", "1500us"], 2, &["burst", "whole milliseconds"]),
        (&["disk", "create", "null", "n1", "1000"], 2, &["multiple of the block size"]),
        (&["disk", "create", "null", "n1", "1K", "-b", "0"], 2, &["multiple of the block size"]),
    ];
    for (arguments, code, parts) in cases {
        assert_fails(&fake.run(arguments), *code, parts);
        let calls = fake.calls();
        assert!(calls.iter().all(|(method, _)| method.contains("_get_")), "{calls:?}");
    }
}

#[test]
fn parameters_that_are_not_json_are_refused_without_a_call() {
    let fake = fake();
    for params in ["{name: d0}", "{", "7", "\"name\"", "{} {}"] {
        assert_fails(&fake.run(&["rpc", "some_method", params]), 2, &["parameters", "object"]);
    }
    assert_eq!(fake.calls(), []);
}

#[test]
fn a_wrong_command_line_is_a_usage_error_with_a_hint() {
    let cases: &[(&[&str], &str)] = &[
        (&["disks"], "disk"),
        (&["disk", "create", "null", "n0", "10X"], "64M"),
        (&["disk", "create", "delay", "s0", "d0", "--read", "5"], "100us"),
        (&["disk", "limit", "n0"], "--iops"),
        (&["disk", "limit", "n0", "--burst", "10ms"], "--iops"),
        (&["disk", "limit", "n0", "--none", "--iops", "5"], "--none"),
        (&["log-level", "loud"], "warning"),
        (&["top", "-i", "0"], "1.."),
        (&[], "Usage"),
    ];
    for (arguments, hint) in cases {
        let ran = spinelctl().args(*arguments).output().expect("it runs");
        let err = String::from_utf8_lossy(&ran.stderr).into_owned();
        assert_eq!(ran.status.code(), Some(2), "{arguments:?}");
        assert!(err.contains(hint), "{arguments:?}: {err}");
    }
}

#[test]
fn a_reader_that_leaves_early_is_no_error() {
    let fake = fake();
    let mut child = fake
        .command(&["top", "--interval", "1"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it runs");
    // With nobody to read it, the first frame cannot be written.
    drop(child.stdout.take());
    let ran = Ran::from(child.wait_with_output().expect("it ends"));
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
}
