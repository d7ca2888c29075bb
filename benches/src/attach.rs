//! What the guests of other disks notice while one with a lot of memory comes and goes. Knows no table of depths.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;
use spinel_reactor::Clock;

use crate::client::{BUFFERS_BYTES, Client, Window};
use crate::cores::{Others, sleep};
use crate::servers::{Place, Spineld};
use crate::table::Spread;
use crate::{Failure, Pace, micros};

const GIB: u64 = 1 << 30;
/// Reads each second of the disk that is watched.
const LOAD_PER_SECOND: u32 = 2000;
/// How often the large guest comes and goes in one stretch.
const VISITS: u32 = 10;
/// How long it stays.
const STAY: Duration = Duration::from_millis(200);
/// Between two of its visits.
const PAUSE: Duration = Duration::from_millis(100);
/// The length of a stretch without it.
const ALONE: Duration = Duration::from_secs(3);

/// A way to run spineld, and the guest that comes.
struct Variant {
    name: &'static str,
    arguments: &'static [&'static str],
    unprivileged: bool,
    memory_bytes: u64,
}

const VARIANTS: [Variant; 3] = [
    Variant { name: "16 GiB, as started by default", arguments: &[], unprivileged: false, memory_bytes: 16 * GIB },
    Variant {
        name: "16 GiB, pinning, no CAP_IPC_LOCK, ulimit -l 8192",
        arguments: &["--pin-guest-memory"],
        unprivileged: true,
        memory_bytes: 16 * GIB,
    },
    // All of it is populated and locked each time: less of it, so that this fits a machine of 4 GiB.
    Variant { name: "1 GiB, pinning, as this user", arguments: &["--pin-guest-memory"], unprivileged: false, memory_bytes: GIB },
];

/// One stretch of the watched disk.
#[derive(Debug, Serialize)]
pub(crate) struct Figure {
    variant: &'static str,
    guest_comes: bool,
    round: u32,
    others: f64,
    reads: u64,
    errors: u64,
    /// From when each read was due, as the client saw it.
    p50_us: f64,
    p99_us: f64,
    p999_us: f64,
    max_us: f64,
    /// As the engine's own histogram has it, in nanoseconds.
    engine: Value,
    /// How long each visit took to connect, set up its queue and read one block.
    attach_ms: Vec<f64>,
    /// How long the client took to leave.
    detach_ms: Vec<f64>,
    /// Whether its memory was pinned.
    pinned: Option<bool>,
}

/// Runs every variant with and without the visitor, in turn.
pub(crate) fn run(place: &Place, pace: &Pace) -> Result<Vec<Figure>, Failure> {
    let mut figures = Vec::new();
    for variant in &VARIANTS {
        let mut spineld = if variant.unprivileged {
            Spineld::start_unprivileged(place, variant.arguments)?
        } else {
            Spineld::start(place, variant.arguments)?
        };
        let mut load = Client::connect(&spineld.null("watched")?, BUFFERS_BYTES)?;
        let visited = spineld.null("visited")?;
        load.run(1, pace.warm_up)?;
        for round in 0..pace.rounds_max.div_ceil(6) {
            for guest_comes in [false, true] {
                place.wait_for_quiet(&[spineld.pid()])?;
                figures.push(stretch(&mut spineld, &mut load, variant, guest_comes.then_some(&visited), round)?);
            }
        }
        drop(load);
        spineld.stop()?;
    }
    Ok(figures)
}

fn stretch(spineld: &mut Spineld, load: &mut Client, variant: &Variant, visited: Option<&PathBuf>, round: u32) -> Result<Figure, Failure> {
    let others = Others::look(&[spineld.pid()])?;
    // What was counted before is forgotten.
    spineld.read_percentiles("watched")?;
    let (seen, visits) = match visited {
        None => {
            let end = Clock::system().now().after(ALONE);
            (load.run_at_rate(LOAD_PER_SECOND, |now| now < end)?, Visits::default())
        }
        Some(socket) => while_visited(load, socket, variant.memory_bytes)?,
    };
    let pinned = match visited {
        Some(socket) => look_at_memory(spineld, socket, variant)?,
        None => None,
    };
    Ok(Figure {
        variant: variant.name,
        guest_comes: visited.is_some(),
        round,
        others: Others::look(&[spineld.pid()])?.share_since(others),
        reads: seen.reads(),
        errors: seen.errors,
        p50_us: micros(seen.quantile_ns(0.5)),
        p99_us: micros(seen.quantile_ns(0.99)),
        p999_us: micros(seen.quantile_ns(0.999)),
        max_us: micros(seen.latency.max()),
        engine: spineld.read_percentiles("watched")?,
        attach_ms: visits.attach_ms,
        detach_ms: visits.detach_ms,
        pinned,
    })
}

#[derive(Default)]
struct Visits {
    attach_ms: Vec<f64>,
    detach_ms: Vec<f64>,
}

/// Keeps the load up until the visitor has come and gone often enough.
fn while_visited(load: &mut Client, socket: &Path, memory_bytes: u64) -> Result<(Window, Visits), Failure> {
    let over = Arc::new(AtomicBool::new(false));
    let (socket, flag) = (socket.to_owned(), Arc::clone(&over));
    let come_and_go = move || {
        let visits = visit(&socket, memory_bytes).map_err(|failure| failure.to_string());
        flag.store(true, Ordering::Relaxed);
        visits
    };
    let visitor = std::thread::Builder::new().name("visitor".to_owned()).spawn(come_and_go)?;
    let seen = load.run_at_rate(LOAD_PER_SECOND, |_| !over.load(Ordering::Relaxed));
    let visits = visitor.join().map_err(|_| "the visitor panicked")??;
    Ok((seen?, visits))
}

fn visit(socket: &Path, memory_bytes: u64) -> Result<Visits, Failure> {
    let clock = Clock::system();
    let mut visits = Visits::default();
    for _ in 0..VISITS {
        sleep(PAUSE)?;
        let come = clock.now();
        let mut client = Client::connect(socket, memory_bytes)?;
        client.run_with_silence(Duration::ZERO, 1)?;
        let here = clock.now();
        sleep(STAY)?;
        let go = clock.now();
        drop(client);
        visits.attach_ms.push(micros(here.since_ns(come)) / 1000.0);
        visits.detach_ms.push(micros(clock.now().since_ns(go)) / 1000.0);
    }
    Ok(visits)
}

/// Comes once more, to see whether the memory gets pinned: that is done behind the guest's back, and takes seconds.
fn look_at_memory(spineld: &mut Spineld, socket: &Path, variant: &Variant) -> Result<Option<bool>, Failure> {
    let mut client = Client::connect(socket, variant.memory_bytes)?;
    client.run_with_silence(Duration::ZERO, 1)?;
    let looks = if variant.unprivileged || variant.arguments.is_empty() { 1 } else { 100 };
    let mut pinned = None;
    for _ in 0..looks {
        sleep(PAUSE)?;
        pinned = spineld.pinned("visited")?;
        if pinned == Some(true) {
            break;
        }
    }
    drop(client);
    Ok(pinned)
}

/// Prints them.
pub(crate) fn print(figures: &[Figure]) {
    println!("{LOAD_PER_SECOND} reads a second of one disk, from when each was due, while another's guest comes and goes {VISITS} times.");
    println!(
        "{:<50}{:<8}{:>10}{:>10}{:>10}{:>10}{:>12}{:>12}{:>22}{:>8}",
        "", "guest", "p50 us", "p99 us", "p99.9 us", "max us", "engine p99", "engine max", "attach ms (low-high)", "pinned"
    );
    for variant in &VARIANTS {
        for guest_comes in [false, true] {
            let own: Vec<&Figure> =
                figures.iter().filter(|figure| (figure.variant, figure.guest_comes) == (variant.name, guest_comes)).collect();
            print_row(variant.name, guest_comes, &own);
        }
    }
    let failed: u64 = figures.iter().map(|figure| figure.errors).sum();
    println!(
        "{failed} reads failed. Medians over the rounds; others took {:.2} of a core at most.",
        figures.iter().map(|figure| figure.others).fold(0.0, f64::max)
    );
}

fn print_row(name: &str, guest_comes: bool, figures: &[&Figure]) {
    let median = |figure: &dyn Fn(&Figure) -> f64| Spread::of(figures.iter().map(|own| figure(own))).map_or(0.0, |spread| spread.median);
    let engine = |key: &'static str| median(&move |figure| figure.engine[key].as_f64().unwrap_or(0.0) / 1000.0);
    let attach = Spread::of(figures.iter().flat_map(|figure| figure.attach_ms.iter().copied()));
    println!(
        "{name:<50}{:<8}{:>10.1}{:>10.1}{:>10.1}{:>10.1}{:>12.1}{:>12.1}{:>22}{:>8}",
        if guest_comes { "comes" } else { "none" },
        median(&|figure| figure.p50_us),
        median(&|figure| figure.p99_us),
        median(&|figure| figure.p999_us),
        median(&|figure| figure.max_us),
        engine("p99"),
        engine("max"),
        attach.map_or(String::new(), |spread| format!("{:.1} ({:.1}-{:.1})", spread.median, spread.low, spread.high)),
        figures.iter().find_map(|figure| figure.pinned).map_or("", |pinned| if pinned { "yes" } else { "no" }),
    );
}
