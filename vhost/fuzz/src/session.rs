//! Arbitrary messages and descriptors as a front end's whole conversation with a controller, and arbitrary rings behind them.
//!
//! An input is a byte that says what has been set up before, then steps: messages, raw bytes,
//! patches of the guest's memory, kicks. The controller has its own thread, as in the daemon;
//! its reactor is turned here, in between. It serves every input, one session after the other.
#![no_main]

use std::cell::RefCell;
use std::io::{IoSlice, Read};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{EventfdFlags, epoll, eventfd};
use rustix::fs::{MemfdFlags, Mode, OFlags, ftruncate, memfd_create, open};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use spinel_core::mem::Region;
use spinel_core::{Core, CoreId, Instant, Meters, Sleeper, Watch, mailbox};
use spinel_reactor::Reactor;
use spinel_vhost::{Controller, ControllerConfig, ControllerState, Disk};
use spinel_volume::{MemoryDevice, Shape};

const MEMORY_BYTES: u64 = 16384;
/// Guest address of the memory, and a front end's.
const GUEST: u64 = 0;
const USER: u64 = 1 << 32;
const RING_SIZE: u32 = 8;
const RECORD_BYTES: u64 = 4096;
const LOG_BYTES: u64 = 4096;
/// Nothing takes longer here; what is not over by then hangs.
const TURNS_MAX: u32 = 50_000_000;
const SYNC_TURNS_MAX: u32 = 10_000;

const GET_FEATURES: u32 = 1;
const SET_FEATURES: u32 = 2;
const SET_MEM_TABLE: u32 = 5;
const SET_LOG_BASE: u32 = 6;
const SET_VRING_NUM: u32 = 8;
const SET_VRING_ADDR: u32 = 9;
const SET_VRING_KICK: u32 = 12;
const SET_VRING_CALL: u32 = 13;
const SET_PROTOCOL_FEATURES: u32 = 16;
const SET_VRING_ENABLE: u32 = 18;
const SET_INFLIGHT_FD: u32 = 32;
/// The highest request of the protocol is 44.
const CODES: u8 = 46;

const PROTOCOL: u64 = 1 | 1 << 1 | 1 << 3 | 1 << 5 | 1 << 9 | 1 << 12 | 1 << 13 | 1 << 15 | 1 << 16;
const FEATURES: u64 = 1 << 9 | 1 << 11 | 1 << 13 | 1 << 14 | 1 << 28 | 1 << 29 | 1 << 30 | 1 << 32;
const LOG_ALL: u64 = 1 << 26;
const RING_PACKED: u64 = 1 << 34;

/// Places of descriptors in the fixed set.
const MEMORY: usize = 0;
const KICK: usize = 1;
const CALL: usize = 2;
const RECORD: usize = 3;
const LOG: usize = 4;

struct NeverSleeps;

impl Sleeper for NeverSleeps {
    fn watch(&mut self, _fd: RawFd) -> Watch {
        Watch(0)
    }
    fn unwatch(&mut self, _watch: Watch) {}
    fn sleep(&mut self, _until: Option<Instant>, _now: Instant) {}
}

/// What is reused from one input to the next.
struct Rig {
    reactor: Reactor,
    controller: Controller,
    folder: tempfile::TempDir,
    /// The guest's memory and the record, as they are mapped here.
    regions: [Arc<Region>; 2],
    files: [OwnedFd; 10],
    now: Instant,
    messages: u64,
}

fn memory(len_bytes: u64) -> OwnedFd {
    let file = memfd_create("fuzz", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).expect("memory");
    ftruncate(&file, len_bytes).expect("memory");
    file
}

fn new_eventfd() -> OwnedFd {
    eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).expect("an eventfd")
}

fn map(file: &OwnedFd, len_bytes: u64) -> Arc<Region> {
    Region::of_file(file.as_fd(), 0, len_bytes).expect("a mapping")
}

impl Rig {
    fn new() -> Self {
        let (mailbox, inbox) = mailbox(CoreId(0)).expect("a mailbox");
        let reactor = Reactor::new(Core::new(CoreId(0), Box::new(NeverSleeps)), inbox);
        let folder = tempfile::tempdir().expect("a folder");
        let device = Arc::new(MemoryDevice::new(Shape::new(512, 64)).expect("memory"));
        let controller = Controller::start(ControllerConfig {
            name: "fuzz".to_owned(),
            socket_path: folder.path().join("s"),
            disk: Disk { serial: "fuzz".to_owned(), device, meters: Arc::new(Meters::default()), read_only: false },
            cores: vec![mailbox],
            queues_max: 2,
            drain_deadline: Duration::from_secs(60),
            pin_guest_memory: None,
        });
        let files = [
            memory(MEMORY_BYTES),
            new_eventfd(),
            new_eventfd(),
            memory(RECORD_BYTES),
            memory(LOG_BYTES),
            memory(100),
            rustix::pipe::pipe().expect("a pipe").1,
            UnixStream::pair().expect("a pair").0.into(),
            open("/", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).expect("a folder"),
            epoll::create(epoll::CreateFlags::CLOEXEC).expect("an epoll instance"),
        ];
        let regions = [map(&files[MEMORY], MEMORY_BYTES), map(&files[RECORD], RECORD_BYTES)];
        let controller = controller.expect("a controller");
        Self { reactor, controller, folder, regions, files, now: Instant { ns: 1 }, messages: 0 }
    }

    fn turn(&mut self) {
        self.now = self.now.after_ns(1000);
        self.reactor.turn(self.now);
    }

    /// Turns until `over`, but not without end; the controller's thread gets a share of the processor in between. Whether it is over.
    fn turns(&mut self, max: u32, mut over: impl FnMut() -> bool) -> bool {
        (0..max).any(|turn| {
            self.turn();
            if turn % 8 == 7 {
                std::thread::yield_now();
            }
            over()
        })
    }

    fn send(&mut self, socket: &UnixStream, bytes: &[u8], files: &[usize]) {
        let fds: Vec<BorrowedFd<'_>> = files.iter().map(|at| self.files[*at].as_fd()).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(fds.is_empty() || control.push(SendAncillaryMessage::ScmRights(&fds)), "a few descriptors");
        // It may have been closed from the other side, or be full: an input is short, and nobody has to wait.
        let _ = rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
        self.messages += 1;
        if self.messages.is_multiple_of(1 << 20) {
            eprintln!("{} messages", self.messages);
        }
    }

    fn message(&mut self, socket: &UnixStream, code: u32, flags: u32, body: &[u8], files: &[usize]) {
        let size = u32::try_from(body.len()).expect("a short body");
        self.send(socket, &[&words(&[code, flags, size])[..], body].concat(), files);
    }

    /// Waits until everything sent before was served, or the connection closed; in vain if a message was cut.
    fn sync(&mut self, socket: &UnixStream) {
        self.message(socket, GET_FEATURES, 1, &[], &[]);
        let mut seen = Vec::new();
        let mut bytes = [0; 4096];
        let _ = self.turns(SYNC_TURNS_MAX, || match (&*socket).read(&mut bytes) {
            Ok(0) => true,
            // Of several answers the last one counts.
            Ok(count) => {
                seen.extend_from_slice(&bytes[..count]);
                seen.len() >= 20 && seen[seen.len() - 20..].starts_with(&words(&[GET_FEATURES, 5, 8]))
            }
            Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
        });
    }

    /// Attaches a guest, in one go: 1 asks for it, 2 for packed rings, 4 for a record, 8 for a log.
    fn set_up(&mut self, socket: &UnixStream, wanted: u8) {
        let has = |bit: u8| wanted & bit != 0;
        let features = FEATURES | if has(2) { RING_PACKED } else { 0 } | if has(8) { LOG_ALL } else { 0 };
        let tell = |rig: &mut Self, code, body: &[u8], files: &[usize]| rig.message(socket, code, 1, body, files);
        tell(self, SET_PROTOCOL_FEATURES, &longs(&[PROTOCOL]), &[]);
        tell(self, SET_FEATURES, &longs(&[features]), &[]);
        if !has(1) {
            return;
        }
        if has(4) {
            let description = [longs(&[RECORD_BYTES, 0]), words(&[2 | RING_SIZE << 16])].concat();
            tell(self, SET_INFLIGHT_FD, &description, &[RECORD]);
        }
        if has(8) {
            tell(self, SET_LOG_BASE, &longs(&[LOG_BYTES, 0]), &[LOG]);
        }
        tell(self, SET_MEM_TABLE, &[words(&[1, 0]), longs(&[GUEST, MEMORY_BYTES, USER, 0])].concat(), &[MEMORY]);
        for index in 0..2 {
            let at = USER + 0x200 * u64::from(index);
            tell(self, SET_VRING_NUM, &words(&[index, RING_SIZE]), &[]);
            tell(self, SET_VRING_ADDR, &[words(&[index, 0]), longs(&[at, at + 0xa0, at + 0x80, 0])].concat(), &[]);
            tell(self, SET_VRING_CALL, &longs(&[index.into()]), &[CALL]);
            tell(self, SET_VRING_KICK, &longs(&[index.into()]), &[KICK]);
            tell(self, SET_VRING_ENABLE, &words(&[index, 1]), &[]);
        }
    }

    fn patch(&self, at: u16, bytes: &[u8]) {
        let (region, offset) = match u64::from(at) {
            at if at < MEMORY_BYTES => (&self.regions[0], at),
            at => (&self.regions[1], at % RECORD_BYTES),
        };
        let room = usize::try_from(region.len_bytes() - offset).expect("small");
        region.write(offset, &bytes[..bytes.len().min(room)]).expect("inside the region");
    }

    /// Cuts a file down. What is mapped here and there is zeroes from now on.
    fn shrink(&mut self, which: usize, len_bytes: u64) {
        ftruncate(&self.files[which], len_bytes).expect("memory of our own");
    }

    fn has_shrunk(&self, which: usize, from_bytes: u64) -> bool {
        rustix::fs::fstat(&self.files[which]).expect("memory of our own").st_size.cast_unsigned() < from_bytes
    }

    /// Makes everything as it was before the first input.
    fn renew(&mut self) {
        for (region, which, len_bytes) in [(0, MEMORY, MEMORY_BYTES), (1, RECORD, RECORD_BYTES)] {
            if self.has_shrunk(which, len_bytes) || self.regions[region].poisoned() {
                self.files[which] = memory(len_bytes);
                self.regions[region] = map(&self.files[which], len_bytes);
            }
            self.regions[region].zero(0, len_bytes).expect("the whole region");
        }
        if self.has_shrunk(LOG, LOG_BYTES) {
            self.files[LOG] = memory(LOG_BYTES);
        }
    }

    fn run(&mut self, input: &[u8]) {
        let Some((wanted, mut rest)) = input.split_first() else { return };
        self.renew();
        if let [count, tail @ ..] = rest
            && wanted & 16 != 0
        {
            // What lies in the record before anything starts.
            let (bytes, later) = tail.split_at(tail.len().min(usize::from(*count)));
            self.regions[1].write(0, bytes).expect("a short content");
            rest = later;
        }
        let socket = UnixStream::connect(self.folder.path().join("s")).expect("a controller that listens");
        socket.set_nonblocking(true).expect("a socket of our own");
        self.set_up(&socket, *wanted);
        while let [step, a, b, len, tail @ ..] = rest {
            let (bytes, later) = tail.split_at(tail.len().min(usize::from(*len)));
            rest = later;
            self.step(&socket, *step, [*a, *b], bytes);
        }
        // Its end is over once it has closed the connection as well.
        let _ = socket.shutdown(Shutdown::Write);
        let mut bytes = [0; 4096];
        let ended = self.turns(TURNS_MAX, || match (&socket).read(&mut bytes) {
            Ok(0) => true,
            Ok(_) => false,
            Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
        });
        assert!(ended, "a session hangs: {:?}", self.controller.info());
        let state = self.controller.info().state;
        assert!(!matches!(state, ControllerState::Quarantined { .. } | ControllerState::Stopped), "{state:?}");
        assert_eq!(self.reactor.pollers(), 0, "a queue is left behind");
    }

    fn step(&mut self, socket: &UnixStream, step: u8, [a, b]: [u8; 2], bytes: &[u8]) {
        match step & 7 {
            // A message: its code, and up to three descriptors.
            0..=2 => {
                let files: Vec<usize> =
                    [b & 15, b >> 4, step >> 4].into_iter().map(usize::from).filter(|at| *at < self.files.len()).collect();
                let count = usize::from(step >> 3 & 1) + usize::from(b > 0xf0);
                let flags = if a & 0x80 == 0 { 1 | 8 } else { 1 };
                let files = &files[..files.len().min(count)];
                self.message(socket, u32::from((a & 0x7f) % CODES), flags, bytes, files);
            }
            3 => self.send(socket, bytes, &[]),
            4 | 5 => self.patch(u16::from_le_bytes([a, b]), bytes),
            6 => {
                self.sync(socket);
                (0..a & 7).for_each(|_| self.turn());
            }
            _ if a < 8 => self.shrink([MEMORY, RECORD, LOG][usize::from(a % 3)], u64::from(b) * 64),
            _ => (0..a & 7).for_each(|_| self.turn()),
        }
    }
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

fn longs(longs: &[u64]) -> Vec<u8> {
    longs.iter().flat_map(|long| long.to_ne_bytes()).collect()
}

thread_local! {
    static RIG: RefCell<Rig> = RefCell::new(Rig::new());
}

libfuzzer_sys::fuzz_target!(|input: &[u8]| RIG.with_borrow_mut(|rig| rig.run(input)));
