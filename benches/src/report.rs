//! Everything that one run has measured and found, as JSON for programs and HTML for people. Knows no way to measure.

mod html;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;
use serde_json::Value;

use crate::Failure;
use crate::claims::Finding;
use crate::contest::Window;
use crate::cores::Cores;
use crate::rows::Ran;
use crate::servers::Place;

/// The version of the JSON's shape.
const VERSION: u32 = 1;

/// One run of some scenarios.
#[derive(Serialize)]
struct Report<'a> {
    version: u32,
    /// When it ended, in seconds since 1970.
    ended_unix_s: u64,
    machine: Machine,
    cores: Cores,
    /// Which cores take the disk's interrupts, if not all do.
    disk_cores: &'a [usize],
    /// Fewer and shorter windows.
    quick: bool,
    findings: Vec<&'a Finding>,
    windows: Vec<&'a Window>,
    /// What scenarios say that have no windows of that kind, by their names: arrays of objects.
    figures: BTreeMap<&'a str, &'a Value>,
}

/// What was measured on.
#[derive(Serialize)]
struct Machine {
    processor: String,
    processors: usize,
    memory_bytes: u64,
    kernel: String,
}

impl Machine {
    fn this() -> Self {
        let text = |path| fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, name| Some(text.lines().find(|line| line.starts_with(name))?.split_once(':')?.1.trim().to_owned());
        let processors = text("/proc/cpuinfo");
        let memory_kib = field(&text("/proc/meminfo"), "MemTotal").and_then(|total| total.split(' ').next()?.parse::<u64>().ok());
        Self {
            processor: field(&processors, "model name").unwrap_or_else(|| "of an unknown model".to_owned()),
            processors: processors.lines().filter(|line| line.starts_with("processor")).count(),
            memory_bytes: memory_kib.unwrap_or(0) << 10,
            kernel: text("/proc/sys/kernel/osrelease").trim().to_owned(),
        }
    }
}

/// Writes `report.json` and `report.html` about scenarios by name, and prints where.
pub(crate) fn write(place: &Place, folder: &Path, quick: bool, all: &[(String, Ran)]) -> Result<(), Failure> {
    let report = Report {
        version: VERSION,
        ended_unix_s: unix_s(),
        machine: Machine::this(),
        cores: place.cores,
        disk_cores: &place.disk_cores,
        quick,
        findings: all.iter().flat_map(|(_, ran)| &ran.findings).collect(),
        windows: all.iter().flat_map(|(_, ran)| &ran.windows).collect(),
        figures: all.iter().map(|(name, ran)| (name.as_str(), &ran.figures)).filter(|(_, figures)| !figures.is_null()).collect(),
    };
    let (json, page) = (folder.join("report.json"), folder.join("report.html"));
    fs::write(&json, serde_json::to_vec_pretty(&report)?)?;
    fs::write(&page, html::page(&report))?;
    println!("For programs: {}\nFor people: {}", json.display(), page.display());
    Ok(())
}

/// For the record only: nothing is measured by it.
#[allow(clippy::disallowed_methods, reason = "when a run took place is a date, and no duration")]
fn unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
