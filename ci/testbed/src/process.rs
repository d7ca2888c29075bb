//! Child processes that are always waited for with a bound, and never outlive their owner by accident.
//! It knows nothing of what they are.

use crate::clock::Deadline;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open, pidfd_send_signal};
use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

/// How often a watched program is looked at.
const LOOK: Duration = Duration::from_millis(200);

/// Why a program could not be run, or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// It could not be started.
    #[error("{program} cannot be started: is it installed?")]
    Start {
        /// The program's name.
        program: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// [`kill_all`] was called.
    #[error("stopped by a signal")]
    Stopped,
    /// Waiting for it failed.
    #[error("{program} cannot be waited for")]
    Wait {
        /// The program's name.
        program: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// Its log cannot be written.
    #[error("the log {} cannot be written", path.display())]
    Log {
        /// The log.
        path: PathBuf,
        /// What the file system said.
        source: io::Error,
    },
    /// It ran longer than it was given, and was killed.
    #[error("{program} did not end in the time it was given; its log is {}", log.display())]
    Late {
        /// The program's name.
        program: String,
        /// Where its output went.
        log: PathBuf,
    },
    /// It ended with a failure.
    #[error("{program} failed ({status}); its log is {}{tail}", log.display())]
    Failed {
        /// The program's name.
        program: String,
        /// How it ended.
        status: ExitStatus,
        /// Where its output went.
        log: PathBuf,
        /// The last lines of the log, each on a line of its own.
        tail: String,
    },
}

/// What the thread that waits for signals has to know of those that start processes.
struct Started {
    /// The ids of the processes that run now.
    running: BTreeSet<i32>,
    /// No more are to be started.
    stopped: bool,
}

#[allow(clippy::disallowed_types, reason = "shared between the thread that waits for signals and the others; nothing here is a data path")]
static STARTED: std::sync::Mutex<Started> = std::sync::Mutex::new(Started { running: BTreeSet::new(), stopped: false });

fn started() -> impl std::ops::DerefMut<Target = Started> {
    STARTED.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Kills every process started here that still runs, and lets no more be started: whoever waits for one sees it end,
/// and comes to an end too, putting away what it has set up.
pub fn kill_all() {
    let mut started = started();
    started.stopped = true;
    for id in &started.running {
        if let Some(pid) = Pid::from_raw(*id) {
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
}

/// A running child process. Dropping it kills it and reaps it.
///
/// It leads a process group of its own: Ctrl-C on the terminal goes to the program that started it, which stops it in
/// order by [`kill_all`].
#[derive(Debug)]
pub struct Process {
    child: Child,
    id: Pid,
    pidfd: OwnedFd,
    program: String,
}

impl Process {
    /// Starts `command`; `program` is its name in messages.
    ///
    /// # Errors
    /// [`RunError::Start`] when the program is missing or cannot be executed.
    pub fn start(program: &str, command: &mut Command) -> Result<Self, RunError> {
        let failed = |source| RunError::Start { program: program.to_owned(), source };
        let mut started = started();
        if started.stopped {
            return Err(RunError::Stopped);
        }
        let mut child = command.process_group(0).spawn().map_err(failed)?;
        let id = Pid::from_child(&child);
        let pidfd = pidfd_open(id, PidfdFlags::empty()).map_err(|errno| {
            let _ = child.kill();
            let _ = child.wait();
            failed(errno.into())
        })?;
        started.running.insert(id.as_raw_pid());
        Ok(Self { child, id, pidfd, program: program.to_owned() })
    }

    /// The process id, for messages to people.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the end of the process; nothing when it still runs at the deadline.
    ///
    /// # Errors
    /// [`RunError::Wait`] when the kernel refuses to wait.
    pub fn wait_until(&mut self, deadline: Deadline) -> Result<Option<ExitStatus>, RunError> {
        loop {
            if let Some(status) = self.child.try_wait().map_err(|e| self.wait_failed(e))? {
                started().running.remove(&self.id.as_raw_pid());
                return Ok(Some(status));
            }
            let Some(left) = deadline.left() else { return Ok(None) };
            let left = Timespec::try_from(left).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 });
            match poll(&mut [PollFd::new(&self.pidfd, PollFlags::IN)], Some(&left)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(self.wait_failed(errno.into())),
            }
        }
    }

    /// Asks the process to end (SIGTERM), and kills it when it has not after `grace`.
    /// The answer says how it ended, and is nothing when it had to be killed.
    ///
    /// # Errors
    /// [`RunError::Wait`] when the kernel refuses to wait.
    pub fn stop(&mut self, grace: Duration) -> Result<Option<ExitStatus>, RunError> {
        // It may have ended by itself: that is what stopping wants.
        let _ = pidfd_send_signal(&self.pidfd, Signal::TERM);
        let ended = self.wait_until(Deadline::after(grace))?;
        if ended.is_none() {
            self.kill();
        }
        Ok(ended)
    }

    /// Holds the process (SIGSTOP) until [`resume`](Self::resume).
    ///
    /// # Errors
    /// [`RunError::Wait`] when it has ended.
    pub fn pause(&self) -> Result<(), RunError> {
        pidfd_send_signal(&self.pidfd, Signal::STOP).map_err(|errno| self.wait_failed(errno.into()))
    }

    /// Lets a held process go on (SIGCONT).
    ///
    /// # Errors
    /// [`RunError::Wait`] when it has ended.
    pub fn resume(&self) -> Result<(), RunError> {
        pidfd_send_signal(&self.pidfd, Signal::CONT).map_err(|errno| self.wait_failed(errno.into()))
    }

    /// Kills the process and what it has started, at once (SIGKILL), and reaps it.
    pub fn kill(&mut self) {
        // Once reaped, its id may be somebody else's.
        if let Ok(None) = self.child.try_wait() {
            let _ = kill_process_group(self.id, Signal::KILL);
            let _ = self.child.wait();
        }
        started().running.remove(&self.id.as_raw_pid());
    }

    /// Lets the process outlive this program, and answers its id.
    #[must_use]
    pub fn leave_running(self) -> u32 {
        let id = self.child.id();
        started().running.remove(&self.id.as_raw_pid());
        // Not dropping is what leaves it running; the few bytes go when this program ends.
        std::mem::forget(self);
        id
    }

    fn wait_failed(&self, source: io::Error) -> RunError {
        RunError::Wait { program: self.program.clone(), source }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Opens a log for appending; its folder is made where missing.
///
/// # Errors
/// [`RunError::Log`] when the folder or the file cannot be written.
pub fn open_log(path: &Path) -> Result<File, RunError> {
    let failed = |source| RunError::Log { path: path.to_owned(), source };
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(failed)?;
    }
    OpenOptions::new().create(true).append(true).open(path).map_err(failed)
}

/// Runs `command` to its end with all its output in `log`, within `limit`.
///
/// # Errors
/// See [`RunError`]; a program that fails is quoted with the last lines of its log.
pub fn run_logged(program: &str, command: &mut Command, log: &Path, limit: Duration) -> Result<(), RunError> {
    run_watched(program, command, log, limit, &mut || {})
}

/// As [`run_logged`]; `look` is called now and then while it runs, to show how far it has come.
///
/// # Errors
/// As [`run_logged`].
pub fn run_watched(program: &str, command: &mut Command, log: &Path, limit: Duration, look: &mut dyn FnMut()) -> Result<(), RunError> {
    let out = open_log(log)?;
    let err = out.try_clone().map_err(|source| RunError::Log { path: log.to_owned(), source })?;
    command.stdin(Stdio::null()).stdout(out).stderr(err);
    let mut process = Process::start(program, command)?;
    let deadline = Deadline::after(limit);
    let status = loop {
        look();
        let Some(left) = deadline.left() else {
            return Err(RunError::Late { program: program.to_owned(), log: log.to_owned() });
        };
        if let Some(status) = process.wait_until(Deadline::after(left.min(LOOK)))? {
            break status;
        }
    };
    if status.success() {
        return Ok(());
    }
    Err(RunError::Failed { program: program.to_owned(), status, log: log.to_owned(), tail: tail(log, 15) })
}

/// The last `lines` lines of a file, each after a line break and indented; empty when there is nothing to quote.
#[must_use]
pub fn tail(path: &Path, lines: usize) -> String {
    let text = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let all: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let last = &all[all.len().saturating_sub(lines)..];
    last.iter().map(|line| format!("\n    {}", line.trim_end())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_failing_program_is_quoted_with_the_end_of_its_log() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("deep/run.log");
        let failed = run_logged("sh", &mut sh("echo why; exit 3"), &log, Duration::from_secs(60));
        let text = failed.unwrap_err().to_string();
        assert!(text.contains("exit status: 3") && text.ends_with("\n    why"), "{text}");
    }

    #[test]
    fn a_program_that_does_not_end_is_given_up_and_killed() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("run.log");
        let late = run_logged("sh", &mut sh("exec sleep 600"), &log, Duration::from_millis(50));
        assert!(matches!(late, Err(RunError::Late { .. })), "{late:?}");
    }

    #[test]
    fn a_process_that_ignores_the_request_to_end_is_killed_after_its_grace() {
        let mut command = sh("trap '' TERM; echo trapped; read never");
        let pipes = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = Process::start("sh", pipes).unwrap();
        // The trap is set once the line is there.
        let mut line = [0; 8];
        io::Read::read_exact(process.child.stdout.as_mut().unwrap(), &mut line).unwrap();
        assert_eq!(process.stop(Duration::from_millis(50)).unwrap(), None);
        assert!(process.wait_until(Deadline::after_s(0)).unwrap().is_some());
    }

    #[test]
    fn a_missing_program_is_named() {
        let missing = Process::start("nosuch", &mut Command::new("/nonexistent/nosuch"));
        assert!(missing.unwrap_err().to_string().contains("nosuch"));
    }
}
