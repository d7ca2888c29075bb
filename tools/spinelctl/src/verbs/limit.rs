//! `spinelctl disk limit`: how fast a disk may be, and how that is shown.

use super::Session;
use super::disk::find;
use crate::cli::Limit;
use crate::failure::Failure;
use crate::reply::Bdev;
use crate::table;
use serde_json::{Value, json};
use spinel_units::size;

const METHOD: &str = "bdev_set_qos_limit";
const MIB: u64 = 1 << 20;

/// A limit by the start of its parameters' names, and what it counts, unless it counts bytes, for people.
const LIMITS: [(&str, &str); 6] = [
    ("rw_ios", " requests/s"),
    ("r_ios", " reads/s"),
    ("w_ios", " writes/s"),
    ("rw_mbytes", "/s"),
    ("r_mbytes", "/s read"),
    ("w_mbytes", "/s written"),
];

fn is_of_bytes(limit: &str) -> bool {
    limit.ends_with("mbytes")
}

pub(super) fn run(session: &mut Session, limit: &Limit) -> Result<(), Failure> {
    let result = session.daemon.call(METHOD, Some(params(limit)?))?;
    if session.json {
        return table::print_json(&result);
    }
    let disk = find(session, &limit.name)?;
    let shown = shown(&disk);
    let name = &disk.name;
    table::print(&table::printable(&if shown.is_empty() {
        format!("{name} is not limited")
    } else {
        format!("{name} is limited to {shown}")
    }))
}

fn params(limit: &Limit) -> Result<Value, Failure> {
    let Limit { name, iops, read_iops, write_iops, bandwidth, read_bandwidth, write_bandwidth, burst, none } = limit;
    let burst_ms = burst.map(|burst_us| whole("burst", burst_us, 1000, "milliseconds")).transpose()?;
    let rates = [iops, read_iops, write_iops, bandwidth, read_bandwidth, write_bandwidth];
    let mut params = json!({"name": name});
    for ((limit, _), rate) in LIMITS.into_iter().zip(rates) {
        let Some(rate) = rate.or(none.then_some(0)) else { continue };
        let rate = if is_of_bytes(limit) { whole("bandwidth", rate, MIB, "MiB")? } else { rate };
        params[format!("{limit}_per_sec")] = rate.into();
        if let Some(burst_ms) = burst_ms.filter(|_| rate > 0) {
            params[format!("{limit}_burst_ms")] = burst_ms.into();
        }
    }
    Ok(params)
}

fn whole(what: &str, amount: u64, unit: u64, units: &str) -> Result<u64, Failure> {
    if amount.is_multiple_of(unit) { Ok(amount / unit) } else { Err(Failure::Usage(format!("the {what} must be whole {units}"))) }
}

/// What a disk is limited to, in words; empty if it is not.
pub(super) fn shown(disk: &Bdev) -> String {
    let number = |name: String| disk.assigned_rate_limits.get(&name).and_then(Value::as_u64);
    let limited = LIMITS.into_iter().filter_map(|(limit, counts)| {
        let rate = number(format!("{limit}_per_sec")).filter(|rate| *rate > 0)?;
        let rate = if is_of_bytes(limit) { size(rate.saturating_mul(MIB)) } else { rate.to_string() };
        let burst = number(format!("{limit}_burst_ms")).map_or_else(String::new, |burst_ms| format!(" (burst {burst_ms} ms)"));
        Some(format!("{rate}{counts}{burst}"))
    });
    limited.collect::<Vec<_>>().join(", ")
}
