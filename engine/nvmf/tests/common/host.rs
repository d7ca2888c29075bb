//! A host that does what a test says: sends commands, answers R2Ts, keeps what comes back.

use std::collections::BTreeMap;

use spinel_nvme::admin::{Cns, GetLogPage, Identify, SetFeature, async_event_request, keep_alive};
use spinel_nvme::command::{Command, IoOpcode};
use spinel_nvme::completion::Completion;
use spinel_nvme::fabrics::{Connect, ConnectData, Connected, Property, PropertySize};
use spinel_nvme::io::Blocks;
use spinel_nvme::registers::{Configuration, offset};
use spinel_nvme::sgl::Sgl;
use spinel_nvme::status::StatusField;
use spinel_nvmf::nqn::Nqn;
use spinel_nvmf::tcp::build::put_request;
use spinel_nvmf::tcp::{Alignment, Builder, Carrier, Crc, DataPdu, Event, IcReq, Limits, Pdu, R2t, Receiver, Role, Terms, Verdict};
use zerocopy::{FromBytes as _, IntoBytes as _};

use super::wire::HostEnd;
use super::world::World;

/// What a command came back with.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusField,
    pub(crate) result: u64,
    pub(crate) data: Vec<u8>,
}

/// How a host wants to talk.
#[derive(Clone, Copy)]
pub(crate) struct Talk {
    pub(crate) header_digest: bool,
    pub(crate) data_digest: bool,
    pub(crate) alignment: u8,
}

impl Talk {
    pub(crate) const PLAIN: Self = Self { header_digest: false, data_digest: false, alignment: 0 };
}

/// One connection of a host.
pub(crate) struct Host {
    pub(crate) end: HostEnd,
    receiver: Receiver,
    pub(crate) builder: Builder,
    asked: IcReq,
    /// Data of commands that were not asked for yet.
    outgoing: BTreeMap<u16, Vec<u8>>,
    incoming: BTreeMap<u16, Vec<u8>>,
    answers: BTreeMap<u16, Answer>,
    next_id: u16,
    /// R2Ts that were not answered, if they are not to be.
    pub(crate) r2ts: Vec<R2t>,
    pub(crate) answers_r2ts: bool,
    pub(crate) terminated: bool,
    /// The status of that, as it came.
    pub(crate) fatal: Option<u16>,
    /// Most bytes of one H2CData.
    data_bytes_max: u32,
    /// Spoils the digest of the data that go next.
    pub(crate) spoils: bool,
}

/// Who connects.
#[derive(Clone)]
pub(crate) struct Who {
    pub(crate) host: &'static str,
    pub(crate) id: u8,
}

pub(crate) const HOST: Who = Who { host: "nqn.2014-08.org.nvmexpress:uuid:one", id: 1 };
pub(crate) const OTHER: Who = Who { host: "nqn.2014-08.org.nvmexpress:uuid:other", id: 2 };

impl Host {
    pub(crate) fn new(end: HostEnd, talk: Talk) -> Self {
        let asked = IcReq {
            alignment: Alignment::of(talk.alignment).unwrap(),
            header_digest: talk.header_digest,
            data_digest: talk.data_digest,
            r2ts_max_less_one: 0,
        };
        let mut bytes = [0; 128];
        let len = put_request(&asked, &mut bytes);
        end.send(&bytes[..len]);
        Self {
            end,
            receiver: Receiver::new(Role::Host, Limits { capsule_data_bytes_max: 0, data_bytes_max: 1 << 20 }),
            builder: Builder::new(Terms::default()),
            asked,
            outgoing: BTreeMap::new(),
            incoming: BTreeMap::new(),
            answers: BTreeMap::new(),
            next_id: 0,
            r2ts: Vec::new(),
            answers_r2ts: true,
            terminated: false,
            fatal: None,
            data_bytes_max: 4096,
            spoils: false,
        }
    }

    /// One that has said nothing yet.
    pub(crate) fn silent(end: HostEnd) -> Self {
        let host = Self::new(HostEnd::default(), Talk::PLAIN);
        Self { end, ..host }
    }

    /// Takes what has come. Whether there was anything.
    pub(crate) fn take(&mut self) -> bool {
        let bytes = self.end.receive();
        let mut left = &bytes[..];
        loop {
            let step = self.receiver.next(left).expect("a target keeps the rules");
            left = &left[step.used..];
            let Some(event) = step.event else { break };
            assert!(!self.terminated, "nothing comes behind a request to terminate");
            match event {
                Event::Header(Pdu::IcResp(answered)) => {
                    let terms = Terms::of_host(&self.asked, &answered).unwrap();
                    self.data_bytes_max = answered.data_bytes_max;
                    self.receiver.agree(terms);
                    self.builder = Builder::new(terms);
                }
                Event::Header(Pdu::CapsuleResp { completion }) => {
                    let completion = Completion::read_from_bytes(&completion).unwrap();
                    self.finish(completion.id(), completion.status(), completion.result());
                }
                Event::Header(Pdu::R2t(r2t)) if self.answers_r2ts => self.answer_r2t(&r2t),
                Event::Header(Pdu::R2t(r2t)) => self.r2ts.push(r2t),
                Event::Header(Pdu::Terminate(end)) => (self.terminated, self.fatal) = (true, Some(end.status)),
                Event::Header(_) => {}
                Event::Data { of: Carrier::C2hData(data), offset, bytes } => {
                    let all = self.incoming.entry(data.command_id).or_default();
                    assert_eq!(all.len(), (data.offset + offset) as usize, "data come in order");
                    all.extend_from_slice(bytes);
                }
                Event::Data { .. } => unreachable!("only C2HData bring data to a host"),
                Event::End { of, verdict } => {
                    assert!(!matches!(verdict, Verdict::Wrong { .. }), "a target's digests are right");
                    if let Carrier::C2hData(DataPdu { command_id, success: true, .. }) = of {
                        self.finish(command_id, StatusField::SUCCESS, 0);
                    }
                }
            }
        }
        !bytes.is_empty()
    }

    fn finish(&mut self, id: u16, status: StatusField, result: u64) {
        let data = self.incoming.remove(&id).unwrap_or_default();
        self.outgoing.remove(&id);
        let before = self.answers.insert(id, Answer { status, result, data });
        assert!(before.is_none(), "a command is answered once");
    }

    /// Sends what an R2T asks for, in pieces.
    pub(crate) fn answer_r2t(&mut self, r2t: &R2t) {
        let data = self.outgoing[&r2t.command_id].clone();
        let mut at = r2t.offset;
        let end = r2t.offset + r2t.len_bytes;
        while at < end {
            let here = (end - at).min(self.data_bytes_max);
            let pdu = DataPdu {
                command_id: r2t.command_id,
                transfer_tag: r2t.transfer_tag,
                offset: at,
                len_bytes: here,
                last: at + here == end,
                success: false,
            };
            let piece = &data[at as usize..(at + here) as usize];
            let mut head = [0; 160];
            let len = self.builder.put_data_to_target(&pdu, &mut head);
            self.end.send(&head[..len]);
            self.send_data(piece);
            at += here;
        }
    }

    fn send_data(&mut self, bytes: &[u8]) {
        let mut crc = Crc::default();
        crc.update(bytes);
        if std::mem::take(&mut self.spoils) {
            crc.update(b"?");
        }
        let mut tail = [0; 4];
        let len = self.builder.put_tail(&crc, &mut tail);
        self.end.send(bytes);
        self.end.send(&tail[..len]);
    }

    /// Sends a command; `capsule` are data that go with it, `later` those that the target asks for.
    pub(crate) fn send(&mut self, command: Command, capsule: &[u8], later: &[u8]) -> u16 {
        self.next_id = self.next_id.wrapping_add(1);
        self.send_as(self.next_id, command, capsule, later)
    }

    pub(crate) fn send_as(&mut self, id: u16, command: Command, capsule: &[u8], later: &[u8]) -> u16 {
        let bytes: [u8; 64] = command.with_id(id).as_bytes().try_into().unwrap();
        let mut head = [0; 160];
        let len = self.builder.put_command(&bytes, u32::try_from(capsule.len()).unwrap(), &mut head);
        self.end.send(&head[..len]);
        if !capsule.is_empty() {
            self.send_data(capsule);
        }
        if !later.is_empty() {
            self.outgoing.insert(id, later.to_vec());
        }
        id
    }

    /// The answer to a command, if it has come.
    pub(crate) fn answer(&mut self, id: u16) -> Option<Answer> {
        self.answers.remove(&id)
    }

    /// Turns the world until a command is answered.
    pub(crate) fn wait(&mut self, world: &mut World, id: u16) -> Answer {
        for _ in 0..20_000 {
            if let Some(answer) = self.answer(id) {
                return answer;
            }
            world.turn();
            self.take();
        }
        panic!("command {id} is not answered");
    }

    /// Sends a command and waits for its answer.
    pub(crate) fn ask(&mut self, world: &mut World, command: Command, capsule: &[u8], later: &[u8]) -> Answer {
        let id = self.send(command, capsule, later);
        self.wait(world, id)
    }

    /// Asks, and expects that it is done.
    pub(crate) fn done(&mut self, world: &mut World, command: Command, capsule: &[u8], later: &[u8]) -> Answer {
        let answer = self.ask(world, command, capsule, later);
        assert!(answer.status.is_success(), "{command:?}: {}", answer.status);
        answer
    }

    pub(crate) fn connect(&mut self, world: &mut World, who: &Who, subsystem: &str, queue: u16, controller: u16) -> Answer {
        self.connect_with(
            world,
            who,
            subsystem,
            controller,
            Connect {
                format: 0,
                queue,
                size_less_one: 31,
                priority: 0,
                no_flow_control: false,
                deletes_queues: false,
                keep_alive_ms: if queue == 0 { 10_000 } else { 0 },
            },
        )
    }

    pub(crate) fn connect_with(&mut self, world: &mut World, who: &Who, subsystem: &str, controller: u16, connect: Connect) -> Answer {
        let name = |name: &str| Nqn::of_peer(name.as_bytes()).unwrap().field();
        let data = ConnectData::new([who.id; 16], name(who.host), name(subsystem), controller);
        self.settle(world);
        self.ask(world, connect.command(), data.as_bytes(), &[])
    }

    /// Turns until the connection is agreed on.
    pub(crate) fn settle(&mut self, world: &mut World) {
        for _ in 0..100 {
            world.turn();
            self.take();
        }
    }

    /// Makes the controller work.
    pub(crate) fn enable(&mut self, world: &mut World) {
        let property = Property { offset: offset::CONFIGURATION, size: PropertySize::Four };
        self.done(world, property.set(Configuration::enabled().register().into()), &[], &[]);
    }

    pub(crate) fn property(&mut self, world: &mut World, offset: u32, size: PropertySize) -> u64 {
        self.done(world, Property { offset, size }.get(), &[], &[]).result
    }

    pub(crate) fn identify(&mut self, world: &mut World, cns: Cns, nsid: u32) -> Answer {
        self.ask(world, Identify::new(cns, nsid).command(Sgl::transport(4096)), &[], &[])
    }

    pub(crate) fn log(&mut self, world: &mut World, page: u8, len: u32) -> Answer {
        self.ask(world, GetLogPage::new(page, u32::MAX, 0, len.into()).command(Sgl::transport(len)), &[], &[])
    }

    pub(crate) fn set_feature(&mut self, world: &mut World, feature: u8, value: u32) -> Answer {
        self.ask(world, SetFeature::new(feature, 0, value).command(Sgl::transport(0)), &[], &[])
    }

    pub(crate) fn await_event(&mut self) -> u16 {
        self.send(async_event_request().with_data(Sgl::transport(0)), &[], &[])
    }

    pub(crate) fn keep_alive(&mut self) -> u16 {
        self.send(keep_alive().with_data(Sgl::transport(0)), &[], &[])
    }

    pub(crate) fn read(&mut self, start: u64, blocks: u32) -> u16 {
        let command = Blocks::new(start, blocks).command(IoOpcode::Read, 1, Sgl::transport(blocks * 512));
        self.send(command, &[], &[])
    }

    pub(crate) fn write(&mut self, start: u64, bytes: &[u8], in_capsule: bool) -> u16 {
        let (len, blocks) = (u32::try_from(bytes.len()).unwrap(), u32::try_from(bytes.len() / 512).unwrap());
        let sgl = if in_capsule { Sgl::capsule(0, len) } else { Sgl::transport(len) };
        let command = Blocks::new(start, blocks).command(IoOpcode::Write, 1, sgl);
        if in_capsule { self.send(command, bytes, &[]) } else { self.send(command, &[], bytes) }
    }
}

/// The controller that a Connect was answered with.
pub(crate) fn controller(answer: &Answer) -> u16 {
    assert!(answer.status.is_success(), "{}", answer.status);
    Connected::of(answer.result).controller
}

/// Bytes that differ from block to block, and from seed to seed.
pub(crate) fn bytes(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|at| u8::try_from((at * 7 + at / 512 * 13 + seed * 31) % 251).unwrap()).collect()
}
