//! The 64 bytes of a command and its opcodes (base 3.3.3.1, NVM 3). Knows no queue.

use std::fmt;

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::sgl::Sgl;

/// Stands for every namespace (base 3.2.1.2).
pub const NSID_ALL: u32 = u32::MAX;
/// The largest number that a namespace can have: those above are reserved.
pub const NSID_MAX: u32 = u32::MAX - 1;

codes! {
    /// Commands of an admin queue (base 5).
    AdminOpcode: u8 {
        /// Delete I/O Submission Queue; not over fabrics.
        DeleteSubmissionQueue = 0x00,
        /// Create I/O Submission Queue; not over fabrics.
        CreateSubmissionQueue = 0x01,
        /// Get Log Page.
        GetLogPage = 0x02,
        /// Delete I/O Completion Queue; not over fabrics.
        DeleteCompletionQueue = 0x04,
        /// Create I/O Completion Queue; not over fabrics.
        CreateCompletionQueue = 0x05,
        /// Identify.
        Identify = 0x06,
        /// Abort.
        Abort = 0x08,
        /// Set Features.
        SetFeatures = 0x09,
        /// Get Features.
        GetFeatures = 0x0a,
        /// Asynchronous Event Request.
        AsyncEventRequest = 0x0c,
        /// Namespace Management.
        NamespaceManagement = 0x0d,
        /// Firmware Commit.
        FirmwareCommit = 0x10,
        /// Firmware Image Download.
        FirmwareDownload = 0x11,
        /// Device Self-test.
        SelfTest = 0x14,
        /// Namespace Attachment.
        NamespaceAttachment = 0x15,
        /// Keep Alive.
        KeepAlive = 0x18,
        /// Directive Send.
        DirectiveSend = 0x19,
        /// Directive Receive.
        DirectiveReceive = 0x1a,
        /// A command of fabrics: its own type stands in the fifth byte.
        Fabrics = 0x7f,
        /// Format NVM.
        Format = 0x80,
        /// Security Send.
        SecuritySend = 0x81,
        /// Security Receive.
        SecurityReceive = 0x82,
        /// Sanitize.
        Sanitize = 0x84,
        /// Get LBA Status.
        GetLbaStatus = 0x86,
    }
}

codes! {
    /// Commands of an I/O queue (NVM 3, base 7).
    IoOpcode: u8 {
        /// Flush.
        Flush = 0x00,
        /// Write.
        Write = 0x01,
        /// Read.
        Read = 0x02,
        /// Write Uncorrectable.
        WriteUncorrectable = 0x04,
        /// Compare.
        Compare = 0x05,
        /// Write Zeroes.
        WriteZeroes = 0x08,
        /// Dataset Management.
        DatasetManagement = 0x09,
        /// Verify.
        Verify = 0x0c,
        /// Reservation Register.
        ReservationRegister = 0x0d,
        /// Reservation Report.
        ReservationReport = 0x0e,
        /// Reservation Acquire.
        ReservationAcquire = 0x11,
        /// Reservation Release.
        ReservationRelease = 0x15,
        /// Copy.
        Copy = 0x19,
        /// A command of fabrics.
        Fabrics = 0x7f,
    }
}

codes! {
    /// Whether a command is one of two that are done as one (base 3.4.2).
    Fused: u8 {
        /// A command by itself.
        No = 0,
        /// The first of two.
        First = 1,
        /// The second of two.
        Second = 2,
    }
}

/// Which way a command's data go; the two lowest bits of every opcode say it (base 3.3.3.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// There are none.
    None,
    /// From the host to the controller.
    ToController,
    /// From the controller to the host.
    ToHost,
    /// Both ways.
    Both,
}

impl Direction {
    /// Of an opcode, or of the type of a command of fabrics.
    #[must_use]
    #[inline]
    pub fn of(opcode: u8) -> Self {
        match opcode & 3 {
            0 => Self::None,
            1 => Self::ToController,
            2 => Self::ToHost,
            _ => Self::Both,
        }
    }
}

/// How a command's data are pointed to (PSDT). Over fabrics only SGLs are.
const PSDT_SGL: u8 = 0b01 << 6;

/// A submission queue entry.
///
/// What its dwords 10 to 15 mean differs; see [`crate::io`], [`crate::admin`], [`crate::fabrics`] and
/// [`crate::reservation`], which read them out of a command and write them into one.
#[derive(Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Command {
    opcode: u8,
    flags: u8,
    id: U16,
    nsid: U32,
    dwords_2_3: [U32; 2],
    metadata: U64,
    data: Sgl,
    dwords_10_15: [U32; 6],
}

const _: () = assert!(size_of::<Command>() == 64);

impl Command {
    /// A command with nothing but its opcode and namespace; data, if any, follow by an SGL.
    #[must_use]
    pub fn new(opcode: u8, nsid: u32) -> Self {
        Self { opcode, flags: PSDT_SGL, nsid: nsid.into(), ..Self::new_zeroed() }
    }

    /// The same with these data.
    #[must_use]
    pub fn with_data(self, data: Sgl) -> Self {
        Self { data, ..self }
    }

    /// The same under this identifier.
    #[must_use]
    pub fn with_id(self, id: u16) -> Self {
        Self { id: id.into(), ..self }
    }

    /// The same as one of two.
    #[must_use]
    pub fn with_fused(self, fused: Fused) -> Self {
        Self { flags: self.flags & !0b11 | fused.code(), ..self }
    }

    /// The same with another value in dword `number`, 10 to 15.
    ///
    /// # Panics
    /// If `number` is not one of these.
    #[must_use]
    pub fn with_dword(mut self, number: usize, value: u32) -> Self {
        self.dwords_10_15[number - 10] = value.into();
        self
    }

    /// The same with another value in two dwords, `number` and the next.
    pub(crate) fn with_dwords(self, number: usize, value: u64) -> Self {
        let (low, high) = halves(value);
        self.with_dword(number, low).with_dword(number + 1, high)
    }

    /// The opcode.
    #[must_use]
    #[inline]
    pub fn opcode(&self) -> u8 {
        self.opcode
    }

    /// The identifier, unique among the queue's commands that are not answered.
    #[must_use]
    #[inline]
    pub fn id(&self) -> u16 {
        self.id.get()
    }

    /// The namespace.
    #[must_use]
    #[inline]
    pub fn nsid(&self) -> u32 {
        self.nsid.get()
    }

    /// Whether it is one of two; `None` if the field has a reserved value.
    #[must_use]
    #[inline]
    pub fn fused(&self) -> Option<Fused> {
        Fused::of(self.flags & 0b11)
    }

    /// Whether an SGL points to its data (PSDT is 01b), as it has to over fabrics (base 3.3.3.1).
    #[must_use]
    #[inline]
    pub fn uses_sgl(&self) -> bool {
        self.flags >> 6 == PSDT_SGL >> 6
    }

    /// Where its data are.
    #[must_use]
    #[inline]
    pub fn data(&self) -> Sgl {
        self.data
    }

    /// Which way its data go.
    #[must_use]
    #[inline]
    pub fn direction(&self) -> Direction {
        Direction::of(if self.is_fabrics() { self.fabrics_type() } else { self.opcode })
    }

    /// Whether it is a command of fabrics, on whatever queue.
    #[must_use]
    #[inline]
    pub fn is_fabrics(&self) -> bool {
        self.opcode == AdminOpcode::Fabrics.code()
    }

    /// The type of a command of fabrics (FCTYPE), which stands where others have their namespace.
    #[must_use]
    #[inline]
    pub fn fabrics_type(&self) -> u8 {
        self.nsid.as_bytes()[0]
    }

    /// Dword `number`, 10 to 15.
    ///
    /// # Panics
    /// If `number` is not one of these.
    #[must_use]
    #[inline]
    pub fn dword(&self, number: usize) -> u32 {
        self.dwords_10_15[number - 10].get()
    }

    /// Two dwords: `number` is the lower, the next one the upper half.
    #[inline]
    pub(crate) fn dwords(&self, number: usize) -> u64 {
        u64::from(self.dword(number)) | u64::from(self.dword(number + 1)) << 32
    }
}

/// The lower and the upper half.
pub(crate) fn halves(value: u64) -> (u32, u32) {
    let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
    (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]))
}

/// The lower and the upper half.
pub(crate) fn quarters(value: u32) -> (u16, u16) {
    let [a, b, c, d] = value.to_le_bytes();
    (u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d]))
}

/// The lowest byte.
pub(crate) fn low_byte(value: u32) -> u8 {
    value.to_le_bytes()[0]
}

/// As logs have it: numbers where there is no name.
impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Command {:#04x} id {:#06x} nsid {:#x} data {:?} dwords", self.opcode, self.id(), self.nsid(), self.data)?;
        self.dwords_10_15.iter().try_for_each(|dword| write!(f, " {:#x}", dword.get()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_lies_as_the_specification_draws_it() {
        let command = Command::new(0x02, 0x0403_0201)
            .with_id(0xbeef)
            .with_fused(Fused::Second)
            .with_data(Sgl::transport(0x1000))
            .with_dword(10, 0x1111_1111)
            .with_dword(15, 0x6666_6666);
        let mut bytes = [0; 64];
        bytes[..8].copy_from_slice(&[0x02, 0x42, 0xef, 0xbe, 1, 2, 3, 4]);
        bytes[24..40].copy_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0x5a]);
        bytes[40..44].fill(0x11);
        bytes[60..].fill(0x66);
        assert_eq!(command.as_bytes(), bytes);
        let read = Command::read_from_bytes(&bytes).unwrap();
        assert_eq!((read.opcode(), read.id(), read.nsid(), read.fused()), (2, 0xbeef, 0x0403_0201, Some(Fused::Second)));
        assert_eq!((read.dword(10), read.dword(15), read.dword(12)), (0x1111_1111, 0x6666_6666, 0));
        assert!(read.uses_sgl() && read.direction() == Direction::ToHost);
    }

    #[test]
    fn halves_of_dwords_stand_low_first() {
        let command = Command::new(1, 1).with_dwords(10, 0x8877_6655_4433_2211);
        assert_eq!((command.dword(10), command.dword(11)), (0x4433_2211, 0x8877_6655));
        assert_eq!(command.dwords(10), 0x8877_6655_4433_2211);
    }

    #[test]
    fn codes_are_read_back_and_unknown_ones_have_no_name() {
        assert!(AdminOpcode::ALL.iter().all(|opcode| AdminOpcode::of(opcode.code()) == Some(*opcode)));
        assert!(IoOpcode::ALL.iter().all(|opcode| IoOpcode::of(opcode.code()) == Some(*opcode)));
        assert_eq!((AdminOpcode::of(0x03), IoOpcode::of(0x7e), Fused::of(3)), (None, None, None));
    }

    #[test]
    fn an_opcode_says_which_way_the_data_go() {
        for (opcode, direction) in [
            (IoOpcode::Flush.code(), Direction::None),
            (IoOpcode::Write.code(), Direction::ToController),
            (IoOpcode::Read.code(), Direction::ToHost),
            (IoOpcode::Compare.code(), Direction::ToController),
            (IoOpcode::WriteZeroes.code(), Direction::None),
            (IoOpcode::DatasetManagement.code(), Direction::ToController),
            (IoOpcode::ReservationReport.code(), Direction::ToHost),
            (AdminOpcode::Identify.code(), Direction::ToHost),
            (AdminOpcode::SetFeatures.code(), Direction::ToController),
            (AdminOpcode::KeepAlive.code(), Direction::None),
        ] {
            assert_eq!(Direction::of(opcode), direction, "{opcode:#x}");
        }
    }
}
