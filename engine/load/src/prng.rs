//! The one source of chance in loads and simulations. Knows no entropy: the same seed gives the same numbers, for ever.

use std::ops::RangeInclusive;

/// A seeded generator: xoshiro256++, its state filled by SplitMix64 (Blackman and Vigna, 2018 and 2014). Not for secrets.
#[derive(Clone, Debug)]
pub struct Prng {
    state: [u64; 4],
}

/// One step of SplitMix64: mixes 64 bits so that every input bit moves every output bit.
#[must_use]
pub fn mix(value: u64) -> u64 {
    let z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Prng {
    /// The generator of a seed. Neighbouring seeds have nothing in common.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut at = seed;
        let state = [(); 4].map(|()| {
            at = at.wrapping_add(0x9e37_79b9_7f4a_7c15);
            mix(at)
        });
        Self { state }
    }

    /// A generator of its own for a part of a run, so that a part that draws more often does not change the others.
    #[must_use]
    pub fn fork(&mut self) -> Self {
        Self::new(self.bits())
    }

    /// 64 fresh bits.
    pub fn bits(&mut self) -> u64 {
        let [a, b, c, d] = self.state;
        let result = a.wrapping_add(d).rotate_left(23).wrapping_add(a);
        let (c, d) = (c ^ a, d ^ b);
        self.state = [a ^ d, b ^ c, c ^ (b << 17), d.rotate_left(45)];
        result
    }

    /// A number below `bound`, each as likely.
    ///
    /// # Panics
    /// If `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "no number is below 0");
        u64::try_from((u128::from(self.bits()) * u128::from(bound)) >> 64).expect("the upper half")
    }

    /// A number of a range, its ends included, each as likely.
    ///
    /// # Panics
    /// If the range is empty.
    pub fn within(&mut self, range: RangeInclusive<u64>) -> u64 {
        let (low, high) = range.into_inner();
        assert!(low <= high, "an empty range");
        match (high - low).checked_add(1) {
            Some(count) => low + self.below(count),
            None => self.bits(),
        }
    }

    /// True once in `n` times on average; never for 0.
    pub fn one_in(&mut self, n: u64) -> bool {
        n > 0 && self.below(n) == 0
    }

    /// An index below `count`, each as likely.
    ///
    /// # Panics
    /// If `count` is 0.
    pub fn index(&mut self, count: usize) -> usize {
        let bound = u64::try_from(count).expect("counts fit 64 bits");
        usize::try_from(self.below(bound)).expect("below a usize")
    }

    /// One of several, each as likely.
    ///
    /// # Panics
    /// If there is none.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.index(from.len())]
    }

    /// Fills a buffer.
    pub fn fill(&mut self, into: &mut [u8]) {
        for chunk in into.chunks_mut(8) {
            chunk.copy_from_slice(&self.bits().to_le_bytes()[..chunk.len()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_those_of_the_published_algorithm() {
        let mut prng = Prng { state: [1, 2, 3, 4] };
        let got = [(); 6].map(|()| prng.bits());
        assert_eq!(got, [41943041, 58720359, 3588806011781223, 3591011842654386, 9228616714210784205, 9973669472204895162]);
        assert_eq!(mix(0), 0xe220_a839_7b1d_cdaf);
    }

    #[test]
    fn numbers_stay_in_their_range_and_reach_its_ends() {
        let mut prng = Prng::new(7);
        let drawn: Vec<u64> = (0..1000).map(|_| prng.within(3..=6)).collect();
        assert!((3..=6).all(|n| drawn.contains(&n)) && drawn.iter().all(|n| (3..=6).contains(n)));
        assert!(!(0..1000).any(|_| prng.one_in(0)));
        assert!((0..1000).all(|_| prng.one_in(1)));
        let _ = prng.within(0..=u64::MAX);
    }

    #[test]
    fn a_fork_does_not_depend_on_what_its_parent_draws_later() {
        let (mut a, mut b) = (Prng::new(1), Prng::new(1));
        let (mut fork_a, mut fork_b) = (a.fork(), b.fork());
        a.bits();
        let mut filled = [0; 11];
        b.fill(&mut filled);
        assert_eq!((0..9).map(|_| fork_a.bits()).collect::<Vec<_>>(), (0..9).map(|_| fork_b.bits()).collect::<Vec<_>>());
        assert_ne!(filled[8..], [0; 3]);
    }
}
