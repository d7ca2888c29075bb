//! How connections begin: the set-up of the transport, and PDUs before and behind it that cannot be.

use spinel_nvme::admin::keep_alive;
use spinel_nvme::sgl::Sgl;
use spinel_nvme::status::StatusCode;
use spinel_nvmf::tcp::FatalStatus::{HeaderDigest, InvalidHeader, LimitExceeded, OutOfRange, Sequence, Unsupported};

use super::stage::Start::{Agreed, Digests, Silent};
use super::stage::{Case, Stage, Then, capsule, connect, data, request};
use crate::common::host::HOST;
use crate::common::world::SUBSYSTEM;
use zerocopy::IntoBytes as _;

/// A common header and so much behind it.
fn pdu(code: u8, flags: u8, header: u8, offset: u8, total: u32, behind: usize) -> Vec<u8> {
    let mut bytes = vec![code, flags, header, offset];
    bytes.extend(total.to_le_bytes());
    bytes.resize(8 + behind, 0);
    bytes
}

/// A header that says it belongs to H2CData: of this command, this transfer, at this offset, so long.
fn h2c(total: u32, fields: [u32; 4]) -> Vec<u8> {
    let [command, tag, offset, len] = fields;
    let mut bytes = pdu(0x06, 4, 24, 24, total, 0);
    bytes.extend(&command.to_le_bytes()[..2]);
    bytes.extend(&tag.to_le_bytes()[..2]);
    bytes.extend(offset.to_le_bytes());
    bytes.extend(len.to_le_bytes());
    bytes.resize(24, 0);
    bytes
}

fn starts(name: &'static str, then: Then, act: fn(&mut Stage<'_>)) -> Case {
    Case::new(name, Silent, then, act)
}

fn agreed(name: &'static str, then: Then, act: fn(&mut Stage<'_>)) -> Case {
    Case::new(name, Agreed, then, act)
}

pub(crate) fn cases() -> Vec<Case> {
    [firsts(), requests(), headers(), digests()].into_iter().flatten().collect()
}

/// What comes first, and is no request to set up.
fn firsts() -> Vec<Case> {
    vec![
        starts("it gives up first", Then::Ends(Sequence), |s| s.say(&pdu(0x02, 0, 24, 0, 24, 16))),
        starts("a command first", Then::Ends(Sequence), |s| s.say(&capsule(keep_alive(), &[], |_| ()))),
        starts("data first", Then::Ends(Sequence), |s| s.say(&pdu(0x06, 0, 24, 24, 536, 528))),
        starts("a type between others first", Then::Ends(InvalidHeader), |s| s.say(&pdu(0x08, 0, 128, 0, 128, 120))),
        starts("the last of all types first", Then::Ends(InvalidHeader), |s| s.say(&pdu(0xff, 0, 128, 0, 128, 120))),
        starts("an answer to a request to set up", Then::Ends(InvalidHeader), |s| s.say(&pdu(0x01, 0, 128, 0, 128, 120))),
        starts("data that go to hosts", Then::Ends(InvalidHeader), |s| s.say(&pdu(0x07, 0, 24, 24, 536, 528))),
        starts("a question for data", Then::Ends(InvalidHeader), |s| s.say(&pdu(0x09, 0, 24, 0, 24, 16))),
        starts("HTTP", Then::Ends(InvalidHeader), |s| s.say(b"GET / HTTP/1.1\r\nHost: target\r\n\r\n")),
        starts("it says nothing for longer than it may", Then::Closes, |s| s.pass(12)),
        starts("one byte", Then::Closes, |s| {
            s.say(&[0]);
            s.pass(12);
        }),
        starts("all but one byte of a request to set up", Then::Closes, |s| {
            s.say(&request(|_| ())[..127]);
            s.pass(12);
        }),
    ]
}

/// Requests to set up.
fn requests() -> Vec<Case> {
    vec![
        starts("a header that is too short", Then::Ends(InvalidHeader), |s| s.say(&request(|b| b[2] = 127))),
        starts("no header", Then::Ends(InvalidHeader), |s| s.say(&request(|b| b[2] = 0))),
        starts("a whole that is too short", Then::Ends(InvalidHeader), |s| s.say(&request(|b| b[4] = 127))),
        starts("a whole that is too long", Then::Ends(InvalidHeader), |s| s.say(&request(|b| b[4] = 129))),
        starts("no whole", Then::Ends(InvalidHeader), |s| s.say(&request(|b| b[4] = 0))),
        starts("four gigabytes", Then::Ends(InvalidHeader), |s| s.say(&request(|b| b[4..8].fill(0xff)))),
        starts("the next version", Then::Ends(Unsupported), |s| s.say(&request(|b| b[8] = 1))),
        starts("the last version", Then::Ends(Unsupported), |s| s.say(&request(|b| b[8..10].fill(0xff)))),
        starts("an alignment of 132 bytes", Then::Ends(InvalidHeader), |s| s.say(&request(|b| b[10] = 32))),
        starts("an alignment of a kilobyte", Then::Ends(InvalidHeader), |s| s.say(&request(|b| b[10] = 255))),
        starts("digests that there are not", Then::GoesOn, |s| s.say(&request(|b| b[11] = 0xfc))),
        starts("reserved bytes", Then::GoesOn, |s| s.say(&request(|b| b[16..].fill(0xff)))),
        starts("reserved flags and a data offset", Then::GoesOn, |s| s.say(&request(|b| (b[1], b[3]) = (0xff, 0xff)))),
        starts("four billion R2Ts at a time", Then::GoesOn, |s| s.say(&request(|b| b[12..16].fill(0xff)))),
        starts("one byte at a time", Then::GoesOn, |s| request(|_| ()).chunks(1).for_each(|byte| s.say(byte))),
        agreed("a request to set up twice", Then::Ends(Sequence), |s| s.say(&request(|_| ()))),
        starts("two requests to set up in one piece", Then::Ends(Sequence), |s| s.say(&[request(|_| ()), request(|_| ())].concat())),
    ]
}

/// Headers of PDUs behind the set-up.
fn headers() -> Vec<Case> {
    vec![
        agreed("a header digest that was not agreed on", Then::Ends(InvalidHeader), |s| s.say(&capsule(keep_alive(), &[], |b| b[1] = 1))),
        agreed("a data digest that was not agreed on", Then::Ends(InvalidHeader), |s| s.say(&capsule(keep_alive(), &[0; 4], |b| b[1] = 2))),
        agreed("a data digest of no data", Then::Ends(InvalidHeader), |s| s.say(&capsule(keep_alive(), &[], |b| b[1] = 2))),
        agreed("a command with a long header", Then::Ends(InvalidHeader), |s| s.say(&capsule(keep_alive(), &[], |b| b[2] = 76))),
        agreed("a command shorter than its header", Then::Ends(InvalidHeader), |s| s.say(&capsule(keep_alive(), &[], |b| b[4] = 71))),
        agreed("a command of no bytes", Then::Ends(InvalidHeader), |s| s.say(&capsule(keep_alive(), &[], |b| b[4..8].fill(0)))),
        agreed("data within the header", Then::Ends(InvalidHeader), |s| s.say(&capsule(keep_alive(), &[0; 8], |b| b[3] = 64))),
        agreed("data that are not aligned", Then::Ends(InvalidHeader), |s| s.say(&capsule(keep_alive(), &[0; 8], |b| b[3] = 74))),
        agreed("data behind the end", Then::Ends(InvalidHeader), |s| s.say(&capsule(keep_alive(), &[0; 8], |b| b[3] = 84))),
        agreed("data at the end", Then::Ends(InvalidHeader), |s| s.say(&capsule(keep_alive(), &[0; 8], |b| b[3] = 80))),
        agreed("data without an offset", Then::Ends(InvalidHeader), |s| s.say(&capsule(keep_alive(), &[0; 8], |b| b[3] = 0))),
        agreed("more data with a command than anybody takes", Then::Ends(InvalidHeader), |s| s.say(&pdu(0x04, 0, 72, 72, 72 + 8193, 64))),
        agreed("data of a command that was never given", Then::Ends(InvalidHeader), |s| s.say(&h2c(536, [1, 1, 0, 512]))),
        agreed("data under the name zero", Then::Ends(InvalidHeader), |s| s.say(&h2c(536, [0, 0, 0, 512]))),
        agreed("data that say another length", Then::Ends(InvalidHeader), |s| s.say(&h2c(536, [1, 1, 0, 508]))),
        agreed("data of no bytes", Then::Ends(InvalidHeader), |s| s.say(&h2c(24, [1, 1, 0, 0]))),
        agreed("data beyond what can be counted", Then::Ends(OutOfRange), |s| s.say(&h2c(536, [1, 1, u32::MAX - 511, 512]))),
        agreed("more data in one PDU than was announced", Then::Ends(LimitExceeded), |s| s.say(&h2c(24 + (128 << 10) + 4, [1, 1, 0, 0]))),
        agreed("it gives up", Then::Closes, |s| s.say(&pdu(0x02, 0, 24, 0, 24, 16))),
        agreed("it gives up for an unknown reason", Then::Closes, |s| {
            let mut end = pdu(0x02, 0, 24, 0, 152, 144);
            end[8..].fill(0xff);
            s.say(&end);
        }),
        agreed("it gives up at too great length", Then::Ends(InvalidHeader), |s| s.say(&pdu(0x02, 0, 24, 0, 153, 145))),
        agreed("it gives up too shortly", Then::Ends(InvalidHeader), |s| s.say(&pdu(0x02, 0, 24, 0, 23, 15))),
        agreed("it gives up and goes on", Then::Closes, |s| {
            s.say(
                &[pdu(0x02, 0, 24, 0, 24, 16), capsule(connect(0).command(), data(SUBSYSTEM, HOST.host, 0xffff).as_bytes(), |_| ())]
                    .concat(),
            );
        }),
        agreed("a command at one byte in four seconds", Then::Closes, |s| {
            for byte in &capsule(keep_alive(), &[], |_| ())[..24] {
                s.say(std::slice::from_ref(byte));
                s.pass(3);
            }
        }),
    ]
}

/// Digests that are wrong, missing, or there.
fn digests() -> Vec<Case> {
    let with = |name, then, act| Case::new(name, Digests, then, act);
    vec![
        with("no header digest though it was agreed on", Then::Ends(InvalidHeader), |s| s.say(&capsule(keep_alive(), &[], |_| ()))),
        with("a wrong header digest", Then::Ends(HeaderDigest), |s| {
            let mut head = [0; 160];
            let len = s.host.builder.put_command(keep_alive().as_bytes().try_into().unwrap(), 0, &mut head);
            head[len - 1] ^= 1;
            s.say(&head[..len]);
        }),
        with("a command that changed on its way", Then::Ends(HeaderDigest), |s| {
            let mut head = [0; 160];
            let len = s.host.builder.put_command(keep_alive().as_bytes().try_into().unwrap(), 0, &mut head);
            head[8 + 40] ^= 1;
            s.say(&head[..len]);
        }),
        with("no data digest though it was agreed on", Then::Ends(InvalidHeader), |s| {
            let mut head = [0; 160];
            let len = s.host.builder.put_command(keep_alive().as_bytes().try_into().unwrap(), 8, &mut head);
            head[1] &= !2;
            let digest = spinel_nvmf::tcp::Crc::of(&head[..72]);
            head[72..76].copy_from_slice(&digest.to_le_bytes());
            s.say(&[&head[..len], &[0; 12]].concat());
        }),
        with("data of a Connect that changed on their way", Then::Is(StatusCode::TRANSIENT_TRANSPORT), |s| {
            s.host.spoils = true;
            s.ask_with(connect(0).command(), data(SUBSYSTEM, HOST.host, 0xffff).as_bytes(), &[]);
        }),
        with("data that nobody wants and that changed on their way", Then::Is(StatusCode::SGL_TYPE_INVALID), |s| {
            s.host.spoils = true;
            s.ask_with(keep_alive().with_data(Sgl::capsule(0, 64)), &[7; 64], &[]);
        }),
    ]
}
