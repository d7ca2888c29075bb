//! Two or more runs side by side; the first is what the others are measured against. Knows no figure but those of reports.

use std::collections::BTreeMap;

use spinel_units::{count, time};

use super::table::{Colours, add, grid, push_grid, push_painted, push_wrapped};
use super::words::{self, KINDS, bandwidth, printable, whole};
use super::{Latency, Outcome, Report, Run};

/// Ratios this near to 1 are no difference: runs of the same thing differ by as much.
const SAME_WITHIN: f64 = 0.02;

/// How many others fit beside the base in 100 columns.
const OTHERS_MAX: usize = 3;

/// One run of the comparison.
#[derive(Clone, Debug)]
pub struct Entry<'a> {
    /// What it is called; unique in the comparison.
    pub label: String,
    /// Where it ran.
    pub report: &'a Report,
    /// The run.
    pub run: &'a Run,
}

/// What a ratio means for whoever waits for the disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// By more than two in a hundred.
    Better,
    /// By more than two in a hundred.
    Worse,
    /// Neither.
    Same,
}

impl Verdict {
    /// In a word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Better => "better",
            Self::Worse => "worse",
            Self::Same => "same",
        }
    }
}

/// A figure of one run.
#[derive(Clone, PartialEq, Debug)]
pub struct Figure {
    /// With its unit.
    pub text: String,
    /// Against the base, where both have it.
    pub ratio: Option<f64>,
    /// What that means. From nothing to something there is no ratio, but a verdict.
    pub verdict: Option<Verdict>,
}

impl Figure {
    /// "1.43x better", "worse", or nothing for the base itself.
    #[must_use]
    pub fn against_base(&self) -> String {
        let ratio = self.ratio.map(|ratio| if ratio < 99.5 { format!("{ratio:.2}x") } else { format!("{}x", count(ratio)) });
        let word = self.verdict.map(|verdict| verdict.word().to_owned());
        ratio.into_iter().chain(word).collect::<Vec<_>>().join(" ")
    }
}

/// A figure of every run.
#[derive(Clone, PartialEq, Debug)]
pub struct Row {
    /// "all", or the kind of request.
    pub kind: &'static str,
    /// What is compared: "IOPS", "p99".
    pub what: &'static str,
    /// By run; none where a run does not have it.
    pub figures: Vec<Option<Figure>>,
}

/// The runs of some reports; of a sweep, only the one at its knee, or else the last.
#[must_use]
pub fn entries(reports: &[Report]) -> Vec<Entry<'_>> {
    let mut entries = Vec::new();
    for report in reports {
        if words::is_sweep(report) {
            let index = report.knee.unwrap_or(report.runs.len() - 1);
            let at = if report.knee.is_some() { "knee" } else { "last rate" };
            let run = &report.runs[index.min(report.runs.len() - 1)];
            entries.push(Entry { label: format!("{}, {at}", run.name), report, run });
        } else {
            entries.extend(report.runs.iter().map(|run| Entry { label: run.name.clone(), report, run }));
        }
    }
    unique(entries)
}

/// Every run of some reports.
#[must_use]
pub fn every_run(reports: &[Report]) -> Vec<Entry<'_>> {
    unique(reports.iter().flat_map(|report| report.runs.iter().map(move |run| Entry { label: run.name.clone(), report, run })).collect())
}

/// With a number behind every name that was there before.
fn unique(mut entries: Vec<Entry<'_>>) -> Vec<Entry<'_>> {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for entry in &mut entries {
        let times = seen.entry(entry.label.clone()).or_default();
        *times += 1;
        if *times > 1 {
            entry.label = format!("{} ({times})", entry.label);
        }
    }
    entries
}

/// All that can be compared.
#[must_use]
pub fn rows(entries: &[Entry<'_>]) -> Vec<Row> {
    // What only one run did is not compared with anything.
    let runs_with = |kind: &str| entries.iter().filter(|entry| entry.run.ops.contains_key(kind)).count();
    let is_mixed = entries.iter().any(|entry| entry.run.ops.len() > 1);
    let kinds = KINDS.into_iter().filter(|kind| runs_with(kind) > 1);
    let mut rows = outcome_rows("all", entries, |run| Some(&run.all));
    rows.extend(processor_rows(entries));
    if is_mixed {
        rows.extend(kinds.flat_map(|kind| outcome_rows(kind, entries, move |run| run.ops.get(kind))));
    }
    rows
}

/// Why figures may not be comparable: what of each other run is not as in the base.
#[must_use]
pub fn differences(entries: &[Entry<'_>]) -> Vec<String> {
    type Fact = fn(&Entry<'_>) -> String;
    let Some((base, others)) = entries.split_first() else { return Vec::new() };
    let facts: [(&str, Fact); 3] = [
        ("the job", |entry| words::job(&entry.run.job, entry.run.cores.len())),
        ("the number of cores", |entry| entry.run.cores.len().to_string()),
        ("the machine", |entry| words::machine(&entry.report.machine)),
    ];
    let mut differences = Vec::new();
    for (what, fact) in facts {
        // Those that differ from the base in the same way are told in one sentence.
        let mut values: Vec<(String, Vec<&str>)> = Vec::new();
        for other in others.iter().filter(|other| fact(other) != fact(base)) {
            match values.iter_mut().find(|(value, _)| *value == fact(other)) {
                Some((_, labels)) => labels.push(&other.label),
                None => values.push((fact(other), vec![&other.label])),
            }
        }
        let sentence =
            |(value, labels): (String, Vec<&str>)| format!("{}: {what} is \"{value}\", the base's \"{}\"", labels.join("; "), fact(base));
        differences.extend(values.into_iter().map(sentence));
    }
    differences
}

/// Which way is good.
#[derive(Clone, Copy)]
enum Good {
    High,
    Low,
}

/// A row of numbers, each shown by a function.
fn row(kind: &'static str, what: &'static str, good: Good, values: &[Option<f64>], show: impl Fn(f64) -> String) -> Row {
    let base = values.first().copied().flatten();
    let figure = |(index, value): (usize, &Option<f64>)| {
        let value = (*value)?;
        let base = base.filter(|_| index > 0);
        let ratio = base.filter(|base| *base > 0.0).map(|base| value / base);
        let verdict = base.map(|base| match ratio {
            Some(ratio) => verdict(ratio, good),
            None if value == base => Verdict::Same,
            None => verdict(f64::INFINITY, good),
        });
        Some(Figure { text: show(value), ratio, verdict })
    };
    Row { kind, what, figures: values.iter().enumerate().map(figure).collect() }
}

fn verdict(ratio: f64, good: Good) -> Verdict {
    match (ratio - 1.0, good) {
        (distance, _) if distance.abs() <= SAME_WITHIN => Verdict::Same,
        (distance, Good::High) if distance > 0.0 => Verdict::Better,
        (distance, Good::Low) if distance < 0.0 => Verdict::Better,
        _ => Verdict::Worse,
    }
}

fn outcome_rows<'a>(kind: &'static str, entries: &[Entry<'a>], outcome: impl Fn(&'a Run) -> Option<&'a Outcome>) -> Vec<Row> {
    let values =
        |value: &dyn Fn(&Outcome) -> f64| -> Vec<Option<f64>> { entries.iter().map(|entry| outcome(entry.run).map(value)).collect() };
    let latency = |what, value: fn(&Latency) -> f64| {
        let of = |outcome: &Outcome| value(&outcome.latency);
        // What did not happen took no time.
        let values: Vec<Option<f64>> =
            entries.iter().map(|entry| outcome(entry.run).filter(|outcome| outcome.requests > 0).map(of)).collect();
        row(kind, what, Good::Low, &values, |ns| time(whole(ns)))
    };
    vec![
        row(kind, "IOPS", Good::High, &values(&|outcome| outcome.iops), count),
        row(kind, "bandwidth", Good::High, &values(&|outcome| outcome.bandwidth), bandwidth),
        latency("min", |latency| latency.min_ns as f64),
        latency("mean", |latency| latency.mean_ns),
        latency("p50", |latency| latency.p50_ns as f64),
        latency("p90", |latency| latency.p90_ns as f64),
        latency("p99", |latency| latency.p99_ns as f64),
        latency("p99.9", |latency| latency.p99_9_ns as f64),
        latency("p99.99", |latency| latency.p99_99_ns as f64),
        latency("max", |latency| latency.max_ns as f64),
        row(kind, "errors", Good::Low, &values(&|outcome| outcome.errors as f64), count),
    ]
}

/// Processor time for each request, of both sides.
fn processor_rows(entries: &[Entry<'_>]) -> [Row; 2] {
    let per_request = |run: &Run, ns: u64| (run.all.requests > 0).then(|| ns as f64 / run.all.requests as f64);
    let client: Vec<Option<f64>> = entries.iter().map(|entry| per_request(entry.run, entry.run.client_cpu_ns)).collect();
    let server = |entry: &Entry<'_>| entry.run.server_cpu_ns.and_then(|ns| per_request(entry.run, ns));
    let server: Vec<Option<f64>> = entries.iter().map(server).collect();
    let show = |ns: f64| time(whole(ns));
    [row("all", "CPU here", Good::Low, &client, show), row("all", "CPU target", Good::Low, &server, show)]
}

/// The comparison for a terminal, with a newline at the end.
#[must_use]
pub fn text(reports: &[Report], colours: Colours) -> String {
    let entries = entries(reports);
    let rows = rows(&entries);
    let mut text = String::new();
    let Some(base) = entries.first() else { return "there is nothing to compare\n".to_owned() };
    text.push_str(&format!("base  {}  {}\n", colours.strong(&printable(&base.label)), printable(&base.run.target)));
    for (number, entry) in entries.iter().enumerate().skip(1) {
        text.push_str(&format!("  #{number}  {}  {}\n", colours.strong(&printable(&entry.label)), printable(&entry.run.target)));
    }
    push_wrapped(&mut text, &format!("{}; {}", words::job(&base.run.job, base.run.cores.len()), words::length(base.run)));
    let others: Vec<usize> = (1..entries.len()).collect();
    let blocks = if others.is_empty() { vec![&others[..]] } else { others.chunks(OTHERS_MAX).collect() };
    for shown in blocks {
        text.push('\n');
        push_block(&mut text, &rows, shown, colours);
    }
    for difference in differences(&entries) {
        push_painted(&mut text, &format!("! not the same: {}", printable(&difference)), |line| colours.bad(line));
    }
    for entry in &entries {
        for warning in words::warnings(entry.run).into_iter().chain(words::behind(entry.run)) {
            push_painted(&mut text, &printable(&format!("! {}: {warning}", entry.label)), |line| colours.bad(line));
        }
    }
    text
}

/// The base and some others in one table.
fn push_block(text: &mut String, rows: &[Row], shown: &[usize], colours: Colours) {
    let mut headings = vec![String::new(), ">base".to_owned()];
    for number in shown {
        headings.extend([format!(">#{number}"), "to base".to_owned()]);
    }
    let mut grid = grid(&headings.iter().map(String::as_str).collect::<Vec<_>>());
    let mut kind = "all";
    for row in rows {
        if row.kind != kind {
            kind = row.kind;
            add(&mut grid, vec![kind.replace('_', " ")]);
        }
        let value = |index: usize| row.figures[index].as_ref().map_or("-".to_owned(), |figure| figure.text.clone());
        let mut cells = vec![format!("{}{}", if kind == "all" { "" } else { "  " }, row.what), value(0)];
        for &number in shown {
            cells.extend([value(number), row.figures[number].as_ref().map_or_else(String::new, Figure::against_base)]);
        }
        add(&mut grid, cells);
    }
    push_grid(text, &grid, |index, line| if index == 0 { line.to_owned() } else { paint_words(line, colours) });
}

fn paint_words(line: &str, colours: Colours) -> String {
    line.replace("better", &colours.good("better")).replace("worse", &colours.bad("worse"))
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    #[test]
    fn more_requests_are_better_and_more_time_is_worse() {
        let report = sample::three();
        let reports = [report];
        let entries = entries(&reports);
        let rows = rows(&entries);
        let of = |what: &str| rows.iter().find(|row| row.what == what && row.kind == "all").unwrap();
        let verdicts = |what: &str| of(what).figures[1].as_ref().unwrap().verdict.unwrap();
        assert_eq!((verdicts("IOPS"), verdicts("p50"), verdicts("CPU target")), (Verdict::Better, Verdict::Better, Verdict::Better));
        assert!(of("IOPS").figures[0].as_ref().unwrap().ratio.is_none(), "the base is not compared with itself");
        // The third run's other side is not known.
        assert_eq!(of("CPU target").figures[2], None);
        assert_eq!(verdict(1.019, Good::High), Verdict::Same);
        assert_eq!(verdict(0.97, Good::High), Verdict::Worse);
        assert_eq!(verdict(1.03, Good::Low), Verdict::Worse);
    }

    #[test]
    fn the_table_says_better_and_worse_in_words_and_fits_100_columns() {
        let mut reports = vec![sample::three(), sample::three()];
        reports.remove(1).runs.truncate(1);
        let mut slow = sample::three();
        slow.runs.truncate(1);
        slow.runs[0].all.iops /= 3.0;
        reports.push(slow);
        let text = text(&reports, Colours::None);
        assert!(text.contains("better") && text.contains("worse") && !text.contains('\u{1b}'), "{text}");
        assert!(text.contains("#3  qemu-storage-daemon (2)"), "{text}");
        let widest = text.lines().map(|line| line.chars().count()).max().unwrap();
        assert!(widest <= 100, "{widest} columns in\n{text}");
    }

    #[test]
    fn errors_where_the_base_has_none_are_worse() {
        let mut failing = sample::reads();
        failing.runs[0].all.errors = 3;
        let reports = [sample::reads(), failing];
        let rows = rows(&entries(&reports));
        let errors = rows.iter().find(|row| row.what == "errors").unwrap();
        assert_eq!(errors.figures[1].as_ref().unwrap().against_base(), "worse");
    }

    #[test]
    fn many_runs_are_told_in_blocks_and_none_is_left_out() {
        let reports: Vec<Report> = (0..2).map(|_| sample::three()).collect();
        let text = text(&reports, Colours::None);
        for number in 1..6 {
            assert_eq!(text.matches(&format!("#{number}")).count(), 2, "{text}");
        }
    }

    #[test]
    fn another_job_or_machine_is_pointed_out() {
        let mut other = sample::reads();
        other.runs[0].job.depth = 64;
        other.machine.host = "stratus".into();
        let text = text(&[sample::reads(), other], Colours::None);
        let text = text.replace("\n  ", " ");
        assert!(text.contains("not the same: randread (2): the job is") && text.contains("stratus"), "{text}");
    }

    #[test]
    fn kinds_that_two_runs_share_are_compared_and_a_sweep_at_its_knee() {
        let reports = [sample::mixed(), sample::reads()];
        let entries_of_both = entries(&reports);
        let kinds: Vec<&str> = rows(&entries_of_both).iter().filter(|row| row.what == "p99").map(|row| row.kind).collect();
        assert_eq!(kinds, ["all", "read"]);
        let sweeps = [sample::sweep()];
        let labels: Vec<String> = entries(&sweeps).into_iter().map(|entry| entry.label).collect();
        assert_eq!(labels, ["3000/s, knee"]);
    }
}
