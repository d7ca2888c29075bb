//! Numbered steps, as people watch them: a moving line on a terminal, plain lines elsewhere. It knows no step's work.

use crate::Failure;
use indicatif::{ProgressBar, ProgressStyle};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use spinel_testbed::clock::Stopwatch;
use spinel_testbed::process::kill_all;
use std::error::Error;
use std::io::{self, IsTerminal};
use std::time::Duration;

/// A sequence of steps.
pub(crate) struct Steps {
    number: usize,
    count: usize,
}

/// The step that runs now.
pub(crate) struct Step {
    /// None where there is no terminal.
    bar: Option<ProgressBar>,
}

impl Steps {
    pub(crate) fn new(count: usize) -> Self {
        Self { number: 0, count }
    }

    /// Runs the next step. Its failure names the step.
    pub(crate) fn run<T>(&mut self, title: &str, work: impl FnOnce(&Step) -> Result<T, Failure>) -> Result<T, Failure> {
        self.number += 1;
        let prefix = format!("[{}/{}]", self.number, self.count);
        let (result, took) = watch(&prefix, title, work);
        let seconds = took.as_secs_f64();
        match result {
            Ok(value) => {
                println!("{prefix} {title}: {seconds:.1} s");
                Ok(value)
            }
            Err(failure) => {
                println!("{prefix} {title}: FAILED after {seconds:.1} s");
                Err(format!("step {} of {} ({title}) failed: {}", self.number, self.count, with_causes(failure.as_ref())).into())
            }
        }
    }
}

/// Shows that `work` runs, and answers what it came to and how long it took.
pub(crate) fn watch<T>(prefix: &str, title: &str, work: impl FnOnce(&Step) -> T) -> (T, Duration) {
    let watch = Stopwatch::start();
    let bar = io::stdout().is_terminal().then(|| {
        let bar = ProgressBar::new_spinner().with_prefix(format!("{prefix} {title}"));
        let style = ProgressStyle::with_template("{spinner} {prefix} {elapsed} {wide_msg:.dim}");
        bar.set_style(style.expect("the template is a constant that parses"));
        bar.enable_steady_tick(Duration::from_millis(120));
        bar
    });
    if bar.is_none() {
        println!("{prefix} {title} ...");
    }
    let step = Step { bar };
    let result = work(&step);
    if let Some(bar) = &step.bar {
        bar.finish_and_clear();
    }
    (result, watch.elapsed())
}

impl Step {
    /// Shows what is being done, on a terminal only: elsewhere it would fill the log.
    pub(crate) fn say(&self, text: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(text.to_owned());
        }
    }
}

/// An error's message followed by those of its causes.
pub(crate) fn with_causes(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        // Some messages quote their cause already.
        let message = error.to_string();
        if !text.contains(&message) {
            text = format!("{text}\n  because: {message}");
        }
        cause = error.source();
    }
    text
}

/// Makes Ctrl-C and its like end what this program has started, at which its own work fails and puts away what it has
/// set up. A second signal ends it at once.
pub(crate) fn stop_in_order_on_signals() -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    let wait = move || {
        let mut signals = signals.forever();
        signals.next();
        eprintln!("\nstopping; another signal ends this at once");
        kill_all();
        if let Some(second) = signals.next() {
            std::process::exit(128 + second);
        }
    };
    std::thread::Builder::new().name("signals".to_owned()).spawn(wait)?;
    Ok(())
}
