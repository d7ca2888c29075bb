//! A device that answers and does nothing else. Knows no data: it moves no byte and keeps none.
//!
//! The cost of everything around a device is measured over it, so a request costs a few
//! nanoseconds here: a range check, and one entry of a queue.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use spinel_core::{Armed, Channel, Completions, Core, Device, Geometry, Instant, Op, OpenError, Request, Status};

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
        let fits = request.op == Op::Flush || inside(request.start, request.blocks, self.block_count.load(Ordering::Relaxed));
        self.ended.push(request.tag, if fits { Status::Ok } else { Status::Range });
    }

    fn kick(&mut self) {}

    fn poll(&mut self, _now: Instant, done: &mut Completions) {
        self.ended.drain(done);
    }

    fn arm(&mut self) -> Armed {
        if self.ended.is_empty() { Armed::Idle } else { Armed::Ready }
    }
}
