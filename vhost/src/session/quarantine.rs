//! What is left of a session whose requests did not come back in time. Knows no client.

use std::sync::Arc;

use crossbeam_channel::{Receiver, Select};

use super::deadline::Deadline;
use super::vring::Draining;
use crate::blk::Disk;
use crate::memory::Memory;

/// Queues that still drain, and the memory their requests may still touch: it stays mapped and announced until the last one is over.
///
/// No client is served meanwhile: an old write could land on top of a newer one.
pub(crate) struct Quarantine {
    pub(super) disk: Arc<Disk>,
    pub(super) draining: Vec<Draining>,
    pub(super) memory: Memory,
}

impl Quarantine {
    /// Requests that have not come back.
    pub(crate) fn outstanding(&self) -> u64 {
        self.draining.iter().map(Draining::outstanding).sum()
    }

    /// Waits until all is over, but only to the deadline, and only as long as nothing arrives on `commands`. The rest comes back.
    pub(crate) fn wait<T>(mut self, commands: &Receiver<T>, deadline: Deadline) -> Option<Self> {
        while !self.draining.is_empty() {
            let mut select = Select::new();
            select.recv(commands);
            for draining in &self.draining {
                select.recv(draining.remains());
            }
            let timely = deadline.select(&mut select);
            let now = Deadline::after(std::time::Duration::ZERO);
            self.draining.retain(|draining| draining.finish(&self.disk, now).is_err());
            if !self.draining.is_empty() && (!timely || !commands.is_empty()) {
                return Some(self);
            }
        }
        self.memory.release();
        None
    }
}
