//! Identify's page of the controller (CNS 1), and what the NVM command set adds to it (CNS 6).

use core::mem::offset_of;

use zerocopy::little_endian::{U16, U32, U64, U128};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

codes! {
    /// What a controller is for (CNTRLTYPE).
    ControllerKind: u8 {
        /// I/O.
        Io = 1,
        /// Discovery.
        Discovery = 2,
        /// Administration.
        Administrative = 3,
    }
}

/// Bits of the controller's fields.
pub mod flags {
    /// CMIC: the subsystem may have several ports.
    pub const CMIC_PORTS: u8 = 1 << 0;
    /// CMIC: the subsystem may have several controllers.
    pub const CMIC_CONTROLLERS: u8 = 1 << 1;
    /// CMIC: it reports asymmetric access.
    pub const CMIC_ANA: u8 = 1 << 3;

    /// OAES: namespaces changed.
    pub const OAES_NAMESPACES: u32 = 1 << 8;
    /// OAES: asymmetric access changed.
    pub const OAES_ANA: u32 = 1 << 11;
    /// OAES: the discovery log changed.
    pub const OAES_DISCOVERY: u32 = 1 << 31;

    /// CTRATT: host identifiers may have 128 bits.
    pub const CTRATT_HOST_ID_128: u32 = 1 << 0;
    /// CTRATT: any command counts as a sign of life (TBKAS).
    pub const CTRATT_TRAFFIC_KEEP_ALIVE: u32 = 1 << 6;

    /// OACS: Security Send and Receive.
    pub const OACS_SECURITY: u16 = 1 << 0;
    /// OACS: Format NVM.
    pub const OACS_FORMAT: u16 = 1 << 1;
    /// OACS: firmware.
    pub const OACS_FIRMWARE: u16 = 1 << 2;
    /// OACS: Namespace Management and Attachment.
    pub const OACS_NAMESPACES: u16 = 1 << 3;

    /// FRMW: the first slot cannot be written.
    pub const FRMW_FIRST_READ_ONLY: u8 = 1 << 0;
    /// FRMW: there is one slot.
    pub const FRMW_ONE_SLOT: u8 = 1 << 1;

    /// LPA: SMART for single namespaces.
    pub const LPA_SMART_OF_NAMESPACES: u8 = 1 << 0;
    /// LPA: the log of supported commands.
    pub const LPA_COMMANDS: u8 = 1 << 1;
    /// LPA: long log pages, with an offset.
    pub const LPA_EXTENDED: u8 = 1 << 2;
    /// LPA: the logs of supported log pages and of supported features.
    pub const LPA_SUPPORTED: u8 = 1 << 5;

    /// ANACAP: the state optimized.
    pub const ANACAP_OPTIMIZED: u8 = 1 << 0;
    /// ANACAP: the state non-optimized.
    pub const ANACAP_NON_OPTIMIZED: u8 = 1 << 1;
    /// ANACAP: the state inaccessible.
    pub const ANACAP_INACCESSIBLE: u8 = 1 << 2;
    /// ANACAP: the state persistent loss.
    pub const ANACAP_PERSISTENT_LOSS: u8 = 1 << 3;
    /// ANACAP: the state change.
    pub const ANACAP_CHANGE: u8 = 1 << 4;
    /// ANACAP: a namespace stays in its group as long as it is attached.
    pub const ANACAP_GROUP_FIXED: u8 = 1 << 6;

    /// ONCS: Compare.
    pub const ONCS_COMPARE: u16 = 1 << 0;
    /// ONCS: Write Uncorrectable.
    pub const ONCS_WRITE_UNCORRECTABLE: u16 = 1 << 1;
    /// ONCS: Dataset Management.
    pub const ONCS_DATASET_MANAGEMENT: u16 = 1 << 2;
    /// ONCS: Write Zeroes.
    pub const ONCS_WRITE_ZEROES: u16 = 1 << 3;
    /// ONCS: features that are saved, and the select field.
    pub const ONCS_SAVE: u16 = 1 << 4;
    /// ONCS: reservations.
    pub const ONCS_RESERVATIONS: u16 = 1 << 5;
    /// ONCS: the timestamp.
    pub const ONCS_TIMESTAMP: u16 = 1 << 6;
    /// ONCS: Verify.
    pub const ONCS_VERIFY: u16 = 1 << 7;
    /// ONCS: Copy.
    pub const ONCS_COPY: u16 = 1 << 8;

    /// FUSES: compare and write.
    pub const FUSES_COMPARE_AND_WRITE: u16 = 1 << 0;

    /// VWC: there is a volatile write cache.
    pub const VWC_PRESENT: u8 = 1 << 0;
    /// VWC: a flush of all namespaces at once is refused.
    pub const VWC_FLUSH_ALL_REFUSED: u8 = 0b10 << 1;
    /// VWC: a flush of all namespaces at once is done.
    pub const VWC_FLUSH_ALL: u8 = 0b11 << 1;

    /// SGLS: SGLs, of whatever alignment.
    pub const SGLS_SUPPORTED: u32 = 0b01;
    /// SGLS: keyed descriptors.
    pub const SGLS_KEYED: u32 = 1 << 2;
    /// SGLS: descriptors that name an offset in the capsule.
    pub const SGLS_OFFSET: u32 = 1 << 20;
    /// SGLS: descriptors of data that the transport brings.
    pub const SGLS_TRANSPORT: u32 = 1 << 21;

    /// FCATT: controllers are static.
    pub const FCATT_STATIC: u8 = 1 << 0;
    /// OFCS: Disconnect.
    pub const OFCS_DISCONNECT: u16 = 1 << 0;
}

/// A power state.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct PowerState {
    /// Most power, in hundredths of a watt (MP).
    pub power_max: U16,
    reserved_2: u8,
    /// Bit 0: the power is in units of 0.0001 watt (MXPS); bit 1: no I/O in this state (NOPS).
    pub flags: u8,
    /// Most time to come into it, in microseconds (ENLAT).
    pub entry_us: U32,
    /// Most time to leave it, in microseconds (EXLAT).
    pub exit_us: U32,
    /// Relative throughputs and latencies, and what it takes idle and at work.
    pub rest: [u8; 20],
}

/// The controller (CNS 01h, base 5.17.2.1).
///
/// Make one zeroed and fill in what is supported: zero means "not" everywhere.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Controller {
    /// PCI vendor (VID).
    pub vendor: U16,
    /// PCI vendor of the subsystem (SSVID).
    pub subsystem_vendor: U16,
    /// Serial number (SN), filled with spaces.
    pub serial: [u8; 20],
    /// Model (MN), filled with spaces.
    pub model: [u8; 40],
    /// Revision of the firmware (FR), filled with spaces.
    pub firmware: [u8; 8],
    /// Recommended arbitration burst, as a power of two (RAB).
    pub arbitration_burst: u8,
    /// Who assigned its identifiers (IEEE), lowest byte first.
    pub ieee: [u8; 3],
    /// Several ports, several controllers, asymmetric access (CMIC).
    pub multipath: u8,
    /// Most data of one command (MDTS): as a power of two of the smallest memory page; 0 is no limit.
    pub transfer_max_power: u8,
    /// Its number (CNTLID).
    pub id: U16,
    /// The version it complies with (VER), as the register VS.
    pub version: U32,
    /// Typical microseconds to resume from D3 (RTD3R).
    pub resume_us: U32,
    /// Typical microseconds to enter D3 (RTD3E).
    pub suspend_us: U32,
    /// Optional asynchronous events (OAES).
    pub async_events: U32,
    /// Attributes (CTRATT).
    pub attributes: U32,
    /// Read recovery levels (RRLS).
    pub read_recovery_levels: U16,
    reserved_102: [u8; 9],
    /// What it is for (CNTRLTYPE); see [`ControllerKind`].
    pub kind: u8,
    /// A globally unique identifier (FGUID).
    pub fru_guid: [u8; 16],
    /// Three delays before a retry, each in units of 100 milliseconds (CRDT1 to CRDT3).
    pub retry_delays: [U16; 3],
    reserved_134: [u8; 106],
    reserved_mi_240: [u8; 13],
    /// What reports it to management (NVMSR).
    pub management_kind: u8,
    /// Writes of vital product data that are left (VWCI).
    pub management_writes_left: u8,
    /// Ways that management goes (MEC).
    pub management_ways: u8,
    /// Optional admin commands (OACS).
    pub admin_commands: U16,
    /// Aborts at a time, less one (ACL).
    pub aborts_max_less_one: u8,
    /// Asynchronous event requests at a time, less one (AERL).
    pub async_events_max_less_one: u8,
    /// Firmware slots (FRMW).
    pub firmware_slots: u8,
    /// Log pages (LPA).
    pub log_pages: u8,
    /// Entries of the error log, less one (ELPE).
    pub error_log_less_one: u8,
    /// Power states, less one (NPSS).
    pub power_states_less_one: u8,
    /// Vendor commands (AVSCC).
    pub admin_vendor: u8,
    /// Autonomous power state transitions (APSTA).
    pub autonomous_power: u8,
    /// Warning temperature in kelvins (WCTEMP).
    pub temperature_warning_k: U16,
    /// Critical temperature in kelvins (CCTEMP).
    pub temperature_critical_k: U16,
    /// Most time to activate firmware, in 100 milliseconds (MTFA).
    pub firmware_activation_max: U16,
    /// Host memory buffer, preferred size in 4 KiB (HMPRE).
    pub host_memory_preferred: U32,
    /// Host memory buffer, least size in 4 KiB (HMMIN).
    pub host_memory_min: U32,
    /// All capacity, in bytes (TNVMCAP).
    pub capacity_bytes: U128,
    /// Capacity that is not allocated, in bytes (UNVMCAP).
    pub capacity_free_bytes: U128,
    /// Replay protected memory (RPMBS).
    pub replay_protected: U32,
    /// Minutes of an extended self-test (EDSTT).
    pub self_test_minutes: U16,
    /// Self-test options (DSTO).
    pub self_test: u8,
    /// Granularity of firmware updates in 4 KiB (FWUG).
    pub firmware_granularity: u8,
    /// Granularity of the keep-alive timer in 100 milliseconds (KAS); 0 is none.
    pub keep_alive_granularity: U16,
    /// Host controlled thermal management (HCTMA).
    pub thermal: U16,
    /// Least thermal management temperature (MNTMT).
    pub thermal_min_k: U16,
    /// Most thermal management temperature (MXTMT).
    pub thermal_max_k: U16,
    /// Sanitize (SANICAP).
    pub sanitize: U32,
    /// Least descriptor of a host memory buffer in 4 KiB (HMMINDS).
    pub host_memory_entry_min: U32,
    /// Most descriptors of a host memory buffer (HMMAXD).
    pub host_memory_entries_max: U16,
    /// Largest identifier of an NVM set (NSETIDMAX).
    pub nvm_sets_max: U16,
    /// Largest identifier of an endurance group (ENDGIDMAX).
    pub endurance_groups_max: U16,
    /// Most seconds that a change of asymmetric access takes (ANATT).
    pub ana_transition_s: u8,
    /// Asymmetric access (ANACAP).
    pub ana: u8,
    /// Largest number of an ANA group (ANAGRPMAX).
    pub ana_group_max: U32,
    /// ANA groups (NANAGRPID).
    pub ana_groups: U32,
    /// Bytes of the persistent event log in 64 KiB (PELS).
    pub persistent_log_size: U32,
    /// The domain (Domain Identifier).
    pub domain: U16,
    reserved_358: [u8; 10],
    /// Most capacity of an endurance group, in bytes (MEGCAP).
    pub endurance_group_max_bytes: U128,
    reserved_384: [u8; 128],
    /// Sizes of submission queue entries, powers of two: required in the lower four bits, most in the upper (SQES).
    pub submission_entry: u8,
    /// The same of completion queue entries (CQES).
    pub completion_entry: u8,
    /// Commands of one queue at a time (MAXCMD); required over fabrics.
    pub commands_max: U16,
    /// Largest number of a namespace (NN).
    pub namespace_max: U32,
    /// Optional commands (ONCS).
    pub commands: U16,
    /// Fused commands (FUSES).
    pub fused: U16,
    /// Format NVM (FNA).
    pub format: u8,
    /// Volatile write cache (VWC).
    pub write_cache: u8,
    /// Blocks less one that are written at once, whatever happens (AWUN).
    pub atomic_less_one: U16,
    /// The same if power fails (AWUPF).
    pub atomic_power_fail_less_one: U16,
    /// Vendor commands of I/O queues (ICSVSCC).
    pub vendor_commands: u8,
    /// Write protection of namespaces (NWPC).
    pub write_protection: u8,
    /// Blocks less one that a fused compare-and-write does at once (ACWU).
    pub atomic_compare_less_one: U16,
    /// Formats of Copy's descriptors (CDFS).
    pub copy_formats: U16,
    /// SGLs (SGLS).
    pub sgls: U32,
    /// Most namespaces at a time (MNAN); 0 is "as many as `namespace_max`".
    pub namespaces_max: U32,
    /// Most namespaces attached in a domain (MAXDNA).
    pub attached_in_domain_max: U128,
    /// Most namespaces attached to a controller (MAXCNA).
    pub attached_max: U32,
    reserved_564: [u8; 204],
    /// The subsystem's name (SUBNQN), ended by a zero.
    pub subsystem: [u8; 256],
    reserved_1024: [u8; 768],
    /// Most bytes of an I/O command's capsule in 16 bytes (IOCCSZ): the command and data in it.
    pub command_capsule_16_bytes: U32,
    /// Bytes of an I/O answer's capsule in 16 bytes (IORCSZ).
    pub response_capsule_16_bytes: U32,
    /// Where data in a capsule begin, in 16 bytes behind the command (ICDOFF).
    pub capsule_data_offset: U16,
    /// Fabrics (FCATT): dynamic (0) or static (1) controllers.
    pub fabrics: u8,
    /// Most SGL data blocks of a command (MSDBD); 0 is no limit.
    pub data_blocks_max: u8,
    /// Optional commands of fabrics (OFCS).
    pub fabrics_commands: U16,
    /// Which kind of discovery controller it is (DCTYPE).
    pub discovery_kind: u8,
    reserved_1807: [u8; 241],
    /// Power states (PSD).
    pub power_states: [PowerState; 32],
    /// The vendor's.
    pub vendor_specific: [u8; 1024],
}

const _: () = {
    assert!(size_of::<PowerState>() == 32 && size_of::<Controller>() == 4096);
    assert!(offset_of!(Controller, id) == 78 && offset_of!(Controller, attributes) == 96);
    assert!(offset_of!(Controller, kind) == 111 && offset_of!(Controller, management_kind) == 253);
    assert!(offset_of!(Controller, admin_commands) == 256 && offset_of!(Controller, capacity_bytes) == 280);
    assert!(offset_of!(Controller, keep_alive_granularity) == 320 && offset_of!(Controller, ana) == 343);
    assert!(offset_of!(Controller, endurance_group_max_bytes) == 368 && offset_of!(Controller, submission_entry) == 512);
    assert!(offset_of!(Controller, commands) == 520 && offset_of!(Controller, sgls) == 536);
    assert!(offset_of!(Controller, attached_max) == 560 && offset_of!(Controller, subsystem) == 768);
    assert!(offset_of!(Controller, command_capsule_16_bytes) == 1792 && offset_of!(Controller, discovery_kind) == 1806);
    assert!(offset_of!(Controller, power_states) == 2048 && offset_of!(Controller, vendor_specific) == 3072);
};

impl Controller {
    /// Most bytes of one command's data, if memory pages have at least `page_bytes` bytes; `None` is no limit.
    #[must_use]
    pub fn transfer_max_bytes(&self, page_bytes: u64) -> Option<u64> {
        let power = u32::from(self.transfer_max_power);
        (power != 0).then(|| page_bytes.saturating_mul(1_u64.checked_shl(power).unwrap_or(u64::MAX)))
    }

    /// Most bytes of data in an I/O command's capsule.
    #[must_use]
    pub fn capsule_data_max_bytes(&self) -> u64 {
        let before = 64 + u64::from(self.capsule_data_offset.get()) * 16;
        (u64::from(self.command_capsule_16_bytes.get()) * 16).saturating_sub(before)
    }

    /// What it is for; `None` if it does not say.
    #[must_use]
    pub fn controller_kind(&self) -> Option<ControllerKind> {
        ControllerKind::of(self.kind)
    }
}

/// What the NVM command set adds (CNS 06h, NVM 4.1.5). Sizes are powers of two of the smallest memory page; 0 is no limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ControllerNvm {
    /// Most of one Verify (VSL).
    pub verify_max_power: u8,
    /// Most of one Write Zeroes (WZSL).
    pub write_zeroes_max_power: u8,
    /// Most of one Write Uncorrectable (WUSL).
    pub write_uncorrectable_max_power: u8,
    /// Most ranges of one Dataset Management (DMRL); 0 is no limit.
    pub dataset_ranges_max: u8,
    /// Most blocks of one range (DMRSL); 0 is no limit.
    pub dataset_range_max_blocks: U32,
    /// Most blocks of one Dataset Management (DMSL); 0 is no limit.
    pub dataset_max_blocks: U64,
    reserved_16: [u8; 4080],
}

const _: () = assert!(size_of::<ControllerNvm>() == 4096);

#[cfg(test)]
mod tests {
    use zerocopy::FromZeros;

    use super::*;

    #[test]
    fn limits_are_read_as_powers_of_the_page() {
        let mut page = Controller::new_zeroed();
        assert_eq!(page.transfer_max_bytes(4096), None);
        page.transfer_max_power = 5;
        assert_eq!(page.transfer_max_bytes(4096), Some(128 << 10));
        page.transfer_max_power = 255;
        assert_eq!(page.transfer_max_bytes(4096), Some(u64::MAX));
    }

    #[test]
    fn what_a_capsule_holds_is_what_the_command_and_its_offset_leave() {
        let mut page = Controller::new_zeroed();
        page.command_capsule_16_bytes = (4 + 512).into();
        assert_eq!(page.capsule_data_max_bytes(), 8192);
        page.capsule_data_offset = 2.into();
        assert_eq!(page.capsule_data_max_bytes(), 8160);
        page.command_capsule_16_bytes = 0.into();
        assert_eq!(page.capsule_data_max_bytes(), 0);
    }

    #[test]
    fn a_controller_is_read_from_known_bytes() {
        let mut bytes = [0; 4096];
        bytes[4..6].copy_from_slice(b"S1");
        bytes[78..84].copy_from_slice(&[0x34, 0x12, 0, 0, 2, 0]);
        bytes[111] = 1;
        bytes[514..520].copy_from_slice(&[0x80, 0, 16, 0, 0, 0]);
        let page = Controller::ref_from_bytes(&bytes).unwrap();
        assert_eq!((page.id.get(), page.version.get(), page.controller_kind()), (0x1234, 0x0002_0000, Some(ControllerKind::Io)));
        assert_eq!((page.commands_max.get(), page.namespace_max.get(), &page.serial[..2]), (128, 16, &b"S1"[..]));
    }
}
