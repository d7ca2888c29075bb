//! A running spinelbench on this machine, how it ends, and what it reports. It knows no case.

use crate::{Bench, Failure};
use serde_json::Value;
use spinel_testbed::clock::Deadline;
use spinel_testbed::process::{Process, open_log};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

/// Far more than a run of a few seconds takes to end, also on a machine that is busy with something else.
const PATIENCE: Duration = Duration::from_secs(180);

/// One of them. Dropping it kills it.
pub(crate) struct Spinelbench {
    pub(crate) process: Process,
    words: String,
    log: PathBuf,
}

impl Spinelbench {
    /// Starts it; its log is named after the case. It polls unless told otherwise.
    pub(crate) fn start(bench: &Bench, case: &str, verb: &str, target: &str, arguments: &[&str]) -> Result<Self, Failure> {
        let log = bench.logs.join(format!("{case}.spinelbench.log"));
        let mut command = Command::new(bench.program("spinelbench"));
        command.args([verb, target, "--quiet"]).args(arguments);
        command.stdin(Stdio::null()).stdout(open_log(&log)?).stderr(open_log(&log)?);
        let words = format!("spinelbench {verb} {target} {}", arguments.join(" "));
        Ok(Self { process: Process::start("spinelbench", &mut command)?, words, log })
    }

    /// Waits for its end, which must be by this exit code.
    pub(crate) fn ends_with(mut self, code: i32) -> Result<(), Failure> {
        let ended = self.process.wait_until(Deadline::after(PATIENCE))?;
        self.must_be(ended, code)
    }

    /// Asks it to end what it does, and waits for that.
    pub(crate) fn stops_with(mut self, code: i32) -> Result<(), Failure> {
        let ended = self.process.stop(PATIENCE)?;
        self.must_be(ended, code)
    }

    fn must_be(&self, ended: Option<ExitStatus>, code: i32) -> Result<(), Failure> {
        let (words, log) = (&self.words, self.log.display());
        match ended {
            Some(status) if status.code() == Some(code) => Ok(()),
            Some(status) => Err(format!("{words} ended with {status} instead of {code}; its log is {log}").into()),
            None => Err(format!("{words} did not end within {} s; its log is {log}", PATIENCE.as_secs()).into()),
        }
    }
}

/// A vhost-user-blk socket as a target.
pub(crate) fn vhost(socket: &Path) -> String {
    format!("vhost:{}", socket.display())
}

/// What the only run of a report says.
pub(crate) fn figures(report: &Path) -> Result<Value, Failure> {
    let report: Value = serde_json::from_str(&fs::read_to_string(report)?)?;
    Ok(report["runs"][0].clone())
}

/// A path as an argument.
pub(crate) fn path(path: &Path) -> Result<&str, Failure> {
    path.to_str().ok_or_else(|| format!("{} is not UTF-8", path.display()).into())
}
