//! A socket where hosts connect, and the thread that hands them to cores. Knows nothing of what they say.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::never;
use rustix::io::Errno;
use rustix::net::sockopt::set_socket_keepalive;
use rustix::net::{Shutdown, shutdown};
use spinel_core::Mailbox;
use spinel_nvmf::target::{PortId, Target};
use spinel_uring::{StreamOptions, TcpStream as Stream};

use super::{address_of, least_loaded};

/// How long nobody is accepted after the system had nothing left for another.
const PAUSE: Duration = Duration::from_millis(100);

/// Listens until it is dropped.
pub(super) struct Listener {
    socket: Arc<TcpListener>,
    thread: Option<JoinHandle<()>>,
}

impl Listener {
    /// Hands whoever connects to one of these cores.
    pub(super) fn start(address: SocketAddr, target: Target, port: PortId, mailboxes: Arc<[Mailbox]>) -> io::Result<Self> {
        let socket = Arc::new(TcpListener::bind(address)?);
        let listening = Arc::clone(&socket);
        let name = format!("nvmf-{}", address.port());
        let thread = std::thread::Builder::new().name(name).spawn(move || accept(&listening, &target, port, &mailboxes))?;
        tracing::info!("listening for hosts at {address}");
        Ok(Self { socket, thread: Some(thread) })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Wakes the thread, which finds that it listens no more.
        let _ = shutdown(&self.socket, Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            assert!(thread.join().is_ok(), "a listener's thread panicked");
        }
    }
}

fn accept(socket: &TcpListener, target: &Target, port: PortId, mailboxes: &Arc<[Mailbox]>) {
    for number in 0.. {
        match socket.accept() {
            Ok((stream, peer)) => admit(stream, peer, target, port, least_loaded(target, mailboxes, number)),
            Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => return,
            Err(error) => {
                tracing::warn!("a host cannot be accepted: {error}");
                let _ = never::<()>().recv_timeout(PAUSE);
            }
        }
    }
}

fn admit(stream: TcpStream, peer: SocketAddr, target: &Target, port: PortId, mailbox: &Mailbox) {
    // A host that is gone without a word is noticed in the end, whatever its queues are doing.
    let _ = set_socket_keepalive(&stream, true);
    let Ok(arrived) = stream.local_addr() else { return };
    let make = move |core: &mut spinel_core::Core| Stream::open(core, stream.into(), &StreamOptions::default());
    if !target.admit(mailbox, port, peer.to_string(), address_of(arrived), make) {
        tracing::warn!("{peer} is turned away: there are too many connections");
    }
}
