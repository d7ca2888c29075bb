//! A running guest moves from one QEMU to another. It knows nothing of what the guest does meanwhile.

use super::{Guest, GuestError};
use crate::clock::Deadline;
use crate::qmp::{Qmp, QmpError};
use serde_json::{Value, json};
use std::time::Duration;

/// How often QEMU is asked how far it is.
const LOOK: Duration = Duration::from_millis(50);
/// More than a Unix socket takes.
const BYTES_PER_S: u64 = 8 << 30;
/// An emulated guest and two QEMUs on few processors: no word of QEMU's comes sooner than its turn.
const QUIT: Duration = Duration::from_secs(30);

/// What a move took, in QEMU's figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moved {
    /// How long the guest ran nowhere, in milliseconds.
    pub downtime_ms: u64,
    /// From the first page to the last, in milliseconds.
    pub total_ms: u64,
    /// Bytes of its memory that were sent.
    pub sent_bytes: u64,
}

impl Guest {
    /// Moves this guest to another QEMU, which [arrives](super::Plan::arrives) with the same plan and from then on is the guest,
    /// and ends the QEMU it has left.
    /// It is stopped once what is still to be sent fits into `downtime_limit_ms`.
    ///
    /// # Errors
    /// [`GuestError::Control`] when a QEMU refuses or the migration fails, and how the guest ended when it ends.
    pub fn move_to(&mut self, to: &mut Self, downtime_limit_ms: u64, deadline: Deadline) -> Result<Moved, GuestError> {
        let uri = format!("unix:{}", to.files.control.with_extension("in").display());
        let limits = json!({"downtime-limit": downtime_limit_ms, "max-bandwidth": BYTES_PER_S});
        let mut there = Qmp::connect(&to.files.control).map_err(|e| to.uncontrolled(e))?;
        there.call("migrate-incoming", json!({"uri": uri})).map_err(|e| to.uncontrolled(e))?;
        let mut here = Qmp::connect(&self.files.control).map_err(|e| self.uncontrolled(e))?;
        here.call("migrate-set-parameters", limits).map_err(|e| self.uncontrolled(e))?;
        here.call("migrate", json!({"uri": uri})).map_err(|e| self.uncontrolled(e))?;
        let moved = self.until_moved(&mut here, deadline)?;
        // What the guest has said here last is read to its end before what it says there.
        here.call("quit", json!({})).map_err(|e| self.uncontrolled(e))?;
        while self.line("the end of QEMU", Deadline::after(QUIT))?.is_some() {}
        self.status(Deadline::after(QUIT))?;
        to.unread.splice(0..0, self.unread.drain(..));
        to.claims.splice(0..0, self.claims.drain(..));
        to.reports.splice(0..0, self.reports.drain(..));
        Ok(moved)
    }

    /// Waits until QEMU says that the guest is gone from here.
    fn until_moved(&mut self, here: &mut Qmp, deadline: Deadline) -> Result<Moved, GuestError> {
        loop {
            // The guest goes on talking. No line of its begins so.
            self.heard("\0", Deadline::after(LOOK))?;
            let seen = here.call("query-migrate", json!({})).map_err(|e| self.uncontrolled(e))?;
            match seen["status"].as_str().unwrap_or_default() {
                "completed" => return Ok(moved(&seen)),
                status @ ("failed" | "cancelled") => {
                    let reason = seen["error-desc"].as_str().map(|reason| format!(": {reason}")).unwrap_or_default();
                    return Err(self.uncontrolled(QmpError::Migration { status: status.to_owned(), reason }));
                }
                _ if deadline.left().is_none() => return Err(self.late("the end of the migration")),
                _ => {}
            }
        }
    }
}

fn moved(seen: &Value) -> Moved {
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    Moved { downtime_ms: number(&seen["downtime"]), total_ms: number(&seen["total-time"]), sent_bytes: number(&seen["ram"]["transferred"]) }
}
