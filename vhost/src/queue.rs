//! One virtqueue served on one core: the poller between a guest's ring and a channel. Knows no message and no socket.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crossbeam_channel::{Receiver, Sender};
use spinel_core::mem::GuestMap;
use spinel_core::{Meter, Recipe};

use crate::blk::{BlkFeatures, Disk};
use crate::ring::{RingFault, SplitRing};

/// Everything a queue needs to run; built by the session, consumed on the core.
pub struct QueueSetup {
    /// Which of the disk's queues this is, from 0.
    pub index: u16,
    /// Shown in statistics, such as `vhost.0/q3`.
    pub name: String,
    /// The disk this queue belongs to.
    pub disk: Arc<Disk>,
    /// What was negotiated, as far as requests are concerned.
    pub features: BlkFeatures,
    /// Whether completed writes may sit in a volatile cache until a flush (virtio 1.2, 5.2.6.2); shared by the session, which changes it.
    pub writeback: Arc<AtomicBool>,
    /// The guest's ring.
    pub ring: SplitRing,
    /// The guest's memory; every region in it has been announced to the core.
    pub guest: GuestMap,
    /// Wakes the core when the guest kicks; none if the guest is to be polled for.
    pub kick: Option<OwnedFd>,
    /// Notified after completions; none while the guest polls.
    pub call: Option<OwnedFd>,
    /// Later replacements of `call` (VHOST_USER_SET_VRING_CALL on a running ring).
    pub calls: Receiver<Option<OwnedFd>>,
    /// Where the queue reports what its session has to know.
    pub events: Sender<QueueEvent>,
    /// Written to after an event was sent, so that the session's thread wakes.
    pub poke: Arc<Poked>,
    /// This queue's counts.
    pub meter: Arc<Meter>,
}

/// An eventfd that wakes a session's thread.
#[derive(Debug)]
pub struct Poked(pub OwnedFd);

/// What a queue tells its session.
#[derive(Debug)]
pub enum QueueEvent {
    /// The guest broke the ring's rules; the queue takes nothing more from it.
    Fault {
        /// Which queue.
        index: u16,
        /// What was wrong.
        fault: RingFault,
    },
}

/// What is left of a queue once nothing of it flies.
pub struct QueueRemains {
    /// Where to go on: the next available index (VHOST_USER_GET_VRING_BASE).
    pub next_avail: u16,
    /// The parts the session gave; the memory map is dropped by whoever drops this, off the core.
    pub setup: QueueSetup,
}

/// The recipe of a queue, to be made on its core. Its remains are a [`QueueRemains`].
#[must_use]
pub fn recipe(setup: QueueSetup) -> Recipe {
    let _ = setup;
    Box::new(|_core| Err(spinel_core::OpenError::Gone))
}
