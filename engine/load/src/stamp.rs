//! What a test writes into every sector, and what can be learnt from it later. Knows no history: the checker has that.
//!
//! ```text
//! byte  0  magic      8 bytes      byte 32  sequence of the write     u64
//!       8  volume     u64               40  first sector of the write u64
//!      16  LBA        u64, sectors      48  sectors of the write      u32
//!      24  writer     u32               52  CRC32C of all 512 bytes, these four as zeroes
//!      28  epoch      u32               56  filling, drawn with the stamp as its seed
//! ```
//! Numbers are little-endian. A sector is 512 bytes whatever the device's blocks are.

use crc_fast::{CrcAlgorithm, checksum};

use crate::judge::UNTOUCHED;
use crate::prng::{Prng, mix};

/// Bytes of one sector, which is the unit that a power cut tears a write into.
pub const SECTOR_BYTES: usize = 512;

const MAGIC: [u8; 8] = *b"SpinlSec";
/// With so many bytes of it right it is a stamp that was damaged, and not something else.
const MAGIC_BYTES_MIN: usize = 6;
const CRC_AT: usize = 52;
const FILLING_AT: usize = 56;
/// A run of wrong bytes from somewhere to the end, at least this long, is half of another write and not a flipped bit.
const TEAR_BYTES_MIN: usize = 8;

/// Which write a sector belongs to, and which part of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stamp {
    /// The volume it was written to.
    pub volume: u64,
    /// The sector it was written to.
    pub lba: u64,
    /// Who wrote it.
    pub writer: u32,
    /// How many power cuts or restarts the writer had seen.
    pub epoch: u32,
    /// The write's number; never used twice on one volume.
    pub sequence: u64,
    /// First sector of the write.
    pub start: u64,
    /// How many sectors the write had.
    pub sectors: u32,
}

/// What a sector turns out to hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Found {
    /// Nothing but zeroes.
    Zeroes,
    /// A whole stamp.
    Stamped(Stamp),
    /// A stamp whose filling stops at this byte and goes on as something else.
    Torn {
        /// The first wrong byte.
        at: usize,
    },
    /// A stamp with single wrong bytes.
    Rotten {
        /// The first wrong byte of the filling, or 0 if the header itself is wrong.
        at: usize,
    },
    /// Nothing but [`UNTOUCHED`]: the read did not fill its memory.
    Untouched,
    /// Something that no test wrote.
    Strange,
}

/// What is wrong with a sector.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wrong {
    /// It holds what nobody has put there: zeroes that were never written, or memory that a read has not filled.
    Uninitialised,
    /// It holds what no test wrote: somebody else's data.
    Strange,
    /// It holds parts of two writes, or of a write that was acknowledged as a whole only a part is there.
    Torn,
    /// Bytes of it changed.
    Rotten {
        /// The first of them that is known.
        at: usize,
    },
    /// It was written to another volume.
    Foreign {
        /// Which.
        volume: u64,
    },
    /// It was written to another sector.
    Misdirected {
        /// Which.
        lba: u64,
    },
    /// Something newer had already been read here.
    Stale,
    /// Something newer had been acknowledged, and was never there.
    Lost,
}

impl Stamp {
    /// The sector that carries this stamp.
    #[must_use]
    pub fn encode(&self) -> [u8; SECTOR_BYTES] {
        let mut sector = [0; SECTOR_BYTES];
        self.encode_into(&mut sector);
        sector
    }

    /// Makes `sector` the one that carries this stamp.
    pub fn encode_into(&self, sector: &mut [u8; SECTOR_BYTES]) {
        sector[..8].copy_from_slice(&MAGIC);
        sector[8..16].copy_from_slice(&self.volume.to_le_bytes());
        sector[16..24].copy_from_slice(&self.lba.to_le_bytes());
        sector[24..28].copy_from_slice(&self.writer.to_le_bytes());
        sector[28..32].copy_from_slice(&self.epoch.to_le_bytes());
        sector[32..40].copy_from_slice(&self.sequence.to_le_bytes());
        sector[40..48].copy_from_slice(&self.start.to_le_bytes());
        sector[48..52].copy_from_slice(&self.sectors.to_le_bytes());
        sector[CRC_AT..FILLING_AT].fill(0);
        self.filling(&mut sector[FILLING_AT..]);
        let crc = u32::try_from(checksum(CrcAlgorithm::Crc32Iscsi, sector)).expect("32 bits");
        sector[CRC_AT..FILLING_AT].copy_from_slice(&crc.to_le_bytes());
    }

    fn filling(&self, into: &mut [u8]) {
        let place = mix(self.lba ^ mix(self.volume));
        let write = mix(self.sequence ^ mix(u64::from(self.writer) << 32 | u64::from(self.epoch)));
        Prng::new(place ^ write).fill(into);
    }

    /// Reads what a sector holds.
    ///
    /// # Panics
    /// If it is not [`SECTOR_BYTES`] long.
    #[must_use]
    pub fn decode(sector: &[u8]) -> Found {
        assert_eq!(sector.len(), SECTOR_BYTES, "the bytes of one sector");
        if sector.iter().all(|byte| *byte == 0) {
            return Found::Zeroes;
        }
        let magic = sector.iter().zip(MAGIC).filter(|(byte, magic)| *byte == magic).count();
        if magic < MAGIC_BYTES_MIN {
            return if sector.iter().all(|byte| *byte == UNTOUCHED) { Found::Untouched } else { Found::Strange };
        }
        let stamp = Self {
            volume: u64_at(sector, 8),
            lba: u64_at(sector, 16),
            writer: u32_at(sector, 24),
            epoch: u32_at(sector, 28),
            sequence: u64_at(sector, 32),
            start: u64_at(sector, 40),
            sectors: u32_at(sector, 48),
        };
        if stamp.encode() == sector { Found::Stamped(stamp) } else { stamp.damage(sector) }
    }

    /// What is wrong with a sector that begins like this stamp and is not it.
    fn damage(&self, sector: &[u8]) -> Found {
        let whole = self.encode();
        let wrong: Vec<usize> = (FILLING_AT..SECTOR_BYTES).filter(|at| sector[*at] != whole[*at]).collect();
        let Some(&first) = wrong.first() else { return Found::Rotten { at: 0 } };
        // A byte in 256 of another filling is right by chance.
        let rest = SECTOR_BYTES - first;
        let is_other = rest >= TEAR_BYTES_MIN && wrong.len() * 8 >= rest * 7;
        match first {
            // Nothing of the filling is of this header: it is the header that has changed.
            _ if is_other && first < FILLING_AT + TEAR_BYTES_MIN => Found::Rotten { at: 0 },
            at if is_other => Found::Torn { at },
            at => Found::Rotten { at },
        }
    }

    /// Compares a sector with the write that it should hold; what it holds instead is named as far as the sector itself tells.
    ///
    /// # Errors
    /// [`Wrong`]. Without a history an older write counts as lost, not as stale.
    ///
    /// # Panics
    /// If it is not [`SECTOR_BYTES`] long.
    pub fn verify(&self, sector: &[u8]) -> Result<(), Wrong> {
        match Self::decode(sector) {
            Found::Stamped(found) if found == *self => Ok(()),
            found => Err(Wrong::instead_of(found, self.volume, self.lba)),
        }
    }
}

impl Wrong {
    /// What it means to find this in a sector of a volume where it should not be.
    pub(crate) fn instead_of(found: Found, volume: u64, lba: u64) -> Self {
        match found {
            Found::Zeroes | Found::Untouched => Self::Uninitialised,
            Found::Strange => Self::Strange,
            Found::Torn { .. } => Self::Torn,
            Found::Rotten { at } => Self::Rotten { at },
            Found::Stamped(stamp) if stamp.volume != volume => Self::Foreign { volume: stamp.volume },
            Found::Stamped(stamp) if stamp.lba != lba => Self::Misdirected { lba: stamp.lba },
            Found::Stamped(_) => Self::Lost,
        }
    }
}

fn u64_at(sector: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(sector[at..at + 8].try_into().expect("eight bytes"))
}

fn u32_at(sector: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(sector[at..at + 4].try_into().expect("four bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stamp() -> Stamp {
        Stamp { volume: 9, lba: 77, writer: 2, epoch: 1, sequence: 1234, start: 70, sectors: 16 }
    }

    #[test]
    fn the_crc_is_castagnolis() {
        assert_eq!(checksum(CrcAlgorithm::Crc32Iscsi, b"123456789"), 0xe306_9283);
        let sector = stamp().encode();
        let mut blank = sector;
        blank[CRC_AT..FILLING_AT].fill(0);
        assert_eq!(u64::from(u32_at(&sector, CRC_AT)), checksum(CrcAlgorithm::Crc32Iscsi, &blank));
    }

    #[test]
    fn each_wrong_sector_is_called_by_its_name() {
        let whole = stamp();
        let other = Stamp { sequence: 1200, ..whole };
        assert_eq!(whole.verify(&whole.encode()), Ok(()));
        assert_eq!(whole.verify(&other.encode()), Err(Wrong::Lost));
        assert_eq!(whole.verify(&[0; SECTOR_BYTES]), Err(Wrong::Uninitialised));
        assert_eq!(whole.verify(&[UNTOUCHED; SECTOR_BYTES]), Err(Wrong::Uninitialised));
        assert_eq!(whole.verify(&[0x55; SECTOR_BYTES]), Err(Wrong::Strange));
        assert_eq!(whole.verify(&Stamp { lba: 78, ..whole }.encode()), Err(Wrong::Misdirected { lba: 78 }));
        assert_eq!(whole.verify(&Stamp { volume: 8, ..whole }.encode()), Err(Wrong::Foreign { volume: 8 }));
        let mut torn = whole.encode();
        torn[200..].copy_from_slice(&other.encode()[200..]);
        assert_eq!(whole.verify(&torn), Err(Wrong::Torn));
        let mut rotten = whole.encode();
        rotten[333] ^= 0x40;
        assert_eq!(whole.verify(&rotten), Err(Wrong::Rotten { at: 333 }));
        let mut rotten = whole.encode();
        rotten[33] ^= 0x40;
        assert_eq!(whole.verify(&rotten), Err(Wrong::Rotten { at: 0 }));
        let mut rotten = whole.encode();
        rotten[FILLING_AT] ^= 1;
        assert_eq!(whole.verify(&rotten), Err(Wrong::Rotten { at: FILLING_AT }));
        let mut rotten = whole.encode();
        rotten[3] ^= 1;
        assert_eq!(whole.verify(&rotten), Err(Wrong::Rotten { at: 0 }));
    }

    proptest! {
        #[test]
        fn any_stamp_survives_and_any_flipped_bit_does_not(
            (volume, lba, sequence, start) in any::<(u64, u64, u64, u64)>(), (writer, epoch, sectors) in any::<(u32, u32, u32)>(),
            byte in 0..SECTOR_BYTES, bit in 0..8,
        ) {
            let stamp = Stamp { volume, lba, writer, epoch, sequence, start, sectors };
            let mut sector = stamp.encode();
            prop_assert_eq!(Stamp::decode(&sector), Found::Stamped(stamp));
            sector[byte] ^= 1_u8 << bit;
            prop_assert!(!matches!(Stamp::decode(&sector), Found::Stamped(_) | Found::Zeroes));
        }
    }
}
