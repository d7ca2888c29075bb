//! Descriptors that wake a core, each by one poll that stays armed. Knows no ring: it says what should be submitted.

use std::os::fd::RawFd;

use rustix::io::Errno;

/// One descriptor and the poll on it.
#[derive(Clone, Copy, Debug)]
struct Watched {
    fd: RawFd,
    /// Somebody wants to be woken by it.
    wanted: bool,
    /// The kernel has a poll that has not ended yet. An entry is free only without.
    flying: bool,
    /// Armed for life; else for one event at a time, for kernels that know no other way.
    multishot: bool,
    /// Even a single poll failed.
    deaf: bool,
    /// A removal came at a bad moment and must be asked for again.
    remove: bool,
}

/// What should be submitted for a watch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Wish {
    /// A poll for the descriptor's becoming readable.
    Arm {
        /// The descriptor.
        fd: RawFd,
        /// For life or once.
        multishot: bool,
    },
    /// The end of the poll with this index.
    Remove,
}

/// All watches of one ring, by index. An index is free again only after its poll's last completion was seen.
#[derive(Debug, Default)]
pub(crate) struct Watches {
    entries: Vec<Watched>,
    /// Whether some entry has a wish.
    wishing: bool,
}

impl Watches {
    /// Enters a descriptor; [`wish`](Self::wish) then says to arm it.
    pub(crate) fn add(&mut self, fd: RawFd) -> u32 {
        let watched = Watched { fd, wanted: true, flying: false, multishot: true, deaf: false, remove: false };
        self.wishing = true;
        let index = self.entries.iter().position(|entry| !entry.wanted && !entry.flying).unwrap_or_else(|| {
            self.entries.push(watched);
            self.entries.len() - 1
        });
        self.entries[index] = watched;
        u32::try_from(index).expect("few watches")
    }

    /// Ends a watch; [`wish`](Self::wish) then says to remove its poll.
    pub(crate) fn end(&mut self, index: u32) {
        let entry = &mut self.entries[index as usize];
        assert!(entry.wanted, "a watch ends once");
        entry.wanted = false;
        entry.remove = entry.flying;
        self.wishing |= entry.remove;
    }

    /// A poll's completion: `more` if it stays armed.
    pub(crate) fn fired(&mut self, index: u32, result: i32, more: bool) {
        if more {
            return;
        }
        let entry = &mut self.entries[index as usize];
        entry.flying = false;
        entry.remove = false;
        if result < 0 {
            // A kernel without multishot polls refuses the first; one event at a time works everywhere.
            entry.deaf = !entry.multishot;
            entry.multishot = false;
        }
        self.wishing |= entry.wanted && !entry.deaf;
    }

    /// A removal's completion.
    pub(crate) fn removed(&mut self, index: u32, result: i32) {
        let entry = &mut self.entries[index as usize];
        if result == -Errno::ALREADY.raw_os_error() && entry.flying && !entry.wanted {
            entry.remove = true;
            self.wishing = true;
        }
    }

    /// Whether a watch exists that will never wake anybody; the core must then not sleep for long.
    pub(crate) fn deaf(&self) -> bool {
        self.entries.iter().any(|entry| entry.wanted && entry.deaf)
    }

    /// The next thing to submit, with the index it is about.
    pub(crate) fn wish(&mut self) -> Option<(u32, Wish)> {
        if !self.wishing {
            return None;
        }
        for (index, entry) in (0..).zip(&mut self.entries) {
            if entry.remove {
                entry.remove = false;
                return Some((index, Wish::Remove));
            }
            if entry.wanted && !entry.flying && !entry.deaf {
                entry.flying = true;
                return Some((index, Wish::Arm { fd: entry.fd, multishot: entry.multishot }));
            }
        }
        self.wishing = false;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wishes(watches: &mut Watches) -> Vec<(u32, Wish)> {
        std::iter::from_fn(|| watches.wish()).collect()
    }

    #[test]
    fn a_poll_that_ends_by_itself_is_armed_again() {
        let mut watches = Watches::default();
        let index = watches.add(7);
        assert_eq!(wishes(&mut watches), [(index, Wish::Arm { fd: 7, multishot: true })]);
        watches.fired(index, 1, true);
        assert_eq!(wishes(&mut watches), []);
        watches.fired(index, 1, false);
        assert_eq!(wishes(&mut watches), [(index, Wish::Arm { fd: 7, multishot: true })]);
    }

    #[test]
    fn an_error_falls_back_to_single_polls_and_a_second_one_is_remembered() {
        let mut watches = Watches::default();
        let index = watches.add(7);
        wishes(&mut watches);
        watches.fired(index, -22, false);
        assert_eq!(wishes(&mut watches), [(index, Wish::Arm { fd: 7, multishot: false })]);
        assert!(!watches.deaf());
        watches.fired(index, -9, false);
        assert_eq!(wishes(&mut watches), []);
        assert!(watches.deaf());
        watches.end(index);
        assert!(!watches.deaf());
    }

    #[test]
    fn an_index_is_free_only_after_the_last_completion_of_its_poll() {
        let mut watches = Watches::default();
        let first = watches.add(7);
        wishes(&mut watches);
        watches.end(first);
        assert_eq!(wishes(&mut watches), [(first, Wish::Remove)]);
        assert_ne!(watches.add(8), first);
        watches.fired(first, -125, false);
        assert_eq!(watches.add(9), first);
    }

    #[test]
    fn a_removal_that_came_too_early_is_asked_for_again() {
        let mut watches = Watches::default();
        let index = watches.add(7);
        wishes(&mut watches);
        watches.end(index);
        wishes(&mut watches);
        watches.removed(index, -Errno::ALREADY.raw_os_error());
        assert_eq!(wishes(&mut watches), [(index, Wish::Remove)]);
        watches.fired(index, -125, false);
        watches.removed(index, -Errno::ALREADY.raw_os_error());
        assert_eq!(wishes(&mut watches), []);
    }

    #[test]
    fn a_watch_that_never_flew_needs_no_removal() {
        let mut watches = Watches::default();
        let index = watches.add(7);
        watches.end(index);
        assert_eq!(wishes(&mut watches), []);
        assert_eq!(watches.add(8), index);
    }
}
