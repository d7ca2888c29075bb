//! The figures behind the page's charts, as JSON that is safe inside a script element. Knows no element of the page.

use serde_json::{Map, Value, json};

use crate::report::compare::Entry;
use crate::report::histogram::from_text;
use crate::report::words::KINDS;
use crate::report::{Latency, Outcome, Report, Run, words};

/// Points of a percentile curve for each halving of the distance to 100 %.
const TICKS: u32 = 8;

/// Runs with colours of their own; more than these, and colours come again.
const COLOURS: usize = 8;

/// The ramps of colours for the rates of a sweep.
const RAMPS: usize = 3;

/// A sweep among the reports, by the indices of its runs among all.
#[derive(Debug)]
pub(super) struct Sweep<'a> {
    pub(super) report: &'a Report,
    pub(super) first: usize,
}

/// The sweeps among the reports.
pub(super) fn sweeps(reports: &[Report]) -> Vec<Sweep<'_>> {
    let mut first = 0;
    let mut sweeps = Vec::new();
    for report in reports {
        if words::is_sweep(report) {
            sweeps.push(Sweep { report, first });
        }
        first += report.runs.len();
    }
    sweeps
}

/// The colour of a run, as CSS.
pub(super) fn colour(index: usize, sweeps: &[Sweep<'_>]) -> String {
    let of = sweeps.iter().enumerate().find(|(_, sweep)| (sweep.first..sweep.first + sweep.report.runs.len()).contains(&index));
    match of {
        // The rates of a sweep are an order, and so are their colours.
        Some((number, sweep)) => {
            let high = (index - sweep.first) * 100 / (sweep.report.runs.len() - 1);
            let ramp = number % RAMPS;
            format!("color-mix(in oklab, var(--high{ramp}) {high}%, var(--low{ramp}))")
        }
        // The first colours are the sweeps' own.
        None => {
            let swept: usize = sweeps.iter().filter(|sweep| sweep.first < index).map(|sweep| sweep.report.runs.len()).sum();
            format!("var(--c{})", (sweeps.len() + index - swept) % COLOURS)
        }
    }
}

/// Everything that the charts show.
pub(super) fn script(entries: &[Entry<'_>], sweeps: &[Sweep<'_>]) -> String {
    let runs: Vec<Value> = entries
        .iter()
        .enumerate()
        .map(|(index, entry)| {
            json!({
                "name": entry.label,
                "colour": colour(index, sweeps),
                "shown": is_shown(index, sweeps),
                "curves": curves(entry.run),
                "series": series(entry.run),
            })
        })
        .collect();
    let sweeps: Vec<Value> = sweeps.iter().enumerate().map(|(number, sweep)| curve_of_sweep(number, sweep)).collect();
    // Only these could end the element or begin a comment that hides its end.
    json!({ "runs": runs, "sweeps": sweeps }).to_string().replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026")
}

/// Of a sweep, the ends, the middle and the knee are shown at first; more would be a tangle.
fn is_shown(index: usize, sweeps: &[Sweep<'_>]) -> bool {
    let Some(sweep) = sweeps.iter().find(|sweep| (sweep.first..sweep.first + sweep.report.runs.len()).contains(&index)) else {
        return true;
    };
    let (place, last) = (index - sweep.first, sweep.report.runs.len() - 1);
    place == 0 || place == last || place == last / 2 || Some(place) == sweep.report.knee
}

/// Pairs of (nines, nanoseconds) by kind of request.
fn curves(run: &Run) -> Value {
    let mut kinds = Map::new();
    kinds.insert("all".to_owned(), curve(&run.all));
    for kind in KINDS {
        if let Some(outcome) = run.ops.get(kind) {
            kinds.insert(kind.to_owned(), curve(outcome));
        }
    }
    Value::Object(kinds)
}

/// How many nines a quantile has: 0.99 has two. That of the longest of n is that of all but half of it.
fn nines(quantile: f64, requests: u64) -> f64 {
    let rest = (1.0 - quantile).max(0.5 / requests.max(1) as f64);
    (-rest.log10()).max(0.0)
}

fn curve(outcome: &Outcome) -> Value {
    let mut points: Vec<(f64, u64)> = match from_text(&outcome.histogram) {
        Ok(latency) if !latency.is_empty() => {
            let steps = latency.iter_quantiles(TICKS);
            steps.map(|step| (nines(step.quantile_iterated_to(), latency.len()), step.value_iterated_to().min(latency.max()))).collect()
        }
        _ if outcome.requests > 0 => summary(&outcome.latency, outcome.requests),
        _ => Vec::new(),
    };
    // Where nothing changes, the ends of a level are enough.
    let levels = points.clone();
    let mut index = 0;
    points.retain(|_| {
        let is_inside =
            index > 0 && index + 1 < levels.len() && levels[index - 1].1 == levels[index].1 && levels[index].1 == levels[index + 1].1;
        index += 1;
        !is_inside
    });
    points.into_iter().map(|(nines, ns)| json!([(nines * 1e4).round() / 1e4, ns])).collect()
}

/// What is known of a run whose histogram cannot be read.
fn summary(latency: &Latency, requests: u64) -> Vec<(f64, u64)> {
    let known = [
        (0.0, latency.min_ns),
        (0.5, latency.p50_ns),
        (0.9, latency.p90_ns),
        (0.99, latency.p99_ns),
        (0.999, latency.p99_9_ns),
        (0.9999, latency.p99_99_ns),
        (1.0, latency.max_ns),
    ];
    let end = nines(1.0, requests);
    known.into_iter().map(|(quantile, ns)| (nines(quantile, requests), ns)).filter(|(nines, _)| *nines <= end).collect()
}

/// For each stretch: its middle and its length in seconds, requests, and its p50, p99, p99.9 and maximum in nanoseconds.
fn series(run: &Run) -> Value {
    let seconds = |ns: u64| (ns as f64 / 1e6).round() / 1e3;
    let one = |stretch: &crate::report::Stretch| {
        let middle = seconds(stretch.at_ns + stretch.took_ns / 2);
        json!([middle, seconds(stretch.took_ns), stretch.requests, stretch.p50_ns, stretch.p99_ns, stretch.p99_9_ns, stretch.max_ns])
    };
    run.series.iter().map(one).collect()
}

/// For each rate: requests a second, p50, p99, p99.9, and whether it fell behind what was asked.
fn curve_of_sweep(number: usize, sweep: &Sweep<'_>) -> Value {
    let point = |run: &Run| {
        let latency = &run.all.latency;
        let is_behind = words::fell_behind(run).is_some();
        json!([(run.all.iops * 10.0).round() / 10.0, latency.p50_ns, latency.p99_ns, latency.p99_9_ns, is_behind])
    };
    let points: Vec<Value> = sweep.report.runs.iter().map(point).collect();
    json!({
        "name": sweep.report.runs[0].target,
        "colour": format!("var(--c{})", number % COLOURS),
        "knee": sweep.report.knee,
        "points": points,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{compare, sample};

    fn data_of(reports: &[Report]) -> Value {
        serde_json::from_str(&script(&compare::every_run(reports), &sweeps(reports))).unwrap()
    }

    #[test]
    fn curves_rise_from_the_shortest_to_the_longest() {
        let report = sample::reads();
        let data = data_of(std::slice::from_ref(&report));
        let curve: Vec<(f64, u64)> = serde_json::from_value(data["runs"][0]["curves"]["all"].clone()).unwrap();
        assert!(curve.is_sorted_by(|a, b| a.0 <= b.0 && a.1 <= b.1));
        let latency = report.runs[0].all.latency;
        // A histogram's classes are 0.1 % wide.
        assert!(curve[0].1.abs_diff(latency.min_ns) <= latency.min_ns / 1000);
        assert_eq!(curve.last().unwrap().1, latency.max_ns);
        let median = curve.iter().find(|point| point.0 >= 0.3).unwrap().1;
        assert!(median.abs_diff(latency.p50_ns) <= latency.p50_ns / 200, "{median}");
    }

    #[test]
    fn a_damaged_histogram_leaves_the_known_percentiles() {
        let mut report = sample::reads();
        report.runs[0].all.histogram = "?".into();
        let data = data_of(std::slice::from_ref(&report));
        assert_eq!(data["runs"][0]["curves"]["all"].as_array().unwrap().len(), 7);
    }

    #[test]
    fn a_sweep_knows_its_knee_and_which_rates_fell_behind() {
        let data = data_of(&[sample::reads(), sample::sweep()]);
        assert_eq!(data["sweeps"][0]["knee"], 5);
        let behind: Vec<bool> = data["sweeps"][0]["points"].as_array().unwrap().iter().map(|point| point[4] == true).collect();
        assert_eq!(behind, [false, false, false, false, false, false, false, true]);
        let shown: Vec<bool> = data["runs"].as_array().unwrap().iter().map(|run| run["shown"] == true).collect();
        assert_eq!(shown, [true, true, false, false, true, false, true, false, true]);
    }
}
