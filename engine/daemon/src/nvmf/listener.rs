//! A socket where hosts connect, whom it hands to cores. Knows nothing of what they say.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use rustix::net::getsockname;
use rustix::net::sockopt::set_socket_keepalive;
use spinel_core::Mailbox;
use spinel_nvmf::target::{PortId, Target};
use spinel_uring::{ListenError, Listener, StreamOptions, TcpStream};

use super::{address_of, least_loaded};

/// Hands whoever connects at an address to one of these cores, until it is dropped.
pub(super) fn listen(address: SocketAddr, target: Target, port: PortId, mailboxes: Vec<Mailbox>) -> Result<Listener, ListenError> {
    let mut number = 0;
    let accept = move |socket: OwnedFd, peer: SocketAddr| {
        number += 1;
        admit(socket, peer, &target, port, least_loaded(&target, &mailboxes, number));
    };
    let listener = Listener::bind(address, Box::new(accept))?;
    tracing::info!("listening for hosts at {address}");
    Ok(listener)
}

fn admit(socket: OwnedFd, peer: SocketAddr, target: &Target, port: PortId, mailbox: &Mailbox) {
    // A host that is gone without a word is noticed in the end, whatever its queues are doing.
    let _ = set_socket_keepalive(&socket, true);
    // One that is gone already has no address any more.
    let Some(arrived) = getsockname(&socket).ok().and_then(|address| SocketAddr::try_from(address).ok()) else { return };
    let make = move |core: &mut spinel_core::Core| TcpStream::open(core, socket, &StreamOptions::default());
    if !target.admit(mailbox, port, peer.to_string(), address_of(arrived), make) {
        tracing::warn!("{peer} is turned away: there are too many connections");
    }
}
