//! Header and data digests: CRC32C of bytes that come in pieces. Knows no PDU.

use crc_fast::{CrcAlgorithm, Digest};

/// Bytes of a digest on the wire, least significant byte first.
pub const DIGEST_BYTES: u8 = 4;

const ALL_ONES: u64 = 0xffff_ffff;

/// A CRC32C that grows (NVMe/TCP 1.0, section 3.3.1: polynomial 1EDC6F41h, both ends reflected and inverted).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Crc {
    state: u64,
}

impl Default for Crc {
    fn default() -> Self {
        Self { state: ALL_ONES }
    }
}

impl Crc {
    /// The digest of bytes that lie in one piece.
    #[must_use]
    pub fn of(bytes: &[u8]) -> u32 {
        crc_fast::crc32_iscsi(bytes)
    }

    /// Adds the bytes that come next.
    pub fn update(&mut self, bytes: &[u8]) {
        let mut digest = Digest::new_with_init_state(CrcAlgorithm::Crc32Iscsi, self.state);
        digest.update(bytes);
        self.state = digest.finalize() ^ ALL_ONES;
    }

    /// The digest of everything so far.
    ///
    /// # Panics
    /// Never: the state of a 32-bit CRC has 32 bits.
    #[must_use]
    pub fn value(&self) -> u32 {
        u32::try_from(self.state ^ ALL_ONES).expect("a CRC32C has 32 bits")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values_of_the_polynomial() {
        // RFC 3720, appendix B.4.
        let rising: Vec<u8> = (0..32).collect();
        for (bytes, expected) in
            [(&[0u8; 32][..], 0x8a91_36aa), (&[0xff; 32], 0x62a8_ab43), (&rising, 0x46dd_794e), (b"123456789", 0xe306_9283), (b"", 0)]
        {
            assert_eq!(Crc::of(bytes), expected);
            let mut grown = Crc::default();
            grown.update(bytes);
            assert_eq!(grown.value(), expected);
        }
    }

    #[test]
    fn pieces_give_what_the_whole_gives() {
        let bytes: Vec<u8> = (0..40_000u32).map(|at| u8::try_from(at * 7 % 251).expect("below 251")).collect();
        for cut in [0, 1, 3, 15, 16, 63, 255, 256, 1023, 4096, 16384, 39_999] {
            let mut crc = Crc::default();
            crc.update(&bytes[..cut]);
            crc.update(&bytes[cut..]);
            assert_eq!(crc.value(), Crc::of(&bytes), "cut at {cut}");
        }
    }
}
