//! A load inside the engine: on which bdev and core it runs, and what it has to tell. Knows no method's parameters.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError};
use serde_json::{Value, json};
use spinel_control::RpcError;
use spinel_core::{Geometry, Mailbox, OpenError, PollerId, Remains};
use spinel_load::{Ended, Intake, Job, Load, Memory, MemoryError, WireTally, feed};

use crate::disks::{Bdev, errno};
use crate::kinds::chain;

/// How many benches there may be.
pub(crate) const BENCHES_MAX: usize = 64;
/// How much memory the requests of one may take.
pub(crate) const BENCH_BYTES_MAX: u64 = 256 << 20;

/// How long requests in flight are waited for when a bench is stopped.
const DRAIN_DEADLINE: Duration = Duration::from_secs(5);
/// How long a bench that has ended is remembered.
const REMEMBERED_NS: u64 = 60_000_000_000;

/// A job that runs on a bdev, or has ended a moment ago.
pub(crate) struct Bench {
    pub(crate) id: u64,
    pub(crate) bdev: String,
    /// Whether it changes what the bdev holds.
    pub(crate) writes: bool,
    geometry: Geometry,
    mailbox: Mailbox,
    poller: PollerId,
    intake: Intake,
    /// What its poller leaves, once that was told to stop.
    remains: Option<Receiver<Remains>>,
    /// When it was found to have ended.
    ended_ns: Option<u64>,
    /// How, once that was told.
    ended: Option<Ended>,
}

impl Bench {
    /// Starts a job that makes sense on a bdev, on the core behind `mailbox`.
    pub(crate) fn start(id: u64, bdev: &Bdev, job: Job, mailbox: &Mailbox) -> Result<Self, RpcError> {
        let device = bdev.device();
        let (geometry, writes) = (device.geometry(), job.mix.changes_data());
        let memory = Memory::anonymous(&job).map_err(|error| no_memory(&error))?;
        // Should it not start, the last share of its memory is here, and not on the core.
        let kept = Arc::clone(memory.region());
        let (outlet, intake) = feed(|kind| job.sends(kind));
        let load = Load { name: format!("bench/{id}"), job, device, memory, outlet, judge: None };
        let poller = mailbox.add(load.recipe()).map_err(|error| refuse(bdev, &error))?;
        drop(kept);
        tracing::info!("bench {id} runs on bdev '{}'", bdev.name);
        let (bdev, mailbox) = (bdev.name.clone(), mailbox.clone());
        Ok(Self { id, bdev, writes, geometry, mailbox, poller, intake, remains: None, ended_ns: None, ended: None })
    }

    /// Its name among the pollers.
    pub(crate) fn name(&self) -> String {
        format!("bench/{}", self.id)
    }

    /// The core it runs on.
    pub(crate) fn core(&self) -> spinel_core::CoreId {
        self.mailbox.core()
    }

    /// Whether it has ended by itself or was stopped, and holds its bdev no longer.
    pub(crate) fn is_over(&self) -> bool {
        self.intake.is_over()
    }

    /// Takes a bench that has ended from its core.
    pub(crate) fn settle(&mut self, now_ns: u64) {
        if self.is_over() && self.ended_ns.is_none() && self.retire() {
            self.ended_ns = Some(now_ns);
        }
    }

    /// Whether it has ended so long ago that nobody will ask for it.
    pub(crate) fn is_stale(&self, now_ns: u64) -> bool {
        self.ended_ns.is_some_and(|ended_ns| now_ns.saturating_sub(ended_ns) > REMEMBERED_NS)
    }

    /// Ends it; -16 if requests do not come back in time, and then it can be tried again.
    pub(crate) fn stop(&mut self) -> Result<(), RpcError> {
        if self.retire() {
            return Ok(());
        }
        let (id, bdev, seconds) = (self.id, &self.bdev, DRAIN_DEADLINE.as_secs());
        let message =
            format!("bench {id} sends nothing more, but its requests to bdev '{bdev}' have not come back in {seconds} s; try again");
        Err(RpcError::errno(errno::BUSY, message))
    }

    /// Stops its poller and unmaps its memory; whether that was possible in time.
    fn retire(&mut self) -> bool {
        let remains = self.remains.get_or_insert_with(|| self.mailbox.stop(self.poller));
        // Without a sender its poller is gone: since the last time, or with its core.
        !matches!(remains.recv_timeout(DRAIN_DEADLINE), Err(RecvTimeoutError::Timeout))
    }

    /// What it has to tell since the last time.
    pub(crate) fn tell(&mut self) -> Value {
        let mut tallies = Vec::new();
        while let Ok(Some(tally)) = self.intake.take(|tally| WireTally::from(tally)) {
            self.ended = tally.ended.or(self.ended);
            tallies.push(tally);
        }
        let Geometry { block_bytes, block_count, physical_block_bytes, transfer_max_bytes, write_cache, read_only, .. } = self.geometry;
        json!({
            "id": self.id,
            "name": self.bdev,
            "core": self.core().0,
            "ended": self.ended,
            "tallies": tallies,
            "geometry": {
                "block_size": block_bytes,
                "num_blocks": block_count,
                "physical_block_size": physical_block_bytes,
                "transfer_max_bytes": transfer_max_bytes,
                "write_cache": write_cache,
                "read_only": read_only,
            },
        })
    }
}

fn no_memory(error: &MemoryError) -> RpcError {
    RpcError::errno(errno::NO_MEMORY, chain(error))
}

fn refuse(bdev: &Bdev, error: &OpenError) -> RpcError {
    let message = format!("bdev '{}' could not be opened once more: {}", bdev.name, chain(error));
    match error {
        OpenError::Depth { .. } => RpcError::invalid_params(message),
        OpenError::System { source, .. } => RpcError::io(source, message),
        _ => RpcError::errno(errno::BUSY, message),
    }
}
