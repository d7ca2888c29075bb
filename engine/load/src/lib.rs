//! Loads on a channel: which requests, when each is due, and what came of them. Knows no target and no report.
//!
//! A [`Job`] says what is asked for. What came of it travels as [`Tally`]s, one for each
//! stretch of time, from the core that works to whoever watches: they are filled in
//! place, handed over whole, and come back empty, so that watching costs the load nothing.
//!
//! What a load writes can carry a [`Stamp`] in every sector, and what it reads can be
//! judged by a [`Checker`], which remembers what each sector may hold.
#![forbid(unsafe_code)]

mod checker;
mod feed;
mod job;
mod judge;
mod prng;
mod register;
mod stamp;
mod tally;

pub use checker::{Checked, Checker, Flush, Read, Violation, Write};
pub use feed::{Gone, Intake, Outlet, feed};
pub use job::{Area, Arrival, Job, JobError, Length, Mix, Order, Sizes};
pub use judge::{Case, Judge, UNTOUCHED};
pub use prng::{Prng, mix};
pub use stamp::{Found, SECTOR_BYTES, Stamp, Wrong};
pub use tally::{Ended, OpTally, STATUSES, Tally, status_index};
