//! Logs that are whole, cut off, damaged, somebody else's.

use super::*;
use proptest::prelude::*;

fn header() -> LogHeader {
    LogHeader {
        volume: 0x1122_3344_5566_7788,
        seed: 5,
        epoch: 2,
        block_bytes: 4096,
        disk_bytes: 1 << 30,
        area_bytes: (4096, 8192),
        write_cache: true,
        target: "file:/tmp/disk".to_owned(),
    }
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> std::path::PathBuf {
        self.0.path().join("log")
    }

    /// A log of so many requests, each begun and ended.
    fn log_of(&self, requests: u64) -> Arc<WriteLog> {
        let log = Arc::new(WriteLog::create(&self.path(), &header()).unwrap());
        let mut sink = Sink::new(Arc::clone(&log));
        for sequence in 0..requests {
            sink.begin(begin(sequence));
            sink.end(Record::End { flush: false, sequence, status: Status::Ok });
        }
        sink.commit();
        log
    }

    fn bytes(&self) -> Vec<u8> {
        std::fs::read(self.path()).unwrap()
    }

    /// What reading a changed log says: how many records there are, or the error.
    fn read(&self, bytes: &[u8]) -> Result<usize, LogError> {
        std::fs::write(self.path(), bytes).unwrap();
        let mut reader = LogReader::open(&self.path())?;
        let mut records = 0;
        while reader.next()?.is_some() {
            records += 1;
        }
        Ok(records)
    }
}

fn begin(sequence: u64) -> Record {
    Record::Begin { kind: Logged::Write, sequence, first: 8 * sequence, sectors: 8, fua: false }
}

fn records() -> impl Strategy<Value = Record> {
    let kind = prop_oneof![Just(Logged::Write), Just(Logged::Zeroes), Just(Logged::Discard), Just(Logged::Flush)];
    let status = prop_oneof![Just(Status::Ok), Just(Status::Medium), Just(Status::Aborted), Just(Status::Malformed)];
    prop_oneof![
        (kind, any::<(u64, u64, u32, bool)>()).prop_map(|(kind, (sequence, first, sectors, fua))| Record::Begin {
            kind,
            sequence,
            first,
            sectors,
            fua
        }),
        (status, any::<(bool, u64)>()).prop_map(|(status, (flush, sequence))| Record::End { flush, sequence, status }),
    ]
}

proptest! {
    #[test]
    fn any_record_survives_and_any_flipped_bit_does_not(record in records(), byte in 0..RECORD_BYTES, bit in 0..8) {
        let mut bytes = record.encode();
        prop_assert_eq!(Record::decode(&bytes), Some(record));
        bytes[byte] ^= 1_u8 << bit;
        prop_assert_eq!(Record::decode(&bytes), None);
    }
}

#[test]
fn what_was_written_is_read() {
    let folder = Folder::new();
    let log = folder.log_of(1000);
    assert!(log.failure().is_none());
    let mut reader = LogReader::open(&folder.path()).unwrap();
    assert_eq!(reader.header(), &header());
    for sequence in 0..1000 {
        assert_eq!(reader.next().unwrap(), Some(begin(sequence)));
        assert_eq!(reader.next().unwrap(), Some(Record::End { flush: false, sequence, status: Status::Ok }));
    }
    assert_eq!(reader.next().unwrap(), None);
    assert_eq!(reader.progress(), (512 + 2000 * 32, 512 + 2000 * 32));
}

#[test]
fn a_begin_is_on_file_before_the_call_returns_with_all_ends_before_it() {
    let folder = Folder::new();
    let log = folder.log_of(0);
    let mut sink = Sink::new(log);
    let on_file = || (folder.bytes().len() - HEADER_BYTES) / RECORD_BYTES;
    sink.begin(begin(1));
    assert_eq!(on_file(), 1);
    sink.end(Record::End { flush: false, sequence: 1, status: Status::Ok });
    assert_eq!(on_file(), 1, "ends are gathered");
    sink.begin(begin(2));
    assert_eq!(on_file(), 3);
    for _ in 0..1000 {
        sink.end(Record::End { flush: true, sequence: 3, status: Status::Ok });
    }
    assert!(on_file() > 800, "not too many of them");
}

#[test]
fn a_last_record_that_is_cut_off_is_accepted_and_nothing_else() {
    let folder = Folder::new();
    folder.log_of(10);
    let whole = folder.bytes();
    for cut in 1..RECORD_BYTES {
        assert_eq!(folder.read(&whole[..whole.len() - cut]).unwrap(), 19, "{cut} bytes are missing");
    }
    let mut half = whole.clone();
    let len = half.len();
    half[len - 20..].fill(7);
    assert_eq!(folder.read(&half).unwrap(), 19);
    for record in 0..19 {
        let mut damaged = whole.clone();
        damaged[HEADER_BYTES + record * RECORD_BYTES + 9] ^= 1;
        let error = folder.read(&damaged).unwrap_err();
        let at = HEADER_BYTES + record * RECORD_BYTES;
        assert!(matches!(error, LogError::Damaged { offset, .. } if offset == bytes_of(at)), "{error}");
        assert!(error.to_string().contains(&format!("the record at byte {at} is not what was written")), "{error}");
    }
}

#[test]
fn what_is_no_log_of_ours_is_refused_by_what_it_is() {
    let folder = Folder::new();
    folder.log_of(3);
    let whole = folder.bytes();
    let changed = |at: usize, to: u8| {
        let mut bytes = whole.clone();
        bytes[at] = to;
        bytes
    };
    assert!(matches!(folder.read(b"a text"), Err(LogError::Foreign { .. })));
    assert!(matches!(folder.read(&[7; 4096]), Err(LogError::Foreign { .. })));
    assert!(matches!(folder.read(&changed(8, 9)), Err(LogError::Version { version: 9, .. })));
    assert!(matches!(folder.read(&changed(70, 9)), Err(LogError::Header { .. })));
    assert!(matches!(folder.read(&changed(BROKEN_AT, 1)), Err(LogError::Broken { .. })));
    std::fs::write(folder.path(), "precious").unwrap();
    let error = WriteLog::create(&folder.path(), &header()).unwrap_err();
    assert!(matches!(error, LogError::Exists { .. }), "{error}");
    assert_eq!(folder.bytes(), b"precious");
    let missing = LogReader::open(&folder.path().join("deeper")).unwrap_err();
    assert!(matches!(missing, LogError::System { doing: "read", .. }), "{missing}");
}

#[test]
fn a_log_that_cannot_be_written_says_so_when_it_is_read() {
    let folder = Folder::new();
    let log = WriteLog::create(&folder.path(), &header()).unwrap();
    // A descriptor that only reads takes no append.
    let log = Arc::new(WriteLog { file: File::open(folder.path()).unwrap(), ..log });
    let mut sink = Sink::new(Arc::clone(&log));
    sink.begin(begin(1));
    assert!(log.failure().is_some());
    sink.begin(begin(2));
    assert!(matches!(LogReader::open(&folder.path()), Err(LogError::Broken { .. })));
}

#[test]
fn a_log_of_another_disk_is_refused() {
    let geometry = |block_bytes, block_count| Geometry {
        block_bytes,
        block_count,
        memory_align_bytes: 1,
        segments_max: 1,
        transfer_max_bytes: 4096,
        physical_block_bytes: 4096,
        write_cache: true,
        read_only: false,
        features: spinel_core::Features::default(),
    };
    assert!(header().check(&geometry(4096, 1 << 18)).is_ok());
    assert!(header().check(&geometry(512, 1 << 21)).is_err());
    assert!(header().check(&geometry(4096, 1 << 17)).unwrap_err().to_string().contains("this one has 536870912 bytes"));
}

#[test]
fn a_long_target_is_cut_off_between_letters() {
    let long = LogHeader { target: "ä".repeat(200), ..header() };
    let read = LogHeader::decode(&long.encode(), "log").unwrap();
    assert_eq!(read.target, "ä".repeat(127));
}

#[test]
fn jobs_on_several_threads_do_not_mix_their_records() {
    let folder = Folder::new();
    let log = folder.log_of(0);
    std::thread::scope(|scope| {
        for job in 0..3 {
            let log = Arc::clone(&log);
            scope.spawn(move || {
                let mut sink = Sink::new(log);
                for sequence in 0..2000 {
                    sink.begin(begin(job << 40 | sequence));
                    sink.end(Record::End { flush: false, sequence: job << 40 | sequence, status: Status::Ok });
                }
                sink.commit();
            });
        }
    });
    assert_eq!(folder.read(&folder.bytes()).unwrap(), 3 * 2 * 2000);
}
