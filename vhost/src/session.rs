//! One client's session: what was negotiated, its memory, its rings, and the queues that run for it. Knows no listening socket and no reactor.
//!
//! Source: QEMU's `docs/interop/vhost-user.rst`. A request changes everything it asks
//! for or nothing. What a queue was built from changes only while it does not run: it is
//! stopped, drained, and started again where it left off. Form errors end the session;
//! so does a refusal that the client did not ask to be told of.

mod deadline;
mod describe;
pub(crate) mod feature;
mod front_end;
mod handover;
mod homes;
mod inflight;
mod quarantine;
mod requests;
mod vring;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use spinel_core::{Mailbox, OpenError};
use spinel_mem::Region;

pub(crate) use deadline::Deadline;
pub use describe::{MemoryInfo, QueueInfo, SessionInfo};
use feature::protocol;
use front_end::{Answer, FrontEnd};
pub(crate) use handover::UnpackError;
pub(crate) use homes::Homes;
use inflight::{Inflight, InflightError};
pub(crate) use quarantine::Quarantine;
pub(crate) use vring::Hung;
use vring::Vring;

use crate::blk::{self, BlkFeatures, Disk};
use crate::dirty::{DirtyLog, LogError, RingLog, Stretch};
use crate::handover::Bar;
use crate::memory::{Leaving, Memory, MemoryError};
use crate::message::{Code, Inlet, Message, ReadError, WriteError, reply, reply_with};
use crate::queue::{Poked, QueueEvent, QueueSetup};
use crate::ring::{AnyRing, RingAddresses, RingError, RingFault, RingFeatures};

/// What every session of one controller shares.
pub(crate) struct Served {
    pub(crate) name: String,
    pub(crate) disk: Arc<Disk>,
    pub(crate) cores: Arc<[Mailbox]>,
    /// On which of the cores each queue runs.
    pub(crate) homes: Homes,
    pub(crate) queues_max: u16,
    pub(crate) drain_deadline: Duration,
    /// Regions to be pinned go here, if they are to be.
    pub(crate) pins: Option<Sender<Weak<Region>>>,
    /// Wakes the session's thread.
    pub(crate) poke: Arc<Poked>,
}

/// Why a session is over.
#[derive(Debug, thiserror::Error)]
pub(crate) enum End {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error("{code} was refused: {refusal}")]
    Refused { code: Code, refusal: Refusal },
    #[error("queue {index} could not be opened: {source}")]
    Open { index: u16, source: OpenError },
    #[error("no file descriptor is left for queue {index}: {source}")]
    Descriptors { index: u16, source: io::Error },
    #[error("{} requests did not complete within {deadline:?} of stopping their queue", .hung.outstanding)]
    Hung { hung: Hung, deadline: Duration },
}

/// Why a well-formed request is not done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("feature bits {bits:#x} were never offered")]
    Features { bits: u64 },
    #[error("the protocol feature it belongs to was not negotiated")]
    NotNegotiated,
    #[error("there is no queue {index}, only {queues}")]
    Index { index: u32, queues: u16 },
    #[error("a ring of {size} descriptors: the size must be a power of two up to 32768")]
    Size { size: u32 },
    #[error("ring flags {flags:#x} ask for what was not negotiated")]
    RingFlags { flags: u32 },
    #[error("a ring base of {base:#x}: an index of 16 bits, or a packed ring's place and wrap counter in both halves")]
    Base { base: u32 },
    #[error("the descriptor is not an eventfd")]
    NoEventfd,
    #[error("the descriptor is not a stream socket")]
    NoSocket,
    #[error("only the writeback byte at offset 32 of the configuration can be written, with 0 or 1, once CONFIG_WCE is negotiated")]
    Config,
    #[error("a device status of {value:#x}: it has 8 bits")]
    Status { value: u64 },
    #[error(transparent)]
    Memory(#[from] MemoryError),
    #[error(transparent)]
    Inflight(#[from] InflightError),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error("this back end does not serve it")]
    Unknown,
}

/// Why a request was not answered: it alone is refused, or all is over.
enum Trouble {
    Refused(Refusal),
    Over(End),
}

impl<T: Into<Refusal>> From<T> for Trouble {
    fn from(refusal: T) -> Self {
        Self::Refused(refusal.into())
    }
}

impl From<End> for Trouble {
    fn from(end: End) -> Self {
        Self::Over(end)
    }
}

/// What a request is answered with.
enum Outcome {
    /// An acknowledgement, if one was asked for.
    Done,
    /// A reply of the request's own.
    Reply(Vec<u8>),
    /// The same with a descriptor.
    ReplyWith(Vec<u8>, OwnedFd),
}

/// How long the thread that serves messages waits for the requests of a queue that moves. Afterwards it looks now and then.
const MOVE_PATIENCE: Duration = Duration::from_millis(100);

/// How many of a client's faults are logged: a hostile one makes tens of thousands a second.
const COMPLAINTS_MAX: u32 = 100;

/// A connected client.
pub(crate) struct Session {
    served: Arc<Served>,
    /// How many of its faults were logged.
    complaints: u32,
    socket: OwnedFd,
    inlet: Inlet,
    /// None until SET_FEATURES.
    features: Option<u64>,
    protocol_features: u64,
    status: u8,
    /// The writeback byte of the configuration space.
    cache_wanted: bool,
    /// What the queues go by: [`Session::writeback`].
    writeback: Arc<AtomicBool>,
    memory: Memory,
    /// Regions that are to be pinned once queues run.
    unpinned: Vec<Weak<Region>>,
    vrings: Vec<Vring>,
    /// Where what is in flight is on record, if the front end keeps a record.
    inflight: Option<Inflight>,
    /// Where writes to the guest's memory are logged, when they are.
    log: Option<Arc<DirtyLog>>,
    front_end: Option<FrontEnd>,
    /// The front end has yet to hear that the configuration changed.
    config_changed: bool,
    events: (Sender<QueueEvent>, Receiver<QueueEvent>),
}

impl Session {
    pub(crate) fn new(served: Arc<Served>, socket: OwnedFd) -> Self {
        let queues = usize::from(served.queues_max);
        let cache = served.disk.device.geometry().write_cache;
        Self {
            socket,
            inlet: Inlet::new(),
            features: None,
            protocol_features: 0,
            status: 0,
            cache_wanted: cache,
            writeback: Arc::new(AtomicBool::new(false)),
            memory: Memory::new(Arc::clone(&served.cores)),
            unpinned: Vec::new(),
            vrings: (0..queues).map(|_| Vring::default()).collect(),
            inflight: None,
            log: None,
            front_end: None,
            config_changed: false,
            // A run sends one event at most, and events are taken before a queue starts again: twice the queues suffice.
            events: bounded(2 * queues),
            complaints: 0,
            served,
        }
    }

    /// Whether a fault of this client's is still worth a line.
    fn complains(&mut self) -> bool {
        self.complaints = self.complaints.saturating_add(1);
        if self.complaints == COMPLAINTS_MAX {
            tracing::warn!(controller = self.served.name, "no more faults of this client are logged");
        }
        self.complaints < COMPLAINTS_MAX
    }

    /// The client's socket, to be watched for input.
    pub(crate) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// The channel to the front end, to be watched for input while a reply is awaited.
    pub(crate) fn front_end(&self) -> Option<BorrowedFd<'_>> {
        self.front_end.as_ref()?.watched()
    }

    /// Serves what has arrived of the next request, and the request if all of it has.
    pub(crate) fn receive(&mut self) -> Result<(), End> {
        let Some(Message { code, need_reply, request }) = self.inlet.next(self.socket.as_fd())? else { return Ok(()) };
        let outcome = self.serve(request).and_then(|outcome| {
            self.settle()?;
            Ok(outcome)
        });
        let acknowledge = need_reply && self.negotiated(protocol::REPLY_ACK) && !code.answered();
        match outcome {
            Ok(Outcome::Reply(body)) => reply(self.socket.as_fd(), code, &body)?,
            Ok(Outcome::ReplyWith(body, fd)) => reply_with(self.socket.as_fd(), code, &body, &fd)?,
            Ok(Outcome::Done) if acknowledge => reply(self.socket.as_fd(), code, &0_u64.to_ne_bytes())?,
            Ok(Outcome::Done) => {}
            Err(Trouble::Refused(refusal)) if acknowledge => {
                if self.complains() {
                    tracing::warn!(controller = self.served.name, reason = %refusal, "{code} was refused");
                }
                reply(self.socket.as_fd(), code, &1_u64.to_ne_bytes())?;
            }
            Err(Trouble::Refused(refusal)) => return Err(End::Refused { code, refusal }),
            Err(Trouble::Over(end)) => return Err(end),
        }
        Ok(())
    }

    /// Takes the front end's reply to a request of ours.
    pub(crate) fn receive_answer(&mut self) {
        let Some(front_end) = &mut self.front_end else { return };
        match front_end.receive() {
            Answer::None | Answer::Result(0) => {}
            Answer::Result(result) => {
                tracing::warn!(controller = self.served.name, result, "the front end could not take note of the changed configuration");
            }
            Answer::Broken => {
                tracing::warn!(controller = self.served.name, "the front end's channel for our requests is broken and no longer used");
                self.front_end = None;
            }
        }
    }

    /// Lets the guest know that the disk's size has changed.
    pub(crate) fn resized(&mut self) {
        self.config_changed = true;
        self.notify_front_end();
    }

    /// Lets every queue open its channel again, as its device now gives it. `settle` starts them.
    pub(crate) fn reopen(&mut self) -> Result<(), End> {
        self.halt_all()
    }

    /// A region has its pins: the cores clone them.
    pub(crate) fn pinned(&self, region: &Weak<Region>) {
        self.memory.announce_again(region);
    }

    /// Ends it: the queues are stopped and drained, then the memory goes. What has not drained in time comes back, with its memory.
    ///
    /// So does the connection: the client sees it close once all of this is done and known.
    pub(crate) fn end(mut self, patience: Duration) -> (Option<Quarantine>, OwnedFd) {
        let deadline = Deadline::after(patience);
        self.begin_stop_all();
        for vring in &mut self.vrings {
            // Those that miss the deadline are gathered below.
            let _ = vring.finish_stop(&self.served.disk, deadline);
        }
        let draining: Vec<_> = self.vrings.into_iter().filter_map(Vring::into_draining).collect();
        if draining.is_empty() {
            self.memory.release();
            return (None, self.socket);
        }
        (Some(Quarantine { disk: Arc::clone(&self.served.disk), draining, memory: self.memory }), self.socket)
    }

    /// Takes a queue to the core at `to`, and if it does not run, remembers that it belongs there. Others are not disturbed.
    ///
    /// It stops like any ring that its front end stops, and goes on where it was. Requests that take long are not waited
    /// for: the queue moves when they are back. If it cannot run there it goes on where it was, and the reason is answered.
    pub(crate) fn move_queue(&mut self, index: u16, to: usize) -> Result<Option<OpenError>, End> {
        let at = usize::from(index);
        let from = self.served.homes.put(index, to);
        if from == to || self.vrings[at].core().is_none() {
            return Ok(None);
        }
        self.vrings[at].begin_move();
        if self.vrings[at].finish_stop(&self.served.disk, Deadline::after(MOVE_PATIENCE)).is_err() {
            tracing::info!(controller = self.served.name, queue = index, "the queue moves when its requests have come back");
        }
        match self.settle() {
            Err(End::Open { index: refused, source }) if refused == index => {
                self.served.homes.put(index, from);
                self.settle()?;
                Ok(Some(source))
            }
            settled => settled.map(|()| None),
        }
    }

    /// Whether a queue that moves waits for its requests, so that `settle` has to be called now and then.
    pub(crate) fn is_moving(&self) -> bool {
        self.vrings.iter().any(Vring::is_moving)
    }

    /// Brings everything into line after an event or a request: faulted queues stop, wanted ones start, notices go out.
    pub(crate) fn settle(&mut self) -> Result<(), End> {
        for vring in self.vrings.iter_mut().filter(|vring| vring.is_moving()) {
            // What is not back yet is looked for the next time.
            let _ = vring.finish_stop(&self.served.disk, Deadline::after(Duration::ZERO));
        }
        self.take_events();
        self.start_wanted()?;
        if self.runs() {
            self.notify_front_end();
            self.pin_memory();
        }
        Ok(())
    }

    /// Whether a virtio feature was negotiated.
    fn has(&self, feature: u64) -> bool {
        self.features.unwrap_or(0) & feature != 0
    }

    fn negotiated(&self, protocol_feature: u64) -> bool {
        self.protocol_features & protocol_feature != 0
    }

    fn runs(&self) -> bool {
        self.vrings.iter().any(|vring| vring.core().is_some())
    }

    /// What the disk offers, device and session features together.
    fn offered(&self) -> u64 {
        blk::features(&self.served.disk, self.served.queues_max) | feature::OFFERED
    }

    /// Whether completed writes may stay in a volatile cache (virtio 1.2, 5.2.6.2).
    fn writeback(&self) -> bool {
        let features = self.features.unwrap_or(0);
        let has_switch = features & blk::feature::CONFIG_WCE != 0;
        let cache = if has_switch { self.cache_wanted } else { self.served.disk.device.geometry().write_cache };
        features & blk::feature::FLUSH != 0 && cache
    }

    fn publish_writeback(&self) {
        self.writeback.store(self.writeback(), Ordering::Relaxed);
    }

    /// Starts all queues that are wanted, side by side: a core is busy with others, and each of them would wait for it.
    fn start_wanted(&mut self) -> Result<(), End> {
        let mut outcome = Ok(());
        for index in 0..self.served.queues_max {
            if self.vrings[usize::from(index)].wanted() && self.features.is_some() {
                outcome = outcome.and_then(|()| self.begin_start(index));
            }
        }
        // Also after an error: what was begun ends as it should.
        for (index, vring) in (0..).zip(&mut self.vrings) {
            let finished = vring.finish_start(&self.served.disk).map_err(|source| End::Open { index, source });
            outcome = outcome.and(finished.map(drop));
        }
        outcome
    }

    fn begin_start(&mut self, index: u16) -> Result<(), End> {
        let at = usize::from(index);
        let ring = match self.ring(at) {
            Ok(ring) => ring,
            Err(error) => {
                if self.complains() {
                    tracing::warn!(controller = self.served.name, queue = index, reason = %error, "the ring is not where it should be; the queue is not served");
                }
                self.bar(index, Bar::Misplaced);
                return Ok(());
            }
        };
        let Ok(log) = self.ring_log(at) else {
            if self.complains() {
                tracing::warn!(
                    controller = self.served.name,
                    queue = index,
                    "VHOST_F_LOG_ALL is negotiated, and there is no log of all memory (VHOST_USER_SET_LOG_BASE); the queue is not served"
                );
            }
            self.bar(index, Bar::Misplaced);
            return Ok(());
        };
        let owed = ring.owed();
        if owed > 0 {
            tracing::info!(
                controller = self.served.name,
                queue = index,
                requests = owed,
                "what was in flight when it was served last is done again"
            );
        }
        let core = self.core_of(at);
        self.memory.announce(core);
        let vring = &mut self.vrings[at];
        let clone = |fd: &Option<OwnedFd>| fd.as_ref().map(OwnedFd::try_clone).transpose();
        let fds = clone(&vring.kick).and_then(|kick| Ok((kick, clone(&vring.call)?)));
        let (kick, call) = fds.map_err(|source| End::Descriptors { index, source })?;
        let setup = |calls| QueueSetup {
            index,
            name: format!("{}/q{index}", self.served.name),
            disk: Arc::clone(&self.served.disk),
            features: BlkFeatures::negotiated(self.features.unwrap_or(0)),
            writeback: Arc::clone(&self.writeback),
            ring,
            guest: self.memory.map().clone(),
            log,
            kick,
            call,
            calls,
            events: self.events.0.clone(),
            poke: Arc::clone(&self.served.poke),
            meter: self.served.disk.meters.start(),
        };
        vring.begin_start(&self.served.cores[core], setup);
        Ok(())
    }

    /// The core that serves a ring, by its place among the cores.
    fn core_of(&self, at: usize) -> usize {
        self.served.homes.of(u16::try_from(at).expect("at most 64 queues"))
    }

    fn ring(&self, at: usize) -> Result<AnyRing, RingError> {
        let vring = &self.vrings[at];
        let size = vring.size.expect("a wanted ring has a size");
        let addresses = vring.addresses.expect("a wanted ring has a place");
        let features = RingFeatures {
            packed: self.has(feature::RING_PACKED),
            event_idx: self.has(feature::EVENT_IDX),
            indirect: self.has(feature::INDIRECT_DESC),
        };
        let ring = AnyRing::new(self.memory.map(), size, addresses, features, vring.base)?;
        match self.inflight.as_ref().and_then(|inflight| inflight.record(at, size)) {
            Some(place) => ring.on_record(&place, vring.anew),
            None => Ok(ring),
        }
    }

    /// Where a ring logs what it writes, if it is to; an error if it cannot.
    fn ring_log(&self, at: usize) -> Result<Option<RingLog>, NoLog> {
        if !self.has(feature::LOG_ALL) {
            return Ok(None);
        }
        let map = self.memory.map();
        let log = self.log.clone().filter(|log| log.covers(map)).ok_or(NoLog)?;
        let vring = &self.vrings[at];
        let size = u64::from(vring.size.expect("a wanted ring has a size"));
        let RingAddresses { descriptors, used, .. } = vring.addresses.expect("a wanted ring has a place");
        let stretch = |user, len_bytes| map.guest_of_user(user, len_bytes).map(|guest| Stretch { guest, len_bytes });
        let ring = if self.has(feature::RING_PACKED) {
            [stretch(descriptors, 16 * size), stretch(used, 4)]
        } else {
            [stretch(used, 4 + 8 * size + if self.has(feature::EVENT_IDX) { 2 } else { 0 }), None]
        };
        Ok(Some(RingLog { log, ring }))
    }

    /// Serves a ring no longer, and tells its front end so.
    fn bar(&mut self, index: u16, bar: Bar) {
        let vring = &mut self.vrings[usize::from(index)];
        vring.bar = Some(bar);
        vring.begin_stop();
        if let Some(error) = &vring.error {
            signal(error);
        }
    }

    fn take_events(&mut self) {
        while let Ok(QueueEvent::Fault { index, fault }) = self.events.1.try_recv() {
            // A ring that was lost reads as zeroes, which breaks all kinds of rules; the loss is what helps to know.
            let fault = if self.memory.map().poisoned() { RingFault::MemoryLost } else { fault };
            if self.complains() {
                tracing::warn!(controller = self.served.name, queue = index, reason = %fault, "the guest broke its ring; the queue is stopped");
            }
            self.bar(index, Bar::Faulted);
        }
    }

    fn begin_stop_all(&mut self) {
        for vring in &mut self.vrings {
            vring.begin_stop();
        }
    }

    /// Stops and drains one queue. What it reported is known afterwards.
    fn halt(&mut self, at: usize) -> Result<(), End> {
        let deadline = self.served.drain_deadline;
        self.vrings[at].begin_stop();
        let stopped = self.vrings[at].finish_stop(&self.served.disk, Deadline::after(deadline));
        self.take_events();
        stopped.map_err(|hung| End::Hung { hung, deadline })
    }

    /// Stops and drains every queue, all at the same time. What they reported is known afterwards.
    fn halt_all(&mut self) -> Result<(), End> {
        let patience = self.served.drain_deadline;
        let deadline = Deadline::after(patience);
        self.begin_stop_all();
        for vring in &mut self.vrings {
            vring.finish_stop(&self.served.disk, deadline).map_err(|hung| End::Hung { hung, deadline: patience })?;
        }
        self.take_events();
        Ok(())
    }

    /// Takes regions back from the cores, once the queues run without them again.
    fn leave(&mut self, leaving: Leaving) -> Result<(), End> {
        let settled = self.settle();
        self.memory.forget(leaving);
        settled
    }

    /// Says that the configuration changed, unless the device is suspended: then no message may go out.
    fn notify_front_end(&mut self) {
        let need_reply = self.negotiated(protocol::REPLY_ACK);
        if !self.config_changed || !self.negotiated(protocol::CONFIG) || !self.runs() {
            return;
        }
        let Some(front_end) = &mut self.front_end else { return };
        self.config_changed = false;
        if let Err(error) = front_end.send_config_change(need_reply) {
            tracing::warn!(controller = self.served.name, reason = %error, "the front end was not told of the new size");
            self.front_end = None;
        }
    }

    /// Hands regions over for pinning; those that find no room wait for the next time.
    fn pin_memory(&mut self) {
        let Some(pins) = &self.served.pins else { return };
        self.unpinned.retain(|region| matches!(pins.try_send(Weak::clone(region)), Err(TrySendError::Full(_))));
    }
}

/// Writes are to be logged, and there is no log that has a bit for every page.
struct NoLog;

/// Adds one to an eventfd, unless its owner has filled it up and a write would wait.
fn signal(eventfd: &OwnedFd) {
    let mut fds = [PollFd::new(eventfd, PollFlags::OUT)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    if poll(&mut fds, Some(&now)).is_ok_and(|ready| ready == 1) && fds[0].revents().contains(PollFlags::OUT) {
        // A descriptor that takes no count is its owner's loss.
        let _ = rustix::io::write(eventfd, &1_u64.to_ne_bytes());
    }
}
