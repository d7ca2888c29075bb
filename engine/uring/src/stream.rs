//! TCP connections as streams of bytes on a core's ring. Knows no protocol above TCP.

mod dial;
mod inbox;
mod line;
mod memory;
mod outbox;

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use rustix::net::sockopt::{set_tcp_nodelay, tcp_nodelay};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use spinel_core::{Armed, Break, Core, OpenError, Stream, StreamState};
use spinel_mem::{Regions, Segment};

use crate::options::Options;
use crate::party::PartyId;
use crate::ring::Ring;
use dial::Dial;
use inbox::Inbox;
use line::Line;
use outbox::Outbox;

/// How much of its connection a stream holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StreamOptions {
    /// Buffers for what has come: a power of two, at most 256. When all are full the other side has to wait.
    pub receive_buffers: u16,
    /// Bytes of each of them.
    pub receive_buffer_bytes: u32,
    /// Sends that may wait.
    pub sends: u16,
    /// Receive by one submission with many answers (Linux 6.12), instead of one for each answer.
    pub multishot: bool,
}

impl Default for StreamOptions {
    fn default() -> Self {
        Self { receive_buffers: 4, receive_buffer_bytes: 32 * 1024, sends: 128, multishot: true }
    }
}

/// A TCP connection on a core's ring.
///
/// It may be dropped at any time, and is closed then; who closes it before learns when the memory of its sends is let go of.
///
/// What was sent in a turn goes with one call when the turn ends. Nothing allocates after opening; what a stream holds
/// is bounded by its options, and told by [`memory_bytes`](Self::memory_bytes).
pub struct TcpStream {
    ring: Rc<RefCell<Ring>>,
    line: Rc<RefCell<Line>>,
    party: PartyId,
    regions: Rc<Regions>,
}

fn system(doing: &'static str) -> impl FnOnce(Errno) -> OpenError {
    move |errno| OpenError::System { doing, source: errno.into() }
}

/// Makes sure that small messages go at once, and that the kernel waits for a socket where it can instead of refusing.
fn prepare(socket: &OwnedFd) -> Result<(), OpenError> {
    set_tcp_nodelay(socket, true).map_err(system("setting TCP_NODELAY"))?;
    if !tcp_nodelay(socket).map_err(system("reading TCP_NODELAY back"))? {
        return Err(OpenError::System { doing: "setting TCP_NODELAY", source: io::Error::other("it was not set afterwards") });
    }
    let flags = fcntl_getfl(socket).map_err(system("reading a socket's flags"))?;
    // io_uring answers EAGAIN for a non-blocking descriptor, where it would wait for an ordinary one without blocking anybody.
    fcntl_setfl(socket, flags - OFlags::NONBLOCK).map_err(system("setting a socket's flags"))
}

/// What makes streams on one core, when the core itself is not at hand.
pub struct TcpDialer {
    ring: Rc<RefCell<Ring>>,
    regions: Rc<Regions>,
}

impl TcpDialer {
    /// Of this core.
    ///
    /// # Errors
    /// [`OpenError::System`] if the core has no ring yet, and there is none to be had.
    pub fn of(core: &mut Core) -> Result<Self, OpenError> {
        Ok(Self { ring: core.share(|_| Ring::new(&Options::default()))?, regions: core.regions() })
    }

    /// As [`TcpStream::connect`].
    ///
    /// # Errors
    /// [`OpenError::System`] if there is no socket, or no memory.
    ///
    /// # Panics
    /// If the options make no sense.
    pub fn connect(&self, address: SocketAddr, within: Duration, options: &StreamOptions) -> Result<TcpStream, OpenError> {
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None).map_err(system("making a TCP socket"))?;
        TcpStream::with(self, socket, Some(Dial::new(address, within)), options)
    }
}

impl TcpStream {
    /// A stream over a connected TCP socket.
    ///
    /// # Errors
    /// [`OpenError::System`] if it is no TCP socket, or there is no memory.
    ///
    /// # Panics
    /// If the options make no sense.
    pub fn open(core: &mut Core, socket: OwnedFd, options: &StreamOptions) -> Result<Self, OpenError> {
        Self::with(&TcpDialer::of(core)?, socket, None, options)
    }

    /// A stream to `address`. It can be used at once: what is sent waits until the other side has answered. If that does not
    /// happen within the given time, or it refuses, the stream breaks.
    ///
    /// # Errors
    /// [`OpenError::System`] if there is no socket, or no memory.
    ///
    /// # Panics
    /// If the options make no sense.
    pub fn connect(core: &mut Core, address: SocketAddr, within: Duration, options: &StreamOptions) -> Result<Self, OpenError> {
        TcpDialer::of(core)?.connect(address, within, options)
    }

    fn with(dialer: &TcpDialer, socket: OwnedFd, dial: Option<Dial>, options: &StreamOptions) -> Result<Self, OpenError> {
        prepare(&socket)?;
        let memory = |source| OpenError::System { doing: "mapping a stream's memory", source };
        let inbox = Inbox::new(options.receive_buffers, options.receive_buffer_bytes).map_err(memory)?;
        let outbox = Outbox::new(options.sends).map_err(memory)?;
        let mut ring = dialer.ring.borrow_mut();
        let target = ring.add_file(socket.as_raw_fd());
        let line = Rc::new(RefCell::new(Line::new(socket, target, inbox, outbox, dial)));
        let party = ring.join(Rc::clone(&line) as Rc<RefCell<dyn crate::party::Party>>);
        if options.multishot
            && let Ok(group) = u16::try_from(party.0)
        {
            let (address, count) = line.borrow().inbox.entries();
            // SAFETY: the inbox owns the page, and goes with the line: after the group has ended.
            if unsafe { ring.begin_group(group, address, count) } {
                line.borrow_mut().inbox.lend_as(group);
            }
        }
        ring.rouse(party);
        drop(ring);
        Ok(Self { ring: Rc::clone(&dialer.ring), line, party, regions: Rc::clone(&dialer.regions) })
    }

    /// Whether the other side has answered, and nothing has ended it since.
    #[must_use]
    pub fn connected(&self) -> bool {
        self.line.borrow().is_connected()
    }

    /// Whether one submission receives many times.
    #[must_use]
    pub fn multishot(&self) -> bool {
        self.line.borrow().inbox.group().is_some()
    }

    /// Bytes that this stream holds beside what the kernel holds for its socket. Most of them are populated when first used.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        let line = self.line.borrow();
        size_of::<Self>() + size_of::<Line>() + line.inbox.memory_bytes() + line.outbox.memory_bytes()
    }

    /// Has the ring ask the line if that wants something.
    fn rouse_if_eager(&self) {
        if self.line.borrow().is_eager() {
            self.ring.borrow_mut().rouse(self.party);
        }
    }
}

impl Stream for TcpStream {
    fn incoming(&self) -> &[u8] {
        let incoming = self.line.borrow().inbox.incoming();
        // SAFETY: these bytes lie in memory of the line, which `self` keeps; the kernel does not touch them until they are
        // taken, which needs `self` exclusively.
        unsafe { incoming.as_ref() }
    }

    fn take(&mut self, count: usize) {
        self.line.borrow_mut().inbox.take(count);
        self.rouse_if_eager();
    }

    fn room(&self) -> usize {
        self.line.borrow().outbox.room()
    }

    fn send(&mut self, head: &[u8], body: &[Segment], tail: &[u8]) {
        let mut line = self.line.borrow_mut();
        let mut missing = false;
        let resolved = body.iter().filter_map(|segment| {
            let address = self.regions.resolve(segment, 0);
            missing |= address.is_none();
            Some((address?, segment.len_bytes()))
        });
        line.outbox.queue(head, resolved, tail);
        if missing {
            // Less than what was meant must not go, and the memory may have vanished by somebody else's doing.
            line.break_off(Break::System(Errno::FAULT.raw_os_error()));
        }
        line.settle();
        drop(line);
        self.rouse_if_eager();
    }

    fn sent(&self) -> u64 {
        self.line.borrow().outbox.sent()
    }

    fn kick(&mut self) {
        // The turn's end starts everything at once; earlier calls would have less to send each.
    }

    fn state(&self) -> StreamState {
        self.line.borrow().state()
    }

    fn arm(&mut self) -> Armed {
        // Whatever comes wakes the ring, and what waits to be submitted keeps it awake.
        Armed::Idle
    }

    fn close(&mut self) {
        self.line.borrow_mut().close();
        self.rouse_if_eager();
    }

    fn closed(&self) -> bool {
        self.line.borrow().is_closed()
    }
}

impl Drop for TcpStream {
    /// Closes it. What is in flight the ring waits for, and keeps what the kernel needs for it.
    fn drop(&mut self) {
        self.close();
        self.ring.borrow_mut().leave(self.party);
    }
}
