//! One sector as a register: which of its writes a read may return. Knows neither bytes nor other sectors.
//!
//! Every write has a value of its own, so a read names the write it saw, and the
//! operations on one value form a cluster: the write and the reads that returned it. A
//! cluster *settles* when the first of its operations ends, and is *alive* until the last
//! of them has begun. One cluster must come before another if it settles before the other
//! was last alive; the register is linearizable exactly when no two clusters must each
//! come before the other (Gibbons and Korach, "Testing Shared Memories", 1997, in
//! other words). Zeroes are the one value that many writes share: a read of zeroes counts
//! for the earliest of them that it can.
//!
//! As soon as only one value can be read from now on, the whole history is no more than
//! that value: the register is [`Settled`].

/// A moment: the checker counts every begin and every end.
pub(crate) type Tick = u64;

/// What an operation wrote into the sector.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Value {
    Zeroes,
    /// By its sequence.
    Stamp(u64),
    /// What was there before everything: by a checksum of it.
    Other(u64),
    /// What a discard leaves: a read may return anything, and something else the next time.
    Any,
}

/// What would be in a sector if none of the writes that are remembered had been done.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Beneath {
    Stamp,
    Zeroes,
    Anything,
}

impl Beneath {
    fn of(value: Option<Value>) -> Self {
        match value {
            Some(Value::Stamp(_)) => Self::Stamp,
            Some(Value::Zeroes) => Self::Zeroes,
            Some(Value::Other(_) | Value::Any) | None => Self::Anything,
        }
    }

    /// Whether it may be `value`; a stamp says itself how old it is.
    fn admits(self, value: Value) -> bool {
        match value {
            Value::Zeroes => self >= Self::Zeroes,
            Value::Other(_) | Value::Any => self == Self::Anything,
            Value::Stamp(_) => false,
        }
    }
}

/// A sector of which only one value can be read until the next write begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Settled {
    /// `None` if nobody has looked yet at what was there before everything.
    pub(crate) value: Option<Value>,
    /// The write that it is of; 0 for what was there before everything.
    pub(crate) sequence: u64,
    /// Whether a read has returned it.
    pub(crate) seen: bool,
    pub(crate) beneath: Beneath,
}

/// A sector about which too much is uncertain: anything may be read until it is written again.
pub(crate) const NOT_JUDGED: Settled = Settled { value: Some(Value::Any), sequence: 0, seen: false, beneath: Beneath::Anything };

impl Settled {
    /// What was there before everything.
    pub(crate) fn initial(value: Option<Value>) -> Self {
        Self { value, sequence: 0, seen: false, beneath: Beneath::Stamp }
    }

    /// What it means if a read returned `value`, which is not this one.
    pub(crate) fn missing(&self, value: Value) -> Missing {
        let sequence = (self.sequence > 0).then_some(self.sequence);
        Missing { sequence, was_seen: self.seen, held_before: self.beneath.admits(value) }
    }
}

/// How far a write has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum End {
    /// Not ended, perhaps never.
    Open,
    /// Acknowledged.
    Done(Tick),
    /// Ended with an error: it is there from then on or never.
    Failed(Tick),
}

/// A write and the reads that returned its value.
#[derive(Clone, Debug)]
struct Version {
    sequence: u64,
    value: Value,
    fua: bool,
    begin: Tick,
    end: End,
    /// When the first read that returned it ended, and when the last one began.
    seen: Option<(Tick, Tick)>,
}

/// What a power cut left: one of these values, and the first read says which.
#[derive(Clone, Debug)]
struct Base {
    values: Vec<Value>,
    /// It was there before everything, and nobody has looked: anything but a stamp of ours.
    unknown: bool,
    since: Tick,
    /// When the last read that returned it began.
    alive: Tick,
}

/// When a cluster settles and until when it is alive.
#[derive(Clone, Copy)]
struct Zone {
    settled: Tick,
    alive: Tick,
}

impl Zone {
    fn precedes(self, other: Self) -> bool {
        self.settled < other.alive
    }

    fn conflicts(self, other: Self) -> bool {
        self.precedes(other) && other.precedes(self)
    }

    fn with_read(self, begin: Tick, end: Tick) -> Self {
        Self { settled: self.settled.min(end), alive: self.alive.max(begin) }
    }
}

const NEVER: Tick = Tick::MAX;

impl Version {
    fn zone(&self) -> Zone {
        let (seen_end, seen_begin) = self.seen.unwrap_or((NEVER, 0));
        let end = match self.end {
            End::Done(end) => end,
            End::Failed(end) if self.seen.is_some() => end,
            End::Open | End::Failed(_) => NEVER,
        };
        Zone { settled: end.min(seen_end), alive: self.begin.max(seen_begin) }
    }

    /// Its zone if it took effect.
    fn zone_if_there(&self) -> Zone {
        Zone { settled: self.settled_if_there(), ..self.zone() }
    }

    /// When it could still have taken effect at the latest.
    fn settled_if_there(&self) -> Tick {
        match self.end {
            End::Failed(end) => end.min(self.zone().settled),
            End::Open | End::Done(_) => self.zone().settled,
        }
    }
}

/// The sector is not what it should be: this write was acknowledged, and is not what the read returned.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Missing {
    /// The write that should have been seen, if one stands out.
    pub(crate) sequence: Option<u64>,
    /// Whether a read has returned it before.
    pub(crate) was_seen: bool,
    /// Whether what the read returned is what was there before that write.
    pub(crate) held_before: bool,
}

/// What makes a write stable: the checker knows the cache and the flushes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stability {
    /// There is no volatile cache.
    pub(crate) always: bool,
    /// A flush that began then has succeeded.
    pub(crate) flushed: Tick,
}

impl Stability {
    fn holds(self, version: &Version) -> bool {
        matches!(version.end, End::Done(end) if self.always || version.fua || end < self.flushed)
    }
}

/// How many writes a sector remembers before those that cannot be read any more are forgotten.
const VERSIONS_KEPT: usize = 16;

/// See the module's first lines.
#[derive(Clone, Debug)]
pub(crate) struct Register {
    base: Base,
    versions: Vec<Version>,
    beneath: Beneath,
}

impl Register {
    /// A register to be [`reset`](Self::reset).
    pub(crate) fn new() -> Self {
        Self {
            base: Base { values: Vec::new(), unknown: true, since: 0, alive: 0 },
            versions: Vec::with_capacity(2),
            beneath: Beneath::Anything,
        }
    }

    /// Begins a history with one value. Keeps its memory.
    pub(crate) fn reset(&mut self, settled: Settled) {
        let Settled { value, sequence, seen, beneath } = settled;
        self.versions.clear();
        self.base.values.clear();
        (self.base.unknown, self.base.since, self.base.alive) = (value.is_none(), 0, 0);
        self.beneath = if seen { Beneath::of(value) } else { Beneath::of(value).max(beneath) };
        if let Some(value) = value {
            // It is stable, and as old as time: whatever comes comes after it.
            let seen = seen.then_some((0, 0));
            self.versions.push(Version { sequence, value, fua: true, begin: 0, end: End::Done(0), seen });
        }
    }

    /// The one value that can be read from now on, if there is only one. Reads that began at `oldest_read` or later are still out.
    pub(crate) fn settle(&self, oldest_read: Tick, stability: Stability) -> Option<Settled> {
        let stable = self.versions.iter().filter(|version| stability.holds(version));
        let Some((last, new)) = stable.map(|version| (version, version.zone())).max_by_key(|(_, zone)| zone.alive) else {
            return self.settle_base();
        };
        let others = self.versions.iter().filter(|version| version.sequence != last.sequence);
        let over = |old: Zone| old.precedes(new) && old.alive <= new.alive;
        let settled = new.settled < oldest_read && over(self.base_zone()) && others.clone().all(|version| over(version.zone_if_there()));
        settled.then(|| Settled {
            value: Some(last.value),
            sequence: last.sequence,
            seen: last.seen.is_some(),
            beneath: others.clone().map(|version| Beneath::of(Some(version.value))).fold(self.beneath, Ord::max),
        })
    }

    /// As [`settle`](Self::settle), of a history without writes.
    fn settle_base(&self) -> Option<Settled> {
        match (&self.versions[..], &self.base.values[..]) {
            ([], []) => Some(Settled::initial(None)),
            ([], &[value]) if !self.base.unknown => {
                let sequence = if let Value::Stamp(sequence) = value { sequence } else { 0 };
                Some(Settled { value: Some(value), sequence, seen: true, beneath: Beneath::Stamp })
            }
            _ => None,
        }
    }

    pub(crate) fn begin_write(&mut self, sequence: u64, value: Value, fua: bool, now: Tick) {
        self.versions.push(Version { sequence, value, fua, begin: now, end: End::Open, seen: None });
    }

    /// A write ended. Nothing is forgotten that a read which began at `oldest_read` or later could return.
    pub(crate) fn end_write(&mut self, sequence: u64, end: End, oldest_read: Tick, stability: Stability) {
        if let Some(version) = self.versions.iter_mut().find(|version| version.sequence == sequence) {
            version.end = end;
        }
        if self.versions.len() > VERSIONS_KEPT {
            self.forget(oldest_read, stability);
        }
    }

    fn forget(&mut self, oldest_read: Tick, stability: Stability) {
        let stable = self.stable(stability);
        self.versions.retain(|version| {
            let old = version.zone_if_there();
            let is_over = |new: &Zone| old.precedes(*new) && old.alive <= new.alive && new.settled < oldest_read;
            !stable.iter().any(|(sequence, new)| *sequence != version.sequence && is_over(new))
        });
    }

    /// The clusters of stable writes.
    fn stable(&self, stability: Stability) -> Vec<(u64, Zone)> {
        let stable = self.versions.iter().filter(|version| stability.holds(version));
        stable.map(|version| (version.sequence, version.zone())).collect()
    }

    fn base_zone(&self) -> Zone {
        Zone { settled: self.base.since, alive: self.base.alive }
    }

    /// Whether the value of `version` (or of the base) may have been seen by this read.
    fn admits(&self, version: Option<usize>, begin: Tick, end: Tick) -> bool {
        let zone = match version {
            Some(index) => self.versions[index].zone_if_there(),
            None => self.base_zone(),
        };
        let zone = zone.with_read(begin, end);
        let others = self.versions.iter().enumerate().filter(|(index, _)| Some(*index) != version).map(|(_, other)| other.zone());
        let base = version.is_some().then(|| self.base_zone());
        !others.chain(base).any(|other| zone.conflicts(other))
    }

    /// A read that returned `value` ended. If only one write can have been seen, it was seen from now on.
    pub(crate) fn end_read(&mut self, value: Value, begin: Tick, end: Tick) -> Result<(), Missing> {
        let base = &self.base;
        let base =
            (base.values.contains(&value) || base.values.contains(&Value::Any) || (base.unknown && !matches!(value, Value::Stamp(_))))
                .then_some(None);
        let versions = self.versions.iter().enumerate().filter(|(_, version)| version.value == value || version.value == Value::Any);
        let candidates = base.into_iter().chain(versions.map(|(index, _)| Some(index)));
        let mut admitted = candidates.filter(|candidate| self.admits(*candidate, begin, end));
        let Some(first) = admitted.next() else { return Err(self.missing(value, begin)) };
        if admitted.next().is_some() {
            return Ok(());
        }
        drop(admitted);
        match first {
            None => {
                if !self.base.values.contains(&Value::Any) {
                    self.base.values.clear();
                    self.base.values.push(value);
                    self.base.unknown = false;
                }
                self.base.alive = self.base.alive.max(begin);
            }
            Some(index) => {
                let version = &mut self.versions[index];
                let (seen_end, seen_begin) = version.seen.unwrap_or((NEVER, 0));
                version.seen = Some((seen_end.min(end), seen_begin.max(begin)));
            }
        }
        Ok(())
    }

    /// The newest write that a read which began then should have seen, and did not: it returned `value`.
    fn missing(&self, value: Value, begin: Tick) -> Missing {
        let is_other = |version: &&Version| version.sequence > 0 && version.value != value;
        let settled = self.versions.iter().filter(is_other).filter(|version| version.zone().settled < begin);
        let newest = settled.max_by_key(|version| (version.zone().alive, version.sequence));
        let sequence = newest.map(|version| version.sequence);
        let is_old = |version: &Version| version.value == value && Some(version.sequence) != sequence;
        let held_before = self.beneath.admits(value) || self.base.values.contains(&value) || self.versions.iter().any(is_old);
        Missing { sequence, was_seen: newest.is_some_and(|version| version.seen.is_some()), held_before }
    }

    /// Whether a read has returned what this write wrote; `None` if it is not one of those remembered.
    pub(crate) fn knows(&self, sequence: u64) -> Option<bool> {
        self.versions.iter().find(|version| version.sequence == sequence).map(|version| version.seen.is_some())
    }

    /// This write survives every power cut once it is acknowledged.
    pub(crate) fn make_stable(&mut self, sequence: u64) {
        self.versions.iter_mut().filter(|version| version.sequence == sequence).for_each(|version| version.fua = true);
    }

    /// Whether a write has begun and not ended.
    pub(crate) fn is_written(&self) -> bool {
        self.versions.iter().any(|version| version.end == End::Open)
    }

    /// How many writes are remembered.
    pub(crate) fn versions(&self) -> usize {
        self.versions.len()
    }

    /// Power was lost: what may be there now is every value that no stable write must come after.
    pub(crate) fn cut_power(&mut self, now: Tick, stability: Stability) {
        let stable = self.stable(stability);
        let mut values = if stable.is_empty() { std::mem::take(&mut self.base.values) } else { Vec::new() };
        let unknown = stable.is_empty() && self.base.unknown;
        for version in self.versions.drain(..) {
            let settled = version.settled_if_there();
            let is_over = stable.iter().any(|(sequence, new)| *sequence != version.sequence && settled < new.alive);
            if !is_over && !values.contains(&version.value) {
                values.push(version.value);
            }
        }
        self.base = Base { values, unknown, since: now, alive: now };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CACHED: Stability = Stability { always: false, flushed: 0 };

    /// A sector that holds zeroes.
    fn zeroes() -> Register {
        let mut register = Register::new();
        register.reset(Settled::initial(Some(Value::Zeroes)));
        register
    }

    /// One operation of a history, by what it did and when.
    #[derive(Clone, Copy, Debug)]
    enum Act {
        /// A write of stamp `0`, acknowledged or failed.
        Write(u64, bool),
        Zeroes,
        /// A read that returned stamp `0`, or zeroes for `None`.
        Read(Option<u64>),
    }

    #[derive(Clone, Copy, Debug)]
    struct Step {
        act: Act,
        begin: Tick,
        end: Tick,
    }

    fn value(stamp: Option<u64>) -> Value {
        stamp.map_or(Value::Zeroes, Value::Stamp)
    }

    /// Whether the register accepts every read of a history.
    fn accepts(history: &[Step]) -> bool {
        let mut register = zeroes();
        let mut moments: Vec<(Tick, usize, bool)> =
            history.iter().enumerate().flat_map(|(index, step)| [(step.begin, index, true), (step.end, index, false)]).collect();
        moments.sort_unstable();
        moments.into_iter().all(|(now, index, begins)| {
            let name = 1000 + u64::try_from(index).unwrap();
            match (history[index].act, begins) {
                (Act::Write(stamp, _), true) => register.begin_write(stamp, Value::Stamp(stamp), false, now),
                (Act::Zeroes, true) => register.begin_write(name, Value::Zeroes, false, now),
                (Act::Write(stamp, true), false) => register.end_write(stamp, End::Done(now), 0, CACHED),
                (Act::Write(stamp, false), false) => register.end_write(stamp, End::Failed(now), 0, CACHED),
                (Act::Zeroes, false) => register.end_write(name, End::Done(now), 0, CACHED),
                (Act::Read(_), true) => {}
                (Act::Read(stamp), false) => return register.end_read(value(stamp), history[index].begin, now).is_ok(),
            }
            true
        })
    }

    /// Whether some order of the operations that respects time explains every read; tries them all.
    fn has_an_order(left: &[Step], holds: Option<u64>) -> bool {
        let Some(first_end) = left.iter().map(|step| step.end).min() else { return true };
        left.iter().enumerate().filter(|(_, step)| step.begin <= first_end).any(|(index, step)| {
            let rest: Vec<Step> = left.iter().enumerate().filter(|(other, _)| *other != index).map(|(_, step)| *step).collect();
            match step.act {
                Act::Read(stamp) => stamp == holds && has_an_order(&rest, holds),
                Act::Zeroes => has_an_order(&rest, None),
                Act::Write(stamp, true) => has_an_order(&rest, Some(stamp)),
                Act::Write(stamp, false) => has_an_order(&rest, Some(stamp)) || has_an_order(&rest, holds),
            }
        })
    }

    /// Histories of a few operations at random times; reads return anything that was ever written.
    fn histories(with_zeroes: bool) -> impl Strategy<Value = Vec<Step>> {
        let act = (0..if with_zeroes { 5 } else { 4 }, 0..4u64);
        proptest::collection::vec((act, any::<(u32, u32)>()), 1..8).prop_map(|drawn| {
            let mut times: Vec<(u32, usize)> =
                drawn.iter().enumerate().flat_map(|(index, (_, (a, b)))| [(*a, index), (*b, index)]).collect();
            times.sort_unstable();
            let at = |index: usize| times.iter().zip(1..).filter(move |((_, of), _)| *of == index).map(|(_, tick)| tick);
            let mut history = Vec::new();
            for (index, ((kind, stamp), _)) in drawn.iter().enumerate() {
                let act = match kind {
                    0 => Act::Write(u64::try_from(index).unwrap() + 1, true),
                    1 => Act::Write(u64::try_from(index).unwrap() + 1, false),
                    2 | 3 => Act::Read((*stamp > 0).then_some(*stamp)),
                    _ => Act::Zeroes,
                };
                history.push(Step { act, begin: at(index).min().unwrap(), end: at(index).max().unwrap() });
            }
            history
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(3000))]

        #[test]
        fn a_history_is_accepted_exactly_if_it_has_an_order(history in histories(false)) {
            prop_assert_eq!(accepts(&history), has_an_order(&history, None));
        }

        #[test]
        fn a_history_with_zeroes_is_accepted_if_it_has_an_order(history in histories(true)) {
            prop_assert!(accepts(&history) || !has_an_order(&history, None));
        }
    }

    /// A register with stamps 1, 2, ... written one after the other, the n-th from tick 10n to 10n + 5.
    fn written(count: u64) -> Register {
        let mut register = zeroes();
        for stamp in 1..=count {
            register.begin_write(stamp, Value::Stamp(stamp), false, stamp * 10);
            register.end_write(stamp, End::Done(stamp * 10 + 5), 0, CACHED);
        }
        register
    }

    fn flushed(at: Tick) -> Stability {
        Stability { always: false, flushed: at }
    }

    /// Which of the first stamps (0 for zeroes) may be read after a power cut at tick 100.
    fn left(mut register: Register, stability: Stability) -> Vec<u64> {
        register.cut_power(100, stability);
        let may_be_read = |stamp: &u64| register.clone().end_read(value((*stamp > 0).then_some(*stamp)), 110, 120).is_ok();
        (0..6).filter(may_be_read).collect()
    }

    #[test]
    fn a_power_cut_takes_only_what_is_unstable() {
        assert_eq!(left(written(3), CACHED), [0, 1, 2, 3]);
        assert_eq!(left(written(3), flushed(14)), [0, 1, 2, 3], "a flush that began before the write ended");
        assert_eq!(left(written(3), flushed(16)), [1, 2, 3]);
        assert_eq!(left(written(3), flushed(36)), [3]);
        assert_eq!(left(written(3), Stability { always: true, flushed: 0 }), [3]);
        let mut register = written(1);
        register.begin_write(2, Value::Stamp(2), true, 20);
        register.end_write(2, End::Done(25), 0, CACHED);
        register.begin_write(3, Value::Stamp(3), true, 30);
        assert_eq!(left(register.clone(), CACHED), [2, 3], "the second had FUA, the third was in flight");
        register.end_write(3, End::Failed(35), 0, CACHED);
        assert_eq!(left(register, CACHED), [2, 3], "a write that failed may be there");
    }

    #[test]
    fn of_two_concurrent_stable_writes_the_one_that_was_read_stays() {
        let mut register = zeroes();
        for stamp in [1, 2] {
            register.begin_write(stamp, Value::Stamp(stamp), false, stamp);
        }
        for stamp in [1, 2] {
            register.end_write(stamp, End::Done(10 + stamp), 0, CACHED);
        }
        assert_eq!(left(register.clone(), flushed(50)), [1, 2]);
        register.end_read(Value::Stamp(1), 60, 61).unwrap();
        assert_eq!(left(register, flushed(50)), [1]);
    }

    #[test]
    fn the_first_read_after_a_power_cut_pins_what_is_there() {
        let mut register = written(3);
        register.cut_power(100, CACHED);
        register.end_read(Value::Stamp(2), 110, 120).unwrap();
        assert!(register.clone().end_read(Value::Stamp(3), 130, 140).is_err());
        assert!(register.clone().end_read(Value::Zeroes, 130, 140).is_err());
        assert_eq!(left(register, CACHED), [2], "and it is on the platter now");
    }

    #[test]
    fn what_cannot_be_read_any_more_is_forgotten_and_still_refused() {
        let mut register = zeroes();
        let stability = Stability { always: true, flushed: 0 };
        for stamp in 1..=1000 {
            register.begin_write(stamp, Value::Stamp(stamp), false, stamp * 10);
            register.end_write(stamp, End::Done(stamp * 10 + 5), stamp * 10 + 5, stability);
            assert!(register.versions.len() <= VERSIONS_KEPT + 1);
        }
        assert!(register.clone().end_read(Value::Stamp(999), 20_000, 20_001).is_err());
        assert!(register.clone().end_read(Value::Zeroes, 20_000, 20_001).is_err());
        register.end_read(Value::Stamp(1000), 20_000, 20_001).unwrap();
    }

    #[test]
    fn a_register_forgets_nothing_that_a_slow_read_can_still_return() {
        let mut register = zeroes();
        let stability = Stability { always: true, flushed: 0 };
        for stamp in 1..=100 {
            register.begin_write(stamp, Value::Stamp(stamp), false, stamp * 10);
            register.end_write(stamp, End::Done(stamp * 10 + 5), 506, stability);
        }
        // A read that began at 506, when the 50th was just acknowledged, may return that or any later one.
        let may_be_read = |stamp| register.clone().end_read(Value::Stamp(stamp), 506, 2000).is_ok();
        assert_eq!((1..=100).filter(|stamp| may_be_read(*stamp)).collect::<Vec<_>>(), (50..=100).collect::<Vec<_>>());
    }
}
