//! Requests allocate nothing once a queue is connected: reads, writes with their data and when they are asked for, flushes,
//! ranges, with and without digests.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use spinel_core::mem::{Region, Segment};
use spinel_core::{
    Armed, Break, Channel, Completions, Core, CoreId, Device, Instant, Lba, Op, OpenError, Request, Status, Stream, StreamState, Tag,
    mailbox,
};
use spinel_nvme::command::{AdminOpcode, Command, IoOpcode};
use spinel_nvme::completion::Completion;
use spinel_nvme::io::Blocks;
use spinel_nvme::status::StatusField;
use spinel_nvmf::initiator::{AttachSpec, Event as Told, Initiator, Me, Network, Patience, Settings};
use spinel_nvmf::nqn::Nqn;
use spinel_nvmf::tcp::build::put_response;
use spinel_nvmf::tcp::{Alignment, Builder, Carrier, Crc, DataPdu, Event, IcResp, Limits, Pdu, R2t, Receiver, Role, Terms};
use spinel_reactor::Reactor;
use spinel_sim::SimSleeper;
use zerocopy::{FromBytes as _, IntoBytes as _};

use super::hostile::scripted::answer_of;

/// Room for what it has said and nobody has taken.
const SAID_BYTES: usize = 8 << 20;
/// Bytes of data, whatever they are for.
static DATA: [u8; 128 << 10] = [7; 128 << 10];

/// A target that answers at once, in the same thread, without allocating anything for requests.
struct Lean {
    receiver: Receiver,
    builder: Builder,
    said: Vec<u8>,
    taken: usize,
    sent: u64,
    io: bool,
    command: Option<(Command, u32)>,
    closed: bool,
    /// Digest of `DATA` by their length in blocks.
    digests: Rc<[u32]>,
}

impl Lean {
    fn hear(&mut self, mut bytes: &[u8]) {
        loop {
            let step = self.receiver.next(bytes).expect("an initiator keeps the rules");
            bytes = &bytes[step.used..];
            match step.event {
                None => return,
                Some(Event::Header(Pdu::IcReq(asked))) => {
                    let (alignment, header_digest, data_digest) = (Alignment::default(), asked.header_digest, asked.data_digest);
                    let answer = IcResp { alignment, header_digest, data_digest, data_bytes_max: 32 << 10 };
                    let mut out = [0; 128];
                    let len = put_response(&answer, &mut out);
                    self.said.extend_from_slice(&out[..len]);
                    let terms = Terms::of_target(&asked, &answer);
                    self.receiver.agree(terms);
                    self.builder = Builder::new(terms);
                }
                Some(Event::Header(Pdu::CapsuleCmd { command, data_bytes })) => {
                    let command = Command::read_from_bytes(&command).unwrap();
                    self.command = Some((command, data_bytes));
                    if data_bytes == 0 {
                        self.run();
                    }
                }
                Some(Event::End { of: Carrier::CapsuleCmd { .. }, .. }) => self.run(),
                Some(Event::End { of: Carrier::H2cData(data), .. }) if data.last => self.done(data.command_id),
                _ => {}
            }
        }
    }

    fn run(&mut self) {
        let Some((command, in_capsule)) = self.command.take() else { return };
        let id = command.id();
        if !self.io {
            self.io = command.is_fabrics() && command.dword(10) >> 16 == 1 && command.fabrics_type() == 1;
            if command.opcode() != AdminOpcode::AsyncEventRequest.code() {
                let answer = answer_of(&command, &self.builder);
                self.said.extend_from_slice(&answer);
            }
            return;
        }
        match IoOpcode::of(command.opcode()) {
            Some(IoOpcode::Read) => {
                let blocks = Blocks::of(&command).count;
                let data = DataPdu { command_id: id, transfer_tag: 0, offset: 0, len_bytes: blocks * 512, last: true, success: true };
                let mut head = [0; 160];
                let len = self.builder.put_data_to_host(&data, &mut head);
                self.said.extend_from_slice(&head[..len]);
                self.said.extend_from_slice(&DATA[..blocks as usize * 512]);
                if self.builder.data_digest() {
                    self.said.extend_from_slice(&self.digests[blocks as usize].to_le_bytes());
                }
            }
            Some(IoOpcode::Write) if in_capsule == 0 => {
                let r2t = R2t { command_id: id, transfer_tag: 3, offset: 0, len_bytes: Blocks::of(&command).count * 512 };
                let mut head = [0; 160];
                let len = self.builder.put_r2t(&r2t, &mut head);
                self.said.extend_from_slice(&head[..len]);
            }
            _ => self.done(id),
        }
    }

    fn done(&mut self, id: u16) {
        let completion = Completion::new(id, StatusField::SUCCESS);
        let mut head = [0; 160];
        let len = self.builder.put_completion(completion.as_bytes().try_into().unwrap(), &mut head);
        self.said.extend_from_slice(&head[..len]);
    }
}

impl Stream for Lean {
    fn incoming(&self) -> &[u8] {
        &self.said[self.taken..]
    }

    fn take(&mut self, count: usize) {
        self.taken += count;
        if self.taken == self.said.len() {
            self.said.clear();
            self.taken = 0;
        }
    }

    fn room(&self) -> usize {
        128
    }

    fn send(&mut self, head: &[u8], body: &[Segment], tail: &[u8]) {
        self.hear(head);
        for segment in body {
            self.hear(&DATA[..segment.len_bytes() as usize]);
        }
        self.hear(tail);
        self.sent += 1;
    }

    fn sent(&self) -> u64 {
        self.sent
    }

    fn kick(&mut self) {}

    fn state(&self) -> StreamState {
        if self.closed { StreamState::Broken(Break::Closed) } else { StreamState::Open }
    }

    fn arm(&mut self) -> Armed {
        Armed::Idle
    }

    fn close(&mut self) {
        self.closed = true;
    }

    fn closed(&self) -> bool {
        self.closed
    }
}

struct LeanNetwork;

impl Network for LeanNetwork {
    type Stream = Lean;
    type Dialer = Rc<[u32]>;

    fn dialer(&self, _core: &mut Core) -> Result<Rc<[u32]>, OpenError> {
        Ok((0..=256_usize).map(|blocks| Crc::of(&DATA[..blocks.min(256) * 512])).collect())
    }

    fn dial(digests: &mut Rc<[u32]>, _to: SocketAddr) -> Result<Lean, OpenError> {
        let limits = Limits { capsule_data_bytes_max: 64 << 10, data_bytes_max: 1 << 20 };
        Ok(Lean {
            receiver: Receiver::new(Role::Target, limits),
            builder: Builder::new(Terms::default()),
            said: Vec::with_capacity(SAID_BYTES),
            taken: 0,
            sent: 0,
            io: false,
            command: None,
            closed: false,
            digests: Rc::clone(digests),
        })
    }
}

thread_local! {
    static FOUND: RefCell<Option<Arc<dyn Device>>> = const { RefCell::new(None) };
    static OPENED: RefCell<Option<Box<dyn Channel>>> = const { RefCell::new(None) };
}

fn spec(digests: bool) -> AttachSpec {
    let name = |name| Nqn::parse(name).unwrap();
    AttachSpec {
        name: "lean".into(),
        address: SocketAddr::from(([127, 0, 0, 1], 1)),
        subsystem: name("nqn.2026-11.io.spinel:lean"),
        me: Me { name: name("nqn.2026-11.io.spinel:host"), id: [1; 16] },
        header_digest: digests,
        data_digest: digests,
        io_queues: 1,
        patience: Patience::default(),
        secrets: None,
        namespaces_max: 1,
        multipath: false,
        policy: None,
    }
}

fn requests_allocate_nothing_with(digests: bool) {
    let settings = Settings { keep_alive: Duration::from_secs(1000), timeout: Some(Duration::from_secs(1000)), ..Settings::default() };
    let initiator = Initiator::new(LeanNetwork, settings, |bytes: &mut [u8]| bytes.fill(1));
    let (mailbox, inbox) = mailbox(CoreId(0)).unwrap();
    let (sleeper, _bed) = SimSleeper::new();
    let mut core = Core::new(CoreId(0), Box::new(sleeper));
    initiator.join(&mut core).unwrap();
    let memory = Region::anonymous(128 << 10).unwrap();
    core.map(Arc::clone(&memory));
    let mut reactor = Reactor::new(core, inbox);
    let mut now = Instant { ns: 1 };
    let attaching = initiator.attach(spec(digests)).unwrap();
    let mut turn = |reactor: &mut Reactor| {
        now = now.after_ns(1_000);
        reactor.turn(now);
        initiator.turn(now, &mut |told| {
            if let Told::Appeared { device, .. } = told {
                FOUND.with(|found| *found.borrow_mut() = Some(device));
            }
        });
        now
    };
    let attached = (0..5_000).find_map(|_| {
        turn(&mut reactor);
        attaching.decided()
    });
    attached.unwrap_or_else(|| panic!("{:?}", initiator.controllers())).unwrap();
    let device = FOUND.with(|found| found.borrow_mut().take()).unwrap();
    mailbox.post(spinel_core::Command::Visit(Box::new(move |core| {
        OPENED.with(|opened| *opened.borrow_mut() = Some(device.open(core, 8).unwrap()));
    })));
    turn(&mut reactor);
    let mut channel = OPENED.with(|opened| opened.borrow_mut().take()).unwrap();
    let mut done = Completions::limited(8);
    let mut ended = 0;
    let mut round = |reactor: &mut Reactor, ended: &mut u32| {
        let pieces = [memory.segment(0, 2048).unwrap(), memory.segment(4096, 2048).unwrap()];
        let large = [memory.segment(0, 128 << 10).unwrap()];
        let requests: [(Op, u32, &[Segment]); 7] = [
            (Op::Read, 8, &pieces),
            (Op::Read, 256, &large),
            (Op::Write { fua: false }, 8, &pieces),
            (Op::Write { fua: true }, 256, &large),
            (Op::Flush, 0, &[]),
            (Op::Discard, 100, &[]),
            (Op::WriteZeroes { unmap: true, fua: false }, 600, &[]),
        ];
        let at = turn(reactor);
        for (number, (op, blocks, segments)) in requests.into_iter().enumerate() {
            // All of them change the same blocks, so that they wait for each other too.
            channel.submit(Request { tag: Tag::of(number), op, at, start: Lba(0), blocks, segments });
        }
        channel.kick();
        let before = *ended;
        while *ended < before + 7 {
            let now = turn(reactor);
            done.clear();
            channel.poll(now, &mut done);
            assert!(done.as_slice().iter().all(|completion| completion.status == Status::Ok));
            *ended += u32::try_from(done.as_slice().len()).unwrap();
        }
    };
    (0..50).for_each(|_| round(&mut reactor, &mut ended));
    let before = spinel_counting::by_this_thread();
    (0..1000).for_each(|_| round(&mut reactor, &mut ended));
    assert_eq!(spinel_counting::by_this_thread() - before, 0);
    assert_eq!(ended, 7 * 1050);
}

#[test]
fn requests_allocate_nothing() {
    requests_allocate_nothing_with(false);
    requests_allocate_nothing_with(true);
}
