//! A device that answers and does nothing else. Knows no data: it moves no byte and keeps none.
//!
//! The cost of everything around a device is measured over it, so a request costs a few
//! nanoseconds here: a range check, and one entry of a queue.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use spinel_core::{Armed, Channel, Completion, Completions, Core, Device, Geometry, Instant, Lba, Op, OpenError, Request, Single, Status};

use crate::ended::Ended;
use crate::shape::{Shape, ShapeError, inside};

/// A device that completes everything on the next poll. Reads leave the buffers as they
/// were, writes go nowhere; nothing it acknowledges can be lost, because nothing is kept.
#[derive(Debug)]
pub struct NullDevice {
    shape: Shape,
    block_count: Arc<AtomicU64>,
}

impl NullDevice {
    /// A device of this shape.
    ///
    /// # Errors
    /// [`ShapeError`] when no device can have it.
    pub fn new(shape: Shape) -> Result<Self, ShapeError> {
        let shape = shape.checked()?;
        Ok(Self { shape, block_count: Arc::new(AtomicU64::new(shape.block_count)) })
    }

    /// Changes the number of blocks, also under open channels.
    ///
    /// # Errors
    /// [`ShapeError`] when no device can have so many.
    pub fn resize(&self, block_count: u64) -> Result<(), ShapeError> {
        Shape { block_count, ..self.shape }.checked()?;
        self.block_count.store(block_count, Ordering::Relaxed);
        Ok(())
    }
}

impl Device for NullDevice {
    fn geometry(&self) -> Geometry {
        Shape { block_count: self.block_count.load(Ordering::Relaxed), ..self.shape }.geometry()
    }

    fn open(&self, _core: &mut Core, depth: u16) -> Result<Box<dyn Channel>, OpenError> {
        Ok(Box::new(NullChannel { block_count: Arc::clone(&self.block_count), ended: Ended::new(depth) }))
    }
}

struct NullChannel {
    block_count: Arc<AtomicU64>,
    ended: Ended,
}

impl Channel for NullChannel {
    fn room(&self) -> usize {
        self.ended.room()
    }

    fn submit(&mut self, request: Request<'_>) {
        let Request { tag, op, start, blocks, .. } = request;
        let status = if op == Op::Flush { Status::Ok } else { status_of(start, blocks, self.block_count.load(Ordering::Relaxed)) };
        self.ended.push(tag, status);
    }

    fn submit_all(&mut self, _at: Instant, requests: &[Single]) {
        let block_count = self.block_count.load(Ordering::Relaxed);
        let end = |&Single { tag, start, blocks, .. }: &Single| Completion { tag, status: status_of(start, blocks, block_count) };
        self.ended.extend(requests.iter().map(end));
    }

    fn kick(&mut self) {}

    fn poll(&mut self, _now: Instant, done: &mut Completions) {
        self.ended.drain(done);
    }

    fn arm(&mut self) -> Armed {
        if self.ended.is_empty() { Armed::Idle } else { Armed::Ready }
    }
}

fn status_of(start: Lba, blocks: u32, block_count: u64) -> Status {
    if inside(start, blocks, block_count) { Status::Ok } else { Status::Range }
}

#[cfg(test)]
mod tests {
    use super::*;
    use spinel_core::Tag;
    use spinel_sim::{Prng, Rig};

    fn open(device: &NullDevice, depth: u16) -> (Rig, Box<dyn Channel>) {
        let mut rig = Rig::new(Prng::new(1), 4096);
        let channel = device.open(&mut rig.core, depth).unwrap();
        (rig, channel)
    }

    #[test]
    fn everything_completes_on_the_next_poll_and_no_byte_moves() {
        let device = NullDevice::new(Shape::new(512, 8)).unwrap();
        let (mut rig, mut channel) = open(&device, 4);
        rig.memory.write(0, &[7; 512]).unwrap();
        let segments = [rig.segment(0, 512)];
        let zeroes = Op::WriteZeroes { unmap: true, fua: true };
        for op in [Op::Read, Op::Write { fua: true }, Op::Flush, Op::Discard, zeroes] {
            assert_eq!(rig.ask(&mut *channel, op, 7, 1, &segments), Ok(Status::Ok), "{op:?}");
        }
        let mut got = [0; 512];
        rig.memory.read(0, &mut got).unwrap();
        assert_eq!(got, [7; 512]);
        assert_eq!(rig.ask(&mut *channel, Op::Read, 7, 2, &segments), Ok(Status::Range));
        assert_eq!(rig.ask(&mut *channel, Op::Flush, u64::MAX, 0, &[]), Ok(Status::Ok), "a flush has no range");
    }

    #[test]
    fn a_resize_is_seen_by_open_channels() {
        let device = NullDevice::new(Shape::new(4096, 8)).unwrap();
        let (mut rig, mut channel) = open(&device, 1);
        assert_eq!(rig.ask(&mut *channel, Op::Discard, 8, 1, &[]), Ok(Status::Range));
        device.resize(9).unwrap();
        assert_eq!(rig.ask(&mut *channel, Op::Discard, 8, 1, &[]), Ok(Status::Ok));
        assert_eq!(device.geometry().block_count, 9);
        assert!(device.resize(0).is_err());
        assert_eq!(device.geometry().block_count, 9, "a refused resize changes nothing");
    }

    #[test]
    fn what_does_not_fit_into_one_batch_comes_with_the_next() {
        let device = NullDevice::new(Shape::new(512, 8)).unwrap();
        let (rig, mut channel) = open(&device, 5);
        for tag in 0..5 {
            channel.submit(Request { tag: Tag(tag), op: Op::Flush, at: rig.clock.now(), start: Lba(0), blocks: 0, segments: &[] });
        }
        assert_eq!((channel.room(), channel.arm()), (0, Armed::Ready));
        let mut done = Completions::limited(3);
        channel.poll(rig.clock.now(), &mut done);
        assert_eq!((channel.room(), channel.arm()), (3, Armed::Ready));
        done.clear();
        channel.poll(rig.clock.now(), &mut done);
        assert_eq!(done.as_slice(), [3, 4].map(|tag| Completion { tag: Tag(tag), status: Status::Ok }));
        assert_eq!((channel.room(), channel.arm()), (5, Armed::Idle));
    }

    #[test]
    #[should_panic(expected = "past room()")]
    fn a_submit_past_the_room_is_our_own_fault_and_stops_us() {
        let device = NullDevice::new(Shape::new(512, 8)).unwrap();
        let (mut rig, mut channel) = open(&device, 0);
        let at = rig.begin_turn();
        channel.submit(Request { tag: Tag(0), op: Op::Flush, at, start: Lba(0), blocks: 0, segments: &[] });
    }
}
