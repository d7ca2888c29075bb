//! A device in the engine's own memory, shared by all cores. Knows no cache: its content lives as long as somebody has its memory.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;
use std::sync::Arc;

use spinel_core::mem::{BoundsError, MapError, Region, Regions};
use spinel_core::{Armed, Channel, Completions, Core, Device, Geometry, Instant, Op, OpenError, Request, Single, Status, Tag};

use crate::ended::Ended;
use crate::shape::{Shape, ShapeError, TRANSFER_MAX_BYTES, inside};

/// Pages are given back in pieces of this many bytes; larger pages of the system make them zeroed instead.
const PAGE_BYTES: u64 = 4096;
/// How many bytes one poll of one channel wipes at most: about 0.1 ms.
const WIPE_BYTES_PER_POLL: u64 = 1 << 20;

/// How much of a copy is prefetched: what comes behind it is fetched by the copying itself. Of 1, 2 and 4 KiB this did best.
const PREFETCH_BYTES: u32 = 2048;

/// Why a device in memory could not be made.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// No device can have this shape.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// The system gives no memory for it.
    #[error("there is no memory for a device of {len_bytes} bytes")]
    Map {
        /// The size of the device.
        len_bytes: u64,
        /// What the system said.
        source: MapError,
    },
}

/// A device that keeps its blocks in memory, which is taken from the system when first
/// written. It has no volatile cache: what is in memory is all the durability there is.
///
/// Discarded blocks read as zeroes and their whole pages go back to the system; so do
/// those of write-zeroes with `unmap`.
#[derive(Debug)]
pub struct MemoryDevice {
    shape: Shape,
    medium: Arc<Region>,
}

impl MemoryDevice {
    /// A device of this shape whose blocks read as zeroes.
    ///
    /// # Errors
    /// [`MemoryError`] when the shape is impossible or the system has no room for it.
    pub fn new(shape: Shape) -> Result<Self, MemoryError> {
        let shape = shape.checked()?;
        let len_bytes = shape.len_bytes();
        let medium = Region::shared(len_bytes).map_err(|source| MemoryError::Map { len_bytes, source })?;
        Ok(Self { shape, medium })
    }

    /// A device of this shape with the content of another one's [`memory`](Self::memory), which they share from here on.
    ///
    /// # Errors
    /// [`MemoryError`], also when the memory is shorter than the shape.
    pub fn of_memory(shape: Shape, memory: BorrowedFd<'_>) -> Result<Self, MemoryError> {
        let shape = shape.checked()?;
        let len_bytes = shape.len_bytes();
        let medium = Region::of_file(memory, 0, len_bytes).map_err(|source| MemoryError::Map { len_bytes, source })?;
        Ok(Self { shape, medium })
    }

    /// The file in memory that holds its blocks, from the first on: what another process needs to have the same device.
    #[must_use]
    pub fn memory(&self) -> BorrowedFd<'_> {
        self.medium.file().expect("a medium is made of a file").fd.as_fd()
    }
}

impl Device for MemoryDevice {
    fn geometry(&self) -> Geometry {
        self.shape.geometry()
    }

    fn open(&self, core: &mut Core, depth: u16) -> Result<Box<dyn Channel>, OpenError> {
        Ok(Box::new(MemoryChannel {
            shape: self.shape,
            medium: Arc::clone(&self.medium),
            regions: core.regions(),
            wipes: VecDeque::with_capacity(usize::from(depth)),
            ended: Ended::new(depth),
        }))
    }
}

/// A range that is being zeroed, a bounded piece with each poll.
struct Wipe {
    tag: Tag,
    at: u64,
    end: u64,
    release: bool,
}

struct MemoryChannel {
    shape: Shape,
    medium: Arc<Region>,
    regions: Rc<Regions>,
    wipes: VecDeque<Wipe>,
    ended: Ended,
}

impl MemoryChannel {
    fn wipe(&mut self, request: &Request<'_>, release: bool) {
        assert!(self.room() > 0, "a request was submitted past room()");
        let at = request.start.0 * u64::from(self.shape.block_bytes);
        let end = at + u64::from(request.blocks) * u64::from(self.shape.block_bytes);
        self.wipes.push_back(Wipe { tag: request.tag, at, end, release });
    }

    fn copy(&self, request: &Request<'_>) -> Result<(), BoundsError> {
        let mut at = request.start.0 * u64::from(self.shape.block_bytes);
        for segment in request.segments {
            match request.op {
                Op::Read => self.regions.copy_in(segment, &self.medium, at)?,
                _ => self.regions.copy_out(segment, &self.medium, at)?,
            }
            at += u64::from(segment.len_bytes());
        }
        Ok(())
    }

    /// Asks the processor for both sides of a copy that comes next: while one is under way, nothing else waits for memory.
    fn prefetch(&self, next: &Single) {
        let at = next.start.0.wrapping_mul(u64::from(self.shape.block_bytes));
        self.medium.prefetch(at, u64::from(next.segment.len_bytes().min(PREFETCH_BYTES)));
        self.regions.prefetch(&next.segment, PREFETCH_BYTES);
    }

    fn transfer(&self, request: &Request<'_>) -> Status {
        let asked = u64::from(request.blocks) * u64::from(self.shape.block_bytes);
        let given: u64 = request.segments.iter().map(|segment| u64::from(segment.len_bytes())).sum();
        if asked != given || asked > u64::from(TRANSFER_MAX_BYTES) || self.copy(request).is_err() {
            return Status::Malformed;
        }
        Status::Ok
    }
}

/// Zeroes the next piece of at most `budget` bytes, whole pages being given back where that is wanted; answers its length.
fn wipe_piece(medium: &Region, wipe: &mut Wipe, budget: u64) -> u64 {
    let left = (wipe.end - wipe.at).min(budget);
    let into_page = wipe.at % PAGE_BYTES;
    let pages = left - left % PAGE_BYTES;
    let len_bytes = match wipe.release {
        true if into_page > 0 => left.min(PAGE_BYTES - into_page),
        true if pages > 0 => pages,
        _ => left,
    };
    let released = wipe.release && len_bytes == pages && medium.release_pages(wipe.at, len_bytes).is_ok();
    if !released {
        medium.zero(wipe.at, len_bytes).expect("the range was checked against the medium's size");
    }
    wipe.at += len_bytes;
    len_bytes
}

impl Channel for MemoryChannel {
    fn room(&self) -> usize {
        self.ended.room() - self.wipes.len()
    }

    fn submit(&mut self, request: Request<'_>) {
        let status = match request.op {
            Op::Flush => Status::Ok,
            _ if !inside(request.start, request.blocks, self.shape.block_count) => Status::Range,
            Op::Read | Op::Write { .. } => self.transfer(&request),
            Op::Discard => return self.wipe(&request, true),
            Op::WriteZeroes { unmap, .. } => return self.wipe(&request, unmap),
        };
        self.ended.push(request.tag, status);
    }

    fn submit_all(&mut self, at: Instant, requests: &[Single]) {
        for (number, request) in (1..).zip(requests) {
            if let Some(next) = requests.get(number) {
                self.prefetch(next);
            }
            self.submit(request.request(at));
        }
    }

    fn kick(&mut self) {}

    fn poll(&mut self, _now: Instant, done: &mut Completions) {
        let mut budget = WIPE_BYTES_PER_POLL;
        while budget > 0
            && let Some(wipe) = self.wipes.front_mut()
        {
            // Charged by the page, so that what is left of the budget never splits one.
            let charge = wipe_piece(&self.medium, wipe, budget).max(1).next_multiple_of(PAGE_BYTES);
            budget = budget.saturating_sub(charge);
            if wipe.at == wipe.end {
                self.ended.push(wipe.tag, Status::Ok);
                self.wipes.pop_front();
            }
        }
        self.ended.drain(done);
    }

    fn arm(&mut self) -> Armed {
        if self.ended.is_empty() && self.wipes.is_empty() { Armed::Idle } else { Armed::Ready }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use spinel_sim::{Prng, Rig};

    fn rig_over(shape: Shape) -> (Rig, MemoryDevice, Box<dyn Channel>) {
        let mut rig = Rig::new(Prng::new(1), 1 << 16);
        let device = MemoryDevice::new(shape).unwrap();
        let channel = device.open(&mut rig.core, 8).unwrap();
        (rig, device, channel)
    }

    #[derive(Clone, Debug)]
    enum Act {
        Write(Vec<u8>),
        Read,
        Wipe(Op),
    }

    fn acts() -> impl Strategy<Value = (u64, u32, Vec<u32>, Act)> {
        let act = prop_oneof![
            proptest::collection::vec(any::<u8>(), 512).prop_map(Act::Write),
            Just(Act::Read),
            Just(Act::Wipe(Op::Discard)),
            any::<(bool, bool)>().prop_map(|(unmap, fua)| Act::Wipe(Op::WriteZeroes { unmap, fua })),
        ];
        (0..34u64, 0..20u32, proptest::collection::vec(1..3000u32, 0..4), act)
    }

    /// Pieces of a buffer of `len_bytes` at odd places of the memory.
    fn split(rig: &Rig, len_bytes: u32, cuts: &[u32]) -> Vec<spinel_core::mem::Segment> {
        let mut left = len_bytes;
        let mut offset = 3;
        let mut segments = Vec::new();
        for cut in cuts.iter().copied().chain([len_bytes]) {
            let here = cut.min(left);
            segments.push(rig.segment(offset, here));
            offset += u64::from(here) + 1;
            left -= here;
        }
        segments
    }

    fn gather(rig: &Rig, segments: &[spinel_core::mem::Segment]) -> Vec<u8> {
        let mut all = Vec::new();
        for segment in segments {
            let mut part = vec![0; segment.len_bytes() as usize];
            rig.memory.read(segment.offset(), &mut part).unwrap();
            all.extend(part);
        }
        all
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn blocks_hold_what_was_written_last(large in any::<bool>(), acts in proptest::collection::vec(acts(), 1..40)) {
            let block_bytes = if large { 4096 } else { 512 };
            let (mut rig, _device, mut channel) = rig_over(Shape::new(block_bytes, 32));
            let block = block_bytes as usize;
            let mut model = vec![0; block * 32];
            for (start, blocks, cuts, act) in acts {
                let blocks = if large { blocks.min(8) } else { blocks };
                let inside = start + u64::from(blocks) <= 32;
                let first = usize::try_from(start).unwrap() * block;
                let range = first..first + blocks as usize * block;
                let segments = split(&rig, blocks * block_bytes, &cuts);
                let expected = if inside { Status::Ok } else { Status::Range };
                match act {
                    Act::Write(pattern) => {
                        let mut bytes = pattern.iter().copied().cycle();
                        for segment in &segments {
                            let part: Vec<u8> = bytes.by_ref().take(segment.len_bytes() as usize).collect();
                            rig.memory.write(segment.offset(), &part).unwrap();
                        }
                        prop_assert_eq!(rig.ask(&mut *channel, Op::Write { fua: false }, start, blocks, &segments), Ok(expected));
                        if inside { model[range].copy_from_slice(&gather(&rig, &segments)); }
                    }
                    Act::Read => {
                        prop_assert_eq!(rig.ask(&mut *channel, Op::Read, start, blocks, &segments), Ok(expected));
                        if inside { prop_assert_eq!(&gather(&rig, &segments), &model[range]); }
                    }
                    Act::Wipe(op) => {
                        prop_assert_eq!(rig.ask(&mut *channel, op, start, blocks, &[]), Ok(expected));
                        if inside { model[range].fill(0); }
                    }
                }
            }
        }

        #[test]
        fn a_wipe_zeroes_its_range_and_nothing_beside_it(
            at in 0..20_000u64, len in 0..20_000u64, budgets in proptest::collection::vec(1..4u64, 1..20), release in any::<bool>(),
        ) {
            let medium = Region::anonymous(40_960).unwrap();
            medium.write(0, &vec![9; 40_960]).unwrap();
            let mut wipe = Wipe { tag: Tag(0), at, end: at + len, release };
            let mut budgets = budgets.iter().cycle();
            while wipe.at < wipe.end {
                let budget = budgets.next().unwrap() * PAGE_BYTES;
                let (before, wiped) = (wipe.at, wipe_piece(&medium, &mut wipe, budget));
                prop_assert!(wiped > 0 && wiped <= budget && wipe.at == before + wiped);
            }
            let mut got = vec![0; 40_960];
            medium.read(0, &mut got).unwrap();
            for (index, byte) in (0..).zip(got) {
                prop_assert_eq!(byte == 0, (at..at + len).contains(&index), "byte {}", index);
            }
        }
    }

    #[test]
    fn a_device_of_the_same_memory_has_its_content() {
        let (mut rig, device, mut channel) = rig_over(Shape::new(512, 8));
        rig.memory.write(0, &[5; 512]).unwrap();
        let (from, to) = ([rig.segment(0, 512)], [rig.segment(4096, 512)]);
        assert_eq!(rig.ask(&mut *channel, Op::Write { fua: false }, 7, 1, &from), Ok(Status::Ok));
        assert!(MemoryDevice::of_memory(Shape::new(512, 9), device.memory()).is_err());
        let heir = MemoryDevice::of_memory(Shape::new(512, 8), device.memory()).unwrap();
        drop((device, channel));
        let mut channel = heir.open(&mut rig.core, 8).unwrap();
        assert_eq!(rig.ask(&mut *channel, Op::Read, 7, 1, &to), Ok(Status::Ok));
        assert_eq!(gather(&rig, &to), [5; 512]);
    }

    #[test]
    fn channels_share_one_medium() {
        let (mut rig, device, mut one) = rig_over(Shape::new(512, 8));
        let mut other = device.open(&mut rig.core, 1).unwrap();
        rig.memory.write(0, &[5; 512]).unwrap();
        let (from, to) = ([rig.segment(0, 512)], [rig.segment(4096, 512)]);
        assert_eq!(rig.ask(&mut *one, Op::Write { fua: false }, 3, 1, &from), Ok(Status::Ok));
        assert_eq!(rig.ask(&mut *other, Op::Read, 3, 1, &to), Ok(Status::Ok));
        assert_eq!(gather(&rig, &to), [5; 512]);
    }

    #[test]
    fn a_long_wipe_takes_several_turns_and_only_part_of_each() {
        let (mut rig, _device, mut channel) = rig_over(Shape::new(4096, 1024));
        let at = rig.begin_turn();
        channel.submit(Request { tag: Tag(1), op: Op::Discard, at, start: spinel_core::Lba(0), blocks: 1024, segments: &[] });
        channel.submit(Request { tag: Tag(2), op: Op::Flush, at, start: spinel_core::Lba(0), blocks: 0, segments: &[] });
        let mut done = Completions::new();
        for _ in 0..3 {
            channel.poll(rig.begin_turn(), &mut done);
            assert_eq!((done.as_slice().len(), channel.room(), channel.arm()), (1, 7, Armed::Ready));
        }
        channel.poll(rig.begin_turn(), &mut done);
        assert_eq!((done.as_slice()[1].tag, channel.room(), channel.arm()), (Tag(1), 8, Armed::Idle));
    }

    #[test]
    fn memory_that_does_not_fit_the_request_is_refused() {
        let (mut rig, _device, mut channel) = rig_over(Shape::new(512, 1 << 20));
        let strange = Region::anonymous(4096).unwrap();
        let cases = [
            (1, vec![rig.segment(0, 511)]),
            (1, vec![rig.segment(0, 512), rig.segment(0, 1)]),
            (1, vec![]),
            (1, vec![strange.segment(0, 512).unwrap()]),
            ((4 << 20) / 512 + 128, vec![rig.segment(0, 1 << 16); 65]),
        ];
        for (blocks, segments) in cases {
            for op in [Op::Read, Op::Write { fua: false }] {
                assert_eq!(rig.ask(&mut *channel, op, 0, blocks, &segments), Ok(Status::Malformed), "{op:?} {segments:?}");
            }
        }
    }
}
