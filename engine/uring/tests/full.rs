//! File systems without space, and ones that cannot do everything. Knows the device by its contract alone.

mod common;

use std::path::PathBuf;

use common::root::{Loop, Mount, skip};
use common::{pattern, rig};
use spinel_core::{Op, Status};
use spinel_uring::{DeviceOptions, FileError, UringDevice};

const MIB: u32 = 1024 * 1024;

/// A sparse file of 64 MiB on a file system of 16 MiB.
fn sparse(mount: &Mount) -> PathBuf {
    let path = mount.folder.path().join("disk");
    std::fs::File::create(&path).unwrap().set_len(u64::from(64 * MIB)).unwrap();
    path
}

/// Writes 64 KiB pieces from the start until one fails; how many succeeded, and how the last one ended.
fn fill(rig: &mut common::Rig, op: Op) -> (u64, Status) {
    let memory = rig.region(64 * 1024);
    memory.write(0, &pattern(8, 64 * 1024)).unwrap();
    let segment = memory.segment(0, 64 * 1024).unwrap();
    for piece in 0..1024 {
        let segments: &[_] = if matches!(op, Op::Write { .. }) { &[segment] } else { &[] };
        let status = rig.run(op, piece * 128, 128, segments);
        if status != Status::Ok {
            return (piece, status);
        }
    }
    (1024, Status::Ok)
}

/// Full, the device says so; after space was freed the same requests succeed.
fn fills_and_recovers(mount: &Mount, device: &UringDevice) {
    let mut rig = rig(device, 4);
    let (pieces, status) = fill(&mut rig, Op::Write { fua: false });
    assert_eq!(status, Status::Capacity);
    assert!((100..=256).contains(&pieces), "{pieces} pieces of 64 KiB fit into 16 MiB");
    assert_eq!(rig.run(Op::Flush, 0, 0, &[]), Status::Ok);
    let memory = rig.region(64 * 1024);
    let segment = memory.segment(0, 64 * 1024).unwrap();
    assert_eq!(rig.run(Op::Read, 0, 128, &[segment]), Status::Ok, "what was written is still there");
    let mut got = vec![0; 64 * 1024];
    memory.read(0, &mut got).unwrap();
    assert_eq!(got, pattern(8, 64 * 1024));
    assert_eq!(rig.run(Op::Discard, 0, 128 * 64, &[]), Status::Ok, "the guest frees space itself");
    assert_eq!(rig.run(Op::Write { fua: true }, pieces * 128, 128, &[segment]), Status::Ok);
    drop(rig);
    assert!(mount.folder.path().exists());
}

#[test]
fn a_full_memory_file_system_is_a_capacity_error_until_space_is_freed() {
    let Some(mount) = Mount::tmpfs(16 * MIB) else { return skip("a tmpfs") };
    let path = sparse(&mount);
    // Kernels before 6.6 have no direct I/O on tmpfs.
    let direct = UringDevice::open(&path, &DeviceOptions::default());
    let device = match direct {
        Err(FileError::Direct { .. }) => UringDevice::open(&path, &DeviceOptions { direct: false, ..DeviceOptions::default() }),
        opened => opened,
    };
    fills_and_recovers(&mount, &device.unwrap());
}

#[test]
fn a_full_disk_file_system_is_a_capacity_error_until_space_is_freed() {
    let backing = common::scratch(16 * MIB as usize);
    let Some(device) = Loop::over(&backing.path, 512) else { return skip("a loop device") };
    let Some(mount) = Mount::ext4(&device) else { return skip("an ext4 on a loop device") };
    let path = sparse(&mount);
    let opened = UringDevice::open(&path, &DeviceOptions::default()).unwrap();
    fills_and_recovers(&mount, &opened);
}

#[test]
fn zeroing_a_full_file_system_is_a_capacity_error() {
    let Some(mount) = Mount::tmpfs(16 * MIB) else { return skip("a tmpfs") };
    let path = sparse(&mount);
    let device = UringDevice::open(&path, &DeviceOptions { direct: false, ..DeviceOptions::default() }).unwrap();
    let (pieces, status) = fill(&mut rig(&device, 4), Op::WriteZeroes { unmap: false, fua: false });
    assert_eq!(status, Status::Capacity);
    assert!((100..=256).contains(&pieces), "{pieces}");
}
