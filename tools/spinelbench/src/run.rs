//! `spinelbench run` and `spinelbench sweep`. Knows no target's kind.

use spinel_core::{Features, Geometry};
use spinel_load::{Job, Length};
use spinelbench::report::{Run, Verified};

use crate::cli::{self, Load, Way};
use crate::create::create;
use crate::failure::{Failure, with_causes};
use crate::knee::{self, Point};
use crate::measure::{Interrupt, Measured, Order, measure};
use crate::outputs;
use crate::plan::{self, Tempo};
use crate::target::{Purpose, Target, refuse_to_overwrite};
use crate::url::Url;
use crate::verify::Verifications;

const SECOND_NS: u64 = 1_000_000_000;

/// How long a run lasts that was given no length.
const TIME_NS: u64 = 10 * SECOND_NS;
/// Dropped before a run by time that was not told otherwise.
const WARM_UP_NS: u64 = SECOND_NS;

/// Measures one load.
///
/// # Errors
/// What was in the way; [`Failure::Unclean`] if requests failed or verification found something.
pub(crate) fn run(run: &cli::Run) -> Result<(), Failure> {
    let interrupt = listen()?;
    outputs::check(&run.outputs, run.target.path())?;
    let unlimited = run.time.is_none() && run.bytes.is_none() && run.requests.is_none();
    let length = Length { time_ns: run.time.or(unlimited.then_some(TIME_NS)), bytes: run.bytes, requests: run.requests };
    let warm_up_ns = run.warm_up.unwrap_or(if length.time_ns.is_some() && !run.verify { WARM_UP_NS } else { 0 });
    let jobs = plan::jobs(&run.target, &run.load, Tempo { rate: run.rate, poisson: run.poisson, length, warm_up_ns })?;
    let target = open(&run.target, &run.load, &run.way, &jobs, run.outputs.quiet, &interrupt)?;
    let name = run.name.clone().unwrap_or_else(|| format!("{} {}", run.load.workload.word(), run.target));
    let order = Order { name, target: run.target.to_string(), jobs, judges: Vec::new(), quiet: run.outputs.quiet };
    let Measured { run: measured, is_lost } =
        if run.verify { verified(run, target, order, &interrupt)? } else { measure(&target, order, &interrupt)? };
    conclude(vec![measured], None, &run.outputs, is_lost)
}

/// Measures under verification, and then reads everything once more.
fn verified(run: &cli::Run, target: Target, mut order: Order, interrupt: &Interrupt) -> Result<Measured, Failure> {
    target.check_judged()?;
    let verifications = Verifications::new(&target, &run.target, &mut order.jobs, run.log.as_deref())?;
    order.judges = verifications.judges(&order.jobs);
    let sweeps = Verifications::sweeps(&target, &order.jobs);
    let name = format!("{}, read back", order.name);
    let mut measured = measure(&target, order, interrupt)?;
    let mut target = Some(target);
    let mut read_back = None;
    // What is found in the end is read once more: a stale read is told from a lost write by what comes next.
    for pass in 0..2 {
        if measured.is_lost || interrupt.came() || (pass == 1 && verifications.is_clean()) {
            break;
        }
        // Its queues have all been used.
        drop(target.take());
        let again = target.insert(Target::open(&run.target, &run.way, Purpose::of(&sweeps))?);
        let judges = verifications.judges(&sweeps);
        let (name, jobs) = (name.clone(), sweeps.clone());
        let order = Order { name, target: run.target.to_string(), jobs, judges, quiet: run.outputs.quiet };
        let pass = measure(again, order, interrupt)?;
        measured.is_lost = pass.is_lost;
        read_back = (!pass.is_lost && !pass.run.interrupted).then_some(pass.run.all.errors);
    }
    measured.run.verified = Some(verifications.verdict(read_back));
    verifications.check_log()?;
    Ok(measured)
}

/// Raises the rate until latency takes off.
///
/// # Errors
/// What was in the way; [`Failure::Unclean`] if requests failed.
pub(crate) fn sweep(sweep: &cli::Sweep) -> Result<(), Failure> {
    let interrupt = listen()?;
    outputs::check(&sweep.outputs, sweep.target.path())?;
    let time = Length { time_ns: Some(sweep.time), ..Length::default() };
    let warm_up_ns = (sweep.time / 4).min(WARM_UP_NS);
    let tempo = Tempo { rate: None, poisson: sweep.poisson, length: time, warm_up_ns };
    let closed = plan::jobs(&sweep.target, &sweep.load, tempo)?;
    let target = open(&sweep.target, &sweep.load, &sweep.way, &closed, sweep.outputs.quiet, &interrupt)?;
    let mut sweeper =
        Sweeper { sweep, tempo, target: &target, interrupt: &interrupt, runs: Vec::new(), points: Vec::new(), is_lost: false };
    let top = sweeper.measure("closed loop".to_owned(), closed)?;
    if top.all.requests == 0 {
        return Err(Failure::usage("the closed loop that the sweep begins with ended no request; give it more --time"));
    }
    let mut rates: Vec<f64> = (1..=sweep.steps).map(|step| top.all.iops * f64::from(step) / f64::from(sweep.steps)).collect();
    // In falling order to pop from the end.
    rates.reverse();
    let mut refinements = REFINEMENTS;
    while !sweeper.is_over() {
        let rate = match rates.pop() {
            Some(rate) => rate,
            None if refinements == 0 => break,
            None => {
                refinements -= 1;
                let Some(rate) = knee::refine(&sweeper.points) else { break };
                rate
            }
        };
        if rate > 0.0 {
            sweeper.at_rate(rate)?;
        }
    }
    let Sweeper { runs, points, is_lost, .. } = sweeper;
    conclude(runs, knee::knee(&points), &sweep.outputs, is_lost)
}

/// Rates that are tried between the knee and the rate after it.
const REFINEMENTS: u32 = 4;

struct Sweeper<'a> {
    sweep: &'a cli::Sweep,
    tempo: Tempo,
    target: &'a Target,
    interrupt: &'a Interrupt,
    /// By rate, like the points.
    runs: Vec<Run>,
    points: Vec<Point>,
    is_lost: bool,
}

impl Sweeper<'_> {
    fn is_over(&self) -> bool {
        self.is_lost || self.interrupt.came()
    }

    fn measure(&mut self, name: String, jobs: Vec<Job>) -> Result<Run, Failure> {
        let target = self.sweep.target.to_string();
        let order = Order { name, target, jobs, judges: Vec::new(), quiet: self.sweep.outputs.quiet };
        let Measured { run, is_lost } = measure(self.target, order, self.interrupt)?;
        self.is_lost |= is_lost;
        Ok(run)
    }

    /// Measures one rate and puts it in its place among the others.
    fn at_rate(&mut self, rate: f64) -> Result<(), Failure> {
        let jobs = plan::jobs(&self.sweep.target, &self.sweep.load, Tempo { rate: Some(rate), ..self.tempo })?;
        let run = self.measure(format!("{rate:.0} a second"), jobs)?;
        let point = Point { asked: rate, reached: run.all.iops, p99_ns: run.all.latency.p99_ns, errors: run.all.errors };
        let place = self.points.partition_point(|other| other.asked < rate);
        self.points.insert(place, point);
        self.runs.insert(place, run);
        Ok(())
    }
}

fn listen() -> Result<Interrupt, Failure> {
    Interrupt::listen().map_err(|error| Failure::Local(format!("cannot listen for Ctrl-C: {error}")))
}

/// Makes the file if that was asked for, looks at what would be overwritten, and opens the target.
fn open(url: &Url, load: &Load, way: &Way, jobs: &[Job], quiet: bool, interrupt: &Interrupt) -> Result<Target, Failure> {
    if let Some(len_bytes) = load.create {
        check_before_making(jobs, len_bytes)?;
        make_file(url, len_bytes, quiet, interrupt)?;
    } else if jobs.iter().any(|job| job.mix.changes_data()) && !load.allow_writes {
        refuse_to_overwrite(url, way, &jobs[0])?;
    }
    let target = Target::open(url, way, Purpose::of(jobs))?;
    jobs[0].check(target.geometry()).map_err(|error| Failure::Usage(with_causes(&error)))?;
    if load.fua && matches!(url, Url::Vhost(_)) && target.geometry().write_cache {
        return Err(Failure::usage("virtio-blk has no FUA; use --flush-every 1 instead of --fua"));
    }
    Ok(target)
}

/// Whether the jobs could run on a new file of this size: a file that is of no use is not made.
fn check_before_making(jobs: &[Job], len_bytes: u64) -> Result<(), Failure> {
    const BLOCK_BYTES: u32 = 512;
    if len_bytes == 0 || !len_bytes.is_multiple_of(u64::from(BLOCK_BYTES)) {
        return Err(Failure::usage(format!("a file of {len_bytes} bytes has no whole number of blocks; use a multiple of {BLOCK_BYTES}")));
    }
    let geometry = Geometry {
        block_bytes: BLOCK_BYTES,
        block_count: len_bytes / u64::from(BLOCK_BYTES),
        memory_align_bytes: BLOCK_BYTES,
        segments_max: 1,
        transfer_max_bytes: u32::MAX,
        physical_block_bytes: BLOCK_BYTES,
        write_cache: true,
        read_only: false,
        features: Features { discard: true, write_zeroes: true },
    };
    jobs[0].check(&geometry).map_err(|error| Failure::Usage(with_causes(&error)))
}

fn make_file(url: &Url, len_bytes: u64, quiet: bool, interrupt: &Interrupt) -> Result<(), Failure> {
    let path = url.path().ok_or_else(|| Failure::usage(format!("--create makes files, and {url} is none")))?;
    if path.exists() {
        return Err(Failure::usage(format!("{} is there already; leave out --create to use it as it is", path.display())));
    }
    let bar = (!quiet).then(|| indicatif::ProgressBar::new(len_bytes).with_message("making the file"));
    let style = indicatif::ProgressStyle::with_template("{msg} {bar:20} {bytes} of {total_bytes}").expect("a constant template");
    let bar = bar.map(|bar| bar.with_style(style));
    let made = create(path, len_bytes, |written| {
        if let Some(bar) = &bar {
            bar.set_position(written);
        }
        !interrupt.came()
    });
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    made.map_err(|error| Failure::local("make", path, &error))
}

/// Shows what came of it, and says how it ended.
fn conclude(runs: Vec<Run>, knee: Option<usize>, outputs: &cli::Outputs, is_lost: bool) -> Result<(), Failure> {
    let errors: u64 = runs.iter().map(|run| run.all.errors).sum();
    let is_sound = |verified: &Verified| verified.wrong == 0 && verified.is_whole();
    let sound = runs.iter().filter_map(|run| run.verified.as_ref()).all(is_sound);
    outputs::write(&outputs::report(runs, knee), outputs)?;
    if is_lost {
        return Err(Failure::Unreachable("the target went away, or does not answer any more; the figures end there".to_owned()));
    }
    if errors > 0 || !sound { Err(Failure::Unclean) } else { Ok(()) }
}
