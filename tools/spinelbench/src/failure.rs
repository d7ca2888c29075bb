//! Why a run did not happen or was not clean, in one sentence, and the exit code that says so to scripts.

use std::fmt;
use std::io;
use std::path::Path;
use std::process::ExitCode;

/// The reasons, one for each exit code; see the help text.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Requests failed, or verification found something. What it was has been printed.
    Unclean,
    /// The command line asks for what cannot be done.
    Usage(String),
    /// The target is not there, or left.
    Unreachable(String),
    /// A file of ours.
    Local(String),
}

impl Failure {
    /// What to say; nothing where it has been said.
    pub(crate) fn message(&self) -> Option<&str> {
        match self {
            Self::Unclean => None,
            Self::Usage(message) | Self::Unreachable(message) | Self::Local(message) => Some(message),
        }
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Unclean => 1,
            Self::Usage(_) => 2,
            Self::Unreachable(_) => 3,
            Self::Local(_) => 4,
        })
    }

    /// The command line asks for what cannot be done.
    pub(crate) fn usage(message: impl fmt::Display) -> Self {
        Self::Usage(message.to_string())
    }

    /// The target cannot be reached, with all causes.
    pub(crate) fn unreachable(error: &dyn std::error::Error) -> Self {
        Self::Unreachable(with_causes(error))
    }

    /// `act` on `path` failed.
    pub(crate) fn local(act: &str, path: &Path, error: &io::Error) -> Self {
        Self::Local(format!("cannot {act} {}: {error}", path.display()))
    }
}

/// An error and its causes in one line.
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        // Some errors repeat their cause.
        if !text.ends_with(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}
