//! The methods of loads inside the engine: a bdev measured without a transport. Knows no kind of bdev.

use serde::Deserialize;
use serde_json::{Value, json};
use spinel_control::RpcError;
use spinel_control::params;
use spinel_core::{CoreId, Mailbox};
use spinel_load::{Job, Memory};
use spinel_reactor::Handle;

use super::Answer;
use crate::bench::{BENCH_BYTES_MAX, Bench};
use crate::disks::Disks;
use crate::engine::Engine;

/// The parameters of a method that names a bench.
#[derive(Deserialize)]
struct Numbered {
    id: u64,
}

/// `bdev_bench_start`.
pub(super) fn start(engine: &Engine, params: Option<&Value>) -> Answer {
    #[derive(Deserialize)]
    struct Start {
        name: String,
        job: Value,
        #[serde(default)]
        core: Option<u16>,
        #[serde(default)]
        allow_writes: bool,
    }
    let Start { name, job, core, allow_writes } = params::parse(params)?;
    let job: Job = serde_json::from_value(job).map_err(|error| refuse_job(format!("is no job: {error}")))?;
    let mut disks = engine.disks();
    disks.tidy_benches(engine.ticks());
    disks.check_bench_vacant()?;
    let mailbox = choose(engine, &disks, core)?;
    let bdev = disks.bdev(&name)?;
    job.check(&bdev.device().geometry()).map_err(|error| refuse_job(format!("does not fit bdev '{}': {error}", bdev.name)))?;
    let bytes = Memory::bytes_for(&job);
    if bytes > BENCH_BYTES_MAX {
        return Err(refuse_job(format!(
            "needs {bytes} bytes of memory for the requests in flight, and may have {BENCH_BYTES_MAX}: make its depth or its requests smaller"
        )));
    }
    if job.mix.changes_data() {
        if !allow_writes {
            return Err(params::refuse("allow_writes", false, format!("true for this job, which changes what bdev '{}' holds", bdev.name)));
        }
        disks.check_unserved(bdev)?;
    }
    let bench = Bench::start(disks.next_bench(), bdev, job, mailbox)?;
    Ok(json!({"id": disks.add_bench(bench)}))
}

fn refuse_job(because: String) -> RpcError {
    RpcError::invalid_params(format!("parameter 'job' {because}"))
}

/// The way to the core that was named, or to the one with the fewest benches.
fn choose<'a>(engine: &'a Engine, disks: &Disks, core: Option<u16>) -> Result<&'a Mailbox, RpcError> {
    let mut mailboxes = engine.reactors().iter().map(Handle::mailbox);
    let Some(core) = core else {
        let busy = |mailbox: &&Mailbox| disks.benches().iter().filter(|bench| !bench.is_over() && bench.core() == mailbox.core()).count();
        return Ok(mailboxes.min_by_key(busy).expect("it runs on one core at least"));
    };
    let named = mailboxes.find(|mailbox| mailbox.core() == CoreId(core));
    named.ok_or_else(|| params::refuse("core", core, format!("one that the daemon runs on: {}", engine.cores())))
}

/// `bdev_bench_get`: each tally is told once.
pub(super) fn get(engine: &Engine, params: Option<&Value>) -> Answer {
    let Numbered { id } = params::parse(params)?;
    let mut disks = engine.disks();
    disks.tidy_benches(engine.ticks());
    Ok(disks.bench_mut(id)?.tell())
}

/// `bdev_bench_stop`: tells what was not told yet, and forgets it.
pub(super) fn stop(engine: &Engine, params: Option<&Value>) -> Answer {
    let Numbered { id } = params::parse(params)?;
    let mut disks = engine.disks();
    disks.tidy_benches(engine.ticks());
    let bench = disks.bench_mut(id)?;
    bench.stop()?;
    let told = bench.tell();
    disks.remove_bench(id);
    Ok(told)
}
