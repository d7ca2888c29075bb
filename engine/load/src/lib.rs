//! Loads on a channel: which requests, when each is due, and what came of them. Knows no target and no report.
//!
//! A [`Job`] says what is asked for. What came of it travels as [`Tally`]s, one for each
//! stretch of time, from the core that works to whoever watches: they are filled in
//! place, handed over whole, and come back empty, so that watching costs the load nothing.
#![forbid(unsafe_code)]

mod feed;
mod job;
mod judge;
mod tally;

pub use feed::{Gone, Intake, Outlet, feed};
pub use job::{Area, Arrival, Job, JobError, Length, Mix, Order, Sizes};
pub use judge::{Case, Judge, UNTOUCHED};
pub use tally::{Ended, OpTally, STATUSES, Tally, status_index};
