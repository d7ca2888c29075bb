//! Writes what came of runs to wherever the user wants it. Knows no run.

use std::fs;
use std::io::{self, IsTerminal as _, Write as _};
use std::path::Path;

use spinelbench::report::table::{self, Colours};
use spinelbench::report::{Machine, Report, Run, VERSION, fio, hlog, html};

use crate::cli::Outputs;
use crate::failure::{Failure, with_causes};
use crate::machine;

/// A report of runs on this machine.
pub(crate) fn report(runs: Vec<Run>, knee: Option<usize>) -> Report {
    let machine: Machine = machine::describe();
    Report { version: VERSION, tool: concat!("spinelbench ", env!("CARGO_PKG_VERSION")).to_owned(), machine, runs, knee }
}

/// Colours for people at a terminal who did not ask for none.
pub(crate) fn colours() -> Colours {
    let wanted = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    if wanted { Colours::Ansi } else { Colours::None }
}

/// Everything that was asked for.
///
/// # Errors
/// When a file cannot be written; the others have been written then.
pub(crate) fn write(report: &Report, outputs: &Outputs) -> Result<(), Failure> {
    let to_stdout = |path: &Option<std::path::PathBuf>| path.as_deref() == Some(Path::new("-"));
    let machine_reads_it = to_stdout(&outputs.json) || to_stdout(&outputs.fio_json);
    if !outputs.quiet && !machine_reads_it {
        print(&table::text(report, colours()))?;
    }
    let mut first = Ok(());
    let mut keep = |outcome: Result<(), Failure>| {
        if let Err(failure) = outcome {
            match &mut first {
                first @ Ok(()) => *first = Err(failure),
                Err(_) => eprintln!("spinelbench: {}", failure.message().unwrap_or_default()),
            }
        }
    };
    let damaged = |error: &dyn std::error::Error| Failure::Local(format!("the figures cannot be written: {}", with_causes(error)));
    if let Some(path) = &outputs.json {
        keep(put(path, report.to_json().as_bytes()));
    }
    if let Some(path) = &outputs.fio_json {
        keep(fio::json(report).map_err(|error| damaged(&error)).and_then(|json| put(path, format!("{json:#}\n").as_bytes())));
    }
    if let Some(path) = &outputs.html {
        keep(put(path, html::page(std::slice::from_ref(report)).as_bytes()));
    }
    let [run, ..] = report.runs.as_slice() else { return first };
    if let Some(path) = &outputs.hlog {
        keep(hlog::interval_log(run).map_err(|error| damaged(&error)).and_then(|log| put(path, &log)));
    }
    if let Some(path) = &outputs.hgrm {
        keep(hlog::percentiles(run).map_err(|error| damaged(&error)).and_then(|text| put(path, text.as_bytes())));
    }
    first
}

/// Text on standard output. A reader that has left (`| head`) is nothing to complain about.
///
/// # Errors
/// When it cannot be written.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    put(Path::new("-"), text.as_bytes())
}

/// A file, or standard output for `-`.
pub(crate) fn put(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    if path == Path::new("-") {
        let written = io::stdout().write_all(bytes).and_then(|()| io::stdout().flush());
        return match written {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::Local(format!("cannot write the output: {error}"))),
            _ => Ok(()),
        };
    }
    fs::write(path, bytes).map_err(|error| Failure::local("write", path, &error))
}
