//! One daemon takes over from another: what they say to each other. Knows no device and no ring.
//!
//! The next process asks the running one by RPC (`spinel_hand_over`) to connect to a
//! socket of its own. Then they take turns:
//!
//! | running process | next process |
//! |---|---|
//! | `Offer`: the calls that make everything, and all that is open | |
//! | | `Ready`: everything is built and mapped, nothing is touched |
//! | stops its queues; `Stopped`: where their rings go on | |
//! | | `Prepared` |
//! | `Commit`: touches nothing from here on | |
//! | | starts its queues; `Serving` |
//! | ends | |
//!
//! Before `Commit` is sent the running process goes on as before whatever happens, and
//! says `Refused` if it can. If the connection ends before `Commit` has come, and that
//! process with it, the next one closes all it was given and begins as after a crash.

mod blackouts;
mod giving;
mod inherited;
mod taking;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use spinel_handover::Fd;
use spinel_vhost::{ControllerParcel, Places};

pub(crate) use blackouts::Blackouts;
pub(crate) use giving::{Given, hand_over};
pub(crate) use inherited::Inherited;
pub(crate) use taking::{Taken, take_over};

/// What the running process says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
enum FromOld {
    /// What there is; all of it goes on meanwhile, but that no front end and no changing call is answered.
    Offer(Box<Offer>),
    /// The queues have stopped: by controller, where their rings go on.
    Stopped(Vec<(String, Places)>),
    /// It is the next process's from here on.
    Commit,
    /// It goes on by itself.
    Refused(String),
}

/// What the next process says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
enum FromNew {
    /// It could serve all of it.
    Ready,
    /// It could not, for this reason.
    Failed(String),
    /// It knows where the rings go on.
    Prepared,
    /// It serves.
    Serving,
}

/// Everything that one process gives to the next.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Offer {
    /// The calls that make it, in their order.
    calls: Vec<(String, Value)>,
    /// What the RPC clients connect to.
    rpc: Fd,
    /// Open files, by bdev.
    files: Vec<FileParcel>,
    /// Disks in memory, by bdev.
    memories: Vec<(String, Fd)>,
    /// By name.
    controllers: Vec<(String, ControllerParcel)>,
    /// What earlier takeovers took.
    blackouts: Blackouts,
}

/// An open file or block device; its lock goes with it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FileParcel {
    pub(crate) bdev: String,
    pub(crate) file: Fd,
    /// How many blocks its guests believe it has.
    pub(crate) blocks: u64,
    /// Whether a flush of it has failed after which the kernel may have forgotten writes.
    pub(crate) lost_writes: bool,
}
