//! A ring and its record as somebody sees them who looks while they are written: a process can be killed at any of these instants.
//!
//! Two words that are not one cannot be looked at in one instant. So the one is looked at
//! before and after the other: if it is the same both times, it was so in between.

use super::*;

const SIZE: u16 = 16;
/// Looks at where it matters that are enough: a wrong order of stores is seen by the first of them.
const LOOKS: u32 = 1_000;
/// Laps of the ring within which there are as many, but on a machine that is busy with something else.
const LAPS_MAX: u32 = 1_000_000;
/// In a used or an available descriptor of a packed ring's first lap.
const AVAILABLE: u64 = 1 << 55;
const USED: u64 = 1 << 63;

/// The four 16-bit parts of a word, from the lowest.
fn parts(word: u64) -> [u16; 4] {
    [0, 16, 32, 48].map(|shift| u16::try_from(word >> shift & 0xffff).unwrap())
}

/// What an observer sees at one instant, if it sees any one.
struct Observer {
    /// The guest's ring: its used index and elements, or its descriptors.
    used: Array<u16>,
    elements: Array<u32>,
    descriptors: Wrapping<[u64; 2]>,
    record: Wrapping<[u64; 2]>,
    /// What is compared with itself looks the same a lap or two later.
    lap: Arc<AtomicU32>,
}

impl Observer {
    fn of(guest: &SimGuest, place: &RecordPlace) -> Self {
        let region = guest.region();
        let array = |address: u64| address - addresses(guest).descriptors;
        let RingAddresses { descriptors, used, .. } = addresses(guest);
        Self {
            used: region.array(array(used), 2).unwrap(),
            elements: region.array(array(used) + 4, 2 * u32::from(SIZE)).unwrap(),
            descriptors: Wrapping::of(region.array(array(descriptors), SIZE.into()).unwrap()).unwrap(),
            record: Wrapping::of(place.region.array(0, 32).unwrap()).unwrap(),
            lap: Arc::default(),
        }
    }

    fn lap(&self) -> u32 {
        self.lap.load(Ordering::Acquire)
    }

    fn used_index(&self) -> u16 {
        self.used.load(1, Ordering::Acquire)
    }

    /// Whether the record was behind the used ring when it was looked at.
    fn look_at_split(&self) -> bool {
        let (lap, used) = (self.lap(), self.used_index());
        let [_, header] = self.record.acquire(0);
        let newest = self.elements.get(2 * u32::from(used.wrapping_sub(1) % SIZE));
        let entry = self.record.get(1 + u16::try_from(newest).unwrap())[0];
        if self.used_index() != used || self.lap() != lap {
            return false;
        }
        let [_, _, last, recorded] = parts(header);
        let unsettled = used.wrapping_sub(recorded);
        assert!(unsettled <= SIZE, "settled up to {recorded} and published up to {used}");
        if unsettled > 0 {
            assert_eq!(u32::from(last), newest, "the list of what has ended does not begin with the newest of what was published");
        } else if used % SIZE > 0 {
            // Between laps it is in flight again, perhaps.
            assert_eq!(entry & 1, 0, "settled, and still in flight");
        }
        unsettled > 0
    }

    /// The same with a packed ring, of which one lap holds `SIZE` chains.
    fn look_at_packed(&self) -> bool {
        let places = || {
            let [slot, old_slot, wraps, _] = parts(self.record.get(1)[0]);
            [(slot, wraps & 0xff), (old_slot, wraps >> 8)]
        };
        let flags = |slot: u16| self.descriptors.acquire(slot)[1] & (AVAILABLE | USED);
        // A place where something is published soon, or was just now.
        let lap = self.lap();
        let [_, (slot, wrap)] = places();
        let found = flags(slot);
        let [new, old] = places();
        if flags(slot) != found || self.lap() != lap {
            return false;
        }
        let (used, available) = if wrap == 1 { (AVAILABLE | USED, AVAILABLE) } else { (0, USED) };
        let is_old = old == (slot, wrap);
        if new == old {
            assert!(!is_old || found != used, "published, and not even announced");
            assert!(old != (slot + 1, wrap) || found != available, "settled, and not published");
        }
        new != old && is_old && found == used
    }
}

/// Lets chains go round, and somebody look at the same time.
fn holds<R: Ring>(layout: Layout, find: fn(&SimGuest, Layout, &RecordPlace) -> R, look: fn(&Observer) -> bool) {
    let mut guest = SimGuest::new(Region::anonymous(SimGuest::memory_bytes(layout)).unwrap(), layout);
    let place = RecordPlace { region: Region::anonymous(RecordPlace::bytes(SIZE)).unwrap(), offset: 0 };
    let mut ring = find(&guest, layout, &place);
    let (observer, map) = (Observer::of(&guest, &place), guest.map());
    let (lap, seen, over) = (Arc::clone(&observer.lap), Arc::new(AtomicU32::new(0)), Arc::new(AtomicBool::new(false)));
    let looks = {
        let (seen, over) = (Arc::clone(&seen), Arc::clone(&over));
        let body = move || {
            while !over.load(Ordering::Acquire) {
                seen.fetch_add(u32::from(look(&observer)), Ordering::Relaxed);
            }
        };
        std::thread::Builder::new().name("observer".to_owned()).spawn(body).unwrap()
    };
    let mut laps = 0;
    while seen.load(Ordering::Relaxed) < LOOKS && laps < LAPS_MAX && !looks.is_finished() {
        laps += 1;
        lap.store(laps, Ordering::Release);
        go_round(&mut guest, &mut ring, &map, usize::try_from(laps % 4 + 1).unwrap());
    }
    over.store(true, Ordering::Release);
    looks.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    let seen = seen.load(Ordering::Relaxed);
    println!("{layout:?}: {laps} laps, {seen} looks between a publication and its being settled");
    assert!(seen > 0, "it was never looked at where it matters");
}

/// One lap, whose chains end in batches.
fn go_round<R: Ring>(guest: &mut SimGuest, ring: &mut R, map: &GuestMap, batch: usize) {
    for _ in 0..SIZE {
        guest.post(GuestRequest::read(0, 512));
    }
    guest.publish();
    let mut heads = Vec::new();
    while ring.waiting().unwrap() > 0
        && let Some(head) = ring.take().unwrap()
    {
        assert!(ring.usual(head, map).is_some());
        ring.record(head).unwrap();
        heads.push(head);
    }
    for ended in heads.chunks(batch) {
        ended.iter().for_each(|head| ring.put_used(*head, 1));
        ring.publish();
    }
    // Only now is anything posted again, so that an observer knows what a lap's chains are.
    assert_eq!(std::iter::from_fn(|| guest.reap()).count(), usize::from(SIZE));
}

#[test]
fn at_every_instant_the_record_and_the_ring_agree_on_what_is_over() {
    let layout = Layout { size: SIZE, packed: false, event_idx: false, indirect: true, data_bytes: 512 };
    holds(layout, killed::split, Observer::look_at_split);
    holds(Layout { packed: true, ..layout }, killed::packed, Observer::look_at_packed);
}
