//! Verified loads on simulated disks, sound and faulty, and their logs after crashes. Knows no real device.
#![forbid(unsafe_code)]

mod crashes;
mod planted;
mod simulated;

use std::sync::Arc;

use spinel_core::{Device, Geometry, Poller as _, Progress};
use spinel_load::{
    Findings, Identity, Job, Length, LoadPoller, Memory, Mix, Sizes, Verification, WRONGS, WriteLog, feed, fill_job, sweep_job,
};
use spinel_sim::Rig;

/// A disk under verification.
struct Bench<'a> {
    rig: Rig,
    device: &'a dyn Device,
    verification: Verification,
}

fn verification(geometry: &Geometry, volume: u64, log: Option<&Arc<WriteLog>>) -> Verification {
    Verification::new(Identity { volume, epoch: 0, job: 0 }, geometry, (0, geometry.len_bytes()), log).unwrap()
}

impl<'a> Bench<'a> {
    fn new(rig: Rig, device: &'a dyn Device, volume: u64, log: Option<&Arc<WriteLog>>) -> Self {
        let verification = verification(&device.geometry(), volume, log);
        Self { rig, device, verification }
    }

    /// A poller with its judge, and the watcher's end.
    fn load(&mut self, job: &Job) -> (LoadPoller, spinel_load::Intake) {
        let (outlet, intake) = feed(|kind| job.sends(kind));
        let memory = Memory::anonymous(job).unwrap();
        memory.announce(&mut self.rig.core);
        let channel = self.device.open(&mut self.rig.core, job.depth).unwrap();
        let poller = LoadPoller::new(job.clone(), self.device.geometry(), channel, memory, outlet).unwrap();
        (poller.judged(Box::new(self.verification.verifier(job.depth))), intake)
    }

    /// A job to its end.
    fn run(&mut self, job: &Job) {
        let (mut poller, intake) = self.load(job);
        while !intake.is_over() {
            assert_ne!(poller.poll(self.rig.begin_turn()), Progress::Stopped);
            self.rig.end_turn();
        }
        Box::new(poller).retire(&mut self.rig.core);
    }

    fn fill(&mut self, job: &Job) {
        self.run(&fill_job(job, &self.device.geometry()));
    }

    fn sweep(&mut self, job: &Job) {
        self.run(&sweep_job(job, &self.device.geometry()));
    }

    fn findings(&self) -> Findings {
        self.verification.findings()
    }
}

/// Reads and writes of one to four blocks, anywhere.
fn mixed(geometry: &Geometry, seed: u64, requests: u64) -> Job {
    let block = geometry.block_bytes;
    Job {
        mix: Mix { read: 50, write: 50, ..Mix::default() },
        sizes: Sizes { min_bytes: block, max_bytes: 4 * block },
        depth: 8,
        seed,
        length: Length { requests: Some(requests), ..Length::default() },
        ..Job::new()
    }
}

/// Some of everything.
fn everything(geometry: &Geometry, seed: u64, requests: u64) -> Job {
    let mix = Mix { read: 45, write: 35, flush: 4, discard: 8, write_zeroes: 8 };
    Job { mix, fua: seed.is_multiple_of(3), ..mixed(geometry, seed, requests) }
}

/// The names that were given, with how often.
fn names(findings: &Findings) -> Vec<(&'static str, u64)> {
    WRONGS.into_iter().zip(findings.by_name).filter(|(_, count)| *count > 0).collect()
}

fn words(findings: &Findings) -> String {
    findings.kept.iter().map(|finding| format!("{finding}\n")).collect()
}
