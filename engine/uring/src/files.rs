//! A ring's table of registered files. Knows nothing of what is done with them.

use std::os::fd::RawFd;

use io_uring::Submitter;

/// What the kernel takes for an empty entry.
const NO_FILE: RawFd = -1;

/// How an entry names its file: by a place in the table, or by its descriptor when the table is full or missing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Target {
    /// The place or the descriptor.
    pub(crate) number: i32,
    /// Which of the two.
    pub(crate) registered: bool,
}

#[derive(Clone, Copy)]
struct Registered {
    fd: RawFd,
    users: u32,
}

/// Which descriptor is registered where. One entry per file, however many channels use it.
pub(crate) struct Files {
    entries: Vec<Option<Registered>>,
}

impl Files {
    /// Registers an empty table of `count` entries, or none if the kernel refuses.
    pub(crate) fn new(submitter: &Submitter<'_>, count: u32) -> Self {
        let granted = count > 0 && submitter.register_files_sparse(count).is_ok();
        Self { entries: vec![None; if granted { count as usize } else { 0 }] }
    }

    /// How many entries there are.
    pub(crate) fn len(&self) -> u32 {
        u32::try_from(self.entries.len()).expect("a table's length")
    }

    /// Registers a file, or counts one more user of it.
    pub(crate) fn add(&mut self, submitter: &Submitter<'_>, fd: RawFd) -> Target {
        let known = self.entries.iter().position(|entry| entry.is_some_and(|entry| entry.fd == fd));
        let place = known.or_else(|| {
            let place = self.entries.iter().position(Option::is_none)?;
            let offset = u32::try_from(place).expect("a table's length");
            submitter.register_files_update(offset, &[fd]).is_ok().then_some(place)
        });
        let Some(place) = place else { return Target { number: fd, registered: false } };
        self.entries[place].get_or_insert(Registered { fd, users: 0 }).users += 1;
        Target { number: i32::try_from(place).expect("a table's length"), registered: true }
    }

    /// Ends one use; the last one empties the entry. Nothing of this user is in flight.
    pub(crate) fn remove(&mut self, submitter: &Submitter<'_>, target: Target) {
        let Some(place) = usize::try_from(target.number).ok().filter(|_| target.registered) else { return };
        let entry = self.entries[place].as_mut().expect("a registered file is in the table");
        entry.users -= 1;
        if entry.users == 0 {
            self.entries[place] = None;
            let offset = u32::try_from(place).expect("a table's length");
            // Should the kernel refuse, the file stays open until the next file takes the place.
            let _ = submitter.register_files_update(offset, &[NO_FILE]);
        }
    }
}
