//! Registers of a controller, which fabrics call properties (base 3.1.3). Knows no bus.

use crate::command::{low_byte, quarters};

/// Where registers are, in bytes.
pub mod offset {
    /// Controller Capabilities, 8 bytes.
    pub const CAPABILITIES: u32 = 0x00;
    /// Version, 4 bytes.
    pub const VERSION: u32 = 0x08;
    /// Controller Configuration, 4 bytes.
    pub const CONFIGURATION: u32 = 0x14;
    /// Controller Status, 4 bytes.
    pub const STATUS: u32 = 0x1c;
    /// NVM Subsystem Reset, 4 bytes.
    pub const SUBSYSTEM_RESET: u32 = 0x20;
    /// Admin Queue Attributes, 4 bytes; not over fabrics.
    pub const ADMIN_QUEUES: u32 = 0x24;
    /// Admin Submission Queue Base Address, 8 bytes; not over fabrics.
    pub const ADMIN_SUBMISSION: u32 = 0x28;
    /// Admin Completion Queue Base Address, 8 bytes; not over fabrics.
    pub const ADMIN_COMPLETION: u32 = 0x30;
    /// Controller Ready Timeouts, 4 bytes.
    pub const READY_TIMEOUTS: u32 = 0x68;
}

/// `count` bits of a register from `first` on.
fn field(register: u64, first: u32, count: u32) -> u32 {
    u32::try_from(register >> first & ((1 << count) - 1)).expect("no field has more than 32 bits")
}

/// Controller Capabilities (CAP).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Capabilities {
    /// Most entries of a queue, less one (MQES, 0's based).
    pub queue_max_less_one: u16,
    /// Queues have to lie in one piece (CQR); set over fabrics.
    pub contiguous: bool,
    /// Arbitration by weighted round robin (AMS bit 0).
    pub weighted: bool,
    /// Most time to become ready or to stop, in 500 milliseconds (TO).
    pub timeout_500ms: u8,
    /// Space between doorbells: four bytes times two to this power (DSTRD); 0 over fabrics.
    pub doorbell_power: u8,
    /// It can reset its subsystem (NSSRS).
    pub subsystem_reset: bool,
    /// The NVM command set (CSS bit 0).
    pub nvm: bool,
    /// Sets that Identify lists (CSS bit 6).
    pub listed_sets: bool,
    /// No I/O command set (CSS bit 7).
    pub admin_only: bool,
    /// Smallest memory page: 4 KiB times two to this power (MPSMIN).
    pub page_min_power: u8,
    /// Largest memory page: 4 KiB times two to this power (MPSMAX).
    pub page_max_power: u8,
    /// It becomes ready only with its media (CRMS bit 0).
    pub ready_with_media: bool,
    /// It becomes ready before its media (CRMS bit 1).
    pub ready_without_media: bool,
}

impl Capabilities {
    /// Of the register.
    #[must_use]
    pub fn of(register: u64) -> Self {
        let byte = |first, count| low_byte(field(register, first, count));
        let bit = |first| field(register, first, 1) != 0;
        Self {
            queue_max_less_one: quarters(field(register, 0, 16)).0,
            contiguous: bit(16),
            weighted: bit(17),
            timeout_500ms: byte(24, 8),
            doorbell_power: byte(32, 4),
            subsystem_reset: bit(36),
            nvm: bit(37),
            listed_sets: bit(43),
            admin_only: bit(44),
            page_min_power: byte(48, 4),
            page_max_power: byte(52, 4),
            ready_with_media: bit(59),
            ready_without_media: bit(60),
        }
    }

    /// As the register.
    ///
    /// # Panics
    /// If a power does not fit into its four bits.
    #[must_use]
    pub fn register(&self) -> u64 {
        assert!(self.doorbell_power < 16 && self.page_min_power < 16 && self.page_max_power < 16, "{self:?}");
        u64::from(self.queue_max_less_one)
            | u64::from(self.contiguous) << 16
            | u64::from(self.weighted) << 17
            | u64::from(self.timeout_500ms) << 24
            | u64::from(self.doorbell_power) << 32
            | u64::from(self.subsystem_reset) << 36
            | u64::from(self.nvm) << 37
            | u64::from(self.listed_sets) << 43
            | u64::from(self.admin_only) << 44
            | u64::from(self.page_min_power) << 48
            | u64::from(self.page_max_power) << 52
            | u64::from(self.ready_with_media) << 59
            | u64::from(self.ready_without_media) << 60
    }

    /// Bytes of the smallest memory page, in units of which some limits are.
    #[must_use]
    pub fn page_min_bytes(&self) -> u64 {
        4096 << self.page_min_power
    }
}

/// A version (VS, and the field of Identify).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Version {
    /// Major.
    pub major: u16,
    /// Minor.
    pub minor: u8,
    /// Tertiary.
    pub tertiary: u8,
}

impl Version {
    /// 1.4.
    pub const V1_4: Self = Self { major: 1, minor: 4, tertiary: 0 };
    /// 2.0.
    pub const V2_0: Self = Self { major: 2, minor: 0, tertiary: 0 };

    /// Of the register.
    #[must_use]
    pub fn of(register: u32) -> Self {
        let [tertiary, minor, ..] = register.to_le_bytes();
        Self { major: quarters(register).1, minor, tertiary }
    }

    /// As the register.
    #[must_use]
    pub fn register(self) -> u32 {
        u32::from(self.major) << 16 | u32::from(self.minor) << 8 | u32::from(self.tertiary)
    }
}

codes! {
    /// What a host tells before it goes (CC.SHN).
    ShutdownNotice: u8 {
        /// Nothing.
        None = 0,
        /// Shut down.
        Normal = 1,
        /// Shut down at once.
        Abrupt = 2,
    }
}

codes! {
    /// Which command sets a host chooses (CC.CSS).
    SelectedSets: u8 {
        /// NVM.
        Nvm = 0b000,
        /// All that the feature of command set profiles names.
        All = 0b110,
        /// None, only admin commands.
        AdminOnly = 0b111,
    }
}

/// Controller Configuration (CC). Fields are what a host wrote; it may have written anything.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Configuration {
    /// It is to work (EN).
    pub enable: bool,
    /// Command sets (CSS), three bits; see [`SelectedSets`].
    pub sets: u8,
    /// The memory page: 4 KiB times two to this power (MPS), four bits.
    pub page_power: u8,
    /// Arbitration (AMS), three bits: 0 is round robin.
    pub arbitration: u8,
    /// The shutdown notice (SHN), two bits; see [`ShutdownNotice`].
    pub shutdown: u8,
    /// Size of I/O submission queue entries as a power of two (IOSQES), four bits: 6.
    pub submission_entry_power: u8,
    /// Size of I/O completion queue entries as a power of two (IOCQES), four bits: 4.
    pub completion_entry_power: u8,
    /// Ready before its media (CRIME).
    pub ready_without_media: bool,
}

impl Configuration {
    /// What a host writes to start an I/O controller: the NVM command set, pages of 4 KiB, entries of 64 and 16 bytes.
    #[must_use]
    pub fn enabled() -> Self {
        Self { enable: true, submission_entry_power: 6, completion_entry_power: 4, ..Self::default() }
    }

    /// Of the register.
    #[must_use]
    pub fn of(register: u32) -> Self {
        let byte = |first, count| low_byte(field(register.into(), first, count));
        Self {
            enable: byte(0, 1) != 0,
            sets: byte(4, 3),
            page_power: byte(7, 4),
            arbitration: byte(11, 3),
            shutdown: byte(14, 2),
            submission_entry_power: byte(16, 4),
            completion_entry_power: byte(20, 4),
            ready_without_media: byte(24, 1) != 0,
        }
    }

    /// As the register; of each field as many bits as it has.
    #[must_use]
    pub fn register(&self) -> u32 {
        let place = |value: u8, first: u32, count: u32| (u32::from(value) & ((1 << count) - 1)) << first;
        place(u8::from(self.enable), 0, 1)
            | place(self.sets, 4, 3)
            | place(self.page_power, 7, 4)
            | place(self.arbitration, 11, 3)
            | place(self.shutdown, 14, 2)
            | place(self.submission_entry_power, 16, 4)
            | place(self.completion_entry_power, 20, 4)
            | place(u8::from(self.ready_without_media), 24, 1)
    }
}

codes! {
    /// How far a shutdown is (CSTS.SHST).
    ShutdownProgress: u8 {
        /// There is none.
        None = 0,
        /// Under way.
        Occurring = 1,
        /// Done.
        Complete = 2,
    }
}

/// Controller Status (CSTS).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ControllerStatus {
    /// It works (RDY).
    pub ready: bool,
    /// It failed for good (CFS).
    pub fatal: bool,
    /// How far a shutdown is; `None` if the field has a reserved value.
    pub shutdown: Option<ShutdownProgress>,
    /// Its subsystem was reset (NSSRO).
    pub subsystem_reset: bool,
    /// It takes no commands while something is being done (PP).
    pub paused: bool,
}

impl ControllerStatus {
    /// Neither ready nor anything else.
    pub const STOPPED: Self =
        Self { ready: false, fatal: false, shutdown: Some(ShutdownProgress::None), subsystem_reset: false, paused: false };

    /// Of the register.
    #[must_use]
    pub fn of(register: u32) -> Self {
        let bit = |number: u32| register >> number & 1 != 0;
        Self {
            ready: bit(0),
            fatal: bit(1),
            shutdown: ShutdownProgress::of(low_byte(register >> 2 & 0b11)),
            subsystem_reset: bit(4),
            paused: bit(5),
        }
    }

    /// As the register.
    #[must_use]
    pub fn register(&self) -> u32 {
        let shutdown = self.shutdown.unwrap_or(ShutdownProgress::None).code();
        u32::from(self.ready)
            | u32::from(self.fatal) << 1
            | u32::from(shutdown) << 2
            | u32::from(self.subsystem_reset) << 4
            | u32::from(self.paused) << 5
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_have_their_bits_where_the_specification_draws_them() {
        // What Linux's target answers with a queue of 1,024: CSS bit 0 at 37, TO of 15 at 24, MQES.
        let common = Capabilities { queue_max_less_one: 1023, timeout_500ms: 15, nvm: true, ..Capabilities::default() };
        assert_eq!(common.register(), 1 << 37 | 15 << 24 | 1023);
        let all = Capabilities {
            queue_max_less_one: 0xffff,
            contiguous: true,
            weighted: true,
            timeout_500ms: 0xff,
            doorbell_power: 15,
            subsystem_reset: true,
            nvm: true,
            listed_sets: true,
            admin_only: true,
            page_min_power: 15,
            page_max_power: 15,
            ready_with_media: true,
            ready_without_media: true,
        };
        assert_eq!(all.register(), 0x18ff_183f_ff03_ffff);
        for capabilities in [common, all, Capabilities { page_min_power: 2, ..common }, Capabilities { listed_sets: true, ..common }] {
            assert_eq!(Capabilities::of(capabilities.register()), capabilities);
        }
        assert_eq!(Capabilities { page_min_power: 2, ..common }.page_min_bytes(), 16384);
    }

    #[test]
    fn versions_are_ordered_and_read_back() {
        assert_eq!((Version::V1_4.register(), Version::V2_0.register()), (0x0001_0400, 0x0002_0000));
        assert_eq!(Version::of(0x0001_0201), Version { major: 1, minor: 2, tertiary: 1 });
        assert!(Version::V1_4 < Version::V2_0);
    }

    #[test]
    fn configuration_has_its_bits_where_the_specification_draws_them() {
        assert_eq!(Configuration::enabled().register(), 0x0046_0001);
        let all = Configuration::of(u32::MAX);
        assert_eq!(all.register(), 0x01ff_fff1);
        let down = Configuration { shutdown: ShutdownNotice::Abrupt.code(), ..Configuration::enabled() };
        assert_eq!((down.register(), Configuration::of(0x0046_8001)), (0x0046_8001, down));
        assert_eq!(SelectedSets::of(Configuration::of(0b110 << 4).sets), Some(SelectedSets::All));
    }

    #[test]
    fn status_has_its_bits_where_the_specification_draws_them() {
        let done = ControllerStatus { ready: true, shutdown: Some(ShutdownProgress::Complete), ..ControllerStatus::STOPPED };
        assert_eq!((done.register(), ControllerStatus::of(0b1001)), (0b1001, done));
        assert_eq!(
            ControllerStatus::of(0b11_0010),
            ControllerStatus { fatal: true, subsystem_reset: true, paused: true, ..ControllerStatus::STOPPED }
        );
        assert_eq!(ControllerStatus::of(0b1100).shutdown, None);
    }
}
