//! One core's io_uring, shared by all its channels and by its sleep. Knows no file and no request.
//!
//! Every completion carries a port and a slot. A port belongs to one channel and has
//! its own queue, preallocated for all its slots; a port is given away again only when
//! nothing of it is in flight, so that no late completion reaches a stranger. Parties
//! ([`Party`](crate::party::Party)) are for submissions with any number of completions.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use io_uring::squeue::Entry;
use io_uring::types::{Fd, Timespec};
use io_uring::{cqueue, opcode};
use spinel_core::{Armed, Driver, Instant, OpenError, Progress};
use spinel_mem::{Region, RegionId, Segment};

use crate::buffers::Buffers;
use crate::files::{Files, Target};
use crate::options::{Options, Setup};
use crate::party::{Answer, Parties, Party, PartyId, Registered};
use crate::pool::Pool;
use crate::queues::Queues;
use crate::watch::{Watches, Wish};

/// What a slot has been waiting for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Event {
    /// The kernel's answer.
    Answer(i32),
    /// A bounce chunk.
    Chunk(u16),
    /// The end of a pause.
    Pause,
}

/// A channel's place on the ring.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct PortId(u32);

struct Port {
    /// Never holds more than one event per slot.
    events: VecDeque<(u32, Event)>,
    /// Submissions without a completion yet, waits for chunks and pauses.
    owed: u32,
    depth: u16,
    pool: Pool,
}

/// A slot that asked for a pause.
struct Paused {
    until: Instant,
    port: u32,
    slot: u32,
}

/// Bytes of zeroes to write from.
pub(crate) const ZEROES_BYTES: u32 = 256 * 1024;
/// Completions of these ports belong to the ring itself.
const WATCH_PORT: u32 = u32::MAX;
const REMOVE_PORT: u32 = u32::MAX - 1;
/// Set in the port's half of a completion's name if it is for a party.
const PARTY: u32 = 1 << 31;
/// How many entries a party may have in the submission queue at a time: room for its backlog.
const PARTY_ENTRIES: usize = 5;
/// So many waiting submissions are worth a system call of their own: batches then start while the turn goes on.
const SUBMIT_AT: u32 = 4;
/// `IOU_PBUF_RING_INC` (linux/io_uring.h), since Linux 6.12.
const BUFFERS_IN_PARTS: u16 = 2;
/// Set in the slot's half of a completion's name if helper threads of the kernel have a part in it.
const HELPED: u32 = 1 << 31;
/// How long helper threads of the kernel that have work for us are kept from this core, if it has nothing to do itself.
const LEND_IDLE_NS: u64 = 10_000;
/// The same, if it has.
const LEND_BUSY_NS: u64 = 200_000;
/// How often one turn asks the kernel for more of the completions it holds back (about 20 each time).
const REAP_ROUNDS: u32 = 8;
/// How long a request waits that the kernel had no room for.
const PAUSE_NS: u64 = 1_000_000;
/// The longest sleep when some watched descriptor cannot wake us.
const DEAF_NS: u64 = 1_000_000;

/// A core's ring: a [`Driver`] for its channels, and what the core sleeps in.
///
/// It belongs to the thread that made it.
pub struct Ring {
    queues: Queues,
    ports: Vec<Option<Port>>,
    parties: Parties,
    /// Submissions of channels without a completion yet.
    in_flight: u32,
    /// Those among them in which helper threads of the kernel have a part.
    helped: u32,
    /// When the core was last lent to them, and how often.
    lent_at: Instant,
    lent: u64,
    /// Entries the kernel could not take yet; empty as a rule.
    backlog: VecDeque<Entry>,
    paused: VecDeque<Paused>,
    /// Bytes that nobody writes to.
    zeroes: Arc<Region>,
    bounce_chunks: u16,
    files: Files,
    buffers: Buffers,
    watches: Watches,
    setup: Setup,
}

fn name(port: u32, slot: u32) -> u64 {
    (u64::from(port) << 32) | u64::from(slot)
}

fn unname(user_data: u64) -> (u32, u32) {
    let half = |half: u64| u32::try_from(half & u64::from(u32::MAX)).expect("masked");
    (half(user_data >> 32), half(user_data))
}

fn unmapped(error: spinel_mem::MapError) -> OpenError {
    OpenError::System { doing: "mapping memory for bounce chunks and zeroes", source: std::io::Error::other(error) }
}

impl Ring {
    /// A ring for the calling thread.
    ///
    /// # Errors
    /// [`OpenError::System`] if the kernel gives no ring at all, or no memory for bounce chunks.
    pub fn new(options: &Options) -> Result<Self, OpenError> {
        Self::with(options, false)
    }

    /// As [`new`](Self::new), but completions are polled from the device if `polled`.
    pub(crate) fn with(options: &Options, polled: bool) -> Result<Self, OpenError> {
        let (queues, mut setup) = Queues::new(options, polled)?;
        let files = Files::new(queues.submitter(), options.files_max);
        let buffers = Buffers::new(queues.submitter(), options.buffers_max);
        setup.files_max = files.len();
        setup.buffers_max = buffers.len();
        let zeroes = Region::anonymous(u64::from(ZEROES_BYTES)).map_err(unmapped)?;
        let (ports, backlog, paused) = (Vec::new(), VecDeque::new(), VecDeque::new());
        let watches = Watches::default();
        let lent_at = Instant::default();
        let bounce_chunks = options.bounce_chunks;
        Ok(Self {
            queues,
            ports,
            parties: Parties::default(),
            in_flight: 0,
            helped: 0,
            lent_at,
            lent: 0,
            backlog,
            paused,
            zeroes,
            bounce_chunks,
            files,
            buffers,
            watches,
            setup,
        })
    }

    /// Notes that there is a second ring beside this one.
    pub(crate) fn beside_polled(&mut self) {
        self.setup.iopoll = true;
    }

    /// What the kernel granted.
    #[must_use]
    pub fn setup(&self) -> Setup {
        self.setup
    }

    /// How many system calls this ring has made to submit, collect and sleep.
    #[must_use]
    pub fn enters(&self) -> u64 {
        self.queues.enters()
    }

    /// How often the core was lent to helper threads of the kernel that had work for it.
    #[must_use]
    pub fn lent(&self) -> u64 {
        self.lent
    }

    /// A port for a channel of `depth` slots. The only place where its queues grow.
    ///
    /// # Errors
    /// [`OpenError::System`] if there is no memory for its bounce chunks.
    pub(crate) fn open_port(&mut self, depth: u16) -> Result<PortId, OpenError> {
        let pool = Pool::new(self.bounce_chunks, depth).map_err(unmapped)?;
        let port = Port { events: VecDeque::with_capacity(usize::from(depth)), owed: 0, depth, pool };
        let place = self.ports.iter().position(Option::is_none).unwrap_or_else(|| {
            self.ports.push(None);
            self.ports.len() - 1
        });
        self.ports[place] = Some(port);
        let slots = self.slots();
        self.reserve_backlog();
        self.paused.reserve(slots.saturating_sub(self.paused.len()));
        let id = u32::try_from(place).expect("few channels");
        assert!(id < PARTY, "few channels");
        Ok(PortId(id))
    }

    /// Slots of all ports.
    fn slots(&self) -> usize {
        self.ports.iter().flatten().map(|port| usize::from(port.depth)).sum()
    }

    /// Room for whatever ports and parties can have in the submission queue.
    fn reserve_backlog(&mut self) {
        let entries = self.slots() + self.parties.count() * PARTY_ENTRIES;
        self.backlog.reserve(entries.saturating_sub(self.backlog.len()));
    }

    /// Takes in a party, which is made knowing its place.
    pub(crate) fn join(&mut self, party: Rc<RefCell<dyn Party>>) -> PartyId {
        let id = self.parties.join(party);
        assert!(id.0 < REMOVE_PORT - PARTY, "few parties");
        self.reserve_backlog();
        id
    }

    /// Lets a party go: now, or when the last of what it has in flight is answered.
    pub(crate) fn leave(&mut self, id: PartyId) {
        if let Some(party) = self.parties.leave(id) {
            self.take_back(&*party);
        }
    }

    fn take_back(&mut self, party: &RefCell<dyn Party>) {
        let Registered { file, group } = party.borrow().registered();
        if let Some(group) = group {
            let ended = self.queues.submitter().unregister_buf_ring(group);
            assert!(ended.is_ok(), "a group of buffers ends once: {ended:?}");
        }
        self.remove_file(file);
    }

    /// A party wants to be asked for submissions when this turn ends.
    pub(crate) fn rouse(&mut self, id: PartyId) {
        self.parties.rouse(id);
    }

    /// Asks the parties that want to submit something.
    fn hear(&mut self) {
        if !self.parties.is_roused() {
            return;
        }
        let mut parties = std::mem::take(&mut self.parties);
        parties.ask(|place, party| {
            while let Some((slot, entry)) = party.next() {
                // SAFETY: a party vouches for what its entries point to.
                unsafe { self.push(entry.user_data(name(place | PARTY, slot))) };
            }
        });
        self.parties = parties;
    }

    /// Registers a ring of `count` buffers, from each of which the kernel takes as much as it needs at a time (Linux 6.12).
    /// Whether it could.
    ///
    /// # Safety
    /// The buffers' entries lie at `address`, a page's first byte, and stay there until the party that has the group is gone.
    pub(crate) unsafe fn begin_group(&mut self, group: u16, address: u64, count: u16) -> bool {
        // SAFETY: passed on to the caller.
        unsafe { self.queues.submitter().register_buf_ring_with_flags(address, count, group, BUFFERS_IN_PARTS) }.is_ok()
    }

    /// Gives a port back.
    ///
    /// # Panics
    /// If something of it is still in flight: its completion would reach whoever opens the port next.
    pub(crate) fn close_port(&mut self, id: PortId) {
        let port = self.ports[id.0 as usize].take().expect("a port is closed once");
        assert_eq!(port.owed, 0, "a port is closed when everything has completed");
    }

    fn port(&mut self, place: u32) -> &mut Port {
        self.ports.get_mut(place as usize).and_then(Option::as_mut).expect("completions go to open ports")
    }

    fn deliver(&mut self, place: u32, slot: u32, event: Event) {
        let port = self.port(place);
        debug_assert!(port.events.len() < usize::from(port.depth), "one event per slot");
        port.events.push_back((slot, event));
    }

    /// Whether something waits for [`next`](Self::next).
    pub(crate) fn has_event(&self, id: PortId) -> bool {
        self.ports[id.0 as usize].as_ref().is_some_and(|port| !port.events.is_empty())
    }

    /// The next event of a port, and the slot it is for.
    pub(crate) fn next(&mut self, id: PortId) -> Option<(u32, Event)> {
        let port = self.port(id.0);
        let event = port.events.pop_front()?;
        port.owed -= 1;
        Some(event)
    }

    /// Submits an entry for a slot; its answer comes as an event. Never fails: what the kernel cannot take yet waits here.
    ///
    /// `helped` says that a helper thread of the kernel has a part in it. Such threads may
    /// be bound to this very core, which must then be lent to them.
    ///
    /// # Safety
    /// What the entry points to stays valid until the answer has come.
    pub(crate) unsafe fn submit(&mut self, id: PortId, slot: u32, entry: Entry, helped: bool) {
        self.port(id.0).owed += 1;
        self.in_flight += 1;
        self.helped += u32::from(helped);
        let mark = if helped { HELPED } else { 0 };
        // SAFETY: passed on to the caller.
        unsafe { self.push(entry.user_data(name(id.0, slot | mark))) };
        if self.queues.pending() >= SUBMIT_AT {
            self.enter();
        }
    }

    /// # Safety
    /// What the entry points to stays valid until its completion has been taken.
    unsafe fn push(&mut self, entry: Entry) {
        // SAFETY: passed on to the caller.
        if self.backlog.is_empty() && unsafe { self.queues.push(&entry) } {
            return;
        }
        self.backlog.push_back(entry);
        self.enter();
    }

    /// How many submissions of channels have no completion yet.
    pub(crate) fn in_flight(&self) -> u32 {
        self.in_flight
    }

    /// Waits in the kernel for one completion.
    pub(crate) fn wait(&mut self) {
        self.queues.wait(None, true);
    }

    /// Enters the kernel, and moves as much of the backlog into the queue as there is room for then.
    pub(crate) fn enter(&mut self) {
        self.queues.enter();
        while let Some(entry) = self.backlog.front() {
            // SAFETY: whoever submitted the entry vouched for it until its answer, which has not come.
            if !unsafe { self.queues.push(entry) } {
                break;
            }
            self.backlog.pop_front();
        }
    }

    /// Takes all completions that are visible; the number that were for channels and parties.
    fn drain(&mut self) -> u32 {
        let mut taken = 0;
        for _ in 0..self.queues.look() {
            let Some(completion) = self.queues.take() else { break };
            let (place, slot) = unname(completion.user_data());
            match place {
                WATCH_PORT => self.watches.fired(slot, completion.result(), cqueue::more(completion.flags())),
                REMOVE_PORT => self.watches.removed(slot, completion.result()),
                place if place & PARTY != 0 => {
                    taken += 1;
                    if let Some(party) = self.parties.answer(place & !PARTY, slot, Answer::of(&completion)) {
                        self.take_back(&*party);
                    }
                }
                _ => {
                    self.in_flight -= 1;
                    self.helped -= slot >> HELPED.trailing_zeros();
                    taken += 1;
                    self.deliver(place, slot & !HELPED, Event::Answer(completion.result()));
                }
            }
        }
        self.grant_wishes();
        taken
    }

    /// Takes all completions, also those the kernel holds back; the number that were for channels and parties.
    fn collect(&mut self) -> u32 {
        let mut taken = self.drain();
        for _ in 0..REAP_ROUNDS {
            if !self.queues.held_back() {
                break;
            }
            self.enter();
            taken += self.drain();
        }
        taken
    }

    /// Lets others run on this core for a moment.
    ///
    /// Flushes, discards, and the ends of writes to files are the work of threads that
    /// the kernel binds to a core of its choice, mostly ours. A core that spins would
    /// keep them waiting until the scheduler's next tick, milliseconds later.
    fn lend(&mut self, now: Instant) {
        self.lent_at = now;
        self.lent += 1;
        rustix::thread::sched_yield();
    }

    /// Submits what the watches want.
    fn grant_wishes(&mut self) {
        while let Some((index, wish)) = self.watches.wish() {
            let entry = match wish {
                Wish::Arm { fd, multishot } => {
                    let events = u32::from(libc::POLLIN.unsigned_abs());
                    opcode::PollAdd::new(Fd(fd), events).multi(multishot).build().user_data(name(WATCH_PORT, index))
                }
                Wish::Remove => opcode::PollRemove::new(name(WATCH_PORT, index)).build().user_data(name(REMOVE_PORT, index)),
            };
            // SAFETY: neither entry points to memory.
            unsafe { self.push(entry) };
        }
    }

    /// A chunk at once, or as an event when it is this slot's turn.
    pub(crate) fn want_chunk(&mut self, id: PortId, slot: u32) -> Option<u16> {
        let port = self.port(id.0);
        let chunk = port.pool.want(slot);
        port.owed += u32::from(chunk.is_none());
        chunk
    }

    /// Gives a chunk back.
    pub(crate) fn give_chunk(&mut self, id: PortId, chunk: u16) {
        if let Some(slot) = self.port(id.0).pool.give(chunk) {
            self.deliver(id.0, slot, Event::Chunk(chunk));
        }
    }

    /// The first byte of a chunk of this port's.
    pub(crate) fn chunk(&mut self, id: PortId, chunk: u16) -> *mut u8 {
        self.port(id.0).pool.chunk(chunk)
    }

    /// [`ZEROES_BYTES`] of zeroes that nobody writes to.
    pub(crate) fn zeroes(&self) -> *mut u8 {
        self.zeroes.as_ptr()
    }

    /// An event for this slot a little later.
    pub(crate) fn pause(&mut self, id: PortId, slot: u32, now: Instant) {
        self.port(id.0).owed += 1;
        self.paused.push_back(Paused { until: now.after_ns(PAUSE_NS), port: id.0, slot });
    }

    fn end_pauses(&mut self, now: Instant) {
        while let Some(Paused { port, slot, .. }) = self.paused.pop_front_if(|paused| paused.until <= now) {
            self.deliver(port, slot, Event::Pause);
        }
    }

    /// Registers a file, or counts one more user.
    pub(crate) fn add_file(&mut self, fd: std::os::fd::RawFd) -> Target {
        self.files.add(self.queues.submitter(), fd)
    }

    /// Ends one use of a file.
    pub(crate) fn remove_file(&mut self, target: Target) {
        self.files.remove(self.queues.submitter(), target);
    }

    /// The registered buffer that holds all of a segment, if there is one.
    pub(crate) fn buffer_of(&self, segment: &Segment) -> Option<u16> {
        self.buffers.find(segment)
    }

    pub(crate) fn watch(&mut self, fd: std::os::fd::RawFd) -> u32 {
        let index = self.watches.add(fd);
        self.grant_wishes();
        index
    }

    /// Ends a watch. Its poll is named by its index, so the descriptor may be closed and its number used again at once.
    pub(crate) fn unwatch(&mut self, index: u32) {
        self.watches.end(index);
        self.grant_wishes();
    }

    /// Waits in the kernel until something completes or `until` is reached; nothing is taken.
    pub(crate) fn sleep(&mut self, until: Option<Instant>, now: Instant) {
        let mut timeout_ns = until.map(|until| until.since_ns(now));
        if self.watches.deaf() {
            timeout_ns = Some(timeout_ns.unwrap_or(DEAF_NS).min(DEAF_NS));
        }
        if timeout_ns == Some(0) {
            return;
        }
        let timeout = timeout_ns.map(|ns| Timespec::from(std::time::Duration::from_nanos(ns)));
        self.queues.wait(timeout.as_ref(), self.in_flight > 0);
    }
}

impl Driver for Ring {
    fn reap(&mut self, now: Instant) -> Progress {
        self.end_pauses(now);
        let mut taken = self.collect();
        let lend_ns = if taken == 0 { LEND_IDLE_NS } else { LEND_BUSY_NS };
        if self.helped > 0 && now.since_ns(self.lent_at) >= lend_ns {
            self.lend(now);
            taken += self.collect();
        }
        match (taken, self.in_flight > 0 || !self.paused.is_empty()) {
            (0, false) => Progress::Idle,
            (0, true) => Progress::Waiting,
            _ => Progress::Busy,
        }
    }

    fn flush(&mut self) {
        self.hear();
        if self.queues.pending() > 0 || !self.backlog.is_empty() {
            self.enter();
        }
    }

    fn map(&mut self, region: &Arc<Region>) {
        self.buffers.map(self.queues.submitter(), region);
    }

    fn unmap(&mut self, id: RegionId) {
        self.buffers.unmap(self.queues.submitter(), id);
    }

    fn arm(&mut self) -> Armed {
        let unsubmitted = self.queues.pending() > 0 || !self.backlog.is_empty();
        if unsubmitted || self.parties.is_roused() || self.queues.held_back() || self.queues.look() > 0 {
            return Armed::Ready;
        }
        self.paused.front().map_or(Armed::Idle, |paused| Armed::Until(paused.until))
    }
}
