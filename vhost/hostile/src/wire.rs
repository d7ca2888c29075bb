//! A front end's connection, which can send anything. Knows no guest, and not what messages mean.
//!
//! Source: QEMU's `docs/interop/vhost-user.rst`.

use std::io::{IoSlice, Read};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};

use crate::Surprise;

pub(crate) const GET_FEATURES: u32 = 1;
pub(crate) const SET_FEATURES: u32 = 2;
pub(crate) const SET_OWNER: u32 = 3;
pub(crate) const RESET_OWNER: u32 = 4;
pub(crate) const SET_MEM_TABLE: u32 = 5;
pub(crate) const SET_LOG_BASE: u32 = 6;
pub(crate) const SET_LOG_FD: u32 = 7;
pub(crate) const SET_VRING_NUM: u32 = 8;
pub(crate) const SET_VRING_ADDR: u32 = 9;
pub(crate) const SET_VRING_BASE: u32 = 10;
pub(crate) const GET_VRING_BASE: u32 = 11;
pub(crate) const SET_VRING_KICK: u32 = 12;
pub(crate) const SET_VRING_CALL: u32 = 13;
pub(crate) const SET_VRING_ERR: u32 = 14;
pub(crate) const SET_PROTOCOL_FEATURES: u32 = 16;
pub(crate) const SET_VRING_ENABLE: u32 = 18;
pub(crate) const SET_BACKEND_REQ_FD: u32 = 21;
pub(crate) const GET_CONFIG: u32 = 24;
pub(crate) const SET_CONFIG: u32 = 25;
pub(crate) const GET_INFLIGHT_FD: u32 = 31;
pub(crate) const SET_INFLIGHT_FD: u32 = 32;
pub(crate) const RESET_DEVICE: u32 = 34;
pub(crate) const GET_MAX_MEM_SLOTS: u32 = 36;
pub(crate) const ADD_MEM_REG: u32 = 37;
pub(crate) const REM_MEM_REG: u32 = 38;
pub(crate) const SET_STATUS: u32 = 39;
pub(crate) const GET_STATUS: u32 = 40;

/// Header flags: version 1, and with a wish for a reply.
pub(crate) const PLAIN: u32 = 1;
pub(crate) const NEED_REPLY: u32 = 1 | 1 << 3;
/// The flags of a reply.
pub(crate) const REPLY: u32 = 1 | 1 << 2;

/// Every protocol feature the table speaks of: MQ, LOG_SHMFD, REPLY_ACK, BACKEND_REQ, CONFIG, INFLIGHT_SHMFD, RESET_DEVICE,
/// CONFIGURE_MEM_SLOTS, STATUS.
pub(crate) const PROTOCOL: u64 = 1 | 1 << 1 | 1 << 3 | 1 << 5 | 1 << 9 | 1 << 12 | 1 << 13 | 1 << 15 | 1 << 16;

/// Virtio features.
pub(crate) const FLUSH: u64 = 1 << 9;
pub(crate) const CONFIG_WCE: u64 = 1 << 11;
pub(crate) const DISCARD: u64 = 1 << 13;
pub(crate) const WRITE_ZEROES: u64 = 1 << 14;
pub(crate) const LOG_ALL: u64 = 1 << 26;
pub(crate) const INDIRECT: u64 = 1 << 28;
pub(crate) const EVENT_IDX: u64 = 1 << 29;
pub(crate) const PROTOCOL_FEATURES: u64 = 1 << 30;
pub(crate) const VERSION_1: u64 = 1 << 32;
pub(crate) const RING_PACKED: u64 = 1 << 34;

/// Long enough that only a hang reaches it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Most descriptors that the kernel passes at once.
pub(crate) const FDS_MAX: usize = 253;

/// One message, ready to be sent in whole or in part.
pub(crate) struct Packet {
    pub(crate) code: u32,
    pub(crate) body: Vec<u8>,
    pub(crate) fds: Vec<OwnedFd>,
}

impl Packet {
    pub(crate) fn new(code: u32, body: Vec<u8>) -> Self {
        Self { code, body, fds: Vec::new() }
    }

    pub(crate) fn with(code: u32, body: Vec<u8>, fds: Vec<OwnedFd>) -> Self {
        Self { code, body, fds }
    }

    pub(crate) fn bytes(&self, flags: u32) -> Vec<u8> {
        message(self.code, flags, &self.body)
    }
}

/// A header and its body.
pub(crate) fn message(code: u32, flags: u32, body: &[u8]) -> Vec<u8> {
    let size = u32::try_from(body.len()).expect("a short body");
    [header(code, flags, size), body.to_vec()].concat()
}

pub(crate) fn header(code: u32, flags: u32, size: u32) -> Vec<u8> {
    words(&[code, flags, size])
}

pub(crate) fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

pub(crate) fn longs(longs: &[u64]) -> Vec<u8> {
    longs.iter().flat_map(|long| long.to_ne_bytes()).collect()
}

/// A connection to a back end.
pub(crate) struct Client {
    socket: UnixStream,
}

impl Client {
    /// Connects, and negotiates nothing.
    pub(crate) fn connect(path: &Path) -> Result<Self, Surprise> {
        let socket = UnixStream::connect(path)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { socket })
    }

    /// Connects and negotiates all protocol features and these of virtio.
    pub(crate) fn negotiated(path: &Path, features: u64) -> Result<Self, Surprise> {
        let client = Self::connect(path)?;
        client.send(&message(SET_PROTOCOL_FEATURES, PLAIN, &longs(&[PROTOCOL])), &[])?;
        client.send(&message(SET_FEATURES, PLAIN, &longs(&[features])), &[])?;
        Ok(client)
    }

    pub(crate) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Sends bytes with descriptors at the first of them.
    pub(crate) fn send(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), Surprise> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(fds.is_empty() || control.push(SendAncillaryMessage::ScmRights(fds)), "at most {FDS_MAX} descriptors");
        let send = || rustix::net::sendmsg(&self.socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL);
        let sent = rustix::io::retry_on_intr(send)?;
        if sent == bytes.len() { Ok(()) } else { Err(Surprise::of(format!("{sent} of {} bytes could be sent", bytes.len()))) }
    }

    /// The same for what the back end may refuse to take by closing the connection meanwhile. Whether it was taken.
    pub(crate) fn try_send(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> bool {
        self.send(bytes, fds).is_ok()
    }

    pub(crate) fn send_packet(&self, packet: &Packet, flags: u32) -> Result<(), Surprise> {
        let fds: Vec<BorrowedFd<'_>> = packet.fds.iter().map(AsFd::as_fd).collect();
        self.send(&packet.bytes(flags), &fds)
    }

    /// The body of the next reply, which is one to `code`. A descriptor that comes with it is closed.
    pub(crate) fn receive(&mut self, code: u32) -> Result<Vec<u8>, Surprise> {
        let mut head = [0; 12];
        if let Err(error) = self.socket.read_exact(&mut head) {
            return Err(Surprise::of(format!("there is no reply to request {code}: {error}")));
        }
        let word = |at: usize| u32::from_ne_bytes(head[at..at + 4].try_into().expect("four bytes"));
        if (word(0), word(4)) != (code, REPLY) {
            return Err(Surprise::of(format!("the reply to request {code} is one to {} with flags {:#x}", word(0), word(4))));
        }
        let mut body = vec![0; usize::try_from(word(8)).expect("32 bits").min(4096)];
        self.socket.read_exact(&mut body)?;
        Ok(body)
    }

    /// A question with a reply of its own.
    pub(crate) fn ask(&mut self, code: u32, body: &[u8]) -> Result<Vec<u8>, Surprise> {
        self.send(&message(code, PLAIN, body), &[])?;
        self.receive(code)
    }

    /// The same with descriptors in the question.
    pub(crate) fn ask_with(&mut self, packet: &Packet) -> Result<Vec<u8>, Surprise> {
        self.send_packet(packet, PLAIN)?;
        self.receive(packet.code)
    }

    /// A command and its result: zero if it was done.
    pub(crate) fn result_of(&mut self, packet: &Packet) -> Result<u64, Surprise> {
        self.send_packet(packet, NEED_REPLY)?;
        let body = self.receive(packet.code)?;
        let result = body.try_into().map(u64::from_ne_bytes);
        result.map_err(|_| Surprise::of(format!("the result of request {} is no number", packet.code)))
    }

    /// A command that has to be done, and is by the time this returns.
    pub(crate) fn tell(&mut self, packet: &Packet) -> Result<(), Surprise> {
        match self.result_of(packet)? {
            0 => Ok(()),
            result => Err(Surprise::of(format!("request {} was refused ({result})", packet.code))),
        }
    }

    /// Waits until everything sent so far has been served.
    pub(crate) fn sync(&mut self) -> Result<(), Surprise> {
        self.ask(GET_FEATURES, &[]).map(drop)
    }

    /// Waits until the back end has closed the connection.
    pub(crate) fn wait_closed(mut self) -> Result<(), Surprise> {
        let mut rest = [0; 4096];
        loop {
            match self.socket.read(&mut rest) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                // What it had not read when it closed makes the close a reset.
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return Ok(()),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Surprise::of(format!("the connection should be closed by now: {error}"))),
            }
        }
    }

    /// Leaves, and waits until the back end has put away what it had for this connection.
    pub(crate) fn leave(self) -> Result<(), Surprise> {
        // A connection that was closed from the other side has nothing to shut down.
        let _ = self.socket.shutdown(Shutdown::Write);
        self.wait_closed()
    }
}
