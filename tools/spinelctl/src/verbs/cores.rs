//! `spinelctl cores`: where each core's time has gone.

use super::Session;
use crate::cli::Cores;
use crate::failure::Failure;
use crate::reply::{Reactor, Reactors};
use crate::table::{self, Table};
use serde_json::{Value, json};
use spinel_units::{count, percent};

pub(super) const METHOD: &str = "framework_get_reactors";

pub(super) fn run(session: &mut Session, cores: &Cores) -> Result<(), Failure> {
    let (before, now) = match cores.interval {
        None => (None, session.daemon.call(METHOD, None)?),
        Some(interval) => {
            let (before, now) = session.daemon.twice(METHOD, interval)?;
            (Some(before), now)
        }
    };
    if session.json {
        return table::print_json(&match before {
            None => now,
            Some(before) => json!([before, now]),
        });
    }
    let read = |reply: Value| serde_json::from_value::<Reactors>(reply).map_err(|error| Failure::reply(METHOD, error));
    let (before, now) = (before.map(read).transpose()?, read(now)?);
    let elapsed = cores.interval.map(|interval| now.ticks(interval.into()));
    let mut table = Table::new(&["CORE", ">THREAD", ">BUSY", ">SPIN", ">SLEEP", ">LOOPS"]);
    for reactor in &now.reactors {
        let earlier = before.iter().flat_map(|before| &before.reactors).find(|earlier| earlier.lcore == reactor.lcore);
        let usage = Usage::between(earlier, reactor, elapsed);
        let (spin, sleep) = usage.shown_idle();
        table.row(&[
            reactor.lcore.to_string(),
            reactor.tid.map_or_else(|| "-".into(), |tid| tid.to_string()),
            percent(usage.busy),
            spin,
            sleep,
            usage.loops.map_or_else(|| "-".into(), |loops| count(loops as f64)),
        ]);
    }
    table.print()
}

/// Shares of a core's time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    pub(crate) busy: f64,
    pub(crate) idle: f64,
    /// Parts of `idle`; `None` where the daemon does not tell them apart.
    pub(crate) spin: Option<f64>,
    pub(crate) sleep: Option<f64>,
    /// Loops made, not a share.
    pub(crate) loops: Option<u64>,
}

impl Usage {
    /// From `earlier` (from the start where there is none) until `now`, `elapsed` ticks later
    /// where that is known.
    ///
    /// A core counts its sleep when it wakes, so one that sleeps now has not counted all, and one
    /// that has just woken counts what lies before the interval, too. Where a core counts sleep,
    /// what it was asleep is therefore what is left of the time that elapsed.
    pub(crate) fn between(earlier: Option<&Reactor>, now: &Reactor, elapsed: Option<f64>) -> Self {
        let grown = |of: fn(&Reactor) -> u64| of(now).saturating_sub(earlier.map_or(0, of));
        let part = |of: fn(&Reactor) -> Option<u64>| Some(of(now)?.saturating_sub(earlier.and_then(of).unwrap_or(0)) as f64);
        let (busy, mut idle) = (grown(|reactor| reactor.busy) as f64, grown(|reactor| reactor.idle) as f64);
        let (spin, mut sleep) = (part(|reactor| reactor.spin), part(|reactor| reactor.sleep));
        if let (Some(spin), Some(sleep), Some(elapsed)) = (spin, &mut sleep, elapsed) {
            *sleep = (elapsed - busy - spin).max(0.0);
            idle = spin + *sleep;
        }
        // A core that has not reported since has no time to be shared out.
        let all = (busy + idle).max(1.0);
        Self {
            busy: busy / all,
            idle: idle / all,
            spin: spin.map(|spin| spin / all),
            sleep: sleep.map(|sleep| sleep / all),
            loops: now.loops.map(|loops| loops.saturating_sub(earlier.and_then(|earlier| earlier.loops).unwrap_or(0))),
        }
    }

    /// The columns SPIN and SLEEP. A daemon that tells neither spins whenever it is idle, as
    /// SPDK does.
    pub(crate) fn shown_idle(&self) -> (String, String) {
        match (self.spin, self.sleep) {
            (None, None) => (percent(self.idle), "-".into()),
            (spin, sleep) => {
                let shown = |share: Option<f64>| share.map_or_else(|| "-".into(), percent);
                (shown(spin), shown(sleep))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Reactor, Usage};
    use serde_json::json;

    fn reactor(busy: u64, spin: u64, sleep: u64) -> Reactor {
        let reactor = json!({"lcore": 0, "busy": busy, "idle": spin + sleep, "spin": spin, "sleep": sleep});
        serde_json::from_value(reactor).expect("a reply")
    }

    #[test]
    fn a_core_that_sleeps_through_is_asleep_though_it_has_not_counted_it() {
        let now = reactor(500, 100, 9000);
        let usage = Usage::between(Some(&now), &now, Some(1000.0));
        assert_eq!((usage.busy, usage.spin, usage.sleep), (0.0, Some(0.0), Some(1.0)));
    }

    #[test]
    fn a_sleep_counted_on_waking_is_not_all_of_this_interval() {
        let usage = Usage::between(Some(&reactor(500, 100, 9000)), &reactor(600, 200, 99_000), Some(1000.0));
        assert_eq!((usage.busy, usage.spin, usage.sleep), (0.1, Some(0.1), Some(0.8)));
    }

    #[test]
    fn a_core_busier_than_there_was_time_is_busy_all_of_it() {
        let usage = Usage::between(Some(&reactor(0, 0, 0)), &reactor(1100, 0, 0), Some(1000.0));
        assert_eq!((usage.busy, usage.spin, usage.sleep), (1.0, Some(0.0), Some(0.0)));
    }
}
