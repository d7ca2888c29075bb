//! Simulated streams keep the contract of streams, and their runs repeat.

use std::cell::Cell;

use super::*;
use crate::{Rig, Trace, every_seed};

/// One direction's traffic: what was queued, and what has come.
struct Flow {
    expected: Vec<u8>,
    got: Vec<u8>,
    queued: u64,
    /// The memory of sends that are not counted yet, oldest first: it changes as soon as they are.
    lent: Vec<Segment>,
}

struct Run {
    rig: Rig,
    wire: SimWire,
    streams: [SimStream; 2],
    flows: [Flow; 2],
    prng: Prng,
    trace: Trace,
}

const SLOT_BYTES: u64 = 8192;

impl Run {
    fn new(seed: u64, options: WireOptions) -> Self {
        let mut prng = Prng::new(seed);
        let mut rig = Rig::new(prng.fork(), 64 * SLOT_BYTES);
        let (wire, streams) = SimWire::connect(&mut rig.core, options, prng.fork());
        let flows = [(); 2].map(|()| Flow { expected: Vec::new(), got: Vec::new(), queued: 0, lent: Vec::new() });
        Self { rig, wire, streams, flows, prng, trace: Trace::default() }
    }

    /// Each send has memory of its own, which is overwritten when it is counted.
    fn send(&mut self, side: usize) {
        let (flow, stream) = (&mut self.flows[side], &mut self.streams[side]);
        let side = u64::try_from(side).unwrap();
        let slot = 32 * side + flow.queued % 32;
        let len_bytes = u32::try_from(self.prng.below(SLOT_BYTES)).unwrap();
        let segment = self.rig.segment(slot * SLOT_BYTES, len_bytes);
        let bytes: Vec<u8> = (0..len_bytes).map(|_| u8::try_from(self.prng.below(256)).unwrap()).collect();
        self.rig.memory.write(segment.offset(), &bytes).unwrap();
        let head = flow.queued.to_le_bytes();
        stream.send(&head, &[segment], b"tail");
        flow.expected.extend_from_slice(&head);
        flow.expected.extend_from_slice(&bytes);
        flow.expected.extend_from_slice(b"tail");
        flow.queued += 1;
        flow.lent.push(segment);
    }

    /// A turn in which everybody does what chance says; `sends` in all on each side.
    fn turn(&mut self, sends: u64) {
        let now = self.rig.begin_turn();
        let mut busy = false;
        for side in 0..2 {
            let counted = usize::try_from(self.flows[side].queued - self.streams[side].sent()).unwrap();
            while self.flows[side].lent.len() > counted {
                let segment = self.flows[side].lent.remove(0);
                self.rig.memory.zero(segment.offset(), u64::from(segment.len_bytes())).unwrap();
            }
            while self.streams[side].room() > 0 && self.flows[side].queued < sends && !self.prng.one_in(4) {
                self.send(side);
                busy = true;
            }
            let incoming = self.streams[side].incoming();
            if !incoming.is_empty() && !self.prng.one_in(4) {
                let count = 1 + self.prng.index(incoming.len());
                self.trace.note("came", &[now.ns, u64::try_from(count).unwrap()]);
                self.flows[other(side)].got.extend_from_slice(&incoming[..count]);
                self.streams[side].take(count);
                busy = true;
            }
        }
        let waits = (0..2).any(|side| !self.streams[side].incoming().is_empty() || self.flows[side].queued < sends);
        let owed = |side: usize| {
            let Flow { queued, got, expected, .. } = &self.flows[side];
            self.streams[side].sent() < *queued || got.len() < expected.len()
        };
        if busy || waits || !(owed(0) || owed(1)) {
            self.rig.end_turn();
        } else {
            self.rig.rest_if(Armed::Idle).unwrap();
        }
    }

    fn is_over(&self, sends: u64) -> bool {
        (0..2).all(|side| self.streams[side].sent() == sends && self.flows[side].got == self.flows[side].expected)
    }

    fn close(mut self) {
        self.streams.iter_mut().for_each(SimStream::close);
        while !self.streams.iter().all(SimStream::closed) {
            self.rig.rest_if(Armed::Idle).unwrap();
            self.rig.begin_turn();
        }
    }
}

fn exchange(seed: u64) -> u64 {
    let mut run = Run::new(seed, WireOptions::default());
    while !run.is_over(30) {
        run.turn(30);
    }
    let hash = run.trace.hash();
    run.close();
    hash
}

#[test]
fn bytes_come_in_order_and_memory_is_read_until_its_send_is_counted() {
    every_seed(50, |seed| assert_eq!(exchange(seed), exchange(seed)));
}

#[test]
fn a_break_loses_the_end_of_what_was_sent_and_counts_every_send() {
    let broken = Cell::new(0);
    every_seed(50, |seed| {
        let mut run = Run::new(seed, WireOptions { break_one_in: 60, ..WireOptions::default() });
        let over = |run: &Run| run.streams.iter().all(|stream| stream.state() != StreamState::Open) || run.is_over(30);
        while !over(&run) {
            run.turn(30);
        }
        for side in 0..2 {
            let Flow { expected, got, .. } = &run.flows[side];
            assert!(expected.starts_with(got));
        }
        for _ in 0..1000 {
            run.rig.begin_turn();
        }
        for side in 0..2 {
            assert_eq!(run.streams[side].sent(), run.flows[side].queued);
        }
        broken.set(broken.get() + u32::from(!run.is_over(30)));
        run.close();
    });
    assert!(broken.get() > 0, "a test that breaks nothing shows nothing");
}

#[test]
fn a_silent_wire_says_nothing_until_it_speaks_again() {
    every_seed(20, |seed| {
        let mut run = Run::new(seed, WireOptions::default());
        run.turn(30);
        run.wire.silence(true);
        for _ in 0..1000 {
            run.rig.begin_turn();
            run.rig.end_turn();
        }
        assert!(!run.is_over(30) && run.streams.iter().all(|stream| stream.state() == StreamState::Open));
        run.wire.silence(false);
        while !run.is_over(30) {
            run.turn(30);
        }
        run.close();
    });
}

#[test]
fn who_is_told_to_break_does_so_at_both_ends_and_a_close_is_seen_by_the_other() {
    every_seed(20, |seed| {
        let mut run = Run::new(seed, WireOptions::default());
        (0..20).for_each(|_| run.turn(30));
        run.wire.break_off();
        while run.streams.iter().any(|stream| stream.state() == StreamState::Open) {
            run.rig.begin_turn();
        }
        assert!(run.streams.iter().all(|stream| stream.state() == StreamState::Broken(Break::System(RESET))));
        run.close();

        let mut run = Run::new(seed, WireOptions::default());
        run.streams[0].close();
        while run.streams[1].state() == StreamState::Open {
            run.rig.begin_turn();
        }
        assert_eq!(run.streams[1].state(), StreamState::Ended);
        run.send(1);
        run.rig.end_turn();
        while run.streams[1].state() == StreamState::Ended {
            run.rig.begin_turn();
            run.rig.end_turn();
        }
        assert_eq!(
            (run.streams[1].state(), run.streams[0].state()),
            (StreamState::Broken(Break::System(RESET)), StreamState::Broken(Break::Closed))
        );
        run.close();
    });
}
