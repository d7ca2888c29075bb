//! Requests and their completions: safe values that any channel understands. Knows no ring and no wire.

use spinel_mem::Segment;

use crate::units::{Instant, Lba, Tag};

/// What a guest or a host can ask of a block device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Op {
    /// Blocks into the segments.
    Read,
    /// The segments' bytes into blocks.
    Write {
        /// Completes only when these blocks are on the medium.
        fua: bool,
    },
    /// Completes when every write that completed before it was submitted is on the medium.
    Flush,
    /// The blocks' content is no longer needed; reads may then return anything the device documents.
    Discard,
    /// The blocks read as zeroes from now on.
    WriteZeroes {
        /// The space may be given back.
        unmap: bool,
        /// Completes only when the zeroes are on the medium.
        fua: bool,
    },
}

impl Op {
    /// The operation without its modifiers.
    #[must_use]
    pub fn kind(self) -> OpKind {
        match self {
            Self::Read => OpKind::Read,
            Self::Write { .. } => OpKind::Write,
            Self::Flush => OpKind::Flush,
            Self::Discard => OpKind::Discard,
            Self::WriteZeroes { .. } => OpKind::WriteZeroes,
        }
    }

    /// Whether the operation changes what later reads return.
    #[must_use]
    pub fn changes_data(self) -> bool {
        !matches!(self, Self::Read | Self::Flush)
    }
}

/// An operation without its modifiers; indexes per-operation tables.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum OpKind {
    /// See [`Op::Read`].
    Read,
    /// See [`Op::Write`].
    Write,
    /// See [`Op::Flush`].
    Flush,
    /// See [`Op::Discard`].
    Discard,
    /// See [`Op::WriteZeroes`].
    WriteZeroes,
}

/// Every kind of operation, in the order of [`OpKind::index`].
pub const OPS: [OpKind; 5] = [OpKind::Read, OpKind::Write, OpKind::Flush, OpKind::Discard, OpKind::WriteZeroes];

impl OpKind {
    /// Whether it changes what blocks hold.
    #[must_use]
    #[inline]
    pub fn changes(self) -> bool {
        matches!(self, Self::Write | Self::Discard | Self::WriteZeroes)
    }

    /// Its place in [`OPS`].
    #[must_use]
    pub fn index(self) -> usize {
        self as usize
    }
}

/// One request. It is copied or turned into something else inside `submit`; the segments are only lent.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Comes back in the completion. The submitter may not reuse it before.
    pub tag: Tag,
    /// What to do.
    pub op: Op,
    /// The turn's clock: layers delay, pace and measure from it and never read a clock themselves.
    pub at: Instant,
    /// First block. Ignored by flush.
    pub start: Lba,
    /// Number of blocks. For reads and writes the segments hold exactly this many blocks; zero for flush.
    pub blocks: u32,
    /// Where the bytes go to or come from. Empty unless the operation is a read or a write.
    pub segments: &'a [Segment],
}

/// A request of one segment, which it holds: what a batch consists of.
#[derive(Clone, Copy, Debug)]
pub struct Single {
    /// See [`Request::tag`].
    pub tag: Tag,
    /// What to do: a read or a write.
    pub op: Op,
    /// First block.
    pub start: Lba,
    /// Number of blocks: exactly what the segment holds.
    pub blocks: u32,
    /// Where the bytes go to or come from.
    pub segment: Segment,
}

impl Single {
    /// The same as any other request, in the turn that began `at`.
    #[must_use]
    #[inline]
    pub fn request(&self, at: Instant) -> Request<'_> {
        let Self { tag, op, start, blocks, ref segment } = *self;
        Request { tag, op, at, start, blocks, segments: std::slice::from_ref(segment) }
    }
}

/// How a request ended. One byte on the data path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Status {
    /// Done, to the letter.
    Ok,
    /// The medium or the kernel failed; what was asked may be done in part.
    Medium,
    /// This device does not do this operation.
    Unsupported,
    /// Given up because the device is going away or an operator asked for it.
    Aborted,
    /// There is no space left below.
    Capacity,
    /// Blocks outside the device.
    Range,
    /// The device may not be written to.
    Protected,
    /// The request does not make sense: its lengths disagree, or its memory is not (any longer) mapped.
    Malformed,
}

/// The end of one request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Completion {
    /// The request's tag.
    pub tag: Tag,
    /// How it ended.
    pub status: Status,
}

/// A reused batch of completions with a fixed bound.
#[derive(Debug)]
pub struct Completions {
    entries: Box<[Completion]>,
    len: usize,
}

impl Completions {
    /// The usual bound of one batch.
    pub const BATCH: usize = 64;

    /// An empty batch of the usual bound. Allocates; make it when opening.
    #[must_use]
    pub fn new() -> Self {
        Self::limited(Self::BATCH)
    }

    /// An empty batch that takes at most `limit` entries.
    #[must_use]
    pub fn limited(limit: usize) -> Self {
        Self { entries: vec![Completion { tag: Tag(0), status: Status::Ok }; limit].into_boxed_slice(), len: 0 }
    }

    /// How many more it takes.
    #[must_use]
    #[inline]
    pub fn room(&self) -> usize {
        self.entries.len() - self.len
    }

    /// Adds one.
    ///
    /// # Panics
    /// If there is no room: the caller looks first.
    #[inline]
    pub fn push(&mut self, completion: Completion) {
        self.entries[self.len] = completion;
        self.len += 1;
    }

    /// Adds several.
    ///
    /// # Panics
    /// If there is not so much room.
    #[inline]
    pub fn extend(&mut self, more: &[Completion]) {
        self.entries[self.len..][..more.len()].copy_from_slice(more);
        self.len += more.len();
    }

    /// What it holds, oldest first.
    #[must_use]
    #[inline]
    pub fn as_slice(&self) -> &[Completion] {
        &self.entries[..self.len]
    }

    /// Empties it for reuse.
    #[inline]
    pub fn clear(&mut self) {
        self.len = 0;
    }
}

impl Default for Completions {
    fn default() -> Self {
        Self::new()
    }
}
