//! `cargo xtask bench`: builds Spinel and its benchmarks, and runs them. It knows their names and no figure.

use crate::project::Project;
use crate::steps::Steps;
use crate::{Failure, bed};
use scenario::Scenario;
use std::process::Command;

// The benchmarks' own list, so that a wrong name is refused before anything is built.
#[path = "../../../benches/src/scenario.rs"]
mod scenario;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// What to measure [default: all but budgets]
    #[arg(value_enum, value_name = "SCENARIO")]
    scenarios: Vec<Scenario>,
    /// Say what can be measured, a line each
    #[arg(long)]
    list: bool,
    /// Fewer and shorter windows: within 5 minutes once everything is built
    #[arg(long)]
    quick: bool,
    /// Build RocksDB, which takes up to half an hour once, and compare s1 with it; needs g++ and libclang-dev
    #[arg(long)]
    rocksdb: bool,
    /// Of budgets: take what is counted now for the new budgets
    #[arg(long)]
    accept: bool,
    /// How long to wait, in all, for other programs to be quiet
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    patience_s: u64,
    /// Fetch what is missing without asking (as CI=true does)
    #[arg(long, short)]
    yes: bool,
}

pub(crate) fn run(project: &Project, options: &Options) -> Result<(), Failure> {
    if options.list {
        Scenario::list();
        return Ok(());
    }
    if options.accept && !options.scenarios.contains(&Scenario::Budgets) {
        return Err("--accept takes new budgets: cargo xtask bench budgets --accept".into());
    }
    bed::agree(options.yes)?;
    // Not emptied: the file that is read takes a while to write.
    let folder = project.target.join("bench");
    std::fs::create_dir_all(&folder)?;
    let mut steps = Steps::new(2);
    steps.run("fetch qemu-storage-daemon, fio and valgrind", |step| bed::packages(&folder.join("fetch.log"), step))?;
    let mut build = vec!["build", "--release", "-p", "spinel-daemon", "-p", "spinelbench", "-p", "spinel-benches"];
    if options.rocksdb {
        build.extend(["--features", "spinel-benches/rocksdb"]);
    }
    steps.run("build spineld and the benchmarks", |step| project.cargo(&build, &[], &folder.join("build.log"), step))?;
    let mut command = Command::new(project.target.join("release/spinel-benches"));
    command.arg("--folder").arg(&folder).args(options.quick.then_some("--quick")).args(options.accept.then_some("--accept"));
    command.arg("--patience-s").arg(options.patience_s.to_string());
    command.args(options.scenarios.iter().map(|scenario| scenario.name()));
    // In this program's process group: Ctrl-C reaches it, and it stops what it has started.
    let status = command.status()?;
    if status.success() { Ok(()) } else { Err(format!("the benchmarks failed ({status}); their logs are in {}", folder.display()).into()) }
}
