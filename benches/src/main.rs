//! Side-by-side measurements of the engine, with named cores and the cores' distance beside every figure. Asserts nothing.
#![deny(unsafe_code)]

mod attach;
mod budgets;
mod claims;
mod client;
mod contenders;
mod contest;
mod cores;
mod disk;
mod fio;
mod floor;
mod hosts;
mod idle;
mod link;
mod loader;
mod report;
#[cfg(feature = "rocksdb")]
mod rocks;
mod rows;
mod scenario;
mod servers;
mod table;
mod takeover;
mod wakeups;
mod work;

use std::cell::Cell;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum as _};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use spinel_testbed::cache::user_folder;
use spinel_testbed::packages::Packages;
use spinel_testbed::process::kill_all;

use claims::Finding;
use cores::Cores;
use rows::Ran;
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
    /// How long nothing is asked where that is measured: 0.05 % of it can be told from nothing.
    pub(crate) silence: Duration,
    /// How often one process takes over from another.
    pub(crate) takeovers: u32,
}

impl Pace {
    fn of(quick: bool) -> Self {
        let (ms, seconds) = (Duration::from_millis, Duration::from_secs);
        if quick {
            Self { warm_up: ms(60), window: ms(250), windows: 5, rounds_max: 7, silence: seconds(8), takeovers: 20 }
        } else {
            Self { warm_up: ms(100), window: seconds(1), windows: 9, rounds_max: 18, silence: seconds(20), takeovers: 200 }
        }
    }
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {}", with_causes(failure.as_ref()));
            ExitCode::FAILURE
        }
    }
}

/// A failure's message followed by those of its causes.
fn with_causes(failure: &dyn Error) -> String {
    let mut text = failure.to_string();
    let mut cause = failure.source();
    while let Some(error) = cause {
        text += &format!("\n  because: {error}");
        cause = error.source();
    }
    text
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
    let disk_cores = cores::disk_cores(&folder);
    let place = Place {
        cores: Cores::choose(&disk_cores)?,
        disk_cores,
        spineld,
        packages,
        logs: folder.clone(),
        patience: Cell::new(Duration::from_secs(arguments.patience_s)),
    };
    cores::pin(&[place.cores.client])?;
    let pace = Pace::of(arguments.quick);
    let several = scenarios.len() > 1;
    let mut all = Vec::new();
    let mut failed = Vec::new();
    for scenario in scenarios {
        println!("== {} ==", scenario.name());
        match measure(scenario, &place, &folder, &pace, arguments.accept) {
            Ok(ran) => {
                table::print_findings(&ran.findings);
                println!();
                all.push((scenario.name(), ran));
            }
            // What others have to say is not lost.
            Err(failure) => {
                eprintln!("error: {}\n", with_causes(failure.as_ref()));
                failed.push(scenario.name());
            }
        }
    }
    let findings: Vec<&Finding> = all.iter().flat_map(|(_, ran)| &ran.findings).collect();
    if several && !findings.is_empty() {
        println!("== all rows ==");
        table::print_findings(findings);
        println!();
    }
    report::write(&place, &folder, arguments.quick, &all)?;
    if failed.is_empty() { Ok(()) } else { Err(format!("these failed, see above: {}", failed.join(", ")).into()) }
}

fn measure(scenario: Scenario, place: &Place, folder: &Path, pace: &Pace, accept: bool) -> Result<Ran, Failure> {
    match scenario {
        Scenario::Reads => rows::reads(place, &disk::file(folder)?, &disk::own_file(folder)?, pace),
        Scenario::Agree => rows::agree(place, &disk::file(folder)?, pace),
        Scenario::Hostile => rows::hostile(place, &disk::file(folder)?, pace),
        Scenario::Hosts => rows::hosts(place, pace),
        Scenario::L1 => rows::l1(place, &disk::file(folder)?, pace),
        Scenario::L2 => rows::l2(place, pace),
        Scenario::L5 => rows::l5(place, &disk::file(folder)?, pace),
        Scenario::S1 => rows::s1(place, pace),
        Scenario::K1 => rows::k1(place, &disk::file(folder)?, &disk::own_file(folder)?, pace),
        Scenario::Fair => {
            let [file, own, other] = [disk::file(folder)?, disk::own_file(folder)?, disk::other_file(folder)?];
            rows::fair(place, [&file, &own, &other], pace)
        }
        Scenario::Tcp => rows::tcp(place, pace),
        Scenario::P1 => rows::p1(place, &disk::file(folder)?, pace),
        Scenario::M2 => {
            let file = disk::file(folder)?;
            let figures = idle::run(place, &file, pace)?;
            idle::print(&figures);
            let woken = wakeups::run(place, &file, pace, &["null"])?;
            wakeups::print(&woken);
            let findings = idle::find(&figures, wakeups::on_top_us(&woken, "null"));
            Ok(Ran { findings, ..Ran::of_figures(&figures)? })
        }
        Scenario::Wakeups => {
            let windows = wakeups::run(place, &disk::file(folder)?, pace, &wakeups::DEVICES)?;
            wakeups::print(&windows);
            Ran::of_figures(&windows)
        }
        Scenario::Attach => {
            let figures = attach::run(place, pace)?;
            attach::print(&figures);
            Ran::of_figures(&figures)
        }
        Scenario::Takeover => takeover::run(place, folder, pace),
        Scenario::Budgets => {
            let beside = place.spineld.parent().ok_or("spineld lies nowhere")?;
            budgets::run(&budgets::counted(beside)?, place.packages.as_ref(), folder, accept).map(|()| Ran::default())
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
