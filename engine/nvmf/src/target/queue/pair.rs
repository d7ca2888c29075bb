//! Two commands that are done as one: a comparison, and a write if it found what it expected. Knows no other pair.
//!
//! Nobody else may change the blocks in between. So the control side is asked to keep everybody away from them; when it says
//! that nothing of others is under way there, the pair runs, and then they may go on.

use spinel_nvme::command::{Fused, IoOpcode};
use spinel_nvme::status::{StatusCode, StatusField};

use super::super::note::Said;
use super::desk::Desk;
use super::io::{Io, compare};
use super::slots::{Phase, SlotId};

/// The pair may go on: everybody else is kept away. Stands in `step` of both.
const HELD: u32 = 1;

impl Io {
    /// Joins a command with the one before it, or notes that it is the first of two.
    ///
    /// # Errors
    /// What it is answered with. The first one may have been answered then, too.
    #[cold]
    pub(super) fn pair(&mut self, desk: &mut Desk, id: SlotId, fused: Option<Fused>) -> Result<(), StatusField> {
        let missing = StatusCode::ABORTED_FUSED_MISSING.permanent();
        let command = desk.slots.get(id).command;
        let opcode = IoOpcode::of(command.opcode());
        let before = self.first().take();
        let first = before.map(|first| desk.slots.get(first).command);
        match (fused, first) {
            (Some(Fused::Second), Some(first)) => {
                let before = before.expect("there is its command");
                let dwords = |number| first.dword(number) == command.dword(number);
                let same =
                    first.nsid() == command.nsid() && dwords(10) && dwords(11) && (first.dword(12) ^ command.dword(12)) & 0xffff == 0;
                if opcode == Some(IoOpcode::Write) && same {
                    desk.slots.get_mut(before).mate = Some(id);
                    desk.slots.get_mut(id).mate = Some(before);
                    return Ok(());
                }
                self.forsake(desk, before, StatusCode::ABORTED_FUSED_FAILED.permanent());
                Err(StatusCode::INVALID_FIELD.permanent())
            }
            (Some(Fused::First), _) => {
                if let Some(before) = before {
                    self.forsake(desk, before, missing);
                }
                if opcode != Some(IoOpcode::Compare) {
                    return Err(StatusCode::INVALID_FIELD.permanent());
                }
                *self.first() = Some(id);
                Ok(())
            }
            (fused, _) => {
                if let Some(before) = before {
                    self.forsake(desk, before, missing);
                }
                match fused {
                    Some(Fused::No) => Ok(()),
                    Some(_) => Err(missing),
                    None => Err(StatusCode::INVALID_FIELD.permanent()),
                }
            }
        }
    }

    /// The first of two, whose second does not come.
    fn forsake(&mut self, desk: &mut Desk, first: SlotId, status: StatusField) {
        let slot = desk.slots.get_mut(first);
        match slot.phase {
            // It waits for nothing but its second.
            Phase::Away => self.end(desk, first, status),
            // It is answered when its data are there.
            _ => slot.aborted = true,
        }
    }

    /// A command is answered before anything was done: the other one of two is, too.
    #[cold]
    pub(super) fn unpair(&mut self, desk: &mut Desk, id: SlotId) {
        self.first().take_if(|first| *first == id);
        if let Some(mate) = desk.slots.get_mut(id).mate.take() {
            desk.slots.get_mut(mate).mate = None;
            self.forsake(desk, mate, StatusCode::ABORTED_FUSED_FAILED.permanent());
        }
    }

    /// One of two has its data, or goes on.
    #[cold]
    pub(super) fn run_pair(&mut self, desk: &mut Desk, id: SlotId) {
        if desk.slots.get(id).step == HELD {
            return self.launch(desk, id);
        }
        let (first, second) = both(desk, id);
        desk.slots.get_mut(id).phase = Phase::Away;
        let ready = |id| desk.slots.get(id).phase == Phase::Away;
        if ready(first) && ready(second) {
            let slot = desk.slots.get(first);
            let (token, nsid, start, blocks) = (first.tag().0, slot.command.nsid(), slot.start.0, slot.blocks);
            desk.voice.say(Said::Hold { token, nsid, start, blocks });
        }
    }

    /// Everybody else is kept away, or there is nothing to keep them away from.
    pub(crate) fn held(&mut self, desk: &mut Desk, token: u32, granted: bool) {
        let first = super::io::slot_of(spinel_core::Tag(token));
        let Some(second) = desk.slots.get(first).mate.filter(|_| desk.slots.get(first).phase == Phase::Away) else { return };
        if !granted {
            return self.end_pair(desk, first, StatusCode::INVALID_NAMESPACE.permanent(), StatusCode::ABORTED_FUSED_FAILED.permanent());
        }
        desk.slots.get_mut(first).step = HELD;
        desk.slots.get_mut(second).step = HELD;
        self.launch(desk, first);
    }

    /// A request of one of two has ended.
    #[cold]
    pub(super) fn landed_of_pair(&mut self, desk: &mut Desk, id: SlotId, status: StatusField) {
        let (first, second) = both(desk, id);
        if id == second {
            return self.end_pair(desk, first, StatusField::SUCCESS, status);
        }
        let mut status = if status.is_success() { compare(desk, first) } else { status };
        if desk.slots.get(second).aborted {
            status = StatusCode::ABORT_REQUESTED.retriable();
        }
        if status.is_success() {
            desk.slots.get_mut(first).phase = Phase::Away;
            self.launch(desk, second);
        } else {
            self.end_pair(desk, first, status, StatusCode::ABORTED_FUSED_FAILED.permanent());
        }
    }

    /// One of two does not reach the device.
    #[cold]
    pub(super) fn refused_of_pair(&mut self, desk: &mut Desk, id: SlotId, status: StatusField) {
        let (first, second) = both(desk, id);
        let failed = StatusCode::ABORTED_FUSED_FAILED.permanent();
        if desk.slots.get(first).step != HELD {
            // The data of the other one may still be coming: it ends when they are there.
            self.unpair(desk, id);
            return self.finish(desk, id, status);
        }
        if id == second { self.end_pair(desk, first, failed, status) } else { self.end_pair(desk, first, status, failed) }
    }

    fn end_pair(&mut self, desk: &mut Desk, first: SlotId, of_first: StatusField, of_second: StatusField) {
        let (first, second) = both(desk, first);
        let slot = desk.slots.get(first);
        if slot.step == HELD {
            desk.voice.say(Said::Unhold { nsid: slot.command.nsid() });
        }
        for (id, status) in [(first, of_first), (second, of_second)] {
            desk.slots.get_mut(id).mate = None;
            self.finish(desk, id, status);
        }
    }
}

/// The first and the second of two.
fn both(desk: &Desk, id: SlotId) -> (SlotId, SlotId) {
    let slot = desk.slots.get(id);
    let mate = slot.mate.expect("it is one of two");
    if slot.command.fused() == Some(Fused::First) { (id, mate) } else { (mate, id) }
}
