//! What a queue has in flight, on record in memory that outlives this process (vhost-user, "Inflight I/O tracking"). Knows no ring and no request.
//!
//! The front end keeps that memory and hands it to whoever serves the queue next. A request
//! is on record before anything of it is touched, and until its completion can be seen, so
//! that a process which is killed leaves behind exactly what has to be done again. Only the
//! order of stores matters for that: the memory is looked at when the writer is gone.
//!
//! The record is written and never read back, but once, by the next process: what lies in
//! it is the front end's word then, and checked like any other.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use spinel_core::mem::{BoundsError, Region, Wrapping};

/// The one layout there is.
const VERSION: u16 = 1;
/// In an entry's first word: its request is in flight.
const IN_FLIGHT: u64 = 1;
/// Bytes before the entries, and of each of them, in the larger of both layouts.
const HEADER_BYTES: u64 = 32;
const ENTRY_BYTES: u64 = 32;
/// A packed descriptor's second word has its length below id and flags, an entry above.
const HALF: u32 = 32;
/// Records of neighbouring queues are written by different cores.
const CACHE_LINE_BYTES: u64 = 64;

/// Where one queue's record lies.
#[derive(Clone, Debug)]
pub struct RecordPlace {
    /// The memory that the front end keeps.
    pub region: Arc<Region>,
    /// Where in it, in bytes.
    pub offset: u64,
}

impl RecordPlace {
    /// Bytes that the record of a queue of `size` descriptors takes, in either layout.
    #[must_use]
    pub fn bytes(size: u16) -> u64 {
        (HEADER_BYTES + ENTRY_BYTES * u64::from(size)).next_multiple_of(CACHE_LINE_BYTES)
    }

    /// Pairs of words from an offset on; their number is a power of two.
    fn pairs(&self, offset: u64, count: u32) -> Result<Wrapping<[u64; 2]>, RecordError> {
        let array = self.region.array(self.offset + offset, count)?;
        Ok(Wrapping::of(array).expect("a power of two"))
    }
}

/// Why a record cannot be gone on with.
#[derive(Debug, PartialEq, Eq)]
pub enum RecordError {
    /// It does not lie (aligned) in its memory.
    Place(BoundsError),
    /// It is of another layout, or of another ring.
    Foreign {
        /// Its version, which should be 1.
        version: u16,
        /// Descriptors of its ring.
        size: u16,
    },
    /// What it says cannot be.
    Broken(&'static str),
}

impl fmt::Display for RecordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Place(error) => write!(f, "{error}"),
            Self::Foreign { version, size } => write!(f, "it has version {version} and is of a ring of {size} descriptors"),
            Self::Broken(what) => write!(f, "{what}"),
        }
    }
}

impl From<BoundsError> for RecordError {
    fn from(error: BoundsError) -> Self {
        Self::Place(error)
    }
}

/// The four 16-bit parts of a word, from the lowest.
fn parts(word: u64) -> [u16; 4] {
    let [a, b, c, d, e, f, g, h] = word.to_ne_bytes();
    [[a, b], [c, d], [e, f], [g, h]].map(u16::from_ne_bytes)
}

fn word([a, b, c, d]: [u16; 4]) -> u64 {
    u64::from(a) | u64::from(b) << 16 | u64::from(c) << 32 | u64::from(d) << 48
}

/// The head that ended before, as an entry of a split ring has it.
fn link(head: u16) -> u64 {
    u64::from(head) << 48
}

/// Whether a record was ever written, and if so, whether for such a ring.
fn written([version, of_size, ..]: [u16; 4], size: u16) -> Result<bool, RecordError> {
    match (version, of_size) {
        (0, _) => Ok(false),
        (VERSION, of_size) if of_size == size => Ok(true),
        (version, size) => Err(RecordError::Foreign { version, size }),
    }
}

/// The record of a split ring (`QueueRegionSplit`): by head, whether its chain is in flight, and when that began.
///
/// Its first two words are the features, which mean nothing yet, and version, size, the head that ended last, and the used
/// index. An entry is a byte that says whether it is in flight, with the head that ended before it in the highest 16 bits,
/// and a counter.
#[derive(Debug)]
pub(super) struct SplitRecord {
    header: Wrapping<[u64; 2]>,
    entries: Wrapping<[u64; 2]>,
    size: u16,
    counter: u64,
    /// The head that ended last, and the used index, as they are on record.
    last: u16,
    used: u16,
    /// Heads that have ended and whose completions may not be seen yet. Within one turn a ring ends at most what it holds, twice.
    ended: Vec<u16>,
    /// What was found on record, the newest first.
    owed: Vec<u16>,
    replaying: bool,
}

impl SplitRecord {
    /// Goes on with a record, or begins one, for a ring whose used index is `used`.
    pub(super) fn open(place: &RecordPlace, size: u16, used: u16, anew: bool) -> Result<Self, RecordError> {
        let header = place.pairs(0, 1)?;
        let entries = place.pairs(16, size.into())?;
        let found = parts(header.get(0)[1]);
        let mut record = Self {
            header,
            entries,
            size,
            counter: 0,
            last: found[2],
            used,
            ended: Vec::with_capacity(2 * usize::from(size)),
            owed: Vec::new(),
            replaying: false,
        };
        if written(found, size)? && !anew {
            record.recover(found[3])?;
        } else {
            // What lies there counts for nothing, from the first of these stores on.
            record.header.store_second(0, 0, Ordering::Relaxed);
            (0..size).for_each(|head| record.entries.store_first(head, 0, Ordering::Release));
            record.last = 0;
        }
        record.header.set_first(0, 0);
        record.put_header();
        Ok(record)
    }

    /// Finds out what is still to be done; `recorded` is the used index on record.
    fn recover(&mut self, recorded: u16) -> Result<(), RecordError> {
        let unsettled = self.used.wrapping_sub(recorded);
        if unsettled > self.size {
            return Err(RecordError::Broken("the used ring went on without it"));
        }
        // These were completed before the last process ended: only it did not come to say so.
        let mut head = self.last;
        for _ in 0..unsettled {
            if head >= self.size {
                return Err(RecordError::Broken("it names a head outside the ring"));
            }
            let next = parts(self.entries.get(head)[0])[3];
            self.entries.store_first(head, link(next), Ordering::Relaxed);
            head = next;
        }
        let entry = |head| (self.entries.get(head), head);
        let mut owed: Vec<_> = (0..self.size).map(entry).filter(|([state, _], _)| state & 0xff == IN_FLIGHT).collect();
        owed.sort_unstable_by_key(|([_, counter], _)| *counter);
        self.counter = owed.last().map_or(0, |([_, counter], _)| counter.wrapping_add(1));
        self.owed = owed.into_iter().rev().map(|(_, head)| head).collect();
        self.replaying = !self.owed.is_empty();
        Ok(())
    }

    /// How many chains were taken and are not done.
    pub(super) fn owed(&self) -> u16 {
        u16::try_from(self.owed.len()).expect("at most the size")
    }

    /// The oldest of them.
    pub(super) fn replay(&mut self) -> Option<u16> {
        let head = self.owed.pop();
        self.replaying = head.is_some();
        head
    }

    /// A chain is in flight from now on. One that is replayed is on record, and keeps its place in the order.
    #[inline(always)]
    pub(super) fn begin(&mut self, head: u16) {
        if self.replaying {
            return;
        }
        self.entries.store_second(head, self.counter, Ordering::Relaxed);
        self.entries.store_first(head, IN_FLIGHT, Ordering::Release);
        self.counter = self.counter.wrapping_add(1);
    }

    /// A chain has ended.
    #[inline(always)]
    pub(super) fn end(&mut self, head: u16) {
        self.entries.store_first(head, IN_FLIGHT | link(self.last), Ordering::Release);
        self.last = head;
        self.ended.push(head);
    }

    /// Those that have ended are about to be seen.
    pub(super) fn announce(&mut self) {
        self.put_header();
    }

    /// They can be seen: the used index says so.
    pub(super) fn settle(&mut self, used: u16) {
        // The links stay: who is killed before the used index is on record leaves nothing else to find these by.
        let mut before = 0;
        for head in self.ended.drain(..) {
            self.entries.store_first(head, link(before), Ordering::Release);
            before = head;
        }
        self.used = used;
        self.put_header();
    }

    fn put_header(&mut self) {
        self.header.store_second(0, word([VERSION, self.size, self.last, self.used]), Ordering::Release);
    }
}

/// A chain of a packed ring as it is on record: its descriptors for used ones may lie over those in the ring.
#[derive(Debug)]
pub(super) struct Kept {
    /// The first of its entries.
    entry: u16,
    /// As in the ring, in the machine's own byte order; at least one, and at most what the ring has.
    pub(super) descriptors: Vec<[u64; 2]>,
}

/// A place in a packed ring that used descriptors have come to: a slot, and whether the wrap counter is 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct UsedPlace {
    pub(super) slot: u16,
    pub(super) wrap: bool,
}

/// The record of a packed ring (`QueueRegionPacked`): chains as lists of entries, one for each descriptor, and a list of free ones.
///
/// Behind the features lie version, size, the first free entry and what that was before the last completions; then the
/// place of used descriptors, what that was before, and the wrap counters of both. An entry's words: whether a chain in
/// flight begins here, the next entry, the chain's last one, their number; a counter; the descriptor's id, flags and
/// length; its address.
#[derive(Debug)]
pub(super) struct PackedRecord {
    header: Wrapping<[u64; 2]>,
    /// Two pairs for each entry.
    entries: Wrapping<[u64; 2]>,
    size: u16,
    counter: u64,
    free: u16,
    free_count: u16,
    used: UsedPlace,
    /// The lists, and each chain's last entry and their number, as they are on record.
    next: Box<[u16]>,
    last: Box<[u16]>,
    count: Box<[u16]>,
    /// By buffer id, the first entry of its chain in flight.
    entry_of: Box<[u16]>,
    /// First entries of chains that have ended and whose completions may not be seen yet.
    ended: Vec<u16>,
    /// What was found on record, the newest first.
    owed: Vec<Kept>,
    /// The entry of the chain that is replayed now.
    replayed: Option<u16>,
}

impl PackedRecord {
    /// Goes on with a record, or begins one at `used`. `is_available` looks into the ring: whether the slot at a place still
    /// holds what the driver made available there.
    pub(super) fn open(
        place: &RecordPlace,
        size: u16,
        used: UsedPlace,
        anew: bool,
        is_available: impl Fn(UsedPlace) -> bool,
    ) -> Result<Self, RecordError> {
        let header = place.pairs(0, 2)?;
        let entries = place.pairs(HEADER_BYTES, 2 * u32::from(size))?;
        let column = || vec![0; usize::from(size)].into_boxed_slice();
        let mut record = Self {
            header,
            entries,
            size,
            counter: 0,
            free: 0,
            free_count: size,
            used,
            next: (1..=size).map(|next| next & (size - 1)).collect(),
            last: column(),
            count: column(),
            entry_of: column(),
            ended: Vec::with_capacity(usize::from(size)),
            owed: Vec::new(),
            replayed: None,
        };
        if written(parts(record.header.get(0)[1]), size)? && !anew {
            record.recover(is_available)?;
        } else {
            // As in a split one.
            record.header.store_second(0, 0, Ordering::Relaxed);
            (0..size).for_each(|entry| record.put_links(entry, 0));
        }
        record.header.set_first(0, 0);
        record.put_used(used_word(record.used, record.used));
        record.put_free(record.free);
        Ok(record)
    }

    fn recover(&mut self, is_available: impl Fn(UsedPlace) -> bool) -> Result<(), RecordError> {
        let [_, _, free, old_free] = parts(self.header.get(0)[1]);
        let [slot, old_slot, wraps, _] = parts(self.header.get(1)[0]);
        let [wrap, old_wrap] = wraps.to_ne_bytes().map(|wrap| wrap != 0);
        let (new, old) = (UsedPlace { slot, wrap }, UsedPlace { slot: old_slot, wrap: old_wrap });
        if [free, old_free, slot, old_slot].iter().any(|at| *at >= self.size) {
            return Err(RecordError::Broken("it names a descriptor outside the ring"));
        }
        // Completions that the driver may have seen count; those that it cannot have seen never were.
        let seen = new == old || !is_available(old);
        self.used = if seen { new } else { old };
        for entry in 0..self.size {
            let at = usize::from(entry);
            [_, self.next[at], self.last[at], self.count[at]] = parts(self.entries.get(2 * entry)[0]);
            if self.next[at] >= self.size {
                return Err(RecordError::Broken("its lists lead outside the ring"));
            }
        }
        // What was completed last stands at the front of the free list, with as many entries as there were used descriptors.
        let mut entry = free;
        for _ in 0..if seen { self.distance(old, new) } else { 0 } {
            self.put_links(entry, 0);
            entry = self.next[usize::from(entry)];
        }
        // Before the lists change, by which they were found: who is killed from here on has nothing left to look for there.
        self.put_used(used_word(self.used, self.used));
        self.find_owed()
    }

    /// How many slots it is from one place to another.
    fn distance(&self, from: UsedPlace, to: UsedPlace) -> u16 {
        let lap = if from.wrap == to.wrap { 0 } else { self.size };
        // Less than a lap forwards; a record that says otherwise is read as some number below twice the size, and no worse.
        to.slot.wrapping_add(lap).wrapping_sub(from.slot) & (self.size << 1).wrapping_sub(1)
    }

    /// Sorts the entries into chains in flight and free ones.
    fn find_owed(&mut self) -> Result<(), RecordError> {
        let mut taken = vec![false; usize::from(self.size)];
        let mut owed = Vec::new();
        for head in 0..self.size {
            let [state, counter] = self.entries.get(2 * head);
            if state & 0xff != IN_FLIGHT {
                continue;
            }
            let mut descriptors = Vec::new();
            let mut entry = head;
            for _ in 0..self.count[usize::from(head)] {
                if std::mem::replace(&mut taken[usize::from(entry)], true) {
                    return Err(RecordError::Broken("two of its chains share an entry"));
                }
                let [kept, address] = self.entries.get(2 * entry + 1);
                descriptors.push([address, kept.rotate_left(HALF)]);
                self.last[usize::from(head)] = entry;
                entry = self.next[usize::from(entry)];
            }
            if descriptors.is_empty() {
                return Err(RecordError::Broken("a chain of no descriptors is in flight"));
            }
            owed.push((counter, Kept { entry: head, descriptors }));
        }
        owed.sort_by_key(|(counter, _)| *counter);
        self.counter = owed.last().map_or(0, |(counter, _)| counter.wrapping_add(1));
        self.owed = owed.into_iter().rev().map(|(_, kept)| kept).collect();
        self.free_count = 0;
        for entry in (0..self.size).rev().filter(|entry| !taken[usize::from(*entry)]) {
            self.next[usize::from(entry)] = std::mem::replace(&mut self.free, entry);
            self.free_count += 1;
            self.put_links(entry, 0);
        }
        Ok(())
    }

    /// How many descriptors of the ring were taken and are not done.
    pub(super) fn owed(&self) -> u16 {
        let count = self.owed.iter().map(|kept| kept.descriptors.len()).sum::<usize>();
        u16::try_from(count).expect("an entry belongs to one chain")
    }

    /// How many more descriptors may be in flight.
    pub(super) fn room(&self) -> u16 {
        self.free_count
    }

    /// How many chains these are.
    pub(super) fn chains_owed(&self) -> usize {
        self.owed.len()
    }

    /// Where used descriptors go on.
    pub(super) fn used(&self) -> UsedPlace {
        self.used
    }

    /// The oldest chain that is not done.
    pub(super) fn replay(&mut self) -> Option<Kept> {
        let kept = self.owed.pop();
        self.replayed = kept.as_ref().map(|kept| kept.entry);
        kept
    }

    /// A chain is in flight from now on: its id, and its `count` descriptors as they are in the ring. One that is replayed
    /// is on record, and keeps its place in the order. Fails if more descriptors are in flight than there are.
    #[inline(always)]
    pub(super) fn begin(&mut self, id: u16, count: usize, descriptors: impl Iterator<Item = [u64; 2]>) -> bool {
        if let Some(entry) = self.replayed {
            self.entry_of[usize::from(id)] = entry;
            return true;
        }
        let count = u16::try_from(count).expect("at most the size");
        if count > self.free_count {
            return false;
        }
        let head = self.free;
        let mut last = head;
        for [address, word] in descriptors {
            last = self.free;
            self.entries.store_second(2 * last + 1, address, Ordering::Relaxed);
            self.entries.store_first(2 * last + 1, word.rotate_left(HALF), Ordering::Relaxed);
            self.free = self.next[usize::from(last)];
        }
        let at = usize::from(head);
        (self.last[at], self.count[at], self.entry_of[usize::from(id)]) = (last, count, head);
        self.entries.store_second(2 * head, self.counter, Ordering::Relaxed);
        // Only now is there a chain, and all of it.
        self.put_links(head, IN_FLIGHT);
        self.counter = self.counter.wrapping_add(1);
        self.free_count -= count;
        self.put_free(self.free);
        true
    }

    /// A chain has ended.
    #[inline(always)]
    pub(super) fn end(&mut self, id: u16) {
        self.ended.push(self.entry_of[usize::from(id)]);
    }

    /// Those that have ended are about to be seen, with used descriptors up to this place.
    pub(super) fn announce(&mut self, used: UsedPlace) {
        let old_free = self.free;
        for head in &self.ended {
            let at = usize::from(*head);
            let last = usize::from(self.last[at]);
            self.next[last] = std::mem::replace(&mut self.free, *head);
            self.free_count += self.count[at];
            // The list's link, while the chain still counts as in flight.
            let in_flight = if last == at { IN_FLIGHT } else { 0 };
            self.put_links(self.last[at], in_flight);
        }
        self.put_free(old_free);
        self.put_used(used_word(used, self.used));
        self.used = used;
    }

    /// They can be seen.
    pub(super) fn settle(&mut self) {
        while let Some(head) = self.ended.pop() {
            self.put_links(head, 0);
        }
        self.put_used(used_word(self.used, self.used));
        self.put_free(self.free);
    }

    fn put_links(&self, entry: u16, in_flight: u64) {
        let at = usize::from(entry);
        let links = word([0, self.next[at], self.last[at], self.count[at]]) | in_flight;
        self.entries.store_first(2 * entry, links, Ordering::Release);
    }

    fn put_free(&self, old_free: u16) {
        self.header.store_second(0, word([VERSION, self.size, self.free, old_free]), Ordering::Release);
    }

    fn put_used(&self, word: u64) {
        self.header.store_first(1, word, Ordering::Release);
    }
}

/// New and old place, and the wrap counters of both.
fn used_word(new: UsedPlace, old: UsedPlace) -> u64 {
    word([new.slot, old.slot, u16::from_ne_bytes([new.wrap.into(), old.wrap.into()]), 0])
}

#[cfg(test)]
mod tests;
