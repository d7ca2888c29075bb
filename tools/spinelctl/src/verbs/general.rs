//! The verbs about the daemon as a whole, and about this program.

use super::Session;
use crate::cli::{Cli, Level};
use crate::daemon::Daemon;
use crate::failure::Failure;
use crate::table;
use clap::CommandFactory as _;
use clap_complete::Shell;
use clap_mangen::Man;
use serde_json::{Value, json};
use std::io::{Read as _, Write as _};
use std::path::PathBuf;

/// The parameters of `spinelctl rpc`, from the command line or standard input.
pub(super) fn rpc_params(given: Option<&str>) -> Result<Option<Value>, Failure> {
    let mut input = String::new();
    let text = match given {
        None => return Ok(None),
        Some("-") => {
            let read = std::io::stdin().lock().read_to_string(&mut input);
            read.map_err(|error| Failure::Local(format!("cannot read standard input: {error}")))?;
            &input
        }
        Some(text) => text,
    };
    let params: Value = serde_json::from_str(text).map_err(|error| {
        Failure::Usage(format!("the parameters are not JSON: {error}; they must be an object such as '{{\"name\": \"d0\"}}'"))
    })?;
    match params {
        Value::Object(_) | Value::Array(_) => Ok(Some(params)),
        _ => Err(Failure::Usage(format!("the parameters are {params}; they must be an object such as '{{\"name\": \"d0\"}}'"))),
    }
}

pub(super) fn version(socket: Option<PathBuf>, timeout: u32, json: bool) -> Result<(), Failure> {
    let own = env!("CARGO_PKG_VERSION");
    let daemon = Daemon::connect(socket, timeout).and_then(|mut daemon| daemon.call("spdk_get_version", None));
    if json {
        let (told, failure) = match daemon {
            Ok(told) => (told, None),
            Err(failure) => (Value::Null, Some(failure)),
        };
        table::print_json(&json!({"spinelctl": own, "daemon": told}))?;
        return failure.map_or(Ok(()), Err);
    }
    table::print(&format!("spinelctl  {own}"))?;
    let daemon = daemon?;
    table::print(&format!("daemon     {}", table::printable(daemon["version"].as_str().unwrap_or("unknown"))))
}

pub(super) fn log_level(session: &mut Session, level: Option<Level>) -> Result<(), Failure> {
    if let Some(level) = level {
        let level = level.name();
        return session.change("log_set_level", json!({"level": level}), |_| format!("the log level is now {level}"));
    }
    let level = session.daemon.call("log_get_level", None)?;
    if session.json { table::print_json(&level) } else { table::print(level.as_str().unwrap_or("unknown")) }
}

pub(super) fn stop(session: Session, signal: &str, wait: bool) -> Result<(), Failure> {
    let json = session.json;
    let has_ended = session.daemon.stop(signal, wait)?;
    match (json, has_ended) {
        (true, _) => table::print_json(&json!({"ended": has_ended})),
        (false, true) => table::print("the daemon has ended"),
        (false, false) => table::print("the daemon has been told to stop"),
    }
}

pub(super) fn completion(shell: Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "spinelctl", &mut script);
    write(&script)
}

pub(super) fn man(verb: &[String]) -> Result<(), Failure> {
    let mut command = Cli::command();
    command.build();
    for word in verb {
        let found = command.find_subcommand(word).cloned();
        command = found
            .ok_or_else(|| Failure::Usage(format!("there is no verb '{}'; spinelctl --help lists those there are", verb.join(" "))))?;
    }
    let mut page = Vec::new();
    Man::new(command).render(&mut page).map_err(|error| Failure::output(&error))?;
    write(&page)
}

fn write(bytes: &[u8]) -> Result<(), Failure> {
    std::io::stdout().lock().write_all(bytes).map_err(|error| Failure::output(&error))
}
