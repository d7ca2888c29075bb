//! Registered memory: pinned once, cloned by cores, taken away and given back under load. Knows no guest.

mod common;

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use common::{open, pattern, rig_with, scratch};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use spinel_core::mem::{Pins, Region};
use spinel_core::{Op, Status};
use spinel_uring::{Options, PinError, pin};

const KIB: usize = 1024;
const WRITE: Op = Op::Write { fua: false };

/// A memory file of this size that nobody has touched.
fn untouched(len_bytes: u64) -> OwnedFd {
    let file = memfd_create("spinel-test", MemfdFlags::CLOEXEC).unwrap();
    rustix::fs::ftruncate(&file, len_bytes).unwrap();
    file
}

fn memfd(len_bytes: u64) -> Arc<Region> {
    Region::of_file(untouched(len_bytes).as_fd(), 0, len_bytes).unwrap()
}

/// Pins in entries of 64 KiB, so that the seams between entries are met without gigabytes of memory.
fn pin_in_small_entries(region: &Region) {
    const ENTRY_BYTES: usize = 64 * 1024;
    let len_bytes = usize::try_from(region.len_bytes()).unwrap();
    let parts: Vec<libc::iovec> = (0..len_bytes)
        .step_by(ENTRY_BYTES)
        .map(|offset| libc::iovec { iov_base: region.as_ptr().wrapping_add(offset).cast(), iov_len: ENTRY_BYTES.min(len_bytes - offset) })
        .collect();
    let ring = io_uring::IoUring::new(1).unwrap();
    // SAFETY: the parts lie inside the region, which outlives the registration it owns.
    unsafe { ring.submitter().register_buffers(&parts) }.unwrap();
    // SAFETY: the ring is alive and owns its descriptor.
    let registrar = unsafe { BorrowedFd::borrow_raw(ring.as_raw_fd()) };
    let registrar: OwnedFd = registrar.try_clone_to_owned().unwrap();
    region.pin(Pins { registrar, entries: u16::try_from(parts.len()).unwrap(), entry_bytes: 64 * 1024 });
}

/// Whether pinning is allowed here; says so if not.
fn pinned(region: &Arc<Region>) -> bool {
    match pin(region) {
        Ok(()) => true,
        Err(error) => {
            common::root::skip(&format!("registered memory ({error})"));
            false
        }
    }
}

#[test]
fn pinned_and_unpinned_memory_serve_alike() {
    let scratch = scratch(1024 * KIB);
    let device = open(&scratch, 512);
    let plain = memfd(512 * 1024);
    let whole = memfd(512 * 1024);
    let seams = memfd(512 * 1024);
    if !pinned(&whole) {
        return;
    }
    pin_in_small_entries(&seams);
    let mut rig = rig_with(&device, 8, Options::default());
    for (seed, region) in (20..).zip([&plain, &whole, &seams]) {
        rig.core.map(Arc::clone(region));
        // Inside an entry, over one seam, over several, odd, and in two pieces.
        for (offset, len_bytes) in [(0_u64, 4096_u32), (61_440, 8192), (4096, 409_600), (65_537, 4096), (131_072, 512)] {
            let data = pattern(seed + offset, len_bytes as usize);
            region.write(offset, &data).unwrap();
            let segment = region.segment(offset, len_bytes).unwrap();
            assert_eq!(rig.run(WRITE, 16, len_bytes / 512, &[segment]), Status::Ok);
            assert_eq!(scratch.read_at(16 * 512, len_bytes as usize), data);
            region.zero(offset, u64::from(len_bytes)).unwrap();
            let halves =
                [region.segment(offset, len_bytes - 512).unwrap(), region.segment(offset + u64::from(len_bytes) - 512, 512).unwrap()];
            for segments in [&[segment][..], &halves] {
                assert_eq!(rig.run(Op::Read, 16, len_bytes / 512, segments), Status::Ok);
                let mut got = vec![0; len_bytes as usize];
                region.read(offset, &mut got).unwrap();
                assert!(got == data, "{offset} + {len_bytes}");
                region.zero(offset, u64::from(len_bytes)).unwrap();
            }
        }
        rig.core.unmap(region.id());
        let segment = region.segment(0, 512).unwrap();
        assert_eq!(rig.run(WRITE, 0, 1, &[segment]), Status::Malformed);
    }
}

#[test]
fn regions_come_and_go_while_others_are_read_into() {
    const FLYING: u32 = 64;
    let scratch = scratch(1024 * KIB);
    let device = open(&scratch, 4096);
    let mut rig = rig_with(&device, 128, Options::default());
    let comes_and_goes = memfd(4 * 1024 * 1024);
    let stays = memfd(4 * 1024 * 1024);
    if !pinned(&comes_and_goes) || !pinned(&stays) {
        return;
    }
    rig.core.map(Arc::clone(&stays));
    let expected = pattern(1, 1024 * KIB);
    let mut checked = 0;
    for _ in 0..200 {
        rig.core.map(Arc::clone(&comes_and_goes));
        for tag in 0..FLYING {
            let place = |region: &Region| region.segment(u64::from(tag) * 4096, 4096).unwrap();
            rig.submit(tag, Op::Read, u64::from(tag), 1, &[place(&comes_and_goes)]);
            rig.submit(tag + FLYING, Op::Read, u64::from(tag) + 100, 1, &[place(&stays)]);
        }
        // Announced a second time while everything flies: nothing may move.
        rig.core.map(Arc::clone(&comes_and_goes));
        let mut ours = 0;
        let mut others = 0;
        while ours < FLYING {
            for completion in rig.turn() {
                assert_eq!(completion.status, Status::Ok);
                if completion.tag.0 < FLYING { ours += 1 } else { others += 1 }
            }
        }
        // Requests into the other region may still be in flight; of this one there is none.
        let gone = rig.core.unmap(comes_and_goes.id()).unwrap();
        for tag in 0..FLYING {
            let mut got = [0; 4096];
            gone.read(u64::from(tag) * 4096, &mut got).unwrap();
            assert!(got == expected[tag as usize * 4096..][..4096]);
            checked += 1;
        }
        gone.zero(0, gone.len_bytes()).unwrap();
        let left = FLYING - others;
        assert!(rig.collect(left as usize).iter().all(|completion| completion.status == Status::Ok));
    }
    assert_eq!(checked, 200 * FLYING);
}

#[test]
fn a_region_beyond_the_table_is_served_unregistered() {
    let scratch = scratch(256 * KIB);
    let device = open(&scratch, 512);
    let mut rig = rig_with(&device, 8, Options { buffers_max: 2, ..Options::default() });
    let regions: Vec<_> = (0..4).map(|_| memfd(64 * 1024)).collect();
    for region in &regions {
        if !pinned(region) {
            return;
        }
        rig.core.map(Arc::clone(region));
    }
    for _ in 0..2 {
        for region in &regions {
            assert_eq!(rig.run(Op::Read, 0, 8, &[region.segment(0, 4096).unwrap()]), Status::Ok);
            let mut got = [0; 4096];
            region.read(0, &mut got).unwrap();
            assert!(got == pattern(1, 4096)[..]);
        }
        // The freed place is given to the next that comes.
        rig.core.unmap(regions[0].id());
        rig.core.map(Arc::clone(&regions[3]));
        rig.core.map(Arc::clone(&regions[0]));
    }
}

#[test]
fn pins_are_made_once() {
    let region = memfd(1024 * 1024);
    if !pinned(&region) {
        return;
    }
    let registrar = region.pins().unwrap().registrar.as_raw_fd();
    assert!(pinned(&region));
    assert_eq!((region.pins().unwrap().registrar.as_raw_fd(), region.pins().unwrap().entries), (registrar, 1));
}

#[test]
fn memory_of_an_ordinary_file_is_refused_with_a_reason_and_served_unregistered() {
    let scratch = scratch(256 * KIB);
    let backing = scratch_region();
    let error = pin(&backing).unwrap_err();
    assert!(matches!(error, PinError::Kind { .. }), "{error:?}");
    assert!(error.to_string().contains("memfd"));
    let device = open(&scratch, 512);
    let mut rig = rig_with(&device, 8, Options::default());
    rig.core.map(Arc::clone(&backing));
    assert_eq!(rig.run(Op::Read, 0, 8, &[backing.segment(0, 4096).unwrap()]), Status::Ok);
}

/// Memory that is a file on the disk.
fn scratch_region() -> Arc<Region> {
    let file = tempfile::tempfile_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    file.set_len(65_536).unwrap();
    Region::of_file(file.as_fd(), 0, 65_536).unwrap()
}

#[test]
fn a_limit_too_low_is_said_at_once() {
    // Without the right to exceed it, on a thread of its own: capabilities belong to threads.
    let file = untouched(64 * 1024 * 1024);
    let region = Region::of_file(file.as_fd(), 0, 64 * 1024 * 1024).unwrap();
    let outcome = std::thread::Builder::new()
        .spawn({
            let region = Arc::clone(&region);
            move || {
                let mut sets = rustix::thread::capabilities(None).unwrap();
                sets.effective.remove(rustix::thread::CapabilitySet::IPC_LOCK);
                rustix::thread::set_capabilities(None, sets).unwrap();
                let limit = getrlimit(Resource::Memlock);
                if limit.current.is_none_or(|current| current > 8 << 20) {
                    setrlimit(Resource::Memlock, Rlimit { current: Some(8 << 20), maximum: limit.maximum }).unwrap();
                }
                pin(&region)
            }
        })
        .unwrap()
        .join()
        .unwrap();
    assert!(matches!(outcome, Err(PinError::Limit { needed_bytes: 67_108_864, .. })), "{outcome:?}");
    assert!(region.pins().is_none());
    assert_eq!(rustix::fs::fstat(&file).unwrap().st_blocks, 0, "no page was populated to find out");
}
