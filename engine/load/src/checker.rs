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
//! It is for one node and one volume whose blocks read as zeroes at first.

use std::collections::BTreeSet;
use std::fmt;

use spinel_core::{Geometry, Lba, Status};

use crate::register::{End, Missing, Register, Stability, Tick, Value};
use crate::stamp::{Found, SECTOR_BYTES, Stamp, Wrong};

/// A write, write-zeroes or discard that has begun; hand it back when it ends.
#[derive(Debug)]
pub struct Write {
    sequence: u64,
    start: u64,
    sectors: u64,
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

/// See the module's first lines.
pub struct Checker {
    volume: u64,
    sectors_per_block: u64,
    stability: Stability,
    registers: Vec<Register>,
    now: Tick,
    epoch: u32,
    sequences: u64,
    /// When each read began that has not ended.
    reading: BTreeSet<Tick>,
    checked: Checked,
}

impl Checker {
    /// A checker of the volume called `volume`, all of whose blocks read as zeroes.
    #[must_use]
    pub fn new(volume: u64, geometry: &Geometry) -> Self {
        let sectors = usize::try_from(geometry.len_bytes()).expect("a test's volume fits memory") / SECTOR_BYTES;
        Self {
            volume,
            sectors_per_block: u64::from(geometry.block_bytes) / SECTOR_BYTES as u64,
            stability: Stability { always: !geometry.write_cache, flushed: 0 },
            registers: vec![Register::new(); sectors],
            now: 0,
            epoch: 0,
            sequences: 0,
            reading: BTreeSet::new(),
            checked: Checked::default(),
        }
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

    /// Number of blocks of the volume.
    #[must_use]
    pub fn block_count(&self) -> u64 {
        u64::try_from(self.registers.len()).expect("lengths fit 64 bits") / self.sectors_per_block
    }

    fn begin(&mut self, start: Lba, blocks: u32, fua: bool, value: impl Fn(u64) -> Value) -> Write {
        let begin = self.tick();
        self.sequences += 1;
        let sequence = self.sequences;
        let write = Write { sequence, start: start.0 * self.sectors_per_block, sectors: u64::from(blocks) * self.sectors_per_block };
        for register in self.registers_of(write.start, write.sectors) {
            register.begin_write(sequence, value(sequence), fua, begin);
        }
        write
    }

    fn registers_of(&mut self, start: u64, sectors: u64) -> &mut [Register] {
        let first = usize::try_from(start).expect("inside the volume");
        let count = usize::try_from(sectors).expect("inside the volume");
        &mut self.registers[first..first + count]
    }

    /// A write is about to be submitted; these are the bytes to write.
    ///
    /// # Panics
    /// If it is not inside the volume.
    pub fn begin_write(&mut self, writer: u32, start: Lba, blocks: u32, fua: bool) -> (Write, Vec<u8>) {
        let write = self.begin(start, blocks, fua, Value::Stamp);
        let sectors = u32::try_from(write.sectors).expect("a request's sectors fit 32 bits");
        let stamp = Stamp {
            volume: self.volume,
            lba: write.start,
            writer,
            epoch: self.epoch,
            sequence: write.sequence,
            start: write.start,
            sectors,
        };
        let bytes = (0..write.sectors).flat_map(|sector| Stamp { lba: write.start + sector, ..stamp }.encode()).collect();
        (write, bytes)
    }

    /// A write-zeroes is about to be submitted, or a discard to a device whose discarded blocks read as zeroes.
    ///
    /// # Panics
    /// If it is not inside the volume.
    pub fn begin_zeroes(&mut self, start: Lba, blocks: u32, fua: bool) -> Write {
        self.begin(start, blocks, fua, |_| Value::Zeroes)
    }

    /// A write has ended.
    pub fn end_write(&mut self, write: Write, status: Status) {
        let now = self.tick();
        let end = if status == Status::Ok { End::Done(now) } else { End::Failed(now) };
        self.count(status, |checked| &mut checked.writes);
        let oldest_read = self.reading.first().copied().unwrap_or(now);
        let stability = self.stability;
        for register in self.registers_of(write.start, write.sectors) {
            register.end_write(write.sequence, end, oldest_read, stability);
        }
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
        self.reading.insert(begin);
        Read { begin, start: start.0 * self.sectors_per_block, sectors: u64::from(blocks) * self.sectors_per_block }
    }

    /// A read has ended and returned `bytes`, which are not looked at if it failed.
    ///
    /// # Errors
    /// The first sector that is not what it should be.
    ///
    /// # Panics
    /// If a read that succeeded does not come with all its bytes.
    pub fn end_read(&mut self, read: Read, status: Status, bytes: &[u8]) -> Result<(), Violation> {
        let now = self.tick();
        self.reading.remove(&read.begin);
        if status != Status::Ok {
            self.checked.failures += 1;
            return Ok(());
        }
        let sectors: Vec<Found> = bytes.chunks(SECTOR_BYTES).map(Stamp::decode).collect();
        assert_eq!(u64::try_from(sectors.len()), Ok(read.sectors), "the bytes of all blocks that were read");
        let mut first = None;
        for (sector, found) in (read.start..).zip(&sectors) {
            let seen = self.see(sector, *found, read.begin, now);
            first = first.or(seen.err());
        }
        // A torn write is known by its other sectors, which this read may have seen after the first violation.
        first.map_or(Ok(()), |violation| Err(self.look_for_tear(violation)))
    }

    /// Matches what a read found in one sector with what it may hold.
    fn see(&mut self, sector: u64, found: Found, begin: Tick, end: Tick) -> Result<(), Violation> {
        self.checked.sectors_read += 1;
        let value = match found {
            Found::Zeroes => Some(Value::Zeroes),
            Found::Stamped(stamp) if stamp.volume == self.volume && stamp.lba == sector => {
                self.checked.stamps_read += 1;
                Some(Value::Stamp(stamp.sequence))
            }
            _ => None,
        };
        let register = &mut self.registers_of(sector, 1)[0];
        let Missing { sequence: missing, was_seen } = match value {
            Some(value) => match register.end_read(value, begin, end) {
                Ok(()) => return Ok(()),
                Err(missing) => missing,
            },
            None => Missing { sequence: None, was_seen: false },
        };
        let wrong = match Wrong::instead_of(found, self.volume, sector) {
            Wrong::Lost | Wrong::Uninitialised if was_seen => Wrong::Stale,
            wrong => wrong,
        };
        Err(Violation { sector, wrong, found, missing })
    }

    /// Calls a violation a tear if other sectors of the missing write are there.
    fn look_for_tear(&mut self, violation: Violation) -> Violation {
        let Violation { sector, wrong: Wrong::Lost | Wrong::Uninitialised, missing: Some(sequence), .. } = violation else {
            return violation;
        };
        let first = usize::try_from(sector).expect("inside the volume");
        // The sectors of a write are neighbours: look both ways as far as it reached.
        let has = |register: &&Register| register.knows(sequence);
        let mut after = self.registers[first..].iter().take_while(has);
        let mut before = self.registers[..first].iter().rev().take_while(has);
        let torn = after.any(|register| register.was_seen(sequence)) || before.any(|register| register.was_seen(sequence));
        if torn { Violation { wrong: Wrong::Torn, ..violation } } else { violation }
    }

    /// Power was lost: what is in flight will never end, and unstable writes may be gone.
    pub fn cut_power(&mut self) {
        let now = self.tick();
        let stability = self.stability;
        self.registers.iter_mut().for_each(|register| register.cut_power(now, stability));
        self.reading.clear();
        self.epoch += 1;
        self.checked.cuts += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use spinel_core::Features;

    fn checker(write_cache: bool) -> Checker {
        let geometry = Geometry {
            block_bytes: 512,
            block_count: 16,
            memory_align_bytes: 1,
            segments_max: 8,
            transfer_max_bytes: 1 << 16,
            physical_block_bytes: 512,
            write_cache,
            read_only: false,
            features: Features::default(),
        };
        Checker::new(3, &geometry)
    }

    /// Writes four blocks from 4 and answers their bytes.
    fn write(checker: &mut Checker, status: Status) -> Vec<u8> {
        let (write, bytes) = checker.begin_write(1, Lba(4), 4, false);
        checker.end_write(write, status);
        bytes
    }

    fn read(checker: &mut Checker, bytes: &[u8]) -> Result<(), (u64, Wrong)> {
        let blocks = u32::try_from(bytes.len() / SECTOR_BYTES).unwrap();
        let read = checker.begin_read(Lba(4), blocks);
        checker.end_read(read, Status::Ok, bytes).map_err(|violation| (violation.sector, violation.wrong))
    }

    #[test]
    fn each_violation_is_called_by_its_name() {
        let mut judge = checker(true);
        let old = write(&mut judge, Status::Ok);
        let new = write(&mut judge, Status::Ok);
        assert_eq!(read(&mut judge, &old), Err((4, Wrong::Lost)), "acknowledged, and never seen");
        let half = [&new[..1024], &old[1024..]].concat();
        assert_eq!(read(&mut judge, &half), Err((6, Wrong::Torn)), "half of it has been seen now");
        assert_eq!(read(&mut judge, &old), Err((4, Wrong::Stale)), "the new was read before");
        assert_eq!(read(&mut judge, &[0; 512]), Err((4, Wrong::Stale)));
        let shifted = [&new[512..1024], &new[512..]].concat();
        assert_eq!(read(&mut judge, &shifted), Err((4, Wrong::Misdirected { lba: 5 })));
        assert_eq!(read(&mut judge, &[0xa5; 512]), Err((4, Wrong::Strange)));
        let (_, foreign) = Checker { volume: 4, ..checker(true) }.begin_write(1, Lba(4), 1, false);
        assert_eq!(read(&mut judge, &foreign), Err((4, Wrong::Foreign { volume: 4 })));
        assert_eq!(read(&mut judge, &new), Ok(()));
        let mut fresh = checker(true);
        write(&mut fresh, Status::Ok);
        assert_eq!(read(&mut fresh, &[0; 512]), Err((4, Wrong::Uninitialised)));
    }

    #[test]
    fn a_flush_makes_stable_what_ended_before_it_began() {
        for (flush_status, survives) in [(Status::Ok, true), (Status::Medium, false)] {
            let mut judge = checker(true);
            let bytes = write(&mut judge, Status::Ok);
            let flush = judge.begin_flush();
            judge.end_flush(flush, flush_status);
            judge.cut_power();
            assert_eq!(read(&mut judge, &[0; 512]).is_err(), survives);
            assert_eq!(read(&mut judge, &bytes).is_ok(), survives, "the read before has pinned the zeroes");
        }
    }

    #[test]
    fn without_a_cache_everything_acknowledged_stays() {
        let mut judge = checker(false);
        write(&mut judge, Status::Ok);
        judge.cut_power();
        assert_eq!(read(&mut judge, &[0; 512]), Err((4, Wrong::Uninitialised)));
    }

    #[test]
    fn a_failed_write_is_there_or_not_but_does_not_change_its_mind() {
        let mut judge = checker(true);
        let old = write(&mut judge, Status::Ok);
        let failed = write(&mut judge, Status::Medium);
        let half = [&failed[..1024], &old[1024..]].concat();
        assert_eq!(read(&mut judge, &half), Ok(()), "each sector for itself");
        assert_eq!(read(&mut judge, &half), Ok(()));
        assert_eq!(read(&mut judge, &failed), Err((6, Wrong::Stale)), "it had settled when the error was returned");
    }

    #[test]
    fn a_failed_read_is_not_looked_at_and_everything_is_counted() {
        let mut judge = checker(true);
        let bytes = write(&mut judge, Status::Ok);
        let failed = judge.begin_read(Lba(4), 4);
        judge.end_read(failed, Status::Medium, &[]).unwrap();
        read(&mut judge, &bytes).unwrap();
        let flush = judge.begin_flush();
        judge.end_flush(flush, Status::Ok);
        let zeroes = judge.begin_zeroes(Lba(4), 2, false);
        judge.end_write(zeroes, Status::Ok);
        read(&mut judge, &[0; 1024]).unwrap();
        judge.cut_power();
        assert_eq!(judge.checked(), Checked { sectors_read: 6, stamps_read: 4, writes: 2, flushes: 1, failures: 1, cuts: 1 });
    }
}
