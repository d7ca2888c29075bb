//! Ranks by Zipf's law, and where popular places lie. Knows no request.
//!
//! The ranks come by rejection-inversion (W. Hoermann and G. Derflinger, "Rejection-inversion
//! to generate variates from monotone discrete distributions", ACM TOMACS 6(3), 1996): no
//! table of n entries, and fewer than 1.2 tries for each rank whatever n and theta are.

use crate::prng::Prng;

/// 2^-53: the smallest step of [`unit`].
const ULP: f64 = 1.0 / 9_007_199_254_740_992.0;

/// A number above 0 and at most 1, each of 2^53 as likely.
pub(crate) fn unit(prng: &mut Prng) -> f64 {
    #[allow(clippy::cast_precision_loss, reason = "53 bits fit a double exactly")]
    let bits = ((prng.bits() >> 11) + 1) as f64;
    bits * ULP
}

/// A number that is known to be neither negative nor beyond 64 bits, without what is behind its point.
pub(crate) fn whole(number: f64) -> u64 {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "this conversion saturates")]
    let whole = number as u64;
    whole
}

/// A count as a double: exact up to 2^53, and close enough for chances beyond.
fn double(count: u64) -> f64 {
    #[allow(clippy::cast_precision_loss, reason = "a chance that is off by 2^-53 is not seen")]
    let double = count as f64;
    double
}

/// Ranks 1 to n, the k-th in proportion to 1 / k^theta.
#[derive(Clone, Debug)]
pub(crate) struct Zipf {
    ranks: u64,
    theta: f64,
    /// The area under the hat up to the middle of the first rank, less that rank's weight, which is 1.
    area_first: f64,
    /// The area up to the end of the last.
    area_last: f64,
    /// A try this near to its rank needs no further look.
    surely: f64,
}

impl Zipf {
    /// Of so many ranks, at least 1; theta above 0.
    pub(crate) fn new(ranks: u64, theta: f64) -> Self {
        let hat = |x: f64| area(x, theta);
        let surely = 2.0 - inverse(hat(2.5) - height(2.0, theta), theta);
        Self { ranks, theta, area_first: hat(1.5) - 1.0, area_last: hat(double(ranks) + 0.5), surely }
    }

    /// The next rank.
    pub(crate) fn draw(&self, prng: &mut Prng) -> u64 {
        loop {
            let under = self.area_last + unit(prng) * (self.area_first - self.area_last);
            let x = inverse(under, self.theta);
            let rank = whole(x + 0.5).clamp(1, self.ranks);
            let middle = double(rank);
            if middle - x <= self.surely || under >= area(middle + 0.5, self.theta) - height(middle, self.theta) {
                return rank;
            }
        }
    }
}

/// The hat 1 / x^theta.
fn height(x: f64, theta: f64) -> f64 {
    (-theta * x.ln()).exp()
}

/// The area under the hat from 1 to x: (x^(1 - theta) - 1) / (1 - theta), or ln x where theta is 1.
fn area(x: f64, theta: f64) -> f64 {
    let log = x.ln();
    let t = (1.0 - theta) * log;
    // Near 0, where the quotient would lose its digits, its series.
    let quotient = if t.abs() > 1e-8 { t.exp_m1() / t } else { 1.0 + t / 2.0 };
    log * quotient
}

/// The x up to which the area is this.
fn inverse(area: f64, theta: f64) -> f64 {
    // Rounding may lead a little beyond the end at -1.
    let t = (area * (1.0 - theta)).max(-1.0);
    let quotient = if t.abs() > 1e-8 { t.ln_1p() / t } else { 1.0 - t / 2.0 };
    (area * quotient).exp()
}

/// A fixed bijection of the numbers below n: neighbours end up far apart.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scatter {
    count: u64,
    mask: u64,
    fold: u32,
}

/// Odd, so that multiplying by them modulo a power of two loses nothing.
const SPREAD: [u64; 2] = [0x9e37_79b9_7f4a_7c15, 0xd6e8_feb8_6659_fd93];

impl Scatter {
    /// Of the numbers below `count`, which is at least 1.
    pub(crate) fn new(count: u64) -> Self {
        let bits = u64::BITS - (count - 1).leading_zeros();
        let mask = if bits == 0 { 0 } else { u64::MAX >> (u64::BITS - bits) };
        Self { count, mask, fold: (bits / 2).max(1) }
    }

    /// Where `number` goes.
    pub(crate) fn place(&self, number: u64) -> u64 {
        // Every step is a bijection of the numbers with as many bits. Those that land outside go on until they do not,
        // which is after two rounds on average, for more than half of the numbers are inside.
        let mut at = number;
        loop {
            for factor in SPREAD {
                at = at.wrapping_add(SPREAD[0] >> 7).wrapping_mul(factor) & self.mask;
                at ^= at >> self.fold;
            }
            if at < self.count {
                return at;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How often each of the first ranks is drawn, and how often it should be.
    fn compare(ranks: u64, theta: f64, shown: usize) {
        const DRAWS: u32 = 200_000;
        let zipf = Zipf::new(ranks, theta);
        let mut prng = Prng::new(3);
        let mut drawn = vec![0_u32; shown];
        for _ in 0..DRAWS {
            let rank = zipf.draw(&mut prng);
            assert!((1..=ranks).contains(&rank));
            if let Some(count) = drawn.get_mut(usize::try_from(rank - 1).unwrap_or(usize::MAX)) {
                *count += 1;
            }
        }
        let weights: f64 = (1..=ranks).map(|rank| double(rank).powf(-theta)).sum();
        for (rank, count) in (1..).zip(drawn) {
            let expected = f64::from(DRAWS) * double(rank).powf(-theta) / weights;
            // Five standard deviations, of one seed that stays the same.
            assert!((f64::from(count) - expected).abs() < 5.0 * expected.sqrt() + 1.0, "{theta}: rank {rank}: {count}, not {expected}");
        }
    }

    #[test]
    fn ranks_come_as_often_as_zipf_says() {
        for theta in [0.01, 0.5, 0.99, 1.0, 1.000_000_000_1, 1.2, 3.0, 10.0] {
            compare(10, theta, 10);
            compare(100_000, theta, 20);
        }
        compare(1, 0.99, 1);
        compare(2, 0.99, 2);
    }

    #[test]
    fn the_largest_device_is_not_too_large() {
        let mut prng = Prng::new(1);
        for theta in [0.01, 0.99, 1.0, 10.0] {
            let zipf = Zipf::new(u64::MAX >> 9, theta);
            assert!((0..1000).all(|_| (1..=u64::MAX >> 9).contains(&zipf.draw(&mut prng))));
        }
    }

    #[test]
    fn scattering_loses_no_place_and_leaves_no_neighbours() {
        for count in (1..200).chain([1000, 1024, 1025, 4097]) {
            let scatter = Scatter::new(count);
            let mut places: Vec<u64> = (0..count).map(|number| scatter.place(number)).collect();
            let near = places.windows(2).filter(|pair| pair[0].abs_diff(pair[1]) <= count / 64).count();
            assert!(count < 1000 || near < places.len() / 8, "{near} of {count} stay together");
            places.sort_unstable();
            assert!(places.into_iter().eq(0..count), "{count}");
        }
        let last = Scatter::new(u64::MAX);
        assert_ne!(last.place(0), last.place(u64::MAX - 1));
    }
}
