//! Reads a disk, one part after the other, for whoever looks at what is there. Knows neither why nor how fast.

use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, bounded};
use spinel_core::mem::Region;
use spinel_core::{
    Armed, Channel, Completions, Core, Device, Instant, Lba, Op, OpenError, Poller, PollerId, Progress, Remains, Request, Status, Tag,
};

use crate::crew::Seat;
use crate::failure::{Failure, with_causes};

/// Bytes of one read at most, and the memory that a reader needs.
pub(crate) const CHUNK_BYTES: u32 = 1 << 20;

/// A part of the disk, in blocks.
#[derive(Clone, Copy)]
struct Part {
    start: Lba,
    blocks: u32,
}

/// The asking side, on the thread that wants to know.
pub(crate) struct Reader {
    seat: Seat,
    poller: PollerId,
    ask: Sender<Part>,
    answers: Receiver<Status>,
    memory: Arc<Region>,
    block_bytes: u32,
}

impl Reader {
    /// Opens a channel of the disk for reading, on a core of its own; its data passes through the start of `memory`.
    ///
    /// # Errors
    /// When the disk gives no channel.
    pub(crate) fn open(device: &Arc<dyn Device>, memory: Arc<Region>, seat: Seat) -> Result<Self, Failure> {
        let (ask, asked) = bounded(1);
        let (answer, answers) = bounded(1);
        let block_bytes = device.geometry().block_bytes;
        let (device, region) = (Arc::clone(device), Arc::clone(&memory));
        let recipe = move |core: &mut Core| -> Result<Box<dyn Poller>, OpenError> {
            core.map(Arc::clone(&region));
            let channel = device.open(core, 1)?;
            Ok(Box::new(Reading {
                channel,
                memory: region,
                block_bytes,
                asked,
                answer,
                flying: false,
                done: Completions::new(),
                stopping: false,
            }))
        };
        let poller = seat.mailbox().add(Box::new(recipe)).map_err(|error| Failure::Unreachable(with_causes(&error)))?;
        Ok(Self { seat, poller, ask, answers, memory, block_bytes })
    }

    /// Fills `into` with the blocks from `start` on, in as many reads as it takes.
    ///
    /// # Panics
    /// If its length is no multiple of a block.
    pub(crate) fn read(&mut self, start: Lba, into: &mut [u8]) -> Status {
        let mut start = start;
        for piece in into.chunks_mut(CHUNK_BYTES as usize) {
            let blocks = u32::try_from(piece.len()).expect("at most a chunk") / self.block_bytes;
            assert_eq!(blocks as usize * self.block_bytes as usize, piece.len(), "whole blocks");
            let asked = self.ask.send(Part { start, blocks }).is_ok();
            let status = if asked { self.answers.recv().unwrap_or(Status::Aborted) } else { Status::Aborted };
            if status != Status::Ok {
                return status;
            }
            self.memory.read(0, piece).expect("a chunk lies inside");
            start = Lba(start.0 + u64::from(blocks));
        }
        Status::Ok
    }

    /// Gives the channel back.
    pub(crate) fn close(self) {
        let _ = self.seat.mailbox().stop(self.poller).recv();
        self.seat.leave();
    }
}

/// The reading side, on the core.
struct Reading {
    channel: Box<dyn Channel>,
    memory: Arc<Region>,
    block_bytes: u32,
    asked: Receiver<Part>,
    answer: Sender<Status>,
    flying: bool,
    done: Completions,
    stopping: bool,
}

impl Poller for Reading {
    fn name(&self) -> &str {
        "reader"
    }

    fn poll(&mut self, now: Instant) -> Progress {
        self.done.clear();
        self.channel.poll(now, &mut self.done);
        if let [done] = self.done.as_slice() {
            self.flying = false;
            // Whoever asked may have left; then nobody misses it.
            let _ = self.answer.try_send(done.status);
            return Progress::Busy;
        }
        if self.flying {
            return Progress::Waiting;
        }
        if self.stopping {
            return Progress::Stopped;
        }
        let Ok(Part { start, blocks }) = self.asked.try_recv() else { return Progress::Idle };
        let segment = self.memory.segment(0, blocks * self.block_bytes).expect("at most a chunk");
        self.channel.submit(Request { tag: Tag(0), op: Op::Read, at: now, start, blocks, segments: &[segment] });
        self.channel.kick();
        self.flying = true;
        Progress::Busy
    }

    /// Somebody waits for it, and for a short time: it does not sleep.
    fn arm(&mut self) -> Armed {
        Armed::Spin
    }

    fn disarm(&mut self) {}

    fn stop(&mut self) {
        self.stopping = true;
    }

    fn retire(self: Box<Self>, core: &mut Core) -> Remains {
        drop(core.unmap(self.memory.id()));
        Box::new(())
    }
}
