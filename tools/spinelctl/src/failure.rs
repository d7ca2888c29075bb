//! Why a verb failed, in one sentence, and the exit code that says so to scripts.

use spinel_control::RpcError;
use spinel_control::client::{CallError, ConnectError};
use std::io;
use std::path::Path;
use std::process::ExitCode;

/// The reasons, one for each exit code; see the help text.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The daemon said no, or what it said cannot be used.
    Refused(String),
    /// The command line, or JSON given with it, is wrong.
    Usage(String),
    /// The daemon is not there, or left.
    Unreachable(String),
    /// A file of ours.
    Local(String),
    /// Whoever read our output has left (`| head`): nothing to complain about.
    OutputClosed,
}

impl Failure {
    /// What to say; `None` where silence is right.
    pub(crate) fn message(&self) -> Option<String> {
        match self {
            Self::Refused(message) | Self::Usage(message) | Self::Unreachable(message) | Self::Local(message) => Some(message.clone()),
            Self::OutputClosed => None,
        }
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::OutputClosed => 0,
            Self::Refused(_) => 1,
            Self::Usage(_) => 2,
            Self::Unreachable(_) => 3,
            Self::Local(_) => 4,
        })
    }

    /// The daemon's refusal of `method`.
    pub(crate) fn refused(method: &str, error: &RpcError) -> Self {
        Self::Refused(format!("the daemon refused {method}: {error}"))
    }

    /// A reply without something that must be there.
    pub(crate) fn reply(method: &str, reason: impl std::fmt::Display) -> Self {
        Self::Refused(format!("the daemon's reply to {method} cannot be used: {reason}; are its version and this program's the same?"))
    }

    /// `act` on `path` failed.
    pub(crate) fn local(act: &str, path: &Path, error: &io::Error) -> Self {
        Self::Local(format!("cannot {act} {}: {error}", path.display()))
    }

    /// Writing to standard output failed.
    pub(crate) fn output(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::OutputClosed,
            _ => Self::Local(format!("cannot write the output: {error}")),
        }
    }
}

impl From<ConnectError> for Failure {
    fn from(error: ConnectError) -> Self {
        Self::Unreachable(format!("{error} (-s names another socket)"))
    }
}

impl Failure {
    /// A call of `method` that brought no result.
    pub(crate) fn call(method: &str, error: &CallError) -> Self {
        match error {
            CallError::Refused(error) => Self::refused(method, error),
            CallError::NotAReply { .. } => Self::Refused(format!("{error}; is this the socket of a spineld?")),
            CallError::TimedOut { .. } => Self::Unreachable(format!("{error} (--timeout waits longer)")),
            CallError::Lost { .. } => Self::Unreachable(error.to_string()),
        }
    }
}
