//! A conversation that is waited for only so long. Knows no message: bytes and descriptors are passed on as they are.
//!
//! The driver crate connects by itself and keeps its socket to itself. It would wait for
//! ever for a server that is busy with another front end, and nobody could see later that
//! the server is gone. So it is connected to a socket of ours, and what the two say is
//! passed on while they agree on everything; after that, a vhost-user connection is silent.

use std::io::{self, IoSlice, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags};

/// The longest message is a configuration space of 256 bytes and its headers.
const BYTES_MAX: usize = 4096;
/// Most descriptors of one message.
const FDS_MAX: usize = 32;

/// Why a conversation ended before its time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Cut {
    /// The server closed the connection.
    Closed,
    /// The server said nothing for too long. Whether it had said anything before.
    Silent { spoke: bool },
}

/// Runs `talk` with the path of a socket behind which is `server`. Once it is cut, `talk` sees a closed connection.
pub(crate) fn pass_on<T: Send>(
    server: &UnixStream,
    patience: Duration,
    talk: impl FnOnce(&Path) -> T + Send,
) -> io::Result<(T, Option<Cut>)> {
    let folder = tempfile::Builder::new().prefix("spinel-").tempdir()?;
    let path = folder.path().join("front");
    let listener = UnixListener::bind(&path)?;
    let (ended, end) = UnixStream::pair()?;
    server.set_write_timeout(Some(patience))?;
    std::thread::scope(|scope| {
        let talk = move || {
            let outcome = talk(&path);
            drop(end);
            outcome
        };
        let talking = std::thread::Builder::new().name("vhost-connect".to_owned()).spawn_scoped(scope, talk)?;
        let cut = relay(listener, server, &ended, patience);
        let outcome = talking.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Ok((outcome, cut?))
    })
}

/// Passes on until `ended` closes, or the server is heard no more. The front end's connection is closed in any case.
fn relay(listener: UnixListener, server: &UnixStream, ended: &UnixStream, patience: Duration) -> io::Result<Option<Cut>> {
    let [connected, _] = ready([&listener, ended], None)?.unwrap_or_default();
    if !connected {
        return Ok(None);
    }
    let (front, _) = listener.accept()?;
    drop(listener);
    let limit = Timespec::try_from(patience).ok();
    let mut spoke = false;
    loop {
        let Some([asks, answers, over]) = ready([&front.as_fd(), &server.as_fd(), &ended.as_fd()], limit.as_ref())? else {
            return Ok(Some(Cut::Silent { spoke }));
        };
        if over {
            return Ok(None);
        }
        if answers {
            if !forward(server, &front)? {
                return Ok(Some(Cut::Closed));
            }
            spoke = true;
        }
        if asks && !forward(&front, server)? {
            // The front end has given up; it will say why.
            ready([ended], None)?;
            return Ok(None);
        }
    }
}

/// Which of these have something to say, or have ended. None if nothing happened within `limit`.
fn ready<const N: usize>(watched: [&dyn AsFd; N], limit: Option<&Timespec>) -> io::Result<Option<[bool; N]>> {
    let mut fds = watched.map(|fd| PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::IN));
    loop {
        match poll(&mut fds, limit) {
            Ok(0) => return Ok(None),
            Ok(_) => return Ok(Some(std::array::from_fn(|at| !fds[at].revents().is_empty()))),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Passes on what is there. False if `from` has closed, or `to` takes nothing any more.
fn forward(from: &UnixStream, to: &UnixStream) -> io::Result<bool> {
    let mut bytes = [0; BYTES_MAX];
    let (count, fds) = match receive(from, &mut bytes) {
        Ok(received) => received,
        Err(Errno::INTR) => return Ok(true),
        Err(Errno::CONNRESET) => return Ok(false),
        Err(errno) => return Err(errno.into()),
    };
    if count == 0 {
        return Ok(false);
    }
    match send(to, &bytes[..count], &fds) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error),
    }
}

fn receive(from: &UnixStream, bytes: &mut [u8]) -> rustix::io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::net::recvmsg(from, &mut [IoSliceMut::new(bytes)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    Ok((received.bytes, fds))
}

/// Descriptors travel with the first byte.
fn send(mut to: &UnixStream, bytes: &[u8], fds: &[OwnedFd]) -> io::Result<()> {
    let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        assert!(control.push(SendAncillaryMessage::ScmRights(&fds)), "there is room for as many as can be received");
    }
    let sent = rustix::net::sendmsg(to, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?;
    to.write_all(&bytes[sent..])
}
