//! A log of what was sent to a disk and what came back, kept outside of what is being killed. Knows no checker.
//!
//! A header of 512 bytes, then records of 32, all numbers little-endian:
//!
//! ```text
//! header  0  "SpinlLog"          record  0  CRC32C of bytes 4 to 31
//!         8  version       u32           4  kind: 1 write, 2 zeroes, 3 discard, 4 flush; +128 when it ended
//!        12  block bytes   u32           5  1 with FUA
//!        16  volume        u64           6  status, when it ended
//!        24  seed          u64           8  sequence of the write, or of the flush   u64
//!        32  disk bytes    u64          16  first sector of 512 bytes                u64
//!        40  area start    u64          24  sectors                                  u32
//!        48  area bytes    u64          28  zeroes
//!        56  epoch         u32
//!        60  write cache   u8, target's length u8 at 61
//!        64  target        up to 255 bytes
//!       504  0, or 1 if the log could not be kept to its end
//!       508  CRC32C of bytes 0 to 503
//! ```
//! That a request is sent is on file before it is sent; that it has ended follows later, at
//! the latest before the next one is sent. Several jobs append to one file: each append is
//! one write(2), which the kernel does not mix with others. Whoever writes may be killed at
//! any moment, so the last record may be cut off, and nothing else.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read as _, Write as _};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use crc_fast::{CrcAlgorithm, checksum};
use spinel_core::{Geometry, Status};

use crate::wire::STATUS_NAMES;

const MAGIC: [u8; 8] = *b"SpinlLog";
const VERSION: u32 = 1;
pub(crate) const HEADER_BYTES: usize = 512;
const BROKEN_AT: usize = 504;
const HEADER_CRC_AT: usize = 508;
const TARGET_AT: usize = 64;
const TARGET_MAX_BYTES: usize = 255;
pub(crate) const RECORD_BYTES: usize = 32;
/// Ends are gathered until there are so many bytes of them.
const SINK_BYTES: usize = 128 * RECORD_BYTES;
const ENDED: u8 = 128;

/// What a log is of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogHeader {
    /// Goes into every stamp.
    pub volume: u64,
    /// Of the first job.
    pub seed: u64,
    /// How many crashes the run had seen.
    pub epoch: u32,
    /// Bytes of one block of the disk.
    pub block_bytes: u32,
    /// Size of the disk.
    pub disk_bytes: u64,
    /// The area that all jobs share: where it starts, and how long it is.
    pub area_bytes: (u64, u64),
    /// Whether a power cut may undo what was not flushed.
    pub write_cache: bool,
    /// The disk's address, for people; what does not fit 255 bytes is cut off.
    pub target: String,
}

/// What was sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Logged {
    Write = 1,
    Zeroes = 2,
    Discard = 3,
    Flush = 4,
}

/// One entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the module's first lines have them all")]
pub enum Record {
    Begin { kind: Logged, sequence: u64, first: u64, sectors: u32, fua: bool },
    End { flush: bool, sequence: u64, status: Status },
}

/// Why a log cannot be written or read.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum LogError {
    #[error("there is a file {path} already; a log is never overwritten: remove it, or name another")]
    Exists { path: String },
    #[error("the log {path} cannot be {doing}")]
    System {
        path: String,
        doing: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("{path} is no log of writes")]
    Foreign { path: String },
    #[error("{path} is a log of version {version}; this program reads version {VERSION}")]
    Version { path: String, version: u32 },
    #[error("the header of the log {path} is damaged")]
    Header { path: String },
    #[error("the log {path} is incomplete: it could not be written to its end, so it proves nothing")]
    Broken { path: String },
    #[error("the log {path} is damaged: the record at byte {offset} is not what was written")]
    Damaged { path: String, offset: u64 },
    #[error("the log {path} makes no sense: at byte {offset}, {what}")]
    Senseless { path: String, offset: u64, what: &'static str },
    #[error(
        "the log is of a disk of {logged_bytes} bytes in blocks of {logged_block}; this one has {disk_bytes} bytes in blocks of {block_bytes}"
    )]
    OtherDisk { logged_bytes: u64, logged_block: u32, disk_bytes: u64, block_bytes: u32 },
    #[error("the log's area of {area_bytes} bytes is larger than what can be verified")]
    TooLarge { area_bytes: u64 },
}

fn crc32c(bytes: &[u8]) -> [u8; 4] {
    u32::try_from(checksum(CrcAlgorithm::Crc32Iscsi, bytes)).expect("32 bits").to_le_bytes()
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

impl LogHeader {
    /// Whether the log can be of a disk like this.
    ///
    /// # Errors
    /// [`LogError::OtherDisk`] if not.
    pub fn check(&self, geometry: &Geometry) -> Result<(), LogError> {
        let (disk_bytes, block_bytes) = (geometry.len_bytes(), geometry.block_bytes);
        if (self.disk_bytes, self.block_bytes) == (disk_bytes, block_bytes) {
            return Ok(());
        }
        Err(LogError::OtherDisk { logged_bytes: self.disk_bytes, logged_block: self.block_bytes, disk_bytes, block_bytes })
    }

    fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        let mut end = self.target.len().min(TARGET_MAX_BYTES);
        while !self.target.is_char_boundary(end) {
            end -= 1;
        }
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.block_bytes.to_le_bytes());
        let numbers = [self.volume, self.seed, self.disk_bytes, self.area_bytes.0, self.area_bytes.1];
        for (into, number) in bytes[16..56].chunks_mut(8).zip(numbers) {
            into.copy_from_slice(&number.to_le_bytes());
        }
        bytes[56..60].copy_from_slice(&self.epoch.to_le_bytes());
        bytes[60] = self.write_cache.into();
        bytes[61] = u8::try_from(end).expect("at most 255");
        bytes[TARGET_AT..TARGET_AT + end].copy_from_slice(&self.target.as_bytes()[..end]);
        let crc = crc32c(&bytes[..BROKEN_AT]);
        bytes[HEADER_CRC_AT..].copy_from_slice(&crc);
        bytes
    }

    fn decode(bytes: &[u8; HEADER_BYTES], path: &str) -> Result<Self, LogError> {
        let path = path.to_owned();
        if bytes[..8] != MAGIC {
            return Err(LogError::Foreign { path });
        }
        let version = u32_at(bytes, 8);
        if version != VERSION {
            return Err(LogError::Version { path, version });
        }
        let target = TARGET_AT..TARGET_AT + usize::from(bytes[61]);
        let header = Self {
            volume: u64_at(bytes, 16),
            seed: u64_at(bytes, 24),
            disk_bytes: u64_at(bytes, 32),
            area_bytes: (u64_at(bytes, 40), u64_at(bytes, 48)),
            epoch: u32_at(bytes, 56),
            block_bytes: u32_at(bytes, 12),
            write_cache: bytes[60] != 0,
            target: String::from_utf8_lossy(&bytes[target]).into_owned(),
        };
        let block = u64::from(header.block_bytes);
        let (start, len) = header.area_bytes;
        let fits = matches!(block, 512 | 4096) && start.checked_add(len).is_some_and(|end| end <= header.disk_bytes);
        if crc32c(&bytes[..BROKEN_AT]) != bytes[HEADER_CRC_AT..] || !fits || !start.is_multiple_of(block) || !len.is_multiple_of(block) {
            return Err(LogError::Header { path });
        }
        if bytes[BROKEN_AT] != 0 {
            return Err(LogError::Broken { path });
        }
        Ok(header)
    }
}

impl Record {
    fn encode(&self) -> [u8; RECORD_BYTES] {
        let mut bytes = [0; RECORD_BYTES];
        let sequence = match *self {
            Self::Begin { kind, sequence, first, sectors, fua } => {
                (bytes[4], bytes[5]) = (kind as u8, fua.into());
                bytes[16..24].copy_from_slice(&first.to_le_bytes());
                bytes[24..28].copy_from_slice(&sectors.to_le_bytes());
                sequence
            }
            Self::End { flush, sequence, status } => {
                bytes[4] = ENDED + if flush { Logged::Flush } else { Logged::Write } as u8;
                bytes[6] = status as u8;
                sequence
            }
        };
        bytes[8..16].copy_from_slice(&sequence.to_le_bytes());
        let crc = crc32c(&bytes[4..]);
        bytes[..4].copy_from_slice(&crc);
        bytes
    }

    fn decode(bytes: &[u8; RECORD_BYTES]) -> Option<Self> {
        if crc32c(&bytes[4..]) != bytes[..4] {
            return None;
        }
        let sequence = u64_at(bytes, 8);
        let kind = match bytes[4] & !ENDED {
            1 => Logged::Write,
            2 => Logged::Zeroes,
            3 => Logged::Discard,
            4 => Logged::Flush,
            _ => return None,
        };
        if bytes[4] & ENDED != 0 {
            let (status, _) = *STATUS_NAMES.get(usize::from(bytes[6]))?;
            return Some(Self::End { flush: kind == Logged::Flush, sequence, status });
        }
        Some(Self::Begin { kind, sequence, first: u64_at(bytes, 16), sectors: u32_at(bytes, 24), fua: bytes[5] != 0 })
    }
}

/// A log that is being written.
#[derive(Debug)]
pub struct WriteLog {
    /// Appends.
    file: File,
    /// The same file, to write into its header: what appends can do nothing else.
    header: File,
    /// What made it end too early.
    failure: OnceLock<io::Error>,
}

impl WriteLog {
    /// Begins a log in a new file.
    ///
    /// # Errors
    /// [`LogError::Exists`] and [`LogError::System`].
    pub fn create(path: &Path, header: &LogHeader) -> Result<Self, LogError> {
        let name = path.display().to_string();
        let refused = |doing| {
            let path = name.clone();
            move |source: io::Error| match source.kind() {
                io::ErrorKind::AlreadyExists => LogError::Exists { path },
                _ => LogError::System { path, doing, source },
            }
        };
        let mut file = OpenOptions::new().append(true).create_new(true).open(path).map_err(refused("made"))?;
        file.write_all(&header.encode()).map_err(refused("written"))?;
        let header = OpenOptions::new().write(true).open(path).map_err(refused("opened again"))?;
        Ok(Self { file, header, failure: OnceLock::new() })
    }

    /// What made the log end too early, if something did. Such a log proves nothing, and says so when it is read: stop the load.
    #[must_use]
    pub fn failure(&self) -> Option<&io::Error> {
        self.failure.get()
    }

    fn append(&self, bytes: &[u8]) {
        let written = loop {
            match (&self.file).write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other,
            }
        };
        let error = match written {
            Ok(count) if count == bytes.len() => return,
            Ok(_) => io::Error::from(io::ErrorKind::StorageFull),
            Err(error) => error,
        };
        // Another job may append right behind what is half written, so there is no going on.
        let _ = self.header.write_all_at(&[1], u64::try_from(BROKEN_AT).expect("a small number"));
        let _ = self.failure.set(error);
    }
}

/// One job's way into a log. Allocates nothing after it was made.
#[derive(Debug)]
pub(crate) struct Sink {
    log: Arc<WriteLog>,
    gathered: Vec<u8>,
}

impl Sink {
    pub(crate) fn new(log: Arc<WriteLog>) -> Self {
        Self { log, gathered: Vec::with_capacity(SINK_BYTES) }
    }

    /// A request is about to be sent: this is on file when the call returns.
    pub(crate) fn begin(&mut self, record: Record) {
        self.gather(record);
        self.commit();
    }

    /// A request has ended.
    pub(crate) fn end(&mut self, record: Record) {
        self.gather(record);
    }

    fn gather(&mut self, record: Record) {
        if self.gathered.len() == SINK_BYTES {
            self.commit();
        }
        self.gathered.extend_from_slice(&record.encode());
    }

    /// Puts on file what was gathered.
    pub(crate) fn commit(&mut self) {
        if !self.gathered.is_empty() && self.log.failure().is_none() {
            self.log.append(&self.gathered);
        }
        self.gathered.clear();
    }
}

/// A log that is being read, from its start.
#[derive(Debug)]
pub struct LogReader {
    path: String,
    header: LogHeader,
    file: BufReader<File>,
    len_bytes: u64,
    at: u64,
}

impl LogReader {
    /// Opens a log and reads its header.
    ///
    /// # Errors
    /// [`LogError`], of the file or its header.
    pub fn open(path: &Path) -> Result<Self, LogError> {
        let name = path.display().to_string();
        let failed = |source| LogError::System { path: name.clone(), doing: "read", source };
        let file = File::open(path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        let mut file = BufReader::with_capacity(1 << 16, file);
        let mut bytes = [0; HEADER_BYTES];
        match file.read_exact(&mut bytes) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(LogError::Foreign { path: name }),
            other => other.map_err(failed)?,
        }
        let header = LogHeader::decode(&bytes, &name)?;
        Ok(Self { path: name, header, file, len_bytes: metadata.len(), at: bytes_of(HEADER_BYTES) })
    }

    /// What the log is of.
    #[must_use]
    pub fn header(&self) -> &LogHeader {
        &self.header
    }

    /// How many bytes were read of how many.
    #[must_use]
    pub fn progress(&self) -> (u64, u64) {
        (self.at, self.len_bytes)
    }

    /// The next record. A last one that is cut off, or not all there, is none: whoever wrote it was killed.
    ///
    /// # Errors
    /// [`LogError::Damaged`], and [`LogError::System`].
    #[allow(clippy::should_implement_trait, reason = "it is fallible, and needs no adapters")]
    pub fn next(&mut self) -> Result<Option<Record>, LogError> {
        if self.len_bytes - self.at < bytes_of(RECORD_BYTES) {
            return Ok(None);
        }
        let mut bytes = [0; RECORD_BYTES];
        let failed = |source| LogError::System { path: self.path.clone(), doing: "read", source };
        self.file.read_exact(&mut bytes).map_err(failed)?;
        let offset = self.at;
        self.at += bytes_of(RECORD_BYTES);
        match Record::decode(&bytes) {
            Some(record) => Ok(Some(record)),
            None if self.at == self.len_bytes => Ok(None),
            None => Err(LogError::Damaged { path: self.path.clone(), offset }),
        }
    }

    /// An error about the record that was read last.
    pub(crate) fn senseless(&self, what: &'static str) -> LogError {
        LogError::Senseless { path: self.path.clone(), offset: self.at - bytes_of(RECORD_BYTES), what }
    }
}

fn bytes_of(count: usize) -> u64 {
    u64::try_from(count).expect("lengths fit 64 bits")
}

#[cfg(test)]
mod tests;
