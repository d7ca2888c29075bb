//! The process: its sockets, signals, cores and command line. Knows no method's parameters.

use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use rustix::process::Signal;
use serde_json::{Value, json};
use spinel_control::client::Client;
use tempfile::TempDir;

use crate::harness::{Daemon, command};

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).expect("it is there").mode() & 0o777
}

#[test]
fn it_makes_its_sockets_for_its_own_user_and_removes_them_when_it_stops() {
    let daemon = Daemon::start();
    let (rpc, vhost) = (daemon.socket(), daemon.folder().join("vhost"));
    assert!(std::fs::metadata(&rpc).unwrap().file_type().is_socket());
    assert_eq!((mode(&rpc), mode(&vhost)), (0o600, 0o700));
    daemon.done("bdev_null_create", json!({"name": "n", "block_size": 512, "num_blocks": 8}));
    daemon.done("vhost_create_blk_controller", json!({"ctrlr": "vm0", "dev_name": "n"}));
    assert_eq!(mode(&vhost.join("vm0")), 0o600);
    let ended = daemon.stop();
    assert!(ended.status.success(), "{}", ended.log);
    assert!(!rpc.exists() && !vhost.join("vm0").exists(), "{}", ended.log);
}

#[test]
fn either_signal_and_the_method_that_sends_it_stop_it_cleanly() {
    for signal in [Signal::INT, Signal::TERM] {
        let daemon = Daemon::start();
        daemon.signal(signal);
        let ended = daemon.wait();
        assert!(ended.status.success() && ended.log.contains("stopped"), "{signal:?}: {}", ended.log);
    }
    let daemon = Daemon::start();
    daemon.done("spdk_kill_instance", json!({"sig_name": "SIGTERM"}));
    assert!(daemon.wait().status.success());
}

#[test]
fn the_same_signal_twice_at_once_is_one() {
    let daemon = Daemon::start();
    daemon.signal(Signal::TERM);
    daemon.signal(Signal::TERM);
    daemon.signal(Signal::INT);
    let ended = daemon.wait();
    assert!(ended.status.success() && ended.log.contains("stopped"), "{}", ended.log);
}

#[test]
fn a_hangup_is_survived() {
    let mut daemon = Daemon::start();
    daemon.signal(Signal::HUP);
    daemon.wait_for_log("SIGHUP");
    daemon.signal(Signal::USR1);
    daemon.wait_for_log("SIGUSR1");
    daemon.lives();
}

#[test]
fn a_second_daemon_on_the_same_socket_gives_way() {
    let first = Daemon::start();
    first.done("bdev_null_create", json!({"name": "n", "block_size": 512, "num_blocks": 8}));
    let second = command(first.folder()).output().expect("it ends by itself");
    let log = String::from_utf8_lossy(&second.stderr).into_owned();
    assert_eq!(second.status.code(), Some(1), "{log}");
    assert!(log.contains("another daemon serves") && log.contains("rpc.sock"), "{log}");
    assert_eq!(first.done("bdev_get_bdevs", Value::Null).as_array().unwrap().len(), 1);
}

#[test]
fn what_a_killed_daemon_left_is_no_obstacle() {
    let daemon = Daemon::start();
    let file = crate::harness::file(daemon.folder(), "disk", 1 << 20);
    daemon.done("bdev_uring_create", json!({"name": "d", "filename": file}));
    daemon.done("vhost_create_blk_controller", json!({"ctrlr": "vm0", "dev_name": "d"}));
    daemon.signal(Signal::KILL);
    let ended = daemon.wait();
    assert_eq!(ended.status.code(), None, "{}", ended.log);
    let daemon = Daemon::start_with(ended.folder, [""; 0]);
    daemon.done("bdev_uring_create", json!({"name": "d", "filename": file}));
    daemon.done("vhost_create_blk_controller", json!({"ctrlr": "vm0", "dev_name": "d"}));
    assert!(daemon.stop().status.success());
}

#[test]
fn cores_it_may_not_use_are_refused_by_number() {
    for (arguments, named) in [(["-m", "[1023]"], "1023"), (["--cores", "1000-1001"], "1000-1001")] {
        let ended = Daemon::launch(TempDir::new().unwrap(), arguments).wait();
        assert_eq!(ended.status.code(), Some(1), "{}", ended.log);
        assert!(ended.log.contains(named) && ended.log.contains("it may use"), "{}", ended.log);
        assert!(!ended.folder.path().join("rpc.sock").exists());
    }
}

#[test]
fn the_cores_named_are_the_ones_used() {
    let daemon = Daemon::start_with(TempDir::new().unwrap(), ["-m", "0x1", "--spin-us", "10"]);
    let reactors = daemon.done("framework_get_reactors", Value::Null);
    assert_eq!(reactors["reactors"].as_array().unwrap().len(), 1);
    assert_eq!((&reactors["reactors"][0]["lcore"], &reactors["tick_rate"]), (&json!(0), &json!(1_000_000_000)));
    assert_eq!(reactors["pid"], daemon.pid());
}

#[test]
fn a_wrong_command_line_is_told_from_a_start_that_failed() {
    for arguments in [&["--mode", "often"][..], &["-m", "zero"], &["--spin-us", "9999999"], &["--loud"], &["-c", "x", "--wait-for-rpc"]] {
        let ended = Daemon::launch(TempDir::new().unwrap(), arguments).wait();
        assert_eq!(ended.status.code(), Some(2), "{arguments:?}: {}", ended.log);
    }
    let folder = TempDir::new().unwrap();
    let output = command(folder.path()).args(["-S", "/proc/nowhere"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stderr).contains("/proc/nowhere"));
}

#[test]
fn help_version_manual_and_completions_go_to_stdout() {
    for (arguments, text) in
        [(&["--help"][..], "SIGTERM"), (&["-v"], "spineld "), (&["--man"], ".TH spineld"), (&["--completions", "bash"], "spineld")]
    {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_spineld")).args(arguments).output().unwrap();
        assert!(output.status.success() && String::from_utf8_lossy(&output.stdout).contains(text), "{arguments:?}");
    }
}

#[test]
fn before_initialisation_nothing_is_created_and_whoever_waits_for_it_is_answered_after() {
    let daemon = Daemon::start_with(TempDir::new().unwrap(), ["--wait-for-rpc"]);
    let null = json!({"name": "n", "block_size": 512, "num_blocks": 8});
    let message = daemon.refused(-1, "bdev_null_create", null.clone());
    assert!(message.contains("framework_start_init"), "{message}");
    let current = daemon.done("rpc_get_methods", json!({"current": true}));
    assert!(
        current.as_array().unwrap().contains(&json!("framework_start_init"))
            && !current.as_array().unwrap().contains(&json!("bdev_null_create"))
    );
    daemon.done("bdev_set_options", json!({"bdev_io_pool_size": 65535, "bdev_auto_examine": true}));
    daemon.done("iobuf_set_options", json!({"small_pool_count": 8192}));

    let mut waiting = daemon.client();
    let waits = std::thread::Builder::new().spawn(move || waiting.call("framework_wait_init", None)).unwrap();
    daemon.done("framework_start_init", Value::Null);
    assert_eq!(waits.join().unwrap().unwrap(), true);
    daemon.done("bdev_null_create", null);
    daemon.refused(-1, "framework_start_init", Value::Null);
    daemon.refused(-1, "bdev_set_options", json!({}));
}

#[test]
fn its_privileges_and_limits_are_what_the_manual_says() {
    let daemon = Daemon::start();
    let proc = |name: &str| std::fs::read_to_string(format!("/proc/{}/{name}", daemon.pid())).unwrap();
    assert!(proc("status").contains("NoNewPrivs:\t1"));
    let limits = proc("limits");
    let files: Vec<&str> = limits.lines().find(|line| line.starts_with("Max open files")).unwrap().split_whitespace().collect();
    assert_eq!(files[3], files[4], "the soft limit is the hard one");
}

#[test]
fn the_default_socket_is_the_one_the_environment_names() {
    let folder = TempDir::new().unwrap();
    let socket = folder.path().join("named.sock");
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_spineld"))
        .env("SPINEL_RPC_SOCKET", &socket)
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stderr.take().unwrap()));
    assert!(lines.any(|line| line.unwrap().contains("named.sock")));
    assert!(Client::connect(&socket).is_ok());
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_service_manager_is_told_when_it_is_ready_and_when_it_stops() {
    let folder = TempDir::new().unwrap();
    let manager = std::os::unix::net::UnixDatagram::bind(folder.path().join("notify")).unwrap();
    manager.set_read_timeout(Some(std::time::Duration::from_secs(60))).unwrap();
    let told = || {
        let mut state = [0; 64];
        let len = manager.recv(&mut state).expect("it is told");
        String::from_utf8(state[..len].to_vec()).unwrap()
    };
    let mut child = command(folder.path()).env("NOTIFY_SOCKET", folder.path().join("notify")).spawn().unwrap();
    assert_eq!(told(), "READY=1");
    assert!(Client::connect(folder.path().join("rpc.sock")).is_ok());
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), Signal::TERM).unwrap();
    assert_eq!(told(), "STOPPING=1");
    assert!(child.wait().unwrap().success());
}

#[test]
fn lines_for_the_journal_carry_their_priority_instead_of_the_time() {
    use std::io::{Read as _, Seek as _};
    let folder = TempDir::new().unwrap();
    let mut journal = tempfile::tempfile().unwrap();
    let found = journal.metadata().unwrap();
    let status = command(folder.path())
        .env("JOURNAL_STREAM", format!("{}:{}", found.dev(), found.ino()))
        .args(["-c", "missing.json"])
        .stderr(journal.try_clone().unwrap())
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(1));
    let mut log = String::new();
    journal.rewind().unwrap();
    journal.read_to_string(&mut log).unwrap();
    assert!(log.starts_with("<3>the configuration missing.json cannot be read"), "{log}");
}
