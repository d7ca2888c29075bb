//! From the command line to jobs. Knows no target.

use spinel_load::{Arrival, BATCH_MAX, Job, Length, Mix, Order, Sizes};

use crate::cli::{Load, Workload};
use crate::failure::Failure;
use crate::url::Url;

/// The interval of the tallies, and of the page's curve over time.
pub(crate) const INTERVAL_NS: u64 = 250_000_000;

/// When requests are due and how long the run lasts: what runs and sweeps say differently.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tempo {
    /// Of all jobs together; a closed loop if there is none.
    pub(crate) rate: Option<f64>,
    pub(crate) poisson: bool,
    pub(crate) length: Length,
    pub(crate) warm_up_ns: u64,
}

/// What each of the jobs does. They differ in their seeds.
///
/// # Errors
/// What makes no sense on any disk; what makes none on the target is for [`Job::check`] to say.
pub(crate) fn jobs(url: &Url, load: &Load, tempo: Tempo) -> Result<Vec<Job>, Failure> {
    let (mix, is_random) = mix(load.workload, load.reads);
    let arrival = match tempo.rate {
        None => Arrival::Closed,
        Some(rate) => {
            let per_second = rate / f64::from(load.jobs);
            if tempo.poisson { Arrival::Poisson { per_second } } else { Arrival::Steady { per_second } }
        }
    };
    // To files most programs send one at a time, and the kernel holds several back until the last has come.
    let batch = if url.path().is_some() { 1 } else { BATCH_MAX };
    let job = |number: u16| Job {
        mix,
        order: if is_random { load.distribution.0 } else { Order::Sequential },
        sizes: Sizes { min_bytes: load.block_size.min_bytes, max_bytes: load.block_size.max_bytes },
        depth: load.depth,
        batch: load.batch.unwrap_or(batch),
        arrival,
        area: load.area.unwrap_or_default(),
        flush_every: load.flush_every,
        fua: load.fua,
        seed: load.seed.wrapping_add(u64::from(number) << 32),
        warm_up_ns: tempo.warm_up_ns,
        length: tempo.length,
        interval_ns: INTERVAL_NS,
    };
    let jobs: Vec<Job> = (0..load.jobs).map(job).collect();
    if tempo.length.bytes.is_some() && tempo.length.time_ns.is_none() && tempo.length.requests.is_none() && mix.flush == 100 {
        return Err(Failure::usage("flushes have no bytes; end this load by --time or --requests"));
    }
    if load.fua && !mix.changes_data() {
        return Err(Failure::usage("--fua concerns writes, and this load has none"));
    }
    if load.flush_every > 0 && mix.write == 0 {
        return Err(Failure::usage("--flush-every counts writes, and this load has none"));
    }
    if !is_random && load.distribution.0 != Order::Uniform {
        return Err(Failure::usage(format!("--distribution says where random requests go, and {} is sequential", load.workload.word())));
    }
    Ok(jobs)
}

/// The shares of requests, and whether they go to random places.
fn mix(workload: Workload, reads: u8) -> (Mix, bool) {
    let none = Mix::default();
    match workload {
        Workload::Read => (Mix { read: 100, ..none }, false),
        Workload::Write => (Mix { write: 100, ..none }, false),
        Workload::Rw => (Mix { read: reads, write: 100 - reads, ..none }, false),
        Workload::Randread => (Mix { read: 100, ..none }, true),
        Workload::Randwrite => (Mix { write: 100, ..none }, true),
        Workload::Randrw => (Mix { read: reads, write: 100 - reads, ..none }, true),
        Workload::Trim => (Mix { discard: 100, ..none }, false),
        Workload::Randtrim => (Mix { discard: 100, ..none }, true),
        Workload::WriteZeroes => (Mix { write_zeroes: 100, ..none }, false),
        Workload::RandwriteZeroes => (Mix { write_zeroes: 100, ..none }, true),
        Workload::Flush => (Mix { flush: 100, ..none }, true),
    }
}
