//! Bare requests and their answers over TCP, as large as NVMe/TCP's messages are: what a target cannot be below. Knows no protocol.
//!
//! A command is [`COMMAND_BYTES`] long, and behind that of a write come the data. A read is answered by a header, the
//! data and a response in one, a write by a response. Nothing is checked, and nothing looked up.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use spinel_core::mem::{Region, Regions, Segment};
use spinel_core::{
    Armed, Channel, Completion, Completions, Core, CoreId, Device, Features, Geometry, Instant, Mailbox, Op, OpenError, Poller, Progress,
    Recipe, Remains, Request, Slots, Status, Stream, StreamState, Tag,
};
use spinel_reactor::{Handle, Mode, PaceLimits, ReactorConfig, start};
use spinel_uring::{StreamOptions, TcpStream};

use crate::Failure;

/// Bytes of a command capsule: a PDU's header and a submission queue entry.
const COMMAND_BYTES: usize = 72;
/// Bytes of a data PDU's header, and of a response capsule.
const ANSWER_BYTES: usize = 24;
/// Most bytes of one request.
pub(crate) const BODY_BYTES_MAX: u32 = 4096;
/// Most requests in flight.
const DEPTH_MAX: u16 = 128;
/// How many messages one poll looks at.
const MESSAGES_MAX: usize = 64;
const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// What an answer's first byte says.
const RESPONSE: u8 = 5;
const DATA: u8 = 7;
/// What a command's first byte says.
const READ: u8 = 2;
const WRITE: u8 = 1;

/// A message's first bytes: what it is, which request it belongs to, how many bytes follow.
fn message<const BYTES: usize>(kind: u8, slot: u32, body_bytes: u32) -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    bytes[0] = kind;
    bytes[4..8].copy_from_slice(&slot.to_le_bytes());
    bytes[8..12].copy_from_slice(&body_bytes.to_le_bytes());
    bytes
}

/// The same, read.
struct Message {
    kind: u8,
    slot: u32,
    body_bytes: u32,
}

/// Collects a message's head, which may come in pieces.
struct Head<const BYTES: usize> {
    bytes: [u8; BYTES],
    have: usize,
}

impl<const BYTES: usize> Head<BYTES> {
    fn new() -> Self {
        Self { bytes: [0; BYTES], have: 0 }
    }

    fn next(&mut self, stream: &mut TcpStream) -> Option<Message> {
        while self.have < BYTES {
            let incoming = stream.incoming();
            let count = incoming.len().min(BYTES - self.have);
            if count == 0 {
                return None;
            }
            self.bytes[self.have..self.have + count].copy_from_slice(&incoming[..count]);
            stream.take(count);
            self.have += count;
        }
        self.have = 0;
        let number = |at: usize| u32::from_le_bytes([self.bytes[at], self.bytes[at + 1], self.bytes[at + 2], self.bytes[at + 3]]);
        Some(Message { kind: self.bytes[0], slot: number(4), body_bytes: number(8) })
    }
}

/// Bytes on their way into memory.
struct Body {
    slot: u32,
    segment: Segment,
    done: u32,
}

impl Body {
    /// Moves what has come; whether that was all.
    fn fill(&mut self, stream: &mut TcpStream, regions: &Regions) -> bool {
        loop {
            let left = self.segment.len_bytes() - self.done;
            let incoming = stream.incoming();
            let count = incoming.len().min(left as usize);
            if count == 0 {
                return left == 0;
            }
            regions.write(&self.segment, self.done, &incoming[..count]).expect("it lies inside the segment");
            stream.take(count);
            self.done += u32::try_from(count).expect("a body is small");
        }
    }
}

/// Answers on one connection.
struct Server {
    stream: TcpStream,
    regions: Rc<Regions>,
    memory: Arc<Region>,
    head: Head<COMMAND_BYTES>,
    body: Option<Body>,
}

impl Server {
    fn recipe(socket: std::net::TcpStream, options: StreamOptions) -> Recipe {
        Box::new(move |core| {
            let mapping = |error| OpenError::System { doing: "mapping buffers", source: std::io::Error::other(error) };
            let memory = Region::anonymous(u64::from(DEPTH_MAX) * u64::from(BODY_BYTES_MAX)).map_err(mapping)?;
            core.map(Arc::clone(&memory));
            let stream = TcpStream::open(core, socket.into(), &options)?;
            Ok(Box::new(Self { stream, regions: core.regions(), memory, head: Head::new(), body: None }))
        })
    }

    /// Answers what has come, and says whether there was anything.
    fn answer(&mut self) -> bool {
        for messages in 0..MESSAGES_MAX {
            if self.stream.room() == 0 {
                return true;
            }
            if let Some(body) = &mut self.body {
                if !body.fill(&mut self.stream, &self.regions) {
                    return true;
                }
                let response: [u8; ANSWER_BYTES] = message(RESPONSE, body.slot, 0);
                self.stream.send(&response, &[], &[]);
                self.body = None;
            }
            let Some(Message { kind, slot, body_bytes }) = self.head.next(&mut self.stream) else { return messages > 0 };
            let at = u64::from(slot) * u64::from(BODY_BYTES_MAX);
            let segment = self.memory.segment(at, body_bytes).expect("a client asks for what there is");
            if kind == WRITE {
                self.body = Some(Body { slot, segment, done: 0 });
            } else {
                let data: [u8; ANSWER_BYTES] = message(DATA, slot, body_bytes);
                self.stream.send(&data, &[segment], &message::<ANSWER_BYTES>(RESPONSE, slot, 0));
            }
        }
        true
    }
}

impl Poller for Server {
    fn name(&self) -> &str {
        "floor"
    }

    fn poll(&mut self, _now: Instant) -> Progress {
        let busy = self.answer();
        self.stream.kick();
        if self.stream.state() != StreamState::Open {
            self.stream.close();
        }
        match (self.stream.closed(), busy) {
            (true, _) => Progress::Stopped,
            (_, true) => Progress::Busy,
            _ => Progress::Idle,
        }
    }

    fn arm(&mut self) -> Armed {
        let stopped = self.stream.incoming().is_empty() || self.stream.room() == 0;
        if stopped { self.stream.arm() } else { Armed::Ready }
    }

    fn disarm(&mut self) {}

    fn stop(&mut self) {
        self.stream.close();
    }

    fn retire(self: Box<Self>, core: &mut Core) -> Remains {
        Box::new(core.unmap(self.memory.id()))
    }
}

/// A core that answers whoever connects.
pub(crate) struct Floor {
    reactor: Handle,
    address: SocketAddr,
    options: StreamOptions,
    ends: Arc<AtomicBool>,
    listening: JoinHandle<()>,
}

fn listen(listener: &TcpListener, mailbox: &Mailbox, options: StreamOptions, ends: &AtomicBool) {
    while let Ok((socket, _)) = listener.accept() {
        if ends.load(Ordering::Acquire) {
            return;
        }
        if let Err(error) = mailbox.add(Server::recipe(socket, options)) {
            eprintln!("error: a connection is not served: {error}");
        }
    }
}

impl Floor {
    pub(crate) fn start(core: usize, options: StreamOptions) -> Result<Self, Failure> {
        let make_core = Box::new(|id| spinel_uring::core(id, spinel_uring::Options::default()));
        let core = CoreId(u16::try_from(core)?);
        let config = ReactorConfig { core, mode: Mode::Adaptive, limits: PaceLimits::default(), pin: true, make_core };
        let reactor = start(config)?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let ends = Arc::new(AtomicBool::new(false));
        let (mailbox, ending) = (reactor.mailbox().clone(), Arc::clone(&ends));
        let accept = move || listen(&listener, &mailbox, options, &ending);
        let listening = std::thread::Builder::new().name("floor".to_owned()).spawn(accept)?;
        Ok(Self { reactor, address, options, ends, listening })
    }

    pub(crate) fn device(&self) -> Arc<dyn Device> {
        Arc::new(FloorDevice { address: self.address, options: self.options })
    }

    /// The answering thread, and how long it was busy up to now.
    pub(crate) fn used(&self) -> (i32, u64) {
        (self.reactor.thread_id(), self.reactor.usage().busy_ns)
    }

    pub(crate) fn end(self) -> Result<(), Failure> {
        self.ends.store(true, Ordering::Release);
        let _ = std::net::TcpStream::connect(self.address)?;
        self.listening.join().map_err(|_| "the thread that listens panicked")?;
        self.reactor.quit();
        Ok(())
    }
}

/// The client's side, as a device.
struct FloorDevice {
    address: SocketAddr,
    options: StreamOptions,
}

impl Device for FloorDevice {
    fn geometry(&self) -> Geometry {
        Geometry {
            block_bytes: 4096,
            block_count: 1 << 20,
            memory_align_bytes: 1,
            segments_max: 1,
            transfer_max_bytes: BODY_BYTES_MAX,
            physical_block_bytes: 4096,
            write_cache: false,
            read_only: false,
            features: Features::default(),
        }
    }

    fn open(&self, core: &mut Core, depth: u16) -> Result<Box<dyn Channel>, OpenError> {
        if depth > DEPTH_MAX {
            return Err(OpenError::Depth { asked: depth, max: DEPTH_MAX });
        }
        let stream = TcpStream::connect(core, self.address, CONNECT_WITHIN, &self.options)?;
        let asked = Slots::new(usize::from(depth));
        Ok(Box::new(FloorChannel { stream, regions: core.regions(), asked, depth, head: Head::new(), body: None }))
    }
}

struct Asked {
    tag: Tag,
    segment: Segment,
}

struct FloorChannel {
    stream: TcpStream,
    regions: Rc<Regions>,
    asked: Slots<Asked>,
    depth: u16,
    head: Head<ANSWER_BYTES>,
    body: Option<Body>,
}

impl Channel for FloorChannel {
    fn room(&self) -> usize {
        self.asked.room().min(self.stream.room())
    }

    fn submit(&mut self, request: Request<'_>) {
        let &[segment] = request.segments else { panic!("a request has one segment") };
        let Tag(slot) = self.asked.put(Asked { tag: request.tag, segment });
        let command = |kind| message::<COMMAND_BYTES>(kind, slot, segment.len_bytes());
        match request.op {
            Op::Read => self.stream.send(&command(READ), &[], &[]),
            _ => self.stream.send(&command(WRITE), &[segment], &[]),
        }
    }

    fn kick(&mut self) {
        self.stream.kick();
    }

    fn poll(&mut self, _now: Instant, done: &mut Completions) {
        while done.room() > 0 {
            if let Some(body) = &mut self.body {
                if !body.fill(&mut self.stream, &self.regions) {
                    break;
                }
                self.body = None;
            }
            let Some(Message { kind, slot, .. }) = self.head.next(&mut self.stream) else { break };
            if kind == DATA {
                let asked = self.asked.get(Tag(slot)).expect("a server answers what was asked");
                self.body = Some(Body { slot, segment: asked.segment, done: 0 });
            } else {
                done.push(Completion { tag: self.asked.take(Tag(slot)).tag, status: Status::Ok });
            }
        }
        if self.stream.state() != StreamState::Open {
            for slot in 0..u32::from(self.depth) {
                if done.room() > 0 && self.asked.get(Tag(slot)).is_some() {
                    done.push(Completion { tag: self.asked.take(Tag(slot)).tag, status: Status::Medium });
                }
            }
        }
    }

    fn arm(&mut self) -> Armed {
        if self.stream.incoming().is_empty() { self.stream.arm() } else { Armed::Ready }
    }
}
