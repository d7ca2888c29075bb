//! One core, turned by hand for so many requests, so that callgrind can count what the turns cost. Knows no budget.
#![forbid(unsafe_code)]

use std::error::Error;
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use rustix::event::{EventfdFlags, eventfd};
use spinel_core::mem::Region;
use spinel_core::{Command, Core, CoreId, Device, Instant, Mailbox, Meters, Recipe, mailbox};
use spinel_load::{Job, Length, Load, Memory, Mix, Sizes, feed};
use spinel_reactor::Reactor;
use spinel_sim::SimSleeper;
use spinel_sim::guest::{GuestRequest, Layout, SimGuest};
use spinel_vhost::{AnyRing, BlkFeatures, Disk, Poked, QueueEvent, QueueSetup, RecordPlace, RingAddresses, RingFeatures, recipe};
use spinel_volume::{MemoryDevice, NullDevice, Shape};

const USAGE: &str = "usage: counted vhost|packed|vhost-recorded|packed-recorded|load null|memory read|write DEPTH REQUESTS";
/// Bytes of each request.
const BLOCK_BYTES: u32 = 4096;
const DISK_BYTES: u64 = 16 << 20;
/// Requests go through tables, so that each takes one descriptor.
const RING_SIZE: u16 = 128;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments.iter().map(String::as_str).collect::<Vec<_>>()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[&str]) -> Result<(), Box<dyn Error>> {
    let &[who, device, operation, depth, requests] = arguments else { return Err(USAGE.into()) };
    let shape = Shape::new(512, DISK_BYTES / 512);
    let device: Arc<dyn Device> = match device {
        "null" => Arc::new(NullDevice::new(shape)?),
        "memory" => Arc::new(MemoryDevice::new(shape)?),
        _ => return Err(USAGE.into()),
    };
    let (request, mix): (fn(u64, u32) -> GuestRequest, Mix) = match operation {
        "read" => (GuestRequest::read, Mix { read: 100, ..Mix::default() }),
        "write" => (GuestRequest::write, Mix { write: 100, ..Mix::default() }),
        _ => return Err(USAGE.into()),
    };
    match who {
        "vhost" | "packed" | "vhost-recorded" | "packed-recorded" => {
            let queue = Queue::new(device, who.starts_with("packed"), who.ends_with("recorded"))?;
            queue.run(request, depth.parse()?, requests.parse()?)
        }
        "load" => {
            let length = Length { requests: Some(requests.parse()?), ..Length::default() };
            let sizes = Sizes { min_bytes: BLOCK_BYTES, max_bytes: BLOCK_BYTES };
            load(device, Job { mix, sizes, depth: depth.parse()?, length, ..Job::new() })
        }
        _ => Err(USAGE.into()),
    }
}

/// Has the load generator do a job, to its end.
fn load(device: Arc<dyn Device>, job: Job) -> Result<(), Box<dyn Error>> {
    let count = job.length.requests.unwrap_or(0);
    let (outlet, intake) = feed(|kind| job.sends(kind));
    let memory = Memory::anonymous(&job)?;
    let recipe = Load { name: "counted".to_owned(), job, device, memory, outlet, judge: None }.recipe();
    let mut engine = Engine::new()?;
    engine.obey(|reply| Command::Add(recipe, reply))??;
    for _ in 0..turns_max(count) {
        engine.turn();
        if intake.is_over() {
            break;
        }
    }
    let (mut ended, mut failed) = (0, 0);
    while let Ok(Some(())) = intake.take(|tally| {
        ended += tally.requests();
        failed += tally.ops.iter().flatten().map(|op| op.errors()).sum::<u64>();
    }) {}
    if (ended, failed) == (count, 0) { Ok(()) } else { Err(format!("{ended} of {count} requests have ended, {failed} failed").into()) }
}

/// Far more than two turns for each request.
fn turns_max(requests: u64) -> u64 {
    100 + 10 * requests
}

/// The one function whose instructions are counted, with all that it calls.
#[inline(never)]
fn counted_turn(reactor: &mut Reactor, now: Instant) {
    reactor.turn(now);
}

/// A reactor without a ring, and what its session would hold.
struct Engine {
    reactor: Reactor,
    mailbox: Mailbox,
    now: Instant,
}

impl Engine {
    fn new() -> Result<Self, Box<dyn Error>> {
        let (sleeper, _bed) = SimSleeper::new();
        let (mailbox, inbox) = mailbox(CoreId(0))?;
        let reactor = Reactor::new(Core::new(CoreId(0), Box::new(sleeper)), inbox);
        Ok(Self { reactor, mailbox, now: Instant::default() })
    }

    /// Has the reactor obey a command, in a turn that is not counted.
    fn obey<T>(&mut self, command: impl FnOnce(Sender<T>) -> Command) -> Result<T, Box<dyn Error>> {
        let (reply, answer) = bounded(1);
        self.mailbox.post(command(reply));
        self.reactor.turn(self.now);
        Ok(answer.try_recv()?)
    }

    /// One turn, a microsecond later.
    fn turn(&mut self) {
        self.now = self.now.after_ns(1_000);
        counted_turn(&mut self.reactor, self.now);
    }
}

/// A vhost queue on a core, and the guest that drives it.
struct Queue {
    engine: Engine,
    guest: SimGuest,
    /// How many requests have ended.
    ended: u64,
    _calls: Sender<Option<OwnedFd>>,
    events: Receiver<QueueEvent>,
}

impl Queue {
    /// With what is in flight on record, as for a front end that keeps a record, or without.
    fn new(device: Arc<dyn Device>, packed: bool, recorded: bool) -> Result<Self, Box<dyn Error>> {
        let layout = Layout { size: RING_SIZE, packed, event_idx: true, indirect: true, data_bytes: BLOCK_BYTES };
        let guest = SimGuest::new(Region::anonymous(SimGuest::memory_bytes(layout))?, layout);
        let [descriptors, available, used] = guest.addresses();
        let addresses = RingAddresses { descriptors, available, used };
        let features = RingFeatures { packed, event_idx: true, indirect: true };
        let mut ring = AnyRing::new(&guest.map(), layout.size, addresses, features, None)?;
        if recorded {
            let region = Region::anonymous(RecordPlace::bytes(layout.size))?;
            ring = ring.on_record(&RecordPlace { region, offset: 0 }, false)?;
        }
        let meters = Arc::new(Meters::default());
        let disk = Arc::new(Disk { serial: "disk0".to_owned(), device, meters, read_only: false });
        let event = || eventfd(0, EventfdFlags::NONBLOCK);
        let (calls, replaced_calls) = unbounded();
        let (report, events) = unbounded();
        let setup = QueueSetup {
            index: 0,
            name: "counted/q0".to_owned(),
            meter: disk.meters.start(),
            disk,
            features: BlkFeatures { flush: true, discard: true, write_zeroes: true },
            writeback: Arc::new(AtomicBool::new(true)),
            ring,
            guest: guest.map(),
            log: None,
            kick: Some(event()?),
            call: Some(event()?),
            calls: replaced_calls,
            events: report,
            poke: Arc::new(Poked(event()?)),
        };
        let mut engine = Engine::new()?;
        engine.obey(|reply| Command::Map(Arc::clone(guest.region()), reply))?;
        let queue: Recipe = recipe(setup);
        engine.obey(|reply| Command::Add(queue, reply))??;
        Ok(Self { engine, guest, ended: 0, _calls: calls, events })
    }

    /// Keeps `depth` requests in flight, by a guest that polls and wants no notification, until `count` have ended.
    fn run(mut self, request: fn(u64, u32) -> GuestRequest, depth: u64, count: u64) -> Result<(), Box<dyn Error>> {
        let mut posted = 0;
        for _ in 0..turns_max(count) {
            while posted < count && posted - self.ended < depth {
                let block = posted.wrapping_mul(2_654_435_761) % (DISK_BYTES / u64::from(BLOCK_BYTES));
                self.guest.post(request(block * u64::from(BLOCK_BYTES / 512), BLOCK_BYTES));
                posted += 1;
            }
            self.guest.publish();
            self.engine.turn();
            self.reap()?;
            if self.ended == count {
                return Ok(());
            }
        }
        Err(format!("{} of {count} requests have ended; the queue says {:?}", self.ended, self.events.try_recv()).into())
    }

    fn reap(&mut self) -> Result<(), Box<dyn Error>> {
        while let Some(finished) = self.guest.reap() {
            if finished.status != 0 {
                return Err(format!("a request ended with status {}", finished.status).into());
            }
            self.ended += 1;
        }
        self.guest.refuse_calls();
        Ok(())
    }
}
