//! One queue on one simulated core, turned by hand.

pub(crate) mod held;
pub(crate) mod medium;

use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crossbeam_channel::{Receiver, unbounded};
use rustix::event::{EventfdFlags, eventfd};
use spinel_core::mem::{GuestMap, Region};
use spinel_core::{Core, CoreId, Device, Instant, Meters, Poller, Progress, Sleeper, Watch};
use spinel_sim::guest::{Finished, Layout, SimGuest};
use spinel_vhost::{
    AnyRing, BlkFeatures, Disk, Poked, QueueEvent, QueueRemains, QueueSetup, RecordPlace, RingAddresses, RingError, RingFeatures, recipe,
};

struct NeverSleeps;

impl Sleeper for NeverSleeps {
    fn watch(&mut self, _fd: RawFd) -> Watch {
        Watch(0)
    }
    fn unwatch(&mut self, _watch: Watch) {}
    fn sleep(&mut self, _until: Option<Instant>, _now: Instant) {
        panic!("a core turned by hand never sleeps");
    }
}

/// What a queue is given in a test unless it says otherwise.
pub(crate) const ALL: BlkFeatures = BlkFeatures { flush: true, discard: true, write_zeroes: true };

/// A guest's ring, as its device finds it.
pub(crate) fn find(guest: &SimGuest, layout: Layout) -> AnyRing {
    let [descriptors, available, used] = guest.addresses();
    let addresses = RingAddresses { descriptors, available, used };
    let Layout { size, packed, event_idx, indirect, .. } = layout;
    AnyRing::new(&guest.map(), size, addresses, RingFeatures { packed, event_idx, indirect }, None).unwrap()
}

/// A disk of its own.
pub(crate) fn disk(device: Arc<dyn Device>, read_only: bool) -> Arc<Disk> {
    Arc::new(Disk { serial: "disk0".to_owned(), device, meters: Arc::new(Meters::default()), read_only })
}

/// What a guest's queue is made from, and what it will tell.
pub(crate) fn setup(guest: &SimGuest, ring: AnyRing, disk: &Arc<Disk>) -> (QueueSetup, Receiver<QueueEvent>) {
    let (report, events) = unbounded();
    let (_, calls) = unbounded();
    let setup = QueueSetup {
        index: 0,
        name: "test/q0".to_owned(),
        disk: Arc::clone(disk),
        features: ALL,
        writeback: Arc::new(AtomicBool::new(true)),
        ring,
        guest: guest.map(),
        log: None,
        kick: Some(eventfd(0, EventfdFlags::empty()).unwrap()),
        call: None,
        calls,
        events: report,
        poke: Arc::new(Poked(eventfd(0, EventfdFlags::NONBLOCK).unwrap())),
        meter: disk.meters.start(),
    };
    (setup, events)
}

pub(crate) struct Bench {
    pub(crate) guest: SimGuest,
    pub(crate) core: Core,
    pub(crate) queue: Option<Box<dyn Poller>>,
    pub(crate) events: Receiver<QueueEvent>,
    pub(crate) disk: Arc<Disk>,
    pub(crate) now: Instant,
}

impl Bench {
    pub(crate) fn new(device: Arc<dyn Device>, layout: Layout) -> Self {
        let region = Region::anonymous(SimGuest::memory_bytes(layout)).unwrap();
        Self::over(device, SimGuest::new(region, layout), layout, false)
    }

    pub(crate) fn over(device: Arc<dyn Device>, guest: SimGuest, layout: Layout, read_only: bool) -> Self {
        let ring = find(&guest, layout);
        Self::serve(device, guest, ring, read_only)
    }

    /// What is in flight goes on record there, and what is on record is done again.
    pub(crate) fn on_record(device: Arc<dyn Device>, guest: SimGuest, layout: Layout, place: &RecordPlace) -> Result<Self, RingError> {
        let ring = find(&guest, layout).on_record(place, false)?;
        Ok(Self::serve(device, guest, ring, false))
    }

    pub(crate) fn serve(device: Arc<dyn Device>, guest: SimGuest, ring: AnyRing, read_only: bool) -> Self {
        let map = guest.map();
        Self::seen_as(device, guest, map, ring, read_only)
    }

    /// Where the queue is given another map of the guest's memory.
    pub(crate) fn seen_as(device: Arc<dyn Device>, guest: SimGuest, map: GuestMap, ring: AnyRing, read_only: bool) -> Self {
        let mut core = Core::new(CoreId(0), Box::new(NeverSleeps));
        map.ranges().iter().for_each(|range| core.map(Arc::clone(&range.region)));
        let disk = disk(device, read_only);
        let (setup, events) = setup(&guest, ring, &disk);
        let setup = QueueSetup { guest: map, ..setup };
        let queue = recipe(setup)(&mut core).unwrap();
        Self { guest, core, queue: Some(queue), events, disk, now: Instant { ns: 0 } }
    }

    /// One turn, a microsecond later.
    pub(crate) fn turn(&mut self) -> Progress {
        self.now = self.now.after_ns(1_000);
        self.core.reap(self.now);
        let progress = self.queue.as_mut().unwrap().poll(self.now);
        self.core.flush();
        progress
    }

    /// Turns until `count` requests have finished.
    pub(crate) fn finish(&mut self, count: usize) -> Vec<Finished> {
        let mut finished = Vec::new();
        for _ in 0..1_000_000 {
            finished.extend(std::iter::from_fn(|| self.guest.reap()));
            if finished.len() >= count {
                return finished;
            }
            self.turn();
        }
        panic!("{} of {count} requests finished", finished.len());
    }

    /// Stops the queue and turns until it has drained.
    pub(crate) fn stop(&mut self) -> QueueRemains {
        self.queue.as_mut().unwrap().stop();
        for _ in 0..1_000_000 {
            if self.turn() == Progress::Stopped {
                let remains = self.queue.take().unwrap().retire(&mut self.core);
                return *remains.downcast::<QueueRemains>().unwrap();
            }
        }
        panic!("the queue did not drain");
    }
}
