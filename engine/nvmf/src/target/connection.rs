//! One TCP connection: PDUs in, calls on its queue, answers out as PDUs. Knows no command beyond its 64 bytes, and no socket.

mod outbox;

use std::rc::Rc;
use std::sync::Arc;

use spinel_core::{Armed, Company, Core, Crowd, Instant, Mailbox, Member, OpenError, Poller, Progress, Remains, Stream, StreamState};
use spinel_nvme::command::Command;
use zerocopy::FromBytes as _;

use super::control::{Target, Voice};
use super::note::Said;
use super::options::{IN_CAPSULE_MAX_BYTES, Options};
use super::queue::{Broken, Queue, SlotId, Taken};
use super::view::{Address, PortId};
use crate::tcp::{Alignment, Carrier, DataPdu, Event, Fault, IcReq, IcResp, Limits, Pdu, PduType, Receiver, Role, Terms, Verdict};
use outbox::Outbox;

/// A host has so long to say what the connection is for, each time it is its turn.
const SET_UP_NS: u64 = 10_000_000_000;
/// So much longer if it has to prove who it is.
const PROOF_NS: u64 = 60_000_000_000;
/// A PDU that has begun ends within this time; data that were asked for come within it, and some of what is sent is taken.
const TRANSFER_NS: u64 = 60_000_000_000;
/// What is still to be sent goes within this time once the connection is to end.
const FAREWELL_NS: u64 = 2_000_000_000;
/// How often it is looked whether data that were asked for have come, and whether what is sent is taken.
const LOOK_NS: u64 = 5_000_000_000;
/// Most PDUs of one turn, and about how many bytes of data.
const TURN_PDUS: usize = 64;
const TURN_BYTES: usize = 512 << 10;
/// However impatient others are, so many PDUs are taken: each turn costs the kernel several microseconds by itself.
const TURN_PDUS_MIN: usize = 8;
/// No host's request takes less, with its way here and back: shorter turns it would not notice.
const NETWORK_NS: u64 = 40_000;
/// The same beside others on its core.
const TURN_BYTES_AMONG_OTHERS: usize = 128 << 10;
/// The least and the most that is announced as the most data of one PDU.
const DATA_PDU_BYTES: std::ops::RangeInclusive<u32> = 4096..=(128 << 10);

/// How far a connection is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// The host has to say how it wants to talk, and then who it is.
    Opening,
    Running,
    /// What was to be said goes out, and then it closes.
    Leaving,
    /// What flies is waited for.
    Closed,
}

/// Data that are coming.
#[derive(Clone, Copy)]
enum Bringing {
    /// Nobody wants them.
    Nowhere,
    /// They belong to this command, from this byte on.
    To(SlotId, u32),
}

/// One connection.
struct Connection<S> {
    name: String,
    stream: S,
    receiver: Receiver,
    queue: Queue,
    outbox: Outbox,
    options: Arc<Options>,
    phase: Phase,
    /// The host was told what it did wrong: nothing comes behind that.
    mute: bool,
    bringing: Bringing,
    /// A command for whose data there are no buffers yet, and how many bytes there are.
    stalled: Option<(Command, u32)>,
    /// When it was opened, or a PDU began that has not ended.
    since: Option<Instant>,
    opened: Option<Instant>,
    next_look: Instant,
    /// How many sends were done when that was last different, and when that was.
    taken: (u64, Instant),
    crowd: Rc<Crowd>,
    member: Member,
    /// Most PDUs of a turn beside others.
    among_others: usize,
}

impl Target {
    /// Serves a host that has connected by a port, on the core of this mailbox. False if there are too many connections: then
    /// it is not.
    ///
    /// `make` makes the stream, on that core.
    #[must_use]
    pub fn admit<S: Stream + 'static>(
        &self,
        mailbox: &Mailbox,
        port: PortId,
        peer: String,
        arrived: Address,
        make: impl FnOnce(&mut Core) -> Result<S, OpenError> + Send + 'static,
    ) -> bool {
        let Some(voice) = self.link(mailbox.clone(), port, peer.clone(), arrived) else { return false };
        let options = self.options();
        let recipe = move |core: &mut Core| -> Result<Box<dyn Poller>, OpenError> {
            let gone = voice.clone();
            let opened = make(core).and_then(|stream| Connection::open(core, stream, voice, options, peer));
            match opened {
                Ok(connection) => Ok(Box::new(connection)),
                Err(error) => {
                    tracing::error!("a connection cannot be served: {error}");
                    gone.say(Said::Ended);
                    Err(error)
                }
            }
        };
        // Whether it runs is told by what it says.
        drop(mailbox.begin_add(Box::new(recipe)));
        true
    }
}

impl<S: Stream> Connection<S> {
    fn open(core: &mut Core, stream: S, voice: Voice, options: Arc<Options>, peer: String) -> Result<Self, OpenError> {
        let limits = Limits { capsule_data_bytes_max: IN_CAPSULE_MAX_BYTES, data_bytes_max: data_pdu_bytes(&options) };
        let queue = Queue::open(core, voice, Arc::clone(&options))?;
        let crowd = core.crowd();
        Ok(Self {
            member: crowd.join(),
            crowd,
            among_others: TURN_PDUS_MIN,
            name: format!("nvmf {peer}"),
            outbox: Outbox::new(stream.room()),
            stream,
            receiver: Receiver::new(Role::Target, limits),
            queue,
            options,
            phase: Phase::Opening,
            mute: false,
            bringing: Bringing::Nowhere,
            stalled: None,
            since: None,
            opened: None,
            next_look: Instant::default(),
            taken: (0, Instant::default()),
        })
    }

    /// Most PDUs and bytes of this turn. Beside others on its core that is one PDU more than last time, or half as many if
    /// turns are longer than they notice.
    #[inline]
    fn share(&mut self, now: Instant) -> (usize, usize) {
        self.among_others = match self.crowd.meet(self.member, now, self.queue.usual_ns().max(NETWORK_NS)) {
            Company::Alone => return (TURN_PDUS, TURN_BYTES),
            Company::Patient => TURN_PDUS.min(self.among_others + 1),
            Company::Impatient => (self.among_others / 2).max(TURN_PDUS_MIN),
        };
        (self.among_others, TURN_BYTES_AMONG_OTHERS)
    }

    /// Takes what has come, up to what a turn is for. Whether there was anything.
    #[inline]
    fn receive(&mut self, now: Instant) -> bool {
        if let Some((command, data_bytes)) = self.stalled.take()
            && (!self.command(&command, data_bytes, now) || self.stalled.is_some())
        {
            return false;
        }
        // The end of data that have come is still to be told, though nothing more has come.
        if self.stream.incoming().is_empty() && !self.receiver.midway() {
            return false;
        }
        let (mut pdus, mut bytes) = self.share(now);
        let mut any = false;
        while pdus > 0 && bytes > 0 && self.stalled.is_none() && self.queue.may_take() {
            let incoming = self.stream.incoming();
            let step = match self.receiver.next(incoming) {
                Ok(step) => step,
                Err(fault) => {
                    self.fault(fault, now);
                    return true;
                }
            };
            let used = step.used;
            let Some(event) = step.event else {
                any |= used > 0;
                self.stream.take(used);
                break;
            };
            any = true;
            match event {
                Event::Data { offset, bytes: piece, .. } => {
                    if let Bringing::To(slot, from) = self.bringing {
                        self.queue.put(slot, from + offset, piece);
                    }
                    bytes = bytes.saturating_sub(piece.len());
                    self.stream.take(used);
                }
                Event::Header(pdu) => {
                    self.stream.take(used);
                    pdus -= 1;
                    if !self.header(pdu, now) {
                        return true;
                    }
                }
                Event::End { of, verdict } => {
                    self.stream.take(used);
                    self.end(of, verdict);
                }
            }
        }
        // A PDU that waits for buffers of ours, or for answers to go, is not late.
        let midway = self.receiver.midway() && self.stalled.is_none() && self.queue.may_take();
        self.since = if midway { self.since.or(Some(now)) } else { None };
        any
    }

    /// A header has come. False if the connection cannot go on.
    #[inline]
    fn header(&mut self, pdu: Pdu, now: Instant) -> bool {
        self.since = None;
        match pdu {
            Pdu::CapsuleCmd { command, data_bytes } => {
                let command = Command::read_from_bytes(&command).expect("a command has so many bytes");
                self.command(&command, data_bytes, now)
            }
            Pdu::H2cData(data) => match self.expected(&data) {
                Ok(slot) => {
                    self.bringing = Bringing::To(slot, data.offset);
                    true
                }
                Err(fault) => {
                    self.fault(fault, now);
                    false
                }
            },
            Pdu::IcReq(request) => {
                self.agree(&request);
                true
            }
            Pdu::Terminate(terminate) => {
                tracing::warn!("{} gives up: {:?}, information {:#x}", self.name, terminate.known(), terminate.info);
                self.close(now);
                false
            }
            Pdu::IcResp(_) | Pdu::CapsuleResp { .. } | Pdu::C2hData(_) | Pdu::R2t(_) => unreachable!("they go the other way"),
        }
    }

    /// A command has come. False if the connection cannot go on.
    #[inline]
    fn command(&mut self, command: &Command, data_bytes: u32, now: Instant) -> bool {
        match self.queue.take(command, data_bytes) {
            Ok(Taken::Whole) => {}
            Ok(Taken::Skip) => self.bringing = Bringing::Nowhere,
            Ok(Taken::Bring(slot)) => self.bringing = Bringing::To(slot, 0),
            Ok(Taken::Later) => self.stalled = Some((*command, data_bytes)),
            Err(Broken::Overfull) => {
                tracing::warn!("{} sends more commands than its queue has entries", self.name);
                self.leave(now);
                return false;
            }
        }
        true
    }

    /// Which command data belong to that were asked for.
    #[inline]
    fn expected(&self, data: &DataPdu) -> Result<SlotId, Fault> {
        let kind = PduType::H2cData;
        let found = self.queue.asked(data.transfer_tag);
        let (slot, command, received, len_bytes) = found.ok_or(Fault::UnknownTransfer { tag: data.transfer_tag })?;
        if command != data.command_id {
            return Err(Fault::UnknownCommand { kind, command_id: data.command_id });
        }
        if data.offset != received {
            return Err(Fault::WrongOffset { kind, given: data.offset, expected: received });
        }
        let end = data.offset + data.len_bytes;
        if end > len_bytes {
            return Err(Fault::OutOfRange { kind, offset: data.offset, len_bytes: data.len_bytes });
        }
        if data.last != (end == len_bytes) {
            return Err(Fault::WrongLast { kind, given: data.last });
        }
        Ok(slot)
    }

    /// The data of a PDU have come.
    #[inline]
    fn end(&mut self, of: Carrier, verdict: Verdict) {
        let right = !matches!(verdict, Verdict::Wrong { .. });
        if !right {
            tracing::warn!("{}: data came other than they were sent ({verdict:?})", self.name);
        }
        if let Bringing::To(slot, _) = std::mem::replace(&mut self.bringing, Bringing::Nowhere) {
            self.queue.arrived(slot, of.data_bytes(), right);
        }
    }

    /// Grants what the host asks for.
    fn agree(&mut self, asked: &IcReq) {
        let answer = IcResp {
            alignment: Alignment::default(),
            header_digest: asked.header_digest,
            data_digest: asked.data_digest,
            data_bytes_max: data_pdu_bytes(&self.options),
        };
        let terms = Terms::of_target(asked, &answer);
        self.receiver.agree(terms);
        self.outbox.agree(&mut self.stream, terms, &answer);
    }

    /// The host broke the transport's rules: it is told how, and the connection ends.
    #[cold]
    fn fault(&mut self, fault: Fault, now: Instant) {
        tracing::warn!("{}: {fault}", self.name);
        self.outbox.terminate(&mut self.stream, &fault, self.receiver.header());
        self.mute = true;
        self.leave(now);
    }

    /// Sends what there is to send, as far as there is room. Whether there was anything.
    #[inline]
    fn reply(&mut self) -> bool {
        let mut any = false;
        while self.outbox.has_room(&self.stream) {
            let Some((_, command_id, transfer_tag, len_bytes)) = self.queue.next_fetch() else { break };
            self.outbox.ask(&mut self.stream, command_id, transfer_tag, len_bytes);
            any = true;
        }
        while self.outbox.has_room(&self.stream) {
            let Some(answer) = self.queue.next_answer() else { break };
            self.outbox.answer(&mut self.stream, answer, self.queue.pool(), self.options.success_with_data);
            any = true;
        }
        self.outbox.flush(&mut self.stream);
        any
    }

    /// Takes back the buffers of what was sent. Whether there were any: somebody may wait for them.
    #[inline]
    fn take_back(&mut self) -> bool {
        let mut any = false;
        while let Some(chain) = self.outbox.next_sent(&self.stream) {
            any = true;
            self.queue.give_back(chain);
        }
        any
    }

    /// It ends once everything is sent that there is.
    fn leave(&mut self, now: Instant) {
        if matches!(self.phase, Phase::Opening | Phase::Running) {
            (self.phase, self.opened) = (Phase::Leaving, Some(now));
        }
    }

    fn close(&mut self, now: Instant) {
        if self.phase != Phase::Closed {
            (self.phase, self.opened) = (Phase::Closed, Some(now));
            self.stalled = None;
            self.queue.close();
            self.stream.close();
        }
    }

    /// Looks whether anybody takes too long.
    #[inline]
    fn keep_time(&mut self, now: Instant) {
        let opened = *self.opened.get_or_insert(now);
        match self.phase {
            Phase::Opening if self.queue.is_connected() && !self.queue.is_unproven() => self.phase = Phase::Running,
            Phase::Opening if now.since_ns(opened) > self.set_up_ns() => {
                tracing::warn!("{} does not say what it is for", self.name);
                self.close(now);
            }
            Phase::Leaving if now.since_ns(opened) > FAREWELL_NS => self.close(now),
            _ => {}
        }
        let late = self.since.is_some_and(|since| now.since_ns(since) > TRANSFER_NS);
        if late || now >= self.next_look && self.is_owed_too_long(now) {
            tracing::warn!("{} begins to send and does not go on, or takes nothing of what it is sent", self.name);
            self.close(now);
        }
    }

    /// How long it may take until a host has said what it has to.
    fn set_up_ns(&self) -> u64 {
        if self.queue.is_unproven() { SET_UP_NS + PROOF_NS } else { SET_UP_NS }
    }

    #[cold]
    fn is_owed_too_long(&mut self, now: Instant) -> bool {
        self.next_look = now.after_ns(LOOK_NS);
        if self.outbox.is_sent(&self.stream) || self.stream.sent() != self.taken.0 {
            self.taken = (self.stream.sent(), now);
        }
        let owed = self.queue.oldest_fetch().is_some_and(|since| now.since_ns(since) > TRANSFER_NS);
        owed || now.since_ns(self.taken.1) > TRANSFER_NS
    }

    /// When somebody will have taken too long.
    fn deadline(&self) -> Armed {
        let after = |since: Option<Instant>, ns| since.map_or(Armed::Idle, |since| Armed::Until(since.after_ns(ns)));
        let phase = match self.phase {
            Phase::Opening => after(self.opened, self.set_up_ns() + 1),
            Phase::Leaving => after(self.opened, FAREWELL_NS + 1),
            Phase::Running | Phase::Closed => Armed::Idle,
        };
        let owed = self.queue.oldest_fetch().is_some() || !self.outbox.is_sent(&self.stream);
        let fetch = if owed { Armed::Until(self.next_look) } else { Armed::Idle };
        phase.min(after(self.since, TRANSFER_NS + 1)).min(fetch)
    }

    /// What is left to do before it may go. Whether nothing is.
    fn is_over(&mut self) -> bool {
        if !self.queue.is_still() || !self.stream.closed() {
            return false;
        }
        while let Some(chain) = self.outbox.next_lent() {
            self.queue.give_back(chain);
        }
        true
    }
}

/// The most data of one PDU of a host.
fn data_pdu_bytes(options: &Options) -> u32 {
    options.transfer_bytes.clamp(*DATA_PDU_BYTES.start(), *DATA_PDU_BYTES.end())
}

impl<S: Stream> Poller for Connection<S> {
    fn name(&self) -> &str {
        &self.name
    }

    fn poll(&mut self, now: Instant) -> Progress {
        self.keep_time(now);
        let mut busy = self.take_back();
        busy |= self.queue.begin_turn(now);
        if self.phase == Phase::Closed {
            return if self.is_over() { Progress::Stopped } else { Progress::Waiting };
        }
        if self.phase != Phase::Leaving {
            busy |= self.receive(now);
        }
        if self.phase == Phase::Closed {
            return Progress::Busy;
        }
        // What a device has done at once is answered in the same turn, and all answers are sent together.
        busy |= self.queue.end_turn();
        if !self.mute && self.reply() {
            self.stream.kick();
            busy = true;
        }
        if self.queue.is_leaving() {
            self.leave(now);
        }
        let sent = self.outbox.is_sent(&self.stream) && (self.mute || !self.queue.has_answer());
        let gone = match self.stream.state() {
            StreamState::Open => self.phase == Phase::Leaving && sent,
            StreamState::Ended => self.stream.incoming().is_empty() || self.phase == Phase::Leaving,
            StreamState::Broken(_) => true,
        };
        if gone {
            self.close(now);
            return Progress::Busy;
        }
        if busy {
            return Progress::Busy;
        }
        if self.queue.held() > 0 || !sent { Progress::Waiting } else { Progress::Idle }
    }

    fn arm(&mut self) -> Armed {
        if self.phase == Phase::Closed {
            return self.stream.arm().min(self.queue.arm());
        }
        let can_take = self.stalled.is_none() && self.queue.may_take() && self.phase != Phase::Leaving;
        // What waits for room is woken by the stream.
        let can_send = self.queue.has_answer() && self.outbox.has_room(&self.stream);
        if can_send || can_take && !self.stream.incoming().is_empty() {
            return Armed::Ready;
        }
        self.queue.arm().min(self.stream.arm()).min(self.deadline())
    }

    fn disarm(&mut self) {}

    fn stop(&mut self) {
        self.close(self.opened.unwrap_or_default());
    }

    fn retire(self: Box<Self>, core: &mut Core) -> Remains {
        let Self { queue, stream, .. } = *self;
        drop(stream);
        queue.retire(core);
        Box::new(())
    }
}
