//! Which queue, if any, should move to which core. Knows no clock, no reactor and no controller.

use std::collections::BTreeMap;

use spinel_core::{CoreId, CoreUsage};

/// A core that is busy for less of its time than this, in thousandths, has room for what it serves.
pub(crate) const BUSY_DEFAULT: u64 = 600;
/// So much less busy has another core to be.
const DIFFERENCE_MIN: u64 = 250;
/// So much less busy has the busier of the two to be afterwards. A move back would have to gain as much again, so none follows
/// as long as the load is the same.
const GAIN_MIN: u64 = 100;

/// How busy a core was, in thousandths of its time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct CoreLoad {
    pub(crate) core: CoreId,
    pub(crate) busy: u64,
}

/// What a queue did meanwhile.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct QueueLoad {
    pub(crate) core: CoreId,
    /// The cores it may run on.
    pub(crate) allowed: Vec<CoreId>,
    /// Requests that ended.
    pub(crate) requests: u64,
}

/// A queue, by its place among the loads, and where it should go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Move {
    pub(crate) queue: usize,
    pub(crate) to: CoreId,
}

/// The busiest core, if it is busier than `busy`.
pub(crate) fn overloaded(cores: &[CoreLoad], busy: u64) -> Option<CoreLoad> {
    cores.iter().copied().max_by_key(|core| core.busy).filter(|core| core.busy > busy)
}

/// The move that helps most, if any helps enough: of one queue from the busiest core to the least busy one of its own.
///
/// A queue's share of its core's time is taken to be its share of the requests that ended there.
pub(crate) fn decide(cores: &[CoreLoad], queues: &[QueueLoad], busy: u64) -> Option<Move> {
    let busiest = overloaded(cores, busy)?;
    let beside = || queues.iter().enumerate().filter(|(_, queue)| queue.core == busiest.core);
    let requests: u64 = beside().map(|(_, queue)| queue.requests).sum();
    let moves = beside().filter_map(|(at, queue)| {
        let target = cores.iter().filter(|core| queue.allowed.contains(&core.core)).min_by_key(|core| core.busy)?;
        let difference = busiest.busy.checked_sub(target.busy).filter(|difference| *difference > DIFFERENCE_MIN)?;
        let share = u64::try_from(u128::from(busiest.busy) * u128::from(queue.requests) / u128::from(requests.max(1))).ok()?;
        // Both cores are less busy than the one is now by at least this.
        let gain = share.min(difference.checked_sub(share)?);
        (gain >= GAIN_MIN).then_some((gain, Move { queue: at, to: target.core }))
    });
    // The first of those that help alike.
    moves.reduce(|best, next| if next.0 > best.0 { next } else { best }).map(|(_, best)| best)
}

/// A queue that runs, as one finds it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct QueueSeen {
    /// Its controller.
    pub(crate) name: String,
    pub(crate) index: u16,
    pub(crate) core: CoreId,
    /// The cores it may run on.
    pub(crate) allowed: Vec<CoreId>,
    /// Requests that have ended since it runs there.
    pub(crate) requests: u64,
}

/// What was counted at one look.
struct Look {
    cores: Vec<CoreUsage>,
    /// The queues; none if no core was busy, or it was not known yet.
    queues: BTreeMap<(String, u16), (CoreId, u64)>,
}

/// Compares one look with the one before.
#[derive(Default)]
pub(crate) struct Balancer {
    /// None after a move, which has changed what it compares.
    before: Option<Look>,
}

impl Balancer {
    /// Takes what the cores have counted up to now, and asks for the queues if one of them is busy. Answers a queue that should
    /// move, and where to.
    pub(crate) fn look(
        &mut self,
        cores: &[(CoreId, CoreUsage)],
        busy: u64,
        queues: impl FnOnce() -> Vec<QueueSeen>,
    ) -> Option<(QueueSeen, CoreId)> {
        let counted: Vec<CoreUsage> = cores.iter().map(|(_, usage)| *usage).collect();
        let before = self.before.replace(Look { cores: counted, queues: BTreeMap::new() })?;
        let loads: Vec<CoreLoad> = cores.iter().zip(&before.cores).map(|((core, now), then)| load(*core, then, now)).collect();
        overloaded(&loads, busy)?;
        let mut queues = queues();
        let done = queues.iter().map(|queue| {
            // One that was not looked at, or ran elsewhere, has done nothing that could be told from what it did before.
            let then = before.queues.get(&(queue.name.clone(), queue.index)).filter(|(core, _)| *core == queue.core);
            let requests = then.map_or(0, |(_, then)| queue.requests.saturating_sub(*then));
            QueueLoad { core: queue.core, allowed: queue.allowed.clone(), requests }
        });
        let Some(Move { queue, to }) = decide(&loads, &done.collect::<Vec<_>>(), busy) else {
            let look = self.before.as_mut()?;
            look.queues = queues.into_iter().map(|queue| ((queue.name, queue.index), (queue.core, queue.requests))).collect();
            return None;
        };
        self.before = None;
        Some((queues.swap_remove(queue), to))
    }
}

fn load(core: CoreId, then: &CoreUsage, now: &CoreUsage) -> CoreLoad {
    let busy_ns = now.busy_ns.saturating_sub(then.busy_ns);
    let idle_ns = (now.spin_ns + now.sleep_ns).saturating_sub(then.spin_ns + then.sleep_ns);
    CoreLoad { core, busy: busy_ns.saturating_mul(1000) / (busy_ns + idle_ns).max(1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cores(busy: &[u64]) -> Vec<CoreLoad> {
        (0..).zip(busy).map(|(core, busy)| CoreLoad { core: CoreId(core), busy: *busy }).collect()
    }

    /// Queues by their core and requests, which may run on all of four cores.
    fn queues(loads: &[(u16, u64)]) -> Vec<QueueLoad> {
        let queue =
            |(core, requests): &(u16, u64)| QueueLoad { core: CoreId(*core), allowed: (0..4).map(CoreId).collect(), requests: *requests };
        loads.iter().map(queue).collect()
    }

    #[test]
    fn a_queue_moves_when_that_helps_and_else_stays() {
        type Case = (&'static str, &'static [u64], &'static [(u16, u64)], Option<(usize, u16)>);
        let table: [Case; 14] = [
            ("nobody does anything", &[0, 0], &[(0, 0), (0, 0)], None),
            ("two busy queues on one core", &[1000, 0], &[(0, 50), (0, 50)], Some((0, 1))),
            ("one queue has all the load", &[1000, 0], &[(0, 100), (0, 0)], None),
            ("a queue alone on its core", &[1000, 0], &[(0, 100)], None),
            ("just busy enough", &[601, 0], &[(0, 50), (0, 50)], Some((0, 1))),
            ("not busy enough", &[600, 0], &[(0, 50), (0, 50)], None),
            ("the other one is busy, too", &[1000, 760], &[(0, 90), (0, 10), (1, 50)], None),
            ("just enough of a difference", &[1000, 740], &[(0, 87), (0, 13), (1, 50)], Some((1, 1))),
            ("too little to gain by the small one", &[1000, 740], &[(0, 92), (0, 8), (1, 50)], None),
            ("the share is larger than the difference", &[900, 500], &[(0, 50), (0, 50), (1, 1)], None),
            ("the one that evens out best", &[1000, 0], &[(0, 10), (0, 45), (0, 30), (0, 15)], Some((1, 1))),
            ("the least busy of several", &[900, 500, 100, 300], &[(0, 45), (0, 55), (1, 1)], Some((0, 2))),
            ("the busiest is not the first", &[100, 900], &[(1, 45), (1, 55), (0, 1)], Some((0, 0))),
            ("its load is of no queue", &[1000, 0], &[(1, 100)], None),
        ];
        for (what, busy, loads, expected) in table {
            let expected = expected.map(|(queue, to)| Move { queue, to: CoreId(to) });
            assert_eq!(decide(&cores(busy), &queues(loads), BUSY_DEFAULT), expected, "{what}");
        }
    }

    #[test]
    fn a_queue_goes_only_where_its_controller_may_run() {
        let mut loads = queues(&[(0, 50), (0, 50)]);
        loads[0].allowed = vec![CoreId(0)];
        assert_eq!(decide(&cores(&[1000, 0, 0]), &loads, BUSY_DEFAULT), Some(Move { queue: 1, to: CoreId(1) }));
        loads[1].allowed = vec![CoreId(0), CoreId(2)];
        assert_eq!(decide(&cores(&[1000, 0, 0]), &loads, BUSY_DEFAULT), Some(Move { queue: 1, to: CoreId(2) }));
        loads[1].allowed = vec![CoreId(0)];
        assert_eq!(decide(&cores(&[1000, 0, 0]), &loads, BUSY_DEFAULT), None);
        assert_eq!(decide(&cores(&[1000, 0]), &queues(&[(0, 5), (0, 5)]), 1000), None, "as its user wants it");
    }

    /// A core that was busy for so many of so many seconds in all, and has slept for the others.
    fn usage(busy_s: u64, all_s: u64) -> CoreUsage {
        let ns = |seconds| seconds * 1_000_000_000;
        CoreUsage { busy_ns: ns(busy_s), sleep_ns: ns(all_s - busy_s), ..CoreUsage::default() }
    }

    fn seen(core: u16, requests: [u64; 2]) -> Vec<QueueSeen> {
        let allowed = vec![CoreId(0), CoreId(1)];
        let queue = |(index, requests)| QueueSeen { name: "vm".into(), index, core: CoreId(core), allowed: allowed.clone(), requests };
        (0..).zip(requests).map(queue).collect()
    }

    #[test]
    fn a_move_follows_what_happened_between_two_looks_and_not_what_was_before() {
        let mut balancer = Balancer::default();
        let look = |balancer: &mut Balancer, all_s, busy_s: [u64; 2], queues: Option<Vec<QueueSeen>>| {
            let cores = [0, 1].map(|core| (CoreId(core), usage(busy_s[usize::from(core)], all_s)));
            balancer.look(&cores, BUSY_DEFAULT, || queues.expect("nobody is busy, so nobody asks")).map(|(queue, to)| (queue.index, to.0))
        };
        // Busy all its life long, and then not: nobody asks for the queues.
        assert_eq!(look(&mut balancer, 100, [100, 0], None), None);
        assert_eq!(look(&mut balancer, 101, [100, 0], None), None);
        // Busy for the first time: what the queues did before is not known.
        assert_eq!(look(&mut balancer, 102, [101, 0], Some(seen(0, [9_000, 50]))), None);
        // The first has done a hundred requests since, the second nothing.
        assert_eq!(look(&mut balancer, 103, [102, 0], Some(seen(0, [9_100, 50]))), None);
        assert_eq!(look(&mut balancer, 104, [103, 0], Some(seen(0, [9_150, 99]))), Some((0, 1)));
        // What lies on both sides of a move is not compared.
        assert_eq!(look(&mut balancer, 105, [104, 1], None), None);
        assert_eq!(look(&mut balancer, 106, [105, 1], Some(seen(0, [9_300, 20]))), None);
    }

    /// Queues of random weights on random cores: as busy as their weights say.
    #[test]
    fn a_steady_load_is_balanced_in_a_few_moves_and_then_left_alone() {
        let mut random = 0x9e37_79b9_7f4a_7c15_u64;
        let mut below = |bound: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % bound
        };
        for _ in 0..2_000 {
            let mut queues: Vec<QueueLoad> = queues(&(0..8).map(|_| (u16::try_from(below(4)).unwrap(), below(300))).collect::<Vec<_>>());
            let mut moves = 0;
            loop {
                let load = |core| queues.iter().filter(|queue| queue.core == CoreId(core)).map(|queue| queue.requests).sum::<u64>();
                // Weights up to a full core count as they are; where there is more, the core is simply full.
                let busy: Vec<u64> = (0..4).map(|core| load(core).min(1000)).collect();
                let Some(Move { queue, to }) = decide(&cores(&busy), &queues, BUSY_DEFAULT) else { break };
                queues[queue].core = to;
                moves += 1;
                assert!(moves <= 8, "back and forth: {queues:?}");
            }
        }
    }
}
