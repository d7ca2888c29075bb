//! A second thread that changes shared memory while the server reads it. Knows no answer that would be wrong, as long as there is one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use spinel_mem::{Array, Region};

use crate::guest::{Guest, Kind, RING_SIZE, new_memory, ring_up};
use crate::pen::{IN, INDIRECT, Pen, WRITE};
use crate::wire::{GET_VRING_BASE, words};
use crate::{Entry, Must, Outcome, Surprise, Visit, records};

/// Requests that are sent into each race.
const ROUNDS: u32 = 60;
/// How long the answer to one may be waited for: there need not be one.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };

/// What is changed: which 64-bit word of some memory, and the values it takes in turn.
type Change = (u32, [u64; 2]);

type Story = fn(&mut Visit) -> Outcome;

/// A thread that changes words until it is dropped.
struct Meddler {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Meddler {
    fn start(words: Array<u64>, changes: Vec<Change>) -> Result<Self, Surprise> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let meddle = move || {
            let mut turn = 0_usize;
            while !stopped.load(Ordering::Relaxed) {
                for (at, values) in &changes {
                    words.set(*at, values[turn % 2]);
                }
                turn += 1;
            }
        };
        let thread = std::thread::Builder::new().name("meddler".to_owned()).spawn(meddle)?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Meddler {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            assert!(thread.join().is_ok(), "it does nothing that could panic");
        }
    }
}

fn words_of(region: &Arc<Region>) -> Array<u64> {
    let count = u32::try_from(region.len_bytes() / 8).expect("a small region");
    region.array(0, count).expect("a region of whole words")
}

/// A descriptor's second word.
fn word(len_bytes: u32, flags: u16, next: u16) -> u64 {
    u64::from(len_bytes) | u64::from(flags) << 32 | u64::from(next) << 48
}

/// Where things lie in the scratch memory, in words: the header, and the table that `Pen` writes.
const HEADER: u32 = 0;
const TABLE: u32 = 4096 / 8;

/// Sends usual requests through a table while `changes` are made to the scratch memory, or else to the ring's.
fn race(visit: &mut Visit, in_ring: bool, changes: &[Change]) -> Outcome {
    for round in 0..ROUNDS {
        let region = if in_ring { visit.guest.queues[0].ring.region() } else { &visit.guest.scratch };
        let meddler = Meddler::start(words_of(region), changes.to_vec())?;
        for _ in 0..8 {
            let mut pen = Pen::new(&mut visit.guest);
            let (header, data, status) = (pen.header(IN, u64::from(round)), pen.data(4096, WRITE), pen.status());
            let table = pen.table(&[header, data, status]);
            pen.chain(&[table]);
            pen.publish()?;
        }
        let queue = &visit.guest.queues[0];
        // Whatever comes first: an answer, a fault, or neither.
        let _ = poll(&mut [PollFd::new(&queue.error, PollFlags::IN), PollFd::new(&queue.call, PollFlags::IN)], Some(&LOOK));
        drop(meddler);
        again(visit)?;
    }
    Ok(())
}

/// Sets the first ring up afresh.
fn again(visit: &mut Visit) -> Outcome {
    visit.client.ask(GET_VRING_BASE, &words(&[0, 0]))?;
    visit.guest.renew(0);
    for packet in visit.guest.ring_packets(0)? {
        visit.client.tell(&packet)?;
    }
    visit.guest.queues[0].check(0, 9)
}

/// The address of the scratch memory's data, as `Pen` has it, of a guest with two queues.
fn data_at(guest: &Guest) -> u64 {
    guest.scratch_at() + (128 << 10)
}

pub(crate) fn entries() -> Vec<Entry> {
    let both: [(&str, Story); 10] = [
        ("a header that changes its type", |visit| race(visit, false, &[(HEADER, [0, 13])])),
        ("a header that changes its sector", |visit| race(visit, false, &[(HEADER + 1, [0, u64::MAX])])),
        ("a table whose lengths change", |visit| {
            let high = second_word(visit, WRITE, 2);
            race(visit, false, &[(TABLE + 3, [4096 | high, u64::from(u32::MAX) | high])])
        }),
        ("a table whose addresses change", |visit| {
            let data = data_at(&visit.guest);
            race(visit, false, &[(TABLE + 2, [data, u64::MAX - 4095]), (TABLE, [visit.guest.scratch_at(), 1])])
        }),
        ("a table whose links change", |visit| race(visit, false, &[(TABLE + 3, [word(4096, 3, 2), word(4096, 3, 0)])])),
        ("a table whose flags change", |visit| race(visit, false, &[(TABLE + 5, [word(1, 2, 0), word(1, INDIRECT, 9)])])),
        ("a status whose place changes", |visit| {
            let status = visit.guest.scratch_at() + 64;
            race(visit, false, &[(TABLE + 4, [status, status + (2 << 20)])])
        }),
        ("descriptors whose addresses change", |visit| {
            let table = visit.guest.scratch_at() + 4096;
            let changes: Vec<Change> = (0..u32::from(RING_SIZE)).map(|at| (2 * at, [table, u64::MAX - 7])).collect();
            race(visit, true, &changes)
        }),
        ("descriptors whose lengths and flags change", |visit| {
            let high = if visit.guest.kind == Kind::Packed { 1 << 55 | 4 << 48 } else { 4 << 32 };
            let other = if visit.guest.kind == Kind::Packed { 1 << 63 | 1 << 48 } else { 1 << 32 | 7 << 48 };
            let changes: Vec<Change> = (0..u32::from(RING_SIZE)).map(|at| (2 * at + 1, [48 | high, 0xffff_fff0 | other])).collect();
            race(visit, true, &changes)
        }),
        ("everything about a ring but its descriptors changes", |visit| {
            // But for what the device says of kicks: a driver that reads nonsense there gives up by itself.
            let first = if visit.guest.kind == Kind::Packed { 1 } else { 0 };
            let changes: Vec<Change> =
                (0..16).map(|at| (512 + at, change(at))).chain((first..16).map(|at| (1024 + at, change(at)))).collect();
            race(visit, true, &changes)
        }),
    ];
    let mut entries: Vec<Entry> =
        both.into_iter().flat_map(|(name, act)| Entry::stories(&format!("race: {name}"), Must::Endure, act)).collect();
    entries.extend(Entry::stories("race: a record that changes while rings start", Must::Endure, record_race));
    entries.extend(Entry::stories("race: a log that changes while it is written", Must::Endure, |visit| {
        let file = new_memory(1 << 20)?;
        records::log_to(visit, &file, 0, 1 << 20)?;
        let log = Region::of_file(std::os::fd::AsFd::as_fd(&file), 0, 1 << 20).map_err(|error| Surprise::of(error.to_string()))?;
        let _meddler = Meddler::start(words_of(&log), (4096..8192).map(|at| (at, [0, u64::MAX])).collect())?;
        (0..50).try_for_each(|round| visit.guest.queues[0].check(8 * round, 1))
    }));
    entries
}

/// What stands above the length of a table's entry.
fn second_word(visit: &Visit, flags: u16, next: u16) -> u64 {
    match visit.guest.kind {
        Kind::Split => word(0, flags | 1, next),
        Kind::Packed => u64::from(flags) << 48,
    }
}

/// Two values that mean different things wherever they stand.
fn change(by: u32) -> [u64; 2] {
    let word = u64::from(by).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    [word, word.rotate_left(29) ^ 0x0001_0003_0040_ffff]
}

fn record_race(visit: &mut Visit) -> Outcome {
    let record = records::lend(visit, &new_memory(1 << 16)?, 0)?;
    let header = u64::from_ne_bytes([1, 0, RING_SIZE.to_ne_bytes()[0], 0, 3, 0, 0, 0]);
    for round in 0..30 {
        let entries =
            (4..256).map(|at| (at, [1 | u64::from(at % 64) << 16 | 1 << 48, change(at * (round + 1))[1] & 0x003f_003f_003f_ffff]));
        let changes: Vec<Change> = std::iter::once((1, [header, header | 1 << 48])).chain(entries).collect();
        let meddler = Meddler::start(words_of(&record), changes)?;
        records::start_with(visit, &record, |_| {})?;
        ring_up(&visit.guest.queues[1].kick)?;
        drop(meddler);
    }
    Ok(())
}
