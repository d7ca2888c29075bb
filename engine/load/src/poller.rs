//! What drives a channel with a job's requests and counts what came of them. Knows no device, and no clock but its turn's.

use std::fmt;
use std::sync::Arc;

use spinel_core::mem::{Region, Segment};
use spinel_core::{Armed, Channel, Completions, Core, Geometry, Instant, OPS, Op, OpKind, Poller, Progress, Remains, Request, Status, Tag};

use crate::feed::Outlet;
use crate::generator::{Ask, Generator};
use crate::job::{Arrival, Job, JobError};
use crate::judge::Judge;
use crate::judged::Judged;
use crate::memory::Memory;
use crate::schedule::Schedule;
use crate::tally::Ended;

/// A core that slept until a request is due would wake too late: it wakes so much earlier, and spins.
const EARLY_NS: u64 = 100_000;
/// The end of time.
const NEVER: Instant = Instant { ns: u64::MAX };

/// A job at work on one channel.
///
/// It starts with its first turn. A request's latency counts from the turn that sent it, or in
/// an open loop from when it was due, until the turn that saw it end. In a closed loop those that
/// end in the warm-up are not counted, in an open one those that were due in it; what of them
/// was not sent by its end is dropped, or the measurement would begin with its backlog. When the job's length is reached nothing more is sent, but for one
/// thing: what was due in an open loop when its time was up, and had found no room, is sent late,
/// for as long again at most, or a device that stalls at the end would hide it; the rest is
/// told as [`unsent`](crate::Tally::unsent). Once everything
/// in flight has ended, the channel is closed, then the judge, and the last tally is handed over;
/// from then on it does nothing but wait to be stopped.
pub struct LoadPoller {
    name: String,
    /// Gone when the job is over.
    work: Option<Box<Work>>,
    /// Given back by then.
    judge: Option<Box<dyn Judge>>,
    memory: Memory,
    stopping: bool,
}

/// What a load leaves when it is retired. Drop it on a control thread, for memory is unmapped with it.
pub struct LoadRemains {
    /// The judge that it was given.
    pub judge: Option<Box<dyn Judge>>,
    /// Its memory.
    pub memory: Arc<Region>,
}

impl fmt::Debug for LoadRemains {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoadRemains").field("judged", &self.judge.is_some()).field("memory", &self.memory).finish()
    }
}

/// What is known of a request in flight, and its memory.
#[derive(Clone, Copy)]
struct Cell {
    /// From when its latency counts.
    since: Instant,
    bytes: u32,
    kind: OpKind,
    flight: Flight,
    read: Segment,
    write: Segment,
}

#[derive(Clone, Copy)]
enum Flight {
    None,
    Uncounted,
    Counted,
}

struct Work {
    channel: Box<dyn Channel>,
    done: Completions,
    generator: Generator,
    schedule: Schedule,
    /// By tag.
    cells: Box<[Cell]>,
    /// The first `idle` of these name the cells that are not in flight.
    free: Box<[u16]>,
    idle: usize,
    /// The operation of each kind.
    ops: [Op; OPS.len()],
    block_bytes: u32,
    /// Most requests of one turn.
    batch: usize,
    judge: Option<Box<Judged>>,
    outlet: Outlet,
    job: Job,
    /// Set when nothing more is to be sent.
    over: Option<Ended>,
    /// Counted requests, and bytes, that are still to be sent.
    requests_left: u64,
    bytes_left: u64,
    /// When counting begins, when nothing more falls due, and when nothing more is sent. Known from the first turn on.
    from: Instant,
    until: Instant,
    late_until: Instant,
    /// Counting has begun.
    is_warm: bool,
    /// When the present stretch ends.
    stretch_until: Instant,
    /// The next moment at which anything of this changes; at once before the first turn.
    look_at: Instant,
    /// The turn's clock.
    now: Instant,
}

impl LoadPoller {
    /// A job on a channel that was opened as deep as the job is, on a core that knows the memory.
    ///
    /// # Errors
    /// When the job makes no sense on a device like this.
    ///
    /// # Panics
    /// If the memory or the outlet was made for another job.
    pub fn new(job: Job, geometry: Geometry, channel: Box<dyn Channel>, memory: Memory, mut outlet: Outlet) -> Result<Self, JobError> {
        let generator = Generator::new(&job, &geometry)?;
        assert!(memory.fits(&job), "the memory is for another job");
        let tallied = outlet.current().ops.each_ref().map(Option::is_some);
        assert!(OPS.into_iter().all(|kind| tallied[kind.index()] || !job.sends(kind)), "the outlet is for another job");
        let cell = |index| {
            let [read, write] = memory.cell(index);
            Cell { since: NEVER, bytes: 0, kind: OpKind::Flush, flight: Flight::None, read, write }
        };
        let work = Work {
            channel,
            done: Completions::limited(usize::from(job.batch)),
            generator,
            schedule: Schedule::new(job.arrival, job.seed, NEVER),
            cells: (0..job.depth).map(cell).collect(),
            free: (0..job.depth).rev().collect(),
            idle: usize::from(job.depth),
            ops: OPS.map(|kind| job.op(kind)),
            block_bytes: geometry.block_bytes,
            batch: usize::from(job.batch),
            judge: None,
            outlet,
            over: None,
            requests_left: job.length.requests.unwrap_or(u64::MAX),
            bytes_left: job.length.bytes.unwrap_or(u64::MAX),
            from: NEVER,
            until: NEVER,
            late_until: NEVER,
            is_warm: false,
            stretch_until: NEVER,
            look_at: Instant::default(),
            now: Instant::default(),
            job,
        };
        Ok(Self { name: "load".into(), work: Some(Box::new(work)), judge: None, memory, stopping: false })
    }

    /// The same under another name, which statistics show.
    #[must_use]
    pub fn named(self, name: impl Into<String>) -> Self {
        Self { name: name.into(), ..self }
    }

    /// The same with a judge, who sees every request.
    #[must_use]
    pub fn judged(mut self, judge: Box<dyn Judge>) -> Self {
        if let Some(work) = &mut self.work {
            work.judge = Some(Box::new(Judged::new(judge, Arc::clone(self.memory.region()), work.job.depth, self.memory.cell(0)[0])));
        }
        self
    }

    /// Everything has ended that was in flight, and nothing more is to come.
    #[cold]
    fn finish(&mut self, now: Instant) {
        let Some(work) = self.work.take() else { return };
        let Work { channel, judge, outlet, over, from, mut schedule, until, requests_left, bytes_left, .. } = *work;
        let is_full = requests_left == 0 || bytes_left == 0;
        let unsent = if is_full { 0 } else { schedule.skip_to(now.min(until)) };
        // Whoever has seen the last tally finds the device let go of, and the judge with nothing left to say.
        drop(channel);
        self.judge = judge.map(|judge| judge.close());
        outlet.close(now.max(from), over.unwrap_or(Ended::Stopped), unsent);
    }
}

impl Poller for LoadPoller {
    fn name(&self) -> &str {
        &self.name
    }

    fn poll(&mut self, now: Instant) -> Progress {
        let Some(work) = &mut self.work else {
            return if self.stopping { Progress::Stopped } else { Progress::Idle };
        };
        work.now = now;
        let ended = work.collect(now);
        if now >= work.look_at {
            work.look(now);
        }
        let sent = work.send(now);
        let in_flight = work.cells.len() - work.idle;
        if in_flight == 0 && work.over.is_some() {
            self.finish(now);
            return if self.stopping { Progress::Stopped } else { Progress::Busy };
        }
        match ended + sent {
            0 if in_flight > 0 => Progress::Waiting,
            0 => Progress::Idle,
            _ => Progress::Busy,
        }
    }

    fn arm(&mut self) -> Armed {
        self.work.as_mut().map_or(Armed::Idle, |work| work.arm())
    }

    fn disarm(&mut self) {}

    fn stop(&mut self) {
        self.stopping = true;
        if let Some(work) = &mut self.work {
            work.over.get_or_insert(Ended::Stopped);
            work.channel.let_go();
        }
    }

    fn retire(self: Box<Self>, core: &mut Core) -> Remains {
        self.memory.recall(core);
        Box::new(LoadRemains { judge: self.judge, memory: Arc::clone(self.memory.region()) })
    }
}

impl Work {
    /// Starts, turns the tally over, ends: whatever it is time for.
    #[cold]
    fn look(&mut self, now: Instant) {
        if self.from == NEVER {
            self.from = now.after_ns(self.job.warm_up_ns);
            if let Some(time_ns) = self.job.length.time_ns {
                self.until = self.from.after_ns(time_ns);
                let is_open = self.job.arrival != Arrival::Closed;
                self.late_until = if is_open { self.until.after_ns(time_ns) } else { self.until };
            }
            self.stretch_until = self.from.after_ns(self.job.interval_ns);
            self.schedule = Schedule::new(self.job.arrival, self.job.seed, now);
            self.outlet.current().from = self.from;
        }
        if now >= self.stretch_until {
            self.outlet.turn_over(now);
            let next = self.stretch_until.after_ns(self.job.interval_ns);
            self.stretch_until = if next > now { next } else { now.after_ns(self.job.interval_ns) };
        }
        if now >= self.late_until {
            self.over.get_or_insert(Ended::Done);
        }
        if !self.is_warm && now >= self.from {
            self.is_warm = true;
            self.schedule.skip_to(self.from);
        }
        let next = match (self.is_warm, now < self.until) {
            (false, _) => self.from,
            (true, true) => self.until,
            (true, false) => self.late_until,
        };
        self.look_at = if self.over.is_none() { self.stretch_until.min(next) } else { self.stretch_until };
    }

    /// Counts what has ended; answers how many that are.
    #[inline]
    fn collect(&mut self, now: Instant) -> usize {
        self.done.clear();
        self.channel.poll(now, &mut self.done);
        let done = self.done.as_slice();
        let tally = self.outlet.current();
        for completion in done {
            let cell = &mut self.cells[completion.tag.index()];
            match std::mem::replace(&mut cell.flight, Flight::None) {
                Flight::Counted => tally.record(cell.kind, cell.bytes.into(), now.since_ns(cell.since), completion.status),
                Flight::Uncounted if now >= self.from && self.job.arrival == Arrival::Closed => {
                    tally.record(cell.kind, cell.bytes.into(), now.since_ns(cell.since), completion.status);
                    self.requests_left = self.requests_left.saturating_sub(1);
                    self.bytes_left = self.bytes_left.saturating_sub(cell.bytes.into());
                }
                Flight::Uncounted => {}
                Flight::None => panic!("a request completes once"),
            }
            if let Some(judge) = &mut self.judge {
                judge.end(completion.tag, completion.status, &cell.read, cell.bytes);
            }
            if completion.status == Status::Aborted {
                self.over.get_or_insert(Ended::Gone);
            }
            self.free[self.idle] = u16::try_from(completion.tag.0).expect("there are no more cells than that");
            self.idle += 1;
        }
        done.len()
    }

    /// Sends what may be sent; answers how many that are.
    #[inline]
    fn send(&mut self, now: Instant) -> usize {
        if self.over.is_some() {
            return 0;
        }
        let room = self.batch.min(self.idle).min(self.channel.room());
        let due_by = if now < self.until { now } else { Instant { ns: self.until.ns.saturating_sub(1) } };
        let mut sent = 0;
        while sent < room {
            if self.requests_left == 0 || self.bytes_left == 0 {
                break;
            }
            let Some(since) = self.schedule.take(due_by) else { break };
            self.submit(now, since);
            sent += 1;
        }
        let all_sent = now >= self.until && self.schedule.due().is_none_or(|due| due >= self.until);
        if self.requests_left == 0 || self.bytes_left == 0 || all_sent {
            self.over = Some(Ended::Done);
        }
        if sent > 0 {
            self.channel.kick();
        }
        sent
    }

    /// Sends the next request, whose latency counts from `since`. There is a cell for it, and room.
    #[inline]
    fn submit(&mut self, now: Instant, since: Instant) {
        let Ask { kind, start, blocks } = self.generator.draw();
        let bytes = blocks * self.block_bytes;
        self.idle -= 1;
        let tag = Tag(self.free[self.idle].into());
        let cell = &mut self.cells[tag.index()];
        cell.flight = Flight::Uncounted;
        if since >= self.from {
            cell.flight = Flight::Counted;
            self.requests_left -= 1;
            self.bytes_left = self.bytes_left.saturating_sub(bytes.into());
        }
        (cell.since, cell.bytes, cell.kind) = (since, bytes, kind);
        let segment = match kind {
            OpKind::Read => Some(cell.read.split_at(bytes).0),
            OpKind::Write => Some(cell.write.split_at(bytes).0),
            OpKind::Flush | OpKind::Discard | OpKind::WriteZeroes => None,
        };
        let request = Request { tag, op: self.ops[kind.index()], at: now, start, blocks, segments: segment.as_slice() };
        if let Some(judge) = &mut self.judge {
            judge.begin(&request);
        }
        self.channel.submit(request);
    }

    /// May the core sleep?
    fn arm(&mut self) -> Armed {
        let sends = self.over.is_none() && self.idle > 0 && self.channel.room() > 0;
        let below = self.channel.arm();
        let own = match self.schedule.due() {
            Some(due) if sends && due <= self.now => Armed::Ready,
            Some(due) if sends && due.since_ns(self.now) <= EARLY_NS => Armed::Spin,
            Some(due) if sends => Armed::Until(Instant { ns: due.ns - EARLY_NS }),
            None if sends => Armed::Ready,
            _ => Armed::Idle,
        };
        let look = match self.look_at {
            NEVER => Armed::Idle,
            at if at <= self.now => Armed::Ready,
            at => Armed::Until(at),
        };
        below.min(own).min(look)
    }
}
