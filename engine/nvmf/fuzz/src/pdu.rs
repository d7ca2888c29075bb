//! Arbitrary bytes against the receiver of PDUs, and arbitrary PDUs through the builder and back.
//!
//! The first byte's highest bit says which. Bytes go to a receiver of either role, in one piece and cut, and must come to the
//! same. PDUs are built as two ends have agreed on, and received from pieces as what they were.
#![no_main]

use libfuzzer_sys::arbitrary::{Result, Unstructured};
use spinel_nvmf::tcp::build::put_request;
use spinel_nvmf::tcp::exercise::exercise;
use spinel_nvmf::tcp::pdu::HEAD_BYTES_MAX;
use spinel_nvmf::tcp::{Alignment, Builder, Carrier, Crc, DataPdu, Event, IcReq, IcResp, Limits, Pdu, R2t, Receiver, Role, Terms, Verdict};

/// The most data of one PDU here, and the most PDUs: so few that thousands of inputs take a second.
const DATA_BYTES_MAX: u32 = 4096;
const PDUS_MAX: usize = 8;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    if input.first().is_some_and(|first| first & 0x80 != 0) {
        let _ = round(&mut Unstructured::new(&input[1..]));
    } else {
        let _ = exercise(input);
    }
});

/// A PDU that was sent, its data with it.
#[derive(Debug)]
struct Sent {
    pdu: Pdu,
    data: Vec<u8>,
    spoilt: bool,
}

/// Builds PDUs, and receives them.
fn round(u: &mut Unstructured<'_>) -> Result<()> {
    let alignment = |u: &mut Unstructured<'_>| Ok(Alignment::of(u.int_in_range(0..=Alignment::FIELD_MAX)?).unwrap_or_default());
    let asked =
        IcReq { alignment: alignment(u)?, header_digest: u.arbitrary()?, data_digest: u.arbitrary()?, r2ts_max_less_one: u.arbitrary()? };
    let answered = IcResp {
        alignment: alignment(u)?,
        header_digest: asked.header_digest,
        data_digest: asked.data_digest,
        data_bytes_max: DATA_BYTES_MAX,
    };
    let to_target: bool = u.arbitrary()?;
    let at_host = Terms::of_host(&asked, &answered).expect("both digests were asked for");
    let at_target = Terms::of_target(&asked, &answered);
    let (role, here, there) = if to_target { (Role::Target, at_target, at_host) } else { (Role::Host, at_host, at_target) };
    let limits = Limits { capsule_data_bytes_max: DATA_BYTES_MAX, data_bytes_max: DATA_BYTES_MAX };
    let mut receiver = Receiver::new(role, limits);
    open(&mut receiver, role, &asked, &answered, here);
    let builder = Builder::new(there);
    let (mut all, mut sent) = (Vec::new(), Vec::new());
    while !u.is_empty() && sent.len() < PDUS_MAX {
        sent.push(build(u, &builder, to_target, &mut all)?);
    }
    let cut = usize::from(u.arbitrary::<u16>()?).max(1);
    receive(&mut receiver, &all, cut, &sent, asked.data_digest);
    Ok(())
}

fn open(receiver: &mut Receiver, role: Role, asked: &IcReq, answered: &IcResp, terms: Terms) {
    let mut bytes = [0; HEAD_BYTES_MAX];
    let len = match role {
        Role::Target => put_request(asked, &mut bytes),
        Role::Host => spinel_nvmf::tcp::build::put_response(answered, &mut bytes),
    };
    let step = receiver.next(&bytes[..len]).expect("a connection is set up");
    match step.event {
        Some(Event::Header(Pdu::IcReq(seen))) => assert_eq!(seen, *asked),
        Some(Event::Header(Pdu::IcResp(seen))) => assert_eq!(seen, *answered),
        other => panic!("{other:?}"),
    }
    receiver.agree(terms);
}

fn build(u: &mut Unstructured<'_>, builder: &Builder, to_target: bool, all: &mut Vec<u8>) -> Result<Sent> {
    let mut head = [0; HEAD_BYTES_MAX];
    let len_bytes = if u.ratio(1, 32)? { u.int_in_range(1..=DATA_BYTES_MAX)? } else { u.int_in_range(1..=150)? };
    let (command_id, offset, last) = (u.arbitrary()?, u.int_in_range(0..=u32::MAX - DATA_BYTES_MAX)?, u.arbitrary()?);
    let (pdu, len, data_bytes) = match (to_target, u.int_in_range(0..=2)?) {
        (true, 0) => {
            let command = u.arbitrary()?;
            let data_bytes = if last { len_bytes } else { 0 };
            (Pdu::CapsuleCmd { command, data_bytes }, builder.put_command(&command, data_bytes, &mut head), data_bytes)
        }
        (true, _) => {
            let data = DataPdu { command_id, transfer_tag: u.arbitrary()?, offset, len_bytes, last, success: false };
            (Pdu::H2cData(data), builder.put_data_to_target(&data, &mut head), len_bytes)
        }
        (false, 0) => {
            let completion = u.arbitrary()?;
            (Pdu::CapsuleResp { completion }, builder.put_completion(&completion, &mut head), 0)
        }
        (false, 1) => {
            let r2t = R2t { command_id, transfer_tag: u.arbitrary()?, offset, len_bytes };
            (Pdu::R2t(r2t), builder.put_r2t(&r2t, &mut head), 0)
        }
        (false, _) => {
            let data = DataPdu { command_id, transfer_tag: 0, offset, len_bytes, last, success: last && u.arbitrary()? };
            (Pdu::C2hData(data), builder.put_data_to_host(&data, &mut head), len_bytes)
        }
    };
    let fill: u8 = u.arbitrary()?;
    let mut data: Vec<u8> = (0..data_bytes).map(|at| fill.wrapping_add(at.to_le_bytes()[0])).collect();
    all.extend_from_slice(&head[..len]);
    let at = all.len();
    all.extend_from_slice(&data);
    let mut spoilt = false;
    if data_bytes > 0 {
        let mut crc = Crc::default();
        crc.update(&data);
        let mut tail = [0; 4];
        let tail_len = builder.put_tail(&crc, &mut tail);
        all.extend_from_slice(&tail[..tail_len]);
        spoilt = u.ratio(1, 8)?;
        if spoilt {
            let which = usize::from(u.arbitrary::<u16>()?) % data.len();
            let bit = 1 << u.int_in_range(0..=7)?;
            data[which] ^= bit;
            all[at + which] ^= bit;
        }
    }
    Ok(Sent { pdu, data, spoilt })
}

fn receive(receiver: &mut Receiver, all: &[u8], cut: usize, sent: &[Sent], digests: bool) {
    let (mut next, mut have) = (0, Vec::new());
    let mut end = |of: Option<Carrier>, have: &mut Vec<u8>, verdict: Verdict| {
        let expected: &Sent = &sent[next];
        assert_eq!(*have, expected.data);
        assert_eq!(of.map_or(0, |of| of.data_bytes()) as usize, expected.data.len());
        if of.is_some() {
            assert_eq!(matches!(verdict, Verdict::Wrong { .. }), expected.spoilt && digests);
            assert_eq!(verdict == Verdict::Unchecked, !digests);
        }
        have.clear();
        next += 1;
    };
    let mut headers = 0;
    for piece in all.chunks(cut) {
        let mut left = piece;
        loop {
            let step = receiver.next(left).expect("what was built is received");
            left = &left[step.used..];
            match step.event {
                None => break,
                Some(Event::Header(pdu)) => {
                    assert_eq!(pdu, sent[headers].pdu);
                    headers += 1;
                    if sent[headers - 1].data.is_empty() {
                        end(None, &mut have, Verdict::Unchecked);
                    }
                }
                Some(Event::Data { bytes, .. }) => have.extend_from_slice(bytes),
                Some(Event::End { of, verdict }) => end(Some(of), &mut have, verdict),
            }
        }
        assert!(left.is_empty(), "all of it is used");
    }
    // The end of the last one is told without another byte.
    while let Some(Event::End { of, verdict }) = receiver.next(&[]).expect("what was built is received").event {
        end(Some(of), &mut have, verdict);
    }
    assert_eq!((headers, next), (sent.len(), sent.len()), "everything has come");
}
