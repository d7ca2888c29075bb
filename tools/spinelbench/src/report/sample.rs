//! Reports for tests, made of made-up latencies. Knows no target.

use std::collections::BTreeMap;

use spinel_core::{Instant, OpKind, Status};
use spinel_load::{Arrival, Ended, Job, Mix, Tally};

use super::collect::{Collector, Setting};
use super::{Machine, Report, Run, VERSION, Verified};

pub(super) const INTERVAL_NS: u64 = 1_000_000_000;

/// An empty tally of reads, writes and flushes between two moments.
pub(super) fn tally(from_ns: u64, until_ns: u64) -> Tally {
    let mut tally = Tally::of(|kind| matches!(kind, OpKind::Read | OpKind::Write | OpKind::Flush));
    (tally.from, tally.until) = (Instant { ns: from_ns }, Instant { ns: until_ns });
    tally
}

/// 4 KiB random reads on core 1, for 30 seconds.
pub(super) fn setting() -> Setting {
    let mut job = Job { depth: 8, warm_up_ns: 2_000_000_000, ..Job::new() };
    job.length.time_ns = Some(30 * INTERVAL_NS);
    Setting {
        name: "randread".into(),
        target: "vhost:/run/spinel/disk0.sock".into(),
        disk_bytes: 10 << 30,
        block_bytes: 512,
        job,
        cores: vec![1],
        started_unix_ms: 1_795_167_272_224,
        client_cpu_ns: 29_500_000_000,
        server_cpu_ns: Some(21_000_000_000),
        verified: None,
    }
}

fn machine() -> Machine {
    Machine { host: "nimbus".into(), processor: "AMD EPYC 9354P".into(), processors: 32, memory_bytes: 128 << 30, kernel: "6.18.0".into() }
}

pub(super) fn report(runs: Vec<Run>, knee: Option<usize>) -> Report {
    Report { version: VERSION, tool: "spinelbench 0.1.0".into(), machine: machine(), runs, knee }
}

/// Numbers that look random and are the same in each run.
struct Dice(u64);

impl Dice {
    /// Evenly from 0 to 1.
    fn roll(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        f64::from(u32::try_from(self.0 >> 32).unwrap_or_default()) / f64::from(u32::MAX)
    }

    /// A latency around a median, with a tail.
    fn latency_ns(&mut self, median_ns: f64) -> u64 {
        let around: f64 = (0..6).map(|_| self.roll()).sum::<f64>() / 3.0 - 1.0;
        let tail = if self.roll() < 0.004 { 4.0 + 10.0 * self.roll() } else { 1.0 };
        super::words::whole(median_ns * (1.0 + 0.45 * around) * tail + if self.roll() < 0.000_2 { 2.2e6 } else { 0.0 })
    }
}

/// A run of so many seconds, with so many requests a second of each kind around a median.
pub(super) fn run(setting: Setting, kinds: &[(OpKind, u32, f64)], seconds: u64) -> Run {
    let mut dice = Dice(setting.started_unix_ms ^ u64::from(setting.job.depth));
    let mut collector = Collector::new(1, INTERVAL_NS);
    for second in 0..seconds {
        let mut tally = tally(second * INTERVAL_NS, (second + 1) * INTERVAL_NS);
        // A hiccup in the middle, as disks have.
        let pressed = if second == seconds / 2 { 1.9 } else { 1.0 + 0.08 * dice.roll() };
        for &(kind, per_second, median_ns) in kinds {
            for _ in 0..super::words::whole(f64::from(per_second) / pressed) {
                let bytes = if kind == OpKind::Flush { 0 } else { 4096 };
                tally.record(kind, bytes, dice.latency_ns(median_ns * pressed), Status::Ok);
            }
        }
        tally.ended = (second + 1 == seconds).then_some(Ended::Done);
        collector.take(0, &tally);
    }
    collector.finish(setting)
}

/// One run of reads.
pub(super) fn reads() -> Report {
    report(vec![run(setting(), &[(OpKind::Read, 2_000, 61_000.0)], 30)], None)
}

/// Two thirds reads, one third writes, and flushes.
pub(super) fn mixed() -> Report {
    let mut setting = setting();
    setting.name = "mixed".into();
    setting.job.mix = Mix { read: 67, write: 33, ..Mix::default() };
    setting.job.flush_every = 32;
    setting.cores = vec![1, 3];
    let kinds = [(OpKind::Read, 1_300, 70_000.0), (OpKind::Write, 700, 31_000.0), (OpKind::Flush, 20, 1_400_000.0)];
    report(vec![run(setting, &kinds, 20)], None)
}

/// The same reads three times: as they were, faster, and slower with a cheaper other side.
pub(super) fn three() -> Report {
    let named = |name: &str, target: &str, server_cpu_ns, median_ns, per_second| {
        let setting = Setting { name: name.into(), target: target.into(), server_cpu_ns, ..setting() };
        run(setting, &[(OpKind::Read, per_second, median_ns)], 30)
    };
    let runs = vec![
        named("qemu-storage-daemon", "vhost:/run/qsd.sock", Some(24_000_000_000), 88_000.0, 1_400),
        named("spinel", "vhost:/run/spinel/disk0.sock", Some(21_000_000_000), 61_000.0, 2_000),
        named("fio on the file", "file:/var/lib/disk0.img", None, 58_000.0, 2_060),
    ];
    report(runs, None)
}

/// Ever higher rates, until the disk cannot keep up.
pub(super) fn sweep() -> Report {
    let rates = [500_u32, 1_000, 1_500, 2_000, 2_500, 3_000, 3_250, 3_500];
    let runs = rates.into_iter().map(|rate| {
        let mut setting = setting();
        setting.name = format!("{rate}/s");
        setting.job.arrival = Arrival::Steady { per_second: rate.into() };
        setting.started_unix_ms += u64::from(rate) * 30;
        let load = f64::from(rate) / 3_400.0;
        let (reached, median_ns) = if load < 1.0 { (rate, 42_000.0 / (1.02 - load)) } else { (3_300, 9e6) };
        // A run's own jitter is made undone: an open loop's rate is what it is asked for.
        let mut run = run(setting, &[(OpKind::Read, reached, median_ns)], 10);
        run.all.iops = f64::from(reached);
        run
    });
    report(runs.collect(), Some(5))
}

/// Everything that can go wrong in one run.
pub(super) fn troubled() -> Report {
    let mut setting = setting();
    setting.name = "</script><img src=x onerror=alert(1)>".into();
    setting.target = "file:/tmp/\u{1b}[2J\"a&b'</script>".into();
    setting.job.arrival = Arrival::Poisson { per_second: 1e6 };
    setting.server_cpu_ns = None;
    setting.verified = Some(Verified {
        sectors: 4_096,
        stamps: 4_000,
        wrong: 2,
        unreadable: 3,
        read_back: false,
        findings: vec!["block 77: misdirected write: it holds what was written to block <78>".into()],
    });
    let mut collector = Collector::new(1, INTERVAL_NS);
    let mut tally = tally(0, INTERVAL_NS);
    for number in 0..1_000 {
        let status = match number % 100 {
            0 => Status::Medium,
            1 => Status::Aborted,
            _ => Status::Ok,
        };
        tally.record(OpKind::Read, 4096, 50_000 + number, status);
    }
    tally.ended = Some(Ended::Stopped);
    collector.take(0, &tally);
    report(vec![collector.finish(setting)], None)
}

/// A run in which nothing ended.
pub(super) fn hung() -> Report {
    let mut run = Collector::new(1, INTERVAL_NS).finish(setting());
    run.ops = BTreeMap::new();
    report(vec![run], None)
}
