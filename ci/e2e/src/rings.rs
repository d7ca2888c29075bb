//! A guest with a disk for every kind of ring that its front end can ask for: split or packed, with and without EVENT_IDX and tables, one queue and four.

use crate::{Bench, DISK, Failure, Findings};
use serde_json::json;
use spinel_testbed::clock::Deadline;
use spinel_testbed::guest::{Disk, Rings};

const RINGS: &str = include_str!("../guest/rings.sh");

const LEN_BYTES: u64 = 32 << 20;

pub(crate) fn run(bench: &Bench) -> Result<Findings, Failure> {
    let mut claims = Vec::new();
    // A guest has slots for 15 disks, and there are 16 kinds.
    for packed in [false, true] {
        claims.extend(guest(bench, packed)?);
    }
    Ok(Findings { claims, ..Findings::default() })
}

fn guest(bench: &Bench, packed: bool) -> Result<Vec<spinel_testbed::guest::Claim>, Failure> {
    let layout = if packed { "packed" } else { "split" };
    let name = format!("rings-{layout}");
    let mut daemon = bench.daemon(&name)?;
    let (mut disks, mut script) = (Vec::new(), format!("{DISK}\n{RINGS}\n"));
    for (queues, event_idx, indirect) in kinds() {
        let number = disks.len();
        let bdev = format!("memory-{number}");
        daemon.call("bdev_malloc_create", json!({"name": bdev, "num_blocks": LEN_BYTES / 512, "block_size": 512}))?;
        disks.push(Disk { socket: daemon.serve(&bdev, false)?, queues, rings: Rings { packed, event_idx, indirect }, reconnects: false });
        let [packed, event_idx, indirect] = [packed, event_idx, indirect].map(u8::from);
        script += &format!("rings {number} {packed} {event_idx} {indirect} {queues}\n");
    }
    // As many processors as queues: with fewer, the guest's driver uses fewer.
    let guest = bench.boot_with(&name, 4, disks, script + "conclude\n")?;
    let claims = guest.finish(Deadline::after_s(300))?;
    daemon.stop()?;
    Ok(claims)
}

/// Queues, EVENT_IDX, tables.
fn kinds() -> impl Iterator<Item = (u16, bool, bool)> {
    let of_queues =
        |queues| [(false, false), (false, true), (true, false), (true, true)].map(|(event_idx, indirect)| (queues, event_idx, indirect));
    [1, 4].into_iter().flat_map(of_queues)
}
