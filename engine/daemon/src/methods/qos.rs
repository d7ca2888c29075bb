//! The method that limits how fast a bdev is, and how its limits are shown. Knows no kind of bdev.

use serde::Deserialize;
use serde_json::{Map, Value};
use spinel_control::{RpcError, params};
use spinel_volume::{BURST_MS_DEFAULT, BURST_MS_MAX, Cap, Limit, LimitError, Limits, RATE_MAX};

use super::Answer;
use crate::disks::Bdev;
use crate::engine::Engine;

/// A limit as the RPC has it.
struct Named {
    cap: Cap,
    rate: &'static str,
    burst: &'static str,
    /// What the rate counts in: requests, or bytes of which one of SPDK's "mbytes" has 2^20.
    unit: u64,
}

/// SPDK's names first, then our own, which are made as SPDK makes its.
const NAMED: [Named; 6] = [
    Named { cap: Cap::Ios, rate: "rw_ios_per_sec", burst: "rw_ios_burst_ms", unit: 1 },
    Named { cap: Cap::Bytes, rate: "rw_mbytes_per_sec", burst: "rw_mbytes_burst_ms", unit: 1 << 20 },
    Named { cap: Cap::ReadBytes, rate: "r_mbytes_per_sec", burst: "r_mbytes_burst_ms", unit: 1 << 20 },
    Named { cap: Cap::WriteBytes, rate: "w_mbytes_per_sec", burst: "w_mbytes_burst_ms", unit: 1 << 20 },
    Named { cap: Cap::ReadIos, rate: "r_ios_per_sec", burst: "r_ios_burst_ms", unit: 1 },
    Named { cap: Cap::WriteIos, rate: "w_ios_per_sec", burst: "w_ios_burst_ms", unit: 1 },
];

/// `bdev_set_qos_limit`: what is not named stays; 0 lifts a limit. Rates are kept as they are given; SPDK rounds requests up to
/// thousands. A burst stays with its limit until that is lifted.
pub(super) fn set_limit(engine: &Engine, params: Option<&Value>) -> Answer {
    let asked: SetLimit = params::parse(params)?;
    let disks = engine.disks();
    let bdev = disks.bdev(&asked.name)?;
    let limits = bdev.limits();
    let mut changes = Vec::new();
    for (named, (rate, burst)) in NAMED.iter().zip(asked.limits()) {
        if rate.is_some() || burst.is_some() {
            changes.push((named.cap, named.changed(limits.get(named.cap), rate, burst)?));
        }
    }
    if changes.is_empty() {
        let names: Vec<&str> = NAMED.iter().map(|named| named.rate).collect();
        return Err(RpcError::invalid_params(format!("no limit is given; give at least one of {}; 0 lifts it", names.join(", "))));
    }
    let was_limited = limits.any();
    limits.set(changes);
    let now = Value::Object(assigned(limits).collect());
    tracing::info!("bdev '{}' has these limits now: {now}", bdev.name);
    // What a core that sleeps holds back may be due now.
    engine.wake();
    if limits.any() != was_limited {
        disks.reopen(&bdev.name);
    }
    Ok(true.into())
}

#[derive(Deserialize)]
struct SetLimit {
    name: String,
    #[serde(default)]
    rw_ios_per_sec: Option<u64>,
    #[serde(default)]
    rw_mbytes_per_sec: Option<u64>,
    #[serde(default)]
    r_mbytes_per_sec: Option<u64>,
    #[serde(default)]
    w_mbytes_per_sec: Option<u64>,
    #[serde(default)]
    r_ios_per_sec: Option<u64>,
    #[serde(default)]
    w_ios_per_sec: Option<u64>,
    #[serde(default)]
    rw_ios_burst_ms: Option<u64>,
    #[serde(default)]
    rw_mbytes_burst_ms: Option<u64>,
    #[serde(default)]
    r_mbytes_burst_ms: Option<u64>,
    #[serde(default)]
    w_mbytes_burst_ms: Option<u64>,
    #[serde(default)]
    r_ios_burst_ms: Option<u64>,
    #[serde(default)]
    w_ios_burst_ms: Option<u64>,
}

impl SetLimit {
    /// Rates and bursts in the order of [`NAMED`].
    fn limits(&self) -> [(Option<u64>, Option<u64>); NAMED.len()] {
        [
            (self.rw_ios_per_sec, self.rw_ios_burst_ms),
            (self.rw_mbytes_per_sec, self.rw_mbytes_burst_ms),
            (self.r_mbytes_per_sec, self.r_mbytes_burst_ms),
            (self.w_mbytes_per_sec, self.w_mbytes_burst_ms),
            (self.r_ios_per_sec, self.r_ios_burst_ms),
            (self.w_ios_per_sec, self.w_ios_burst_ms),
        ]
    }
}

impl Named {
    /// The limit that takes the place of `now`.
    fn changed(&self, now: Option<Limit>, rate: Option<u64>, burst: Option<u64>) -> Result<Option<Limit>, RpcError> {
        let per_second = rate.map_or_else(|| now.map_or(0, Limit::per_second), |rate| rate.saturating_mul(self.unit));
        if per_second == 0 {
            let must_be = format!("left out while {} is 0", self.rate);
            return burst.map_or(Ok(None), |burst| Err(params::refuse(self.burst, burst, must_be)));
        }
        let burst_ms = burst.or_else(|| now.map(Limit::burst_ms)).unwrap_or(BURST_MS_DEFAULT);
        Limit::new(per_second, burst_ms).map(Some).map_err(|error| match error {
            LimitError::Rate { .. } => {
                params::refuse(self.rate, rate, format!("0, which lifts the limit, or at most {}", RATE_MAX / self.unit))
            }
            LimitError::Burst { burst_ms } => params::refuse(self.burst, burst_ms, format!("at most {BURST_MS_MAX}")),
        })
    }
}

/// A bdev's limits, as `bdev_get_bdevs` shows them: every rate, and the burst of those that there are.
pub(super) fn describe(limits: &Limits) -> Value {
    let mut described = Map::new();
    for named in &NAMED {
        described.insert(named.rate.into(), 0.into());
    }
    described.extend(assigned(limits));
    described.into()
}

/// The call that sets a bdev's limits, if it has any.
pub(super) fn creation(bdev: &Bdev) -> Option<(&'static str, Value)> {
    let mut params = Map::from_iter([("name".into(), bdev.name.clone().into())]);
    params.extend(bdev.limits().any().then(|| assigned(bdev.limits()))?);
    Some(("bdev_set_qos_limit", params.into()))
}

/// Only what is limited.
fn assigned(limits: &Limits) -> impl Iterator<Item = (String, Value)> {
    let limited = NAMED.iter().filter_map(|named| Some((named, limits.get(named.cap)?)));
    limited.flat_map(|(named, limit)| {
        let rate = limit.per_second() / named.unit;
        [(named.rate.to_owned(), rate.into()), (named.burst.to_owned(), limit.burst_ms().into())]
    })
}
