//! QEMU killed (SIGKILL) with I/O in flight, and started again on the same socket of the same daemon.

use crate::{Bench, DISK, Failure, Findings, claim};
use serde_json::json;
use spinel_testbed::backing::sparse_file;
use spinel_testbed::clock::Deadline;

const DEATH: &str = include_str!("../guest/death.sh");

/// How often a guest is killed.
const DEATHS: u32 = 2;

pub(crate) fn run(bench: &Bench) -> Result<Findings, Failure> {
    let mut daemon = bench.daemon("death")?;
    let file = bench.disk_file("death");
    sparse_file(&file, 128 << 20)?;
    daemon.call("bdev_uring_create", json!({"filename": file, "name": "death", "block_size": 512}))?;
    let socket = daemon.serve("death", false)?;
    let mut claims = Vec::new();
    for life in 1..=DEATHS {
        let script = format!("{DISK}\n{DEATH}\ndies 0\n");
        let mut guest = bench.boot(&format!("death-{life}"), 1, vec![socket.clone()], script)?;
        guest.until("reached: busy", Deadline::after_s(60))?;
        claims.extend(guest.kill());
        let script = format!("{DISK}\n{DEATH}\nlives_again 0\nconclude\n");
        let guest = bench.boot(&format!("life-{life}"), 1, vec![socket.clone()], script)?;
        claims.extend(guest.finish(Deadline::after_s(60))?);
    }
    daemon.stop()?;
    claims.push(claim("death: the daemon outlived its guests, and stopped in order", true));
    Ok(Findings { claims, ..Findings::default() })
}
