//! One shape of work, the same for whoever does it. Knows nobody who does.

use std::time::Duration;

use serde::Serialize;
use spinel_load::{Job, Length, Mix, Order, Sizes};

use crate::Failure;

/// What is asked of a disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub(crate) struct Work {
    /// What tables call it; unique in a scenario.
    pub(crate) name: &'static str,
    /// So many of a hundred requests are reads, the rest writes.
    pub(crate) reads: u8,
    /// One after the other, instead of anywhere.
    pub(crate) sequential: bool,
    /// Of each request.
    pub(crate) bytes: u32,
    /// Requests in flight.
    pub(crate) depth: u16,
    /// A flush ends each stretch, and its time counts.
    pub(crate) flushed: bool,
    /// How many records each request holds: rates are in records.
    pub(crate) records: u32,
}

const ONE: Work = Work { name: "", reads: 100, sequential: false, bytes: 4096, depth: 1, flushed: false, records: 1 };

impl Work {
    /// Random reads.
    pub(crate) const fn random_reads(name: &'static str, bytes: u32, depth: u16) -> Self {
        Self { name, bytes, depth, ..ONE }
    }

    /// Random reads and writes, so many of a hundred being reads.
    pub(crate) const fn random_mix(name: &'static str, reads: u8, bytes: u32, depth: u16) -> Self {
        Self { name, reads, bytes, depth, ..ONE }
    }

    /// Reads one after the other.
    pub(crate) const fn sequential_reads(name: &'static str, bytes: u32, depth: u16) -> Self {
        Self { name, sequential: true, bytes, depth, ..ONE }
    }

    /// Writes one after the other.
    pub(crate) const fn sequential_writes(name: &'static str, bytes: u32, depth: u16) -> Self {
        Self { name, reads: 0, sequential: true, bytes, depth, ..ONE }
    }

    /// The same with a flush at the end.
    pub(crate) const fn flushed(self) -> Self {
        Self { flushed: true, ..self }
    }

    /// The same with so many records in each request.
    pub(crate) const fn of_records(self, records: u32) -> Self {
        Self { records, ..self }
    }

    pub(crate) fn writes(&self) -> bool {
        self.reads < 100
    }

    /// It as a job of the load generator's.
    pub(crate) fn job(&self, seed: u64, warm_up: Duration, length: Duration) -> Result<Job, Failure> {
        let length = u64::try_from(length.as_nanos())?;
        let warm_up_ns = u64::try_from(warm_up.as_nanos())?;
        Ok(Job {
            mix: Mix { read: self.reads, write: 100 - self.reads, ..Mix::default() },
            order: if self.sequential { Order::Sequential } else { Order::Uniform },
            sizes: Sizes { min_bytes: self.bytes, max_bytes: self.bytes },
            depth: self.depth,
            seed,
            warm_up_ns,
            length: Length { time_ns: Some(length), ..Length::default() },
            // One tally for all of it.
            interval_ns: 1_000 * (warm_up_ns + length),
            ..Job::new()
        })
    }

    /// It as fio's options.
    pub(crate) fn fio(&self) -> Vec<String> {
        let verb = match (self.sequential, self.reads) {
            (false, 100) => "randread",
            (false, 0) => "randwrite",
            (false, _) => "randrw",
            (true, 100) => "read",
            (true, 0) => "write",
            (true, _) => "rw",
        };
        let mut options = vec![format!("--rw={verb}"), format!("--bs={}", self.bytes), format!("--iodepth={}", self.depth)];
        options.push(if self.writes() { format!("--rwmixread={}", self.reads) } else { "--readonly".to_owned() });
        if self.flushed {
            options.push("--end_fsync=1".to_owned());
        }
        options
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_and_fio_are_asked_for_the_same() {
        let work = Work::random_mix("mixed", 70, 65_536, 16).flushed();
        let job = work.job(3, Duration::from_millis(1), Duration::from_millis(2)).unwrap();
        assert_eq!((job.mix.read, job.mix.write, job.order), (70, 30, Order::Uniform));
        assert_eq!((job.sizes.min_bytes, job.sizes.max_bytes, job.depth, job.seed), (65_536, 65_536, 16, 3));
        assert_eq!((job.warm_up_ns, job.length.time_ns), (1_000_000, Some(2_000_000)));
        let options = work.fio().join(" ");
        assert_eq!(options, "--rw=randrw --bs=65536 --iodepth=16 --rwmixread=70 --end_fsync=1");
        assert_eq!(Work::sequential_reads("", 4096, 1).fio()[0], "--rw=read");
        assert_eq!(Work::sequential_writes("", 4096, 1).fio()[0], "--rw=write");
        assert!(Work::random_reads("", 4096, 1).fio().contains(&"--readonly".to_owned()), "a read never writes");
    }
}
