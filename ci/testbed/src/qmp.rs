//! QEMU's control socket: one command, one answer. It knows no command.

use serde_json::{Value, json};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// QEMU answers between two of its own steps; one of them may take a while on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);
/// Events may come before an answer. So many never do.
const EVENTS_MAX: usize = 1000;

/// Why QEMU has not done what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum QmpError {
    /// The socket is not there, or closed.
    #[error("QEMU's control socket does not answer")]
    Socket(#[from] io::Error),
    /// What came is not the protocol.
    #[error("QEMU's control socket answers {line:?} to {command}")]
    Malformed {
        /// What was asked.
        command: String,
        /// What came.
        line: String,
    },
    /// QEMU refused.
    #[error("QEMU refuses {command}: {reason}")]
    Refused {
        /// What was asked.
        command: String,
        /// In QEMU's words.
        reason: String,
    },
    /// It began, and failed.
    #[error("the migration ended as \"{status}\"{reason}")]
    Migration {
        /// QEMU's word.
        status: String,
        /// In QEMU's words, after a colon; may be empty.
        reason: String,
    },
}

/// A connection to QEMU's control socket.
#[derive(Debug)]
pub(crate) struct Qmp(BufReader<UnixStream>);

impl Qmp {
    /// Connects, and leaves the state in which QEMU takes no commands.
    pub(crate) fn connect(path: &Path) -> Result<Self, QmpError> {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut qmp = Self(BufReader::new(stream));
        qmp.line()?;
        qmp.call("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// Has QEMU do something, and answers what it returned.
    pub(crate) fn call(&mut self, command: &str, arguments: Value) -> Result<Value, QmpError> {
        let asked = json!({"execute": command, "arguments": arguments});
        self.0.get_mut().write_all(format!("{asked}\n").as_bytes())?;
        for _ in 0..EVENTS_MAX {
            let line = self.line()?;
            let malformed = || QmpError::Malformed { command: command.to_owned(), line: line.clone() };
            let mut answer: Value = serde_json::from_str(&line).map_err(|_| malformed())?;
            if let Some(error) = answer.get("error") {
                let reason = error["desc"].as_str().unwrap_or("no reason given").to_owned();
                return Err(QmpError::Refused { command: command.to_owned(), reason });
            }
            if let Some(value) = answer.get_mut("return") {
                return Ok(value.take());
            }
            if answer.get("event").is_none() {
                return Err(malformed());
            }
        }
        Err(QmpError::Malformed { command: command.to_owned(), line: "nothing but events".to_owned() })
    }

    fn line(&mut self) -> Result<String, QmpError> {
        let mut line = String::new();
        match self.0.read_line(&mut line)? {
            0 => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            _ => Ok(line),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    /// A QEMU that says these lines after its greeting, whatever it is asked, and then ends.
    fn says(lines: &'static str) -> (tempfile::TempDir, Qmp) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("qmp");
        let listener = UnixListener::bind(&path).unwrap();
        let server = std::thread::Builder::new().spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(b"{\"QMP\": {}}\n{\"return\": {}}\n").unwrap();
            stream.write_all(lines.as_bytes()).unwrap();
            // Until the other side is done: closing with its words unread would reset the connection.
            let _ = io::copy(&mut stream, &mut io::sink());
        });
        server.unwrap();
        let qmp = Qmp::connect(&path).unwrap();
        (folder, qmp)
    }

    #[test]
    fn events_before_an_answer_are_passed_over() {
        let (_folder, mut qmp) = says("{\"event\": \"STOP\"}\n{\"return\": {\"downtime\": 17}}\n");
        assert_eq!(qmp.call("query-migrate", json!({})).unwrap()["downtime"], 17);
    }

    #[test]
    fn a_refusal_is_told_in_qemus_words() {
        let (_folder, mut qmp) = says("{\"error\": {\"class\": \"GenericError\", \"desc\": \"no way\"}}\n");
        assert_eq!(qmp.call("migrate", json!({})).unwrap_err().to_string(), "QEMU refuses migrate: no way");
    }

    #[test]
    fn an_answer_that_is_none_is_shown() {
        let (_folder, mut qmp) = says("{}\n");
        assert!(matches!(qmp.call("quit", json!({})), Err(QmpError::Malformed { .. })));
    }
}
