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

/// A moment: the checker counts every begin and every end.
pub(crate) type Tick = u64;

/// What an operation wrote into the sector.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Value {
    Zeroes,
    /// By its sequence.
    Stamp(u64),
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

    /// When it could still have taken effect at the latest.
    fn settled_if_there(&self) -> Tick {
        match self.end {
            End::Failed(end) => end.min(self.zone().settled),
            End::Open | End::Done(_) => self.zone().settled,
        }
    }
}

/// The sector is not what it should be: this write was acknowledged, and is not what the read returned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Missing {
    /// The write that should have been seen, if one stands out.
    pub(crate) sequence: Option<u64>,
    /// Whether a read has returned it before.
    pub(crate) was_seen: bool,
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
}

impl Register {
    /// A sector that holds zeroes.
    pub(crate) fn new() -> Self {
        Self { base: Base { values: vec![Value::Zeroes], since: 0, alive: 0 }, versions: Vec::new() }
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
            let old = Zone { settled: version.settled_if_there(), ..version.zone() };
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
            Some(index) => {
                let version = &self.versions[index];
                Zone { settled: version.settled_if_there(), ..version.zone() }
            }
            None => self.base_zone(),
        };
        let zone = zone.with_read(begin, end);
        let others = self.versions.iter().enumerate().filter(|(index, _)| Some(*index) != version).map(|(_, other)| other.zone());
        let base = version.is_some().then(|| self.base_zone());
        !others.chain(base).any(|other| zone.conflicts(other))
    }

    /// A read that returned `value` ended. If only one write can have been seen, it was seen from now on.
    pub(crate) fn end_read(&mut self, value: Value, begin: Tick, end: Tick) -> Result<(), Missing> {
        let base = self.base.values.contains(&value).then_some(None);
        let versions = self.versions.iter().enumerate().filter(|(_, version)| version.value == value);
        let candidates = base.into_iter().chain(versions.map(|(index, _)| Some(index)));
        let mut admitted = candidates.filter(|candidate| self.admits(*candidate, begin, end));
        let Some(first) = admitted.next() else { return Err(self.missing(begin)) };
        if admitted.next().is_some() {
            return Ok(());
        }
        drop(admitted);
        match first {
            None => {
                self.base.values = vec![value];
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

    /// The newest write that a read which began then should have seen.
    fn missing(&self, begin: Tick) -> Missing {
        let settled = self.versions.iter().filter(|version| version.zone().settled < begin);
        let newest = settled.max_by_key(|version| (version.zone().alive, version.sequence));
        Missing { sequence: newest.map(|version| version.sequence), was_seen: newest.is_some_and(|version| version.seen.is_some()) }
    }

    /// Whether this write is one of those remembered.
    pub(crate) fn knows(&self, sequence: u64) -> bool {
        self.versions.iter().any(|version| version.sequence == sequence)
    }

    /// Whether a read has returned what this write wrote.
    pub(crate) fn was_seen(&self, sequence: u64) -> bool {
        self.versions.iter().any(|version| version.sequence == sequence && version.seen.is_some())
    }

    /// Power was lost: what may be there now is every value that no stable write must come after.
    pub(crate) fn cut_power(&mut self, now: Tick, stability: Stability) {
        let stable = self.stable(stability);
        let mut values = if stable.is_empty() { std::mem::take(&mut self.base.values) } else { Vec::new() };
        for version in self.versions.drain(..) {
            let settled = version.settled_if_there();
            let is_over = stable.iter().any(|(sequence, new)| *sequence != version.sequence && settled < new.alive);
            if !is_over && !values.contains(&version.value) {
                values.push(version.value);
            }
        }
        self.base = Base { values, since: now, alive: now };
    }
}
