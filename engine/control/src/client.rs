//! A blocking client for the same wire. It refuses to know what a method means, and trusts the
//! server only as far as its limits on what a reply may hold.

use crate::{RpcError, SplitError, Splitter};
use rustix::process::Pid;
use serde_json::{Map, Value, json};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The longest reply that is read, in bytes.
pub const REPLY_BYTES_MAX: usize = 64 << 20;
/// How long a call waits for a reply unless [`Client::set_timeout`] says otherwise.
pub const TIMEOUT_DEFAULT: Duration = Duration::from_secs(60);

/// How deep the brackets of a reply may be nested; also serde_json's own limit.
const DEPTH_MAX: usize = 127;

/// Why no connection was made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// There is no such socket.
    #[error("there is no socket at {}; start spineld, or name the socket it serves", path.display())]
    Absent {
        /// The socket's path.
        path: PathBuf,
        /// What connecting said.
        source: io::Error,
    },
    /// The file is there, but nobody serves it.
    #[error("nobody serves {}: the daemon that made this socket is gone; start spineld again", path.display())]
    Abandoned {
        /// The socket's path.
        path: PathBuf,
        /// What connecting said.
        source: io::Error,
    },
    /// This user may not use it.
    #[error("{} may not be used by this user; only root and the daemon's own user may", path.display())]
    Forbidden {
        /// The socket's path.
        path: PathBuf,
        /// What connecting said.
        source: io::Error,
    },
    /// Anything else.
    #[error("cannot connect to {}: {source}", path.display())]
    Failed {
        /// The socket's path.
        path: PathBuf,
        /// What connecting said.
        source: io::Error,
    },
}

/// Why a call brought no result.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The server answered with an error.
    #[error("{0}")]
    Refused(#[source] RpcError),
    /// No reply came in time; whether the method ran is not known.
    #[error("no reply to '{method}' within {waited:?}; the daemon may still be working on it")]
    TimedOut {
        /// The method called.
        method: String,
        /// How long the call waited.
        waited: Duration,
    },
    /// The connection ended before the reply; whether the method ran is not known.
    #[error("the connection ended before '{method}' was answered; the daemon may have stopped")]
    Lost {
        /// The method called.
        method: String,
        /// What the socket said; `None` where it just ended.
        source: Option<io::Error>,
    },
    /// What came back is not a reply to this call.
    #[error("the reply to '{method}' is not JSON-RPC: {reason}")]
    NotAReply {
        /// The method called.
        method: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// A connection to a server, for one call at a time.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    splitter: Splitter,
    next_id: u64,
    timeout: Option<Duration>,
}

impl Client {
    /// Connects to the socket at `path`.
    pub fn connect(path: impl AsRef<Path>) -> Result<Client, ConnectError> {
        let path = path.as_ref();
        let connected = UnixStream::connect(path).and_then(|stream| {
            stream.set_read_timeout(Some(TIMEOUT_DEFAULT))?;
            stream.set_write_timeout(Some(TIMEOUT_DEFAULT))?;
            Ok(stream)
        });
        let stream = connected.map_err(|source| {
            let path = path.to_owned();
            match source.kind() {
                ErrorKind::NotFound => ConnectError::Absent { path, source },
                ErrorKind::ConnectionRefused => ConnectError::Abandoned { path, source },
                ErrorKind::PermissionDenied => ConnectError::Forbidden { path, source },
                _ => ConnectError::Failed { path, source },
            }
        })?;
        Ok(Client { stream, splitter: Splitter::new(REPLY_BYTES_MAX, DEPTH_MAX), next_id: 1, timeout: Some(TIMEOUT_DEFAULT) })
    }

    /// How long a call waits for the next bytes of its reply; `None` or zero: for ever.
    pub fn set_timeout(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let timeout = timeout.filter(|timeout| !timeout.is_zero());
        self.stream.set_read_timeout(timeout)?;
        self.stream.set_write_timeout(timeout)?;
        self.timeout = timeout;
        Ok(())
    }

    /// The process that made the socket, where it can be seen from this one (in a container it may
    /// not be).
    pub fn server_pid(&self) -> Option<Pid> {
        rustix::net::sockopt::socket_peercred(&self.stream).ok().map(|peer| peer.pid)
    }

    /// Calls `method` and waits for its result. After any error but [`CallError::Refused`] the
    /// connection is of no more use.
    pub fn call(&mut self, method: &str, params: Option<Value>) -> Result<Value, CallError> {
        let id = self.next_id;
        self.next_id += 1;
        let mut request = json!({"jsonrpc": "2.0", "id": id, "method": method});
        if let Some(params) = params {
            request["params"] = params;
        }
        self.stream.write_all(request.to_string().as_bytes()).map_err(|error| self.broken(method, error))?;
        let text = self.receive(method)?;
        let not_a_reply = |reason: String| CallError::NotAReply { method: method.to_owned(), reason };
        let reply = serde_json::from_slice::<Map<String, Value>>(&text).map_err(|error| not_a_reply(error.to_string()))?;
        read_reply(reply, id, not_a_reply)
    }

    fn receive(&mut self, method: &str) -> Result<Vec<u8>, CallError> {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let text = self.splitter.next_text();
            match text.map_err(|error| not_json(method, error))? {
                Some(text) => return Ok(text),
                None => match self.stream.read(&mut buffer) {
                    Ok(0) => {
                        return Err(CallError::Lost { method: method.to_owned(), source: None });
                    }
                    Ok(count) => self.splitter.push(buffer.get(..count).unwrap_or_default()),
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) => return Err(self.broken(method, error)),
                },
            }
        }
    }

    fn broken(&self, method: &str, error: io::Error) -> CallError {
        let method = method.to_owned();
        match (error.kind(), self.timeout) {
            (ErrorKind::WouldBlock | ErrorKind::TimedOut, Some(waited)) => CallError::TimedOut { method, waited },
            _ => CallError::Lost { method, source: Some(error) },
        }
    }
}

fn not_json(method: &str, error: SplitError) -> CallError {
    CallError::NotAReply { method: method.to_owned(), reason: error.to_string() }
}

fn read_reply(mut reply: Map<String, Value>, id: u64, not_a_reply: impl Fn(String) -> CallError) -> Result<Value, CallError> {
    // An error may come without our id: the server could not read the request that held it, or
    // refused the connection.
    let error = reply.remove("error").filter(|error| !error.is_null());
    if let Some(error) = error {
        let code = error["code"].as_i64().and_then(|code| i32::try_from(code).ok());
        let message = error["message"].as_str();
        return Err(match (code, message) {
            (Some(code), Some(message)) => CallError::Refused(RpcError::new(code, message)),
            _ => not_a_reply(format!("{error} is no error object")),
        });
    }
    if reply.get("id") != Some(&Value::from(id)) {
        return Err(not_a_reply(format!("it does not carry the id {id}")));
    }
    reply.remove("result").ok_or_else(|| not_a_reply("it carries neither a result nor an error".into()))
}
