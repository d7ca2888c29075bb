//! Log pages (base 5.16.1) and the asynchronous events that tell of them (base 5.2.1). Knows no controller.

mod ana;
mod discovery;

use core::mem::offset_of;

use zerocopy::little_endian::{U16, U32, U64, U128};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::command::halves;
use crate::status::StatusField;

pub use ana::{AnaCut, AnaGroup, AnaHead, AnaLog, AnaState, GROUPS_ONLY};
pub use discovery::{AddressFamily, DiscoveryEntry, DiscoveryHead, EntryKind, Security, TransportType, entry_flags, requirements};

codes! {
    /// Log pages (LID).
    LogPage: u8 {
        /// Supported Log Pages; 1,024 bytes, see [`SupportedLogs`].
        Supported = 0x00,
        /// Error Information; entries of 64 bytes, see [`ErrorEntry`].
        Error = 0x01,
        /// SMART / Health Information; 512 bytes, see [`Smart`].
        Smart = 0x02,
        /// Firmware Slot Information; 512 bytes, see [`FirmwareSlots`].
        FirmwareSlots = 0x03,
        /// Changed Attached Namespace List; 4,096 bytes, see [`ChangedNamespaces`].
        ChangedNamespaces = 0x04,
        /// Commands Supported and Effects; 4,096 bytes, see [`CommandEffects`].
        CommandEffects = 0x05,
        /// Device Self-test.
        SelfTest = 0x06,
        /// Telemetry Host-Initiated.
        TelemetryHost = 0x07,
        /// Telemetry Controller-Initiated.
        TelemetryController = 0x08,
        /// Endurance Group Information.
        EnduranceGroup = 0x09,
        /// Asymmetric Namespace Access; see [`AnaHead`] and [`AnaGroup`].
        Ana = 0x0c,
        /// Persistent Event Log.
        PersistentEvents = 0x0d,
        /// Feature Identifiers Supported and Effects; 1,024 bytes, see [`FeatureEffects`].
        FeatureEffects = 0x12,
        /// Discovery; see [`DiscoveryHead`] and [`DiscoveryEntry`].
        Discovery = 0x70,
        /// Reservation Notification; 64 bytes, see [`ReservationNotice`].
        Reservation = 0x80,
        /// Sanitize Status.
        Sanitize = 0x81,
    }
}

/// Supported Log Pages: a dword for each of 256.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct SupportedLogs {
    pages: [U32; 256],
}

impl SupportedLogs {
    /// These pages. Offsets into them count bytes only.
    #[must_use]
    pub fn new(pages: &[LogPage]) -> Self {
        let mut log = Self::new_zeroed();
        pages.iter().for_each(|page| log.pages[usize::from(page.code())] = 1.into());
        log
    }

    /// Whether the page is supported.
    #[must_use]
    pub fn has(&self, page: LogPage) -> bool {
        self.pages[usize::from(page.code())].get() & 1 != 0
    }
}

/// One entry of Error Information; the newest comes first.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ErrorEntry {
    /// How many errors there have been with this one; 0 is no entry.
    pub count: U64,
    /// The queue of the command; FFFFh if no command is to blame.
    pub queue: U16,
    /// The command's identifier; FFFFh if no command is to blame.
    pub id: U16,
    status: U16,
    /// The byte of the command to blame in bits 7:0, the bit in 10:8; FFFFh if none is.
    pub parameter: U16,
    /// The first block that failed.
    pub block: U64,
    /// The namespace.
    pub nsid: U32,
    /// A vendor's log page that says more.
    pub vendor_page: u8,
    /// The transport (TRTYPE); see [`TransportType`].
    pub transport: u8,
    /// The command set.
    pub set: u8,
    /// The command's opcode.
    pub opcode: u8,
    /// What depends on the command.
    pub specific: U64,
    /// What depends on the transport.
    pub transport_specific: U16,
    reserved_42: [u8; 21],
    /// The version of this entry: 1 means that `opcode` counts.
    pub version: u8,
}

impl ErrorEntry {
    /// An error without any particulars but how the command ended.
    #[must_use]
    pub fn new(count: u64, queue: u16, id: u16, status: StatusField) -> Self {
        let (none, status) = (U16::new(u16::MAX), status.in_log().into());
        Self { count: count.into(), queue: queue.into(), id: id.into(), status, parameter: none, ..Self::new_zeroed() }
    }

    /// How the command ended.
    #[must_use]
    pub fn status(&self) -> StatusField {
        StatusField::of_completion(self.status.get())
    }
}

/// Zero degrees Celsius in kelvins, as log pages and features count temperatures.
pub const CELSIUS_ZERO_K: u16 = 273;

/// SMART / Health Information.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Smart {
    /// Critical warnings: spare, temperature, reliability, read only, backup, persistent memory; a bit each.
    pub warnings: u8,
    /// Temperature in kelvins.
    pub temperature_k: U16,
    /// Spare that is left, in percent.
    pub spare_percent: u8,
    /// Below which spare there is a warning, in percent.
    pub spare_threshold_percent: u8,
    /// Life that is used up, in percent; may be above 100.
    pub used_percent: u8,
    /// Critical warnings of endurance groups.
    pub group_warnings: u8,
    reserved_7: [u8; 25],
    /// What hosts have read, in thousands of 512 bytes, rounded up.
    pub read_units: U128,
    /// What hosts have written, in thousands of 512 bytes, rounded up.
    pub written_units: U128,
    /// Reads, compares included.
    pub reads: U128,
    /// Writes.
    pub writes: U128,
    /// Minutes in which there was something under way.
    pub busy_minutes: U128,
    /// Power cycles.
    pub power_cycles: U128,
    /// Hours with power.
    pub power_on_hours: U128,
    /// Shutdowns that were not announced.
    pub unsafe_shutdowns: U128,
    /// Errors of the medium.
    pub media_errors: U128,
    /// Errors in the error log, of all time.
    pub error_entries: U128,
    /// Minutes above the warning temperature.
    pub warm_minutes: U32,
    /// Minutes above the critical temperature.
    pub hot_minutes: U32,
    /// Temperature sensors in kelvins; 0 is none.
    pub sensors_k: [U16; 8],
    reserved_216: [u8; 296],
}

/// How many units of SMART data so many bytes are.
#[must_use]
pub fn smart_units(bytes: u128) -> u128 {
    bytes.div_ceil(512_000)
}

/// Firmware Slot Information.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct FirmwareSlots {
    /// The active slot in bits 2:0, that of the next reset in 6:4 (AFI).
    pub active: u8,
    reserved_1: [u8; 7],
    /// Revisions of slots 1 to 7, filled with spaces; zeroes where there is none.
    pub revisions: [[u8; 8]; 7],
    reserved_64: [u8; 448],
}

impl FirmwareSlots {
    /// One slot, with this revision.
    #[must_use]
    pub fn one(revision: [u8; 8]) -> Self {
        let mut log = Self { active: 1, ..Self::new_zeroed() };
        log.revisions[0] = revision;
        log
    }
}

/// Changed Attached Namespace List: namespaces that have changed since it was read last.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ChangedNamespaces {
    ids: [U32; 1024],
}

impl ChangedNamespaces {
    /// Most namespaces on it.
    pub const MAX: usize = 1024;

    /// These, ascending; if they are too many, it says only that.
    #[must_use]
    pub fn new(ids: impl Iterator<Item = u32> + Clone) -> Self {
        let mut log = Self::new_zeroed();
        if ids.clone().nth(Self::MAX).is_some() {
            log.ids[0] = U32::MAX_VALUE;
        } else {
            log.ids.iter_mut().zip(ids).for_each(|(place, id)| *place = id.into());
        }
        log
    }

    /// Whether more have changed than it can list.
    #[must_use]
    pub fn too_many(&self) -> bool {
        self.ids[0] == U32::MAX_VALUE
    }

    /// The namespaces; none if they were too many.
    pub fn ids(&self) -> impl Iterator<Item = u32> + '_ {
        self.ids.iter().map(|id| id.get()).take_while(|id| *id != 0 && *id != u32::MAX)
    }
}

/// Effects of commands and of features, in whose logs they have the same bits.
pub mod effects {
    /// It is supported.
    pub const SUPPORTED: u32 = 1 << 0;
    /// It may change what blocks hold.
    pub const CHANGES_BLOCKS: u32 = 1 << 1;
    /// It may change what namespaces can do.
    pub const CHANGES_NAMESPACES: u32 = 1 << 2;
    /// It may change which namespaces there are.
    pub const CHANGES_INVENTORY: u32 = 1 << 3;
    /// It may change what the controller can do.
    pub const CHANGES_CONTROLLER: u32 = 1 << 4;
    /// Of a feature: it is one of single namespaces (FSP bit 0).
    pub const OF_NAMESPACE: u32 = 1 << 20;
    /// Of a feature: it is one of controllers (FSP bit 1).
    pub const OF_CONTROLLER: u32 = 1 << 21;
}

/// Commands Supported and Effects.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct CommandEffects {
    /// Of admin commands, by their opcodes; see [`effects`].
    pub admin: [U32; 256],
    /// Of I/O commands.
    pub io: [U32; 256],
    reserved_2048: [u8; 2048],
}

/// Feature Identifiers Supported and Effects.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct FeatureEffects {
    /// Of features, by their numbers; see [`effects`].
    pub features: [U32; 256],
}

codes! {
    /// What Reservation Notification tells.
    ReservationEvent: u8 {
        /// Nothing.
        Empty = 0,
        /// The host's registration was preempted.
        RegistrationPreempted = 1,
        /// The reservation was released.
        ReservationReleased = 2,
        /// The reservation was preempted.
        ReservationPreempted = 3,
    }
}

/// Reservation Notification: the oldest notice that was not read yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ReservationNotice {
    /// How many notices there have been with this one; comes round past zero.
    pub count: U64,
    /// What happened; see [`ReservationEvent`].
    pub event: u8,
    /// How many more notices wait.
    pub waiting: u8,
    reserved_10: [u8; 2],
    /// The namespace.
    pub nsid: U32,
    reserved_16: [u8; 48],
}

impl ReservationNotice {
    /// This happened to a namespace.
    #[must_use]
    pub fn new(count: u64, event: ReservationEvent, waiting: u8, nsid: u32) -> Self {
        Self { count: count.into(), event: event.code(), waiting, nsid: nsid.into(), ..Self::new_zeroed() }
    }
}

const _: () = {
    assert!(size_of::<SupportedLogs>() == 1024 && size_of::<ErrorEntry>() == 64);
    assert!(offset_of!(ErrorEntry, block) == 16 && offset_of!(ErrorEntry, transport) == 29 && offset_of!(ErrorEntry, specific) == 32);
    assert!(size_of::<Smart>() == 512 && offset_of!(Smart, read_units) == 32 && offset_of!(Smart, warm_minutes) == 192);
    assert!(size_of::<FirmwareSlots>() == 512 && size_of::<ChangedNamespaces>() == 4096);
    assert!(size_of::<CommandEffects>() == 4096 && size_of::<FeatureEffects>() == 1024 && size_of::<ReservationNotice>() == 64);
};

codes! {
    /// Types of asynchronous events.
    AsyncEventType: u8 {
        /// Error.
        Error = 0,
        /// SMART.
        Smart = 1,
        /// Notice.
        Notice = 2,
        /// Of a command set: reservations, sanitize.
        CommandSet = 6,
        /// A vendor's.
        Vendor = 7,
    }
}

/// What an asynchronous event request is answered with, in dword 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AsyncEvent {
    /// The type, three bits; see [`AsyncEventType`].
    pub kind: u8,
    /// What happened.
    pub info: u8,
    /// The log page to read, which also takes the event back.
    pub page: u8,
}

impl AsyncEvent {
    /// Namespaces that are attached have changed.
    pub const NAMESPACES_CHANGED: Self = Self::new(AsyncEventType::Notice, 0x00, LogPage::ChangedNamespaces);
    /// Asymmetric access has changed.
    pub const ANA_CHANGED: Self = Self::new(AsyncEventType::Notice, 0x03, LogPage::Ana);
    /// The discovery log has changed.
    pub const DISCOVERY_CHANGED: Self = Self::new(AsyncEventType::Notice, 0xf0, LogPage::Discovery);
    /// There is a notice about reservations.
    pub const RESERVATION_NOTICE: Self = Self::new(AsyncEventType::CommandSet, 0x00, LogPage::Reservation);

    /// An event that a log page tells more about.
    #[must_use]
    pub const fn new(kind: AsyncEventType, info: u8, page: LogPage) -> Self {
        Self { kind: kind.code(), info, page: page.code() }
    }

    /// Of a completion's result.
    #[must_use]
    pub fn of(result: u64) -> Self {
        let [kind, info, page, _] = halves(result).0.to_le_bytes();
        Self { kind: kind & 0b111, info, page }
    }

    /// As a completion's result.
    #[must_use]
    pub fn result(self) -> u64 {
        u64::from(u32::from_le_bytes([self.kind & 0b111, self.info, self.page, 0]))
    }
}

#[cfg(test)]
mod tests;
