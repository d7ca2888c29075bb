//! A guest behind a front end: shared memory, rings, eventfds, and the usual way to attach. Knows nothing of the disk.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use spinel_core::mem::Region;
use spinel_sim::guest::{Finished, GUEST_BASE, GuestRequest, Layout, SimGuest, USER_BASE};

use crate::client::*;
use crate::{PACKED, host};

/// Rings of 128 entries through indirect tables, with 4 KiB per request.
pub(crate) const LAYOUT: Layout = Layout { size: 128, packed: PACKED, event_idx: true, indirect: true, data_bytes: 4096 };
pub(crate) const FEATURES: u64 =
    FLUSH | CONFIG_WCE | INDIRECT | EVENT_IDX | PROTOCOL_FEATURES | VERSION_1 | if PACKED { RING_PACKED } else { 0 };
/// Where a new ring begins: its index, or twice its place and wrap counter.
pub(crate) const BEGINNING: u32 = if PACKED { 0x8000_8000 } else { 0 };

/// Memory, rings and eventfds of a virtual machine.
pub(crate) struct Guest {
    pub(crate) memory: OwnedFd,
    /// The memory's name in /proc/self/maps.
    pub(crate) name: String,
    pub(crate) len_bytes: u64,
    pub(crate) queues: Vec<Queue>,
}

/// One ring with its eventfds.
pub(crate) struct Queue {
    pub(crate) ring: SimGuest,
    pub(crate) kick: OwnedFd,
    pub(crate) call: OwnedFd,
    pub(crate) error: OwnedFd,
}

pub(crate) fn new_eventfd() -> OwnedFd {
    eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap()
}

/// Waits until somebody has notified, and takes it.
pub(crate) fn take(eventfd: &OwnedFd) {
    let mut fds = [PollFd::new(eventfd, PollFlags::IN)];
    let ready = poll(&mut fds, Some(&Timespec { tv_sec: 60, tv_nsec: 0 })).unwrap();
    assert_eq!(ready, 1, "nobody notified");
    rustix::io::read(eventfd, &mut [0; 8]).unwrap();
}

/// Whether somebody has notified; takes it.
pub(crate) fn try_take(eventfd: &OwnedFd) -> bool {
    rustix::io::read(eventfd, &mut [0; 8]).is_ok()
}

impl Queue {
    /// Posts requests and kicks if the device wants it.
    pub(crate) fn post(&mut self, requests: impl IntoIterator<Item = GuestRequest>) {
        for request in requests {
            self.ring.post(request);
        }
        if self.ring.publish() {
            rustix::io::write(&self.kick, &1_u64.to_ne_bytes()).unwrap();
        }
    }

    /// Waits for `count` requests to finish.
    pub(crate) fn finish(&mut self, count: usize) -> Vec<Finished> {
        let mut finished = Vec::new();
        loop {
            while finished.len() < count {
                let Some(one) = self.ring.reap() else { break };
                finished.push(one);
            }
            if finished.len() == count {
                return finished;
            }
            take(&self.call);
        }
    }

    /// Writes a page of `fill` and reads it back.
    pub(crate) fn check(&mut self, sector: u64, fill: u8) {
        let head = self.ring.next_head().unwrap();
        self.ring.region().write(self.ring.data_at(head), &[fill; 4096]).unwrap();
        self.post([GuestRequest::write(sector, 4096)]);
        assert_eq!(self.finish(1)[0].status, 0, "a write failed");
        let head = self.ring.next_head().unwrap();
        self.ring.region().zero(self.ring.data_at(head), 4096).unwrap();
        self.post([GuestRequest::read(sector, 4096)]);
        assert_eq!(self.finish(1)[0].status, 0, "a read failed");
        let mut got = [0; 4096];
        self.ring.region().read(self.ring.data_at(head), &mut got).unwrap();
        assert_eq!(got, [fill; 4096], "what was read is not what was written");
    }
}

impl Guest {
    pub(crate) fn new(queues: u16) -> Self {
        Self::with(queues, LAYOUT, 0)
    }

    /// A guest with `more_bytes` of memory besides its rings.
    pub(crate) fn with(queues: u16, layout: Layout, more_bytes: u64) -> Self {
        let each = SimGuest::memory_bytes(layout);
        let len_bytes = each * u64::from(queues) + more_bytes;
        let name = host::name("guest-memory-");
        let memory = memfd_create(&name, MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&memory, len_bytes).unwrap();
        let queue = |index| {
            let shift = each * u64::from(index);
            let ring = SimGuest::shifted(Region::of_file(memory.as_fd(), shift, each).unwrap(), layout, shift);
            Queue { ring, kick: new_eventfd(), call: new_eventfd(), error: new_eventfd() }
        };
        let queues = (0..queues).map(queue).collect();
        // A name that is another's prefix would be counted twice.
        Self { memory, name: format!("{name} "), len_bytes, queues }
    }

    /// The one region of its memory: guest address, size, user address, offset.
    pub(crate) fn region(&self) -> [u64; 4] {
        [GUEST_BASE, self.len_bytes, USER_BASE, 0]
    }

    /// What a front end sends to attach, one message after the other.
    pub(crate) fn packets(&self) -> Vec<Packet> {
        let number = |value: u64| longs(&[value]);
        let mut packets = vec![
            Packet::new(GET_FEATURES, vec![], &[]),
            Packet::new(SET_OWNER, vec![], &[]),
            Packet::new(GET_PROTOCOL_FEATURES, vec![], &[]),
            Packet::new(SET_PROTOCOL_FEATURES, number(PROTOCOL_ALL), &[]),
            Packet::new(GET_QUEUE_NUM, vec![], &[]),
            Packet::new(GET_CONFIG, words(&[0, 60, 0]), &[]),
            Packet::new(SET_FEATURES, number(FEATURES), &[]),
            Packet::new(SET_MEM_TABLE, [words(&[1, 0]), longs(&self.region())].concat(), &[&self.memory]),
        ];
        for index in 0..u32::try_from(self.queues.len()).unwrap() {
            packets.extend(self.ring_packets(index));
        }
        packets
    }

    /// The part of it that concerns one ring.
    pub(crate) fn ring_packets(&self, index: u32) -> Vec<Packet> {
        let queue = &self.queues[usize::try_from(index).unwrap()];
        let [descriptors, available, used] = queue.ring.addresses();
        let address = [words(&[index, 0]), longs(&[descriptors, used, available, 0])].concat();
        let number = longs(&[u64::from(index)]);
        vec![
            Packet::new(SET_VRING_NUM, words(&[index, u32::from(LAYOUT.size)]), &[]),
            Packet::new(SET_VRING_BASE, words(&[index, BEGINNING]), &[]),
            Packet::new(SET_VRING_ADDR, address, &[]),
            Packet::new(SET_VRING_CALL, number.clone(), &[&queue.call]),
            Packet::new(SET_VRING_ERR, number.clone(), &[&queue.error]),
            Packet::new(SET_VRING_KICK, number, &[&queue.kick]),
            Packet::new(SET_VRING_ENABLE, words(&[index, 1]), &[]),
        ]
    }

    /// Attaches and waits until the queues run.
    pub(crate) fn attach(&self, path: &Path) -> Client {
        self.attach_after(path, |_| ())
    }

    /// The same after something that comes between the features and the memory.
    pub(crate) fn attach_after(&self, path: &Path, prepare: impl FnOnce(&mut Client)) -> Client {
        let mut client = Client::connect(path);
        client.negotiate(PROTOCOL_ALL, FEATURES);
        prepare(&mut client);
        for packet in self.packets().iter().skip_while(|packet| packet.code != SET_MEM_TABLE) {
            let fds: Vec<&OwnedFd> = packet.fds.iter().collect();
            client.tell(packet.code, &packet.body, &fds);
        }
        client.sync();
        client
    }

    /// Mappings of its memory that are not its own.
    pub(crate) fn foreign_mappings(&self) -> usize {
        host::mappings_of(&self.name) - self.queues.len()
    }
}
