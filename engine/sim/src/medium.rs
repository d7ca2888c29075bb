//! What a simulated disk holds, and what of it a power cut may take. Knows no request and no time.
//!
//! A sector is a list of versions, the newest last: reads see the newest, and the first
//! is on the platter. The others are in the volatile cache, which may have written any of
//! them down at any moment, so a power cut leaves any one of the list.

use std::collections::{BTreeMap, BTreeSet};

use spinel_load::{Prng, SECTOR_BYTES};

/// The bytes of one sector.
pub(crate) type Sector = [u8; SECTOR_BYTES];

/// Names a write within the disk; 0 is what was there before any.
pub(crate) type WriteId = u64;

#[derive(Clone, Debug)]
struct Version {
    write: WriteId,
    /// Its place among all acknowledgements and flushes; `None` until it is acknowledged.
    acknowledged: Option<u64>,
    bytes: Box<Sector>,
}

#[derive(Debug, Default)]
pub(crate) struct Medium {
    sectors: BTreeMap<u64, Vec<Version>>,
    /// Sectors with more than one version.
    cached: BTreeSet<u64>,
    order: u64,
}

/// What a power cut does with the cache.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Loss {
    Everything,
    Nothing,
    /// Each sector for itself.
    Torn,
}

impl Medium {
    /// The newest bytes of a sector.
    pub(crate) fn read(&self, sector: u64) -> Sector {
        self.sectors.get(&sector).and_then(|versions| versions.last()).map_or([0; SECTOR_BYTES], |version| *version.bytes)
    }

    /// The oldest bytes that a sector still has.
    pub(crate) fn read_oldest(&self, sector: u64) -> Sector {
        self.sectors.get(&sector).and_then(|versions| versions.first()).map_or([0; SECTOR_BYTES], |version| *version.bytes)
    }

    /// Writes a sector: into the cache, or past it onto the platter.
    pub(crate) fn write(&mut self, sector: u64, write: WriteId, bytes: &Sector, stable: bool) {
        let version = Version { write, acknowledged: None, bytes: Box::new(*bytes) };
        let blank = || vec![Version { write: 0, acknowledged: Some(0), bytes: Box::new([0; SECTOR_BYTES]) }];
        let versions = self.sectors.entry(sector).or_insert_with(blank);
        if stable {
            versions.clear();
            self.cached.remove(&sector);
        } else {
            self.cached.insert(sector);
        }
        versions.push(version);
    }

    /// A write of these sectors was acknowledged.
    pub(crate) fn acknowledge(&mut self, write: WriteId, sectors: impl Iterator<Item = u64>) {
        self.order += 1;
        for sector in sectors {
            let versions = self.sectors.get_mut(&sector).into_iter().flatten();
            versions.filter(|version| version.write == write).for_each(|version| version.acknowledged = Some(self.order));
        }
    }

    /// A flush begins; what was acknowledged by now has to be on the platter when it ends.
    pub(crate) fn begin_flush(&self) -> u64 {
        self.order
    }

    /// Writes down what the flush has to, and not a sector more.
    pub(crate) fn flush(&mut self, begin: u64) {
        let sectors = &mut self.sectors;
        self.cached.retain(|sector| {
            let versions = sectors.get_mut(sector).expect("a cached sector has versions");
            let covered = |version: &Version| version.acknowledged.is_some_and(|order| order <= begin);
            if let Some(last) = versions.iter().rposition(covered) {
                versions.drain(..last);
            }
            versions.len() > 1
        });
    }

    /// Loses power: of every sector one version is left.
    pub(crate) fn cut_power(&mut self, prng: &mut Prng) {
        let loss = *prng.pick(&[Loss::Everything, Loss::Nothing, Loss::Torn, Loss::Torn]);
        for sector in std::mem::take(&mut self.cached) {
            let versions = self.sectors.get_mut(&sector).expect("a cached sector has versions");
            let left = match loss {
                Loss::Everything => 0,
                Loss::Nothing => versions.len() - 1,
                Loss::Torn => prng.index(versions.len()),
            };
            versions.swap(0, left);
            versions.truncate(1);
        }
    }

    /// Every sector ever written and its newest bytes, in order.
    pub(crate) fn sectors(&self) -> impl Iterator<Item = (u64, &Sector)> {
        self.sectors.iter().filter_map(|(sector, versions)| Some((*sector, &*versions.last()?.bytes)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn filled(byte: u8) -> Sector {
        [byte; SECTOR_BYTES]
    }

    /// What sector 0 holds after power cuts of many seeds.
    fn after_cuts(make: impl Fn() -> Medium) -> BTreeSet<u8> {
        let left = |seed| {
            let mut medium = make();
            medium.cut_power(&mut Prng::new(seed));
            medium.read(0)[0]
        };
        (0..200).map(left).collect()
    }

    #[test]
    fn a_power_cut_leaves_any_version_since_the_flush() {
        let make = || {
            let mut medium = Medium::default();
            medium.write(0, 1, &filled(1), false);
            medium.acknowledge(1, 0..1);
            medium.flush(medium.begin_flush());
            medium.write(0, 2, &filled(2), false);
            medium.write(0, 3, &filled(3), false);
            medium
        };
        assert_eq!(make().read(0), filled(3));
        assert_eq!(after_cuts(make), BTreeSet::from([1, 2, 3]));
    }

    #[test]
    fn a_flush_covers_what_was_acknowledged_before_it_began_and_nothing_else() {
        let make = |acknowledged_before: bool| {
            let mut medium = Medium::default();
            medium.write(0, 1, &filled(1), false);
            if acknowledged_before {
                medium.acknowledge(1, 0..1);
            }
            let begin = medium.begin_flush();
            if !acknowledged_before {
                medium.acknowledge(1, 0..1);
            }
            medium.flush(begin);
            medium
        };
        assert_eq!(after_cuts(|| make(false)), BTreeSet::from([0, 1]));
        let mut medium = make(true);
        medium.write(0, 2, &filled(2), false);
        assert_eq!(
            after_cuts(|| Medium { sectors: medium.sectors.clone(), cached: medium.cached.clone(), order: 0 }),
            BTreeSet::from([1, 2])
        );
    }

    #[test]
    fn what_goes_past_the_cache_stays() {
        let make = || {
            let mut medium = Medium::default();
            medium.write(0, 1, &filled(1), false);
            medium.write(0, 2, &filled(2), true);
            medium
        };
        assert_eq!(after_cuts(make), BTreeSet::from([2]));
    }
}
