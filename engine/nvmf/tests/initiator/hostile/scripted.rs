//! A target that answers as one does, but for what a test has it do otherwise.

use std::collections::VecDeque;

use spinel_core::{Stream, StreamState};
use spinel_nvme::admin::{Cns, GetLogPage, Identify};
use spinel_nvme::command::{AdminOpcode, Command, IoOpcode};
use spinel_nvme::completion::Completion;
use spinel_nvme::fabrics::{Connect, Connected, FabricsType, Property};
use spinel_nvme::features::QueueCounts;
use spinel_nvme::identify::{Controller, ControllerKind, Descriptor, Descriptors, Namespace, NamespaceList, flags};
use spinel_nvme::io::Blocks;
use spinel_nvme::log::{AnaGroup, AnaHead, AnaState};
use spinel_nvme::registers::{Capabilities, Configuration, ControllerStatus, offset};
use spinel_nvme::sgl::Place;
use spinel_nvme::status::{StatusCode, StatusField};
use spinel_nvmf::tcp::build::put_response;
use spinel_nvmf::tcp::{Alignment, Builder, Carrier, Crc, DataPdu, Event, IcReq, IcResp, Limits, Pdu, R2t, Receiver, Role, Terms};
use spinel_sim::SimStream;
use zerocopy::{FromBytes as _, FromZeros as _, IntoBytes as _};

use super::super::world::lab;

/// What a target is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum At {
    /// How to talk.
    Setup,
    Connect(u16),
    Get(u32),
    Identify(Cns),
    Log,
    Queues,
    Event,
    KeepAlive,
    Read,
    Write,
}

/// What it can say instead.
pub(crate) struct Say {
    pub(crate) builder: Builder,
    pub(crate) id: u16,
    pub(crate) out: Vec<u8>,
    pub(crate) closes: bool,
    /// The bytes that the command may bring, or has.
    pub(crate) len_bytes: u32,
}

impl Say {
    pub(crate) fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.out.extend_from_slice(bytes);
        self
    }

    pub(crate) fn end(&mut self, status: StatusField, result: u64) -> &mut Self {
        self.end_of(self.id, status, result)
    }

    pub(crate) fn end_of(&mut self, id: u16, status: StatusField, result: u64) -> &mut Self {
        let completion = Completion::new(id, status).with_result(result);
        let mut bytes = [0; 160];
        let len = self.builder.put_completion(&completion.as_bytes().try_into().unwrap(), &mut bytes);
        self.raw(&bytes[..len])
    }

    pub(crate) fn done(&mut self) -> &mut Self {
        self.end(StatusField::SUCCESS, 0)
    }

    pub(crate) fn data(&mut self, offset: u32, bytes: &[u8], last: bool, success: bool) -> &mut Self {
        self.data_of(self.id, offset, bytes, last, success)
    }

    pub(crate) fn data_of(&mut self, command_id: u16, offset: u32, bytes: &[u8], last: bool, success: bool) -> &mut Self {
        let len_bytes = u32::try_from(bytes.len()).unwrap();
        let pdu = DataPdu { command_id, transfer_tag: 0, offset, len_bytes, last, success };
        let mut head = [0; 160];
        let len = self.builder.put_data_to_host(&pdu, &mut head);
        let mut crc = Crc::default();
        crc.update(bytes);
        let mut tail = [0; 4];
        let tail_len = self.builder.put_tail(&crc, &mut tail);
        self.raw(&head[..len]).raw(bytes).raw(&tail[..tail_len])
    }

    pub(crate) fn ask(&mut self, command_id: u16, transfer_tag: u16, offset: u32, len_bytes: u32) -> &mut Self {
        let mut head = [0; 160];
        let len = self.builder.put_r2t(&R2t { command_id, transfer_tag, offset, len_bytes }, &mut head);
        self.raw(&head[..len])
    }
}

/// What is done otherwise: when, and for how many times.
pub(crate) struct Mischief {
    pub(crate) at: At,
    pub(crate) left: u32,
    pub(crate) act: Box<dyn Fn(&mut Say)>,
    pub(crate) done: u32,
}

/// One connection of it.
pub(crate) struct Scripted {
    stream: SimStream,
    receiver: Receiver,
    builder: Builder,
    out: VecDeque<u8>,
    closes: bool,
    ready: bool,
    queue: u16,
    /// A command whose data are coming, with those that have come.
    command: Option<(Command, Vec<u8>, u32)>,
}

/// The disk behind it: what reads bring.
pub(crate) fn block(number: u64) -> Vec<u8> {
    (0..512).map(|at| u8::try_from((number * 7 + at) % 251).unwrap()).collect()
}

impl Scripted {
    pub(crate) fn new(stream: SimStream) -> Self {
        let limits = Limits { capsule_data_bytes_max: 64 << 10, data_bytes_max: 1 << 20 };
        Self {
            stream,
            receiver: Receiver::new(Role::Target, limits),
            builder: Builder::new(Terms::default()),
            out: VecDeque::new(),
            closes: false,
            ready: false,
            queue: 0,
            command: None,
        }
    }

    pub(crate) fn poll(&mut self) -> bool {
        let mut any = false;
        while self.stream.state() == StreamState::Open || !self.stream.incoming().is_empty() {
            let bytes = self.stream.incoming().to_vec();
            let Ok(step) = self.receiver.next(&bytes) else {
                self.closes = true;
                break;
            };
            self.stream.take(step.used);
            let Some(event) = step.event else { break };
            any = true;
            match event {
                Event::Header(Pdu::IcReq(asked)) => self.set_up(&asked),
                Event::Header(Pdu::CapsuleCmd { command, data_bytes }) => {
                    let command = Command::read_from_bytes(&command).unwrap();
                    self.command = Some((command, Vec::new(), data_bytes));
                    if data_bytes == 0 {
                        self.run();
                    }
                }
                Event::Header(_) => {}
                Event::Data { bytes, .. } => {
                    if let Some((_, data, _)) = &mut self.command {
                        data.extend_from_slice(bytes);
                    }
                }
                Event::End { of: Carrier::CapsuleCmd { .. }, .. } => self.run(),
                Event::End { of: Carrier::H2cData(data), .. } if data.last => self.written(data.command_id),
                Event::End { .. } => {}
            }
        }
        self.send() || any
    }

    fn send(&mut self) -> bool {
        let mut any = false;
        while !self.out.is_empty() && self.stream.room() > 0 {
            let some: Vec<u8> = self.out.drain(..self.out.len().min(256)).collect();
            self.stream.send(&some, &[], &[]);
            any = true;
        }
        if self.closes && self.out.is_empty() && self.stream.state() == StreamState::Open {
            self.stream.close();
            any = true;
        }
        any
    }

    /// Does the mischief, if it is time for it. Whether it was.
    fn mischief(&mut self, at: At, id: u16, len_bytes: u32) -> bool {
        let mut say = Say { builder: self.builder, id, out: Vec::new(), closes: false, len_bytes };
        let acted = lab(|lab| {
            if lab.script.as_mut().is_some_and(|script| script(at, &mut say)) {
                return Some(());
            }
            let mischief = lab.mischief.as_mut().filter(|mischief| mischief.at == at && mischief.left > 0)?;
            mischief.left -= 1;
            mischief.done += 1;
            (mischief.act)(&mut say);
            Some(())
        });
        self.out.extend(spoilt(say.out));
        self.closes |= say.closes;
        acted.is_some()
    }

    fn set_up(&mut self, asked: &IcReq) {
        let answer = IcResp {
            alignment: Alignment::default(),
            header_digest: asked.header_digest,
            data_digest: asked.data_digest,
            data_bytes_max: 8192,
        };
        let terms = Terms::of_target(asked, &answer);
        self.receiver.agree(terms);
        if !self.mischief(At::Setup, 0, 0) {
            let mut bytes = [0; 128];
            let len = put_response(&answer, &mut bytes);
            self.out.extend(&bytes[..len]);
        }
        self.builder = Builder::new(terms);
    }

    fn run(&mut self) {
        let Some((command, data, data_bytes)) = self.command.take() else { return };
        let id = command.id();
        let len_bytes = match command.data().place() {
            Place::Transport { len_bytes } | Place::Capsule { len_bytes, .. } => len_bytes,
            _ => 0,
        };
        let at = at_of(&command, self.queue);
        if let Some(At::Connect(queue)) = at {
            self.queue = queue;
        }
        if at.is_some_and(|at| self.mischief(at, id, len_bytes)) {
            return;
        }
        let mut say = Say { builder: self.builder, id, out: Vec::new(), closes: false, len_bytes };
        let _ = data;
        if self.queue > 0 && !command.is_fabrics() {
            io(&command, &mut say, data_bytes);
        } else {
            answer(&command, &mut say, &mut self.ready);
        }
        self.out.extend(spoilt(say.out));
    }

    fn written(&mut self, id: u16) {
        let mut say = Say { builder: self.builder, id, out: Vec::new(), closes: false, len_bytes: 0 };
        say.done();
        self.out.extend(spoilt(say.out));
    }
}

/// The answer to a command of an admin queue.
fn answer(command: &Command, say: &mut Say, ready: &mut bool) {
    if command.is_fabrics() {
        return fabrics(command, say, ready);
    }
    match AdminOpcode::of(command.opcode()) {
        Some(AdminOpcode::Identify) => {
            let page = page(&Identify::of(command));
            say.data(0, &page, true, true);
        }
        Some(AdminOpcode::SetFeatures) => {
            say.end(StatusField::SUCCESS, QueueCounts { submission: 4, completion: 4 }.value().into());
        }
        Some(AdminOpcode::GetLogPage) => {
            let len = usize::try_from(GetLogPage::of(command).len_bytes()).unwrap();
            let mut log = vec![0; len];
            log[..16].copy_from_slice(AnaHead::new(1, 1).as_bytes());
            log[16..48].copy_from_slice(AnaGroup::new(1, AnaState::Optimized, 1, 0).as_bytes());
            say.data(0, &log, true, false).done();
        }
        Some(AdminOpcode::AsyncEventRequest) => {}
        Some(AdminOpcode::KeepAlive) => {
            say.done();
        }
        _ => {
            say.end(StatusCode::INVALID_OPCODE.permanent(), 0);
        }
    }
}

fn fabrics(command: &Command, say: &mut Say, ready: &mut bool) {
    match FabricsType::of(command.fabrics_type()) {
        Some(FabricsType::Connect) => {
            let connected = Connected { controller: 1, authenticate: false, authenticate_secured: false };
            say.end(StatusField::SUCCESS, connected.result());
        }
        Some(FabricsType::PropertySet) => {
            let property = Property::of(command).unwrap();
            let value = u32::try_from(property.value_of(command)).unwrap();
            *ready = Configuration::of(value).enable;
            say.done();
        }
        Some(FabricsType::PropertyGet) => {
            let value = match Property::of(command).unwrap().offset {
                offset::CAPABILITIES => {
                    Capabilities { queue_max_less_one: 127, timeout_500ms: 2, nvm: true, ..Default::default() }.register()
                }
                _ => u64::from(ControllerStatus { ready: *ready, ..ControllerStatus::STOPPED }.register()),
            };
            say.end(StatusField::SUCCESS, value);
        }
        _ => {
            say.end(StatusCode::INVALID_OPCODE.permanent(), 0);
        }
    }
}

fn at_of(command: &Command, queue: u16) -> Option<At> {
    if command.is_fabrics() {
        return match FabricsType::of(command.fabrics_type())? {
            FabricsType::Connect => Some(At::Connect(Connect::of(command).queue)),
            FabricsType::PropertyGet => Some(At::Get(Property::of(command)?.offset)),
            _ => None,
        };
    }
    if queue > 0 {
        return match IoOpcode::of(command.opcode())? {
            IoOpcode::Read => Some(At::Read),
            IoOpcode::Write => Some(At::Write),
            _ => None,
        };
    }
    match AdminOpcode::of(command.opcode())? {
        AdminOpcode::Identify => Some(At::Identify(Cns::of(Identify::of(command).cns)?)),
        AdminOpcode::GetLogPage => Some(At::Log),
        AdminOpcode::SetFeatures if command.dword(10) == 7 => Some(At::Queues),
        AdminOpcode::AsyncEventRequest => Some(At::Event),
        AdminOpcode::KeepAlive => Some(At::KeepAlive),
        _ => None,
    }
}

fn io(command: &Command, say: &mut Say, in_capsule: u32) {
    match IoOpcode::of(command.opcode()) {
        Some(IoOpcode::Read) => {
            let blocks = Blocks::of(command);
            let bytes: Vec<u8> = (blocks.start..blocks.end().unwrap()).flat_map(block).collect();
            say.data(0, &bytes, true, true);
        }
        Some(IoOpcode::Write) if in_capsule == 0 => {
            say.ask(say.id, 9, 0, say.len_bytes);
        }
        _ => {
            say.done();
        }
    }
}

pub(crate) fn controller() -> Controller {
    let mut page = Controller::new_zeroed();
    page.id = 1.into();
    page.transfer_max_power = 5;
    page.multipath = flags::CMIC_ANA;
    page.kind = ControllerKind::Io.code();
    page.command_capsule_16_bytes = ((64 + 4096) / 16).into();
    page.commands = (flags::ONCS_DATASET_MANAGEMENT | flags::ONCS_WRITE_ZEROES).into();
    page.keep_alive_granularity = 1.into();
    page
}

pub(crate) fn namespace() -> Namespace {
    let mut page = Namespace::new(1000, 512);
    page.ana_group = 1.into();
    page
}

/// The same, or with a byte that is another one, or without its end, or with something of it twice.
fn spoilt(mut bytes: Vec<u8>) -> Vec<u8> {
    lab(|lab| {
        let Some(prng) = lab.prng.as_mut().filter(|_| lab.spoils_one_in > 0 && !bytes.is_empty()) else { return bytes };
        if prng.one_in(lab.spoils_one_in) {
            lab.spoilt += 1;
            let at = prng.index(bytes.len().min(200));
            match prng.below(8) {
                0 => bytes.truncate(at),
                1 => bytes.extend_from_within(at..),
                2 => drop(bytes.drain(..at)),
                _ => bytes[at] ^= 1 << prng.below(8),
            }
        }
        bytes
    })
}

/// What a target answers to a command of an admin queue, as bytes.
pub(crate) fn answer_of(command: &Command, builder: &Builder) -> Vec<u8> {
    let mut say = Say { builder: *builder, id: command.id(), out: Vec::new(), closes: false, len_bytes: 0 };
    let mut ready = true;
    answer(command, &mut say, &mut ready);
    say.out
}

fn page(asked: &Identify) -> Vec<u8> {
    match Cns::of(asked.cns) {
        Some(Cns::Controller) => controller().as_bytes().to_vec(),
        Some(Cns::ActiveNamespaces) => NamespaceList::new([1].into_iter().filter(|nsid| *nsid > asked.nsid)).as_bytes().to_vec(),
        Some(Cns::Namespace) => namespace().as_bytes().to_vec(),
        Some(Cns::NamespaceDescriptors) => Descriptors::new(&[Descriptor::Uuid([3; 16])]).as_bytes().to_vec(),
        _ => vec![0; 4096],
    }
}
