//! A sleeping core and a guest that kicks it at the worst moments: real threads, a real ring, real sleep.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use crossbeam_channel::unbounded;
use rustix::event::{EventfdFlags, eventfd};
use spinel_core::mem::Region;
use spinel_core::{CoreId, Device, Meters, PollerId};
use spinel_reactor::{Clock, Handle, Mode, PaceLimits, ReactorConfig, start};
use spinel_sim::guest::{GuestRequest, Layout, SimGuest};
use spinel_vhost::{AnyRing, BlkFeatures, Disk, Poked, QueueRemains, QueueSetup, RingAddresses, RingFeatures, recipe};
use spinel_volume::{DelayDevice, Latencies, MemoryDevice, Shape};

/// Far longer than any scheduling delay: what has not ended by then was slept through.
const PATIENCE: Duration = Duration::from_secs(20);
/// Around this budget the gaps between requests are chosen.
const SPIN_NS: u64 = 20_000;

struct Rig {
    reactor: Handle,
    queue: PollerId,
    guest: SimGuest,
    kick: OwnedFd,
    clock: Clock,
    kicks: u64,
}

impl Rig {
    fn new(device: Arc<dyn Device>, packed: bool, event_idx: bool) -> Self {
        let reactor = start(ReactorConfig {
            core: CoreId(0),
            mode: Mode::Adaptive,
            // Equal bounds: the budget stays where the gaps are aimed at.
            limits: PaceLimits { spin_min_ns: SPIN_NS, spin_max_ns: SPIN_NS },
            pin: false,
            make_core: Box::new(|id| spinel_uring::core(id, spinel_uring::Options::default())),
        })
        .unwrap();
        let layout = Layout { size: 16, packed, event_idx, indirect: true, data_bytes: 512 };
        let guest = SimGuest::new(Region::anonymous(SimGuest::memory_bytes(layout)).unwrap(), layout);
        reactor.mailbox().map(Arc::clone(guest.region()));
        let [descriptors, available, used] = guest.addresses();
        let addresses = RingAddresses { descriptors, available, used };
        let disk = Arc::new(Disk { serial: String::new(), device, meters: Arc::new(Meters::default()), read_only: false });
        let kick = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
        let setup = QueueSetup {
            index: 0,
            name: "wakeups/q0".to_owned(),
            meter: disk.meters.start(),
            disk,
            features: BlkFeatures::default(),
            writeback: Arc::new(AtomicBool::new(true)),
            ring: AnyRing::new(&guest.map(), layout.size, addresses, RingFeatures { packed, event_idx, indirect: true }, None).unwrap(),
            guest: guest.map(),
            log: None,
            kick: Some(rustix::io::dup(&kick).unwrap()),
            call: None,
            calls: unbounded().1,
            events: unbounded().0,
            poke: Arc::new(Poked(eventfd(0, EventfdFlags::NONBLOCK).unwrap())),
        };
        let queue = reactor.mailbox().add(recipe(setup)).unwrap();
        Self { reactor, queue, guest, kick, clock: Clock::system(), kicks: 0 }
    }

    fn idle(&self, ns: u64) {
        let until = self.clock.now().after_ns(ns);
        while self.clock.now() < until {
            std::hint::spin_loop();
        }
    }

    /// One request at depth one, kicked only if the device asked for it.
    fn request(&mut self) {
        self.guest.post(GuestRequest::read(0, 512));
        if self.guest.publish() {
            self.kicks += 1;
            rustix::io::write(&self.kick, &1_u64.to_ne_bytes()).unwrap();
        }
        let deadline = self.clock.now().after(PATIENCE);
        while self.guest.reap().is_none() {
            assert!(self.clock.now() < deadline, "a request was slept through, {} kicks in", self.kicks);
            std::thread::yield_now();
        }
    }

    fn end(self) -> u64 {
        let remains = self.reactor.mailbox().stop(self.queue).recv().unwrap();
        let base = remains.downcast::<QueueRemains>().unwrap().base;
        let sleeps = self.reactor.usage().sleeps;
        println!("ended at {base:#x}, {} kicks, {sleeps} sleeps", self.kicks);
        self.reactor.quit();
        sleeps
    }
}

fn memory() -> Arc<MemoryDevice> {
    Arc::new(MemoryDevice::new(Shape::new(512, 1024)).unwrap())
}

/// A cheap sequence that visits every gap from nothing to three budgets.
fn gap_ns(at: u64) -> u64 {
    at.wrapping_mul(2_654_435_761) % (3 * SPIN_NS)
}

#[test]
fn no_request_is_slept_through_at_any_distance_from_the_last() {
    for (packed, event_idx) in [(false, false), (false, true), (true, false), (true, true)] {
        let mut rig = Rig::new(memory(), packed, event_idx);
        for at in 0..50_000 {
            rig.idle(gap_ns(at));
            rig.request();
        }
        assert!(rig.end() > 1_000, "the core must have slept often for this to mean anything");
    }
}

#[test]
fn a_core_asleep_wakes_for_what_is_due_and_for_its_mailbox() {
    let latencies = Latencies { average_read_us: 50, p99_read_us: 50, average_write_us: 50, p99_write_us: 50 };
    for packed in [false, true] {
        let mut rig = Rig::new(Arc::new(DelayDevice::new(memory(), latencies).unwrap()), packed, true);
        for at in 0..2_000 {
            rig.idle(gap_ns(at));
            rig.request();
            let core = rig.reactor.mailbox().clone();
            assert_eq!(core.visit(|core| core.id()), Some(CoreId(0)));
        }
        assert!(rig.end() > 1_000);
    }
}
