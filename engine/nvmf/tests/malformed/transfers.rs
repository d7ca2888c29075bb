//! Data that hosts were asked for, brought in other ways than they were asked for.

use spinel_nvme::command::IoOpcode;
use spinel_nvme::io::Blocks;
use spinel_nvme::sgl::Sgl;
use spinel_nvme::status::StatusCode;
use spinel_nvmf::tcp::FatalStatus::{HeaderDigest, InvalidHeader, LimitExceeded, OutOfRange};

use super::stage::Start::{Io, IoDigests};
use super::stage::{Case, Stage, Then, data_pdu};
use spinel_nvmf::tcp::DataPdu;

fn io(name: &'static str, then: Then, act: fn(&mut Stage<'_>)) -> Case {
    Case::new(name, Io, then, act)
}

/// Data of a write of eight blocks, brought in a wrong way.
fn brings(stage: &mut Stage<'_>, change: impl FnOnce(&mut DataPdu)) {
    let r2t = stage.r2t(8);
    stage.data(&r2t, change);
}

pub(crate) fn cases() -> Vec<Case> {
    [names(), places(), digests(), times()].into_iter().flatten().collect()
}

fn names() -> Vec<Case> {
    vec![
        io("another transfer", Then::Ends(InvalidHeader), |s| brings(s, |data| data.transfer_tag ^= 0x1000)),
        io("a transfer of another slot", Then::Ends(InvalidHeader), |s| brings(s, |data| data.transfer_tag ^= 1)),
        io("a transfer beyond the last slot", Then::Ends(InvalidHeader), |s| brings(s, |data| data.transfer_tag |= 0xfff)),
        io("transfer zero", Then::Ends(InvalidHeader), |s| brings(s, |data| data.transfer_tag = 0)),
        io("another command", Then::Ends(InvalidHeader), |s| brings(s, |data| data.command_id ^= 1)),
        io("the command of one transfer and the name of another", Then::Ends(InvalidHeader), |s| {
            let (one, other) = (s.r2t(8), s.r2t(8));
            s.data(&one, |data| data.transfer_tag = other.transfer_tag);
        }),
        io("data of a command that brought its own", Then::Ends(InvalidHeader), |s| {
            let write = Blocks::new(0, 1).command(IoOpcode::Write, 1, Sgl::capsule(0, 512));
            let id = s.send(write, &[1; 512], &[]);
            let r2t = spinel_nvmf::tcp::R2t { command_id: id, transfer_tag: 0x1000, offset: 0, len_bytes: 512 };
            s.data(&r2t, |_| ());
        }),
        io("data behind the last", Then::Ends(InvalidHeader), |s| {
            let r2t = s.r2t(8);
            s.data(&r2t, |_| ());
            s.data(&r2t, |_| ());
        }),
    ]
}

fn places() -> Vec<Case> {
    vec![
        io("data that begin late", Then::Ends(InvalidHeader), |s| brings(s, |data| (data.offset, data.len_bytes) = (512, 4096 - 512))),
        io("data that come twice", Then::Ends(InvalidHeader), |s| {
            let r2t = s.r2t(8);
            s.data(&r2t, |data| (data.len_bytes, data.last) = (2048, false));
            s.data(&r2t, |data| (data.len_bytes, data.last) = (2048, false));
        }),
        io("data with a gap", Then::Ends(InvalidHeader), |s| {
            let r2t = s.r2t(8);
            s.data(&r2t, |data| (data.len_bytes, data.last) = (1024, false));
            s.data(&r2t, |data| (data.offset, data.len_bytes) = (2048, 2048));
        }),
        io("more data than were asked for", Then::Ends(OutOfRange), |s| brings(s, |data| data.len_bytes += 4)),
        io("more data, and more to come", Then::Ends(OutOfRange), |s| brings(s, |data| (data.len_bytes, data.last) = (8192, false))),
        io("more data in a second PDU", Then::Ends(OutOfRange), |s| {
            let r2t = s.r2t(8);
            s.data(&r2t, |data| (data.len_bytes, data.last) = (4092, false));
            s.data(&r2t, |data| (data.offset, data.len_bytes) = (4092, 8));
        }),
        io("an end that is none", Then::Ends(InvalidHeader), |s| brings(s, |data| data.len_bytes = 2048)),
        io("no end", Then::Ends(InvalidHeader), |s| brings(s, |data| data.last = false)),
        io("more in one PDU than was announced", Then::Ends(LimitExceeded), |s| {
            let r2t = s.r2t(256);
            s.data(&r2t, |data| data.len_bytes += 4);
        }),
        io("a thousand pieces of four bytes", Then::Is(StatusCode::SUCCESS), |s| {
            let r2t = s.r2t(8);
            for offset in (0..4096).step_by(4) {
                s.data(&r2t, |data| (data.offset, data.len_bytes, data.last) = (offset, 4, offset == 4092));
            }
            s.wait(r2t.command_id);
        }),
        io("all transfers at once, the last first", Then::Is(StatusCode::SUCCESS), |s| {
            let r2ts: Vec<_> = (0..20).map(|_| s.r2t(1)).collect();
            r2ts.iter().rev().for_each(|r2t| s.data(r2t, |_| ()));
            r2ts.iter().for_each(|r2t| _ = s.wait(r2t.command_id));
        }),
    ]
}

fn digests() -> Vec<Case> {
    let with = |name, then, act| Case::new(name, IoDigests, then, act);
    vec![
        with("data that changed on their way", Then::Is(StatusCode::TRANSIENT_TRANSPORT), |s| {
            let r2t = s.r2t(8);
            s.host.spoils = true;
            s.host.answer_r2t(&r2t);
            s.wait(r2t.command_id);
        }),
        with("data in a capsule that changed on their way", Then::Is(StatusCode::TRANSIENT_TRANSPORT), |s| {
            s.host.spoils = true;
            s.ask_with(Blocks::new(0, 1).command(IoOpcode::Write, 1, Sgl::capsule(0, 512)), &[1; 512], &[]);
        }),
        with("one of many pieces that changed on its way", Then::Is(StatusCode::TRANSIENT_TRANSPORT), |s| {
            let r2t = s.r2t(8);
            let piece = |offset, last| DataPdu {
                command_id: r2t.command_id,
                transfer_tag: r2t.transfer_tag,
                offset,
                len_bytes: 1024,
                last,
                success: false,
            };
            for offset in [0, 1024, 2048, 3072] {
                let mut said = data_pdu(&s.host.builder, &piece(offset, offset == 3072), true);
                if offset == 1024 {
                    said[200] ^= 1;
                }
                s.say(&said);
            }
            s.wait(r2t.command_id);
        }),
        with("data with a wrong header digest", Then::Ends(HeaderDigest), |s| {
            let r2t = s.r2t(1);
            let data = DataPdu {
                command_id: r2t.command_id,
                transfer_tag: r2t.transfer_tag,
                offset: 0,
                len_bytes: 512,
                last: true,
                success: false,
            };
            let mut said = data_pdu(&s.host.builder, &data, true);
            said[24] ^= 0x80;
            s.say(&said);
        }),
    ]
}

fn times() -> Vec<Case> {
    vec![
        io("data that do not come", Then::Closes, |s| {
            s.r2t(8);
            s.pass(72);
        }),
        io("data of which half comes", Then::Closes, |s| {
            let r2t = s.r2t(8);
            s.data(&r2t, |data| (data.len_bytes, data.last) = (2048, false));
            s.pass(72);
        }),
        io("data at four bytes in three seconds", Then::Closes, |s| {
            let r2t = s.r2t(8);
            for offset in (0..120).step_by(4) {
                s.data(&r2t, |data| (data.offset, data.len_bytes, data.last) = (offset, 4, false));
                s.pass(3);
            }
        }),
        io("half a header of data", Then::Closes, |s| {
            let r2t = s.r2t(8);
            let data = DataPdu {
                command_id: r2t.command_id,
                transfer_tag: r2t.transfer_tag,
                offset: 0,
                len_bytes: 4096,
                last: true,
                success: false,
            };
            let said = data_pdu(&s.host.builder, &data, false);
            s.say(&said[..12]);
            s.pass(72);
        }),
        io("it vanishes behind half of its data", Then::Closes, |s| {
            let r2t = s.r2t(8);
            s.data(&r2t, |data| (data.len_bytes, data.last) = (2048, false));
            s.host.end.end();
        }),
    ]
}
