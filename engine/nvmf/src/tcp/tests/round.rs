//! What the builders write is what the receiver reads, however it is cut.

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::tcp::build::{Builder, put_request, put_response, put_terminate};
use crate::tcp::pdu::HEAD_BYTES_MAX;
use crate::tcp::{Crc, DataPdu, PduType, R2t, Step, Terminate};

/// A PDU of one of the roles, with its data.
#[derive(Clone, Debug)]
enum Sent {
    Command([u8; 64], Vec<u8>),
    Completion([u8; 16]),
    ToTarget(DataPdu, Vec<u8>),
    ToHost(DataPdu, Vec<u8>),
    Ready(R2t),
}

fn data_bytes() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![4 => proptest::collection::vec(any::<u8>(), 1..100), 1 => proptest::collection::vec(any::<u8>(), 1..40_000)]
}

fn data_pdu(to_host: bool) -> impl Strategy<Value = (DataPdu, Vec<u8>)> {
    (any::<u16>(), any::<u16>(), 0..u32::MAX - 40_000, any::<bool>(), any::<bool>(), data_bytes()).prop_map(
        move |(command_id, tag, offset, last, success, data)| {
            let pdu = DataPdu {
                command_id,
                transfer_tag: if to_host { 0 } else { tag },
                offset,
                len_bytes: u32::try_from(data.len()).expect("a small number"),
                last,
                success: to_host && last && success,
            };
            (pdu, data)
        },
    )
}

fn sent(role: Role) -> BoxedStrategy<Sent> {
    let data = data_pdu(role == Role::Host);
    match role {
        Role::Target => prop_oneof![
            (any::<[u8; 32]>(), any::<[u8; 32]>(), proptest::collection::vec(any::<u8>(), 0..8192)).prop_map(|(a, b, data)| {
                let mut command = [0; 64];
                command[..32].copy_from_slice(&a);
                command[32..].copy_from_slice(&b);
                Sent::Command(command, data)
            }),
            any::<[u8; 32]>().prop_map(|half| {
                let mut command = [0; 64];
                command[16..48].copy_from_slice(&half);
                Sent::Command(command, Vec::new())
            }),
            data.prop_map(|(pdu, data)| Sent::ToTarget(pdu, data)),
        ]
        .boxed(),
        Role::Host => prop_oneof![
            any::<[u8; 16]>().prop_map(Sent::Completion),
            data.prop_map(|(pdu, data)| Sent::ToHost(pdu, data)),
            (any::<u16>(), any::<u16>(), 0..u32::MAX / 2, 1..u32::MAX / 2)
                .prop_map(|(command_id, transfer_tag, offset, len_bytes)| Sent::Ready(R2t { command_id, transfer_tag, offset, len_bytes })),
        ]
        .boxed(),
    }
}

fn terms() -> impl Strategy<Value = Terms> {
    (any::<bool>(), any::<bool>(), 0..=31u8).prop_map(|(header_digest, data_digest, field)| {
        let alignment = Alignment::of(field).expect("the field is in its range");
        // Both the same: what one end sends here, it also receives.
        Terms { header_digest, data_digest, incoming: alignment, outgoing: alignment }
    })
}

/// A role that receives, the terms, and what it receives.
fn case() -> impl Strategy<Value = (Role, Terms, Vec<Sent>)> {
    prop_oneof![Just(Role::Target), Just(Role::Host)]
        .prop_flat_map(|role| (Just(role), terms(), proptest::collection::vec(sent(role), 0..8)))
}

/// Writes it, and says what a receiver should see of it.
fn write(terms: Terms, sent: &Sent, out: &mut Vec<u8>, seen: &mut Vec<Seen>) {
    let builder = Builder::new(terms);
    let mut head = [0xee; HEAD_BYTES_MAX];
    let (count, pdu, carried) = match sent {
        Sent::Command(command, data) => {
            let data_bytes = u32::try_from(data.len()).expect("a small number");
            let carried = (data_bytes > 0).then_some((Carrier::CapsuleCmd { data_bytes }, data));
            let pdu = Pdu::CapsuleCmd { command: *command, data_bytes };
            (builder.put_command(command, data_bytes, &mut head), pdu, carried)
        }
        Sent::Completion(completion) => (builder.put_completion(completion, &mut head), Pdu::CapsuleResp { completion: *completion }, None),
        Sent::ToTarget(pdu, data) => (builder.put_data_to_target(pdu, &mut head), Pdu::H2cData(*pdu), Some((Carrier::H2cData(*pdu), data))),
        Sent::ToHost(pdu, data) => (builder.put_data_to_host(pdu, &mut head), Pdu::C2hData(*pdu), Some((Carrier::C2hData(*pdu), data))),
        Sent::Ready(r2t) => (builder.put_r2t(r2t, &mut head), Pdu::R2t(*r2t), None),
    };
    let from = out.len();
    out.extend_from_slice(&head[..count]);
    seen.push(Seen::Header(pdu));
    if let Some((of, data)) = carried {
        assert!(count.is_multiple_of(terms.outgoing.bytes().into()), "data are aligned");
        out.extend_from_slice(data);
        let mut crc = Crc::default();
        crc.update(data);
        let mut tail = [0; 4];
        let count = builder.put_tail(&crc, &mut tail);
        out.extend_from_slice(&tail[..count]);
        seen.push(Seen::Data(of, data.clone()));
        seen.push(Seen::End(of, if terms.data_digest { Verdict::Right } else { Verdict::Unchecked }));
    }
    let total = u32::from_le_bytes(out[from + 4..from + 8].try_into().expect("four bytes"));
    assert_eq!(usize::try_from(total).expect("a small number"), out.len() - from, "the length is that of the whole");
}

proptest! {
    #[test]
    fn any_cut_of_valid_pdus_gives_what_was_sent(
        (role, terms, all) in case(),
        cuts in proptest::collection::vec(any::<Index>(), 0..24),
    ) {
        let (mut stream, mut expected) = (Vec::new(), Vec::new());
        for one in &all {
            write(terms, one, &mut stream, &mut expected);
        }
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).chain([0, stream.len()]).collect();
        cuts.sort_unstable();
        let pieces = cuts.windows(2).map(|ends| &stream[ends[0]..ends[1]]);
        let mut receiver = running(role, terms);
        prop_assert_eq!(drive(&mut receiver, pieces), (expected.clone(), None));
        prop_assert!(!receiver.midway());

        let mut receiver = running(role, terms);
        prop_assert_eq!(drive(&mut receiver, stream.chunks(1)), (expected, None), "byte by byte");
    }

    #[test]
    fn one_flipped_bit_never_passes_two_digests(
        (role, one) in prop_oneof![Just(Role::Target), Just(Role::Host)].prop_flat_map(|role| (Just(role), sent(role))),
        at in any::<Index>(),
        bit in 0..8u8,
    ) {
        let terms = Terms { header_digest: true, data_digest: true, ..Terms::default() };
        let (mut stream, mut expected) = (Vec::new(), Vec::new());
        write(terms, &one, &mut stream, &mut expected);
        let at = at.index(stream.len());
        stream[at] ^= 1 << bit;
        let mut receiver = running(role, terms);
        let (seen, fault) = drive(&mut receiver, [&stream[..]]);
        let wrong = seen.iter().any(|seen| matches!(seen, Seen::End(_, Verdict::Wrong { .. })));
        // Data may turn into a request to terminate, which has no digest: the connection ends either way.
        let over = receiver.idle() == Some(Idle::Over);
        prop_assert!(fault.is_some() || wrong || over, "byte {} bit {}: {:?}", at, bit, seen);
    }

    #[test]
    fn setting_up_is_read_as_it_was_written(
        fields in (0..=31u8, any::<bool>(), any::<bool>(), any::<u32>(), 1024..u32::MAX / 4),
        cut in 0..=128usize,
    ) {
        let (field, header_digest, data_digest, r2ts_max_less_one, quads) = fields;
        let alignment = Alignment::of(field).expect("the field is in its range");
        let asked = IcReq { alignment, header_digest, data_digest, r2ts_max_less_one };
        let answered = IcResp { alignment, header_digest, data_digest, data_bytes_max: quads * 4 };
        let mut out = [0xee; HEAD_BYTES_MAX];
        for (role, count, pdu) in [
            (Role::Target, put_request(&asked, &mut out), Pdu::IcReq(asked)),
            (Role::Host, put_response(&answered, &mut out), Pdu::IcResp(answered)),
        ] {
            prop_assert_eq!(count, 128);
            match role {
                Role::Target => put_request(&asked, &mut out),
                Role::Host => put_response(&answered, &mut out),
            };
            let mut receiver = Receiver::new(role, LIMITS);
            let (first, second) = out[..count].split_at(cut);
            prop_assert_eq!(drive(&mut receiver, [first, second]), (vec![Seen::Header(pdu)], None));
            prop_assert_eq!(receiver.idle(), Some(Idle::Agreement));
        }
    }
}

#[test]
fn a_request_to_terminate_tells_the_fault_and_the_header() {
    for (sender, kind) in [(Role::Host, PduType::H2cTermReq), (Role::Target, PduType::C2hTermReq)] {
        let receiver_role = kind.receiver();
        for (fault, status, info) in [
            (Fault::DataOffset { kind: PduType::H2cData, given: 9 }, 1, 3),
            (Fault::OutOfSequence { kind: PduType::IcReq }, 2, 0),
            (Fault::HeaderDigest { kind: PduType::R2t, received: 0xdead_beef, computed: 1 }, 3, 0xdead_beef),
            (Fault::OutOfRange { kind: PduType::R2t, offset: 1, len_bytes: 2 }, 4, 0),
            (Fault::DataTooLong { given: 2, most: 1 }, 5, 0),
            (Fault::TooManyR2ts { most: 1 }, 5, 0),
            (Fault::Version { given: 3 }, 6, 8),
        ] {
            for header in [0, 8, 24, 72, 128, 200] {
                let header = vec![6; header];
                let mut out = [0xee; HEAD_BYTES_MAX];
                let count = put_terminate(sender, &fault, &header, &mut out);
                assert_eq!((count, out[0]), (24 + header.len().min(128), kind.code()));
                let mut receiver = running(receiver_role, Terms { header_digest: true, data_digest: true, ..Terms::default() });
                let offender = (!header.is_empty()).then_some(6);
                let expected = Pdu::Terminate(Terminate { status, info, offender });
                let seen = drive(&mut receiver, out[..count].chunks(5));
                assert_eq!(seen, (vec![Seen::Header(expected)], None));
                assert_eq!(receiver.idle(), Some(Idle::Over), "nothing comes behind it");
                let step = receiver.next(&[0; 64]).expect("what follows is not looked at");
                assert_eq!((step.used, step.event), (0, None));
            }
            assert_eq!(fault.status().code(), status);
        }
    }
}

#[test]
fn a_refused_connection_is_told_to_a_host() {
    let mut out = [0; HEAD_BYTES_MAX];
    let count = put_terminate(Role::Target, &Fault::Version { given: 1 }, &[0; 128], &mut out);
    let mut receiver = Receiver::new(Role::Host, LIMITS);
    let expected = Pdu::Terminate(Terminate { status: 6, info: 8, offender: Some(0) });
    assert_eq!(drive(&mut receiver, [&out[..count]]), (vec![Seen::Header(expected)], None));
}

#[test]
fn nothing_is_read_ahead_of_the_agreement() {
    let mut stream = vec![0; 128];
    put_request(&plain_request(), &mut stream);
    let terms = Terms { header_digest: true, ..Terms::default() };
    write(terms, &Sent::Command([7; 64], Vec::new()), &mut stream, &mut Vec::new());
    let mut receiver = Receiver::new(Role::Target, LIMITS);
    let step = receiver.next(&stream).expect("a plain request");
    assert_eq!(step.used, 128);
    let again = receiver.next(&stream[128..]).expect("nothing is looked at");
    assert_eq!((again.used, again.event, receiver.idle()), (0, None, Some(Idle::Agreement)));
    receiver.agree(terms);
    let pdu = Pdu::CapsuleCmd { command: [7; 64], data_bytes: 0 };
    assert_eq!(drive(&mut receiver, [&stream[128..]]), (vec![Seen::Header(pdu)], None));
    assert_eq!(receiver.header().len(), 72, "the header stays until the next one comes");
}

#[test]
fn known_bytes_of_every_kind() {
    let builder = Builder::new(Terms::default());
    let mut out = [0xee; HEAD_BYTES_MAX];
    let r2t = R2t { command_id: 0x0102, transfer_tag: 0x0304, offset: 0x0506_0708, len_bytes: 0x090a_0b0c };
    let fields = [2, 1, 4, 3, 8, 7, 6, 5, 0xc, 0xb, 0xa, 9, 0, 0, 0, 0];
    assert_eq!(builder.put_r2t(&r2t, &mut out), 24);
    assert_eq!((&out[..8], &out[8..24]), (&[9, 0, 24, 0, 24, 0, 0, 0][..], &fields[..]));

    let data = DataPdu { command_id: 0x0102, transfer_tag: 0x0304, offset: 0x0506_0708, len_bytes: 4096, last: true, success: false };
    assert_eq!(builder.put_data_to_target(&data, &mut out), 24);
    assert_eq!(out[..16], [6, 4, 24, 24, 24, 16, 0, 0, 2, 1, 4, 3, 8, 7, 6, 5]);
    assert_eq!(out[16..24], [0, 16, 0, 0, 0, 0, 0, 0]);
    let back = DataPdu { transfer_tag: 0, success: true, ..data };
    assert_eq!(builder.put_data_to_host(&back, &mut out), 24);
    assert_eq!(out[..12], [7, 12, 24, 24, 24, 16, 0, 0, 2, 1, 0, 0]);

    assert_eq!(builder.put_command(&[5; 64], 0, &mut out), 72);
    assert_eq!(out[..9], [4, 0, 72, 0, 72, 0, 0, 0, 5]);
    assert_eq!(builder.put_completion(&[5; 16], &mut out), 24);
    assert_eq!(out[..9], [5, 0, 24, 0, 24, 0, 0, 0, 5]);

    let strict = Builder::new(Terms {
        header_digest: true,
        data_digest: true,
        incoming: Alignment::default(),
        outgoing: Alignment::of(31).expect("the largest"),
    });
    assert_eq!(strict.put_command(&[5; 64], 512, &mut out), 128);
    assert_eq!(out[..8], [4, 3, 72, 128, 0x84, 2, 0, 0], "128 bytes of head, 512 of data, 4 of digest");
    assert_eq!(out[72..76], Crc::of(&out[..72]).to_le_bytes());
    assert_eq!(out[76..128], [0; 52]);

    let asked = IcReq { alignment: Alignment::of(3).expect("small"), header_digest: true, data_digest: false, r2ts_max_less_one: 7 };
    put_request(&asked, &mut out);
    assert_eq!(out[..20], [0, 0, 128, 0, 128, 0, 0, 0, 0, 0, 3, 1, 7, 0, 0, 0, 0, 0, 0, 0]);
    let answered = IcResp { data_digest: true, ..plain_response() };
    put_response(&answered, &mut out);
    assert_eq!(out[..20], [1, 0, 128, 0, 128, 0, 0, 0, 0, 0, 0, 2, 0, 0, 1, 0, 0, 0, 0, 0]);
}

#[test]
fn a_host_gets_no_digest_that_it_did_not_ask_for() {
    let both = |header_digest, data_digest| {
        (IcReq { header_digest, data_digest, ..plain_request() }, IcResp { header_digest, data_digest, ..plain_response() })
    };
    let ((none, refused), (all, granted)) = (both(false, false), both(true, true));
    assert_eq!(Terms::of_host(&none, &granted), Err(Fault::Digests { asked: 0, answered: 3 }));
    let terms = Terms::of_host(&all, &refused).expect("a controller may refuse");
    assert!(!terms.header_digest && !terms.data_digest);
    let terms = Terms::of_host(&all, &granted).expect("as it was asked");
    assert_eq!(terms, Terms::of_target(&all, &granted));
    assert!(terms.header_digest && terms.data_digest);

    let asked = IcReq { alignment: Alignment::of(1).expect("small"), ..none };
    let answered = IcResp { alignment: Alignment::of(7).expect("small"), ..refused };
    let (host, target) = (Terms::of_host(&asked, &answered).expect("plain"), Terms::of_target(&asked, &answered));
    assert_eq!((host.incoming.bytes(), host.outgoing.bytes()), (8, 32));
    assert_eq!((target.incoming, target.outgoing), (host.outgoing, host.incoming));
}

#[test]
fn wrong_data_are_told_and_the_connection_goes_on() {
    let terms = Terms { data_digest: true, ..Terms::default() };
    let data = DataPdu { command_id: 1, transfer_tag: 2, offset: 0, len_bytes: 40_000, last: true, success: false };
    let (mut stream, mut expected) = (Vec::new(), Vec::new());
    write(terms, &Sent::ToTarget(data, vec![1; 40_000]), &mut stream, &mut expected);
    let good = stream.clone();
    stream[100] ^= 1;
    let mut receiver = running(Role::Target, terms);
    let (seen, fault) = drive(&mut receiver, [&stream[..], &good[..]]);
    assert_eq!(fault, None);
    assert!(matches!(seen[2], Seen::End(_, Verdict::Wrong { received, computed }) if received != computed));
    assert_eq!(seen[3..], expected);
}

#[test]
fn pieces_with_digests_fit_the_nearest_cache() {
    let terms = Terms { data_digest: true, ..Terms::default() };
    let data = DataPdu { command_id: 1, transfer_tag: 2, offset: 0, len_bytes: 65_536, last: true, success: false };
    let mut stream = Vec::new();
    write(terms, &Sent::ToTarget(data, vec![1; 65_536]), &mut stream, &mut Vec::new());
    let mut receiver = running(Role::Target, terms);
    let (mut at, mut longest) = (0, 0);
    while let Step { used, event: Some(event) } = receiver.next(&stream[at..]).expect("valid") {
        at += used;
        if let Event::Data { bytes, .. } = event {
            longest = longest.max(bytes.len());
        }
    }
    assert_eq!((at, longest), (stream.len(), crate::tcp::receiver::PIECE_BYTES_MAX));
}
