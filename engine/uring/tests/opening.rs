//! What can be opened, what is said of it, and what happens when it grows or shrinks. Knows no ring.

mod common;

use std::path::Path;
use std::time::Duration;

use common::{open, pattern, rig, scratch};
use spinel_core::{CoreId, Device, Op, OpenError, Status};
use spinel_uring::{DeviceOptions, FileError, Options, UringDevice};

const KIB: usize = 1024;

fn options(block_bytes: Option<u32>) -> DeviceOptions {
    DeviceOptions { block_bytes, ..DeviceOptions::default() }
}

/// Opens what nobody should have any more. A child that another test is starting may hold a copy of the lock for a moment.
fn open_patiently(path: &Path, options: &DeviceOptions) -> UringDevice {
    UringDevice::open(path, &DeviceOptions { lock_wait: Duration::from_secs(30), ..options.clone() }).unwrap()
}

#[test]
fn geometry_is_the_files_own_and_tells_the_truth_about_its_cache() {
    let scratch = scratch(100 * KIB + 700);
    let device = UringDevice::open(&scratch.path, &options(None)).unwrap();
    let geometry = device.geometry();
    assert_eq!((geometry.block_bytes, geometry.block_count), (512, (100 * 1024 + 700) / 512));
    assert!(geometry.write_cache, "a file's writes are lost in a power cut until it is flushed");
    assert!(!geometry.read_only);
    assert!(geometry.physical_block_bytes.is_multiple_of(geometry.block_bytes));
    assert_eq!(device.path(), scratch.path);
    drop(device);
    let device = UringDevice::open(&scratch.path, &options(Some(4096))).unwrap();
    assert_eq!((device.geometry().block_bytes, device.geometry().block_count), (4096, 25));
}

#[test]
fn what_is_not_a_disk_is_refused_with_a_reason() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let message = |path: &Path, options| {
        let error = UringDevice::open(path, &options).unwrap_err();
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
        error
    };
    assert!(matches!(message(folder.path(), options(None)), FileError::Kind { .. }));
    assert!(matches!(message("/dev/null".as_ref(), options(None)), FileError::Kind { .. }));
    assert!(matches!(message(&folder.path().join("missing"), options(None)), FileError::Open { .. }));
    let small = folder.path().join("small");
    std::fs::write(&small, [1; 4095]).unwrap();
    assert!(matches!(message(&small, options(Some(4096))), FileError::Empty { len_bytes: 4095, block_bytes: 4096, .. }));
    assert!(UringDevice::open(&small, &options(Some(512))).is_ok());
    for asked in [0, 1, 511, 1024, 8192, u32::MAX] {
        assert!(matches!(UringDevice::open(&small, &options(Some(asked))), Err(FileError::BlockBytes { asked: got }) if got == asked));
    }
}

#[test]
fn a_file_somebody_else_has_is_refused_and_waited_for_only_so_long() {
    let scratch = scratch(64 * KIB);
    let first = open(&scratch, 512);
    let patient = DeviceOptions { lock_wait: Duration::from_millis(20), ..options(None) };
    for (wanted, waits) in [(options(None), 0), (patient, 20)] {
        match UringDevice::open(&scratch.path, &wanted) {
            Err(FileError::InUse { waited, .. }) => assert_eq!(waited.as_millis(), waits),
            other => panic!("{other:?}"),
        }
    }
    let reading = DeviceOptions { read_only: true, ..options(None) };
    assert!(matches!(UringDevice::open(&scratch.path, &reading), Err(FileError::InUse { .. })));
    drop(first);
    let readers: Vec<_> = (0..2).map(|_| open_patiently(&scratch.path, &reading)).collect();
    assert!(matches!(UringDevice::open(&scratch.path, &options(None)), Err(FileError::InUse { .. })), "readers exclude a writer");
    drop(readers);
    open_patiently(&scratch.path, &options(None));
}

#[test]
fn a_lock_that_is_given_up_in_time_is_taken() {
    let scratch = scratch(64 * KIB);
    let mut holder = std::process::Command::new("flock")
        .args(["--exclusive", scratch.path.to_str().unwrap(), "sh", "-c", "echo held; read line"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(holder.stdout.take().unwrap()), &mut said).unwrap();
    let error = UringDevice::open(&scratch.path, &options(None)).unwrap_err();
    assert!(error.to_string().contains("in use by another process"), "{error}");
    drop(holder.stdin.take());
    open_patiently(&scratch.path, &options(None));
    holder.wait().unwrap();
}

#[test]
fn the_lock_lasts_until_the_last_channel_is_gone() {
    let scratch = scratch(64 * KIB);
    let device = open(&scratch, 512);
    let rig = rig(&device, 4);
    drop(device);
    assert!(matches!(UringDevice::open(&scratch.path, &options(None)), Err(FileError::InUse { .. })));
    drop(rig);
    open_patiently(&scratch.path, &options(None));
}

#[test]
fn a_closed_channel_gives_up_its_file_though_its_core_goes_on() {
    let scratch = scratch(64 * KIB);
    let mut core = spinel_uring::core(CoreId(0), Options::default()).unwrap();
    for _ in 0..3 {
        let device = open_patiently(&scratch.path, &options(None));
        let channels: Vec<_> = (0..3).map(|_| device.open(&mut core, 4).unwrap()).collect();
        drop(channels);
    }
    open_patiently(&scratch.path, &options(None));
}

#[test]
fn a_queue_of_no_or_too_many_slots_is_refused() {
    let scratch = scratch(64 * KIB);
    let device = open(&scratch, 512);
    let mut rig = rig(&device, 1);
    for depth in [0, u16::MAX] {
        assert!(matches!(device.open(&mut rig.core, depth), Err(OpenError::Depth { asked, .. }) if asked == depth));
    }
}

#[test]
fn a_file_that_grows_is_larger_after_a_rescan_even_for_open_channels() {
    let scratch = scratch(64 * KIB);
    let device = open(&scratch, 512);
    let mut rig = rig(&device, 4);
    let memory = rig.region(4096);
    let segment = memory.segment(0, 512).unwrap();
    scratch.file().set_len(128 * 1024).unwrap();
    assert_eq!(rig.run(Op::Read, 200, 1, &[segment]), Status::Range);
    assert_eq!(device.rescan().unwrap(), 256);
    assert_eq!(device.geometry().block_count, 256);
    assert_eq!(rig.run(Op::Write { fua: false }, 255, 1, &[segment]), Status::Ok);
    assert_eq!(rig.run(Op::Read, 256, 1, &[segment]), Status::Range);
}

#[test]
fn a_file_that_shrinks_fails_the_missing_part_and_refuses_it_after_a_rescan() {
    let scratch = scratch(64 * KIB);
    let device = open(&scratch, 512);
    let mut rig = rig(&device, 4);
    let memory = rig.region(64 * 1024);
    let whole = memory.segment(0, 64 * 1024).unwrap();
    scratch.file().set_len(10 * 1024 + 100).unwrap();
    assert_eq!(rig.run(Op::Read, 100, 1, &[memory.segment(0, 512).unwrap()]), Status::Medium);
    assert_eq!(rig.run(Op::Read, 0, 128, &[whole]), Status::Medium, "a part was read, the rest is not there");
    assert_eq!(rig.run(Op::Read, 0, 128, &[memory.segment(0, 65535).unwrap(), memory.segment(0, 1).unwrap()]), Status::Medium);
    assert_eq!(device.rescan().unwrap(), 20);
    assert_eq!(rig.run(Op::Read, 0, 128, &[whole]), Status::Range);
    assert_eq!(rig.run(Op::Read, 0, 20, &[memory.segment(0, 10 * 1024).unwrap()]), Status::Ok);
    let mut got = vec![0; 10 * KIB];
    memory.read(0, &mut got).unwrap();
    assert_eq!(got, pattern(1, 10 * KIB));
    scratch.file().set_len(100).unwrap();
    assert!(matches!(device.rescan(), Err(FileError::Empty { len_bytes: 100, .. })));
    assert_eq!(device.geometry().block_count, 20, "a size that makes no sense changes nothing");
}

#[test]
fn an_open_file_that_was_passed_on_is_the_same_device_with_its_lock() {
    let scratch = scratch(64 * KIB);
    let device = UringDevice::open(&scratch.path, &options(Some(512))).unwrap();
    let heir = UringDevice::of_open(device.file().try_clone_to_owned().unwrap(), &scratch.path, &options(Some(512))).unwrap();
    assert_eq!((heir.geometry(), heir.is_direct(), heir.path()), (device.geometry(), device.is_direct(), device.path()));
    drop(device);
    assert!(matches!(UringDevice::open(&scratch.path, &options(None)), Err(FileError::InUse { .. })), "the lock goes with the file");
    let read_only = std::fs::File::open(&scratch.path).unwrap();
    let refused = UringDevice::of_open(read_only.into(), &scratch.path, &options(None)).unwrap_err();
    assert!(matches!(refused, FileError::Open { .. }), "{refused}");
    let folder = std::fs::File::open(scratch.path.parent().unwrap()).unwrap();
    assert!(matches!(UringDevice::of_open(folder.into(), &scratch.path, &options(None)), Err(FileError::Kind { .. })));
}
