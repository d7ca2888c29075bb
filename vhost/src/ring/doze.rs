//! How a device goes to sleep beside a ring without missing what is put into it. Knows no layout; a model checker runs it as it stands.

/// A device's half of the race with a driver that publishes, fences, and then looks whether to kick (virtio 1.2, 2.7.13.4.1).
pub(crate) trait Bedside {
    /// Asks the driver to kick for whatever comes next.
    fn wish(&self);

    /// Makes the wish visible before anything is read again.
    fn fence(&self);

    /// Whether something has come that was not taken.
    fn look(&self) -> bool;
}

/// Asks for a kick, and says whether something came before the driver could see that. If not, whatever comes will kick.
pub(crate) fn misses_something(bed: &impl Bedside) -> bool {
    bed.wish();
    // The driver writes its index, then reads the wish. Without this, each of the two could read before it has written.
    bed.fence();
    bed.look()
}

#[cfg(test)]
mod tests {
    use super::*;
    use loom::sync::Arc;
    use loom::sync::atomic::{AtomicBool, AtomicU16, Ordering, fence};

    /// Index and wish as two threads of a model see them.
    #[derive(Default)]
    struct Model {
        index: AtomicU16,
        wished: AtomicBool,
    }

    impl Bedside for Model {
        fn wish(&self) {
            self.wished.store(true, Ordering::Relaxed);
        }
        fn fence(&self) {
            fence(Ordering::SeqCst);
        }
        fn look(&self) -> bool {
            self.index.load(Ordering::Acquire) != 0
        }
    }

    /// Every way in which a driver that publishes one request can meet a device that goes to sleep.
    fn never_sleeps_through(misses: fn(&Model) -> bool) {
        loom::model(move || {
            let model = Arc::new(Model::default());
            let driver = Arc::clone(&model);
            let driver = loom::thread::spawn(move || {
                driver.index.store(1, Ordering::Release);
                fence(Ordering::SeqCst);
                driver.wished.load(Ordering::Relaxed)
            });
            let asleep = !misses(&model);
            let kicked = driver.join().unwrap();
            assert!(!asleep || kicked, "asleep, with work in the ring and no kick to come");
        });
    }

    #[test]
    fn whatever_comes_is_seen_or_kicks() {
        never_sleeps_through(misses_something);
    }

    #[test]
    #[should_panic(expected = "no kick to come")]
    fn without_the_fence_a_request_is_slept_through() {
        never_sleeps_through(|model| {
            model.wish();
            model.look()
        });
    }

    #[test]
    #[should_panic(expected = "no kick to come")]
    fn without_the_second_look_a_request_is_slept_through() {
        never_sleeps_through(|model| {
            model.wish();
            model.fence();
            false
        });
    }
}
