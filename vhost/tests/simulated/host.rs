//! A reactor on a simulated core, turned, put to sleep and woken by hand. Knows no poller.

use spinel_core::{Command, Core, CoreId, Mailbox, Progress, mailbox};
use spinel_reactor::{Reactor, Rest};
use spinel_sim::{Bed, Clock, Prng, Reason, SimSleeper};

enum State {
    Awake {
        /// The last turn did nothing, so the loop may want to rest.
        quiet: bool,
    },
    /// Everything is armed, but it does not sleep yet: anything can happen in between.
    Armed(Option<spinel_core::Instant>),
    Asleep {
        reason: Option<Reason>,
        /// How many signals had been given anywhere when the reason was looked for.
        signals: u64,
    },
}

/// What a core did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Did {
    Nothing,
    Turn,
    /// It wanted to rest and was refused.
    Stay,
    Arm,
    Sleep,
    Wake,
}

pub(crate) struct SimCore {
    pub(crate) mailbox: Mailbox,
    reactor: Reactor,
    bed: Bed,
    state: State,
}

impl SimCore {
    pub(crate) fn new(id: CoreId) -> Self {
        let (mailbox, inbox) = mailbox(id).expect("an eventfd for a test");
        let (sleeper, bed) = SimSleeper::new();
        let reactor = Reactor::new(Core::new(id, Box::new(sleeper)), inbox);
        Self { mailbox, reactor, bed, state: State::Awake { quiet: false } }
    }

    /// Lets it do what its loop would do next, if there is anything.
    pub(crate) fn act(&mut self, clock: &Clock, prng: &mut Prng, signals: u64) -> Did {
        match self.state {
            // The loop wants to rest after quiet turns only, but nothing depends on that.
            State::Awake { quiet } if prng.one_in(if quiet { 3 } else { 30 }) => self.rest(),
            State::Awake { .. } => {
                clock.pass_ns(prng.within(20..=2_000));
                let quiet = self.reactor.turn(clock.now()) < Progress::Busy;
                self.state = State::Awake { quiet };
                Did::Turn
            }
            State::Armed(until) => {
                self.reactor.sleep(until, clock.now());
                self.state = State::Asleep { reason: self.bed.reason(), signals };
                Did::Sleep
            }
            State::Asleep { .. } => match self.reason(signals) {
                Some(Reason::Signal) => self.wake(),
                Some(Reason::Time(instant)) if instant <= clock.now() || prng.one_in(4) => {
                    clock.jump_to(instant);
                    self.wake()
                }
                // A sleep may end early.
                _ if prng.one_in(50) => self.wake(),
                _ => Did::Nothing,
            },
        }
    }

    fn rest(&mut self) -> Did {
        match self.reactor.arm() {
            Rest::Refused => {
                self.reactor.disarm();
                self.state = State::Awake { quiet: false };
                Did::Stay
            }
            Rest::Granted(until) => {
                self.state = State::Armed(until);
                Did::Arm
            }
        }
    }

    fn wake(&mut self) -> Did {
        // The bell is emptied first: one that rings anew counts from nothing, and must not look like one that was heard.
        self.reactor.disarm();
        self.bed.wake();
        self.state = State::Awake { quiet: false };
        Did::Wake
    }

    /// Whether it sleeps.
    pub(crate) fn is_asleep(&self) -> bool {
        matches!(self.state, State::Asleep { .. })
    }

    /// Whether it turns, and has not armed anything.
    pub(crate) fn is_awake(&self) -> bool {
        matches!(self.state, State::Awake { .. })
    }

    /// What will wake it, while it sleeps. Looks again only if there were more signals since the last look.
    pub(crate) fn reason(&mut self, signals: u64) -> Option<Reason> {
        let State::Asleep { reason, signals: looked } = &mut self.state else { return None };
        if *looked != signals {
            *looked = signals;
            *reason = self.bed.reason();
        }
        *reason
    }

    /// Whether it was told to quit and has nothing left to run.
    pub(crate) fn is_finished(&self) -> bool {
        self.reactor.finished()
    }

    /// Makes it turn, if it sleeps.
    pub(crate) fn nudge(&self) {
        self.mailbox.post(Command::Visit(Box::new(|_| {})));
    }
}
