//! A disk that exists only in a simulation: slow, unordered, with a cache that a power cut empties. Knows no thread and no real time.
//!
//! A request takes effect at a moment drawn between its submission and its completion,
//! so requests overtake each other; bytes are fetched from memory and put there at that
//! moment. Every 512 bytes are atomic, and nothing larger is.

use std::collections::{BTreeMap, VecDeque};
use std::ops::RangeInclusive;
use std::rc::Rc;
use std::sync::Arc;

use spinel_core::mem::{Regions, Segment};
use spinel_core::{
    Armed, Channel, Completion, Completions, Core, Device, Features, Geometry, Instant, OPS, Op, OpKind, OpenError, Request, Slots, Status,
    Tag,
};

use spinel_load::{Prng, SECTOR_BYTES};

use crate::medium::{Medium, WriteId};

/// What a simulated disk is like.
#[derive(Clone, Debug)]
pub struct DiskOptions {
    /// Bytes of one block: 512 or 4096.
    pub block_bytes: u32,
    /// Number of blocks.
    pub block_count: u64,
    /// Whether writes are acknowledged before they are safe.
    pub write_cache: bool,
    /// Most requests in flight of one channel.
    pub depth_max: u16,
    /// How long a request takes.
    pub latency_ns: RangeInclusive<u64>,
    /// One request in so many takes `slow_ns` longer; 0 for none.
    pub slow_one_in: u64,
    /// See `slow_one_in`.
    pub slow_ns: u64,
    /// One request in so many ends with [`Status::Medium`]; a write may then be there or not, sector by sector. 0 for none.
    pub fail_one_in: u64,
    /// What the disk does wrong, to show that tests notice.
    pub bug: Option<Bug>,
    /// How often it does so: one request in so many of those concerned.
    pub bug_one_in: u64,
}

impl Default for DiskOptions {
    /// A correct disk of 1024 blocks of 512 bytes with a write cache, 10 to 200 us, and now and then 5 ms.
    fn default() -> Self {
        Self {
            block_bytes: 512,
            block_count: 1024,
            write_cache: true,
            depth_max: 256,
            latency_ns: 10_000..=200_000,
            slow_one_in: 100,
            slow_ns: 5_000_000,
            fail_one_in: 0,
            bug: None,
            bug_one_in: 20,
        }
    }
}

/// What a disk can do wrong without an error.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bug {
    /// A flush succeeds and writes nothing down.
    FlushIgnored,
    /// A write with FUA stays in the cache.
    FuaIgnored,
    /// A write goes to the sectors after those it was meant for.
    WriteMisdirected,
    /// A write is acknowledged and dropped.
    WriteLost,
    /// Of a write of several sectors only the first ones are done, and all are acknowledged.
    WriteTorn,
    /// A read returns what the platter has instead of what the cache has.
    ReadStale,
    /// A read returns a flipped bit.
    ReadRotten,
}

/// What can be injected for single requests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mishap {
    /// It ends with [`Status::Medium`], having done nothing.
    Fail,
    /// It does not end until [`SimDisk::release`].
    Hang,
    /// It takes so much longer.
    Slow {
        /// In nanoseconds.
        ns: u64,
    },
}

/// A write on its way, as it was when submitted.
struct Pending {
    channel: u64,
    start: u64,
    bytes: Vec<u8>,
}

struct Inner {
    options: DiskOptions,
    prng: Prng,
    medium: Medium,
    /// Writes that have not taken effect.
    pending: BTreeMap<WriteId, Pending>,
    writes: WriteId,
    channels: u64,
    /// By kind of operation: what happens to the next ones.
    mishaps: [VecDeque<Mishap>; OPS.len()],
    /// How often hung requests were released.
    releases: u64,
    /// How often power was lost: channels opened before are dead.
    cuts: u64,
}

impl Inner {
    /// Leaves writes in flight to chance: of each, every sector is done by itself or not.
    fn abandon(&mut self, is_meant: impl Fn(&Pending) -> bool) {
        let (prng, medium, stable) = (&mut self.prng, &mut self.medium, !self.options.write_cache);
        self.pending.retain(|write, pending| {
            let meant = is_meant(pending);
            if meant {
                for (sector, bytes) in (pending.start..).zip(pending.bytes.chunks(SECTOR_BYTES)) {
                    if prng.one_in(2) {
                        medium.write(sector, *write, bytes.try_into().expect("one sector"), stable);
                    }
                }
            }
            !meant
        });
    }

    /// Whether the disk's bug is this one and strikes now.
    fn errs(&mut self, bug: Bug) -> bool {
        self.options.bug == Some(bug) && self.prng.one_in(self.options.bug_one_in)
    }
}

#[allow(clippy::disallowed_types, reason = "a simulation runs on one thread; the lock only satisfies the contract and is never waited for")]
type Lock<T> = std::sync::Mutex<T>;

/// A simulated disk; see the module's first lines.
#[derive(Clone)]
pub struct SimDisk {
    inner: Arc<Lock<Inner>>,
}

impl std::fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SimDisk").finish_non_exhaustive()
    }
}

impl SimDisk {
    /// A disk whose blocks read as zeroes. Clones are the same disk.
    #[must_use]
    pub fn new(options: DiskOptions, prng: Prng) -> Self {
        assert!(matches!(options.block_bytes, 512 | 4096), "blocks of 512 or 4096 bytes");
        let inner = Inner {
            options,
            prng,
            medium: Medium::default(),
            pending: BTreeMap::new(),
            writes: 0,
            channels: 0,
            mishaps: Default::default(),
            releases: 0,
            cuts: 0,
        };
        Self { inner: Arc::new(Lock::new(inner)) }
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, Inner> {
        // A failing test drops its channels while it unwinds: that must not panic again.
        self.inner.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Lets something happen to the next `count` requests of a kind.
    pub fn inject(&self, kind: OpKind, mishap: Mishap, count: usize) {
        self.locked().mishaps[kind.index()].extend(std::iter::repeat_n(mishap, count));
    }

    /// Forgets what was injected and has not happened yet.
    pub fn clear(&self) {
        self.locked().mishaps = Default::default();
    }

    /// Lets hung requests go on. A core notices on its next poll.
    pub fn release(&self) {
        self.locked().releases += 1;
    }

    /// Loses power and gets it back.
    ///
    /// What the cache had may be gone and what was in flight may be there in part, sector
    /// by sector. Channels opened before never answer again; what was injected and has
    /// not happened never will.
    pub fn cut_power(&self) {
        let inner = &mut *self.locked();
        inner.abandon(|_| true);
        inner.medium.cut_power(&mut inner.prng);
        inner.mishaps = Default::default();
        inner.cuts += 1;
    }

    /// The newest bytes of a sector, past every latency and fault.
    #[must_use]
    pub fn peek(&self, sector: u64) -> [u8; SECTOR_BYTES] {
        self.locked().medium.read(sector)
    }

    /// Changes a sector on the platter behind everybody's back.
    pub fn poke(&self, sector: u64, bytes: &[u8; SECTOR_BYTES]) {
        self.locked().medium.write(sector, 0, bytes, true);
    }

    /// Calls `each` with every sector that was ever written, in order.
    pub fn visit(&self, mut each: impl FnMut(u64, &[u8; SECTOR_BYTES])) {
        self.locked().medium.sectors().for_each(|(sector, bytes)| each(sector, bytes));
    }
}

/// Most segments of one request.
const SEGMENTS_MAX: u16 = 128;

impl Device for SimDisk {
    fn geometry(&self) -> Geometry {
        let DiskOptions { block_bytes, block_count, write_cache, .. } = self.locked().options;
        Geometry {
            block_bytes,
            block_count,
            memory_align_bytes: 1,
            segments_max: SEGMENTS_MAX,
            transfer_max_bytes: 1 << 20,
            physical_block_bytes: block_bytes,
            write_cache,
            read_only: false,
            features: Features { discard: true, write_zeroes: true },
        }
    }

    fn open(&self, core: &mut Core, depth: u16) -> Result<Box<dyn Channel>, OpenError> {
        let mut inner = self.locked();
        let max = inner.options.depth_max;
        if depth > max {
            return Err(OpenError::Depth { asked: depth, max });
        }
        inner.channels += 1;
        Ok(Box::new(SimChannel {
            disk: self.clone(),
            channel: inner.channels,
            regions: core.regions(),
            slots: Slots::new(usize::from(depth)),
            events: BTreeMap::new(),
            arrivals: 0,
            hung: Vec::new(),
            releases: inner.releases,
            ended: VecDeque::new(),
            cuts: inner.cuts,
        }))
    }
}

/// A request from its submission until its completion is handed up.
struct Flight {
    tag: Tag,
    op: Op,
    start: u64,
    sectors: u64,
    segments: Vec<Segment>,
    /// The name of a write, or when a flush began.
    order: u64,
    /// It fails, and a write is done in part.
    fails: bool,
    status: Status,
}

#[derive(Clone, Copy)]
enum Event {
    Effect(Tag),
    End(Tag),
}

struct SimChannel {
    disk: SimDisk,
    channel: u64,
    regions: Rc<Regions>,
    slots: Slots<Flight>,
    /// By time, and by arrival among equals.
    events: BTreeMap<(Instant, u64), Event>,
    arrivals: u64,
    hung: Vec<Tag>,
    releases: u64,
    ended: VecDeque<Tag>,
    cuts: u64,
}

/// Why a request cannot be done at all.
fn refusal(request: &Request<'_>, options: &DiskOptions) -> Option<Status> {
    let given: u64 = request.segments.iter().map(|segment| u64::from(segment.len_bytes())).sum();
    let asked = u64::from(request.blocks) * u64::from(options.block_bytes);
    let has_data = matches!(request.op, Op::Read | Op::Write { .. });
    let end = request.start.0.checked_add(u64::from(request.blocks));
    match request.op {
        Op::Flush => None,
        _ if end.is_none_or(|end| end > options.block_count) => Some(Status::Range),
        _ if has_data && (given != asked || request.segments.len() > usize::from(SEGMENTS_MAX)) => Some(Status::Malformed),
        _ => None,
    }
}

impl SimChannel {
    fn schedule(&mut self, at: Instant, event: Event) {
        self.events.insert((at, self.arrivals), event);
        self.arrivals += 1;
    }

    /// Draws when a request takes effect and when it ends.
    fn start(&mut self, inner: &mut Inner, slot: Tag, at: Instant, extra_ns: u64) {
        let DiskOptions { latency_ns, slow_one_in, slow_ns, .. } = inner.options.clone();
        let slow_ns = if inner.prng.one_in(slow_one_in) { slow_ns } else { 0 };
        let latency_ns = inner.prng.within(latency_ns).saturating_add(slow_ns).saturating_add(extra_ns);
        self.schedule(at.after_ns(inner.prng.within(0..=latency_ns)), Event::Effect(slot));
        self.schedule(at.after_ns(latency_ns), Event::End(slot));
    }

    /// The bytes that a request writes, as they are in memory now.
    fn gather(&self, flight: &Flight) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        for segment in &flight.segments {
            let from = bytes.len();
            bytes.resize(from + segment.len_bytes() as usize, 0);
            self.regions.read(segment, 0, &mut bytes[from..]).ok()?;
        }
        // Write-zeroes and discard come without memory.
        bytes.resize(usize::try_from(flight.sectors).expect("a request fits memory") * SECTOR_BYTES, 0);
        Some(bytes)
    }

    fn take_effect(&mut self, inner: &mut Inner, slot: Tag) {
        let flight = self.slots.get(slot).expect("a slot is filled until its request ended");
        let done = match flight.op {
            Op::Read => self.read(inner, flight),
            Op::Flush => {
                if !inner.errs(Bug::FlushIgnored) && !flight.fails {
                    inner.medium.flush(flight.order);
                }
                Some(())
            }
            Op::Write { fua } | Op::WriteZeroes { fua, .. } => self.write(inner, flight, fua),
            Op::Discard => self.write(inner, flight, false),
        };
        let status = match done {
            None => Status::Malformed,
            Some(()) if flight.fails => Status::Medium,
            Some(()) => Status::Ok,
        };
        self.slots.get_mut(slot).expect("as above").status = status;
    }

    /// Puts what a read returns into its memory; `None` if that is not mapped any more.
    fn read(&self, inner: &mut Inner, flight: &Flight) -> Option<()> {
        let stale = inner.errs(Bug::ReadStale);
        let sector = |sector| if stale { inner.medium.read_oldest(sector) } else { inner.medium.read(sector) };
        let mut bytes: Vec<u8> = (flight.start..flight.start + flight.sectors).flat_map(sector).collect();
        if inner.errs(Bug::ReadRotten) && !bytes.is_empty() {
            let at = inner.prng.index(bytes.len());
            bytes[at] ^= 1;
        }
        let mut from = 0;
        for segment in &flight.segments {
            let to = from + segment.len_bytes() as usize;
            self.regions.write(segment, 0, &bytes[from..to]).ok()?;
            from = to;
        }
        Some(())
    }

    /// Puts what a write writes onto the medium; `None` if its memory is not mapped any more.
    fn write(&self, inner: &mut Inner, flight: &Flight, fua: bool) -> Option<()> {
        inner.pending.remove(&flight.order);
        let bytes = self.gather(flight)?;
        if inner.errs(Bug::WriteLost) {
            return Some(());
        }
        let stable = !inner.options.write_cache || (fua && !inner.errs(Bug::FuaIgnored));
        let sectors_in_all = inner.options.block_count * u64::from(inner.options.block_bytes) / SECTOR_BYTES as u64;
        let shift = if inner.errs(Bug::WriteMisdirected) { flight.sectors } else { 0 };
        let count =
            if flight.sectors > 1 && inner.errs(Bug::WriteTorn) { inner.prng.within(1..=flight.sectors - 1) } else { flight.sectors };
        for (sector, bytes) in (flight.start..flight.start + count).zip(bytes.chunks(SECTOR_BYTES)) {
            if !flight.fails || inner.prng.one_in(2) {
                let sector = (sector + shift) % sectors_in_all;
                inner.medium.write(sector, flight.order, bytes.try_into().expect("one sector"), stable);
            }
        }
        Some(())
    }
}

impl Channel for SimChannel {
    fn room(&self) -> usize {
        self.slots.room()
    }

    fn submit(&mut self, request: Request<'_>) {
        let disk = self.disk.clone();
        let inner = &mut *disk.locked();
        let per_block = u64::from(inner.options.block_bytes) / SECTOR_BYTES as u64;
        let refusal = refusal(&request, &inner.options);
        let mut flight = Flight {
            tag: request.tag,
            op: request.op,
            start: request.start.0.saturating_mul(per_block),
            sectors: u64::from(request.blocks) * per_block,
            segments: request.segments.to_vec(),
            order: inner.medium.begin_flush(),
            fails: inner.prng.one_in(inner.options.fail_one_in),
            status: refusal.unwrap_or(Status::Medium),
        };
        let is_dead = inner.cuts != self.cuts;
        let mishap = inner.mishaps[request.op.kind().index()].pop_front();
        let happens = refusal.is_none() && !is_dead && mishap != Some(Mishap::Fail);
        if request.op.changes_data() && happens {
            inner.writes += 1;
            flight.order = inner.writes;
            let bytes = self.gather(&flight).unwrap_or_default();
            inner.pending.insert(inner.writes, Pending { channel: self.channel, start: flight.start, bytes });
        }
        let slot = self.slots.put(flight);
        match mishap {
            _ if is_dead => {}
            _ if refusal.is_some() => self.schedule(request.at, Event::End(slot)),
            None => self.start(inner, slot, request.at, 0),
            Some(Mishap::Slow { ns }) => self.start(inner, slot, request.at, ns),
            Some(Mishap::Hang) => self.hung.push(slot),
            Some(Mishap::Fail) => {
                let latency_ns = inner.prng.within(inner.options.latency_ns.clone());
                self.schedule(request.at.after_ns(latency_ns), Event::End(slot));
            }
        }
    }

    fn kick(&mut self) {}

    fn poll(&mut self, now: Instant, done: &mut Completions) {
        let disk = self.disk.clone();
        let inner = &mut *disk.locked();
        if inner.cuts != self.cuts {
            return;
        }
        if inner.releases != self.releases {
            self.releases = inner.releases;
            for slot in std::mem::take(&mut self.hung) {
                self.start(inner, slot, now, 0);
            }
        }
        while let Some(entry) = self.events.first_entry().filter(|entry| entry.key().0 <= now) {
            match entry.remove() {
                Event::Effect(slot) => self.take_effect(inner, slot),
                Event::End(slot) => self.ended.push_back(slot),
            }
        }
        while done.room() > 0
            && let Some(slot) = self.ended.pop_front()
        {
            let flight = self.slots.take(slot);
            if flight.op.changes_data() && flight.status == Status::Ok {
                inner.medium.acknowledge(flight.order, flight.start..flight.start + flight.sectors);
            }
            done.push(Completion { tag: flight.tag, status: flight.status });
        }
    }

    fn arm(&mut self) -> Armed {
        let inner = self.disk.locked();
        if inner.cuts != self.cuts {
            return Armed::Idle;
        }
        if !self.ended.is_empty() || (inner.releases != self.releases && !self.hung.is_empty()) {
            return Armed::Ready;
        }
        self.events.first_key_value().map_or(Armed::Idle, |((at, _), _)| Armed::Until(*at))
    }
}

impl Drop for SimChannel {
    /// A request outlives the channel that it came by: what is in flight now may still be done, or not.
    fn drop(&mut self) {
        let channel = self.channel;
        self.disk.locked().abandon(|pending| pending.channel == channel);
    }
}
