//! The connection: versioned, length-prefixed messages, and their descriptors in batches. Knows no message.
//!
//! On the wire: 16 bytes of header (a magic number, the version, the bytes of the text, the
//! number of descriptors; 32 bits each in the machine's byte order), the text, and then one
//! byte for each batch of descriptors, which go with it.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, UCred,
};
use rustix::process::geteuid;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::fd::{pack, unpack};

/// The version of all messages. Two processes that speak different ones do not understand each other.
pub const VERSION: u32 = 1;
/// The longest text, in bytes: 4096 disks with 64 queues each have room in it.
pub const BODY_BYTES_MAX: usize = 64 << 20;
/// Most descriptors of one message: as many for each of 4096 disks as one can have.
pub const FDS_MAX: usize = 1 << 20;

/// "SPNL".
const MAGIC: u32 = u32::from_le_bytes(*b"SPNL");
const HEADER_BYTES: usize = 16;
/// Most descriptors of one sendmsg (SCM_MAX_FD).
const BATCH_MAX: usize = 253;

/// Why a message did not come or go. The conversation is over.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The other side is gone, or has closed the connection.
    #[error("the other process closed the connection")]
    Closed,
    /// Nothing (more) came in time.
    #[error("the other process did not answer within {} ms", waited.as_millis())]
    Late {
        /// How long it was waited for.
        waited: Duration,
    },
    /// Not the beginning of any message.
    #[error("the other process does not speak this protocol: it began with {magic:#010x}")]
    Magic {
        /// What came.
        magic: u32,
    },
    /// A message of another version.
    #[error("the other process speaks version {theirs} of the protocol, and this one speaks version {VERSION}")]
    Version {
        /// What came.
        theirs: u32,
    },
    /// A message that is too long.
    #[error("a message of {bytes} bytes, of which it may have {BODY_BYTES_MAX}")]
    TooLong {
        /// Bytes of its text.
        bytes: usize,
    },
    /// A message with too many descriptors.
    #[error("a message with {count} descriptors, of which it may have {FDS_MAX}")]
    TooManyFds {
        /// What it says it has.
        count: usize,
    },
    /// More or fewer descriptors came with a batch than belong to it.
    #[error("a batch of {got} descriptors, where {expected} belong")]
    Batch {
        /// What came.
        got: usize,
        /// What should have come.
        expected: usize,
    },
    /// The kernel could not deliver all descriptors.
    #[error("descriptors were lost on the way: the limit of open files (ulimit -n, LimitNOFILE=) is too low for two processes at a time")]
    Lost,
    /// The text is not the message that was expected.
    #[error("a message of another form than expected: {0}")]
    Form(#[from] serde_json::Error),
    /// Somebody else than expected.
    #[error("the other process belongs to user {}, and only root's or this user's may take part", .0.as_raw())]
    Stranger(rustix::process::Uid),
    /// The connection broke.
    #[error("the connection to the other process broke")]
    Broken(#[source] io::Error),
}

impl From<Errno> for LinkError {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::PIPE | Errno::CONNRESET => Self::Closed,
            errno => Self::Broken(errno.into()),
        }
    }
}

/// A moment by which a message has to be through.
#[derive(Clone, Copy)]
struct Deadline {
    at: Option<Instant>,
    patience: Duration,
}

impl Deadline {
    fn after(patience: Duration) -> Self {
        #[allow(clippy::disallowed_methods, reason = "a control thread that waits for another process")]
        let now = Instant::now();
        Self { at: now.checked_add(patience), patience }
    }

    /// Waits until the socket is ready for this.
    fn wait(self, socket: &UnixStream, flags: PollFlags) -> Result<(), LinkError> {
        loop {
            #[allow(clippy::disallowed_methods, reason = "see above")]
            let left = self.at.map(|at| at.saturating_duration_since(Instant::now()));
            let left = left.and_then(|left| Timespec::try_from(left).ok());
            match poll(&mut [PollFd::new(socket, flags)], left.as_ref()) {
                Ok(0) => return Err(LinkError::Late { waited: self.patience }),
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

/// One end of the conversation.
#[derive(Debug)]
pub struct Link {
    socket: UnixStream,
}

impl Link {
    /// Takes a connected stream, whose other end has to be a process of this user's or root's.
    ///
    /// # Errors
    /// [`LinkError::Stranger`], or that the system does not say who it is.
    pub fn new(socket: UnixStream) -> Result<Self, LinkError> {
        let UCred { uid, .. } = rustix::net::sockopt::socket_peercred(&socket)?;
        if uid.is_root() || uid == geteuid() { Ok(Self { socket }) } else { Err(LinkError::Stranger(uid)) }
    }

    /// The other process, as far as it can be seen from this one.
    #[must_use]
    pub fn peer_pid(&self) -> Option<i32> {
        rustix::net::sockopt::socket_peercred(&self.socket).ok().map(|peer| peer.pid.as_raw_nonzero().get())
    }

    /// Waits until the next message has begun to come, or the other end is closed; false if neither is so by then.
    ///
    /// # Errors
    /// [`LinkError::Broken`].
    pub fn wait(&self, patience: Duration) -> Result<bool, LinkError> {
        match Deadline::after(patience).wait(&self.socket, PollFlags::IN) {
            Err(LinkError::Late { .. }) => Ok(false),
            waited => waited.map(|()| true),
        }
    }

    /// Closes it in one direction or both, for every handle of it.
    ///
    /// # Errors
    /// When the other end has done so before.
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        self.socket.shutdown(how)
    }

    /// Sends a message.
    ///
    /// # Errors
    /// [`LinkError`]; it has not arrived as a whole then.
    pub fn send<T: Serialize + ?Sized>(&self, message: &T, patience: Duration) -> Result<(), LinkError> {
        let (text, fds) = pack(message)?;
        self.send_raw(&text, &fds, patience)
    }

    fn send_raw(&self, text: &[u8], fds: &[Arc<OwnedFd>], patience: Duration) -> Result<(), LinkError> {
        if text.len() > BODY_BYTES_MAX {
            return Err(LinkError::TooLong { bytes: text.len() });
        }
        if fds.len() > FDS_MAX {
            return Err(LinkError::TooManyFds { count: fds.len() });
        }
        let deadline = Deadline::after(patience);
        let word = |value: usize| u32::try_from(value).expect("checked: a small number").to_ne_bytes();
        let mut bytes = Vec::with_capacity(HEADER_BYTES + text.len());
        for word in [MAGIC.to_ne_bytes(), VERSION.to_ne_bytes(), word(text.len()), word(fds.len())] {
            bytes.extend_from_slice(&word);
        }
        bytes.extend_from_slice(text);
        let mut left = bytes.as_slice();
        while !left.is_empty() {
            let sent = self.send_some(left, &[], deadline)?;
            left = &left[sent..];
        }
        for batch in fds.chunks(BATCH_MAX) {
            let batch: Vec<BorrowedFd<'_>> = batch.iter().map(|fd| fd.as_fd()).collect();
            self.send_some(&[0], &batch, deadline)?;
        }
        Ok(())
    }

    fn send_some(&self, bytes: &[u8], fds: &[BorrowedFd<'_>], deadline: Deadline) -> Result<usize, LinkError> {
        let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH_MAX))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            assert!(control.push(SendAncillaryMessage::ScmRights(fds)), "there is room for a batch");
        }
        loop {
            deadline.wait(&self.socket, PollFlags::OUT)?;
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match rustix::net::sendmsg(&self.socket, &[IoSlice::new(bytes)], &mut control, flags) {
                Ok(sent) => return Ok(sent),
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Waits for the next message.
    ///
    /// # Errors
    /// [`LinkError`], which says what was wrong with what came, if anything came.
    pub fn receive<T: DeserializeOwned>(&self, patience: Duration) -> Result<T, LinkError> {
        let (text, fds) = self.receive_raw(patience)?;
        Ok(unpack(&text, fds)?)
    }

    /// The next message's text and descriptors, whatever it is.
    ///
    /// # Errors
    /// As [`receive`](Self::receive).
    pub fn receive_raw(&self, patience: Duration) -> Result<(Vec<u8>, Vec<OwnedFd>), LinkError> {
        let deadline = Deadline::after(patience);
        let mut header = [0; HEADER_BYTES];
        self.fill(&mut header, deadline)?;
        let word = |at: usize| u32::from_ne_bytes(header[at * 4..at * 4 + 4].try_into().expect("four bytes"));
        if word(0) != MAGIC {
            return Err(LinkError::Magic { magic: word(0) });
        }
        if word(1) != VERSION {
            return Err(LinkError::Version { theirs: word(1) });
        }
        let count = |at| usize::try_from(word(at)).unwrap_or(usize::MAX);
        let (bytes, fds) = (count(2), count(3));
        if bytes > BODY_BYTES_MAX {
            return Err(LinkError::TooLong { bytes });
        }
        if fds > FDS_MAX {
            return Err(LinkError::TooManyFds { count: fds });
        }
        let mut text = vec![0; bytes];
        self.fill(&mut text, deadline)?;
        let mut all = Vec::new();
        while all.len() < fds {
            let expected = (fds - all.len()).min(BATCH_MAX);
            let (_, batch) = self.receive_some(&mut [0], deadline)?;
            if batch.len() != expected {
                return Err(LinkError::Batch { got: batch.len(), expected });
            }
            all.extend(batch);
        }
        Ok((text, all))
    }

    /// Reads so many bytes, with which no descriptor may come.
    fn fill(&self, into: &mut [u8], deadline: Deadline) -> Result<(), LinkError> {
        let mut have = 0;
        while have < into.len() {
            let (count, fds) = self.receive_some(&mut into[have..], deadline)?;
            if !fds.is_empty() {
                return Err(LinkError::Batch { got: fds.len(), expected: 0 });
            }
            have += count;
        }
        Ok(())
    }

    fn receive_some(&self, into: &mut [u8], deadline: Deadline) -> Result<(usize, Vec<OwnedFd>), LinkError> {
        let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH_MAX))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        loop {
            deadline.wait(&self.socket, PollFlags::IN)?;
            let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
            let received = match rustix::net::recvmsg(&self.socket, &mut [IoSliceMut::new(into)], &mut control, flags) {
                Ok(received) => received,
                Err(Errno::AGAIN | Errno::INTR) => continue,
                Err(errno) => return Err(errno.into()),
            };
            let fds = control.drain().filter_map(|message| match message {
                RecvAncillaryMessage::ScmRights(fds) => Some(fds),
                _ => None,
            });
            let fds = fds.flatten().collect();
            return match received.bytes {
                _ if received.flags.contains(ReturnFlags::CTRUNC) => Err(LinkError::Lost),
                0 => Err(LinkError::Closed),
                count => Ok((count, fds)),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Fd;
    use proptest::prelude::*;
    use serde::Deserialize;
    use std::io::Write as _;

    const PATIENCE: Duration = Duration::from_secs(30);

    #[derive(Debug, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Message {
        text: String,
        fds: Vec<Fd>,
    }

    fn pair() -> (Link, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Link::new(ours).unwrap(), theirs)
    }

    fn file(number: u64) -> Fd {
        let file = rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&file, number).unwrap();
        file.into()
    }

    fn header(words: [u32; 4]) -> Vec<u8> {
        words.into_iter().flat_map(u32::to_ne_bytes).collect()
    }

    fn refusal(bytes: &[u8]) -> LinkError {
        let (link, mut theirs) = pair();
        theirs.write_all(bytes).unwrap();
        drop(theirs);
        link.receive::<Message>(PATIENCE).unwrap_err()
    }

    #[test]
    fn a_long_message_arrives_with_more_descriptors_than_one_batch_holds() {
        let (link, theirs) = pair();
        let other = Link::new(theirs).unwrap();
        let text = "x".repeat(3 << 20);
        let message = Message { text: text.clone(), fds: (0..600).map(file).collect() };
        std::thread::scope(|scope| {
            let sent = std::thread::Builder::new().spawn_scoped(scope, || other.send(&message, PATIENCE)).unwrap();
            let got: Message = link.receive(PATIENCE).unwrap();
            sent.join().unwrap().unwrap();
            assert!(got.text == text);
            let sizes: Vec<i64> = got.fds.iter().map(|fd| rustix::fs::fstat(fd).unwrap().st_size).collect();
            assert_eq!(sizes, (0..600).collect::<Vec<i64>>());
        });
    }

    #[test]
    fn messages_follow_each_other_and_then_the_end() {
        let (link, theirs) = pair();
        let other = Link::new(theirs).unwrap();
        for number in 0..3 {
            other.send(&Message { text: number.to_string(), fds: (0..number).map(file).collect() }, PATIENCE).unwrap();
        }
        drop(other);
        for number in 0..3_usize {
            let got: Message = link.receive(PATIENCE).unwrap();
            assert_eq!((got.text, got.fds.len()), (number.to_string(), number));
        }
        assert!(matches!(link.receive::<Message>(PATIENCE), Err(LinkError::Closed)));
    }

    #[test]
    fn what_is_no_message_of_this_version_is_refused_before_its_text_is_read() {
        assert!(matches!(refusal(&header([1, VERSION, 2, 0])), LinkError::Magic { magic: 1 }));
        assert!(matches!(refusal(&header([MAGIC, VERSION + 1, 2, 0])), LinkError::Version { theirs } if theirs == VERSION + 1));
        assert!(matches!(refusal(&header([MAGIC, VERSION, u32::MAX, 0])), LinkError::TooLong { .. }));
        assert!(matches!(refusal(&header([MAGIC, VERSION, 2, u32::MAX])), LinkError::TooManyFds { .. }));
    }

    #[test]
    fn a_message_that_is_cut_short_is_refused_wherever_it_is_cut() {
        let text = br#"{"text":"","fds":[]}"#;
        let whole = [header([MAGIC, VERSION, u32::try_from(text.len()).unwrap(), 1]), text.to_vec()].concat();
        for cut in 0..=whole.len() {
            assert!(matches!(refusal(&whole[..cut]), LinkError::Closed), "cut at {cut}");
        }
    }

    #[test]
    fn text_of_another_form_is_refused() {
        for text in ["", "{", "[]", r#"{"text":"","fds":[],"more":1}"#, r#"{"text":""}"#, r#"{"text":"","fds":[0]}"#] {
            let bytes = [header([MAGIC, VERSION, u32::try_from(text.len()).unwrap(), 0]), text.as_bytes().to_vec()].concat();
            assert!(matches!(refusal(&bytes), LinkError::Form(_)), "{text}");
        }
    }

    /// Sends a header that says `said`, and then batches of these lengths.
    fn batches(said: u32, lengths: &[usize]) -> Result<Message, LinkError> {
        let (link, mut theirs) = pair();
        let text = format!(r#"{{"text":"","fds":{:?}}}"#, (0..said).collect::<Vec<_>>());
        theirs.write_all(&header([MAGIC, VERSION, u32::try_from(text.len()).unwrap(), said])).unwrap();
        theirs.write_all(text.as_bytes()).unwrap();
        let other = Link::new(theirs).unwrap();
        let one = file(1);
        for length in lengths {
            other.send_some(&[0], &vec![one.as_fd(); *length], Deadline::after(PATIENCE)).unwrap();
        }
        drop(other);
        link.receive(PATIENCE)
    }

    #[test]
    fn as_many_descriptors_come_as_were_said_in_full_batches() {
        assert_eq!(batches(254, &[253, 1]).unwrap().fds.len(), 254);
        for (said, lengths) in [(1, &[2][..]), (2, &[1, 1]), (254, &[252, 2]), (254, &[253, 2]), (1, &[0])] {
            assert!(matches!(batches(said, lengths), Err(LinkError::Batch { .. })), "{said} {lengths:?}");
        }
        assert!(matches!(batches(1, &[]), Err(LinkError::Closed)));
    }

    #[test]
    fn descriptors_in_the_middle_of_a_text_are_refused() {
        let (link, theirs) = pair();
        let other = Link::new(theirs).unwrap();
        other.send_some(&header([MAGIC, VERSION, 2, 0]), &[file(1).as_fd()], Deadline::after(PATIENCE)).unwrap();
        assert!(matches!(link.receive::<Message>(PATIENCE), Err(LinkError::Batch { got: 1, expected: 0 })));
    }

    #[test]
    fn silence_is_not_waited_for_without_end() {
        let (link, mut theirs) = pair();
        theirs.write_all(&header([MAGIC, VERSION, 2, 0])[..7]).unwrap();
        assert!(matches!(link.receive::<Message>(Duration::from_millis(1)), Err(LinkError::Late { .. })));
        let large = Message { text: "x".repeat(16 << 20), fds: vec![] };
        assert!(matches!(link.send(&large, Duration::from_millis(1)), Err(LinkError::Late { .. })));
    }

    proptest! {
        #[test]
        fn no_bytes_are_taken_for_a_message_that_they_are_not(bytes in proptest::collection::vec(any::<u8>(), 0..64), version in 0..3u32, said in 0..3u32) {
            let len = u32::try_from(bytes.len()).unwrap();
            let framed = [header([MAGIC, version, len, said]), bytes].concat();
            // It answers, with whatever reason.
            let _ = refusal(&framed);
        }
    }
}
