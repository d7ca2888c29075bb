//! In a steady state nothing is allocated: counted, not believed. Knows the device by its contract alone.

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use common::{now, open, rig, scratch};
use spinel_core::mem::Segment;
use spinel_core::{Armed, Completions, Lba, Op, Request, Status, Tag};

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

/// Counts what each thread allocates.
struct Counting;

fn count() {
    // A thread that is ending has nowhere to count any more.
    let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
}

// SAFETY: every call is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, address: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(address, layout) };
    }

    unsafe fn realloc(&self, address: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(address, layout, new_size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The operations of a guest, some of them through bounce chunks, in a fixed mixture.
fn request(turn: u32, segments: &[[Segment; 3]]) -> (Op, u64, u32, &[Segment]) {
    let [one, odd, _] = &segments[turn as usize % segments.len()];
    let start = u64::from(turn.wrapping_mul(2_654_435_761) % 1900);
    match turn % 1000 {
        0 => (Op::Flush, 0, 0, &[]),
        1 => (Op::Discard, start, 8, &[]),
        2 => (Op::WriteZeroes { unmap: false, fua: false }, start, 8, &[]),
        3 => (Op::Read, u64::MAX, 8, std::slice::from_ref(one)),
        4..100 => (Op::Read, start, 8, std::slice::from_ref(odd)),
        100..150 => (Op::Write { fua: false }, start, 8, &segments[turn as usize % segments.len()][2..]),
        150..300 => (Op::Write { fua: false }, start, 8, std::slice::from_ref(one)),
        _ => (Op::Read, start, 8, std::slice::from_ref(one)),
    }
}

#[test]
fn a_hundred_thousand_requests_allocate_nothing() {
    const REQUESTS: u32 = 100_000;
    let scratch = scratch(1024 * 1024);
    let device = open(&scratch, 512);
    let mut rig = rig(&device, 64);
    let memory = rig.region(4 * 1024 * 1024);
    let _ = spinel_uring::pin(&memory);
    rig.core.map(std::sync::Arc::clone(&memory));
    let segments: Vec<[Segment; 3]> = (0..64)
        .map(|slot| {
            let at = slot * 65_536;
            [memory.segment(at, 4096).unwrap(), memory.segment(at + 8191, 4096).unwrap(), memory.segment(at + 16_384, 4096).unwrap()]
        })
        .collect();
    let mut done = Completions::new();
    let (mut sent, mut ended, mut failed, mut sleeps) = (0, 0, 0, 0);
    let before = ALLOCATIONS.get();
    while ended < REQUESTS {
        let turn = now();
        rig.core.reap(turn);
        done.clear();
        rig.channel.poll(turn, &mut done);
        ended += u32::try_from(done.as_slice().len()).unwrap();
        failed += done.as_slice().iter().filter(|completion| completion.status != Status::Ok).count();
        while rig.channel.room() > 0 && sent < REQUESTS {
            let (op, start, blocks, segments) = request(sent, &segments);
            rig.channel.submit(Request { tag: Tag(sent), op, at: turn, start: Lba(start), blocks, segments });
            sent += 1;
        }
        rig.core.flush();
        if done.as_slice().is_empty() && rig.channel.arm().min(rig.core.arm()) == Armed::Idle {
            rig.core.sleep(None, now());
            sleeps += 1;
        }
    }
    assert_eq!(ALLOCATIONS.get() - before, 0);
    assert_eq!(failed, 100, "only those outside the device");
    assert!(sleeps > 0, "sleeping was part of it");
}
