//! Whether a disk keeps what is written: beside a load, and after a crash by the load's log. Knows no target's kind.

use std::path::Path;
use std::sync::Arc;

use indicatif::{ProgressBar, ProgressStyle};
use spinel_core::{Lba, Status};
use spinel_load::{
    Checked, Doing, Findings, Identity, Job, Judge, LogHeader, Outcome, Prng, Step, TooLarge, Verification, WriteLog, replay, split_area,
    sweep_job,
};
use spinelbench::report::Verified;

use crate::cli::{self, After};
use crate::failure::{Failure, with_causes};
use crate::machine;
use crate::outputs;
use crate::target::{Purpose, Target};
use crate::url::Url;

/// The verification of all jobs of a run: each has a part of the area to itself.
pub(crate) struct Verifications {
    parts: Vec<Verification>,
    log: Option<Arc<WriteLog>>,
}

impl Verifications {
    /// Divides the area among the jobs, and begins the log.
    ///
    /// # Errors
    /// When the area is too large or too small, or the log cannot be written.
    pub(crate) fn new(target: &Target, url: &Url, jobs: &mut [Job], log: Option<&Path>) -> Result<Self, Failure> {
        let geometry = target.geometry();
        let area = jobs[0].area_on(geometry);
        TooLarge::check(area.1).map_err(|error| Failure::Usage(with_causes(&error)))?;
        let count = u16::try_from(jobs.len()).expect("jobs are few");
        let too_small = || Failure::usage(format!("an area of {} bytes has no room for a part for each of {count} jobs", area.1));
        let parts = split_area(area, count, jobs[0].sizes.max_bytes).ok_or_else(too_small)?;
        // Stamps of an earlier run on the same disk must not be taken for this one's.
        let volume = Prng::new(machine::unix_ms() ^ u64::from(std::process::id()) << 44).bits();
        let header = || LogHeader {
            volume,
            seed: jobs[0].seed,
            epoch: 0,
            block_bytes: geometry.block_bytes,
            disk_bytes: geometry.len_bytes(),
            area_bytes: area,
            write_cache: geometry.write_cache,
            target: url.to_string(),
        };
        let log = log.map(|path| WriteLog::create(path, &header()).map(Arc::new)).transpose();
        let log = log.map_err(|error| Failure::Local(with_causes(&error)))?;
        let mut verifications = Vec::new();
        for ((job, part), number) in jobs.iter_mut().zip(parts).zip(0..) {
            job.area = part;
            let identity = Identity { volume, epoch: 0, job: number };
            let verification = Verification::new(identity, geometry, job.area_on(geometry), log.as_ref());
            verifications.push(verification.map_err(|error| Failure::Usage(with_causes(&error)))?);
        }
        Ok(Self { parts: verifications, log })
    }

    /// A judge for each of the jobs.
    pub(crate) fn judges(&self, jobs: &[Job]) -> Vec<Box<dyn Judge>> {
        self.parts.iter().zip(jobs).map(|(part, job)| Box::new(part.verifier(job.depth)) as Box<dyn Judge>).collect()
    }

    /// Jobs that read everything once more after these.
    pub(crate) fn sweeps(target: &Target, jobs: &[Job]) -> Vec<Job> {
        jobs.iter().map(|job| sweep_job(job, target.geometry())).collect()
    }

    /// Whether anything was wrong by now.
    pub(crate) fn is_clean(&self) -> bool {
        self.parts.iter().all(|part| part.violations() == 0)
    }

    /// What was seen by now; how many requests failed when everything was read back, or that it was not.
    pub(crate) fn verdict(&self, read_back: Option<u64>) -> Verified {
        let mut findings = Findings::default();
        let (mut sectors, mut stamps) = (0, 0);
        for part in &self.parts {
            findings.add(&part.findings());
            let checked = part.checked().unwrap_or_default();
            sectors += checked.sectors_read;
            stamps += checked.stamps_read;
        }
        Verified {
            sectors,
            stamps,
            wrong: findings.violations(),
            unreadable: read_back.unwrap_or(0),
            read_back: read_back.is_some(),
            findings: words(&findings),
        }
    }

    /// Whether the log is whole.
    ///
    /// # Errors
    /// What made it end too early.
    pub(crate) fn check_log(&self) -> Result<(), Failure> {
        match self.log.as_ref().and_then(|log| log.failure()) {
            Some(error) => Err(Failure::Local(format!("the log of writes ends too early, and proves nothing: {error}"))),
            None => Ok(()),
        }
    }
}

fn words(findings: &Findings) -> Vec<String> {
    findings.kept.iter().map(ToString::to_string).collect()
}

/// Checks a disk by the log of what was written to it.
///
/// # Errors
/// What was in the way; [`Failure::Unclean`] if something is wrong with the disk.
pub(crate) fn run(verify: &cli::Verify) -> Result<(), Failure> {
    let after = match verify.after {
        After::Kill => spinel_load::After::Kill,
        After::PowerCut => spinel_load::After::PowerCut,
    };
    let mut bar = Bar::new(verify.quiet);
    let replayed = replay(&verify.log, after, &mut |step| bar.show(step)).map_err(|error| Failure::Local(with_causes(&error)))?;
    let way = cli::Way { cores: None, wait: None, packed: false, queue_size: None };
    let target = Target::open(&verify.target, &way, Purpose::reading())?;
    replayed.header().check(target.geometry()).map_err(|error| Failure::Usage(with_causes(&error)))?;
    let mut reader = target.reader()?;
    let mut is_lost = false;
    let outcome = replayed.read_back(
        &mut |start: Lba, into: &mut [u8]| {
            let status = reader.read(start, into);
            is_lost |= status == Status::Aborted;
            status
        },
        &mut |step| bar.show(step),
    );
    reader.close();
    bar.clear();
    outputs::print(&text(&outcome))?;
    match outcome {
        _ if is_lost => Err(Failure::Unreachable("the target went away; what follows was not read".to_owned())),
        Outcome { unreadable: 0, findings, .. } if findings.violations() == 0 => Ok(()),
        _ => Err(Failure::Unclean),
    }
}

fn text(outcome: &Outcome) -> String {
    let Outcome { logs, checked: Checked { sectors_read, stamps_read, .. }, unreadable, findings } = outcome;
    let mut text = format!(
        "The log: {} writes acknowledged, {} failed, {} in flight at its end, {} flushes.\n\
         Read back: {sectors_read} sectors, {stamps_read} of them with a stamp; {} wrong, {unreadable} unreadable.\n",
        logs.acknowledged,
        logs.failed,
        logs.open,
        logs.flushes,
        findings.violations()
    );
    if logs.not_judged > 0 {
        text.push_str(&format!("Not judged, because too much is uncertain about them: {} sectors.\n", logs.not_judged));
    }
    words(findings).iter().for_each(|finding| text.push_str(&format!("  {finding}\n")));
    text
}

/// How far a check has come.
struct Bar(Option<(ProgressBar, Doing)>, bool);

impl Bar {
    fn new(quiet: bool) -> Self {
        Self(None, quiet)
    }

    fn show(&mut self, step: Step) {
        let Step { doing, done_bytes, of_bytes } = step;
        if self.1 {
            return;
        }
        if self.0.as_ref().is_none_or(|(_, before)| *before != doing) {
            self.clear();
            let style = ProgressStyle::with_template("{msg} {bar:20} {bytes} of {total_bytes}").expect("a constant template");
            let what = match doing {
                Doing::Scanning => "looking for the last flush",
                Doing::Replaying => "reading the log",
                Doing::Reading => "reading the disk",
            };
            self.0 = Some((ProgressBar::new(of_bytes).with_style(style).with_message(what), doing));
        }
        if let Some((bar, _)) = &self.0 {
            bar.set_position(done_bytes);
        }
    }

    fn clear(&mut self) {
        if let Some((bar, _)) = self.0.take() {
            bar.finish_and_clear();
        }
    }
}
