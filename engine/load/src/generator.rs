//! Which request comes next. Knows no time and no device but its geometry.

use spinel_core::{Geometry, Lba, OPS, OpKind};

use crate::job::{Job, JobError, Order, Sizes};
use crate::prng::Prng;
use crate::zipf::{Scatter, Zipf};

/// A request to come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ask {
    /// What is asked.
    pub kind: OpKind,
    /// First block; 0 for a flush.
    pub start: Lba,
    /// Number of blocks; 0 for a flush.
    pub blocks: u32,
}

const FLUSH: Ask = Ask { kind: OpKind::Flush, start: Lba(0), blocks: 0 };

/// The requests of a job, one after the other, for ever: the same seed makes the same ones.
///
/// Requests lie wholly inside the job's area. Those at random places begin at a multiple of
/// the smallest size from the area's start, so that requests of one size are aligned to it.
#[derive(Clone, Debug)]
pub struct Generator {
    prng: Prng,
    kinds: Kinds,
    /// Blocks of the smallest request, and how many sizes there are from there on.
    blocks_min: u32,
    sizes: u64,
    /// First block of the area.
    first: u64,
    places: Places,
    /// Writes until a flush, and how many those are at first; 0 for none.
    flush_in: u32,
    flush_every: u32,
}

#[derive(Clone, Debug)]
enum Kinds {
    Only(OpKind),
    /// The kind of each of a hundred requests.
    Mixed(Box<[OpKind; 100]>),
}

/// Places count from the area's start, in the smallest size; a sequential one in blocks.
#[derive(Clone, Debug)]
enum Places {
    Sequential { next: u64, area_blocks: u64 },
    Uniform { places: u64 },
    Zipf { zipf: Zipf, scatter: Scatter },
    HotSpot { percent: u64, hot: u64, cold: u64 },
}

impl Generator {
    /// The generator of a job on a device like this.
    ///
    /// # Errors
    /// When the job makes no sense there.
    pub fn new(job: &Job, geometry: &Geometry) -> Result<Self, JobError> {
        job.check(geometry)?;
        let block_bytes = u64::from(geometry.block_bytes);
        let (start_bytes, len_bytes) = job.area_on(geometry);
        let Sizes { min_bytes, max_bytes } = job.sizes;
        let (blocks_min, blocks_max) = (min_bytes / geometry.block_bytes, max_bytes / geometry.block_bytes);
        let area_blocks = len_bytes / block_bytes;
        // Nowhere does the largest request reach beyond the area's end.
        let places = (area_blocks - u64::from(blocks_max)) / u64::from(blocks_min) + 1;
        Ok(Self {
            prng: Prng::new(job.seed),
            kinds: Kinds::of(job),
            blocks_min,
            sizes: u64::from(blocks_max - blocks_min) + 1,
            first: start_bytes / block_bytes,
            places: Places::of(job.order, places, area_blocks),
            flush_in: job.flush_every,
            flush_every: job.flush_every,
        })
    }

    /// The next request.
    #[inline]
    pub fn draw(&mut self) -> Ask {
        if self.flush_every > 0 && self.flush_in == 0 {
            self.flush_in = self.flush_every;
            return FLUSH;
        }
        let kind = match &self.kinds {
            Kinds::Only(kind) => *kind,
            Kinds::Mixed(kinds) => kinds[self.prng.index(kinds.len())],
        };
        match kind {
            OpKind::Flush => return FLUSH,
            OpKind::Write if self.flush_every > 0 => self.flush_in -= 1,
            _ => {}
        }
        let mut blocks = self.blocks_min;
        if self.sizes > 1 {
            blocks += u32::try_from(self.prng.below(self.sizes)).expect("below the largest size, which has 32 bits");
        }
        Ask { kind, start: Lba(self.first + self.place(blocks)), blocks }
    }

    /// Where a request of so many blocks goes, in blocks from the area's start.
    #[inline]
    fn place(&mut self, blocks: u32) -> u64 {
        let step = u64::from(self.blocks_min);
        match &mut self.places {
            Places::Sequential { next, area_blocks } => {
                let blocks = u64::from(blocks);
                let here = if *next + blocks <= *area_blocks { *next } else { 0 };
                *next = here + blocks;
                here
            }
            Places::Uniform { places } => self.prng.below(*places) * step,
            Places::Zipf { zipf, scatter } => scatter.place(zipf.draw(&mut self.prng) - 1) * step,
            Places::HotSpot { percent, hot, cold } => {
                let is_hot = *cold == 0 || self.prng.below(100) < *percent;
                step * if is_hot { self.prng.below(*hot) } else { *hot + self.prng.below(*cold) }
            }
        }
    }
}

impl Kinds {
    fn of(job: &Job) -> Self {
        let shares = OPS.into_iter().zip(job.mix.shares());
        if let Some((kind, _)) = shares.clone().find(|(_, share)| *share == 100) {
            return Self::Only(kind);
        }
        let mut kinds = shares.flat_map(|(kind, share)| std::iter::repeat_n(kind, share.into()));
        Self::Mixed(Box::new([(); 100].map(|()| kinds.next().expect("the shares add up to 100"))))
    }
}

impl Places {
    fn of(order: Order, places: u64, area_blocks: u64) -> Self {
        match order {
            Order::Sequential => Self::Sequential { next: 0, area_blocks },
            Order::Uniform => Self::Uniform { places },
            Order::Zipf { theta } => Self::Zipf { zipf: Zipf::new(places, theta), scatter: Scatter::new(places) },
            Order::HotSpot { requests, area } => {
                // In parts, for all of it times a hundred might not fit.
                let hot = (places / 100 * u64::from(area) + places % 100 * u64::from(area) / 100).max(1);
                Self::HotSpot { percent: requests.into(), hot, cold: places - hot }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::{Area, Mix};
    use proptest::prelude::*;
    use spinel_core::Features;

    fn geometry(block_bytes: u32, block_count: u64) -> Geometry {
        Geometry {
            block_bytes,
            block_count,
            memory_align_bytes: 1,
            segments_max: 1,
            transfer_max_bytes: 1 << 20,
            physical_block_bytes: block_bytes,
            write_cache: true,
            read_only: false,
            features: Features { discard: true, write_zeroes: true },
        }
    }

    fn sized(min_bytes: u32, max_bytes: u32) -> Job {
        Job { sizes: Sizes { min_bytes, max_bytes }, ..Job::new() }
    }

    fn asks(job: &Job, geometry: &Geometry, count: usize) -> Vec<Ask> {
        let mut generator = Generator::new(job, geometry).unwrap();
        (0..count).map(|_| generator.draw()).collect()
    }

    fn orders() -> impl Strategy<Value = Order> {
        prop_oneof![
            Just(Order::Sequential),
            Just(Order::Uniform),
            (0.01..10.0).prop_map(|theta| Order::Zipf { theta }),
            (1_u8..100, 1_u8..100).prop_map(|(requests, area)| Order::HotSpot { requests, area }),
        ]
    }

    proptest! {
        #[test]
        fn every_request_lies_in_the_area_and_is_no_smaller_or_larger_than_asked(
            order in orders(), seed: u64, min in 1_u32..20, more in 0_u32..20, start in 0_u64..50, slack in 0_u64..100, large: bool,
        ) {
            let block_bytes = if large { 4096 } else { 512 };
            let max = min + more;
            let len = u64::from(max) + slack;
            let area = Area { start_bytes: start * u64::from(block_bytes), len_bytes: Some(len * u64::from(block_bytes)) };
            let mix = Mix { read: 40, write: 40, flush: 1, discard: 10, write_zeroes: 9 };
            let job = Job { order, seed, mix, area, flush_every: 3, ..sized(min * block_bytes, max * block_bytes) };
            for ask in asks(&job, &geometry(block_bytes, start + len), 300) {
                if ask.kind == OpKind::Flush {
                    prop_assert_eq!(ask, FLUSH);
                    continue;
                }
                prop_assert!((min..=max).contains(&ask.blocks));
                prop_assert!(ask.start.0 >= start && ask.start.0 + u64::from(ask.blocks) <= start + len, "{:?}", ask);
                prop_assert!(order == Order::Sequential || (ask.start.0 - start).is_multiple_of(u64::from(min)));
            }
        }
    }

    #[test]
    fn the_same_seed_makes_the_same_requests_and_another_makes_others() {
        let job = Job { mix: Mix { read: 50, write: 50, ..Mix::default() }, ..sized(512, 4096) };
        let other = Job { seed: 2, ..job.clone() };
        let geometry = geometry(512, 1 << 20);
        assert_eq!(asks(&job, &geometry, 100), asks(&job, &geometry, 100));
        assert_ne!(asks(&job, &geometry, 100), asks(&other, &geometry, 100));
    }

    #[test]
    fn sequential_requests_follow_each_other_and_start_again_at_the_areas_start() {
        let area = Area { start_bytes: 1024, len_bytes: Some(7 * 512) };
        let job = Job { order: Order::Sequential, area, ..sized(1024, 1024) };
        let starts: Vec<u64> = asks(&job, &geometry(512, 100), 7).iter().map(|ask| ask.start.0).collect();
        assert_eq!(starts, [2, 4, 6, 2, 4, 6, 2], "the last block is too small for one");
    }

    #[test]
    fn uniform_requests_reach_every_place_about_as_often() {
        let job = sized(1024, 1024);
        let mut counts = [0_u32; 100];
        for ask in asks(&job, &geometry(512, 201), 100_000) {
            assert!(ask.start.0.is_multiple_of(2));
            counts[usize::try_from(ask.start.0 / 2).unwrap()] += 1;
        }
        assert!(counts.iter().all(|count| (840..1160).contains(count)), "{counts:?}");
    }

    #[test]
    fn a_hot_spot_gets_its_share_at_the_areas_start() {
        let job = Job { order: Order::HotSpot { requests: 90, area: 10 }, ..sized(512, 512) };
        let asks = asks(&job, &geometry(512, 1000), 10_000);
        let hot = asks.iter().filter(|ask| ask.start.0 < 100).count();
        assert!((8_850..9_150).contains(&hot), "{hot}");
        assert!(asks.iter().any(|ask| ask.start.0 >= 990) && asks.iter().any(|ask| ask.start.0 < 10));
        assert!(super::tests::asks(&job, &geometry(512, 1), 10).iter().all(|ask| ask.start.0 == 0), "one place is all hot");
    }

    #[test]
    fn a_mix_has_its_shares() {
        let mix = Mix { read: 70, write: 20, flush: 1, discard: 4, write_zeroes: 5 };
        let asks = asks(&Job { mix, ..sized(512, 512) }, &geometry(512, 1000), 100_000);
        for (kind, share) in OPS.into_iter().zip(mix.shares()) {
            let count = asks.iter().filter(|ask| ask.kind == kind).count();
            let expected = usize::from(share) * 1000;
            assert!(count.abs_diff(expected) < expected / 10 + 100, "{kind:?}: {count}");
        }
    }

    #[test]
    fn a_flush_follows_every_so_many_writes_and_no_read() {
        let mix = Mix { read: 50, write: 50, ..Mix::default() };
        let mut writes = 0;
        let mut flushes = 0;
        for ask in asks(&Job { mix, flush_every: 4, ..sized(512, 512) }, &geometry(512, 1000), 10_000) {
            match ask.kind {
                OpKind::Flush => {
                    assert_eq!(std::mem::take(&mut writes), 4);
                    flushes += 1;
                }
                OpKind::Write => writes += 1,
                _ => {}
            }
        }
        assert!(flushes > 1000);
    }
}
