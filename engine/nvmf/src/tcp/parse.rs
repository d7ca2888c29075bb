//! From a header that came whole, and whose lengths were checked, to its fields. Knows no stream.

use super::fault::Fault;
use super::pdu::{Alignment, DATA_BYTES_MAX_LEAST, HEAD_BYTES_MAX, PduType, at, flag};
use super::value::{DataPdu, IcReq, IcResp, Pdu, R2t, Terminate};

/// A header of one PDU. Longer than the longest, so that every field of every kind lies within.
pub(super) type Head = [u8; HEAD_BYTES_MAX];

fn u16_at(head: &Head, field: u8) -> u16 {
    let [low, high] = bytes_at(head, field);
    u16::from_le_bytes([low, high])
}

fn u32_at(head: &Head, field: u8) -> u32 {
    u32::from_le_bytes(bytes_at(head, field))
}

fn bytes_at<const N: usize>(head: &Head, field: u8) -> [u8; N] {
    let first = usize::from(field);
    head[first..first + N].try_into().expect("the slice is as long as the array")
}

/// The fields of a header of `kind`, with `data_bytes` bytes of data behind it; of a request to terminate `total` bytes are in
/// `head`, its data with them.
pub(super) fn parse(kind: PduType, head: &Head, data_bytes: u32, total: usize) -> Result<Pdu, Fault> {
    Ok(match kind {
        PduType::IcReq => Pdu::IcReq(parse_request(head)?),
        PduType::IcResp => Pdu::IcResp(parse_response(head)?),
        PduType::H2cTermReq | PduType::C2hTermReq => {
            let data = usize::from(kind.header_bytes());
            Pdu::Terminate(Terminate {
                status: u16_at(head, at::FATAL_STATUS),
                info: u32_at(head, at::FATAL_INFO),
                offender: (total > data).then(|| head[data]),
            })
        }
        PduType::CapsuleCmd => Pdu::CapsuleCmd { command: bytes_at(head, at::CAPSULE), data_bytes },
        PduType::CapsuleResp => Pdu::CapsuleResp { completion: bytes_at(head, at::CAPSULE) },
        PduType::H2cData => Pdu::H2cData(parse_data(kind, head, data_bytes)?),
        PduType::C2hData => Pdu::C2hData(parse_data(kind, head, data_bytes)?),
        PduType::R2t => Pdu::R2t(parse_r2t(head)?),
    })
}

fn parse_request(head: &Head) -> Result<IcReq, Fault> {
    let (alignment, digests) = parse_setup(head)?;
    Ok(IcReq {
        alignment,
        header_digest: digests & flag::ASK_HEADER_DIGEST != 0,
        data_digest: digests & flag::ASK_DATA_DIGEST != 0,
        r2ts_max_less_one: u32_at(head, at::LIMIT),
    })
}

fn parse_response(head: &Head) -> Result<IcResp, Fault> {
    let (alignment, digests) = parse_setup(head)?;
    let data_bytes_max = u32_at(head, at::LIMIT);
    if data_bytes_max < DATA_BYTES_MAX_LEAST || !data_bytes_max.is_multiple_of(4) {
        return Err(Fault::DataLimit { given: data_bytes_max });
    }
    Ok(IcResp {
        alignment,
        header_digest: digests & flag::ASK_HEADER_DIGEST != 0,
        data_digest: digests & flag::ASK_DATA_DIGEST != 0,
        data_bytes_max,
    })
}

/// What both PDUs that set up a connection have: the alignment, and the bits of the digests.
fn parse_setup(head: &Head) -> Result<(Alignment, u8), Fault> {
    let version = u16_at(head, at::VERSION);
    if version != 0 {
        return Err(Fault::Version { given: version });
    }
    let [alignment] = bytes_at(head, at::ALIGNMENT);
    let [digests] = bytes_at(head, at::DIGESTS);
    let alignment = Alignment::of(alignment).ok_or(Fault::Alignment { given: alignment })?;
    Ok((alignment, digests))
}

fn parse_data(kind: PduType, head: &Head, held: u32) -> Result<DataPdu, Fault> {
    let [flags] = bytes_at(head, at::FLAGS);
    let to_host = kind == PduType::C2hData;
    let (last, success) = (flags & flag::LAST != 0, to_host && flags & flag::SUCCESS != 0);
    if success && !last {
        return Err(Fault::SuccessBeforeLast);
    }
    let (offset, len_bytes) = (u32_at(head, at::OFFSET), u32_at(head, at::LENGTH));
    if len_bytes != held {
        return Err(Fault::DataLength { kind, given: len_bytes, held });
    }
    if offset.checked_add(len_bytes).is_none() {
        return Err(Fault::OutOfRange { kind, offset, len_bytes });
    }
    Ok(DataPdu {
        command_id: u16_at(head, at::COMMAND_ID),
        transfer_tag: if to_host { 0 } else { u16_at(head, at::TRANSFER_TAG) },
        offset,
        len_bytes,
        last,
        success,
    })
}

fn parse_r2t(head: &Head) -> Result<R2t, Fault> {
    let (offset, len_bytes) = (u32_at(head, at::OFFSET), u32_at(head, at::LENGTH));
    if len_bytes == 0 {
        return Err(Fault::EmptyR2t);
    }
    if offset.checked_add(len_bytes).is_none() {
        return Err(Fault::OutOfRange { kind: PduType::R2t, offset, len_bytes });
    }
    Ok(R2t { command_id: u16_at(head, at::COMMAND_ID), transfer_tag: u16_at(head, at::TRANSFER_TAG), offset, len_bytes })
}
