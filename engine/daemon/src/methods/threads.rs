//! The methods about cores: each reactor is one of SPDK's reactors, and the one thread on it. Ticks are nanoseconds.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use spinel_control::params;
use spinel_reactor::Handle;
use spinel_vhost::{ControllerState, QueueInfo};

use super::Answer;
use crate::bench::Bench;
use crate::cores::CoreList;
use crate::disks::Disks;
use crate::engine::{Engine, TICK_RATE};
use crate::served::Served;

/// What every thread is described by. Ids count from 1, as SPDK's do.
fn thread(index: usize, reactor: &Handle) -> (String, usize, String) {
    let core = reactor.mailbox().core();
    let mask = CoreList::of([usize::from(core.0)]).expect("a core that runs").mask();
    (format!("core_{}", core.0), index + 1, mask)
}

/// `framework_get_reactors`.
pub(super) fn reactors(engine: &Engine, params: Option<&Value>) -> Answer {
    params::none(params)?;
    let describe = |(index, reactor): (usize, &Handle)| {
        let usage = reactor.usage();
        let (name, id, mask) = thread(index, reactor);
        json!({
            "lcore": reactor.mailbox().core().0,
            "tid": reactor.thread_id(),
            "busy": usage.busy_ns,
            "idle": usage.spin_ns + usage.sleep_ns,
            "spin": usage.spin_ns,
            "sleep": usage.sleep_ns,
            "loops": usage.turns,
            "sleeps": usage.sleeps,
            "in_interrupt": false,
            "lw_threads": [{
                "name": name,
                "id": id,
                "cpumask": mask,
                "elapsed": usage.busy_ns + usage.spin_ns + usage.sleep_ns,
            }],
        })
    };
    let reactors: Value = engine.reactors().iter().enumerate().map(describe).collect();
    Ok(json!({"tick_rate": TICK_RATE, "pid": rustix::process::getpid().as_raw_nonzero().get(), "reactors": reactors}))
}

/// `thread_get_stats`.
pub(super) fn stats(engine: &Engine, params: Option<&Value>) -> Answer {
    params::none(params)?;
    let describe = |(index, reactor): (usize, &Handle)| {
        let usage = reactor.usage();
        let (name, id, mask) = thread(index, reactor);
        json!({
            "name": name,
            "id": id,
            "cpumask": mask,
            "busy": usage.busy_ns,
            "idle": usage.spin_ns + usage.sleep_ns,
            "in_interrupt": false,
            "active_pollers_count": usage.pollers,
            "timed_pollers_count": 0,
            "paused_pollers_count": 0,
        })
    };
    let threads: Value = engine.reactors().iter().enumerate().map(describe).collect();
    Ok(json!({"tick_rate": TICK_RATE, "threads": threads}))
}

/// The queues that run, each as its controller, the queue's index and its core.
fn queues(disks: &Disks) -> Vec<(&Served, QueueInfo)> {
    let of = |served| match served_state(served) {
        ControllerState::Connected(session) => session.queues,
        _ => Vec::new(),
    };
    disks.controllers().iter().flat_map(|served| of(served).into_iter().map(move |queue| (served, queue))).collect()
}

fn served_state(served: &Served) -> ControllerState {
    served.controller().info().state
}

/// `thread_get_pollers`: a core polls each of its queues, and each bench, once in every turn.
pub(super) fn pollers(engine: &Engine, params: Option<&Value>) -> Answer {
    params::none(params)?;
    let disks = engine.disks();
    let queues = queues(&disks);
    let describe = |(index, reactor): (usize, &Handle)| {
        let (name, id, _) = thread(index, reactor);
        let core = reactor.mailbox().core();
        let own = queues.iter().filter(|(_, queue)| queue.core == core).map(|(served, queue)| format!("{}/q{}", served.name, queue.index));
        let benches = disks.benches().iter().filter(|bench| bench.core() == core && !bench.is_over()).map(Bench::name);
        let pollers = own.chain(benches).zip(1..).map(|(name, id)| json!({"name": name, "id": id, "state": "running"}));
        json!({"name": name, "id": id, "active_pollers": pollers.collect::<Value>(), "timed_pollers": [], "paused_pollers": []})
    };
    let threads: Value = engine.reactors().iter().enumerate().map(describe).collect();
    Ok(json!({"tick_rate": TICK_RATE, "threads": threads}))
}

/// `thread_get_io_channels`: a channel for each queue and each bench, together for each bdev.
pub(super) fn io_channels(engine: &Engine, params: Option<&Value>) -> Answer {
    params::none(params)?;
    let disks = engine.disks();
    let queues = queues(&disks);
    let describe = |(index, reactor): (usize, &Handle)| {
        let (name, id, _) = thread(index, reactor);
        let mut channels: BTreeMap<&str, u32> = BTreeMap::new();
        for (served, _) in queues.iter().filter(|(_, queue)| queue.core == reactor.mailbox().core()) {
            *channels.entry(&served.bdev).or_default() += 1;
        }
        for bench in disks.benches().iter().filter(|bench| bench.core() == reactor.mailbox().core() && !bench.is_over()) {
            *channels.entry(&bench.bdev).or_default() += 1;
        }
        let channels: Value = channels.into_iter().map(|(bdev, channels)| json!({"name": bdev, "ref": channels})).collect();
        json!({"name": name, "id": id, "io_channels": channels})
    };
    let threads: Value = engine.reactors().iter().enumerate().map(describe).collect();
    Ok(json!({"tick_rate": TICK_RATE, "threads": threads}))
}
