//! A guest, two cores and a disk, in which a generator decides who acts next. Knows no expectation but that a run ends well.

use std::collections::BTreeSet;
use std::sync::Arc;

use crossbeam_channel::{Receiver, bounded};
use spinel_core::mem::Region;
use spinel_core::{Command, CoreId, Device, OPS};
use spinel_sim::guest::Layout;
use spinel_sim::{Checked, Clock, DiskOptions, Mishap, Prng, Reason, SimDisk};
use spinel_volume::{DelayDevice, ErrorDevice, Fault, Injection, Latencies, Target};

use crate::failure::Failure;
use crate::guest::{Counts, DATA_BYTES, Guest, Habits, SharedGuest};
use crate::host::{Did, SimCore};
use crate::planted::Plant;
use crate::service::{Service, Terms};
use crate::witness::Witness;

/// What a run is to be like, beside its seed.
#[derive(Clone, Copy, Default)]
pub(crate) struct Options {
    pub(crate) plant: Option<Plant>,
    /// What the simulated disk does wrong.
    pub(crate) bug: Option<spinel_sim::Bug>,
}

/// How often things happened in a run.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) turns: u64,
    pub(crate) sleeps: u64,
    /// A core wanted to sleep, and something was there already.
    pub(crate) stays: u64,
    /// A stopped queue went on, on the same core or another.
    pub(crate) moves: u64,
    /// A core was seen asleep while requests waited for room.
    pub(crate) waits_for_room: u64,
    /// Hung requests were let go.
    pub(crate) releases: u64,
    /// Packed, EVENT_IDX, indirect tables, bytes of a block.
    pub(crate) layouts: BTreeSet<(bool, bool, bool, u32)>,
}

/// What a run that ended well has shown.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Outcome {
    pub(crate) hash: u64,
    pub(crate) checked: Checked,
    pub(crate) counts: Counts,
    pub(crate) tally: Tally,
}

/// What went wrong in a run, and what happened last.
pub(crate) struct Found {
    pub(crate) failure: Failure,
    pub(crate) trace: String,
}

const CORES: usize = 2;
/// Steps within which a life must end.
const STEPS_MAX: u64 = 300_000;
/// Draws in which nobody did anything, after which somebody has to.
const LULL_MAX: u32 = 40;

/// A simulated disk and the layers over it.
struct Pile {
    disk: SimDisk,
    error: Option<Arc<ErrorDevice>>,
    top: Arc<dyn Device>,
}

impl Pile {
    fn new(prng: &mut Prng, bug: Option<spinel_sim::Bug>) -> Self {
        let block_bytes = *prng.pick(&[512, 4096]);
        let options = DiskOptions {
            block_bytes,
            block_count: (128 << 10) / u64::from(block_bytes),
            write_cache: !prng.one_in(4),
            latency_ns: *prng.pick(&[0, 1_000])..=*prng.pick(&[1_000, 30_000, 300_000]),
            fail_one_in: *prng.pick(&[0, 0, 40]),
            bug,
            bug_one_in: 4,
            ..DiskOptions::default()
        };
        let disk = SimDisk::new(options, prng.fork());
        let mut top: Arc<dyn Device> = Arc::new(disk.clone());
        let error = prng.one_in(2).then(|| Arc::new(ErrorDevice::new(Arc::clone(&top)).expect("memory for a test")));
        if let Some(error) = &error {
            top = Arc::clone(error) as Arc<dyn Device>;
        }
        if prng.one_in(2) {
            let us = prng.below(60);
            let latencies = Latencies { average_read_us: us, p99_read_us: us + 900, average_write_us: us / 2, p99_write_us: us + 2_000 };
            top = Arc::new(DelayDevice::new(top, latencies).expect("p99 is the longer one"));
        }
        Self { disk, error, top }
    }

    /// Lets something happen to requests to come.
    fn disturb(&self, prng: &mut Prng) {
        let count = prng.within(1..=3);
        let kind = *prng.pick(&OPS);
        let mishap = *prng.pick(&[Mishap::Fail, Mishap::Hang, Mishap::Slow { ns: 700_000 }]);
        let fault = *prng.pick(&[Fault::Failure, Fault::NoMemory, Fault::Pending]);
        let target = *prng.pick(&[Target::Read, Target::Write, Target::Discard, Target::Flush, Target::All]);
        match &self.error {
            Some(error) if prng.one_in(2) => {
                let count = u32::try_from(count).expect("at most 3");
                error.inject(Injection { target, fault, count, queue_depth: *prng.pick(&[0, 0, 2]) }).expect("it has an effect");
            }
            _ => self.disk.inject(kind, mishap, usize::try_from(count).expect("at most 3")),
        }
    }

    /// Ends every injection, and lets go what hangs.
    fn release(&self) {
        self.disk.clear();
        self.disk.release();
        if let Some(error) = &self.error {
            error.clear();
            error.resume_pending();
        }
    }
}

/// How a life of guest and host ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// Everything asked for is answered, the queues are stopped, the cores quit.
    Orderly,
    /// The power goes after so many steps, or when everything is answered.
    Cut { steps: u64 },
}

/// Everything between two boots.
struct Life<'a> {
    pile: &'a Pile,
    guest: SharedGuest,
    prng: Prng,
    clock: &'a Clock,
    cores: Vec<SimCore>,
    services: Vec<Service>,
    depth_max: u16,
    has_event_idx: bool,
    /// Faults are injected.
    is_troubled: bool,
    /// Something may hang that was not let go.
    may_hang: bool,
    /// No queue is started any more, and those that run are stopped.
    is_ending: bool,
    /// Commands sent to the cores.
    commands: u64,
    tally: &'a mut Tally,
}

impl<'a> Life<'a> {
    fn new(
        pile: &'a Pile,
        guest: &SharedGuest,
        clock: &'a Clock,
        tally: &'a mut Tally,
        mut prng: Prng,
        options: Options,
        idle: bool,
    ) -> Self {
        let layout = Layout {
            size: *prng.pick(&[4, 8, 16, 32]),
            packed: prng.one_in(2),
            event_idx: prng.one_in(2),
            indirect: prng.one_in(2),
            data_bytes: DATA_BYTES,
        };
        let habits = Habits {
            queues: prng.index(2) + 1,
            writeback: prng.one_in(2),
            polls: prng.one_in(8),
            requests: if idle { 0 } else { 30 + prng.below(60) },
            posts_one_in: *prng.pick(&[1, 3, 20]),
        };
        tally.layouts.insert((layout.packed, layout.event_idx, layout.indirect, pile.top.geometry().block_bytes));
        let terms = Terms { kicks: !prng.one_in(8), calls: !habits.polls };
        let depth_max = if prng.one_in(4) { 2 } else { layout.size };
        let cores: Vec<SimCore> = (0..).take(CORES).map(|id| SimCore::new(CoreId(id))).collect();
        let services = guest.with(|inside| {
            inside.boot(layout, habits);
            let serve = |queue| {
                let child = options.plant.map_or_else(|| Arc::clone(&pile.top), |plant| plant.below(Arc::clone(&pile.top)));
                let witness: Arc<dyn Device> = Arc::new(Witness { child, guest: guest.clone(), queue, depth_max });
                let device = options.plant.map_or_else(|| Arc::clone(&witness), |plant| plant.above(Arc::clone(&witness)));
                Service::new(inside, queue, device, terms, options.plant)
            };
            (0..habits.queues).map(serve).collect()
        });
        let is_troubled = prng.one_in(2);
        let guest = guest.clone();
        let mut life = Self {
            pile,
            guest,
            prng,
            clock,
            cores,
            services,
            depth_max,
            has_event_idx: layout.event_idx,
            is_troubled,
            may_hang: false,
            is_ending: false,
            commands: 0,
            tally,
        };
        for region in life.regions() {
            for core in &life.cores {
                core.mailbox.post(Command::Map(Arc::clone(&region), bounded(1).0));
            }
        }
        life.commands += 1;
        life
    }

    fn regions(&self) -> Vec<Arc<Region>> {
        self.guest.with(|guest| guest.map().ranges().iter().map(|range| Arc::clone(&range.region)).collect())
    }

    /// Everything that may have given a signal so far.
    fn signals(&self) -> u64 {
        self.commands + self.guest.with(|guest| guest.counts.kicks)
    }

    /// One step of somebody; answers whether anything was done.
    fn step(&mut self) -> Result<bool, Failure> {
        let did = match self.prng.below(32) {
            0..=12 => self.let_guest_act()?,
            13..=27 => {
                let core = self.prng.index(CORES);
                self.turn(core)
            }
            28 | 29 => {
                let service = self.prng.index(self.services.len());
                self.attend(service, true)?
            }
            30 => {
                let longest_ns = *self.prng.pick(&[1_000, 50_000, 50_000, 5_000_000, 60_000_000_000]);
                self.clock.pass_ns(self.prng.below(longest_ns));
                false
            }
            _ if self.is_troubled && !self.is_ending && self.prng.one_in(6) => {
                if self.prng.one_in(3) {
                    self.release();
                } else {
                    self.may_hang = true;
                    self.pile.disturb(&mut self.prng);
                }
                true
            }
            _ => false,
        };
        self.look()?;
        Ok(did)
    }

    /// The guest acts while no core is in the middle of something.
    fn let_guest_act(&mut self) -> Result<bool, Failure> {
        let (did, wanted) = self.guest.with(|guest| {
            guest.take_kick_wanted();
            (guest.act(), guest.take_kick_wanted())
        });
        match wanted.and_then(|queue| Some((queue, self.services[queue].running_on()?))) {
            Some((queue, core)) if self.cores[core].is_awake() && !self.has_event_idx => Err(Failure::NeedlessKick { core, queue }),
            _ => Ok(did),
        }
    }

    fn turn(&mut self, core: usize) -> bool {
        let signals = self.signals();
        let did = self.cores[core].act(self.clock, &mut self.prng, signals);
        let what = match did {
            Did::Nothing => return false,
            Did::Turn => "turn",
            Did::Stay => "stay",
            Did::Arm => "arm",
            Did::Sleep => "sleep",
            Did::Wake => "wake",
        };
        self.tally.turns += u64::from(did == Did::Turn);
        self.tally.stays += u64::from(did == Did::Stay);
        self.tally.sleeps += u64::from(did == Did::Sleep);
        let core = u64::try_from(core).expect("few cores");
        self.guest.with(|guest| guest.trace.note(what, &[self.clock.now().ns, core]));
        true
    }

    /// The session does something about one queue.
    fn attend(&mut self, at: usize, may_stop: bool) -> Result<bool, Failure> {
        let (core, anew, is_ending) = (self.prng.index(CORES), self.prng.one_in(2), self.is_ending);
        let (service, cores, prng) = (&mut self.services[at], &self.cores, &mut self.prng);
        if self.guest.with(|guest| service.attend(guest))? {
            return Ok(true);
        }
        if service.is_parked() && !is_ending {
            self.tally.moves += u64::from(service.starts > 0);
            self.guest.with(|guest| service.start(core, cores, guest, anew));
        } else if service.running_on().is_some() && (is_ending || (may_stop && prng.one_in(8))) {
            self.guest.with(|guest| service.stop(cores, guest));
        } else if service.running_on().is_some() && prng.one_in(20) {
            self.guest.with(|guest| service.replace_call(guest));
            return Ok(true);
        } else {
            return Ok(false);
        }
        self.commands += 1;
        Ok(true)
    }

    /// Lets go what hangs. Sleeping cores have to be made to look.
    fn release(&mut self) {
        self.pile.release();
        self.may_hang = false;
        self.cores.iter().for_each(SimCore::nudge);
        self.commands += 1;
        self.tally.releases += 1;
    }

    /// Looks whether somebody has found something wrong, or sleeps through something.
    fn look(&mut self) -> Result<(), Failure> {
        let signals = self.signals();
        self.guest.with(|guest| {
            if let Some(failure) = guest.take_failure() {
                return Err(failure);
            }
            for (queue, driver) in guest.drivers.iter().enumerate() {
                if driver.misses_notification() {
                    return Err(Failure::LostNotification { queue });
                }
                if driver.is_unstarted {
                    return Err(Failure::Unstarted { queue });
                }
                let Some(core) = self.services[queue].core().filter(|core| self.cores[*core].is_asleep()) else { continue };
                let (reason, waiting, in_flight) = (self.cores[core].reason(signals), driver.forgotten(), driver.in_flight());
                if reason.is_none() && in_flight > 0 && !self.may_hang {
                    return Err(Failure::SleepsForGood { core, queue, in_flight });
                }
                if waiting == 0 || reason == Some(Reason::Signal) {
                    continue;
                }
                if in_flight < self.depth_max {
                    return Err(Failure::LostWakeUp { core, queue, waiting });
                }
                // There is no room: the queue waits for the device alone.
                self.tally.waits_for_room += 1;
            }
            Ok(())
        })
    }

    /// When chance has let nobody act for a while: whoever can still act does, and time passes if nobody can.
    fn press_on(&mut self) -> Result<(), Failure> {
        let mut did = self.guest.with(Guest::act_on_everything);
        for service in 0..self.services.len() {
            // Whoever stops a queue makes its core look, and so hides that it slept too long.
            did |= self.attend(service, false)?;
        }
        self.look()?;
        if did {
            return Ok(());
        }
        let signals = self.signals();
        let reasons: Vec<Option<Reason>> = self.cores.iter_mut().map(|core| core.reason(signals)).collect();
        let awake = self.cores.iter().any(|core| !core.is_asleep()) || reasons.contains(&Some(Reason::Signal));
        let due = reasons.iter().filter_map(|reason| if let Some(Reason::Time(instant)) = reason { Some(*instant) } else { None }).min();
        match due {
            _ if awake => Ok(()),
            Some(instant) => {
                self.clock.jump_to(instant);
                Ok(())
            }
            None if self.may_hang => {
                self.release();
                Ok(())
            }
            None => Err(Failure::Stuck { outstanding: self.guest.with(|guest| guest.outstanding()) }),
        }
    }

    /// Goes on until `is_over`, or for so many steps. Answers how many are left.
    fn run(&mut self, mut steps: u64, is_over: impl Fn(&Self) -> bool) -> Result<u64, Failure> {
        let mut lull = 0;
        while steps > 0 && !is_over(self) {
            steps -= 1;
            lull = if self.step()? { 0 } else { lull + 1 };
            if lull > LULL_MAX {
                lull = 0;
                self.press_on()?;
            }
        }
        Ok(steps)
    }

    /// Whether the guest has got everything it wanted.
    fn is_quiet(&self) -> bool {
        self.guest.with(|guest| guest.is_done())
    }

    fn run_to_the_end(&mut self, is_over: impl Fn(&Self) -> bool) -> Result<(), Failure> {
        match self.run(STEPS_MAX, is_over)? {
            0 => Err(Failure::Stuck { outstanding: self.guest.with(|guest| guest.outstanding()) }),
            _ => Ok(()),
        }
    }

    fn live(mut self, end: End) -> Result<(), Failure> {
        match end {
            End::Cut { steps } => {
                self.run(steps, Self::is_quiet)?;
                self.pile.disk.cut_power();
                self.guest.with(Guest::lose_power);
                Ok(())
            }
            End::Orderly => {
                self.run_to_the_end(Self::is_quiet)?;
                self.finish()
            }
        }
    }

    /// Stops the queues, takes the memory back, and ends the cores.
    fn finish(&mut self) -> Result<(), Failure> {
        self.is_ending = true;
        self.run_to_the_end(|life| life.services.iter().all(Service::is_parked))?;
        self.guest.with(|guest| self.services.iter().try_for_each(|service| service.check_meters(guest)))?;
        let mut returned: Vec<(usize, Receiver<Option<Arc<Region>>>)> = Vec::new();
        for region in self.regions() {
            for (at, core) in self.cores.iter().enumerate() {
                let (reply, answer) = bounded(1);
                core.mailbox.post(Command::Unmap(region.id(), reply));
                returned.push((at, answer));
            }
        }
        self.cores.iter().for_each(|core| core.mailbox.post(Command::Quit));
        self.commands += 1;
        self.run_to_the_end(|life| life.cores.iter().all(SimCore::is_finished))?;
        let kept = returned.into_iter().find(|(_, answer)| !matches!(answer.try_recv(), Ok(Some(_))));
        kept.map_or(Ok(()), |(core, _)| Err(Failure::MemoryKept { core }))
    }
}

/// Several lives over one disk, with or without power cuts between them; in the last, everything is read once more.
pub(crate) fn run(seed: u64, options: Options) -> Result<Outcome, Found> {
    let mut prng = Prng::new(seed);
    let pile = Pile::new(&mut prng, options.bug);
    let clock = Clock::default();
    let mut tally = Tally::default();
    let guest = SharedGuest::new(Guest::new(&pile.top.geometry(), prng.fork()));
    for life in 0..4 {
        let is_last = life == 3;
        let end = if is_last || prng.one_in(3) { End::Orderly } else { End::Cut { steps: prng.within(200..=6_000) } };
        let lived = Life::new(&pile, &guest, &clock, &mut tally, prng.fork(), options, is_last).live(end);
        if let Err(failure) = lived {
            return Err(Found { failure, trace: guest.with(|guest| guest.trace.to_string()) });
        }
        pile.release();
        if end == End::Orderly && prng.one_in(2) {
            pile.disk.cut_power();
            guest.with(Guest::lose_power);
        }
    }
    Ok(guest.with(|guest| Outcome { hash: guest.trace.hash(), checked: guest.checked(), counts: guest.counts, tally }))
}
