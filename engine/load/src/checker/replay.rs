//! A checker that is told later what was written. Knows no log.

use std::ops::Range;

use spinel_core::Status;

use super::{Checker, Write};
use crate::register::{NOT_JUDGED, Value};

/// What a write that is told of later has written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Wrote {
    Stamps,
    Zeroes,
    /// Nothing: it was a discard.
    Anything,
}

impl Checker {
    /// A write began back then, by its number. Sectors outside the area make it `None`.
    pub(crate) fn replay_begin(&mut self, sequence: u64, start: u64, sectors: u64, fua: bool, wrote: Wrote) -> Option<Write> {
        let end = start.checked_add(sectors)?;
        let area = self.first..self.first + u64::try_from(self.sectors.count()).expect("lengths fit 64 bits");
        if start < area.start || end > area.end {
            return None;
        }
        self.sequences = self.sequences.max(sequence);
        Some(self.begin_as(sequence, start, sectors, fua, |sequence| match wrote {
            Wrote::Stamps => Value::Stamp(sequence),
            Wrote::Zeroes => Value::Zeroes,
            Wrote::Anything => Value::Any,
        }))
    }

    /// It ended like this. A `stable` one survives every power cut.
    pub(crate) fn replay_end(&mut self, write: Write, status: Status, stable: bool) {
        self.end_write_as(write, status, stable);
    }

    /// How many sectors take more memory than eight bytes, because more than one value may be read.
    pub(crate) fn undecided(&self) -> usize {
        self.sectors.busy()
    }

    /// Gives up judging these sectors until they are written again; writes in flight there are forgotten.
    pub(crate) fn give_up(&mut self, start: u64, sectors: u64) {
        self.not_judged += sectors;
        for sector in start..start + sectors {
            let index = self.index(sector);
            self.sectors.settle(index, NOT_JUDGED);
        }
    }

    /// The next blocks from sector `from` on in which something has happened, as sectors, at most `sectors_max` of them.
    pub(crate) fn next_touched(&self, from: u64, sectors_max: u64) -> Option<Range<u64>> {
        let area_end = self.first + u64::try_from(self.sectors.count()).expect("lengths fit 64 bits");
        let touched = |block: &u64| (*block..block + self.sectors_per_block).any(|sector| self.sectors.touched(self.index(sector)));
        let step = usize::try_from(self.sectors_per_block).expect("a block has few sectors");
        let start = (from.max(self.first)..area_end).step_by(step).find(touched)?;
        let longest = area_end.min(start + sectors_max);
        let end = (start..longest).step_by(step).take_while(touched).last().expect("the first is touched") + self.sectors_per_block;
        Some(start..end)
    }
}
