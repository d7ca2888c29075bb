//! spinelctl, the command-line control of spineld. It refuses to know how disks work: it turns
//! verbs into calls, and replies into tables.
#![forbid(unsafe_code)]

mod cli;
mod daemon;
mod failure;
mod pause;
mod reply;
mod table;
mod top;
mod verbs;

use clap::Parser as _;
use cli::Cli;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match verbs::run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if let Some(message) = failure.message() {
                eprintln!("spinelctl: {}", table::printable(&message));
            }
            failure.exit_code()
        }
    }
}
