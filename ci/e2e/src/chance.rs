//! Numbers that look random and come again with their seed (SplitMix64, Steele and others, OOPSLA 2014). It knows no use of them.

use std::time::Duration;

/// A sequence of them.
#[derive(Debug)]
pub(crate) struct Chance(u64);

impl Chance {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A time of whole milliseconds, both bounds among those that may come.
    pub(crate) fn between_ms(&mut self, least: u64, most: u64) -> Duration {
        Duration::from_millis(least + self.bits() % (most - least + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_times_again_and_all_of_them() {
        let times = |seed| {
            let mut chance = Chance::new(seed);
            (0..100).map(|_| chance.between_ms(3, 6).as_millis()).collect::<Vec<_>>()
        };
        assert_eq!(times(7), times(7));
        assert_ne!(times(7), times(8));
        assert!((3..=6).all(|ms| times(7).contains(&ms)) && times(7).iter().all(|ms| (3..=6).contains(ms)));
    }
}
