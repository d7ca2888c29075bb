//! PDUs that cannot be, of both directions, and what the receiver says of each.

use super::*;
use crate::tcp::PduType::{C2hData, C2hTermReq, CapsuleCmd, CapsuleResp, H2cData, H2cTermReq, IcReq, IcResp, R2t};
use crate::tcp::Role::{Host, Target};

/// How far the connection is when the PDU comes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum At {
    /// Nothing came yet.
    Opening,
    /// Agreed: no digests, no alignment.
    Plain,
    /// Agreed: digests of headers.
    Headers,
    /// Agreed: digests of data.
    Data,
    /// Agreed: data begin at multiples of 16 bytes.
    Aligned,
}

/// Type, flags, header length, data offset, total length.
type Common = (u8, u8, u8, u8, u32);
/// A field's offset and its bytes.
type Field = (usize, &'static [u8]);
/// What it is, who receives it when, its common header, its fields, what is wrong, and how a request to terminate tells it.
type Row = (&'static str, Role, At, Common, &'static [Field], Fault, (u16, u32));

const REQ: u8 = IcReq.code();
const RESP: u8 = IcResp.code();
const H2C_TERM: u8 = H2cTermReq.code();
const C2H_TERM: u8 = C2hTermReq.code();
const CMD: u8 = CapsuleCmd.code();
const DONE: u8 = CapsuleResp.code();
const H2C: u8 = H2cData.code();
const C2H: u8 = C2hData.code();
const READY: u8 = R2t.code();

/// Faults of the common header: told as soon as 8 bytes are there.
#[rustfmt::skip]
const COMMON: &[Row] = &[
    // Types that there are not, or that go the other way.
    ("type 8", Target, At::Plain, (8, 0, 24, 0, 24), &[], Fault::UnknownType { code: 8 }, (1, 0)),
    ("type 10, a key request", Target, At::Plain, (10, 0, 24, 0, 24), &[], Fault::UnknownType { code: 10 }, (1, 0)),
    ("type 255", Host, At::Plain, (255, 255, 255, 255, u32::MAX), &[], Fault::UnknownType { code: 255 }, (1, 0)),
    ("type 22 first of all, as of a TLS handshake", Target, At::Opening, (0x16, 3, 1, 0, 5), &[], Fault::UnknownType { code: 0x16 }, (1, 0)),
    ("type 71 first of all, as of a GET", Target, At::Opening, (b'G', b'E', b'T', b' ', 0x5448_202f), &[], Fault::UnknownType { code: b'G' }, (1, 0)),
    ("ICResp to a target", Target, At::Opening, (RESP, 0, 128, 0, 128), &[], Fault::WrongDirection { kind: IcResp }, (1, 0)),
    ("C2HTermReq to a target", Target, At::Plain, (C2H_TERM, 0, 24, 0, 24), &[], Fault::WrongDirection { kind: C2hTermReq }, (1, 0)),
    ("CapsuleResp to a target", Target, At::Plain, (DONE, 0, 24, 0, 24), &[], Fault::WrongDirection { kind: CapsuleResp }, (1, 0)),
    ("C2HData to a target", Target, At::Plain, (C2H, 4, 24, 24, 28), &[], Fault::WrongDirection { kind: C2hData }, (1, 0)),
    ("R2T to a target", Target, At::Plain, (READY, 0, 24, 0, 24), &[], Fault::WrongDirection { kind: R2t }, (1, 0)),
    ("ICReq to a host", Host, At::Opening, (REQ, 0, 128, 0, 128), &[], Fault::WrongDirection { kind: IcReq }, (1, 0)),
    ("H2CTermReq to a host", Host, At::Plain, (H2C_TERM, 0, 24, 0, 24), &[], Fault::WrongDirection { kind: H2cTermReq }, (1, 0)),
    ("CapsuleCmd to a host", Host, At::Plain, (CMD, 0, 72, 0, 72), &[], Fault::WrongDirection { kind: CapsuleCmd }, (1, 0)),
    ("H2CData to a host", Host, At::Plain, (H2C, 4, 24, 24, 28), &[], Fault::WrongDirection { kind: H2cData }, (1, 0)),

    // Types at the wrong time.
    ("CapsuleCmd before ICReq", Target, At::Opening, (CMD, 0, 72, 0, 72), &[], Fault::OutOfSequence { kind: CapsuleCmd }, (2, 0)),
    ("H2CData before ICReq", Target, At::Opening, (H2C, 4, 24, 24, 28), &[], Fault::OutOfSequence { kind: H2cData }, (2, 0)),
    ("H2CTermReq before ICReq", Target, At::Opening, (H2C_TERM, 0, 24, 0, 24), &[], Fault::OutOfSequence { kind: H2cTermReq }, (2, 0)),
    ("a second ICReq", Target, At::Plain, (REQ, 0, 128, 0, 128), &[], Fault::OutOfSequence { kind: IcReq }, (2, 0)),
    ("CapsuleResp before ICResp", Host, At::Opening, (DONE, 0, 24, 0, 24), &[], Fault::OutOfSequence { kind: CapsuleResp }, (2, 0)),
    ("C2HData before ICResp", Host, At::Opening, (C2H, 4, 24, 24, 28), &[], Fault::OutOfSequence { kind: C2hData }, (2, 0)),
    ("R2T before ICResp", Host, At::Opening, (READY, 0, 24, 0, 24), &[], Fault::OutOfSequence { kind: R2t }, (2, 0)),
    ("a second ICResp", Host, At::Plain, (RESP, 0, 128, 0, 128), &[], Fault::OutOfSequence { kind: IcResp }, (2, 0)),

    // Header lengths.
    ("ICReq with a header of 8", Target, At::Opening, (REQ, 0, 8, 0, 128), &[], Fault::HeaderLength { kind: IcReq, given: 8 }, (1, 2)),
    ("ICReq with a header of 0", Target, At::Opening, (REQ, 0, 0, 0, 128), &[], Fault::HeaderLength { kind: IcReq, given: 0 }, (1, 2)),
    ("ICResp with a header of 127", Host, At::Opening, (RESP, 0, 127, 0, 128), &[], Fault::HeaderLength { kind: IcResp, given: 127 }, (1, 2)),
    ("CapsuleCmd with a header of 71", Target, At::Plain, (CMD, 0, 71, 0, 72), &[], Fault::HeaderLength { kind: CapsuleCmd, given: 71 }, (1, 2)),
    ("CapsuleCmd with a header of 255", Target, At::Plain, (CMD, 0, 255, 0, 255), &[], Fault::HeaderLength { kind: CapsuleCmd, given: 255 }, (1, 2)),
    ("CapsuleCmd whose header counts its digest", Target, At::Headers, (CMD, 1, 76, 0, 76), &[], Fault::HeaderLength { kind: CapsuleCmd, given: 76 }, (1, 2)),
    ("H2CData with a header of 8", Target, At::Plain, (H2C, 4, 8, 8, 12), &[], Fault::HeaderLength { kind: H2cData, given: 8 }, (1, 2)),
    ("H2CTermReq with a header of 152", Target, At::Plain, (H2C_TERM, 0, 152, 0, 152), &[], Fault::HeaderLength { kind: H2cTermReq, given: 152 }, (1, 2)),
    ("C2HTermReq with a header of 23", Host, At::Opening, (C2H_TERM, 0, 23, 0, 24), &[], Fault::HeaderLength { kind: C2hTermReq, given: 23 }, (1, 2)),
    ("CapsuleResp with a header of 16", Host, At::Plain, (DONE, 0, 16, 0, 24), &[], Fault::HeaderLength { kind: CapsuleResp, given: 16 }, (1, 2)),
    ("C2HData with a header of 28", Host, At::Plain, (C2H, 4, 28, 28, 32), &[], Fault::HeaderLength { kind: C2hData, given: 28 }, (1, 2)),
    ("R2T with a header of 25", Host, At::Plain, (READY, 0, 25, 0, 25), &[], Fault::HeaderLength { kind: R2t, given: 25 }, (1, 2)),

    // Digest flags against the agreement.
    ("CapsuleCmd with a header digest, unasked", Target, At::Plain, (CMD, 1, 72, 0, 76), &[], Fault::HeaderDigestFlag { kind: CapsuleCmd, present: true }, (1, 1)),
    ("CapsuleCmd without its header digest", Target, At::Headers, (CMD, 0, 72, 0, 72), &[], Fault::HeaderDigestFlag { kind: CapsuleCmd, present: false }, (1, 1)),
    ("H2CData without its header digest", Target, At::Headers, (H2C, 4, 24, 24, 28), &[], Fault::HeaderDigestFlag { kind: H2cData, present: false }, (1, 1)),
    ("CapsuleResp without its header digest", Host, At::Headers, (DONE, 0, 24, 0, 24), &[], Fault::HeaderDigestFlag { kind: CapsuleResp, present: false }, (1, 1)),
    ("R2T with a header digest, unasked", Host, At::Plain, (READY, 1, 24, 0, 28), &[], Fault::HeaderDigestFlag { kind: R2t, present: true }, (1, 1)),
    ("C2HData with a header digest, unasked", Host, At::Data, (C2H, 7, 24, 28, 40), &[], Fault::HeaderDigestFlag { kind: C2hData, present: true }, (1, 1)),
    ("CapsuleCmd with a data digest, unasked, without data", Target, At::Plain, (CMD, 2, 72, 0, 72), &[], Fault::DataDigestFlag { kind: CapsuleCmd, present: true }, (1, 1)),
    ("CapsuleCmd with a data digest, unasked", Target, At::Plain, (CMD, 2, 72, 72, 80), &[], Fault::DataDigestFlag { kind: CapsuleCmd, present: true }, (1, 1)),
    ("CapsuleCmd without its data digest", Target, At::Data, (CMD, 0, 72, 72, 584), &[], Fault::DataDigestFlag { kind: CapsuleCmd, present: false }, (1, 1)),
    ("H2CData without its data digest", Target, At::Data, (H2C, 4, 24, 24, 536), &[], Fault::DataDigestFlag { kind: H2cData, present: false }, (1, 1)),
    ("C2HData with a data digest, unasked", Host, At::Plain, (C2H, 6, 24, 24, 540), &[], Fault::DataDigestFlag { kind: C2hData, present: true }, (1, 1)),
];

/// Faults of the lengths and offsets of the common header: told as soon as 8 bytes are there, too.
#[rustfmt::skip]
const LENGTHS: &[Row] = &[
    // Where data begin.
    ("data within the header of a CapsuleCmd", Target, At::Plain, (CMD, 0, 72, 68, 584), &[], Fault::DataOffset { kind: CapsuleCmd, given: 68 }, (1, 3)),
    ("data of a CapsuleCmd at 0", Target, At::Plain, (CMD, 0, 72, 0, 584), &[], Fault::DataOffset { kind: CapsuleCmd, given: 0 }, (1, 3)),
    ("data within the header's digest", Target, At::Headers, (CMD, 1, 72, 72, 588), &[], Fault::DataOffset { kind: CapsuleCmd, given: 72 }, (1, 3)),
    ("data at an odd byte", Target, At::Plain, (H2C, 4, 24, 25, 537), &[], Fault::DataOffset { kind: H2cData, given: 25 }, (1, 3)),
    ("data within the header of an H2CData", Target, At::Plain, (H2C, 4, 24, 20, 532), &[], Fault::DataOffset { kind: H2cData, given: 20 }, (1, 3)),
    ("data of an H2CData that are not aligned as agreed", Target, At::Aligned, (H2C, 4, 24, 24, 536), &[], Fault::DataOffset { kind: H2cData, given: 24 }, (1, 3)),
    ("data of a C2HData that are not aligned as agreed", Host, At::Aligned, (C2H, 4, 24, 28, 540), &[], Fault::DataOffset { kind: C2hData, given: 28 }, (1, 3)),
    ("data of a C2HData at 0", Host, At::Plain, (C2H, 4, 24, 0, 536), &[], Fault::DataOffset { kind: C2hData, given: 0 }, (1, 3)),

    // How long the whole is.
    ("ICReq of no bytes", Target, At::Opening, (REQ, 0, 128, 0, 0), &[], Fault::TotalLength { kind: IcReq, given: 0 }, (1, 4)),
    ("ICReq of 129 bytes", Target, At::Opening, (REQ, 0, 128, 0, 129), &[], Fault::TotalLength { kind: IcReq, given: 129 }, (1, 4)),
    ("ICReq of 384 bytes, whose low byte is right", Target, At::Opening, (REQ, 0, 128, 0, 384), &[], Fault::TotalLength { kind: IcReq, given: 384 }, (1, 4)),
    ("ICResp of 127 bytes", Host, At::Opening, (RESP, 0, 128, 0, 127), &[], Fault::TotalLength { kind: IcResp, given: 127 }, (1, 4)),
    ("H2CTermReq of 23 bytes", Target, At::Plain, (H2C_TERM, 0, 24, 0, 23), &[], Fault::TotalLength { kind: H2cTermReq, given: 23 }, (1, 4)),
    ("H2CTermReq of 153 bytes", Target, At::Plain, (H2C_TERM, 0, 24, 0, 153), &[], Fault::TotalLength { kind: H2cTermReq, given: 153 }, (1, 4)),
    ("C2HTermReq of 4 GiB", Host, At::Plain, (C2H_TERM, 0, 24, 0, u32::MAX), &[], Fault::TotalLength { kind: C2hTermReq, given: u32::MAX }, (1, 4)),
    ("CapsuleCmd of no bytes", Target, At::Plain, (CMD, 0, 72, 0, 0), &[], Fault::TotalLength { kind: CapsuleCmd, given: 0 }, (1, 4)),
    ("CapsuleCmd of less than its header", Target, At::Plain, (CMD, 0, 72, 72, 71), &[], Fault::TotalLength { kind: CapsuleCmd, given: 71 }, (1, 4)),
    ("CapsuleCmd without room for the header's digest", Target, At::Headers, (CMD, 1, 72, 0, 72), &[], Fault::TotalLength { kind: CapsuleCmd, given: 72 }, (1, 4)),
    ("CapsuleCmd that ends before its data", Target, At::Plain, (CMD, 0, 72, 128, 100), &[], Fault::TotalLength { kind: CapsuleCmd, given: 100 }, (1, 4)),
    ("CapsuleCmd that ends where its data begin", Target, At::Plain, (CMD, 0, 72, 128, 128), &[], Fault::TotalLength { kind: CapsuleCmd, given: 128 }, (1, 4)),
    ("CapsuleCmd with a digest of no data", Target, At::Data, (CMD, 2, 72, 72, 76), &[], Fault::TotalLength { kind: CapsuleCmd, given: 76 }, (1, 4)),
    ("H2CData without data", Target, At::Plain, (H2C, 4, 24, 24, 24), &[], Fault::TotalLength { kind: H2cData, given: 24 }, (1, 4)),
    ("H2CData of which only a digest comes", Target, At::Data, (H2C, 6, 24, 24, 28), &[], Fault::TotalLength { kind: H2cData, given: 28 }, (1, 4)),
    ("H2CData that ends within its digest", Target, At::Data, (H2C, 6, 24, 24, 26), &[], Fault::TotalLength { kind: H2cData, given: 26 }, (1, 4)),
    ("CapsuleResp with data", Host, At::Plain, (DONE, 0, 24, 24, 28), &[], Fault::TotalLength { kind: CapsuleResp, given: 28 }, (1, 4)),
    ("CapsuleResp without room for the header's digest", Host, At::Headers, (DONE, 1, 24, 0, 24), &[], Fault::TotalLength { kind: CapsuleResp, given: 24 }, (1, 4)),
    ("R2T of 23 bytes", Host, At::Plain, (READY, 0, 24, 0, 23), &[], Fault::TotalLength { kind: R2t, given: 23 }, (1, 4)),
    ("C2HData without data", Host, At::Plain, (C2H, 12, 24, 24, 24), &[], Fault::TotalLength { kind: C2hData, given: 24 }, (1, 4)),
    ("C2HData of less than its header", Host, At::Plain, (C2H, 4, 24, 24, 8), &[], Fault::TotalLength { kind: C2hData, given: 8 }, (1, 4)),

    // More than is taken.
    ("one byte more than a command may bring", Target, At::Plain, (CMD, 0, 72, 72, 72 + 8193), &[], Fault::CapsuleTooLong { given: 8193, most: 8192 }, (1, 4)),
    ("a command of 4 GiB", Target, At::Plain, (CMD, 0, 72, 72, u32::MAX), &[], Fault::CapsuleTooLong { given: u32::MAX - 72, most: 8192 }, (1, 4)),
    ("one byte more than an H2CData may bring", Target, At::Plain, (H2C, 4, 24, 24, 24 + 65537), &[], Fault::DataTooLong { given: 65537, most: 65536 }, (5, 0)),
    ("an H2CData of 4 GiB", Target, At::Data, (H2C, 6, 24, 24, u32::MAX), &[], Fault::DataTooLong { given: u32::MAX - 28, most: 65536 }, (5, 0)),
    ("one byte more than any command of the host wants", Host, At::Plain, (C2H, 4, 24, 24, 24 + 65537), &[], Fault::OutOfRange { kind: C2hData, offset: 0, len_bytes: 65537 }, (4, 0)),
];

/// Faults of the fields behind the common header: told when the header is whole.
#[rustfmt::skip]
const FIELDS: &[Row] = &[
    ("version 1 of a host", Target, At::Opening, (REQ, 0, 128, 0, 128), &[(8, &[1, 0])], Fault::Version { given: 1 }, (6, 8)),
    ("version 256 of a controller", Host, At::Opening, (RESP, 0, 128, 0, 128), &[(9, &[1]), (13, &[16])], Fault::Version { given: 256 }, (6, 8)),
    ("alignment 32 of a host", Target, At::Opening, (REQ, 0, 128, 0, 128), &[(10, &[32])], Fault::Alignment { given: 32 }, (1, 10)),
    ("alignment 255 of a controller", Host, At::Opening, (RESP, 0, 128, 0, 128), &[(10, &[255]), (13, &[16])], Fault::Alignment { given: 255 }, (1, 10)),
    ("a controller that takes no data", Host, At::Opening, (RESP, 0, 128, 0, 128), &[], Fault::DataLimit { given: 0 }, (1, 12)),
    ("a controller that takes too little", Host, At::Opening, (RESP, 0, 128, 0, 128), &[(12, &[0xfc, 0x0f])], Fault::DataLimit { given: 4092 }, (1, 12)),
    ("a controller that takes odd bytes", Host, At::Opening, (RESP, 0, 128, 0, 128), &[(12, &[2, 16])], Fault::DataLimit { given: 4098 }, (1, 12)),
    ("a CapsuleCmd with a wrong header digest", Target, At::Headers, (CMD, 1, 72, 0, 76), &[(72, &[1, 2, 3, 4])], Fault::HeaderDigest { kind: CapsuleCmd, received: 0x0403_0201, computed: 0 }, (3, 0x0403_0201)),
    ("an H2CData with a wrong header digest, whose length is wrong too", Target, At::Headers, (H2C, 5, 24, 28, 540), &[], Fault::HeaderDigest { kind: H2cData, received: 0, computed: 0 }, (3, 0)),
    ("a CapsuleResp with a wrong header digest", Host, At::Headers, (DONE, 1, 24, 0, 28), &[], Fault::HeaderDigest { kind: CapsuleResp, received: 0, computed: 0 }, (3, 0)),
    ("an R2T with a wrong header digest", Host, At::Headers, (READY, 1, 24, 0, 28), &[(24, &[9])], Fault::HeaderDigest { kind: R2t, received: 9, computed: 0 }, (3, 9)),
    ("H2CData that say fewer bytes than they bring", Target, At::Plain, (H2C, 4, 24, 24, 536), &[(17, &[1])], Fault::DataLength { kind: H2cData, given: 256, held: 512 }, (1, 16)),
    ("H2CData that say more bytes than they bring", Target, At::Plain, (H2C, 4, 24, 24, 536), &[(16, &[255; 4])], Fault::DataLength { kind: H2cData, given: u32::MAX, held: 512 }, (1, 16)),
    ("H2CData that count their padding", Target, At::Plain, (H2C, 4, 24, 32, 544), &[(16, &[8, 2])], Fault::DataLength { kind: H2cData, given: 520, held: 512 }, (1, 16)),
    ("H2CData that count their digest", Target, At::Data, (H2C, 6, 24, 24, 540), &[(16, &[4, 2])], Fault::DataLength { kind: H2cData, given: 516, held: 512 }, (1, 16)),
    ("H2CData of no bytes that bring some", Target, At::Plain, (H2C, 4, 24, 24, 28), &[], Fault::DataLength { kind: H2cData, given: 0, held: 4 }, (1, 16)),
    ("H2CData whose end cannot be counted", Target, At::Plain, (H2C, 4, 24, 24, 536), &[(12, &[0, 0xfe, 0xff, 0xff, 0, 2])], Fault::OutOfRange { kind: H2cData, offset: 0xffff_fe00, len_bytes: 512 }, (4, 0)),
    ("C2HData that say fewer bytes than they bring", Host, At::Plain, (C2H, 4, 24, 24, 536), &[(17, &[1])], Fault::DataLength { kind: C2hData, given: 256, held: 512 }, (1, 16)),
    ("C2HData whose end cannot be counted", Host, At::Plain, (C2H, 4, 24, 24, 536), &[(12, &[255, 255, 255, 255, 0, 2])], Fault::OutOfRange { kind: C2hData, offset: u32::MAX, len_bytes: 512 }, (4, 0)),
    ("success before the last data", Host, At::Plain, (C2H, 8, 24, 24, 536), &[(17, &[2])], Fault::SuccessBeforeLast, (1, 1)),
    ("an R2T for nothing", Host, At::Plain, (READY, 0, 24, 0, 24), &[], Fault::EmptyR2t, (1, 16)),
    ("an R2T whose end cannot be counted", Host, At::Plain, (READY, 0, 24, 0, 24), &[(12, &[255, 255, 255, 255, 1])], Fault::OutOfRange { kind: R2t, offset: u32::MAX, len_bytes: 1 }, (4, 0)),
];

fn receiver(role: Role, at: At) -> Receiver {
    let terms = Terms::default();
    let terms = match at {
        At::Opening => return Receiver::new(role, LIMITS),
        At::Plain => terms,
        At::Headers => Terms { header_digest: true, ..terms },
        At::Data => Terms { data_digest: true, ..terms },
        At::Aligned => Terms { incoming: Alignment::of(3).expect("small"), ..terms },
    };
    running(role, terms)
}

/// The bytes of a row: all that it says it has, if that is not too much.
fn bytes(common: Common, fields: &[Field]) -> Vec<u8> {
    let (code, flags, header, offset, total) = common;
    let mut bytes = vec![0; usize::try_from(total.clamp(8, 1024)).expect("a small number")];
    bytes[..4].copy_from_slice(&[code, flags, header, offset]);
    bytes[4..8].copy_from_slice(&total.to_le_bytes());
    for (at, field) in fields {
        bytes[*at..*at + field.len()].copy_from_slice(field);
    }
    bytes
}

/// The digests of the table's headers are not written out there: only those that came are.
fn without_computed(fault: Fault) -> Fault {
    match fault {
        Fault::HeaderDigest { kind, received, .. } => Fault::HeaderDigest { kind, received, computed: 0 },
        fault => fault,
    }
}

/// What a receiver says of a row when it has come in pieces of so many bytes.
fn said((claim, role, at, common, fields, ..): &Row, come: usize, cut: usize) -> Option<Fault> {
    let bytes = bytes(*common, fields);
    let mut receiver = receiver(*role, *at);
    let (seen, fault) = drive(&mut receiver, bytes[..come.min(bytes.len())].chunks(cut));
    assert_eq!(seen, [], "{claim}: nothing of it is told");
    if let Some(fault) = fault {
        assert_eq!(receiver.next(&[0; 99]), Err(fault), "{claim}: it stays so");
        assert_eq!(receiver.header(), &bytes[..receiver.header().len()], "{claim}: its header can be sent back");
        assert!(receiver.header().len() >= 8, "{claim}: its header can be sent back");
    }
    fault.map(without_computed)
}

fn check_table(table: &[Row], told_after: impl Fn(&Row) -> usize) {
    for row in table {
        let (claim, .., fault, (status, info)) = row;
        let expected = Some(without_computed(*fault));
        let enough = told_after(row);
        for cut in [1, 7, 8, 9, usize::MAX] {
            assert_eq!(said(row, usize::MAX, cut), expected, "{claim}, cut at {cut}");
            assert_eq!(said(row, enough, cut), expected, "{claim}, cut at {cut}: {enough} bytes are enough");
            assert_eq!(said(row, enough - 1, cut), None, "{claim}, cut at {cut}: {enough} bytes are needed");
        }
        assert_eq!((fault.status().code(), fault.info()), (*status, *info), "{claim}");
        assert!(!fault.to_string().is_empty());
    }
}

#[test]
fn nothing_behind_the_common_header_is_read_before_it_is_in_order() {
    check_table(COMMON, |_| 8);
    check_table(LENGTHS, |_| 8);
}

#[test]
fn fields_that_cannot_be_are_told_when_the_header_is_whole() {
    check_table(FIELDS, |(_, _, at, (_, _, header, ..), ..)| usize::from(*header) + if *at == At::Headers { 4 } else { 0 });
}

#[test]
fn the_table_is_long_enough_and_says_nothing_twice() {
    let rows: Vec<&Row> = [COMMON, LENGTHS, FIELDS].into_iter().flatten().collect();
    assert!(rows.len() >= 80, "{} rows", rows.len());
    let mut claims: Vec<&str> = rows.iter().map(|row| row.0).collect();
    claims.sort_unstable();
    claims.dedup();
    assert_eq!(claims.len(), rows.len());
}

#[test]
fn what_is_reserved_is_not_looked_at() {
    for (role, at, common, fields) in [
        (Target, At::Opening, (REQ, 0xff, 128, 0xff, 128), &[(11, &[0xfc][..]), (16, &[0xff; 112])][..]),
        (Target, At::Plain, (H2C_TERM, 0xff, 24, 0xff, 24), &[(8, &[0xff; 16])]),
        (Host, At::Plain, (DONE, 0xfe, 24, 0xff, 24), &[]),
        (Host, At::Plain, (READY, 0xfe, 24, 0xff, 24), &[(16, &[1]), (20, &[0xff; 4])]),
        (Target, At::Plain, (CMD, 0xfc, 72, 0xff, 72), &[]),
        (Target, At::Data, (CMD, 2, 72, 0xff, 72), &[]),
        (Target, At::Plain, (H2C, 0xfc, 24, 24, 28), &[(16, &[4]), (20, &[0xff; 4])]),
        (Host, At::Plain, (C2H, 0xf4, 24, 24, 28), &[(10, &[0xff; 2]), (16, &[4]), (20, &[0xff; 4])]),
        // More padding than is needed is padding.
        (Target, At::Plain, (H2C, 4, 24, 252, 256), &[(16, &[4])]),
        (Host, At::Aligned, (C2H, 4, 24, 48, 52), &[(16, &[4])]),
    ] {
        let bytes = bytes(common, fields);
        let (seen, fault) = drive(&mut receiver(role, at), [&bytes[..]]);
        assert_eq!(fault, None, "{common:?}");
        assert!(!seen.is_empty());
    }
}

#[test]
fn an_io_queue_takes_less_with_a_command_than_an_admin_queue() {
    let bytes = bytes((CMD, 0, 72, 72, 584), &[]);
    let mut receiver = receiver(Target, At::Plain);
    let (seen, fault) = drive(&mut receiver, [&bytes[..]]);
    assert_eq!((seen.len(), fault), (3, None));
    receiver.limit(Limits { capsule_data_bytes_max: 511, ..LIMITS });
    assert_eq!(drive(&mut receiver, [&bytes[..]]).1, Some(Fault::CapsuleTooLong { given: 512, most: 511 }));
}
