//! A log checked against its disk after a crash. Knows no device: sectors come from whoever reads them.

use std::collections::BTreeMap;
use std::path::Path;

use spinel_core::{Features, Geometry, Lba, Status};

use crate::checker::{Checked, Checker, Initial, Write, Wrote};
use crate::findings::Findings;
use crate::log::{LogError, LogHeader, LogReader, Logged, Record};
use crate::verify::{Identity, VERIFIED_MAX_BYTES, Verification};

/// What has happened since the log was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum After {
    /// A process was killed: everything that was acknowledged has to be there.
    Kill,
    /// The power was lost: what was not flushed, nor written with FUA, may be gone.
    PowerCut,
}

/// How far a check has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Step {
    /// What is being done.
    pub doing: Doing,
    /// Bytes of it that are done.
    pub done_bytes: u64,
    /// And of how many.
    pub of_bytes: u64,
}

/// What a check is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Doing {
    /// Looking for the last flush in the log.
    Scanning,
    /// Learning from the log what may be where.
    Replaying,
    /// Reading the disk.
    Reading,
}

/// What a log says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Logs {
    /// Writes, zeroes and discards that were acknowledged.
    pub acknowledged: u64,
    /// Those that failed.
    pub failed: u64,
    /// Those in flight when the log ended: they may be there or not.
    pub open: u64,
    /// Flushes that succeeded.
    pub flushes: u64,
    /// Sectors that were given up on because too much about them was uncertain, counted each time. See [`UNDECIDED_MAX`]; and one sector with very many writes that were never flushed.
    pub not_judged: u64,
}

/// What a check of a log found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// What the log says.
    pub logs: Logs,
    /// What was read.
    pub checked: Checked,
    /// Sectors that could not be read, and so were not judged.
    pub unreadable: u64,
    /// What is wrong.
    pub findings: Findings,
}

/// Sectors of which more than one value may be there take about 250 bytes each. Beyond so many they are not judged.
pub const UNDECIDED_MAX: usize = 4 << 20;

/// Requests in flight that a log may have at any moment: 32 jobs as deep as can be.
const OPEN_MAX: usize = 32 << 16;

/// Blocks are read back in pieces of at most so many sectors.
const PIECE_SECTORS: u64 = 2048;

/// Progress is told every so many records.
const RECORDS_PER_STEP: u64 = 1 << 16;

/// A disk as its log knows it: what may be in every sector.
#[derive(Debug)]
pub struct Replayed {
    header: LogHeader,
    checker: Checker,
    logs: Logs,
}

/// When the last flush began that succeeded, counted in records: what had ended before survives.
fn last_flush(reader: &mut LogReader, progress: &mut dyn FnMut(Step)) -> Result<u64, LogError> {
    let (mut index, mut last, mut begun) = (0_u64, 0, BTreeMap::new());
    while let Some(record) = reader.next()? {
        match record {
            Record::Begin { kind: Logged::Flush, sequence, .. } => {
                begun.insert(sequence, index);
                if begun.len() > OPEN_MAX {
                    return Err(reader.senseless("too many requests are in flight"));
                }
            }
            Record::End { flush: true, sequence, status } => {
                let Some(began) = begun.remove(&sequence) else { return Err(reader.senseless("a flush ends that had not begun")) };
                if status == Status::Ok {
                    last = last.max(began);
                }
            }
            _ => {}
        }
        index += 1;
        if index.is_multiple_of(RECORDS_PER_STEP) {
            let (done_bytes, of_bytes) = reader.progress();
            progress(Step { doing: Doing::Scanning, done_bytes, of_bytes });
        }
    }
    Ok(last)
}

/// A log on its way into a checker.
struct Replay {
    checker: Checker,
    logs: Logs,
    open: BTreeMap<u64, Write>,
    /// What has ended before this record is stable.
    flushed: u64,
    index: u64,
}

impl Replay {
    fn take(&mut self, record: Record) -> Result<(), &'static str> {
        match record {
            Record::Begin { kind: Logged::Flush, .. } => {}
            Record::End { flush: true, status, .. } => self.logs.flushes += u64::from(status == Status::Ok),
            Record::Begin { kind, sequence, first, sectors, fua } => {
                let wrote = match kind {
                    Logged::Zeroes => Wrote::Zeroes,
                    Logged::Discard => Wrote::Anything,
                    Logged::Write | Logged::Flush => Wrote::Stamps,
                };
                if sequence >= 1 << crate::sectors::PAYLOAD_BITS {
                    return Err("a write has an impossible number");
                }
                let write = self.checker.replay_begin(sequence, first, sectors.into(), fua, wrote);
                let write = write.ok_or("a write is not inside the area")?;
                if self.open.insert(sequence, write).is_some() {
                    return Err("a write begins twice");
                }
                if self.open.len() > OPEN_MAX {
                    return Err("too many requests are in flight");
                }
            }
            Record::End { flush: false, sequence, status } => {
                let write = self.open.remove(&sequence).ok_or("a write ends that had not begun")?;
                let counter = if status == Status::Ok { &mut self.logs.acknowledged } else { &mut self.logs.failed };
                *counter += 1;
                let (first, sectors) = write.sectors();
                self.checker.replay_end(write, status, self.index < self.flushed);
                if self.checker.undecided() > UNDECIDED_MAX {
                    self.checker.give_up(first, sectors.into());
                }
            }
        }
        self.index += 1;
        Ok(())
    }
}

/// Learns from a log what may be on its disk after a crash.
///
/// # Errors
/// [`LogError`], of the file or of what it says.
pub fn replay(path: &Path, after: After, progress: &mut dyn FnMut(Step)) -> Result<Replayed, LogError> {
    let mut reader = LogReader::open(path)?;
    let header = reader.header().clone();
    let (start, len) = header.area_bytes;
    if len > VERIFIED_MAX_BYTES {
        return Err(LogError::TooLarge { area_bytes: len });
    }
    let loses = after == After::PowerCut && header.write_cache;
    let flushed = if loses { last_flush(&mut LogReader::open(path)?, progress)? } else { 0 };
    let block = u64::from(header.block_bytes);
    let geometry = geometry(&header);
    let checker = Checker::over(header.volume, &geometry, start / block..(start + len) / block, Initial::Unknown);
    let checker = if loses { checker } else { checker.without_power_cuts() };
    let mut replay = Replay { checker, logs: Logs::default(), open: BTreeMap::new(), flushed, index: 0 };
    while let Some(record) = reader.next()? {
        replay.take(record).map_err(|what| reader.senseless(what))?;
        if replay.index.is_multiple_of(RECORDS_PER_STEP) {
            let (done_bytes, of_bytes) = reader.progress();
            progress(Step { doing: Doing::Replaying, done_bytes, of_bytes });
        }
    }
    let Replay { mut checker, mut logs, open, .. } = replay;
    logs.not_judged = checker.not_judged();
    logs.open = u64::try_from(open.len()).expect("lengths fit 64 bits");
    if loses {
        checker.cut_power();
    }
    Ok(Replayed { header, checker, logs })
}

/// The disk of a log, as far as a checker asks.
fn geometry(header: &LogHeader) -> Geometry {
    let LogHeader { block_bytes, disk_bytes, write_cache, .. } = *header;
    Geometry {
        block_bytes,
        block_count: disk_bytes / u64::from(block_bytes),
        memory_align_bytes: 1,
        segments_max: 1,
        transfer_max_bytes: u32::MAX,
        physical_block_bytes: block_bytes,
        write_cache,
        read_only: true,
        features: Features::default(),
    }
}

impl Replayed {
    /// What the log is of.
    #[must_use]
    pub fn header(&self) -> &LogHeader {
        &self.header
    }

    /// What the log says.
    #[must_use]
    pub fn logs(&self) -> Logs {
        self.logs
    }

    /// As a verification, whose judge can watch a load that reads the area: faster than [`read_back`](Self::read_back) where many requests are in flight.
    #[must_use]
    pub fn verification(self) -> Verification {
        let identity = Identity { volume: self.header.volume, epoch: self.header.epoch, job: 0 };
        Verification::of(identity, self.checker, None)
    }

    /// Reads every block that was written, one piece after the other, and judges it.
    ///
    /// `read` fills its bytes with the blocks from there on, and says how that ended.
    pub fn read_back(self, read: &mut dyn FnMut(Lba, &mut [u8]) -> Status, progress: &mut dyn FnMut(Step)) -> Outcome {
        let Self { header, mut checker, logs } = self;
        let per_block = u64::from(header.block_bytes) / 512;
        let (start, len) = header.area_bytes;
        let (mut at, mut unreadable) = (start / 512, 0);
        let mut bytes = vec![0; usize::try_from(PIECE_SECTORS * 512).expect("a piece fits memory")];
        let mut findings = Findings::default();
        while let Some(range) = checker.next_touched(at, PIECE_SECTORS) {
            let sectors = range.end - range.start;
            let piece = &mut bytes[..usize::try_from(sectors * 512).expect("at most a piece")];
            piece.fill(crate::judge::UNTOUCHED);
            let lba = Lba(range.start / per_block);
            let blocks = u32::try_from(sectors / per_block).expect("at most a piece");
            let reading = checker.begin_read(lba, blocks);
            let status = read(lba, piece);
            checker.end_read_each(reading, status, piece, |violation| findings.note(violation));
            findings.reconsider(|violation| checker.reconsider(violation));
            unreadable += if status == Status::Ok { 0 } else { sectors };
            at = range.end;
            progress(Step { doing: Doing::Reading, done_bytes: at * 512 - start, of_bytes: len });
        }
        Outcome { logs, checked: checker.checked(), unreadable, findings }
    }
}

/// [`replay`] and [`read_back`](Replayed::read_back) in one.
///
/// # Errors
/// As [`replay`].
pub fn verify_log(
    path: &Path,
    after: After,
    read: &mut dyn FnMut(Lba, &mut [u8]) -> Status,
    progress: &mut dyn FnMut(Step),
) -> Result<Outcome, LogError> {
    Ok(replay(path, after, progress)?.read_back(read, progress))
}
