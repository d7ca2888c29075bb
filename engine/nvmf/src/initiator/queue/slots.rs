//! The commands of a queue that are not answered: what each is for, and how far its data are. Knows no stream.

use spinel_core::Instant;
use spinel_core::mem::Segment;
use spinel_nvme::status::StatusField;

use super::outbox::SMALL_BYTES;
use crate::tcp::{R2t, Returned};

/// How a command's data go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Way {
    /// There are none.
    None,
    /// From the controller into the command's memory.
    ToHost,
    /// To the controller, from the command's memory, when it asks for them.
    ToController,
    /// The same from the slot itself.
    SmallToController,
    /// They have gone with the command.
    InCapsule,
}

/// A place in a command's memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Cursor {
    segment: u16,
    skip: u32,
}

/// One command.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot<O> {
    /// The identifier of its command, or of the one before.
    pub(super) id: u16,
    /// Who asked for it; none if there is no command.
    pub(super) owner: Option<O>,
    pub(super) way: Way,
    /// A success that has not brought all data is none.
    pub(super) exact: bool,
    pub(super) len_bytes: u32,
    segments: u16,
    cursor: Cursor,
    pub(super) small: [u8; SMALL_BYTES],
    pub(super) returned: Returned,
    /// Bytes that it was asked for.
    pub(super) asked_bytes: u32,
    /// What it was asked for and has not sent yet.
    pub(super) r2t: Option<R2t>,
    /// The number of the last send that reads its memory, or that it goes with.
    pub(super) last_send: u64,
    /// How it ended; it waits for the last send.
    pub(super) answer: Option<(StatusField, u64)>,
    /// Data came other than they were sent.
    pub(super) spoiled: bool,
    pub(super) since: Instant,
}

/// All of them.
pub(super) struct Slots<O> {
    entries: Box<[Slot<O>]>,
    free: Vec<u16>,
    segments: Box<[Segment]>,
    segments_max: usize,
    /// Bits of an identifier that say which slot it is; the others tell apart those that follow each other.
    index_bits: u32,
}

impl<O: Copy> Slots<O> {
    /// For so many commands at a time, with so many segments each.
    pub(super) fn new(commands: u16, segments_max: usize, filler: Segment) -> Self {
        let slot = |index| Slot {
            id: index,
            owner: None,
            way: Way::None,
            exact: false,
            len_bytes: 0,
            segments: 0,
            cursor: Cursor::default(),
            small: [0; SMALL_BYTES],
            returned: Returned::new(0),
            asked_bytes: 0,
            r2t: None,
            last_send: 0,
            answer: None,
            spoiled: false,
            since: Instant::default(),
        };
        Self {
            entries: (0..commands).map(slot).collect(),
            free: (0..commands).rev().collect(),
            segments: vec![filler; usize::from(commands) * segments_max].into_boxed_slice(),
            segments_max,
            index_bits: u16::BITS - (commands - 1).leading_zeros(),
        }
    }

    #[inline]
    pub(super) fn room(&self) -> usize {
        self.free.len()
    }

    #[inline]
    pub(super) fn held(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    /// A slot for a new command; `room` was looked at before.
    #[inline]
    pub(super) fn take(&mut self, owner: O, now: Instant) -> usize {
        let index = usize::from(self.free.pop().expect("room was looked at before"));
        let slot = &mut self.entries[index];
        // All bits above those of the index count, so that an old answer does not fit a new command.
        let step = 1_u16.checked_shl(self.index_bits).unwrap_or(0);
        *slot = Slot {
            id: slot.id.wrapping_add(step),
            owner: Some(owner),
            way: Way::None,
            exact: false,
            len_bytes: 0,
            segments: 0,
            cursor: Cursor::default(),
            returned: Returned::new(0),
            asked_bytes: 0,
            r2t: None,
            answer: None,
            spoiled: false,
            since: now,
            ..*slot
        };
        index
    }

    /// Frees a slot; says whose it was.
    #[inline]
    pub(super) fn free(&mut self, index: usize) -> O {
        let owner = self.entries[index].owner.take().expect("a command ends once");
        self.free.push(self.entries[index].id & self.index_mask());
        owner
    }

    #[inline]
    fn index_mask(&self) -> u16 {
        1_u16.checked_shl(self.index_bits).map_or(u16::MAX, |bit| bit - 1)
    }

    #[inline]
    pub(super) fn get(&self, index: usize) -> &Slot<O> {
        &self.entries[index]
    }

    #[inline]
    pub(super) fn get_mut(&mut self, index: usize) -> &mut Slot<O> {
        &mut self.entries[index]
    }

    /// The slot of a command by its identifier, if there is one that was not answered.
    #[inline]
    pub(super) fn find(&self, id: u16) -> Option<usize> {
        let index = usize::from(id & self.index_mask());
        let slot = self.entries.get(index)?;
        (slot.id == id && slot.owner.is_some() && slot.answer.is_none()).then_some(index)
    }

    /// Every command that was not freed.
    pub(super) fn live(&self) -> impl Iterator<Item = usize> + '_ {
        self.entries.iter().enumerate().filter(|(_, slot)| slot.owner.is_some()).map(|(index, _)| index)
    }

    /// Remembers a command's memory; says how many bytes it has.
    #[inline]
    pub(super) fn remember(&mut self, index: usize, segments: &[Segment]) -> u32 {
        let own = &mut self.segments[index * self.segments_max..][..segments.len()];
        own.copy_from_slice(segments);
        self.entries[index].segments = u16::try_from(segments.len()).expect("a request has few segments");
        segments.iter().fold(0_u32, |sum, segment| sum.checked_add(segment.len_bytes()).expect("a transfer is small"))
    }

    /// Calls with the pieces of the command's memory that come next, together so many bytes, and moves on.
    ///
    /// # Panics
    /// If there are not so many.
    #[inline]
    pub(super) fn advance(&mut self, index: usize, len_bytes: u32, mut each: impl FnMut(Segment)) {
        let slot = &mut self.entries[index];
        let own = &self.segments[index * self.segments_max..][..usize::from(slot.segments)];
        let mut left = len_bytes;
        while left > 0 {
            let segment = own[usize::from(slot.cursor.segment)];
            let (_, rest) = segment.split_at(slot.cursor.skip);
            let (piece, after) = rest.split_at(rest.len_bytes().min(left));
            left -= piece.len_bytes();
            if piece.len_bytes() > 0 {
                each(piece);
            }
            slot.cursor = if after.len_bytes() == 0 {
                Cursor { segment: slot.cursor.segment + 1, skip: 0 }
            } else {
                Cursor { skip: slot.cursor.skip + piece.len_bytes(), ..slot.cursor }
            };
        }
    }

    /// How many segments a command has.
    #[inline]
    pub(super) fn segments(&self, index: usize) -> usize {
        usize::from(self.entries[index].segments)
    }
}
