//! The PDUs of NVMe/TCP as values, and where their fields lie. Knows no stream, and nothing of the commands inside.

/// Bytes of the common header that every PDU begins with (NVMe/TCP 1.0, section 3.6.1).
pub const COMMON_BYTES: usize = 8;
/// Bytes of ICReq and ICResp.
pub const SETUP_BYTES: usize = 128;
/// Bytes of a command, opaque here.
pub const COMMAND_BYTES: usize = 64;
/// Bytes of a completion, opaque here.
pub const COMPLETION_BYTES: usize = 16;
/// Most bytes of a request to terminate: its header and the header of the PDU that was wrong.
pub const TERMINATE_BYTES_MAX: usize = 152;
/// Most bytes that are read before the fields of a PDU are looked at, and that a builder writes: of a request to terminate.
pub const HEAD_BYTES_MAX: usize = TERMINATE_BYTES_MAX;
/// The least that a controller may announce as the most data of one H2CData (section 3.6.2.3).
pub const DATA_BYTES_MAX_LEAST: u32 = 4096;

/// Which end of a connection this is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// The end that sends commands.
    Host,
    /// The end that answers them.
    Target,
}

/// Kinds of PDUs (section 3.6, figure 15).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum PduType {
    /// The host asks for a connection.
    IcReq = 0x00,
    /// The controller grants it.
    IcResp = 0x01,
    /// The host gives up.
    H2cTermReq = 0x02,
    /// The controller gives up.
    C2hTermReq = 0x03,
    /// A command, with data perhaps.
    CapsuleCmd = 0x04,
    /// A completion.
    CapsuleResp = 0x05,
    /// Data of a command from the host.
    H2cData = 0x06,
    /// Data of a command to the host.
    C2hData = 0x07,
    /// The controller is ready for data.
    R2t = 0x09,
}

impl PduType {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::IcReq,
        Self::IcResp,
        Self::H2cTermReq,
        Self::C2hTermReq,
        Self::CapsuleCmd,
        Self::CapsuleResp,
        Self::H2cData,
        Self::C2hData,
        Self::R2t,
    ];

    /// The kind that `code` stands for.
    #[must_use]
    pub fn of(code: u8) -> Option<Self> {
        Some(match code {
            0x00 => Self::IcReq,
            0x01 => Self::IcResp,
            0x02 => Self::H2cTermReq,
            0x03 => Self::C2hTermReq,
            0x04 => Self::CapsuleCmd,
            0x05 => Self::CapsuleResp,
            0x06 => Self::H2cData,
            0x07 => Self::C2hData,
            0x09 => Self::R2t,
            _ => return None,
        })
    }

    /// What stands for it on the wire.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// Bytes of its header without a digest: the one value that its header length may have.
    #[must_use]
    pub const fn header_bytes(self) -> u8 {
        match self {
            Self::IcReq | Self::IcResp => 128,
            Self::CapsuleCmd => 72,
            _ => 24,
        }
    }

    /// Who receives it.
    #[must_use]
    pub const fn receiver(self) -> Role {
        match self {
            Self::IcReq | Self::H2cTermReq | Self::CapsuleCmd | Self::H2cData => Role::Target,
            Self::IcResp | Self::C2hTermReq | Self::CapsuleResp | Self::C2hData | Self::R2t => Role::Host,
        }
    }
}

/// Bits of a PDU's flags.
pub mod flag {
    /// A digest of the header follows it.
    pub const HEADER_DIGEST: u8 = 1 << 0;
    /// A digest of the data follows them.
    pub const DATA_DIGEST: u8 = 1 << 1;
    /// The last data of an R2T or of a command (H2CData, C2HData).
    pub const LAST: u8 = 1 << 2;
    /// The command has succeeded, and no completion follows (C2HData).
    pub const SUCCESS: u8 = 1 << 3;

    /// Of the digests that a host asks for or a controller enables (ICReq, ICResp): those of headers.
    pub const ASK_HEADER_DIGEST: u8 = 1 << 0;
    /// Of the digests that a host asks for or a controller enables (ICReq, ICResp): those of data.
    pub const ASK_DATA_DIGEST: u8 = 1 << 1;
}

/// Where fields begin, in bytes from the start of their PDU: what a request to terminate names.
pub mod at {
    /// Kind.
    pub const TYPE: u8 = 0;
    /// Flags.
    pub const FLAGS: u8 = 1;
    /// Header length.
    pub const HEADER_LENGTH: u8 = 2;
    /// Data offset within the PDU.
    pub const DATA_OFFSET: u8 = 3;
    /// Length of the whole PDU.
    pub const TOTAL_LENGTH: u8 = 4;
    /// Command or completion (CapsuleCmd, CapsuleResp).
    pub const CAPSULE: u8 = 8;
    /// Version (ICReq, ICResp).
    pub const VERSION: u8 = 8;
    /// Alignment of data (ICReq, ICResp).
    pub const ALIGNMENT: u8 = 10;
    /// Digests (ICReq, ICResp).
    pub const DIGESTS: u8 = 11;
    /// R2Ts at a time less one (ICReq), or most bytes of one H2CData (ICResp).
    pub const LIMIT: u8 = 12;
    /// Status of a request to terminate.
    pub const FATAL_STATUS: u8 = 8;
    /// Further information of a request to terminate.
    pub const FATAL_INFO: u8 = 10;
    /// Command identifier (H2CData, C2HData, R2T).
    pub const COMMAND_ID: u8 = 8;
    /// Transfer tag (H2CData, R2T).
    pub const TRANSFER_TAG: u8 = 10;
    /// Offset in the command's data (H2CData, C2HData, R2T).
    pub const OFFSET: u8 = 12;
    /// Bytes of data (H2CData, C2HData, R2T).
    pub const LENGTH: u8 = 16;
}

/// How data are aligned within PDUs: HPDA or CPDA, in steps of four bytes, less one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Alignment(u8);

impl Alignment {
    /// The largest field value: 128 bytes.
    pub const FIELD_MAX: u8 = 31;

    /// The alignment that a field asks for, if there is such a one.
    #[must_use]
    pub fn of(field: u8) -> Option<Self> {
        (field <= Self::FIELD_MAX).then_some(Self(field))
    }

    /// As the field says it.
    #[must_use]
    pub fn field(self) -> u8 {
        self.0
    }

    /// In bytes: 4 to 128.
    #[must_use]
    pub fn bytes(self) -> u8 {
        (self.0 + 1) * 4
    }

    /// Where data begin behind a header of so many bytes.
    #[must_use]
    pub fn data_offset(self, header_bytes: u8) -> u8 {
        header_bytes.next_multiple_of(self.bytes())
    }
}
