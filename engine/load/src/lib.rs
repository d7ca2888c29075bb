//! Loads on a channel: which requests, when each is due, and what came of them. Knows no target and no report.
//!
//! A [`Job`] says what is asked for. What came of it travels as [`Tally`]s, one for each
//! stretch of time, from the core that works to whoever watches: they are filled in
//! place, handed over whole, and come back empty, so that watching costs the load nothing.
//!
//! A [`LoadPoller`] does the work, on whatever core runs it: its [`Generator`] says which
//! request comes next, its [`Schedule`] when. A [`Load`] is what makes one there.
//!
//! What a load writes can carry a [`Stamp`] in every sector, and what it reads can be
//! judged by a [`Checker`], which remembers what each sector may hold.
#![forbid(unsafe_code)]

mod checker;
mod feed;
mod findings;
mod generator;
mod job;
mod judge;
mod judged;
mod log;
mod memory;
mod poller;
mod prng;
mod recipe;
mod register;
mod replay;
mod schedule;
mod sectors;
mod stamp;
mod tally;
mod verify;
mod wire;
mod zipf;

pub use checker::{Checked, Checker, Flush, Initial, Read, Violation, Write};
pub use feed::{Gone, Intake, Outlet, feed};
pub use findings::{FINDINGS_KEPT, Finding, Findings, WRONGS, wrong_index};
pub use generator::{Ask, Generator};
pub use job::{Area, Arrival, BATCH_MAX, Job, JobError, Length, Mix, Order, Sizes};
pub use judge::{Case, Judge, UNTOUCHED};
pub use log::{LogError, LogHeader, LogReader, Logged, Record, WriteLog};
pub use memory::{Memory, MemoryError};
pub use poller::{LoadPoller, LoadRemains};
pub use prng::{Prng, mix};
pub use recipe::Load;
pub use replay::{After, Doing, Logs, Outcome, Replayed, Step, UNDECIDED_MAX, replay, verify_log};
pub use schedule::Schedule;
pub use stamp::{Found, SECTOR_BYTES, Stamp, Wrong};
pub use tally::{Ended, OpTally, STATUSES, Tally, status_index};
pub use verify::{Identity, TooLarge, VERIFIED_MAX_BYTES, Verification, Verifier, fill_job, split_area, sweep_job};
pub use wire::{STATUS_NAMES, WireError, WireOp, WireTally, histogram_to_text, kind_name};
