//! Rings whose process is killed between any two things it does to them: what their driver then sees, and what is owed.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

const SIZE: u16 = 16;

/// What a process does to its ring, or its guest does, or what happens to it.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// The guest posts a request in so many pieces.
    Post(u16),
    /// The next chain is taken, if one waits.
    Take,
    /// One of those in flight ends.
    End(usize),
    Publish,
    /// The guest takes what it sees.
    Reap,
    Kill,
}

struct Model<R> {
    layout: Layout,
    guest: SimGuest,
    map: GuestMap,
    place: RecordPlace,
    ring: R,
    /// In the order in which they were taken, until their end is published.
    in_flight: Vec<u16>,
    ended: Vec<u16>,
    /// Published, and not seen by the guest.
    published: BTreeSet<u16>,
    replays: usize,
}

/// Finds a ring on its record.
type Open<R> = fn(&SimGuest, Layout, &RecordPlace) -> R;

impl<R: Ring> Model<R> {
    fn new(layout: Layout, open: Open<R>) -> Self {
        let guest = SimGuest::new(Region::anonymous(SimGuest::memory_bytes(layout)).unwrap(), layout);
        let place = RecordPlace { region: Region::anonymous(RecordPlace::bytes(SIZE)).unwrap(), offset: 0 };
        let (ring, map) = (open(&guest, layout, &place), guest.map());
        Self { layout, guest, map, place, ring, in_flight: Vec::new(), ended: Vec::new(), published: BTreeSet::new(), replays: 0 }
    }

    /// As a queue looks at a chain, and puts it on record.
    fn start(&mut self, head: u16) {
        if self.ring.usual(head, &self.map).is_none() {
            self.ring.chain(head, &self.map).unwrap();
        }
        self.ring.record(head).unwrap();
    }

    fn step(&mut self, step: Step, open: Open<R>) {
        match step {
            Step::Post(pieces) => {
                // Of the floor for three descriptors each, two are as many as it takes.
                if self.guest.room() > 1 {
                    self.guest.post(GuestRequest { pieces, ..GuestRequest::read(0, 512) });
                    self.guest.publish();
                }
            }
            Step::Take => {
                if self.ring.waiting().unwrap() > 0
                    && let Some(head) = self.ring.take().unwrap()
                {
                    self.start(head);
                    self.in_flight.push(head);
                }
            }
            Step::End(at) => {
                let flying: Vec<u16> = self.in_flight.iter().copied().filter(|head| !self.ended.contains(head)).collect();
                if !flying.is_empty() {
                    let head = flying[at % flying.len()];
                    self.ring.put_used(head, 1);
                    self.ended.push(head);
                }
            }
            Step::Publish => {
                self.ring.publish();
                self.in_flight.retain(|head| !self.ended.contains(head));
                self.published.extend(self.ended.drain(..));
            }
            Step::Reap => self.reap(),
            Step::Kill => {
                self.ring = open(&self.guest, self.layout, &self.place);
                self.ended.clear();
                for head in self.in_flight.clone() {
                    assert_eq!(self.ring.replay(), Some(head));
                    self.start(head);
                    self.replays += 1;
                }
                assert_eq!(self.ring.replay(), None);
            }
        }
    }

    fn reap(&mut self) {
        while let Some(finished) = self.guest.reap() {
            assert!(self.published.remove(&finished.head), "{} is seen and was not published", finished.head);
        }
        assert!(self.published.is_empty(), "{:?} were published and are not seen", self.published);
    }
}

fn survives<R: Ring>(layout: Layout, open: Open<R>, steps: &[Step]) {
    let mut model = Model::new(layout, open);
    for step in steps {
        model.step(*step, open);
    }
    // In the end nothing is missing.
    model.step(Step::Kill, open);
    while !model.in_flight.is_empty() || model.ring.waiting().unwrap() > 0 {
        [Step::Take, Step::End(0), Step::Publish, Step::Reap].into_iter().for_each(|step| model.step(step, open));
    }
    model.reap();
    let base = model.ring.base();
    assert_eq!(base, model.guest.base());
}

pub(super) fn split(guest: &SimGuest, layout: Layout, place: &RecordPlace) -> SplitRing {
    let ring = SplitRing::new(&guest.map(), layout.size, addresses(guest), layout.event_idx, layout.indirect).unwrap();
    ring.on_record(place, false).unwrap()
}

pub(super) fn packed(guest: &SimGuest, layout: Layout, place: &RecordPlace) -> PackedRing {
    let ring = PackedRing::new(&guest.map(), layout.size, addresses(guest), None, layout.event_idx, layout.indirect).unwrap();
    ring.on_record(place, false).unwrap()
}

fn in_every_layout(steps: &[Step]) {
    for (event_idx, indirect) in [(false, false), (true, true)] {
        let layout = Layout { size: SIZE, packed: false, event_idx, indirect, data_bytes: 512 };
        survives(layout, split, steps);
        survives(Layout { packed: true, ..layout }, packed, steps);
    }
}

/// In a packed ring the used descriptors of a batch lie in the ring before the first of them does. The next process completes in
/// another order, and its driver, coming to where one of those lies, must not take it for the end of a chain in flight.
#[test]
fn what_a_killed_process_was_about_to_publish_is_never_seen() {
    use Step::{End, Kill, Post, Publish, Reap, Take};
    let three = [Post(1), Post(2), Post(1), Take, Take, Take];
    in_every_layout(&[three.as_slice(), &[End(0), End(0), End(0), Kill, End(1), Publish, Reap]].concat());
    in_every_layout(&[three.as_slice(), &[End(2), End(1), Kill, Kill, End(0), Publish, Reap, Kill, Reap]].concat());
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (1_u16..3).prop_map(Step::Post),
        4 => Just(Step::Take),
        4 => (0_usize..16).prop_map(Step::End),
        1 => Just(Step::Publish),
        1 => Just(Step::Reap),
        1 => Just(Step::Kill),
    ];
    proptest::collection::vec(step, 1..300)
}

proptest! {
    #[test]
    fn whatever_is_done_to_a_ring_a_kill_in_between_loses_nothing_and_repeats_nothing(steps in steps()) {
        in_every_layout(&steps);
    }
}
