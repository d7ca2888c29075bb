//! What a volume may answer: every sector a register, flushes and power cuts included. Knows no device and no time.
//!
//! The checker sees the begin and the end of every request, in the order in which they
//! happened, and stamps everything that is written (see [`Stamp`]). Then:
//! - a read returns the last write acknowledged before it began, or one concurrent with
//!   it; once something new was read, the old never returns;
//! - a write that failed is there from then on, or never;
//! - a write is stable once it was acknowledged with FUA, or a flush that began after its
//!   end has succeeded, or when there is no volatile cache;
//! - a power cut may undo unstable writes, sector by sector, and nothing else; the first
//!   read afterwards pins what is there.
//!
//! It is for one node and one volume, or an area of it that nobody else writes to.

use std::fmt;
use std::ops::Range;

use crc_fast::{CrcAlgorithm, checksum};
use spinel_core::{Geometry, Lba, Status};

use crate::register::{End, Missing, NOT_JUDGED, Settled, Stability, Tick, Value};
use crate::sectors::{PAYLOAD_BITS, Sector, Sectors};
use crate::stamp::{Found, SECTOR_BYTES, Stamp, Wrong};

const SECTOR: u64 = 512;

mod replay;
pub(crate) use replay::Wrote;

/// A write, write-zeroes or discard that has begun; hand it back when it ends.
#[derive(Debug)]
pub struct Write {
    sequence: u64,
    start: u64,
    sectors: u64,
}

impl Write {
    /// Its number; never used twice on one volume.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// The first sector that it changes, and how many.
    ///
    /// # Panics
    /// Never: a request's sectors fit 32 bits.
    #[must_use]
    pub fn sectors(&self) -> (u64, u32) {
        (self.start, u32::try_from(self.sectors).expect("a request's sectors fit 32 bits"))
    }
}

/// A read that has begun; hand it back when it ends.
#[derive(Debug)]
pub struct Read {
    begin: Tick,
    start: u64,
    sectors: u64,
}

/// A flush that has begun; hand it back when it ends.
#[derive(Debug)]
pub struct Flush {
    begin: Tick,
}

/// A sector that a read should not have returned like this.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Violation {
    /// Which sector, of [`SECTOR_BYTES`].
    pub sector: u64,
    /// What is wrong with it.
    pub wrong: Wrong,
    /// What it holds.
    pub found: Found,
    /// The sequence of the write that should have been seen, if one stands out.
    pub missing: Option<u64>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sector, wrong, found, missing } = self;
        write!(f, "sector {sector} is wrong: {wrong:?}; found {found:?}")?;
        match missing {
            Some(sequence) => write!(f, " where write {sequence} should be"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Violation {}

/// How much was checked. Zero of anything that a test is about means that it showed nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Checked {
    /// Sectors returned by reads that succeeded.
    pub sectors_read: u64,
    /// Of these, sectors that held a stamp.
    pub stamps_read: u64,
    /// Writes, write-zeroes and discards acknowledged.
    pub writes: u64,
    /// Flushes that succeeded.
    pub flushes: u64,
    /// Requests of any kind that failed.
    pub failures: u64,
    /// Power cuts.
    pub cuts: u64,
}

/// What is in an area before anything is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Initial {
    /// Zeroes.
    Zeroes,
    /// Anything but stamps of this volume. The first read of a sector says what it is, and from then on it has to stay.
    Unknown,
}

/// How many writes a sector can remember at most. One that has more, because they failed or were never flushed, is not judged until it is written again.
const VERSIONS_MAX: usize = 256;

/// See the module's first lines.
#[derive(Debug)]
pub struct Checker {
    volume: u64,
    epoch: u32,
    sectors_per_block: u64,
    stability: Stability,
    /// The first sector of the area.
    first: u64,
    sectors: Sectors,
    now: Tick,
    sequences: u64,
    /// The reads that have not ended: when they began, where, and how many sectors.
    reading: Vec<(Tick, u64, u64)>,
    checked: Checked,
    not_judged: u64,
}

impl Checker {
    /// A checker of the whole volume called `volume`, all of whose blocks read as zeroes.
    #[must_use]
    pub fn new(volume: u64, geometry: &Geometry) -> Self {
        Self::over(volume, geometry, 0..geometry.block_count, Initial::Zeroes)
    }

    /// A checker of some blocks of a volume. It takes eight bytes of memory for every sector of them that is ever used.
    ///
    /// # Panics
    /// If the area is larger than what an address can name.
    #[must_use]
    pub fn over(volume: u64, geometry: &Geometry, blocks: Range<u64>, initial: Initial) -> Self {
        let sectors_per_block = u64::from(geometry.block_bytes) / SECTOR;
        let count = usize::try_from((blocks.end - blocks.start) * sectors_per_block).expect("an area fits the address space");
        let initial = match initial {
            Initial::Zeroes => Some(Value::Zeroes),
            Initial::Unknown => None,
        };
        Self {
            volume,
            epoch: 0,
            sectors_per_block,
            stability: Stability { always: !geometry.write_cache, flushed: 0 },
            first: blocks.start * sectors_per_block,
            sectors: Sectors::new(count, initial),
            now: 0,
            sequences: 0,
            reading: Vec::new(),
            checked: Checked::default(),
            not_judged: 0,
        }
    }

    /// Goes on from this epoch, and numbers writes from the one after `sequence`. For an area of its own of a volume that others write to.
    #[must_use]
    pub fn starting_at(self, epoch: u32, sequence: u64) -> Self {
        Self { epoch, sequences: sequence, ..self }
    }

    /// There will be no power cut: what is acknowledged stays, and less has to be remembered.
    #[must_use]
    pub fn without_power_cuts(mut self) -> Self {
        self.stability.always = true;
        self
    }

    fn tick(&mut self) -> Tick {
        self.now += 1;
        self.now
    }

    /// How much was checked so far.
    #[must_use]
    pub fn checked(&self) -> Checked {
        self.checked
    }

    /// How many sectors it gave up on so far, because too much about them was uncertain: they are judged again once they are written again.
    #[must_use]
    pub fn not_judged(&self) -> u64 {
        self.not_judged
    }

    /// Number of blocks of the area.
    #[must_use]
    pub fn block_count(&self) -> u64 {
        u64::try_from(self.sectors.count()).expect("lengths fit 64 bits") / self.sectors_per_block
    }

    fn index(&self, sector: u64) -> usize {
        let index = sector.checked_sub(self.first).and_then(|index| usize::try_from(index).ok());
        index.filter(|index| *index < self.sectors.count()).expect("requests stay inside the area that is checked")
    }

    fn begin(&mut self, start: Lba, blocks: u32, fua: bool, value: impl Fn(u64) -> Value) -> Write {
        self.sequences += 1;
        let start = start.0 * self.sectors_per_block;
        self.begin_as(self.sequences, start, u64::from(blocks) * self.sectors_per_block, fua, value)
    }

    fn begin_as(&mut self, sequence: u64, start: u64, sectors: u64, fua: bool, value: impl Fn(u64) -> Value) -> Write {
        let begin = self.tick();
        for sector in start..start + sectors {
            let index = self.index(sector);
            self.sectors.register(index).begin_write(sequence, value(sequence), fua, begin);
        }
        Write { sequence, start, sectors }
    }

    /// A write is about to be submitted; these are the bytes to write.
    ///
    /// # Panics
    /// If it is not inside the area.
    pub fn begin_write(&mut self, writer: u32, start: Lba, blocks: u32, fua: bool) -> (Write, Vec<u8>) {
        let sectors = u64::from(blocks) * self.sectors_per_block;
        let mut bytes = vec![0; usize::try_from(sectors * SECTOR).expect("a request fits memory")];
        (self.begin_write_into(writer, start, fua, &mut bytes), bytes)
    }

    /// A write is about to be submitted, of as many blocks as fit `bytes`, which become what to write.
    ///
    /// # Panics
    /// If it is not inside the area, or not of whole blocks.
    pub fn begin_write_into(&mut self, writer: u32, start: Lba, fua: bool, bytes: &mut [u8]) -> Write {
        let (all, rest) = bytes.as_chunks_mut::<SECTOR_BYTES>();
        let sectors = u32::try_from(all.len()).expect("a request's sectors fit 32 bits");
        assert!(rest.is_empty() && u64::from(sectors).is_multiple_of(self.sectors_per_block), "writes are of whole blocks");
        let blocks = u64::from(sectors) / self.sectors_per_block;
        let write = self.begin(start, u32::try_from(blocks).expect("fewer than sectors"), fua, Value::Stamp);
        let (volume, epoch, sequence, start) = (self.volume, self.epoch, write.sequence, write.start);
        for (lba, sector) in (start..).zip(all) {
            Stamp { volume, lba, writer, epoch, sequence, start, sectors }.encode_into(sector);
        }
        write
    }

    /// A write-zeroes is about to be submitted, or a discard to a device whose discarded blocks read as zeroes.
    ///
    /// # Panics
    /// If it is not inside the area.
    pub fn begin_zeroes(&mut self, start: Lba, blocks: u32, fua: bool) -> Write {
        self.begin(start, blocks, fua, |_| Value::Zeroes)
    }

    /// A discard is about to be submitted to a device that says nothing of what it leaves: until the next write, anything may be read.
    ///
    /// # Panics
    /// If it is not inside the area.
    pub fn begin_discard(&mut self, start: Lba, blocks: u32) -> Write {
        self.begin(start, blocks, false, |_| Value::Any)
    }

    /// A write has ended.
    pub fn end_write(&mut self, write: Write, status: Status) {
        self.end_write_as(write, status, false);
    }

    /// A write has ended; it is `stable` whatever the cache does.
    fn end_write_as(&mut self, write: Write, status: Status, stable: bool) {
        let now = self.tick();
        let stability = self.stability;
        let end = if status == Status::Ok { End::Done(now) } else { End::Failed(now) };
        self.count(status, |checked| &mut checked.writes);
        let meets_reads = self.oldest_read(write.start, write.sectors) < Tick::MAX;
        for sector in write.start..write.start + write.sectors {
            let index = self.index(sector);
            let oldest_read = if meets_reads { self.oldest_read(sector, 1) } else { Tick::MAX };
            if let Sector::Busy(register) = self.sectors.get(index) {
                if stable {
                    register.make_stable(write.sequence);
                }
                register.end_write(write.sequence, end, oldest_read, stability);
                let crowded = register.versions() > VERSIONS_MAX && !register.is_written();
                self.not_judged += u64::from(crowded);
                let settled = if crowded { Some(NOT_JUDGED) } else { register.settle(oldest_read, stability) };
                settled.into_iter().for_each(|settled| self.sectors.settle(index, settled));
            }
        }
    }

    /// When the oldest read began that is out and has one of these sectors; later than everything if there is none.
    fn oldest_read(&self, start: u64, sectors: u64) -> Tick {
        let meets = |read: &&(Tick, u64, u64)| read.1 < start + sectors && start < read.1 + read.2;
        self.reading.iter().filter(meets).map(|read| read.0).min().unwrap_or(Tick::MAX)
    }

    fn count(&mut self, status: Status, counter: impl Fn(&mut Checked) -> &mut u64) {
        let counter = if status == Status::Ok { counter(&mut self.checked) } else { &mut self.checked.failures };
        *counter += 1;
    }

    /// A flush is about to be submitted.
    pub fn begin_flush(&mut self) -> Flush {
        Flush { begin: self.tick() }
    }

    /// A flush has ended.
    pub fn end_flush(&mut self, flush: Flush, status: Status) {
        self.count(status, |checked| &mut checked.flushes);
        if status == Status::Ok {
            self.stability.flushed = self.stability.flushed.max(flush.begin);
        }
    }

    /// A read is about to be submitted.
    pub fn begin_read(&mut self, start: Lba, blocks: u32) -> Read {
        let begin = self.tick();
        let (start, sectors) = (start.0 * self.sectors_per_block, u64::from(blocks) * self.sectors_per_block);
        self.reading.push((begin, start, sectors));
        Read { begin, start, sectors }
    }

    /// A read has ended and returned `bytes`, which are not looked at if it failed.
    ///
    /// # Errors
    /// The first sector that is not what it should be.
    ///
    /// # Panics
    /// If a read that succeeded does not come with all its bytes.
    pub fn end_read(&mut self, read: Read, status: Status, bytes: &[u8]) -> Result<(), Violation> {
        let mut first = None;
        self.end_read_each(read, status, bytes, |violation| first = first.or(Some(violation)));
        first.map_or(Ok(()), Err)
    }

    /// As [`end_read`](Self::end_read), and calls `each` with every sector that is not what it should be.
    ///
    /// # Panics
    /// As [`end_read`](Self::end_read).
    pub fn end_read_each(&mut self, read: Read, status: Status, bytes: &[u8], mut each: impl FnMut(Violation)) {
        let now = self.tick();
        self.reading.retain(|(begin, ..)| *begin != read.begin);
        if status != Status::Ok {
            self.checked.failures += 1;
            return;
        }
        let (sectors, rest) = bytes.as_chunks::<SECTOR_BYTES>();
        assert!(rest.is_empty() && u64::try_from(sectors.len()) == Ok(read.sectors), "the bytes of all blocks that were read");
        let meets_reads = self.oldest_read(read.start, read.sectors) < Tick::MAX;
        // Only a read that finds something wrong takes memory.
        let mut violations = Vec::new();
        for (sector, bytes) in (read.start..).zip(sectors) {
            let oldest_read = if meets_reads { self.oldest_read(sector, 1) } else { Tick::MAX };
            if let Err(violation) = self.see(sector, bytes, read.begin, now, oldest_read) {
                violations.push(violation);
            }
        }
        // A torn write is known by its other sectors, which this read may have seen after the first violation.
        violations.into_iter().for_each(|violation| each(self.reconsider(violation)));
    }

    /// What a sector's bytes are to its register; `None` if they can be nothing that it holds.
    fn value(&mut self, sector: u64, found: Found, bytes: &[u8; SECTOR_BYTES]) -> Option<Value> {
        match found {
            Found::Zeroes => Some(Value::Zeroes),
            Found::Stamped(stamp) if stamp.volume == self.volume && stamp.lba == sector => {
                self.checked.stamps_read += 1;
                Some(Value::Stamp(stamp.sequence))
            }
            Found::Stamped(stamp) if stamp.volume == self.volume => None,
            _ => Some(Value::Other(checksum(CrcAlgorithm::Crc64Nvme, bytes) >> (64 - PAYLOAD_BITS))),
        }
    }

    /// Matches what a read found in one sector with what it may hold.
    fn see(&mut self, sector: u64, bytes: &[u8; SECTOR_BYTES], begin: Tick, end: Tick, oldest_read: Tick) -> Result<(), Violation> {
        self.checked.sectors_read += 1;
        let found = Stamp::decode(bytes);
        let index = self.index(sector);
        let seen = match self.value(sector, found, bytes) {
            None => Err(Missing::default()),
            Some(value) => self.judge(index, value, begin, end, oldest_read),
        };
        let Err(Missing { sequence: missing, was_seen, held_before }) = seen else { return Ok(()) };
        let wrong = match Wrong::instead_of(found, self.volume, sector) {
            // A stamp of this volume where nothing was ever written; after a power cut no one write stands out either.
            Wrong::Lost if missing.is_none() && self.checked.cuts == 0 => Wrong::Strange,
            Wrong::Lost if was_seen => Wrong::Stale,
            Wrong::Uninitialised | Wrong::Strange | Wrong::Foreign { .. } if held_before && found != Found::Untouched => {
                if was_seen {
                    Wrong::Stale
                } else {
                    Wrong::Lost
                }
            }
            wrong => wrong,
        };
        // A stamp of another volume that was there before is no more than old data.
        let is_old = matches!(found, Found::Stamped(stamp) if stamp.volume != self.volume) && matches!(wrong, Wrong::Lost | Wrong::Stale);
        Err(Violation { sector, wrong, found: if is_old { Found::Strange } else { found }, missing })
    }

    fn judge(&mut self, index: usize, value: Value, begin: Tick, end: Tick, oldest_read: Tick) -> Result<(), Missing> {
        match self.sectors.get(index) {
            Sector::Busy(register) => {
                register.end_read(value, begin, end)?;
                if let Some(settled) = register.settle(oldest_read, self.stability) {
                    self.sectors.settle(index, settled);
                }
            }
            Sector::Quiet(settled) => match settled.value {
                Some(Value::Any) => {}
                Some(known) if known == value => {
                    if !settled.seen {
                        self.sectors.settle(index, Settled { seen: true, ..settled });
                    }
                }
                None if !matches!(value, Value::Stamp(_)) => {
                    self.sectors.settle(index, Settled { value: Some(value), seen: true, ..settled });
                }
                _ => return Err(settled.missing(value)),
            },
        }
        Ok(())
    }

    /// Looks once more at a violation: what was read since may tell a stale read or a torn write from a lost one.
    #[must_use]
    pub fn reconsider(&self, violation: Violation) -> Violation {
        let Violation { sector, wrong, found, missing: Some(sequence) } = violation else { return violation };
        let from_elsewhere = matches!(found, Found::Untouched | Found::Torn { .. });
        if from_elsewhere || !matches!(wrong, Wrong::Lost | Wrong::Torn | Wrong::Uninitialised) {
            return violation;
        }
        let first = self.index(sector);
        let seen = |index: usize| self.sectors.knows(index, sequence);
        // The sectors of a write are neighbours: look both ways as far as it reached.
        let mut after = (first + 1..self.sectors.count()).map_while(seen);
        let mut before = (0..first).rev().map_while(seen);
        let wrong = match seen(first) {
            Some(true) if wrong != Wrong::Uninitialised => Wrong::Stale,
            Some(false) if after.any(|seen| seen) || before.any(|seen| seen) => Wrong::Torn,
            _ => wrong,
        };
        Violation { wrong, ..violation }
    }

    /// Power was lost: what is in flight will never end, and unstable writes may be gone.
    pub fn cut_power(&mut self) {
        let now = self.tick();
        let stability = self.stability;
        self.sectors.each_register(|register| register.cut_power(now, stability));
        self.reading.clear();
        self.epoch += 1;
        self.checked.cuts += 1;
    }
}

#[cfg(test)]
mod tests;
