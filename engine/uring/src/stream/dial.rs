//! The address a stream connects to, and how long that may take, as the kernel reads them. Knows no socket.

use std::net::SocketAddr;
use std::time::Duration;

use io_uring::opcode;
use io_uring::squeue::{Entry, Flags};
use io_uring::types::{Fd, Timespec};
use libc::{in_addr, in6_addr, sa_family_t, sockaddr_in, sockaddr_in6, socklen_t};

use crate::entry::aimed;
use crate::files::Target;

/// A socket's address in the kernel's form.
enum Address {
    V4(sockaddr_in),
    V6(sockaddr_in6),
}

/// What to connect to, where it does not move while the kernel reads it.
pub(crate) struct Dial(Box<(Address, Timespec)>);

fn family(family: i32) -> sa_family_t {
    sa_family_t::try_from(family).expect("a family's number")
}

impl Dial {
    pub(crate) fn new(address: SocketAddr, within: Duration) -> Self {
        let address = match address {
            SocketAddr::V4(address) => Address::V4(sockaddr_in {
                sin_family: family(libc::AF_INET),
                sin_port: address.port().to_be(),
                sin_addr: in_addr { s_addr: u32::from_ne_bytes(address.ip().octets()) },
                sin_zero: [0; 8],
            }),
            SocketAddr::V6(address) => Address::V6(sockaddr_in6 {
                sin6_family: family(libc::AF_INET6),
                sin6_port: address.port().to_be(),
                sin6_flowinfo: address.flowinfo(),
                sin6_addr: in6_addr { s6_addr: address.ip().octets() },
                sin6_scope_id: address.scope_id(),
            }),
        };
        Self(Box::new((address, Timespec::from(within))))
    }

    /// The submission that connects. Its deadline is to follow at once.
    pub(crate) fn connect(&self, socket: Target) -> Entry {
        let (address, len_bytes) = match &self.0.0 {
            Address::V4(address) => ((&raw const *address).cast(), size_of::<sockaddr_in>()),
            Address::V6(address) => ((&raw const *address).cast(), size_of::<sockaddr_in6>()),
        };
        let len_bytes = socklen_t::try_from(len_bytes).expect("a few bytes");
        aimed(socket, opcode::Connect::new(Fd(socket.number), address, len_bytes).build()).flags(Flags::IO_LINK)
    }

    /// The submission that ends the one before it when the time is over.
    pub(crate) fn deadline(&self) -> Entry {
        opcode::LinkTimeout::new(&raw const self.0.1).build()
    }
}
