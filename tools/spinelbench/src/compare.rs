//! `spinelbench compare`: reports that were kept, shown again. Knows no target.

use std::fs;
use std::path::Path;

use spinelbench::report::{Report, compare, html, table};

use crate::cli;
use crate::failure::{Failure, with_causes};
use crate::outputs;

/// Shows one report as a table, several beside each other, and all of them as a page.
///
/// # Errors
/// When a file cannot be read or is no report.
pub(crate) fn run(arguments: &cli::Compare) -> Result<(), Failure> {
    let reports = arguments.reports.iter().map(|path| read(path)).collect::<Result<Vec<_>, _>>()?;
    if let Some(path) = &arguments.html {
        outputs::put(path, html::page(&reports).as_bytes())?;
        if path == Path::new("-") {
            return Ok(());
        }
    }
    match reports.as_slice() {
        [report] => outputs::print(&table::text(report, outputs::colours())),
        reports => outputs::print(&compare::text(reports, outputs::colours())),
    }
}

fn read(path: &Path) -> Result<Report, Failure> {
    let text = fs::read_to_string(path).map_err(|error| Failure::local("read", path, &error))?;
    Report::from_json(&text).map_err(|error| Failure::Usage(format!("{}: {}", path.display(), with_causes(&error))))
}
