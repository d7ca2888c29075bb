//! The thread that moves queues from busy cores to idle ones, if there is to be one. Knows no method; what moves is decided in `balance`.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use spinel_core::CoreId;
use spinel_reactor::Gauge;
use spinel_vhost::ControllerState;

use crate::balance::{self, Balancer, QueueSeen};
use crate::disks::Disks;
use crate::engine::{Locked, locked};

/// How often cores are compared unless somebody says otherwise; SPDK's default.
const PERIOD_DEFAULT: Duration = Duration::from_secs(1);

/// Whether queues are moved, and by what measure.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Policy {
    /// Whether they are moved at all.
    pub(crate) dynamic: bool,
    /// How often that is looked at.
    pub(crate) period: Duration,
    /// Cores that are busy for less than so many thousandths of their time keep what they have.
    pub(crate) busy: u64,
}

impl Default for Policy {
    fn default() -> Self {
        Self { dynamic: false, period: PERIOD_DEFAULT, busy: balance::BUSY_DEFAULT }
    }
}

/// The policy that is followed, and the thread that follows it, if it needs one.
#[derive(Default)]
pub(crate) struct Scheduler {
    pub(crate) policy: Policy,
    running: Option<Running>,
}

struct Running {
    /// Never written to: it ends when this is dropped.
    stop: Sender<()>,
    thread: JoinHandle<()>,
}

impl Scheduler {
    /// Follows another policy from now on.
    pub(crate) fn follow(&mut self, policy: Policy, gauges: Vec<Gauge>, disks: &Arc<Locked<Disks>>) -> io::Result<()> {
        self.stop();
        self.policy = policy;
        if policy.dynamic {
            let (stop, stopped) = bounded(0);
            let watcher = Watcher { disks: Arc::clone(disks), gauges, policy };
            let thread = std::thread::Builder::new().name("balancer".into()).spawn(move || watcher.run(&stopped))?;
            self.running = Some(Running { stop, thread });
        }
        Ok(())
    }

    /// Ends the thread, if there is one.
    pub(crate) fn stop(&mut self) {
        if let Some(Running { stop, thread }) = self.running.take() {
            drop(stop);
            assert!(thread.join().is_ok(), "the balancer panicked");
        }
    }
}

/// What the thread looks at.
struct Watcher {
    disks: Arc<Locked<Disks>>,
    gauges: Vec<Gauge>,
    policy: Policy,
}

impl Watcher {
    /// Looks once in every period, at a few counters as long as no core is busy. It wakes none in any case.
    fn run(&self, stopped: &Receiver<()>) {
        let mut balancer = Balancer::default();
        while stopped.recv_timeout(self.policy.period) == Err(RecvTimeoutError::Timeout) {
            let cores: Vec<_> = self.gauges.iter().map(|gauge| (gauge.core(), gauge.usage())).collect();
            if let Some((queue, to)) = balancer.look(&cores, self.policy.busy, || self.queues()) {
                self.carry_out(&queue, to);
            }
        }
    }

    fn carry_out(&self, queue: &QueueSeen, to: CoreId) {
        let QueueSeen { name, index, core, .. } = queue;
        // The disks are held only to find it. It may be gone by now.
        let mover = locked(&self.disks).controller(name).map(|served| served.controller().mover());
        let Ok(mover) = mover else { return };
        match mover.move_queue(*index, to) {
            Ok(()) => tracing::info!("queue {index} of controller '{name}' moves from core {}, which is busy, to core {}", core.0, to.0),
            Err(error) => tracing::warn!("a queue should move from core {}, which is busy: {error}", core.0),
        }
    }

    fn queues(&self) -> Vec<QueueSeen> {
        let mut all = Vec::new();
        for served in locked(&self.disks).controllers() {
            let ControllerState::Connected(session) = served.controller().info().state else { continue };
            let allowed = served.cores.ids();
            all.extend(session.queues.into_iter().map(|queue| QueueSeen {
                name: served.name.clone(),
                index: queue.index,
                core: queue.core,
                allowed: allowed.to_vec(),
                requests: queue.meter.requests(),
            }));
        }
        all
    }
}
