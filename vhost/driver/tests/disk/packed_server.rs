//! A vhost-user-blk server with one packed ring over a vector, as a second opinion beside ours. Knows only what its one front end needs, and trusts it.
//!
//! Sources: QEMU's `docs/interop/vhost-user.rst`; virtio 1.2, 2.8 and 5.2.

use std::io::{IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::thread::JoinHandle;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use spinel_core::mem::Region;

/// SEG_MAX, FLUSH, DISCARD, WRITE_ZEROES; EVENT_IDX, vhost-user's protocol features, VERSION_1, RING_PACKED.
pub(crate) const FEATURES: u64 = 1 << 2 | 1 << 9 | 1 << 13 | 1 << 14 | 1 << 29 | 1 << 30 | 1 << 32 | 1 << 34;
/// REPLY_ACK, CONFIG, CONFIGURE_MEM_SLOTS.
const PROTOCOL: u64 = 1 << 3 | 1 << 9 | 1 << 15;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const AVAIL: u16 = 1 << 7;
const USED: u16 = 1 << 15;

/// What the server saw, once its front end has left.
#[derive(Default, Debug)]
pub(crate) struct Seen {
    pub(crate) requests: u64,
    pub(crate) kicks: u64,
    pub(crate) calls: u64,
}

struct Server {
    front: UnixStream,
    features: u64,
    data: Vec<u8>,
    regions: Vec<(u64, Arc<Region>)>,
    size: u16,
    /// Descriptors, the driver's event suppression, the device's.
    areas: [u64; 3],
    kick: Option<OwnedFd>,
    call: Option<OwnedFd>,
    next: u16,
    wrap: bool,
    seen: Seen,
}

/// Serves one front end with a disk of `data_bytes`.
pub(crate) fn serve(path: &Path, data_bytes: usize) -> JoinHandle<Seen> {
    serve_offering(path, data_bytes, FEATURES)
}

/// The same with less to offer.
pub(crate) fn serve_offering(path: &Path, data_bytes: usize, features: u64) -> JoinHandle<Seen> {
    let listener = UnixListener::bind(path).unwrap();
    let body = move || {
        let (front, _) = listener.accept().unwrap();
        let data = vec![0; data_bytes];
        let seen = Seen::default();
        Server { front, features, data, regions: Vec::new(), size: 0, areas: [0; 3], kick: None, call: None, next: 0, wrap: true, seen }
            .run()
    };
    std::thread::Builder::new().name("packed-server".to_owned()).spawn(body).unwrap()
}

fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap())
}

impl Server {
    fn run(mut self) -> Seen {
        loop {
            let (kicked, spoken) = {
                let none = self.front.as_fd();
                let kick = self.kick.as_ref().map_or(none, AsFd::as_fd);
                let mut fds = [PollFd::from_borrowed_fd(kick, PollFlags::IN), PollFd::new(&self.front, PollFlags::IN)];
                poll(&mut fds, None).unwrap();
                (self.kick.is_some() && !fds[0].revents().is_empty(), !fds[1].revents().is_empty())
            };
            if spoken && !self.message() {
                return self.seen;
            }
            if kicked {
                self.seen.kicks += 1;
                rustix::io::read(self.kick.as_ref().unwrap(), &mut [0; 8]).unwrap();
                self.process();
            }
        }
    }

    /// Serves one message. False if the front end has left.
    fn message(&mut self) -> bool {
        let mut head = [0; 12];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::WAITALL | RecvFlags::CMSG_CLOEXEC;
        let received = rustix::net::recvmsg(&self.front, &mut [IoSliceMut::new(&mut head)], &mut control, flags).unwrap();
        if received.bytes == 0 {
            return false;
        }
        let mut fd = None;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(mut fds) = message {
                fd = fds.next();
            }
        }
        let (code, flags) = (word(&head, 0), word(&head, 4));
        let mut body = vec![0; word(&head, 8) as usize];
        self.front.read_exact(&mut body).unwrap();
        let answer = match code {
            1 => Some(self.features.to_ne_bytes().to_vec()),
            15 => Some(PROTOCOL.to_ne_bytes().to_vec()),
            36 => Some(8_u64.to_ne_bytes().to_vec()),
            24 => Some(self.config(body)),
            _ => {
                self.set(code, &body, fd);
                (flags & 8 != 0).then(|| 0_u64.to_ne_bytes().to_vec())
            }
        };
        if let Some(answer) = answer {
            let size = u32::try_from(answer.len()).unwrap();
            let reply = [[code, 5, size].map(u32::to_ne_bytes).concat(), answer].concat();
            self.front.write_all(&reply).unwrap();
        }
        true
    }

    /// Capacity and limits, after the twelve bytes that say which part of it.
    fn config(&self, mut body: Vec<u8>) -> Vec<u8> {
        let sectors = u64::try_from(self.data.len() / 512).unwrap();
        body[12..].fill(0);
        body[12..20].copy_from_slice(&sectors.to_le_bytes());
        for limit in [12, 36, 48] {
            body[12 + limit..12 + limit + 4].copy_from_slice(&1024_u32.to_le_bytes());
        }
        body
    }

    fn set(&mut self, code: u32, body: &[u8], fd: Option<OwnedFd>) {
        match code {
            2 => assert!(long(body, 0) & !self.features == 0, "more was agreed on than was offered"),
            8 => self.size = u16::try_from(word(body, 4)).unwrap(),
            9 => self.areas = [long(body, 8), long(body, 24), long(body, 16)],
            12 => self.kick = fd,
            13 => self.call = fd,
            37 => self.regions.push((long(body, 8), Region::of_file(fd.unwrap().as_fd(), long(body, 32), long(body, 16)).unwrap())),
            _ => {}
        }
    }

    fn at(&self, address: u64) -> (&Region, u64) {
        let inside = |(begin, region): &&(u64, Arc<Region>)| (*begin..*begin + region.len_bytes()).contains(&address);
        let (begin, region) = self.regions.iter().find(inside).unwrap();
        (region, address - begin)
    }

    fn read(&self, address: u64, len: u32) -> Vec<u8> {
        let (region, offset) = self.at(address);
        let mut bytes = vec![0; len as usize];
        region.read(offset, &mut bytes).unwrap();
        bytes
    }

    fn write(&self, address: u64, bytes: &[u8]) {
        let (region, offset) = self.at(address);
        region.write(offset, bytes).unwrap();
    }

    fn descriptor(&self, index: u16) -> (u64, u32, [u8; 2], u16) {
        let bytes = self.read(self.areas[0] + 16 * u64::from(index), 16);
        let flags = u16::from_le_bytes([bytes[14], bytes[15]]);
        (long(&bytes, 0), word(&bytes, 8), [bytes[12], bytes[13]], flags)
    }

    /// Serves everything in the ring with kicks refused, and once more after they are welcome again.
    fn process(&mut self) {
        loop {
            self.write(self.areas[2] + 2, &1_u16.to_le_bytes());
            while self.chain() {}
            self.write(self.areas[2] + 2, &0_u16.to_le_bytes());
            fence(Ordering::SeqCst);
            if !self.available() {
                break;
            }
        }
    }

    fn available(&self) -> bool {
        let (.., flags) = self.descriptor(self.next);
        (flags & AVAIL != 0) == self.wrap && (flags & USED != 0) != self.wrap
    }

    fn chain(&mut self) -> bool {
        if !self.available() {
            return false;
        }
        fence(Ordering::SeqCst);
        let (first, wrap) = (self.next, self.wrap);
        let (mut readable, mut writable) = (Vec::new(), Vec::new());
        let id = loop {
            let (address, len, id, flags) = self.descriptor(self.next);
            assert!(len > 0, "a descriptor without bytes is none");
            if flags & WRITE == 0 { &mut readable } else { &mut writable }.push((address, len));
            self.next += 1;
            if self.next == self.size {
                (self.next, self.wrap) = (0, !self.wrap);
            }
            if flags & NEXT == 0 {
                break id;
            }
        };
        // Now and then it takes as long as a core needs to fall asleep.
        for _ in 0..self.seen.requests.wrapping_mul(2_654_435_761) % 2_000 {
            std::hint::spin_loop();
        }
        let status = writable.pop().unwrap();
        let answer = self.execute(&readable, &writable);
        self.write(status.0, &[answer]);
        let used_len: u32 = writable.iter().map(|piece| piece.1).sum::<u32>() + 1;
        let place = self.areas[0] + 16 * u64::from(first);
        self.write(place + 8, &used_len.to_le_bytes());
        self.write(place + 12, &id);
        fence(Ordering::SeqCst);
        let flags = if wrap { AVAIL | USED } else { 0 };
        self.write(place + 14, &flags.to_le_bytes());
        self.seen.requests += 1;
        fence(Ordering::SeqCst);
        let suppression = self.read(self.areas[1], 4);
        if u16::from_le_bytes([suppression[2], suppression[3]]) != 1 {
            self.seen.calls += 1;
            rustix::io::write(self.call.as_ref().unwrap(), &1_u64.to_ne_bytes()).unwrap();
        }
        true
    }

    fn execute(&mut self, readable: &[(u64, u32)], writable: &[(u64, u32)]) -> u8 {
        let header = self.read(readable[0].0, 16);
        let mut at = usize::try_from(long(&header, 8)).unwrap() * 512;
        match word(&header, 0) {
            0 => {
                for (address, len) in writable {
                    let end = at + *len as usize;
                    self.write(*address, &self.data[at..end]);
                    at = end;
                }
            }
            1 => {
                for (address, len) in &readable[1..] {
                    let bytes = self.read(*address, *len);
                    self.data[at..at + bytes.len()].copy_from_slice(&bytes);
                    at += bytes.len();
                }
            }
            4 => {}
            11 | 13 => {
                let range = self.read(readable[1].0, 16);
                let begin = usize::try_from(long(&range, 0)).unwrap() * 512;
                self.data[begin..begin + word(&range, 8) as usize * 512].fill(0);
            }
            _ => return 2,
        }
        0
    }
}
