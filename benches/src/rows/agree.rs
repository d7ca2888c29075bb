//! The instrument beside fio: two programs that measure the same disk have to see the same. Knows no row.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::Value;

use super::{FIO, Ran, fio, hold};
use crate::claims::{Claim, Figure, Target};
use crate::contest::{Contender, Entrant, Latency, Seen};
use crate::servers::Place;
use crate::work::Work;
use crate::{Failure, Pace};

const SPINELBENCH: &str = "spinelbench";
const WORKS: [Work; 4] = [
    Work::random_reads("4k random reads, 1 deep", 4096, 1),
    Work::random_reads("4k random reads, 8 deep", 4096, 8),
    Work::random_reads("4k random reads, 32 deep", 4096, 32),
    Work::sequential_reads("128k sequential reads, 4 deep", 128 << 10, 4),
];
/// How far each figure may be off.
const FIGURES: [(Figure, f64); 3] = [(Figure::Rate, 0.03), (Figure::P50, 0.05), (Figure::P99, 0.05)];

/// Spinelbench and fio on the same file, window by window.
pub(crate) fn agree(place: &Place, file: &Path, pace: &Pace) -> Result<Ran, Failure> {
    println!("Both wait for completions asleep, send and see requests one at a time, and run on the same core.");
    let entrants = vec![
        Entrant { device: "file", name: SPINELBENCH, contender: Box::new(Instrument { file: file.to_owned() }) },
        Entrant { device: "file", name: FIO, contender: Box::new(fio(file)) },
    ];
    let claims: Vec<Claim> = WORKS
        .iter()
        .flat_map(|work| {
            FIGURES.map(|(figure, off)| Claim {
                row: "agree",
                work: work.name,
                ours: ("file", SPINELBENCH),
                baseline: ("file", FIO),
                figure,
                target: Target::Within(off),
            })
        })
        .collect();
    hold(place, pace, "agree", &WORKS, entrants, &claims)
}

/// spinelbench on a file, as people start it.
struct Instrument {
    file: PathBuf,
}

impl Contender for Instrument {
    fn pid(&self) -> Option<u32> {
        None
    }

    fn measure(&mut self, place: &Place, work: &Work, pace: &Pace, round: u32) -> Result<Seen, Failure> {
        let program = place.spineld.with_file_name(SPINELBENCH);
        let mut command = std::process::Command::new(&program);
        command.arg("run").arg(format!("file:{}", self.file.display())).args(["--json", "-", "--quiet"]);
        command.args([
            "-w",
            if work.sequential { "read" } else { "randread" },
            "-b",
            &work.bytes.to_string(),
            "-d",
            &work.depth.to_string(),
        ]);
        command.args(["--cores", &place.cores.client.to_string(), "--seed", &(round + 1).to_string()]);
        command.args(["-t", &format!("{}ms", pace.window.as_millis()), "--warm-up", &format!("{}ms", pace.warm_up.as_millis())]);
        let output = command.stdin(Stdio::null()).output().map_err(|error| format!("{} does not start: {error}", program.display()))?;
        if !output.status.success() {
            return Err(format!("spinelbench failed ({}): {}", output.status, String::from_utf8_lossy(&output.stderr).trim()).into());
        }
        let report: Value = serde_json::from_slice(&output.stdout)?;
        read(&report["runs"][0]).ok_or_else(|| "spinelbench's report has another form".into())
    }
}

fn read(run: &Value) -> Option<Seen> {
    let latency = |name: &str| run["all"]["latency"][name].as_u64();
    Some(Seen {
        requests: run["all"]["requests"].as_u64()?,
        bytes: run["all"]["bytes"].as_u64()?,
        errors: run["all"]["errors"].as_u64()?,
        took_ns: run["took_ns"].as_u64()?,
        latency: Latency {
            p50_ns: latency("p50_ns")?,
            p99_ns: latency("p99_ns")?,
            p99_9_ns: latency("p99_9_ns")?,
            max_ns: latency("max_ns")?,
        },
        cpu_ns: run["client_cpu_ns"].as_u64()?,
        busy_ns: None,
    })
}
