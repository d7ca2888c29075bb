//! The methods that show bdevs of every kind. Knows no kind's own parameters.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use spinel_control::params;

use super::{Answer, qos};
use crate::disks::{Bdev, Disks};
use crate::engine::Engine;

#[derive(Deserialize)]
struct GetBdevs {
    #[serde(default)]
    name: Option<String>,
    /// How long a bdev that is not there is waited for, in ms.
    #[serde(default)]
    timeout: u64,
}

/// For how long `bdev_get_bdevs` waits for the bdev it names.
pub(super) fn patience(engine: &Engine, params: Option<&Value>) -> Duration {
    match params::parse(params) {
        Ok(GetBdevs { name: Some(name), timeout }) if !engine.disks().has_bdev(&name) => Duration::from_millis(timeout),
        _ => Duration::ZERO,
    }
}

/// `bdev_get_bdevs`: refused while the named bdev is not there; the server repeats the call.
pub(super) fn list(engine: &Engine, params: Option<&Value>) -> Answer {
    let GetBdevs { name, timeout: _ } = params::parse(params)?;
    let disks = engine.disks();
    Ok(match name {
        Some(name) => json!([describe(&disks, disks.bdev(&name)?)]),
        None => disks.bdevs().iter().map(|bdev| describe(&disks, bdev)).collect(),
    })
}

/// `bdev_wait_for_examine`: a bdev is examined by nobody, so there is nothing to wait for.
pub(super) fn wait_for_examine(_: &Engine, params: Option<&Value>) -> Answer {
    params::none(params)?;
    Ok(true.into())
}

fn describe(disks: &Disks, bdev: &Bdev) -> Value {
    let geometry = bdev.device().geometry();
    let changes = !geometry.read_only;
    // As in SPDK, a bdev made of this one claims it; a controller does not.
    let claimed = disks.bdevs().iter().any(|other| other.kind.base() == Some(&bdev.name));
    let mut described = json!({
        "name": bdev.name,
        "aliases": [bdev.uuid],
        "product_name": bdev.kind.product(),
        "block_size": geometry.block_bytes,
        "num_blocks": geometry.block_count,
        "physical_block_size": geometry.physical_block_bytes,
        "uuid": bdev.uuid,
        "assigned_rate_limits": qos::describe(bdev.limits()),
        "claimed": claimed,
        "zoned": false,
        "supported_io_types": {
            "read": true,
            "write": changes,
            "unmap": changes && geometry.features.discard,
            "flush": true,
            "reset": false,
            "nvme_admin": false,
            "nvme_io": false,
            "nvme_io_md": false,
            "write_zeroes": changes && geometry.features.write_zeroes,
            "zcopy": false,
            "get_zone_info": false,
            "zone_management": false,
            "zone_append": false,
            "compare": false,
            "compare_and_write": false,
            "abort": false,
            "seek_hole": false,
            "seek_data": false,
            "copy": false,
            "nvme_iov_md": false,
        },
        "driver_specific": bdev.kind.specifics(&bdev.name),
    });
    if claimed {
        described["claim_type"] = "exclusive_write".into();
    }
    described
}
