//! A listener when the process has no descriptors left. Alone in its process, whose limit it changes.

use std::net::SocketAddr;
use std::time::Duration;

use crossbeam_channel::unbounded;
use rustix::net::{AddressFamily, SocketType, connect, socket};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use spinel_uring::Listener;

#[test]
fn without_descriptors_it_waits_and_accepts_later() {
    let (sender, accepted) = unbounded();
    let accept = Box::new(move |socket, address| _ = sender.send((socket, address)));
    let listener = Listener::bind(SocketAddr::from(([127, 0, 0, 1], 0)), accept).unwrap();
    let client = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(0), maximum: limit.maximum }).unwrap();
    connect(&client, &listener.address()).unwrap();
    assert!(accepted.recv_timeout(Duration::from_millis(250)).is_err(), "there is no descriptor for it");
    setrlimit(Resource::Nofile, limit).unwrap();
    accepted.recv().unwrap();
}
