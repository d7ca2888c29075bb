//! The session's part: queues are started, stopped and moved from core to core without waiting for anything. Knows no data.

use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use spinel_core::{Command, Core, Device, Meters, OpenError, PollerId, Recipe, Remains};
use spinel_sim::guest::Layout;
use spinel_vhost::{AnyRing, BlkFeatures, Disk, Poked, QueueEvent, QueueRemains, QueueSetup, RingFeatures, recipe};

use crate::driver::new_eventfd;
use crate::failure::Failure;
use crate::guest::{Guest, SERIAL};
use crate::host::SimCore;
use crate::planted::Plant;

enum Place {
    /// On no core. The ring in its setup stands where it has to go on, or is built anew from the index.
    Parked(Box<QueueSetup>),
    Starting(usize, Receiver<Result<PollerId, OpenError>>),
    Running(usize, PollerId),
    Stopping {
        remains: Receiver<Remains>,
        /// Its core has told it to stop.
        told: Receiver<()>,
        /// What it had taken when that was known.
        taken: Option<u16>,
    },
    /// Between two of the others.
    Nowhere,
}

/// What was agreed for all queues.
#[derive(Clone, Copy)]
pub(crate) struct Terms {
    /// The guest kicks; otherwise it has to be polled for.
    pub(crate) kicks: bool,
    /// The guest is notified; otherwise it polls.
    pub(crate) calls: bool,
}

/// One queue of the guest, wherever it is.
pub(crate) struct Service {
    queue: usize,
    place: Place,
    calls: Sender<Option<std::os::fd::OwnedFd>>,
    /// An eventfd was sent to the queue, which has perhaps not taken it yet.
    is_replacing_call: bool,
    terms: Terms,
    events: Receiver<QueueEvent>,
    meters: Arc<Meters>,
    plant: Option<Plant>,
    /// How often it was started.
    pub(crate) starts: u64,
}

/// A ring that goes on where the guest's memory says, or at `base` if that says nothing.
fn ring(guest: &Guest, queue: usize, base: Option<u32>) -> AnyRing {
    let driver = &guest.drivers[queue];
    let Layout { size, packed, event_idx, indirect, .. } = driver.layout;
    let features = RingFeatures { packed, event_idx, indirect };
    AnyRing::new(&guest.map(), size, driver.addresses(), features, base).expect("the ring lies in the guest's memory")
}

impl Service {
    pub(crate) fn new(guest: &Guest, queue: usize, device: Arc<dyn Device>, terms: Terms, plant: Option<Plant>) -> Self {
        let (report, events) = unbounded();
        let (calls, replaced) = bounded(1);
        let meters = Arc::new(Meters::default());
        let disk = Arc::new(Disk { serial: SERIAL.to_owned(), device, meters: Arc::clone(&meters), read_only: false });
        let driver = &guest.drivers[queue];
        let setup = QueueSetup {
            index: u16::try_from(queue).expect("few queues"),
            name: format!("simulated/q{queue}"),
            meter: disk.meters.start(),
            disk,
            features: BlkFeatures { flush: true, discard: true, write_zeroes: true },
            writeback: Arc::clone(&guest.writeback),
            ring: ring(guest, queue, None),
            guest: guest.map(),
            log: None,
            kick: terms.kicks.then(|| driver.kick_end()),
            call: (terms.calls && plant != Some(Plant::NeverCalls)).then(|| driver.call_end()),
            calls: replaced,
            events: report,
            poke: Arc::new(Poked(new_eventfd())),
        };
        let place = Place::Parked(Box::new(setup));
        Self { queue, place, calls, is_replacing_call: false, terms, events, meters, plant, starts: 0 }
    }

    /// The core that serves it, or is about to.
    pub(crate) fn core(&self) -> Option<usize> {
        match self.place {
            Place::Starting(core, _) | Place::Running(core, _) => Some(core),
            _ => None,
        }
    }

    pub(crate) fn is_parked(&self) -> bool {
        matches!(self.place, Place::Parked(_))
    }

    /// The core that certainly serves it, and was not told to stop.
    pub(crate) fn running_on(&self) -> Option<usize> {
        if let Place::Running(core, _) = self.place { Some(core) } else { None }
    }

    /// Starts it on a core: what was parked goes on by itself, or is built anew.
    pub(crate) fn start(&mut self, core: usize, cores: &[SimCore], guest: &mut Guest, anew: bool) {
        let Place::Parked(mut setup) = std::mem::replace(&mut self.place, Place::Nowhere) else { panic!("only what is parked is started") };
        if anew {
            let base = setup.ring.base();
            setup.ring = ring(guest, self.queue, Some(base));
            assert_eq!(setup.ring.base(), base, "nothing flies, so everything taken is used");
            // A session makes new descriptors; the old ones are closed, and nobody may watch them any more.
            let driver = &guest.drivers[self.queue];
            setup.kick = setup.kick.as_ref().map(|_| driver.kick_end());
            setup.call = setup.call.as_ref().map(|_| driver.call_end());
            self.meters.end(&setup.meter);
            setup.meter = self.meters.start();
        }
        self.starts += 1;
        guest.note("start", self.queue, &[u64::try_from(core).expect("few cores"), u64::from(anew)]);
        let (reply, answer) = bounded(1);
        let recipe: Recipe = match self.plant {
            Some(plant) => plant.corrupt(recipe(*setup)),
            None => recipe(*setup),
        };
        cores[core].mailbox.post(Command::Add(recipe, reply));
        self.place = Place::Starting(core, answer);
    }

    /// Tells it to stop; what it leaves is parked later on.
    pub(crate) fn stop(&mut self, cores: &[SimCore], guest: &mut Guest) {
        guest.note("stop", self.queue, &[]);
        if let Place::Running(core, id) = self.place {
            let remains = cores[core].mailbox.stop(id);
            // Commands are obeyed in their order.
            let (reply, told) = bounded(1);
            let tell = move |_: &mut Core| {
                // Nobody listens any more if the queue has drained by now.
                let _ = reply.send(());
            };
            cores[core].mailbox.post(Command::Visit(Box::new(tell)));
            self.place = Place::Stopping { remains, told, taken: None };
        }
    }

    /// Gives it another eventfd to notify by.
    pub(crate) fn replace_call(&mut self, guest: &mut Guest) {
        if !self.is_replacing_call && self.terms.calls && self.plant != Some(Plant::NeverCalls) {
            self.is_replacing_call = true;
            let call = guest.drivers[self.queue].replace_call();
            self.calls.try_send(Some(call)).expect("the last one was taken");
        }
    }

    /// Looks for answers from its core; tells whether there was one.
    pub(crate) fn attend(&mut self, guest: &mut Guest) -> Result<bool, Failure> {
        if let Ok(QueueEvent::Fault { fault, .. }) = self.events.try_recv() {
            return Err(Failure::Fault { queue: self.queue, fault });
        }
        if self.is_replacing_call && self.calls.is_empty() {
            self.is_replacing_call = false;
            guest.drivers[self.queue].drop_old_calls();
        }
        match &mut self.place {
            Place::Starting(core, answer) => {
                let Ok(answer) = answer.try_recv() else { return Ok(false) };
                guest.note("runs", self.queue, &[]);
                self.place = Place::Running(*core, answer.expect("the disk can be opened"));
            }
            Place::Stopping { remains, told, taken } => {
                let now = guest.drivers[self.queue].taken();
                *taken = taken.or(told.try_recv().is_ok().then_some(now));
                if taken.is_some_and(|taken| taken != now) {
                    return Err(Failure::TookMore { queue: self.queue });
                }
                let Ok(remains) = remains.try_recv() else { return Ok(false) };
                let remains = *remains.downcast::<QueueRemains>().expect("a queue's remains");
                self.check(&remains, guest)?;
                guest.note("parked", self.queue, &[u64::from(remains.base)]);
                self.place = Place::Parked(Box::new(remains.setup));
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// What is left has to say where the guest's ring goes on, and nothing of it may fly.
    fn check(&self, remains: &QueueRemains, guest: &Guest) -> Result<(), Failure> {
        let (queue, driver) = (self.queue, &guest.drivers[self.queue]);
        if driver.in_flight() > 0 {
            return Err(Failure::StoppedInFlight { queue, in_flight: driver.in_flight() });
        }
        if remains.base != driver.base() {
            return Err(Failure::WrongBase { queue, says: remains.base, taken: driver.base() });
        }
        Ok(())
    }

    /// Whether the disk's meters counted what the driver saw. When everything has ended.
    pub(crate) fn check_meters(&self, guest: &Guest) -> Result<(), Failure> {
        let snapshot = self.meters.snapshot();
        let requests: u64 = snapshot.ops.iter().map(spinel_core::OpCounts::ops).sum();
        let (metered, seen) = ((requests, snapshot.errors), guest.served[self.queue]);
        if metered == seen { Ok(()) } else { Err(Failure::Miscounted { queue: self.queue, metered, seen }) }
    }
}
