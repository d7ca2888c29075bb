//! One connection to a controller on one core: set up, kept alive, asked, and closed. Knows no request and no device.

use std::sync::Arc;

use crossbeam_channel::Sender;
use spinel_core::mem::{Region, Regions, Segment};
use spinel_core::{Armed, Instant, Stream};
use spinel_nvme::admin::keep_alive;
use spinel_nvme::command::{Command, Direction};
use spinel_nvme::fabrics::{ConnectBlame, Connected};
use zerocopy::IntoBytes as _;

use super::note::{Association, LaneId, Plan, Reply, Said};
use super::queue::{Awaited, End, Loss, Payload, Queue};
use super::view::PathId;

/// Bytes that a connection has for data of questions.
pub(super) const DESK_BYTES: u32 = 8 << 10;
/// How often it is looked for commands that take too long, as a part of the time they have.
const LOOKS: u64 = 4;

/// Whose a command is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Owner {
    /// A request's.
    Channel {
        /// Where its end is told.
        inbox: u32,
        /// Which one.
        slot: u32,
    },
    Connect,
    KeepAlive,
    /// The control side's.
    Ask(u64),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// How to talk is being agreed on.
    Greeting,
    Connecting,
    /// The control side may ask.
    Connected,
    Ending,
}

/// Keeps the controller alive.
#[derive(Clone, Copy)]
struct Pulse {
    every_ns: u64,
    timeout_ns: u64,
    next: Instant,
    /// When the one was sent that is not answered.
    asked: Option<Instant>,
}

/// A question that waits until there is room for it.
struct Question {
    ask: u64,
    command: Command,
    out: Vec<u8>,
    room_bytes: u32,
}

/// What a lane keeps apart from its queue, so that both can be used at a time.
struct State {
    id: LaneId,
    said: Sender<Said>,
    desk: Arc<Region>,
    desk_offset: u64,
    phase: Phase,
    pulse: Option<Pulse>,
    /// The question whose data lie there.
    on_desk: Option<u64>,
}

/// One connection.
pub(super) struct Lane<S> {
    queue: Queue<S, Owner>,
    state: State,
    plan: Box<Plan>,
    questions: std::collections::VecDeque<Question>,
    opened: Option<Instant>,
    /// Requests may go this way.
    serves: bool,
    timeout_ns: Option<u64>,
    next_look: Instant,
    /// Commands that were told to be late, and when.
    late: Vec<(u16, Instant)>,
}

impl<S: Stream> Lane<S> {
    pub(super) fn new(stream: S, regions: std::rc::Rc<Regions>, plan: Box<Plan>, said: Sender<Said>, desk: Arc<Region>, unit: u32) -> Self {
        let filler = desk.segment(0, 0).expect("inside the region");
        let desk_offset = u64::from(unit) * u64::from(DESK_BYTES);
        let queue = Queue::new(stream, regions, &plan.manner, filler);
        Self {
            queue,
            state: State { id: plan.lane, said, desk, desk_offset, phase: Phase::Greeting, pulse: None, on_desk: None },
            plan,
            questions: std::collections::VecDeque::new(),
            opened: None,
            serves: false,
            timeout_ns: None,
            next_look: Instant::default(),
            late: Vec::new(),
        }
    }

    pub(super) fn id(&self) -> LaneId {
        self.state.id
    }

    pub(super) fn path(&self) -> PathId {
        self.plan.path
    }

    pub(super) fn association(&self) -> Association {
        self.plan.association
    }

    /// The place of its memory.
    pub(super) fn unit(&self) -> u32 {
        u32::try_from(self.state.desk_offset / u64::from(DESK_BYTES)).expect("there are few units")
    }

    /// Whether requests may go this way.
    #[inline]
    pub(super) fn serves(&self) -> bool {
        self.serves && self.queue.is_running()
    }

    /// Whether it takes a request now.
    #[inline]
    pub(super) fn takes(&self) -> bool {
        self.serves && self.queue.takes()
    }

    /// Requests under way.
    #[inline]
    pub(super) fn held(&self) -> usize {
        self.queue.held()
    }

    /// Sends a request.
    #[inline]
    pub(super) fn submit(&mut self, owner: Owner, command: &Command, payload: Payload<'_>, now: Instant) {
        self.queue.submit(owner, command, payload, now);
    }

    #[inline]
    pub(super) fn flush(&mut self) {
        self.queue.flush();
    }

    pub(super) fn serve(&mut self, capsule_bytes: u32, timeout_ns: Option<u64>) {
        self.queue.limit_capsules(capsule_bytes);
        (self.serves, self.timeout_ns, self.next_look) = (true, timeout_ns, Instant::default());
    }

    pub(super) fn keep_alive(&mut self, timeout_ns: u64, now: Instant) {
        // Twice within the time, so that one that is a little late is no loss.
        let every_ns = timeout_ns / 2;
        self.state.pulse = Some(Pulse { every_ns, timeout_ns, next: now.after_ns(every_ns), asked: None });
    }

    pub(super) fn close(&mut self, loss: Loss) {
        self.queue.lose(loss);
    }

    /// Asks the controller something.
    pub(super) fn ask(&mut self, ask: u64, command: Command, out: Vec<u8>, room_bytes: u32) {
        self.questions.push_back(Question { ask, command, out, room_bytes });
    }

    /// Does what there is to do. Whether there was anything. `ended` is told of requests.
    #[inline]
    pub(super) fn poll(&mut self, now: Instant, ended: &mut impl FnMut(u32, u32, End)) -> bool {
        let state = &mut self.state;
        let busy = self.queue.poll(now, &mut |owner, end| match owner {
            Owner::Channel { inbox, slot } => ended(inbox, slot, end),
            other => state.ended(other, end),
        });
        if self.is_settled(now) {
            return busy;
        }
        self.attend(now) || busy
    }

    /// Whether there is nothing to do but what came.
    #[inline]
    fn is_settled(&self, now: Instant) -> bool {
        self.state.phase == Phase::Connected
            && self.questions.is_empty()
            && self.queue.loss().is_none()
            && now < self.next_look
            && self.state.pulse.is_none_or(|pulse| now < pulse.next)
    }

    /// Everything that is not a request's.
    fn attend(&mut self, now: Instant) -> bool {
        if let Some(loss) = self.queue.loss() {
            return self.end(loss);
        }
        let opened = *self.opened.get_or_insert(now);
        match self.state.phase {
            Phase::Greeting if self.queue.takes() => self.connect(now),
            Phase::Greeting | Phase::Connecting if now.since_ns(opened) > self.plan.within_ns => {
                let late = if self.state.phase == Phase::Greeting { Awaited::Agreement } else { Awaited::Connect };
                self.queue.lose(Loss::Late(late));
                return true;
            }
            Phase::Connected => {
                self.put_questions(now);
                self.pulse(now);
                self.look(now);
            }
            _ => {}
        }
        false
    }

    fn end(&mut self, loss: Loss) -> bool {
        if self.state.phase != Phase::Ending {
            self.state.phase = Phase::Ending;
            self.serves = false;
            self.state.say(Said::Ending { lane: self.state.id });
        }
        if self.queue.is_closed() {
            for question in std::mem::take(&mut self.questions) {
                self.state.answer(question.ask, End::Lost, Vec::new());
            }
            self.state.say(Said::Lost { lane: self.state.id, loss });
        }
        true
    }

    /// Whether it may be forgotten.
    pub(super) fn is_over(&self) -> bool {
        self.queue.is_closed() && self.state.phase == Phase::Ending
    }

    fn connect(&mut self, now: Instant) {
        let segment = self.state.place(self.plan.data.as_bytes());
        let command = self.plan.connect.command();
        self.queue.submit(Owner::Connect, &command, Payload::ToController(&[segment]), now);
        self.queue.flush();
        self.state.phase = Phase::Connecting;
    }

    /// Questions go when there is room; one with data waits for the one before it.
    fn put_questions(&mut self, now: Instant) {
        while let Some(question) = self.questions.front()
            && self.queue.takes()
        {
            let Question { ask, command, out, room_bytes } = question;
            let owner = Owner::Ask(*ask);
            if !out.is_empty() || *room_bytes > 0 {
                if self.state.on_desk.is_some() {
                    break;
                }
                self.state.on_desk = Some(*ask);
            }
            match command.direction() {
                Direction::ToController if !out.is_empty() => {
                    let segment = self.state.place(out);
                    self.queue.submit(owner, command, Payload::ToController(&[segment]), now);
                }
                Direction::ToHost if *room_bytes > 0 => {
                    let segment = self.state.room(*room_bytes);
                    self.queue.submit(owner, command, Payload::ToHost { segments: &[segment], exact: false }, now);
                }
                _ => self.queue.submit(owner, command, Payload::None, now),
            }
            self.questions.pop_front();
        }
        self.queue.flush();
    }

    fn pulse(&mut self, now: Instant) {
        let Some(pulse) = &mut self.state.pulse else { return };
        if let Some(asked) = pulse.asked
            && now.since_ns(asked) >= pulse.timeout_ns
        {
            return self.queue.lose(Loss::Late(Awaited::KeepAlive));
        }
        if now >= pulse.next {
            pulse.next = now.after_ns(pulse.every_ns);
            if pulse.asked.is_none() && self.queue.takes() {
                pulse.asked = Some(now);
                self.queue.submit(Owner::KeepAlive, &keep_alive(), Payload::None, now);
                self.queue.flush();
            }
        }
    }

    /// Tells of commands that take too long, and again if nothing came of that in as much time.
    fn look(&mut self, now: Instant) {
        if now < self.next_look {
            return;
        }
        let Some(timeout_ns) = self.timeout_ns else {
            self.next_look = Instant { ns: u64::MAX };
            return;
        };
        self.next_look = now.after_ns(timeout_ns / LOOKS);
        let Some(then) = now.ns.checked_sub(timeout_ns) else { return };
        let mut late = Vec::new();
        for (_, command_id) in self.queue.out_since(Instant { ns: then }) {
            let told = self.late.iter().find(|(id, told)| *id == command_id && now.since_ns(*told) < timeout_ns);
            if told.is_none() {
                self.state.say(Said::Overdue { lane: self.state.id, command_id });
            }
            late.push((command_id, told.map_or(now, |(_, told)| *told)));
        }
        self.late = late;
    }

    /// Whether this core may sleep.
    pub(super) fn arm(&mut self) -> Armed {
        let mut armed = self.queue.arm();
        let at = |instant: Instant| if instant.ns == u64::MAX { Armed::Idle } else { Armed::Until(instant) };
        match self.state.phase {
            Phase::Greeting if self.queue.takes() => armed = Armed::Ready,
            Phase::Greeting | Phase::Connecting => {
                armed = armed.min(self.opened.map_or(Armed::Ready, |opened| at(opened.after_ns(self.plan.within_ns + 1))));
            }
            Phase::Connected => {
                armed = armed.min(at(self.next_look));
                if let Some(pulse) = self.state.pulse {
                    armed = armed.min(at(pulse.next));
                }
                if !self.questions.is_empty() && self.state.on_desk.is_none() && self.queue.takes() {
                    armed = Armed::Ready;
                }
            }
            Phase::Ending => {}
        }
        if self.queue.loss().is_some() && self.state.phase != Phase::Ending { Armed::Ready } else { armed }
    }
}

impl State {
    fn say(&self, said: Said) {
        // Nobody listens when the process ends.
        let _ = self.said.send(said);
    }

    fn answer(&self, ask: u64, end: End, data: Vec<u8>) {
        self.say(Said::Answer { lane: self.id, ask, reply: Reply { end, data } });
    }

    /// Room for an answer.
    fn room(&self, len_bytes: u32) -> Segment {
        assert!(len_bytes <= DESK_BYTES, "a question asks for no more than there is room for");
        self.desk.segment(self.desk_offset, len_bytes).expect("inside the region")
    }

    /// Data of a question.
    fn place(&self, bytes: &[u8]) -> Segment {
        let segment = self.room(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        self.desk.write(segment.offset(), bytes).expect("inside the region");
        segment
    }

    /// A command of this side's own has ended.
    #[cold]
    fn ended(&mut self, owner: Owner, end: End) {
        match (owner, end) {
            (Owner::Connect, End::Answered { status, result, .. }) => {
                self.phase = Phase::Connected;
                let answer = if status.is_success() { Ok(Connected::of(result)) } else { Err((status, result)) };
                if let Err((status, result)) = answer {
                    tracing::warn!("Connect is refused: {status} {:?}", ConnectBlame::of(result));
                }
                self.say(Said::Connected { lane: self.id, answer });
            }
            (Owner::KeepAlive, End::Answered { .. }) => {
                if let Some(pulse) = &mut self.pulse {
                    pulse.asked = None;
                }
            }
            (Owner::Ask(ask), end) => {
                self.on_desk.take_if(|on_desk| *on_desk == ask);
                let mut data = Vec::new();
                if let End::Answered { come_bytes, .. } = end {
                    data.resize(come_bytes as usize, 0);
                    self.desk.read(self.desk_offset, &mut data).expect("inside the region");
                }
                self.answer(ask, end, data);
            }
            (Owner::Connect | Owner::KeepAlive, End::Lost) => {}
            (Owner::Channel { .. }, _) => unreachable!("requests' ends are told elsewhere"),
        }
    }
}
