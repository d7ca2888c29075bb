//! The virtqueue as an untrusted data structure in shared memory. Knows no request.

mod batch;
mod doze;
mod packed;
mod record;
mod split;

use spinel_core::mem::{GuestMap, Look, Segment};

use crate::lot::Looked;

pub use packed::PackedRing;
pub use record::{RecordError, RecordPlace};
pub(crate) use split::{Descriptor, Usual};
pub use split::{RingAddresses, RingError, RingFault, SplitRing};

/// A chain that waits, as it was looked at.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Offered {
    /// Its head or its buffer id, whatever the guest wrote there.
    pub(crate) number: u16,
    /// Its first descriptor, in the machine's own byte order.
    first: [u64; 2],
}

/// What a queue asks of its ring, whatever the layout. A chain goes by a number below the ring's size: its head, or its buffer id.
pub(crate) trait Ring: Into<AnyRing> + 'static {
    /// Whether each chain takes one place in the ring. Then the places of those behind it do not depend on what it turns out to be.
    const ONE_PLACE_EACH: bool;

    /// Number of descriptors.
    fn size(&self) -> u16;

    /// Where to go on once nothing is in flight, as VHOST_USER_GET_VRING_BASE has it.
    fn base(&self) -> u32;

    /// A segment of no bytes, where the ring lies.
    fn nowhere(&self) -> Segment;

    /// How many chains wait at most; none if it is zero.
    fn waiting(&mut self) -> Result<u16, RingFault>;

    /// Looks at the next chains, as far as it can tell where they begin, and takes none of them; asks the processor for the
    /// cache lines that their first descriptors name. Answers how many.
    fn look(&self, guest: &GuestMap, into: &mut [Looked]) -> usize;

    /// The descriptors of a chain that was looked at, if it is a usual one.
    fn usual_of(&self, chain: &Offered, guest: impl Look) -> Option<Usual>;

    /// Takes the next chains, which were looked at, are usual ones, and whose numbers are those of no chain in flight; puts
    /// them on record, if there is a record.
    fn take_looked(&mut self, chains: &[Looked]);

    /// Takes the next chain, if one waits. Only as often as `waiting()` said. Answers its number, whatever the guest wrote
    /// there. If it is below the size and not in flight, `usual` or `chain` has to follow; neither is asked for another one.
    fn take(&mut self) -> Result<Option<u16>, RingFault>;

    /// The descriptors of the chain that was taken last, and of whose number nothing is in flight, if it is a usual one. `None` if it is any other chain, or a wrong one.
    fn usual(&mut self, head: u16, guest: impl Look) -> Option<Usual>;

    /// The descriptors of the chain that was taken last, raw, each copied once; at least one, and none of them names a table.
    fn chain(&mut self, head: u16, guest: &GuestMap) -> Result<&[[u64; 2]], RingFault>;

    /// Whether what is in flight goes on record.
    fn keeps_record(&self) -> bool;

    /// Puts the chain that was taken or replayed last on record as in flight, if there is a record. Before anything that it asks for is done.
    fn record(&mut self, head: u16) -> Result<(), RingFault>;

    /// The oldest chain that is on record as in flight and was not replayed yet, as if it had been taken. All of them before any is taken.
    fn replay(&mut self) -> Option<u16>;

    /// Gives a finished chain back, into which at least a status was written; `publish` makes that visible.
    fn put_used(&mut self, head: u16, written_bytes: u32);

    /// The same with several; `record_ends` has to follow.
    fn put_used_each(&mut self, finished: impl Iterator<Item = (u32, u32)>);

    /// Notes of finished chains that they are, if there is a record.
    fn record_ends(&mut self, numbers: impl Iterator<Item = u16>);

    /// Makes finished chains visible, all at once; `wants_call` has to follow.
    fn publish(&mut self);

    /// Whether the driver wants to be notified of what was published since this was asked last. Waits until it is visible: so
    /// what else can be looked at in the driver's memory is looked at before.
    fn wants_call(&mut self) -> bool;

    /// Asks the driver to kick for the next chain, fences, and looks once more. Says whether something waits already.
    fn want_kicks(&mut self) -> bool;

    /// Asks the driver not to kick.
    fn refuse_kicks(&mut self);
}

/// A ring of either layout.
#[derive(Debug)]
pub enum AnyRing {
    /// Split (virtio 1.2, 2.7).
    Split(SplitRing),
    /// Packed (virtio 1.2, 2.8).
    Packed(PackedRing),
}

/// The negotiated features that make a ring what it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RingFeatures {
    /// VIRTIO_F_RING_PACKED.
    pub packed: bool,
    /// VIRTIO_F_EVENT_IDX.
    pub event_idx: bool,
    /// VIRTIO_F_INDIRECT_DESC.
    pub indirect: bool,
}

impl AnyRing {
    /// Finds a ring in guest memory. `base` is where a packed one goes on, as VHOST_USER_SET_VRING_BASE has it, if not at
    /// its beginning; a split one knows that by itself.
    ///
    /// # Errors
    /// [`RingError`] if the ring cannot be where the front end says, or not go on there.
    pub fn new(
        guest: &GuestMap,
        size: u16,
        addresses: RingAddresses,
        features: RingFeatures,
        base: Option<u32>,
    ) -> Result<Self, RingError> {
        let RingFeatures { packed, event_idx, indirect } = features;
        if packed {
            PackedRing::new(guest, size, addresses, base, event_idx, indirect).map(Self::Packed)
        } else {
            SplitRing::new(guest, size, addresses, event_idx, indirect).map(Self::Split)
        }
    }

    /// The same ring, with what is in flight on record. What is on record there already is to be done again; the ring goes
    /// on behind it, wherever it was said to be. If it begins `anew`, nothing that is on record matters.
    ///
    /// # Errors
    /// [`RingError::Record`] if the record cannot be gone on with.
    pub fn on_record(self, place: &RecordPlace, anew: bool) -> Result<Self, RingError> {
        match self {
            Self::Split(ring) => ring.on_record(place, anew).map(Self::Split),
            Self::Packed(ring) => ring.on_record(place, anew).map(Self::Packed),
        }
        .map_err(RingError::Record)
    }

    /// Where to go on once nothing is in flight, as VHOST_USER_GET_VRING_BASE has it.
    #[must_use]
    pub fn base(&self) -> u32 {
        match self {
            Self::Split(ring) => ring.base(),
            Self::Packed(ring) => ring.base(),
        }
    }
}

impl AnyRing {
    /// How many chains of those that are on record are to be done again.
    #[must_use]
    pub fn owed(&self) -> usize {
        match self {
            Self::Split(ring) => ring.owed(),
            Self::Packed(ring) => ring.owed(),
        }
    }
}

impl From<SplitRing> for AnyRing {
    fn from(ring: SplitRing) -> Self {
        Self::Split(ring)
    }
}

impl From<PackedRing> for AnyRing {
    fn from(ring: PackedRing) -> Self {
        Self::Packed(ring)
    }
}

#[cfg(test)]
mod tests;
