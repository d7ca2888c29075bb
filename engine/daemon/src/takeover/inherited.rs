//! What another process has handed over, until the calls that make bdevs and controllers take it into use. Knows no call.

use std::collections::BTreeMap;

use spinel_handover::Fd;
use spinel_vhost::ControllerParcel;

use super::{FileParcel, Offer};

/// By the names of bdevs and controllers.
#[derive(Default)]
pub(crate) struct Inherited {
    files: BTreeMap<String, FileParcel>,
    memories: BTreeMap<String, Fd>,
    controllers: BTreeMap<String, ControllerParcel>,
}

impl Inherited {
    /// All of an offer.
    pub(super) fn of(offer: &Offer) -> Self {
        let files = offer.files.iter().map(|parcel| (parcel.bdev.clone(), parcel.clone())).collect();
        Self { files, controllers: offer.controllers.iter().cloned().collect(), ..Self::of_memories(offer.memories.clone()) }
    }

    /// What outlives the process that offered it: the disks in memory.
    pub(super) fn of_memories(memories: Vec<(String, Fd)>) -> Self {
        Self { memories: memories.into_iter().collect(), ..Self::default() }
    }

    /// The open file of this bdev.
    pub(crate) fn take_file(&mut self, bdev: &str) -> Option<FileParcel> {
        self.files.remove(bdev)
    }

    /// The content of this bdev.
    pub(crate) fn take_memory(&mut self, bdev: &str) -> Option<Fd> {
        self.memories.remove(bdev)
    }

    /// The socket and the client of this controller.
    pub(crate) fn take_controller(&mut self, name: &str) -> Option<ControllerParcel> {
        self.controllers.remove(name)
    }

    /// Something that nobody has taken.
    pub(super) fn left(&self) -> Option<&str> {
        self.files.keys().chain(self.memories.keys()).chain(self.controllers.keys()).map(String::as_str).next()
    }
}
