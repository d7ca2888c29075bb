//! A spineld in a folder of its own: started, called, stopped. Knows no test.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use spinel_control::RpcError;
use spinel_control::client::{CallError, Client};
use tempfile::TempDir;

/// How long anything may take that is not being measured.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running daemon. Dropping it kills it.
pub(crate) struct Daemon {
    child: Child,
    folder: TempDir,
    log: Receiver<String>,
    seen: String,
}

/// What is left of a daemon.
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) log: String,
    pub(crate) folder: TempDir,
}

/// The command that starts a daemon in `folder`.
pub(crate) fn command(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_spineld"));
    command.env_remove("SPINEL_RPC_SOCKET").env_remove("NOTIFY_SOCKET").env_remove("JOURNAL_STREAM").current_dir(folder);
    command.arg("-r").arg(folder.join("rpc.sock")).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

impl Daemon {
    /// Starts one and waits until it serves.
    pub(crate) fn start() -> Self {
        Self::start_with(TempDir::new().expect("a folder"), [""; 0])
    }

    /// Starts one in `folder` with more arguments, and waits until it serves.
    pub(crate) fn start_with<A: AsRef<OsStr>>(folder: TempDir, arguments: impl IntoIterator<Item = A>) -> Self {
        let mut daemon = Self::launch(folder, arguments);
        daemon.wait_for_log("listens on");
        daemon
    }

    /// Starts one, whatever comes of it.
    pub(crate) fn launch<A: AsRef<OsStr>>(folder: TempDir, arguments: impl IntoIterator<Item = A>) -> Self {
        let (child, log) = spawn(folder.path(), arguments);
        Self { child, folder, log, seen: String::new() }
    }

    /// Starts one that is to take over from this one, whatever comes of it. It has no folder of its own.
    pub(crate) fn launch_successor<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Successor {
        let arguments = arguments.into_iter().map(|argument| argument.as_ref().to_owned());
        let (child, log) = spawn(self.folder(), std::iter::once("--takeover".into()).chain(arguments));
        Successor { child, log, seen: String::new() }
    }

    /// Has one take over from this one. From here on it is that one; answers how this one ended.
    pub(crate) fn take_over<A: AsRef<OsStr>>(&mut self, arguments: impl IntoIterator<Item = A>) -> (ExitStatus, String) {
        let mut successor = self.launch_successor(arguments);
        successor.wait_for_log("listens on");
        self.become_successor(successor)
    }

    /// From here on it is that one; answers how this one ended.
    pub(crate) fn become_successor(&mut self, successor: Successor) -> (ExitStatus, String) {
        let Successor { child, log, seen } = successor;
        let mut old = std::mem::replace(&mut self.child, child);
        read_to_end(&std::mem::replace(&mut self.log, log), &mut self.seen);
        (old.wait().expect("our child"), std::mem::replace(&mut self.seen, seen))
    }

    /// Reads the log until a line contains `text`.
    pub(crate) fn wait_for_log(&mut self, text: &str) {
        read_until(&self.log, &mut self.seen, text);
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder().join("rpc.sock")
    }

    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("a process id")
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(self.socket()).expect("the daemon serves")
    }

    pub(crate) fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.socket()).expect("the daemon serves");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream
    }

    /// Calls a method.
    pub(crate) fn call(&self, method: &str, params: Value) -> Result<Value, RpcError> {
        call(&mut self.client(), method, params)
    }

    /// Calls a method that has to succeed.
    pub(crate) fn done(&self, method: &str, params: Value) -> Value {
        self.call(method, params.clone()).unwrap_or_else(|error| panic!("{method} {params}: {error}"))
    }

    /// Calls a method that has to fail with `code`, and answers the message.
    pub(crate) fn refused(&self, code: i32, method: &str, params: Value) -> String {
        match self.call(method, params.clone()) {
            Err(error) if error.code == code => error.message,
            other => panic!("{method} {params}: {other:?}, not code {code}"),
        }
    }

    /// Calls a method that has to succeed once a takeover that failed is over.
    pub(crate) fn done_in_the_end(&self, method: &str, params: Value) -> Value {
        const LOOK: Duration = Duration::from_millis(5);
        let looks = PATIENCE.as_millis() / LOOK.as_millis();
        let answer = (0..looks).find_map(|_| match self.call(method, params.clone()) {
            Err(error) if error.code == -16 => {
                std::sync::mpsc::channel::<()>().1.recv_timeout(LOOK).ok();
                None
            }
            answer => Some(answer),
        });
        answer.expect("it is over some time").unwrap_or_else(|error| panic!("{method} {params}: {error}"))
    }

    /// The last line of the log that was read.
    pub(crate) fn last_line(&self) -> &str {
        self.seen.lines().last().unwrap_or_default()
    }

    /// Asserts that it still answers.
    pub(crate) fn lives(&self) {
        let version = self.done("spdk_get_version", Value::Null);
        assert!(version["version"].as_str().is_some_and(|version| version.starts_with("Spinel v")), "{version}");
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.pid()).expect("a process id"), signal).expect("it runs");
    }

    /// Stops it in order.
    pub(crate) fn stop(self) -> Ended {
        self.signal(Signal::TERM);
        self.wait()
    }

    /// Waits until it ends.
    pub(crate) fn wait(mut self) -> Ended {
        read_to_end(&self.log, &mut self.seen);
        let status = self.child.wait().expect("our child");
        Ended {
            status,
            log: std::mem::take(&mut self.seen),
            folder: std::mem::replace(&mut self.folder, TempDir::new().expect("a folder")),
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A daemon that takes over from another one, or tries to.
pub(crate) struct Successor {
    child: Child,
    log: Receiver<String>,
    seen: String,
}

impl Successor {
    /// Reads the log until a line contains `text`.
    pub(crate) fn wait_for_log(&mut self, text: &str) {
        read_until(&self.log, &mut self.seen, text);
    }

    /// Waits until it ends: its exit status and its log.
    pub(crate) fn wait(mut self) -> (ExitStatus, String) {
        read_to_end(&self.log, &mut self.seen);
        (self.child.wait().expect("our child"), self.seen)
    }
}

fn spawn<A: AsRef<OsStr>>(folder: &Path, arguments: impl IntoIterator<Item = A>) -> (Child, Receiver<String>) {
    let mut child = command(folder).args(arguments).spawn().expect("spineld is built");
    let stderr = BufReader::new(child.stderr.take().expect("piped"));
    let (lines, log) = channel();
    let read = move || stderr.lines().map_while(Result::ok).try_for_each(|line| lines.send(line));
    std::thread::Builder::new().name("log".into()).spawn(read).expect("a thread");
    (child, log)
}

fn read_until(log: &Receiver<String>, seen: &mut String, text: &str) {
    loop {
        let line = log.recv_timeout(PATIENCE);
        let line = line.unwrap_or_else(|error| panic!("'{text}' is not logged ({error}):\n{seen}"));
        *seen += &line;
        seen.push('\n');
        if line.contains(text) {
            return;
        }
    }
}

/// The log's end is the process's, for nobody else has it.
fn read_to_end(log: &Receiver<String>, seen: &mut String) {
    while let Ok(line) = log.recv_timeout(PATIENCE) {
        *seen += &line;
        seen.push('\n');
    }
}

/// Calls a method on a connection.
pub(crate) fn call(client: &mut Client, method: &str, params: Value) -> Result<Value, RpcError> {
    match client.call(method, Some(params).filter(|params| !params.is_null())) {
        Ok(result) => Ok(result),
        Err(CallError::Refused(error)) => Err(error),
        Err(error) => panic!("{method}: {error}"),
    }
}

/// A file of so many bytes, in `folder`.
pub(crate) fn file(folder: &Path, name: &str, len_bytes: u64) -> PathBuf {
    let path = folder.join(name);
    std::fs::File::create(&path).expect("a file").set_len(len_bytes).expect("a sparse file");
    path
}
