//! Failures on order: which requests they take, how they end, and how held ones come back.

use super::*;
use spinel_sim::{Prng, Rig};

use crate::{MemoryDevice, Shape};

const WRITE: Op = Op::Write { fua: false };
const ALL: [Op; 5] = [Op::Read, WRITE, Op::Flush, Op::Discard, Op::WriteZeroes { unmap: false, fua: false }];

struct Bench {
    rig: Rig,
    device: ErrorDevice,
    channel: Box<dyn Channel>,
}

impl Bench {
    fn new() -> Self {
        Self::of(Shape::new(512, 64))
    }

    fn of(shape: Shape) -> Self {
        let mut rig = Rig::new(Prng::new(1), 1 << 16);
        let device = ErrorDevice::new(Arc::new(MemoryDevice::new(shape).unwrap())).unwrap();
        let channel = device.open(&mut rig.core, 4).unwrap();
        Self { rig, device, channel }
    }

    fn inject(&self, target: Target, fault: Fault, count: u32) {
        self.device.inject(Injection { target, fault, count, queue_depth: 0 }).unwrap();
    }

    /// One request of one block over two segments, the first of 100 bytes.
    fn ask(&mut self, op: Op) -> Status {
        let segments = [self.rig.segment(0, 100), self.rig.segment(1000, 412)];
        let segments: &[_] = if matches!(op, Op::Read | Op::Write { .. }) { &segments } else { &[] };
        self.rig.ask(&mut *self.channel, op, 3, u32::from(op != Op::Flush), segments).unwrap()
    }

    fn submit(&mut self, tag: u32, op: Op) {
        let segments = [self.rig.segment(0, 512)];
        let at = self.rig.begin_turn();
        self.channel.submit(Request { tag: Tag(tag), op, at, start: Lba(0), blocks: 1, segments: &segments });
    }

    fn poll(&mut self) -> Vec<(u32, Status)> {
        let mut done = Completions::new();
        self.channel.poll(self.rig.begin_turn(), &mut done);
        done.as_slice().iter().map(|&Completion { tag, status }| (tag.0, status)).collect()
    }

    fn memory(&self) -> Vec<u8> {
        let mut bytes = vec![0; 512];
        self.rig.memory.read(0, &mut bytes[..100]).unwrap();
        self.rig.memory.read(1000, &mut bytes[100..]).unwrap();
        bytes
    }

    /// Writes blocks full of one byte, from memory that lies in two pieces.
    fn write(&mut self, start: u64, blocks: u32, byte: u8) -> Status {
        let len_bytes = blocks * self.device.geometry().block_bytes;
        self.rig.memory.write(0, &vec![byte; 1 << 16]).unwrap();
        let segments = [self.rig.segment(0, 100), self.rig.segment(1000, len_bytes - 100)];
        self.rig.ask(&mut *self.channel, WRITE, start, blocks, &segments).unwrap()
    }

    /// The first byte of every 512 of some blocks, read into memory that lies in two pieces.
    fn read(&mut self, start: u64, blocks: u32) -> Vec<u8> {
        let len_bytes = blocks * self.device.geometry().block_bytes;
        let segments = [self.rig.segment(0, 100), self.rig.segment(1000, len_bytes - 100)];
        self.rig.memory.write(0, &vec![0xa5; 1 << 16]).unwrap();
        assert_eq!(self.rig.ask(&mut *self.channel, Op::Read, start, blocks, &segments), Ok(Status::Ok));
        let mut bytes = vec![0; len_bytes as usize];
        let (first, rest) = bytes.split_at_mut(100);
        self.rig.memory.read(0, first).unwrap();
        self.rig.memory.read(1000, rest).unwrap();
        assert!(bytes.chunks(512).all(|sector| sector.iter().all(|byte| *byte == sector[0])), "sectors are of one write");
        bytes.chunks(512).map(|sector| sector[0]).collect()
    }

    fn fill(&self, byte: u8) {
        self.rig.memory.write(0, &[byte; 4096]).unwrap();
    }
}

#[test]
fn exactly_the_next_requests_of_the_kind_fail() {
    let kinds = [(Target::Read, &ALL[..1]), (Target::Write, &ALL[1..2]), (Target::Flush, &ALL[2..3]), (Target::Discard, &ALL[3..4])];
    for (target, ops) in kinds.into_iter().chain([(Target::All, &ALL[..4])]) {
        let mut bench = Bench::new();
        bench.inject(target, Fault::Failure, 2);
        for round in 0..4 {
            for op in ALL {
                let expected = if ops.contains(&op) && round < 2 { Status::Medium } else { Status::Ok };
                assert_eq!(bench.ask(op), expected, "{target:?} {op:?} {round}");
            }
        }
    }
}

#[test]
fn a_request_that_failed_was_not_done() {
    let mut bench = Bench::new();
    for (fault, status) in [(Fault::Failure, Status::Medium), (Fault::NoMemory, Status::Capacity)] {
        bench.inject(Target::Write, fault, 1);
        bench.fill(8);
        assert_eq!(bench.ask(WRITE), status);
        assert_eq!(bench.ask(Op::Read), Status::Ok);
        assert_eq!(bench.memory(), [0; 512]);
    }
}

#[test]
fn clearing_and_replacing_end_what_was_injected() {
    let mut bench = Bench::new();
    bench.inject(Target::All, Fault::Failure, u32::MAX);
    bench.inject(Target::Read, Fault::NoMemory, 1);
    assert_eq!((bench.ask(Op::Read), bench.ask(Op::Read), bench.ask(WRITE)), (Status::Capacity, Status::Ok, Status::Medium));
    bench.device.clear();
    assert!(ALL.iter().all(|op| bench.ask(*op) == Status::Ok));
}

#[test]
fn a_corrupted_read_differs_in_one_byte_and_only_in_memory() {
    let mut bench = Bench::new();
    for offset in [0, 99, 100, 511] {
        bench.inject(Target::Read, Fault::Corrupt { offset, value: 0x81 }, 1);
        assert_eq!(bench.ask(Op::Read), Status::Ok);
        let mut expected = [0; 512];
        expected[usize::try_from(offset).unwrap()] = 0x81;
        assert_eq!(bench.memory(), expected, "offset {offset}");
        assert_eq!(bench.ask(Op::Read), Status::Ok);
        assert_eq!(bench.memory(), [0; 512]);
    }
}

#[test]
fn a_corrupted_write_differs_in_one_byte_on_the_medium_and_not_in_memory() {
    let mut bench = Bench::new();
    for offset in [0, 1, 99, 100, 511, 512] {
        bench.inject(Target::Write, Fault::Corrupt { offset, value: 0xff }, 1);
        bench.fill(0x33);
        assert_eq!(bench.ask(WRITE), Status::Ok);
        assert_eq!(bench.memory(), [0x33; 512], "the guest's memory is the guest's");
        bench.fill(0);
        assert_eq!(bench.ask(Op::Read), Status::Ok);
        let mut expected = [0x33; 512];
        if let Some(byte) = expected.get_mut(usize::try_from(offset).unwrap()) {
            *byte = 0xcc;
        }
        assert_eq!(bench.memory(), expected, "offset {offset}");
    }
}

#[test]
fn what_cannot_have_an_effect_is_refused() {
    let bench = Bench::new();
    let inject =
        |target, value| bench.device.inject(Injection { target, fault: Fault::Corrupt { offset: 0, value }, count: 1, queue_depth: 0 });
    assert_eq!(inject(Target::Read, 0), Err(InjectError::CorruptValue));
    assert_eq!(inject(Target::Flush, 1), Err(InjectError::CorruptTarget { target: Target::Flush }));
    assert_eq!(inject(Target::Discard, 1), Err(InjectError::CorruptTarget { target: Target::Discard }));
    assert_eq!(inject(Target::All, 1), Ok(()));
}

#[test]
fn a_pending_request_hangs_until_it_is_resumed_and_then_is_done() {
    let mut bench = Bench::new();
    bench.inject(Target::Write, Fault::Pending, 1);
    bench.fill(6);
    bench.submit(1, WRITE);
    bench.submit(2, Op::Read);
    assert_eq!(bench.poll(), [(2, Status::Ok)]);
    assert_eq!((bench.poll(), bench.channel.arm(), bench.channel.room()), (vec![], Armed::Idle, 3));
    bench.fill(7);
    bench.device.resume_pending();
    assert_eq!(bench.channel.arm(), Armed::Ready, "a resumption keeps the core from falling asleep");
    assert_eq!(bench.poll(), [(1, Status::Ok)]);
    bench.fill(0);
    assert_eq!(bench.rig.ask(&mut *bench.channel, Op::Read, 0, 1, &[bench.rig.segment(0, 512)]), Ok(Status::Ok));
    assert_eq!(bench.memory()[..100], [7; 100], "its segments were kept, its bytes are fetched when it is done");
    assert_eq!((bench.channel.arm(), bench.channel.room()), (Armed::Idle, 4));
}

#[test]
fn a_resumed_request_can_be_taken_again() {
    let mut bench = Bench::new();
    bench.inject(Target::Read, Fault::Pending, 3);
    bench.submit(1, Op::Read);
    bench.submit(2, Op::Read);
    bench.device.resume_pending();
    assert_eq!(bench.poll(), [(2, Status::Ok)], "one of the two found the third injection");
    assert_eq!(bench.poll(), []);
    bench.device.resume_pending();
    assert_eq!(bench.poll(), [(1, Status::Ok)]);
}

#[test]
fn closing_aborts_what_hangs_and_opens_no_more() {
    let mut bench = Bench::new();
    bench.inject(Target::All, Fault::Pending, 9);
    bench.submit(1, Op::Read);
    bench.submit(2, Op::Discard);
    bench.device.close();
    assert_eq!(bench.poll(), [(1, Status::Aborted), (2, Status::Aborted)]);
    bench.submit(3, Op::Read);
    assert_eq!(bench.poll(), [(3, Status::Ok)], "what is not pending drains as ever");
    bench.inject(Target::Read, Fault::Pending, 1);
    bench.submit(4, Op::Read);
    assert_eq!(bench.poll(), [(4, Status::Aborted)]);
    assert!(matches!(bench.device.open(&mut bench.rig.core, 1), Err(OpenError::Gone)));
}

#[test]
fn a_queue_depth_spares_requests_that_find_fewer_below() {
    let mut bench = Bench::new();
    bench.device.inject(Injection { target: Target::Read, fault: Fault::Failure, count: 9, queue_depth: 2 }).unwrap();
    for tag in 0..4 {
        bench.submit(tag, Op::Read);
    }
    let mut ended = bench.poll();
    ended.sort_by_key(|(tag, _)| *tag);
    assert_eq!(ended, [(0, Status::Ok), (1, Status::Ok), (2, Status::Medium), (3, Status::Medium)]);
}

#[test]
fn more_segments_than_the_geometry_says_are_refused() {
    let mut bench = Bench::new();
    let max = usize::from(bench.device.geometry().segments_max);
    let mut segments = vec![bench.rig.segment(0, 0); max];
    segments[5] = bench.rig.segment(0, 512);
    bench.inject(Target::Write, Fault::Corrupt { offset: 9, value: 1 }, 1);
    assert_eq!(bench.rig.ask(&mut *bench.channel, WRITE, 0, 1, &segments), Ok(Status::Ok));
    segments.push(bench.rig.segment(0, 0));
    assert_eq!(bench.rig.ask(&mut *bench.channel, WRITE, 0, 1, &segments), Ok(Status::Malformed));
}

#[test]
fn a_lost_write_is_acknowledged_and_not_done() {
    let mut bench = Bench::new();
    bench.inject(Target::Write, Fault::LoseWrite, 1);
    assert_eq!((bench.write(3, 2, 7), bench.read(3, 2)), (Status::Ok, vec![0, 0]));
    assert_eq!((bench.write(3, 2, 8), bench.read(3, 2)), (Status::Ok, vec![8, 8]));
}

#[test]
fn a_misdirected_write_is_done_further_on_and_inside_the_device() {
    let mut bench = Bench::new();
    bench.inject(Target::All, Fault::MisdirectWrite, 2);
    assert_eq!((bench.write(3, 2, 7), bench.read(2, 6)), (Status::Ok, vec![0, 0, 0, 7, 7, 0]));
    assert_eq!((bench.write(62, 2, 8), bench.read(58, 6)), (Status::Ok, vec![0, 0, 8, 8, 0, 0]));
    assert_eq!((bench.write(62, 2, 9), bench.read(62, 2)), (Status::Ok, vec![9, 9]));
    bench.inject(Target::Write, Fault::MisdirectWrite, 1);
    assert_eq!((bench.write(0, 64, 5), bench.read(0, 64)), (Status::Ok, vec![5; 64]), "there is nowhere else");
    assert_eq!(bench.rig.ask(&mut *bench.channel, WRITE, 64, 1, &[bench.rig.segment(0, 512)]), Ok(Status::Range));
    assert_eq!((bench.write(0, 1, 6), bench.read(0, 2)), (Status::Ok, vec![5, 6]), "it waited for one that it can do");
}

#[test]
fn a_torn_write_is_done_in_its_first_part() {
    let mut bench = Bench::new();
    bench.write(0, 8, 1);
    bench.inject(Target::Write, Fault::TearWrite, 2);
    assert_eq!((bench.write(0, 1, 2), bench.read(0, 2)), (Status::Ok, vec![2, 1]), "512 bytes are whole or not there");
    assert_eq!((bench.write(0, 5, 3), bench.read(0, 6)), (Status::Ok, vec![3, 3, 1, 1, 1, 1]));
    assert_eq!((bench.write(2, 2, 4), bench.read(0, 6)), (Status::Ok, vec![3, 3, 4, 1, 1, 1]));
    assert_eq!((bench.write(2, 2, 5), bench.read(2, 2)), (Status::Ok, vec![5, 5]));

    let mut bench = Bench::of(Shape::new(4096, 8));
    bench.write(0, 2, 1);
    bench.inject(Target::Write, Fault::TearWrite, 1);
    assert_eq!((bench.write(1, 1, 2), bench.read(1, 1)), (Status::Ok, vec![2, 2, 2, 2, 1, 1, 1, 1]));
    assert_eq!((bench.write(1, 1, 3), bench.read(1, 1)), (Status::Ok, vec![3; 8]));
    assert_eq!(bench.channel.room(), 4);
}

#[test]
fn a_stale_read_returns_what_was_there_before_the_last_write() {
    for shape in [Shape::new(512, 64), Shape::new(4096, 64)] {
        let mut bench = Bench::of(shape);
        let per_block = usize::try_from(bench.device.geometry().block_bytes / 512).unwrap();
        let blocks = |bytes: &[u8]| bytes.iter().flat_map(|byte| vec![*byte; per_block]).collect::<Vec<_>>();
        bench.write(0, 4, 1);
        bench.inject(Target::Read, Fault::StaleRead, 2);
        assert_eq!(bench.read(0, 4), blocks(&[1; 4]), "nothing was written since");
        bench.write(1, 2, 2);
        assert_eq!(bench.read(3, 2), blocks(&[1, 0]), "it meets nothing that was written");
        assert_eq!(bench.read(2, 2), blocks(&[2, 1]), "what was written had not been seen before");
        assert_eq!(bench.read(0, 4), blocks(&[1, 2, 1, 1]), "a part of it still has not");
        bench.write(2, 1, 3);
        assert_eq!(bench.read(2, 1), blocks(&[3]), "it has not been seen before");
        assert_eq!(bench.read(1, 3), blocks(&[2, 2, 1]), "of each block what the last write replaced");
        assert_eq!(bench.read(0, 4), blocks(&[1, 2, 3, 1]), "twice is enough");
        bench.write(0, 1, 9);
        assert!(bench.channel.room() == 4 && bench.read(0, 1) == blocks(&[9]));
    }
}

#[test]
fn old_contents_are_given_back_when_nothing_stale_is_injected_any_more() {
    for _ in 0..100 {
        let mut bench = Bench::new();
        bench.inject(Target::Read, Fault::StaleRead, 1);
        for start in 0..40 {
            assert_eq!(bench.write(start, 1, 1), Status::Ok, "with and without memory for what was there before");
        }
        assert_eq!(bench.read(0, 1), [1]);
        assert_eq!(bench.read(0, 1), [0], "the first of them is always kept: others give theirs back");
        bench.inject(Target::Write, Fault::LoseWrite, 0);
        assert_eq!((bench.write(0, 1, 2), bench.read(0, 1)), (Status::Ok, vec![2]));
    }
}

#[test]
fn planted_faults_are_refused_where_they_mean_nothing() {
    let bench = Bench::new();
    let inject = |target, fault| bench.device.inject(Injection { target, fault, count: 1, queue_depth: 0 });
    for fault in [Fault::LoseWrite, Fault::MisdirectWrite, Fault::TearWrite] {
        assert_eq!(inject(Target::Read, fault), Err(InjectError::WriteTarget { target: Target::Read }));
        assert_eq!(inject(Target::Flush, fault), Err(InjectError::WriteTarget { target: Target::Flush }));
        assert_eq!(inject(Target::All, fault), Ok(()));
    }
    assert_eq!(inject(Target::Write, Fault::StaleRead), Err(InjectError::ReadTarget { target: Target::Write }));
    assert_eq!(inject(Target::All, Fault::StaleRead), Ok(()));
}
