//! What spineld costs while nobody asks for anything, and while hardly anybody does. Knows no other server.

use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use spinel_reactor::Clock;

use crate::claims::{Finding, Target};
use crate::client::{BUFFERS_BYTES, Client, Window};
use crate::cores::{OTHERS_MAX, Others, Times, cpu_ns, ratio, sleep};
use crate::servers::{Place, SPIN_US, Spineld};
use crate::table::Spread;
use crate::{Failure, Pace, micros};

/// The row of the workloads.
const ROW: &str = "M2";
/// So much of a core at most, in percent, while nobody asks for anything.
const IDLE_PERCENT_MAX: f64 = 0.05;
const CLIENTS: usize = 10;
const TRICKLE_PER_SECOND: u32 = 100;

/// What one stretch cost.
#[derive(Debug, Serialize)]
pub(crate) struct Figure {
    name: &'static str,
    seconds: f64,
    /// Of the whole process, as the scheduler counts it.
    percent_of_a_core: f64,
    /// The same as /proc/PID/stat counts it, in steps of 10 ms.
    utime_stime_percent: f64,
    /// Part of one core that others took meanwhile.
    others: f64,
    reads: u64,
    errors: u64,
    /// From when each read was due; 0 without reads.
    p50_us: f64,
    p99_us: f64,
}

/// Attaches ten clients, and looks at the process while they are silent, and while one of them trickles.
pub(crate) fn run(place: &Place, file: &Path, pace: &Pace) -> Result<Vec<Figure>, Failure> {
    let mut spineld = Spineld::start(place, &[])?;
    let mut sockets = vec![spineld.null("disk0")?, spineld.file("disk1", file)?];
    for number in sockets.len()..CLIENTS {
        sockets.push(spineld.memory(&format!("disk{number}"))?);
    }
    let mut clients = Vec::new();
    for socket in &sockets {
        let mut client = Client::connect(socket, BUFFERS_BYTES)?;
        client.run(1, Duration::from_millis(1))?;
        clients.push(client);
    }
    let mut figures = Vec::new();
    figures.push(stretch(place, &spineld, "10 clients, no I/O", || {
        sleep(pace.silence)?;
        Ok(None)
    })?);
    for (name, client) in ["100 IOPS on one of them, null", "100 IOPS on one of them, file"].into_iter().zip(&mut clients) {
        figures.push(stretch(place, &spineld, name, || {
            let end = Clock::system().now().after(pace.silence);
            client.run_at_rate(TRICKLE_PER_SECOND, |now| now < end).map(Some)
        })?);
    }
    drop(clients);
    spineld.stop()?;
    Ok(figures)
}

fn stretch(
    place: &Place,
    spineld: &Spineld,
    name: &'static str,
    live: impl FnOnce() -> Result<Option<Window>, Failure>,
) -> Result<Figure, Failure> {
    let pid = spineld.pid();
    place.wait_for_quiet(&[pid])?;
    let all_times = || Times::of(pid).map(|times| times.own_ns);
    let (others, cpu, times, start) = (Others::look(&[pid])?, cpu_ns(pid)?, all_times()?, Clock::system().now());
    let seen = live()?;
    let took_ns = Clock::system().now().since_ns(start);
    let quantile_us = |quantile| seen.as_ref().map_or(0.0, |window| micros(window.quantile_ns(quantile)));
    Ok(Figure {
        name,
        seconds: ratio(took_ns, 1_000_000_000),
        percent_of_a_core: ratio(cpu_ns(pid)? - cpu, took_ns) * 100.0,
        utime_stime_percent: ratio(all_times()? - times, took_ns) * 100.0,
        others: Others::look(&[pid])?.share_since(others),
        reads: seen.as_ref().map_or(0, Window::reads),
        errors: seen.as_ref().map_or(0, |window| window.errors),
        p50_us: quantile_us(0.5),
        p99_us: quantile_us(0.99),
    })
}

/// What the row asks for: the cost of silence, and what sleeping costs those who break it.
pub(crate) fn find(figures: &[Figure], on_top_us: Option<(Spread, bool)>) -> Vec<Finding> {
    let value = |value| Spread { low: value, median: value, high: value };
    let busy = |figure: &Figure| figure.others > OTHERS_MAX;
    let silent = figures.iter().find(|figure| figure.reads == 0);
    let idle = silent.map(|figure| {
        let target = Target::AtMost(IDLE_PERCENT_MAX);
        Finding::of_value(ROW, "10 volumes attached, no I/O", value(figure.percent_of_a_core), "% core", target, busy(figure))
    });
    let paid = on_top_us.map(|(on_top, busy)| Finding::of_value(ROW, "first read after 5 ms, on top", on_top, "us", Target::Shown, busy));
    idle.into_iter().chain(paid).collect()
}

/// Prints them.
pub(crate) fn print(figures: &[Figure]) {
    println!("spineld, adaptive, spins up to {SPIN_US} us: processor time of the whole process.");
    println!(
        "{:<32}{:>9}{:>12}{:>15}{:>9}{:>8}{:>10}{:>10}",
        "", "seconds", "% of a core", "by utime+stime", "others", "reads", "p50 us", "p99 us"
    );
    for figure in figures {
        println!(
            "{:<32}{:>9.1}{:>12.4}{:>15.2}{:>9.2}{:>8}{:>10.1}{:>10.1}",
            figure.name,
            figure.seconds,
            figure.percent_of_a_core,
            figure.utime_stime_percent,
            figure.others,
            figure.reads,
            figure.p50_us,
            figure.p99_us
        );
    }
}
