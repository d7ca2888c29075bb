//! Where the socket is, and making it: readable and writable for its owner only, and never in the
//! place of a socket that somebody still serves. It refuses to know what is said over it.

use rustix::fs::{CWD, FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

/// Connections that wait for the server to accept them.
const BACKLOG: i32 = 128;

/// Why a socket was not made.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody serves it.
    #[error("another daemon serves {}; stop it, or choose another socket", path.display())]
    InUse {
        /// The socket's path.
        path: PathBuf,
    },
    /// Somebody is making a socket in the same folder at this moment.
    #[error("another process holds {} locked; is another daemon starting there?", folder.display())]
    Locked {
        /// The folder.
        folder: PathBuf,
    },
    /// Something else than a socket has that name.
    #[error("{} exists and is not a socket; remove it, or choose another path", path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// The path does not fit into a socket's address.
    #[error("the path {} is too long for a socket; 107 bytes is the most", path.display())]
    PathTooLong {
        /// The path.
        path: PathBuf,
    },
    /// The folder belongs to somebody who could put a socket of their own there.
    #[error("the folder {} belongs to user {owner}; a socket must lie in a folder of root's or of this user's", folder.display())]
    ForeignFolder {
        /// The folder.
        folder: PathBuf,
        /// Its owner's user id.
        owner: u32,
    },
    /// The system refused.
    #[error("cannot {act} {}: {source}", path.display())]
    System {
        /// What was being done.
        act: &'static str,
        /// To what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Where a daemon serves and a client calls unless told otherwise: `$SPINEL_RPC_SOCKET`, else
/// `/run/spinel/rpc.sock` for root, else `$XDG_RUNTIME_DIR/spinel/rpc.sock`, else a folder of the
/// user's own under `/tmp`.
pub fn default_path() -> PathBuf {
    let named = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    let user = rustix::process::geteuid();
    if let Some(path) = named("SPINEL_RPC_SOCKET") {
        path.into()
    } else if user.is_root() {
        "/run/spinel/rpc.sock".into()
    } else if let Some(folder) = named("XDG_RUNTIME_DIR") {
        Path::new(&folder).join("spinel/rpc.sock")
    } else {
        format!("/tmp/spinel-{}/rpc.sock", user.as_raw()).into()
    }
}

/// Binds `path` and listens, with mode 0600. The last folder of the path is made if it is missing.
///
/// A socket left over by a daemon that is gone is replaced, after connecting to it has proved that
/// nobody serves it. The folder is locked (flock) while this is done, so that of two daemons that
/// start at the same time one gets the socket and the other an error.
pub fn bind(path: &Path) -> Result<UnixListener, BindError> {
    let address = SocketAddrUnix::new(path).map_err(|_| BindError::PathTooLong { path: path.to_owned() })?;
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let _locked = lock_folder(folder)?;
    remove_stale(path, &address)?;

    let failed = |act| move |errno: Errno| BindError::System { act, path: path.to_owned(), source: errno.into() };
    let socket = unix_socket(SocketFlags::CLOEXEC).map_err(failed("open a socket for"))?;
    rustix::net::bind(&socket, &address).map_err(failed("bind"))?;
    // Before listen() nobody can connect, so the mode is in force from the first connection on.
    rustix::fs::chmod(path, Mode::RUSR | Mode::WUSR).map_err(failed("set the mode of"))?;
    rustix::net::listen(&socket, BACKLOG).map_err(failed("listen on"))?;
    Ok(UnixListener::from(socket))
}

fn unix_socket(flags: SocketFlags) -> Result<rustix::fd::OwnedFd, Errno> {
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
}

/// Locks the folder until the result is dropped.
fn lock_folder(folder: &Path) -> Result<rustix::fd::OwnedFd, BindError> {
    let failed = |act| move |source: io::Error| BindError::System { act, path: folder.to_owned(), source };
    match std::fs::DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(failed("make the folder")(error));
        }
        _ => {}
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(CWD, folder, flags, Mode::empty()).map_err(|errno| failed("open the folder")(errno.into()))?;
    let owner = rustix::fs::fstat(&fd).map_err(|errno| failed("look at the folder")(errno.into()))?.st_uid;
    if owner != 0 && owner != rustix::process::geteuid().as_raw() {
        return Err(BindError::ForeignFolder { folder: folder.to_owned(), owner });
    }
    match rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(fd),
        Err(Errno::WOULDBLOCK) => Err(BindError::Locked { folder: folder.to_owned() }),
        Err(errno) => Err(failed("lock the folder")(errno.into())),
    }
}

/// Removes the socket at `path` if nobody serves it.
fn remove_stale(path: &Path, address: &SocketAddrUnix) -> Result<(), BindError> {
    let failed = |act| move |errno: Errno| BindError::System { act, path: path.to_owned(), source: errno.into() };
    let mode = match rustix::fs::lstat(path) {
        Err(Errno::NOENT) => return Ok(()),
        found => found.map_err(failed("look at"))?.st_mode,
    };
    if FileType::from_raw_mode(mode) != FileType::Socket {
        return Err(BindError::NotASocket { path: path.to_owned() });
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let probe = unix_socket(flags).map_err(failed("open a socket for"))?;
    match rustix::net::connect(&probe, address) {
        Err(Errno::CONNREFUSED) => rustix::fs::unlink(path).map_err(failed("remove the stale")),
        // EAGAIN: its backlog is full, so somebody listens.
        Ok(()) | Err(Errno::AGAIN) => Err(BindError::InUse { path: path.to_owned() }),
        Err(errno) => Err(failed("find out who serves")(errno)),
    }
}
