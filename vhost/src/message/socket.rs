//! Reading and writing messages on a socket that is never waited for. Knows nothing of what they mean.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};

use spinel_handover::Fd;

use super::{BODY_BYTES_MAX, CONFIG_BYTES_MAX, CONFIG_HEAD_BYTES, Code, FDS_MAX, FLAG_REPLY, HEADER_BYTES, Header, Message, MessageError};
use crate::handover::Unread;

/// Why no further message will come from a socket.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    #[error("the client closed the connection")]
    Closed,
    #[error("the client closed the connection in the middle of a message")]
    ClosedInside,
    #[error("the client sent {0}")]
    Malformed(#[from] MessageError),
    #[error("the connection broke")]
    Broken(#[source] io::Error),
}

/// Why a message could not be written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WriteError {
    #[error("the client does not read what it is sent")]
    Full,
    #[error("the connection broke while it was written to")]
    Broken(#[source] io::Error),
}

/// The longest message of ours: a reply with configuration space.
const OUT_BYTES_MAX: usize = HEADER_BYTES + CONFIG_HEAD_BYTES + CONFIG_BYTES_MAX;

/// Gathers one message at a time from a stream that may deliver it in any pieces.
#[derive(Debug)]
pub(crate) struct Inlet {
    /// The message so far, header first.
    bytes: [u8; HEADER_BYTES + BODY_BYTES_MAX],
    have: usize,
    /// Known once the header is complete.
    header: Option<Header>,
    fds: Vec<OwnedFd>,
}

impl Inlet {
    pub(crate) fn new() -> Self {
        Self { bytes: [0; HEADER_BYTES + BODY_BYTES_MAX], have: 0, header: None, fds: Vec::new() }
    }

    /// What has come of the next message, as it travels to another process.
    pub(crate) fn pack(&self) -> io::Result<Unread> {
        let fds = self.fds.iter().map(Fd::of).collect::<io::Result<_>>()?;
        Ok(Unread { bytes: self.bytes[..self.have].to_vec(), fds })
    }

    /// What had come of a message before another process took over; `None` if that cannot be.
    pub(crate) fn unpack(bytes: &[u8], fds: Vec<OwnedFd>) -> Option<Self> {
        let mut inlet = Self::new();
        inlet.bytes.get_mut(..bytes.len())?.copy_from_slice(bytes);
        (inlet.have, inlet.fds) = (bytes.len(), fds);
        if let Some(header) = bytes.first_chunk::<HEADER_BYTES>().filter(|_| bytes.len() > HEADER_BYTES) {
            let header = Header::parse(*header).ok()?;
            inlet.header = Some(header);
            // A message that was complete had been served.
            if bytes.len() >= HEADER_BYTES + usize::try_from(header.size).ok()? {
                return None;
            }
        }
        (inlet.fds.len() <= FDS_MAX && (!bytes.is_empty() || inlet.fds.is_empty())).then_some(inlet)
    }

    /// The next message if all of it is there; `None` if not yet.
    ///
    /// # Errors
    /// [`ReadError`], after which nothing more can be read: the stream is out of step.
    pub(crate) fn next(&mut self, socket: BorrowedFd<'_>) -> Result<Option<Message>, ReadError> {
        loop {
            if self.header.is_none() && self.have == HEADER_BYTES {
                let bytes = self.bytes[..HEADER_BYTES].try_into().expect("a header's length");
                self.header = Some(Header::parse(bytes)?);
            }
            let whole = HEADER_BYTES + self.header.map_or(0, |header| usize::try_from(header.size).expect("checked: a small size"));
            if let Some(header) = self.header.take_if(|_| self.have == whole) {
                self.have = 0;
                let fds = std::mem::take(&mut self.fds);
                return Ok(Some(Message::parse(header, &self.bytes[HEADER_BYTES..whole], fds)?));
            }
            if !self.receive(socket, whole)? {
                return Ok(None);
            }
        }
    }

    /// Takes bytes up to `whole`, and descriptors if this is where a message begins. False if there is nothing yet.
    fn receive(&mut self, socket: BorrowedFd<'_>, whole: usize) -> Result<bool, ReadError> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let mut into = [IoSliceMut::new(&mut self.bytes[self.have..whole])];
        let received = match rustix::net::recvmsg(socket, &mut into, &mut control, flags) {
            Ok(received) => received,
            Err(Errno::INTR) => return Ok(true),
            Err(Errno::AGAIN) => return Ok(false),
            // The client died with data of ours unread; to us that is a closed connection.
            Err(Errno::CONNRESET) => return Err(self.closed()),
            Err(error) => return Err(ReadError::Broken(error.into())),
        };
        let arrived = control.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        });
        let arrived: Vec<OwnedFd> = arrived.flatten().collect();
        if received.flags.contains(ReturnFlags::CTRUNC) {
            return Err(MessageError::DescriptorFlood.into());
        }
        if received.bytes == 0 {
            return Err(self.closed());
        }
        // The specification attaches descriptors to a message's first byte.
        if self.have > 0 && !arrived.is_empty() {
            return Err(MessageError::StrayDescriptors.into());
        }
        self.fds.extend(arrived);
        self.have += received.bytes;
        Ok(true)
    }

    fn closed(&self) -> ReadError {
        if self.have == 0 { ReadError::Closed } else { ReadError::ClosedInside }
    }
}

/// Writes one message at once, or not at all as far as the stream's use goes: after an error it is out of step.
///
/// # Errors
/// [`WriteError`]; a front end that lets its socket's buffer fill is not waited for.
pub(crate) fn send(socket: BorrowedFd<'_>, code: Code, flags: u32, body: &[u8]) -> Result<(), WriteError> {
    send_with(socket, code, flags, body, &[])
}

fn send_with(socket: BorrowedFd<'_>, code: Code, flags: u32, body: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), WriteError> {
    let whole = HEADER_BYTES + body.len();
    assert!(whole <= OUT_BYTES_MAX, "a message of {whole} bytes of our own");
    let mut bytes = [0; OUT_BYTES_MAX];
    let size = u32::try_from(body.len()).expect("a small size");
    bytes[..HEADER_BYTES].copy_from_slice(&Header { code, flags, size }.bytes());
    bytes[HEADER_BYTES..whole].copy_from_slice(body);
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(fds.is_empty() || control.push(SendAncillaryMessage::ScmRights(fds)), "one descriptor at most");
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    let sent = rustix::io::retry_on_intr(|| rustix::net::sendmsg(socket, &[IoSlice::new(&bytes[..whole])], &mut control, flags));
    match sent {
        Ok(count) if count == whole => Ok(()),
        Ok(_) | Err(Errno::AGAIN) => Err(WriteError::Full),
        Err(error) => Err(WriteError::Broken(error.into())),
    }
}

/// Answers a request.
///
/// # Errors
/// As [`send`].
pub(crate) fn reply(socket: BorrowedFd<'_>, code: Code, body: &[u8]) -> Result<(), WriteError> {
    send(socket, code, FLAG_REPLY, body)
}

/// The same with a descriptor.
///
/// # Errors
/// As [`send`].
pub(crate) fn reply_with(socket: BorrowedFd<'_>, code: Code, body: &[u8], fd: &OwnedFd) -> Result<(), WriteError> {
    send_with(socket, code, FLAG_REPLY, body, &[fd.as_fd()])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Request;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    fn pair() -> (OwnedFd, OwnedFd) {
        socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap()
    }

    fn message(code: Code, body: &[u8]) -> Vec<u8> {
        let size = u32::try_from(body.len()).unwrap();
        [&Header { code, flags: 0, size }.bytes()[..], body].concat()
    }

    fn send_with(socket: &OwnedFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(fds.is_empty() || control.push(SendAncillaryMessage::ScmRights(fds)));
        let sent = rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::empty()).unwrap();
        assert_eq!(sent, bytes.len());
    }

    #[test]
    fn a_message_survives_being_cut_anywhere() {
        let (ours, theirs) = pair();
        let bytes = message(Code::SET_FEATURES, &7_u64.to_ne_bytes());
        let mut inlet = Inlet::new();
        for cut in 1..bytes.len() {
            send_with(&theirs, &bytes[..cut], &[]);
            assert!(inlet.next(ours.as_fd()).unwrap().is_none(), "cut at {cut}");
            send_with(&theirs, &bytes[cut..], &[]);
            let message = inlet.next(ours.as_fd()).unwrap().expect("complete");
            assert!(matches!(message.request, Request::SetFeatures(7)));
        }
    }

    #[test]
    fn messages_sent_together_come_one_by_one_with_their_own_descriptors() {
        let (ours, theirs) = pair();
        send_with(&theirs, &message(Code::SET_VRING_CALL, &1_u64.to_ne_bytes()), &[theirs.as_fd()]);
        send_with(&theirs, &[message(Code::GET_FEATURES, &[]), message(Code::SET_OWNER, &[])].concat(), &[]);
        let mut inlet = Inlet::new();
        let mut next = || inlet.next(ours.as_fd()).unwrap().map(|message| message.request);
        let Some(Request::SetRingCall(call)) = next() else { panic!("another request") };
        assert!(call.fd.is_some());
        assert!(matches!(next(), Some(Request::GetFeatures)));
        assert!(matches!(next(), Some(Request::SetOwner)));
        assert!(next().is_none());
    }

    #[test]
    fn descriptors_that_are_too_many_or_in_the_wrong_place_end_the_connection() {
        let (ours, theirs) = pair();
        let bytes = message(Code::SET_VRING_CALL, &1_u64.to_ne_bytes());
        send_with(&theirs, &bytes, &[theirs.as_fd(); 2 * FDS_MAX]);
        let error = Inlet::new().next(ours.as_fd()).unwrap_err();
        assert!(matches!(error, ReadError::Malformed(MessageError::DescriptorFlood)), "{error}");

        let (ours, theirs) = pair();
        send_with(&theirs, &bytes[..5], &[theirs.as_fd()]);
        send_with(&theirs, &bytes[5..], &[theirs.as_fd()]);
        let error = Inlet::new().next(ours.as_fd()).unwrap_err();
        assert!(matches!(error, ReadError::Malformed(MessageError::StrayDescriptors)), "{error}");
    }

    #[test]
    fn a_connection_that_ends_inside_a_message_is_told_from_one_that_ends_between() {
        for (cut, inside) in [(0, false), (1, true), (12, true), (19, true)] {
            let (ours, theirs) = pair();
            send_with(&theirs, &message(Code::SET_FEATURES, &[0; 8])[..cut], &[]);
            drop(theirs);
            let error = Inlet::new().next(ours.as_fd()).unwrap_err();
            assert_eq!(matches!(error, ReadError::ClosedInside), inside, "cut at {cut}: {error}");
        }
    }

    #[test]
    fn an_impossible_size_is_refused_before_its_body_arrives() {
        let (ours, theirs) = pair();
        send_with(&theirs, &Header { code: Code::SET_MEM_TABLE, flags: 0, size: u32::MAX }.bytes(), &[]);
        let error = Inlet::new().next(ours.as_fd()).unwrap_err();
        assert!(matches!(error, ReadError::Malformed(MessageError::Size { size: u32::MAX, .. })), "{error}");
    }

    #[test]
    fn a_front_end_that_never_reads_is_given_up_instead_of_waited_for() {
        let (ours, _theirs) = pair();
        let error = (0..1_000_000).find_map(|_| reply(ours.as_fd(), Code::GET_FEATURES, &[0; 8]).err()).unwrap();
        assert!(matches!(error, WriteError::Full), "{error}");
    }
}
