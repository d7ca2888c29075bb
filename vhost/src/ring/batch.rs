//! Used descriptors that become visible all at once. Knows no layout; a model checker runs it as it stands.

/// Where a packed ring's used descriptors go, by slot. A driver looks at a slot only once it has seen the one before it.
pub(crate) trait Slots {
    /// Stores what is not to be seen yet.
    fn store(&self, slot: u16, word: u64);

    /// Stores what makes everything stored before it visible.
    fn release(&self, slot: u16, word: u64);
}

/// The used descriptors of one batch: the first is held back, and with it all of them (virtio 1.2, 2.8.2).
#[derive(Debug, Default)]
pub(crate) struct Batch {
    first: Option<(u16, u64)>,
}

impl Batch {
    #[inline(always)]
    pub(crate) fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    #[inline(always)]
    pub(crate) fn put(&mut self, slots: &impl Slots, slot: u16, word: u64) {
        match self.first {
            None => self.first = Some((slot, word)),
            Some(_) => slots.store(slot, word),
        }
    }

    /// The same in a batch that is not empty.
    #[inline(always)]
    pub(crate) fn put_further(&mut self, slots: &impl Slots, slot: u16, word: u64) {
        debug_assert!(self.first.is_some(), "what comes first is held back");
        slots.store(slot, word);
    }

    /// Makes the batch visible, if there is one.
    #[inline(always)]
    pub(crate) fn publish(&mut self, slots: &impl Slots) {
        if let Some((slot, word)) = self.first.take() {
            slots.release(slot, word);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use loom::sync::Arc;
    use loom::sync::atomic::{AtomicU64, Ordering};

    /// Three slots as two threads of a model see them.
    #[derive(Default)]
    struct Model([AtomicU64; 3]);

    impl Model {
        fn at(&self, slot: u16) -> &AtomicU64 {
            &self.0[usize::from(slot)]
        }
    }

    impl Slots for Model {
        fn store(&self, slot: u16, word: u64) {
            self.at(slot).store(word, Ordering::Relaxed);
        }
        fn release(&self, slot: u16, word: u64) {
            self.at(slot).store(word, Ordering::Release);
        }
    }

    /// Every way in which a driver that reads on from the first used descriptor can meet a device that writes a batch.
    fn is_seen_as_a_whole(write: fn(&Model)) {
        loom::model(move || {
            let model = Arc::new(Model::default());
            let device = Arc::clone(&model);
            let device = loom::thread::spawn(move || write(&device));
            if model.at(0).load(Ordering::Acquire) != 0 {
                assert_eq!([1, 2].map(|slot| model.at(slot).load(Ordering::Relaxed)), [2, 3], "a part of the batch");
            }
            device.join().unwrap();
        });
    }

    #[test]
    fn whoever_sees_the_first_sees_all() {
        is_seen_as_a_whole(|model| {
            let mut batch = Batch::default();
            for (slot, word) in [(0, 1), (1, 2), (2, 3)] {
                batch.put(model, slot, word);
            }
            batch.publish(model);
            assert!(batch.is_empty(), "there is nothing left");
        });
    }

    #[test]
    #[should_panic(expected = "a part of the batch")]
    fn in_the_order_of_the_ring_a_part_is_seen() {
        is_seen_as_a_whole(|model| [(0, 1), (1, 2), (2, 3)].into_iter().for_each(|(slot, word)| model.release(slot, word)));
    }

    #[test]
    #[should_panic(expected = "a part of the batch")]
    fn without_the_release_a_part_is_seen() {
        is_seen_as_a_whole(|model| [(1, 2), (2, 3), (0, 1)].into_iter().for_each(|(slot, word)| model.store(slot, word)));
    }
}
