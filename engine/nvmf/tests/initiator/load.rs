//! Random requests on a channel of a world, every byte of which is checked.

use std::sync::Arc;

use spinel_core::mem::{Region, Segment};
use spinel_core::{Channel, Completion, Completions, Device, Instant, Lba, Op, Request, Slots, Status};
use spinel_sim::{Checker, Flush, Prng, Read, Write};

use super::world::World;

pub(crate) const DEPTH: u16 = 16;
const BLOCKS_MAX: u64 = 48;
const CELL_BYTES: u64 = 64 << 10;

enum Asked {
    Read(Read),
    Write(Write),
    Flush(Flush),
}

struct Flight {
    asked: Asked,
    segments: Vec<Segment>,
    since: Instant,
}

/// A channel under load.
pub(crate) struct Load {
    channel: Box<dyn Channel>,
    memory: Arc<Region>,
    pub(crate) checker: Checker,
    prng: Prng,
    slots: Slots<Flight>,
    batch: Completions,
    blocks: u64,
    /// How many ended well, and how many did not.
    pub(crate) well: u64,
    pub(crate) failed: Vec<Status>,
    /// How long the longest took.
    pub(crate) longest_ns: u64,
    /// Of writes among them.
    pub(crate) reads_only: bool,
}

impl Load {
    pub(crate) fn new(world: &mut World, device: &Arc<dyn Device>, core: usize, seed: u64) -> Self {
        let memory = world.memory(u64::from(DEPTH) * CELL_BYTES);
        let channel = world.channel(device, core, DEPTH);
        let checker = Checker::new(7, &device.geometry());
        Self {
            channel,
            memory,
            checker,
            prng: Prng::new(seed),
            slots: Slots::new(DEPTH.into()),
            batch: Completions::new(),
            blocks: device.geometry().block_count,
            well: 0,
            failed: Vec::new(),
            longest_ns: 0,
            reads_only: false,
        }
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.slots.held()
    }

    /// Asks for something, if there is room.
    pub(crate) fn ask(&mut self, now: Instant) -> bool {
        if self.channel.room() == 0 || self.slots.room() == 0 {
            return false;
        }
        let blocks = self.prng.within(1..=BLOCKS_MAX);
        // Half of them go to a small part, so that they meet.
        let highest = if self.prng.one_in(2) { self.blocks - blocks } else { 100 };
        let start = Lba(self.prng.within(0..=highest));
        let blocks = u32::try_from(blocks).unwrap();
        let fua = self.prng.one_in(8);
        let op = match self.prng.below(20) {
            _ if self.reads_only => Op::Read,
            0..=8 => Op::Read,
            9..=16 => Op::Write { fua },
            17 => Op::Flush,
            18 => Op::Discard,
            _ => Op::WriteZeroes { unmap: self.prng.one_in(2), fua },
        };
        let (asked, bytes) = match op {
            Op::Read => (Asked::Read(self.checker.begin_read(start, blocks)), vec![0xa5; blocks as usize * 512]),
            Op::Write { fua } => {
                let (write, bytes) = self.checker.begin_write(1, start, blocks, fua);
                (Asked::Write(write), bytes)
            }
            Op::Discard => (Asked::Write(self.checker.begin_zeroes(start, blocks, false)), Vec::new()),
            Op::WriteZeroes { fua, .. } => (Asked::Write(self.checker.begin_zeroes(start, blocks, fua)), Vec::new()),
            Op::Flush => (Asked::Flush(self.checker.begin_flush()), Vec::new()),
        };
        let tag = self.slots.put(Flight { asked, segments: Vec::new(), since: now });
        let segments = self.pieces(u64::from(tag.0) * CELL_BYTES, u32::try_from(bytes.len()).unwrap());
        let mut from = 0;
        for segment in &segments {
            let to = from + segment.len_bytes() as usize;
            self.memory.write(segment.offset(), &bytes[from..to]).unwrap();
            from = to;
        }
        let blocks = if op == Op::Flush { 0 } else { blocks };
        self.channel.submit(Request { tag, op, at: now, start, blocks, segments: &segments });
        self.slots.get_mut(tag).unwrap().segments = segments;
        true
    }

    fn pieces(&mut self, at: u64, len_bytes: u32) -> Vec<Segment> {
        let (mut offset, mut left, mut pieces) = (at, len_bytes, Vec::new());
        for piece in (1..=self.prng.within(1..=3)).rev() {
            offset += self.prng.below(16);
            let here = if piece == 1 { left } else { u32::try_from(self.prng.within(0..=u64::from(left))).unwrap() };
            if len_bytes > 0 {
                pieces.push(self.memory.segment(offset, here).unwrap());
            }
            offset += u64::from(here);
            left -= here;
        }
        pieces
    }

    /// Takes what has ended. Whether anything had.
    pub(crate) fn collect(&mut self, now: Instant) -> bool {
        self.batch.clear();
        self.channel.poll(now, &mut self.batch);
        for completion in self.batch.as_slice() {
            let Completion { tag, status } = *completion;
            let flight = self.slots.take(tag);
            self.longest_ns = self.longest_ns.max(now.since_ns(flight.since));
            match status {
                Status::Ok => self.well += 1,
                other => self.failed.push(other),
            }
            match flight.asked {
                Asked::Write(write) => self.checker.end_write(write, status),
                Asked::Flush(flush) => self.checker.end_flush(flush, status),
                Asked::Read(read) => {
                    let mut bytes = Vec::new();
                    for segment in &flight.segments {
                        let from = bytes.len();
                        bytes.resize(from + segment.len_bytes() as usize, 0);
                        self.memory.read(segment.offset(), &mut bytes[from..]).unwrap();
                    }
                    if let Err(violation) = self.checker.end_read(read, status, &bytes) {
                        panic!("{violation}");
                    }
                }
            }
        }
        !self.batch.as_slice().is_empty()
    }

    /// A turn of the world with new requests, as far as there is room.
    pub(crate) fn turn(&mut self, world: &mut World) {
        let busy = self.collect(world.now);
        let asked = (0..self.prng.below(4)).filter(|_| self.ask(world.now)).count();
        self.channel.kick();
        world.turn_at_most(if busy || asked > 0 || self.channel.arm() == spinel_core::Armed::Ready { 0 } else { 1_000_000 });
    }

    /// Asks until so many more have ended.
    pub(crate) fn run(&mut self, world: &mut World, requests: u64) {
        let before = self.ended();
        for _ in 0..2_000_000 {
            if self.ended() - before >= requests {
                return;
            }
            self.turn(world);
        }
        panic!("only {} of {requests} requests end; {:?}", self.ended() - before, world.initiator.controllers());
    }

    pub(crate) fn ended(&self) -> u64 {
        self.well + u64::try_from(self.failed.len()).unwrap()
    }

    /// Waits for everything that is out.
    pub(crate) fn drain(&mut self, world: &mut World) {
        for _ in 0..2_000_000 {
            self.collect(world.now);
            if self.slots.held() == 0 {
                return;
            }
            self.channel.kick();
            world.turn_at_most(if self.channel.arm() == spinel_core::Armed::Ready { 0 } else { 1_000_000 });
        }
        panic!("{} requests never end; {:?}", self.slots.held(), world.initiator.controllers());
    }
}
