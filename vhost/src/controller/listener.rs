//! The socket clients connect to: its file, its permissions, and what to do with one that is there already. Knows no message.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, fchmod, lstat, unlink};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect, listen, socket_with};

use spinel_handover::Fd;

use crate::handover::{ControllerParcel, SessionParcel};

/// Clients that may wait for the one before them to leave.
const BACKLOG: i32 = 16;

/// Why a socket could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The path does not fit a socket address.
    #[error("the socket path {path} is longer than the 107 bytes a socket address holds: choose a shorter one")]
    TooLong {
        /// The path.
        path: PathBuf,
    },
    /// Somebody listens there already.
    #[error("{path} is in use: another process, or another controller, listens there")]
    InUse {
        /// The path.
        path: PathBuf,
    },
    /// Something that is not a socket is there, and is left alone.
    #[error("{path} exists and is not a socket: move it away or choose another path")]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// The operating system refused.
    #[error("{path}: {doing}")]
    System {
        /// The path.
        path: PathBuf,
        /// What was being done.
        doing: &'static str,
        /// The system's answer.
        source: io::Error,
    },
}

/// A listening socket. Its file goes with it, unless somebody else has put another in its place.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: OwnedFd,
    path: PathBuf,
    /// Device and inode of the file that is ours.
    file: Option<(u64, u64)>,
}

impl Listener {
    /// Listens at `path`, which only this user may connect to. Replaces a socket that nobody listens on any more.
    pub(crate) fn bind(path: &Path) -> Result<Self, ListenError> {
        let system = |doing| move |errno: Errno| ListenError::System { path: path.into(), doing, source: errno.into() };
        let address = SocketAddrUnix::new(path).map_err(|_| ListenError::TooLong { path: path.into() })?;
        remove_stale(path, &address)?;
        let socket = new_socket().map_err(system("no socket could be made"))?;
        // Before the file exists, so that nobody slips in: bind gives the file the socket's own mode.
        fchmod(&socket, Mode::RUSR | Mode::WUSR).map_err(system("the socket's permissions could not be set"))?;
        match bind(&socket, &address) {
            Ok(()) => {}
            Err(Errno::ADDRINUSE) => return Err(ListenError::InUse { path: path.into() }),
            Err(errno) => return Err(system("no socket could be put there")(errno)),
        }
        let listener = Self { socket, path: path.into(), file: identity(path) };
        listen(&listener.socket, BACKLOG).map_err(system("the socket could not listen"))?;
        Ok(listener)
    }

    /// Takes a listening socket over that another process bound to `path`. Its file is that one's until it is [`owned`](Self::own).
    pub(crate) fn adopt(socket: OwnedFd, path: &Path) -> Result<Self, ListenError> {
        let system = |errno: Errno| ListenError::System { path: path.into(), doing: "it cannot be taken over", source: errno.into() };
        let address = rustix::net::getsockname(&socket).map_err(system)?;
        let address = SocketAddrUnix::try_from(address).map_err(system)?;
        let listens = rustix::net::sockopt::socket_acceptconn(&socket).map_err(system)?;
        let is_there = address.path().is_some_and(|bound| bound.to_bytes() == path.as_os_str().as_bytes());
        if listens && is_there { Ok(Self { socket, path: path.into(), file: None }) } else { Err(system(Errno::INVAL)) }
    }

    /// As it travels to another process, with its client if it has one.
    pub(crate) fn pack(&self, session: Option<io::Result<SessionParcel>>) -> io::Result<ControllerParcel> {
        Ok(ControllerParcel { socket_path: self.path.clone(), listener: Fd::of(&self.socket)?, session: session.transpose()? })
    }

    /// From now on the socket's file goes with it.
    pub(crate) fn own(&mut self) {
        self.file = identity(&self.path);
    }

    /// The next client, if one waits.
    pub(crate) fn accept(&self) -> io::Result<Option<OwnedFd>> {
        match accept_with(&self.socket, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            Ok(client) => Ok(Some(client)),
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if self.file.is_some() && identity(&self.path) == self.file {
            let _ = unlink(&self.path);
        }
    }
}

fn new_socket() -> rustix::io::Result<OwnedFd> {
    socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    lstat(path).ok().map(|stat| (stat.st_dev, stat.st_ino))
}

/// Removes a socket file whose listener is gone, and only that.
fn remove_stale(path: &Path, address: &SocketAddrUnix) -> Result<(), ListenError> {
    let system = |doing| move |errno: Errno| ListenError::System { path: path.into(), doing, source: errno.into() };
    let stat = match lstat(path) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return Ok(()),
        Err(errno) => return Err(system("it cannot be looked at")(errno)),
    };
    if FileType::from_raw_mode(stat.st_mode) != FileType::Socket {
        return Err(ListenError::NotASocket { path: path.into() });
    }
    let probe = new_socket().map_err(system("no socket could be made"))?;
    match connect(&probe, address) {
        Err(Errno::CONNREFUSED) => unlink(path).map_err(system("the stale socket could not be removed")),
        Ok(()) | Err(Errno::AGAIN) => Err(ListenError::InUse { path: path.into() }),
        Err(errno) => Err(system("it cannot be told whether somebody listens there")(errno)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixStream;

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    #[test]
    fn only_the_owner_may_connect_and_the_file_goes_with_the_listener() {
        let path = folder().keep().join("s");
        let listener = Listener::bind(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(listener.accept().unwrap().is_none());
        let _client = UnixStream::connect(&path).unwrap();
        assert!(listener.accept().unwrap().is_some());
        drop(listener);
        assert!(!path.exists());
        std::fs::remove_dir(path.parent().unwrap()).unwrap();
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let folder = folder();
        let path = folder.path().join("s");
        let live = Listener::bind(&path).unwrap();
        assert!(matches!(Listener::bind(&path), Err(ListenError::InUse { .. })));
        // What a killed process leaves behind: the file without its listener.
        let stale = folder.path().join("t");
        drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
        assert!(stale.exists());
        let replaced = Listener::bind(&stale).unwrap();
        let _client = UnixStream::connect(&stale).unwrap();
        assert!(replaced.accept().unwrap().is_some());
        drop((live, replaced));
    }

    #[test]
    fn what_is_no_socket_or_somebody_elses_is_left_alone() {
        let folder = folder();
        let path = folder.path().join("precious");
        std::fs::write(&path, "data").unwrap();
        assert!(matches!(Listener::bind(&path), Err(ListenError::NotASocket { .. })));
        assert_eq!(std::fs::read(&path).unwrap(), b"data");

        let path = folder.path().join("s");
        let old = Listener::bind(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let _new = Listener::bind(&path).unwrap();
        drop(old);
        assert!(path.exists(), "a listener removes its own file only");
    }

    #[test]
    fn a_path_that_fits_no_address_is_refused_by_name() {
        let path = Path::new("/tmp").join("x".repeat(120));
        let error = Listener::bind(&path).unwrap_err();
        assert!(matches!(error, ListenError::TooLong { .. }), "{error}");
    }
}
