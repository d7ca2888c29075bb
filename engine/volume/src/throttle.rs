//! A layer that keeps a device to rates. Knows no clock: it paces by the turn's.
//!
//! Two mechanisms, because they are good for different things. A cap on all requests closes
//! the channel's room: what may not start stays where it is, in the guest's ring. A cap on one
//! direction cannot do that, for it would hold back the other direction behind it: such
//! requests start at once, and their completions are held until the cap allows them. Whoever
//! waits for completions before asking again, as every guest's ring does, is paced exactly.

use std::cell::Cell;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt;
use std::sync::Arc;

use spinel_core::{
    Armed, Channel, Completion, Completions, Core, Device, Geometry, Instant, OpKind, OpenError, Request, Slots, Status, Tag,
};

use crate::limits::{CAPS, Cap, Limits, cost_ns, count_within};

/// A device kept to rates that may be set, changed and lifted while it is open.
///
/// All channels share them, on whatever core: a request is charged once, and a channel that
/// finds nothing left takes a place in line, so that each gets its turn. Bytes are charged
/// whole, when nothing is owed: one large request may overdraw, and is paid for before the
/// next. Several cores that look at the same moment may overdraw in the same way.
///
/// Flush is not charged; discard and write-zeroes count as one request that changes data, and
/// as no bytes, because none are moved.
///
/// While there is no limit, [`open`](Device::open) answers the child's own channel. Such a
/// channel never hears of a limit: it has to be opened again when the first is set.
pub struct Throttle {
    child: Arc<dyn Device>,
    limits: Arc<Limits>,
}

impl fmt::Debug for Throttle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Throttle").field("limits", &self.limits).finish_non_exhaustive()
    }
}

impl Throttle {
    /// A layer over `child`, without limits so far.
    #[must_use]
    pub fn new(child: Arc<dyn Device>) -> Self {
        Self { child, limits: Arc::default() }
    }

    /// Its limits. After a change, cores that sleep have to be woken to see it.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }
}

impl Device for Throttle {
    fn geometry(&self) -> Geometry {
        self.child.geometry()
    }

    fn open(&self, core: &mut Core, depth: u16) -> Result<Box<dyn Channel>, OpenError> {
        let generation = self.limits.generation();
        let child = self.child.open(core, depth)?;
        if !self.limits.any() {
            return Ok(child);
        }
        let block_bytes = u64::from(self.child.geometry().block_bytes);
        Ok(Box::new(ThrottleChannel {
            child,
            limits: Arc::clone(&self.limits),
            generation,
            block_bytes,
            slots: Slots::new(usize::from(depth)),
            held: BinaryHeap::with_capacity(usize::from(depth)),
            arrivals: 0,
            place: None,
            refused: Cell::new(false),
            rests: [0; CAPS.len()],
            usual_bytes: block_bytes,
            now: Instant::default(),
            hurries: false,
            batch: Completions::new(),
        }))
    }
}

/// The caps that close a channel's room.
const SHARED: [Cap; 2] = [Cap::Ios, Cap::Bytes];

/// A request, from its submission until its completion is handed up.
struct Flight {
    tag: Tag,
    /// When its completion may go up, under the limits of that generation.
    due: Instant,
    generation: u64,
    status: Status,
}

/// When a completion may go up, as the how-many-eth it arrived, and its slot.
type Due = (Instant, u64, Tag);

/// A place in line: the next request is paid for in advance, as far as its size can be guessed.
#[derive(Clone, Copy)]
struct Place {
    due: Instant,
    /// By the order of [`SHARED`].
    paid_ns: [u64; SHARED.len()],
}

struct ThrottleChannel {
    child: Box<dyn Channel>,
    limits: Arc<Limits>,
    /// Of the limits, when it last looked.
    generation: u64,
    block_bytes: u64,
    slots: Slots<Flight>,
    /// What the child completed, the earliest due first.
    held: BinaryHeap<Reverse<Due>>,
    arrivals: u64,
    place: Option<Place>,
    /// Since the last poll there was no room at some time, though other channels may have left some since.
    refused: Cell<bool>,
    /// By cap, the fractions of a nanosecond that it still has to pay.
    rests: [u64; CAPS.len()],
    /// The size of the last request that had one.
    usual_bytes: u64,
    /// The latest turn it heard of.
    now: Instant,
    /// It is to end soon: it charges, and holds nothing back.
    hurries: bool,
    batch: Completions,
}

impl ThrottleChannel {
    /// How many requests the caps on all of them let start now, as far as anything is left for everybody.
    fn allowance(&self) -> usize {
        let mut allowance = usize::MAX;
        for (cap, size) in SHARED.into_iter().zip([1, self.usual_bytes]) {
            let bucket = self.limits.bucket(cap);
            let per_second = bucket.per_second();
            if per_second > 0 {
                let more = bucket.credit_ns(self.now).map_or(0, |credit_ns| count_within(credit_ns, per_second, size).saturating_add(1));
                allowance = allowance.min(usize::try_from(more).unwrap_or(usize::MAX));
            }
        }
        allowance
    }

    /// How many requests may start now.
    fn allowed(&self) -> usize {
        match self.place {
            _ if self.hurries => usize::MAX,
            Some(place) if place.due > self.now => 0,
            Some(_) => self.allowance().saturating_add(1),
            None => self.allowance(),
        }
    }

    /// Takes a place in line if nothing is left. A channel that has nothing to ask for keeps it for later.
    fn line_up(&mut self) {
        if self.place.is_some() || self.hurries || self.allowance() > 0 {
            return;
        }
        let mut place = Place { due: self.now, paid_ns: [0; SHARED.len()] };
        for (index, amount) in [1, self.usual_bytes].into_iter().enumerate() {
            let bucket = self.limits.bucket(SHARED[index]);
            let per_second = bucket.per_second();
            if per_second > 0 {
                place.paid_ns[index] = cost_ns(amount, per_second, &mut 0);
                place.due = place.due.max(bucket.take(place.paid_ns[index], self.now));
            }
        }
        self.place = Some(place);
    }

    /// Charges a request, and answers when its completion may go up.
    fn charge(&mut self, kind: OpKind, bytes: u64) -> Instant {
        let [ios, by_bytes] = match kind {
            OpKind::Flush => return self.now,
            OpKind::Read => [Cap::ReadIos, Cap::ReadBytes],
            OpKind::Write | OpKind::Discard | OpKind::WriteZeroes => [Cap::WriteIos, Cap::WriteBytes],
        };
        let paid_ns = self.place.take().map_or([0; SHARED.len()], |place| place.paid_ns);
        for (index, amount) in [1, bytes].into_iter().enumerate() {
            self.take(SHARED[index], amount, paid_ns[index]);
        }
        self.take(ios, 1, 0).max(self.take(by_bytes, bytes, 0))
    }

    /// Takes so much under one cap, of which something may be paid. Answers from when on it may be used.
    fn take(&mut self, cap: Cap, amount: u64, paid_ns: u64) -> Instant {
        let bucket = self.limits.bucket(cap);
        let per_second = bucket.per_second();
        if per_second == 0 {
            return self.now;
        }
        let cost_ns = cost_ns(amount, per_second, &mut self.rests[cap as usize]);
        if cost_ns < paid_ns {
            bucket.give_back(paid_ns - cost_ns);
        } else if cost_ns > paid_ns {
            return bucket.take(cost_ns - paid_ns, self.now);
        }
        self.now
    }

    /// Sees whether the limits have changed. What came under the old ones is not held by them.
    fn look_at_limits(&mut self) {
        let generation = self.limits.generation();
        if generation != self.generation {
            self.generation = generation;
            self.place = None;
            self.rests = [0; CAPS.len()];
            self.hold_no_longer();
        }
    }

    fn hold_no_longer(&mut self) {
        let mut held = std::mem::take(&mut self.held).into_vec();
        for Reverse((due, ..)) in &mut held {
            *due = Instant::default();
        }
        self.held = held.into();
    }
}

impl Channel for ThrottleChannel {
    fn room(&self) -> usize {
        let allowed = self.allowed();
        if allowed == 0 {
            self.refused.set(true);
        }
        allowed.min(self.slots.room()).min(self.child.room())
    }

    fn submit(&mut self, request: Request<'_>) {
        self.now = self.now.max(request.at);
        let kind = request.op.kind();
        let moves = matches!(kind, OpKind::Read | OpKind::Write);
        let bytes = if moves { u64::from(request.blocks) * self.block_bytes } else { 0 };
        if bytes > 0 {
            self.usual_bytes = bytes;
        }
        let due = self.charge(kind, bytes);
        let tag = self.slots.put(Flight { tag: request.tag, due, generation: self.generation, status: Status::Ok });
        self.child.submit(Request { tag, ..request });
    }

    fn kick(&mut self) {
        self.child.kick();
    }

    fn poll(&mut self, now: Instant, done: &mut Completions) {
        self.now = now;
        self.refused.set(false);
        self.look_at_limits();
        self.batch.clear();
        self.child.poll(now, &mut self.batch);
        for completion in self.batch.as_slice() {
            let flight = self.slots.get_mut(completion.tag).expect("the child completes what it was given");
            flight.status = completion.status;
            let holds = flight.generation == self.generation && !self.hurries;
            let due = if holds { flight.due } else { Instant::default() };
            self.held.push(Reverse((due, self.arrivals, completion.tag)));
            self.arrivals += 1;
        }
        while done.room() > 0
            && let Some(&Reverse((due, _, slot))) = self.held.peek()
            && due <= now
        {
            self.held.pop();
            let Flight { tag, status, .. } = self.slots.take(slot);
            done.push(Completion { tag, status });
        }
        self.line_up();
    }

    fn arm(&mut self) -> Armed {
        self.line_up();
        let completion = match self.held.peek() {
            Some(Reverse((due, ..))) if *due <= self.now => Armed::Ready,
            Some(Reverse((due, ..))) => Armed::Until(*due),
            None => Armed::Idle,
        };
        let room = match self.place {
            Some(place) if place.due > self.now => Armed::Until(place.due),
            // Whoever asked in vain does not look again by itself.
            _ if self.refused.get() && self.allowed() > 0 => Armed::Ready,
            _ => Armed::Idle,
        };
        completion.min(room).min(self.child.arm())
    }

    fn let_go(&mut self) {
        self.look_at_limits();
        self.hurries = true;
        self.hold_no_longer();
        let place = self.place.take().into_iter();
        for (cap, paid_ns) in place.flat_map(|place| SHARED.into_iter().zip(place.paid_ns)) {
            self.limits.bucket(cap).give_back(paid_ns);
        }
        self.child.let_go();
    }

    fn hold_on(&mut self) {
        self.hurries = false;
        self.child.hold_on();
    }
}

#[cfg(test)]
mod tests;
