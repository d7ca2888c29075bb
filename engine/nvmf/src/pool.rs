//! One core's buffers for data on its way between hosts and devices: lent and given back, never waited for. Knows no command.
//!
//! Who finds nothing keeps its command and asks again. Nobody may hold more than is left for all others together, and a
//! quarter of all is for those who hold nothing: so connections which never give anything back still leave something to
//! many others, of which each gets at least one command's buffers at a time.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use spinel_core::{Armed, Core, Driver, Instant, OpenError, Progress};
use spinel_mem::{Region, RegionId, Segment};

/// Bytes of a small unit.
pub const SMALL_UNIT_BYTES: u32 = 4 << 10;
/// Bytes of a large unit.
pub const LARGE_UNIT_BYTES: u32 = 128 << 10;

/// How many units a core's pool has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PoolSize {
    /// Units of [`SMALL_UNIT_BYTES`].
    pub small_units: u32,
    /// Units of [`LARGE_UNIT_BYTES`].
    pub large_units: u32,
}

impl Default for PoolSize {
    /// 32 MiB in small units and about 64 MiB in large ones, taken from the system when first used.
    fn default() -> Self {
        Self { small_units: 8192, large_units: 511 }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Size {
    Small,
    Large,
}

/// Buffers of one command: some units of one size. Goes back by [`Pool::give`].
#[derive(Debug, PartialEq, Eq)]
#[must_use = "units that are dropped are lost to the pool"]
pub struct Chain {
    first: u32,
    units: u32,
    size: Size,
    len_bytes: u32,
    /// It was lent beyond its account's share.
    beyond: bool,
}

impl Chain {
    /// How many bytes it is for.
    #[must_use]
    #[inline]
    pub fn len_bytes(&self) -> u32 {
        self.len_bytes
    }
}

/// What one connection holds of a pool.
#[derive(Debug, Default)]
pub struct Account {
    small: u32,
    large: u32,
    /// How many commands have buffers beyond its share.
    beyond: u8,
}

impl Account {
    /// Bytes of the units it holds.
    #[must_use]
    pub fn held_bytes(&self) -> u64 {
        u64::from(self.small) * u64::from(SMALL_UNIT_BYTES) + u64::from(self.large) * u64::from(LARGE_UNIT_BYTES)
    }
}

/// How many commands of one account may have buffers beyond its share: two that are done as one wait for each other.
const BEYOND_MAX: u8 = 2;

/// End of a list of units.
const NONE: u32 = u32::MAX;

/// Units of one size: a list of the free ones, each naming the next.
#[derive(Debug)]
struct Units {
    unit_bytes: u32,
    base: u64,
    next: Box<[u32]>,
    first_free: u32,
    free: u32,
    /// Only for those who hold none.
    spare: u32,
}

impl Units {
    fn new(unit_bytes: u32, base: u64, count: u32) -> Self {
        let next: Box<[u32]> = (1..=count).map(|next| if next == count { NONE } else { next }).collect();
        Self { unit_bytes, base, next, first_free: if count == 0 { NONE } else { 0 }, free: count, spare: count / 4 }
    }

    /// Whether somebody who holds so many may have so many more: what others could still take is what would be left.
    #[inline]
    fn would_give(&self, held: u32, wanted: u32) -> bool {
        wanted <= self.free && (held == 0 || held + wanted + self.spare <= self.free)
    }

    /// Takes units off the list; the last one's successor is the end.
    #[inline]
    fn take(&mut self, units: u32) -> u32 {
        let first = self.first_free;
        let mut last = first;
        for _ in 1..units {
            last = self.next[last as usize];
        }
        self.first_free = std::mem::replace(&mut self.next[last as usize], NONE);
        self.free -= units;
        first
    }

    #[inline]
    fn give(&mut self, first: u32, units: u32) {
        let mut last = first;
        for _ in 1..units {
            last = self.next[last as usize];
        }
        self.next[last as usize] = self.first_free;
        self.first_free = first;
        self.free += units;
    }

    #[inline]
    fn offset(&self, unit: u32) -> u64 {
        self.base + u64::from(unit) * u64::from(self.unit_bytes)
    }
}

/// The buffers of one core.
#[derive(Debug)]
pub struct Pool {
    region: Arc<Region>,
    small: Units,
    large: Units,
    /// How often something was given back.
    given: u64,
}

/// A core's pool as its connections hold it.
pub type SharedPool = Rc<RefCell<Pool>>;

impl Pool {
    /// The pool of `core`, made and announced there on first use.
    ///
    /// # Errors
    /// When the system has no memory.
    pub fn of(core: &mut Core, size: PoolSize) -> Result<SharedPool, OpenError> {
        core.share(|core| {
            let large_bytes = u64::from(size.large_units) * u64::from(LARGE_UNIT_BYTES);
            let len_bytes = large_bytes + u64::from(size.small_units) * u64::from(SMALL_UNIT_BYTES);
            let region = Region::anonymous(len_bytes).map_err(|error| OpenError::System {
                doing: "mapping buffers for NVMe over Fabrics",
                source: std::io::Error::other(error),
            })?;
            core.map(Arc::clone(&region));
            let large = Units::new(LARGE_UNIT_BYTES, 0, size.large_units);
            Ok(Self { region, small: Units::new(SMALL_UNIT_BYTES, large_bytes, size.small_units), large, given: 0 })
        })
    }

    /// Buffers for `len_bytes`, which are not zero; none if there are too few at the moment, or `account` holds its share.
    #[inline]
    pub fn take(&mut self, account: &mut Account, len_bytes: u32) -> Option<Chain> {
        let wanted = self.units_of(len_bytes);
        if !self.would_give(account, len_bytes) {
            return None;
        }
        Some(self.lend(account, len_bytes, wanted))
    }

    /// Buffers for `len_bytes` twice, or none at all.
    pub fn take_two(&mut self, account: &mut Account, len_bytes: u32) -> Option<[Chain; 2]> {
        let wanted = self.units_of(len_bytes);
        let (units, held) = self.share_of(account, len_bytes);
        if !units.would_give(held, 2 * wanted) {
            return None;
        }
        Some([(); 2].map(|()| self.lend(account, len_bytes, wanted)))
    }

    /// The same for data that lie before others of the same connection, which nobody can bring as long as these are not taken:
    /// of a few commands at a time beyond the share, as long as there are any buffers at all. The second chain comes if `twice`.
    pub fn take_brought(&mut self, account: &mut Account, len_bytes: u32, twice: bool) -> Option<(Chain, Option<Chain>)> {
        let wanted = self.units_of(len_bytes);
        let all = if twice { 2 * wanted } else { wanted };
        let (units, held) = self.share_of(account, len_bytes);
        let beyond = !units.would_give(held, all);
        if beyond && (account.beyond >= BEYOND_MAX || all > units.free) {
            return None;
        }
        let mut chain = self.lend(account, len_bytes, wanted);
        chain.beyond = beyond;
        account.beyond += u8::from(beyond);
        Some((chain, twice.then(|| self.lend(account, len_bytes, wanted))))
    }

    #[inline]
    fn units_of(&self, len_bytes: u32) -> u32 {
        debug_assert!(len_bytes > 0, "nothing needs no buffer");
        len_bytes.div_ceil(if len_bytes <= SMALL_UNIT_BYTES { SMALL_UNIT_BYTES } else { LARGE_UNIT_BYTES })
    }

    /// Units for so many bytes, and how many of them an account holds.
    #[inline]
    fn share_of(&self, account: &Account, len_bytes: u32) -> (&Units, u32) {
        if len_bytes <= SMALL_UNIT_BYTES { (&self.small, account.small) } else { (&self.large, account.large) }
    }

    #[inline]
    fn lend(&mut self, account: &mut Account, len_bytes: u32, wanted: u32) -> Chain {
        let (size, units, held) = if len_bytes <= SMALL_UNIT_BYTES {
            (Size::Small, &mut self.small, &mut account.small)
        } else {
            (Size::Large, &mut self.large, &mut account.large)
        };
        *held += wanted;
        Chain { first: units.take(wanted), units: wanted, size, len_bytes, beyond: false }
    }

    /// How often buffers were given back: who found too few looks again once this is another number.
    #[must_use]
    pub fn given(&self) -> u64 {
        self.given
    }

    /// Takes buffers back.
    #[inline]
    pub fn give(&mut self, account: &mut Account, chain: Chain) {
        self.given += 1;
        let (units, held) = match chain.size {
            Size::Small => (&mut self.small, &mut account.small),
            Size::Large => (&mut self.large, &mut account.large),
        };
        *held -= chain.units;
        account.beyond -= u8::from(chain.beyond);
        units.give(chain.first, chain.units);
    }

    /// The pieces of a chain, in order; together as long as the chain.
    pub fn segments<'a>(&'a self, chain: &Chain) -> impl Iterator<Item = Segment> + use<'a> {
        let units = self.units(chain);
        let (mut unit, mut left) = (chain.first, chain.len_bytes);
        std::iter::from_fn(move || {
            let len_bytes = left.min(units.unit_bytes);
            if len_bytes == 0 {
                return None;
            }
            let segment = self.region.segment(units.offset(unit), len_bytes).expect("a unit lies inside the region");
            unit = units.next[unit as usize];
            left -= len_bytes;
            Some(segment)
        })
    }

    /// The only piece of a chain, if it has one only.
    #[inline]
    #[must_use]
    pub fn single(&self, chain: &Chain) -> Option<Segment> {
        let units = self.units(chain);
        (chain.units == 1).then(|| self.region.segment(units.offset(chain.first), chain.len_bytes).expect("a unit lies inside the region"))
    }

    /// Copies bytes of a chain from its byte `skip` out of it.
    ///
    /// # Panics
    /// If the chain ends before.
    pub fn read(&self, chain: &Chain, skip: u32, into: &mut [u8]) {
        let mut rest = into;
        self.pieces(chain, skip, u32::try_from(rest.len()).expect("no more than a chain has"), |offset, len| {
            let (now, then) = std::mem::take(&mut rest).split_at_mut(len);
            self.region.read(offset, now).expect("inside the region");
            rest = then;
        });
    }

    /// Copies `from` into a chain from its byte `skip`.
    ///
    /// # Panics
    /// If the chain ends before.
    pub fn write(&self, chain: &Chain, skip: u32, from: &[u8]) {
        let mut rest = from;
        self.pieces(chain, skip, u32::try_from(from.len()).expect("no more than a chain has"), |offset, len| {
            let (now, then) = rest.split_at(len);
            self.region.write(offset, now).expect("inside the region");
            rest = then;
        });
    }

    /// Whether two chains hold the same bytes.
    #[must_use]
    pub fn same(&self, one: &Chain, other: &Chain) -> bool {
        const STEP: usize = 512;
        let (mut left, mut right) = ([0; STEP], [0; STEP]);
        let len_bytes = one.len_bytes;
        len_bytes == other.len_bytes
            && (0..len_bytes).step_by(STEP).all(|at| {
                let here = STEP.min((len_bytes - at) as usize);
                self.read(one, at, &mut left[..here]);
                self.read(other, at, &mut right[..here]);
                left[..here] == right[..here]
            })
    }

    /// The region all chains lie in.
    #[must_use]
    pub fn region(&self) -> &Arc<Region> {
        &self.region
    }

    /// Whether `account` would get buffers for `len_bytes` now.
    #[must_use]
    pub fn would_give(&self, account: &Account, len_bytes: u32) -> bool {
        let (units, held) = self.share_of(account, len_bytes);
        units.would_give(held, self.units_of(len_bytes))
    }

    fn units(&self, chain: &Chain) -> &Units {
        match chain.size {
            Size::Small => &self.small,
            Size::Large => &self.large,
        }
    }

    /// Calls with offset and length of each piece of a range of a chain.
    fn pieces(&self, chain: &Chain, skip: u32, len_bytes: u32, mut each: impl FnMut(u64, usize)) {
        assert!(u64::from(skip) + u64::from(len_bytes) <= u64::from(chain.len_bytes), "a copy stays inside the chain");
        let units = self.units(chain);
        let (mut unit, mut into, mut left) = (chain.first, skip, len_bytes);
        while into >= units.unit_bytes {
            unit = units.next[unit as usize];
            into -= units.unit_bytes;
        }
        while left > 0 {
            let here = left.min(units.unit_bytes - into);
            each(units.offset(unit) + u64::from(into), here as usize);
            unit = units.next[unit as usize];
            (into, left) = (0, left - here);
        }
    }
}

impl Driver for Pool {
    fn reap(&mut self, _now: Instant) -> Progress {
        Progress::Idle
    }

    fn flush(&mut self) {}

    fn map(&mut self, _region: &Arc<Region>) {}

    fn unmap(&mut self, _id: RegionId) {}

    fn arm(&mut self) -> Armed {
        Armed::Idle
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use spinel_sim::{Prng, Rig};

    fn pool(small_units: u32, large_units: u32) -> (Rig, SharedPool) {
        let mut rig = Rig::new(Prng::new(1), 1 << 16);
        let pool = Pool::of(&mut rig.core, PoolSize { small_units, large_units }).unwrap();
        (rig, pool)
    }

    #[test]
    fn a_chain_is_as_long_as_was_asked_for_and_never_shared() {
        let (_rig, pool) = pool(4, 12);
        let mut pool = pool.borrow_mut();
        let mut account = Account::default();
        let one = pool.take(&mut account, 3 * LARGE_UNIT_BYTES - 5).unwrap();
        let lens: Vec<u32> = pool.segments(&one).map(|segment| segment.len_bytes()).collect();
        assert_eq!(lens, [LARGE_UNIT_BYTES, LARGE_UNIT_BYTES, LARGE_UNIT_BYTES - 5]);
        assert_eq!(pool.single(&one), None);
        let other = pool.take(&mut account, 5000).unwrap();
        let starts: std::collections::BTreeSet<u64> = pool.segments(&one).chain(pool.segments(&other)).map(|s| s.offset()).collect();
        assert_eq!(starts.len(), 4, "no unit is lent twice");
        let small = pool.take(&mut account, 4096).unwrap();
        assert_eq!(pool.single(&small).unwrap().len_bytes(), 4096);
        assert_eq!(account.held_bytes(), 4 * u64::from(LARGE_UNIT_BYTES) + 4096);
        for chain in [one, other, small] {
            pool.give(&mut account, chain);
        }
        assert_eq!(account.held_bytes(), 0);
        assert_eq!((pool.small.free, pool.large.free), (4, 12));
    }

    #[test]
    fn hogs_leave_something_to_everybody_who_comes_later() {
        let (_rig, pool) = pool(64, 0);
        let mut pool = pool.borrow_mut();
        let mut kept = Vec::new();
        for hogs in 1..=5 {
            let mut account = Account::default();
            while let Some(chain) = pool.take(&mut account, 4096) {
                kept.push(chain);
            }
            assert!(account.small >= 1, "hog {hogs} got nothing");
            assert!(account.small <= pool.small.free + 1, "hog {hogs} holds {} and leaves {}", account.small, pool.small.free);
        }
        // However many have helped themselves: many more get something.
        let more: Vec<Chain> = std::iter::from_fn(|| pool.take(&mut Account::default(), 4096)).collect();
        assert!(more.len() >= 10, "{} more", more.len());
    }

    #[test]
    fn who_needs_twice_as_much_gets_it_all_at_once_or_nothing() {
        let (_rig, pool) = pool(0, 16);
        let mut pool = pool.borrow_mut();
        let (mut account, mut other) = Default::default();
        let [one, two] = pool.take_two(&mut account, 8 * LARGE_UNIT_BYTES).expect("all that there is");
        assert_eq!((account.large, pool.large.free), (16, 0));
        assert_eq!(pool.take_two(&mut other, 8192), None);
        pool.give(&mut account, one);
        pool.give(&mut account, two);
        let kept = pool.take(&mut other, 9 * LARGE_UNIT_BYTES).unwrap();
        assert_eq!(pool.take_two(&mut account, 4 * LARGE_UNIT_BYTES), None, "and one of them would fit");
        assert_eq!((account.large, pool.large.free), (0, 7));
        pool.give(&mut other, kept);
    }

    #[test]
    fn what_was_brought_gets_buffers_beyond_the_share_of_two_commands_at_a_time() {
        let (_rig, pool) = pool(16, 0);
        let mut pool = pool.borrow_mut();
        let mut account = Account::default();
        let mut kept: Vec<Chain> = std::iter::from_fn(|| pool.take(&mut account, 512)).collect();
        let (one, none) = pool.take_brought(&mut account, 512, false).unwrap();
        let (two, second) = pool.take_brought(&mut account, 512, true).unwrap();
        assert!(none.is_none() && second.is_some());
        assert_eq!(pool.take_brought(&mut account, 512, false), None);
        pool.give(&mut account, one);
        kept.push(pool.take_brought(&mut account, 512, false).unwrap().0);
        kept.extend([two].into_iter().chain(second));
        kept.into_iter().for_each(|chain| pool.give(&mut account, chain));
        assert_eq!((account.held_bytes(), account.beyond, pool.small.free), (0, 0, 16));
    }

    #[test]
    fn what_is_given_back_can_be_lent_again_and_again() {
        let (_rig, pool) = pool(0, 8);
        let mut pool = pool.borrow_mut();
        let mut account = Account::default();
        for turn in 0..100_u32 {
            let chains: Vec<Chain> = std::iter::from_fn(|| pool.take(&mut account, LARGE_UNIT_BYTES * (1 + turn % 2))).collect();
            assert!(!chains.is_empty() && !pool.would_give(&account, LARGE_UNIT_BYTES * (1 + turn % 2)));
            chains.into_iter().for_each(|chain| pool.give(&mut account, chain));
            assert_eq!(pool.large.free, 8);
        }
        assert_eq!(pool.take(&mut account, 9 * LARGE_UNIT_BYTES), None, "more than there is at all");
    }

    #[test]
    fn bytes_are_written_read_and_compared_across_units() {
        let (_rig, pool) = pool(0, 6);
        let mut pool = pool.borrow_mut();
        let (mut account, mut second) = Default::default();
        let len = LARGE_UNIT_BYTES + 700;
        let (one, other) = (pool.take(&mut account, len).unwrap(), pool.take(&mut second, len).unwrap());
        let bytes: Vec<u8> = (0..len).map(|at| u8::try_from(at % 251).unwrap()).collect();
        pool.write(&one, 0, &bytes[..100_000]);
        pool.write(&one, 100_000, &bytes[100_000..]);
        pool.write(&other, 0, &bytes);
        assert!(pool.same(&one, &other));
        let mut back = vec![0; 1000];
        pool.read(&one, LARGE_UNIT_BYTES - 500, &mut back);
        let from = LARGE_UNIT_BYTES as usize - 500;
        assert_eq!(back, bytes[from..from + 1000]);
        pool.write(&other, len - 1, &[bytes[bytes.len() - 1] ^ 1]);
        assert!(!pool.same(&one, &other), "the last byte counts");
    }
}
