//! Connections that exist only in a simulation: [`Stream`]s that are cut anywhere, wait, stall and break. Knows no socket.
//!
//! Both ends live on one core. As with a real ring, nothing happens between a turn's
//! reaping and its end: bytes come and sends are counted when the core reaps, and what was
//! queued begins to leave when it flushes.

use std::cell::{OnceCell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use spinel_core::mem::{Region, RegionId, Regions, Segment};
use spinel_core::{Armed, Break, Core, Driver, Instant, Progress, STREAM_HEAD_BYTES_MAX, STREAM_SEGMENTS_MAX, Stream, StreamState};
use spinel_load::Prng;

use crate::wire::{Piece, Pipe, WireOptions};

/// `ECONNRESET`, on every architecture.
const RESET: i32 = 104;

/// One end of a connection.
#[derive(Debug)]
struct End {
    state: StreamState,
    /// It was closed here.
    closing: bool,
    /// When it learns that the connection broke.
    breaks_at: Option<Instant>,
    /// When the last of it is let go of, after a break or a close.
    settles_at: Option<Instant>,
}

/// Both ends of a connection and what is between them.
struct Connection {
    options: WireOptions,
    prng: Prng,
    regions: Rc<Regions>,
    now: Instant,
    ends: [End; 2],
    /// The pipe from each end to the other.
    pipes: [Pipe; 2],
    /// Nothing passes, and nobody is told.
    silent: bool,
}

fn other(side: usize) -> usize {
    1 - side
}

impl Connection {
    fn later(&mut self, now: Instant) -> Instant {
        now.after_ns(self.prng.within(self.options.delay_ns.clone()))
    }

    fn is_broken(&self, side: usize) -> bool {
        matches!(self.ends[side].state, StreamState::Broken(_))
    }

    /// Nothing of a broken end leaves any more; what had begun to is let go of a little later.
    fn break_end(&mut self, side: usize, reason: Break, now: Instant) {
        if !self.is_broken(side) {
            self.ends[side].state = StreamState::Broken(reason);
            self.ends[side].settles_at = Some(self.later(now));
        }
    }

    /// The connection breaks: either end learns of it in its own time.
    fn break_both(&mut self, now: Instant) {
        for side in 0..2 {
            self.pipes[side].lose();
            let at = self.later(now);
            self.ends[side].breaks_at.get_or_insert(at);
        }
    }

    fn reap(&mut self, now: Instant) -> bool {
        self.now = now;
        let due = self.next_at().is_some_and(|at| at <= now);
        for side in 0..2 {
            if self.ends[side].breaks_at.take_if(|at| *at <= now).is_some() {
                self.break_end(side, Break::System(RESET), now);
            }
            if self.ends[side].settles_at.take_if(|at| *at <= now).is_some() {
                self.pipes[side].abandon();
            }
            if self.silent {
                continue;
            }
            if !self.is_broken(side) && self.pipes[side].leave(now, &self.regions, &self.options, &mut self.prng) {
                self.break_both(now);
            }
            let come = &mut self.pipes[other(side)];
            if come.arrive(now, &mut self.prng) && self.ends[side].state == StreamState::Open {
                self.ends[side].state = StreamState::Ended;
            }
            // Whoever closed answers what still comes by a reset.
            if self.ends[side].closing && self.pipes[other(side)].pick_up().is_some() {
                let at = self.later(now);
                self.ends[other(side)].breaks_at.get_or_insert(at);
            }
        }
        due
    }

    fn flush(&mut self) {
        for side in 0..2 {
            if !self.is_broken(side) {
                self.pipes[side].decide(self.now, &self.options, &mut self.prng);
            }
        }
    }

    /// When something happens next.
    fn next_at(&self) -> Option<Instant> {
        let ends = self.ends.iter().flat_map(|end| [end.breaks_at, end.settles_at]);
        let pipes = self.pipes.iter().map(Pipe::next_at).filter(|_| !self.silent);
        ends.chain(pipes).flatten().min()
    }

    fn arm(&self) -> Armed {
        let undecided = |side: usize| !self.is_broken(side) && self.pipes[side].is_undecided(&self.options);
        if undecided(0) || undecided(1) {
            return Armed::Ready;
        }
        self.next_at().map_or(Armed::Idle, Armed::Until)
    }

    fn close(&mut self, side: usize) {
        if std::mem::replace(&mut self.ends[side].closing, true) {
            return;
        }
        let now = self.now;
        self.break_end(side, Break::Closed, now);
        // It ends only when everything is let go of, also if it had broken and settled before.
        let at = self.later(now);
        self.ends[side].settles_at.get_or_insert(at);
        self.pipes[side].travel(now, Piece::End, &self.options, &mut self.prng);
    }

    fn is_closed(&self, side: usize) -> bool {
        self.ends[side].closing && self.ends[side].settles_at.is_none()
    }
}

/// All connections of one core.
#[derive(Default)]
struct Connections(Vec<Rc<RefCell<Connection>>>);

impl Driver for Connections {
    fn reap(&mut self, now: Instant) -> Progress {
        // Whose ends are both gone is gone.
        self.0.retain(|connection| Rc::strong_count(connection) > 1);
        let busy = self.0.iter().filter(|connection| connection.borrow_mut().reap(now)).count() > 0;
        if busy { Progress::Busy } else { Progress::Idle }
    }

    fn flush(&mut self) {
        self.0.iter().for_each(|connection| connection.borrow_mut().flush());
    }

    fn map(&mut self, _region: &Arc<Region>) {}

    fn unmap(&mut self, _id: RegionId) {}

    fn arm(&mut self) -> Armed {
        self.0.iter().map(|connection| connection.borrow().arm()).min().unwrap_or(Armed::Idle)
    }
}

/// What makes connections on one core, when the core itself is not at hand.
pub struct SimNet {
    connections: Rc<RefCell<Connections>>,
    regions: Rc<Regions>,
}

impl SimNet {
    /// Of this core.
    ///
    /// # Panics
    /// Never: nothing refuses it.
    #[must_use]
    pub fn of(core: &mut Core) -> Self {
        let connections = core.share(|_| Ok(Connections::default())).expect("nothing refuses it");
        Self { connections, regions: core.regions() }
    }

    /// A connection between two streams.
    ///
    /// # Panics
    /// If the options make no sense.
    #[must_use]
    pub fn connect(&self, options: WireOptions, prng: Prng) -> (SimWire, [SimStream; 2]) {
        assert!(*options.cut_bytes.start() > 0 && options.window_bytes > 0 && options.sends > 0, "something has to pass");
        let end = || End { state: StreamState::Open, closing: false, breaks_at: None, settles_at: None };
        let connection = Connection {
            options,
            prng,
            regions: Rc::clone(&self.regions),
            now: Instant::default(),
            ends: [end(), end()],
            pipes: [Pipe::default(), Pipe::default()],
            silent: false,
        };
        let connection = Rc::new(RefCell::new(connection));
        self.connections.borrow_mut().0.push(Rc::clone(&connection));
        let stream = |side| SimStream { connection: Rc::clone(&connection), side, front: OnceCell::new(), taken: 0 };
        let streams = [stream(0), stream(1)];
        (SimWire { connection }, streams)
    }
}

/// What a simulation does to a connection.
#[derive(Clone)]
pub struct SimWire {
    connection: Rc<RefCell<Connection>>,
}

impl SimWire {
    /// A connection between two streams on one core.
    ///
    /// # Panics
    /// If the options make no sense.
    #[must_use]
    pub fn connect(core: &mut Core, options: WireOptions, prng: Prng) -> (Self, [SimStream; 2]) {
        SimNet::of(core).connect(options, prng)
    }

    /// Breaks it: what travels is lost, and both ends learn of it, each in its time.
    pub fn break_off(&self) {
        let mut connection = self.connection.borrow_mut();
        let now = connection.now;
        connection.break_both(now);
    }

    /// From now on nothing passes, and nobody is told; or again everything.
    pub fn silence(&self, silent: bool) {
        self.connection.borrow_mut().silent = silent;
    }
}

/// One end of a simulated connection. Dropping it closes it.
pub struct SimStream {
    connection: Rc<RefCell<Connection>>,
    side: usize,
    /// The piece that is looked at, and how much of it was taken.
    front: OnceCell<Vec<u8>>,
    taken: usize,
}

impl Stream for SimStream {
    fn incoming(&self) -> &[u8] {
        if self.front.get().is_none()
            && let Some(piece) = self.connection.borrow_mut().pipes[other(self.side)].pick_up()
        {
            let _ = self.front.set(piece);
        }
        self.front.get().map_or(&[], |piece| &piece[self.taken..])
    }

    fn take(&mut self, count: usize) {
        assert!(count <= self.incoming().len(), "no more is taken than has come");
        self.taken += count;
        if self.incoming().is_empty() {
            self.front.take();
            self.taken = 0;
        }
        self.connection.borrow_mut().pipes[other(self.side)].taken(count);
    }

    fn room(&self) -> usize {
        let connection = self.connection.borrow();
        connection.pipes[self.side].room(&connection.options)
    }

    fn send(&mut self, head: &[u8], body: &[Segment], tail: &[u8]) {
        assert!(self.room() > 0, "room() was looked at before");
        assert!(head.len() + tail.len() <= STREAM_HEAD_BYTES_MAX, "head and tail have a limit");
        assert!(body.len() <= STREAM_SEGMENTS_MAX, "a send has a limited number of segments");
        let mut connection = self.connection.borrow_mut();
        connection.pipes[self.side].queue(head, body, tail);
        let settled = connection.is_broken(self.side) && connection.ends[self.side].settles_at.is_none();
        if settled {
            connection.pipes[self.side].abandon();
        }
    }

    fn sent(&self) -> u64 {
        self.connection.borrow().pipes[self.side].sent()
    }

    fn kick(&mut self) {}

    fn state(&self) -> StreamState {
        self.connection.borrow().ends[self.side].state
    }

    fn arm(&mut self) -> Armed {
        Armed::Idle
    }

    fn close(&mut self) {
        self.connection.borrow_mut().close(self.side);
    }

    fn closed(&self) -> bool {
        self.connection.borrow().is_closed(self.side)
    }
}

impl Drop for SimStream {
    fn drop(&mut self) {
        self.close();
    }
}

#[cfg(test)]
mod tests;
