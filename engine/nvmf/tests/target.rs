//! A target as its hosts see it: connecting, identifying, reading and writing, over connections in memory.

mod common;

use common::host::{HOST, OTHER, Talk, bytes, controller};
use common::world::{BLOCKS, SUBSYSTEM, World};
use spinel_nvme::admin::Cns;
use spinel_nvme::command::{Command, Fused, IoOpcode};
use spinel_nvme::dsm::{DatasetManagement, Range};
use spinel_nvme::fabrics::{Connect, disconnect};
use spinel_nvme::identify::{Controller, Namespace, NamespaceCommon, NamespaceList};
use spinel_nvme::io::{Blocks, flush};
use spinel_nvme::sgl::Sgl;
use spinel_nvme::status::StatusCode;
use spinel_nvmf::pool::PoolSize;
use spinel_nvmf::target::{HostSecrets, Options};
use zerocopy::{FromBytes as _, IntoBytes as _};

const DIGESTS: Talk = Talk { header_digest: true, data_digest: true, alignment: 0 };
const ALIGNED: Talk = Talk { header_digest: true, data_digest: false, alignment: 31 };

#[test]
fn a_host_connects_identifies_writes_and_reads() {
    for talk in [Talk::PLAIN, DIGESTS, ALIGNED] {
        let mut world = World::new(Options::default());
        let (mut admin, mut io) = world.pair(talk);
        let page = admin.identify(&mut world, Cns::Controller, 0).data;
        let page = Controller::read_from_bytes(&page).unwrap();
        assert_eq!((page.id.get(), page.namespace_max.get()), (1, 32));
        let list = admin.identify(&mut world, Cns::ActiveNamespaces, 0).data;
        assert_eq!(NamespaceList::read_from_bytes(&list).unwrap().ids().collect::<Vec<_>>(), [1]);
        let namespace = admin.identify(&mut world, Cns::Namespace, 1).data;
        let namespace = Namespace::read_from_bytes(&namespace).unwrap();
        assert_eq!((namespace.size_blocks.get(), namespace.block_bytes()), (BLOCKS, Some(512)));
        for (len, in_capsule) in [(512, true), (4096, true), (4096, false), (8192, false), (128 << 10, false)] {
            let data = bytes(len, len);
            let id = io.write(8, &data, in_capsule);
            assert!(io.wait(&mut world, id).status.is_success(), "{len} {in_capsule}");
            let id = io.read(8, u32::try_from(len / 512).unwrap());
            assert_eq!(io.wait(&mut world, id).data, data, "{len} {in_capsule}");
        }
    }
}

#[test]
fn bytes_may_be_cut_anywhere() {
    for cut in [1, 2, 7, 23, 71, 73, 500] {
        let mut world = World::new(Options::default());
        let (_admin, mut io) = world.pair(DIGESTS);
        io.end.cut(cut);
        let data = bytes(9 * 512, cut);
        let id = io.write(3, &data, false);
        assert!(io.wait(&mut world, id).status.is_success());
        let ids: Vec<u16> = (0..9).map(|block| io.read(3 + block, 1)).collect();
        let read: Vec<u8> = ids.into_iter().flat_map(|id| io.wait(&mut world, id).data).collect();
        assert_eq!(read, data);
    }
}

#[test]
fn many_commands_are_under_way_at_once_and_as_many_transfers() {
    let mut world = World::new(Options::default());
    let (_admin, mut io) = world.pair(Talk::PLAIN);
    let data: Vec<Vec<u8>> = (0..31).map(|seed| bytes(16 << 10, seed)).collect();
    io.answers_r2ts = false;
    let ids: Vec<u16> = data.iter().zip(0..).map(|(data, at)| io.write(at * 32, data, false)).collect();
    io.settle(&mut world);
    assert_eq!(io.r2ts.len(), 31, "every write is asked for before any has come");
    let mut r2ts = std::mem::take(&mut io.r2ts);
    r2ts.reverse();
    r2ts.iter().for_each(|r2t| io.answer_r2t(r2t));
    ids.into_iter().for_each(|id| assert!(io.wait(&mut world, id).status.is_success()));
    let ids: Vec<u16> = (0..31).map(|at| io.read(at * 32, 32)).collect();
    for (id, data) in ids.into_iter().zip(&data) {
        assert_eq!(&io.wait(&mut world, id).data, data);
    }
}

#[test]
fn transfers_of_a_mebibyte_use_several_buffers() {
    let mut world = World::new(Options { transfer_bytes: 1 << 20, ..Options::default() });
    let (_admin, mut io) = world.pair(DIGESTS);
    let data = bytes(1 << 20, 5);
    let id = io.write(0, &data, false);
    assert!(io.wait(&mut world, id).status.is_success());
    let id = io.read(0, 2048);
    assert!(io.wait(&mut world, id).data == data);
}

#[test]
fn who_is_not_let_in_is_told_what_is_wrong() {
    let mut world = World::new(Options::default());
    let mut host = world.dial(0, Talk::PLAIN);
    let answer = host.connect(&mut world, &HOST, "nqn.2026-11.io.spinel:none", 0, 0xffff);
    assert_eq!((answer.status.code(), answer.result), (StatusCode::CONNECT_PARAMETERS, 256 | 1 << 16));
    let answer = host.connect(&mut world, &HOST, SUBSYSTEM, 0, 7);
    assert_eq!((answer.status.code(), answer.result), (StatusCode::CONNECT_PARAMETERS, 16 | 1 << 16), "no controller is as static");
    let connect = |entries_less_one| Connect {
        format: 0,
        queue: 0,
        size_less_one: entries_less_one,
        priority: 0,
        no_flow_control: false,
        deletes_queues: false,
        keep_alive_ms: 0,
    };
    for size in [0, 128, 65_535] {
        let answer = host.connect_with(&mut world, &HOST, SUBSYSTEM, 0xffff, connect(size));
        assert_eq!((answer.status.code(), answer.result), (StatusCode::CONNECT_PARAMETERS, 44), "{size}");
    }
    let answer = host.connect(&mut world, &HOST, SUBSYSTEM, 1, 1);
    assert_eq!((answer.status.code(), answer.result), (StatusCode::CONNECT_PARAMETERS, 16 | 1 << 16), "there is no controller yet");
    let answer = host.connect(&mut world, &HOST, SUBSYSTEM, 0, 0xffff);
    assert_eq!(controller(&answer), 1, "it may try again");
    let answer = host.connect(&mut world, &HOST, SUBSYSTEM, 0, 0xffff);
    assert_eq!(answer.status.code(), StatusCode::SEQUENCE, "but connect once only");
}

#[test]
fn a_queue_belongs_to_its_own_host_controller_and_port() {
    let mut world = World::new(Options::default());
    let (mut admin, cntlid) = world.admin(&HOST, 0, Talk::PLAIN);
    let mut host = world.dial(0, Talk::PLAIN);
    let refused = |answer: common::host::Answer| (answer.status.code(), answer.result);
    assert_eq!(refused(host.connect(&mut world, &OTHER, SUBSYSTEM, 1, cntlid)), (StatusCode::CONNECT_PARAMETERS, 512 | 1 << 16));
    let stranger = common::host::Who { id: 9, ..HOST };
    assert_eq!(refused(host.connect(&mut world, &stranger, SUBSYSTEM, 1, cntlid)), (StatusCode::CONNECT_PARAMETERS, 1 << 16));
    assert_eq!(refused(host.connect(&mut world, &HOST, SUBSYSTEM, 1, cntlid + 1)), (StatusCode::CONNECT_PARAMETERS, 16 | 1 << 16));
    assert_eq!(refused(host.connect(&mut world, &HOST, SUBSYSTEM, 128, cntlid)), (StatusCode::CONNECT_PARAMETERS, 42));
    let mut elsewhere = world.dial(1, Talk::PLAIN);
    assert_eq!(refused(elsewhere.connect(&mut world, &HOST, SUBSYSTEM, 1, cntlid)), (StatusCode::CONNECT_PARAMETERS, 16 | 1 << 16));
    assert_eq!(controller(&host.connect(&mut world, &HOST, SUBSYSTEM, 1, cntlid)), cntlid);
    let mut again = world.dial(0, Talk::PLAIN);
    assert_eq!(refused(again.connect(&mut world, &HOST, SUBSYSTEM, 1, cntlid)), (StatusCode::CONNECT_PARAMETERS, 42));
    host.done(&mut world, disconnect().with_data(Sgl::transport(0)), &[], &[]);
    host.settle(&mut world);
    assert!(host.end.is_closed());
    assert_eq!(controller(&again.connect(&mut world, &HOST, SUBSYSTEM, 1, cntlid)), cntlid, "the number is free again");
    admin.end.end();
    admin.settle(&mut world);
    assert!(again.end.is_closed(), "queues go with their controller");
}

#[test]
fn hosts_that_are_not_named_stay_out() {
    let mut world = World::new(Options::default());
    world.target.allow_any_host(SUBSYSTEM, false).unwrap();
    let name = spinel_nvmf::nqn::Nqn::of_peer(HOST.host.as_bytes()).unwrap();
    let mut host = world.dial(0, Talk::PLAIN);
    assert_eq!(host.connect(&mut world, &HOST, SUBSYSTEM, 0, 0xffff).status.code(), StatusCode::CONNECT_HOST);
    world.target.add_host(SUBSYSTEM, &name, HostSecrets::default()).unwrap();
    assert_eq!(host.connect(&mut world, &OTHER, SUBSYSTEM, 0, 0xffff).status.code(), StatusCode::CONNECT_HOST);
    assert!(host.connect(&mut world, &HOST, SUBSYSTEM, 0, 0xffff).status.is_success());
    let pending = world.target.remove_host(SUBSYSTEM, &name).unwrap();
    world.made(&pending);
    assert!(host.end.is_closed());
}

#[test]
fn what_makes_no_sense_is_refused_and_nothing_else_suffers() {
    let mut world = World::new(Options::default());
    let (_admin, mut io) = world.pair(Talk::PLAIN);
    let transport = Sgl::transport;
    let block = bytes(512, 0);
    let mut refused = |command: Command, capsule: &[u8]| io.ask(&mut world, command, capsule, &[]).status.code();
    let blocks = |start, count| Blocks::new(start, count);
    assert_eq!(refused(blocks(0, 1).command(IoOpcode::Read, 2, transport(512)), &[]), StatusCode::INVALID_NAMESPACE);
    assert_eq!(refused(blocks(0, 1).command(IoOpcode::Read, 0, transport(512)), &[]), StatusCode::INVALID_NAMESPACE);
    assert_eq!(refused(blocks(0, 1).command(IoOpcode::Read, u32::MAX, transport(512)), &[]), StatusCode::INVALID_NAMESPACE);
    assert_eq!(refused(blocks(BLOCKS, 1).command(IoOpcode::Read, 1, transport(512)), &[]), StatusCode::LBA_RANGE);
    assert_eq!(refused(blocks(BLOCKS - 1, 2).command(IoOpcode::Read, 1, transport(1024)), &[]), StatusCode::LBA_RANGE);
    assert_eq!(refused(blocks(u64::MAX, 1).command(IoOpcode::Read, 1, transport(512)), &[]), StatusCode::LBA_RANGE);
    assert_eq!(refused(blocks(0, 2).command(IoOpcode::Read, 1, transport(512)), &[]), StatusCode::SGL_LENGTH_INVALID);
    assert_eq!(refused(blocks(0, 512).command(IoOpcode::Read, 1, transport(256 << 10)), &[]), StatusCode::INVALID_FIELD);
    assert_eq!(refused(blocks(0, 1).command(IoOpcode::Read, 1, Sgl::capsule(0, 512)), &[]), StatusCode::SGL_TYPE_INVALID);
    assert_eq!(refused(blocks(0, 1).command(IoOpcode::Read, 1, Sgl::address(0, 512)), &[]), StatusCode::SGL_TYPE_INVALID);
    assert_eq!(refused(blocks(0, 1).command(IoOpcode::Write, 1, Sgl::keyed(0, 512, 1, false)), &[]), StatusCode::SGL_TYPE_INVALID);
    assert_eq!(refused(blocks(0, 1).command(IoOpcode::Write, 1, Sgl::capsule(0, 512)), &[]), StatusCode::SGL_LENGTH_INVALID);
    assert_eq!(refused(blocks(0, 1).command(IoOpcode::Write, 1, Sgl::capsule(512, 512)), &block), StatusCode::SGL_OFFSET_INVALID);
    assert_eq!(refused(blocks(0, 1).command(IoOpcode::Write, 1, transport(512)), &block), StatusCode::SGL_TYPE_INVALID);
    assert_eq!(refused(Command::new(0xc0, 1).with_data(transport(0)), &[]), StatusCode::INVALID_OPCODE);
    assert_eq!(refused(Command::new(IoOpcode::Verify.code(), 1).with_data(transport(0)), &[]), StatusCode::INVALID_OPCODE);
    let id = io.read(0, 1);
    assert_eq!(io.wait(&mut world, id).data, vec![0; 512], "nothing was written");
}

#[test]
fn flushes_zeroes_and_discards_are_done() {
    let mut world = World::new(Options::default());
    let (_admin, mut io) = world.pair(Talk::PLAIN);
    let data = bytes(64 * 512, 3);
    let id = io.write(0, &data, false);
    assert!(io.wait(&mut world, id).status.is_success());
    io.done(&mut world, flush(1), &[], &[]);
    io.done(&mut world, Blocks::new(8, 8).command(IoOpcode::WriteZeroes, 1, Sgl::transport(0)), &[], &[]);
    let ranges = [Range::new(32, 8), Range::new(0, 0), Range::new(48, 16)];
    let ranges: Vec<u8> = ranges.iter().flat_map(|range| range.as_bytes().to_vec()).collect();
    let deallocate = DatasetManagement { ranges: 3, deallocate: true };
    io.done(&mut world, deallocate.command(1, Sgl::capsule(0, 48)), &ranges, &[]);
    io.done(&mut world, deallocate.command(1, Sgl::transport(48)), &[], &ranges);
    let id = io.read(0, 64);
    let mut expected = data;
    for (from, to) in [(8, 16), (32, 40), (48, 64)] {
        expected[from * 512..to * 512].fill(0);
    }
    assert_eq!(io.wait(&mut world, id).data, expected);
    let hint = DatasetManagement { ranges: 1, deallocate: false };
    io.done(&mut world, hint.command(1, Sgl::capsule(0, 16)), Range::new(16, 8).as_bytes(), &[]);
    let outside = Range::new(BLOCKS - 1, 2);
    let answer = io.ask(&mut world, DatasetManagement { ranges: 1, ..deallocate }.command(1, Sgl::capsule(0, 16)), outside.as_bytes(), &[]);
    assert_eq!(answer.status.code(), StatusCode::LBA_RANGE);
    let id = io.read(16, 8);
    assert_eq!(io.wait(&mut world, id).data, expected[16 * 512..24 * 512]);
}

#[test]
fn a_comparison_tells_the_same_from_the_other() {
    let mut world = World::new(Options::default());
    let (_admin, mut io) = world.pair(Talk::PLAIN);
    let (data, mut other) = (bytes(1024, 1), bytes(1024, 1));
    *other.last_mut().unwrap() ^= 1;
    let id = io.write(5, &data, true);
    assert!(io.wait(&mut world, id).status.is_success());
    let compare = |sgl| Blocks::new(5, 2).command(IoOpcode::Compare, 1, sgl);
    io.done(&mut world, compare(Sgl::capsule(0, 1024)), &data, &[]);
    io.done(&mut world, compare(Sgl::transport(1024)), &[], &data);
    let answer = io.ask(&mut world, compare(Sgl::capsule(0, 1024)), &other, &[]);
    assert_eq!(answer.status.code(), StatusCode::COMPARE_FAILURE);
}

#[test]
fn compare_and_write_is_done_as_one_or_not_at_all() {
    let mut world = World::new(Options::default());
    let (_admin, mut io) = world.pair(Talk::PLAIN);
    let (old, new, wrong) = (vec![0; 512], bytes(512, 8), bytes(512, 9));
    let first = |blocks: Blocks| blocks.command(IoOpcode::Compare, 1, Sgl::capsule(0, 512)).with_fused(Fused::First);
    let second = |blocks: Blocks| blocks.command(IoOpcode::Write, 1, Sgl::capsule(0, 512)).with_fused(Fused::Second);
    let at = Blocks::new(40, 1);
    let mut run = |one: (Command, &[u8]), other: (Command, &[u8])| {
        let ids = [io.send(one.0, one.1, &[]), io.send(other.0, other.1, &[])];
        let codes = ids.map(|id| io.wait(&mut world, id).status.code());
        let id = io.read(40, 1);
        (codes, io.wait(&mut world, id).data)
    };
    const OK: StatusCode = StatusCode::SUCCESS;
    assert_eq!(
        run((first(at), &wrong), (second(at), &new)),
        ([StatusCode::COMPARE_FAILURE, StatusCode::ABORTED_FUSED_FAILED], old.clone())
    );
    assert_eq!(run((first(at), &old), (second(at), &new)), ([OK, OK], new.clone()));
    assert_eq!(run((first(at), &new), (second(at), &old)), ([OK, OK], old.clone()), "and again");
    let elsewhere = second(Blocks::new(41, 1));
    assert_eq!(run((first(at), &old), (elsewhere, &new)), ([StatusCode::ABORTED_FUSED_FAILED, StatusCode::INVALID_FIELD], old.clone()));
    let plain = at.command(IoOpcode::Read, 1, Sgl::transport(512));
    assert_eq!(run((first(at), &old), (plain, &[])), ([StatusCode::ABORTED_FUSED_MISSING, OK], old.clone()));
    assert_eq!(run((plain, &[]), (second(at), &new)), ([OK, StatusCode::ABORTED_FUSED_MISSING], old.clone()));
    let wrong_first = at.command(IoOpcode::Write, 1, Sgl::capsule(0, 512)).with_fused(Fused::First);
    assert_eq!(run((wrong_first, &new), (second(at), &new)), ([StatusCode::INVALID_FIELD, StatusCode::ABORTED_FUSED_MISSING], old));
}

#[test]
fn compare_and_write_of_many_hosts_lets_each_succeed_in_turn() {
    let mut world = World::new(Options::default());
    let (_one_admin, one) = world.pair(Talk::PLAIN);
    let (_other_admin, other) = {
        let (admin, cntlid) = world.admin(&OTHER, 1, Talk::PLAIN);
        (admin, world.queue(&OTHER, 1, cntlid, 1, Talk::PLAIN))
    };
    let mut hosts = [one, other];
    // Each host counts a block up, by what it believes is there; the other's plain writes beside it do not hold it back.
    let block = |number: u8| vec![number; 512];
    let mut believed = [0_u8; 2];
    let mut won = [0; 2];
    for _ in 0..40 {
        let ids: Vec<(u16, u16)> = hosts
            .iter_mut()
            .zip(believed)
            .map(|(host, believed)| {
                host.write(200, &block(believed), true);
                let at = Blocks::new(7, 1);
                let first = at.command(IoOpcode::Compare, 1, Sgl::capsule(0, 512)).with_fused(Fused::First);
                let second = at.command(IoOpcode::Write, 1, Sgl::capsule(0, 512)).with_fused(Fused::Second);
                (host.send(first, &block(believed), &[]), host.send(second, &block(believed + 1), &[]))
            })
            .collect();
        for (number, (host, ids)) in hosts.iter_mut().zip(ids).enumerate() {
            let (first, second) = (host.wait(&mut world, ids.0).status, host.wait(&mut world, ids.1).status);
            assert_eq!(first.is_success(), second.is_success());
            won[number] += usize::from(first.is_success());
        }
        let id = hosts[0].read(7, 1);
        believed = [hosts[0].wait(&mut world, id).data[0]; 2];
    }
    assert_eq!(usize::from(believed[0]), won[0] + won[1], "every success counted up, and nothing else did: {won:?}");
    assert_eq!(believed[0], 40, "one of the two succeeds each time");
}

#[test]
fn a_slow_host_holds_back_nobody_and_a_bounded_number_of_bytes() {
    let mut world = World::new(Options::default());
    let (_admin, cntlid) = world.admin(&HOST, 0, Talk::PLAIN);
    let mut deaf = world.queue(&HOST, 0, cntlid, 1, Talk::PLAIN);
    world.rotate();
    let mut brisk = world.queue(&HOST, 0, cntlid, 2, Talk::PLAIN);
    deaf.end.set_deaf(true);
    for _ in 0..31 {
        deaf.read(0, 256);
    }
    world.turns(200);
    assert!(world.rests(), "what waits for a host keeps no core awake");
    for round in 0..200 {
        let id = brisk.read(round, 8);
        assert!(brisk.wait(&mut world, id).status.is_success());
    }
    assert!(deaf.end.waiting_bytes() <= 512 << 10, "{} bytes wait", deaf.end.waiting_bytes());
}

#[test]
fn spoiled_data_cost_their_command_only() {
    let mut world = World::new(Options::default());
    let (_admin, mut io) = world.pair(DIGESTS);
    let data = bytes(4096, 4);
    for in_capsule in [true, false] {
        io.spoils = true;
        let id = io.write(0, &data, in_capsule);
        let status = io.wait(&mut world, id).status;
        assert_eq!((status.code(), status.is_permanent()), (StatusCode::TRANSIENT_TRANSPORT, false));
        let id = io.read(0, 8);
        assert_eq!(io.wait(&mut world, id).data, vec![0; 4096], "nothing was written");
    }
    let id = io.write(0, &data, false);
    assert!(io.wait(&mut world, id).status.is_success(), "it may try again");
}

#[test]
fn a_device_without_a_cache_says_so() {
    let mut world = World::new(Options::default());
    let (mut admin, _io) = world.pair(Talk::PLAIN);
    let page = admin.identify(&mut world, Cns::NamespaceCommon, 1).data;
    let page = NamespaceCommon::read_from_bytes(&page).unwrap();
    assert_eq!(page.features & 1 << 5, 1 << 5);
}

#[test]
fn commands_that_need_more_buffers_than_there_are_take_turns() {
    let pool = PoolSize { small_units: 8, large_units: 8 };
    let mut world = World::new(Options { pool, ..Options::default() });
    let (_admin, mut io) = world.pair(Talk::PLAIN);
    let data = bytes(128 << 10, 6);
    let id = io.write(0, &data, false);
    assert!(io.wait(&mut world, id).status.is_success());
    let compare = Blocks::new(0, 256).command(IoOpcode::Compare, 1, Sgl::transport(128 << 10));
    let mut ids: Vec<u16> = (0..10).map(|_| io.send(compare, &[], &data)).collect();
    ids.extend((0..10).map(|_| io.read(0, 256)));
    ids.extend((0..10).map(|_| io.write(1000, &data, false)));
    ids.into_iter().for_each(|id| assert!(io.wait(&mut world, id).status.is_success()));
    let ids: Vec<u16> = (0..30).map(|block| io.write(2000 + block, &data[..512], true)).collect();
    ids.into_iter().for_each(|id| assert!(io.wait(&mut world, id).status.is_success()));
}

#[test]
fn a_write_of_another_host_comes_before_or_after_a_compare_and_write_and_never_between() {
    let mut before = 0;
    for turns in 0..60 {
        let mut world = World::new(Options::default());
        world.slow_down(100);
        let (_one_admin, mut one) = world.pair(Talk::PLAIN);
        let (_other_admin, cntlid) = world.admin(&OTHER, 1, Talk::PLAIN);
        let mut other = world.queue(&OTHER, 1, cntlid, 1, Talk::PLAIN);
        // Both have their channels.
        let ids = [one.read(0, 1), other.read(0, 1)];
        one.wait(&mut world, ids[0]);
        other.wait(&mut world, ids[1]);
        let at = Blocks::new(7, 1);
        let compare = at.command(IoOpcode::Compare, 1, Sgl::capsule(0, 512)).with_fused(Fused::First);
        let write = at.command(IoOpcode::Write, 1, Sgl::capsule(0, 512)).with_fused(Fused::Second);
        let pair = [one.send(compare, &[0; 512], &[]), one.send(write, &[1; 512], &[])];
        world.turns(turns);
        let plain = other.write(7, &[5; 512], true);
        let won = one.wait(&mut world, pair[0]).status.is_success();
        one.wait(&mut world, pair[1]);
        assert!(other.wait(&mut world, plain).status.is_success());
        let id = one.read(7, 1);
        assert_eq!(one.wait(&mut world, id).data, [5; 512], "after {turns} turns: it was not lost, whoever was first");
        before += usize::from(!won);
    }
    assert!((1..60).contains(&before), "both orders were seen: {before}");
}
