//! A reactor on its own thread that serves one virtqueue, and a guest on this one that keeps it busy. Knows no device.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use crossbeam_channel::{Sender, unbounded};
use rustix::event::{EventfdFlags, eventfd};
use spinel_core::mem::Region;
use spinel_core::{CoreId, Device, Meters, PollerId};
use spinel_reactor::{Clock, Handle, Mode, PaceLimits, ReactorConfig, start};
use spinel_sim::guest::{GuestRequest, Layout, SimGuest};
use spinel_vhost::{AnyRing, BlkFeatures, Disk, Poked, QueueSetup, RingAddresses, RingFeatures, recipe};

/// Requests in flight while the guest is busy.
pub(crate) const DEPTH: u16 = 32;
/// Bytes of each guest buffer.
pub(crate) const DATA_BYTES: u32 = 4096;
/// Far longer than any request takes: what has not ended by then never will.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a core that may sleep spins before.
const SPIN_NS: u64 = 5_000;
/// How long the guest is silent between two bursts, so that such a core falls asleep.
const SILENCE_NS: u64 = 4 * SPIN_NS;

/// How the guest asks and the core waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Pattern {
    /// The core never sleeps, and always has something to do.
    Spinning,
    /// Bursts with silence between them, in which the core sleeps.
    Sleeping,
}

/// A request and the status it is to end with.
#[derive(Clone, Copy)]
pub(crate) struct Asked {
    pub(crate) request: GuestRequest,
    /// What is put into the data buffer before: the ranges of a discard.
    pub(crate) data: Option<[u8; 16]>,
    pub(crate) status: u8,
}

/// What a run came to.
#[derive(Debug)]
pub(crate) struct Counted {
    pub(crate) allocations: u64,
    pub(crate) sleeps: u64,
}

pub(crate) struct Rig {
    reactor: Handle,
    queue: PollerId,
    guest: SimGuest,
    /// By head, what its request is to end with.
    expected: Vec<u8>,
    in_flight: u16,
    kick: OwnedFd,
    clock: Clock,
    pattern: Pattern,
    /// Held, as a session would hold it.
    _calls: Sender<Option<OwnedFd>>,
}

impl Rig {
    pub(crate) fn new(device: Arc<dyn Device>, packed: bool, pattern: Pattern) -> Self {
        let reactor = start(ReactorConfig {
            core: CoreId(0),
            mode: if pattern == Pattern::Spinning { Mode::Poll } else { Mode::Adaptive },
            limits: PaceLimits { spin_min_ns: SPIN_NS, spin_max_ns: SPIN_NS },
            pin: false,
            make_core: Box::new(|id| spinel_uring::core(id, spinel_uring::Options::default())),
        })
        .unwrap();
        let layout = Layout { size: 2 * DEPTH, packed, event_idx: true, indirect: true, data_bytes: DATA_BYTES };
        let guest = SimGuest::new(Region::anonymous(SimGuest::memory_bytes(layout)).unwrap(), layout);
        // Where the kernel allows it; otherwise the path without pins is the one that is counted.
        let _ = spinel_uring::pin(guest.region());
        reactor.mailbox().map(Arc::clone(guest.region()));
        let [descriptors, available, used] = guest.addresses();
        let addresses = RingAddresses { descriptors, available, used };
        let features = RingFeatures { packed, event_idx: true, indirect: true };
        let disk = Arc::new(Disk { serial: "disk0".to_owned(), device, meters: Arc::new(Meters::default()), read_only: false });
        let event = || eventfd(0, EventfdFlags::NONBLOCK).unwrap();
        let kick = event();
        let (replace_call, calls) = unbounded();
        let setup = QueueSetup {
            index: 0,
            name: "allocations/q0".to_owned(),
            meter: disk.meters.start(),
            disk,
            features: BlkFeatures { flush: true, discard: true, write_zeroes: true },
            writeback: Arc::new(AtomicBool::new(true)),
            ring: AnyRing::new(&guest.map(), layout.size, addresses, features, None).unwrap(),
            guest: guest.map(),
            log: None,
            kick: Some(rustix::io::dup(&kick).unwrap()),
            call: Some(event()),
            calls,
            events: unbounded().0,
            poke: Arc::new(Poked(event())),
        };
        let queue = reactor.mailbox().add(recipe(setup)).unwrap();
        let expected = vec![0xff; usize::from(layout.size)];
        Self { reactor, queue, guest, expected, in_flight: 0, kick, clock: Clock::system(), pattern, _calls: replace_call }
    }

    /// Runs `count` requests in the pattern, and counts what the core's thread allocated meanwhile.
    pub(crate) fn run(&mut self, count: u64, ask: &mut dyn FnMut(u64) -> Asked) -> Counted {
        let (allocations, sleeps) = self.counters();
        let mut posted = 0;
        while posted < count {
            while self.in_flight < DEPTH && posted < count {
                self.post(ask(posted));
                posted += 1;
            }
            self.publish();
            match self.pattern {
                Pattern::Spinning => self.wait_until(DEPTH - 1),
                Pattern::Sleeping => {
                    self.wait_until(0);
                    self.be_silent();
                }
            }
        }
        self.wait_until(0);
        let (allocations_after, sleeps_after) = self.counters();
        Counted { allocations: allocations_after - allocations, sleeps: sleeps_after - sleeps }
    }

    /// Stops the queue and the reactor.
    pub(crate) fn end(self) {
        let _remains = self.reactor.mailbox().stop(self.queue).recv().unwrap();
        self.reactor.quit();
    }

    fn counters(&self) -> (u64, u64) {
        let allocations = self.reactor.mailbox().visit(|_| spinel_counting::by_this_thread()).unwrap();
        (allocations, self.reactor.usage().sleeps)
    }

    fn post(&mut self, asked: Asked) {
        let head = self.guest.post(asked.request);
        if let Some(data) = asked.data {
            self.guest.region().write(self.guest.data_at(head), &data).unwrap();
        }
        self.expected[usize::from(head)] = asked.status;
        self.in_flight += 1;
    }

    fn publish(&mut self) {
        if self.guest.publish() {
            rustix::io::write(&self.kick, &1_u64.to_ne_bytes()).unwrap();
        }
    }

    /// Takes what has ended until at most `left` requests are in flight.
    fn wait_until(&mut self, left: u16) {
        let deadline = self.clock.now().after(PATIENCE);
        loop {
            while let Some(finished) = self.guest.reap() {
                assert_eq!(finished.status, self.expected[usize::from(finished.head)], "head {}", finished.head);
                self.in_flight -= 1;
            }
            if self.in_flight <= left {
                return;
            }
            assert!(self.clock.now() < deadline, "{} requests did not end", self.in_flight);
            std::thread::yield_now();
        }
    }

    fn be_silent(&self) {
        let until = self.clock.now().after_ns(SILENCE_NS);
        while self.clock.now() < until {
            std::hint::spin_loop();
        }
    }
}
