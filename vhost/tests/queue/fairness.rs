//! Two guests on one core: what the one with a thousand requests waiting may take while the other waits for a single answer.

use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, bounded};
use spinel_core::mem::Region;
use spinel_core::{Command, Core, CoreId, Device, Instant, Mailbox, mailbox};
use spinel_reactor::Reactor;
use spinel_sim::SimSleeper;
use spinel_sim::guest::{GuestRequest, Layout, SimGuest};
use spinel_vhost::{QueueEvent, recipe};
use spinel_volume::{DelayDevice, Latencies, NullDevice};

use crate::common::{disk, find, setup};
use crate::{LAYOUT, PACKED, memory, shape};

/// As many as a turn takes of a guest that has its core to itself.
const ALONE: usize = 64;
/// A turn in which nothing ends takes so long.
const EMPTY_TURN_NS: u64 = 50;
/// Beside somebody whose requests end at once, turns are to last no longer.
const SHARED_TURN_NS: u64 = 1_000;
/// For so long a guest that has fallen silent is still made room for.
const REMEMBERED_NS: u64 = 1_000_000;

/// A core with two guests, each with a ring that holds a thousand requests, and a clock that goes on with what ends.
struct Shared {
    reactor: Reactor,
    mailbox: Mailbox,
    now: Instant,
    /// What each request costs the core.
    cost_ns: u64,
    /// How long the present turn takes.
    turn_ns: u64,
    guests: [SimGuest; 2],
    events: Vec<Receiver<QueueEvent>>,
}

impl Shared {
    fn new(devices: [&Arc<dyn Device>; 2], layout: Layout, cost_ns: u64) -> Self {
        let layout = Layout { size: 1024, data_bytes: 65_536, ..layout };
        let (sleeper, _bed) = SimSleeper::new();
        let (mailbox, inbox) = mailbox(CoreId(0)).unwrap();
        let reactor = Reactor::new(Core::new(CoreId(0), Box::new(sleeper)), inbox);
        let guests = [(); 2].map(|()| SimGuest::new(Region::anonymous(SimGuest::memory_bytes(layout)).unwrap(), layout));
        let (now, turn_ns) = (Instant { ns: 0 }, EMPTY_TURN_NS);
        let mut shared = Self { reactor, mailbox, now, cost_ns, turn_ns, guests, events: Vec::new() };
        for (at, device) in devices.into_iter().enumerate() {
            let region = Arc::clone(shared.guests[at].region());
            shared.obey(|reply| Command::Map(region, reply));
            let (setup, events) = setup(&shared.guests[at], find(&shared.guests[at], layout), &disk(Arc::clone(device), false));
            shared.events.push(events);
            shared.obey(|reply| Command::Add(recipe(setup), reply)).unwrap();
        }
        shared
    }

    fn obey<T>(&mut self, command: impl FnOnce(Sender<T>) -> Command) -> T {
        let (reply, answer) = bounded(1);
        self.mailbox.post(command(reply));
        self.reactor.turn(self.now);
        answer.try_recv().unwrap()
    }

    /// A turn, as long after the one before as what ended in that one takes.
    fn turn(&mut self) {
        self.now = self.now.after_ns(self.turn_ns);
        self.turn_ns = EMPTY_TURN_NS;
        self.reactor.turn(self.now);
    }

    /// How many of a guest's requests have ended.
    fn reap(&mut self, at: usize) -> usize {
        let guest = &mut self.guests[at];
        let ended = std::iter::from_fn(|| guest.reap()).map(|finished| assert_eq!(finished.status, 0)).count();
        self.turn_ns += self.cost_ns * u64::try_from(ended).unwrap();
        ended
    }

    /// Lets a guest have as many requests waiting as its ring holds. Answers how many had ended.
    fn fill(&mut self, at: usize, len_bytes: u32) -> usize {
        let ended = self.reap(at);
        let guest = &mut self.guests[at];
        while guest.next_head().is_some() {
            guest.post(GuestRequest::read(0, len_bytes));
        }
        guest.publish();
        ended
    }

    /// One request of a guest, from posting to its end: how many of the other one's end meanwhile, whose ring is kept full,
    /// and how many of those in one turn.
    fn overtaken(&mut self, at: usize, len_bytes: u32) -> (usize, usize) {
        self.guests[at].post(GuestRequest::read(0, 4096));
        self.guests[at].publish();
        let (mut ended, mut most) = (0, 0);
        for _ in 0..10_000 {
            self.turn();
            let more = self.fill(1 - at, len_bytes);
            (ended, most) = (ended + more, most.max(more));
            if self.reap(at) == 1 {
                return (ended, most);
            }
        }
        panic!("a single request does not end: {:?}", self.events[at].try_recv());
    }
}

fn null() -> Arc<dyn Device> {
    Arc::new(NullDevice::new(shape(512, 1 << 20)).unwrap())
}

#[test]
fn a_single_request_waits_for_a_microsecond_of_a_guest_that_has_a_thousand_waiting() {
    // What a request costs, and how many are as many as a microsecond, or the one that has begun before it, allows.
    for (cost_ns, allowed) in [(40, 25), (100, 10), (400, 3), (1_000, 1), (9_000, 1)] {
        for (device, layout) in [(null(), LAYOUT), (null(), PACKED), (memory(512), LAYOUT), (memory(512), PACKED)] {
            // Whichever of them comes first in a turn.
            for victim in 0..2 {
                let mut core = Shared::new([&device, &device], layout, cost_ns);
                core.fill(1 - victim, 4096);
                // Nobody knew of it before its first, and what was taken by then is learnt from beside the next few.
                (0..10).for_each(|_| _ = core.overtaken(victim, 4096));
                let ended: Vec<usize> = (0..500).map(|_| core.overtaken(victim, 4096).0).collect();
                assert!(ended.iter().all(|ended| *ended <= allowed), "{cost_ns} ns each, at most {allowed}: {ended:?}");
                let all: usize = ended.iter().sum();
                assert!(2 * all >= allowed * ended.len(), "it is held back more than it has to be: {ended:?}");
            }
        }
    }
}

#[test]
fn whose_requests_take_long_is_made_less_room_for() {
    let times = Latencies { average_read_us: 50, p99_read_us: 50, average_write_us: 50, p99_write_us: 50 };
    let slow: Arc<dyn Device> = Arc::new(DelayDevice::new(null(), times).unwrap());
    for layout in [LAYOUT, PACKED] {
        let mut core = Shared::new([&null(), &slow], layout, 200);
        core.fill(0, 4096);
        (0..50).for_each(|_| _ = core.overtaken(1, 4096));
        for _ in 0..100 {
            let (_, most) = core.overtaken(1, 4096);
            assert!((30..=64).contains(&most), "{most} in a turn, of 200 ns each, beside one that waits for 50 us");
        }
    }
}

#[test]
fn a_guest_alone_on_its_core_takes_large_batches_again_soon() {
    for layout in [LAYOUT, PACKED] {
        let mut core = Shared::new([&null(), &null()], layout, 100);
        core.fill(0, 4096);
        (0..10).for_each(|_| _ = core.overtaken(1, 4096));
        let silent_since = core.now;
        loop {
            core.turn();
            let ended = core.fill(0, 4096);
            let silent_ns = core.now.since_ns(silent_since);
            // Ten are as long as turns may last. A device may tell of some of them a turn later.
            assert!(silent_ns >= REMEMBERED_NS || ended <= 2 * 10, "{ended} after {silent_ns} ns");
            if silent_ns > REMEMBERED_NS + 20 * SHARED_TURN_NS {
                assert_eq!(ended, ALONE);
                break;
            }
        }
    }
}
