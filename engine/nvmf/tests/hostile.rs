//! Hosts that mean harm, by what they send and in which order: the target goes on, and nobody else notices.

mod common;

use std::time::Duration;

use common::host::{HOST, Host, Talk, bytes};
use common::wire::HostEnd;
use common::world::{SUBSYSTEM, World, address};
use spinel_nvme::command::{AdminOpcode, Command, IoOpcode};
use spinel_nvme::fabrics::{Connect, ConnectData, FabricsType};
use spinel_nvme::io::Blocks;
use spinel_nvme::sgl::Sgl;
use spinel_nvme::status::StatusCode;
use spinel_nvmf::nqn::Nqn;
use spinel_nvmf::target::Options;
use spinel_nvmf::tcp::build::put_request;
use spinel_nvmf::tcp::{Alignment, Builder, DataPdu, IcReq, R2t, Terms};
use zerocopy::IntoBytes as _;

/// A connection by which anything can be said.
fn raw(world: &mut World) -> HostEnd {
    let end = HostEnd::default();
    let far = end.clone();
    assert!(world.target.admit(world.mailbox(), world.ports[0], "hostile".into(), address(0), move |core| Ok(far.stream(core))));
    world.turns(10);
    end
}

fn request() -> Vec<u8> {
    let asked = IcReq { alignment: Alignment::default(), header_digest: false, data_digest: false, r2ts_max_less_one: 0 };
    let mut bytes = vec![0; 128];
    put_request(&asked, &mut bytes);
    bytes
}

fn capsule(command: Command, data: &[u8]) -> Vec<u8> {
    let mut head = [0; 160];
    let len =
        Builder::new(Terms::default()).put_command(command.as_bytes().try_into().unwrap(), u32::try_from(data.len()).unwrap(), &mut head);
    [&head[..len], data].concat()
}

fn connect(queue: u16, controller: u16) -> Vec<u8> {
    let name = |name: &str| Nqn::of_peer(name.as_bytes()).unwrap().field();
    let data = ConnectData::new([1; 16], name(HOST.host), name(SUBSYSTEM), controller);
    let connect =
        Connect { format: 0, queue, size_less_one: 31, priority: 0, no_flow_control: false, deletes_queues: false, keep_alive_ms: 0 };
    capsule(connect.command(), data.as_bytes())
}

/// Another host's connection, which must not notice anything.
struct Witness {
    admin: Host,
    io: Host,
}

impl Witness {
    fn new(world: &mut World) -> Self {
        let (admin, io) = world.pair(Talk::PLAIN);
        Self { admin, io }
    }

    fn looks(&mut self, world: &mut World) {
        let id = self.admin.keep_alive();
        assert!(self.admin.wait(world, id).status.is_success());
        let data = bytes(512, 1);
        let id = self.io.write(99, &data, true);
        assert!(self.io.wait(world, id).status.is_success());
        let id = self.io.read(99, 1);
        assert_eq!(self.io.wait(world, id).data, data);
    }
}

/// What is said, one after the other, and what it is called.
fn beginnings() -> Vec<(&'static str, Vec<Vec<u8>>)> {
    let mut wrong_type = request();
    wrong_type[0] = 0x0b;
    let mut wrong_length = request();
    wrong_length[4] = 127;
    let mut wrong_version = request();
    wrong_version[8] = 1;
    let mut wrong_alignment = request();
    wrong_alignment[10] = 32;
    let read = || capsule(Blocks::new(0, 1).command(IoOpcode::Read, 1, Sgl::transport(512)), &[]);
    let mut huge = capsule(Command::new(1, 1), &[]);
    huge[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
    let mut long = vec![0; 24];
    long[..8].copy_from_slice(&[0x06, 0, 24, 24, 0xff, 0xff, 0xff, 0x7f]);
    vec![
        ("nothing but zeroes", vec![vec![0; 4096]]),
        ("nothing but ones", vec![vec![0xff; 4096]]),
        ("no such type", vec![wrong_type]),
        ("a length that is not its own", vec![wrong_length]),
        ("another version", vec![wrong_version]),
        ("another alignment", vec![wrong_alignment]),
        ("a command before the agreement", vec![read()]),
        ("an agreement twice", vec![request(), request()]),
        ("a PDU that goes the other way", vec![request(), vec![0x05, 0, 24, 0, 24, 0, 0, 0]]),
        ("a command of four gigabytes", vec![request(), huge]),
        ("data of two gigabytes", vec![request(), long]),
        ("data that nobody asked for", vec![request(), connect(0, 0xffff), unasked(7, 1, 0, 512, true)]),
    ]
}

fn unasked(command_id: u16, transfer_tag: u16, offset: u32, len_bytes: u32, last: bool) -> Vec<u8> {
    let data = DataPdu { command_id, transfer_tag, offset, len_bytes, last, success: false };
    let mut head = [0; 160];
    let len = Builder::new(Terms::default()).put_data_to_target(&data, &mut head);
    [&head[..len], &vec![0x5a; len_bytes as usize]].concat()
}

#[test]
fn what_breaks_the_rules_of_the_transport_ends_its_connection_only() {
    let mut world = World::new(Options::default());
    let mut witness = Witness::new(&mut world);
    let before = world.pollers();
    for (what, says) in beginnings() {
        let end = raw(&mut world);
        for said in says {
            end.send(&said);
            world.turns(20);
        }
        world.pass(Duration::from_secs(3));
        assert!(end.is_closed(), "{what}");
        assert_eq!(world.pollers(), before, "{what}: nothing is left");
        witness.looks(&mut world);
    }
}

#[test]
fn commands_that_come_too_early_are_answered_and_do_no_harm() {
    let mut world = World::new(Options::default());
    let mut witness = Witness::new(&mut world);
    let mut host = world.dial(0, Talk::PLAIN);
    for command in [
        Blocks::new(0, 1).command(IoOpcode::Read, 1, Sgl::transport(512)),
        Command::new(AdminOpcode::Identify.code(), 0).with_data(Sgl::transport(4096)),
        Command::new(AdminOpcode::Fabrics.code(), u32::from(FabricsType::PropertyGet.code())).with_data(Sgl::transport(0)),
        Command::new(AdminOpcode::Fabrics.code(), 0x77).with_data(Sgl::transport(0)),
    ] {
        let status = host.ask(&mut world, command, &[], &[]).status;
        assert!([StatusCode::SEQUENCE, StatusCode::INVALID_FIELD].contains(&status.code()), "{status}");
    }
    // Data of a Connect that are too short, too long, or come in another way.
    let name = |name: &str| Nqn::of_peer(name.as_bytes()).unwrap().field();
    let data = ConnectData::new([1; 16], name(HOST.host), name(SUBSYSTEM), 0xffff);
    let connect =
        Connect { format: 0, queue: 0, size_less_one: 31, priority: 0, no_flow_control: false, deletes_queues: false, keep_alive_ms: 0 };
    for len in [1, 1020, 1023] {
        let command = connect.command().with_data(Sgl::capsule(0, len));
        let answer = host.ask(&mut world, command, &data.as_bytes()[..len as usize], &[]);
        assert_eq!(answer.status.code(), StatusCode::SGL_LENGTH_INVALID, "{len}");
    }
    let unended = [0x41; 1024];
    let answer = host.ask(&mut world, connect.command(), &unended, &[]);
    assert_eq!((answer.status.code(), answer.result), (StatusCode::CONNECT_PARAMETERS, 256 | 1 << 16), "a name that nothing ends");
    let nobody = ConnectData::new([0; 16], name(HOST.host), name(SUBSYSTEM), 0xffff);
    assert_eq!(host.ask(&mut world, connect.command(), nobody.as_bytes(), &[]).result, 1 << 16, "a host without an identifier");
    let format = Connect { format: 1, ..connect };
    assert_eq!(host.ask(&mut world, format.command(), data.as_bytes(), &[]).status.code(), StatusCode::CONNECT_FORMAT);
    assert!(
        host.ask(&mut world, connect.command().with_data(Sgl::transport(1024)), &[], data.as_bytes()).status.is_success(),
        "by R2T, too"
    );
    witness.looks(&mut world);
}

#[test]
fn two_connects_at_once_make_one_queue() {
    let mut world = World::new(Options::default());
    let end = raw(&mut world);
    end.send(&request());
    end.send(&connect(0, 0xffff));
    let again = connect(0, 0xffff);
    let mut second = again;
    second[8 + 2] = 1;
    end.send(&second);
    world.turns(50);
    assert_eq!(world.target.subsystems()[0].controllers.len(), 1);
}

#[test]
fn more_commands_than_entries_end_the_connection() {
    let mut world = World::new(Options::default());
    let mut witness = Witness::new(&mut world);
    let (_admin, cntlid) = world.admin(&HOST, 0, Talk::PLAIN);
    let mut greedy = world.queue(&HOST, 0, cntlid, 1, Talk::PLAIN);
    greedy.answers_r2ts = false;
    for _ in 0..40 {
        greedy.write(0, &[1; 512], false);
    }
    world.pass(Duration::from_secs(3));
    greedy.settle(&mut world);
    assert!(greedy.end.is_closed());
    witness.looks(&mut world);
}

#[test]
fn an_identifier_that_is_in_use_is_refused() {
    let mut world = World::new(Options::default());
    let (_admin, mut io) = world.pair(Talk::PLAIN);
    io.answers_r2ts = false;
    let write = Blocks::new(0, 1).command(IoOpcode::Write, 1, Sgl::transport(512));
    io.send_as(7, write, &[], &[1; 512]);
    io.settle(&mut world);
    let read = Blocks::new(0, 1).command(IoOpcode::Read, 1, Sgl::transport(512));
    io.send_as(7, read, &[], &[]);
    assert_eq!(io.wait(&mut world, 7).status.code(), StatusCode::ID_CONFLICT);
}

/// Data that answer an R2T in a wrong way.
fn wrong_answers(r2t: &R2t) -> Vec<(&'static str, Vec<u8>)> {
    let R2t { command_id, transfer_tag, len_bytes, .. } = *r2t;
    vec![
        ("another transfer", unasked(command_id, transfer_tag ^ 0x1000, 0, len_bytes, true)),
        ("no transfer", unasked(command_id, 0, 0, len_bytes, true)),
        ("another command", unasked(command_id + 1, transfer_tag, 0, len_bytes, true)),
        ("a gap", unasked(command_id, transfer_tag, 512, len_bytes - 512, true)),
        ("too much", unasked(command_id, transfer_tag, 0, len_bytes + 512, true)),
        ("too much, and more to come", unasked(command_id, transfer_tag, 0, len_bytes + 512, false)),
        ("the last too early", unasked(command_id, transfer_tag, 0, len_bytes - 512, true)),
        ("no last", unasked(command_id, transfer_tag, 0, len_bytes, false)),
        ("more than one PDU may have", unasked(command_id, transfer_tag, 0, (128 << 10) + 4, false)),
    ]
}

#[test]
fn data_that_are_not_what_was_asked_for_end_the_connection_and_are_written_nowhere() {
    for number in 0..9 {
        let mut world = World::new(Options::default());
        let mut witness = Witness::new(&mut world);
        let (_admin, cntlid) = world.admin(&HOST, 0, Talk::PLAIN);
        let mut io = world.queue(&HOST, 0, cntlid, 1, Talk::PLAIN);
        io.answers_r2ts = false;
        io.write(0, &[1; 4096], false);
        io.settle(&mut world);
        let r2t = io.r2ts[0];
        let (what, said) = wrong_answers(&r2t).swap_remove(number);
        io.end.send(&said);
        io.settle(&mut world);
        assert!(io.terminated, "{what}: it is told");
        world.pass(Duration::from_secs(3));
        assert!(io.end.is_closed(), "{what}");
        witness.looks(&mut world);
        let id = witness.io.read(0, 8);
        assert_eq!(witness.io.wait(&mut world, id).data, vec![0; 4096], "{what}");
    }
}

#[test]
fn data_that_come_twice_end_the_connection() {
    let mut world = World::new(Options::default());
    let (_admin, mut io) = world.pair(Talk::PLAIN);
    io.answers_r2ts = false;
    io.write(0, &[1; 4096], false);
    io.settle(&mut world);
    let r2t = io.r2ts[0];
    io.answer_r2t(&r2t);
    io.settle(&mut world);
    io.end.send(&unasked(r2t.command_id, r2t.transfer_tag, 0, 4096, true));
    io.settle(&mut world);
    assert!(io.terminated);
}

#[test]
fn nobody_is_waited_for_for_ever() {
    let mut world = World::new(Options::default());
    let silent = raw(&mut world);
    let half = raw(&mut world);
    half.send(&request()[..100]);
    let agreed = raw(&mut world);
    agreed.send(&request());
    world.turns(20);
    world.pass(Duration::from_secs(5));
    assert!(!silent.is_closed() && !half.is_closed() && !agreed.is_closed());
    world.pass(Duration::from_secs(6));
    world.turns(20);
    assert!(silent.is_closed() && half.is_closed() && agreed.is_closed());
}

#[test]
fn a_command_that_begins_and_does_not_end_is_not_waited_for() {
    let mut world = World::new(Options::default());
    let (mut admin, mut io) = world.pair(Talk::PLAIN);
    let whole = capsule(Blocks::new(0, 1).command(IoOpcode::Read, 1, Sgl::transport(512)).with_id(1), &[]);
    // A byte now and then is no sign of life.
    for byte in &whole[..20] {
        io.end.send(std::slice::from_ref(byte));
        world.pass(Duration::from_secs(4));
        let id = admin.keep_alive();
        admin.wait(&mut world, id);
    }
    io.settle(&mut world);
    assert!(io.end.is_closed());
}

#[test]
fn data_that_were_asked_for_and_do_not_come_are_not_waited_for() {
    let mut world = World::new(Options::default());
    let (mut admin, mut io) = world.pair(Talk::PLAIN);
    io.answers_r2ts = false;
    io.write(0, &[1; 4096], false);
    for _ in 0..20 {
        world.pass(Duration::from_secs(4));
        let id = admin.keep_alive();
        admin.wait(&mut world, id);
    }
    io.settle(&mut world);
    assert!(io.end.is_closed());
}

#[test]
fn whoever_connects_and_vanishes_leaves_nothing() {
    let mut world = World::new(Options::default());
    let mut witness = Witness::new(&mut world);
    let before = world.pollers();
    for round in 0..300 {
        let end = raw(&mut world);
        if round % 3 > 0 {
            end.send(&request());
        }
        if round % 3 > 1 {
            end.send(&connect(0, 0xffff));
        }
        world.turns(round % 7);
        end.end();
    }
    world.turns(20);
    witness.looks(&mut world);
    assert_eq!(world.pollers(), before);
    let controllers: Vec<u16> = world.target.subsystems()[0].controllers.iter().map(|controller| controller.cntlid).collect();
    assert_eq!(controllers, [1], "only the witness has one");
}

#[test]
fn a_host_that_vanishes_with_commands_under_way_leaves_nothing() {
    for turns in 0..12 {
        let mut world = World::new(Options::default());
        let (mut admin, mut io) = world.pair(Talk::PLAIN);
        for block in 0..10 {
            io.write(block, &[1; 512], true);
            io.write(block, &[1; 8192], false);
            io.read(block, 16);
        }
        admin.await_event();
        world.turns(turns);
        io.end.end();
        admin.end.end();
        world.turns(30);
        assert_eq!((world.pollers(), world.meters.live()), (0, 0), "after {turns} turns");
    }
}

#[test]
fn garbage_behind_a_good_beginning_harms_nobody() {
    let mut world = World::new(Options::default());
    let mut witness = Witness::new(&mut world);
    let mut state = 0x1234_5678_u32;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state
    };
    for _ in 0..400 {
        let end = raw(&mut world);
        end.send(&request());
        end.send(&connect(0, 0xffff));
        world.turns(6);
        // Commands with every bit at random, in whole PDUs.
        for _ in 0..8 {
            let mut bytes: Vec<u8> = (0..64).map(|_| random().to_le_bytes()[0]).collect();
            if random() % 2 == 0 {
                bytes[0] = [0x02, 0x06, 0x09, 0x0a, 0x0c, 0x18, 0x7f, 0x08][random() as usize % 8];
                bytes[1] = 0x40;
                bytes[39] = [0x5a, 0x01][random() as usize % 2];
                bytes[34..36].fill(0);
            }
            let len = [0, 0, 16, 512, 4096][random() as usize % 5];
            let mut head = [0; 160];
            let put = Builder::new(Terms::default()).put_command(bytes.as_slice().try_into().unwrap(), len, &mut head);
            end.send(&head[..put]);
            end.send(&vec![0x33; len as usize]);
        }
        world.turns(8);
        end.end();
    }
    world.turns(20);
    witness.looks(&mut world);
}
