//! Descriptors that say where a command's data are (SGL, base 4.1.2). Knows no memory.

use std::fmt;

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Type and subtype of a data block at an address.
const DATA_ADDRESS: u8 = 0x00;
/// Of a data block at an offset within the capsule.
const DATA_OFFSET: u8 = 0x01;
/// Of the last segment of descriptors, at an address.
const LAST_SEGMENT_OFFSET: u8 = 0x31;
/// Of a data block under a key.
const KEYED_ADDRESS: u8 = 0x40;
/// The same, and the key ends with the command.
const KEYED_INVALIDATE: u8 = 0x4f;
/// Of a data block that the transport brings.
const TRANSPORT: u8 = 0x5a;

/// A descriptor of 16 bytes.
#[derive(Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Sgl {
    address: U64,
    /// The length; with a key only the lower three bytes of it, and the key begins with the fourth.
    length: U32,
    key: [u8; 3],
    identifier: u8,
}

const _: () = assert!(size_of::<Sgl>() == 16);

/// What a descriptor says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// In memory at `address` (type 0h, subtype 0h).
    Address {
        /// Where.
        address: u64,
        /// How much.
        len_bytes: u32,
    },
    /// In the capsule, behind the command and `offset` bytes more (type 0h, subtype 1h).
    Capsule {
        /// Where, counted from the first byte that can hold data.
        offset: u64,
        /// How much.
        len_bytes: u32,
    },
    /// Descriptors in the capsule say it (type 3h, subtype 1h).
    CapsuleSegment {
        /// Where they are, counted from the first byte that can hold data.
        offset: u64,
        /// How long they are.
        len_bytes: u32,
    },
    /// In the host's memory, for who has the key (type 4h).
    Keyed {
        /// Where.
        address: u64,
        /// How much; less than 2^24.
        len_bytes: u32,
        /// The key.
        key: u32,
        /// The key is to end with the command (subtype Fh).
        invalidate: bool,
    },
    /// The transport brings and takes them (type 5h, subtype Ah).
    Transport {
        /// How much.
        len_bytes: u32,
    },
    /// Some other form: its type in the upper, its subtype in the lower four bits.
    Other(u8),
}

impl Sgl {
    /// Data that the transport brings or takes; also what a command without data has over TCP, with a length of zero.
    #[must_use]
    pub fn transport(len_bytes: u32) -> Self {
        Self { length: len_bytes.into(), identifier: TRANSPORT, ..Self::new_zeroed() }
    }

    /// Data in the capsule.
    #[must_use]
    pub fn capsule(offset: u64, len_bytes: u32) -> Self {
        Self { address: offset.into(), length: len_bytes.into(), identifier: DATA_OFFSET, ..Self::new_zeroed() }
    }

    /// Data at an address.
    #[must_use]
    pub fn address(address: u64, len_bytes: u32) -> Self {
        Self { address: address.into(), length: len_bytes.into(), identifier: DATA_ADDRESS, ..Self::new_zeroed() }
    }

    /// Data under a key, which ends with the command if `invalidate`.
    ///
    /// # Panics
    /// If the length does not fit into 24 bits.
    #[must_use]
    pub fn keyed(address: u64, len_bytes: u32, key: u32, invalidate: bool) -> Self {
        assert!(len_bytes < 1 << 24, "a data block of {len_bytes} bytes does not fit into a keyed descriptor");
        let [key_first, key_rest @ ..] = key.to_le_bytes();
        Self {
            address: address.into(),
            length: (len_bytes | u32::from(key_first) << 24).into(),
            key: key_rest,
            identifier: if invalidate { KEYED_INVALIDATE } else { KEYED_ADDRESS },
        }
    }

    /// What it says.
    #[must_use]
    #[inline]
    pub fn place(&self) -> Place {
        let (address, length) = (self.address.get(), self.length.get());
        match self.identifier {
            TRANSPORT => Place::Transport { len_bytes: length },
            DATA_OFFSET => Place::Capsule { offset: address, len_bytes: length },
            DATA_ADDRESS => Place::Address { address, len_bytes: length },
            LAST_SEGMENT_OFFSET => Place::CapsuleSegment { offset: address, len_bytes: length },
            KEYED_ADDRESS | KEYED_INVALIDATE => {
                let [.., key_first] = length.to_le_bytes();
                let [second, third, fourth] = self.key;
                let key = u32::from_le_bytes([key_first, second, third, fourth]);
                Place::Keyed { address, len_bytes: length & 0xff_ffff, key, invalidate: self.identifier == KEYED_INVALIDATE }
            }
            other => Place::Other(other),
        }
    }
}

impl fmt::Debug for Sgl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.place().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_lie_as_the_specification_draws_them() {
        for (sgl, bytes, place) in [
            (
                Sgl::transport(0x0001_0200),
                [0, 0, 0, 0, 0, 0, 0, 0, 0x00, 0x02, 0x01, 0x00, 0, 0, 0, 0x5a],
                Place::Transport { len_bytes: 0x0001_0200 },
            ),
            (
                Sgl::capsule(0x20, 0x1000),
                [0x20, 0, 0, 0, 0, 0, 0, 0, 0x00, 0x10, 0, 0, 0, 0, 0, 0x01],
                Place::Capsule { offset: 0x20, len_bytes: 0x1000 },
            ),
            (
                Sgl::address(0x1122_3344_5566_7788, 0x1000),
                [0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, 0x00, 0x10, 0, 0, 0, 0, 0, 0x00],
                Place::Address { address: 0x1122_3344_5566_7788, len_bytes: 0x1000 },
            ),
            (
                Sgl::keyed(0x1122_3344_5566_7788, 0x01_0203, 0xa1b2_c3d4, false),
                [0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, 0x03, 0x02, 0x01, 0xd4, 0xc3, 0xb2, 0xa1, 0x40],
                Place::Keyed { address: 0x1122_3344_5566_7788, len_bytes: 0x01_0203, key: 0xa1b2_c3d4, invalidate: false },
            ),
            (
                Sgl::keyed(0, 1, 2, true),
                [0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 2, 0, 0, 0, 0x4f],
                Place::Keyed { address: 0, len_bytes: 1, key: 2, invalidate: true },
            ),
        ] {
            assert_eq!(sgl.as_bytes(), bytes);
            assert_eq!(Sgl::read_from_bytes(&bytes).unwrap().place(), place);
        }
    }

    #[test]
    fn forms_that_no_fabric_has_are_told_apart() {
        let mut bytes = [0; 16];
        for identifier in [0x10, 0x20, 0x30, 0x5b, 0xf0, 0x0a] {
            bytes[15] = identifier;
            assert_eq!(Sgl::read_from_bytes(&bytes).unwrap().place(), Place::Other(identifier));
        }
        bytes[15] = LAST_SEGMENT_OFFSET;
        assert_eq!(Sgl::read_from_bytes(&bytes).unwrap().place(), Place::CapsuleSegment { offset: 0, len_bytes: 0 });
    }
}
