//! A device in the engine's own memory, shared by all cores. Knows no file and no cache: its content dies with it.

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use spinel_core::mem::{BoundsError, MapError, Region, Regions};
use spinel_core::{Armed, Channel, Completions, Core, Device, Geometry, Instant, Op, OpenError, Request, Status, Tag};

use crate::ended::Ended;
use crate::shape::{Shape, ShapeError, TRANSFER_MAX_BYTES, inside};

/// Pages are given back in pieces of this many bytes; larger pages of the system make them zeroed instead.
const PAGE_BYTES: u64 = 4096;
/// How many bytes one poll of one channel wipes at most: about 0.1 ms.
const WIPE_BYTES_PER_POLL: u64 = 1 << 20;

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
        let medium = Region::anonymous(len_bytes).map_err(|source| MemoryError::Map { len_bytes, source })?;
        Ok(Self { shape, medium })
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
