//! Moving a disk's queues between cores while they run. Knows no ring.

use std::sync::Arc;

use crossbeam_channel::{Sender, bounded};
use spinel_core::{CoreId, OpenError};

use super::Shared;
use super::worker::Command;

/// Why a queue was not moved. It runs on where it was.
#[derive(Debug, thiserror::Error)]
pub enum MoveError {
    /// The disk has fewer queues.
    #[error("{name} has no queue {queue}: it has 0 to {last}")]
    NoQueue {
        /// The controller.
        name: String,
        /// What was asked for.
        queue: u16,
        /// Its last queue.
        last: u16,
    },
    /// The controller was not given that core.
    #[error("{name} does not run on core {}, but on {}", core.0, named(cores))]
    NotItsCore {
        /// The controller.
        name: String,
        /// What was asked for.
        core: CoreId,
        /// Those it was given.
        cores: Vec<CoreId>,
    },
    /// The device could not be opened there.
    #[error("queue {queue} of {name} cannot run on core {}: {source}", core.0)]
    Refused {
        /// The controller.
        name: String,
        /// Which queue.
        queue: u16,
        /// Which core.
        core: CoreId,
        /// Why not.
        source: OpenError,
    },
    /// The controller was stopped, or its client's connection ended on the way.
    #[error("{0} serves nobody any more")]
    Stopped(String),
}

fn named(cores: &[CoreId]) -> String {
    cores.iter().map(|core| core.0.to_string()).collect::<Vec<_>>().join(", ")
}

/// Moves one controller's queues. It does not keep the controller running.
#[derive(Clone, Debug)]
pub struct Mover {
    name: String,
    queues_max: u16,
    cores: Vec<CoreId>,
    commands: Sender<Command>,
    shared: Arc<Shared>,
}

impl Mover {
    pub(super) fn new(name: &str, queues_max: u16, cores: Vec<CoreId>, commands: Sender<Command>, shared: &Arc<Shared>) -> Self {
        Self { name: name.to_owned(), queues_max, cores, commands, shared: Arc::clone(shared) }
    }

    /// The cores that queues can move to.
    #[must_use]
    pub fn cores(&self) -> &[CoreId] {
        &self.cores
    }

    /// Moves a queue to another core. One that does not run is remembered, and runs there when its guest starts it; so does
    /// each of its successors, until it is moved again.
    ///
    /// A queue stops taking requests, waits for those in flight, and goes on there. If they take longer than a moment this
    /// does not wait for them: the queue moves when they are back. Other queues go on meanwhile.
    ///
    /// # Errors
    /// [`MoveError`]; the queue then goes on where it was.
    pub fn move_queue(&self, queue: u16, core: CoreId) -> Result<(), MoveError> {
        if queue >= self.queues_max {
            return Err(MoveError::NoQueue { name: self.name.clone(), queue, last: self.queues_max - 1 });
        }
        let Some(to) = self.cores.iter().position(|own| *own == core) else {
            return Err(MoveError::NotItsCore { name: self.name.clone(), core, cores: self.cores.clone() });
        };
        let (reply, answer) = bounded(1);
        let stopped = || MoveError::Stopped(self.name.clone());
        self.commands.send(Command::Move { queue, to, reply }).map_err(|_| stopped())?;
        self.shared.wake();
        match answer.recv().map_err(|_| stopped())? {
            None => Ok(()),
            Some(source) => Err(MoveError::Refused { name: self.name.clone(), queue, core, source }),
        }
    }
}
