//! One row of the table as it is played: how far the host is, what it says, what must come of it, and the neighbour beside it.

use std::collections::BTreeMap;
use std::time::Duration;

use spinel_nvme::command::{Command, IoOpcode};
use spinel_nvme::fabrics::{Connect, ConnectData, Property, PropertySize};
use spinel_nvme::io::Blocks;
use spinel_nvme::registers::{Configuration, offset};
use spinel_nvme::sgl::Sgl;
use spinel_nvme::status::StatusCode;
use spinel_nvmf::nqn::Nqn;
use spinel_nvmf::tcp::build::put_request;
use spinel_nvmf::tcp::{Alignment, Builder, DataPdu, FatalStatus, IcReq, R2t, Terms};
use zerocopy::IntoBytes as _;

use crate::common::host::{Answer, HOST, Host, OTHER, Talk, bytes};
use crate::common::wire::HostEnd;
use crate::common::world::{SUBSYSTEM, World, address};

/// How far the host is before it does wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Start {
    /// It has connected, and said nothing.
    Silent,
    /// It has agreed on how to talk.
    Agreed,
    /// The same, with digests of everything.
    Digests,
    /// Its admin queue is connected.
    Connected,
    /// Its controller works.
    Enabled,
    /// It has a queue for I/O, and plays there.
    Io,
    /// The same, with digests of everything.
    IoDigests,
    /// Its admin queue is connected, and it has to prove who it is.
    Unproven,
}

/// What must come of it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Then {
    /// The connection is terminated, with this status.
    Ends(FatalStatus),
    /// The connection is closed without a word about it.
    Closes,
    /// The last command is answered with this, and the connection goes on.
    Is(StatusCode),
    /// The connection goes on.
    GoesOn,
}

/// One row.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    start: Start,
    then: Then,
    act: fn(&mut Stage<'_>),
}

impl Case {
    pub(crate) fn new(name: &'static str, start: Start, then: Then, act: fn(&mut Stage<'_>)) -> Self {
        Self { name, start, then, act }
    }
}

/// A host as it plays.
pub(crate) struct Stage<'a> {
    pub(crate) world: &'a mut World,
    neighbour: &'a mut Neighbour,
    /// The connection it does wrong on.
    pub(crate) host: Host,
    /// Its admin queue, if that is another one.
    pub(crate) admin: Option<Host>,
    pub(crate) cntlid: u16,
    /// What the last command was answered with.
    last: Option<Answer>,
    /// Nothing is said on it any more.
    pub(crate) silent: bool,
    digests: bool,
}

impl<'a> Stage<'a> {
    /// Everything as it is before a row.
    pub(crate) fn set(world: &'a mut World, neighbour: &'a mut Neighbour, case: &Case) -> Self {
        let digests = matches!(case.start, Start::Digests | Start::IoDigests);
        let talk = Talk { header_digest: digests, data_digest: digests, alignment: 0 };
        let (mut admin, mut cntlid) = (None, 0xffff);
        let host = match case.start {
            Start::Silent => {
                let end = HostEnd::default();
                let far = end.clone();
                let (port, from) = (world.ports[0], address(0));
                assert!(world.target.admit(world.mailbox(), port, "silent".into(), from, move |core| Ok(far.stream(core))));
                Host::silent(end)
            }
            Start::Agreed | Start::Digests => world.dial(0, talk),
            Start::Connected => {
                let mut host = world.dial(0, talk);
                cntlid = crate::common::host::controller(&host.connect(world, &HOST, SUBSYSTEM, 0, 0xffff));
                host
            }
            Start::Enabled => {
                let (host, number) = world.admin(&HOST, 0, talk);
                cntlid = number;
                host
            }
            Start::Io | Start::IoDigests => {
                let (queue, number) = world.admin(&HOST, 0, talk);
                (admin, cntlid) = (Some(queue), number);
                world.queue(&HOST, 0, number, 1, talk)
            }
            Start::Unproven => {
                let mut host = world.dial(0, talk);
                let connected = host.connect(world, &HOST, super::proofs::GUARDED, 0, 0xffff);
                cntlid = crate::common::host::controller(&connected);
                host
            }
        };
        Self { world, neighbour, host, admin, cntlid, last: None, silent: false, digests }
    }

    /// Plays a row, and looks at what came of it.
    pub(crate) fn run(mut self, case: &Case) {
        (case.act)(&mut self);
        self.turns(20);
        let name = case.name;
        match case.then {
            Then::Ends(status) => {
                assert_eq!(self.host.fatal, Some(status.code()), "{name}: it is told");
                self.pass(3);
                assert!(self.host.end.is_closed(), "{name}: it is closed");
            }
            Then::Closes => {
                self.pass(3);
                assert_eq!(self.host.fatal, None, "{name}: it is closed without a word");
                assert!(self.host.end.is_closed(), "{name}: it is closed");
            }
            Then::Is(code) => {
                let answer = self.last.take().unwrap_or_else(|| panic!("{name}: nothing was answered"));
                assert_eq!(answer.status.code(), code, "{name}");
                self.goes_on(case);
            }
            Then::GoesOn => self.goes_on(case),
        }
        for host in self.admin.iter().chain([&self.host]) {
            host.end.end();
            host.end.set_deaf(false);
        }
        self.turns(30);
        assert!(self.host.end.is_closed(), "{name}: it has left");
    }

    /// The connection is still good for something.
    fn goes_on(&mut self, case: &Case) {
        let name = case.name;
        assert!(!self.host.end.is_closed() && self.host.fatal.is_none(), "{name}: it goes on");
        if self.silent {
            return;
        }
        self.host.answers_r2ts = true;
        let answer = match case.start {
            Start::Silent | Start::Unproven => return,
            Start::Io | Start::IoDigests => self.ask(Blocks::new(9, 1).command(IoOpcode::Read, 1, Sgl::transport(512))),
            _ => self.ask(Property { offset: offset::VERSION, size: PropertySize::Four }.get()),
        };
        let code = answer.status.code();
        let fits = code == StatusCode::SUCCESS || matches!(case.start, Start::Agreed | Start::Digests) && code == StatusCode::SEQUENCE;
        assert!(fits, "{name}: it does not go on: {code:?}");
    }

    pub(crate) fn turns(&mut self, count: usize) {
        for _ in 0..count {
            self.world.turn();
            self.host.take();
            self.admin.iter_mut().for_each(|admin| _ = admin.take());
            self.neighbour.turn();
        }
    }

    /// Lets seconds pass, in which those who have nothing to hide show that they are alive.
    pub(crate) fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds.div_ceil(3) {
            self.world.now = self.world.now.after(Duration::from_secs(3));
            if let Some(admin) = self.admin.as_mut().filter(|admin| !admin.end.is_closed()) {
                admin.keep_alive();
            }
            self.neighbour.show_alive();
            self.turns(10);
        }
    }

    /// Says bytes.
    pub(crate) fn say(&mut self, bytes: &[u8]) {
        self.host.end.send(bytes);
        self.turns(6);
    }

    /// Sends a command as this host talks, and does not wait for its answer.
    pub(crate) fn send(&mut self, command: Command, capsule: &[u8], later: &[u8]) -> u16 {
        let id = self.host.send(command, capsule, later);
        self.turns(6);
        id
    }

    /// The answer to a command.
    pub(crate) fn wait(&mut self, id: u16) -> Answer {
        for _ in 0..400 {
            if let Some(answer) = self.host.answer(id) {
                self.last = Some(answer.clone());
                return answer;
            }
            self.turns(1);
        }
        panic!("command {id} is not answered");
    }

    pub(crate) fn ask(&mut self, command: Command) -> Answer {
        self.ask_with(command, &[], &[])
    }

    pub(crate) fn ask_with(&mut self, command: Command, capsule: &[u8], later: &[u8]) -> Answer {
        let id = self.host.send(command, capsule, later);
        self.wait(id)
    }

    /// The answers to many commands, some of which are under way at a time.
    pub(crate) fn ask_all(&mut self, commands: impl IntoIterator<Item = Command>) -> Vec<Answer> {
        let commands: Vec<Command> = commands.into_iter().collect();
        let mut answers = Vec::new();
        for some in commands.chunks(24) {
            let ids: Vec<u16> = some.iter().map(|command| self.host.send(*command, &[], &[])).collect();
            answers.extend(ids.into_iter().map(|id| self.wait(id)));
        }
        answers
    }

    /// One more queue of this host, connected like this; what that was answered with is what counts.
    pub(crate) fn join(&mut self, port: usize, change: impl FnOnce(&mut Connect, &mut ConnectData)) {
        let mut host = self.world.dial(port, Talk::PLAIN);
        let mut connect = connect(1);
        let mut data = data(SUBSYSTEM, HOST.host, self.cntlid);
        change(&mut connect, &mut data);
        let id = host.send(connect.command(), data.as_bytes(), &[]);
        for _ in 0..50 {
            self.turns(1);
            host.take();
        }
        self.last = host.answer(id);
        host.end.end();
        self.turns(10);
    }

    /// The first R2T of a write of so many blocks, which is not answered.
    pub(crate) fn r2t(&mut self, blocks: u32) -> R2t {
        self.host.answers_r2ts = false;
        let write = Blocks::new(0, blocks).command(IoOpcode::Write, 1, Sgl::transport(blocks * 512));
        self.send(write, &[], &vec![0x5a; blocks as usize * 512]);
        self.host.r2ts.pop().expect("it is asked for")
    }

    /// Data to the target, as this host talks.
    pub(crate) fn data(&mut self, r2t: &R2t, change: impl FnOnce(&mut DataPdu)) {
        let R2t { command_id, transfer_tag, offset, len_bytes } = *r2t;
        let mut data = DataPdu { command_id, transfer_tag, offset, len_bytes, last: true, success: false };
        change(&mut data);
        let said = data_pdu(&self.host.builder, &data, self.digests);
        self.say(&said);
    }
}

/// H2CData, whole.
pub(crate) fn data_pdu(builder: &Builder, data: &DataPdu, digests: bool) -> Vec<u8> {
    let mut head = [0; 160];
    let len = builder.put_data_to_target(data, &mut head);
    let body = vec![0x5a; data.len_bytes as usize];
    let mut crc = spinel_nvmf::tcp::Crc::default();
    crc.update(&body);
    let mut tail = [0; 4];
    let tail_len = if digests { builder.put_tail(&crc, &mut tail) } else { 0 };
    [&head[..len], &body, &tail[..tail_len]].concat()
}

/// ICReq, changed.
pub(crate) fn request(change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let asked = IcReq { alignment: Alignment::default(), header_digest: false, data_digest: false, r2ts_max_less_one: 0 };
    let mut bytes = vec![0; 128];
    put_request(&asked, &mut bytes);
    change(&mut bytes);
    bytes
}

/// A command in its capsule without digests, changed.
pub(crate) fn capsule(command: Command, data: &[u8], change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut head = [0; 160];
    let bytes = command.as_bytes().try_into().unwrap();
    let len = Builder::new(Terms::default()).put_command(bytes, u32::try_from(data.len()).unwrap(), &mut head);
    let mut said = [&head[..len], data].concat();
    change(&mut said);
    said
}

pub(crate) fn connect(queue: u16) -> Connect {
    let keep_alive_ms = if queue == 0 { 10_000 } else { 0 };
    Connect { format: 0, queue, size_less_one: 31, priority: 0, no_flow_control: false, deletes_queues: false, keep_alive_ms }
}

pub(crate) fn data(subsystem: &str, host: &str, controller: u16) -> ConnectData {
    let name = |name: &str| Nqn::of_peer(name.as_bytes()).unwrap().field();
    ConnectData::new([HOST.id; 16], name(host), name(subsystem), controller)
}

/// What a host says until its controller works, and an Identify.
pub(crate) fn conversation() -> Vec<u8> {
    let property = Property { offset: offset::CONFIGURATION, size: PropertySize::Four };
    let enable = property.set(Configuration::enabled().register().into()).with_data(Sgl::transport(0));
    let identify = spinel_nvme::admin::Identify::new(spinel_nvme::admin::Cns::Controller, 0).command(Sgl::transport(4096));
    [
        request(|_| ()),
        capsule(connect(0).command(), data(SUBSYSTEM, HOST.host, 0xffff).as_bytes(), |_| ()),
        capsule(enable.with_id(1), &[], |_| ()),
        capsule(identify.with_id(2), &[], |_| ()),
    ]
    .concat()
}

/// Somebody says this much, and is gone after so many turns.
pub(crate) fn vanish(world: &mut World, neighbour: &mut Neighbour, said: &[u8], turns: usize) {
    let end = HostEnd::default();
    let far = end.clone();
    assert!(world.target.admit(world.mailbox(), world.ports[0], "brief".into(), address(0), move |core| Ok(far.stream(core))));
    end.send(said);
    let mut turn = |count| {
        for _ in 0..count {
            world.turn();
            neighbour.turn();
        }
    };
    turn(turns);
    end.end();
    turn(12);
    assert!(end.is_closed());
}

/// Another host, whose requests go on and are verified all the time.
pub(crate) struct Neighbour {
    admin: Host,
    io: Host,
    /// The seed of what each of its blocks holds.
    blocks: Vec<usize>,
    pending: BTreeMap<u16, Pending>,
    turn: usize,
    /// Turns that a request has taken at most.
    pub(crate) longest: usize,
    /// Requests that were answered as they should be.
    pub(crate) done: usize,
}

struct Pending {
    since: usize,
    block: usize,
    /// The seed that is written, or was when it was read.
    seed: usize,
    writes: bool,
}

/// The neighbour's blocks, far from those that others play with.
const FIRST: u64 = 4096;
const COUNT: usize = 8;

impl Neighbour {
    pub(crate) fn new(world: &mut World) -> Self {
        let (admin, cntlid) = world.admin(&OTHER, 0, Talk::PLAIN);
        // Where the others come, too.
        let io = world.queue(&OTHER, 0, cntlid, 1, Talk::PLAIN);
        let mut neighbour = Self { admin, io, blocks: vec![0; COUNT], pending: BTreeMap::new(), turn: 0, longest: 0, done: 0 };
        for block in 0..COUNT {
            neighbour.write(block, 0);
        }
        neighbour
    }

    fn write(&mut self, block: usize, seed: usize) {
        let in_capsule = seed.is_multiple_of(2);
        let id = self.io.write(FIRST + 2 * block as u64, &bytes(1024, seed), in_capsule);
        self.pending.insert(id, Pending { since: self.turn, block, seed, writes: true });
    }

    pub(crate) fn show_alive(&mut self) {
        self.admin.keep_alive();
    }

    /// Looks at what was answered, and asks for as much again.
    pub(crate) fn turn(&mut self) {
        self.turn += 1;
        self.admin.take();
        self.io.take();
        let ids: Vec<u16> = self.pending.keys().copied().collect();
        for id in ids {
            let Some(answer) = self.io.answer(id) else { continue };
            let Pending { since, block, seed, writes } = self.pending.remove(&id).unwrap();
            assert!(answer.status.is_success(), "a neighbour's request: {}", answer.status);
            self.longest = self.longest.max(self.turn - since);
            self.done += 1;
            if writes {
                self.blocks[block] = seed;
                let id = self.io.read(FIRST + 2 * block as u64, 2);
                self.pending.insert(id, Pending { since: self.turn, block, seed, writes: false });
            } else {
                assert!(answer.data == bytes(1024, seed), "a neighbour's data");
                self.write(block, seed + 1 + block);
            }
        }
        let waits = self.pending.values().map(|pending| self.turn - pending.since).max();
        self.longest = self.longest.max(waits.unwrap_or(0));
    }
}
