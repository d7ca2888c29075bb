//! `cargo xtask`: how Spinel is built, tested and demonstrated. It knows nothing of how guests are made.
#![forbid(unsafe_code)]

mod bed;
mod bench;
mod consent;
mod demo;
mod kept;
mod project;
mod report;
mod soak;
mod steps;
mod test;

use clap::{Parser, Subcommand};
use std::error::Error;
use std::process::ExitCode;

/// Any failure of a command; it is shown with all its causes.
type Failure = Box<dyn Error>;

/// Builds, tests and demonstrates Spinel.
///
/// Guests need QEMU, a guest kernel and fio. They are fetched once as Debian packages and unpacked into the user's
/// cache folder: nothing is installed, and no root is needed.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Boot a QEMU guest on a Spinel disk, use the disk hard, and report what was seen
    Demo(demo::Options),
    /// Run everything that has to pass, and sum it up: format, lints, tests, documentation, guests
    Test(test::Options),
    /// Measure Spinel beside others on this machine, and count its instructions (--list says what there is)
    Bench(bench::Options),
    /// Do to a guest for long what `test` does to it briefly, and print what came of it: kills, moves
    #[command(subcommand)]
    Soak(soak::Soak),
    /// Talk to the guest that `demo --keep` has left running
    Console,
    /// Stop what `demo --keep` has left running
    Stop,
}

fn main() -> ExitCode {
    match Arguments::try_parse().map(|arguments| run(arguments.command)) {
        Ok(Ok(code)) => code,
        Ok(Err(failure)) => {
            eprintln!("\nerror: {}", steps::with_causes(failure.as_ref()));
            ExitCode::FAILURE
        }
        Err(usage) => usage.exit(),
    }
}

fn run(command: Command) -> Result<ExitCode, Failure> {
    steps::stop_in_order_on_signals()?;
    let project = project::Project::find()?;
    match command {
        Command::Demo(options) => demo::run(&project, &options).map(|()| ExitCode::SUCCESS),
        Command::Test(options) => test::run(&project, &options),
        Command::Bench(options) => bench::run(&project, &options).map(|()| ExitCode::SUCCESS),
        Command::Soak(soak) => soak.run(&project),
        Command::Console => kept::console(&project).map(|()| ExitCode::SUCCESS),
        Command::Stop => kept::stop(&project).map(|()| ExitCode::SUCCESS),
    }
}
