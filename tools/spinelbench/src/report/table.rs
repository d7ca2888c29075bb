//! Runs as text for a terminal or a log, 100 columns wide at most. Knows no figure but those of a report.

use comfy_table::{Cell, CellAlignment, Table as Grid, presets};
use spinel_units::{count, size};

use super::words::{self, KINDS, bandwidth, printable, tight, whole};
use super::{Outcome, Report, Run};

/// Columns of a line.
const WIDTH: usize = 100;

/// Whether there may be colours in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Colours {
    /// Escape sequences for a terminal.
    Ansi,
    /// Plain text.
    None,
}

impl Colours {
    fn paint(self, code: &str, text: &str) -> String {
        match self {
            Self::Ansi => format!("\u{1b}[{code}m{text}\u{1b}[0m"),
            Self::None => text.to_owned(),
        }
    }

    pub(super) fn strong(self, text: &str) -> String {
        self.paint("1", text)
    }

    pub(super) fn good(self, text: &str) -> String {
        self.paint("32", text)
    }

    pub(super) fn bad(self, text: &str) -> String {
        self.paint("31", text)
    }
}

/// All runs of a report, with a newline at the end.
#[must_use]
pub fn text(report: &Report, colours: Colours) -> String {
    let mut blocks = Vec::new();
    if words::is_sweep(report) {
        blocks.push(sweep(report, colours));
    } else {
        blocks.extend(report.runs.iter().map(|run| single(run, colours)));
    }
    blocks.join("\n")
}

/// What ran, in two lines.
fn heading(name: &str, run: &Run, job: &str, colours: Colours) -> String {
    let about = match name {
        name if name.contains(&run.target) => format!("{} in blocks of {} B", size(run.disk_bytes), run.block_bytes),
        _ => format!("{}, {} in blocks of {} B", printable(&run.target), size(run.disk_bytes), run.block_bytes),
    };
    let mut text = format!("{}: {about}\n", colours.strong(&printable(name)));
    push_wrapped(&mut text, job);
    text
}

/// Appends a text in lines of at most 100 columns, the second and later ones indented.
pub(super) fn push_wrapped(text: &mut String, words: &str) {
    let mut column = 0;
    for word in words.split(' ') {
        let width = word.chars().count();
        if column > 0 && column + 1 + width > WIDTH {
            text.push_str("\n  ");
            column = 2;
        } else if column > 0 {
            text.push(' ');
            column += 1;
        }
        text.push_str(word);
        column += width;
    }
    text.push('\n');
}

fn single(run: &Run, colours: Colours) -> String {
    let job = format!("{}; {}, {}", words::job(&run.job, run.cores.len()), words::cores(&run.cores), words::length(run));
    let mut text = heading(&run.name, run, &job, colours);
    let mut grid = grid(&["", ">IOPS", ">RATE", ">MIN", ">MEAN", ">P50", ">P90", ">P99", ">P99.9", ">P99.99", ">MAX", ">ERRORS"]);
    let sent = KINDS.iter().filter_map(|kind| run.ops.get(*kind).map(|outcome| (*kind, outcome)));
    let mut rows: Vec<(&str, &Outcome)> = sent.collect();
    if rows.len() != 1 {
        rows.push(("all", &run.all));
    }
    for (kind, outcome) in rows {
        let kind = if kind == "write_zeroes" { "zeroes" } else { kind };
        add(&mut grid, [vec![kind.to_owned()], figures(outcome), errors(outcome)].concat());
    }
    push_grid(&mut text, &grid, |_, line| line.to_owned());
    push_wrapped(&mut text, &format!("CPU per request: {}", words::processor_time(run)));
    push_remarks(&mut text, run, colours);
    if let Some(behind) = words::behind(run) {
        push_painted(&mut text, &format!("! {behind}"), |line| colours.bad(line));
    }
    text
}

fn sweep(report: &Report, colours: Colours) -> String {
    let first = &report.runs[0];
    let steps = report.runs.len();
    let job = words::job(&first.job, first.cores.len());
    // The rate is each line's own.
    let job = job.replace(&format!(" at {}/s", count(words::asked_iops(&first.job, first.cores.len()).unwrap_or_default())), "");
    let job = format!("{job}; {}, {} rates of {} each", words::cores(&first.cores), steps, words::length(first));
    let mut text = heading("sweep", first, &job, colours);
    let mut grid = grid(&[">ASKED", ">IOPS", ">RATE", ">MEAN", ">P50", ">P90", ">P99", ">P99.9", ">P99.99", ">MAX", ">ERRORS", ""]);
    for (index, run) in report.runs.iter().enumerate() {
        let asked = words::asked_iops(&run.job, run.cores.len()).map_or_else(String::new, count);
        let remark = match report.knee {
            Some(knee) if knee == index => "< knee",
            _ if words::fell_behind(run).is_some() => "behind",
            _ => "",
        };
        let mut figures = figures(&run.all);
        // The shortest latency says little about a rate, and there is no room for it.
        figures.remove(2);
        add(&mut grid, [vec![asked], figures, errors(&run.all), vec![remark.to_owned()]].concat());
    }
    let is_knee = |line: usize| line > 0 && report.knee == Some(line - 1);
    push_grid(&mut text, &grid, |index, line| if is_knee(index) { colours.good(line) } else { line.to_owned() });
    match report.knee.and_then(|knee| report.runs.get(knee)) {
        Some(knee) => {
            let (iops, p99) = (count(knee.all.iops), spinel_units::time(knee.all.latency.p99_ns));
            let above = match report.knee {
                Some(knee) if knee + 1 == report.runs.len() => "no higher rate was tried, and latency has not taken off yet",
                _ => "above it latency takes off",
            };
            text.push_str(&format!("knee: {iops} requests/s with a p99 of {p99}; {above}\n"));
            push_wrapped(&mut text, &format!("CPU per request at the knee: {}", words::processor_time(knee)));
        }
        None => text.push_str("no knee: the first of these rates is already beyond it; more --steps begin lower\n"),
    }
    for run in &report.runs {
        let mut remarks = String::new();
        push_remarks(&mut remarks, run, colours);
        if !remarks.is_empty() {
            text.push_str(&format!("at {}:\n{remarks}", printable(&run.name)));
        }
    }
    text
}

/// The lines under a table: what verification saw, and why the figures may mislead.
fn push_remarks(text: &mut String, run: &Run, colours: Colours) {
    if let Some(verified) = words::verified(run) {
        push_painted(text, &verified, |line| colours.good(line));
    }
    for warning in words::warnings(run) {
        push_painted(text, &format!("! {}", printable(&warning)), |line| colours.bad(line));
    }
}

/// Appends a text in lines of at most 100 columns, each painted.
pub(super) fn push_painted(text: &mut String, words: &str, paint: impl Fn(&str) -> String) {
    let mut lines = String::new();
    push_wrapped(&mut lines, words);
    lines.lines().for_each(|line| text.push_str(&format!("{}\n", paint(line))));
}

/// From IOPS to the longest latency.
fn figures(outcome: &Outcome) -> Vec<String> {
    // A flush has no bytes.
    let rate = if outcome.bytes == 0 { "-".to_owned() } else { bandwidth(outcome.bandwidth) };
    let mut cells = vec![count(outcome.iops), rate];
    let latency = &outcome.latency;
    if outcome.requests == 0 {
        cells.extend(std::iter::repeat_n("-".to_owned(), 8));
        return cells;
    }
    let mean_ns = whole(latency.mean_ns);
    let quantiles = [latency.p50_ns, latency.p90_ns, latency.p99_ns, latency.p99_9_ns, latency.p99_99_ns];
    cells.extend([latency.min_ns, mean_ns].into_iter().chain(quantiles).chain([latency.max_ns]).map(tight));
    cells
}

fn errors(outcome: &Outcome) -> Vec<String> {
    vec![count(outcome.errors as f64)]
}

/// A table with these headings; one that starts with `>` is of numbers and stands to the right.
pub(super) fn grid(headings: &[&str]) -> Grid {
    let mut grid = Grid::new();
    grid.load_style(presets::NOTHING);
    grid.force_no_tty();
    grid.set_header(headings.iter().map(|heading| heading.trim_start_matches('>')));
    for (index, heading) in headings.iter().enumerate() {
        let column = grid.column_mut(index).expect("the header has made it");
        column.set_padding((0, 2));
        if heading.starts_with('>') {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    grid
}

pub(super) fn add(grid: &mut Grid, cells: Vec<String>) {
    grid.add_row(cells.into_iter().map(Cell::new));
}

/// Appends a table's lines, the heading is line 0, each as it is painted.
pub(super) fn push_grid(text: &mut String, grid: &Grid, paint: impl Fn(usize, &str) -> String) {
    for (index, line) in grid.lines().enumerate() {
        text.push_str(&paint(index, line.trim_end()));
        text.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    fn plain(report: &Report) -> String {
        let text = text(report, Colours::None);
        assert!(!text.contains('\u{1b}'), "{text}");
        text
    }

    #[test]
    fn a_run_says_what_ran_and_every_figure() {
        let text = plain(&sample::reads());
        for part in [
            "randread: vhost:/run/spinel/disk0.sock, 10 GiB in blocks of 512 B",
            "read, at random, 4 KiB, depth 8, closed loop; on core 1, 30 s after 2 s of warm-up",
            "IOPS",
            "MIN",
            "MEAN",
            "P50",
            "P90",
            "P99",
            "P99.9",
            "P99.99",
            "MAX",
            "ERRORS",
            "MiB/s",
            "here (98.3 % of 1 core)",
            "in the target's process",
        ] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
    }

    #[test]
    fn no_line_is_wider_than_100_columns() {
        let mut wide = sample::mixed();
        let run = &mut wide.runs[0];
        let mut outcome = run.all.clone();
        (outcome.iops, outcome.bandwidth, outcome.errors) = (123_456.0, 1023.0 * 1_048_576.0, 123_456);
        let latency = &mut outcome.latency;
        (latency.min_ns, latency.mean_ns, latency.p50_ns, latency.p90_ns) = (12_300, 23_400.0, 12_300, 23_400);
        (latency.p99_ns, latency.p99_9_ns, latency.p99_99_ns, latency.max_ns) = (34_500, 4_560_000, 45_600_000, 56_700_000);
        run.ops.insert("write_zeroes".into(), outcome);
        for report in [wide, sample::reads(), sample::sweep()] {
            for line in plain(&report).lines() {
                assert!(line.chars().count() <= 100, "{} columns: {line}", line.chars().count());
            }
        }
    }

    #[test]
    fn columns_line_up() {
        let text = plain(&sample::mixed());
        let lines: Vec<&str> = text.lines().skip_while(|line| !line.ends_with("ERRORS")).take(5).collect();
        let ends = |line: &str, word: &str| line.find(word).map(|at| at + word.len());
        for line in &lines[1..] {
            let errors = ends(lines[0], "ERRORS").unwrap();
            assert_eq!(line.len(), errors, "{text}");
        }
        let kinds: Vec<&str> = lines[1..].iter().map(|line| line.split(' ').next().unwrap()).collect();
        assert_eq!(kinds, ["read", "write", "flush", "all"], "{text}");
    }

    #[test]
    fn a_sweep_has_a_line_for_each_rate_and_its_knee_marked() {
        let text = plain(&sample::sweep());
        let knee: Vec<&str> = text.lines().filter(|line| line.ends_with("< knee")).collect();
        assert!(matches!(knee[..], [line] if line.trim_start().starts_with("3k ")), "{text}");
        assert!(text.contains("8 rates of 10 s"), "{text}");
        assert!(text.contains("knee: 3k requests/s with a p99 of"), "{text}");
        assert!(text.lines().any(|line| line.ends_with("behind")), "{text}");
    }

    #[test]
    fn errors_wrong_data_and_an_early_end_are_never_hidden() {
        let text = plain(&sample::troubled());
        for part in [
            "! 10 of 1000 requests (1.00 %) failed by the medium",
            "10 of 1000 requests (1.00 %) given up",
            "WRONG DATA",
            "interrupted after 1 s of 30 s",
        ] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
        assert!(plain(&sample::hung()).contains("no request ended"));
    }

    #[test]
    fn colours_are_there_for_terminals_only_and_names_cannot_bring_their_own() {
        let report = sample::troubled();
        assert!(text(&report, Colours::Ansi).contains("\u{1b}[31m"));
        assert!(!text(&report, Colours::Ansi).contains("\u{1b}[2J"));
        assert!(plain(&report).contains("/tmp/?[2J"));
    }
}
