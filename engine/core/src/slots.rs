//! A fixed table of things in flight, by tag. Knows nothing of what they are.

use crate::units::Tag;

/// A preallocated table: what is put in gets a tag, and comes out once by it.
#[derive(Debug)]
pub struct Slots<T> {
    entries: Box<[Option<T>]>,
    free: Vec<u32>,
}

impl<T> Slots<T> {
    /// A table for `depth` things. Allocates; the other operations do not.
    #[must_use]
    pub fn new(depth: usize) -> Self {
        let free = (0..u32::try_from(depth).expect("tables are small")).rev().collect();
        Self { entries: (0..depth).map(|_| None).collect(), free }
    }

    /// How many more it takes.
    #[must_use]
    pub fn room(&self) -> usize {
        self.free.len()
    }

    /// How many it holds.
    #[must_use]
    pub fn held(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    /// Puts a thing in.
    ///
    /// # Panics
    /// If there is no room: the caller looks first.
    pub fn put(&mut self, thing: T) -> Tag {
        let index = self.free.pop().expect("room() was looked at before");
        self.entries[index as usize] = Some(thing);
        Tag(index)
    }

    /// Looks at what a tag names.
    #[must_use]
    pub fn get(&self, tag: Tag) -> Option<&T> {
        self.entries.get(tag.index())?.as_ref()
    }

    /// Changes what a tag names.
    pub fn get_mut(&mut self, tag: Tag) -> Option<&mut T> {
        self.entries.get_mut(tag.index())?.as_mut()
    }

    /// Takes a thing out.
    ///
    /// # Panics
    /// If the tag names nothing: a completion that comes twice is a fault of ours.
    pub fn take(&mut self, tag: Tag) -> T {
        let thing = self.entries[tag.index()].take().expect("a tag completes once");
        self.free.push(tag.0);
        thing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_in_comes_out_once() {
        let mut slots = Slots::new(2);
        let (a, b) = (slots.put('a'), slots.put('b'));
        assert_eq!((slots.room(), slots.held()), (0, 2));
        assert_eq!(slots.take(a), 'a');
        let c = slots.put('c');
        assert_eq!((slots.take(b), slots.take(c)), ('b', 'c'));
    }

    #[test]
    #[should_panic(expected = "a tag completes once")]
    fn a_second_completion_is_our_own_fault_and_stops_us() {
        let mut slots = Slots::new(1);
        let tag = slots.put(());
        slots.take(tag);
        slots.take(tag);
    }
}
