//! What sleeping costs the first read after silence, beside the same silence under a core that never sleeps. Knows no table of depths.

use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use crate::client::{BUFFERS_BYTES, Client};
use crate::cores::{self, Around, Others, Placement, round_trip_ns};
use crate::servers::{Place, SPIN_US, Spineld};
use crate::table::Spread;
use crate::{Failure, Pace, micros};

/// How long nothing is asked before each read; none is one read right after another.
const SILENCES: [Duration; 3] = [Duration::ZERO, Duration::from_micros(500), Duration::from_millis(5)];
pub(crate) const DEVICES: [&str; 2] = ["null", "file"];
const MODES: [&str; 2] = ["poll", "adaptive"];

/// One stretch of reads after silences.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Window {
    device: &'static str,
    mode: &'static str,
    silence_us: u128,
    round: u32,
    #[serde(flatten)]
    around: Around,
    reads: u64,
    errors: u64,
    p50_ns: u64,
    p99_ns: u64,
}

/// Starts a spineld for each round, device and mode in turn, and reads from it after silences.
pub(crate) fn run(place: &Place, file: &Path, pace: &Pace, devices: &[&'static str]) -> Result<Vec<Window>, Failure> {
    let mut windows = Vec::new();
    for round in 0..pace.rounds_max.div_ceil(2) {
        for device in devices.iter().copied() {
            for mode in MODES {
                place.wait_for_quiet(&[])?;
                // Before it starts and after it ends: a core that never sleeps leaves the probe no time.
                let before = round_trip_ns(place.cores)?;
                let mut stretches = one_server(place, file, device, mode, round, pace)?;
                let after = round_trip_ns(place.cores)?;
                stretches.iter_mut().for_each(|window| window.around.round_trip_ns = [before, after]);
                windows.extend(stretches);
            }
        }
    }
    Ok(windows)
}

fn one_server(
    place: &Place,
    file: &Path,
    device: &'static str,
    mode: &'static str,
    round: u32,
    pace: &Pace,
) -> Result<Vec<Window>, Failure> {
    let mut spineld = Spineld::start(place, &["--mode", mode])?;
    let socket = if device == "file" { spineld.file("disk", file)? } else { spineld.null("disk")? };
    let mut client = Client::connect(&socket, BUFFERS_BYTES)?;
    client.run(1, pace.warm_up)?;
    let mut windows = Vec::new();
    for silence in SILENCES {
        let others = Others::look(&[spineld.pid()])?;
        let count = u32::try_from(pace.window.as_nanos() / silence.max(Duration::from_micros(100)).as_nanos())?;
        // The first few teach the core how long its waits are.
        client.run_with_silence(silence, count / 10 + 20)?;
        let seen = client.run_with_silence(silence, count)?;
        windows.push(Window {
            device,
            mode,
            silence_us: silence.as_micros(),
            round,
            around: Around { round_trip_ns: [0; 2], others: Others::look(&[spineld.pid()])?.share_since(others) },
            reads: seen.reads(),
            errors: seen.errors,
            p50_ns: seen.quantile_ns(0.5),
            p99_ns: seen.quantile_ns(0.99),
        });
    }
    drop(client);
    spineld.stop()?;
    Ok(windows)
}

/// What adaptive mode adds to the median of reads after the longest silence, in microseconds, from windows of the same
/// round; and whether others ran in all of those.
pub(crate) fn on_top_us(windows: &[Window], device: &str) -> Option<(Spread, bool)> {
    let silence_us = SILENCES.iter().max()?.as_micros();
    let own: Vec<Window> = windows.iter().filter(|window| window.device == device && window.silence_us == silence_us).cloned().collect();
    let (chosen, busy) = cores::chosen(&own, |window| &window.around);
    let of = |mode: &'static str| chosen.iter().copied().filter(move |window| window.mode == mode);
    let alike = |one: &Window, other: &Window| (one.round, one.around.placement()) == (other.round, other.around.placement());
    let pairs = of("adaptive").filter_map(|slept| Some((slept, of("poll").find(|spun| alike(slept, spun))?)));
    let on_top = Spread::of(pairs.map(|(slept, spun)| micros(slept.p50_ns) - micros(spun.p50_ns)))?;
    Some((on_top, busy))
}

/// Prints what adaptive mode adds to the median and to the 99th of a hundred.
pub(crate) fn print(windows: &[Window]) {
    println!("First read after silence, 4k, depth 1; adaptive spins up to {SPIN_US} us. Medians of windows, in us.");
    let usable = cores::usable(windows, |window| &window.around);
    println!(
        "{:<6}{:<6}{:>12}{:>12}{:>10}{:>10}{:>15}{:>12}{:>12}{:>10}",
        "cores", "disk", "silence us", "poll p50", "p99", "windows", "adaptive p50", "p99", "on top p50", "p99"
    );
    for placement in [Placement::Near, Placement::Far] {
        for device in DEVICES {
            for silence in SILENCES {
                let of = |mode| {
                    let own = move |window: &&Window| {
                        (window.device, window.mode, window.silence_us) == (device, mode, silence.as_micros())
                            && window.around.placement() == Some(placement)
                    };
                    let cell: Vec<&Window> = usable.iter().copied().filter(own).collect();
                    let median =
                        |figure: fn(&Window) -> u64| Spread::of(cell.iter().map(|window| micros(figure(window)))).map(|s| s.median);
                    Some((cell.len(), median(|window| window.p50_ns)?, median(|window| window.p99_ns)?))
                };
                if let Some(((n, p50, p99), (m, slept50, slept99))) = of("poll").zip(of("adaptive")) {
                    println!(
                        "{:<6}{device:<6}{:>12}{p50:>12.2}{p99:>10.2}{:>10}{slept50:>15.2}{slept99:>12.2}{:>12.2}{:>10.2}",
                        format!("{placement:?}").to_lowercase(),
                        silence.as_micros(),
                        format!("{n}+{m}"),
                        slept50 - p50,
                        slept99 - p99,
                    );
                }
            }
        }
    }
}
