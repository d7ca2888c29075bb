//! `spinelctl cores`: where each core's time has gone.

use super::Session;
use crate::cli::Cores;
use crate::failure::Failure;
use crate::reply::{Reactor, Reactors};
use crate::table::{self, Table};
use crate::units::{count, percent};
use serde_json::{Value, json};

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
    let mut table = Table::new(&["CORE", ">THREAD", ">BUSY", ">SPIN", ">SLEEP", ">LOOPS"]);
    for reactor in &now.reactors {
        let earlier = before.iter().flat_map(|before| &before.reactors).find(|earlier| earlier.lcore == reactor.lcore);
        let usage = Usage::between(earlier, reactor);
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
    /// From `earlier` (from the start where there is none) until `now`.
    pub(crate) fn between(earlier: Option<&Reactor>, now: &Reactor) -> Self {
        let grown = |of: fn(&Reactor) -> u64| of(now).saturating_sub(earlier.map_or(0, of));
        let part = |of: fn(&Reactor) -> Option<u64>| Some(of(now)?.saturating_sub(earlier.and_then(of).unwrap_or(0)));
        let (busy, idle) = (grown(|reactor| reactor.busy), grown(|reactor| reactor.idle));
        // A core that has not reported since has no time to be shared out.
        let all = (busy.saturating_add(idle)).max(1) as f64;
        Self {
            busy: busy as f64 / all,
            idle: idle as f64 / all,
            spin: part(|reactor| reactor.spin).map(|spin| spin as f64 / all),
            sleep: part(|reactor| reactor.sleep).map(|sleep| sleep as f64 / all),
            loops: part(|reactor| reactor.loops),
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
