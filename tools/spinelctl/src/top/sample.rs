//! One look at the daemon: everything that `top` compares with the look before. It refuses to know
//! what has changed.

use crate::daemon::Daemon;
use crate::failure::Failure;
use crate::reply::{Iostat, Reactors};
use serde_json::json;
use spinel_control::histogram::{self, Bucket};
use std::collections::{BTreeMap, BTreeSet};

/// Of how many disks the histograms are read at each look (some 80 kB each); of more, none are.
const HISTOGRAMS_MAX: usize = 64;

/// What one look found.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    pub(super) reactors: Reactors,
    pub(super) iostat: Iostat,
    /// All latencies so far, of the disks whose daemon counts them.
    pub(super) histograms: BTreeMap<String, Vec<Bucket>>,
}

/// Takes samples.
#[derive(Debug)]
pub(super) struct Sampler<'a> {
    daemon: &'a mut Daemon,
    disks: &'a [String],
    /// Disks whose histogram was refused once; asking again and again would fill the daemon's log.
    without: BTreeSet<String>,
}

impl<'a> Sampler<'a> {
    /// Looks at `disks`, or at all if there are none.
    pub(super) fn new(daemon: &'a mut Daemon, disks: &'a [String]) -> Self {
        Self { daemon, disks, without: BTreeSet::new() }
    }

    pub(super) fn take(&mut self) -> Result<Sample, Failure> {
        let params = (!self.disks.is_empty()).then(|| json!({"names": self.disks}));
        let iostat: Iostat = self.daemon.read("bdev_get_iostat", params)?;
        let reactors = self.daemon.read("framework_get_reactors", None)?;
        let mut histograms = BTreeMap::new();
        if iostat.bdevs.len() <= HISTOGRAMS_MAX {
            for disk in &iostat.bdevs {
                if self.without.contains(&disk.name) {
                    continue;
                }
                let reply = self.daemon.ask("bdev_get_histogram", Some(json!({"name": disk.name})))?;
                match reply.ok().and_then(|reply| histogram::from_spdk(&reply).ok()) {
                    Some(buckets) => drop(histograms.insert(disk.name.clone(), buckets)),
                    None => drop(self.without.insert(disk.name.clone())),
                }
            }
        }
        Ok(Sample { reactors, iostat, histograms })
    }
}
