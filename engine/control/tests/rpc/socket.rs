//! Making the socket: its mode, what it replaces and what it leaves alone.

use spinel_control::socket::{BindError, bind};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Barrier};

fn mode(path: &Path) -> u32 {
    std::fs::symlink_metadata(path).expect("it exists").permissions().mode() & 0o777
}

#[test]
fn a_socket_is_for_its_owner_only_and_so_is_the_folder_made_for_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("spinel/rpc.sock");
    let listener = bind(&path).expect("a socket");
    assert_eq!((mode(&path), mode(path.parent().expect("a folder"))), (0o600, 0o700));
    let _client = UnixStream::connect(&path).expect("it listens");
    assert!(listener.accept().is_ok());
}

#[test]
fn a_socket_nobody_serves_any_more_is_replaced() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("rpc.sock");
    drop(UnixListener::bind(&path).expect("a socket"));
    let _listener = bind(&path).expect("replaced");
    assert!(UnixStream::connect(&path).is_ok());
}

#[test]
fn a_socket_that_is_served_is_left_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("rpc.sock");
    let listener = bind(&path).expect("a socket");
    let error = bind(&path).expect_err("it is served");
    assert!(matches!(error, BindError::InUse { .. }), "{error:?}");
    assert!(UnixStream::connect(&path).is_ok());
    drop(listener);
    assert!(bind(&path).is_ok());
}

#[test]
fn a_served_socket_whose_backlog_is_full_is_left_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("rpc.sock");
    let _listener = bind(&path).expect("a socket");
    let mut waiting = Vec::new();
    let address = rustix::net::SocketAddrUnix::new(&path).expect("an address");
    loop {
        use rustix::net::{AddressFamily, SocketFlags, SocketType};
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let client = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).expect("a socket");
        let connected = rustix::net::connect(&client, &address);
        waiting.push(client);
        if connected == Err(rustix::io::Errno::AGAIN) {
            break;
        }
        assert!(waiting.len() < 1000, "the backlog has no end");
    }
    let error = bind(&path).expect_err("it is served");
    assert!(matches!(error, BindError::InUse { .. }), "{error:?}");
}

#[test]
fn a_file_that_is_no_socket_is_left_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("disk.img");
    std::fs::write(&path, "precious").expect("written");
    let link = folder.path().join("link");
    std::os::unix::fs::symlink(&path, &link).expect("linked");
    for path in [&path, &link] {
        let error = bind(path).expect_err("not a socket");
        assert!(matches!(error, BindError::NotASocket { .. }), "{error:?}");
    }
    assert_eq!(std::fs::read(&path).expect("there"), b"precious");
}

#[test]
fn a_path_that_cannot_be_is_refused_by_its_reason() {
    let folder = tempfile::tempdir().expect("a folder");
    let error = bind(&folder.path().join("a".repeat(120))).expect_err("too long");
    assert!(matches!(error, BindError::PathTooLong { .. }), "{error:?}");
    let error = bind(&folder.path().join("a/b/rpc.sock")).expect_err("no folder");
    assert!(error.to_string().contains("make the folder"), "{error}");
}

#[test]
fn of_daemons_that_start_together_one_gets_the_socket() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("rpc.sock");
    for _ in 0..50 {
        // Left over, so that each has something to replace.
        drop(bind(&path));
        let start = Arc::new(Barrier::new(4));
        let binders: Vec<_> = (0..4)
            .map(|_| {
                let (start, path) = (Arc::clone(&start), path.clone());
                let bind = move || {
                    start.wait();
                    bind(&path)
                };
                std::thread::Builder::new().spawn(bind).expect("a thread")
            })
            .collect();
        let bound: Vec<_> = binders.into_iter().map(|binder| binder.join().expect("no panic")).collect();
        assert_eq!(bound.iter().filter(|bound| bound.is_ok()).count(), 1);
        assert!(UnixStream::connect(&path).is_ok());
    }
}
