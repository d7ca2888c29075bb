//! Dataset Management: ranges of blocks that are no longer needed (NVM 3.2.3). Knows no blocks.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::command::{Command, IoOpcode, low_byte};
use crate::sgl::Sgl;

/// Most ranges of one command.
pub const RANGES_MAX: usize = 256;

const DEALLOCATE: u32 = 1 << 2;

/// One range.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Range {
    attributes: U32,
    blocks: U32,
    start: U64,
}

const _: () = assert!(size_of::<Range>() == 16);

impl Range {
    /// So many blocks from `start` on.
    #[must_use]
    pub fn new(start: u64, blocks: u32) -> Self {
        Self { blocks: blocks.into(), start: start.into(), ..Self::new_zeroed() }
    }

    /// The first block.
    #[must_use]
    pub fn start(&self) -> u64 {
        self.start.get()
    }

    /// How many; may be none.
    #[must_use]
    pub fn blocks(&self) -> u32 {
        self.blocks.get()
    }

    /// Behind the last one; `None` if there is no such number.
    #[must_use]
    pub fn end(&self) -> Option<u64> {
        self.start().checked_add(self.blocks().into())
    }
}

/// What Dataset Management asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DatasetManagement {
    /// How many ranges its data have: 1 to [`RANGES_MAX`].
    pub ranges: u16,
    /// They are no longer needed (AD). Otherwise the command only says how they will be used.
    pub deallocate: bool,
}

impl DatasetManagement {
    /// Of a Dataset Management command.
    #[must_use]
    pub fn of(command: &Command) -> Self {
        let ranges = u16::from(low_byte(command.dword(10))) + 1;
        Self { ranges, deallocate: command.dword(11) & DEALLOCATE != 0 }
    }

    /// How long its data are.
    #[must_use]
    pub fn len_bytes(&self) -> u32 {
        u32::from(self.ranges) * 16
    }

    /// As a command, its ranges where `data` says.
    ///
    /// # Panics
    /// If there are no ranges, or more than [`RANGES_MAX`].
    #[must_use]
    pub fn command(&self, nsid: u32, data: Sgl) -> Command {
        assert!((1..=RANGES_MAX).contains(&usize::from(self.ranges)), "a command has 1 to {RANGES_MAX} ranges, not {}", self.ranges);
        Command::new(IoOpcode::DatasetManagement.code(), nsid)
            .with_data(data)
            .with_dword(10, u32::from(self.ranges) - 1)
            .with_dword(11, if self.deallocate { DEALLOCATE } else { 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_lie_as_the_specification_draws_them() {
        let range = Range::new(0x1122_3344_5566_7788, 0x0102_0304);
        let bytes = [0, 0, 0, 0, 4, 3, 2, 1, 0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11];
        assert_eq!(range.as_bytes(), bytes);
        let mut with_attributes = bytes;
        with_attributes[0] = 0xff;
        let read = Range::read_from_bytes(&with_attributes).unwrap();
        assert_eq!((read.start(), read.blocks()), (range.start(), range.blocks()));
        assert_eq!((Range::new(u64::MAX, 1).end(), Range::new(u64::MAX, 0).end()), (None, Some(u64::MAX)));
    }

    #[test]
    fn a_deallocation_counts_its_ranges_from_one() {
        let asked = DatasetManagement { ranges: 256, deallocate: true };
        let command = asked.command(1, Sgl::transport(asked.len_bytes()));
        assert_eq!((command.opcode(), command.dword(10), command.dword(11)), (0x09, 255, 4));
        assert_eq!((DatasetManagement::of(&command), asked.len_bytes()), (asked, 4096));
        assert_eq!(DatasetManagement::of(&command.with_dword(11, 3)), DatasetManagement { ranges: 256, deallocate: false });
    }
}
