//! The fields of PDUs, and what both ends agree on. Knows neither bytes nor a stream.

use super::digest::DIGEST_BYTES;
use super::fault::{FatalStatus, Fault};
use super::pdu::{Alignment, COMMAND_BYTES, COMPLETION_BYTES, flag};

/// A host asks for a connection (NVMe/TCP 1.0, section 3.6.2.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IcReq {
    /// How data to the host are aligned (HPDA).
    pub alignment: Alignment,
    /// Header digests, both ways.
    pub header_digest: bool,
    /// Data digests, both ways.
    pub data_digest: bool,
    /// Most R2Ts of one command at a time, less one, as the field says it (MAXR2T).
    pub r2ts_max_less_one: u32,
}

/// A controller grants a connection (section 3.6.2.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IcResp {
    /// How data to the controller are aligned (CPDA).
    pub alignment: Alignment,
    /// Header digests, both ways.
    pub header_digest: bool,
    /// Data digests, both ways.
    pub data_digest: bool,
    /// Most bytes of data of one H2CData (MAXH2CDATA): at least 4096, in steps of 4.
    pub data_bytes_max: u32,
}

/// A peer gives up (sections 3.6.2.4 and 3.6.2.5): it sends nothing more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Terminate {
    /// Why, as it came; see [`Terminate::known`].
    pub status: u16,
    /// Further information: an offset or a digest.
    pub info: u32,
    /// The type of the PDU that was wrong, if the peer sent some of it back.
    pub offender: Option<u8>,
}

impl Terminate {
    /// Why, if it is one of the reasons of the specification.
    #[must_use]
    pub fn known(&self) -> Option<FatalStatus> {
        FatalStatus::of(self.status)
    }
}

/// The header of data on their way (sections 3.6.2.8 and 3.6.2.9).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DataPdu {
    /// Of the command that they belong to.
    pub command_id: u16,
    /// Of the R2T that asked for them; zero in C2HData.
    pub transfer_tag: u16,
    /// Where they belong in the command's data, in bytes.
    pub offset: u32,
    /// How many bytes, at least one. The sum with `offset` fits 32 bits.
    pub len_bytes: u32,
    /// They are the last of their R2T, or in C2HData of their command.
    pub last: bool,
    /// The command has succeeded, and no completion follows. Only in C2HData, and only with `last`.
    pub success: bool,
}

/// A controller is ready for data (section 3.6.2.10).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct R2t {
    /// Of the command whose data it wants.
    pub command_id: u16,
    /// What the data have to name.
    pub transfer_tag: u16,
    /// Where the data begin in those of the command, in bytes.
    pub offset: u32,
    /// How many bytes, at least one. The sum with `offset` fits 32 bits.
    pub len_bytes: u32,
}

/// A header that came whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pdu {
    /// To a target, once and first.
    IcReq(IcReq),
    /// To a host, once and first.
    IcResp(IcResp),
    /// To both, last.
    Terminate(Terminate),
    /// A command, and how many bytes of data come with it.
    CapsuleCmd {
        /// As it came.
        command: [u8; COMMAND_BYTES],
        /// Zero if there are none.
        data_bytes: u32,
    },
    /// A completion.
    CapsuleResp {
        /// As it came.
        completion: [u8; COMPLETION_BYTES],
    },
    /// Data to a target.
    H2cData(DataPdu),
    /// Data to a host.
    C2hData(DataPdu),
    /// To a host.
    R2t(R2t),
}

/// What both ends have agreed on, as one of them sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Terms {
    /// Headers have digests.
    pub header_digest: bool,
    /// Data have digests.
    pub data_digest: bool,
    /// How data are aligned that come to this end.
    pub incoming: Alignment,
    /// How data are aligned that this end sends.
    pub outgoing: Alignment,
}

impl Terms {
    /// What a target has agreed on. It enables a digest only if it was asked for.
    #[must_use]
    pub fn of_target(asked: &IcReq, answered: &IcResp) -> Self {
        Self { incoming: answered.alignment, outgoing: asked.alignment, ..Self::both(asked, answered) }
    }

    /// What a host has agreed on.
    ///
    /// # Errors
    /// If the controller enables a digest that was not asked for. Whether it may refuse one that was is for the caller to say.
    pub fn of_host(asked: &IcReq, answered: &IcResp) -> Result<Self, Fault> {
        let asked_bits = digest_bits(asked.header_digest, asked.data_digest);
        let answered_bits = digest_bits(answered.header_digest, answered.data_digest);
        if answered_bits & !asked_bits != 0 {
            return Err(Fault::Digests { asked: asked_bits, answered: answered_bits });
        }
        Ok(Self { incoming: asked.alignment, outgoing: answered.alignment, ..Self::both(asked, answered) })
    }

    fn both(asked: &IcReq, answered: &IcResp) -> Self {
        Self {
            header_digest: asked.header_digest && answered.header_digest,
            data_digest: asked.data_digest && answered.data_digest,
            ..Self::default()
        }
    }

    /// Bytes between a header and what follows it, padding apart: four or none.
    pub(super) fn header_digest_bytes(&self) -> u8 {
        if self.header_digest { DIGEST_BYTES } else { 0 }
    }

    /// Bytes behind data: four or none.
    pub(super) fn data_digest_bytes(&self) -> u8 {
        if self.data_digest { DIGEST_BYTES } else { 0 }
    }
}

/// The field that asks for digests, or enables them.
pub(super) fn digest_bits(header: bool, data: bool) -> u8 {
    (if header { flag::ASK_HEADER_DIGEST } else { 0 }) | (if data { flag::ASK_DATA_DIGEST } else { 0 })
}
