//! Completions that wait to be collected. Knows nothing of what has ended.

use std::collections::VecDeque;

use spinel_core::{Completion, Completions, Status, Tag};

/// A queue of completions whose owner bounds it by the depth it was made with.
pub(crate) struct Ended {
    queue: VecDeque<Completion>,
    depth: usize,
}

impl Ended {
    /// An empty queue. Allocates; the other operations do not.
    pub(crate) fn new(depth: u16) -> Self {
        Self { queue: VecDeque::with_capacity(usize::from(depth)), depth: usize::from(depth) }
    }

    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// How many more it takes.
    pub(crate) fn room(&self) -> usize {
        self.depth - self.queue.len()
    }

    pub(crate) fn push(&mut self, tag: Tag, status: Status) {
        assert!(self.room() > 0, "a request was submitted past room()");
        self.queue.push_back(Completion { tag, status });
    }

    /// Moves as many as `done` takes, oldest first.
    pub(crate) fn drain(&mut self, done: &mut Completions) {
        let count = self.queue.len().min(done.room());
        for completion in self.queue.drain(..count) {
            done.push(completion);
        }
    }
}
