//! The way back: requests of ours to the front end (VHOST_USER_SET_BACKEND_REQ_FD). Knows no session state.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{RecvFlags, SocketType};
use spinel_handover::Fd;

use crate::handover::FrontEndParcel;
use crate::message::{Code, FLAG_NEED_REPLY, FLAG_REPLY, HEADER_BYTES, WriteError, send};

/// "The configuration space has changed" (VHOST_USER_BACKEND_CONFIG_CHANGE_MSG).
const CONFIG_CHANGE: Code = Code(2);
/// A header and a 64-bit result.
const REPLY_BYTES: usize = HEADER_BYTES + 8;

/// What came of waiting for a reply.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Not (all of) it is there.
    None,
    /// The front end's result: zero if it did what was asked.
    Result(u64),
    /// Nothing sensible will come any more.
    Broken,
}

/// The channel for requests of ours.
#[derive(Debug)]
pub(crate) struct FrontEnd {
    socket: OwnedFd,
    /// Replies that are still to come.
    awaited: u32,
    reply: [u8; REPLY_BYTES],
    have: usize,
}

impl FrontEnd {
    /// Takes the channel over; `None` if it is no stream socket.
    pub(crate) fn new(socket: OwnedFd) -> Option<Self> {
        let stream = rustix::net::sockopt::socket_type(&socket) == Ok(SocketType::STREAM);
        stream.then_some(Self { socket, awaited: 0, reply: [0; REPLY_BYTES], have: 0 })
    }

    /// As it travels to another process.
    pub(crate) fn pack(&self) -> io::Result<FrontEndParcel> {
        Ok(FrontEndParcel { socket: Fd::of(&self.socket)?, awaited: self.awaited, reply: self.reply[..self.have].to_vec() })
    }

    /// As it came from another process; `None` if it cannot be one.
    pub(crate) fn unpack(socket: OwnedFd, awaited: u32, reply: &[u8]) -> Option<Self> {
        let mut front_end = Self::new(socket)?;
        if reply.len() >= REPLY_BYTES || (awaited == 0 && !reply.is_empty()) {
            return None;
        }
        (front_end.awaited, front_end.have) = (awaited, reply.len());
        front_end.reply[..reply.len()].copy_from_slice(reply);
        Some(front_end)
    }

    /// Says that the configuration space has changed.
    pub(crate) fn send_config_change(&mut self, need_reply: bool) -> Result<(), WriteError> {
        send(self.socket.as_fd(), CONFIG_CHANGE, if need_reply { FLAG_NEED_REPLY } else { 0 }, &[])?;
        self.awaited += u32::from(need_reply);
        Ok(())
    }

    /// What to watch, as long as something is to come.
    pub(crate) fn watched(&self) -> Option<BorrowedFd<'_>> {
        (self.awaited > 0).then_some(self.socket.as_fd())
    }

    /// Takes what is there of the next reply.
    pub(crate) fn receive(&mut self) -> Answer {
        match rustix::net::recv(&self.socket, &mut self.reply[self.have..], RecvFlags::DONTWAIT) {
            Ok((0, _)) => return Answer::Broken,
            Ok((count, _)) => self.have += count,
            Err(Errno::AGAIN | Errno::INTR) => return Answer::None,
            Err(_) => return Answer::Broken,
        }
        if self.have < REPLY_BYTES {
            return Answer::None;
        }
        self.have = 0;
        self.awaited -= 1;
        let word = |at: usize| u32::from_ne_bytes(self.reply[at..at + 4].try_into().expect("four bytes"));
        if word(0) != CONFIG_CHANGE.0 || word(4) & FLAG_REPLY == 0 || word(8) != 8 {
            return Answer::Broken;
        }
        Answer::Result(u64::from_ne_bytes(self.reply[HEADER_BYTES..].try_into().expect("eight bytes")))
    }
}
