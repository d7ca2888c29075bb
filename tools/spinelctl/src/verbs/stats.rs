//! `spinelctl stats`: what disks have done since they were made, operation by operation.

use super::Session;
use crate::cli::Stats;
use crate::failure::Failure;
use crate::reply::{BdevStat, Iostat, OPERATIONS, Operation};
use crate::table::{self, Table};
use serde_json::json;
use spinel_units::{size, time};

const METHOD: &str = "bdev_get_iostat";

pub(super) fn run(session: &mut Session, stats: Stats) -> Result<(), Failure> {
    let Stats { disks, reset } = stats;
    let mut params = json!({});
    if !disks.is_empty() {
        params["names"] = disks.into();
    }
    if reset {
        params["reset_mode"] = "all".into();
    }
    let reply = session.daemon.call(METHOD, Some(params))?;
    if session.json {
        return table::print_json(&reply);
    }
    let iostat: Iostat = serde_json::from_value(reply).map_err(|error| Failure::reply(METHOD, error))?;
    table::print(&show(&iostat))
}

fn show(iostat: &Iostat) -> String {
    let headings = ["DISK", "OPERATION", ">COUNT", ">BYTES", ">MEAN", ">P50", ">P90", ">P99", ">P99.9", ">P99.99", ">MAX"];
    let mut table = Table::new(&headings);
    for disk in &iostat.bdevs {
        for names in OPERATIONS {
            let operation = disk.operation(names);
            // Reading and writing are what one looks for, even to see that there was none.
            if operation.count > 0 || matches!(names.0, "read" | "write") {
                table.row(&row(disk, names.0, operation, iostat.tick_rate));
            }
        }
    }
    let mut lines: Vec<String> = table.lines().collect();
    lines.extend(iostat.bdevs.iter().filter_map(remarks));
    lines.join("\n")
}

fn row(disk: &BdevStat, name: &str, operation: Operation, tick_rate: u64) -> Vec<String> {
    let none = || "-".to_owned();
    let percentiles = disk.percentiles.get(name);
    let counted_mean = || {
        let ticks = u128::from(operation.latency_ticks?).checked_div(operation.count.into())?;
        let ns = (ticks * 1_000_000_000).checked_div(tick_rate.into())?;
        u64::try_from(ns).ok()
    };
    let mean = percentiles.and_then(|percentiles| percentiles.mean).or_else(counted_mean);
    let mut row = vec![
        disk.name.clone(),
        name.replace('_', " "),
        operation.count.to_string(),
        operation.bytes.map_or_else(none, size),
        mean.filter(|_| operation.count > 0).map_or_else(none, time),
    ];
    let times = percentiles.filter(|_| operation.count > 0).map(|at| [at.p50, at.p90, at.p99, at.p999, at.p9999, at.max]);
    row.extend((0..6).map(|index| times.map_or_else(none, |times| time(times[index]))));
    row
}

/// What is unusual about a disk: errors, and what is under way.
fn remarks(disk: &BdevStat) -> Option<String> {
    let mut remarks = Vec::new();
    if let Some(in_flight) = disk.in_flight.filter(|in_flight| *in_flight > 0) {
        remarks.push(format!("{in_flight} in flight"));
    }
    remarks.extend(
        disk.io_error.iter().filter(|(_, count)| count.as_u64() != Some(0)).map(|(name, count)| format!("{count} errors ({name})")),
    );
    (!remarks.is_empty()).then(|| table::printable(&format!("{}: {}", disk.name, remarks.join(", "))))
}
