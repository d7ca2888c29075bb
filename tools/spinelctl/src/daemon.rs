//! The connection to the daemon that every verb calls through. It refuses to know the verbs.

use crate::failure::Failure;
use crate::pause::pause;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{PidfdFlags, pidfd_open};
use serde::de::DeserializeOwned;
use serde_json::Value;
use spinel_control::RpcError;
use spinel_control::client::{CallError, Client};
use std::path::PathBuf;
use std::time::Duration;

/// A connected daemon.
#[derive(Debug)]
pub(crate) struct Daemon {
    client: Client,
    path: PathBuf,
    timeout: Option<Duration>,
}

impl Daemon {
    /// Connects to the daemon at `path`; its replies may take `timeout_s` seconds (0: for ever).
    pub(crate) fn connect(path: Option<PathBuf>, timeout_s: u32) -> Result<Self, Failure> {
        let path = path.unwrap_or_else(spinel_control::socket::default_path);
        let mut client = Client::connect(&path)?;
        let timeout = (timeout_s > 0).then(|| Duration::from_secs(timeout_s.into()));
        client.set_timeout(timeout).map_err(|error| Failure::Unreachable(format!("cannot set the timeout: {error}")))?;
        Ok(Self { client, path, timeout })
    }

    pub(crate) fn path(&self) -> &std::path::Path {
        &self.path
    }

    /// Calls `method`.
    pub(crate) fn call(&mut self, method: &str, params: Option<Value>) -> Result<Value, Failure> {
        self.client.call(method, params).map_err(|error| Failure::call(method, &error))
    }

    /// Calls `method`; the daemon's refusal is an answer, too.
    pub(crate) fn ask(&mut self, method: &str, params: Option<Value>) -> Result<Result<Value, RpcError>, Failure> {
        match self.client.call(method, params) {
            Ok(result) => Ok(Ok(result)),
            Err(CallError::Refused(error)) => Ok(Err(error)),
            Err(error) => Err(Failure::call(method, &error)),
        }
    }

    /// Calls `method` and reads its result as a `T`.
    pub(crate) fn read<T: DeserializeOwned>(&mut self, method: &str, params: Option<Value>) -> Result<T, Failure> {
        let result = self.call(method, params)?;
        serde_json::from_value(result).map_err(|error| Failure::reply(method, error))
    }

    /// Sends `signal` to the daemon by its own method, and waits for its process to end unless
    /// told not to. Says whether it is known to have ended.
    pub(crate) fn stop(mut self, signal: &str, wait: bool) -> Result<bool, Failure> {
        // Opened before the signal: afterwards the number could be another process's.
        let process = self.client.server_pid().and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        let method = "spdk_kill_instance";
        match self.client.call(method, Some(serde_json::json!({"sig_name": signal}))) {
            // SIGKILL leaves no time for a reply.
            Ok(_) | Err(CallError::Lost { .. }) => {}
            Err(error) => return Err(Failure::call(method, &error)),
        }
        let Some(process) = process.filter(|_| wait) else {
            return Ok(false);
        };
        let timeout = self.timeout.map(|timeout| Timespec::try_from(timeout).expect("a u32 of seconds fits"));
        let ended = poll(&mut [PollFd::new(&process, PollFlags::IN)], timeout.as_ref());
        match ended {
            Ok(1..) => Ok(true),
            _ => Err(Failure::Unreachable("the daemon has been told to stop and has not ended yet; its log says what it waits for".into())),
        }
    }

    /// Two results of `method`, `interval_s` seconds apart.
    pub(crate) fn twice(&mut self, method: &str, interval_s: u32) -> Result<(Value, Value), Failure> {
        let first = self.call(method, None)?;
        pause(Duration::from_secs(interval_s.into()));
        Ok((first, self.call(method, None)?))
    }
}
