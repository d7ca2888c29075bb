//! A layer that makes reads and writes take longer. Knows no clock: it counts from the turn's.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use spinel_core::{
    Armed, Channel, Completion, Completions, Core, Device, Geometry, Instant, OpKind, OpenError, Request, Slots, Status, Tag,
};

/// Every this many reads (and writes) of a channel, one takes the p99 latency.
const TAIL_EVERY: u32 = 100;

/// Which latency is meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LatencyKind {
    /// Of 99 in 100 reads.
    AverageRead,
    /// Of every 100th read.
    P99Read,
    /// Of 99 in 100 writes.
    AverageWrite,
    /// Of every 100th write.
    P99Write,
}

/// What is added to the child's own latency, in microseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Latencies {
    /// To 99 in 100 reads.
    pub average_read_us: u64,
    /// To every 100th read.
    pub p99_read_us: u64,
    /// To 99 in 100 writes.
    pub average_write_us: u64,
    /// To every 100th write.
    pub p99_write_us: u64,
}

/// A p99 latency below the average.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a p99 {what} latency of {p99_us} us is less than the average of {average_us} us; make it at least as long")]
pub struct LatencyError {
    /// Read or write.
    pub what: &'static str,
    /// The p99 latency asked for.
    pub p99_us: u64,
    /// The average latency asked for.
    pub average_us: u64,
}

#[derive(Debug)]
struct Shared {
    /// In the order of [`LatencyKind`].
    us: [AtomicU64; 4],
}

impl Shared {
    fn us(&self, kind: LatencyKind) -> u64 {
        self.us[kind as usize].load(Ordering::Relaxed)
    }
}

/// A device whose reads and writes take longer than its child's, by latencies that may be
/// changed while it is open.
///
/// The latency counts from the turn in which the child completed. Every 100th read and
/// every 100th write of each channel takes the p99 latency: counted, not drawn, so that a
/// run repeats. Flush, discard and write-zeroes pass without delay. A change concerns
/// requests submitted after it.
pub struct DelayDevice {
    child: Arc<dyn Device>,
    shared: Arc<Shared>,
}

impl fmt::Debug for DelayDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DelayDevice").field("shared", &self.shared).finish_non_exhaustive()
    }
}

impl DelayDevice {
    /// A layer over `child`.
    ///
    /// # Errors
    /// [`LatencyError`] when a p99 latency is below its average.
    pub fn new(child: Arc<dyn Device>, latencies: Latencies) -> Result<Self, LatencyError> {
        let Latencies { average_read_us, p99_read_us, average_write_us, p99_write_us } = latencies;
        for (what, p99_us, average_us) in [("read", p99_read_us, average_read_us), ("write", p99_write_us, average_write_us)] {
            if p99_us < average_us {
                return Err(LatencyError { what, p99_us, average_us });
            }
        }
        let us = [average_read_us, p99_read_us, average_write_us, p99_write_us].map(AtomicU64::new);
        Ok(Self { child, shared: Arc::new(Shared { us }) })
    }

    /// Changes one latency for the requests submitted from now on, on every core. Any value goes.
    pub fn set_latency(&self, kind: LatencyKind, latency_us: u64) {
        self.shared.us[kind as usize].store(latency_us, Ordering::Relaxed);
    }

    /// The latencies as they are now.
    #[must_use]
    pub fn latencies(&self) -> Latencies {
        let us = |kind| self.shared.us(kind);
        Latencies {
            average_read_us: us(LatencyKind::AverageRead),
            p99_read_us: us(LatencyKind::P99Read),
            average_write_us: us(LatencyKind::AverageWrite),
            p99_write_us: us(LatencyKind::P99Write),
        }
    }
}

impl Device for DelayDevice {
    fn geometry(&self) -> Geometry {
        self.child.geometry()
    }

    fn open(&self, core: &mut Core, depth: u16) -> Result<Box<dyn Channel>, OpenError> {
        Ok(Box::new(DelayChannel {
            child: self.child.open(core, depth)?,
            shared: Arc::clone(&self.shared),
            slots: Slots::new(usize::from(depth)),
            due: BinaryHeap::with_capacity(usize::from(depth)),
            arrivals: 0,
            reads: 0,
            writes: 0,
            now: Instant::default(),
            batch: Completions::new(),
        }))
    }
}

/// A request, from its submission until its completion is handed up.
struct Flight {
    tag: Tag,
    delay_ns: u64,
    status: Status,
}

/// When a completion may go up, as the how-many-eth it arrived, and its slot.
type Due = (Instant, u64, Tag);

struct DelayChannel {
    child: Box<dyn Channel>,
    shared: Arc<Shared>,
    slots: Slots<Flight>,
    /// What the child completed, the earliest first, and the first to arrive among equals.
    due: BinaryHeap<Reverse<Due>>,
    arrivals: u64,
    reads: u32,
    writes: u32,
    /// The turn of the last poll: what is due by then and still here only waits for room.
    now: Instant,
    batch: Completions,
}

/// Counts one request and says whether it is one of those that take long.
fn is_tail(count: &mut u32) -> bool {
    *count = (*count + 1) % TAIL_EVERY;
    *count == 0
}

impl DelayChannel {
    fn delay_ns(&mut self, kind: OpKind) -> u64 {
        let latency = match kind {
            OpKind::Read if is_tail(&mut self.reads) => LatencyKind::P99Read,
            OpKind::Read => LatencyKind::AverageRead,
            OpKind::Write if is_tail(&mut self.writes) => LatencyKind::P99Write,
            OpKind::Write => LatencyKind::AverageWrite,
            OpKind::Flush | OpKind::Discard | OpKind::WriteZeroes => return 0,
        };
        self.shared.us(latency).saturating_mul(1000)
    }
}

impl Channel for DelayChannel {
    fn room(&self) -> usize {
        self.slots.room().min(self.child.room())
    }

    fn submit(&mut self, request: Request<'_>) {
        let delay_ns = self.delay_ns(request.op.kind());
        let tag = self.slots.put(Flight { tag: request.tag, delay_ns, status: Status::Ok });
        self.child.submit(Request { tag, ..request });
    }

    fn kick(&mut self) {
        self.child.kick();
    }

    fn poll(&mut self, now: Instant, done: &mut Completions) {
        self.now = now;
        self.batch.clear();
        self.child.poll(now, &mut self.batch);
        for completion in self.batch.as_slice() {
            let flight = self.slots.get_mut(completion.tag).expect("the child completes what it was given");
            flight.status = completion.status;
            self.due.push(Reverse((now.after_ns(flight.delay_ns), self.arrivals, completion.tag)));
            self.arrivals += 1;
        }
        while done.room() > 0
            && let Some(&Reverse((due, _, slot))) = self.due.peek()
            && due <= now
        {
            self.due.pop();
            let Flight { tag, status, .. } = self.slots.take(slot);
            done.push(Completion { tag, status });
        }
    }

    fn arm(&mut self) -> Armed {
        let own = match self.due.peek() {
            Some(Reverse((due, ..))) if *due <= self.now => Armed::Ready,
            Some(Reverse((due, ..))) => Armed::Until(*due),
            None => Armed::Idle,
        };
        own.min(self.child.arm())
    }

    fn let_go(&mut self) {
        self.child.let_go();
    }

    fn hold_on(&mut self) {
        self.child.hold_on();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use spinel_core::{Lba, Op};
    use spinel_sim::{Prng, Rig};

    use crate::{NullDevice, Shape};

    const WRITE: Op = Op::Write { fua: false };

    fn open(latencies: Latencies, depth: u16) -> (Rig, DelayDevice, Box<dyn Channel>) {
        let mut rig = Rig::new(Prng::new(1), 4096);
        let device = DelayDevice::new(Arc::new(NullDevice::new(Shape::new(512, 8)).unwrap()), latencies).unwrap();
        let channel = device.open(&mut rig.core, depth).unwrap();
        (rig, device, channel)
    }

    fn latencies(average_read_us: u64, p99_read_us: u64, average_write_us: u64, p99_write_us: u64) -> Latencies {
        Latencies { average_read_us, p99_read_us, average_write_us, p99_write_us }
    }

    fn request(tag: u32, op: Op, at: Instant) -> Request<'static> {
        Request { tag: Tag(tag), op, at, start: Lba(0), blocks: u32::from(op != Op::Flush), segments: &[] }
    }

    /// Submits at `ns`, lets the null child complete in the same instant, and answers after how long the request came back.
    fn waited_ns(channel: &mut dyn Channel, op: Op, ns: u64) -> u64 {
        let at = Instant { ns };
        let mut done = Completions::limited(1);
        channel.submit(request(5, op, at));
        channel.poll(at, &mut done);
        if done.as_slice().is_empty() {
            let Armed::Until(due) = channel.arm() else { panic!("a held completion names its time") };
            channel.poll(Instant { ns: due.ns - 1 }, &mut done);
            assert!(done.as_slice().is_empty(), "not a nanosecond early");
            channel.poll(due, &mut done);
            assert_eq!(done.as_slice(), [Completion { tag: Tag(5), status: Status::Ok }]);
            return due.since_ns(at);
        }
        0
    }

    #[test]
    fn every_hundredth_read_and_every_hundredth_write_takes_the_p99_latency() {
        let (_rig, _device, mut channel) = open(latencies(10, 70, 20, 90), 4);
        for count in 1..=300u64 {
            let tail = count % 100 == 0;
            assert_eq!(waited_ns(&mut *channel, Op::Read, count * 1_000_000), if tail { 70_000 } else { 10_000 }, "read {count}");
            assert_eq!(waited_ns(&mut *channel, WRITE, count * 1_000_000), if tail { 90_000 } else { 20_000 }, "write {count}");
        }
    }

    #[test]
    fn flush_discard_and_write_zeroes_are_not_delayed() {
        let (_rig, _device, mut channel) = open(latencies(10, 10, 10, 10), 4);
        for op in [Op::Flush, Op::Discard, Op::WriteZeroes { unmap: false, fua: false }] {
            assert_eq!(waited_ns(&mut *channel, op, 1), 0, "{op:?}");
        }
    }

    #[test]
    fn a_change_concerns_what_is_submitted_after_it() {
        let (_rig, device, mut channel) = open(latencies(100, 100, 0, 0), 4);
        let mut done = Completions::new();
        channel.submit(request(1, Op::Read, Instant { ns: 0 }));
        device.set_latency(LatencyKind::AverageRead, 3);
        channel.submit(request(2, Op::Read, Instant { ns: 0 }));
        channel.poll(Instant { ns: 0 }, &mut done);
        assert_eq!(channel.arm(), Armed::Until(Instant { ns: 3_000 }), "the later and shorter one is not dammed up");
        channel.poll(Instant { ns: 100_000 }, &mut done);
        assert_eq!(done.as_slice().iter().map(|c| c.tag.0).collect::<Vec<_>>(), [2, 1]);
        assert_eq!(device.latencies(), Latencies { average_read_us: 3, ..latencies(0, 100, 0, 0) });
    }

    #[test]
    fn what_is_held_takes_room_and_what_is_due_keeps_the_core_awake() {
        let (_rig, _device, mut channel) = open(latencies(10, 10, 0, 0), 3);
        for tag in 0..3 {
            channel.submit(request(tag, Op::Read, Instant { ns: 0 }));
        }
        assert_eq!(channel.arm(), Armed::Ready, "the child has completions");
        let mut done = Completions::limited(2);
        channel.poll(Instant { ns: 0 }, &mut done);
        assert_eq!((channel.room(), channel.arm()), (0, Armed::Until(Instant { ns: 10_000 })));
        channel.poll(Instant { ns: 10_000 }, &mut done);
        assert_eq!((channel.room(), channel.arm(), done.room()), (2, Armed::Ready, 0), "one is due and found no room");
        done.clear();
        channel.poll(Instant { ns: 10_000 }, &mut done);
        assert_eq!((channel.room(), channel.arm()), (3, Armed::Idle));
    }

    #[test]
    fn a_p99_below_the_average_is_refused_by_name() {
        let child: Arc<dyn Device> = Arc::new(NullDevice::new(Shape::new(512, 8)).unwrap());
        let error = DelayDevice::new(Arc::clone(&child), latencies(1, 1, 9, 8)).unwrap_err();
        assert_eq!(error, LatencyError { what: "write", p99_us: 8, average_us: 9 });
        assert!(DelayDevice::new(child, latencies(2, 1, 9, 9)).is_err());
    }

    proptest! {
        #[test]
        fn completions_come_in_the_order_of_their_times(reads in proptest::collection::vec((any::<bool>(), 0..50u64), 1..100)) {
            let (mut rig, device, mut channel) = open(latencies(0, 0, 0, 0), 128);
            let mut model: Vec<(u64, u32)> = Vec::new();
            let mut done = Completions::limited(7);
            for (tag, (read, us)) in (0..).zip(reads) {
                for kind in [LatencyKind::AverageRead, LatencyKind::AverageWrite] {
                    device.set_latency(kind, us);
                }
                let at = rig.begin_turn();
                channel.submit(request(tag, if read { Op::Read } else { WRITE }, at));
                channel.poll(at, &mut done);
                model.push((at.ns + us * 1000, tag));
                let arrived: Vec<u32> = done.as_slice().iter().map(|c| c.tag.0).collect();
                done.clear();
                model.sort_by_key(|&(due, tag)| (due, tag));
                let due = model.iter().take_while(|(due, _)| *due <= at.ns).count().min(7);
                prop_assert_eq!(arrived, model.drain(..due).map(|(_, tag)| tag).collect::<Vec<_>>());
            }
        }
    }
}
