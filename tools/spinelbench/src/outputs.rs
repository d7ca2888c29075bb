//! Writes what came of runs to wherever the user wants it. Knows no run.

use std::fs;
use std::io::{self, IsTerminal as _, Write as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use spinelbench::report::table::{self, Colours};
use spinelbench::report::{Machine, Report, Run, VERSION, fio, hlog, html, words};

use crate::cli::Outputs;
use crate::failure::{Failure, with_causes};
use crate::machine;

/// A report of runs on this machine.
pub(crate) fn report(runs: Vec<Run>, knee: Option<usize>) -> Report {
    let machine: Machine = machine::describe();
    Report { version: VERSION, tool: concat!("spinelbench ", env!("CARGO_PKG_VERSION")).to_owned(), machine, runs, knee }
}

/// Whether everything that was asked for can be written, before it is worked for.
///
/// # Errors
/// When a file cannot be made, is what is measured, or a block device; or when two things would go to the same place.
pub(crate) fn check(outputs: &Outputs, target: Option<&PathBuf>) -> Result<(), Failure> {
    let target = target.and_then(|path| fs::metadata(path).ok()).map(|target| identity(&target));
    if outputs.places().filter(|path| is_stdout(path)).count() > 1 {
        return Err(Failure::usage("only one output can go to standard output"));
    }
    let mut places = Vec::new();
    for path in outputs.places().filter(|path| !is_stdout(path)) {
        match fs::metadata(path) {
            Ok(seen) if target == Some(identity(&seen)) => {
                return Err(Failure::usage(format!("{} is what is measured; write to another file", path.display())));
            }
            Ok(seen) if seen.file_type().is_block_device() => {
                return Err(Failure::usage(format!("{} is a block device; write to a file", path.display())));
            }
            _ => {}
        }
        // What it holds stays until there is something to replace it with.
        let file = fs::OpenOptions::new().create(true).truncate(false).write(true).open(path);
        let seen = file.and_then(|file| file.metadata()).map_err(|error| Failure::local("write", path, &error))?;
        if places.contains(&identity(&seen)) {
            return Err(Failure::usage(format!("two outputs would go to {}", path.display())));
        }
        places.push(identity(&seen));
    }
    Ok(())
}

/// What two names of one file have in common.
fn identity(seen: &fs::Metadata) -> (u64, u64) {
    (seen.dev(), seen.ino())
}

fn is_stdout(path: &Path) -> bool {
    path == Path::new("-")
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
    if outputs.quiet || outputs.places().any(|path| is_stdout(path)) {
        // No table; but what is wrong shows.
        for run in &report.runs {
            words::warnings(run).iter().for_each(|warning| eprintln!("spinelbench: {}", words::printable(warning)));
        }
    } else {
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
    if is_stdout(path) {
        let written = io::stdout().write_all(bytes).and_then(|()| io::stdout().flush());
        return match written {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::Local(format!("cannot write the output: {error}"))),
            _ => Ok(()),
        };
    }
    fs::write(path, bytes).map_err(|error| Failure::local("write", path, &error))
}
