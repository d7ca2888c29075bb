//! Commands of reservations, their data and their report (base 7.2 to 7.5). Knows nobody who holds one.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::command::{Command, IoOpcode, low_byte};
use crate::sgl::Sgl;

const IGNORE_EXISTING_KEY: u32 = 1 << 3;

fn ignoring(key: bool) -> u32 {
    if key { IGNORE_EXISTING_KEY } else { 0 }
}

codes! {
    /// What Reservation Register does (RREGA).
    RegisterAction: u8 {
        /// Registers a key.
        Register = 0,
        /// Takes the registration back.
        Unregister = 1,
        /// Puts another key in its place.
        Replace = 2,
    }
}

codes! {
    /// Whether reservations last through power loss from now on (CPTPL).
    PersistChange: u8 {
        /// As it was.
        Keep = 0,
        /// They do not.
        Clear = 2,
        /// They do.
        Set = 3,
    }
}

codes! {
    /// What Reservation Acquire does (RACQA).
    AcquireAction: u8 {
        /// Takes the reservation.
        Acquire = 0,
        /// Takes it away from another.
        Preempt = 1,
        /// The same, and aborts the other's commands.
        PreemptAndAbort = 2,
    }
}

codes! {
    /// What Reservation Release does (RRELA).
    ReleaseAction: u8 {
        /// Gives the reservation back.
        Release = 0,
        /// Takes it and all registrations away.
        Clear = 1,
    }
}

codes! {
    /// Types of reservations (RTYPE).
    ReservationType: u8 {
        /// Only the holder writes.
        WriteExclusive = 1,
        /// Only the holder reads and writes.
        ExclusiveAccess = 2,
        /// Only registrants write; one of them holds.
        WriteExclusiveRegistrantsOnly = 3,
        /// Only registrants read and write; one of them holds.
        ExclusiveAccessRegistrantsOnly = 4,
        /// Only registrants write; all of them hold.
        WriteExclusiveAllRegistrants = 5,
        /// Only registrants read and write; all of them hold.
        ExclusiveAccessAllRegistrants = 6,
    }
}

/// Data of Reservation Register: the current key, then the new one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct RegisterData {
    /// The host's key up to now (CRKEY).
    pub current: U64,
    /// Its key from now on (NRKEY).
    pub new: U64,
}

/// Data of Reservation Acquire: the host's key, then that of who is preempted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct AcquireData {
    /// The host's key (CRKEY).
    pub current: U64,
    /// The key of who is preempted (PRKEY).
    pub preempted: U64,
}

/// Data of Reservation Release: the host's key.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ReleaseData {
    /// The host's key (CRKEY).
    pub current: U64,
}

const _: () = assert!(size_of::<RegisterData>() == 16 && size_of::<AcquireData>() == 16 && size_of::<ReleaseData>() == 8);

/// Reservation Register (base 7.3). `None` stands for a reserved value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Register {
    /// What to do.
    pub action: Option<RegisterAction>,
    /// The current key is not compared (IEKEY).
    pub ignore_key: bool,
    /// Whether reservations last.
    pub persist: Option<PersistChange>,
}

impl Register {
    /// Of a Reservation Register command.
    #[must_use]
    pub fn of(command: &Command) -> Self {
        let dword = command.dword(10);
        Self {
            action: RegisterAction::of(low_byte(dword & 0b111)),
            ignore_key: dword & IGNORE_EXISTING_KEY != 0,
            persist: PersistChange::of(low_byte(dword >> 30)),
        }
    }

    /// As a command, its [`RegisterData`] where `data` says. What is `None` is sent as zero.
    #[must_use]
    pub fn command(&self, nsid: u32, data: Sgl) -> Command {
        let action = u32::from(self.action.map_or(0, RegisterAction::code));
        let persist = u32::from(self.persist.map_or(0, PersistChange::code));
        Command::new(IoOpcode::ReservationRegister.code(), nsid)
            .with_data(data)
            .with_dword(10, action | ignoring(self.ignore_key) | persist << 30)
    }
}

/// Reservation Acquire (base 7.2). `None` stands for a reserved value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Acquire {
    /// What to do.
    pub action: Option<AcquireAction>,
    /// The current key is not compared (IEKEY): a version that later ones refuse.
    pub ignore_key: bool,
    /// The type of the reservation.
    pub kind: Option<ReservationType>,
}

impl Acquire {
    /// Of a Reservation Acquire command.
    #[must_use]
    pub fn of(command: &Command) -> Self {
        let [action, kind, ..] = command.dword(10).to_le_bytes();
        Self {
            action: AcquireAction::of(action & 0b111),
            ignore_key: command.dword(10) & IGNORE_EXISTING_KEY != 0,
            kind: ReservationType::of(kind),
        }
    }

    /// As a command, its [`AcquireData`] where `data` says. What is `None` is sent as zero.
    #[must_use]
    pub fn command(&self, nsid: u32, data: Sgl) -> Command {
        let action = u32::from(self.action.map_or(0, AcquireAction::code));
        Command::new(IoOpcode::ReservationAcquire.code(), nsid)
            .with_data(data)
            .with_dword(10, action | ignoring(self.ignore_key) | u32::from(self.kind.map_or(0, ReservationType::code)) << 8)
    }
}

/// Reservation Release (base 7.4). `None` stands for a reserved value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Release {
    /// What to do.
    pub action: Option<ReleaseAction>,
    /// The current key is not compared (IEKEY).
    pub ignore_key: bool,
    /// The type of the reservation that is given back.
    pub kind: Option<ReservationType>,
}

impl Release {
    /// Of a Reservation Release command.
    #[must_use]
    pub fn of(command: &Command) -> Self {
        let [action, kind, ..] = command.dword(10).to_le_bytes();
        Self {
            action: ReleaseAction::of(action & 0b111),
            ignore_key: command.dword(10) & IGNORE_EXISTING_KEY != 0,
            kind: ReservationType::of(kind),
        }
    }

    /// As a command, its [`ReleaseData`] where `data` says. What is `None` is sent as zero.
    #[must_use]
    pub fn command(&self, nsid: u32, data: Sgl) -> Command {
        let action = u32::from(self.action.map_or(0, ReleaseAction::code));
        Command::new(IoOpcode::ReservationRelease.code(), nsid)
            .with_data(data)
            .with_dword(10, action | ignoring(self.ignore_key) | u32::from(self.kind.map_or(0, ReservationType::code)) << 8)
    }
}

/// Reservation Report (base 7.5).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Report {
    /// How many dwords less one (NUMD, 0's based).
    pub dwords_less_one: u32,
    /// With 128-bit host identifiers (EDS).
    pub extended: bool,
}

impl Report {
    /// Of a Reservation Report command.
    #[must_use]
    pub fn of(command: &Command) -> Self {
        Self { dwords_less_one: command.dword(10), extended: command.dword(11) & 1 != 0 }
    }

    /// How much is asked for.
    #[must_use]
    pub fn len_bytes(&self) -> u64 {
        (u64::from(self.dwords_less_one) + 1) * 4
    }

    /// As a command, the report to lie where `data` says.
    #[must_use]
    pub fn command(&self, nsid: u32, data: Sgl) -> Command {
        Command::new(IoOpcode::ReservationReport.code(), nsid)
            .with_data(data)
            .with_dword(10, self.dwords_less_one)
            .with_dword(11, u32::from(self.extended))
    }
}

/// How a report begins. With [`Report::extended`] forty reserved bytes follow.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ReportHead {
    /// Counts changes (GEN).
    pub generation: U32,
    /// The type of the reservation, 0 if there is none (RTYPE).
    pub kind: u8,
    /// Registrants (REGSTRNT): controllers, each of which has an entry.
    pub registrants: U16,
    reserved_7: [u8; 2],
    /// Whether reservations last through power loss (PTPLS).
    pub persists: u8,
    reserved_10: [u8; 14],
}

/// A registrant in a report (24 bytes).
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Registrant {
    /// The controller (CNTLID); FFFFh if the host has none at the moment.
    pub controller: U16,
    /// Bit 0: it holds the reservation (RCSTS).
    pub status: u8,
    reserved_3: [u8; 5],
    /// The host's 64-bit identifier.
    pub host_id: [u8; 8],
    /// Its key (RKEY).
    pub key: U64,
}

/// A registrant in an extended report (64 bytes).
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct RegistrantExtended {
    /// The controller (CNTLID); FFFFh if the host has none at the moment.
    pub controller: U16,
    /// Bit 0: it holds the reservation (RCSTS).
    pub status: u8,
    reserved_3: [u8; 5],
    /// Its key (RKEY).
    pub key: U64,
    /// The host's 128-bit identifier.
    pub host_id: [u8; 16],
    reserved_32: [u8; 32],
}

const _: () = assert!(size_of::<ReportHead>() == 24 && size_of::<Registrant>() == 24 && size_of::<RegistrantExtended>() == 64);

/// Bytes of the head of an extended report.
pub const REPORT_HEAD_EXTENDED_BYTES: usize = 64;

impl ReportHead {
    /// The head of a report.
    #[must_use]
    pub fn new(generation: u32, kind: Option<ReservationType>, registrants: u16, persists: bool) -> Self {
        Self {
            generation: generation.into(),
            kind: kind.map_or(0, ReservationType::code),
            registrants: registrants.into(),
            persists: u8::from(persists),
            ..Self::new_zeroed()
        }
    }
}

impl Registrant {
    /// A registrant.
    #[must_use]
    pub fn new(controller: u16, holds: bool, host_id: [u8; 8], key: u64) -> Self {
        Self { controller: controller.into(), status: u8::from(holds), host_id, key: key.into(), ..Self::new_zeroed() }
    }
}

impl RegistrantExtended {
    /// A registrant.
    #[must_use]
    pub fn new(controller: u16, holds: bool, host_id: [u8; 16], key: u64) -> Self {
        Self { controller: controller.into(), status: u8::from(holds), host_id, key: key.into(), ..Self::new_zeroed() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actions_types_and_wishes_have_their_own_bits() {
        let register = Register { action: Some(RegisterAction::Replace), ignore_key: true, persist: Some(PersistChange::Set) };
        let command = register.command(1, Sgl::transport(16));
        assert_eq!((command.opcode(), command.dword(10)), (0x0d, 0xc000_000a));
        assert_eq!(Register::of(&command), register);
        let acquire = Acquire {
            action: Some(AcquireAction::PreemptAndAbort),
            ignore_key: false,
            kind: Some(ReservationType::ExclusiveAccessAllRegistrants),
        };
        let command = acquire.command(1, Sgl::transport(16));
        assert_eq!((command.opcode(), command.dword(10), Acquire::of(&command)), (0x11, 0x0602, acquire));
        let release = Release { action: Some(ReleaseAction::Clear), ignore_key: false, kind: Some(ReservationType::WriteExclusive) };
        let command = release.command(1, Sgl::transport(8));
        assert_eq!((command.opcode(), command.dword(10), Release::of(&command)), (0x15, 0x0101, release));
        let report = Report { dwords_less_one: 1023, extended: true };
        let command = report.command(1, Sgl::transport(4096));
        assert_eq!((command.opcode(), command.dword(10), command.dword(11)), (0x0e, 1023, 1));
        assert_eq!((Report::of(&command), report.len_bytes()), (report, 4096));
    }

    #[test]
    fn reserved_values_are_told_apart() {
        let command = Command::new(0x0d, 1).with_dword(10, 0x4000_0007);
        assert_eq!(Register::of(&command), Register { action: None, ignore_key: false, persist: None });
        let command = Command::new(0x11, 1).with_dword(10, 0x0703);
        assert_eq!(Acquire::of(&command), Acquire { action: None, ignore_key: false, kind: None });
        let command = Command::new(0x15, 1).with_dword(10, 0x0002);
        assert_eq!(Release::of(&command), Release { action: None, ignore_key: false, kind: None });
    }

    #[test]
    fn reports_lie_as_the_specification_draws_them() {
        let head = ReportHead::new(0x0102_0304, Some(ReservationType::WriteExclusive), 0x0506, true);
        assert_eq!(head.as_bytes()[..12], [4, 3, 2, 1, 1, 6, 5, 0, 0, 1, 0, 0]);
        let registrant = Registrant::new(0x0102, true, [7; 8], 0x0a0b);
        let mut bytes = [0; 24];
        bytes[..3].copy_from_slice(&[2, 1, 1]);
        bytes[8..16].fill(7);
        bytes[16..18].copy_from_slice(&[0x0b, 0x0a]);
        assert_eq!(registrant.as_bytes(), bytes);
        let extended = RegistrantExtended::new(0x0102, true, [7; 16], 0x0a0b);
        let mut bytes = [0; 64];
        bytes[..3].copy_from_slice(&[2, 1, 1]);
        bytes[8..10].copy_from_slice(&[0x0b, 0x0a]);
        bytes[16..32].fill(7);
        assert_eq!(extended.as_bytes(), bytes);
        let data = AcquireData { current: 1.into(), preempted: 2.into() };
        assert_eq!(data.as_bytes(), [1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
    }
}
