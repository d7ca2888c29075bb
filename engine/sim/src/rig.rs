//! One core without a reactor: its memory, its clock, its sleep. Knows no device and no workload.

use std::sync::Arc;

use spinel_core::mem::{Region, Segment};
use spinel_core::{Armed, Channel, Completion, Completions, Core, CoreId, Instant, Lba, Op, Request, Status, Tag};

use crate::clock::Clock;
use spinel_load::Prng;

use crate::sleeper::{Bed, Reason, SimSleeper};

/// A core that went to sleep although requests are out, and nothing that is under way will wake it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LostWakeUp {
    /// When it happened.
    pub at: Instant,
}

impl std::fmt::Display for LostWakeUp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "lost wake-up: at {} ns the core slept for good with requests in flight", self.at.ns)
    }
}

impl std::error::Error for LostWakeUp {}

/// What tests of channels need around them, in place of a reactor.
pub struct Rig {
    /// The core on which channels are opened.
    pub core: Core,
    /// Its time.
    pub clock: Clock,
    /// Announced to the core; requests point into it.
    pub memory: Arc<Region>,
    bed: Bed,
    prng: Prng,
}

impl Rig {
    /// A core with `memory_bytes` of memory.
    ///
    /// # Panics
    /// If the system has no memory.
    #[must_use]
    pub fn new(prng: Prng, memory_bytes: u64) -> Self {
        let (sleeper, bed) = SimSleeper::new();
        let mut core = Core::new(CoreId(0), Box::new(sleeper));
        let memory = Region::anonymous(memory_bytes).expect("memory for a test");
        core.map(Arc::clone(&memory));
        Self { core, clock: Clock::default(), memory, bed, prng }
    }

    /// Begins a turn: a little time passes, drivers reap. Poll afterwards, with the time it answers.
    pub fn begin_turn(&mut self) -> Instant {
        self.clock.pass_ns(self.prng.within(20..=2_000));
        let now = self.clock.now();
        self.core.reap(now);
        now
    }

    /// Ends a turn in which something was done.
    pub fn end_turn(&mut self) {
        self.core.flush();
    }

    /// Ends a turn in which nothing was done although requests are in flight: sleeps if the channel allows it, and jumps to what wakes the core.
    ///
    /// # Errors
    /// [`LostWakeUp`] if nothing will.
    pub fn rest(&mut self, channel: &mut dyn Channel) -> Result<(), LostWakeUp> {
        let armed = channel.arm();
        self.rest_if(armed)
    }

    /// The same for whoever has been asked already, and answered this.
    ///
    /// # Errors
    /// As [`rest`](Self::rest).
    pub fn rest_if(&mut self, armed: Armed) -> Result<(), LostWakeUp> {
        let until = match armed.min(self.core.arm()) {
            Armed::Ready | Armed::Spin => {
                self.end_turn();
                return Ok(());
            }
            Armed::Until(instant) => Some(instant),
            Armed::Idle => None,
        };
        self.core.flush();
        let now = self.clock.now();
        self.core.sleep(until, now);
        let reason = self.bed.reason();
        self.bed.wake();
        if let Some(Reason::Time(instant)) = reason {
            self.clock.jump_to(instant);
        }
        reason.map(|_| ()).ok_or(LostWakeUp { at: now })
    }

    /// A piece of the memory.
    ///
    /// # Panics
    /// If it would not lie inside.
    #[must_use]
    pub fn segment(&self, offset: u64, len_bytes: u32) -> Segment {
        self.memory.segment(offset, len_bytes).expect("a test asks for memory it has")
    }

    /// Submits one request and turns until it ends. Nothing else may be in flight on the channel.
    ///
    /// # Errors
    /// [`LostWakeUp`] if the core sleeps for good before that.
    ///
    /// # Panics
    /// If something else completes, or the channel has no room.
    pub fn ask(&mut self, channel: &mut dyn Channel, op: Op, start: u64, blocks: u32, segments: &[Segment]) -> Result<Status, LostWakeUp> {
        assert!(channel.room() > 0, "nothing is in flight, so there is room");
        let at = self.begin_turn();
        channel.submit(Request { tag: Tag(77), op, at, start: Lba(start), blocks, segments });
        channel.kick();
        self.end_turn();
        let mut done = Completions::limited(2);
        loop {
            channel.poll(self.begin_turn(), &mut done);
            match *done.as_slice() {
                [] => self.rest(channel)?,
                [Completion { tag: Tag(77), status }] => return Ok(status),
                ref others => panic!("one request ended as {others:?}"),
            }
        }
    }
}
