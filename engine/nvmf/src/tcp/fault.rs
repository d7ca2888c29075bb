//! What a peer did wrong, and how a request to terminate tells it. Knows no stream.

use thiserror::Error;

use super::pdu::{PduType, at};

/// Status of a request to terminate (NVMe/TCP 1.0, sections 3.6.2.4 and 3.6.2.5).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u16)]
pub enum FatalStatus {
    /// A field of the header cannot be; the information is its offset.
    InvalidHeader = 0x01,
    /// The PDU is not expected now.
    Sequence = 0x02,
    /// The header's digest is wrong; the information is the digest that came.
    HeaderDigest = 0x03,
    /// Data outside what was asked for.
    OutOfRange = 0x04,
    /// From a controller: more data in one PDU than it allows. From a host: more R2Ts at a time than it allows.
    LimitExceeded = 0x05,
    /// A parameter is not supported; the information is its offset.
    Unsupported = 0x06,
}

impl FatalStatus {
    /// The status that `code` stands for.
    #[must_use]
    pub fn of(code: u16) -> Option<Self> {
        Some(match code {
            0x01 => Self::InvalidHeader,
            0x02 => Self::Sequence,
            0x03 => Self::HeaderDigest,
            0x04 => Self::OutOfRange,
            0x05 => Self::LimitExceeded,
            0x06 => Self::Unsupported,
            _ => return None,
        })
    }

    /// What stands for it on the wire.
    #[must_use]
    pub const fn code(self) -> u16 {
        self as u16
    }
}

/// What a peer did wrong. The connection cannot go on: this side says why in a request to terminate, and closes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum Fault {
    /// No PDU has this type.
    #[error("there is no PDU of type {code:#04x}")]
    UnknownType {
        /// As it came.
        code: u8,
    },
    /// A PDU that only the other role receives.
    #[error("{kind:?} goes the other way")]
    WrongDirection {
        /// Its type.
        kind: PduType,
    },
    /// A PDU before the connection was set up, or a second one that sets it up.
    #[error("{kind:?} is not expected now")]
    OutOfSequence {
        /// Its type.
        kind: PduType,
    },
    /// The header's length is not the one of its type.
    #[error("the header of {kind:?} has {} bytes, not {given}", kind.header_bytes())]
    HeaderLength {
        /// Its type.
        kind: PduType,
        /// As it came.
        given: u8,
    },
    /// A header digest where none was agreed on, or none where one was.
    #[error("{kind:?} comes {} a header digest, against what was agreed on", if *present { "with" } else { "without" })]
    HeaderDigestFlag {
        /// Its type.
        kind: PduType,
        /// Whether its flags say that there is one.
        present: bool,
    },
    /// A data digest where none was agreed on, or none where one was.
    #[error("{kind:?} comes {} a data digest, against what was agreed on", if *present { "with" } else { "without" })]
    DataDigestFlag {
        /// Its type.
        kind: PduType,
        /// Whether its flags say that there is one.
        present: bool,
    },
    /// A command that has succeeded, but whose data have not ended.
    #[error("data that are not the last ones say that the command has succeeded")]
    SuccessBeforeLast,
    /// Data begin within the header, or are not aligned as was agreed on.
    #[error("data of {kind:?} cannot begin at byte {given}")]
    DataOffset {
        /// Its type.
        kind: PduType,
        /// As it came.
        given: u8,
    },
    /// The length of the whole is not that of the parts.
    #[error("{kind:?} cannot have {given} bytes in all")]
    TotalLength {
        /// Its type.
        kind: PduType,
        /// As it came.
        given: u32,
    },
    /// More data with a command than this side takes.
    #[error("{given} bytes of data come with a command, and {most} are the most")]
    CapsuleTooLong {
        /// Bytes of data.
        given: u32,
        /// The most.
        most: u32,
    },
    /// More data in one H2CData than this side takes.
    #[error("{given} bytes of data come in one PDU, and {most} are the most")]
    DataTooLong {
        /// Bytes of data.
        given: u32,
        /// The most.
        most: u32,
    },
    /// The header's digest is wrong.
    #[error("the header of {kind:?} has the digest {received:#010x}, but its bytes give {computed:#010x}")]
    HeaderDigest {
        /// Its type.
        kind: PduType,
        /// As it came.
        received: u32,
        /// As it should be.
        computed: u32,
    },
    /// A version of the transport that this side does not speak.
    #[error("version {given} of PDUs is not supported, only 0")]
    Version {
        /// As it came.
        given: u16,
    },
    /// An alignment of data that there is not.
    #[error("data cannot be aligned as {given} says: 31 is the most")]
    Alignment {
        /// As it came.
        given: u8,
    },
    /// The controller enables a digest that the host has not asked for.
    #[error("the controller enables digests {answered:#04x}, but {asked:#04x} were asked for")]
    Digests {
        /// As the host asked.
        asked: u8,
        /// As the controller answered.
        answered: u8,
    },
    /// The controller takes less data in one PDU than it must, or no whole number of 4 bytes.
    #[error("the controller takes {given} bytes in one PDU: at least 4096 must it be, in steps of 4")]
    DataLimit {
        /// As it came.
        given: u32,
    },
    /// The length of the data is not the one that the whole leaves for them.
    #[error("{kind:?} has {held} bytes of data, but says {given}")]
    DataLength {
        /// Its type.
        kind: PduType,
        /// As it came.
        given: u32,
        /// What lies between the data's offset and the end.
        held: u32,
    },
    /// An R2T that asks for nothing.
    #[error("an R2T for no bytes")]
    EmptyR2t,
    /// Data beyond the end of what can be counted, or outside what was asked for.
    #[error("{kind:?} of {len_bytes} bytes at {offset} is outside the command's data")]
    OutOfRange {
        /// Its type.
        kind: PduType,
        /// In the command's data.
        offset: u32,
        /// Bytes of data.
        len_bytes: u32,
    },
    /// Data at an offset that is not the next one.
    #[error("{kind:?} at offset {given}, where {expected} was next")]
    WrongOffset {
        /// Its type.
        kind: PduType,
        /// As it came.
        given: u32,
        /// The next one.
        expected: u32,
    },
    /// Data that are said to be the last but are not, or are the last and do not say so.
    #[error("{kind:?} says {} of its being the last, against the bytes that remain", if *given { "yes" } else { "no" })]
    WrongLast {
        /// Its type.
        kind: PduType,
        /// As it came.
        given: bool,
    },
    /// No transfer has this tag.
    #[error("no transfer has the tag {tag:#06x}")]
    UnknownTransfer {
        /// As it came.
        tag: u16,
    },
    /// No command with this identifier waits for such a PDU.
    #[error("{kind:?} names the command {command_id:#06x}, which does not wait for it")]
    UnknownCommand {
        /// Its type.
        kind: PduType,
        /// As it came.
        command_id: u16,
    },
    /// More R2Ts at a time than the host allows.
    #[error("more than {most} R2Ts of one command at a time")]
    TooManyR2ts {
        /// The most.
        most: u32,
    },
}

impl Fault {
    /// The status of the request to terminate.
    #[must_use]
    pub fn status(&self) -> FatalStatus {
        match self {
            Self::OutOfSequence { .. } => FatalStatus::Sequence,
            Self::HeaderDigest { .. } => FatalStatus::HeaderDigest,
            Self::OutOfRange { .. } => FatalStatus::OutOfRange,
            Self::DataTooLong { .. } | Self::TooManyR2ts { .. } => FatalStatus::LimitExceeded,
            Self::Version { .. } | Self::Digests { .. } => FatalStatus::Unsupported,
            _ => FatalStatus::InvalidHeader,
        }
    }

    /// The information of the request to terminate: the digest that came if it was wrong, the offset of the field that was
    /// invalid or not supported, else zero.
    #[must_use]
    pub fn info(&self) -> u32 {
        if let Self::HeaderDigest { received, .. } = self {
            return *received;
        }
        self.field().map_or(0, u32::from)
    }

    /// Where the field begins that is invalid or not supported, in bytes from the start of its PDU.
    #[must_use]
    pub fn field(&self) -> Option<u8> {
        Some(match self {
            Self::OutOfSequence { .. }
            | Self::HeaderDigest { .. }
            | Self::OutOfRange { .. }
            | Self::DataTooLong { .. }
            | Self::TooManyR2ts { .. } => return None,
            Self::UnknownType { .. } | Self::WrongDirection { .. } => at::TYPE,
            Self::HeaderLength { .. } => at::HEADER_LENGTH,
            Self::HeaderDigestFlag { .. } | Self::DataDigestFlag { .. } | Self::SuccessBeforeLast | Self::WrongLast { .. } => at::FLAGS,
            Self::DataOffset { .. } => at::DATA_OFFSET,
            Self::TotalLength { .. } | Self::CapsuleTooLong { .. } => at::TOTAL_LENGTH,
            Self::Version { .. } => at::VERSION,
            Self::Alignment { .. } => at::ALIGNMENT,
            Self::Digests { .. } => at::DIGESTS,
            Self::DataLimit { .. } => at::LIMIT,
            Self::DataLength { .. } | Self::EmptyR2t => at::LENGTH,
            Self::WrongOffset { .. } => at::OFFSET,
            Self::UnknownTransfer { .. } => at::TRANSFER_TAG,
            Self::UnknownCommand { .. } => at::COMMAND_ID,
        })
    }
}
