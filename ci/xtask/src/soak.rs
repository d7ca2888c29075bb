//! `cargo xtask soak`: what the guest tests do a few times, many times, with all figures. It knows none of them.

use crate::project::Project;
use crate::steps::{Step, Steps};
use crate::{Failure, bed};
use clap::{Args, Subcommand, ValueEnum};
use spinel_e2e::{Bench, CrashPlan, MovePlan, Server, TakeoverPlan, crash, migrate, take_over};
use spinel_testbed::guest::Claim;
use std::fmt;
use std::process::ExitCode;

#[derive(Subcommand)]
pub(crate) enum Soak {
    /// Kill the daemon (SIGKILL) at random moments under verified load, and start it again 0 to 3 s later
    ///
    /// A guest has three disks, each a file below a delay: on one all requests take 100 ms and more, on one every hundredth write
    /// takes 1.5 s after it has come to the file, and on one every request takes 4 s, which is longer than a restart. In the guest,
    /// spinelbench stamps what it writes and checks what it reads. Shown are the requests in flight at the kills, the pauses, and
    /// how much was checked. A request that fails or is wrong, or a disk that stands still for 120 s, ends the run, with what was
    /// counted until then. No kill comes while the guest's QEMU is on its way back: one of 7.2 whose server dies in the middle of
    /// its first messages never speaks to the next.
    Crash {
        /// How often the daemon is killed, with each of the layouts
        #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
        kills: u32,
        /// Chooses the moments; the same seed chooses the same
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Queues of each disk, and processors of the guest
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=8))]
        queues: u16,
        #[command(flatten)]
        common: Common,
    },
    /// Have one daemon take over from another under verified load, and kill either in the middle of it
    ///
    /// A guest has two disks, each a file, one of them slower. In the guest, spinelbench stamps what it writes and checks what it
    /// reads. First daemons take over in peace; then the running and the next one are killed (SIGKILL) in turns, 0 to 60 ms after
    /// the next was started. Where neither is left, one is started by the configuration. Shown is how long disks stood still.
    Takeover {
        /// How often one takes over in peace, with each of the layouts
        #[arg(long, default_value_t = 200)]
        takeovers: u32,
        /// How often one is killed in the middle of it
        #[arg(long, default_value_t = 50)]
        kills: u32,
        /// Chooses the moments; the same seed chooses the same
        #[arg(long, default_value_t = 1)]
        seed: u64,
        #[command(flatten)]
        common: Common,
    },
    /// Move a guest under verified load from QEMU to QEMU, first on spineld's disk and then on qemu-storage-daemon's
    ///
    /// Each QEMU has a socket of its own that leads to the same disk. In the guest, spinelbench and fio check what they read.
    /// Shown is QEMU's own figure of how long the guest ran nowhere.
    Migrate {
        /// How often the guest moves, with each of the servers and the layouts
        #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
        moves: u32,
        /// Leave out qemu-storage-daemon
        #[arg(long)]
        alone: bool,
        #[command(flatten)]
        common: Common,
    },
}

#[derive(Args)]
pub(crate) struct Common {
    /// Only with this layout of rings
    #[arg(long, value_enum)]
    layout: Option<Layout>,
    /// Fetch what is missing without asking (as CI=true does)
    #[arg(long, short)]
    yes: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Layout {
    Split,
    Packed,
}

impl Common {
    /// Whether the rings are packed, for each of the layouts that are wanted.
    fn packed(&self) -> Vec<bool> {
        match self.layout {
            None => vec![false, true],
            Some(layout) => vec![layout == Layout::Packed],
        }
    }
}

impl Soak {
    pub(crate) fn run(&self, project: &Project) -> Result<ExitCode, Failure> {
        let (Self::Crash { common, .. } | Self::Takeover { common, .. } | Self::Migrate { common, .. }) = self;
        bed::agree(common.yes)?;
        let logs = project.fresh_folder(match self {
            Self::Crash { .. } => "soak-crash",
            Self::Takeover { .. } => "soak-takeover",
            Self::Migrate { .. } => "soak-migrate",
        })?;
        let runs = self.runs();
        let mut steps = Steps::new(1 + runs.len());
        let (bench, _sockets) = steps.run("make the testbed ready", |step| bed::bench(project, &logs, step))?;
        let mut broken = Vec::new();
        for (title, run) in runs {
            let (shown, claims) = steps.run(&title, |step| run(&bench, step))?;
            println!("{shown}");
            broken.extend(claims.into_iter().filter(|claim| !claim.held).map(|claim| claim.text));
        }
        if broken.is_empty() {
            println!("No request failed, and nothing that was read was wrong. Logs: {}", logs.display());
            return Ok(ExitCode::SUCCESS);
        }
        println!("These claims do not hold; the logs are in {}\n  {}", logs.display(), broken.join("\n  "));
        Ok(ExitCode::FAILURE)
    }

    /// What is to be run, each with its title.
    fn runs(&self) -> Vec<(String, Run)> {
        let mut runs: Vec<(String, Run)> = Vec::new();
        match self {
            Self::Crash { kills, seed, queues, common } => {
                for packed in common.packed() {
                    let plan = CrashPlan { kills: *kills, seed: *seed, packed, queues: *queues };
                    let run = move |bench: &Bench, step: &Step| {
                        let crashes = crash(bench, &plan, &mut |text| step.say(text))?;
                        Ok(shown(&crashes, &crashes.claims))
                    };
                    runs.push((format!("{kills} kills, {} rings", word(packed)), Box::new(run)));
                }
            }
            Self::Takeover { takeovers, kills, seed, common } => {
                for packed in common.packed() {
                    let plan = TakeoverPlan { takeovers: *takeovers, kills: *kills, seed: *seed, packed };
                    let run = move |bench: &Bench, step: &Step| {
                        let done = take_over(bench, &plan, &mut |text| step.say(text))?;
                        Ok(shown(&done, &done.claims))
                    };
                    runs.push((format!("{takeovers} takeovers and {kills} kills, {} rings", word(packed)), Box::new(run)));
                }
            }
            Self::Migrate { moves, alone, common } => {
                for packed in common.packed() {
                    for server in [Server::Spineld, Server::StorageDaemon] {
                        // It has no packed rings, and its guest then has split ones.
                        if server == Server::StorageDaemon && (*alone || packed) {
                            continue;
                        }
                        let plan = MovePlan { moves: *moves, server, packed };
                        let run = move |bench: &Bench, step: &Step| {
                            let moves = migrate(bench, &plan, &mut |text| step.say(text))?;
                            Ok(shown(&moves, &moves.claims))
                        };
                        runs.push((format!("{moves} moves, {} rings, {server}", word(packed)), Box::new(run)));
                    }
                }
            }
        }
        runs
    }
}

/// Does it, and answers the figures and the claims.
type Run = Box<dyn Fn(&Bench, &Step) -> Result<(String, Vec<Claim>), Failure>>;

fn shown(figures: &dyn fmt::Display, claims: &[Claim]) -> (String, Vec<Claim>) {
    (figures.to_string(), claims.to_vec())
}

fn word(packed: bool) -> &'static str {
    if packed { "packed" } else { "split" }
}
