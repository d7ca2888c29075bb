//! How many instructions a request costs, beside what was accepted. Knows no clock: neighbours change none of it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};
use spinel_testbed::packages::Packages;
use spinel_testbed::process::{open_log, tail};

use crate::Failure;
use crate::cores::ratio;

/// What is counted, as the counted program's arguments: what serves, over which device, which requests of 4 KiB, how many in flight.
const CASES: [&str; 16] = [
    "vhost null read 1",
    "vhost null read 32",
    "vhost memory read 1",
    "vhost memory read 32",
    "vhost memory write 1",
    "vhost memory write 32",
    "packed null read 1",
    "packed null read 32",
    "vhost-recorded null read 32",
    "vhost-recorded null write 32",
    "packed-recorded null read 32",
    "packed-recorded null write 32",
    "load null read 1",
    "load null read 32",
    "load memory read 32",
    "load memory write 32",
];
/// One run is so many requests long, the other twice as long: what is left of their difference is steady.
const REQUESTS: u64 = 10_000;
/// The function of the counted program between whose start and end everything is counted.
const COUNTED: &str = "*counted_turn*";
/// Budgets are compared where the same compiler made the same code, and the same C library copies data.
/// Of that library's copies the one is taken that every processor has.
const TUNABLES: &str = "glibc.cpu.hwcaps=-AVX_Fast_Unaligned_Load,-AVX2,-AVX512F,-AVX512VL,-ERMS,-FSRM";

/// The file of budgets, kept with the source.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Budgets {
    /// What `rustc --version` said.
    compiler: String,
    /// What `getconf GNU_LIBC_VERSION` said.
    c_library: String,
    /// How far from its budget a count may be, on either side.
    tolerance_percent: f64,
    /// By case.
    instructions_per_request: BTreeMap<String, f64>,
}

/// What has to be said about one case.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Verdict {
    Kept,
    Grew,
    Fell,
    /// It has no budget yet.
    New,
}

impl Verdict {
    fn of(count: f64, budget: Option<f64>, tolerance_percent: f64) -> Self {
        let Some(budget) = budget else { return Self::New };
        let room = budget * tolerance_percent / 100.0;
        match count - budget {
            over if over > room => Self::Grew,
            under if under < -room => Self::Fell,
            _ => Self::Kept,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::Grew => "EXCEEDED",
            Self::Fell => "FELL",
            Self::New => "NEW",
        }
    }
}

/// Counts every case, and fails where one is not what was accepted; or accepts what it is.
pub(crate) fn run(program: &Path, packages: Option<&Packages>, folder: &Path, accept: bool) -> Result<(), Failure> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("budgets.json");
    let text = fs::read(&path).map_err(|e| format!("the budgets cannot be read from {}: {e}", path.display()))?;
    let mut budgets: Budgets = serde_json::from_slice(&text).map_err(|e| format!("{} is no file of budgets: {e}", path.display()))?;
    let compiler = first_line_of("rustc", &["--version"])?;
    let c_library = first_line_of("getconf", &["GNU_LIBC_VERSION"])?;
    if !accept && (&compiler, &c_library) != (&budgets.compiler, &budgets.c_library) {
        println!("SKIPPED: the budgets are of {} and {}, this is {compiler} and {c_library}", budgets.compiler, budgets.c_library);
        return Ok(());
    }
    let counter = Counter { program, packages, folder };
    let mut counts = BTreeMap::new();
    for case in CASES {
        counts.insert(case.to_owned(), counter.count(case)?);
    }
    let complaints = compare(&counts, &budgets);
    if accept {
        budgets = Budgets { compiler, c_library, instructions_per_request: counts, ..budgets };
        fs::write(&path, serde_json::to_string_pretty(&budgets)? + "\n")?;
        println!("Accepted: {}", path.display());
        return Ok(());
    }
    if complaints.is_empty() {
        println!("all {} counts are within {} % of their budgets", counts.len(), budgets.tolerance_percent);
        return Ok(());
    }
    let what = "Look at what has changed; if it has to be so: cargo xtask bench budgets --accept, and commit benches/budgets.json with the reason.";
    Err(format!("{}\n{what}", complaints.join("\n")).into())
}

/// Prints all counts beside their budgets, and answers what is wrong with them.
fn compare(counts: &BTreeMap<String, f64>, budgets: &Budgets) -> Vec<String> {
    let mut complaints = Vec::new();
    println!("{:<24}{:>10}{:>10}{:>10}  instructions for each request of 4 KiB, and its budget", "", "counted", "budget", "change");
    for (case, count) in counts {
        let budget = budgets.instructions_per_request.get(case).copied();
        let verdict = Verdict::of(*count, budget, budgets.tolerance_percent);
        let change = budget.map_or(0.0, |budget| (count / budget - 1.0) * 100.0);
        let shown = budget.map_or("-".to_owned(), |budget| format!("{budget:.1}"));
        let changed = if budget.is_some() { format!("{change:+.2} %") } else { "-".to_owned() };
        println!("{case:<24}{count:>10.1}{shown:>10}{changed:>10}  {}", verdict.word());
        let (count, budget) = (*count, budget.unwrap_or_default());
        match verdict {
            Verdict::Kept => {}
            Verdict::Grew => complaints.push(format!(
                "{case} takes {count:.1} instructions, {:.1} ({change:.2} %) more than its budget of {budget:.1}.",
                count - budget
            )),
            Verdict::Fell => complaints.push(format!(
                "{case} takes {count:.1} instructions, {:.1} ({:.2} %) less than its budget of {budget:.1}: so that it stays so, accept it.",
                budget - count,
                -change
            )),
            Verdict::New => complaints.push(format!("{case} takes {count:.1} instructions, and has no budget yet.")),
        }
    }
    let gone = budgets.instructions_per_request.keys().filter(|case| !counts.contains_key(*case));
    complaints.extend(gone.map(|case| format!("{case} has a budget, and is not counted any more.")));
    complaints
}

/// Runs the counted program under callgrind.
struct Counter<'a> {
    program: &'a Path,
    packages: Option<&'a Packages>,
    folder: &'a Path,
}

impl Counter<'_> {
    /// Instructions for each request of a case, to a tenth.
    fn count(&self, case: &str) -> Result<f64, Failure> {
        let (once, twice) = (self.run(case, REQUESTS)?, self.run(case, 2 * REQUESTS)?);
        let more = twice.checked_sub(once).ok_or_else(|| format!("{case}: twice the requests took fewer instructions"))?;
        Ok((ratio(more, REQUESTS) * 10.0).round() / 10.0)
    }

    /// Instructions of all turns that so many requests took.
    fn run(&self, case: &str, requests: u64) -> Result<u64, Failure> {
        let (profile, log) = (self.folder.join("callgrind.out"), self.folder.join("callgrind.log"));
        // What an earlier run has left is not taken for this one's.
        let _ = fs::remove_file(&profile);
        let mut command = self.valgrind();
        command.args(["--tool=callgrind", "--vgdb=no", "--collect-atstart=no"]).arg(format!("--toggle-collect={COUNTED}"));
        command.arg(format!("--callgrind-out-file={}", profile.display())).arg(self.program);
        command.args(case.split(' ')).arg(requests.to_string()).env("GLIBC_TUNABLES", TUNABLES);
        let status = command.stdin(Stdio::null()).stdout(open_log(&log)?).stderr(open_log(&log)?).status();
        let status = status.map_err(|e| format!("valgrind does not start: {e}"))?;
        if !status.success() {
            return Err(format!("{case} under callgrind failed ({status}){}", tail(&log, 8)).into());
        }
        let profile = fs::read_to_string(&profile)?;
        let total = profile.lines().find_map(|line| line.strip_prefix("totals: ")?.parse().ok());
        total.filter(|total| *total > 0).ok_or_else(|| format!("{case} under callgrind counted nothing").into())
    }

    /// The fetched valgrind, or the machine's.
    fn valgrind(&self) -> Command {
        let Some(packages) = self.packages else { return Command::new("valgrind") };
        // The program of Debian's that is named valgrind is a script that looks for this one under /usr.
        let mut command = packages.command("valgrind.bin");
        command.env("VALGRIND_LIB", packages.path("usr/libexec/valgrind"));
        command
    }
}

fn first_line_of(program: &str, arguments: &[&str]) -> Result<String, Failure> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output().map_err(|e| format!("{program} does not run: {e}"))?;
    Ok(String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned())
}

/// Where the counted program lies: beside this one.
pub(crate) fn counted(beside: &Path) -> Result<PathBuf, Failure> {
    let path = beside.join("counted");
    if path.exists() { Ok(path) } else { Err(format!("{} is missing: cargo build --release -p spinel-benches", path.display()).into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_may_differ_by_the_tolerance_on_either_side_and_no_more() {
        let verdicts = [1009.9, 1010.1, 990.1, 989.9].map(|count| Verdict::of(count, Some(1000.0), 1.0));
        assert_eq!(verdicts, [Verdict::Kept, Verdict::Grew, Verdict::Kept, Verdict::Fell]);
        assert_eq!(Verdict::of(1.0, None, 1.0), Verdict::New);
    }

    #[test]
    fn what_is_wrong_names_the_case_the_amount_and_what_is_missing() {
        let named = |pairs: &[(&str, f64)]| pairs.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
        let budgets = Budgets {
            compiler: String::new(),
            c_library: String::new(),
            tolerance_percent: 1.0,
            instructions_per_request: named(&[("grown", 100.0), ("kept", 100.0), ("fallen", 100.0), ("gone", 100.0)]),
        };
        let complaints = compare(&named(&[("grown", 102.0), ("kept", 100.5), ("fallen", 50.0), ("new", 7.0)]), &budgets);
        assert_eq!(complaints.len(), 4, "{complaints:?}");
        assert!(complaints.iter().any(|text| text.contains("grown takes 102.0 instructions, 2.0 (2.00 %) more")), "{complaints:?}");
        assert!(complaints.iter().any(|text| text.contains("fallen takes 50.0 instructions, 50.0 (50.00 %) less")), "{complaints:?}");
        assert!(complaints.iter().any(|text| text.contains("new ") && text.contains("no budget")), "{complaints:?}");
        assert!(complaints.iter().any(|text| text.contains("gone has a budget")), "{complaints:?}");
    }

    #[test]
    fn the_committed_budgets_are_of_the_cases_that_are_counted() {
        let budgets: Budgets = serde_json::from_str(include_str!("../budgets.json")).unwrap();
        let named: Vec<&str> = budgets.instructions_per_request.keys().map(String::as_str).collect();
        let mut cases = CASES;
        cases.sort_unstable();
        assert_eq!(named, cases);
    }
}
