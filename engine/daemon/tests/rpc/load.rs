//! Verified loads on controllers' sockets, from a reactor of the test's own. Knows no RPC.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use spinel_core::{CoreId, Device as _, PollerId};
use spinel_load::{Identity, Intake, Job, Load, Memory, Mix, Sizes, Tally, Verification, feed, sweep_job};
use spinel_reactor::{Handle, Mode, PaceLimits, ReactorConfig};
use spinel_vhost_driver::{Options, VhostDisk};

/// How long anything may take that is not being measured.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(5);
const INTERVAL_NS: u64 = 10_000_000;

/// Guests that write and read, and remember what they wrote.
pub(crate) struct Loads {
    reactor: Handle,
    guests: Vec<Guest>,
}

struct Guest {
    socket: PathBuf,
    options: Options,
    disk: Arc<VhostDisk>,
    job: Job,
    verification: Verification,
    running: Option<(PollerId, Intake)>,
    seen: Tally,
}

/// Stamps of one verification are old data to any other.
static VOLUMES: AtomicU64 = AtomicU64::new(0);

impl Loads {
    pub(crate) fn start() -> Self {
        let make_core = Box::new(|id| spinel_uring::core(id, spinel_uring::Options::default()));
        let limits = PaceLimits::default();
        let config = ReactorConfig { core: CoreId(0), mode: Mode::Adaptive, limits, pin: false, make_core };
        Self { reactor: spinel_reactor::start(config).unwrap(), guests: Vec::new() }
    }

    /// One more guest, on the disk at this socket.
    pub(crate) fn add(&mut self, socket: &Path, packed: bool) {
        let volume = VOLUMES.fetch_add(1, Ordering::Relaxed);
        let job = Job {
            mix: Mix { read: 49, write: 49, flush: 2, ..Mix::default() },
            sizes: Sizes { min_bytes: 512, max_bytes: 8192 },
            depth: 8,
            seed: volume,
            interval_ns: INTERVAL_NS,
            ..Job::new()
        };
        // The second queue reads everything back, for each can be opened once.
        let options = Options { queues: 2, packed, memory_bytes: 16 << 20, ..Options::default() }.for_depth(32);
        let disk = Arc::new(VhostDisk::connect(socket, &options).unwrap());
        let geometry = disk.geometry();
        let identity = Identity { volume, epoch: 0, job: 0 };
        let verification = Verification::new(identity, &geometry, (0, geometry.len_bytes()), None).unwrap();
        let (running, seen) = (None, Tally::of(|_| false));
        let mut guest = Guest { socket: socket.into(), options, disk, job, verification, running, seen };
        let job = guest.job.clone();
        guest.begin(&self.reactor, &job, 0);
        self.guests.push(guest);
    }

    /// Waits until every guest has had so many more requests served.
    pub(crate) fn wait_for(&mut self, requests: u64) {
        for guest in &mut self.guests {
            let before = guest.seen.requests();
            patiently(|| {
                guest.collect();
                assert!(guest.seen.ended.is_none(), "the disk is gone");
                guest.seen.requests() >= before + requests
            });
        }
    }

    /// Nothing more is asked for, and nothing is under way.
    pub(crate) fn rest(&mut self) {
        self.guests.iter_mut().for_each(|guest| guest.end(&self.reactor));
    }

    /// All have lost their disks, and connect anew.
    pub(crate) fn reconnect(&mut self) {
        for guest in &mut self.guests {
            guest.disk = Arc::new(VhostDisk::connect(&guest.socket, &guest.options).unwrap());
        }
    }

    /// Ends them, has each read everything back, and answers how many requests there were.
    ///
    /// # Panics
    /// If a request failed, or what was read is not what was written.
    pub(crate) fn finish(mut self) -> u64 {
        self.rest();
        let requests = self.guests.iter().map(|guest| guest.seen.requests()).sum();
        for guest in &mut self.guests {
            let sweep = sweep_job(&guest.job, &guest.disk.geometry());
            guest.begin(&self.reactor, &sweep, Memory::bytes_for(&guest.job));
            patiently(|| guest.running.as_ref().is_none_or(|(_, intake)| intake.is_over()));
            guest.end(&self.reactor);
            let errors: u64 = guest.seen.ops.iter().flatten().map(|op| op.errors()).sum();
            let findings = guest.verification.findings();
            assert_eq!((errors, findings.violations()), (0, 0), "{:?}", findings.kept);
            assert!(guest.verification.checked().expect("it is over").stamps_read > 0);
        }
        drop(self.guests);
        self.reactor.quit();
        requests
    }
}

impl Guest {
    /// Begins a job on its next queue, with buffers from `start` on.
    fn begin(&mut self, reactor: &Handle, job: &Job, start: u64) {
        let (outlet, intake) = feed(|kind| job.sends(kind));
        let memory = Memory::within(Arc::clone(self.disk.region()), start, job).unwrap();
        let judge = Some(Box::new(self.verification.verifier(job.depth)) as _);
        let device = Arc::clone(&self.disk) as _;
        let load = Load { name: "load".to_owned(), job: job.clone(), device, memory, outlet, judge };
        self.running = Some((reactor.mailbox().add(load.recipe()).unwrap(), intake));
    }

    fn collect(&mut self) {
        let Some((_, intake)) = &self.running else { return };
        while let Ok(Some(())) = intake.take(|tally| {
            self.seen.add(tally);
            self.seen.ended = tally.ended;
        }) {}
    }

    fn end(&mut self, reactor: &Handle) {
        if let Some((poller, _)) = &self.running {
            drop(reactor.mailbox().stop(*poller).recv_timeout(PATIENCE).expect("all comes back"));
            self.collect();
            self.running = None;
        }
    }
}

/// Looks until it is so.
fn patiently(mut is_so: impl FnMut() -> bool) {
    let looks = PATIENCE.as_millis() / LOOK.as_millis();
    assert!((0..looks).any(|_| is_so() || crossbeam_channel::never::<()>().recv_timeout(LOOK).is_ok()), "nothing has happened");
}
