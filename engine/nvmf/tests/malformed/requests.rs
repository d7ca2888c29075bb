//! What hosts ask of namespaces: blocks that there are not, data of other lengths, halves of pairs, reservations.

use spinel_nvme::command::{Command, Fused, IoOpcode, NSID_ALL};
use spinel_nvme::dsm::{DatasetManagement, Range};
use spinel_nvme::fabrics::{Property, PropertySize, disconnect};
use spinel_nvme::io::{Blocks, flush};
use spinel_nvme::registers::offset;
use spinel_nvme::reservation::{Acquire, AcquireAction, Register, RegisterAction, Release, Report, ReservationType};
use spinel_nvme::sgl::Sgl;
use spinel_nvme::status::StatusCode;
use zerocopy::IntoBytes as _;

use super::stage::Start::Io;
use super::stage::{Case, Stage, Then, capsule};
use crate::common::world::BLOCKS;

const FIELD: Then = Then::Is(StatusCode::INVALID_FIELD);
const LENGTH: Then = Then::Is(StatusCode::SGL_LENGTH_INVALID);
const NAMESPACE: Then = Then::Is(StatusCode::INVALID_NAMESPACE);
const RANGE: Then = Then::Is(StatusCode::LBA_RANGE);
const TYPE: Then = Then::Is(StatusCode::SGL_TYPE_INVALID);

fn io(name: &'static str, then: Then, act: fn(&mut Stage<'_>)) -> Case {
    Case::new(name, Io, then, act)
}

fn read(stage: &mut Stage<'_>, nsid: u32, start: u64, blocks: u32) {
    stage.ask(Blocks::new(start, blocks).command(IoOpcode::Read, nsid, Sgl::transport(blocks * 512)));
}

fn compare(fused: Fused, start: u64) -> Command {
    Blocks::new(start, 1).command(IoOpcode::Compare, 1, Sgl::capsule(0, 512)).with_fused(fused)
}

fn write(fused: Fused, start: u64) -> Command {
    Blocks::new(start, 1).command(IoOpcode::Write, 1, Sgl::capsule(0, 512)).with_fused(fused)
}

/// The first of two, and then something else; what the first is answered with is what counts.
fn forsaken(stage: &mut Stage<'_>, then: Command, data: &[u8]) {
    let first = stage.send(compare(Fused::First, 0), &[0; 512], &[]);
    let second = stage.send(then, data, &[]);
    let status = stage.wait(second).status;
    assert!(!status.is_success() || then.fused() == Some(Fused::No));
    stage.wait(first);
}

/// Ranges that are given back.
fn ranges(stage: &mut Stage<'_>, ranges: u16, list: &[Range], bytes: usize) {
    let mut data: Vec<u8> = list.iter().flat_map(|range| range.as_bytes().to_vec()).collect();
    data.resize(bytes, 0);
    let len = u32::try_from(bytes).unwrap();
    stage.ask_with(DatasetManagement { ranges, deallocate: true }.command(1, Sgl::transport(len)), &[], &data);
}

fn register(stage: &mut Stage<'_>, change: impl FnOnce(Command) -> Command, bytes: &[u8]) {
    let len = u32::try_from(bytes.len()).unwrap();
    let register = Register { action: Some(RegisterAction::Register), ignore_key: false, persist: None };
    stage.ask_with(change(register.command(1, Sgl::capsule(0, len))), bytes, &[]);
}

pub(crate) fn cases() -> Vec<Case> {
    [places(), lengths(), pairs(), given_back(), reservations(), every()].into_iter().flatten().collect()
}

fn places() -> Vec<Case> {
    vec![
        io("a read of namespace 0", NAMESPACE, |s| read(s, 0, 0, 1)),
        io("a read of every namespace", NAMESPACE, |s| read(s, NSID_ALL, 0, 1)),
        io("a read of a namespace that there is not", NAMESPACE, |s| read(s, 2, 0, 1)),
        io("a read of a namespace beyond the last", NAMESPACE, |s| read(s, 33, 0, 1)),
        io("a read of the last number but one", NAMESPACE, |s| read(s, u32::MAX - 1, 0, 1)),
        io("a flush of every namespace", NAMESPACE, |s| _ = s.ask(flush(NSID_ALL).with_data(Sgl::transport(0)))),
        io("a read of the block behind the last", RANGE, |s| read(s, 1, BLOCKS, 1)),
        io("a read across the end", RANGE, |s| read(s, 1, BLOCKS - 1, 2)),
        io("a read of the last block there can be", RANGE, |s| read(s, 1, u64::MAX, 1)),
        io("a read across the end of numbers", RANGE, |s| read(s, 1, u64::MAX, 128)),
        io("a write across the end", RANGE, |s| {
            s.ask_with(Blocks::new(BLOCKS - 1, 2).command(IoOpcode::Write, 1, Sgl::transport(1024)), &[], &[1; 1024]);
        }),
        io("zeroes across the end", RANGE, |s| {
            s.ask(Blocks::new(BLOCKS - 1, 65536).command(IoOpcode::WriteZeroes, 1, Sgl::transport(0)));
        }),
        io("a comparison across the end", RANGE, |s| {
            s.ask_with(Blocks::new(u64::MAX - 1, 2).command(IoOpcode::Compare, 1, Sgl::capsule(0, 1024)), &[0; 1024], &[]);
        }),
    ]
}

fn lengths() -> Vec<Case> {
    vec![
        io("a read into less room", LENGTH, |s| _ = s.ask(Blocks::new(0, 2).command(IoOpcode::Read, 1, Sgl::transport(512)))),
        io("a read into more room", LENGTH, |s| _ = s.ask(Blocks::new(0, 1).command(IoOpcode::Read, 1, Sgl::transport(1024)))),
        io("a read into no room", LENGTH, |s| _ = s.ask(Blocks::new(0, 1).command(IoOpcode::Read, 1, Sgl::transport(0)))),
        io("a read of more than may be transferred", FIELD, |s| read(s, 1, 0, 257)),
        io("a read of as much as can be named", FIELD, |s| read(s, 1, 0, 65536)),
        io("a read into its capsule", TYPE, |s| _ = s.ask(Blocks::new(0, 1).command(IoOpcode::Read, 1, Sgl::capsule(0, 512)))),
        io("a read that brings data", TYPE, |s| {
            s.ask_with(Blocks::new(0, 1).command(IoOpcode::Read, 1, Sgl::transport(512)), &[1; 512], &[]);
        }),
        io("a read under a key", TYPE, |s| _ = s.ask(Blocks::new(0, 1).command(IoOpcode::Read, 1, Sgl::keyed(0, 512, 1, false)))),
        io("a write of fewer data than blocks", LENGTH, |s| {
            s.ask_with(Blocks::new(0, 2).command(IoOpcode::Write, 1, Sgl::capsule(0, 512)), &[1; 512], &[]);
        }),
        io("a write whose capsule holds less than it says", LENGTH, |s| {
            s.ask_with(Blocks::new(0, 2).command(IoOpcode::Write, 1, Sgl::capsule(0, 1024)), &[1; 512], &[]);
        }),
        io("a write whose capsule holds nothing", LENGTH, |s| {
            s.ask(Blocks::new(0, 1).command(IoOpcode::Write, 1, Sgl::capsule(0, 512)));
        }),
        io("a write whose data begin later in its capsule", Then::Is(StatusCode::SGL_OFFSET_INVALID), |s| {
            s.ask_with(Blocks::new(0, 1).command(IoOpcode::Write, 1, Sgl::capsule(512, 512)), &[1; 1024], &[]);
        }),
        io("a write with more in its capsule than was announced", LENGTH, |s| {
            s.ask_with(Blocks::new(0, 9).command(IoOpcode::Write, 1, Sgl::capsule(0, 4608)), &[1; 4608], &[]);
        }),
        io("a write that brings data twice", TYPE, |s| {
            s.ask_with(Blocks::new(0, 1).command(IoOpcode::Write, 1, Sgl::transport(512)), &[1; 512], &[]);
        }),
        io("a write of four gigabytes", FIELD, |s| _ = s.ask(Blocks::new(0, 1).command(IoOpcode::Write, 1, Sgl::transport(u32::MAX)))),
        io("a write with pages instead of a descriptor", FIELD, |s| {
            let write = Blocks::new(0, 1).command(IoOpcode::Write, 1, Sgl::capsule(0, 512)).with_id(900);
            s.say(&capsule(write, &[1; 512], |bytes| bytes[9] = 0));
            s.wait(900);
        }),
        io("a flush with data", TYPE, |s| _ = s.ask_with(flush(1).with_data(Sgl::capsule(0, 64)), &[1; 64], &[])),
        io("a name that is in use", Then::Is(StatusCode::ID_CONFLICT), |s| {
            let r2t = s.r2t(1);
            s.host.send_as(r2t.command_id, flush(1).with_data(Sgl::transport(0)), &[], &[]);
            s.wait(r2t.command_id);
        }),
        io("a name that is in use, with data", Then::Is(StatusCode::ID_CONFLICT), |s| {
            let r2t = s.r2t(1);
            let write = Blocks::new(0, 1).command(IoOpcode::Write, 1, Sgl::capsule(0, 512));
            s.host.send_as(r2t.command_id, write, &[3; 512], &[]);
            s.wait(r2t.command_id);
        }),
    ]
}

fn pairs() -> Vec<Case> {
    let missing = Then::Is(StatusCode::ABORTED_FUSED_MISSING);
    let failed = Then::Is(StatusCode::ABORTED_FUSED_FAILED);
    vec![
        io("a second without a first", missing, |s| _ = s.ask_with(write(Fused::Second, 0), &[1; 512], &[])),
        io("a first and something else", missing, |s| forsaken(s, flush(1).with_data(Sgl::transport(0)), &[])),
        io("a first and a second elsewhere", failed, |s| forsaken(s, write(Fused::Second, 1), &[1; 512])),
        io("a first and a second that is no write", failed, |s| forsaken(s, compare(Fused::Second, 0), &[1; 512])),
        io("a first and a second of no namespace", failed, |s| {
            let second = Blocks::new(0, 1).command(IoOpcode::Write, 9, Sgl::capsule(0, 512)).with_fused(Fused::Second);
            forsaken(s, second, &[1; 512]);
        }),
        io("a first and a first", missing, |s| {
            let first = s.send(compare(Fused::First, 0), &[0; 512], &[]);
            let again = s.send(compare(Fused::First, 0), &[0; 512], &[]);
            s.send(flush(1).with_data(Sgl::transport(0)), &[], &[]);
            s.wait(again);
            s.wait(first);
        }),
        io("a first that is no comparison", FIELD, |s| _ = s.ask_with(write(Fused::First, 0), &[1; 512], &[])),
        io("a half of a pair that there is not", FIELD, |s| {
            let said = capsule(flush(1).with_data(Sgl::transport(0)).with_id(901), &[], |bytes| bytes[9] |= 3);
            s.say(&said);
            s.wait(901);
        }),
        io("a first that stays alone", Then::GoesOn, |s| _ = s.send(compare(Fused::First, 0), &[0; 512], &[])),
        io("a pair beyond the end", failed, |s| {
            let first = s.send(compare(Fused::First, BLOCKS), &[0; 512], &[]);
            assert_eq!(s.wait(first).status.code(), StatusCode::LBA_RANGE);
            let second = s.send(write(Fused::Second, BLOCKS), &[0; 512], &[]);
            assert_eq!(s.wait(second).status.code(), StatusCode::ABORTED_FUSED_MISSING);
            forsaken(s, write(Fused::Second, 2), &[1; 512]);
        }),
        io("a pair that vanishes while its second comes", Then::Closes, |s| {
            s.send(compare(Fused::First, 0), &[0; 512], &[]);
            let said = capsule(write(Fused::Second, 0).with_id(902), &[1; 512], |_| ());
            s.say(&said[..300]);
            s.host.end.end();
        }),
    ]
}

fn given_back() -> Vec<Case> {
    vec![
        io("ranges in too few data", LENGTH, |s| ranges(s, 2, &[], 16)),
        io("ranges in too many data", LENGTH, |s| ranges(s, 256, &[], 4112)),
        io("ranges without data", LENGTH, |s| _ = s.ask(DatasetManagement { ranges: 1, deallocate: true }.command(1, Sgl::transport(0)))),
        io("a range beyond the end", RANGE, |s| ranges(s, 1, &[Range::new(BLOCKS, 1)], 16)),
        io("a range across the end of numbers", RANGE, |s| ranges(s, 1, &[Range::new(u64::MAX, u32::MAX)], 16)),
        io("a range that is right and one that is not", RANGE, |s| ranges(s, 2, &[Range::new(60, 1), Range::new(BLOCKS - 1, 2)], 32)),
        io("256 ranges of nothing", Then::Is(StatusCode::SUCCESS), |s| ranges(s, 256, &[], 4096)),
        io("256 ranges over one another", Then::Is(StatusCode::SUCCESS), |s| ranges(s, 256, &[Range::new(0, 64); 256], 4096)),
    ]
}

fn reservations() -> Vec<Case> {
    vec![
        io("a registration in 15 bytes", LENGTH, |s| register(s, |command| command, &[0; 15])),
        io("a registration in 17 bytes", LENGTH, |s| register(s, |command| command, &[0; 17])),
        io("a registration of no key", FIELD, |s| register(s, |command| command, &[0; 16])),
        io("a registration of a kind that there is not", FIELD, |s| register(s, |command| command.with_dword(10, 7), &[1; 16])),
        io("a registration that half lasts", FIELD, |s| register(s, |command| command.with_dword(10, 1 << 30), &[1; 16])),
        io("a reservation by nobody", Then::Is(StatusCode::RESERVATION_CONFLICT), |s| {
            let kind = Some(ReservationType::WriteExclusive);
            let acquire = Acquire { action: Some(AcquireAction::Acquire), ignore_key: false, kind };
            s.ask_with(acquire.command(1, Sgl::capsule(0, 16)), &[1; 16], &[]);
        }),
        io("a reservation that ignores the key", FIELD, |s| {
            let kind = Some(ReservationType::WriteExclusive);
            let acquire = Acquire { action: Some(AcquireAction::Acquire), ignore_key: true, kind };
            s.ask_with(acquire.command(1, Sgl::capsule(0, 16)), &[1; 16], &[]);
        }),
        io("a reservation of a kind that there is not", FIELD, |s| {
            let acquire = Acquire { action: Some(AcquireAction::Acquire), ignore_key: false, kind: None };
            s.ask_with(acquire.command(1, Sgl::capsule(0, 16)).with_dword(10, 7 << 8), &[1; 16], &[]);
        }),
        io("a reservation that is given back in 16 bytes", LENGTH, |s| {
            let release = Release { action: None, ignore_key: false, kind: None };
            s.ask_with(release.command(1, Sgl::capsule(0, 16)), &[1; 16], &[]);
        }),
        io("a report with short names of hosts", Then::Is(StatusCode::HOST_ID_INCONSISTENT), |s| {
            s.ask(Report { dwords_less_one: 127, extended: false }.command(1, Sgl::transport(512)));
        }),
        io("a report into less room", LENGTH, |s| {
            s.ask(Report { dwords_less_one: 255, extended: true }.command(1, Sgl::transport(512)));
        }),
        io("a report of 16 GiB", LENGTH, |s| {
            s.ask(Report { dwords_less_one: u32::MAX, extended: true }.command(1, Sgl::transport(512)));
        }),
        io("a report of four bytes", Then::Is(StatusCode::SUCCESS), |s| {
            s.ask(Report { dwords_less_one: 0, extended: true }.command(1, Sgl::transport(4)));
        }),
    ]
}

fn every() -> Vec<Case> {
    vec![
        io("a property on a queue for I/O", FIELD, |s| _ = s.ask(Property { offset: offset::VERSION, size: PropertySize::Four }.get())),
        io("every opcode of a queue for I/O without data", Then::Is(StatusCode::SUCCESS), |s| {
            let answers = s.ask_all((0..=255).map(|opcode| Command::new(opcode, 1).with_data(Sgl::transport(0))));
            for (opcode, answer) in (0..=255).zip(answers) {
                let (known, code) = (IoOpcode::of(opcode).is_some(), answer.status.code());
                assert!(known || matches!(code, StatusCode::INVALID_OPCODE | StatusCode::SGL_TYPE_INVALID), "{opcode:#x}: {code:?}");
            }
            read(s, 1, 0, 1);
        }),
        io("every opcode of a queue for I/O with data", Then::Is(StatusCode::SUCCESS), |s| {
            // Not what writes them.
            for opcode in (0..=255).filter(|opcode| *opcode != IoOpcode::Write.code()) {
                s.ask_with(Command::new(opcode, 1).with_data(Sgl::capsule(0, 128)), &[0xa5; 128], &[]);
            }
            read(s, 1, 0, 1);
        }),
        io("more writes that wait for data than there are entries", Then::Closes, |s| {
            s.host.answers_r2ts = false;
            (0..40).for_each(|_| _ = s.host.write(0, &[1; 512], false));
        }),
        io("Disconnect with requests under way", Then::Closes, |s| {
            s.host.answers_r2ts = false;
            for block in 0..8 {
                s.host.read(block, 8);
                s.host.write(block, &[0; 512], false);
            }
            s.send(disconnect(), &[], &[]);
        }),
        io("it takes nothing, and vanishes", Then::Closes, |s| {
            s.host.end.set_deaf(true);
            (0..30).for_each(|block| _ = s.host.read(block, 64));
            s.turns(20);
            s.host.end.end();
        }),
    ]
}
