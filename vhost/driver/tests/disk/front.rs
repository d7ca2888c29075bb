//! A core of this thread with one open channel, which sleeps whenever it has nothing to do. Knows no server.

use std::sync::Arc;

use spinel_core::mem::{Region, Segment};
use spinel_core::{Armed, Channel, Completion, Completions, Core, CoreId, Device, Instant, Lba, Op, OpenError, Request, Status, Tag};
use spinel_reactor::Clock;
use spinel_vhost_driver::VhostDisk;

/// Far longer than anything takes: what has not come by then never will.
const PATIENCE_NS: u64 = 30_000_000_000;

pub(crate) struct Front {
    core: Core,
    pub(crate) clock: Clock,
    pub(crate) channel: Box<dyn Channel>,
    done: Completions,
    region: Arc<Region>,
    /// Whether it wakes when the channel wants it to, or only when it is woken.
    pub(crate) timer: bool,
    pub(crate) sleeps: u64,
}

pub(crate) fn core() -> Core {
    spinel_uring::core(CoreId(1), spinel_uring::Options::default()).unwrap()
}

impl Front {
    pub(crate) fn open(disk: &VhostDisk, depth: u16) -> Self {
        Self::try_open(disk, depth).unwrap()
    }

    pub(crate) fn try_open(disk: &VhostDisk, depth: u16) -> Result<Self, OpenError> {
        let mut core = core();
        let channel = disk.open(&mut core, depth)?;
        Ok(Self {
            core,
            clock: Clock::system(),
            channel,
            done: Completions::limited(3),
            region: Arc::clone(disk.region()),
            timer: true,
            sleeps: 0,
        })
    }

    pub(crate) fn segment(&self, offset: u64, len_bytes: u32) -> Segment {
        self.region.segment(offset, len_bytes).unwrap()
    }

    pub(crate) fn submit(&mut self, tag: u32, op: Op, start: u64, blocks: u32, segments: &[Segment]) {
        let at = self.clock.now();
        self.channel.submit(Request { tag: Tag(tag), op, at, start: Lba(start), blocks, segments });
    }

    /// Polls once, and sleeps if nothing came. What came.
    fn turn(&mut self, give_up: Instant) -> &[Completion] {
        let now = self.clock.now();
        // Whatever is there by now: who slept so long was not woken.
        assert!(now < give_up, "a wake-up was lost, after {} sleeps", self.sleeps);
        self.core.reap(now);
        self.done.clear();
        self.channel.poll(now, &mut self.done);
        self.core.flush();
        if self.done.as_slice().is_empty() {
            let armed = self.channel.arm();
            self.core.flush();
            match armed.min(self.core.arm()) {
                Armed::Ready | Armed::Spin => {}
                Armed::Until(until) if self.timer => self.core.sleep(Some(until), now),
                Armed::Until(_) | Armed::Idle => {
                    self.sleeps += 1;
                    self.core.sleep(Some(give_up), now);
                }
            }
        }
        self.done.as_slice()
    }

    /// Kicks, and waits for `count` completions.
    pub(crate) fn wait_for(&mut self, count: usize) -> Vec<Completion> {
        let mut all = Vec::new();
        self.channel.kick();
        let give_up = self.clock.now().after_ns(PATIENCE_NS);
        while all.len() < count {
            all.extend_from_slice(self.turn(give_up));
        }
        assert_eq!(all.len(), count);
        all
    }

    /// Kicks, and polls for `count` completions without ever sleeping or arming.
    pub(crate) fn spin_for(&mut self, count: usize) {
        self.channel.kick();
        let give_up = self.clock.now().after_ns(PATIENCE_NS);
        let mut seen = 0;
        while seen < count {
            let now = self.clock.now();
            assert!(now < give_up, "requests did not end");
            self.done.clear();
            self.channel.poll(now, &mut self.done);
            assert!(self.done.as_slice().iter().all(|done| done.status == Status::Ok));
            seen += self.done.as_slice().len();
        }
    }

    /// One request from its beginning to its end.
    pub(crate) fn ask(&mut self, op: Op, start: u64, blocks: u32, segments: &[Segment]) -> Status {
        let room = self.channel.room();
        self.submit(77, op, start, blocks, segments);
        assert_eq!(self.channel.room(), room - 1);
        let [Completion { tag: Tag(77), status }] = self.wait_for(1)[..] else { panic!("another tag came back") };
        assert_eq!(self.channel.room(), room);
        status
    }

    pub(crate) fn fill(&self, offset: u64, len_bytes: usize, with: u8) {
        self.region.write(offset, &vec![with; len_bytes]).unwrap();
    }

    pub(crate) fn bytes(&self, offset: u64, len_bytes: usize) -> Vec<u8> {
        let mut bytes = vec![0; len_bytes];
        self.region.read(offset, &mut bytes).unwrap();
        bytes
    }
}
