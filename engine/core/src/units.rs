//! Newtypes that keep addresses, names and times from being mixed up. They refuse arithmetic that makes no sense.

use std::time::Duration;

/// A logical block address, in the device's own blocks.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Lba(pub u64);

/// The submitter's name for a request; comes back in its completion. A layer puts its own in place.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Tag(pub u32);

impl Tag {
    /// The tag of slot `index`.
    ///
    /// # Panics
    /// If the index exceeds 32 bits, which no table of ours reaches.
    #[must_use]
    pub fn of(index: usize) -> Self {
        Self(u32::try_from(index).expect("slot tables are small"))
    }

    /// The slot this tag names.
    #[must_use]
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// A point in monotonic time: nanoseconds since an origin that one process keeps. Only a reactor's clock makes them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Instant {
    /// Nanoseconds since the origin.
    pub ns: u64,
}

impl Instant {
    /// Nanoseconds from `earlier` to `self`; zero if it is not earlier.
    #[must_use]
    pub fn since_ns(self, earlier: Self) -> u64 {
        self.ns.saturating_sub(earlier.ns)
    }

    /// The instant `ns` nanoseconds later.
    #[must_use]
    pub fn after_ns(self, ns: u64) -> Self {
        Self { ns: self.ns.saturating_add(ns) }
    }

    /// The instant a duration later.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        self.after_ns(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX))
    }
}
