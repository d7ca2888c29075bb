//! PDUs as bytes, in the order of the wire: everything before their data, and the digest behind them. Knows no stream, and
//! leaves the data where they lie.

use super::digest::{Crc, DIGEST_BYTES};
use super::fault::Fault;
use super::pdu::{COMMAND_BYTES, COMMON_BYTES, COMPLETION_BYTES, PduType, Role, SETUP_BYTES, TERMINATE_BYTES_MAX, at, flag};
use super::value::{DataPdu, IcReq, IcResp, R2t, Terms, digest_bits};

/// Writes PDUs as the two ends have agreed on.
///
/// Every method writes to the beginning of `out`, says how many bytes it wrote, and panics if there is not so much room:
/// [`HEAD_BYTES_MAX`](super::pdu::HEAD_BYTES_MAX) is always enough.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Builder {
    terms: Terms,
}

/// ICReq, whole (NVMe/TCP 1.0, section 3.6.2.2).
pub fn put_request(asked: &IcReq, out: &mut [u8]) -> usize {
    let digests = digest_bits(asked.header_digest, asked.data_digest);
    put_setup(PduType::IcReq, asked.alignment.field(), digests, asked.r2ts_max_less_one, out)
}

/// ICResp, whole (section 3.6.2.3).
pub fn put_response(answered: &IcResp, out: &mut [u8]) -> usize {
    let digests = digest_bits(answered.header_digest, answered.data_digest);
    put_setup(PduType::IcResp, answered.alignment.field(), digests, answered.data_bytes_max, out)
}

fn put_setup(kind: PduType, alignment: u8, digests: u8, limit: u32, out: &mut [u8]) -> usize {
    let out = &mut out[..SETUP_BYTES];
    out.fill(0);
    put_common(kind, 0, 0, kind.header_bytes().into(), out);
    put(out, at::ALIGNMENT, &[alignment]);
    put(out, at::DIGESTS, &[digests]);
    put(out, at::LIMIT, &limit.to_le_bytes());
    SETUP_BYTES
}

/// H2CTermReq or C2HTermReq, whole, as the `sender` says it (sections 3.6.2.4 and 3.6.2.5), with as much of the header that
/// was wrong as there is room for.
pub fn put_terminate(sender: Role, fault: &Fault, header: &[u8], out: &mut [u8]) -> usize {
    let kind = match sender {
        Role::Host => PduType::H2cTermReq,
        Role::Target => PduType::C2hTermReq,
    };
    let own = usize::from(kind.header_bytes());
    let header = &header[..header.len().min(TERMINATE_BYTES_MAX - own)];
    let total = own + header.len();
    let out = &mut out[..total];
    out[..own].fill(0);
    put_common(kind, 0, 0, u32::try_from(total).expect("it is at most 152"), out);
    put(out, at::FATAL_STATUS, &fault.status().code().to_le_bytes());
    put(out, at::FATAL_INFO, &fault.info().to_le_bytes());
    out[own..].copy_from_slice(header);
    total
}

impl Builder {
    /// For the end whose `terms` these are.
    #[must_use]
    pub fn new(terms: Terms) -> Self {
        Self { terms }
    }

    /// CapsuleCmd up to its data, of which there may be none. Behind data comes [`Self::put_tail`].
    pub fn put_command(&self, command: &[u8; COMMAND_BYTES], data_bytes: u32, out: &mut [u8]) -> usize {
        put(out, at::CAPSULE, command);
        self.finish(PduType::CapsuleCmd, 0, data_bytes, out)
    }

    /// CapsuleResp, whole.
    pub fn put_completion(&self, completion: &[u8; COMPLETION_BYTES], out: &mut [u8]) -> usize {
        put(out, at::CAPSULE, completion);
        self.finish(PduType::CapsuleResp, 0, 0, out)
    }

    /// H2CData up to its data. Behind them comes [`Self::put_tail`].
    ///
    /// # Panics
    /// If there are no data, or they say that the command has succeeded, which a host cannot.
    pub fn put_data_to_target(&self, data: &DataPdu, out: &mut [u8]) -> usize {
        assert!(!data.success, "a host does not complete commands");
        self.put_data(PduType::H2cData, data, out)
    }

    /// C2HData up to its data. Behind them comes [`Self::put_tail`].
    ///
    /// # Panics
    /// If there are no data, or they say that the command has succeeded and are not the last.
    pub fn put_data_to_host(&self, data: &DataPdu, out: &mut [u8]) -> usize {
        assert!(data.last || !data.success, "a command succeeds with its last data");
        assert!(data.transfer_tag == 0, "data to a host answer no R2T");
        self.put_data(PduType::C2hData, data, out)
    }

    fn put_data(&self, kind: PduType, data: &DataPdu, out: &mut [u8]) -> usize {
        assert!(data.len_bytes > 0, "no PDU has no data");
        let last = if data.last { flag::LAST } else { 0 };
        let success = if data.success { flag::SUCCESS } else { 0 };
        put_transfer(data.command_id, data.transfer_tag, data.offset, data.len_bytes, out);
        self.finish(kind, last | success, data.len_bytes, out)
    }

    /// R2T, whole.
    ///
    /// # Panics
    /// If it asks for nothing.
    pub fn put_r2t(&self, r2t: &R2t, out: &mut [u8]) -> usize {
        assert!(r2t.len_bytes > 0, "no R2T asks for nothing");
        put_transfer(r2t.command_id, r2t.transfer_tag, r2t.offset, r2t.len_bytes, out);
        self.finish(PduType::R2t, 0, 0, out)
    }

    /// What comes behind data: their digest, if one was agreed on.
    pub fn put_tail(&self, crc: &Crc, out: &mut [u8]) -> usize {
        if !self.terms.data_digest {
            return 0;
        }
        put(out, 0, &crc.value().to_le_bytes());
        usize::from(DIGEST_BYTES)
    }

    /// Whether the digest of data is wanted.
    #[must_use]
    pub fn data_digest(&self) -> bool {
        self.terms.data_digest
    }

    /// The common header, the header's digest and the padding, when the fields are there.
    fn finish(&self, kind: PduType, flags: u8, data_bytes: u32, out: &mut [u8]) -> usize {
        let header = kind.header_bytes();
        let behind = header + self.terms.header_digest_bytes();
        let (data_offset, around, data_digest) = if data_bytes == 0 {
            (0, behind, 0)
        } else {
            let offset = self.terms.outgoing.data_offset(behind);
            (offset, offset + self.terms.data_digest_bytes(), if self.terms.data_digest { flag::DATA_DIGEST } else { 0 })
        };
        let header_digest = if self.terms.header_digest { flag::HEADER_DIGEST } else { 0 };
        let total = u32::from(around).checked_add(data_bytes).expect("a PDU's length fits 32 bits");
        put_common(kind, flags | header_digest | data_digest, data_offset, total, out);
        if self.terms.header_digest {
            let digest = Crc::of(&out[..usize::from(header)]);
            put(out, header, &digest.to_le_bytes());
        }
        let head_bytes = data_offset.max(behind);
        out[usize::from(behind)..usize::from(head_bytes)].fill(0);
        usize::from(head_bytes)
    }
}

fn put_common(kind: PduType, flags: u8, data_offset: u8, total: u32, out: &mut [u8]) {
    let [t0, t1, t2, t3] = total.to_le_bytes();
    let common: [u8; COMMON_BYTES] = [kind.code(), flags, kind.header_bytes(), data_offset, t0, t1, t2, t3];
    put(out, at::TYPE, &common);
}

/// The fields that H2CData, C2HData and R2T have alike.
fn put_transfer(command_id: u16, transfer_tag: u16, offset: u32, len_bytes: u32, out: &mut [u8]) {
    put(out, at::COMMAND_ID, &command_id.to_le_bytes());
    put(out, at::TRANSFER_TAG, &transfer_tag.to_le_bytes());
    put(out, at::OFFSET, &offset.to_le_bytes());
    put(out, at::LENGTH, &len_bytes.to_le_bytes());
    put(out, at::LENGTH + 4, &[0; 4]);
}

fn put(out: &mut [u8], field: u8, bytes: &[u8]) {
    out[usize::from(field)..][..bytes.len()].copy_from_slice(bytes);
}
