//! A device over memory that keeps what it is asked until it is told to go on. Knows no queue.

use std::rc::Rc;
use std::sync::Arc;

use spinel_core::mem::{Regions, Segment};
use spinel_core::{
    Armed, Channel, Completion, Completions, Core, Device, Features, Geometry, Instant, Op, OpKind, OpenError, Request, Status, Tag,
};

use super::medium::{Medium, SECTOR_BYTES, Sector};

/// How far a request is to come at the next poll.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Stage {
    /// Nothing happens.
    Asked,
    /// The medium or the guest's memory has changed, and nobody knows yet.
    Executed,
    /// It completes.
    Over,
}

/// A request that has not completed.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) op: OpKind,
    /// First block, which is a sector.
    pub(crate) start: u64,
    pub(crate) blocks: u32,
    pub(crate) stage: Stage,
    is_executed: bool,
    tag: Tag,
    segments: Vec<Segment>,
}

/// What a test sees of a device.
#[derive(Default)]
struct Seen {
    held: Vec<Held>,
    /// Operation and first block of everything that was asked, in order.
    asked: Vec<(OpKind, u64)>,
}

#[allow(clippy::disallowed_types, reason = "a test and its queue take turns on one thread")]
type Shared = Arc<std::sync::Mutex<Seen>>;

/// A device that completes nothing by itself.
pub(crate) struct HeldDevice {
    medium: Arc<Medium>,
    shared: Shared,
}

fn with<T>(shared: &Shared, look: impl FnOnce(&mut Seen) -> T) -> T {
    look(&mut shared.lock().unwrap())
}

impl HeldDevice {
    /// Over a medium, which outlives it.
    pub(crate) fn over(medium: Arc<Medium>) -> Arc<Self> {
        Arc::new(Self { medium, shared: Shared::default() })
    }

    /// Every request that it keeps, the oldest first: to be told how far to go.
    pub(crate) fn each(&self, tell: impl FnMut(&mut Held)) {
        with(&self.shared, |seen| seen.held.iter_mut().for_each(tell));
    }

    /// What it was asked since this was called last: operations and first blocks.
    pub(crate) fn take_asked(&self) -> Vec<(OpKind, u64)> {
        with(&self.shared, |seen| std::mem::take(&mut seen.asked))
    }

    /// Lets what begins at this block complete.
    pub(crate) fn finish(&self, start: u64) {
        self.each(|held| {
            if held.start == start {
                held.stage = Stage::Over;
            }
        });
    }

    /// Lets all of it complete.
    pub(crate) fn finish_all(&self) {
        self.each(|held| held.stage = Stage::Over);
    }
}

impl Device for HeldDevice {
    fn geometry(&self) -> Geometry {
        Geometry {
            block_bytes: 512,
            block_count: self.medium.sectors(),
            memory_align_bytes: 1,
            segments_max: 64,
            transfer_max_bytes: 1 << 20,
            physical_block_bytes: 512,
            write_cache: true,
            read_only: false,
            features: Features { discard: true, write_zeroes: true },
        }
    }

    fn open(&self, core: &mut Core, depth: u16) -> Result<Box<dyn Channel>, OpenError> {
        let (medium, shared) = (Arc::clone(&self.medium), Arc::clone(&self.shared));
        with(&shared, |seen| *seen = Seen::default());
        Ok(Box::new(HeldChannel { medium, shared, regions: core.regions(), depth: usize::from(depth) }))
    }
}

struct HeldChannel {
    medium: Arc<Medium>,
    shared: Shared,
    regions: Rc<Regions>,
    depth: usize,
}

impl HeldChannel {
    fn execute(&self, held: &Held) {
        let sectors = held.start..held.start + u64::from(held.blocks);
        let inside = "inside the guest's memory";
        // Where each buffer lies in the whole: it may begin and end in the middle of a sector.
        let pieces = held.segments.iter().scan(0, |end, segment| {
            let begin = *end;
            *end += segment.len_bytes() as usize;
            Some((segment, begin..*end))
        });
        match held.op {
            OpKind::Flush => {}
            OpKind::Discard | OpKind::WriteZeroes => sectors.for_each(|sector| self.medium.write(sector, &[0; SECTOR_BYTES])),
            OpKind::Read => {
                let bytes: Vec<Sector> = sectors.map(|sector| self.medium.read(sector)).collect();
                pieces.for_each(|(segment, of)| self.regions.write(segment, 0, &bytes.as_flattened()[of]).expect(inside));
            }
            OpKind::Write => {
                let mut bytes = vec![[0; SECTOR_BYTES]; held.blocks as usize];
                pieces.for_each(|(segment, of)| self.regions.read(segment, 0, &mut bytes.as_flattened_mut()[of]).expect(inside));
                sectors.zip(&bytes).for_each(|(sector, bytes)| self.medium.write(sector, bytes));
            }
        }
    }
}

impl Channel for HeldChannel {
    fn room(&self) -> usize {
        with(&self.shared, |seen| self.depth - seen.held.len())
    }

    fn submit(&mut self, request: Request<'_>) {
        let Request { tag, op, start, blocks, segments, .. } = request;
        assert!(op != Op::Read || !segments.is_empty());
        let held =
            Held { op: op.kind(), start: start.0, blocks, stage: Stage::Asked, is_executed: false, tag, segments: segments.to_vec() };
        with(&self.shared, |seen| {
            seen.asked.push((held.op, held.start));
            seen.held.push(held);
        });
    }

    fn kick(&mut self) {}

    fn poll(&mut self, _: Instant, done: &mut Completions) {
        with(&self.shared, |seen| {
            seen.held.retain_mut(|held| {
                if held.stage > Stage::Asked && !std::mem::replace(&mut held.is_executed, true) {
                    self.execute(held);
                }
                let completes = held.stage == Stage::Over && done.room() > 0;
                if completes {
                    done.push(Completion { tag: held.tag, status: Status::Ok });
                }
                !completes
            });
        });
    }

    fn arm(&mut self) -> Armed {
        Armed::Idle
    }
}
