//! RocksDB under a loop of calls on this thread. Knows nobody else who takes part.

use std::path::Path;

use hdrhistogram::Histogram;
use rocksdb::{BlockBasedOptions, Cache, DB, DBRawIterator, Options, WriteOptions};
use spinel_load::Prng;
use spinel_reactor::Clock;
use tempfile::TempDir;

use crate::contest::{Contender, Seen};
use crate::cores::Times;
use crate::loader;
use crate::servers::Place;
use crate::work::Work;
use crate::{Failure, Pace};

/// Far more than all values.
const CACHE_BYTES: usize = 256 << 20;

/// A database in memory, with all keys in it.
pub(crate) struct Rocks {
    database: DB,
    keys: Vec<[u8; 8]>,
    value: Vec<u8>,
    /// How many records one stretch of a scan has.
    scan_records: u32,
    random: Prng,
    // After the database, whose files it holds.
    _folder: TempDir,
}

impl Rocks {
    /// A new one with RocksDB's own options, but for a cache that holds all of it.
    pub(crate) fn open(place: &Place, count: u32, value_bytes: u32, scan_records: u32) -> Result<Self, Failure> {
        let memory = Path::new("/dev/shm");
        let mut folder = tempfile::Builder::new();
        let folder = folder.prefix("spinel-rocksdb-");
        let folder = if memory.is_dir() { folder.tempdir_in(memory)? } else { folder.tempdir()? };
        let mut options = Options::default();
        options.create_if_missing(true);
        let mut table = BlockBasedOptions::default();
        table.set_block_cache(&Cache::new_lru_cache(CACHE_BYTES));
        options.set_block_based_table_factory(&table);
        // Its threads in the background may run where there is room.
        let both = [place.cores.engine, place.cores.client];
        let database = place.on(&both, || Ok(DB::open(&options, folder.path())?))?;
        let keys: Vec<[u8; 8]> = (0..u64::from(count)).map(u64::to_be_bytes).collect();
        let mut random = Prng::new(1);
        let mut value = vec![0; usize::try_from(value_bytes)?];
        random.fill(&mut value);
        for key in &keys {
            database.put(key, &value)?;
        }
        database.flush()?;
        Ok(Self { database, keys, value, scan_records, random, _folder: folder })
    }

    /// One call of a kind, or of a scan one stretch of records.
    fn run(&mut self, work: &Work, until_ns: u64, seen: &mut Histogram<u64>) -> Result<u64, Failure> {
        let clock = Clock::system();
        let from = clock.now();
        let end = from.after_ns(until_ns);
        let mut errors = 0;
        // Like the load on the other side: never made durable, but logged.
        let written = WriteOptions::default();
        let mut scan = self.database.raw_iterator();
        let mut now = from;
        while now < end {
            let at = usize::try_from(self.random.below(self.keys.len() as u64))?;
            let done = if work.sequential {
                step(&mut scan, self.scan_records)
            } else if work.writes() {
                self.database.put_opt(self.keys[at], &self.value, &written).is_ok()
            } else {
                matches!(self.database.get_pinned(self.keys[at]), Ok(Some(value)) if value.len() == self.value.len())
            };
            let then = clock.now();
            seen.saturating_record(then.since_ns(now));
            errors += u64::from(!done);
            now = then;
        }
        Ok(errors)
    }
}

/// Looks at so many records one after the other, from the first again after the last.
fn step(scan: &mut DBRawIterator<'_>, records: u32) -> bool {
    for _ in 0..records {
        if !scan.valid() {
            scan.seek_to_first();
        }
        let Some(record) = scan.item() else { return false };
        std::hint::black_box(record);
        scan.next();
    }
    scan.status().is_ok()
}

impl Contender for Rocks {
    fn pid(&self) -> Option<u32> {
        None
    }

    /// A call that returns its result has nothing else in flight.
    fn does(&self, work: &Work) -> bool {
        work.depth == 1
    }

    fn measure(&mut self, _place: &Place, work: &Work, pace: &Pace, _round: u32) -> Result<Seen, Failure> {
        if work.sequential {
            // Without what earlier writes have left behind: a scan would pass over every old value.
            self.database.flush()?;
            self.database.compact_range(None::<&[u8]>, None::<&[u8]>);
        }
        let mut latency = Histogram::new_with_bounds(1, 60_000_000_000, 3)?;
        self.run(work, u64::try_from(pace.warm_up.as_nanos())?, &mut latency)?;
        latency.reset();
        let before = Times::of(std::process::id())?.own_ns;
        let from = Clock::system().now();
        let errors = self.run(work, u64::try_from(pace.window.as_nanos())?, &mut latency)?;
        let took_ns = Clock::system().now().since_ns(from);
        let cpu_ns = Times::of(std::process::id())?.own_ns - before;
        let requests = latency.len();
        let bytes = requests * u64::from(work.bytes);
        Ok(Seen { requests, bytes, errors, took_ns, latency: loader::of_histogram(&latency), cpu_ns, busy_ns: None })
    }
}
