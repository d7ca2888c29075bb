//! Descriptors of the wrong kind, in every place where one may come. Knows no ring's content.

use std::net::TcpListener;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixStream};

use rustix::event::epoll;
use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags, fcntl_add_seals, memfd_create, open};
use rustix::time::{TimerfdClockId, TimerfdFlags, timerfd_create};

use crate::guest::{MEMORY_NAME, new_eventfd, new_memory};
use crate::wire::{
    ADD_MEM_REG, Packet, SET_BACKEND_REQ_FD, SET_INFLIGHT_FD, SET_LOG_BASE, SET_VRING_CALL, SET_VRING_ERR, SET_VRING_KICK, longs, words,
};
use crate::{Entry, Must, Surprise};

type Make = fn() -> Result<OwnedFd, Surprise>;

/// What may come (the kernel passes on no io_uring), how it is made, and in which places it is refused: memory (and records and logs), eventfds, the back-end channel.
const KINDS: [(&str, Make, [bool; 3]); 17] = [
    ("a pipe's reading end", || Ok(rustix::pipe::pipe()?.0), [true, true, true]),
    ("a pipe's writing end", || Ok(rustix::pipe::pipe()?.1), [true, true, true]),
    ("a directory", || Ok(open("/", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?), [true, true, true]),
    ("a directory of tmpfs", || Ok(open("/dev/shm", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?), [true, true, true]),
    ("/dev/null", || Ok(open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?), [true, true, true]),
    ("/dev/zero", || Ok(open("/dev/zero", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?), [true, true, true]),
    ("a process's memory", || Ok(open("/proc/self/mem", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?), [true, true, true]),
    ("a program", || Ok(std::fs::File::open(std::env::current_exe()?)?.into()), [true, true, true]),
    ("the name of a file (O_PATH)", || named(&new_memory(1 << 20)?), [true, true, true]),
    ("memory sealed against writing", || sealed(SealFlags::WRITE), [true, true, true]),
    ("memory sealed against writing from now on", || sealed(SealFlags::FUTURE_WRITE), [true, true, true]),
    ("a datagram socket", || Ok(UnixDatagram::unbound()?.into()), [true, true, true]),
    ("a stream socket whose other end is closed", || Ok(UnixStream::pair()?.0.into()), [true, true, false]),
    ("a socket that listens", || Ok(TcpListener::bind("127.0.0.1:0")?.into()), [true, true, false]),
    ("an epoll instance", || Ok(epoll::create(epoll::CreateFlags::CLOEXEC)?), [true, false, true]),
    ("a timer", || Ok(timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC)?), [true, false, true]),
    ("the name of an eventfd (O_PATH)", || named(&new_eventfd()?), [true, false, true]),
];

fn sealed(seals: SealFlags) -> Result<OwnedFd, Surprise> {
    let file = memfd_create(MEMORY_NAME, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    rustix::fs::ftruncate(&file, 1 << 20)?;
    fcntl_add_seals(&file, seals)?;
    Ok(file)
}

/// A descriptor that only names what another one has open.
fn named(file: &OwnedFd) -> Result<OwnedFd, Surprise> {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    Ok(open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?)
}

/// A place for a descriptor: what it is called, its message, which of the three sorts it is, and what is said of a wrong one.
type Place = (&'static str, u32, Vec<u8>, usize, Must);

fn places() -> Vec<Place> {
    let region = longs(&[0, 1 << 40, 4096, 1 << 40, 0]);
    let record = [longs(&[4096, 0]), words(&[1 | 32 << 16])].concat();
    let no_eventfd = Must::Refuse("is not an eventfd");
    vec![
        ("memory", ADD_MEM_REG, region, 0, Must::Refuse("the memory region at guest address")),
        ("a record", SET_INFLIGHT_FD, record, 0, Must::Refuse("the memory of the record")),
        ("a log", SET_LOG_BASE, longs(&[4096, 0]), 0, Must::Close("the log ")),
        ("a kick", SET_VRING_KICK, longs(&[0]), 1, no_eventfd),
        ("a call", SET_VRING_CALL, longs(&[0]), 1, no_eventfd),
        ("an error", SET_VRING_ERR, longs(&[0]), 1, no_eventfd),
        ("the back-end channel", SET_BACKEND_REQ_FD, vec![], 2, Must::Refuse("is not a stream socket")),
    ]
}

pub(crate) fn entries() -> Vec<Entry> {
    let mut entries = Vec::new();
    for (place, code, body, sort, wrong) in places() {
        for (kind, make, refused) in KINDS {
            let body = body.clone();
            let packet = move |_: &_| Ok(Packet::with(code, body.clone(), vec![make()?]));
            // What the system lets nobody write to, or wake by, does no harm as an eventfd.
            let must = if refused[sort] { wrong } else { Must::Endure };
            entries.push(Entry::request(&format!("descriptor: {kind} as {place}"), must, packet));
        }
    }
    entries
}
