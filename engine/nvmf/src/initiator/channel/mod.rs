//! A namespace's channel on one core: requests wait for a way, go, and go again where that is safe. Knows no connection's
//! state, and no controller's.
//!
//! When a connection is lost, nobody knows which of its commands were done. What changes nothing (a read, a flush) goes
//! another way at once. What changes blocks may still be under way in the old controller, and would land on top of what
//! came after: so it is held until that controller has certainly ended everything (`control/ghost.rs` says when), and only
//! then goes again, or fails. And while it is held, or under way at all, nobody here changes the same blocks
//! (`overlap.rs`), so that done twice it undoes nothing.

mod route;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use spinel_core::mem::Segment;
use spinel_core::{Armed, Channel, Completion, Completions, Instant, Lba, Op, Request, Status, Tag};
use spinel_nvme::command::{Command, IoOpcode};
use spinel_nvme::dsm::{DatasetManagement, Range};
use spinel_nvme::io::{Blocks, flush};
use spinel_nvme::sgl::Sgl;
use spinel_nvme::status::{StatusCode, StatusField};
use zerocopy::IntoBytes as _;

use super::device::{SEGMENTS_MAX, Shared};
use super::host::{Ended, Host, Network};
use super::note::Association;
use super::overlap::Changes;
use super::queue::{End, Payload};
use super::view::{DeviceId, Limits, Mood};
use route::{Choice, Routes};

/// What failed without a word that this is in vain is sent again after so long.
const AGAIN_NS: u64 = 100_000_000;
/// How often a request is sent again that was lost with its connection, or by other ways because one does not lead there. One
/// that brings its controller down would bring down every one.
const DETOURS_MAX: u32 = 64;
/// How many requests that wait for another one are looked at when one ends.
const LOOKS: usize = 8;

/// A request.
#[derive(Clone, Copy, Debug)]
struct Slot {
    tag: Tag,
    op: Op,
    start: Lba,
    blocks: u32,
    /// Of these so many are done, and so many are under way.
    done_blocks: u32,
    sent_blocks: u32,
    segments: u16,
    tries: u32,
    detours: u32,
}

/// A channel's own state, apart from what it shares with its core.
struct State {
    shared: Arc<Shared>,
    slots: Box<[Slot]>,
    free: Vec<u32>,
    segments: Box<[Segment]>,
    changes: Changes,
    /// Requests that wait for a way, oldest first.
    waiting: VecDeque<u32>,
    /// Requests that wait until nobody else changes their blocks.
    behind: VecDeque<u32>,
    /// Requests that may still be done by a controller that was lost.
    held: Vec<(Association, u32)>,
    /// Requests that are to be sent again, and when.
    later: VecDeque<(Instant, u32)>,
    finished: VecDeque<(u32, Completion)>,
    routes: Routes,
}

/// A namespace's channel.
pub(super) struct WayChannel<N: Network> {
    host: Rc<RefCell<Host<N>>>,
    inbox: u32,
    state: State,
}

impl<N: Network> WayChannel<N> {
    pub(super) fn new(host: Rc<RefCell<Host<N>>>, device: DeviceId, shared: Arc<Shared>, depth: u16) -> Self {
        let inbox = host.borrow_mut().join(device, depth);
        let filler = host.borrow().filler();
        let slots = usize::from(depth);
        let empty = Slot {
            tag: Tag(0),
            op: Op::Flush,
            start: Lba(0),
            blocks: 0,
            done_blocks: 0,
            sent_blocks: 0,
            segments: 0,
            tries: 0,
            detours: 0,
        };
        let state = State {
            shared,
            slots: vec![empty; slots].into_boxed_slice(),
            free: (0..u32::from(depth)).rev().collect(),
            segments: vec![filler; slots * usize::from(SEGMENTS_MAX)].into_boxed_slice(),
            changes: Changes::new(slots),
            waiting: VecDeque::with_capacity(slots),
            behind: VecDeque::with_capacity(slots),
            held: Vec::with_capacity(slots),
            later: VecDeque::with_capacity(slots),
            finished: VecDeque::with_capacity(slots),
            routes: Routes::new(device),
        };
        Self { host, inbox, state }
    }
}

impl<N: Network> Drop for WayChannel<N> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        let held = self.state.slots.len() - self.state.free.len();
        assert_eq!(held, 0, "a channel was dropped with {held} requests in flight");
        self.host.borrow_mut().leave(self.inbox);
    }
}

impl<N: Network> Channel for WayChannel<N> {
    #[inline]
    fn room(&self) -> usize {
        self.state.free.len()
    }

    #[inline]
    fn submit(&mut self, request: Request<'_>) {
        let slot = self.state.free.pop().expect("room() was looked at before");
        match self.state.accept(slot, &request) {
            Ok(true) => {
                let host = &mut *self.host.borrow_mut();
                self.state.waiting.push_back(slot);
                self.state.routes.renew(host);
                // Whoever was there before goes before.
                self.state.send(host, self.inbox, request.at);
            }
            Ok(false) => {}
            Err(status) => self.state.finished.push_back((slot, Completion { tag: request.tag, status })),
        }
    }

    #[inline]
    fn kick(&mut self) {
        self.host.borrow_mut().kick();
    }

    #[inline]
    fn poll(&mut self, now: Instant, done: &mut Completions) {
        let state = &mut self.state;
        let host = &mut *self.host.borrow_mut();
        if state.routes.renew(host) {
            state.release(host);
        }
        while let Some(ended) = host.next_ended(self.inbox) {
            state.ended(host, ended, now);
        }
        while state.later.front().is_some_and(|(at, _)| *at <= now)
            && let Some((_, slot)) = state.later.pop_front()
        {
            state.waiting.push_back(slot);
        }
        if !state.waiting.is_empty() && state.send(host, self.inbox, now) {
            host.kick();
        }
        while done.room() > 0
            && let Some((slot, completion)) = state.finished.pop_front()
        {
            state.free.push(slot);
            done.push(completion);
        }
    }

    fn arm(&mut self) -> Armed {
        let state = &self.state;
        let host = self.host.borrow();
        if !state.finished.is_empty() || host.has_ended(self.inbox) || state.routes.is_old(&host) {
            return Armed::Ready;
        }
        state.later.front().map_or(Armed::Idle, |(at, _)| Armed::Until(*at))
    }
}

impl State {
    /// Takes a request into a slot. Whether it may go; if not it waits for another one. Or says how it ends at once.
    #[inline]
    fn accept(&mut self, slot: u32, request: &Request<'_>) -> Result<bool, Status> {
        let Request { tag, op, start, blocks, segments, .. } = *request;
        self.check(request)?;
        let own = &mut self.segments[slot as usize * usize::from(SEGMENTS_MAX)..][..segments.len()];
        own.copy_from_slice(segments);
        let segments = u16::try_from(segments.len()).expect("checked");
        self.slots[slot as usize] = Slot { tag, op, start, blocks, done_blocks: 0, sent_blocks: 0, segments, tries: 0, detours: 0 };
        let goes = !op.changes_data() || self.changes.begin(slot, start, blocks);
        if !goes {
            self.behind.push_back(slot);
        }
        Ok(goes)
    }

    #[inline]
    fn check(&self, request: &Request<'_>) -> Result<(), Status> {
        let Request { op, start, blocks, segments, .. } = *request;
        let shared = &self.shared;
        if op == Op::Flush {
            return Ok(());
        }
        if start.0.checked_add(u64::from(blocks)).is_none_or(|end| end > shared.block_count()) {
            return Err(Status::Range);
        }
        if op.changes_data() && shared.read_only() {
            return Err(Status::Protected);
        }
        match op {
            Op::Discard if !shared.features().discard => return Err(Status::Unsupported),
            Op::WriteZeroes { .. } if !shared.features().write_zeroes => return Err(Status::Unsupported),
            Op::Read | Op::Write { .. } => {
                let lengths: u64 = segments.iter().map(|segment| u64::from(segment.len_bytes())).sum();
                let len_bytes = u64::from(blocks) * u64::from(shared.block_bytes());
                let too_long = len_bytes > u64::from(shared.transfer_max_bytes());
                if lengths != len_bytes || too_long || segments.len() > usize::from(SEGMENTS_MAX) {
                    return Err(Status::Malformed);
                }
            }
            _ => {}
        }
        if blocks == 0 { Err(Status::Ok) } else { Ok(()) }
    }

    /// Sends what waits, as far as there is a way. Whether anything went.
    #[inline]
    fn send<N: Network>(&mut self, host: &mut Host<N>, inbox: u32, now: Instant) -> bool {
        let mut any = false;
        while let Some(slot) = self.waiting.front().copied() {
            let (lane, nsid) = match self.routes.choose(host) {
                Choice::Go { lane, nsid } => (lane, nsid),
                Choice::Wait => break,
                Choice::Fail(status) => {
                    self.fail_waiting(status);
                    break;
                }
            };
            self.waiting.pop_front();
            let limits = self.routes.limits();
            let entry = &mut self.slots[slot as usize];
            if entry.detours > DETOURS_MAX {
                self.fail(slot, StatusCode::PATH_HOST.retriable());
                continue;
            }
            let (command, range) = entry.command(nsid, &limits);
            let segments = &self.segments[slot as usize * usize::from(SEGMENTS_MAX)..][..usize::from(entry.segments)];
            let payload = match entry.op {
                Op::Read => Payload::ToHost { segments, exact: true },
                Op::Write { .. } => Payload::ToController(segments),
                Op::Discard => Payload::Small(range.as_bytes()),
                Op::Flush | Op::WriteZeroes { .. } => Payload::None,
            };
            host.submit(lane, inbox, slot, &command, payload, now);
            any = true;
        }
        any
    }

    /// A request came back.
    #[inline]
    fn ended<N: Network>(&mut self, host: &mut Host<N>, ended: Ended, now: Instant) {
        let Ended { slot, end, path, association } = ended;
        let entry = &mut self.slots[slot as usize];
        let status = match end {
            End::Answered { status, .. } if status.is_success() => {
                entry.done_blocks += entry.sent_blocks;
                if entry.done_blocks < entry.blocks {
                    entry.tries = 0;
                    self.waiting.push_front(slot);
                } else {
                    self.finish(slot, Status::Ok);
                }
                return;
            }
            End::Answered { status, .. } => status,
            End::Lost => {
                entry.detours += 1;
                if entry.op.changes_data() && host.is_ghost(association) {
                    self.held.push((association, slot));
                } else {
                    self.waiting.push_back(slot);
                }
                return;
            }
        };
        if status.is_of_path() && entry.detours < DETOURS_MAX {
            // It was not done, and may be by another way.
            entry.detours += 1;
            self.routes.avoid(host, path);
            self.waiting.push_back(slot);
        } else if !status.is_permanent() && !status.is_of_path() && entry.tries < self.routes.limits().retries {
            entry.tries += 1;
            self.later.push_back((now.after_ns(AGAIN_NS), slot));
        } else {
            self.fail(slot, status);
        }
    }

    #[cold]
    fn fail(&mut self, slot: u32, status: StatusField) {
        let entry = &self.slots[slot as usize];
        tracing::warn!("{:?} of {} blocks at {} failed: {status}", entry.op, entry.blocks, entry.start.0);
        self.finish(slot, status.to_device());
    }

    /// What was held for a controller that has certainly ended waits for a way again.
    fn release<N: Network>(&mut self, host: &Host<N>) {
        let waiting = &mut self.waiting;
        self.held.retain(|(association, slot)| {
            let ghost = host.is_ghost(*association);
            if !ghost {
                waiting.push_back(*slot);
            }
            ghost
        });
        // What waits for time only has no reason to any more, if nothing can come of it.
        if self.routes.mood() != Mood::Patient {
            self.waiting.extend(self.later.drain(..).map(|(_, slot)| slot));
        }
    }

    fn fail_waiting(&mut self, status: Status) {
        while let Some(slot) = self.waiting.pop_front() {
            self.finish(slot, status);
        }
    }

    /// A request has ended for good.
    #[inline]
    fn finish(&mut self, slot: u32, status: Status) {
        let entry = &self.slots[slot as usize];
        self.finished.push_back((slot, Completion { tag: entry.tag, status }));
        if entry.op.changes_data() {
            self.changes.end(slot);
            if !self.behind.is_empty() {
                self.let_follow();
            }
        }
    }

    /// Looks whether one that waits for another may go now.
    #[cold]
    fn let_follow(&mut self) {
        for _ in 0..LOOKS.min(self.behind.len()) {
            let slot = self.behind.pop_front().expect("looked at");
            let Slot { start, blocks, .. } = self.slots[slot as usize];
            if self.changes.begin(slot, start, blocks) {
                self.waiting.push_back(slot);
            } else {
                self.behind.push_back(slot);
            }
        }
    }
}

impl Slot {
    /// What to send next of it, and the range it is about if that goes as data.
    #[inline]
    fn command(&mut self, nsid: u32, limits: &Limits) -> (Command, Range) {
        let start = self.start.0 + u64::from(self.done_blocks);
        let left = self.blocks - self.done_blocks;
        let most = match self.op {
            Op::WriteZeroes { .. } => limits.zeroes_blocks,
            Op::Discard => limits.discard_blocks,
            Op::Read | Op::Write { .. } | Op::Flush => u32::MAX,
        };
        let count = left.min(most);
        self.sent_blocks = count;
        let (blocks, range) = (Blocks::new(start, count), Range::new(start, count));
        let none = Sgl::transport(0);
        let command = match self.op {
            Op::Read => blocks.command(IoOpcode::Read, nsid, none),
            Op::Write { fua } => Blocks { fua, ..blocks }.command(IoOpcode::Write, nsid, none),
            Op::Flush => flush(nsid),
            Op::Discard => DatasetManagement { ranges: 1, deallocate: true }.command(nsid, none),
            Op::WriteZeroes { unmap, fua } => Blocks { fua, deallocate: unmap, ..blocks }.command(IoOpcode::WriteZeroes, nsid, none),
        };
        (command, range)
    }
}
