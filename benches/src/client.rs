//! A guest's driver on the host: one vhost-user-blk queue, polled and never waited for. Knows no server.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hdrhistogram::Histogram;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use spinel_core::Instant;
use spinel_mem::Region;
use spinel_reactor::Clock;
use virtio_driver::{QueueNotifier, VhostUser, VirtioBlkQueue, VirtioBlkTransport, VirtioFeatureFlags};

use crate::Failure;

/// Bytes of each request.
pub(crate) const BLOCK_BYTES: u32 = 4096;
/// The driver takes three descriptors for a request and knows no indirect tables: 128 requests need 384.
const QUEUE_SIZE: u16 = 512;
/// Most reads in flight.
pub(crate) const DEPTH_MAX: u16 = 128;
/// Memory for the buffers of a client that measures.
pub(crate) const BUFFERS_BYTES: u64 = DEPTH_MAX as u64 * BLOCK_BYTES as u64;
/// What is not answered by then never will be.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often the ring is looked at between two looks at the clock while nothing comes.
const LOOKS: u32 = 1 << 16;

/// What travels with a request: when it was sent, or was due, and the buffer it reads into.
struct Sent {
    at: Instant,
    slot: u16,
}

#[derive(Clone, Copy)]
enum Verb {
    Read,
    Write,
}

/// What was seen in one stretch of time.
#[derive(Debug, Clone)]
pub(crate) struct Window {
    /// In nanoseconds, from sending, or from when the request was due, to seeing it in the used ring.
    pub(crate) latency: Histogram<u64>,
    /// Reads that did not succeed; they are in the histogram too.
    pub(crate) errors: u64,
    pub(crate) took_ns: u64,
}

impl Window {
    fn new() -> Self {
        let latency = Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("the bounds are constants that fit");
        Self { latency, errors: 0, took_ns: 0 }
    }

    pub(crate) fn reads(&self) -> u64 {
        self.latency.len()
    }

    pub(crate) fn quantile_ns(&self, quantile: f64) -> u64 {
        self.latency.value_at_quantile(quantile)
    }
}

/// A connection to a vhost-user-blk socket with one queue of random reads.
///
/// The queue goes before the transport, whose memory it lies in.
pub(crate) struct Client {
    queue: VirtioBlkQueue<'static, Sent>,
    notifier: Box<dyn QueueNotifier>,
    _transport: Box<VirtioBlkTransport>,
    memory: Arc<Region>,
    _memory_file: OwnedFd,
    /// Buffers that no request reads into.
    free: Vec<u16>,
    in_flight: u16,
    blocks: u64,
    random: u64,
    clock: Clock,
}

impl Client {
    /// Connects with `memory_bytes` of shared memory, of which only what reads go to is ever touched.
    pub(crate) fn connect(socket: &Path, memory_bytes: u64) -> Result<Self, Failure> {
        let memory_file = memfd_create("guest-memory", MemfdFlags::CLOEXEC)?;
        ftruncate(&memory_file, memory_bytes)?;
        let memory = Region::of_file(std::os::fd::AsFd::as_fd(&memory_file), 0, memory_bytes)?;
        let features = VirtioFeatureFlags::VERSION_1 | VirtioFeatureFlags::RING_EVENT_IDX;
        let path = socket.to_str().ok_or("the socket's path is not UTF-8")?;
        let mut transport: Box<VirtioBlkTransport> = Box::new(VhostUser::new(path, features.bits())?);
        if transport.get_features() & features.bits() != features.bits() {
            return Err("the server lacks VERSION_1 or EVENT_IDX".into());
        }
        let len = usize::try_from(memory_bytes)?;
        transport.map_mem_region(memory.as_ptr().addr(), len, memory_file.as_raw_fd(), 0)?;
        let sectors = u64::from(transport.get_config()?.capacity);
        let mut queues = VirtioBlkQueue::setup_queues(&mut *transport, 1, QUEUE_SIZE)?;
        let mut queue = queues.pop().ok_or("no queue was set up")?;
        queue.set_used_notif_enabled(false);
        Ok(Self {
            queue,
            notifier: transport.get_submission_notifier(0),
            _transport: transport,
            memory,
            _memory_file: memory_file,
            free: (0..DEPTH_MAX).collect(),
            in_flight: 0,
            blocks: sectors * 512 / u64::from(BLOCK_BYTES),
            random: 0x9e37_79b9_7f4a_7c15,
            clock: Clock::system(),
        })
    }

    /// Keeps `depth` random reads in flight as long as `go_on` says, which is asked with every batch that ends.
    pub(crate) fn run_while(&mut self, depth: u16, mut go_on: impl FnMut(Instant) -> bool) -> Result<Window, Failure> {
        let mut window = Window::new();
        let start = self.clock.now();
        let mut now = start;
        loop {
            self.send(depth - self.in_flight, now)?;
            now = self.reap(&mut window)?;
            if !go_on(now) {
                break;
            }
        }
        window.took_ns = now.since_ns(start);
        let mut beyond = Window::new();
        self.drain(&mut beyond)?;
        window.errors += beyond.errors;
        Ok(window)
    }

    /// Keeps `depth` random reads in flight for `length`.
    pub(crate) fn run(&mut self, depth: u16, length: Duration) -> Result<Window, Failure> {
        let end = self.clock.now().after(length);
        self.run_while(depth, |now| now < end)
    }

    /// One read after another, each after a silence that is waited for without sleeping.
    pub(crate) fn run_with_silence(&mut self, silence: Duration, count: u32) -> Result<Window, Failure> {
        let mut window = Window::new();
        let start = self.clock.now();
        for _ in 0..count {
            let due = self.clock.now().after(silence);
            self.read_at(due, &mut window)?;
        }
        window.took_ns = self.clock.now().since_ns(start);
        Ok(window)
    }

    /// Reads at a steady rate as long as `go_on` says, asleep in between. A late answer delays no later read's due time.
    pub(crate) fn run_at_rate(&mut self, per_second: u32, mut go_on: impl FnMut(Instant) -> bool) -> Result<Window, Failure> {
        let mut window = Window::new();
        let step_ns = 1_000_000_000 / u64::from(per_second);
        let start = self.clock.now();
        let mut due = start;
        while go_on(due) {
            due = due.after_ns(step_ns);
            self.sleep_until(due);
            self.read_at(due, &mut window)?;
        }
        window.took_ns = self.clock.now().since_ns(start);
        Ok(window)
    }

    /// Sleeps until shortly before `due`: the kernel wakes nobody on the microsecond.
    fn sleep_until(&self, due: Instant) {
        const EARLY_NS: u64 = 200_000;
        let left_ns = due.since_ns(self.clock.now()).saturating_sub(EARLY_NS);
        if left_ns > 0
            && let Ok(left) = rustix::time::Timespec::try_from(Duration::from_nanos(left_ns))
        {
            // Woken early by a signal, it waits the rest out without sleeping.
            let _ = rustix::thread::nanosleep(&left);
        }
    }

    /// One read, sent when it is due.
    fn read_at(&mut self, due: Instant, window: &mut Window) -> Result<(), Failure> {
        while self.clock.now() < due {
            std::hint::spin_loop();
        }
        self.send(1, due)?;
        self.drain(window)
    }

    fn drain(&mut self, window: &mut Window) -> Result<(), Failure> {
        while self.in_flight > 0 {
            self.reap(window)?;
        }
        Ok(())
    }

    /// Writes every block once.
    pub(crate) fn fill(&mut self) -> Result<(), Failure> {
        let mut window = Window::new();
        let mut block = 0;
        while block < self.blocks {
            let now = self.clock.now();
            while !self.free.is_empty() && block < self.blocks {
                self.submit(Verb::Write, block, now)?;
                block += 1;
            }
            self.kick()?;
            self.reap(&mut window)?;
        }
        self.drain(&mut window)?;
        if window.errors > 0 { Err(format!("{} blocks could not be written", window.errors).into()) } else { Ok(()) }
    }

    /// Sends `count` random reads.
    fn send(&mut self, count: u16, at: Instant) -> Result<(), Failure> {
        for _ in 0..count {
            let block = self.random_block();
            self.submit(Verb::Read, block, at)?;
        }
        self.kick()
    }

    /// Kicks if the server wants to be kicked.
    fn kick(&mut self) -> Result<(), Failure> {
        if self.queue.avail_notif_needed() {
            self.notifier.notify()?;
        }
        Ok(())
    }

    #[allow(unsafe_code, reason = "the driver's way to use memory that is not Rust's alone")]
    fn submit(&mut self, verb: Verb, block: u64, at: Instant) -> Result<(), Failure> {
        let slot = self.free.pop().ok_or("more requests in flight than buffers")?;
        let segment = self.memory.segment(u64::from(slot) * u64::from(BLOCK_BYTES), BLOCK_BYTES)?;
        let buffer = self.memory.as_ptr().wrapping_add(usize::try_from(segment.offset())?);
        let (offset, len) = (block * u64::from(BLOCK_BYTES), BLOCK_BYTES as usize);
        match verb {
            // SAFETY: `segment` shows that the buffer lies in the region, which lives as long as this client and is
            // never borrowed as Rust memory; the slot is not free again before the server is done with it.
            Verb::Read => unsafe { self.queue.read_raw(offset, buffer, len, Sent { at, slot }) }?,
            // SAFETY: as for reads.
            Verb::Write => unsafe { self.queue.write_raw(offset, buffer, len, Sent { at, slot }) }?,
        }
        self.in_flight += 1;
        Ok(())
    }

    /// Waits for a batch to end, without sleeping, and answers when it was seen.
    fn reap(&mut self, window: &mut Window) -> Result<Instant, Failure> {
        let mut deadline = None;
        let mut looks = 0_u32;
        while !self.queue.completions().has_next() {
            looks = looks.wrapping_add(1);
            if looks.is_multiple_of(LOOKS) {
                let now = self.clock.now();
                if now > *deadline.get_or_insert(now.after(PATIENCE)) {
                    return Err(format!("the server has answered nothing for {PATIENCE:?}, with {} reads in flight", self.in_flight).into());
                }
            }
        }
        let now = self.clock.now();
        for done in self.queue.completions() {
            window.latency.saturating_record(now.since_ns(done.context.at));
            window.errors += u64::from(done.ret != 0);
            self.free.push(done.context.slot);
            self.in_flight -= 1;
        }
        Ok(now)
    }

    /// xorshift64*, scaled to the disk: cheap beside a read of 50 ns.
    fn random_block(&mut self) -> u64 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        let scaled = (u128::from(self.random.wrapping_mul(0x2545_f491_4f6c_dd1d)) * u128::from(self.blocks)) >> 64;
        u64::try_from(scaled).expect("below the number of blocks")
    }
}
