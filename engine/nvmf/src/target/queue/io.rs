//! What hosts do with namespaces: every command of a queue for I/O, from its 64 bytes to its answer. Knows no transport.

use std::sync::Arc;

use spinel_core::mem::Segment;
use spinel_core::{Completion, Completions, Instant, Lba, Meter, Op, OpKind, Request, Single, Status, Tag};
use spinel_nvme::command::{Command, Fused, IoOpcode};
use spinel_nvme::io::Blocks;
use spinel_nvme::status::{StatusCode, StatusField};

use super::super::note::Said;
use super::super::view::View;
use super::attached::{Attached, Door, Visitor, Way};
use super::change::Fence;
use super::desk::Desk;
use super::ranges;
use super::slots::{Phase, SlotId};

/// Requests that are submitted together at most.
const BATCH_MAX: usize = 64;
/// No namespace of a queue's table.
pub(super) const NOWHERE: u16 = u16::MAX;

/// A queue for I/O.
pub(crate) struct Io {
    pub(super) view: Arc<View>,
    pub(super) visitor: Visitor,
    cntlid: u16,
    depth: u16,
    /// Namespaces that were used, in no order.
    pub(super) attached: Vec<Attached>,
    /// How many namespaces were used.
    uses: u32,
    /// By namespace, from 1: its place among them.
    pub(super) places: Box<[u16]>,
    /// Channels to what is not there any more.
    pub(super) leaving: Vec<Way>,
    /// What is submitted together, and to which of the namespaces.
    batch: Vec<Single>,
    batch_place: usize,
    segments: Vec<Segment>,
    done: Completions,
    pub(super) fences: Vec<Fence>,
    pub(super) epoch: u32,
    /// The first of two commands that are done as one; the second comes next.
    first: Option<SlotId>,
}

/// What a command asks of a device.
struct Plan {
    op: Op,
    start: u64,
    blocks: u32,
    /// Bytes that go one way or the other.
    len_bytes: u64,
}

impl Io {
    pub(crate) fn new(view: Arc<View>, visitor: Visitor, cntlid: u16, depth: u16) -> Self {
        let namespaces = view.identity.namespaces_max as usize;
        Self {
            view,
            visitor,
            cntlid,
            depth,
            attached: Vec::new(),
            uses: 0,
            places: vec![NOWHERE; namespaces + 1].into_boxed_slice(),
            leaving: Vec::new(),
            batch: Vec::with_capacity(BATCH_MAX),
            batch_place: 0,
            segments: Vec::with_capacity(spinel_core::STREAM_SEGMENTS_MAX),
            done: Completions::new(),
            fences: Vec::new(),
            epoch: 0,
            first: None,
        }
    }

    /// Whether a command makes sense, as far as that can be said before its data are there; and what its data are to be.
    ///
    /// # Errors
    /// What it is answered with.
    #[inline]
    pub(crate) fn check(&mut self, desk: &mut Desk, id: SlotId) -> Result<(), StatusField> {
        let checked = self.look_at(desk, id);
        if checked.is_err() {
            self.unpair(desk, id);
        }
        checked
    }

    #[inline]
    fn look_at(&mut self, desk: &mut Desk, id: SlotId) -> Result<(), StatusField> {
        let slot = desk.slots.get(id);
        let command = slot.command;
        let fused = command.fused();
        if fused != Some(Fused::No) || self.first.is_some() {
            self.pair(desk, id, fused)?;
        }
        let opcode = IoOpcode::of(command.opcode()).ok_or(StatusCode::INVALID_OPCODE.permanent())?;
        let place = self.place(command.nsid())?;
        let slot = desk.slots.get_mut(id);
        slot.use_number = self.attached[place].use_number;
        let len_bytes = slot.len_bytes;
        let Some(plan) = plan(&command, opcode, self.attached[place].shift) else {
            return self.check_other(desk, &command, opcode, len_bytes);
        };
        if u64::from(len_bytes) != plan.len_bytes {
            return Err(StatusCode::SGL_LENGTH_INVALID.permanent());
        }
        if len_bytes > desk.options.transfer_bytes {
            return Err(StatusCode::INVALID_FIELD.permanent());
        }
        let attached = &self.attached[place];
        if plan.start.saturating_add(u64::from(plan.blocks)) > attached.block_count && self.is_outside(place, &plan) {
            return Err(StatusCode::LBA_RANGE.permanent());
        }
        self.gate(place, plan.op)?;
        let slot = desk.slots.get_mut(id);
        (slot.op, slot.start, slot.blocks) = (plan.op, Lba(plan.start), plan.blocks);
        Ok(())
    }

    /// Does what a command says, whose data are there, or lets it wait.
    #[inline]
    pub(crate) fn run(&mut self, desk: &mut Desk, id: SlotId) {
        let slot = desk.slots.get(id);
        if slot.aborted && !slot.begun {
            return self.end(desk, id, StatusCode::ABORT_REQUESTED.retriable());
        }
        if slot.mate.is_some() {
            return self.run_pair(desk, id);
        }
        if self.first == Some(id) {
            desk.slots.get_mut(id).phase = Phase::Away;
            return;
        }
        match IoOpcode::of(slot.command.opcode()) {
            Some(IoOpcode::Read | IoOpcode::Write | IoOpcode::Flush | IoOpcode::WriteZeroes) => self.launch(desk, id),
            Some(IoOpcode::Compare) => self.run_compare(desk, id),
            Some(IoOpcode::DatasetManagement) => self.run_ranges(desk, id),
            _ => self.run_reservation(desk, id),
        }
    }

    /// Where a namespace is among those that were used.
    #[inline]
    fn place(&mut self, nsid: u32) -> Result<usize, StatusField> {
        match self.places.get(nsid as usize) {
            Some(place) if *place != NOWHERE => Ok(usize::from(*place)),
            _ => self.attach(nsid),
        }
    }

    #[inline(never)]
    fn attach(&mut self, nsid: u32) -> Result<usize, StatusField> {
        let visible = self.view.namespace(nsid).filter(|namespace| namespace.visible.includes(&self.visitor.host));
        let namespace = visible.ok_or(StatusCode::INVALID_NAMESPACE.permanent())?;
        let place = self.attached.len();
        self.uses = self.uses.wrapping_add(1);
        self.attached.push(Attached::new(namespace, &self.view, &self.visitor, self.uses));
        self.places[nsid as usize] = u16::try_from(place).expect("namespaces are few");
        Ok(place)
    }

    /// The device may have grown since it was looked at.
    #[inline(never)]
    fn is_outside(&mut self, place: usize, plan: &Plan) -> bool {
        let attached = &mut self.attached[place];
        attached.block_count = attached.namespace.device.geometry().block_count;
        plan.start.saturating_add(u64::from(plan.blocks)) > attached.block_count
    }

    #[inline]
    fn gate(&self, place: usize, op: Op) -> Result<(), StatusField> {
        let gates = &self.attached[place].gates;
        // A flush is among what a reservation keeps others from, as everything that changes data.
        let gate = if op == Op::Read { gates.read } else { gates.write };
        // What may not be written to has nothing to flush.
        let harmless = op == Op::Flush && gate.code() == StatusCode::WRITE_PROTECTED;
        if gate.is_success() || harmless { Ok(()) } else { Err(gate) }
    }

    /// Sends a command's request to the device, or lets it wait for what is missing.
    #[inline]
    pub(super) fn launch(&mut self, desk: &mut Desk, id: SlotId) {
        let slot = desk.slots.get(id);
        let (nsid, op, begun, use_number) = (slot.command.nsid(), slot.op, slot.begun, slot.use_number);
        let allowed = self.place(nsid).and_then(|place| {
            // What was begun goes on, whatever the others are told meanwhile.
            if !begun {
                self.gate(place, op)?;
            }
            // What was meant for one namespace is not done to another that has its number now.
            let same = self.attached[place].use_number == use_number;
            if same { Ok(place) } else { Err(StatusCode::INVALID_NAMESPACE.permanent()) }
        });
        let place = match allowed {
            Ok(place) => place,
            Err(status) => return self.end(desk, id, status),
        };
        let attached = &self.attached[place];
        if !begun
            && op.changes_data()
            && let Some(hold) = &attached.namespace.hold
            && slot.mate.is_none()
            && hold.bars(slot.start.0, slot.blocks)
        {
            return desk.park(id);
        }
        match &attached.door {
            Door::Open(way) => {
                let batched = if place == self.batch_place { self.batch.len() } else { 0 };
                if way.channel.room() <= batched {
                    self.shut(place);
                    return desk.park(id);
                }
            }
            Door::Refused => {
                // The next command asks again.
                self.attached[place].door = Door::Closed;
                return self.end(desk, id, StatusCode::NAMESPACE_NOT_READY.retriable());
            }
            Door::Closed | Door::Asked => {
                self.ask_for_door(desk, place);
                return desk.park(id);
            }
        }
        if op == Op::Read && !Self::has_read_buffers(desk, id) {
            return desk.park(id);
        }
        self.submit(desk, id, place);
    }

    #[inline(never)]
    fn shut(&mut self, place: usize) {
        if let Door::Open(way) = &mut self.attached[place].door {
            way.shut = true;
        }
    }

    #[inline(never)]
    fn ask_for_door(&mut self, desk: &Desk, place: usize) {
        let attached = &mut self.attached[place];
        if matches!(attached.door, Door::Closed) {
            attached.door = Door::Asked;
            desk.voice.say(Said::Open { nsid: attached.namespace.nsid, depth: self.depth });
        }
    }

    /// What a comparison reads goes beside the host's data, and has its buffers since these have.
    #[inline]
    fn has_read_buffers(desk: &mut Desk, id: SlotId) -> bool {
        let slot = desk.slots.get(id);
        let len_bytes = slot.len_bytes;
        slot.other.is_some() || desk.has_buffers(id, len_bytes)
    }

    #[inline]
    fn submit(&mut self, desk: &mut Desk, id: SlotId, place: usize) {
        let epoch = self.epoch;
        let slot = desk.slots.get_mut(id);
        let attached = &mut self.attached[place];
        if !slot.begun {
            (slot.begun, slot.epoch) = (true, epoch);
        }
        slot.phase = Phase::Flying;
        let (op, start, blocks, tag) = (slot.op, slot.start, slot.blocks, id.tag());
        let chain = match op {
            Op::Read if slot.other.is_some() => slot.other.as_ref(),
            Op::Read | Op::Write { .. } => slot.data.as_ref(),
            _ => None,
        };
        let pool = desk.pool.borrow();
        if let Some(segment) = chain.and_then(|chain| pool.single(chain)) {
            drop(pool);
            if place != self.batch_place || self.batch.len() == BATCH_MAX {
                self.send_batch(desk.now);
                self.batch_place = place;
            }
            self.batch.push(Single { tag, op, start, blocks, segment });
            return;
        }
        self.segments.clear();
        if let Some(chain) = chain {
            self.segments.extend(pool.segments(chain));
        }
        drop(pool);
        let Door::Open(way) = &mut attached.door else { unreachable!("its door was open") };
        way.flying += 1;
        let at = desk.now;
        way.channel.submit(Request { tag, op, at, start, blocks, segments: &self.segments });
    }

    /// Submits what was gathered.
    #[inline]
    pub(super) fn send_batch(&mut self, at: Instant) {
        if self.batch.is_empty() {
            return;
        }
        let Door::Open(way) = &mut self.attached[self.batch_place].door else { unreachable!("doors close without a batch") };
        way.flying += self.batch.len();
        way.channel.submit_all(at, &self.batch);
        self.batch.clear();
    }

    /// What was submitted should start now. Whether anything flies.
    #[inline]
    pub(crate) fn kick(&mut self, now: Instant) -> bool {
        self.send_batch(now);
        let mut flies = false;
        for attached in &mut self.attached {
            if let Door::Open(way) = &mut attached.door
                && way.flying > 0
            {
                flies = true;
                way.channel.kick();
            }
        }
        flies
    }

    /// Collects what devices have done. Whether there was anything.
    #[inline]
    pub(crate) fn reap(&mut self, desk: &mut Desk) -> bool {
        let mut any = false;
        for place in 0..self.attached.len() {
            let Door::Open(way) = &mut self.attached[place].door else { continue };
            if way.flying == 0 && !std::mem::take(&mut way.shut) {
                continue;
            }
            self.done.clear();
            way.channel.poll(desk.now, &mut self.done);
            let landed = self.done.as_slice().len();
            way.flying -= landed;
            any |= landed > 0;
            if landed > 0 {
                count(&way.meter, &self.done, desk);
                self.land(desk);
            }
        }
        any | (!self.leaving.is_empty() && self.reap_leaving(desk))
    }

    #[inline(never)]
    fn reap_leaving(&mut self, desk: &mut Desk) -> bool {
        let mut any = false;
        for at in (0..self.leaving.len()).rev() {
            let way = &mut self.leaving[at];
            self.done.clear();
            way.channel.poll(desk.now, &mut self.done);
            let landed = self.done.as_slice().len();
            way.flying -= landed;
            any |= landed > 0;
            count(&way.meter, &self.done, desk);
            let empty = way.flying == 0;
            self.land(desk);
            if empty {
                let Way { nsid, instance, .. } = self.leaving.swap_remove(at);
                desk.voice.say(Said::Closed { nsid, instance });
                any = true;
            }
        }
        any
    }

    /// Ends the requests of a batch of completions.
    #[inline]
    fn land(&mut self, desk: &mut Desk) {
        for at in 0..self.done.as_slice().len() {
            let Completion { tag, status } = self.done.as_slice()[at];
            self.landed(desk, slot_of(tag), status);
        }
    }

    /// One request has ended.
    #[inline]
    fn landed(&mut self, desk: &mut Desk, id: SlotId, status: Status) {
        let slot = desk.slots.get_mut(id);
        let field = StatusField::of_device(status, slot.op.kind());
        if slot.mate.is_some() {
            return self.landed_of_pair(desk, id, field);
        }
        match IoOpcode::of(slot.command.opcode()) {
            Some(IoOpcode::Compare) if field.is_success() => {
                let status = compare(desk, id);
                self.end(desk, id, status);
            }
            Some(IoOpcode::DatasetManagement) if field.is_success() && !slot.aborted => {
                slot.step += 1;
                self.run_ranges(desk, id);
            }
            _ => self.end(desk, id, field),
        }
    }

    /// A command whose data were spoiled on the way.
    pub(crate) fn spoiled(&mut self, desk: &mut Desk, id: SlotId, status: StatusField) {
        self.unpair(desk, id);
        self.end(desk, id, status);
    }

    /// Answers a command, and the other one of two.
    #[inline]
    pub(crate) fn end(&mut self, desk: &mut Desk, id: SlotId, status: StatusField) {
        if desk.slots.get(id).mate.is_some() {
            return self.refused_of_pair(desk, id, status);
        }
        self.finish(desk, id, status);
    }

    /// Answers a command, which is not counted as begun any more.
    #[inline]
    pub(super) fn finish(&mut self, desk: &mut Desk, id: SlotId, status: StatusField) {
        // One that waits for its second may be given up, or spoiled, before that comes.
        self.first.take_if(|first| *first == id);
        let slot = desk.slots.get_mut(id);
        if std::mem::take(&mut slot.begun) {
            let (nsid, epoch) = (slot.command.nsid(), slot.epoch);
            for fence in &mut self.fences {
                if fence.nsid == nsid && epoch < fence.epoch {
                    fence.owed -= 1;
                }
            }
        }
        desk.answer(id, status);
    }

    fn run_compare(&mut self, desk: &mut Desk, id: SlotId) {
        self.launch(desk, id);
    }

    /// Gives back the next of several ranges of blocks, if there is another.
    fn run_ranges(&mut self, desk: &mut Desk, id: SlotId) {
        let nsid = desk.slots.get(id).command.nsid();
        let place = match self.place(nsid) {
            Ok(place) => place,
            Err(status) => return self.end(desk, id, status),
        };
        let attached = &self.attached[place];
        // That they are not needed is a hint: what cannot be given back stays.
        let discards = attached.namespace.device.geometry().features.discard;
        match ranges::next(desk, id).filter(|_| discards) {
            Some((start, blocks)) => {
                let slot = desk.slots.get_mut(id);
                (slot.op, slot.start, slot.blocks) = (Op::Discard, start, blocks);
                self.launch(desk, id);
            }
            None => self.end(desk, id, StatusField::SUCCESS),
        }
    }

    /// It is to end: nothing is held back any more.
    pub(crate) fn let_go(&mut self) {
        let doors = self.attached.iter_mut().filter_map(|attached| match &mut attached.door {
            Door::Open(way) => Some(way),
            _ => None,
        });
        doors.chain(&mut self.leaving).for_each(|way| way.channel.let_go());
    }

    /// Requests at devices.
    pub(crate) fn flying(&self) -> usize {
        let open = self.attached.iter().map(|attached| if let Door::Open(way) = &attached.door { way.flying } else { 0 });
        open.chain(self.leaving.iter().map(|way| way.flying)).sum()
    }

    /// When it has to be looked at again.
    pub(crate) fn arm(&mut self) -> spinel_core::Armed {
        let mut least = spinel_core::Armed::Idle;
        let doors = self.attached.iter_mut().filter_map(|attached| match &mut attached.door {
            Door::Open(way) => Some(way),
            _ => None,
        });
        for way in doors.chain(&mut self.leaving) {
            way.shut = way.channel.room() == 0;
            if way.flying > 0 || way.shut {
                least = least.min(way.channel.arm());
            }
        }
        least
    }

    /// What a write to a namespace that was used is answered with, unless it may be done.
    pub(super) fn gate_write(&self, nsid: u32) -> Result<(), StatusField> {
        let place = self.places.get(nsid as usize).filter(|place| **place != NOWHERE);
        let gate = place.map_or(StatusCode::INVALID_NAMESPACE.permanent(), |place| self.attached[usize::from(*place)].gates.write);
        if gate.is_success() { Ok(()) } else { Err(gate) }
    }

    pub(super) fn view(&self) -> &View {
        &self.view
    }

    pub(super) fn visitor(&self) -> (&Visitor, u16) {
        (&self.visitor, self.cntlid)
    }

    pub(super) fn first(&mut self) -> &mut Option<SlotId> {
        &mut self.first
    }
}

/// Counts a batch of completions, those together that are alike.
#[inline]
fn count(meter: &Meter, done: &Completions, desk: &mut Desk) {
    let (now, mut usual_ns) = (desk.now, desk.usual_ns);
    let mut record = |(kind, started, ok): (OpKind, Instant, bool), count, bytes| {
        let took_ns = now.since_ns(started);
        meter.record_alike(kind, count, bytes, took_ns, ok);
        usual_ns = (7 * usual_ns + took_ns) / 8;
    };
    let mut run = None;
    for Completion { tag, status } in done.as_slice() {
        let slot = desk.slots.get(slot_of(*tag));
        assert!(slot.phase == Phase::Flying, "a channel completes a tag once");
        let (like, bytes) = ((slot.op.kind(), slot.started, *status == Status::Ok), u64::from(slot.len_bytes));
        run = match run {
            Some((alike, count, sum)) if alike == like => Some((like, count + 1, sum + bytes)),
            Some((before, count, sum)) => {
                record(before, count, sum);
                Some((like, 1, bytes))
            }
            None => Some((like, 1, bytes)),
        };
    }
    if let Some((like, count, sum)) = run {
        record(like, count, sum);
    }
    desk.usual_ns = usual_ns;
}

#[inline]
pub(super) fn slot_of(tag: Tag) -> SlotId {
    SlotId(u16::try_from(tag.0).expect("tags of this queue are slots"))
}

/// What commands of the usual kinds ask of a device; none of the others.
#[inline]
fn plan(command: &Command, opcode: IoOpcode, shift: u32) -> Option<Plan> {
    let Blocks { start, count: blocks, fua, deallocate: unmap, .. } = Blocks::of(command);
    let len_bytes = u64::from(blocks) << shift;
    Some(match opcode {
        IoOpcode::Read | IoOpcode::Compare => Plan { op: Op::Read, start, blocks, len_bytes },
        IoOpcode::Write => Plan { op: Op::Write { fua }, start, blocks, len_bytes },
        IoOpcode::WriteZeroes => Plan { op: Op::WriteZeroes { unmap, fua }, start, blocks, len_bytes: 0 },
        IoOpcode::Flush => Plan { op: Op::Flush, start: 0, blocks: 0, len_bytes: 0 },
        _ => return None,
    })
}

/// Whether the host's data are what was read.
pub(super) fn compare(desk: &mut Desk, id: SlotId) -> StatusField {
    let slot = desk.slots.get(id);
    let same = match (&slot.data, &slot.other) {
        (Some(data), Some(other)) => desk.pool.borrow().same(data, other),
        _ => false,
    };
    if same { StatusField::SUCCESS } else { StatusCode::COMPARE_FAILURE.permanent() }
}
