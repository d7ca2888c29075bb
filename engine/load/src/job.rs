//! What one job asks of a device. Knows no device but its geometry.

use serde::{Deserialize, Serialize};
use spinel_core::{Geometry, OPS, Op, OpKind};

/// Most requests that one turn of a load sends, and most that it sees end.
pub const BATCH_MAX: u16 = 64;

/// How many of a hundred requests are of each kind. The sum is 100.
///
/// Flushes that follow every so many writes are not drawn from here: see [`Job::flush_every`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Mix {
    /// Reads.
    pub read: u8,
    /// Writes.
    pub write: u8,
    /// Flushes.
    pub flush: u8,
    /// Discards.
    pub discard: u8,
    /// Write zeroes.
    pub write_zeroes: u8,
}

impl Mix {
    /// The shares in the order of [`OPS`].
    #[must_use]
    pub fn shares(&self) -> [u8; OPS.len()] {
        [self.read, self.write, self.flush, self.discard, self.write_zeroes]
    }

    /// Whether anything but reads and flushes is asked for.
    #[must_use]
    pub fn changes_data(&self) -> bool {
        self.write > 0 || self.discard > 0 || self.write_zeroes > 0
    }
}

/// Where the next request goes.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum Order {
    /// One after the other, from the start of the area again at its end.
    Sequential,
    /// Anywhere, each place as likely.
    Uniform,
    /// Few places often: the k-th most popular of n in proportion to 1 / k^theta. Popular places are spread over the area.
    Zipf {
        /// Above 0; 0.99 is the usual, 1.2 is steep.
        theta: f64,
    },
    /// A share of the requests goes to a share of the area, at its start; both evenly within themselves.
    HotSpot {
        /// Percent of the requests.
        requests: u8,
        /// Percent of the area.
        area: u8,
    },
}

/// Bytes of one request: drawn evenly from the multiples of a block between two ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sizes {
    /// The smallest.
    pub min_bytes: u32,
    /// The largest.
    pub max_bytes: u32,
}

/// When requests are due.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum Arrival {
    /// When another one ends: a closed loop. Its latency counts from when it was sent.
    Closed,
    /// At a steady rate, whatever the device does. Latency counts from when each was due.
    Steady {
        /// Requests a second, above 0.
        per_second: f64,
    },
    /// At random moments of a mean rate (a Poisson process). Latency counts from when each was due.
    Poisson {
        /// Requests a second on average, above 0.
        per_second: f64,
    },
}

/// The part of a device that a job uses.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Area {
    /// Where it starts.
    pub start_bytes: u64,
    /// How long it is; to the device's end if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub len_bytes: Option<u64>,
}

/// How long a job goes on after its warm-up. Whichever comes first.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Length {
    /// Nanoseconds. In an open loop, what was due by then is still sent, for as long again at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_ns: Option<u64>,
    /// Bytes of reads, writes, discards and write zeroes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests: Option<u64>,
}

/// What one job asks of one channel.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Job {
    /// Kinds of requests.
    pub mix: Mix,
    /// Where they go.
    pub order: Order,
    /// How large they are.
    pub sizes: Sizes,
    /// Most requests in flight. In an open loop a request that is due and finds no room waits, and its waiting counts.
    pub depth: u16,
    /// Most requests that one turn sends, and sees end: those of one turn begin together, or end together. 1 to [`BATCH_MAX`].
    pub batch: u16,
    /// When they are due.
    pub arrival: Arrival,
    /// Where they may go.
    pub area: Area,
    /// A flush after so many writes; 0 for none.
    pub flush_every: u32,
    /// Writes and write-zeroes complete only when they are on the medium.
    pub fua: bool,
    /// The same seed makes the same requests.
    pub seed: u64,
    /// Requests sent before this much time has passed, or in an open loop due before it, are not counted.
    pub warm_up_ns: u64,
    /// When it ends; a length without any limit goes on until it is stopped.
    pub length: Length,
    /// How long one [`Tally`](crate::Tally) lasts.
    pub interval_ns: u64,
}

/// Why a job makes no sense, or none on this device.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum JobError {
    #[error("the mix adds up to {sum} percent; it has to be 100")]
    Mix { sum: u32 },
    #[error("a depth of 0 sends nothing; use 1 or more")]
    Depth,
    #[error("{batch} requests at once make no sense; use 1 to {BATCH_MAX}")]
    Batch { batch: u16 },
    #[error("a rate of {per_second} requests a second makes no sense; use a number above 0")]
    Rate { per_second: f64 },
    #[error("a Zipf exponent of {theta} makes no sense; use a number above 0 and at most 10, such as 0.99")]
    Theta { theta: f64 },
    #[error("a hot spot of {requests} percent of the requests on {area} percent of the area makes no sense; both have to be 1 to 99")]
    HotSpot { requests: u8, area: u8 },
    #[error("requests of {min_bytes} to {max_bytes} bytes make no sense; the first has to be above 0 and not above the second")]
    Sizes { min_bytes: u32, max_bytes: u32 },
    #[error("{what} of {bytes} bytes is no multiple of the disk's blocks of {block_bytes} bytes")]
    Unaligned { what: &'static str, bytes: u64, block_bytes: u32 },
    #[error("the area from {start_bytes} to {end_bytes} ends beyond the disk, which has {disk_bytes} bytes")]
    Area { start_bytes: u64, end_bytes: u64, disk_bytes: u64 },
    #[error("the area has {len_bytes} bytes, a request up to {max_bytes}; nothing fits")]
    Small { len_bytes: u64, max_bytes: u32 },
    #[error("the disk takes at most {max} bytes in one request, {bytes} were asked for")]
    Transfer { bytes: u32, max: u32 },
    #[error("the disk is read-only")]
    ReadOnly,
    #[error("the disk does not {op}")]
    Unsupported { op: &'static str },
    #[error("an interval of {interval_ns} ns is too short; use 1,000,000 or more")]
    Interval { interval_ns: u64 },
}

impl Job {
    /// 4 KiB random reads, one at a time, until stopped; what others are changed from.
    #[must_use]
    pub fn new() -> Self {
        Self {
            mix: Mix { read: 100, ..Mix::default() },
            order: Order::Uniform,
            sizes: Sizes { min_bytes: 4096, max_bytes: 4096 },
            depth: 1,
            batch: BATCH_MAX,
            arrival: Arrival::Closed,
            area: Area::default(),
            flush_every: 0,
            fua: false,
            seed: 1,
            warm_up_ns: 0,
            length: Length::default(),
            interval_ns: 1_000_000_000,
        }
    }

    /// Whether it sends requests of a kind.
    #[must_use]
    pub fn sends(&self, kind: OpKind) -> bool {
        self.mix.shares()[kind.index()] > 0 || (kind == OpKind::Flush && self.flush_every > 0 && self.mix.write > 0)
    }

    /// The operation of a kind, with this job's modifiers.
    #[must_use]
    pub fn op(&self, kind: OpKind) -> Op {
        match kind {
            OpKind::Read => Op::Read,
            OpKind::Write => Op::Write { fua: self.fua },
            OpKind::Flush => Op::Flush,
            OpKind::Discard => Op::Discard,
            OpKind::WriteZeroes => Op::WriteZeroes { unmap: true, fua: self.fua },
        }
    }

    /// The area in bytes on a device: where it starts and how long it is.
    #[must_use]
    pub fn area_on(&self, geometry: &Geometry) -> (u64, u64) {
        let start = self.area.start_bytes;
        (start, self.area.len_bytes.unwrap_or_else(|| geometry.len_bytes().saturating_sub(start)))
    }

    /// Whether it makes sense on a device like this.
    ///
    /// # Errors
    /// [`JobError`], the first that applies.
    pub fn check(&self, geometry: &Geometry) -> Result<(), JobError> {
        self.check_alone()?;
        let Sizes { min_bytes, max_bytes } = self.sizes;
        let (start_bytes, len_bytes) = self.area_on(geometry);
        let block_bytes = geometry.block_bytes;
        let aligned = |what, bytes: u64| {
            if bytes.is_multiple_of(u64::from(block_bytes)) { Ok(()) } else { Err(JobError::Unaligned { what, bytes, block_bytes }) }
        };
        aligned("a request", min_bytes.into())?;
        aligned("a request", max_bytes.into())?;
        aligned("an area's start", start_bytes)?;
        aligned("an area's length", len_bytes)?;
        let (end_bytes, disk_bytes) = (start_bytes.saturating_add(len_bytes), geometry.len_bytes());
        if end_bytes > disk_bytes {
            return Err(JobError::Area { start_bytes, end_bytes, disk_bytes });
        }
        if len_bytes < u64::from(max_bytes) {
            return Err(JobError::Small { len_bytes, max_bytes });
        }
        if max_bytes > geometry.transfer_max_bytes && (self.mix.read > 0 || self.mix.write > 0) {
            return Err(JobError::Transfer { bytes: max_bytes, max: geometry.transfer_max_bytes });
        }
        if geometry.read_only && self.mix.changes_data() {
            return Err(JobError::ReadOnly);
        }
        if self.mix.discard > 0 && !geometry.features.discard {
            return Err(JobError::Unsupported { op: "discard" });
        }
        if self.mix.write_zeroes > 0 && !geometry.features.write_zeroes {
            return Err(JobError::Unsupported { op: "write zeroes" });
        }
        Ok(())
    }

    /// Whether it makes sense on any device.
    fn check_alone(&self) -> Result<(), JobError> {
        let sum = self.mix.shares().into_iter().map(u32::from).sum();
        if sum != 100 {
            return Err(JobError::Mix { sum });
        }
        if self.depth == 0 {
            return Err(JobError::Depth);
        }
        if self.batch == 0 || self.batch > BATCH_MAX {
            return Err(JobError::Batch { batch: self.batch });
        }
        if let Arrival::Steady { per_second } | Arrival::Poisson { per_second } = self.arrival
            && !(per_second > 0.0 && per_second.is_finite())
        {
            return Err(JobError::Rate { per_second });
        }
        match self.order {
            Order::Zipf { theta } if !(theta > 0.0 && theta <= 10.0) => return Err(JobError::Theta { theta }),
            Order::HotSpot { requests, area } if !((1..=99).contains(&requests) && (1..=99).contains(&area)) => {
                return Err(JobError::HotSpot { requests, area });
            }
            _ => {}
        }
        let Sizes { min_bytes, max_bytes } = self.sizes;
        if min_bytes == 0 || min_bytes > max_bytes {
            return Err(JobError::Sizes { min_bytes, max_bytes });
        }
        if self.interval_ns < 1_000_000 {
            return Err(JobError::Interval { interval_ns: self.interval_ns });
        }
        Ok(())
    }
}

impl Default for Job {
    fn default() -> Self {
        Self::new()
    }
}
