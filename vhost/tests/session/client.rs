//! A front end that can send anything. Knows no guest.

use std::io::{IoSlice, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags};

pub(crate) const GET_FEATURES: u32 = 1;
pub(crate) const SET_FEATURES: u32 = 2;
pub(crate) const SET_OWNER: u32 = 3;
pub(crate) const RESET_OWNER: u32 = 4;
pub(crate) const SET_MEM_TABLE: u32 = 5;
pub(crate) const SET_LOG_BASE: u32 = 6;
pub(crate) const SET_VRING_NUM: u32 = 8;
pub(crate) const SET_VRING_ADDR: u32 = 9;
pub(crate) const SET_VRING_BASE: u32 = 10;
pub(crate) const GET_VRING_BASE: u32 = 11;
pub(crate) const SET_VRING_KICK: u32 = 12;
pub(crate) const SET_VRING_CALL: u32 = 13;
pub(crate) const SET_VRING_ERR: u32 = 14;
pub(crate) const GET_PROTOCOL_FEATURES: u32 = 15;
pub(crate) const SET_PROTOCOL_FEATURES: u32 = 16;
pub(crate) const GET_QUEUE_NUM: u32 = 17;
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
const REPLY: u32 = 1 | 1 << 2;

/// Protocol features.
pub(crate) const MQ: u64 = 1;
pub(crate) const REPLY_ACK: u64 = 1 << 3;
pub(crate) const BACKEND_REQ: u64 = 1 << 5;
pub(crate) const CONFIG: u64 = 1 << 9;
pub(crate) const INFLIGHT_SHMFD: u64 = 1 << 12;
pub(crate) const PROTOCOL_ALL: u64 = 1 | 1 << 1 | 1 << 3 | 1 << 5 | 1 << 9 | 1 << 12 | 1 << 13 | 1 << 15 | 1 << 16;
/// Virtio features.
pub(crate) const FLUSH: u64 = 1 << 9;
pub(crate) const CONFIG_WCE: u64 = 1 << 11;
pub(crate) const INDIRECT: u64 = 1 << 28;
pub(crate) const EVENT_IDX: u64 = 1 << 29;
pub(crate) const PROTOCOL_FEATURES: u64 = 1 << 30;
pub(crate) const VERSION_1: u64 = 1 << 32;
pub(crate) const RING_PACKED: u64 = 1 << 34;

/// Long enough that only a hang reaches it.
const PATIENCE: Duration = Duration::from_secs(60);

/// One message, ready to be sent in whole or in part.
pub(crate) struct Packet {
    pub(crate) code: u32,
    pub(crate) body: Vec<u8>,
    pub(crate) fds: Vec<OwnedFd>,
}

impl Packet {
    pub(crate) fn new(code: u32, body: Vec<u8>, fds: &[&OwnedFd]) -> Self {
        let fds = fds.iter().map(|fd| fd.try_clone().unwrap()).collect();
        Self { code, body, fds }
    }

    pub(crate) fn bytes(&self, flags: u32) -> Vec<u8> {
        let size = u32::try_from(self.body.len()).unwrap();
        [header(self.code, flags, size), self.body.clone()].concat()
    }
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
    flags: u32,
}

impl Client {
    /// Connects. Until it says otherwise it asks for no acknowledgements.
    pub(crate) fn connect(path: &Path) -> Self {
        let socket = UnixStream::connect(path).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { socket, flags: PLAIN }
    }

    pub(crate) fn send(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(fds.is_empty() || control.push(SendAncillaryMessage::ScmRights(fds)));
        let sent = rustix::net::sendmsg(&self.socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL);
        assert_eq!(sent.unwrap(), bytes.len());
    }

    /// Sends what the back end may refuse to take by closing the connection meanwhile.
    pub(crate) fn try_send(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(fds.is_empty() || control.push(SendAncillaryMessage::ScmRights(fds)));
        let _ = rustix::net::sendmsg(&self.socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL);
    }

    pub(crate) fn send_packet(&self, packet: &Packet, flags: u32) {
        let fds: Vec<BorrowedFd<'_>> = packet.fds.iter().map(AsFd::as_fd).collect();
        self.send(&packet.bytes(flags), &fds);
    }

    /// The body of the reply to `code`.
    pub(crate) fn reply(&mut self, code: u32) -> Vec<u8> {
        let mut head = [0; 12];
        self.socket.read_exact(&mut head).unwrap();
        let word = |at: usize| u32::from_ne_bytes(head[at..at + 4].try_into().unwrap());
        assert_eq!((word(0), word(4)), (code, REPLY), "the reply to request {code}");
        let mut body = vec![0; usize::try_from(word(8)).unwrap()];
        self.socket.read_exact(&mut body).unwrap();
        body
    }

    /// A question with a reply of its own.
    pub(crate) fn ask(&mut self, code: u32, body: &[u8]) -> Vec<u8> {
        self.send_packet(&Packet::new(code, body.to_vec(), &[]), self.flags);
        self.reply(code)
    }

    /// A question whose reply comes with a descriptor.
    pub(crate) fn ask_for_fd(&mut self, code: u32, body: &[u8]) -> (Vec<u8>, OwnedFd) {
        self.send_packet(&Packet::new(code, body.to_vec(), &[]), self.flags);
        let mut bytes = [0; 12 + 64];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let message = rustix::net::recvmsg(&self.socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::empty()).unwrap();
        let rights = |message| if let RecvAncillaryMessage::ScmRights(fds) = message { Some(fds) } else { None };
        let mut fds: Vec<OwnedFd> = control.drain().filter_map(rights).flatten().collect();
        assert_eq!(fds.len(), 1, "descriptors of the reply to request {code}");
        let (head, body) = bytes[..message.bytes].split_at(12);
        let size = u32::try_from(body.len()).unwrap();
        assert_eq!(head, header(code, REPLY, size), "the reply to request {code}");
        (body.to_vec(), fds.pop().unwrap())
    }

    pub(crate) fn ask_number(&mut self, code: u32) -> u64 {
        u64::from_ne_bytes(self.ask(code, &[]).try_into().unwrap())
    }

    /// Negotiates protocol features, and from then on asks for acknowledgements if they are among them.
    pub(crate) fn negotiate(&mut self, protocol_features: u64, features: u64) {
        self.flags = PLAIN;
        self.tell(SET_PROTOCOL_FEATURES, &longs(&[protocol_features]), &[]);
        self.flags = if protocol_features & REPLY_ACK != 0 { NEED_REPLY } else { PLAIN };
        self.tell(SET_FEATURES, &longs(&[features]), &[]);
    }

    /// A command that is done; waits until it is.
    pub(crate) fn tell(&mut self, code: u32, body: &[u8], fds: &[&OwnedFd]) {
        let result = self.try_tell(code, body, fds);
        assert_eq!(result, 0, "request {code} was refused");
    }

    /// A command and its result: zero if it was done, and certainly done.
    pub(crate) fn try_tell(&mut self, code: u32, body: &[u8], fds: &[&OwnedFd]) -> u64 {
        self.send_packet(&Packet::new(code, body.to_vec(), fds), self.flags);
        if self.flags == NEED_REPLY {
            return u64::from_ne_bytes(self.reply(code).try_into().unwrap());
        }
        self.sync();
        0
    }

    /// Waits until everything sent so far has been served, and shows in the controller's state.
    pub(crate) fn sync(&mut self) {
        for _ in 0..2 {
            self.send(&header(GET_FEATURES, PLAIN, 0), &[]);
            self.reply(GET_FEATURES);
        }
    }

    /// Waits until the back end has closed the connection. How many bytes it sent before.
    pub(crate) fn wait_closed(mut self) -> usize {
        let (mut count, mut rest) = (0, [0; 4096]);
        loop {
            match self.socket.read(&mut rest) {
                Ok(0) => return count,
                Ok(more) => count += more,
                // What it had not read when it closed makes the close a reset.
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return count,
                Err(error) => panic!("the connection should be closed by now: {error}"),
            }
        }
    }
}
