//! The memory that a load's requests point into. Knows no request and no device.

use std::sync::Arc;

use spinel_core::mem::{MapError, Region, Segment};
use spinel_core::{Core, OpKind};

use crate::job::Job;
use crate::prng::Prng;

/// Every cell begins at a multiple of this, which suits every device.
const ALIGN_BYTES: u64 = 4096;
/// The pattern is made in pieces of this size.
const PIECE_BYTES: usize = 1 << 16;

/// A job's memory: for each request in flight a cell of the largest size to read into, and one to write from.
///
/// What is written is a pattern drawn from the job's seed: it is neither zeroes nor the
/// same in two cells, so that no device can save itself the work. It is filled in here,
/// once, and reads go elsewhere, so that it stays.
#[derive(Clone, Debug)]
pub struct Memory {
    region: Arc<Region>,
    layout: Layout,
    is_own: bool,
}

/// Where a job's cells are, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Layout {
    /// In the region.
    start: u64,
    depth: u16,
    cell_bytes: u32,
    /// From one cell to the next.
    step_bytes: u64,
    /// Where those to write from begin.
    writes_at: u64,
    /// All of them.
    bytes: u64,
}

/// Why a load got no memory.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum MemoryError {
    #[error("{bytes} bytes of memory for the requests in flight are not to be had")]
    Map {
        bytes: u64,
        #[source]
        source: MapError,
    },
    #[error("a job needs {bytes} bytes of memory, and got {region_bytes}")]
    Small { bytes: u64, region_bytes: u64 },
}

impl Layout {
    fn of(job: &Job) -> Self {
        let (reads, writes) = (job.sends(OpKind::Read), job.sends(OpKind::Write));
        let cell_bytes = if reads || writes { job.sizes.max_bytes } else { 0 };
        let step_bytes = u64::from(cell_bytes).next_multiple_of(ALIGN_BYTES);
        let half = step_bytes * u64::from(job.depth);
        let (writes_at, bytes) = if reads && writes { (half, 2 * half) } else { (0, half) };
        // A job that moves no bytes gets a little all the same, for there is no region of none.
        Self { start: 0, depth: job.depth, cell_bytes, step_bytes, writes_at, bytes: bytes.max(ALIGN_BYTES) }
    }
}

impl Memory {
    /// How many bytes a job needs.
    #[must_use]
    pub fn bytes_for(job: &Job) -> u64 {
        Layout::of(job).bytes
    }

    /// Memory of this process's own. Takes the time that filling it takes: not on a core that works.
    ///
    /// # Errors
    /// When the system has none.
    pub fn anonymous(job: &Job) -> Result<Self, MemoryError> {
        let bytes = Self::bytes_for(job);
        Self::of(Region::anonymous(bytes).map_err(|source| MemoryError::Map { bytes, source })?, 0, job)
    }

    /// A part of a region that others use too, from `start` on. Fills in the pattern. Whoever made the region takes it from the cores.
    ///
    /// # Errors
    /// When the region has fewer than [`bytes_for`](Self::bytes_for) bytes from there on.
    pub fn within(region: Arc<Region>, start: u64, job: &Job) -> Result<Self, MemoryError> {
        Ok(Self { is_own: false, ..Self::of(region, start, job)? })
    }

    fn of(region: Arc<Region>, start: u64, job: &Job) -> Result<Self, MemoryError> {
        let layout = Layout { start, ..Layout::of(job) };
        let bytes = layout.bytes;
        let region_bytes = region.len_bytes().saturating_sub(start);
        if region_bytes < bytes {
            return Err(MemoryError::Small { bytes, region_bytes });
        }
        let mut prng = Prng::new(job.seed).fork();
        let mut piece = vec![0; PIECE_BYTES];
        let mut at = 0;
        while at < bytes {
            let here = usize::try_from(bytes - at).map_or(PIECE_BYTES, |left| left.min(PIECE_BYTES));
            prng.fill(&mut piece[..here]);
            region.write(start + at, &piece[..here]).expect("inside the region");
            at += u64::try_from(here).expect("lengths fit 64 bits");
        }
        Ok(Self { region, layout, is_own: true })
    }

    /// The region. Keep a share of it where the load is controlled from, so that it is not unmapped on the core that worked.
    #[must_use]
    pub fn region(&self) -> &Arc<Region> {
        &self.region
    }

    /// Announces it to a core, before a channel for the load is opened there. The load takes its own back when it retires.
    pub fn announce(&self, core: &mut Core) {
        core.map(Arc::clone(&self.region));
    }

    /// Takes the region back from a core, unless others use it there.
    pub(crate) fn recall(&self, core: &mut Core) {
        if self.is_own {
            // Not the last share of it, which is here.
            drop(core.unmap(self.region.id()));
        }
    }

    /// Whether it was made for a job like this.
    pub(crate) fn fits(&self, job: &Job) -> bool {
        self.layout == Layout { start: self.layout.start, ..Layout::of(job) }
    }

    /// The cell of a request: to read into, and to write from. The same if the job does only one of them.
    pub(crate) fn cell(&self, index: u16) -> [Segment; 2] {
        let Layout { start, cell_bytes, step_bytes, writes_at, .. } = self.layout;
        let at = start + u64::from(index) * step_bytes;
        let segment = |at: u64| self.region.segment(at, cell_bytes).expect("the cells of the layout lie inside");
        [segment(at), segment(at + writes_at)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::{Mix, Sizes};

    fn job(mix: Mix) -> Job {
        Job { mix, depth: 3, sizes: Sizes { min_bytes: 512, max_bytes: 5120 }, ..Job::new() }
    }

    fn bytes(memory: &Memory, segment: &Segment) -> Vec<u8> {
        let mut bytes = vec![0; segment.len_bytes() as usize];
        memory.region().read(segment.offset(), &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn cells_are_aligned_and_apart_and_writes_never_meet_reads() {
        let job = job(Mix { read: 50, write: 50, ..Mix::default() });
        let region = Region::anonymous(8192 + 6 * 8192).unwrap();
        let memory = Memory::within(Arc::clone(&region), 8192, &job).unwrap();
        assert!(matches!(Memory::within(region, 8193, &job), Err(MemoryError::Small { .. })));
        let mut cells: Vec<Segment> = (0..3).flat_map(|index| memory.cell(index)).collect();
        cells.sort_unstable_by_key(Segment::offset);
        assert!(cells.iter().all(|cell| cell.len_bytes() == 5120 && cell.offset().is_multiple_of(ALIGN_BYTES)));
        assert!(cells.windows(2).all(|pair| pair[0].offset() + 5120 <= pair[1].offset()));
    }

    #[test]
    fn what_is_written_differs_from_cell_to_cell_and_follows_the_seed() {
        let job = job(Mix { write: 100, ..Mix::default() });
        let (one, other) = (Memory::anonymous(&job).unwrap(), Memory::anonymous(&job).unwrap());
        let seeded = Memory::anonymous(&Job { seed: 2, ..job }).unwrap();
        let [first, second] = [0, 1].map(|index| bytes(&one, &one.cell(index)[1]));
        assert_ne!(first, second);
        assert!(first.chunks(512).all(|sector| sector.iter().any(|byte| *byte != 0)));
        assert_eq!(first, bytes(&other, &other.cell(0)[1]));
        assert_ne!(first, bytes(&seeded, &seeded.cell(0)[1]));
    }

    #[test]
    fn a_job_that_moves_no_bytes_needs_next_to_none() {
        let job =
            Job { depth: u16::MAX, sizes: Sizes { min_bytes: 512, max_bytes: u32::MAX }, ..job(Mix { discard: 100, ..Mix::default() }) };
        let memory = Memory::anonymous(&job).unwrap();
        assert_eq!((memory.region().len_bytes(), memory.cell(u16::MAX)[0].len_bytes()), (4096, 0));
        let region = Region::anonymous(4095).unwrap();
        assert!(matches!(Memory::within(region, 0, &job), Err(MemoryError::Small { bytes: 4096, region_bytes: 4095 })));
    }
}
