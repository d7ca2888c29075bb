//! Where planted faults go, and what they need of the past. Knows no rule.

use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use spinel_core::Lba;
use spinel_core::mem::{MapError, Region, Regions, Segment};

/// The largest write whose old content is kept.
pub(super) const IMAGE_BYTES: u32 = 64 << 10;
/// Old contents that all error devices of the process together can keep.
pub(super) const IMAGES: u32 = u64::BITS;
/// Where they begin; the table of bytes is before them.
const IMAGES_AT: u64 = 4096;

/// Byte `i` is `i`, so that a write is corrupted by pointing one byte of it in here, and the
/// guest's memory stays as it is. Then the images. One for the process: it is announced to
/// cores for good. Its pages take memory when they are first used.
static REGION: OnceLock<Arc<Region>> = OnceLock::new();

/// A bit for each image that somebody has.
static TAKEN: AtomicU64 = AtomicU64::new(0);

pub(super) fn region() -> Result<Arc<Region>, MapError> {
    if REGION.get().is_none() {
        let region = Region::anonymous(IMAGES_AT + u64::from(IMAGES) * u64::from(IMAGE_BYTES))?;
        for value in 0..=u8::MAX {
            region.write(u64::from(value), &[value]).expect("256 bytes were asked for");
        }
        let _ = REGION.set(region);
    }
    Ok(Arc::clone(REGION.get().expect("set above or by another thread")))
}

/// Memory for the old content of one write. Goes back when dropped.
#[derive(Debug)]
pub(super) struct Image {
    index: u32,
    /// First block.
    pub(super) start: u64,
    /// Number of blocks.
    pub(super) blocks: u32,
    block_bytes: u32,
    /// The write that replaced it was acknowledged.
    pub(super) old: bool,
    /// A bit for each block of which a read has been sent since, so that what replaced it has been seen.
    seen: u128,
}

impl Image {
    /// Memory for so many blocks, if they are few enough and there is some left.
    pub(super) fn claim(start: Lba, blocks: u32, block_bytes: u32) -> Option<Self> {
        blocks.checked_mul(block_bytes).filter(|bytes| (1..=IMAGE_BYTES).contains(bytes))?;
        let mut taken = TAKEN.load(Ordering::Relaxed);
        loop {
            let index = taken.trailing_ones();
            if index == IMAGES {
                return None;
            }
            match TAKEN.compare_exchange_weak(taken, taken | 1_u64 << index, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return Some(Self { index, start: start.0, blocks, block_bytes, old: false, seen: 0 }),
                Err(now) => taken = now,
            }
        }
    }

    /// Its memory, from so many bytes on.
    pub(super) fn segment(&self, region: &Region, from: u32) -> Segment {
        let at = IMAGES_AT + u64::from(self.index) * u64::from(IMAGE_BYTES) + u64::from(from);
        region.segment(at, self.blocks * self.block_bytes - from).expect("images lie inside the region")
    }

    /// The blocks that it has of a request.
    fn overlap(&self, start: u64, blocks: u32) -> Option<(u64, u64)> {
        let first = start.max(self.start);
        let end = (start + u64::from(blocks)).min(self.start + u64::from(self.blocks));
        (first < end).then_some((first, end))
    }

    /// The bits of the blocks that it has of a request.
    fn bits(&self, start: Lba, blocks: u32) -> u128 {
        let bits = |first: u64, end: u64| (first..end).fold(0, |bits, block| bits | 1_u128 << (block - self.start));
        self.overlap(start.0, blocks).map_or(0, |(first, end)| bits(first, end))
    }

    /// A read of these blocks returns what replaced it.
    pub(super) fn see(&mut self, start: Lba, blocks: u32) {
        if self.old {
            self.seen |= self.bits(start, blocks);
        }
    }

    /// These blocks were written again: nobody has seen yet what they hold now.
    pub(super) fn unsee(&mut self, start: Lba, blocks: u32) {
        self.seen &= !self.bits(start, blocks);
    }

    /// Whether a read of these blocks can return what is not there any more, and has been seen not to be.
    pub(super) fn can_fool(&self, start: Lba, blocks: u32) -> bool {
        self.seen & self.bits(start, blocks) != 0
    }

    /// Puts what it has of a read's blocks into the read's memory, as far as a read before has seen others there.
    pub(super) fn show(&self, region: &Region, regions: &Rc<Regions>, start: Lba, blocks: u32, segments: &[Segment]) {
        let Some((first, end)) = self.overlap(start.0, blocks) else { return };
        let mut bytes = [0; 512];
        let block_bytes = u64::from(self.block_bytes);
        for block in (first..end).filter(|block| self.seen >> (block - self.start) & 1 == 1) {
            let from = IMAGES_AT + u64::from(self.index) * u64::from(IMAGE_BYTES) + (block - self.start) * block_bytes;
            for offset in (0..block_bytes).step_by(bytes.len()) {
                region.read(from + offset, &mut bytes).expect("images lie inside the region");
                scatter(regions, segments, (block - start.0) * block_bytes + offset, &bytes);
            }
        }
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        TAKEN.fetch_and(!(1_u64 << self.index), Ordering::Release);
    }
}

/// Writes bytes into a request's memory, from so many of its bytes on. What is not mapped any more stays as it is.
fn scatter(regions: &Rc<Regions>, segments: &[Segment], mut skip: u64, mut bytes: &[u8]) {
    for segment in segments {
        let len = u64::from(segment.len_bytes());
        if skip >= len {
            skip -= len;
            continue;
        }
        let here = usize::try_from(len - skip).map_or(bytes.len(), |left| left.min(bytes.len()));
        let at = u32::try_from(skip).expect("below a segment's length");
        let _ = regions.write(segment, at, &bytes[..here]);
        (bytes, skip) = (&bytes[here..], 0);
        if bytes.is_empty() {
            return;
        }
    }
}

/// Makes `into` the first bytes of a request's memory.
pub(super) fn prefix(segments: &[Segment], mut bytes: u64, into: &mut Vec<Segment>) {
    into.clear();
    for segment in segments {
        if bytes == 0 {
            return;
        }
        let here = u32::try_from(bytes).map_or(segment.len_bytes(), |left| left.min(segment.len_bytes()));
        into.push(segment.split_at(here).0);
        bytes -= u64::from(here);
    }
}

/// Where a write goes that goes astray: right behind where it was meant to, or if the device ends there, before; `None` if it is the whole device.
pub(super) fn astray(start: Lba, blocks: u32, block_count: u64) -> Option<Lba> {
    let (Lba(start), blocks) = (start, u64::from(blocks));
    let last = block_count.checked_sub(blocks)?;
    if start > last || blocks == 0 {
        return None;
    }
    let behind = [blocks, 1].into_iter().map(|step| start + step).find(|start| *start <= last);
    let before = || [blocks, 1].into_iter().find_map(|step| start.checked_sub(step));
    behind.or_else(before).map(Lba)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_that_goes_astray_stays_inside_the_device() {
        for count in 1..12 {
            for blocks in 1..=u32::try_from(count).unwrap() {
                for start in 0..=count - u64::from(blocks) {
                    match astray(Lba(start), blocks, count) {
                        Some(Lba(to)) => assert!(to != start && to + u64::from(blocks) <= count, "{start} {blocks} {count} {to}"),
                        None => assert_eq!(u64::from(blocks), count),
                    }
                }
            }
        }
        assert_eq!((astray(Lba(3), 2, 64), astray(Lba(u64::MAX), 2, 64), astray(Lba(0), 65, 64)), (Some(Lba(5)), None, None));
    }
}
