//! What commands of I/O queues ask for: reads, writes, compares, zeroes, flushes (NVM 3.2, base 7.1). Knows no blocks.

use crate::command::{Command, IoOpcode, quarters};
use crate::sgl::Sgl;

/// Most blocks of one command.
pub const BLOCKS_MAX: u32 = 1 << 16;

const DEALLOCATE: u32 = 1 << 25;
const FUA: u32 = 1 << 30;
const LIMITED_RETRY: u32 = 1 << 31;

/// The blocks of Read, Write, Compare, Write Zeroes, Verify and Write Uncorrectable, and how to treat them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Blocks {
    /// The first one (SLBA).
    pub start: u64,
    /// How many, 1 to [`BLOCKS_MAX`].
    pub count: u32,
    /// Completes only when they are on the medium; what is read or compared comes from there.
    pub fua: bool,
    /// Fail early instead of trying hard (LR).
    pub limited_retry: bool,
    /// Of Write Zeroes: the space may be given back (DEAC).
    pub deallocate: bool,
    /// What to do with protection information (PRINFO), four bits; 0 where blocks have none.
    pub protection: u8,
    /// What else the host says of them (dword 13): hints about access, or a directive.
    pub hints: u32,
}

impl Blocks {
    /// These blocks, without any wish.
    #[must_use]
    pub fn new(start: u64, count: u32) -> Self {
        Self { start, count, ..Self::default() }
    }

    /// Of one of the commands that have blocks.
    #[must_use]
    #[inline]
    pub fn of(command: &Command) -> Self {
        let dword = command.dword(12);
        Self {
            start: command.dwords(10),
            count: u32::from(quarters(dword).0) + 1,
            fua: dword & FUA != 0,
            limited_retry: dword & LIMITED_RETRY != 0,
            deallocate: dword & DEALLOCATE != 0,
            protection: dword.to_le_bytes()[3] >> 2 & 0xf,
            hints: command.dword(13),
        }
    }

    /// Behind the last one; `None` if there is no such number.
    #[must_use]
    #[inline]
    pub fn end(&self) -> Option<u64> {
        self.start.checked_add(u64::from(self.count))
    }

    /// As a command with this opcode, its data, if it has any, where `data` says.
    ///
    /// # Panics
    /// If there are no blocks, or more than [`BLOCKS_MAX`].
    #[must_use]
    pub fn command(&self, opcode: IoOpcode, nsid: u32, data: Sgl) -> Command {
        assert!((1..=BLOCKS_MAX).contains(&self.count), "a command has 1 to {BLOCKS_MAX} blocks, not {}", self.count);
        let bit = |set: bool, bit: u32| if set { bit } else { 0 };
        let wishes = bit(self.fua, FUA) | bit(self.limited_retry, LIMITED_RETRY) | bit(self.deallocate, DEALLOCATE);
        Command::new(opcode.code(), nsid)
            .with_data(data)
            .with_dwords(10, self.start)
            .with_dword(12, (self.count - 1) | wishes | u32::from(self.protection & 0xf) << 26)
            .with_dword(13, self.hints)
    }
}

/// Flush (base 7.1), of one namespace, or of all of them with [`NSID_ALL`](crate::command::NSID_ALL).
#[must_use]
pub fn flush(nsid: u32) -> Command {
    Command::new(IoOpcode::Flush.code(), nsid).with_data(Sgl::transport(0))
}

#[cfg(test)]
mod tests {
    use zerocopy::{FromBytes, IntoBytes};

    use super::*;

    #[test]
    fn a_write_lies_as_the_specification_draws_it() {
        let blocks = Blocks { fua: true, protection: 0b1010, hints: 0x0102_0304, ..Blocks::new(0x1122_3344_5566_7788, 256) };
        let command = blocks.command(IoOpcode::Write, 5, Sgl::transport(0x20000));
        let mut bytes = [0; 64];
        bytes[..8].copy_from_slice(&[1, 0x40, 0, 0, 5, 0, 0, 0]);
        bytes[24..40].copy_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0x5a]);
        bytes[40..48].copy_from_slice(&[0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11]);
        bytes[48..56].copy_from_slice(&[0xff, 0, 0, 0x40 | 0b1010 << 2, 4, 3, 2, 1]);
        assert_eq!(command.as_bytes(), bytes);
        assert_eq!(Blocks::of(&Command::read_from_bytes(&bytes).unwrap()), blocks);
    }

    #[test]
    fn the_largest_command_and_the_smallest_are_told_apart() {
        for count in [1, BLOCKS_MAX] {
            let command = Blocks::new(0, count).command(IoOpcode::Read, 1, Sgl::transport(0));
            assert_eq!(Blocks::of(&command).count, count);
        }
        assert_eq!(Blocks::new(u64::MAX, 1).end(), None);
        assert_eq!(Blocks::new(7, 3).end(), Some(10));
    }

    #[test]
    fn each_wish_has_its_own_bit() {
        let of = |blocks: Blocks| blocks.command(IoOpcode::WriteZeroes, 1, Sgl::transport(0)).dword(12);
        let plain = Blocks::new(0, 1);
        assert_eq!(of(Blocks { deallocate: true, ..plain }), 1 << 25);
        assert_eq!(of(Blocks { fua: true, ..plain }), 1 << 30);
        assert_eq!(of(Blocks { limited_retry: true, ..plain }), 1 << 31);
        assert_eq!((of(plain), flush(1).opcode()), (0, 0));
    }
}
