//! Who works on one core, and how long its turns may take them: what a member asks before it takes a lot. Knows nobody by more than a number.

use std::cell::Cell;

use crate::units::Instant;

/// Members count as active for so long after their last busy turn.
const RECENT_NS: u64 = 1_000_000;
/// However soon somebody's requests end, turns of this length are not shortened: more turns cost everybody more than they save.
const PATIENCE_MIN_NS: u64 = 1_000;
/// Whose requests take so many turns notices little of one turn more.
const TURNS_OF_A_REQUEST: u64 = 4;

/// A number of one member, never given twice on one core.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Member(u32);

/// What a member that is busy learns of its core.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Company {
    /// Nobody else was busy within the last millisecond.
    Alone,
    /// Others were, and turns are shorter than they notice.
    Patient,
    /// Others were, and turns are longer than that.
    Impatient,
}

/// A member that was busy: how long its requests usually take, and until when it counts as active.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    who: Member,
    usual_ns: u64,
    until: Instant,
}

impl Seen {
    fn yields_to(self, newer: Self, now: Instant) -> bool {
        now >= self.until || newer.usual_ns < self.usual_ns
    }
}

/// The members of one core, as far as they were busy within the last millisecond.
///
/// It remembers the two whose requests end soonest, for those notice long turns most. Two are enough: of any member, the
/// fastest other one is among them.
#[derive(Debug, Default)]
pub struct Crowd {
    joined: Cell<u32>,
    turn_began: Cell<Instant>,
    turn_ns: Cell<u64>,
    first: Cell<Seen>,
    second: Cell<Seen>,
}

impl Crowd {
    /// A new member.
    #[must_use]
    pub fn join(&self) -> Member {
        // From 1 on: nobody is busy before the first member.
        self.joined.set(self.joined.get().checked_add(1).expect("a core has fewer members in its life"));
        Member(self.joined.get())
    }

    /// A turn begins.
    #[inline]
    pub(crate) fn turn(&self, now: Instant) {
        self.turn_ns.set(now.since_ns(self.turn_began.replace(now)));
    }

    /// Notes that a member is busy in the turn of `now`, and that its requests usually take so long.
    #[inline(always)]
    pub fn meet(&self, who: Member, now: Instant, usual_ns: u64) -> Company {
        // Whoever is alone is the first, and learns it at little cost.
        if self.first.get().who == who && now >= self.second.get().until {
            self.first.set(Seen { who, usual_ns, until: now.after_ns(RECENT_NS) });
            return Company::Alone;
        }
        self.meet_others(who, now, usual_ns)
    }

    #[inline(never)]
    fn meet_others(&self, who: Member, now: Instant, usual_ns: u64) -> Company {
        self.place(Seen { who, usual_ns, until: now.after_ns(RECENT_NS) }, now);
        let (first, second) = (self.first.get(), self.second.get());
        let other = if first.who == who { second } else { first };
        if now >= other.until {
            return Company::Alone;
        }
        let patience_ns = (other.usual_ns / TURNS_OF_A_REQUEST).max(PATIENCE_MIN_NS);
        if self.turn_ns.get() <= patience_ns { Company::Patient } else { Company::Impatient }
    }

    fn place(&self, seen: Seen, now: Instant) {
        let (first, second) = (self.first.get(), self.second.get());
        if first.who == seen.who {
            self.first.set(seen);
        } else if first.yields_to(seen, now) {
            // Nobody is both, and whoever still counts stays.
            if second.who == seen.who || now < first.until {
                self.second.set(first);
            }
            self.first.set(seen);
        } else if second.who == seen.who || second.yields_to(seen, now) {
            self.second.set(seen);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A crowd and a clock, whose turns are as long as they are said to be.
    #[derive(Default)]
    struct Core {
        crowd: Crowd,
        now: Instant,
    }

    impl Core {
        fn after_us(&mut self, us: u64) -> &mut Self {
            self.now = self.now.after_ns(us * 1_000);
            self.crowd.turn(self.now);
            self
        }

        fn meet(&mut self, who: Member, usual_us: u64) -> Company {
            self.crowd.meet(who, self.now, usual_us * 1_000)
        }
    }

    #[test]
    fn whoever_is_alone_is_told_so_from_the_first_turn_on() {
        let mut core = Core::default();
        let one = core.crowd.join();
        assert!((0..10).all(|_| core.after_us(50).meet(one, 1) == Company::Alone));
    }

    #[test]
    fn each_of_several_learns_of_the_others_until_these_have_rested_for_a_millisecond() {
        let mut core = Core::default();
        let [hog, victim, third] = [(); 3].map(|()| core.crowd.join());
        assert_eq!(core.after_us(1).meet(hog, 1), Company::Alone);
        assert_eq!(core.after_us(1).meet(victim, 1), Company::Patient, "the hog was busy just now");
        assert!((0..999).all(|_| core.after_us(1).meet(hog, 1) == Company::Patient));
        assert_eq!(core.after_us(1).meet(hog, 1), Company::Alone, "the other has been silent for a millisecond");
        for who in [victim, third, victim, hog] {
            assert_ne!(core.after_us(1).meet(who, 1), Company::Alone);
        }
        assert_ne!(core.after_us(998).meet(hog, 1), Company::Alone);
        assert_eq!(core.after_us(1).meet(hog, 1), Company::Alone);
    }

    #[test]
    fn turns_may_last_as_long_as_the_fastest_member_does_not_notice() {
        // How long the requests of two others take, how long a turn lasts, and whether that is too long; all in microseconds.
        let table = [(0, 0, 1, false), (0, 0, 2, true), (40, 400, 10, false), (40, 400, 11, true), (400, 4_000, 64, false)];
        for (fast_us, slow_us, turn_us, is_long) in table {
            let mut core = Core::default();
            let [hog, fast, slow] = [(); 3].map(|()| core.crowd.join());
            for _ in 0..5 {
                core.after_us(turn_us).meet(fast, fast_us);
                core.meet(slow, slow_us);
                let met = core.meet(hog, 5_000);
                assert_eq!(met, if is_long { Company::Impatient } else { Company::Patient }, "{fast_us}, {slow_us}, {turn_us}");
            }
            // The fastest falls silent: a millisecond later the next one counts.
            for _ in 0..2_000 / turn_us {
                core.after_us(turn_us).meet(slow, slow_us);
                core.meet(hog, 5_000);
            }
            assert_eq!(core.meet(hog, 5_000) == Company::Impatient, turn_us * 1_000 > (slow_us * 250).max(1_000));
        }
    }
}
