//! Tables for people: windows by placement with medians and spreads, and what was found in all. Knows nobody who took part.

use serde::Serialize;

use crate::claims::Finding;
use crate::contest::Window;
use crate::cores::{self, Placement, quotient, ratio};
use crate::micros;
use crate::servers::{Place, SPIN_US};

/// The middle of some figures, and their lowest and highest.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Spread {
    pub(crate) low: f64,
    pub(crate) median: f64,
    pub(crate) high: f64,
}

impl Spread {
    /// Of at least one figure.
    pub(crate) fn of(figures: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = figures.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let (low, high) = (*sorted.first()?, *sorted.last()?);
        Some(Self { low, median: f64::midpoint(sorted[(sorted.len() - 1) / 2], sorted[sorted.len() / 2]), high })
    }
}

/// What one entrant's windows of one work come to, in one placement: medians, and the spread of the rate.
#[derive(Clone, Debug)]
pub(crate) struct Cell {
    pub(crate) work: &'static str,
    pub(crate) device: &'static str,
    pub(crate) entrant: &'static str,
    pub(crate) windows: usize,
    pub(crate) per_second: Spread,
    pub(crate) mib_per_second: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) p99_9_us: f64,
    pub(crate) cpu_ns: f64,
    pub(crate) busy_ns: Option<f64>,
    pub(crate) errors: u64,
    /// The first entrant's rate on the same device to this one's, from windows of the same round, and how many those are.
    pub(crate) first_to_this: Option<(Spread, usize)>,
}

/// The cells of some of the windows of one scenario: works in turn, within one the entrants as they took their turns in `all`.
pub(crate) fn cells(all: &[Window], windows: &[&Window]) -> Vec<Cell> {
    let key = |window: &Window| (window.work, window.device, window.entrant);
    let mut keys = Vec::new();
    for window in all {
        if !keys.contains(&key(window)) {
            keys.push(key(window));
        }
    }
    let of = |wanted| windows.iter().copied().filter(|window| key(window) == wanted).collect::<Vec<_>>();
    let groups: Vec<Vec<&Window>> = keys.into_iter().map(of).collect();
    let beside = |group: &[&Window]| {
        let one = group.first()?;
        let first = all.iter().find(|window| (window.work, window.device) == (one.work, one.device))?;
        let ours = groups.iter().find(|ours| ours.first().is_some_and(|window| key(window) == key(first)))?;
        let pair = |theirs: &&Window| Some(quotient(ours.iter().find(|ours| ours.round == theirs.round)?.per_second, theirs.per_second));
        let ratios: Vec<f64> = group.iter().filter_map(pair).filter(|_| key(first) != key(one)).collect();
        let pairs = ratios.len();
        Spread::of(ratios).map(|spread| (spread, pairs))
    };
    groups.iter().filter_map(|group| cell(group, beside(group))).collect()
}

fn cell(group: &[&Window], first_to_this: Option<(Spread, usize)>) -> Option<Cell> {
    let of = |figure: fn(&Window) -> f64| Spread::of(group.iter().map(|window| figure(window)));
    let median = |figure| of(figure).map_or(0.0, |spread| spread.median);
    let one = group.first()?;
    Some(Cell {
        work: one.work,
        device: one.device,
        entrant: one.entrant,
        windows: group.len(),
        per_second: of(|window| window.per_second)?,
        mib_per_second: median(|window| window.mib_per_second),
        p50_us: median(|window| micros(window.latency.p50_ns)),
        p99_us: median(|window| micros(window.latency.p99_ns)),
        p99_9_us: median(|window| micros(window.latency.p99_9_ns)),
        cpu_ns: median(|window| window.cpu_ns),
        busy_ns: Spread::of(group.iter().filter_map(|window| window.busy_ns)).map(|busy| busy.median),
        errors: group.iter().map(|window| window.errors).sum(),
        first_to_this,
    })
}

/// Prints a table for each placement that was met.
pub(crate) fn print(place: &Place, windows: &[Window]) {
    let cores = place.cores;
    println!("Servers on core {}, clients on core {}; fio is both in one, on the client's.", cores.engine, cores.client);
    println!("spineld adaptive, spins up to {SPIN_US} us. Medians of windows, with the lowest and highest rate.");
    let errors: u64 = windows.iter().map(|window| window.errors).sum();
    println!("{errors} requests failed.");
    let usable = cores::usable(windows, |window| &window.around);
    for placement in [Placement::Near, Placement::Far] {
        let there = cores::in_placement(&usable, placement, |window| &window.around);
        if let Some(probes) = Spread::of(there.iter().flat_map(|window| window.around.round_trip_ns).map(|ns| ratio(ns, 1))) {
            println!("\n{placement:?} cores: a cache line there and back takes {} ns ({}-{})", probes.median, probes.low, probes.high);
            print_cells(&cells(windows, &there));
        }
    }
}

fn print_cells(cells: &[Cell]) {
    println!(
        "{:<32}{:<8}{:<20}{:>3}{:>10}{:>18}{:>9}{:>10}{:>10}{:>10}{:>10}{:>9}  first of its disk to this",
        "work", "disk", "who", "n", "k/s", "(low-high)", "MiB/s", "p50 us", "p99 us", "p99.9 us", "CPU ns/IO", "busy ns"
    );
    for cell in cells {
        let rate = cell.per_second;
        println!(
            "{:<32}{:<8}{:<20}{:>3}{:>10.1}{:>18}{:>9.0}{:>10.2}{:>10.2}{:>10.1}{:>10.0}{:>9}  {}",
            cell.work,
            cell.device,
            cell.entrant,
            cell.windows,
            rate.median / 1e3,
            format!("({:.1}-{:.1})", rate.low / 1e3, rate.high / 1e3),
            cell.mib_per_second,
            cell.p50_us,
            cell.p99_us,
            cell.p99_9_us,
            cell.cpu_ns,
            cell.busy_ns.map_or(String::new(), |busy| format!("{busy:.0}")),
            cell.first_to_this.map_or(String::new(), |(ratio, pairs)| format!(
                "{:.2}x ({:.2}-{:.2}, {pairs} pairs)",
                ratio.median, ratio.low, ratio.high
            )),
        );
    }
}

/// Prints what was found, a line each.
pub(crate) fn print_findings<'a>(findings: impl IntoIterator<Item = &'a Finding>) {
    let mut findings = findings.into_iter().peekable();
    if findings.peek().is_none() {
        return;
    }
    println!(
        "{:<6}{:<50}{:<6}{:<20}{:>8}  {:<20}{:>8}  {:<8}{:<24}{:<10}verdict",
        "row", "shape", "cores", "ours", "", "baseline", "", "", "ratio (low-high, pairs)", "target"
    );
    for found in findings {
        let errors = if found.errors > 0 { format!(", {} ERRORS", found.errors) } else { String::new() };
        println!(
            "{:<6}{:<50}{:<6}{:<20}{:>8}  {:<20}{:>8}  {:<8}{:<24}{:<10}{}{errors}",
            found.row,
            found.shape,
            found.placement.map(|placement| format!("{placement:?}").to_lowercase()).unwrap_or_default(),
            found.ours,
            if found.pairs > 0 { figure(found.ours_value) } else { String::new() },
            found.baseline,
            found.baseline_value.map(figure).unwrap_or_default(),
            found.unit,
            found.ratio_words(),
            found.target.words(),
            found.verdict(),
        );
    }
}

/// A figure to about four digits.
pub(crate) fn figure(value: f64) -> String {
    match value.abs() {
        large if large >= 1000.0 => format!("{value:.0}"),
        middle if middle >= 10.0 => format!("{value:.1}"),
        one if one >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_is_lowest_middle_and_highest() {
        assert_eq!(Spread::of([]), None);
        assert_eq!(Spread::of([3.0, 1.0, 2.0]), Some(Spread { low: 1.0, median: 2.0, high: 3.0 }));
        assert_eq!(Spread::of([4.0, 1.0]).map(|spread| spread.median), Some(2.5));
    }

    #[test]
    fn figures_have_about_four_digits() {
        assert_eq!([12_345.6, 123.45, 1.234, 0.01234].map(figure), ["12346", "123.5", "1.23", "0.0123"]);
    }
}
