//! One ring as its front end has set it up, and the queue that serves it on a core. Knows no message.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};
use spinel_core::{CoreId, Mailbox, Meter, OpenError, PollerId, Remains};

use super::deadline::Deadline;
use crate::blk::Disk;
use crate::handover::Bar;
use crate::queue::{QueueRemains, QueueSetup, recipe};
use crate::ring::RingAddresses;

/// A queue on its core.
#[derive(Debug)]
struct Running {
    core: Mailbox,
    id: PollerId,
    /// Both ends, so that a replacement which was not taken yet can itself be replaced.
    calls: (Sender<Option<OwnedFd>>, Receiver<Option<OwnedFd>>),
    meter: Arc<Meter>,
}

/// A queue that was told to stop and has requests in flight, perhaps.
#[derive(Debug)]
pub(crate) struct Draining {
    remains: Receiver<Remains>,
    queue: Running,
    /// It is to go on elsewhere by itself.
    moves: bool,
}

/// Requests in flight when the deadline came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hung {
    pub(crate) outstanding: u64,
}

/// A queue on its way to its core.
#[derive(Debug)]
struct Starting {
    core: Mailbox,
    id: Receiver<Result<PollerId, OpenError>>,
    calls: (Sender<Option<OwnedFd>>, Receiver<Option<OwnedFd>>),
    meter: Arc<Meter>,
}

#[derive(Debug, Default)]
enum Service {
    #[default]
    Idle,
    Starting(Starting),
    Running(Running),
    Draining(Draining),
}

/// One ring. Served while `wanted`; whoever changes what a running queue was built from halts it first.
#[derive(Debug, Default)]
pub(crate) struct Vring {
    /// Number of descriptors, once known.
    pub(crate) size: Option<u16>,
    /// Where it lies, once known.
    pub(crate) addresses: Option<RingAddresses>,
    /// Where it goes on, as VHOST_USER_SET_VRING_BASE and GET_VRING_BASE have it, as long as no queue runs. None at its beginning.
    pub(crate) base: Option<u32>,
    /// Where it would have gone on when the device was reset: for GET_VRING_BASE alone.
    pub(crate) left_at: Option<u32>,
    /// Between SET_VRING_KICK and GET_VRING_BASE.
    pub(crate) started: bool,
    /// Wakes us; none while the guest is polled for.
    pub(crate) kick: Option<OwnedFd>,
    /// Wakes the guest; none while it polls.
    pub(crate) call: Option<OwnedFd>,
    /// Tells the front end that the ring is broken.
    pub(crate) error: Option<OwnedFd>,
    pub(crate) enabled: bool,
    /// A queue has run for it in this session, so that from here on its front end knows where it is.
    pub(crate) ran: bool,
    /// What is on record of it is about a ring that is no more.
    pub(crate) anew: bool,
    pub(crate) bar: Option<Bar>,
    service: Service,
}

impl Vring {
    /// Whether it should be served and is not.
    pub(crate) fn wanted(&self) -> bool {
        let placed = self.size.is_some() && self.addresses.is_some();
        self.started && self.enabled && placed && self.bar.is_none() && matches!(self.service, Service::Idle)
    }

    /// The core that serves it.
    pub(crate) fn core(&self) -> Option<CoreId> {
        match &self.service {
            Service::Running(running) => Some(running.core.core()),
            _ => None,
        }
    }

    /// What its queue counts, while it runs.
    pub(crate) fn meter(&self) -> Option<&Arc<Meter>> {
        match &self.service {
            Service::Running(running) => Some(&running.meter),
            _ => None,
        }
    }

    /// Its place or its memory changed: it may fit now.
    pub(crate) fn moved(&mut self) {
        if self.bar == Some(Bar::Misplaced) {
            self.bar = None;
        }
    }

    /// Sends a queue to its core. `calls` is the receiving end that its setup holds.
    pub(crate) fn begin_start(&mut self, core: &Mailbox, setup: impl FnOnce(Receiver<Option<OwnedFd>>) -> QueueSetup) {
        assert!(matches!(self.service, Service::Idle), "a ring has one queue");
        let calls = bounded(1);
        let setup = setup(calls.1.clone());
        let meter = Arc::clone(&setup.meter);
        self.service = Service::Starting(Starting { core: core.clone(), id: core.begin_add(recipe(setup)), calls, meter });
    }

    /// Waits until a queue that was sent to its core runs there. Whether there was one.
    pub(crate) fn finish_start(&mut self, disk: &Disk) -> Result<bool, OpenError> {
        let Starting { core, id, calls, meter } = match std::mem::take(&mut self.service) {
            Service::Starting(starting) => starting,
            other => {
                self.service = other;
                return Ok(false);
            }
        };
        let id = id.recv().unwrap_or(Err(OpenError::Gone)).inspect_err(|_| disk.meters.end(&meter))?;
        self.service = Service::Running(Running { core, id, calls, meter });
        (self.ran, self.anew) = (true, false);
        Ok(true)
    }

    /// Gives a running queue another eventfd; the latest one wins.
    pub(crate) fn send_call(&self, call: Option<OwnedFd>) {
        let Service::Running(Running { calls: (sender, receiver), .. }) = &self.service else { return };
        let mut unsent = Some(call);
        while let Some(call) = unsent.take() {
            // Only this thread sends, so after one removal there is room.
            if let Err(TrySendError::Full(call)) = sender.try_send(call) {
                drop(receiver.try_recv());
                unsent = Some(call);
            }
        }
    }

    /// Tells its queue, if one runs, to take nothing more.
    pub(crate) fn begin_stop(&mut self) {
        self.service = match std::mem::take(&mut self.service) {
            Service::Running(queue) => Service::Draining(Draining { remains: queue.core.stop(queue.id), queue, moves: false }),
            other => other,
        };
    }

    /// The same; and as soon as that has ended, wherever it belongs then, it starts again.
    pub(crate) fn begin_move(&mut self) {
        self.begin_stop();
        if let Service::Draining(draining) = &mut self.service {
            draining.moves = true;
        }
    }

    /// Whether its queue drains because it moves.
    pub(crate) fn is_moving(&self) -> bool {
        matches!(&self.service, Service::Draining(Draining { moves: true, .. }))
    }

    /// Lets a queue go on that was told to stop and has not come to an end. One that has is idle then.
    pub(crate) fn resume(&mut self, disk: &Disk) {
        self.service = match std::mem::take(&mut self.service) {
            Service::Draining(draining) if draining.queue.core.resume(draining.queue.id) => Service::Running(draining.queue),
            other => other,
        };
        // What could not be resumed has left its remains, or will never.
        let _ = self.finish_stop(disk, Deadline::after(std::time::Duration::ZERO));
    }

    /// Waits until nothing of it flies any more, and remembers where to go on.
    pub(crate) fn finish_stop(&mut self, disk: &Disk, deadline: Deadline) -> Result<(), Hung> {
        let Service::Draining(draining) = &self.service else { return Ok(()) };
        if let Some(base) = draining.finish(disk, deadline)? {
            self.base = Some(base);
        }
        self.service = Service::Idle;
        Ok(())
    }

    /// What still drains after a deadline passed.
    pub(crate) fn into_draining(self) -> Option<Draining> {
        match self.service {
            Service::Idle => None,
            Service::Starting(_) | Service::Running(_) => unreachable!("a session ends by stopping its queues"),
            Service::Draining(draining) => Some(draining),
        }
    }
}

impl Draining {
    /// Where its remains will arrive.
    pub(crate) fn remains(&self) -> &Receiver<Remains> {
        &self.remains
    }

    /// Requests in flight right now.
    pub(crate) fn outstanding(&self) -> u64 {
        self.queue.meter.in_flight()
    }

    /// Waits for the queue's end. Where its ring goes on, unless the whole core has quit, and the queue with it.
    pub(crate) fn finish(&self, disk: &Disk, deadline: Deadline) -> Result<Option<u32>, Hung> {
        let remains = match deadline.receive(&self.remains) {
            Ok(remains) => Some(remains),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => return Err(Hung { outstanding: self.outstanding() }),
        };
        disk.meters.end(&self.queue.meter);
        // Dropped here, off the core, and with it this queue's hold on the guest's memory.
        Ok(remains.map(|remains| remains.downcast::<QueueRemains>().expect("a queue's remains").base))
    }
}
