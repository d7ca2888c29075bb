//! A guest behind a front end: shared memory, rings of either layout, eventfds, and the usual way to attach. Knows nothing of the disk.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use spinel_mem::Region;
use spinel_sim::guest::{Finished, GUEST_BASE, GuestRequest, Layout, SimGuest, USER_BASE};

use crate::Surprise;
use crate::wire::{
    CONFIG_WCE, Client, DISCARD, EVENT_IDX, FLUSH, INDIRECT, PATIENCE, PROTOCOL_FEATURES, Packet, RING_PACKED, SET_MEM_TABLE,
    SET_VRING_ADDR, SET_VRING_BASE, SET_VRING_CALL, SET_VRING_ENABLE, SET_VRING_ERR, SET_VRING_KICK, SET_VRING_NUM, VERSION_1,
    WRITE_ZEROES, longs, words,
};

/// The prefix of the names of all memory that the table shares, by which its mappings are found.
pub const MEMORY_NAME: &str = "hostile-memory";

/// Which layout the rings have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Split,
    Packed,
}

impl Kind {
    pub(crate) const BOTH: [Self; 2] = [Self::Split, Self::Packed];

    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Split => "split",
            Self::Packed => "packed",
        }
    }

    /// The features that a guest with such rings negotiates.
    pub(crate) fn features(self) -> u64 {
        let packed = if self == Self::Packed { RING_PACKED } else { 0 };
        FLUSH | CONFIG_WCE | DISCARD | WRITE_ZEROES | INDIRECT | EVENT_IDX | PROTOCOL_FEATURES | VERSION_1 | packed
    }

    fn layout(self) -> Layout {
        Layout { size: RING_SIZE, packed: self == Self::Packed, event_idx: true, indirect: true, data_bytes: 4096 }
    }

    /// Where a new ring begins, as VHOST_USER_SET_VRING_BASE has it.
    fn beginning(self) -> u32 {
        if self == Self::Packed { 0x8000_8000 } else { 0 }
    }
}

/// Descriptors of a ring.
pub(crate) const RING_SIZE: u16 = 64;
/// Bytes of memory beside the rings, for headers, tables and data that no rule governs.
pub(crate) const SCRATCH_BYTES: u64 = 1 << 20;

/// Memory, rings and eventfds of a virtual machine.
pub(crate) struct Guest {
    pub(crate) kind: Kind,
    pub(crate) memory: OwnedFd,
    pub(crate) len_bytes: u64,
    pub(crate) queues: Vec<Queue>,
    /// The last `SCRATCH_BYTES` of the memory.
    pub(crate) scratch: Arc<Region>,
}

/// One ring with its eventfds.
pub(crate) struct Queue {
    pub(crate) ring: SimGuest,
    pub(crate) kick: OwnedFd,
    pub(crate) call: OwnedFd,
    pub(crate) error: OwnedFd,
}

pub(crate) fn new_eventfd() -> Result<OwnedFd, Surprise> {
    Ok(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)
}

/// Memory that is shared, all of it zero.
pub(crate) fn new_memory(len_bytes: u64) -> Result<OwnedFd, Surprise> {
    let memory = memfd_create(MEMORY_NAME, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    ftruncate(&memory, len_bytes)?;
    Ok(memory)
}

/// Adds one to an eventfd.
pub(crate) fn ring_up(eventfd: &OwnedFd) -> Result<(), Surprise> {
    match rustix::io::write(eventfd, &1_u64.to_ne_bytes()) {
        // Full: whoever listens has enough to hear.
        Ok(_) | Err(rustix::io::Errno::AGAIN) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Waits until somebody has notified, and takes it.
pub(crate) fn take(eventfd: &OwnedFd, what: &str) -> Result<(), Surprise> {
    let patience = Timespec::try_from(PATIENCE).expect("seconds");
    let ready = rustix::io::retry_on_intr(|| poll(&mut [PollFd::new(eventfd, PollFlags::IN)], Some(&patience)))?;
    if ready == 0 {
        return Err(Surprise::of(format!("nobody has notified of {what}")));
    }
    rustix::io::read(eventfd, &mut [0; 8])?;
    Ok(())
}

impl Queue {
    /// Posts requests and kicks if the device wants it.
    pub(crate) fn post(&mut self, requests: impl IntoIterator<Item = GuestRequest>) -> Result<(), Surprise> {
        for request in requests {
            self.ring.post(request);
        }
        if self.ring.publish() { ring_up(&self.kick) } else { Ok(()) }
    }

    /// Waits for one request to finish.
    fn finish(&mut self) -> Result<Finished, Surprise> {
        loop {
            if let Some(finished) = self.ring.reap() {
                return Ok(finished);
            }
            take(&self.call, "a request's end")?;
        }
    }

    /// Writes a page of `fill` and reads it back.
    pub(crate) fn check(&mut self, sector: u64, fill: u8) -> Result<(), Surprise> {
        let inside = "inside the region";
        let one = |queue: &mut Self, request: GuestRequest, before: u8| {
            let head = queue.ring.next_head().expect("one request at a time");
            queue.ring.region().write(queue.ring.data_at(head), &[before; 4096]).expect(inside);
            queue.post([request])?;
            match queue.finish()?.status {
                0 => Ok(head),
                status => Err(Surprise::of(format!("{request:?} of a guest that keeps all rules ended with status {status}"))),
            }
        };
        one(self, GuestRequest::write(sector, 4096), fill)?;
        let head = one(self, GuestRequest::read(sector, 4096), !fill)?;
        let mut got = [0; 4096];
        self.ring.region().read(self.ring.data_at(head), &mut got).expect(inside);
        if got == [fill; 4096] { Ok(()) } else { Err(Surprise::of("what was read is not what was written".to_owned())) }
    }
}

impl Guest {
    pub(crate) fn new(kind: Kind, queues: u16) -> Result<Self, Surprise> {
        let layout = kind.layout();
        let each = SimGuest::memory_bytes(layout);
        let scratch_at = each * u64::from(queues);
        let len_bytes = scratch_at + SCRATCH_BYTES;
        let memory = new_memory(len_bytes)?;
        let map = |offset, len| Region::of_file(memory.as_fd(), offset, len).map_err(|error| Surprise::of(error.to_string()));
        let queue = |index: u16| {
            let shift = each * u64::from(index);
            let ring = SimGuest::shifted(map(shift, each)?, layout, shift);
            Ok(Queue { ring, kick: new_eventfd()?, call: new_eventfd()?, error: new_eventfd()? })
        };
        let queues = (0..queues).map(queue).collect::<Result<_, Surprise>>()?;
        let scratch = map(scratch_at, SCRATCH_BYTES)?;
        Ok(Self { kind, memory, len_bytes, queues, scratch })
    }

    /// Empties a ring, as a driver does that resets its device.
    pub(crate) fn renew(&mut self, index: usize) {
        let region = Arc::clone(self.queues[index].ring.region());
        region.zero(0, region.len_bytes()).expect("the whole region");
        let shift = region.len_bytes() * u64::try_from(index).expect("few queues");
        self.queues[index].ring = SimGuest::shifted(region, self.kind.layout(), shift);
        for eventfd in [&self.queues[index].call, &self.queues[index].error] {
            // Nothing to take is nothing left.
            let _ = rustix::io::read(eventfd, &mut [0; 8]);
        }
    }

    /// The guest-physical address of the scratch memory.
    pub(crate) fn scratch_at(&self) -> u64 {
        GUEST_BASE + self.len_bytes - SCRATCH_BYTES
    }

    /// The same as the front end has it.
    pub(crate) fn scratch_user(&self) -> u64 {
        USER_BASE + self.len_bytes - SCRATCH_BYTES
    }

    /// The one region of its memory: guest address, size, user address, offset.
    pub(crate) fn region(&self) -> [u64; 4] {
        [GUEST_BASE, self.len_bytes, USER_BASE, 0]
    }

    /// The message that shares all of its memory.
    pub(crate) fn table(&self) -> Result<Packet, Surprise> {
        let body = [words(&[1, 0]), longs(&self.region())].concat();
        Ok(Packet::with(SET_MEM_TABLE, body, vec![self.memory.try_clone()?]))
    }

    /// What a front end sends to set up one ring.
    pub(crate) fn ring_packets(&self, index: u32) -> Result<Vec<Packet>, Surprise> {
        let queue = &self.queues[usize::try_from(index).expect("32 bits")];
        let number = longs(&[u64::from(index)]);
        Ok(vec![
            Packet::new(SET_VRING_NUM, words(&[index, u32::from(RING_SIZE)])),
            Packet::new(SET_VRING_BASE, words(&[index, self.kind.beginning()])),
            self.address_packet(index),
            Packet::with(SET_VRING_CALL, number.clone(), vec![queue.call.try_clone()?]),
            Packet::with(SET_VRING_ERR, number.clone(), vec![queue.error.try_clone()?]),
            Packet::with(SET_VRING_KICK, number, vec![queue.kick.try_clone()?]),
            Packet::new(SET_VRING_ENABLE, words(&[index, 1])),
        ])
    }

    /// Where one ring lies.
    pub(crate) fn address_packet(&self, index: u32) -> Packet {
        let [descriptors, available, used] = self.queues[usize::try_from(index).expect("32 bits")].ring.addresses();
        Packet::new(SET_VRING_ADDR, [words(&[index, 0]), longs(&[descriptors, used, available, 0])].concat())
    }

    /// Shares its memory and sets up its rings on a connection that has negotiated.
    pub(crate) fn set_up(&self, client: &mut Client) -> Result<(), Surprise> {
        client.tell(&self.table()?)?;
        for index in 0..u32::try_from(self.queues.len()).expect("few queues") {
            for packet in self.ring_packets(index)? {
                client.tell(&packet)?;
            }
        }
        Ok(())
    }

    /// Attaches and waits until the queues run.
    pub(crate) fn attach(&self, path: &Path) -> Result<Client, Surprise> {
        let mut client = Client::negotiated(path, self.kind.features())?;
        self.set_up(&mut client)?;
        Ok(client)
    }
}
