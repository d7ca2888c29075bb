//! What happened between two looks, as rates. It refuses to know how they are shown.

use super::sample::Sample;
use crate::reply::{BdevStat, OPERATIONS};
use crate::verbs::Usage;
use serde_json::{Value, json};
use spinel_control::histogram::{Bucket, to_hdr};

/// Rates between two looks.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) cores: Vec<Core>,
    /// The busiest first.
    pub(super) disks: Vec<Disk>,
}

#[derive(Debug)]
pub(super) struct Core {
    pub(super) core: u64,
    pub(super) usage: Usage,
}

/// One disk; rates are per second.
#[derive(Debug, Default)]
pub(super) struct Disk {
    pub(super) name: String,
    /// Of every kind of operation.
    pub(super) iops: f64,
    pub(super) reads: f64,
    pub(super) writes: f64,
    pub(super) read_bytes: f64,
    pub(super) write_bytes: f64,
    /// Of what completed between the looks; `None` if nothing did, or the daemon does not tell.
    pub(super) p50_ns: Option<u64>,
    pub(super) p99_ns: Option<u64>,
    pub(super) in_flight: Option<u64>,
}

impl Disk {
    pub(super) fn bytes(&self) -> f64 {
        self.read_bytes + self.write_bytes
    }
}

impl Frame {
    pub(super) fn between(before: &Sample, now: &Sample) -> Self {
        // The daemon's own clock, so that it does not matter when its replies arrive.
        let seconds = now.iostat.ticks.saturating_sub(before.iostat.ticks) as f64 / now.iostat.tick_rate.max(1) as f64;
        let per_s = if seconds == 0.0 { 0.0 } else { 1.0 / seconds };
        let elapsed = Some(now.reactors.ticks(seconds));
        let cores = now.reactors.reactors.iter().map(|reactor| {
            let earlier = before.reactors.reactors.iter().find(|earlier| earlier.lcore == reactor.lcore);
            Core { core: reactor.lcore, usage: Usage::between(earlier, reactor, elapsed) }
        });
        let mut disks: Vec<Disk> = now
            .iostat
            .bdevs
            .iter()
            .map(|disk| {
                let earlier = before.iostat.bdevs.iter().find(|earlier| earlier.name == disk.name);
                let (p50_ns, p99_ns) = percentiles(&disk.name, before, now);
                Disk { p50_ns, p99_ns, ..rates(earlier, disk, per_s) }
            })
            .collect();
        disks.sort_by(|a, b| b.iops.total_cmp(&a.iops).then_with(|| a.name.cmp(&b.name)));
        Self { cores: cores.collect(), disks }
    }

    /// For scripts: one object, rates per second, times in ns, shares of one.
    pub(super) fn to_json(&self) -> Value {
        let core = |core: &Core| {
            let Usage { busy, spin, sleep, .. } = core.usage;
            json!({"core": core.core, "busy": busy, "spin": spin, "sleep": sleep})
        };
        let disk = |disk: &Disk| {
            json!({
                "name": disk.name,
                "iops": disk.iops,
                "reads": disk.reads,
                "writes": disk.writes,
                "read_bytes": disk.read_bytes,
                "write_bytes": disk.write_bytes,
                "p50_ns": disk.p50_ns,
                "p99_ns": disk.p99_ns,
                "in_flight": disk.in_flight,
            })
        };
        json!({
            "cores": self.cores.iter().map(core).collect::<Vec<_>>(),
            "disks": self.disks.iter().map(disk).collect::<Vec<_>>(),
        })
    }
}

/// A disk that was not there before has done all it did since.
fn rates(earlier: Option<&BdevStat>, now: &BdevStat, per_s: f64) -> Disk {
    let mut rates = Disk { name: now.name.clone(), in_flight: now.in_flight, ..Disk::default() };
    for names in OPERATIONS {
        let (then, now) = (earlier.map(|earlier| earlier.operation(names)).unwrap_or_default(), now.operation(names));
        let ops = now.count.saturating_sub(then.count) as f64 * per_s;
        let bytes = now.bytes.unwrap_or(0).saturating_sub(then.bytes.unwrap_or(0)) as f64 * per_s;
        rates.iops += ops;
        match names.0 {
            "read" => (rates.reads, rates.read_bytes) = (ops, bytes),
            "write" => (rates.writes, rates.write_bytes) = (ops, bytes),
            _ => {}
        }
    }
    rates
}

/// p50 and p99 of what was counted between the looks.
fn percentiles(name: &str, before: &Sample, now: &Sample) -> (Option<u64>, Option<u64>) {
    let none: &[Bucket] = &[];
    let Some(counts) = now.histograms.get(name) else {
        return (None, None);
    };
    let earlier = before.histograms.get(name).map_or(none, Vec::as_slice);
    let grown = counts.iter().map(|&(lowest, highest, count)| {
        // Both are sorted by value: from_spdk goes through the buckets in their order.
        let then = earlier.binary_search_by_key(&lowest, |bucket| bucket.0).map_or(0, |index| earlier[index].2);
        (lowest, highest, count.saturating_sub(then))
    });
    let histogram = to_hdr(grown);
    if histogram.is_empty() {
        return (None, None);
    }
    (Some(histogram.value_at_quantile(0.5)), Some(histogram.value_at_quantile(0.99)))
}

#[cfg(test)]
mod tests {
    use super::{Frame, Sample};
    use serde_json::json;
    use spinel_control::histogram::Bucket;

    fn sample(seconds: u64, reads: u64, busy: u64, buckets: &[Bucket]) -> Sample {
        let iostat = json!({
            "tick_rate": 1000, "ticks": seconds * 1000,
            "bdevs": [
                {"name": "idle"},
                {"name": "d0", "num_read_ops": reads, "bytes_read": reads * 4096, "num_flush_ops": reads / 10, "in_flight": 3},
            ],
        });
        let reactors = json!({
            "tick_rate": 1000,
            "reactors": [{"lcore": 1, "busy": busy, "idle": 1000 * seconds - busy, "sleep": 100 * seconds}],
        });
        Sample {
            iostat: serde_json::from_value(iostat).expect("a reply"),
            reactors: serde_json::from_value(reactors).expect("a reply"),
            histograms: [("d0".to_owned(), buckets.to_vec())].into(),
        }
    }

    #[test]
    fn rates_are_of_the_time_between_the_looks() {
        let before = sample(10, 1000, 1000, &[(100, 110, 500), (900, 910, 7)]);
        let now = sample(12, 3000, 1500, &[(100, 110, 500), (300, 310, 98), (900, 910, 9)]);
        let frame = Frame::between(&before, &now);
        let names: Vec<_> = frame.disks.iter().map(|disk| disk.name.as_str()).collect();
        assert_eq!(names, ["d0", "idle"], "the busiest comes first");
        let disk = &frame.disks[0];
        assert_eq!((disk.reads, disk.writes, disk.iops), (1000.0, 0.0, 1100.0));
        assert_eq!(disk.bytes(), 4096.0 * 1000.0);
        assert_eq!((disk.p50_ns, disk.p99_ns, disk.in_flight), (Some(310), Some(910), Some(3)));
        let usage = frame.cores[0].usage;
        assert_eq!((usage.busy, usage.spin, usage.sleep), (0.25, None, Some(0.1)));
    }

    #[test]
    fn two_looks_at_the_same_moment_have_no_rates() {
        let now = sample(12, 3000, 1500, &[(100, 110, 500)]);
        let frame = Frame::between(&now, &now);
        assert_eq!((frame.disks[0].iops, frame.disks[0].p50_ns, frame.cores[0].usage.busy), (0.0, None, 0.0));
    }

    #[test]
    fn counts_that_were_reset_between_the_looks_are_not_negative() {
        let before = sample(10, 1000, 1000, &[(100, 110, 500)]);
        let now = sample(12, 10, 10, &[(100, 110, 3)]);
        let frame = Frame::between(&before, &now);
        assert_eq!((frame.disks[0].iops, frame.disks[0].p50_ns, frame.cores[0].usage.busy), (0.0, None, 0.0));
    }
}
