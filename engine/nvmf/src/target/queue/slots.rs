//! The commands of one queue that were taken and not answered yet. Knows no opcode.

use std::collections::VecDeque;

use spinel_core::{Instant, Lba, Op, Tag};
use spinel_nvme::command::Command;
use spinel_nvme::completion::Completion;
use spinel_nvme::status::StatusField;

use crate::pool::Chain;

/// Names a command of a queue while it is taken.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct SlotId(pub(crate) u16);

impl SlotId {
    pub(crate) fn index(self) -> usize {
        usize::from(self.0)
    }

    pub(crate) fn tag(self) -> Tag {
        Tag(u32::from(self.0))
    }
}

/// How far a command is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Phase {
    /// There is none.
    Free,
    /// The host's data come with the command.
    Arriving,
    /// The host was asked for its data.
    Fetching,
    /// It waits for something: buffers, a channel, room, or for others to be done.
    Waiting,
    /// It is at the device.
    Flying,
    /// Somebody else will say how it ends.
    Away,
    /// Its answer waits to be sent.
    Answered,
}

/// One command.
pub(crate) struct Slot {
    pub(crate) command: Command,
    pub(crate) phase: Phase,
    /// It was told that it is not wanted any more.
    pub(crate) aborted: bool,
    /// The host's data are here, all of them.
    pub(crate) arrived: bool,
    /// It is counted among those that its namespace has begun.
    pub(crate) begun: bool,
    /// When it began, counted in what connections were told to look out for.
    pub(crate) epoch: u32,
    pub(crate) started: Instant,
    /// When the host was asked for its data.
    pub(crate) asked: Instant,
    /// For which use of its namespace it was looked at: a later one is another namespace of the same number.
    pub(crate) use_number: u32,
    /// The length of its data.
    pub(crate) len_bytes: u32,
    /// How much of the host's data is here.
    pub(crate) received: u32,
    /// Some of the host's data are not what was sent.
    pub(crate) spoiled: bool,
    /// What is done next, or under way, at the device.
    pub(crate) op: Op,
    pub(crate) start: Lba,
    pub(crate) blocks: u32,
    /// How many steps are done.
    pub(crate) step: u32,
    /// The other one of two that are done as one.
    pub(crate) mate: Option<SlotId>,
    pub(crate) data: Option<Chain>,
    /// What is compared with the data.
    pub(crate) other: Option<Chain>,
    generation: u8,
}

/// An answer that can be sent.
pub(crate) struct Answer {
    pub(crate) completion: Completion,
    /// What goes to the host before it. Goes back to the pool once it is sent.
    pub(crate) data: Option<Chain>,
}

struct Finished {
    /// None is an answer to a command that never was taken.
    slot: Option<SlotId>,
    completion: Completion,
}

/// The commands of one queue.
pub(crate) struct Slots {
    slots: Box<[Slot]>,
    free: Vec<u16>,
    /// One bit for each identifier that is in use.
    ids: Box<[u64]>,
    finished: VecDeque<Finished>,
    /// Commands that wait for something that only time brings, oldest first.
    pub(crate) waiting: VecDeque<SlotId>,
    /// Commands whose data are to be asked for, oldest first.
    pub(crate) fetches: VecDeque<SlotId>,
    /// How many commands were taken, as far as the queue's head goes.
    head: u16,
    entries: u16,
}

/// Why a command cannot be taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Overfull {
    /// There are as many as the queue has entries.
    Full,
    /// Its identifier is in use.
    Duplicate,
}

const IDS: usize = 1 << 16;

impl Slots {
    /// A table for a queue of so many entries.
    pub(crate) fn new(entries: u16) -> Self {
        let slot = || Slot {
            command: Command::new(0, 0),
            phase: Phase::Free,
            aborted: false,
            arrived: false,
            begun: false,
            epoch: 0,
            started: Instant::default(),
            asked: Instant::default(),
            use_number: 0,
            len_bytes: 0,
            received: 0,
            spoiled: false,
            op: Op::Flush,
            start: Lba(0),
            blocks: 0,
            step: 0,
            mate: None,
            data: None,
            other: None,
            generation: 0,
        };
        let depth = usize::from(entries);
        Self {
            slots: (0..depth).map(|_| slot()).collect(),
            free: (0..entries).rev().collect(),
            ids: vec![0; IDS / 64].into_boxed_slice(),
            finished: VecDeque::with_capacity(2 * depth),
            waiting: VecDeque::with_capacity(depth),
            fetches: VecDeque::with_capacity(depth),
            head: 0,
            entries,
        }
    }

    /// The same table for a queue of another size, which is no smaller than before.
    pub(crate) fn resize(&mut self, entries: u16) {
        let mut other = Self::new(entries);
        for (to, from) in other.slots.iter_mut().zip(&mut self.slots) {
            std::mem::swap(to, from);
        }
        other.free.retain(|index| other.slots[usize::from(*index)].phase == Phase::Free);
        std::mem::swap(&mut other.ids, &mut self.ids);
        other.finished.append(&mut self.finished);
        other.waiting.append(&mut self.waiting);
        other.fetches.append(&mut self.fetches);
        other.head = self.head;
        *self = other;
    }

    /// How many commands are taken and not answered.
    pub(crate) fn held(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Whether more commands may be taken, as far as answers are concerned.
    #[inline]
    pub(crate) fn may_take(&self) -> bool {
        self.finished.len() < usize::from(self.entries)
    }

    /// A command has come: takes it, if there is a place for it and its identifier is new.
    #[inline]
    pub(crate) fn take(&mut self, command: &Command, now: Instant) -> Result<SlotId, Overfull> {
        self.head = if self.head + 1 >= self.entries { 0 } else { self.head + 1 };
        let id = usize::from(command.id());
        let (word, bit) = (&mut self.ids[id / 64], 1 << (id % 64));
        if *word & bit != 0 {
            return Err(Overfull::Duplicate);
        }
        let index = self.free.pop().ok_or(Overfull::Full)?;
        *word |= bit;
        let slot = &mut self.slots[usize::from(index)];
        slot.command = *command;
        slot.phase = Phase::Waiting;
        slot.started = now;
        slot.step = 0;
        (slot.received, slot.spoiled) = (0, false);
        slot.arrived = false;
        slot.begun = false;
        slot.generation = if slot.generation >= 15 { 1 } else { slot.generation + 1 };
        Ok(SlotId(index))
    }

    #[inline]
    pub(crate) fn get(&self, id: SlotId) -> &Slot {
        &self.slots[id.index()]
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, id: SlotId) -> &mut Slot {
        &mut self.slots[id.index()]
    }

    /// The slot of a command's identifier.
    pub(crate) fn find(&self, id: u16) -> Option<SlotId> {
        self.all().find(|slot| self.get(*slot).command.id() == id)
    }

    /// Every command that is taken and not answered.
    pub(crate) fn all(&self) -> impl Iterator<Item = SlotId> + use<'_> {
        let taken = |(_, slot): &(u16, &Slot)| !matches!(slot.phase, Phase::Free | Phase::Answered);
        (0..self.entries).zip(&*self.slots).filter(taken).map(|(index, _)| SlotId(index))
    }

    /// A name for what a host is asked for, which is never zero and not soon used again.
    pub(crate) fn transfer_tag(&self, id: SlotId) -> u16 {
        u16::from(self.get(id).generation) << 12 | id.0
    }

    /// What a host has been asked for by this name, if it still is.
    pub(crate) fn asked(&self, transfer_tag: u16) -> Option<SlotId> {
        let id = SlotId(transfer_tag & 0xfff);
        let slot = self.slots.get(id.index())?;
        (slot.phase == Phase::Fetching && u16::from(slot.generation) == transfer_tag >> 12).then_some(id)
    }

    /// Its answer is ready; its data, if any, go to the host.
    #[inline]
    pub(crate) fn finish(&mut self, id: SlotId, status: StatusField, result: u64) {
        let slot = &mut self.slots[id.index()];
        assert!(!matches!(slot.phase, Phase::Free | Phase::Answered), "a command is answered once");
        slot.phase = Phase::Answered;
        let completion = Completion::new(slot.command.id(), status).with_result(result);
        self.finished.push_back(Finished { slot: Some(id), completion });
    }

    /// Answers a command that was not taken.
    pub(crate) fn refuse(&mut self, id: u16, status: StatusField) {
        self.finished.push_back(Finished { slot: None, completion: Completion::new(id, status) });
    }

    /// The oldest answer. Its command is forgotten: the host may use the identifier again.
    #[inline]
    pub(crate) fn next_answer(&mut self) -> Option<Answer> {
        let Finished { slot, completion } = self.finished.pop_front()?;
        let completion = completion.with_submission_head(self.head);
        let data = slot.and_then(|id| {
            self.free.push(id.0);
            let slot = &mut self.slots[id.index()];
            slot.phase = Phase::Free;
            (slot.mate, slot.aborted) = (None, false);
            let id = usize::from(slot.command.id());
            self.ids[id / 64] &= !(1 << (id % 64));
            slot.data.take()
        });
        Some(Answer { completion, data })
    }

    /// Whether an answer waits.
    #[inline]
    pub(crate) fn has_answer(&self) -> bool {
        !self.finished.is_empty()
    }

    /// Every buffer there is, for the end.
    pub(crate) fn take_chains(&mut self) -> impl Iterator<Item = Chain> {
        self.slots.iter_mut().flat_map(|slot| [slot.data.take(), slot.other.take()]).flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use spinel_nvme::status::StatusCode;

    fn command(id: u16) -> Command {
        Command::new(2, 1).with_id(id)
    }

    #[test]
    fn an_identifier_is_taken_once_until_its_answer_goes() {
        let mut slots = Slots::new(4);
        let first = slots.take(&command(0xffff), Instant::default()).unwrap();
        assert_eq!(slots.take(&command(0xffff), Instant::default()), Err(Overfull::Duplicate));
        assert_eq!(slots.find(0xffff), Some(first));
        slots.finish(first, StatusField::SUCCESS, 7);
        assert_eq!(slots.take(&command(0xffff), Instant::default()), Err(Overfull::Duplicate), "the host does not know yet");
        let answer = slots.next_answer().unwrap();
        assert_eq!((answer.completion.id(), answer.completion.result()), (0xffff, 7));
        assert!(slots.take(&command(0xffff), Instant::default()).is_ok());
    }

    #[test]
    fn no_more_commands_are_taken_than_the_queue_has_entries() {
        let mut slots = Slots::new(3);
        let taken: Vec<SlotId> = (0..3).map(|id| slots.take(&command(id), Instant::default()).unwrap()).collect();
        assert_eq!(slots.take(&command(9), Instant::default()), Err(Overfull::Full));
        assert_eq!(slots.held(), 3);
        slots.finish(taken[1], StatusCode::INTERNAL.permanent(), 0);
        assert_eq!(slots.next_answer().map(|answer| answer.completion.id()), Some(1));
        assert_eq!(slots.take(&command(9), Instant::default()), Ok(taken[1]));
    }

    #[test]
    fn heads_go_round() {
        let mut slots = Slots::new(3);
        let mut heads = Vec::new();
        for id in 0..5 {
            let slot = slots.take(&command(id), Instant::default()).unwrap();
            slots.finish(slot, StatusField::SUCCESS, 0);
            heads.push(slots.next_answer().unwrap().completion.submission_head());
        }
        assert_eq!(heads, [1, 2, 0, 1, 2]);
    }

    #[test]
    fn what_was_asked_for_by_an_old_name_is_not_found() {
        let mut slots = Slots::new(2);
        let mut seen = std::collections::BTreeSet::new();
        for id in 0..15 {
            let slot = slots.take(&command(id), Instant::default()).unwrap();
            let tag = slots.transfer_tag(slot);
            assert!(tag != 0 && seen.insert(tag), "{tag:#x} was used before");
            assert_eq!(slots.asked(tag), None, "nothing was asked for yet");
            slots.get_mut(slot).phase = Phase::Fetching;
            assert_eq!(slots.asked(tag), Some(slot));
            assert!(seen.iter().filter(|old| **old != tag).all(|old| slots.asked(*old).is_none()));
            slots.finish(slot, StatusField::SUCCESS, 0);
            assert_eq!(slots.asked(tag), None);
            slots.next_answer();
        }
        assert_eq!((slots.asked(0), slots.asked(0x1fff)), (None, None));
    }

    #[test]
    fn a_queue_grows_to_the_size_that_its_first_command_says() {
        let mut slots = Slots::new(2);
        let first = slots.take(&command(5), Instant::default()).unwrap();
        slots.resize(64);
        assert_eq!(slots.find(5), Some(first));
        assert_eq!(slots.take(&command(5), Instant::default()), Err(Overfull::Duplicate));
        assert!((10..73).all(|id| slots.take(&command(id), Instant::default()).is_ok()));
        assert_eq!(slots.take(&command(99), Instant::default()), Err(Overfull::Full));
    }
}
