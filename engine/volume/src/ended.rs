//! Completions that wait to be collected. Knows nothing of what has ended.

use spinel_core::{Completion, Completions, Status, Tag};

/// A queue of completions whose owner bounds it by the depth it was made with.
pub(crate) struct Ended {
    entries: Box<[Completion]>,
    /// Those that wait are from here on ...
    start: usize,
    /// ... up to here.
    end: usize,
}

impl Ended {
    /// An empty queue. Allocates; the other operations do not.
    pub(crate) fn new(depth: u16) -> Self {
        let none = Completion { tag: Tag(0), status: Status::Ok };
        Self { entries: vec![none; usize::from(depth)].into_boxed_slice(), start: 0, end: 0 }
    }

    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.end - self.start
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// How many more it takes.
    #[inline]
    pub(crate) fn room(&self) -> usize {
        self.entries.len() - self.len()
    }

    #[inline]
    pub(crate) fn push(&mut self, tag: Tag, status: Status) {
        match self.entries.get_mut(self.end) {
            Some(entry) => {
                *entry = Completion { tag, status };
                self.end += 1;
            }
            None => self.move_down_and_push(tag, status),
        }
    }

    /// Makes room at the end. Rare: a queue that was emptied begins anew.
    #[cold]
    #[inline(never)]
    fn move_down_and_push(&mut self, tag: Tag, status: Status) {
        assert!(self.start > 0, "a request was submitted past room()");
        self.entries.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.len());
        self.push(tag, status);
    }

    /// Adds so many, for which there is room.
    #[inline]
    pub(crate) fn extend(&mut self, more: impl ExactSizeIterator<Item = Completion>) {
        if self.end + more.len() > self.entries.len() {
            more.for_each(|Completion { tag, status }| self.push(tag, status));
            return;
        }
        let count = more.len();
        for (entry, completion) in self.entries[self.end..].iter_mut().zip(more) {
            *entry = completion;
        }
        self.end += count;
    }

    /// Moves as many as `done` takes, oldest first.
    pub(crate) fn drain(&mut self, done: &mut Completions) {
        let count = self.len().min(done.room());
        done.extend(&self.entries[self.start..self.start + count]);
        self.start += count;
        if self.is_empty() {
            (self.start, self.end) = (0, 0);
        }
    }
}
