//! The first 8 bytes of a PDU against what may come: nothing behind them is read before they are believed. Knows no stream.

use super::fault::Fault;
use super::pdu::{COMMON_BYTES, PduType, Role, SETUP_BYTES, TERMINATE_BYTES_MAX, flag};
use super::receiver::Limits;
use super::value::Terms;

/// How far the connection is, as far as it decides what may come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Phase {
    /// Nothing came yet.
    Opening,
    /// Both ends have agreed.
    Running,
}

/// How a PDU is laid out whose common header is in order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Layout {
    pub(super) kind: PduType,
    /// What is read before the fields are looked at: the header and its digest, or all of a request to terminate.
    pub(super) head_bytes: u8,
    pub(super) header_digest: bool,
    pub(super) padding_bytes: u8,
    /// Zero if there are none, and then neither padding nor a digest of data.
    pub(super) data_bytes: u32,
    pub(super) data_digest: bool,
}

/// Looks at a common header.
pub(super) fn check(common: [u8; COMMON_BYTES], role: Role, phase: Phase, terms: &Terms, limits: &Limits) -> Result<Layout, Fault> {
    let [code, flags, header_bytes, data_offset, total @ ..] = common;
    let total = u32::from_le_bytes(total);
    let kind = PduType::of(code).ok_or(Fault::UnknownType { code })?;
    if kind.receiver() != role {
        return Err(Fault::WrongDirection { kind });
    }
    if !expected(kind, phase) {
        return Err(Fault::OutOfSequence { kind });
    }
    if header_bytes != kind.header_bytes() {
        return Err(Fault::HeaderLength { kind, given: header_bytes });
    }
    match kind {
        PduType::IcReq | PduType::IcResp | PduType::H2cTermReq | PduType::C2hTermReq => check_bare(kind, total),
        PduType::CapsuleResp | PduType::R2t => {
            check_header_digest(kind, flags, terms)?;
            let layout = without_data(kind, terms);
            if total != u32::from(layout.head_bytes) {
                return Err(Fault::TotalLength { kind, given: total });
            }
            Ok(layout)
        }
        PduType::CapsuleCmd | PduType::H2cData | PduType::C2hData => {
            check_header_digest(kind, flags, terms)?;
            let layout = without_data(kind, terms);
            if kind == PduType::CapsuleCmd && total == u32::from(layout.head_bytes) {
                // The flag may stand without data; the digest cannot.
                if flags & flag::DATA_DIGEST != 0 && !terms.data_digest {
                    return Err(Fault::DataDigestFlag { kind, present: true });
                }
                return Ok(layout);
            }
            with_data(layout, flags, data_offset, total, terms, limits)
        }
    }
}

fn expected(kind: PduType, phase: Phase) -> bool {
    let sets_up = matches!(kind, PduType::IcReq | PduType::IcResp);
    match phase {
        // A controller may refuse to set up, and says so; a host has nothing to complain of yet.
        Phase::Opening => sets_up || kind == PduType::C2hTermReq,
        Phase::Running => !sets_up,
    }
}

/// PDUs that never have digests: their flags and their data offset are reserved.
fn check_bare(kind: PduType, total: u32) -> Result<Layout, Fault> {
    let (least, most) = match kind {
        PduType::IcReq | PduType::IcResp => (SETUP_BYTES, SETUP_BYTES),
        _ => (usize::from(kind.header_bytes()), TERMINATE_BYTES_MAX),
    };
    let head_bytes = u8::try_from(total).ok().filter(|total| (least..=most).contains(&usize::from(*total)));
    let head_bytes = head_bytes.ok_or(Fault::TotalLength { kind, given: total })?;
    Ok(Layout { kind, head_bytes, header_digest: false, padding_bytes: 0, data_bytes: 0, data_digest: false })
}

fn check_header_digest(kind: PduType, flags: u8, terms: &Terms) -> Result<(), Fault> {
    let present = flags & flag::HEADER_DIGEST != 0;
    if present == terms.header_digest { Ok(()) } else { Err(Fault::HeaderDigestFlag { kind, present }) }
}

fn without_data(kind: PduType, terms: &Terms) -> Layout {
    Layout {
        kind,
        head_bytes: kind.header_bytes() + terms.header_digest_bytes(),
        header_digest: terms.header_digest,
        padding_bytes: 0,
        data_bytes: 0,
        data_digest: false,
    }
}

fn with_data(layout: Layout, flags: u8, data_offset: u8, total: u32, terms: &Terms, limits: &Limits) -> Result<Layout, Fault> {
    let Layout { kind, head_bytes, .. } = layout;
    if total <= u32::from(head_bytes) {
        return Err(Fault::TotalLength { kind, given: total });
    }
    let padding_bytes = data_offset.checked_sub(head_bytes);
    let Some(padding_bytes) = padding_bytes.filter(|_| data_offset.is_multiple_of(terms.incoming.bytes())) else {
        return Err(Fault::DataOffset { kind, given: data_offset });
    };
    let data_digest = flags & flag::DATA_DIGEST != 0;
    if data_digest != terms.data_digest {
        return Err(Fault::DataDigestFlag { kind, present: data_digest });
    }
    let around = u32::from(data_offset) + u32::from(terms.data_digest_bytes());
    let Some(data_bytes) = total.checked_sub(around).filter(|data| *data > 0) else {
        return Err(Fault::TotalLength { kind, given: total });
    };
    let layout = Layout { padding_bytes, data_bytes, data_digest, ..layout };
    let most = if kind == PduType::CapsuleCmd { limits.capsule_data_bytes_max } else { limits.data_bytes_max };
    if data_bytes <= most {
        return Ok(layout);
    }
    Err(match kind {
        PduType::CapsuleCmd => Fault::CapsuleTooLong { given: data_bytes, most },
        PduType::H2cData => Fault::DataTooLong { given: data_bytes, most },
        // The limit of a host is its largest transfer: nobody asked for so much.
        _ => Fault::OutOfRange { kind, offset: 0, len_bytes: data_bytes },
    })
}
