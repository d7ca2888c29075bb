//! Block devices: a loop device stands for them all. Knows the device by its contract alone.

mod common;

use common::root::{Loop, skip};
use common::{Scratch, pattern, rig, scratch};
use spinel_core::{Device, Op, Status};
use spinel_uring::{DeviceOptions, FileError, UringDevice};

const KIB: usize = 1024;

fn on_loop(sector_bytes: u32) -> Option<(Scratch, Loop)> {
    let scratch = scratch(1024 * KIB);
    let Some(device) = Loop::over(&scratch.path, sector_bytes) else {
        skip("a loop device");
        return None;
    };
    Some((scratch, device))
}

/// A child that another test is starting may hold a copy of a claim for a moment, hence the wait.
fn open(device: &Loop, block_bytes: Option<u32>) -> Result<UringDevice, FileError> {
    let lock_wait = std::time::Duration::from_secs(30);
    UringDevice::open(&device.path, &DeviceOptions { block_bytes, lock_wait, ..DeviceOptions::default() })
}

#[test]
fn every_operation_reaches_a_block_device() {
    for sector_bytes in [512, 4096] {
        let Some((scratch, backing)) = on_loop(sector_bytes) else { return };
        let device = open(&backing, None).unwrap();
        let geometry = device.geometry();
        assert_eq!((geometry.block_bytes, geometry.len_bytes()), (sector_bytes, 1024 * 1024));
        assert!(geometry.features.discard, "a loop device over this file system discards");
        let mut rig = rig(&device, 8);
        let memory = rig.region(128 * 1024);
        let data = pattern(4, 64 * KIB);
        memory.write(1, &data).unwrap();
        let odd = memory.segment(1, 64 * 1024).unwrap();
        let blocks = 64 * 1024 / sector_bytes;
        let mut expected = pattern(1, 1024 * KIB);
        assert_eq!(rig.run(Op::Write { fua: true }, 5, blocks, &[odd]), Status::Ok);
        expected[5 * sector_bytes as usize..][..64 * KIB].copy_from_slice(&data);
        let zeroing = [
            Op::Discard,
            Op::WriteZeroes { unmap: true, fua: false },
            Op::WriteZeroes { unmap: true, fua: true },
            Op::WriteZeroes { unmap: false, fua: true },
        ];
        for (op, start) in zeroing.into_iter().zip([30_u32, 100, 150, 180]) {
            assert_eq!(rig.run(op, u64::from(start), 16, &[]), Status::Ok, "{op:?}");
            expected[(start * sector_bytes) as usize..][..16 * sector_bytes as usize].fill(0);
        }
        assert_eq!(rig.run(Op::Flush, 0, 0, &[]), Status::Ok);
        assert!(scratch.bytes() == expected, "a discarded block of a loop device reads as zeroes, its neighbours are untouched");
        let into = memory.segment(3, 64 * 1024).unwrap();
        assert_eq!(rig.run(Op::Read, 5, blocks, &[into]), Status::Ok);
        let mut got = vec![0; 64 * KIB];
        memory.read(3, &mut got).unwrap();
        assert!(got == expected[5 * sector_bytes as usize..][..64 * KIB]);
    }
}

/// How many flushes and discards a block device has completed (Documentation/block/stat.rst).
fn flushes_and_discards(device: &Loop) -> (u64, u64) {
    let name = device.path.file_name().unwrap().to_str().unwrap();
    let stat = std::fs::read_to_string(format!("/sys/block/{name}/stat")).unwrap();
    let fields: Vec<u64> = stat.split_whitespace().map(|field| field.parse().unwrap()).collect();
    (fields[15], fields[11])
}

#[test]
fn flush_and_fua_reach_the_medium_and_a_plain_write_does_not_wait_for_it() {
    let Some((_scratch, backing)) = on_loop(512) else { return };
    let device = open(&backing, None).unwrap();
    assert!(device.geometry().write_cache, "a loop device caches in the file system below it");
    let mut rig = rig(&device, 4);
    let memory = rig.region(4096);
    let segment = [memory.segment(0, 512).unwrap()];
    let mut flushed = |op, blocks, segments: &[_]| {
        let before = flushes_and_discards(&backing).0;
        assert_eq!(rig.run(op, 0, blocks, segments), Status::Ok);
        flushes_and_discards(&backing).0 > before
    };
    assert!(!flushed(Op::Write { fua: false }, 1, &segment));
    assert!(flushed(Op::Flush, 0, &[]));
    assert!(flushed(Op::Write { fua: true }, 1, &segment));
    assert!(!flushed(Op::WriteZeroes { unmap: false, fua: false }, 1, &[]));
    assert!(flushed(Op::WriteZeroes { unmap: false, fua: true }, 1, &[]));
}

#[test]
fn a_discard_is_a_discard_to_the_block_device() {
    let Some((_scratch, backing)) = on_loop(512) else { return };
    let device = open(&backing, None).unwrap();
    let mut rig = rig(&device, 4);
    let before = flushes_and_discards(&backing).1;
    assert_eq!(rig.run(Op::Discard, 8, 64, &[]), Status::Ok);
    assert!(flushes_and_discards(&backing).1 > before);
}

#[test]
fn a_block_device_in_use_is_refused() {
    let Some((_scratch, backing)) = on_loop(512) else { return };
    let first = open(&backing, None).unwrap();
    assert!(matches!(UringDevice::open(&backing.path, &DeviceOptions::default()), Err(FileError::InUse { .. })));
    drop(first);
    open(&backing, None).unwrap();
}

#[test]
fn blocks_smaller_than_the_devices_own_are_refused() {
    let Some((_scratch, backing)) = on_loop(4096) else { return };
    let error = open(&backing, Some(512)).unwrap_err();
    assert!(matches!(error, FileError::BlockTooSmall { asked: 512, least: 4096, .. }), "{error}");
    let device = open(&backing, Some(4096)).unwrap();
    assert_eq!(device.geometry().block_bytes, 4096);
}

#[test]
fn a_block_device_that_grows_is_larger_after_a_rescan() {
    let Some((scratch, backing)) = on_loop(512) else { return };
    let device = open(&backing, None).unwrap();
    let mut rig = rig(&device, 4);
    let memory = rig.region(4096);
    scratch.file().set_len(2048 * 1024).unwrap();
    backing.resize();
    assert_eq!(device.rescan().unwrap(), 4096);
    assert_eq!(rig.run(Op::Write { fua: false }, 4095, 1, &[memory.segment(0, 512).unwrap()]), Status::Ok);
}

#[test]
fn an_error_of_the_medium_fails_that_request_and_no_other() {
    let Some((scratch, backing)) = on_loop(512) else { return };
    let device = open(&backing, None).unwrap();
    let mut rig = rig(&device, 4);
    let memory = rig.region(4096);
    let segment = memory.segment(0, 4096).unwrap();
    // The loop device keeps its size, and fails what is no longer behind it.
    scratch.file().set_len(512 * 1024).unwrap();
    assert_eq!(rig.run(Op::Read, 1500, 8, &[segment]), Status::Medium);
    assert_eq!(rig.run(Op::Read, 0, 8, &[segment]), Status::Ok);
    let mut got = vec![0; 4096];
    memory.read(0, &mut got).unwrap();
    assert_eq!(got, pattern(1, 4096));
}
