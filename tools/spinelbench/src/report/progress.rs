//! How a run is doing, while it goes on: one line. Knows no job and no clock but the tallies' own.

use std::io::IsTerminal as _;

use indicatif::{ProgressBar, ProgressStyle};
use spinel_units::{count, time};

use super::Stretch;
use super::words::{bandwidth, tight};

/// Without a terminal there is a line this often.
const LINE_EVERY_NS: u64 = 5_000_000_000;

/// The live line of a run on standard error: rewritten in place on a terminal, now and then a new one elsewhere.
#[derive(Debug)]
pub struct Progress {
    length_ns: Option<u64>,
    bar: Option<ProgressBar>,
    next_line_ns: u64,
}

impl Progress {
    /// For a run of this length, if it is one of time.
    ///
    /// # Panics
    /// Never: the style is a constant.
    #[must_use]
    pub fn new(name: &str, length_ns: Option<u64>) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = match length_ns {
                Some(_) => "{prefix} {bar:20} {msg}",
                None => "{prefix} {spinner} {msg}",
            };
            let style = ProgressStyle::with_template(style).expect("the template is a constant").progress_chars("=> ");
            ProgressBar::new(length_ns.unwrap_or_default()).with_style(style).with_prefix(super::words::printable(name))
        });
        Self { length_ns, bar, next_line_ns: LINE_EVERY_NS }
    }

    /// Shows the latest stretch, and how many requests have failed since the start.
    #[allow(clippy::print_stderr, reason = "a program's progress belongs on standard error")]
    pub fn show(&mut self, stretch: &Stretch, errors: u64) {
        let elapsed_ns = stretch.at_ns + stretch.took_ns;
        let line = line(stretch, self.length_ns, errors);
        if let Some(bar) = &self.bar {
            bar.set_position(elapsed_ns.min(self.length_ns.unwrap_or(elapsed_ns)));
            bar.set_message(line);
        } else if elapsed_ns >= self.next_line_ns {
            self.next_line_ns = (elapsed_ns / LINE_EVERY_NS + 1) * LINE_EVERY_NS;
            eprintln!("{line}");
        }
    }

    /// Says something that is not a figure, such as that the warm-up is going on.
    pub fn say(&self, what: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(what.to_owned());
        }
    }

    /// Removes the line: what follows is the result.
    pub fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// "12 s of 30 s  54.3k IOPS  212 MiB/s  p50 66us  p99 86us  0 errors"
#[must_use]
pub fn line(stretch: &Stretch, length_ns: Option<u64>, errors: u64) -> String {
    let elapsed = seconds(stretch.at_ns + stretch.took_ns);
    let elapsed = length_ns.map_or(elapsed.clone(), |length_ns| format!("{elapsed} of {}", time(length_ns)));
    let per_s = |count: u64| if stretch.took_ns == 0 { 0.0 } else { count as f64 * 1e9 / stretch.took_ns as f64 };
    let latency = match stretch.requests {
        0 => "no request ended".to_owned(),
        _ => format!("p50 {}  p99 {}", tight(stretch.p50_ns), tight(stretch.p99_ns)),
    };
    let errors = match errors {
        1 => "1 error".to_owned(),
        errors => format!("{} errors", count(errors as f64)),
    };
    format!("{elapsed}  {} IOPS  {}  {latency}  {errors}", count(per_s(stretch.requests)), bandwidth(per_s(stretch.bytes)))
}

/// Whole seconds, so that the line stands still.
fn seconds(ns: u64) -> String {
    format!("{} s", (ns + 500_000_000) / 1_000_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND_NS: u64 = 1_000_000_000;

    fn stretch() -> Stretch {
        Stretch {
            at_ns: 11_500_000_000,
            took_ns: SECOND_NS / 2,
            requests: 27_150,
            bytes: 27_150 * 4096,
            errors: 0,
            p50_ns: 66_000,
            p99_ns: 86_400,
            p99_9_ns: 1_957_000,
            max_ns: 3_300_000,
        }
    }

    #[test]
    fn the_line_has_time_rate_latency_and_errors() {
        let text = line(&stretch(), Some(30 * SECOND_NS), 0);
        assert_eq!(text, "12 s of 30 s  54.3k IOPS  212 MiB/s  p50 66us  p99 86.4us  0 errors");
        assert!(line(&stretch(), None, 1).starts_with("12 s  ") && line(&stretch(), None, 1).ends_with("  1 error"));
    }

    #[test]
    fn a_target_that_answers_nothing_is_told_as_such() {
        let silent = Stretch { requests: 0, bytes: 0, p50_ns: 0, p99_ns: 0, ..stretch() };
        assert_eq!(line(&silent, None, 2_000), "12 s  0 IOPS  0 B/s  no request ended  2k errors");
    }
}
