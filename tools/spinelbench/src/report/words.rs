//! Runs and their figures in words: jobs, rates, times, dates. Knows no layout.

use std::collections::BTreeSet;

use spinel_core::OPS;
use spinel_load::{Arrival, Job, Order, Sizes, kind_name};
use spinel_units::{count, size, time};

use super::{Machine, Report, Run};

/// The keys of [`Run::ops`], in the order of [`OPS`].
pub const KINDS: [&str; OPS.len()] = [kind_name(OPS[0]), kind_name(OPS[1]), kind_name(OPS[2]), kind_name(OPS[3]), kind_name(OPS[4])];

/// What a status means to whoever measures.
#[must_use]
pub fn status(name: &str) -> &str {
    match name {
        "medium" => "failed by the medium or the kernel",
        "unsupported" => "not supported",
        "aborted" => "given up",
        "capacity" => "out of space",
        "range" => "beyond the disk's end",
        "protected" => "refused by a read-only disk",
        "malformed" => "made no sense to the disk",
        other => other,
    }
}

/// The text without control characters, which could move the cursor of whoever reads it.
#[must_use]
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// The whole number nearest to one that is not negative.
#[must_use]
pub fn whole(number: f64) -> u64 {
    // The language's conversions may lose without a word; text cannot.
    format!("{:.0}", number.max(0.0)).parse().unwrap_or_default()
}

/// A time without a blank, for columns: "12.3us".
#[must_use]
pub fn tight(ns: u64) -> String {
    time(ns).replace(' ', "")
}

/// "1.5 GiB/s"
#[must_use]
pub fn bandwidth(bytes_per_s: f64) -> String {
    format!("{}/s", size(whole(bytes_per_s)))
}

/// A share of 100: "12.5 %"; three digits at most.
#[must_use]
pub fn share(part: f64, of: f64) -> String {
    spinel_units::percent(if of > 0.0 { part / of } else { 0.0 })
}

/// The kinds, the order, the sizes and the pace of a job that runs on so many cores.
#[must_use]
pub fn job(job: &Job, cores: usize) -> String {
    let mut parts = vec![mix(job), order(job.order), sizes(job.sizes), format!("depth {}", job.depth), pace(job, cores)];
    if job.flush_every > 0 {
        parts.push(match job.flush_every {
            1 => "a flush after every write".to_owned(),
            every => format!("a flush after every {every} writes"),
        });
    }
    if job.fua {
        parts.push("FUA".to_owned());
    }
    if job.area != spinel_load::Area::default() {
        let start = size(job.area.start_bytes);
        parts.push(match job.area.len_bytes {
            Some(len) => format!("area of {} from {start}", size(len)),
            None => format!("area from {start}"),
        });
    }
    parts.join(", ")
}

fn mix(job: &Job) -> String {
    let shares = job.mix.shares();
    let asked = KINDS.iter().zip(shares).filter(|(_, share)| *share > 0);
    let words: Vec<String> = match asked.clone().count() {
        1 => asked.map(|(kind, _)| kind.replace('_', " ")).collect(),
        _ => asked.map(|(kind, share)| format!("{share} % {}", kind.replace('_', " "))).collect(),
    };
    words.join(" + ")
}

fn order(order: Order) -> String {
    match order {
        Order::Sequential => "in sequence".to_owned(),
        Order::Uniform => "at random".to_owned(),
        Order::Zipf { theta } => format!("Zipf {theta}"),
        Order::HotSpot { requests, area } => format!("{requests} % on a hot spot of {area} %"),
    }
}

fn sizes(sizes: Sizes) -> String {
    if sizes.min_bytes == sizes.max_bytes {
        return size(sizes.min_bytes.into());
    }
    format!("{} to {}", size(sizes.min_bytes.into()), size(sizes.max_bytes.into()))
}

fn pace(job: &Job, cores: usize) -> String {
    match (job.arrival, asked_iops(job, cores)) {
        (Arrival::Poisson { .. }, Some(rate)) => format!("open loop at {}/s (Poisson)", count(rate)),
        (_, Some(rate)) => format!("open loop at {}/s", count(rate)),
        (_, None) => "closed loop".to_owned(),
    }
}

/// The requests a second that an open loop asks for on so many cores.
#[must_use]
pub fn asked_iops(job: &Job, cores: usize) -> Option<f64> {
    let cores = u32::try_from(cores.max(1)).map_or(1.0, f64::from);
    match job.arrival {
        Arrival::Closed => None,
        Arrival::Steady { per_second } | Arrival::Poisson { per_second } => Some(per_second * cores),
    }
}

/// Whether an open loop had to wait: the target took clearly less than what was asked of it.
#[must_use]
pub fn fell_behind(run: &Run) -> Option<f64> {
    // Poisson arrivals scatter by a few percent in a short run.
    asked_iops(&run.job, run.cores.len()).filter(|asked| run.all.iops < 0.95 * asked)
}

/// "on 2 cores (1, 3)", "2 jobs on core 1"
#[must_use]
pub fn cores(cores: &[u16]) -> String {
    let distinct: BTreeSet<u16> = cores.iter().copied().collect();
    let list: Vec<String> = distinct.iter().map(u16::to_string).collect();
    let place = match &list[..] {
        [] => "on any core".to_owned(),
        [core] => format!("on core {core}"),
        _ => format!("on {} cores ({})", list.len(), list.join(", ")),
    };
    if cores.len() > list.len() { format!("{} jobs {place}", cores.len()) } else { place }
}

/// What people call a run, and its target where its name does not say it already.
#[must_use]
pub fn name_and_target(name: &str, target: &str) -> String {
    if name.contains(target) { name.to_owned() } else { format!("{name} on {target}") }
}

/// "10 s after 2 s of warm-up"
#[must_use]
pub fn length(run: &Run) -> String {
    match run.job.warm_up_ns {
        0 => time(run.took_ns),
        warm_up_ns => format!("{} after {} of warm-up", time(run.took_ns), time(warm_up_ns)),
    }
}

/// Processor time of both sides for each request, and the share of the cores it took here.
#[must_use]
pub fn processor_time(run: &Run) -> String {
    if run.all.requests == 0 {
        return format!("{} here, and no request ended", time(run.client_cpu_ns));
    }
    let per_request = |ns: u64| time(whole(ns as f64 / run.all.requests as f64));
    let cores = run.cores.iter().collect::<BTreeSet<_>>().len().max(1);
    let taken = share(run.client_cpu_ns as f64, run.took_ns as f64 * u32::try_from(cores).map_or(1.0, f64::from));
    if run.client_cpu_ns == 0 {
        return run.server_cpu_ns.map_or_else(|| "not measured".to_owned(), |ns| format!("{} in the target's process", per_request(ns)));
    }
    let here = format!("{} here ({taken} of {cores} core{})", per_request(run.client_cpu_ns), if cores == 1 { "" } else { "s" });
    match run.server_cpu_ns {
        Some(ns) => format!("{here}, {} in the target's process", per_request(ns)),
        None => format!("{here}; no other process was measured"),
    }
}

/// The machine in a line.
#[must_use]
pub fn machine(machine: &Machine) -> String {
    let Machine { host, processor, processors, memory_bytes, kernel } = machine;
    format!("{host}, {processors} x {processor}, {}, Linux {kernel}", size(*memory_bytes))
}

/// Whether the runs are one job at several rates.
#[must_use]
pub fn is_sweep(report: &Report) -> bool {
    let [first, rest @ ..] = report.runs.as_slice() else { return false };
    let alike = |run: &Run| {
        let same_pace = Job { arrival: first.job.arrival, seed: first.job.seed, ..run.job.clone() };
        run.target == first.target && run.cores.len() == first.cores.len() && same_pace == first.job
    };
    let is_open = |run: &Run| run.job.arrival != Arrival::Closed;
    !rest.is_empty() && report.runs.iter().all(is_open) && rest.iter().all(alike)
}

/// Why what follows may not be taken at its face value: errors, wrong data, an early end. One sentence each.
#[must_use]
pub fn warnings(run: &Run) -> Vec<String> {
    let mut all = Vec::new();
    for (name, count) in &run.all.errors_by_status {
        let of = share(*count as f64, run.all.requests as f64);
        all.push(format!("{count} of {} requests ({of}) {}; their latencies are included", run.all.requests, status(name)));
    }
    if let Some(verified) = run.verified.as_ref().filter(|verified| verified.wrong > 0) {
        all.push(format!("WRONG DATA: {} of {} sectors are not what they should be", verified.wrong, verified.sectors));
        all.extend(verified.findings.iter().cloned());
    }
    if let Some(verified) = &run.verified {
        if verified.unreadable > 0 {
            all.push(format!("{} requests failed when everything was read back: what they cover was not checked", verified.unreadable));
        }
        if !verified.read_back {
            all.push("not everything was read back: what was written last was not checked".to_owned());
        }
        if verified.stamps == 0 && verified.wrong == 0 {
            all.push(format!("nothing was checked: of the {} sectors read, none had been written by this run", verified.sectors));
        }
    }
    if run.unsent > 0 {
        let due = run.all.requests + run.unsent;
        all.push(format!("{} of {due} requests that were due were never sent: they waited longer than any latency above says", run.unsent));
    }
    if run.interrupted {
        all.push(match run.job.length.time_ns {
            Some(length_ns) => format!("interrupted after {} of {}", time(run.took_ns), time(length_ns)),
            None => format!("interrupted after {}, before its end", time(run.took_ns)),
        });
    }
    if run.all.requests == 0 {
        all.push("no request ended in the time that was measured".to_owned());
    }
    all
}

/// That an open loop's target could not keep up, in a sentence. In a sweep that is what is looked for.
#[must_use]
pub fn behind(run: &Run) -> Option<String> {
    let (asked, reached) = (count(fell_behind(run)?), count(run.all.iops));
    Some(format!("{asked}/s were asked for and {reached}/s reached: latency includes waiting, and grows with the length of the run"))
}

/// What verification found to be right, in a sentence.
#[must_use]
pub fn verified(run: &Run) -> Option<String> {
    let verified = run.verified.as_ref().filter(|verified| verified.wrong == 0 && verified.stamps > 0 && verified.is_whole())?;
    let (sectors, stamps) = (count(verified.sectors as f64), count(verified.stamps as f64));
    Some(format!("verified: {sectors} sectors read, {stamps} of them written before, all as they should be"))
}

/// A moment as (year, month, day, hour, minute, second, day of the week from Sunday), in UTC.
fn civil(unix_s: u64) -> (u64, usize, u64, u64, u64, u64, usize) {
    const DAYS: [u64; 12] = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let (mut days, second) = (unix_s / 86_400, unix_s % 86_400);
    let weekday = usize::try_from((days + 4) % 7).unwrap_or_default();
    let is_leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    // 400 years have 146,097 days.
    let mut year = 1970 + days / 146_097 * 400;
    days %= 146_097;
    while days >= 365 + u64::from(is_leap(year)) {
        days -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let mut month = 0;
    let length = |month: usize| DAYS[month] + u64::from(month == 1 && is_leap(year));
    while days >= length(month) {
        days -= length(month);
        month += 1;
    }
    (year, month, days + 1, second / 3600, second / 60 % 60, second % 60, weekday)
}

/// "2026-11-20 09:34 UTC"
#[must_use]
pub fn date(unix_ms: u64) -> String {
    let (year, month, day, hour, minute, ..) = civil(unix_ms / 1000);
    format!("{year}-{:02}-{day:02} {hour:02}:{minute:02} UTC", month + 1)
}

/// "Fri Nov 20 09:34:32 2026", as C's `ctime` writes a time of UTC.
#[must_use]
pub fn ctime(unix_ms: u64) -> String {
    const WEEKDAYS: [&str; 7] = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let (year, month, day, hour, minute, second, weekday) = civil(unix_ms / 1000);
    format!("{} {} {day:2} {hour:02}:{minute:02}:{second:02} {year}", WEEKDAYS[weekday], MONTHS[month])
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;
    use spinel_load::{Area, Mix};

    #[test]
    fn a_job_is_told_in_words() {
        let mut told = Job { depth: 32, ..Job::new() };
        assert_eq!(job(&told, 1), "read, at random, 4 KiB, depth 32, closed loop");
        told.mix = Mix { read: 70, write_zeroes: 30, ..Mix::default() };
        told.order = Order::Zipf { theta: 0.99 };
        told.sizes.max_bytes = 65_536;
        told.arrival = Arrival::Poisson { per_second: 5_000.0 };
        told.flush_every = 8;
        told.fua = true;
        told.area = Area { start_bytes: 1 << 20, len_bytes: Some(1 << 30) };
        let words = "70 % read + 30 % write zeroes, Zipf 0.99, 4 KiB to 64 KiB, depth 32, open loop at 10k/s (Poisson), \
            a flush after every 8 writes, FUA, area of 1 GiB from 1 MiB";
        assert_eq!(job(&told, 2), words);
    }

    #[test]
    fn several_jobs_on_one_core_are_not_taken_for_several_cores() {
        for (list, words) in [(&[][..], "on any core"), (&[3], "on core 3"), (&[1, 3], "on 2 cores (1, 3)"), (&[1, 1], "2 jobs on core 1")]
        {
            assert_eq!(cores(list), words);
        }
        let mut run = sample::reads().runs.remove(0);
        run.cores = vec![1, 1];
        assert!(processor_time(&run).contains("of 1 core)"), "{}", processor_time(&run));
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (unix_s, text) in [
            (0, "Thu Jan  1 00:00:00 1970"),
            (951_782_400, "Tue Feb 29 00:00:00 2000"),
            (1_795_167_272, "Fri Nov 20 09:34:32 2026"),
            (4_107_542_399, "Sun Feb 28 23:59:59 2100"),
            (4_107_542_400, "Mon Mar  1 00:00:00 2100"),
        ] {
            assert_eq!(ctime(unix_s * 1000), text);
        }
        assert_eq!(date(1_795_167_272_224), "2026-11-20 09:34 UTC");
        // Whatever a damaged file says.
        assert!(date(u64::MAX).ends_with("UTC"));
    }

    #[test]
    fn numbers_become_whole_without_surprises() {
        for (number, result) in [(0.4, 0), (0.6, 1), (1e15, 1_000_000_000_000_000), (-1.0, 0), (f64::NAN, 0)] {
            assert_eq!(whole(number), result);
        }
        assert_eq!(whole(f64::INFINITY), 0);
    }

    #[test]
    fn one_job_at_several_rates_is_a_sweep_and_nothing_else() {
        assert!(is_sweep(&sample::sweep()));
        assert!(!is_sweep(&sample::reads()));
        let mut other = sample::sweep();
        other.runs[1].job.depth += 1;
        assert!(!is_sweep(&other));
    }

    #[test]
    fn what_went_wrong_is_said_in_full() {
        let said = warnings(&sample::troubled().runs[0]).join("\n");
        for part in ["failed by the medium", "given up", "WRONG DATA: 2 of", "block 77", "interrupted after"] {
            assert!(said.contains(part), "{part} is missing in {said}");
        }
        assert_eq!(warnings(&sample::reads().runs[0]), Vec::<String>::new());
        assert!(behind(&sample::troubled().runs[0]).unwrap().starts_with("1M/s were asked for and 1k/s reached"));
        assert_eq!(behind(&sample::sweep().runs[0]), None);
    }
}
