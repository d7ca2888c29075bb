//! Hosts of NVMe/TCP that are slow, deaf, or gone again. Knows no measurement.
//!
//! Each kind is a thread that gives way to everybody else on its core, and does what it does until it is told to end.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::setpriority_process;
use spinel_core::Instant;
use spinel_nvme::command::{Command, IoOpcode};
use spinel_nvme::completion::Completion;
use spinel_nvme::fabrics::{Connect, ConnectData, Connected, Property, PropertySize};
use spinel_nvme::io::Blocks;
use spinel_nvme::registers::{Configuration, offset};
use spinel_nvme::sgl::Sgl;
use spinel_nvmf::nqn::Nqn;
use spinel_nvmf::tcp::build::put_request;
use spinel_nvmf::tcp::pdu::{COMMAND_BYTES, HEAD_BYTES_MAX, SETUP_BYTES};
use spinel_nvmf::tcp::{Alignment, Builder, IcReq, Terms};
use spinel_reactor::Clock;
use zerocopy::{FromBytes as _, IntoBytes as _};

use crate::Failure;
use crate::cores::sleep;

/// The least share of a core there is.
const NICE: i32 = 19;
/// What is not answered by then never will be.
const PATIENCE: Duration = Duration::from_secs(10);
/// A completion in its PDU.
const COMPLETION_PDU_BYTES: usize = 24;
/// Reads that are outstanding where nobody takes what they bring, and bytes of each.
const DEAF_READS: u16 = 120;
const DEAF_READ_BYTES: u32 = 128 << 10;
const BLOCK_BYTES: u32 = 512;
/// How long it takes until the kernel takes nothing more for those who take nothing.
const FULL: Duration = Duration::from_millis(400);
/// Entries of each queue.
const ENTRIES: u16 = 128;
/// How many connections say a byte each second.
const DRIPPING: usize = 16;
/// How many have been opened, and say nothing.
const IDLE: usize = 64;
/// How often it is looked whether it is to end.
const LOOK: Duration = Duration::from_millis(5);

/// What a host does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Way {
    /// So many queues ask for all they may, and take nothing of it.
    Deaf { queues: u16 },
    /// Connections in every stage say one byte each second.
    Dripping,
    /// So many connections a minute are opened, and vanish, each a little later than the one before.
    Fleeting { per_minute: u32 },
    /// Connections were opened, and say nothing.
    Idle,
}

/// Where, and to what.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) address: SocketAddr,
    pub(crate) subsystem: Nqn,
}

/// A host that is at it.
pub(crate) struct Harmful {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<u64, String>>,
}

impl Harmful {
    /// Begins, and waits until the harm is being done.
    pub(crate) fn start(way: Way, place: &Place) -> Result<Self, Failure> {
        let stop = Arc::new(AtomicBool::new(false));
        let begun = Arc::new(AtomicBool::new(false));
        let (place, stopped, beginning) = (place.clone(), Arc::clone(&stop), Arc::clone(&begun));
        let harm = move || {
            // Of this thread alone, as Linux counts processes.
            setpriority_process(None, NICE).map_err(|errno| errno.to_string())?;
            let host = Host { place, stop: stopped, begun: beginning };
            host.run(way).map_err(|failure| format!("{way:?}: {failure}"))
        };
        let thread = std::thread::Builder::new().name("harm".to_owned()).spawn(harm)?;
        while !begun.load(Ordering::Relaxed) && !thread.is_finished() {
            sleep(LOOK)?;
        }
        Ok(Self { stop, thread })
    }

    /// Ends it. Answers how many connections there were.
    pub(crate) fn end(self) -> Result<u64, Failure> {
        self.stop.store(true, Ordering::Relaxed);
        Ok(self.thread.join().map_err(|_| "a harmful host panicked")??)
    }
}

struct Host {
    place: Place,
    stop: Arc<AtomicBool>,
    begun: Arc<AtomicBool>,
}

/// A queue that is connected.
struct Queue {
    stream: TcpStream,
    next_id: u16,
}

impl Host {
    fn run(&self, way: Way) -> Result<u64, Failure> {
        match way {
            Way::Deaf { queues } => self.be_deaf(queues),
            Way::Dripping => self.drip(),
            Way::Fleeting { per_minute } => self.come_and_go(per_minute),
            Way::Idle => self.idle(),
        }
    }

    /// Waits until it is to end.
    fn wait(&self) -> Result<(), Failure> {
        self.begun.store(true, Ordering::Relaxed);
        while !self.stop.load(Ordering::Relaxed) {
            sleep(LOOK)?;
        }
        Ok(())
    }

    fn dial(&self) -> Result<TcpStream, Failure> {
        let stream = TcpStream::connect(self.place.address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(stream)
    }

    /// A queue of a controller; of a new one if it is the first.
    fn connect(&self, queue: u16, controller: u16) -> Result<(Queue, u16), Failure> {
        let mut queue_of = Queue { stream: self.dial()?, next_id: 0 };
        queue_of.stream.write_all(&request())?;
        let mut answer = [0; SETUP_BYTES];
        queue_of.stream.read_exact(&mut answer)?;
        let result = queue_of.ask(connect(queue), &self.connect_data(controller))?;
        Ok((queue_of, Connected::of(result).controller))
    }

    fn connect_data(&self, controller: u16) -> Vec<u8> {
        let host = Nqn::of_peer(b"nqn.2026-11.io.spinel:harmful").expect("it has the form of a name");
        ConnectData::new([6; 16], host.field(), self.place.subsystem.field(), controller).as_bytes().to_vec()
    }

    fn be_deaf(&self, queues: u16) -> Result<u64, Failure> {
        let (mut admin, controller) = self.connect(0, 0xffff)?;
        admin.ask(enable(), &[])?;
        let mut deaf = Vec::new();
        for number in 1..=queues {
            let (mut queue, _) = self.connect(number, controller)?;
            let blocks = DEAF_READ_BYTES / BLOCK_BYTES;
            for read in 0..DEAF_READS {
                let command =
                    Blocks::new(u64::from(read) * u64::from(blocks), blocks).command(IoOpcode::Read, 1, Sgl::transport(DEAF_READ_BYTES));
                queue.send(command, &[])?;
            }
            deaf.push(queue);
        }
        // Until all is full that lies in between: up to there each is a host like any other, and a busy one.
        sleep(FULL)?;
        self.wait()?;
        Ok(u64::from(queues) + 1)
    }

    /// Connections that have come to different ends of a beginning go on by a byte each second.
    fn drip(&self) -> Result<u64, Failure> {
        let said = self.conversation();
        let mut dripping = Vec::new();
        for number in 0..DRIPPING {
            let mut stream = self.dial()?;
            let from = number * said.len() / DRIPPING;
            stream.write_all(&said[..from])?;
            dripping.push((stream, from));
        }
        self.begun.store(true, Ordering::Relaxed);
        let clock = Clock::system();
        let mut due = clock.now();
        while !self.stop.load(Ordering::Relaxed) {
            due = due.after(Duration::from_secs(1));
            for (stream, at) in &mut dripping {
                // It may have been given up, which is its good right.
                if let Err(error) = stream.write_all(&said[*at..=*at])
                    && !matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset)
                {
                    return Err(error.into());
                }
                *at = (*at + 1) % said.len();
            }
            self.sleep_until(&clock, due)?;
        }
        Ok(DRIPPING.try_into()?)
    }

    fn come_and_go(&self, per_minute: u32) -> Result<u64, Failure> {
        let said = self.conversation();
        let step = Duration::from_secs(60) / per_minute;
        let clock = Clock::system();
        let (mut due, mut count) = (clock.now(), 0_usize);
        while !self.stop.load(Ordering::Relaxed) {
            let mut stream = self.dial()?;
            // From nothing at all to a read that is under way.
            let until = count * 97 % (said.len() + 1);
            stream.write_all(&said[..until])?;
            drop(stream);
            count += 1;
            self.begun.store(true, Ordering::Relaxed);
            due = due.after(step);
            self.sleep_until(&clock, due)?;
        }
        Ok(count.try_into()?)
    }

    fn idle(&self) -> Result<u64, Failure> {
        let idle: Vec<TcpStream> = (0..IDLE).map(|_| self.dial()).collect::<Result<_, _>>()?;
        self.wait()?;
        drop(idle);
        Ok(IDLE.try_into()?)
    }

    fn sleep_until(&self, clock: &Clock, due: Instant) -> Result<(), Failure> {
        while clock.now() < due && !self.stop.load(Ordering::Relaxed) {
            let left = Duration::from_nanos(due.since_ns(clock.now()));
            sleep(left.min(LOOK))?;
        }
        Ok(())
    }

    /// What a host says until its controller works, and some of what it asks then.
    fn conversation(&self) -> Vec<u8> {
        let identify = spinel_nvme::admin::Identify::new(spinel_nvme::admin::Cns::Controller, 0).command(Sgl::transport(4096));
        [
            request(),
            capsule(connect(0).with_id(1), &self.connect_data(0xffff)),
            capsule(enable().with_id(2), &[]),
            capsule(identify.with_id(3), &[]),
        ]
        .concat()
    }
}

impl Queue {
    fn send(&mut self, command: Command, data: &[u8]) -> Result<(), Failure> {
        self.next_id += 1;
        Ok(self.stream.write_all(&capsule(command.with_id(self.next_id), data))?)
    }

    /// Sends a command that brings no data, and answers its result.
    fn ask(&mut self, command: Command, data: &[u8]) -> Result<u64, Failure> {
        self.send(command, data)?;
        let mut pdu = [0; COMPLETION_PDU_BYTES];
        self.stream.read_exact(&mut pdu)?;
        let completion = Completion::read_from_bytes(&pdu[8..]).expect("a completion has 16 bytes");
        if completion.status().is_success() {
            Ok(completion.result())
        } else {
            Err(format!("the target answers {}", completion.status()).into())
        }
    }
}

/// A request to set up a connection without digests.
fn request() -> Vec<u8> {
    let asked = IcReq { alignment: Alignment::default(), header_digest: false, data_digest: false, r2ts_max_less_one: 0 };
    let mut bytes = vec![0; SETUP_BYTES];
    put_request(&asked, &mut bytes);
    bytes
}

fn connect(queue: u16) -> Command {
    // Without a keep-alive: nobody has to be heard of.
    Connect { format: 0, queue, size_less_one: ENTRIES - 1, priority: 0, no_flow_control: false, deletes_queues: false, keep_alive_ms: 0 }
        .command()
}

fn enable() -> Command {
    let property = Property { offset: offset::CONFIGURATION, size: PropertySize::Four };
    property.set(Configuration::enabled().register().into()).with_data(Sgl::transport(0))
}

fn capsule(command: Command, data: &[u8]) -> Vec<u8> {
    let bytes: [u8; COMMAND_BYTES] = command.as_bytes().try_into().expect("a command has so many bytes");
    let mut head = [0; HEAD_BYTES_MAX];
    let len = Builder::new(Terms::default()).put_command(&bytes, u32::try_from(data.len()).expect("short"), &mut head);
    [&head[..len], data].concat()
}
