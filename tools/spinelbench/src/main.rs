//! spinelbench: measures the latency of disks, and whether they keep what is written. It refuses to know how a disk works.
#![forbid(unsafe_code)]

mod cli;
mod compare;
mod create;
mod crew;
mod fabric;
mod failure;
mod guard;
mod knee;
mod machine;
mod measure;
mod outputs;
mod parse;
mod plan;
mod reader;
mod remote;
mod run;
mod selftest;
mod target;
mod tokio;
mod url;
mod verify;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};
use cli::{Cli, Verb};
use failure::Failure;

fn main() -> ExitCode {
    let Cli { verb } = Cli::parse();
    let outcome = match &verb {
        Verb::Run(run) => run::run(run),
        Verb::Sweep(sweep) => run::sweep(sweep),
        Verb::Verify(verify) => verify::run(verify),
        Verb::Compare(compare) => compare::run(compare),
        Verb::Selftest(selftest) => selftest::run(selftest),
        Verb::Completion { shell } => completion(*shell),
        Verb::Man { verb } => manual(verb.as_deref()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if let Some(message) = failure.message() {
                eprintln!("spinelbench: {}", spinelbench::report::words::printable(message));
            }
            failure.exit_code()
        }
    }
}

fn completion(shell: clap_complete::Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "spinelbench", &mut script);
    outputs::put(std::path::Path::new("-"), &script)
}

fn manual(verb: Option<&str>) -> Result<(), Failure> {
    let mut command = Cli::command();
    command.build();
    if let Some(verb) = verb {
        let found = command.find_subcommand(verb).cloned();
        command = found.ok_or_else(|| Failure::usage(format!("there is no verb '{verb}'; spinelbench --help lists those there are")))?;
    }
    let mut page = Vec::new();
    let rendered = clap_mangen::Man::new(command).render(&mut page);
    rendered.map_err(|error| Failure::Local(format!("cannot write the manual: {error}")))?;
    outputs::put(std::path::Path::new("-"), &page)
}
