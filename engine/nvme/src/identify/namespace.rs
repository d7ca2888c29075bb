//! Identify's pages of a namespace: of the NVM command set (CNS 0, 11h), what the set adds (CNS 5), what all sets share (CNS 8).

use core::mem::offset_of;

use zerocopy::little_endian::{U16, U32, U64, U128};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bits of the namespace's fields.
pub mod ns_flags {
    /// NSFEAT: it may have less than its size (thin provisioning).
    pub const NSFEAT_THIN: u8 = 1 << 0;
    /// NSFEAT: its own atomic sizes count, not the controller's (NSABP).
    pub const NSFEAT_OWN_ATOMICS: u8 = 1 << 1;
    /// NSFEAT: its identifiers are never used again (UIDREUSE).
    pub const NSFEAT_IDS_NOT_REUSED: u8 = 1 << 3;
    /// NSFEAT: its preferred granularities are given (OPTPERF).
    pub const NSFEAT_PREFERENCES: u8 = 1 << 4;

    /// NMIC: several controllers may have it at a time.
    pub const NMIC_SHARED: u8 = 1 << 0;

    /// RESCAP: reservations last through power loss.
    pub const RESCAP_PERSIST: u8 = 1 << 0;
    /// RESCAP: all six types of reservations, which have a bit each.
    pub const RESCAP_ALL_TYPES: u8 = 0b111_1110;
    /// RESCAP: the ignore-existing-key bit means what version 1.3 and later say.
    pub const RESCAP_IGNORE_KEY: u8 = 1 << 7;

    /// DLFEAT: deallocated blocks read as zeroes.
    pub const DLFEAT_ZEROES: u8 = 0b001;
    /// DLFEAT: Write Zeroes may deallocate.
    pub const DLFEAT_WRITE_ZEROES: u8 = 1 << 3;

    /// NSATTR: it is write protected.
    pub const NSATTR_WRITE_PROTECTED: u8 = 1 << 0;

    /// NSTAT of the page that all sets share: it is ready.
    pub const NSTAT_READY: u8 = 1 << 0;
}

/// A format of blocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Format {
    /// Bytes of metadata for every block (MS).
    pub metadata_bytes: U16,
    /// Bytes of data in a block, as a power of two (LBADS).
    pub data_power: u8,
    /// How fast it is: 0 is best, 3 degraded (RP).
    pub performance: u8,
}

/// A namespace of the NVM command set (NVM 4.1.5). Counts of blocks that are "0's based" are named `..._less_one`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Namespace {
    /// Blocks that it has (NSZE).
    pub size_blocks: U64,
    /// Blocks that can be allocated (NCAP).
    pub capacity_blocks: U64,
    /// Blocks that are (NUSE).
    pub used_blocks: U64,
    /// Features (NSFEAT).
    pub features: u8,
    /// Formats less one (NLBAF).
    pub formats_less_one: u8,
    /// Which format it has (FLBAS): the lowest four bits, and bits 6:5 above them.
    pub format: u8,
    /// Metadata (MC).
    pub metadata: u8,
    /// Data protection that it can have (DPC).
    pub protection: u8,
    /// Data protection that it has (DPS).
    pub protection_set: u8,
    /// Several paths (NMIC).
    pub multipath: u8,
    /// Reservations (RESCAP).
    pub reservations: u8,
    /// Progress of a format (FPI).
    pub format_progress: u8,
    /// What deallocated blocks are (DLFEAT).
    pub deallocated: u8,
    /// Blocks less one that are written at once, whatever happens (NAWUN).
    pub atomic_less_one: U16,
    /// The same if power fails (NAWUPF).
    pub atomic_power_fail_less_one: U16,
    /// Blocks less one that a fused compare-and-write does at once (NACWU).
    pub atomic_compare_less_one: U16,
    /// Boundaries of atomic writes (NABSN).
    pub atomic_boundary_less_one: U16,
    /// Where the first boundary is (NABO).
    pub atomic_boundary_offset: U16,
    /// Boundaries if power fails (NABSPF).
    pub atomic_boundary_power_fail_less_one: U16,
    /// Boundary that reads and writes better do not cross (NOIOB).
    pub boundary_blocks: U16,
    /// Bytes that it takes (NVMCAP).
    pub capacity_bytes: U128,
    /// Preferred granularity of writes (NPWG).
    pub write_granularity_less_one: U16,
    /// Preferred alignment of writes (NPWA).
    pub write_alignment_less_one: U16,
    /// Preferred granularity of deallocation (NPDG).
    pub deallocate_granularity_less_one: U16,
    /// Preferred alignment of deallocation (NPDA).
    pub deallocate_alignment_less_one: U16,
    /// Optimal size of writes (NOWS).
    pub write_optimal_less_one: U16,
    /// Most blocks of one range of Copy (MSSRL).
    pub copy_range_max_blocks: U16,
    /// Most blocks of one Copy (MCL).
    pub copy_max_blocks: U32,
    /// Ranges of one Copy, less one (MSRC).
    pub copy_ranges_less_one: u8,
    reserved_81: [u8; 11],
    /// Its ANA group (ANAGRPID).
    pub ana_group: U32,
    reserved_96: [u8; 3],
    /// Attributes (NSATTR).
    pub attributes: u8,
    /// Its NVM set (NVMSETID).
    pub nvm_set: U16,
    /// Its endurance group (ENDGID).
    pub endurance_group: U16,
    /// A globally unique identifier (NGUID); zero if there is none.
    pub nguid: [u8; 16],
    /// An extended unique identifier (EUI64); zero if there is none.
    pub eui64: [u8; 8],
    /// Formats.
    pub formats: [Format; 64],
    /// The vendor's.
    pub vendor_specific: [u8; 3712],
}

const _: () = {
    assert!(size_of::<Format>() == 4 && size_of::<Namespace>() == 4096);
    assert!(offset_of!(Namespace, multipath) == 30 && offset_of!(Namespace, deallocated) == 33);
    assert!(offset_of!(Namespace, boundary_blocks) == 46 && offset_of!(Namespace, write_granularity_less_one) == 64);
    assert!(offset_of!(Namespace, copy_range_max_blocks) == 74 && offset_of!(Namespace, ana_group) == 92);
    assert!(offset_of!(Namespace, attributes) == 99 && offset_of!(Namespace, nguid) == 104);
    assert!(offset_of!(Namespace, eui64) == 120 && offset_of!(Namespace, formats) == 128);
};

impl Namespace {
    /// A namespace of so many blocks with one format, without metadata, all of it allocated.
    ///
    /// # Panics
    /// If the size of blocks is not a power of two.
    #[must_use]
    pub fn new(block_count: u64, block_bytes: u32) -> Self {
        assert!(block_bytes.is_power_of_two(), "blocks of {block_bytes} bytes");
        let blocks = U64::new(block_count);
        let mut page = Self { size_blocks: blocks, capacity_blocks: blocks, used_blocks: blocks, ..Self::new_zeroed() };
        page.formats[0].data_power = crate::command::low_byte(block_bytes.trailing_zeros());
        page
    }

    /// The format that it has. A peer may name one that there is not: then the bytes there, which are usually zero.
    #[must_use]
    pub fn current_format(&self) -> Format {
        // Two bits of the index lie apart: they came later, and count only if there are more than sixteen formats.
        let low = usize::from(self.format & 0xf);
        let high = if self.formats_less_one >= 16 { usize::from(self.format >> 5 & 0b11) << 4 } else { 0 };
        self.formats[low | high]
    }

    /// Bytes of a block; `None` if its format has none, or more than a `u32` counts.
    #[must_use]
    pub fn block_bytes(&self) -> Option<u32> {
        let power = u32::from(self.current_format().data_power);
        (power >= 9).then(|| 1_u32.checked_shl(power)).flatten()
    }
}

/// What the NVM command set adds (CNS 05h, NVM 4.1.5): protection information with storage tags. All zero without.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct NamespaceNvm {
    /// Which bits of the storage tag are checked (LBSTM).
    pub storage_tag_mask: U64,
    /// Protection information (PIC).
    pub protection: u8,
    reserved_9: [u8; 3],
    /// Extensions of the formats (ELBAF).
    pub formats: [U32; 64],
    reserved_268: [u8; 3828],
}

const _: () = assert!(size_of::<NamespaceNvm>() == 4096 && offset_of!(NamespaceNvm, formats) == 12);

/// A namespace as far as it is the same for every command set (CNS 08h, base 5.17.2.8).
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct NamespaceCommon {
    /// Features (NSFEAT), of which only the reuse of identifiers is here.
    pub features: u8,
    /// Several paths (NMIC).
    pub multipath: u8,
    /// Reservations (RESCAP).
    pub reservations: u8,
    /// Progress of a format (FPI).
    pub format_progress: u8,
    /// Its ANA group (ANAGRPID).
    pub ana_group: U32,
    /// Attributes (NSATTR).
    pub attributes: u8,
    reserved_9: u8,
    /// Its NVM set (NVMSETID).
    pub nvm_set: U16,
    /// Its endurance group (ENDGID).
    pub endurance_group: U16,
    /// Whether it is ready (NSTAT).
    pub status: u8,
    reserved_15: [u8; 4081],
}

const _: () = assert!(size_of::<NamespaceCommon>() == 4096 && offset_of!(NamespaceCommon, status) == 14);

impl NamespaceCommon {
    /// The same as a namespace of the NVM command set says, and that it is ready.
    #[must_use]
    pub fn of(namespace: &Namespace) -> Self {
        Self {
            features: namespace.features & ns_flags::NSFEAT_IDS_NOT_REUSED,
            multipath: namespace.multipath,
            reservations: namespace.reservations,
            format_progress: namespace.format_progress,
            ana_group: namespace.ana_group,
            attributes: namespace.attributes,
            nvm_set: namespace.nvm_set,
            endurance_group: namespace.endurance_group,
            status: ns_flags::NSTAT_READY,
            ..Self::new_zeroed()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_says_its_size_and_its_blocks() {
        let page = Namespace::new(0x0102_0304, 4096);
        let bytes = page.as_bytes();
        assert_eq!(bytes[..24], [4, 3, 2, 1, 0, 0, 0, 0].repeat(3));
        assert_eq!(bytes[128..136], [0, 0, 12, 0, 0, 0, 0, 0]);
        assert_eq!(Namespace::ref_from_bytes(bytes).unwrap().block_bytes(), Some(4096));
    }

    #[test]
    fn a_format_is_found_by_both_parts_of_its_index() {
        let mut page = Namespace::new(1, 512);
        page.formats[0x23].data_power = 12;
        page.format = 0b0100_0011;
        page.formats_less_one = 0x23;
        assert_eq!(page.block_bytes(), Some(4096));
        page.formats_less_one = 15;
        assert_eq!(page.block_bytes(), None, "the upper bits meant nothing while there were sixteen formats at most");
    }

    #[test]
    fn blocks_that_a_peer_made_up_have_no_size() {
        let mut page = Namespace::new(1, 512);
        for power in [0, 8, 32, 255] {
            page.formats[0].data_power = power;
            assert_eq!(page.block_bytes(), None);
        }
    }

    #[test]
    fn what_all_sets_share_is_the_same_on_both_pages() {
        let mut page = Namespace::new(1, 512);
        page.features = 0xff;
        (page.multipath, page.reservations, page.ana_group, page.attributes) = (1, 0xff, 7.into(), 1);
        let common = NamespaceCommon::of(&page);
        assert_eq!(common.as_bytes()[..16], [1 << 3, 1, 0xff, 0, 7, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0]);
    }
}
