//! One queue of a host over one connection: commands go by tag, data go both ways, answers come. Knows no controller, no
//! namespace and no socket.
//!
//! Everything that comes is a stranger's: an answer names a command that is out, data lie where they belong and nowhere else,
//! and whoever breaks a rule loses the connection. Nothing is allocated after opening.

mod loss;
mod outbox;
mod slots;

use std::rc::Rc;

use spinel_core::mem::{Regions, Segment};
use spinel_core::{Armed, Instant, Stream, StreamState};
use spinel_nvme::command::Command;
use spinel_nvme::completion::Completion;
use spinel_nvme::sgl::Sgl;
use spinel_nvme::status::{StatusCode, StatusField};
use zerocopy::{FromBytes as _, IntoBytes as _};

use crate::tcp::{
    Alignment, Carrier, DataPdu, Event, Fault, IcReq, IcResp, Limits, Pdu, PduType, R2t, Receiver, Returned, Role, Terms, Verdict,
};
pub use loss::{Awaited, Loss};
use outbox::{Body, Outbox, sends_for};
use slots::{Slots, Way};

/// Most PDUs of one turn, and about how many bytes of data.
const TURN_PDUS: usize = 128;
const TURN_BYTES: usize = 512 << 10;
/// A PDU that has begun ends within this time.
const PDU_NS: u64 = 30_000_000_000;
/// With a command of an admin queue, and with Connect, go at most so many bytes of data.
const ADMIN_CAPSULE_BYTES: u32 = 8 << 10;

/// How a queue is to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Manner {
    /// Digests of headers.
    pub(crate) header_digest: bool,
    /// Digests of data.
    pub(crate) data_digest: bool,
    /// Commands at a time.
    pub(crate) commands: u16,
    /// Most segments of a command's memory.
    pub(crate) segments_max: u16,
    /// Most bytes of a command's data.
    pub(crate) transfer_bytes: u32,
}

/// A command's data.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Payload<'a> {
    /// There are none.
    None,
    /// What it brings goes here. If all of it has to come, a success without it is none.
    ToHost {
        /// Where.
        segments: &'a [Segment],
        /// Whether all of it has to come.
        exact: bool,
    },
    /// These go to the controller. Their memory is read until the command ends.
    ToController(&'a [Segment]),
    /// These do, and are copied: a few bytes.
    Small(&'a [u8]),
}

/// How a command ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum End {
    /// The controller has answered it.
    Answered {
        /// How.
        status: StatusField,
        /// Dwords 0 and 1.
        result: u64,
        /// Bytes that it brought.
        come_bytes: u32,
    },
    /// The connection ended first: nobody knows whether the controller did it, or will do it yet.
    Lost,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// How to talk is not agreed on.
    Greeting,
    Running,
    /// What flies is waited for.
    Closing,
    Closed,
}

/// One queue. `O` says whose a command is.
pub(crate) struct Queue<S, O> {
    stream: S,
    regions: Rc<Regions>,
    receiver: Receiver,
    asked: IcReq,
    outbox: Outbox,
    slots: Slots<O>,
    phase: Phase,
    loss: Option<Loss>,
    /// Data that are coming belong to this slot.
    bringing: usize,
    /// Slots that have data to send, oldest first.
    sending: std::collections::VecDeque<u16>,
    /// Slots that were answered, and whose memory the stream still reads.
    lingering: Vec<u16>,
    /// Pieces of memory of one PDU.
    pieces: Vec<Segment>,
    /// Most bytes of data that go with a command, and in one PDU when asked for.
    capsule_bytes: u32,
    pdu_bytes: u32,
    /// When a PDU began that has not ended.
    since: Option<Instant>,
}

impl<S: Stream, O: Copy> Queue<S, O> {
    /// A queue over a new connection. `filler` is any segment.
    pub(crate) fn new(stream: S, regions: Rc<Regions>, manner: &Manner, filler: Segment) -> Self {
        let asked = IcReq {
            alignment: Alignment::default(),
            header_digest: manner.header_digest,
            data_digest: manner.data_digest,
            r2ts_max_less_one: 0,
        };
        let limits = Limits { capsule_data_bytes_max: 0, data_bytes_max: manner.transfer_bytes };
        let segments_max = usize::from(manner.segments_max);
        let commands = usize::from(manner.commands);
        let mut queue = Self {
            stream,
            regions,
            receiver: Receiver::new(Role::Host, limits),
            asked,
            outbox: Outbox::new(),
            slots: Slots::new(manner.commands, segments_max, filler),
            phase: Phase::Greeting,
            loss: None,
            bringing: 0,
            sending: std::collections::VecDeque::with_capacity(commands),
            lingering: Vec::with_capacity(commands),
            pieces: Vec::with_capacity(segments_max),
            capsule_bytes: ADMIN_CAPSULE_BYTES,
            pdu_bytes: 0,
            since: None,
        };
        queue.outbox.greet(&mut queue.stream, &asked);
        queue
    }

    /// From the next command on at most so many bytes of data go with one.
    pub(crate) fn limit_capsules(&mut self, bytes: u32) {
        self.capsule_bytes = bytes;
    }

    /// Whether how to talk is agreed on, and nothing has ended it.
    #[inline]
    pub(crate) fn is_running(&self) -> bool {
        self.phase == Phase::Running
    }

    /// Whether nothing of it is left.
    pub(crate) fn is_closed(&self) -> bool {
        self.phase == Phase::Closed
    }

    /// Why it ended, once it does.
    pub(crate) fn loss(&self) -> Option<Loss> {
        self.loss
    }

    /// Commands that are out.
    pub(crate) fn held(&self) -> usize {
        self.slots.held()
    }

    /// Whether it takes a command now.
    #[inline]
    pub(crate) fn takes(&self) -> bool {
        // A send for the command, and enough for data that were asked for.
        self.phase == Phase::Running && self.slots.room() > 0 && self.stream.room() > sends_for(self.pieces.capacity())
    }

    /// Sends a command.
    ///
    /// # Panics
    /// If it takes none.
    #[inline]
    pub(crate) fn submit(&mut self, owner: O, command: &Command, payload: Payload<'_>, now: Instant) {
        assert!(self.takes(), "whether it takes one was looked at before");
        let index = self.slots.take(owner, now);
        let mut body = Body::None;
        let (way, sgl, capsule_bytes) = match payload {
            Payload::None => (Way::None, Sgl::transport(0), 0),
            Payload::ToHost { segments, exact } => {
                let len_bytes = self.slots.remember(index, segments);
                let slot = self.slots.get_mut(index);
                (slot.len_bytes, slot.exact, slot.returned) = (len_bytes, exact, Returned::new(len_bytes));
                (Way::ToHost, Sgl::transport(len_bytes), 0)
            }
            Payload::ToController(segments) => {
                let len_bytes = self.slots.remember(index, segments);
                self.slots.get_mut(index).len_bytes = len_bytes;
                if len_bytes <= self.capsule_bytes {
                    body = Body::Lent(segments);
                    (Way::InCapsule, Sgl::capsule(0, len_bytes), len_bytes)
                } else {
                    (Way::ToController, Sgl::transport(len_bytes), 0)
                }
            }
            Payload::Small(bytes) => {
                let len_bytes = u32::try_from(bytes.len()).expect("a few bytes");
                let slot = self.slots.get_mut(index);
                slot.small[..bytes.len()].copy_from_slice(bytes);
                slot.len_bytes = len_bytes;
                if len_bytes <= self.capsule_bytes {
                    body = Body::Small(bytes);
                    (Way::InCapsule, Sgl::capsule(0, len_bytes), len_bytes)
                } else {
                    (Way::SmallToController, Sgl::transport(len_bytes), 0)
                }
            }
        };
        let id = self.slots.get(index).id;
        let command: [u8; 64] = command.with_id(id).with_data(sgl).as_bytes().try_into().expect("a command has 64 bytes");
        let last_send = self.outbox.command(&mut self.stream, &self.regions, &command, body, capsule_bytes);
        let slot = self.slots.get_mut(index);
        (slot.way, slot.last_send) = (way, last_send);
    }

    /// Has what was put together go.
    #[inline]
    pub(crate) fn flush(&mut self) {
        self.outbox.flush(&mut self.stream);
        self.stream.kick();
    }

    /// Takes what has come, and sends what was asked for, up to what a turn is for. Whether there was anything.
    #[inline]
    pub(crate) fn poll(&mut self, now: Instant, ended: &mut impl FnMut(O, End)) -> bool {
        match self.phase {
            Phase::Greeting | Phase::Running => {}
            Phase::Closing => return self.settle(ended),
            Phase::Closed => return false,
        }
        let mut busy = self.receive(now, ended);
        if !self.lingering.is_empty() {
            busy |= self.let_go(ended);
        }
        if !self.sending.is_empty() {
            busy |= self.send_data();
        }
        if self.outbox.has_staged() {
            self.flush();
        }
        match self.stream.state() {
            StreamState::Open => {}
            StreamState::Broken(why) => self.lose(Loss::Broke(why)),
            // What has come is still taken first.
            StreamState::Ended if self.stream.incoming().is_empty() => self.lose(Loss::Ended),
            StreamState::Ended => {}
        }
        busy
    }

    #[inline]
    fn receive(&mut self, now: Instant, ended: &mut impl FnMut(O, End)) -> bool {
        let (mut pdus, mut bytes, mut any) = (TURN_PDUS, TURN_BYTES, false);
        while pdus > 0 && bytes > 0 && matches!(self.phase, Phase::Greeting | Phase::Running) {
            let step = match self.receiver.next(self.stream.incoming()) {
                Ok(step) => step,
                Err(fault) => {
                    self.fault(fault);
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
            let done = match event {
                Event::Header(pdu) => {
                    pdus -= 1;
                    self.stream.take(used);
                    self.header(&pdu, ended)
                }
                Event::Data { bytes: piece, .. } => {
                    bytes = bytes.saturating_sub(piece.len());
                    place(&mut self.slots, &self.regions, self.bringing, piece);
                    self.stream.take(used);
                    Ok(())
                }
                Event::End { of, verdict } => {
                    self.stream.take(used);
                    self.arrived(&of, verdict, ended);
                    Ok(())
                }
            };
            if let Err(fault) = done {
                self.fault(fault);
                return true;
            }
        }
        if any || self.since.is_none() {
            self.since = self.receiver.midway().then_some(now);
        } else if self.since.is_some_and(|since| now.since_ns(since) > PDU_NS) {
            self.lose(Loss::Late(Awaited::Pdu));
        }
        any
    }

    #[inline]
    fn header(&mut self, pdu: &Pdu, ended: &mut impl FnMut(O, End)) -> Result<(), Fault> {
        match pdu {
            Pdu::CapsuleResp { completion } => {
                let completion = Completion::read_from_bytes(completion).expect("a completion has so many bytes");
                let command_id = completion.id();
                let unknown = Fault::UnknownCommand { kind: PduType::CapsuleResp, command_id };
                let index = self.slots.find(command_id).ok_or(unknown)?;
                self.answered(index, completion.status(), completion.result(), ended);
                Ok(())
            }
            Pdu::C2hData(data) => self.expect(data),
            Pdu::R2t(r2t) => self.asked_for(r2t),
            Pdu::IcResp(answer) => self.agree(answer),
            Pdu::Terminate(terminate) => {
                self.lose(Loss::Terminated(*terminate));
                Ok(())
            }
            Pdu::IcReq(_) | Pdu::CapsuleCmd { .. } | Pdu::H2cData(_) => unreachable!("they go the other way"),
        }
    }

    #[cold]
    fn agree(&mut self, answer: &IcResp) -> Result<(), Fault> {
        let terms = Terms::of_host(&self.asked, answer)?;
        if (terms.header_digest, terms.data_digest) != (self.asked.header_digest, self.asked.data_digest) {
            self.lose(Loss::NoDigests);
            return Ok(());
        }
        self.receiver.agree(terms);
        self.outbox.agree(terms);
        self.pdu_bytes = answer.data_bytes_max;
        self.phase = Phase::Running;
        Ok(())
    }

    /// Data are announced: they belong to a command that wants them, and come next.
    #[inline]
    fn expect(&mut self, data: &DataPdu) -> Result<(), Fault> {
        let unknown = Fault::UnknownCommand { kind: PduType::C2hData, command_id: data.command_id };
        let index = self.slots.find(data.command_id).ok_or(unknown)?;
        let slot = self.slots.get_mut(index);
        if slot.way != Way::ToHost {
            return Err(unknown);
        }
        slot.returned.expect(data)?;
        self.bringing = index;
        Ok(())
    }

    #[inline]
    fn arrived(&mut self, of: &Carrier, verdict: Verdict, ended: &mut impl FnMut(O, End)) {
        let index = self.bringing;
        if matches!(verdict, Verdict::Wrong { .. }) {
            self.slots.get_mut(index).spoiled = true;
        }
        if matches!(of, Carrier::C2hData(DataPdu { success: true, .. })) {
            self.answered(index, StatusField::SUCCESS, 0, ended);
        }
    }

    /// The controller wants data: of a command that has them, where the last ones ended, and one stretch at a time.
    #[inline]
    fn asked_for(&mut self, r2t: &R2t) -> Result<(), Fault> {
        let kind = PduType::R2t;
        let unknown = Fault::UnknownCommand { kind, command_id: r2t.command_id };
        let index = self.slots.find(r2t.command_id).ok_or(unknown)?;
        let slot = self.slots.get_mut(index);
        if !matches!(slot.way, Way::ToController | Way::SmallToController) {
            return Err(unknown);
        }
        if slot.r2t.is_some() {
            return Err(Fault::TooManyR2ts { most: 1 });
        }
        if r2t.offset != slot.asked_bytes {
            return Err(Fault::WrongOffset { kind, given: r2t.offset, expected: slot.asked_bytes });
        }
        if r2t.len_bytes > slot.len_bytes - slot.asked_bytes {
            return Err(Fault::OutOfRange { kind, offset: r2t.offset, len_bytes: r2t.len_bytes });
        }
        slot.asked_bytes += r2t.len_bytes;
        slot.r2t = Some(*r2t);
        self.sending.push_back(u16::try_from(index).expect("queues are small"));
        Ok(())
    }

    /// Sends what was asked for, as far as there is room.
    fn send_data(&mut self) -> bool {
        let mut any = false;
        while let Some(index) = self.sending.front().map(|index| usize::from(*index)) {
            if self.stream.room() < sends_for(self.slots.segments(index)) {
                break;
            }
            any = true;
            self.send_pdu(index);
            if self.slots.get(index).r2t.is_none() {
                self.sending.pop_front();
            }
        }
        any
    }

    fn send_pdu(&mut self, index: usize) {
        let slot = self.slots.get_mut(index);
        let Some(r2t) = &mut slot.r2t else { return };
        let len_bytes = r2t.len_bytes.min(self.pdu_bytes);
        let data = DataPdu {
            command_id: r2t.command_id,
            transfer_tag: r2t.transfer_tag,
            offset: r2t.offset,
            len_bytes,
            last: len_bytes == r2t.len_bytes,
            success: false,
        };
        (r2t.offset, r2t.len_bytes) = (r2t.offset + len_bytes, r2t.len_bytes - len_bytes);
        if data.last {
            slot.r2t = None;
        }
        let small = slot.small;
        let body = if slot.way == Way::SmallToController {
            Body::Small(&small[data.offset as usize..][..len_bytes as usize])
        } else {
            self.pieces.clear();
            let pieces = &mut self.pieces;
            self.slots.advance(index, len_bytes, |piece| pieces.push(piece));
            Body::Lent(&self.pieces)
        };
        let last_send = self.outbox.data(&mut self.stream, &self.regions, &data, body);
        self.slots.get_mut(index).last_send = last_send;
    }

    /// A command was answered. It ends when the stream reads its memory no more.
    #[inline]
    fn answered(&mut self, index: usize, status: StatusField, result: u64, ended: &mut impl FnMut(O, End)) {
        let slot = self.slots.get_mut(index);
        let short = slot.way == Way::ToHost && (slot.spoiled || slot.exact && slot.returned.come_bytes() < slot.len_bytes);
        // The answer says that all went well, but what came is not all, or not what was sent.
        let status = if short && status.is_success() { StatusCode::DATA_TRANSFER.retriable() } else { status };
        slot.answer = Some((status, result));
        if slot.r2t.take().is_some() {
            self.sending.retain(|sending| usize::from(*sending) != index);
        }
        let slot = self.slots.get(index);
        let lent = matches!(slot.way, Way::ToController | Way::InCapsule) && slot.last_send > self.stream.sent();
        if lent {
            self.lingering.push(u16::try_from(index).expect("queues are small"));
        } else {
            self.finish(index, ended);
        }
    }

    /// Ends commands whose memory is read no more.
    fn let_go(&mut self, ended: &mut impl FnMut(O, End)) -> bool {
        let before = self.lingering.len();
        for at in (0..before).rev() {
            let index = usize::from(self.lingering[at]);
            if self.slots.get(index).last_send <= self.stream.sent() {
                self.lingering.swap_remove(at);
                self.finish(index, ended);
            }
        }
        self.lingering.len() < before
    }

    #[inline]
    fn finish(&mut self, index: usize, ended: &mut impl FnMut(O, End)) {
        let slot = self.slots.get(index);
        let come_bytes = slot.returned.come_bytes();
        let end = slot.answer.map_or(End::Lost, |(status, result)| End::Answered { status, result, come_bytes });
        ended(self.slots.free(index), end);
    }

    #[cold]
    fn fault(&mut self, fault: Fault) {
        self.outbox.terminate(&mut self.stream, &fault, self.receiver.header());
        self.lose(Loss::Fault(fault));
    }

    /// Ends the connection. What is out comes back when nothing of it flies any more.
    #[cold]
    pub(crate) fn lose(&mut self, loss: Loss) {
        if matches!(self.phase, Phase::Greeting | Phase::Running) {
            self.phase = Phase::Closing;
            self.loss = Some(loss);
            self.stream.close();
        }
    }

    #[cold]
    fn settle(&mut self, ended: &mut impl FnMut(O, End)) -> bool {
        if !self.stream.closed() {
            return false;
        }
        self.phase = Phase::Closed;
        self.sending.clear();
        self.lingering.clear();
        let live: Vec<usize> = self.slots.live().collect();
        live.into_iter().for_each(|index| self.finish(index, ended));
        true
    }

    /// Commands that have been out since then or longer, each by its owner and identifier.
    pub(crate) fn out_since(&self, then: Instant) -> impl Iterator<Item = (O, u16)> + '_ {
        self.slots
            .live()
            .map(|index| self.slots.get(index))
            .filter(move |slot| slot.answer.is_none() && slot.since <= then)
            .filter_map(|slot| Some((slot.owner?, slot.id)))
    }

    /// Whether this core may sleep.
    pub(crate) fn arm(&mut self) -> Armed {
        let stream = self.stream.arm();
        let own = match self.phase {
            Phase::Greeting | Phase::Running if !self.stream.incoming().is_empty() || self.outbox.has_staged() => Armed::Ready,
            Phase::Closing if self.stream.closed() => Armed::Ready,
            Phase::Greeting | Phase::Running if self.stream.state() != StreamState::Open => Armed::Ready,
            _ => self.since.map_or(Armed::Idle, |since| Armed::Until(since.after_ns(PDU_NS + 1))),
        };
        stream.min(own)
    }
}

/// Puts data where they belong; how much may come was checked when they were announced.
#[inline]
fn place<O: Copy>(slots: &mut Slots<O>, regions: &Regions, index: usize, bytes: &[u8]) {
    let mut rest = bytes;
    slots.advance(index, u32::try_from(bytes.len()).expect("a piece is small"), |piece| {
        let (now, then) = rest.split_at(piece.len_bytes() as usize);
        // A region that has gone takes its request with it: nobody reads there any more.
        let _ = regions.write(&piece, 0, now);
        rest = then;
    });
}

#[cfg(test)]
mod tests;
