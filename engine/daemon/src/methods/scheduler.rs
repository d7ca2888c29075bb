//! The methods about moving queues between cores, by hand and by themselves. SPDK's schedulers move threads; there are none here, so
//! queues move.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use spinel_control::RpcError;
use spinel_control::params::{self, Inert};
use spinel_core::CoreId;
use spinel_vhost::MoveError;

use super::Answer;
use crate::disks::errno;
use crate::engine::Engine;
use crate::scheduler::Policy;

/// Between 10 ms and an hour, in microseconds.
const PERIODS_US: std::ops::RangeInclusive<u64> = 10_000..=3_600_000_000;

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Name {
    /// Queues stay where they are put.
    Static,
    /// Queues move from busy cores to idle ones.
    Dynamic,
}

/// What SPDK's dynamic scheduler can be told besides, at its defaults.
const INERT: &[Inert] = &[Inert::number("load_limit", 20), Inert::number("core_limit", 80), Inert::text("mappings", "")];

/// `framework_set_scheduler`.
pub(super) fn set(engine: &Engine, params: Option<&Value>) -> Answer {
    #[derive(Deserialize)]
    struct SetScheduler {
        name: Name,
        /// Microseconds.
        #[serde(default)]
        period: Option<u64>,
        /// Percent of a core's time.
        #[serde(default)]
        core_busy: Option<u8>,
    }
    let SetScheduler { name, period, core_busy } = params::parse_beside(params, INERT)?;
    let now = engine.policy();
    let period = match period {
        None => now.period,
        Some(period) if PERIODS_US.contains(&period) => Duration::from_micros(period),
        Some(period) => {
            let must_be = format!("{} to {} microseconds", PERIODS_US.start(), PERIODS_US.end());
            return Err(params::refuse("period", period, must_be));
        }
    };
    let busy = match core_busy {
        None => now.busy,
        Some(percent) if (1..100).contains(&percent) => u64::from(percent) * 10,
        Some(percent) => return Err(params::refuse("core_busy", percent, "1 to 99 percent")),
    };
    let followed = engine.follow(Policy { dynamic: name == Name::Dynamic, period, busy });
    followed.map_err(|error| RpcError::io(&error, format!("the thread that moves queues cannot be started: {error}")))?;
    Ok(true.into())
}

/// `framework_get_scheduler`.
pub(super) fn get(engine: &Engine, params: Option<&Value>) -> Answer {
    params::none(params)?;
    Ok(describe(engine.policy()))
}

fn describe(policy: Policy) -> Value {
    let name = if policy.dynamic { Name::Dynamic } else { Name::Static };
    let period_us = u64::try_from(policy.period.as_micros()).unwrap_or(u64::MAX);
    let mut all = json!({"scheduler_name": name, "scheduler_period": period_us});
    if policy.dynamic {
        all["core_busy"] = (policy.busy / 10).into();
    }
    all
}

/// The call that makes the present policy again, unless it is the default.
pub(super) fn creation(policy: Policy) -> Option<(&'static str, Value)> {
    if policy == Policy::default() {
        return None;
    }
    let Value::Object(all) = describe(policy) else { return None };
    let rename = |(key, value): (String, Value)| (key.trim_start_matches("scheduler_").to_owned(), value);
    Some(("framework_set_scheduler", all.into_iter().map(rename).collect()))
}

/// `vhost_controller_move_queue`: our own.
///
/// A queue that does not run, or whose requests take long, moves when it can; the call does not wait for that.
pub(super) fn move_queue(engine: &Engine, params: Option<&Value>) -> Answer {
    #[derive(Deserialize)]
    struct MoveQueue {
        ctrlr: String,
        queue: u16,
        lcore: u16,
    }
    let MoveQueue { ctrlr, queue, lcore } = params::parse(params)?;
    // The disks are not held meanwhile: whoever asks for them need not wait for a queue to drain.
    let mover = engine.disks().controller(&ctrlr)?.controller().mover();
    mover.move_queue(queue, CoreId(lcore)).map_err(|error| match error {
        MoveError::NoQueue { last, .. } => params::refuse("queue", queue, format!("0 to {last}")),
        MoveError::NotItsCore { cores, .. } => {
            let cores: Vec<String> = cores.iter().map(|core| core.0.to_string()).collect();
            params::refuse("lcore", lcore, format!("a core that '{ctrlr}' runs on, which are {}", cores.join(", ")))
        }
        MoveError::Refused { .. } | MoveError::Stopped(_) => RpcError::errno(errno::BUSY, error.to_string()),
    })?;
    Ok(true.into())
}
