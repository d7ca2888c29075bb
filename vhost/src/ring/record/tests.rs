//! Records as a process leaves them that is killed between any two of its stores, and records that nobody wrote.
//!
//! A step of a record's writer changes words of it in an order that only partly matters. So
//! each step is given as phases: whatever is changed in one phase may be there or not while
//! nothing of the next one is. From each such state the next process must find the same
//! chains in flight; and again from each state in which that one can be killed.

use std::sync::atomic::AtomicU32;

use proptest::prelude::*;

use super::*;

const SIZE: u16 = 8;
/// Of so many words that one phase changes every subset is tried; of more each alone, all but each, and those from either end.
const CHANGES_MAX: usize = 4;

fn place(words: &[u64]) -> RecordPlace {
    let region = Region::anonymous(u64::try_from(8 * words.len()).unwrap()).unwrap();
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    region.write(0, &bytes).unwrap();
    RecordPlace { region, offset: 0 }
}

fn empty() -> RecordPlace {
    place(&vec![0; usize::try_from(RecordPlace::bytes(SIZE) / 8).unwrap()])
}

fn words(place: &RecordPlace) -> Vec<u64> {
    let mut bytes = vec![0; usize::try_from(place.region.len_bytes()).unwrap()];
    place.region.read(0, &mut bytes).unwrap();
    bytes.chunks_exact(8).map(|word| u64::from_ne_bytes(word.try_into().unwrap())).collect()
}

/// Which of so many words may have been changed.
fn subsets(count: usize) -> Vec<u32> {
    let all = (1_u32 << count) - 1;
    if count <= CHANGES_MAX {
        return (0..=all).collect();
    }
    (0..count).flat_map(|at| [1 << at, all ^ 1 << at, all >> at, all & all << at]).collect()
}

/// Every state between two, when the words that `phases` name by their index change in that order.
fn between(before: &[u64], after: &[u64], phases: &[fn(usize) -> bool]) -> Vec<Vec<u64>> {
    let mut states = vec![before.to_vec()];
    let mut now = before.to_vec();
    let mut left: Vec<usize> = (0..before.len()).filter(|at| before[*at] != after[*at]).collect();
    for is_of_phase in phases {
        let (changes, later): (Vec<usize>, Vec<usize>) = left.into_iter().partition(|at| is_of_phase(*at));
        for subset in subsets(changes.len()) {
            let mut state = now.clone();
            changes.iter().enumerate().filter(|(bit, _)| subset & 1 << bit != 0).for_each(|(_, at)| state[*at] = after[*at]);
            states.push(state);
        }
        changes.iter().for_each(|at| now[*at] = after[*at]);
        left = later;
    }
    assert!(left.is_empty(), "words {left:?} change in no phase");
    states.push(now);
    states
}

/// Version, size, list and used index of a split record, or version, size and free lists of a packed one.
fn is_header(at: usize) -> bool {
    at == 1
}

mod split {
    use super::*;

    /// A ring's record, and what has to be on it.
    pub(super) struct Model {
        place: RecordPlace,
        record: SplitRecord,
        in_flight: Vec<u16>,
        ended: Vec<u16>,
        used: u16,
        pub(super) states: usize,
    }

    fn is_entry(at: usize) -> bool {
        at >= 2
    }

    fn owed(mut record: SplitRecord) -> Vec<u16> {
        let owed: Vec<u16> = std::iter::from_fn(|| record.replay()).collect();
        assert_eq!(record.owed(), 0);
        owed
    }

    impl Model {
        pub(super) fn new(used: u16) -> Self {
            let place = empty();
            let record = SplitRecord::open(&place, SIZE, used, false).unwrap();
            Self { place, record, in_flight: Vec::new(), ended: Vec::new(), used, states: 0 }
        }

        pub(super) fn place(&self) -> &RecordPlace {
            &self.place
        }

        pub(super) fn heads(&self) -> (&[u16], &[u16]) {
            (&self.in_flight, &self.ended)
        }

        /// Does a step, and is killed at every point of it: the ring's used index is `used` then.
        fn step(&mut self, used: u16, expected: &[u16], phases: &[fn(usize) -> bool], step: impl FnOnce(&mut SplitRecord)) {
            let before = words(&self.place);
            step(&mut self.record);
            for state in between(&before, &words(&self.place), phases) {
                let place = place(&state);
                assert_eq!(owed(SplitRecord::open(&place, SIZE, used, false).unwrap()), expected);
                for state in between(&state, &words(&place), &[is_entry, is_header]) {
                    let found = SplitRecord::open(&super::place(&state), SIZE, used, false).unwrap();
                    assert_eq!(owed(found), expected, "killed a second time");
                    self.states += 1;
                }
            }
        }

        pub(super) fn begin(&mut self, head: u16) {
            let before = self.in_flight.clone();
            // The counter comes before the flag, and until there is a flag nothing began.
            let counter = 2 + 2 * usize::from(head) + 1;
            let words_before = words(&self.place);
            self.record.begin(head);
            let after = words(&self.place);
            let mut half = words_before;
            half[counter] = after[counter];
            assert_eq!(owed(SplitRecord::open(&place(&half), SIZE, self.used, false).unwrap()), before);
            self.in_flight.push(head);
            let expected = self.in_flight.clone();
            self.step(self.used, &expected, &[], |_| ());
        }

        pub(super) fn end(&mut self, head: u16) {
            let expected = self.in_flight.clone();
            self.step(self.used, &expected, &[is_entry], |record| record.end(head));
            self.ended.push(head);
        }

        pub(super) fn publish(&mut self) {
            let expected = self.in_flight.clone();
            self.step(self.used, &expected, &[is_header], SplitRecord::announce);
            let ended = std::mem::take(&mut self.ended);
            self.used = self.used.wrapping_add(u16::try_from(ended.len()).unwrap());
            self.in_flight.retain(|head| !ended.contains(head));
            let expected = self.in_flight.clone();
            let used = self.used;
            self.step(used, &expected, &[is_entry, is_header], |record| record.settle(used));
        }

        /// The next process: it does what is owed and goes on.
        pub(super) fn reopen(&mut self) {
            self.record = SplitRecord::open(&self.place, SIZE, self.used, false).unwrap();
            self.ended.clear();
            for head in self.in_flight.clone() {
                assert_eq!(self.record.replay(), Some(head));
                self.record.begin(head);
            }
            assert_eq!(self.record.replay(), None);
            let expected = self.in_flight.clone();
            self.step(self.used, &expected, &[], |_| ());
        }
    }
}

mod packed {
    use super::*;

    /// A chain's id, and the number of its descriptors.
    type Chain = (u16, u16);

    /// A ring's record, and what has to be on it.
    pub(super) struct Model {
        place: RecordPlace,
        record: PackedRecord,
        in_flight: Vec<Chain>,
        ended: Vec<Chain>,
        used: UsedPlace,
        pub(super) states: usize,
    }

    fn is_used(at: usize) -> bool {
        at == 2
    }

    fn is_entry(at: usize) -> bool {
        at >= 4
    }

    fn forward(place: UsedPlace, slots: u16) -> UsedPlace {
        let slot = place.slot + slots;
        UsedPlace { slot: slot % SIZE, wrap: place.wrap ^ (slot >= SIZE) }
    }

    fn descriptors(id: u16, count: u16) -> Vec<[u64; 2]> {
        (0..count).map(|at| [u64::from(at) << 12, u64::from(id) << 32 | u64::from(count) << 8 | 1]).collect()
    }

    fn owed(mut record: PackedRecord) -> Vec<Vec<[u64; 2]>> {
        let owed: Vec<_> = std::iter::from_fn(|| record.replay()).map(|kept| kept.descriptors).collect();
        assert_eq!((record.owed(), record.chains_owed()), (0, 0));
        owed
    }

    fn open(words: &[u64], used: UsedPlace, holds: bool) -> (RecordPlace, Vec<Vec<[u64; 2]>>) {
        let place = place(words);
        let record = PackedRecord::open(&place, SIZE, UsedPlace { slot: 1, wrap: false }, false, |_| holds).unwrap();
        assert_eq!(record.used(), used);
        (place, owed(record))
    }

    impl Model {
        pub(super) fn new() -> Self {
            let (place, used) = (empty(), UsedPlace { slot: 5, wrap: true });
            let record = PackedRecord::open(&place, SIZE, used, false, |_| unreachable!()).unwrap();
            Self { place, record, in_flight: Vec::new(), ended: Vec::new(), used, states: 0 }
        }

        pub(super) fn chains(&self) -> (&[Chain], &[Chain]) {
            (&self.in_flight, &self.ended)
        }

        pub(super) fn room(&self) -> u16 {
            SIZE - self.in_flight.iter().map(|(_, count)| count).sum::<u16>()
        }

        fn expected(&self) -> Vec<Vec<[u64; 2]>> {
            self.in_flight.iter().map(|(id, count)| descriptors(*id, *count)).collect()
        }

        /// Does a step, and is killed at every point of it. The ring `holds` at the used place what the driver put there.
        fn step(&mut self, holds: bool, phases: &[fn(usize) -> bool], step: impl FnOnce(&mut PackedRecord)) {
            let before = words(&self.place);
            step(&mut self.record);
            self.check(holds, &between(&before, &words(&self.place), phases));
        }

        fn check(&mut self, holds: bool, states: &[Vec<u64>]) {
            let expected = self.expected();
            for state in states {
                let (place, found) = open(state, self.used, holds);
                assert_eq!(found, expected);
                // Those that had ended are cleared first, then they are settled, then the lists are made anew.
                let after = words(&place);
                let clears = |at: &usize| is_entry(*at) && at.is_multiple_of(4) && state[*at] & !after[*at] & IN_FLIGHT != 0;
                let mut cleared = state.clone();
                (0..state.len()).filter(clears).for_each(|at| cleared[at] &= !IN_FLIGHT);
                let mut states = between(state, &cleared, &[is_entry]);
                states.extend(between(&cleared, &after, &[is_used, is_entry, is_header]));
                for state in states {
                    assert_eq!(open(&state, self.used, holds).1, expected, "killed a second time");
                    self.states += 1;
                }
            }
        }

        pub(super) fn begin(&mut self, id: u16, count: u16) {
            let before = words(&self.place);
            assert!(self.record.begin(id, count.into(), descriptors(id, count).into_iter()));
            let after = words(&self.place);
            // The flag comes with the links of its entry; all that is not a first word of an entry comes before.
            let is_flag = |at: usize| is_entry(at) && at.is_multiple_of(4) && after[at] & IN_FLIGHT > before[at] & IN_FLIGHT;
            let mut unflagged = before.clone();
            (0..before.len()).filter(|at| is_entry(*at) && !is_flag(*at)).for_each(|at| unflagged[at] = after[at]);
            self.check(true, &[before.clone(), unflagged.clone()]);
            self.in_flight.push((id, count));
            (0..after.len()).filter(|at| is_flag(*at)).for_each(|at| unflagged[at] = after[at]);
            self.check(true, &between(&unflagged, &after, &[is_header]));
        }

        pub(super) fn end(&mut self, id: u16, count: u16) {
            self.step(true, &[], |record| record.end(id));
            self.ended.push((id, count));
        }

        pub(super) fn publish(&mut self) {
            let ended = std::mem::take(&mut self.ended);
            let to = forward(self.used, ended.iter().map(|(_, count)| count).sum());
            self.step(true, &[is_entry, is_header, is_used], |record| record.announce(to));
            self.used = to;
            self.in_flight.retain(|chain| !ended.contains(chain));
            self.step(false, &[is_entry, is_used, is_header], PackedRecord::settle);
        }

        /// The next process: it does what is owed and goes on.
        pub(super) fn reopen(&mut self) {
            self.record = PackedRecord::open(&self.place, SIZE, self.used, false, |_| true).unwrap();
            assert_eq!(self.record.used(), self.used);
            self.ended.clear();
            for (id, count) in self.in_flight.clone() {
                assert_eq!(self.record.replay().unwrap().descriptors, descriptors(id, count));
                assert!(self.record.begin(id, count.into(), std::iter::empty()));
            }
            assert!(self.record.replay().is_none());
            self.step(true, &[], |_| ());
        }
    }
}

#[test]
fn head_0_outlives_a_kill_while_others_are_settled() {
    // Of those that have ended nothing but links is left then: followed from one that was forgotten they would lead to head 0.
    let mut model = split::Model::new(65533);
    (0..SIZE).for_each(|head| model.begin(head));
    for batch in [[5, 3, 7].as_slice(), &[1, 2]] {
        batch.iter().for_each(|head| model.end(*head));
        model.publish();
    }
    assert_eq!(model.heads().0, [0, 4, 6]);
    let mut model = packed::Model::new();
    (0..SIZE).for_each(|id| model.begin(id, 1));
    for batch in [[5, 3, 7].as_slice(), &[1, 2]] {
        batch.iter().for_each(|id| model.end(*id, 1));
        model.publish();
    }
    assert_eq!(model.chains().0, [(0, 1), (4, 1), (6, 1)]);
}

#[test]
fn everything_at_once_is_settled_as_well() {
    let mut model = split::Model::new(0);
    (0..SIZE).for_each(|head| model.begin(head));
    (0..SIZE).rev().for_each(|head| model.end(head));
    model.publish();
    assert!(model.heads().0.is_empty());
    let mut model = packed::Model::new();
    for (id, count) in [(3, 5), (2, 3)] {
        model.begin(id, count);
        model.end(id, count);
    }
    model.publish();
    assert_eq!(model.room(), SIZE);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_split_record_says_what_is_in_flight_wherever_its_writer_is_killed(steps in proptest::collection::vec((0_u8..8, 0..SIZE), 1..60)) {
        let mut model = split::Model::new(65520);
        for (step, at) in steps {
            let (in_flight, ended) = model.heads();
            let flying: Vec<u16> = in_flight.iter().copied().filter(|head| !ended.contains(head)).collect();
            match step {
                0 => model.reopen(),
                1 => model.publish(),
                2..=4 if !flying.is_empty() => model.end(flying[usize::from(at) % flying.len()]),
                _ if !in_flight.contains(&at) => model.begin(at),
                _ => {}
            }
        }
        prop_assert!(model.states > 0);
    }

    #[test]
    fn a_packed_record_says_what_is_in_flight_wherever_its_writer_is_killed(
        steps in proptest::collection::vec((0_u8..8, 0..SIZE, 1_u16..4), 1..60),
    ) {
        let mut model = packed::Model::new();
        for (step, at, count) in steps {
            let (in_flight, ended) = model.chains();
            let flying: Vec<_> = in_flight.iter().copied().filter(|chain| !ended.contains(chain)).collect();
            match step {
                0 => model.reopen(),
                1 if !ended.is_empty() => model.publish(),
                2..=4 if !flying.is_empty() => {
                    let (id, count) = flying[usize::from(at) % flying.len()];
                    model.end(id, count);
                }
                _ if in_flight.iter().all(|(id, _)| *id != at) && model.room() >= count => model.begin(at, count),
                _ => {}
            }
        }
        prop_assert!(model.states > 0);
    }
}

/// Anything at all, but mostly what is nearly a record.
fn hostile(size: u16) -> impl Strategy<Value = Vec<u64>> {
    let count = usize::try_from(RecordPlace::bytes(size) / 8).unwrap();
    let part = move || prop_oneof![0..size, 0..2 * size, any::<u16>(), Just(u16::MAX)];
    let like = (part(), part(), part(), 0_u64..4).prop_map(|(a, b, c, flag)| word([0, a, b, c]) | flag);
    let words = proptest::collection::vec(prop_oneof![any::<u64>(), Just(0), Just(u64::MAX), like], count);
    (words, any::<bool>()).prop_map(move |(mut words, like)| {
        if like {
            let [_, _, c, d] = parts(words[1]);
            words[1] = word([VERSION, size, c, d]);
        }
        words
    })
}

proptest! {
    #[test]
    fn whatever_lies_there_is_refused_or_can_be_gone_on_with(
        (size, words) in prop_oneof![Just(1_u16), Just(2), Just(8), Just(16)].prop_flat_map(|size| (Just(size), hostile(size))),
        used in any::<u16>(),
        (wrap, anew, holds) in any::<(bool, bool, bool)>(),
    ) {
        let at = place(&words);
        if let Ok(mut record) = SplitRecord::open(&at, size, used, anew) {
            prop_assert!(record.owed() <= size);
            let mut heads: Vec<u16> = std::iter::from_fn(|| record.replay()).collect();
            heads.iter().for_each(|head| record.begin(*head));
            heads.extend(0..size);
            prop_assert!(heads.iter().all(|head| *head < size));
            for head in 0..size {
                record.begin(head);
                record.end(head);
            }
            record.announce();
            record.settle(used.wrapping_add(size));
            let again = SplitRecord::open(&at, size, used.wrapping_add(size), false);
            prop_assert_eq!(again.unwrap().owed(), 0);
        }
        let at = UsedPlace { slot: used & (size - 1), wrap };
        if let Ok(mut record) = PackedRecord::open(&place(&words), size, at, anew, |_| holds) {
            prop_assert!(record.owed() <= size && record.used().slot < size);
            let mut ids = 0..size;
            while let Some(kept) = record.replay() {
                prop_assert!(!kept.descriptors.is_empty());
                let id = ids.next().unwrap();
                prop_assert!(record.begin(id, 1, std::iter::empty()));
                record.end(id);
            }
            record.announce(at);
            record.settle();
            for id in 0..size {
                prop_assert!(record.begin(id, 1, std::iter::once([1, 2])));
                record.end(id);
            }
            prop_assert!(!record.begin(0, 1, std::iter::once([1, 2])), "there are no more");
            record.announce(at);
            record.settle();
            prop_assert_eq!(record.owed(), 0);
        }
    }
}

#[test]
fn the_largest_ring_has_a_record_as_well() {
    let size = 32768;
    let region = Region::anonymous(RecordPlace::bytes(size) + 64).unwrap();
    let place = RecordPlace { region, offset: 64 };
    let mut record = SplitRecord::open(&place, size, 40000, false).unwrap();
    (0..size).for_each(|head| record.begin(head));
    (0..size).for_each(|head| record.end(head));
    record.announce();
    // Killed here: once when the used index was not stored, and once when it was.
    assert_eq!(SplitRecord::open(&place, size, 40000, false).unwrap().owed(), size);
    assert_eq!(SplitRecord::open(&place, size, 40000_u16.wrapping_add(size), false).unwrap().owed(), 0);
    let (first, lap) = (UsedPlace { slot: 7, wrap: true }, UsedPlace { slot: 7, wrap: false });
    let mut record = PackedRecord::open(&place, size, first, true, |_| true).unwrap();
    (0..size).for_each(|id| assert!(record.begin(id, 1, std::iter::once([0, u64::from(id) << 32]))));
    (0..size).for_each(|id| record.end(id));
    record.announce(lap);
    let before = words(&place);
    let found = PackedRecord::open(&place, size, first, false, |_| true).unwrap();
    assert_eq!((found.owed(), found.used()), (size, first));
    let bytes: Vec<u8> = before.iter().flat_map(|word| word.to_ne_bytes()).collect();
    place.region.write(0, &bytes).unwrap();
    let found = PackedRecord::open(&place, size, first, false, |_| false).unwrap();
    assert_eq!((found.owed(), found.used()), (0, lap), "a whole lap was completed at once");
}

#[test]
fn chains_that_began_when_the_counter_ran_over_come_in_some_order_and_all_of_them() {
    let place = empty();
    let mut record = SplitRecord::open(&place, SIZE, 0, false).unwrap();
    record.counter = u64::MAX;
    (0..4).for_each(|head| record.begin(head));
    let mut found = SplitRecord::open(&place, SIZE, 0, false).unwrap();
    let mut owed: Vec<u16> = std::iter::from_fn(|| found.replay()).collect();
    owed.sort_unstable();
    assert_eq!(owed, [0, 1, 2, 3]);
}

#[test]
fn a_record_that_is_begun_anew_holds_nothing_from_the_first_store_on() {
    let mut model = split::Model::new(3);
    (0..SIZE).for_each(|head| model.begin(head));
    let record = model.place();
    let before = words(record);
    assert_eq!(SplitRecord::open(record, SIZE, 0, true).unwrap().owed(), 0);
    let after = words(record);
    let mut void = before.clone();
    void[1] = 0;
    for state in between(&void, &after, &[|at| at >= 2, is_header]) {
        assert_eq!(SplitRecord::open(&place(&state), SIZE, 0, false).unwrap().owed(), 0);
    }
}

/// The order of stores while a record is taken over cannot be told from what it leaves, so somebody looks meanwhile: as long as
/// the last batch is not noted as settled, the links by which it is found are as they were.
#[test]
fn lists_are_made_anew_only_when_nobody_looks_for_the_last_batch_there_any_more() {
    /// Taking over so often is enough for somebody to come upon a wrong order many times.
    const ROUNDS: u32 = 20_000;
    let place = empty();
    let (begins, ends) = (UsedPlace { slot: 0, wrap: true }, UsedPlace { slot: 3, wrap: true });
    let mut record = PackedRecord::open(&place, SIZE, begins, true, |_| true).unwrap();
    (0..SIZE).for_each(|id| assert!(record.begin(id, 1, std::iter::once([0, u64::from(id) << 32]))));
    [5, 3, 7].into_iter().for_each(|id| record.end(id));
    record.announce(ends);
    let announced = words(&place);
    let bytes = |from: usize, to: usize| announced[from..to].iter().flat_map(|word| word.to_ne_bytes()).collect::<Vec<u8>>();
    let (header, used, entries) = (bytes(0, 2), bytes(2, 3), bytes(4, announced.len()));

    let round = Arc::new(AtomicU32::new(0));
    let observer = {
        let (round, used) = (Arc::clone(&round), place.pairs(16, 1).unwrap());
        let entries = place.pairs(HEADER_BYTES, 2 * u32::from(SIZE)).unwrap();
        let unsettled = announced[2];
        let look = move || {
            let mut looks = 0;
            while round.load(Ordering::Acquire) < ROUNDS {
                let before = round.load(Ordering::Acquire);
                let (was, entry, is) = (used.acquire(0)[0], entries.acquire(2 * 7)[0], used.acquire(0)[0]);
                if [was, is] == [unsettled; 2] && round.load(Ordering::Acquire) == before {
                    assert_eq!(parts(entry)[1], 3, "the entry that ended last leads elsewhere");
                    looks += 1;
                }
            }
            looks
        };
        std::thread::Builder::new().name("observer".to_owned()).spawn(look).unwrap()
    };
    for next in 1..=ROUNDS {
        round.store(next, Ordering::Release);
        place.region.write(32, &entries).unwrap();
        place.region.write(0, &header).unwrap();
        place.region.write(16, &used).unwrap();
        assert_eq!(PackedRecord::open(&place, SIZE, begins, false, |_| false).unwrap().owed(), 5);
    }
    assert!(observer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)) > 0, "nobody looked in between");
}
