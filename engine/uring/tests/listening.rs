//! Listeners hand over who connects, until they are dropped. Knows no protocol.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream as Socket};
use std::os::fd::{AsFd, OwnedFd};

use crossbeam_channel::{Receiver, unbounded};
use spinel_uring::{Accept, Listener};

fn accepting() -> (Accept, Receiver<(OwnedFd, SocketAddr)>) {
    let (sender, receiver) = unbounded();
    let accept = Box::new(move |socket, address| _ = sender.send((socket, address)));
    (accept, receiver)
}

fn anywhere() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

#[test]
fn who_connects_is_handed_over_until_the_listener_is_dropped() {
    let (accept, accepted) = accepting();
    let listener = Listener::bind(anywhere(), accept).unwrap();
    let address = listener.address();
    let mut clients: Vec<Socket> = (0..20).map(|_| Socket::connect(address).unwrap()).collect();
    let mut served: Vec<(Socket, SocketAddr)> = (0..20).map(|_| accepted.recv().unwrap()).map(|(fd, from)| (fd.into(), from)).collect();
    for client in &mut clients {
        let from = client.local_addr().unwrap();
        let (own, _) = served.iter_mut().find(|(_, address)| *address == from).expect("it was told where from");
        client.write_all(b"hello").unwrap();
        let mut got = [0; 5];
        own.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"hello");
    }
    drop(listener);
    assert!(Socket::connect(address).is_err(), "nobody listens any more");
    // And somebody else may, at the same place, although connections are still open.
    let (accept, _accepted) = accepting();
    assert_eq!(Listener::bind(address, accept).unwrap().address(), address);
}

#[test]
fn a_place_that_is_taken_is_refused_and_named() {
    let listener = Listener::bind(anywhere(), accepting().0).unwrap();
    let error = Listener::bind(listener.address(), accepting().0).map(|_| ()).unwrap_err();
    let message = error.to_string();
    assert!(message.contains(&listener.address().to_string()) && message.contains("the address"), "{message}");
}

#[test]
fn a_socket_that_listens_may_go_to_another_listener() {
    let (accept, _accepted) = accepting();
    let first = Listener::bind(anywhere(), accept).unwrap();
    let address = first.address();
    let socket = first.as_fd().try_clone_to_owned().unwrap();
    drop(first);
    // Nobody accepts at the moment, but who connects is kept.
    let _client = Socket::connect(address).unwrap();
    let (accept, accepted) = accepting();
    let second = Listener::of(socket, accept).unwrap();
    assert_eq!(second.address(), address);
    accepted.recv().unwrap();
}
