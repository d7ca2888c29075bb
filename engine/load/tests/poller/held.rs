//! A channel that ends requests when a test says so. Knows no data.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use spinel_core::mem::Segment;
use spinel_core::{Armed, Channel, Completion, Completions, Instant, Lba, Op, Request, Status, Tag};

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) tag: Tag,
    pub(crate) op: Op,
    pub(crate) at: Instant,
    pub(crate) start: Lba,
    pub(crate) blocks: u32,
    pub(crate) bytes: u32,
    /// Where its memory begins.
    pub(crate) offset: u64,
}

#[derive(Default)]
struct Shared {
    held: VecDeque<Seen>,
    ended: VecDeque<Completion>,
    seen: Vec<Seen>,
    kicks: usize,
    closed: bool,
}

/// The test's end.
#[derive(Clone, Default)]
pub(crate) struct Hand(Rc<RefCell<Shared>>);

/// The channel.
pub(crate) struct Held {
    hand: Hand,
    depth: usize,
}

impl Hand {
    pub(crate) fn channel(&self, depth: u16) -> Box<dyn Channel> {
        Box::new(Held { hand: self.clone(), depth: depth.into() })
    }

    /// How many requests are held.
    pub(crate) fn held(&self) -> usize {
        self.0.borrow().held.len()
    }

    /// Ends the `count` oldest requests.
    pub(crate) fn end(&self, count: usize, status: Status) {
        let mut shared = self.0.borrow_mut();
        for _ in 0..count {
            let tag = shared.held.pop_front().expect("a test ends what is held").tag;
            shared.ended.push_back(Completion { tag, status });
        }
    }

    /// Ends the oldest request twice.
    pub(crate) fn end_twice(&self) {
        self.end(1, Status::Ok);
        let mut shared = self.0.borrow_mut();
        let again = *shared.ended.back().expect("just ended");
        shared.ended.push_back(again);
    }

    /// Every request so far, in order.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.0.borrow().seen.clone()
    }

    pub(crate) fn kicks(&self) -> usize {
        self.0.borrow().kicks
    }

    /// Whether the channel was dropped.
    pub(crate) fn closed(&self) -> bool {
        self.0.borrow().closed
    }
}

impl Channel for Held {
    fn room(&self) -> usize {
        let shared = self.hand.0.borrow();
        self.depth - shared.held.len() - shared.ended.len()
    }

    fn submit(&mut self, request: Request<'_>) {
        assert!(self.room() > 0, "a request was submitted past room()");
        let Request { tag, op, at, start, blocks, segments } = request;
        let bytes = segments.iter().map(Segment::len_bytes).sum();
        let seen = Seen { tag, op, at, start, blocks, bytes, offset: segments.first().map_or(0, Segment::offset) };
        let mut shared = self.hand.0.borrow_mut();
        shared.held.push_back(seen.clone());
        shared.seen.push(seen);
    }

    fn kick(&mut self) {
        self.hand.0.borrow_mut().kicks += 1;
    }

    fn poll(&mut self, _now: Instant, done: &mut Completions) {
        let mut shared = self.hand.0.borrow_mut();
        while done.room() > 0
            && let Some(completion) = shared.ended.pop_front()
        {
            done.push(completion);
        }
    }

    fn arm(&mut self) -> Armed {
        if self.hand.0.borrow().ended.is_empty() { Armed::Idle } else { Armed::Ready }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.hand.0.borrow_mut().closed = true;
    }
}
