//! The table of windows: medians and spreads by placement, and ratios within rounds. Knows no server.

use crate::cores::{self, Placement, ratio};
use crate::micros;
use crate::servers::{Place, SPIN_US};
use crate::sidebyside::{DEPTHS, ROWS, SPINELD, Window};

/// The middle of some figures, and their lowest and highest.
#[derive(Clone, Copy, Debug, PartialEq)]
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

/// Prints a table for each placement that was met.
pub(crate) fn print(place: &Place, windows: &[Window]) {
    println!("4k random reads, one queue, polling client on core {}, server on core {};", place.cores.client, place.cores.engine);
    println!("fio is server and client in one, on core {}.", place.cores.client);
    println!("spineld adaptive, spins up to {SPIN_US} us. Medians of windows, with the lowest and highest IOPS.");
    let errors: u64 = windows.iter().map(|window| window.errors).sum();
    println!("{errors} reads failed.");
    let usable = cores::usable(windows, |window| &window.around);
    for placement in [Placement::Near, Placement::Far] {
        let there: Vec<&Window> = usable.iter().copied().filter(|window| window.around.placement() == Some(placement)).collect();
        if let Some(probes) = Spread::of(there.iter().flat_map(|window| window.around.round_trip_ns).map(|ns| ratio(ns, 1))) {
            println!("\n{placement:?} cores: a cache line there and back takes {} ns ({}-{})", probes.median, probes.low, probes.high);
            print_placement(&there);
        }
    }
}

fn print_placement(windows: &[&Window]) {
    println!(
        "{:<8}{:>6}  {:<20}{:>3}{:>10}{:>20}{:>10}{:>10}{:>10}{:>10}  spineld to this",
        "disk", "depth", "server", "n", "kIOPS", "(low-high)", "p50 us", "p99 us", "CPU ns/IO", "busy ns"
    );
    for depth in DEPTHS {
        for (device, server) in ROWS {
            let own = |window: &&&Window| (window.device, window.server, window.depth) == (device, server, depth);
            let cell: Vec<&Window> = windows.iter().filter(own).copied().collect();
            print_row(device, server, depth, &cell, windows);
        }
    }
}

fn print_row(device: &str, server: &str, depth: u16, cell: &[&Window], windows: &[&Window]) {
    let of = |figure: &dyn Fn(&Window) -> f64| Spread::of(cell.iter().map(|window| figure(window)));
    let Some(rate) = of(&|window| window.reads_per_second / 1000.0) else { return };
    let median = |figure: &dyn Fn(&Window) -> f64| of(figure).map_or(0.0, |spread| spread.median);
    let busy = Spread::of(cell.iter().filter_map(|window| window.busy_ns)).map_or(String::new(), |busy| format!("{:.0}", busy.median));
    println!(
        "{device:<8}{depth:>6}  {server:<20}{:>3}{:>10.1}{:>20}{:>10.2}{:>10.2}{:>10.0}{busy:>10}  {}",
        cell.len(),
        rate.median,
        format!("({:.0}-{:.0})", rate.low, rate.high),
        median(&|window| micros(window.p50_ns)),
        median(&|window| micros(window.p99_ns)),
        median(&|window| window.cpu_ns),
        if server == SPINELD { String::new() } else { compare(cell, windows) },
    );
}

/// spineld's rate and p50 to those of a cell, from windows of the same round.
fn compare(cell: &[&Window], windows: &[&Window]) -> String {
    let beside = |theirs: &Window| {
        let same = |ours: &Window| (ours.device, ours.depth, ours.round) == (theirs.device, theirs.depth, theirs.round);
        windows.iter().copied().find(|ours| ours.server == SPINELD && same(ours))
    };
    let pairs: Vec<(&Window, &Window)> = cell.iter().filter_map(|theirs| Some((beside(theirs)?, *theirs))).collect();
    let rate = Spread::of(pairs.iter().map(|(ours, theirs)| ours.reads_per_second / theirs.reads_per_second));
    rate.map_or("no pair".to_owned(), |rate| format!("{:.2}x IOPS ({:.2}-{:.2}, {} pairs)", rate.median, rate.low, rate.high, pairs.len()))
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
}
