//! Arbitrary bytes as a guest's memory, rings and all, against a queue over a memory device.
//!
//! An input is a byte of layout, then patches: where, how many bytes, the bytes. The
//! guest's memory starts zeroed at guest address 0, in two ranges that touch; the rings
//! lie at its beginning. After each patch the queue is polled, so that the guest also
//! changes things while requests are in flight. One bit of the layout puts the ring on
//! record: then a count and so many bytes of the record, as somebody may have left them,
//! come first, and patches behind the memory change the record.

use std::cell::RefCell;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crossbeam_channel::unbounded;
use rustix::event::{EventfdFlags, eventfd};
use spinel_core::mem::{GuestMap, GuestRange, Region};
use spinel_core::{Core, CoreId, Instant, Meter, Meters, Poller, Progress, Sleeper, Watch};
use spinel_vhost::{AnyRing, BlkFeatures, Disk, Poked, QueueSetup, RecordPlace, RingAddresses, RingFeatures, recipe};
use spinel_volume::{MemoryDevice, Shape};

const QUEUE_SIZE: u16 = 8;
const RANGE_BYTES: u64 = 8192;
const DISK_BLOCKS: u64 = 64;
/// The layout's bit for a ring on record.
const ON_RECORD: u8 = 64;
/// A front end's address of guest address 0.
const USER: u64 = 0x1_0000_0000;
const TURNS_PER_PATCH: usize = 3;
/// Nothing in a memory device takes longer; a queue that does not drain by then hangs.
const TURNS_TO_DRAIN: usize = 1000;

struct NeverSleeps;

impl Sleeper for NeverSleeps {
    fn watch(&mut self, _fd: RawFd) -> Watch {
        Watch(0)
    }
    fn unwatch(&mut self, _watch: Watch) {}
    fn sleep(&mut self, _until: Option<Instant>, _now: Instant) {}
}

/// What is reused from one input to the next, because making it costs more than running an input.
struct Rig {
    core: Core,
    ranges: [Arc<Region>; 2],
    record: Arc<Region>,
    guest: GuestMap,
    disks: [Arc<Disk>; 2],
    poke: Arc<Poked>,
    meter: Arc<Meter>,
}

impl Rig {
    fn new() -> Self {
        let ranges = [(); 2].map(|()| Region::anonymous(RANGE_BYTES).expect("memory"));
        let mut core = Core::new(CoreId(0), Box::new(NeverSleeps));
        let mut guest = GuestMap::default();
        for (at, region) in (0..).zip(&ranges) {
            core.map(Arc::clone(region));
            let start = at * RANGE_BYTES;
            guest.add(GuestRange { guest: start, user: USER + start, region: Arc::clone(region) }).expect("apart");
        }
        let disks = [512, 4096].map(|block_bytes| {
            let device = Arc::new(MemoryDevice::new(Shape::new(block_bytes, DISK_BLOCKS)).expect("memory"));
            Arc::new(Disk { serial: "fuzz".to_owned(), device, meters: Arc::new(Meters::default()), read_only: false })
        });
        let poke = Arc::new(Poked(eventfd(0, EventfdFlags::NONBLOCK).expect("an eventfd")));
        let record = Region::anonymous(RecordPlace::bytes(QUEUE_SIZE)).expect("memory");
        Self { core, ranges, record, guest, disks, poke, meter: Arc::new(Meter::default()) }
    }

    /// The queue, unless what is on record cannot be.
    fn queue(&mut self, layout: u8, packed: bool) -> Option<Box<dyn Poller>> {
        let has = |bit: u8| layout & bit != 0;
        let at = |offset: u64| USER + offset;
        let addresses = RingAddresses { descriptors: at(0), available: at(0x80), used: at(0xa0) };
        let features = RingFeatures { packed, event_idx: has(1), indirect: has(2) };
        let mut ring = AnyRing::new(&self.guest, QUEUE_SIZE, addresses, features, None).expect("a good place for a ring");
        if has(ON_RECORD) {
            ring = ring.on_record(&RecordPlace { region: Arc::clone(&self.record), offset: 0 }, false).ok()?;
        }
        let (events, _) = unbounded();
        let (_, calls) = unbounded();
        let setup = QueueSetup {
            index: 0,
            name: String::new(),
            disk: Arc::clone(&self.disks[usize::from(has(4))]),
            features: BlkFeatures { flush: true, discard: has(8), write_zeroes: has(16) },
            writeback: Arc::new(AtomicBool::new(has(32))),
            ring,
            guest: self.guest.clone(),
            log: None,
            kick: None,
            call: None,
            calls,
            events,
            poke: Arc::clone(&self.poke),
            meter: Arc::clone(&self.meter),
        };
        Some(recipe(setup)(&mut self.core).expect("a memory device opens"))
    }

    fn patch(&self, at: u64, bytes: &[u8]) {
        let (range, offset) = match at / RANGE_BYTES {
            0 | 1 => (&self.ranges[usize::from(at >= RANGE_BYTES)], at % RANGE_BYTES),
            _ => (&self.record, at % self.record.len_bytes()),
        };
        let room = usize::try_from(range.len_bytes() - offset).expect("small");
        range.write(offset, &bytes[..bytes.len().min(room)]).expect("inside the range");
    }

    fn run(&mut self, input: &[u8], packed: bool) {
        let Some((layout, mut rest)) = input.split_first() else { return };
        for range in &self.ranges {
            range.zero(0, RANGE_BYTES).expect("the whole range");
        }
        self.record.zero(0, self.record.len_bytes()).expect("the whole record");
        if layout & ON_RECORD != 0
            && let [count, tail @ ..] = rest
        {
            let (bytes, later) = tail.split_at(tail.len().min(usize::from(*count)));
            self.record.write(0, bytes).expect("less than a record");
            rest = later;
        }
        let Some(mut queue) = self.queue(*layout, packed) else { return };
        let mut now = Instant { ns: 1 };
        let mut turn = |queue: &mut Box<dyn Poller>| {
            now = now.after_ns(1000);
            queue.poll(now)
        };
        while let [low, high, len, tail @ ..] = rest {
            let (bytes, later) = tail.split_at(tail.len().min(usize::from(*len)));
            self.patch(u64::from(u16::from_le_bytes([*low, *high])) % (3 * RANGE_BYTES), bytes);
            rest = later;
            for _ in 0..TURNS_PER_PATCH {
                turn(&mut queue);
            }
            let _ = queue.arm();
            queue.disarm();
        }
        queue.stop();
        let drained = (0..TURNS_TO_DRAIN).any(|_| turn(&mut queue) == Progress::Stopped);
        assert!(drained, "a stopped queue drains");
        drop(queue.retire(&mut self.core));
    }
}

thread_local! {
    static RIG: RefCell<Rig> = RefCell::new(Rig::new());
}

/// Serves one input, over a packed ring or a split one.
pub(crate) fn run(input: &[u8], packed: bool) {
    RIG.with_borrow_mut(|rig| rig.run(input, packed));
}
