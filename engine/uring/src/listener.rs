//! Where connections come in: accepted on a thread of the control plane's, and handed over. Knows no protocol and no core.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;
use rustix::net::sockopt::{set_ipv6_v6only, set_socket_reuseaddr};
use rustix::net::{AddressFamily, SocketFlags, SocketType, acceptfrom_with, bind, getsockname, listen, socket_with};

/// How many connections the kernel keeps that nobody has accepted yet.
const BACKLOG: i32 = 1024;
/// How long it waits when the system has no descriptors left: the connection that comes stays in line, and would be
/// offered again at once.
const PAUSE: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// Why there is no listening.
#[derive(Debug)]
pub struct ListenError {
    /// Where it should have been.
    pub address: SocketAddr,
    /// What was being done.
    pub doing: &'static str,
    source: io::Error,
}

impl fmt::Display for ListenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "listening on {}: the system refused {}", self.address, self.doing)
    }
}

impl std::error::Error for ListenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// Takes what has been accepted: the socket and who is at its other end. Whom it does not want, it drops.
pub type Accept = Box<dyn FnMut(OwnedFd, SocketAddr) + Send>;

/// A TCP listener with a thread of its own, until it is dropped.
pub struct Listener {
    socket: Arc<OwnedFd>,
    address: SocketAddr,
    /// Written when it is to end.
    end: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Listener {
    /// Listens on `address`, whose port may be 0 for any.
    ///
    /// # Errors
    /// [`ListenError`] if the address is taken or not one of this machine's, or there is no thread.
    pub fn bind(address: SocketAddr, accept: Accept) -> Result<Self, ListenError> {
        let failed = |doing| move |errno: Errno| ListenError { address, doing, source: errno.into() };
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None).map_err(failed("a socket"))?;
        // A port is free again as soon as its last listener is gone, whatever connections linger.
        set_socket_reuseaddr(&socket, true).map_err(failed("SO_REUSEADDR"))?;
        if address.is_ipv6() {
            // Who wants both families listens twice.
            set_ipv6_v6only(&socket, true).map_err(failed("IPV6_V6ONLY"))?;
        }
        bind(&socket, &address).map_err(failed("the address"))?;
        listen(&socket, BACKLOG).map_err(failed("to listen"))?;
        Self::of(socket, accept)
    }

    /// Goes on with a socket that listens already, such as one from another process.
    ///
    /// # Errors
    /// [`ListenError`] if it is no TCP socket, or there is no thread.
    pub fn of(socket: OwnedFd, accept: Accept) -> Result<Self, ListenError> {
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        let address = getsockname(&socket).and_then(|address| SocketAddr::try_from(address).map_err(|_| Errno::AFNOSUPPORT));
        let address = address.map_err(|errno| ListenError { address: nowhere, doing: "the socket's own address", source: errno.into() })?;
        let failed = |doing, source| ListenError { address, doing, source };
        // Connections may go away between being announced and being accepted.
        rustix::io::ioctl_fionbio(&socket, true).map_err(|errno| failed("not to wait", errno.into()))?;
        let end = eventfd(0, EventfdFlags::CLOEXEC).map_err(|errno| failed("an eventfd", errno.into()))?;
        let (socket, end) = (Arc::new(socket), Arc::new(end));
        let (listening, ending) = (Arc::clone(&socket), Arc::clone(&end));
        let run = move || accept_all(&listening, &ending, accept);
        let thread = std::thread::Builder::new().name("listener".to_owned()).spawn(run).map_err(|error| failed("a thread", error))?;
        Ok(Self { socket, address, end, thread: Some(thread) })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl AsFd for Listener {
    /// What another process needs to listen at the same place.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = rustix::io::write(&self.end, &1_u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            // A panic was reported where it happened.
            let _ = thread.join();
        }
    }
}

/// Accepts until `end` is written.
fn accept_all(listener: &OwnedFd, end: &OwnedFd, mut accept: Accept) {
    loop {
        let mut ready = [PollFd::new(end, PollFlags::IN), PollFd::new(listener, PollFlags::IN)];
        // A signal is the only thing that can go wrong here.
        let _ = poll(&mut ready, None);
        if !ready[0].revents().is_empty() {
            return;
        }
        match acceptfrom_with(listener, SocketFlags::CLOEXEC) {
            Ok((socket, address)) => {
                if let Some(address) = address.and_then(|address| SocketAddr::try_from(address).ok()) {
                    accept(socket, address);
                }
            }
            Err(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => {
                let _ = poll(&mut [PollFd::new(end, PollFlags::IN)], Some(&PAUSE));
            }
            // The connection is gone already, or was never complete.
            Err(_) => {}
        }
    }
}
