//! `cargo xtask test`: everything that has to pass, each part whatever became of the others, and one table at the end.

use crate::project::Project;
use crate::steps::{Step, watch, with_causes};
use crate::{Failure, bed};
use clap::ValueEnum;
use spinel_e2e::{Bench, CASES, Case};
use spinel_testbed::clock::Stopwatch;
use spinel_testbed::process::{run_watched, tail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Run only these parts
    #[arg(long, value_enum, value_name = "PART", value_delimiter = ',')]
    only: Vec<Part>,
    /// Of the guests' part, run only these cases
    #[arg(long, value_name = "CASE", value_delimiter = ',', value_parser = case_named)]
    case: Vec<Case>,
    /// Fetch what is missing without asking (as CI=true does)
    #[arg(long, short)]
    yes: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// The source is formatted
    Format,
    /// The compiler and clippy have nothing to say
    Lints,
    /// Unit and property tests of every package, and the simulator's
    Tests,
    /// The documentation builds without a warning
    Docs,
    /// Arbitrary bytes in a guest's rings and messages, and from hosts and targets of NVMe/TCP, break nothing, for two minutes
    Fuzz,
    /// A request takes no more instructions than was accepted
    Budgets,
    /// Guests see what they must on Spinel's disks
    Guests,
}

/// Naming the target keeps build scripts and macros free of the flags.
const FUZZ_TARGET: &str = "x86_64-unknown-linux-gnu";
/// What makes a program tell libFuzzer which paths an input has taken. It needs no nightly compiler.
const FUZZ_FLAGS: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares";

/// Counting takes seconds.
const BUDGETS_LIMIT: Duration = Duration::from_secs(600);

/// One line of the table at the end.
struct Row {
    name: String,
    outcome: Outcome,
    took: Duration,
    detail: String,
    /// How many things this machine could not run.
    skipped: usize,
}

/// What a part that passed has to say.
#[derive(Default)]
struct Passed {
    detail: String,
    skipped: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Passed,
    Failed,
    Skipped,
}

fn case_named(name: &str) -> Result<Case, String> {
    let names = || CASES.iter().map(|case| case.name).collect::<Vec<_>>().join(", ");
    CASES.iter().find(|case| case.name == name).copied().ok_or_else(|| format!("the cases are {}", names()))
}

pub(crate) fn run(project: &Project, options: &Options) -> Result<ExitCode, Failure> {
    let wanted = |part: &Part| options.only.is_empty() || options.only.contains(part);
    // Asked first, so that nobody has to wait for the question; a refusal fails the parts alone that need the packages.
    let agreed = if wanted(&Part::Guests) || wanted(&Part::Budgets) { bed::agree(options.yes) } else { Ok(()) };
    let agreed = agreed.map_err(|refused| refused.to_string());
    let whole = Stopwatch::start();
    let logs = project.fresh_folder("test")?;
    let parts = Part::value_variants().iter().copied().filter(wanted);
    let mut rows: Vec<Row> = parts.filter_map(|part| cargo_part(project, &logs, part)).collect();
    if wanted(&Part::Fuzz) {
        rows.push(fuzz(project, &logs));
    }
    if wanted(&Part::Budgets) {
        rows.push(budgets(project, &logs, agreed.clone()));
    }
    if wanted(&Part::Guests) {
        rows.extend(guests(project, &logs, agreed, &options.case));
    }
    summarise(&rows, whole.elapsed(), &logs);
    let failed = rows.iter().any(|row| row.outcome == Outcome::Failed);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// A part that is one call of cargo; the others are not.
fn cargo_part(project: &Project, logs: &Path, part: Part) -> Option<Row> {
    let (arguments, environment): (&[&str], &[_]) = match part {
        Part::Format => (&["fmt", "--all", "--check"], &[]),
        Part::Lints => (&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"], &[]),
        // One at a time: many tests are themselves threads that have to run side by side.
        Part::Tests => (&["test", "--workspace", "--no-fail-fast"], &[("RUST_TEST_THREADS", "1")]),
        Part::Docs => (&["doc", "--workspace", "--no-deps"], &[("RUSTDOCFLAGS", "-D warnings")]),
        Part::Fuzz | Part::Budgets | Part::Guests => return None,
    };
    let name = part.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
    let log = logs.join(format!("{name}.log"));
    Some(row(&name, |step| match project.cargo(arguments, environment, &log, step) {
        Ok(()) if part == Part::Tests => Ok(Passed { detail: count_tests(&log), skipped: 0 }),
        Ok(()) => Ok(Passed::default()),
        Err(failure) => Err(format!("{}{}", with_causes(failure.as_ref()), failed_tests(&log)).into()),
    }))
}

/// Runs one line's work, shows it, and says at once what failed.
fn row(name: &str, work: impl FnOnce(&Step) -> Result<Passed, Failure>) -> Row {
    let (result, took) = watch("test", name, work);
    let (outcome, Passed { detail, skipped }) = match result {
        Ok(passed) => (Outcome::Passed, passed),
        Err(failure) => {
            eprintln!("test {name}: {}", with_causes(failure.as_ref()));
            (Outcome::Failed, Passed { detail: "see above".to_owned(), skipped: 0 })
        }
    };
    println!("test {name}: {} in {:.1} s", outcome.word(), took.as_secs_f64());
    Row { name: name.to_owned(), outcome, took, detail, skipped }
}

/// How many tests the lines "test result: ok. 12 passed; ..." add up to.
fn count_tests(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let passed = |line: &str| line.strip_prefix("test result: ok. ")?.split(' ').next()?.parse::<u32>().ok();
    format!("{} tests", text.lines().filter_map(passed).sum::<u32>())
}

/// The lines "test some::name ... FAILED", wherever in the log they are.
fn failed_tests(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let failed = text.lines().filter(|line| line.starts_with("test ") && line.ends_with(" FAILED"));
    failed.map(|line| format!("\n  {line}")).collect()
}

/// A package of fuzz targets.
struct Fuzzed {
    folder: &'static str,
    /// How long arbitrary bytes are tried with each of them.
    seconds: u64,
    /// Them with the folders of their seeds.
    targets: [(&'static str, &'static str); 3],
}

/// Of guests: the queue by the kind of its ring, and whole sessions. Of NVMe/TCP: PDUs, and whole sessions of either side.
const FUZZED: [Fuzzed; 2] = [
    Fuzzed { folder: "vhost/fuzz", seconds: 30, targets: [("queue", "seeds"), ("packed", "seeds_packed"), ("session", "seeds_session")] },
    Fuzzed {
        folder: "engine/nvmf/fuzz",
        seconds: 10,
        targets: [("pdu", "seeds_pdu"), ("target_session", "seeds_target"), ("initiator_session", "seeds_initiator")],
    },
];

/// The fuzz targets, each from its seeds, for a short while.
fn fuzz(project: &Project, logs: &Path) -> Row {
    let name = "fuzz";
    if !Command::new("c++").arg("--version").output().is_ok_and(|output| output.status.success()) {
        let detail = "the fuzzer's runtime needs a C++ compiler: apt-get install g++".to_owned();
        println!("test {name}: SKIPPED, {detail}");
        return Row { name: name.to_owned(), outcome: Outcome::Skipped, took: Duration::ZERO, detail, skipped: 1 };
    }
    row(name, |step| {
        let mut detail = Vec::new();
        for fuzzed in &FUZZED {
            detail.extend(fuzz_package(project, logs, fuzzed, step)?);
        }
        Ok(Passed { detail: detail.join("; "), skipped: 0 })
    })
}

/// Builds one package's fuzz targets and tries them, one after the other.
fn fuzz_package(project: &Project, logs: &Path, fuzzed: &Fuzzed, step: &Step) -> Result<Vec<String>, Failure> {
    let folder = project.target.join("fuzz");
    let manifest = format!("{}/Cargo.toml", fuzzed.folder);
    let build = ["build", "--release", "--locked", "--manifest-path", &manifest, "--target", FUZZ_TARGET];
    let folder_name = folder.display().to_string();
    let environment = [("CARGO_TARGET_DIR", folder_name.as_str()), ("RUSTFLAGS", FUZZ_FLAGS)];
    project.cargo(&build, &environment, &logs.join("fuzz.log"), step)?;
    let mut detail = Vec::new();
    for (target, seeds) in fuzzed.targets {
        let log = logs.join(format!("fuzz-{target}.log"));
        let found = project.fresh_folder(&format!("fuzz/found-{target}"))?;
        let mut command = Command::new(folder.join(FUZZ_TARGET).join("release").join(target));
        command.arg(&found).arg(project.root.join(fuzzed.folder).join(seeds));
        command.arg(format!("-max_total_time={}", fuzzed.seconds)).arg(format!("-artifact_prefix={}/", logs.display()));
        let limit = Duration::from_secs(60 + 3 * fuzzed.seconds);
        run_watched("the fuzz target", &mut command, &log, limit, &mut || step.say(tail(&log, 1).trim()))?;
        detail.push(format!("{target}: {}", tail(&log, 1).trim()));
    }
    Ok(detail)
}

/// The instructions that requests take, counted in the optimised program.
fn budgets(project: &Project, logs: &Path, agreed: Result<(), String>) -> Row {
    row("budgets", |step| {
        agreed?;
        bed::packages(&logs.join("fetch.log"), step)?;
        let log = logs.join("budgets.log");
        project.cargo(&["build", "--release", "-p", "spinel-benches"], &[], &logs.join("budgets-build.log"), step)?;
        let mut command = Command::new(project.target.join("release/spinel-benches"));
        command.arg("--folder").arg(logs).arg("budgets");
        run_watched("the count of instructions", &mut command, &log, BUDGETS_LIMIT, &mut || step.say(tail(&log, 1).trim()))?;
        let detail = tail(&log, 1).trim().to_owned();
        Ok(Passed { skipped: usize::from(detail.starts_with("SKIPPED")), detail })
    })
}

/// The guest tests, one row a case.
fn guests(project: &Project, logs: &Path, agreed: Result<(), String>, chosen: &[Case]) -> Vec<Row> {
    let mut bench = None;
    let ready = row("guests' testbed", |step| {
        agreed?;
        let (of, sockets) = bed::bench(project, logs, step)?;
        let detail = format!("under {}", of.maker.accelerator);
        bench = Some((of, sockets));
        Ok(Passed { detail, skipped: 0 })
    });
    let mut rows = vec![ready];
    if let Some((bench, _sockets)) = &bench {
        let chosen = if chosen.is_empty() { CASES } else { chosen };
        rows.extend(chosen.iter().map(|case| row(&format!("guest {}", case.name), |_| run_case(case, bench))));
        // A gigabyte of disks serves nobody any more, unless somebody has to find out what went wrong.
        if rows.iter().all(|row| row.outcome != Outcome::Failed) {
            let _ = fs::remove_dir_all(&bench.disks);
        }
    }
    rows
}

fn run_case(case: &Case, bench: &Bench) -> Result<Passed, Failure> {
    let (findings, again) = case.run(bench)?;
    for reason in &findings.skipped {
        println!("test guest {}: SKIPPED {reason}", case.name);
    }
    for line in &findings.figures {
        println!("  {line}");
    }
    let broken: Vec<&str> = findings.claims.iter().filter(|claim| !claim.held).map(|claim| claim.text.as_str()).collect();
    if !broken.is_empty() {
        let logs = bench.logs.join(format!("{}*", case.name));
        return Err(format!("these claims do not hold; the logs are {}\n  {}", logs.display(), broken.join("\n  ")).into());
    }
    let skipped = findings.skipped.len();
    let not_run = if skipped > 0 { format!(", {skipped} SKIPPED") } else { String::new() };
    let again = if again { ", run twice: the emulator had panicked" } else { "" };
    Ok(Passed { detail: format!("{} claims{not_run}{again}; {}", findings.claims.len(), case.shows), skipped })
}

impl Outcome {
    fn word(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "FAILED",
            Self::Skipped => "SKIPPED",
        }
    }
}

fn summarise(rows: &[Row], took: Duration, logs: &Path) {
    println!("\n{:<18}{:<8}{:>9}", "", "result", "time");
    for row in rows {
        println!("{:<18}{:<8}{:>7.1} s  {}", row.name, row.outcome.word(), row.took.as_secs_f64(), row.detail);
    }
    let failed = rows.iter().filter(|row| row.outcome == Outcome::Failed).count();
    let skipped: usize = rows.iter().map(|row| row.skipped).sum();
    let verdict = match (failed, skipped) {
        (0, 0) => "everything passed".to_owned(),
        (0, _) => format!("everything this machine could run passed, {skipped} SKIPPED"),
        _ => format!("{failed} FAILED"),
    };
    println!("\n{verdict}, {:.0} s; logs: {}", took.as_secs_f64(), PathBuf::from(logs).display());
}
