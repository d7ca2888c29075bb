//! `cargo xtask bench`: builds Spinel and its benchmarks, and runs them. It knows no figure and no part of them.

use crate::project::Project;
use crate::steps::Steps;
use crate::{Failure, bed};
use std::process::Command;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// What to measure: reads, wakeups, idle, attach [default: all of them]
    #[arg(value_name = "PART")]
    parts: Vec<String>,
    /// Fewer and shorter windows: within 5 minutes once everything is built
    #[arg(long)]
    quick: bool,
    /// Fetch what is missing without asking (as CI=true does)
    #[arg(long, short)]
    yes: bool,
}

pub(crate) fn run(project: &Project, options: &Options) -> Result<(), Failure> {
    bed::agree(options.yes)?;
    // Not emptied: the file that is read takes a while to write.
    let folder = project.target.join("bench");
    std::fs::create_dir_all(&folder)?;
    let mut steps = Steps::new(2);
    steps.run("fetch qemu-storage-daemon and fio", |step| bed::packages(&folder.join("fetch.log"), step))?;
    let build = ["build", "--release", "-p", "spinel-daemon", "-p", "spinel-benches"];
    steps.run("build spineld and the benchmarks", |step| project.cargo(&build, &[], &folder.join("build.log"), step))?;
    let mut command = Command::new(project.target.join("release/spinel-benches"));
    command.arg("--folder").arg(&folder).args(options.quick.then_some("--quick")).args(&options.parts);
    // In this program's process group: Ctrl-C reaches it, and it stops what it has started.
    let status = command.status()?;
    if status.success() { Ok(()) } else { Err(format!("the benchmarks failed ({status}); their logs are in {}", folder.display()).into()) }
}
