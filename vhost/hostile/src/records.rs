//! The memory that a front end lends for records of what is in flight and for logs of what was written, in all the shapes that it must not have.
//!
//! Source: QEMU's `docs/interop/vhost-user.rst`, "Inflight I/O tracking" and "Migration".

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::ftruncate;
use spinel_mem::Region;

use crate::guest::{Guest, Kind, RING_SIZE, new_memory, ring_up};
use crate::pen::{IN, Pen, WRITE};
use crate::wire::{
    ADD_MEM_REG, GET_INFLIGHT_FD, GET_VRING_BASE, LOG_ALL, PLAIN, Packet, SET_FEATURES, SET_INFLIGHT_FD, SET_LOG_BASE, SET_LOG_FD,
    SET_VRING_ADDR, SET_VRING_BASE, SET_VRING_KICK, SET_VRING_NUM, longs, words,
};
use crate::{Entry, Must, Outcome, Surprise, Visit, sequences};

/// Bytes of a record of two rings.
pub(crate) const RECORD_BYTES: u64 = 2 * (32 + 32 * RING_SIZE as u64).next_multiple_of(64);
/// A log with a bit for each page up to guest address 2 GiB and 64 MiB.
const LOG_BYTES: u64 = (2048 + 64) << 20 >> 15;

/// Size, offset, queues and descriptors of each.
fn description(len_bytes: u64, offset: u64, queues: u16, size: u16) -> Vec<u8> {
    [longs(&[len_bytes, offset]), words(&[u32::from(queues) | u32::from(size) << 16])].concat()
}

pub(crate) fn entries() -> Vec<Entry> {
    let mut entries = Vec::new();
    let shapes = [
        ("of no queues", description(1 << 20, 0, 0, 64), "a record of 0 queues"),
        ("of 65 queues", description(1 << 20, 0, 65, 64), "a record of 65 queues"),
        ("of 65,535 queues", description(u64::MAX, 0, u16::MAX, 64), "a record of 65535 queues"),
        ("of no descriptors", description(1 << 20, 0, 1, 0), "of 0 descriptors"),
        ("of 100 descriptors", description(1 << 20, 0, 1, 100), "of 100 descriptors"),
        ("of 65,535 descriptors", description(1 << 20, 0, 1, u16::MAX), "of 65535 descriptors"),
    ];
    for (name, body, reason) in shapes {
        let (asked, given) = (body.clone(), body);
        let ask = move |_: &Guest| Ok(Packet::new(GET_INFLIGHT_FD, asked.clone()));
        entries.push(Entry::request(&format!("record: one asked for {name}"), Must::Close(reason), ask));
        let give = move |_: &Guest| Ok(Packet::with(SET_INFLIGHT_FD, given.clone(), vec![new_memory(1 << 20)?]));
        entries.push(Entry::request(&format!("record: one {name}"), Must::Refuse(reason), give));
    }
    let places = [
        ("shorter than its queues need", description(RECORD_BYTES - 64, 0, 2, RING_SIZE), "bytes of a record, of which"),
        ("behind the end of its file", description(RECORD_BYTES, 1 << 20, 2, RING_SIZE), "the memory of the record"),
        ("at the last offset", description(RECORD_BYTES, u64::MAX - 64, 2, RING_SIZE), "the memory of the record"),
    ];
    for (name, body, reason) in places {
        let give = move |_: &Guest| Ok(Packet::with(SET_INFLIGHT_FD, body.clone(), vec![new_memory(1 << 20)?]));
        entries.push(Entry::request(&format!("record: one {name}"), Must::Refuse(reason), give));
    }
    let logs = [
        ("of no bytes", [0, 0], "a log of 0 bytes"),
        ("of 2^40 bytes", [1 << 40, 0], "a log of"),
        ("of 2^64-1 bytes", [u64::MAX, 0], "a log of"),
        ("larger than its file", [2 << 20, 0], "the log cannot be mapped"),
        ("behind the end of its file", [4096, 1 << 20], "the log cannot be mapped"),
        ("at the last offset", [4096, u64::MAX - 64], "the log cannot be mapped"),
    ];
    for (name, place, reason) in logs {
        let give = move |_: &Guest| Ok(Packet::with(SET_LOG_BASE, longs(&place), vec![new_memory(1 << 20)?]));
        entries.push(Entry::request(&format!("log: one {name}"), Must::Close(reason), give));
    }
    entries.extend(contents());
    entries.extend(under_load());
    entries
}

/// Words of a record from its beginning: features, then version, size, and two places; and so on.
type Write = fn(&Region);

fn put(record: &Region, at: u64, parts: [u16; 4]) {
    let bytes: Vec<u8> = parts.iter().flat_map(|part| part.to_ne_bytes()).collect();
    record.write(at, &bytes).expect("inside the record");
}

/// Version, size, and two more.
fn head(record: &Region, third: u16, fourth: u16) {
    put(record, 8, [1, RING_SIZE, third, fourth]);
}

/// Where the first word of an entry lies.
fn split_entry(index: u16) -> u64 {
    16 + 16 * u64::from(index)
}

fn packed_entry(index: u16) -> u64 {
    32 + 32 * u64::from(index)
}

/// What may be found on record, and what is said of it.
fn contents() -> Vec<Entry> {
    const BROKEN: [(&str, Kind, &str, Write); 13] = [
        ("of version 2", Kind::Split, "it has version 2", |record| put(record, 8, [2, RING_SIZE, 0, 0])),
        ("of version 2", Kind::Packed, "it has version 2", |record| put(record, 8, [2, RING_SIZE, 0, 0])),
        ("of a ring of another size", Kind::Split, "is of a ring of 128 descriptors", |record| put(record, 8, [1, 128, 0, 0])),
        ("of a ring of another size", Kind::Packed, "is of a ring of 0 descriptors", |record| put(record, 8, [1, 0, 0, 0])),
        ("of a used index far away", Kind::Split, "the used ring went on without it", |record| head(record, 0, 30000)),
        ("that ended at a head outside", Kind::Split, "it names a head outside the ring", |record| head(record, RING_SIZE, u16::MAX)),
        ("with all heads in flight, and nothing in the ring", Kind::Split, "are not all guest memory", |record| {
            head(record, 0, 0);
            (0..RING_SIZE).for_each(|at| put(record, split_entry(at), [1, 0, 0, 0]));
        }),
        ("with a free list that begins outside", Kind::Packed, "it names a descriptor outside the ring", |record| {
            head(record, u16::MAX, 0)
        }),
        ("with a place outside", Kind::Packed, "it names a descriptor outside the ring", |record| {
            head(record, 0, 0);
            put(record, 16, [RING_SIZE, 0, 0x0101, 0]);
        }),
        ("with a link outside", Kind::Packed, "its lists lead outside the ring", |record| {
            head(record, 0, 0);
            put(record, packed_entry(5), [0, RING_SIZE, 0, 0]);
        }),
        ("with a chain of nothing", Kind::Packed, "a chain of no descriptors", |record| {
            head(record, 0, 0);
            put(record, packed_entry(5), [1, 0, 0, 0]);
        }),
        ("with a chain of 65,535", Kind::Packed, "share an entry", |record| {
            head(record, 0, 0);
            put(record, packed_entry(5), [1, 5, 5, u16::MAX]);
        }),
        ("with an id outside, in flight", Kind::Packed, "is outside its table", |record| {
            head(record, 0, 0);
            put(record, packed_entry(5), [1, 6, 5, 1]);
            put(record, packed_entry(5) + 16, [RING_SIZE, 0, 16, 0]);
        }),
    ];
    let mut entries: Vec<Entry> = Vec::new();
    for (name, kind, reason, write) in BROKEN {
        entries.push(Entry {
            name: format!("record: one {name}, {}", kind.word()),
            must: Must::Fault(reason),
            act: crate::Act::Recorded(kind, write),
        });
    }
    entries.push(Entry::story("record: a ring stopped while it does again what it cannot", Must::Endure, Kind::Split, stopped_while_owing));
    entries.extend(Entry::stories("record: 200 of random content", Must::Endure, random_contents));
    entries.extend(Entry::stories("record: one that names every descriptor, in every order", Must::Endure, |visit| {
        let record = lend(visit, &new_memory(RECORD_BYTES)?, 0)?;
        for step in 1..RING_SIZE {
            start_with(visit, &record, |record| {
                head(record, step, step);
                for at in 0..RING_SIZE {
                    let next = at.wrapping_mul(step) % RING_SIZE;
                    put(record, split_entry(at), [u16::from(at % 3 == 0), 0, 0, next]);
                }
            })?;
        }
        Ok(())
    }));
    entries
}

/// Lends memory for a record, and answers it as it is mapped here.
pub(crate) fn lend(visit: &mut Visit, file: &OwnedFd, offset: u64) -> Result<Arc<Region>, Surprise> {
    visit.tell_with(SET_INFLIGHT_FD, description(RECORD_BYTES, offset, 2, RING_SIZE), file.try_clone()?)?;
    Region::of_file(file.as_fd(), offset, RECORD_BYTES).map_err(|error| Surprise::of(error.to_string()))
}

/// Has both rings start over a record with this content: as after a crash of the server, so that it counts.
pub(crate) fn start_with(visit: &mut Visit, record: &Region, write: impl Fn(&Region)) -> Outcome {
    for index in 0..2 {
        visit.client.ask(GET_VRING_BASE, &words(&[index, 0]))?;
        visit.guest.renew(usize::try_from(index).expect("two rings"));
    }
    record.zero(0, record.len_bytes()).expect("the whole record");
    write(record);
    for index in 0..2 {
        for packet in visit.guest.ring_packets(index)?.iter().filter(|packet| packet.code != SET_VRING_BASE) {
            visit.client.tell(packet)?;
        }
        ring_up(&visit.guest.queues[usize::try_from(index).expect("two rings")].kick)?;
    }
    visit.client.sync()
}

/// Has a long ring do again a thousand flushes, and then a chain that leads outside, and stops it meanwhile.
fn stopped_while_owing(visit: &mut Visit) -> Outcome {
    const LONG: u16 = 1024;
    const OWED: u16 = 1000;
    let file = new_memory(1 << 17)?;
    visit.tell_with(SET_INFLIGHT_FD, description(1 << 17, 0, 2, LONG), file.try_clone()?)?;
    let record = Region::of_file(file.as_fd(), 0, 1 << 17).map_err(|error| Surprise::of(error.to_string()))?;
    let (user, header, status) = (visit.guest.scratch_user() + (128 << 10), visit.guest.scratch_at(), visit.guest.scratch_at() + 64);
    let place = longs(&[user, user + (64 << 10), user + (32 << 10), 0]);
    visit.guest.scratch.write(0, &4_u64.to_le_bytes()).expect("inside the region");
    let descriptors = visit.guest.scratch.array::<[u64; 2]>(128 << 10, u32::from(LONG)).expect("inside the region");
    (0..u32::from(LONG)).for_each(|at| descriptors.set(at, [header, 16 | 1 << 32 | u64::from(LONG - 1) << 48]));
    descriptors.set(u32::from(LONG - 1), [status, 1 | 2 << 32]);
    descriptors.set(u32::from(OWED - 1), [header, 16 | 1 << 32 | u64::from(u16::MAX) << 48]);
    for _ in 0..20 {
        visit.client.ask(GET_VRING_BASE, &words(&[0, 0]))?;
        visit.guest.scratch.zero(192 << 10, 16 << 10).expect("inside the region");
        put(&record, 8, [1, LONG, 0, 0]);
        (0..OWED).for_each(|head| put(&record, split_entry(head), [1, 0, 0, 0]));
        (0..OWED).for_each(|head| put(&record, split_entry(head) + 8, [head, 0, 0, 0]));
        visit.tell(SET_VRING_NUM, words(&[0, u32::from(LONG)]))?;
        visit.tell(SET_VRING_ADDR, [words(&[0, 0]), place.clone()].concat())?;
        // Both at once, so that the ring is told to stop as soon as it runs.
        let start = Packet::with(SET_VRING_KICK, longs(&[0]), vec![visit.guest.queues[0].kick.try_clone()?]);
        visit.client.send_packet(&start, PLAIN)?;
        visit.client.ask(GET_VRING_BASE, &words(&[0, 0]))?;
    }
    Ok(())
}

fn random_contents(visit: &mut Visit) -> Outcome {
    let record = lend(visit, &new_memory(RECORD_BYTES)?, 0)?;
    let mut prng = spinel_sim::Prng::new(0x1417);
    for round in 0..200 {
        let mut bytes = vec![0; usize::try_from(RECORD_BYTES).expect("small")];
        prng.fill(&mut bytes);
        // Small numbers get further than large ones.
        if round % 2 == 0 {
            bytes.iter_mut().for_each(|byte| *byte = if *byte < 100 { *byte % 64 } else { 0 });
        }
        start_with(visit, &record, |record| {
            record.write(0, &bytes).expect("the whole record");
            head(record, u16::from(bytes[0] % 64), u16::from(bytes[1] % 2));
        })?;
    }
    Ok(())
}

fn under_load() -> Vec<Entry> {
    let mut entries = vec![
        Entry::story("log: one too small for its memory", Must::Fault("there is no log of all memory"), Kind::Packed, |visit| {
            log_to(visit, &new_memory(4096)?, 0, 4096)
        }),
        Entry::story("log: every page of 4 GiB, 126 times in one request", Must::Endure, Kind::Split, pages_without_end),
        Entry::story("log: the writes of the largest ring there is", Must::Endure, Kind::Split, |visit| {
            log_to(visit, &new_memory(LOG_BYTES)?, 0, LOG_BYTES)?;
            sequences::large_ring(visit, 0)
        }),
        Entry::story("log: an eventfd that nobody writes to", Must::Endure, Kind::Split, |visit| {
            visit.tell_with(SET_LOG_FD, vec![], crate::guest::new_eventfd()?)
        }),
    ];
    entries.extend(Entry::stories("record: one that disappears under load", Must::Endure, |visit| {
        let file = new_memory(RECORD_BYTES)?;
        lend(visit, &file, 0)?;
        check_both(visit)?;
        ftruncate(&file, 0)?;
        check_both(visit)
    }));
    entries.extend(Entry::stories("record: one that has disappeared before its rings start", Must::Endure, |visit| {
        let file = new_memory(RECORD_BYTES)?;
        let record = lend(visit, &file, 0)?;
        ftruncate(&file, 0)?;
        start_with(visit, &record, |_| {})
    }));
    entries.extend(Entry::stories("record: one over the rings themselves", Must::Endure, |visit| {
        let memory = visit.guest.memory.try_clone()?;
        lend(visit, &memory, 0)?;
        ring_up(&visit.guest.queues[0].kick)
    }));
    entries.extend(Entry::stories("record: one at an odd offset", Must::Fault("do not lie (aligned) inside"), |visit| {
        visit.tell_with(SET_INFLIGHT_FD, description(RECORD_BYTES, 4, 2, RING_SIZE), new_memory(1 << 20)?)
    }));
    entries.extend(Entry::stories("record: 50 of them under load", Must::Endure, |visit| {
        for _ in 0..50 {
            lend(visit, &new_memory(RECORD_BYTES)?, 0)?;
            visit.client.ask(GET_INFLIGHT_FD, &description(0, 0, 64, 32768))?;
            check_both(visit)?;
        }
        Ok(())
    }));
    entries.extend(Entry::stories("log: one that disappears under load", Must::Endure, |visit| {
        let file = new_memory(LOG_BYTES)?;
        log_to(visit, &file, 0, LOG_BYTES)?;
        check_both(visit)?;
        ftruncate(&file, 0)?;
        check_both(visit)
    }));
    entries.extend(Entry::stories("log: one over the rings themselves", Must::Endure, |visit| {
        let (file, len_bytes) = (visit.guest.memory.try_clone()?, visit.guest.len_bytes);
        log_to(visit, &file, 0, LOG_BYTES.min(len_bytes))?;
        ring_up(&visit.guest.queues[0].kick)
    }));
    entries.extend(Entry::stories("log: 50 of them under load", Must::Endure, |visit| {
        for _ in 0..50 {
            log_to(visit, &new_memory(LOG_BYTES)?, 0, LOG_BYTES)?;
            check_both(visit)?;
        }
        Ok(())
    }));
    entries
}

fn check_both(visit: &mut Visit) -> Outcome {
    visit.guest.queues[0].check(0, 1)?;
    visit.guest.queues[1].check(8, 2)
}

/// Has every write logged.
pub(crate) fn log_to(visit: &mut Visit, file: &OwnedFd, offset: u64, len_bytes: u64) -> Outcome {
    visit.client.ask_with(&Packet::with(SET_LOG_BASE, longs(&[len_bytes, offset]), vec![file.try_clone()?]))?;
    visit.tell(SET_FEATURES, longs(&[visit.guest.kind.features() | LOG_ALL]))
}

/// One request that cannot be done, and whose buffers are 4 GiB each: all the same.
fn pages_without_end(visit: &mut Visit) -> Outcome {
    const LARGE_AT: u64 = 8 << 30;
    const LARGE_BYTES: u64 = 4 << 30;
    visit.tell_with(ADD_MEM_REG, longs(&[0, LARGE_AT, LARGE_BYTES, LARGE_AT, 0]), new_memory(LARGE_BYTES)?)?;
    log_to(visit, &new_memory(1 << 20)?, 0, 1 << 20)?;
    let mut pen = Pen::new(&mut visit.guest);
    let large = crate::pen::Buffer { address: LARGE_AT, len_bytes: u32::MAX, flags: WRITE };
    let table = pen.table(&[&[pen.header(IN, 0)][..], &[large; 126], &[pen.status()]].concat());
    pen.chain(&[table]);
    pen.publish()?;
    visit.client.sync()
}
