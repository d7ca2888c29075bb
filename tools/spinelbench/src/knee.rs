//! Where latency takes off, told from what runs at rising rates saw. Knows no run.

/// What one rate brought.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Point {
    /// Requests a second that were due.
    pub(crate) asked: f64,
    /// Requests a second that ended.
    pub(crate) reached: f64,
    /// 99 of 100 were at most so long.
    pub(crate) p99_ns: u64,
    pub(crate) errors: u64,
}

/// A rate whose 99th percentile is so many times that of the lowest rate is beyond the knee.
const TAKE_OFF: u64 = 3;
/// A rate of which less than this share was reached is beyond the knee.
const REACHED_MIN: f64 = 0.98;

/// The index of the last calm rate before the first that is not; points ascend by rate. `None` if the first is not calm.
pub(crate) fn knee(points: &[Point]) -> Option<usize> {
    let limit_ns = points.first()?.p99_ns.saturating_mul(TAKE_OFF);
    let calm = |point: &&Point| point.p99_ns <= limit_ns && point.reached >= point.asked * REACHED_MIN && point.errors == 0;
    points.iter().take_while(calm).count().checked_sub(1)
}

/// A rate worth trying next: in the middle between the knee and the rate after it, if they are more than a tenth apart.
pub(crate) fn refine(points: &[Point]) -> Option<f64> {
    let at = knee(points)?;
    let (below, above) = (points[at].asked, points.get(at + 1)?.asked);
    (above > below * 1.1).then_some(f64::midpoint(below, above))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(asked: f64, reached: f64, p99_ns: u64) -> Point {
        Point { asked, reached, p99_ns, errors: 0 }
    }

    #[test]
    fn the_knee_is_the_last_rate_before_latency_takes_off() {
        let calm = [point(1e3, 1e3, 100), point(2e3, 2e3, 110), point(3e3, 3e3, 290)];
        assert_eq!(knee(&calm), Some(2));
        let taken_off = [calm.as_slice(), &[point(4e3, 4e3, 301), point(5e3, 5e3, 90)]].concat();
        assert_eq!(knee(&taken_off), Some(2), "what comes after does not count");
        let not_reached = [calm.as_slice(), &[point(4e3, 3.9e3, 120)]].concat();
        assert_eq!(knee(&not_reached), Some(2));
        let failing = [calm[0], Point { errors: 1, ..calm[1] }];
        assert_eq!(knee(&failing), Some(0));
        assert_eq!(knee(&[Point { reached: 1.0, ..calm[0] }]), None);
        assert_eq!(knee(&[]), None);
    }

    #[test]
    fn the_search_goes_on_between_the_knee_and_the_next_rate_until_they_are_near() {
        let points = [point(1e3, 1e3, 100), point(2e3, 2e3, 900)];
        assert_eq!(refine(&points), Some(1.5e3));
        assert_eq!(refine(&[point(1e3, 1e3, 100), point(1.05e3, 1.05e3, 900)]), None);
        assert_eq!(refine(&points[..1]), None, "nothing lies above");
    }
}
