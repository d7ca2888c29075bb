//! Asking before anything is fetched. It knows nothing of what is fetched but what it is told.

use crate::Failure;
use std::io::{self, IsTerminal, Write};

/// Whether the user has agreed beforehand: by `--yes`, or because nobody watches a CI machine.
pub(crate) fn given(yes: bool) -> bool {
    yes || std::env::var_os("CI").is_some_and(|value| value == "true")
}

/// Asks on the terminal. Without one, or on any other answer than yes, this is a failure that says what to type.
pub(crate) fn ask(question: &str) -> Result<(), Failure> {
    if !io::stdin().is_terminal() {
        return Err(format!("{question}\nThere is no terminal to ask on: add --yes, or set CI=true.").into());
    }
    print!("{question} [y/N] ");
    io::stdout().flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    match answer.trim().to_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err("nothing was fetched".into()),
    }
}
