//! Side-by-side measurements of the engine, with named cores and the cores' distance beside every figure. Asserts nothing.
#![deny(unsafe_code)]

mod attach;
mod budgets;
mod client;
mod cores;
mod disk;
mod fio;
mod idle;
mod scenario;
mod servers;
mod sidebyside;
mod table;
mod wakeups;

use std::cell::Cell;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum as _};
use serde::Serialize;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use spinel_testbed::cache::user_folder;
use spinel_testbed::packages::Packages;
use spinel_testbed::process::kill_all;

use cores::Cores;
use scenario::Scenario;
use servers::Place;

/// Any failure; it is shown with all its causes.
pub(crate) type Failure = Box<dyn Error>;

/// Measures Spinel beside others on this machine.
///
/// A client that polls stands in for a guest: a guest under emulation would show correctness, never speed. Every figure
/// is taken in windows that alternate between the servers, each bracketed by a probe of how near the two cores are,
/// because a virtual machine's cores move. Only windows of the same placement are compared, and none in which other
/// programs took a tenth of a core. The figures go to FOLDER as JSON too.
#[derive(Parser)]
#[command(name = "spinel-benches", max_term_width = 100)]
struct Arguments {
    /// What to measure [default: all but budgets]
    #[arg(value_enum, value_name = "SCENARIO")]
    scenarios: Vec<Scenario>,
    /// Say what can be measured, a line each
    #[arg(long)]
    list: bool,
    /// Fewer and shorter windows: all of it within 5 minutes
    #[arg(long)]
    quick: bool,
    /// Take the counted instructions for the new budgets
    #[arg(long)]
    accept: bool,
    /// How long to wait, in all, for other programs to be quiet
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    patience_s: u64,
    /// Where figures, logs and the file that is read go [default: 'bench' beside the folder of this program]
    #[arg(long)]
    folder: Option<PathBuf>,
    /// The spineld to measure [default: the one beside this program]
    #[arg(long, value_name = "PROGRAM")]
    spineld: Option<PathBuf>,
}

/// How much time is spent.
pub(crate) struct Pace {
    /// Dropped before each window.
    pub(crate) warm_up: Duration,
    pub(crate) window: Duration,
    /// How many usable windows each cell should have.
    pub(crate) windows: usize,
    /// After how many rounds a cell takes what it has.
    pub(crate) rounds_max: u32,
}

impl Pace {
    fn of(quick: bool) -> Self {
        let warm_up = Duration::from_millis(100);
        if quick {
            Self { warm_up, window: Duration::from_millis(400), windows: 5, rounds_max: 6 }
        } else {
            Self { warm_up, window: Duration::from_secs(1), windows: 9, rounds_max: 18 }
        }
    }
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure}");
            let mut cause = failure.source();
            while let Some(error) = cause {
                eprintln!("  because: {error}");
                cause = error.source();
            }
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Failure> {
    if arguments.list {
        Scenario::list();
        return Ok(());
    }
    let program = std::env::current_exe()?;
    let beside = program.parent().ok_or("this program lies nowhere")?;
    let folder = arguments.folder.clone().unwrap_or_else(|| beside.with_file_name("bench"));
    fs::create_dir_all(&folder)?;
    end_in_order_on_signals()?;
    let packages = user_folder().ok().and_then(|cache| Packages::cached(&cache));
    let mut scenarios = arguments.scenarios.clone();
    if scenarios.is_empty() {
        scenarios.extend(Scenario::value_variants().iter().filter(|scenario| **scenario != Scenario::Budgets));
    }
    if arguments.accept && !scenarios.contains(&Scenario::Budgets) {
        return Err("--accept takes new budgets: it goes with the scenario budgets".into());
    }
    if scenarios == [Scenario::Budgets] {
        return budgets::run(&budgets::counted(beside)?, packages.as_ref(), &folder, arguments.accept);
    }
    let spineld = arguments.spineld.clone().unwrap_or_else(|| beside.join("spineld"));
    if !spineld.exists() {
        return Err(format!("{} is missing: cargo build --release -p spinel-daemon", spineld.display()).into());
    }
    let place = Place {
        cores: Cores::choose()?,
        spineld,
        packages,
        logs: folder.clone(),
        patience: Cell::new(Duration::from_secs(arguments.patience_s)),
    };
    cores::pin(&[place.cores.client])?;
    let pace = Pace::of(arguments.quick);
    for scenario in scenarios {
        println!("== {} ==", scenario.name());
        measure(scenario, &place, &folder, &pace, arguments.accept)?;
    }
    Ok(())
}

fn measure(scenario: Scenario, place: &Place, folder: &Path, pace: &Pace, accept: bool) -> Result<(), Failure> {
    match scenario {
        Scenario::Reads => {
            let windows = sidebyside::run(place, &disk::file(folder)?, pace)?;
            table::print(place, &windows);
            save(folder, "reads", &windows)
        }
        Scenario::Wakeups => {
            let windows = wakeups::run(place, &disk::file(folder)?, pace)?;
            wakeups::print(&windows);
            save(folder, "wakeups", &windows)
        }
        Scenario::M2 => {
            let figures = idle::run(place, &disk::file(folder)?)?;
            idle::print(&figures);
            save(folder, "m2", &figures)
        }
        Scenario::Attach => {
            let figures = attach::run(place, pace)?;
            attach::print(&figures);
            save(folder, "attach", &figures)
        }
        Scenario::Budgets => {
            let beside = place.spineld.parent().ok_or("spineld lies nowhere")?;
            budgets::run(&budgets::counted(beside)?, place.packages.as_ref(), folder, accept)
        }
    }
}

/// Nanoseconds as microseconds, for people to read.
pub(crate) fn micros(ns: u64) -> f64 {
    cores::ratio(ns, 1000)
}

/// Makes Ctrl-C and its like end the servers with this program.
fn end_in_order_on_signals() -> Result<(), Failure> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    let wait = move || {
        if let Some(signal) = signals.forever().next() {
            kill_all();
            std::process::exit(128 + signal);
        }
    };
    std::thread::Builder::new().name("signals".to_owned()).spawn(wait)?;
    Ok(())
}

/// Keeps figures for programs to read.
fn save(folder: &Path, name: &str, figures: &impl Serialize) -> Result<(), Failure> {
    let path = folder.join(name).with_extension("json");
    fs::write(&path, serde_json::to_vec_pretty(figures)?)?;
    println!("All of it: {}\n", path.display());
    Ok(())
}
