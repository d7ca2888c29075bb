//! Queues and devices that are wrong on purpose, to show that a run notices. Knows no run.

use std::collections::BTreeMap;
use std::sync::Arc;

use spinel_core::{
    Armed, Channel, Completion, Completions, Core, Device, Geometry, Instant, Op, OpenError, Poller, Progress, Recipe, Remains, Request,
    Status, Tag,
};

/// What is wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Plant {
    /// The queue says that the core may sleep although a request is there already: the second look is missing.
    IgnoresReady,
    /// The queue takes its wish for kicks back before the core sleeps.
    TakesWishBack,
    /// The queue forgets when the device has to be polled again.
    ForgetsTime,
    /// The queue is gone before what flies has landed.
    StopsAtOnce,
    /// The queue notifies nobody.
    NeverCalls,
    /// Two completions of one batch exchange their tags.
    SwapsTags,
    /// A request's completion ends another one that is in flight, which is ended for it later.
    EndsAnother,
    /// A flush is acknowledged and not done.
    SkipsFlush,
    /// Errors become success.
    SwallowsErrors,
    /// A write is acknowledged before it is done.
    AcknowledgesEarly,
}

impl Plant {
    /// Makes a queue wrong.
    pub(crate) fn corrupt(self, recipe: Recipe) -> Recipe {
        Box::new(move |core| Ok(Box::new(WrongQueue { queue: recipe(core)?, plant: self, stopping: false })))
    }

    /// Between queue and witness, with the queue's own tags; below the witness only data can show what is wrong.
    fn is_seen_by_tag(self) -> bool {
        matches!(self, Self::SwapsTags | Self::SwallowsErrors)
    }

    /// Makes a device wrong as its queue sees it.
    pub(crate) fn above(self, child: Arc<dyn Device>) -> Arc<dyn Device> {
        if self.is_seen_by_tag() { Arc::new(WrongDevice { child, plant: self }) } else { child }
    }

    /// Makes a device wrong where only data can show it.
    pub(crate) fn below(self, child: Arc<dyn Device>) -> Arc<dyn Device> {
        match self {
            Self::EndsAnother | Self::SkipsFlush | Self::AcknowledgesEarly => Arc::new(WrongDevice { child, plant: self }),
            _ => child,
        }
    }
}

struct WrongQueue {
    queue: Box<dyn Poller>,
    plant: Plant,
    stopping: bool,
}

impl Poller for WrongQueue {
    fn name(&self) -> &str {
        self.queue.name()
    }

    fn poll(&mut self, now: Instant) -> Progress {
        let progress = self.queue.poll(now);
        if self.stopping && self.plant == Plant::StopsAtOnce { Progress::Stopped } else { progress }
    }

    fn arm(&mut self) -> Armed {
        match (self.plant, self.queue.arm()) {
            (Plant::IgnoresReady, Armed::Ready) | (Plant::ForgetsTime, Armed::Until(_)) => Armed::Idle,
            (Plant::TakesWishBack, armed) => {
                self.queue.disarm();
                armed
            }
            (_, armed) => armed,
        }
    }

    fn disarm(&mut self) {
        self.queue.disarm();
    }

    fn stop(&mut self) {
        self.stopping = true;
        self.queue.stop();
    }

    fn retire(self: Box<Self>, core: &mut Core) -> Remains {
        self.queue.retire(core)
    }
}

struct WrongDevice {
    child: Arc<dyn Device>,
    plant: Plant,
}

impl Device for WrongDevice {
    fn geometry(&self) -> Geometry {
        self.child.geometry()
    }

    fn open(&self, core: &mut Core, depth: u16) -> Result<Box<dyn Channel>, OpenError> {
        // There is room for what it acknowledges too early.
        let child = self.child.open(core, depth.saturating_mul(4))?;
        let (flying, owed, done) = (BTreeMap::new(), Vec::new(), Completions::new());
        Ok(Box::new(WrongChannel { child, plant: self.plant, flying, submitted: 0, owed, done }))
    }
}

struct WrongChannel {
    child: Box<dyn Channel>,
    plant: Plant,
    /// By the child's tag: the request that its completion ends, if any.
    flying: BTreeMap<Tag, Option<Tag>>,
    submitted: u32,
    /// Completions that the child knows nothing of.
    owed: Vec<Completion>,
    done: Completions,
}

impl WrongChannel {
    /// Which requests the child's completions end.
    fn translate(&mut self, completions: &mut Vec<Completion>) {
        let mut left = Vec::new();
        for Completion { tag, status } in completions.drain(..) {
            let mut ends = self.flying.remove(&tag).expect("it was submitted");
            if self.plant == Plant::EndsAnother
                && let Some(other) = self.flying.values_mut().next()
            {
                std::mem::swap(&mut ends, other);
            }
            left.extend(ends.map(|tag| Completion { tag, status }));
        }
        *completions = left;
    }
}

impl Channel for WrongChannel {
    fn room(&self) -> usize {
        self.child.room().saturating_sub(self.owed.len())
    }

    fn submit(&mut self, request: Request<'_>) {
        let acknowledged =
            matches!((self.plant, request.op), (Plant::SkipsFlush, Op::Flush) | (Plant::AcknowledgesEarly, Op::Write { .. }));
        if acknowledged {
            self.owed.push(Completion { tag: request.tag, status: Status::Ok });
        }
        if request.op != Op::Flush || !acknowledged {
            let tag = if self.plant.is_seen_by_tag() { request.tag } else { Tag(self.submitted) };
            self.submitted += 1;
            self.flying.insert(tag, (!acknowledged).then_some(request.tag));
            self.child.submit(Request { tag, ..request });
        }
    }

    fn kick(&mut self) {
        self.child.kick();
    }

    fn poll(&mut self, now: Instant, done: &mut Completions) {
        self.done.clear();
        self.child.poll(now, &mut self.done);
        let mut completions = self.done.as_slice().to_vec();
        self.translate(&mut completions);
        match (self.plant, &mut completions[..]) {
            (Plant::SwapsTags, [first, .., last]) => std::mem::swap(&mut first.tag, &mut last.tag),
            (Plant::SwallowsErrors, all) => all.iter_mut().for_each(|completion| completion.status = Status::Ok),
            _ => {}
        }
        completions.append(&mut self.owed);
        completions.into_iter().for_each(|completion| done.push(completion));
    }

    fn arm(&mut self) -> Armed {
        if self.owed.is_empty() { self.child.arm() } else { Armed::Ready }
    }
}
