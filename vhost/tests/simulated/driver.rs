//! A guest's driver of one queue: its ring, its kicks, and how it learns of ends. Knows no block and no data.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use spinel_core::mem::{GuestRange, Region};
use spinel_sim::guest::{Finished, GUEST_BASE, GuestRequest, Layout, SimGuest, USER_BASE};
use spinel_vhost::RingAddresses;

use crate::failure::Failure;

/// Most pieces that the data of a request is cut into.
const PIECES_MAX: usize = 7;

/// A queue as its driver sees it. `F` is what it remembers of a request in flight.
///
/// All counts are like the indexes of split rings: they go on for ever and wrap at 65,536.
pub(crate) struct Driver<F> {
    pub(crate) layout: Layout,
    ring: SimGuest,
    shift: u64,
    kick: OwnedFd,
    /// The eventfds that it may be notified by; the last is the current one.
    calls: Vec<OwnedFd>,
    kick_owed: bool,
    /// It is never notified, and looks for used chains all the time.
    polls: bool,
    /// Looks for used chains by itself; otherwise only after a notification.
    awake: bool,
    flights: Vec<Option<F>>,
    posted: u16,
    published: u16,
    reaped: u16,
    /// Requests that went to the device, and those that came back from it.
    pub(crate) submitted: u16,
    pub(crate) completed: u16,
    /// The device was asked for something and not told to start yet.
    pub(crate) is_unstarted: bool,
}

pub(crate) fn new_eventfd() -> OwnedFd {
    eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).expect("an eventfd for a test")
}

fn is_written(eventfd: &OwnedFd) -> bool {
    poll(&mut [PollFd::new(eventfd, PollFlags::IN)], Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).expect("eventfds can be polled") > 0
}

fn again(eventfd: &OwnedFd) -> OwnedFd {
    rustix::io::dup(eventfd.as_fd()).expect("a second descriptor for a test")
}

impl<F> Driver<F> {
    /// A driver with empty rings in memory of its own, `shift` bytes into the guest's.
    pub(crate) fn new(layout: Layout, shift: u64, polls: bool) -> Self {
        let region = Region::anonymous(SimGuest::memory_bytes(layout)).expect("memory for a test");
        Self {
            layout,
            ring: SimGuest::shifted(region, layout, shift),
            shift,
            kick: new_eventfd(),
            calls: vec![new_eventfd()],
            kick_owed: false,
            polls,
            awake: polls,
            flights: (0..layout.size).map(|_| None).collect(),
            posted: 0,
            published: 0,
            reaped: 0,
            submitted: 0,
            completed: 0,
            is_unstarted: false,
        }
    }

    /// Its part of the guest's memory.
    pub(crate) fn range(&self) -> GuestRange {
        GuestRange { guest: GUEST_BASE + self.shift, user: USER_BASE + self.shift, region: Arc::clone(self.ring.region()) }
    }

    pub(crate) fn addresses(&self) -> RingAddresses {
        let [descriptors, available, used] = self.ring.addresses();
        RingAddresses { descriptors, available, used }
    }

    /// The eventfd that it kicks.
    pub(crate) fn kick_end(&self) -> OwnedFd {
        again(&self.kick)
    }

    /// The eventfd that it is notified by.
    pub(crate) fn call_end(&self) -> OwnedFd {
        again(self.calls.last().expect("it has one from the beginning"))
    }

    /// From now on it is to be notified by another eventfd, but still listens to the old one.
    pub(crate) fn replace_call(&mut self) -> OwnedFd {
        self.calls.push(new_eventfd());
        self.call_end()
    }

    /// The queue has taken the new eventfd: nothing more can come by the old one.
    pub(crate) fn drop_old_calls(&mut self) {
        let old = self.calls.len() - 1;
        self.awake |= self.calls.drain(..old).any(|call| is_written(&call));
    }

    /// Into how many pieces the next request can be cut; `None` if there is no room for one.
    pub(crate) fn pieces_max(&self) -> Option<u16> {
        let room = self.ring.room();
        // Without tables header and status take a descriptor each, and `room` counts in threes.
        let pieces = if self.layout.indirect { PIECES_MAX } else { (3 * room).saturating_sub(2).min(PIECES_MAX) };
        (room > 0).then(|| u16::try_from(pieces).expect("a small number"))
    }

    /// Puts a request into the ring without publishing it. `data` is what its buffer holds.
    pub(crate) fn post(&mut self, request: GuestRequest, data: &[u8], flight: F) -> u16 {
        let head = self.ring.next_head().expect("there is room");
        self.ring.region().write(self.ring.data_at(head), data).expect("a buffer of the guest");
        assert_eq!(self.ring.post(request), head, "the head that was announced");
        self.posted = self.posted.wrapping_add(1);
        self.flights[usize::from(head)] = Some(flight);
        head
    }

    /// Makes what was posted visible; answers whether the device wants a kick for it, which is owed from now on.
    pub(crate) fn publish(&mut self) -> Option<bool> {
        if self.published == self.posted {
            return None;
        }
        self.published = self.posted;
        let wanted = self.ring.publish();
        self.kick_owed |= wanted;
        Some(wanted)
    }

    /// Pays a kick that is owed.
    pub(crate) fn kick(&mut self) -> bool {
        if self.kick_owed {
            rustix::io::write(&self.kick, &1_u64.to_ne_bytes()).expect("an eventfd takes a small count");
        }
        std::mem::take(&mut self.kick_owed)
    }

    /// Whether it looks into the used ring.
    pub(crate) fn awake(&self) -> bool {
        self.awake
    }

    /// Starts to look into the used ring if it was notified of something there, and may refuse further notifications meanwhile.
    pub(crate) fn take_notification(&mut self, refuse_more: bool) -> bool {
        if self.awake || self.used_index() == self.reaped || !self.hush() {
            return false;
        }
        self.awake = true;
        if refuse_more && !self.layout.event_idx {
            self.ring.refuse_calls();
        }
        true
    }

    /// Forgets notifications; answers whether there were any.
    fn hush(&self) -> bool {
        self.calls.iter().filter(|call| rustix::io::read(call, &mut [0; 8]).is_ok()).count() > 0
    }

    /// Wants notifications again, and stops to look into the used ring if it is still empty then. Answers whether it stopped.
    pub(crate) fn doze(&mut self) -> bool {
        if self.polls {
            return false;
        }
        self.ring.want_calls();
        // An old notification must not stand in for one that is missing later.
        self.hush();
        self.awake = self.used_index() != self.reaped;
        !self.awake
    }

    fn used_index(&self) -> u16 {
        self.reaped.wrapping_add(self.ring.finished())
    }

    /// Takes the next finished request, what was remembered of it, and what its buffer holds.
    pub(crate) fn reap(&mut self, queue: usize) -> Result<Option<(Finished, F, Vec<u8>)>, Failure> {
        let Some((head, _)) = self.ring.peek() else { return Ok(None) };
        let flight = self.flights.get_mut(usize::try_from(head).expect("32 bits")).and_then(Option::take);
        let flight = flight.ok_or(Failure::Unposted { queue, head })?;
        let finished = self.ring.reap().expect("the index says so");
        self.reaped = self.reaped.wrapping_add(1);
        let mut data = vec![0; self.layout.data_bytes.try_into().expect("small buffers")];
        self.ring.region().read(self.ring.data_at(finished.head), &mut data).expect("a buffer of the guest");
        Ok(Some((finished, flight, data)))
    }

    /// What it remembers of the request at a head.
    pub(crate) fn flight_mut(&mut self, head: u32) -> Option<&mut F> {
        self.flights.get_mut(usize::try_from(head).ok()?)?.as_mut()
    }

    /// Where a queue goes on that has finished everything it took, as VHOST_USER_GET_VRING_BASE has it.
    pub(crate) fn base(&self) -> u32 {
        self.ring.base()
    }

    /// The index that the next request gets.
    pub(crate) fn next_index(&self) -> u16 {
        self.posted
    }

    /// Whether the request of that index, which has not ended, is visible to the device.
    pub(crate) fn is_published(&self, index: u16) -> bool {
        self.published.wrapping_sub(index).wrapping_sub(1) < self.layout.size
    }

    /// How many requests have not ended.
    pub(crate) fn outstanding(&self) -> usize {
        self.flights.iter().flatten().count()
    }

    /// How many requests are with the device. Holds between turns only.
    pub(crate) fn in_flight(&self) -> u16 {
        self.submitted.wrapping_sub(self.completed)
    }

    /// How many chains the device has taken: those it was asked for, and those answered without it. Holds between turns only.
    pub(crate) fn taken(&self) -> u16 {
        self.in_flight().wrapping_add(self.used_index())
    }

    /// How many published chains have not been taken and nobody is about to be kicked for. Holds between turns only.
    pub(crate) fn forgotten(&self) -> u16 {
        if self.kick_owed { 0 } else { self.published.wrapping_sub(self.taken()) }
    }

    /// Whether finished requests wait for a driver that nobody has notified. Holds between turns only.
    pub(crate) fn misses_notification(&self) -> bool {
        !self.awake && self.used_index() != self.reaped && !self.calls.iter().any(is_written)
    }
}
