//! One virtqueue served on one core: the poller between a guest's ring and a channel. Knows no message and no socket.

mod gather;
mod writes;

use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::{Receiver, Sender};
use spinel_core::mem::{GuestMap, Spot};
use spinel_core::{
    Armed, Channel, Company, Completion, Completions, Core, Crowd, Instant, Lba, Member, Meter, Op, OpKind, OpenError, Poller, Progress,
    Recipe, Remains, Request, Single, Status, Tag, Watch, mem,
};

use crate::blk::{self, Asked, BlkFeatures, Chain, Disk, Terms};
use crate::dirty::{Marker, RingLog};
use crate::lot::{LOT_MAX, Looked, Lot};
use crate::ring::{AnyRing, Ring, RingFault};
use gather::Gather;
use writes::Writes;

/// Everything a queue needs to run; built by the session, consumed on the core.
pub struct QueueSetup<R = AnyRing> {
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
    pub ring: R,
    /// The guest's memory; every region in it has been announced to the core.
    pub guest: GuestMap,
    /// Where it is noted which of the guest's pages were written, while somebody copies them.
    pub log: Option<RingLog>,
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

impl<R> QueueSetup<R> {
    /// The same with another ring, and the ring.
    fn swap<S>(self, ring: S) -> (QueueSetup<S>, R) {
        let Self { index, name, disk, features, writeback, ring: old, guest, log, kick, call, calls, events, poke, meter } = self;
        (QueueSetup { index, name, disk, features, writeback, ring, guest, log, kick, call, calls, events, poke, meter }, old)
    }
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
    /// Where to go on, as VHOST_USER_GET_VRING_BASE has it.
    pub base: u32,
    /// The parts the session gave; the memory map is dropped by whoever drops this, off the core.
    pub setup: QueueSetup,
}

/// The recipe of a queue, to be made on its core. Its remains are a [`QueueRemains`].
#[must_use]
pub fn recipe(setup: QueueSetup) -> Recipe {
    Box::new(|core| {
        let (setup, ring) = setup.swap(());
        let queue: Box<dyn Poller> = match ring {
            AnyRing::Split(ring) => Box::new(Queue::open(setup.swap(ring).0, core)?),
            AnyRing::Packed(ring) => Box::new(Queue::open(setup.swap(ring).0, core)?),
        };
        Ok(queue)
    })
}

/// A turn takes no further chain once those taken have cost this much: a byte of data one, a descriptor `DESCRIPTOR_COST`.
const TURN_COST: u64 = 4 << 20;
const DESCRIPTOR_COST: u64 = 1 << 10;
const USUAL_COST: u64 = 3 * DESCRIPTOR_COST;
/// The deepest channel asked for. What a larger ring holds beyond that waits in the ring.
const DEPTH_MAX: u16 = 4096;

/// Segments that a request may have beyond the device's, because memory regions meet inside them.
const SEAMS: usize = 8;

/// A request in flight. Its tag, and its place in the table, is the chain's head.
#[derive(Clone, Copy)]
struct Flight {
    status: Spot,
    started: Instant,
    bytes: u32,
    op: OpKind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Running,
    /// The guest broke the rules: what flies is finished, nothing is taken.
    Faulted,
    Stopping,
}

struct Queue<R> {
    setup: QueueSetup<R>,
    channel: Box<dyn Channel>,
    done: Completions,
    gather: Gather,
    lot: Lot,
    chain: Chain,
    terms: Terms,
    /// Whether the device has a cache that a power cut empties; without one every write is stable.
    volatile: bool,
    flights: Box<[Option<Flight>]>,
    in_flight: usize,
    /// What the guest's memory is marked for, if somebody copies it.
    marker: Option<Box<Marker>>,
    /// What is being written, if requests are on record and may have to be done again.
    writes: Option<Box<Writes>>,
    /// Whether chains that were taken have yet to start, before any other is taken.
    owes: bool,
    /// One of them, which was looked at and waits for a write in flight to end.
    waits: Option<u16>,
    state: State,
    /// The channel had no room when it was last asked: only time may give it some, and it is told of that by polling it.
    shut: bool,
    /// What it was before it was told to stop.
    before: State,
    kicks_wanted: bool,
    watch: Option<Watch>,
    losses: usize,
    crowd: Rc<Crowd>,
    member: Member,
    /// What others were found on this core.
    company: Company,
    /// Most chains of a turn beside others.
    among_others: usize,
    /// How long requests have taken lately, in nanoseconds.
    usual_ns: u64,
}

impl<R: Ring> Queue<R> {
    fn open(setup: QueueSetup<R>, core: &mut Core) -> Result<Self, OpenError> {
        let size = setup.ring.size();
        let geometry = setup.disk.device.geometry();
        let channel = setup.disk.device.open(core, size.min(DEPTH_MAX))?;
        let watch = setup.kick.as_ref().map(|kick| core.watch(kick.as_raw_fd()));
        let crowd = core.crowd();
        let mut queue = Self {
            channel,
            done: Completions::new(),
            gather: Gather::default(),
            lot: Lot::new(setup.ring.nowhere()),
            chain: Chain::new(geometry.segments_max),
            terms: Terms::new(&setup.disk, &geometry, setup.features),
            volatile: geometry.write_cache,
            flights: vec![None; usize::from(size)].into_boxed_slice(),
            in_flight: 0,
            marker: setup.log.clone().map(|log| Box::new(Marker::new(log, size, usize::from(geometry.segments_max) + SEAMS))),
            writes: setup.ring.keeps_record().then(|| Box::new(Writes::new(size))),
            owes: setup.ring.keeps_record(),
            waits: None,
            state: State::Running,
            shut: false,
            before: State::Running,
            kicks_wanted: true,
            watch,
            losses: 0,
            member: crowd.join(),
            crowd,
            company: Company::Alone,
            among_others: 1,
            usual_ns: 0,
            setup,
        };
        queue.refuse_kicks();
        Ok(queue)
    }

    /// Reaps first, because that frees slots and the guest waits for it.
    #[inline(always)]
    fn complete(&mut self, now: Instant) -> bool {
        if self.in_flight == 0 && !std::mem::take(&mut self.shut) {
            return false;
        }
        self.done.clear();
        self.channel.poll(now, &mut self.done);
        let completed = self.done.as_slice().len();
        let mut ended = 0;
        while ended < completed {
            // Most of a batch succeeded, had begun together and is of one kind: what is so is finished and counted at once.
            let alike = if self.marker.is_none() { self.finish_alike(ended, now) } else { 0 };
            match alike {
                0 => {
                    self.finish(ended, now);
                    ended += 1;
                }
                alike => ended += alike,
            }
        }
        self.in_flight -= completed;
        completed > 0
    }

    /// Reaps once more where others take their turns before our next one: what is finished already need not wait for them.
    #[inline(never)]
    fn complete_at_once(&mut self, now: Instant) {
        self.complete(now);
    }

    /// Finishes completions from one on that succeeded, as far as their requests began together and are of one kind.
    /// Answers how many.
    #[inline(never)]
    fn finish_alike(&mut self, from: usize, now: Instant) -> usize {
        let first = self.done.as_slice()[from].tag;
        match self.flights[first.index()] {
            // Said apart, so that there the loop knows what it looks for.
            Some(Flight { started, op: OpKind::Read, .. }) => self.finish_of_kind(from, OpKind::Read, started, now),
            Some(Flight { started, op, .. }) => self.finish_of_kind(from, op, started, now),
            None => 0,
        }
    }

    #[inline(always)]
    fn finish_of_kind(&mut self, from: usize, op: OpKind, started: Instant, now: Instant) -> usize {
        let QueueSetup { ring, guest, meter, .. } = &mut self.setup;
        let done = &self.done.as_slice()[from..];
        let (near, flights) = (guest.near(), &mut self.flights);
        let (mut count, mut bytes) = (0, 0);
        ring.put_used_each(done.iter().map_while(|Completion { tag, status }| {
            let slot = flights.get_mut(tag.index())?;
            let flight = slot.as_ref()?;
            if *status != Status::Ok || flight.op != op || flight.started != started {
                return None;
            }
            if !near.put(flight.status, blk::S_OK) {
                guest.put(flight.status, blk::S_OK);
            }
            let written_bytes = written_bytes(op, flight.bytes);
            count += 1;
            bytes += u64::from(flight.bytes);
            *slot = None;
            Some((tag.0, written_bytes))
        }));
        if count == 0 {
            return 0;
        }
        let took_ns = now.since_ns(started);
        meter.record_alike(op, u64::try_from(count).expect("at most a batch"), bytes, took_ns, true);
        self.usual_ns = (7 * self.usual_ns + took_ns) / 8;
        let heads = done[..count].iter().map(|completion| head_of(completion.tag));
        if let Some(writes) = self.writes.as_mut().filter(|_| op.changes()) {
            heads.clone().for_each(|head| writes.end(head));
        }
        ring.record_ends(heads);
        count
    }

    /// Finishes one completion of any kind.
    #[inline(never)]
    fn finish(&mut self, at: usize, now: Instant) {
        let QueueSetup { ring, guest, meter, .. } = &mut self.setup;
        let Completion { tag, status } = self.done.as_slice()[at];
        let flight = self.flights[tag.index()].take().expect("a channel completes a tag once");
        let head = head_of(tag);
        if let Some(writes) = self.writes.as_mut().filter(|_| flight.op.changes()) {
            writes.end(head);
        }
        let ok = status == Status::Ok;
        meter.record(flight.op, u64::from(flight.bytes), now.since_ns(flight.started), ok);
        let written_bytes = if ok { written_bytes(flight.op, flight.bytes) } else { 1 };
        finish(ring, guest, head, flight.status, blk::status_byte(status), written_bytes);
        if let Some(marker) = &mut self.marker {
            if matches!(status, Status::Unsupported | Status::Range | Status::Protected) {
                marker.refuse(head);
            }
            marker.end(head, flight.status, guest);
        }
    }

    fn publish(&mut self) {
        self.setup.ring.publish();
        self.mark_ring();
    }

    /// Notifies the driver of what was published, if it wants that.
    fn notify(&mut self) {
        if self.setup.ring.wants_call() {
            self.call();
        }
    }

    #[inline(never)]
    fn call(&mut self) {
        while let Ok(call) = self.setup.calls.try_recv() {
            self.setup.call = call;
        }
        if let Some(call) = &self.setup.call {
            // A full counter, the only way this fails, means that the guest is notified already.
            let _ = rustix::io::write(call, &1_u64.to_ne_bytes());
        }
    }

    /// Most chains of this turn. Beside others that is one more than last time, or half as many if turns are longer than
    /// they notice.
    // Not inlined: the loop over the chains keeps its registers.
    #[inline(never)]
    fn share(&mut self, now: Instant) -> usize {
        self.company = self.crowd.meet(self.member, now, self.usual_ns);
        self.among_others = match self.company {
            Company::Alone => return LOT_MAX,
            Company::Patient => LOT_MAX.min(self.among_others + 1),
            Company::Impatient => (self.among_others / 2).max(1),
        };
        self.among_others
    }

    /// Takes chains, at most a batch, and never more than the channel has room for; the rest stays in the guest's ring.
    fn take(&mut self, now: Instant) -> Result<usize, RingFault> {
        if self.owes {
            return self.take_owed(now);
        }
        let waiting = usize::from(self.setup.ring.waiting()?);
        // Not before: the look at the ring does not wait until what was published is visible.
        self.notify();
        // Beside others the next look is not soon.
        if waiting == 0 || self.company == Company::Alone && self.gather.waits(waiting, now) {
            return Ok(0);
        }
        let batch = waiting.min(self.channel.room()).min(self.share(now));
        if batch == 0 {
            self.shut = true;
            return Ok(0);
        }
        // Read after the index: a write that was posted after the cache was switched off must see it off.
        self.terms.stable_writes = self.volatile && !self.setup.writeback.load(Ordering::Relaxed);
        // One chain has nothing to gain from being looked at before.
        let together = batch > 1 && self.marker.is_none();
        self.lot.clear();
        let (mut taken, mut cost) = (0, 0);
        while taken < batch && cost < TURN_COST {
            if together {
                taken += self.start_together(batch - taken, now, &mut cost);
                if self.lot.was_full() || cost >= TURN_COST {
                    continue;
                }
            }
            let Some(head) = self.setup.ring.take()? else { break };
            if R::ONE_PLACE_EACH {
                self.lot.skip(1)
            } else {
                self.lot.clear()
            }
            cost += self.start(head, now)?;
            taken += 1;
        }
        self.gather.took(taken);
        Ok(taken)
    }

    /// Starts chains that were taken before: by a process that is gone, or in a turn when they had to wait.
    #[inline(never)]
    fn take_owed(&mut self, now: Instant) -> Result<usize, RingFault> {
        // A write that was posted after the cache was switched off must see it off, as in `take`.
        self.terms.stable_writes = self.volatile && !self.setup.writeback.load(Ordering::Relaxed);
        let room = self.channel.room().min(LOT_MAX);
        self.shut = room == 0;
        for started in 0..room {
            let Some(head) = self.waits.take().or_else(|| self.setup.ring.replay()) else {
                self.owes = false;
                return Ok(started);
            };
            self.start(head, now)?;
            if self.waits.is_some() {
                return Ok(started);
            }
        }
        Ok(room)
    }

    /// Starts the next chains, at most `count`, as long as they are usual ones, and near. Answers how many.
    #[inline(never)]
    fn start_together(&mut self, count: usize, now: Instant, cost: &mut u64) -> usize {
        if self.lot.is_empty() {
            self.lot.look(&self.setup.ring, &self.setup.guest, count);
        }
        let mut started = 0;
        while let Some(op) = self.lot.left().first().and_then(|first| self.terms.op(first.parts?.writable)) {
            // Said apart, so that the loop knows what it looks for.
            let alike = match op {
                Op::Read => self.start_alike(Op::Read, now, cost),
                op => self.start_alike(op, now, cost),
            };
            started += alike;
            if alike == 0 || *cost >= TURN_COST {
                break;
            }
        }
        started
    }

    /// The same for those that do the same as the first.
    #[inline(always)]
    fn start_alike(&mut self, op: Op, now: Instant, turn_cost: &mut u64) -> usize {
        let QueueSetup { ring, guest, .. } = &mut self.setup;
        let near = guest.near();
        let (looked, requests) = self.lot.left_mut();
        let guarded = op != Op::Read && self.writes.is_some();
        let (mut started, mut cost) = (0, *turn_cost);
        for (Looked { offered, parts }, request) in looked.iter().zip(&mut *requests) {
            let head = offered.number;
            let (Some(parts), Some(slot @ None)) = (parts, self.flights.get_mut(usize::from(head))) else { break };
            let bytes = request.segment.len_bytes();
            let Some((start, blocks)) = blk::blocks_of(parts, bytes, op, near, &self.terms) else { break };
            if guarded && !begins(&mut self.writes, head, op, start, blocks) {
                break;
            }
            *slot = Some(Flight { status: parts.status, started: now, bytes, op: op.kind() });
            (request.tag, request.op, request.start, request.blocks) = (Tag(u32::from(head)), op, start, blocks);
            started += 1;
            cost += USUAL_COST + u64::from(bytes);
            if cost >= TURN_COST {
                break;
            }
        }
        *turn_cost = cost;
        ring.take_looked(&looked[..started]);
        self.channel.submit_all(now, &requests[..started]);
        self.lot.skip(started);
        self.in_flight += started;
        started
    }

    /// Starts one request that is not usual, or not near.
    #[inline(never)]
    fn start(&mut self, head: u16, now: Instant) -> Result<u64, RingFault> {
        let Some(flight) = self.flights.get(usize::from(head)) else { return Err(RingFault::DescriptorIndex(head)) };
        if flight.is_some() {
            return Err(RingFault::HeadInFlight(head));
        }
        let QueueSetup { ring, guest, .. } = &mut self.setup;
        if self.marker.is_some() {
            return self.start_any(head, now);
        }
        let guest = &*guest;
        let asked = ring.usual(head, guest).and_then(|chain| {
            let (parts, data) = blk::parts_of(&chain, guest)?;
            let op = self.terms.op(parts.writable)?;
            let (start, blocks) = blk::blocks_of(&parts, data.len_bytes(), op, guest, &self.terms)?;
            Some((Single { tag: Tag(u32::from(head)), op, start, blocks, segment: data }, parts.status))
        });
        match asked {
            Some((request, status)) => self.submit(head, &request, status, now),
            None => self.start_any(head, now),
        }
    }

    fn submit(&mut self, head: u16, request: &Single, status: Spot, now: Instant) -> Result<u64, RingFault> {
        let &Single { op, start, blocks, ref segment, .. } = request;
        if !begins(&mut self.writes, head, op, start, blocks) {
            return Ok(self.wait(head));
        }
        self.setup.ring.record(head)?;
        let bytes = segment.len_bytes();
        self.flights[usize::from(head)] = Some(Flight { status, started: now, bytes, op: op.kind() });
        self.in_flight += 1;
        self.channel.submit(request.request(now));
        Ok(USUAL_COST + u64::from(bytes))
    }

    /// Keeps a chain until a write in flight has ended. The turn takes nothing more.
    #[cold]
    fn wait(&mut self, head: u16) -> u64 {
        (self.owes, self.waits) = (true, Some(head));
        TURN_COST
    }

    /// Starts one request of any kind and cut.
    #[inline(never)]
    fn start_any(&mut self, head: u16, now: Instant) -> Result<u64, RingFault> {
        let slot = usize::from(head);
        let QueueSetup { ring, guest, disk, .. } = &mut self.setup;
        let chain = ring.chain(head, guest)?;
        let mut cost = DESCRIPTOR_COST * u64::try_from(chain.len()).expect("at most a ring and a table");
        self.chain.gather(head, chain, guest)?;
        let status = self.chain.status();
        let asked = blk::parse(&self.chain, guest, &self.terms, &disk.serial);
        if let Asked::Submit { op, start, blocks, .. } = asked
            && !begins(&mut self.writes, head, op, start, blocks)
        {
            return Ok(self.wait(head));
        }
        ring.record(head)?;
        match asked {
            Asked::Submit { op, start, blocks, segments } => {
                let bytes = blocks.saturating_mul(self.terms.block_bytes);
                self.flights[slot] = Some(Flight { status, started: now, bytes, op: op.kind() });
                self.in_flight += 1;
                cost += if segments.is_empty() { 0 } else { u64::from(bytes) };
                if let (Some(marker), Op::Read) = (&mut self.marker, op) {
                    marker.begin(head, segments);
                }
                self.channel.submit(Request { tag: Tag(u32::from(head)), op, at: now, start, blocks, segments });
            }
            Asked::Answer { status: answer, written_bytes } => {
                finish(ring, guest, head, status, answer, written_bytes);
                // Not all that the chain names, which may be more than a turn is long: nobody but us has written there.
                if let Some(marker) = &mut self.marker {
                    marker.begin_within(head, self.chain.writable(), written_bytes - 1);
                    marker.end(head, status, guest);
                }
            }
        }
        Ok(cost)
    }

    /// The ring was written: the guest's copy has to have that.
    fn mark_ring(&self) {
        if let Some(marker) = &self.marker {
            marker.mark_ring();
        }
    }

    fn fault(&mut self, fault: RingFault) {
        // One that stops does so all the same.
        *if self.state == State::Stopping { &mut self.before } else { &mut self.state } = State::Faulted;
        self.owes = false;
        // The session may be gone already; then nobody needs to know.
        let _ = self.setup.events.send(QueueEvent::Fault { index: self.setup.index, fault });
        let _ = rustix::io::write(&self.setup.poke.0, &1_u64.to_ne_bytes());
    }

    /// Looks whether guest memory went missing, if any did in this process.
    fn check_memory(&mut self) {
        let losses = mem::losses();
        if losses != self.losses {
            self.losses = losses;
            if self.state == State::Running && self.setup.guest.poisoned() {
                self.fault(RingFault::MemoryLost);
            }
        }
    }

    fn refuse_kicks(&mut self) {
        if self.kicks_wanted {
            self.kicks_wanted = false;
            self.setup.ring.refuse_kicks();
            self.mark_ring();
        }
    }
}

/// Whether a request may start now, as far as those in flight are concerned that write where it does. If so, it is one of them.
#[inline(always)]
fn begins(writes: &mut Option<Box<Writes>>, head: u16, op: Op, start: Lba, blocks: u32) -> bool {
    match writes {
        Some(writes) if op.kind().changes() => writes.begin(head, start, blocks),
        _ => true,
    }
}

/// What is said of a chain whose request succeeded: the bytes that were written into it, the status among them.
#[inline(always)]
fn written_bytes(op: OpKind, bytes: u32) -> u32 {
    if op == OpKind::Read { bytes + 1 } else { 1 }
}

/// The chain that a request is.
#[inline(always)]
fn head_of(tag: Tag) -> u16 {
    u16::try_from(tag.0).expect("tags of this queue are heads")
}

/// Writes a request's status and puts its chain into the used ring.
fn finish<R: Ring>(ring: &mut R, guest: &GuestMap, head: u16, status_at: Spot, status: u8, written_bytes: u32) {
    guest.put(status_at, status);
    ring.put_used(head, written_bytes);
}

impl<R: Ring> Poller for Queue<R> {
    fn name(&self) -> &str {
        &self.setup.name
    }

    fn poll(&mut self, now: Instant) -> Progress {
        let mut busy = self.complete(now);
        if busy {
            self.publish();
        }
        self.check_memory();
        // A queue that stops finishes what it has taken; what is owed was taken.
        let taken = if self.state == State::Running || self.owes { self.take(now) } else { Ok(0) };
        match taken {
            Ok(0) => {}
            Ok(_) => {
                busy = true;
                self.channel.kick();
                if self.company != Company::Alone {
                    self.complete_at_once(now);
                }
                // Chains that needed no device are finished already.
                self.publish();
            }
            Err(fault) => {
                busy = true;
                self.channel.kick();
                self.publish();
                self.fault(fault);
            }
        }
        self.notify();
        if busy {
            self.setup.meter.set_in_flight(self.in_flight);
            return Progress::Busy;
        }
        match (self.in_flight, self.state) {
            (0, State::Stopping) if !self.owes => Progress::Stopped,
            (0, _) => Progress::Idle,
            _ => Progress::Waiting,
        }
    }

    fn arm(&mut self) -> Armed {
        self.shut = self.channel.room() == 0;
        if self.owes {
            // One that waits for a write does so until that has ended.
            let waits = self.waits.is_some() && self.in_flight > 0 || self.shut;
            return if waits { self.channel.arm() } else { Armed::Ready };
        }
        // A ring that waits for room is woken by the channel alone; looking at it again would keep the core awake for nothing.
        if self.state == State::Running && !self.shut {
            if self.setup.kick.is_none() {
                return Armed::Spin;
            }
            self.kicks_wanted = true;
            let misses_something = self.setup.ring.want_kicks();
            self.mark_ring();
            if misses_something {
                return Armed::Ready;
            }
        }
        if self.in_flight == 0 && self.state == State::Stopping {
            return Armed::Ready;
        }
        self.channel.arm()
    }

    fn disarm(&mut self) {
        self.refuse_kicks();
    }

    fn stop(&mut self) {
        if self.state != State::Stopping {
            self.before = self.state;
            self.state = State::Stopping;
        }
        self.channel.let_go();
    }

    fn resume(&mut self) -> bool {
        if self.state == State::Stopping {
            self.state = self.before;
        }
        self.channel.hold_on();
        true
    }

    fn retire(mut self: Box<Self>, core: &mut Core) -> Remains {
        if let Some(watch) = self.watch.take() {
            core.unwatch(watch);
        }
        drop(self.channel);
        self.setup.meter.set_in_flight(0);
        let base = self.setup.ring.base();
        let (setup, ring) = self.setup.swap(());
        Box::new(QueueRemains { base, setup: setup.swap(ring.into()).0 })
    }
}
