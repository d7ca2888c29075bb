//! What a load can be watched by: somebody who says what is written, and sees what is read. Knows no poller.

use spinel_core::{Lba, Op, Status, Tag};

/// One request, as a judge sees it begin and end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Case {
    /// Names the request among those in flight: below the job's depth, and free again once the request has ended.
    pub tag: Tag,
    /// What is asked, with its modifiers.
    pub op: Op,
    /// First block; 0 for a flush.
    pub start: Lba,
    /// Number of blocks; 0 for a flush.
    pub blocks: u32,
}

/// Sees every request of a load begin and end, the warm-up's included, in the order in which that happens.
///
/// A [`LoadPoller`](crate::LoadPoller) calls it on the core that works, so what it takes is
/// part of the load's own cost. Before a read, the memory that it fills is overwritten with
/// [`UNTOUCHED`], so that a device that returns nothing is seen.
pub trait Judge: Send {
    /// `case` is about to be submitted. `bytes` of a write are to be filled with what it shall write; those of all others are empty.
    fn begin(&mut self, case: Case, bytes: &mut [u8]);

    /// `case` has ended. `bytes` of a read that succeeded are what it returned; those of all others are empty.
    fn end(&mut self, case: Case, status: Status, bytes: &[u8]);

    /// The load is over, and nothing is in flight. Called once; the last tally is handed over afterwards.
    fn close(&mut self);
}

/// What the memory of a judged read holds until the device fills it.
pub const UNTOUCHED: u8 = 0xa5;
