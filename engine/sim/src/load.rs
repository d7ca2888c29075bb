//! Random requests on one channel, every byte of which is checked. Knows no device.

use std::fmt;

use spinel_core::mem::Segment;
use spinel_core::{Channel, Completion, Completions, Device, Geometry, Instant, Lba, OPS, Op, OpKind, OpenError, Request, Slots, Tag};

use spinel_load::{Checker, Flush, Prng, Read, Violation, Write};

use crate::rig::{LostWakeUp, Rig};
use crate::trace::Trace;

/// What is asked of a channel.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// Requests in flight at most.
    pub depth: u16,
    /// Blocks of one request at most.
    pub blocks_max: u32,
    /// How often each kind of operation is drawn, in the order of [`OPS`].
    pub weights: [u64; OPS.len()],
    /// One write in so many has FUA; 0 for none.
    pub fua_one_in: u64,
    /// Goes into the stamps.
    pub writer: u32,
}

impl Default for LoadOptions {
    /// 16 in flight, up to 16 blocks, twice as many reads as writes, some of everything.
    fn default() -> Self {
        Self { depth: 16, blocks_max: 16, weights: [40, 20, 4, 2, 2], fua_one_in: 8, writer: 1 }
    }
}

/// How a run fails.
#[derive(Debug)]
pub enum Failure {
    /// A read returned what it must not.
    Violation(Violation),
    /// The core slept for good with requests in flight.
    LostWakeUp {
        /// Where the core stood.
        source: LostWakeUp,
        /// How many requests were in flight.
        in_flight: usize,
    },
    /// A completion came for a request that was not in flight.
    Unasked(Completion),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Violation(violation) => write!(f, "{violation}"),
            Self::LostWakeUp { source, in_flight } => write!(f, "{source} ({in_flight} of them)"),
            Self::Unasked(completion) => write!(f, "nothing in flight is called {completion:?}"),
        }
    }
}

impl std::error::Error for Failure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Violation(violation) => Some(violation),
            Self::LostWakeUp { source, .. } => Some(source),
            Self::Unasked(_) => None,
        }
    }
}

/// A request to come.
#[derive(Clone, Copy)]
struct Ask {
    op: Op,
    start: Lba,
    blocks: u32,
}

#[derive(Debug)]
enum Asked {
    Read(Read),
    Write(Write),
    Flush(Flush),
}

#[derive(Debug)]
struct Flight {
    asked: Asked,
    segments: Vec<Segment>,
}

/// Random requests and their checker; the checker is returned for the next channel when this one is closed.
pub struct Load {
    options: LoadOptions,
    geometry: Geometry,
    channel: Box<dyn Channel>,
    checker: Checker,
    prng: Prng,
    /// By tag; the tag also names a cell of the rig's memory.
    slots: Slots<Flight>,
    cell_bytes: u32,
    batch: Completions,
    trace: Trace,
}

/// A cell of memory has so many bytes more than its data, so that segments can lie apart and unaligned.
const SLACK_BYTES: u32 = 64;
/// Most segments of one request.
const PIECES_MAX: u64 = 4;
/// What memory holds that no read has filled.
const UNTOUCHED: u8 = 0xa5;

impl Load {
    /// Opens a channel on the rig's core. The checker must be of a volume as large as the device.
    ///
    /// # Errors
    /// What the device answers.
    ///
    /// # Panics
    /// If the rig's memory is too small for the depth.
    pub fn open(rig: &mut Rig, device: &dyn Device, checker: Checker, options: LoadOptions, mut prng: Prng) -> Result<Self, OpenError> {
        let geometry = device.geometry();
        let cell_bytes = options.blocks_max * geometry.block_bytes + SLACK_BYTES;
        let needed = u64::from(cell_bytes) * u64::from(options.depth);
        assert!(needed <= rig.memory.len_bytes(), "the load needs {needed} bytes of memory");
        let channel = device.open(&mut rig.core, options.depth)?;
        let slots = Slots::new(usize::from(options.depth));
        // A small batch now and then: a channel has to keep what does not fit.
        let batch = Completions::limited(1 + prng.index(Completions::BATCH));
        Ok(Self { options, geometry, channel, checker, prng, slots, cell_bytes, batch, trace: Trace::default() })
    }

    /// Asks for so many more requests and waits for all of them.
    ///
    /// # Errors
    /// The first [`Failure`]. After a lost wake-up that the test repairs, it may go on with another run.
    pub fn run(&mut self, rig: &mut Rig, requests: u64) -> Result<(), Failure> {
        let mut left = requests;
        self.drive(rig, |load| {
            left = left.checked_sub(1)?;
            Some(load.draw())
        })
    }

    /// Writes every block once and waits for all of it.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn fill(&mut self, rig: &mut Rig) -> Result<(), Failure> {
        self.pass(rig, Op::Write { fua: false })
    }

    /// Reads every block once and waits for all of it.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn sweep(&mut self, rig: &mut Rig) -> Result<(), Failure> {
        self.pass(rig, Op::Read)
    }

    /// Does the same to every block.
    fn pass(&mut self, rig: &mut Rig, op: Op) -> Result<(), Failure> {
        let mut start = 0;
        self.drive(rig, |load| {
            let left = load.geometry.block_count - start;
            let blocks = u32::try_from(left).unwrap_or(u32::MAX).min(load.options.blocks_max);
            let ask = Ask { op, start: Lba(start), blocks };
            start += u64::from(blocks);
            (blocks > 0).then_some(ask)
        })
    }

    /// Takes turns until everything was asked and answered.
    fn drive(&mut self, rig: &mut Rig, mut next: impl FnMut(&mut Self) -> Option<Ask>) -> Result<(), Failure> {
        let mut upcoming = next(self);
        while upcoming.is_some() || self.slots.held() > 0 {
            let now = rig.begin_turn();
            let mut busy = self.collect(rig, now)?;
            for _ in 0..self.prng.below(8) {
                let Some(ask) = upcoming.take_if(|_| self.slots.room() > 0 && self.channel.room() > 0) else { break };
                self.submit(rig, now, ask);
                upcoming = next(self);
                busy = true;
            }
            self.channel.kick();
            // With nothing in flight there is room, or there will be some in time.
            if busy || (self.slots.held() == 0 && self.channel.room() > 0) {
                rig.end_turn();
            } else {
                let in_flight = self.slots.held();
                rig.rest(&mut *self.channel).map_err(|source| Failure::LostWakeUp { source, in_flight })?;
            }
        }
        Ok(())
    }

    /// Draws a request. Half of them go to a small part of the device, so that they meet.
    fn draw(&mut self) -> Ask {
        let weights = &self.options.weights;
        let mut drawn = self.prng.below(weights.iter().sum());
        let mut kinds = OPS.iter().zip(weights);
        let kind = kinds.find_map(|(kind, weight)| match drawn.checked_sub(*weight) {
            Some(rest) => {
                drawn = rest;
                None
            }
            None => Some(*kind),
        });
        let fua = self.prng.one_in(self.options.fua_one_in);
        let op = match kind.expect("the drawn number is below the sum") {
            OpKind::Read => Op::Read,
            OpKind::Write => Op::Write { fua },
            OpKind::Flush => return Ask { op: Op::Flush, start: Lba(0), blocks: 0 },
            OpKind::Discard => Op::Discard,
            OpKind::WriteZeroes => Op::WriteZeroes { unmap: self.prng.one_in(2), fua },
        };
        let blocks = self.prng.within(1..=u64::from(self.options.blocks_max).min(self.geometry.block_count));
        let last = self.geometry.block_count - blocks;
        let highest = if self.prng.one_in(2) { last } else { last.min(4 * blocks) };
        let start = self.prng.within(0..=highest);
        Ask { op, start: Lba(start), blocks: u32::try_from(blocks).expect("at most blocks_max") }
    }

    /// Cuts the cell of a tag into pieces that hold exactly `len_bytes` and neither touch nor are aligned.
    fn pieces(&mut self, rig: &Rig, tag: Tag, len_bytes: u32) -> Vec<Segment> {
        let mut offset = u64::from(tag.0) * u64::from(self.cell_bytes);
        let mut left = len_bytes;
        let mut pieces = Vec::new();
        for piece in (1..=self.prng.within(1..=PIECES_MAX)).rev() {
            offset += self.prng.below(u64::from(SLACK_BYTES) / PIECES_MAX);
            let here = if piece == 1 { left } else { u32::try_from(self.prng.within(0..=u64::from(left))).expect("at most left") };
            pieces.push(rig.segment(offset, here));
            offset += u64::from(here);
            left -= here;
        }
        pieces
    }

    fn submit(&mut self, rig: &Rig, now: Instant, ask: Ask) {
        let Ask { op, start, blocks } = ask;
        let (asked, bytes) = match op {
            Op::Read => {
                let bytes = vec![UNTOUCHED; blocks as usize * self.geometry.block_bytes as usize];
                (Asked::Read(self.checker.begin_read(start, blocks)), bytes)
            }
            Op::Write { fua } => {
                let (write, bytes) = self.checker.begin_write(self.options.writer, start, blocks, fua);
                (Asked::Write(write), bytes)
            }
            Op::Discard => (Asked::Write(self.checker.begin_zeroes(start, blocks, false)), Vec::new()),
            Op::WriteZeroes { fua, .. } => (Asked::Write(self.checker.begin_zeroes(start, blocks, fua)), Vec::new()),
            Op::Flush => (Asked::Flush(self.checker.begin_flush()), Vec::new()),
        };
        let tag = self.slots.put(Flight { asked, segments: Vec::new() });
        if !bytes.is_empty() {
            let segments = self.pieces(rig, tag, u32::try_from(bytes.len()).expect("a request's bytes fit 32 bits"));
            let mut from = 0;
            for segment in &segments {
                let to = from + segment.len_bytes() as usize;
                rig.memory.write(segment.offset(), &bytes[from..to]).expect("a piece of this memory");
                from = to;
            }
            self.slots.get_mut(tag).expect("just put").segments = segments;
        }
        let kind = u64::try_from(op.kind().index()).expect("five kinds");
        self.trace.note("submit", &[now.ns, u64::from(tag.0), kind, start.0, u64::from(blocks)]);
        let segments = &self.slots.get(tag).expect("just put").segments;
        self.channel.submit(Request { tag, op, at: now, start, blocks, segments });
    }

    /// Takes completions to the checker; answers whether there were any.
    fn collect(&mut self, rig: &Rig, now: Instant) -> Result<bool, Failure> {
        self.batch.clear();
        self.channel.poll(now, &mut self.batch);
        for completion in self.batch.as_slice() {
            let Completion { tag, status } = *completion;
            if self.slots.get(tag).is_none() {
                return Err(Failure::Unasked(*completion));
            }
            let flight = self.slots.take(tag);
            self.trace.note("end", &[now.ns, u64::from(tag.0), status as u64]);
            match flight.asked {
                Asked::Write(write) => self.checker.end_write(write, status),
                Asked::Flush(flush) => self.checker.end_flush(flush, status),
                Asked::Read(read) => {
                    let bytes = gather(rig, &flight.segments);
                    self.trace.fold(&bytes);
                    self.checker.end_read(read, status, &bytes).map_err(Failure::Violation)?;
                }
            }
        }
        Ok(!self.batch.as_slice().is_empty())
    }

    /// Closes the channel and gives back the checker. What is in flight is left to the device.
    #[must_use]
    pub fn close(self) -> Checker {
        self.checker
    }

    /// The checker.
    #[must_use]
    pub fn checker(&self) -> &Checker {
        &self.checker
    }

    /// What has happened on this channel.
    #[must_use]
    pub fn trace(&self) -> &Trace {
        &self.trace
    }

    /// How many requests are in flight.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.slots.held()
    }
}

fn gather(rig: &Rig, segments: &[Segment]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for segment in segments {
        let from = bytes.len();
        bytes.resize(from + segment.len_bytes() as usize, 0);
        rig.memory.read(segment.offset(), &mut bytes[from..]).expect("a piece of this memory");
    }
    bytes
}
