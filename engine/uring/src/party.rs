//! Parties of a ring: those whose submissions may have many answers, and that say what to submit when a turn ends. Knows none.

use std::cell::RefCell;
use std::rc::Rc;

use io_uring::cqueue;
use io_uring::squeue::Entry;

use crate::files::Target;

/// One answer of the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Answer {
    /// A length, or an error number below zero.
    pub(crate) result: i32,
    /// The submission stays, and has more answers.
    pub(crate) more: bool,
    /// The provided buffer that it is about.
    pub(crate) buffer: Option<u16>,
}

impl Answer {
    pub(crate) fn of(completion: &cqueue::Entry) -> Self {
        let flags = completion.flags();
        Self { result: completion.result(), more: cqueue::more(flags), buffer: cqueue::buffer_select(flags) }
    }
}

/// Somebody who takes the kernel's answers as they come, and is asked at the end of a turn what it wants to submit.
///
/// A port's slot has one answer for each submission, which waits in a queue until it is asked for. A party has no queue:
/// however many answers there are, it adds them up.
///
/// # Safety
/// What the entries of `next` point to stays valid until their last answer has come, as long as the party exists: the ring
/// keeps it until then.
pub(crate) unsafe trait Party {
    /// Takes an answer for one of its slots; whether it wants to be asked for submissions now.
    fn answer(&mut self, slot: u32, answer: Answer) -> bool;

    /// The next thing to submit, and for which slot. Asked until there is nothing.
    fn next(&mut self) -> Option<(u32, Entry)>;

    /// Whether every submission has had its last answer.
    fn is_still(&self) -> bool;

    /// What it has registered with its ring.
    fn registered(&self) -> Registered;
}

/// What a party has registered with its ring, and the ring takes back when it has left.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Registered {
    /// Its file.
    pub(crate) file: Target,
    /// Its group of buffers, if it has one.
    pub(crate) group: Option<u16>,
}

/// Names a party on one ring.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct PartyId(pub(crate) u32);

struct Member {
    party: Rc<RefCell<dyn Party>>,
    /// Whether it stands in line to be asked.
    roused: bool,
    /// It goes as soon as it is still.
    leaving: bool,
}

impl Member {
    /// Whether nothing keeps it any more.
    fn may_go(&self) -> bool {
        self.leaving && self.party.borrow().is_still()
    }
}

/// The parties of one ring, and those among them that want to submit something, first come first served.
#[derive(Default)]
pub(crate) struct Parties {
    members: Vec<Option<Member>>,
    line: Vec<u32>,
}

impl Parties {
    /// The place that the next party gets.
    pub(crate) fn vacancy(&self) -> PartyId {
        let place = self.members.iter().position(Option::is_none).unwrap_or(self.members.len());
        PartyId(u32::try_from(place).expect("few parties"))
    }

    /// Takes a party in, at the vacancy. The only place where the tables grow.
    pub(crate) fn join(&mut self, party: Rc<RefCell<dyn Party>>) -> PartyId {
        let id = self.vacancy();
        let member = Some(Member { party, roused: false, leaving: false });
        match self.members.get_mut(id.0 as usize) {
            Some(vacant) => *vacant = member,
            None => self.members.push(member),
        }
        self.line.reserve(self.members.len().saturating_sub(self.line.len()));
        id
    }

    /// How many places there are.
    pub(crate) fn count(&self) -> usize {
        self.members.len()
    }

    /// A party wants to leave. The party, if it could go at once.
    pub(crate) fn leave(&mut self, id: PartyId) -> Option<Rc<RefCell<dyn Party>>> {
        self.member(id.0).leaving = true;
        self.let_go(id.0)
    }

    /// Lets a party go that wants to leave and is still.
    fn let_go(&mut self, place: u32) -> Option<Rc<RefCell<dyn Party>>> {
        let member = self.members[place as usize].take_if(|member| member.may_go())?;
        self.line.retain(|&waiting| waiting != place);
        Some(member.party)
    }

    fn member(&mut self, place: u32) -> &mut Member {
        self.members.get_mut(place as usize).and_then(Option::as_mut).expect("answers go to those who are there")
    }

    /// Hands over an answer. The party, if it was the last one and the party wants to leave.
    pub(crate) fn answer(&mut self, place: u32, slot: u32, answer: Answer) -> Option<Rc<RefCell<dyn Party>>> {
        let member = self.member(place);
        let wishes = member.party.borrow_mut().answer(slot, answer);
        if wishes {
            self.rouse(PartyId(place));
        } else if member.leaving {
            return self.let_go(place);
        }
        None
    }

    /// This party is to be asked when the turn ends.
    pub(crate) fn rouse(&mut self, id: PartyId) {
        if !std::mem::replace(&mut self.member(id.0).roused, true) {
            self.line.push(id.0);
        }
    }

    /// Whether somebody is to be asked.
    pub(crate) fn is_roused(&self) -> bool {
        !self.line.is_empty()
    }

    /// Calls `each` with the parties in line, and empties it.
    pub(crate) fn ask(&mut self, mut each: impl FnMut(u32, &mut dyn Party)) {
        for &place in &self.line {
            let member = self.members.get_mut(place as usize).and_then(Option::as_mut).expect("who leaves is in no line");
            member.roused = false;
            each(place, &mut *member.party.borrow_mut());
        }
        self.line.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use io_uring::opcode::Nop;

    /// Wants to submit as many things as its answers say.
    #[derive(Default)]
    struct Wishful {
        wishes: i32,
        owed: i32,
    }

    // SAFETY: its entries point to nothing.
    unsafe impl Party for Wishful {
        fn answer(&mut self, _slot: u32, answer: Answer) -> bool {
            self.owed -= i32::from(!answer.more);
            self.wishes += answer.result;
            self.wishes > 0
        }

        fn next(&mut self) -> Option<(u32, Entry)> {
            self.wishes = self.wishes.checked_sub(1).filter(|left| *left >= 0)?;
            self.owed += 1;
            Some((7, Nop::new().build()))
        }

        fn is_still(&self) -> bool {
            self.owed == 0
        }

        fn registered(&self) -> Registered {
            Registered { file: Target { number: 3, registered: false }, group: None }
        }
    }

    fn asked(parties: &mut Parties) -> Vec<u32> {
        let mut places = Vec::new();
        parties.ask(|place, party| {
            while party.next().is_some() {
                places.push(place);
            }
        });
        places
    }

    fn join(parties: &mut Parties, wishes: i32) -> PartyId {
        parties.join(Rc::new(RefCell::new(Wishful { wishes, owed: 0 })))
    }

    fn answer(result: i32, more: bool) -> Answer {
        Answer { result, more, buffer: None }
    }

    #[test]
    fn parties_are_asked_once_in_the_order_in_which_they_were_roused() {
        let mut parties = Parties::default();
        let [a, b, c] = [0; 3].map(|wishes| join(&mut parties, wishes));
        for (party, wishes) in [(c, 1), (a, 0), (b, 1), (c, 2)] {
            assert!(parties.answer(party.0, 7, answer(wishes, true)).is_none());
        }
        assert!(parties.is_roused());
        assert_eq!(asked(&mut parties), [c.0, c.0, c.0, b.0]);
        assert_eq!((parties.is_roused(), asked(&mut parties)), (false, vec![]));
    }

    #[test]
    fn who_has_left_is_not_asked_and_the_place_is_free_again() {
        let mut parties = Parties::default();
        let [a, b] = [1; 2].map(|wishes| join(&mut parties, wishes));
        parties.rouse(a);
        parties.rouse(b);
        assert!(parties.leave(a).is_some(), "nothing of it was submitted");
        assert_eq!(asked(&mut parties), [b.0]);
        assert_eq!(parties.vacancy(), a);
        assert_eq!(join(&mut parties, 0), a);
    }

    #[test]
    fn who_leaves_with_something_in_flight_goes_with_its_last_answer() {
        let mut parties = Parties::default();
        let leaving = join(&mut parties, 2);
        parties.rouse(leaving);
        assert_eq!(asked(&mut parties).len(), 2);
        assert!(parties.leave(leaving).is_none());
        assert!(parties.answer(leaving.0, 7, answer(0, false)).is_none());
        assert!(parties.answer(leaving.0, 7, answer(0, true)).is_none());
        assert_ne!(parties.vacancy(), leaving);
        assert!(parties.answer(leaving.0, 7, answer(0, false)).is_some());
        assert_eq!(parties.vacancy(), leaving);
    }
}
