//! A running spineld: started, asked over its RPC socket, and stopped. It knows no test, and of the methods only how
//! a disk is made and served.

use crate::clock::Deadline;
use crate::process::{Process, RunError, open_log, tail};
use serde_json::{Value, json};
use spinel_control::client::{CallError, Client, ConnectError};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// How long a daemon may take to start, and to stop.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often it is looked whether one of two processes has ended.
const LOOK: Duration = Duration::from_millis(10);

/// Why the daemon has not done what it should.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// It could not be started or waited for.
    #[error("spineld does not run")]
    Run(#[from] RunError),
    /// It does not answer on its socket.
    #[error("spineld does not listen; its log is {}{tail}", log.display())]
    Deaf {
        /// The daemon's log.
        log: PathBuf,
        /// The end of it.
        tail: String,
        /// What connecting said.
        source: Box<ConnectError>,
    },
    /// It refused a call, or did not answer it.
    #[error("spineld does not do {method} {params}; its log is {}", log.display())]
    Call {
        /// The method.
        method: String,
        /// What it was given.
        params: String,
        /// The daemon's log.
        log: PathBuf,
        /// What it answered.
        source: Box<CallError>,
    },
    /// It ended by itself, or had to be killed.
    #[error("spineld ended in disorder ({how}); its log is {}{tail}", log.display())]
    Ended {
        /// How it ended.
        how: String,
        /// The daemon's log.
        log: PathBuf,
        /// The end of it.
        tail: String,
    },
}

/// A running daemon. Dropping it kills it.
#[derive(Debug)]
pub struct Daemon {
    process: Process,
    client: Client,
    rpc: PathBuf,
    sockets: PathBuf,
    log: PathBuf,
}

impl Daemon {
    /// Starts `binary` with its sockets in `sockets`, and waits until it answers.
    ///
    /// # Errors
    /// [`DaemonError::Run`] or [`DaemonError::Deaf`].
    pub fn start(binary: &Path, arguments: &[&str], sockets: &Path, log: &Path) -> Result<Self, DaemonError> {
        let rpc = sockets.join("spineld.rpc");
        let mut process = spawn(binary, arguments, &rpc, sockets, log)?;
        let client = connect(&mut process, &rpc, log)?;
        Ok(Self { process, client, rpc, sockets: sockets.to_owned(), log: log.to_owned() })
    }

    /// Starts another one that is to take over, whatever comes of it.
    ///
    /// # Errors
    /// [`DaemonError::Run`].
    pub fn begin_takeover(&self, binary: &Path, arguments: &[&str]) -> Result<Process, DaemonError> {
        spawn(binary, &[&["--takeover"], arguments].concat(), &self.rpc, &self.sockets, &self.log)
    }

    /// From here on it is `next`, as soon as that one answers. What is left of this one is killed.
    ///
    /// # Errors
    /// [`DaemonError::Ended`] if that one ends instead; [`DaemonError::Deaf`].
    pub fn become_next(&mut self, mut next: Process) -> Result<(), DaemonError> {
        self.client = connect(&mut next, &self.rpc, &self.log)?;
        self.process = next;
        Ok(())
    }

    /// Has another one take over, and waits until it serves and this one has ended. From then on it is that one.
    ///
    /// # Errors
    /// [`DaemonError::Ended`] if the other one ends instead, or this one in disorder; [`DaemonError::Deaf`].
    pub fn take_over(&mut self, binary: &Path, arguments: &[&str]) -> Result<(), DaemonError> {
        let mut next = self.begin_takeover(binary, arguments)?;
        let deadline = Deadline::after(PATIENCE);
        loop {
            let ended = match self.process.wait_until(Deadline::after(LOOK))? {
                Some(status) if status.success() => return self.become_next(next),
                Some(status) => Some(status.to_string()),
                None => next.wait_until(Deadline::after(Duration::ZERO))?.map(|status| status.to_string()),
            };
            let late = deadline.left().is_none().then(|| format!("nothing was taken over within {} s", PATIENCE.as_secs()));
            if let Some(how) = ended.or(late) {
                return Err(DaemonError::Ended { how, tail: tail(&self.log, 15), log: self.log.clone() });
            }
        }
    }

    /// Calls a method.
    ///
    /// # Errors
    /// [`DaemonError::Call`] with what the daemon answered.
    pub fn call(&mut self, method: &str, params: Value) -> Result<Value, DaemonError> {
        let given = Some(params.clone()).filter(|params| !params.is_null());
        self.client.call(method, given).map_err(|refused| DaemonError::Call {
            method: method.to_owned(),
            params: params.to_string(),
            log: self.log.clone(),
            source: Box::new(refused),
        })
    }

    /// Serves the device `bdev` to guests, and answers the socket.
    ///
    /// # Errors
    /// [`DaemonError::Call`] with what the daemon answered.
    pub fn serve(&mut self, bdev: &str, readonly: bool) -> Result<PathBuf, DaemonError> {
        let ctrlr = format!("{bdev}.sock");
        self.call("vhost_create_blk_controller", json!({"ctrlr": ctrlr, "dev_name": bdev, "readonly": readonly}))?;
        Ok(self.sockets.join(ctrlr))
    }

    /// The RPC socket.
    #[must_use]
    pub fn rpc(&self) -> &Path {
        &self.rpc
    }

    /// The log.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Stops the daemon in order (SIGTERM).
    ///
    /// # Errors
    /// [`DaemonError::Ended`] when it had ended before, ends with a failure, or has to be killed.
    pub fn stop(mut self) -> Result<(), DaemonError> {
        let how = match self.process.stop(PATIENCE)? {
            Some(status) if status.success() => return Ok(()),
            Some(status) => status.to_string(),
            None => format!("it did not stop within {} s and was killed", PATIENCE.as_secs()),
        };
        Err(DaemonError::Ended { how, tail: tail(&self.log, 15), log: self.log.clone() })
    }

    /// The daemon's process, to be held, resumed or killed.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Lets the daemon outlive this program, and answers its process id.
    #[must_use]
    pub fn leave_running(self) -> u32 {
        self.process.leave_running()
    }
}

fn spawn(binary: &Path, arguments: &[&str], rpc: &Path, sockets: &Path, log: &Path) -> Result<Process, DaemonError> {
    let mut command = Command::new(binary);
    command.arg("-r").arg(rpc).arg("-S").arg(sockets).args(arguments);
    command.stdin(Stdio::null()).stdout(open_log(log)?).stderr(open_log(log)?);
    Ok(Process::start("spineld", &mut command)?)
}

/// Connects as soon as the daemon listens.
fn connect(process: &mut Process, rpc: &Path, log: &Path) -> Result<Client, DaemonError> {
    let deadline = Deadline::after(PATIENCE);
    loop {
        match Client::connect(rpc) {
            Ok(mut client) => {
                // A connection may be to one that is gone, whose socket another process still holds: an answer tells.
                if client.call("spdk_get_version", None).is_ok() || deadline.left().is_none() {
                    return Ok(client);
                }
            }
            Err(source) if deadline.left().is_none() => {
                return Err(DaemonError::Deaf { log: log.to_owned(), tail: tail(log, 15), source: Box::new(source) });
            }
            Err(_) => {}
        }
        // The event waited for is the daemon's end; a socket that is not there yet is looked for at every round.
        if let Some(status) = process.wait_until(Deadline::after(Duration::from_millis(20)))? {
            return Err(DaemonError::Ended { how: status.to_string(), log: log.to_owned(), tail: tail(log, 15) });
        }
    }
}
