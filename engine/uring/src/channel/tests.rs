//! Channels on a ring without a reactor: ways, fallbacks, shared flushes.

use super::*;
use crate::{DeviceOptions, Options, UringDevice};
use spinel_core::{Core, CoreId, Device, Lba};
use spinel_mem::Region;
use std::path::Path;

const MIB: usize = 1 << 20;

/// A file of sevens beside the test's own program, where direct I/O works if it works at all.
fn file() -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new_in(std::env::current_exe().unwrap().parent().unwrap()).unwrap();
    std::fs::write(file.path(), vec![7; MIB]).unwrap();
    file
}

fn open(path: &Path, direct: bool) -> UringDevice {
    UringDevice::open(path, &DeviceOptions { direct, ..DeviceOptions::default() }).unwrap()
}

/// One request from start to end.
fn run(core: &mut Core, channel: &mut dyn Channel, op: Op, start: u64, blocks: u32, segments: &[Segment]) -> Status {
    let mut done = Completions::limited(1);
    channel.submit(Request { tag: Tag(0), op, at: Instant::default(), start: Lba(start), blocks, segments });
    while done.as_slice().is_empty() {
        core.flush();
        core.reap(Instant::default());
        channel.poll(Instant::default(), &mut done);
    }
    done.as_slice()[0].status
}

#[test]
fn plain_reads_and_writes_take_the_polled_lane_and_the_rest_does_not() {
    // No device here can be polled, so the second ring is an ordinary one; the lanes are the same.
    let file = file();
    let device = open(file.path(), true);
    let mut core = crate::core(CoreId(0), Options::default()).unwrap();
    let ring = core.share(|_| Ring::new(&Options::default())).unwrap();
    let polled = core.share(|_| Ok(PolledRing::unpolled())).unwrap();
    let regions = core.regions();
    let mut channel = UringChannel::new(device.shared(), Rc::clone(&ring), Some(Rc::clone(&polled)), regions, 4).unwrap();
    let memory = Region::anonymous(65_536).unwrap();
    let _ = crate::pin(&memory);
    core.map(Arc::clone(&memory));
    memory.write(0, &[9; 4096]).unwrap();
    let [out, into, odd] = [0, 8192, 20_001].map(|offset| memory.segment(offset, 4096).unwrap());
    let plan =
        [(Op::Write { fua: false }, out, true), (Op::Write { fua: true }, out, false), (Op::Read, into, true), (Op::Read, odd, true)];
    for (op, segment, polls) in plan {
        let before = (ring.borrow().enters(), polled.borrow_mut().ring().enters());
        assert_eq!(run(&mut core, &mut channel, op, 16, 8, &[segment]), Status::Ok);
        let entered = (ring.borrow().enters() > before.0, polled.borrow_mut().ring().enters() > before.1);
        assert_eq!(entered, (!polls, polls), "{op:?}");
    }
    assert_eq!(run(&mut core, &mut channel, Op::Flush, 0, 0, &[]), Status::Ok);
    for segment in [into, odd] {
        let mut got = [0; 4096];
        memory.read(segment.offset(), &mut got).unwrap();
        assert_eq!(got, [9; 4096]);
    }
}

#[test]
fn a_core_waits_spinning_for_what_is_polled() {
    let file = file();
    let device = open(file.path(), true);
    let mut core = crate::core(CoreId(0), Options::default()).unwrap();
    let ring = core.share(|_| Ring::new(&Options::default())).unwrap();
    let polled = core.share(|_| Ok(PolledRing::unpolled())).unwrap();
    let mut channel = UringChannel::new(device.shared(), ring, Some(polled), core.regions(), 4).unwrap();
    let memory = Region::anonymous(4096).unwrap();
    core.map(Arc::clone(&memory));
    let segments = [memory.segment(0, 4096).unwrap()];
    channel.submit(Request { tag: Tag(0), op: Op::Read, at: Instant::default(), start: Lba(0), blocks: 8, segments: &segments });
    core.flush();
    assert_eq!(core.arm(), Armed::Spin);
    let mut done = Completions::limited(1);
    while done.as_slice().is_empty() {
        core.reap(Instant::default());
        channel.poll(Instant::default(), &mut done);
    }
    assert_eq!(core.arm(), Armed::Idle);
}

#[test]
fn a_device_that_cannot_be_polled_is_served_by_the_ordinary_ring() {
    let file = file();
    let device = open(file.path(), true);
    let mut core = crate::core(CoreId(0), Options { iopoll: true, ..Options::default() }).unwrap();
    let setup = core.share(|_| Ring::new(&Options::default())).unwrap().borrow().setup();
    let mut channel = device.open(&mut core, 4).unwrap();
    println!("{setup}; the file is {}polled", if device.polled() { "" } else { "not " });
    let memory = Region::anonymous(4096).unwrap();
    core.map(Arc::clone(&memory));
    let segment = memory.segment(0, 4096).unwrap();
    assert_eq!(run(&mut core, &mut *channel, Op::Read, 0, 8, &[segment]), Status::Ok);
    let mut got = [0; 4096];
    memory.read(0, &mut got).unwrap();
    assert_eq!(got, [7; 4096]);
}

/// Zeroes blocks of a device that is full of sevens, and checks every byte.
fn zero_some(device: &UringDevice, path: &Path) {
    let mut core = crate::core(CoreId(0), Options::default()).unwrap();
    let mut channel = device.open(&mut core, 4).unwrap();
    // The first is more than one piece of zeroes, and not a multiple of it.
    for (unmap, start, blocks) in [(false, 1, 1001), (true, 1500, 8)] {
        let op = Op::WriteZeroes { unmap, fua: true };
        assert_eq!(run(&mut core, &mut *channel, op, start, blocks, &[]), Status::Ok);
    }
    let mut expected = vec![7; MIB];
    expected[512..1002 * 512].fill(0);
    expected[1500 * 512..1508 * 512].fill(0);
    assert!(std::fs::read(path).unwrap() == expected);
}

#[test]
fn zeroes_are_written_where_there_is_no_other_way() {
    let file = file();
    let device = open(file.path(), true);
    device.shared().cannot(Step::ZeroRange);
    device.shared().cannot(Step::Punch);
    zero_some(&device, file.path());
}

#[test]
fn what_a_file_system_refuses_is_done_another_way_and_not_tried_again() {
    // Memory files punch holes and cannot zero a range.
    let file = rustix::fs::memfd_create("spinel-test", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
    std::fs::write(&path, vec![7; MIB]).unwrap();
    let device = open(path.as_ref(), false);
    assert!(device.shared().can(Step::ZeroRange));
    zero_some(&device, path.as_ref());
    assert_eq!((device.shared().can(Step::ZeroRange), device.shared().can(Step::Punch)), (false, true));
}

/// Turns until `count` requests have ended; their tags in that order.
fn end(core: &mut Core, channel: &mut dyn Channel, count: usize) -> Vec<(u32, Status)> {
    let mut done = Completions::new();
    while done.as_slice().len() < count {
        core.flush();
        core.reap(Instant::default());
        channel.poll(Instant::default(), &mut done);
    }
    done.as_slice().iter().map(|completion| (completion.tag.0, completion.status)).collect()
}

fn flush(tag: u32) -> Request<'static> {
    Request { tag: Tag(tag), op: Op::Flush, at: Instant::default(), start: Lba(0), blocks: 0, segments: &[] }
}

#[test]
fn flushes_that_come_during_one_wait_for_the_next_and_share_it() {
    let file = file();
    let device = open(file.path(), true);
    let mut core = crate::core(CoreId(0), Options::default()).unwrap();
    let ring = core.share(|_| Ring::new(&Options::default())).unwrap();
    let mut channel = UringChannel::new(device.shared(), Rc::clone(&ring), None, core.regions(), 8).unwrap();
    for tag in 0..8 {
        channel.submit(flush(tag));
    }
    assert_eq!(ring.borrow().in_flight(), 1, "one flush is in the kernel");
    assert_eq!(channel.state.syncs.waiting.len(), 7);
    let ended = end(&mut core, &mut channel, 8);
    assert_eq!(ended[0], (0, Status::Ok), "the first ends alone");
    assert!(ended.iter().all(|(_, status)| *status == Status::Ok));
    assert_eq!(channel.room(), 8);
    assert_eq!(run(&mut core, &mut channel, Op::Flush, 0, 0, &[]), Status::Ok, "and then it begins anew");
}

#[test]
fn a_flush_that_failed_without_direct_io_is_never_followed_by_one_that_succeeds() {
    let file = file();
    for direct in [false, true] {
        let device = open(file.path(), direct);
        let mut core = crate::core(CoreId(0), Options::default()).unwrap();
        let ring = core.share(|_| Ring::new(&Options::default())).unwrap();
        let channel = || UringChannel::new(device.shared(), Rc::clone(&ring), None, core.regions(), 8).unwrap();
        let (first, mut second) = (channel(), channel());
        first.state.note_failed_sync();
        let expected = if direct { Status::Ok } else { Status::Medium };
        assert_eq!(run(&mut core, &mut second, Op::Flush, 0, 0, &[]), expected, "direct {direct}");
        assert_eq!(run(&mut core, &mut second, Op::WriteZeroes { unmap: false, fua: true }, 0, 8, &[]), expected, "direct {direct}");
        drop(first);
    }
}

#[test]
fn a_channel_that_holds_its_chunks_keeps_none_from_another() {
    let file = file();
    let device = open(file.path(), true);
    let mut core = crate::core(CoreId(0), Options::default()).unwrap();
    let ring = core.share(|_| Ring::new(&Options::default())).unwrap();
    let hog = ring.borrow_mut().open_port(64).unwrap();
    let held: Vec<u16> = (0..64).map_while(|slot| ring.borrow_mut().want_chunk(hog, slot)).collect();
    assert_eq!(held.len(), usize::from(Options::default().bounce_chunks), "the rest would wait");
    let mut channel = device.open(&mut core, 4).unwrap();
    let memory = Region::anonymous(8192).unwrap();
    core.map(Arc::clone(&memory));
    assert_eq!(run(&mut core, &mut *channel, Op::Read, 0, 8, &[memory.segment(1, 4096).unwrap()]), Status::Ok);
}
