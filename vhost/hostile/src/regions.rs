//! Memory tables that cannot be, and memory that is not what it was. Knows no ring's content.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use spinel_mem::Region;
use spinel_sim::guest::GuestRequest;

use crate::guest::{Kind, MEMORY_NAME, new_memory, ring_up};
use crate::wire::{ADD_MEM_REG, GET_MAX_MEM_SLOTS, Packet, REM_MEM_REG, SET_MEM_TABLE, longs, words};
use crate::{Entry, Must, Outcome, Surprise, Visit};

/// A memory table of these regions (guest address, size, user address, offset), all in one file.
fn table(file: &OwnedFd, regions: &[[u64; 4]]) -> Result<Packet, Surprise> {
    let count = u32::try_from(regions.len()).expect("few regions");
    let body = regions.iter().fold(words(&[count, 0]), |body, region| [body, longs(region)].concat());
    let fds = regions.iter().map(|_| Ok(file.try_clone()?)).collect::<Result<_, Surprise>>()?;
    Ok(Packet::with(SET_MEM_TABLE, body, fds))
}

/// Tables over a file of 1 MiB.
fn impossible() -> Vec<(&'static str, Vec<[u64; 4]>, &'static str)> {
    let many = |count: u64| (0..count).map(|at| [at << 12, 4096, at << 12, at << 12]).collect::<Vec<_>>();
    let mut last_overlaps = many(31);
    last_overlaps.push([0xfff, 4096, 1 << 40, 0]);
    vec![
        ("larger than its file", vec![[0, 2 << 20, 0, 0]], "of a file that has 1048576 bytes"),
        ("behind the end of its file", vec![[0, 4096, 0, 1 << 20]], "of a file that has 1048576 bytes"),
        ("one byte behind the end of its file", vec![[0, 1 << 20, 0, 1]], "of a file that has 1048576 bytes"),
        ("of 2^63 bytes", vec![[0, 1 << 63, 0, 0]], "bytes of shared memory"),
        ("of 2^64-1 bytes", vec![[0, u64::MAX, 0, 0]], "bytes of shared memory"),
        ("of 8 TiB", vec![[0, 1 << 43, 0, 0]], "bytes of shared memory"),
        ("together beyond 2^64 bytes", vec![[0, 4096, 0, 0], [1 << 20, u64::MAX, 0, 0]], "bytes of shared memory"),
        ("at an offset near 2^64", vec![[0, 4096, 0, u64::MAX - 100]], "overflows"),
        ("of no bytes", vec![[0, 0, 0, 0]], "is empty or overflows"),
        ("past the last guest address", vec![[u64::MAX - 100, 4096, 0, 0]], "past the last address"),
        ("past the last user address", vec![[0, 4096, u64::MAX - 100, 0]], "past the last address"),
        ("over another one", vec![[0, 8192, 0, 0], [4096, 8192, 0x10_0000, 0]], "overlaps another"),
        ("twice", vec![[0, 4096, 0, 0], [0, 4096, 0, 0]], "overlaps another"),
        ("around another one", vec![[4096, 4096, 4096, 0], [0, 1 << 20, 0, 0]], "overlaps another"),
        ("over the first of 31 others", last_overlaps, "overlaps another"),
    ]
}

pub(crate) fn entries() -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    for (name, regions, reason) in impossible() {
        let packet = move |_: &_| table(&new_memory(1 << 20)?, &regions);
        entries.push(Entry::request(&format!("memory: a region {name}"), Must::Refuse(reason), packet));
    }
    entries.push(Entry::story(
        "memory: a table of none under running rings",
        Must::Fault("are not all guest memory"),
        Kind::Split,
        |visit| visit.client.tell(&Packet::new(SET_MEM_TABLE, words(&[0, 0]))),
    ));
    entries.push(Entry::story("memory: other memory under running rings", Must::Fault("are not all guest memory"), Kind::Split, |visit| {
        visit.client.tell(&table(&new_memory(1 << 20)?, &[[0, 1 << 20, 0, 0]])?)
    }));
    entries.push(Entry::story("memory: zeroes under running rings", Must::Endure, Kind::Split, |visit| {
        let region = visit.guest.region();
        visit.client.tell(&table(&new_memory(visit.guest.len_bytes)?, &[region])?)?;
        ring_up(&visit.guest.queues[0].kick)
    }));
    entries.push(Entry::story(
        "memory: running rings at other user addresses",
        Must::Fault("are not all guest memory"),
        Kind::Packed,
        |visit| {
            let [guest, len_bytes, user, _] = visit.guest.region();
            visit.client.tell(&table(&visit.guest.memory.try_clone()?, &[[guest, len_bytes, user + 4096, 0]])?)
        },
    ));
    entries.push(Entry::story("memory: running rings where nothing is aligned", Must::Fault("is not aligned"), Kind::Split, |visit| {
        let [guest, len_bytes, user, _] = visit.guest.region();
        visit.client.tell(&table(&visit.guest.memory.try_clone()?, &[[guest, len_bytes - 1, user, 1]])?)
    }));
    entries.extend(Entry::stories("memory: the region of running rings taken away", Must::Fault("are not all guest memory"), |visit| {
        let [guest, len_bytes, user, _] = visit.guest.region();
        visit.tell(REM_MEM_REG, longs(&[0, guest, len_bytes, user, 0]))
    }));
    entries.push(Entry::story("memory: as many regions as there may be, and one more", Must::Endure, Kind::Split, too_many));
    entries.push(Entry::story("memory: regions come and go under load", Must::Endure, Kind::Packed, comes_and_goes));
    entries.push(Entry::story("memory: 4 TiB of nothing", Must::Endure, Kind::Split, |visit| {
        visit.tell_with(ADD_MEM_REG, longs(&[0, 1 << 46, (1 << 42) - (1 << 30), 1 << 46, 0]), new_memory(1 << 42)?)
    }));
    entries.push(Entry::story("memory: a page that is cut at both ends", Must::Endure, Kind::Split, |visit| {
        visit.tell_with(ADD_MEM_REG, longs(&[0, 1 << 40, 1, 1 << 40, 4095]), new_memory(1 << 20)?)
    }));
    entries.extend(Entry::stories("memory: all of it disappears", Must::Fault("has disappeared"), |visit| shrinks(visit, 0)));
    entries.extend(Entry::stories("memory: all but the ring disappears", Must::Fault("has disappeared"), |visit| shrinks(visit, 64 << 10)));
    // Whoever looks only afterwards finds zeroes, which mean a fault or nothing at all.
    entries.extend(Entry::stories("memory: it disappears and comes back", Must::Endure, |visit| {
        let len_bytes = visit.guest.len_bytes;
        shrinks(visit, 0)?;
        Ok(ftruncate(&visit.guest.memory, len_bytes)?)
    }));
    entries.push(Entry::story(
        "memory: 31 regions of 65 pages each disappear",
        Must::Fault("has disappeared"),
        Kind::Split,
        many_disappear,
    ));
    entries.push(Entry::story("memory: huge pages that the machine does not have", Must::Endure, Kind::Split, huge_pages));
    entries
}

fn too_many(visit: &mut Visit) -> Outcome {
    let slots = visit.client.ask(GET_MAX_MEM_SLOTS, &[])?;
    let slots = u64::from_ne_bytes(slots.try_into().map_err(|_| Surprise::of("the number of slots is no number".to_owned()))?);
    let file = new_memory(1 << 20)?;
    let add =
        |at: u64| Ok::<_, Surprise>(Packet::with(ADD_MEM_REG, longs(&[0, at << 12, 4096, at << 12, at << 12]), vec![file.try_clone()?]));
    // One is the rings'.
    for at in 1..slots {
        visit.client.tell(&add(at)?)?;
    }
    if visit.client.result_of(&add(slots)?)? == 0 {
        return Err(Surprise::of(format!("a region more than {slots} was taken")));
    }
    visit.guest.queues[0].check(0, 1)
}

fn comes_and_goes(visit: &mut Visit) -> Outcome {
    let file = new_memory(1 << 20)?;
    for round in 0..20 {
        let region = longs(&[0, 0, 1 << 20, 0, 0]);
        visit.tell_with(ADD_MEM_REG, region.clone(), file.try_clone()?)?;
        visit.guest.queues[0].check(8 * round, 3)?;
        visit.tell(REM_MEM_REG, region)?;
        visit.guest.queues[1].check(800 + 8 * round, 4)?;
    }
    Ok(())
}

/// Cuts the memory down, and has the first ring used.
fn shrinks(visit: &mut Visit, keep_bytes: u64) -> Outcome {
    visit.guest.queues[0].check(0, 1)?;
    ftruncate(&visit.guest.memory, keep_bytes)?;
    // This process's mapping is as broken as theirs, and mended in the same way; with the ring gone a kick is all that is left.
    if keep_bytes > 0 {
        visit.guest.queues[0].post([GuestRequest::write(0, 4096)])?;
    }
    ring_up(&visit.guest.queues[0].kick)
}

/// Has the disk read into all pages of many regions, whose files are empty by then: one page more than are replaced singly.
fn many_disappear(visit: &mut Visit) -> Outcome {
    const PAGES: u64 = 65;
    let len_bytes = PAGES * 4096;
    let mut files = Vec::new();
    for at in 1..32_u64 {
        let file = new_memory(len_bytes)?;
        visit.tell_with(ADD_MEM_REG, longs(&[0, at << 32, len_bytes, at << 32, 0]), file.try_clone()?)?;
        files.push(file);
    }
    for file in &files {
        ftruncate(file, 0)?;
    }
    let (status, table) = (visit.guest.scratch_at(), visit.guest.scratch_at() + 4096);
    for at in 1..32_u64 {
        // A header out of the first page, and data into each of the others: every one is missing.
        let first = [at << 32, 16 | 1 << 32 | 1 << 48];
        let other = |page: u64| [(at << 32) + page * 4096, 512 | 3 << 32 | (page + 1) << 48];
        let mut entries: Vec<[u64; 2]> = std::iter::once(first).chain((1..PAGES).map(other)).collect();
        entries.push([status, 1 | 2 << 32]);
        let words = visit.guest.scratch.array::<[u64; 2]>(4096, 66).expect("inside the region");
        (0..).zip(entries).for_each(|(place, entry)| words.set(place, entry));
        visit.guest.queues[0].ring.descriptors.set(0, [table, (66 * 16) | (4 << 32)]);
        visit.guest.queues[0].ring.offer(0);
    }
    visit.guest.queues[0].ring.publish();
    ring_up(&visit.guest.queues[0].kick)
}

/// Puts the data of a request into huge pages. A machine that has some serves it; one that has none loses the memory.
fn huge_pages(visit: &mut Visit) -> Outcome {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB;
    let file = memfd_create(MEMORY_NAME, flags)?;
    ftruncate(&file, 4 << 20)?;
    visit.tell_with(ADD_MEM_REG, longs(&[0, 1 << 40, 4 << 20, 1 << 40, 0]), file.try_clone()?)?;
    // As far as this process can map it, so can they.
    Region::of_file(file.as_fd(), 0, 4 << 20).map_err(|error| Surprise::of(error.to_string()))?;
    let header = visit.guest.scratch_at();
    visit.guest.scratch.write(0, &[0; 16]).expect("inside the region");
    let descriptors = &visit.guest.queues[0].ring.descriptors;
    descriptors.set(0, [header, 16 | 1 << 32 | 1 << 48]);
    descriptors.set(1, [1 << 40, 4096 | 3 << 32 | 2 << 48]);
    descriptors.set(2, [header + 16, 1 | 2 << 32]);
    visit.guest.queues[0].ring.offer(0);
    visit.guest.queues[0].ring.publish();
    ring_up(&visit.guest.queues[0].kick)
}
