//! Latencies in the two text formats of HdrHistogram's tools: interval logs and percentile tables. Knows no file.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use hdrhistogram::Histogram;
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};

use super::histogram::{HistogramError, empty, from_text};
use super::{Interval, Run, words};

/// Nanoseconds in the log's human-readable maxima: milliseconds.
const MAX_DIVISOR: f64 = 1e6;

/// Lines for each halving of the distance to 100 % in a percentile table.
const TICKS: u32 = 5;

/// An interval log of version 1.3: of each stretch one line without a tag for all kinds together, and, when there are
/// several, one for each kind, tagged with its name. Latencies are in nanoseconds.
///
/// # Errors
/// [`HistogramError`], if a run from a file is damaged.
///
/// # Panics
/// Never: memory takes what is written to it.
pub fn interval_log(run: &Run) -> Result<Vec<u8>, HistogramError> {
    let mut log = Vec::new();
    let mut packer = V2DeflateSerializer::new();
    let started = SystemTime::UNIX_EPOCH + Duration::from_millis(run.started_unix_ms);
    let what = words::printable(&words::name_and_target(&run.name, &run.target));
    IntervalLogWriterBuilder::new()
        .add_comment("[Histogram log format version 1.3]")
        .add_comment(&format!("[Latencies in nanoseconds of {what}]"))
        .with_start_time(started)
        .with_base_time(started + Duration::from_nanos(run.job.warm_up_ns))
        .with_max_value_divisor(MAX_DIVISOR)
        .begin_log_with(&mut log, &mut packer)
        .expect("a vector takes whatever is written to it");
    log.extend_from_slice(b"\"StartTimestamp\",\"Interval_Length\",\"Interval_Max\",\"Interval_Compressed_Histogram\"\n");
    let mut builder = IntervalLogWriterBuilder::new();
    // Each writer begins with a line about its divisor; the second one's is dropped.
    let mut lines = Vec::new();
    let mut writer = builder
        .with_max_value_divisor(MAX_DIVISOR)
        .begin_log_with(&mut lines, &mut packer)
        .expect("a vector takes whatever is written to it");
    let mut stretches: BTreeMap<u64, Vec<&Interval>> = BTreeMap::new();
    run.intervals.iter().for_each(|interval| stretches.entry(interval.at_ns).or_default().push(interval));
    for (at_ns, intervals) in stretches {
        let (at, took) = (Duration::from_nanos(at_ns), Duration::from_nanos(intervals[0].took_ns));
        let mut write = |latency: &Histogram<u64>, tag: Option<&str>| {
            let tag = tag.map(|tag| Tag::new(tag).expect("kinds have neither commas nor blanks"));
            writer.write_histogram(latency, at, took, tag).expect("a vector takes whatever is written to it");
        };
        let parts: Vec<Histogram<u64>> = intervals.iter().map(|interval| from_text(&interval.histogram)).collect::<Result<_, _>>()?;
        let mut all = empty();
        parts.iter().for_each(|part| all.add(part).expect("a histogram made to grow takes every other"));
        write(&all, None);
        if run.ops.len() > 1 {
            intervals.iter().zip(&parts).for_each(|(interval, part)| write(part, Some(&interval.kind)));
        }
    }
    let first = lines.iter().position(|&byte| byte == b'\n').map_or(0, |at| at + 1);
    log.extend_from_slice(&lines[first..]);
    Ok(log)
}

/// A percentile table of all latencies of a run, in microseconds.
///
/// # Errors
/// [`HistogramError`], if a run from a file is damaged.
///
/// # Panics
/// Never: memory takes what is written to it.
pub fn percentiles(run: &Run) -> Result<String, HistogramError> {
    let latency = from_text(&run.all.histogram)?;
    let us = |ns: u64| ns as f64 / 1e3;
    let mut text = format!("{:>12} {:>14} {:>10} {:>14}\n\n", "Value", "Percentile", "TotalCount", "1/(1-Percentile)");
    let mut so_far = 0;
    for step in latency.iter_quantiles(TICKS) {
        so_far += step.count_since_last_iteration();
        let (value, quantile) = (us(step.value_iterated_to()), step.quantile_iterated_to());
        let line = format!("{value:12.3} {quantile:2.12} {so_far:10}");
        if quantile < 1.0 { writeln!(text, "{line} {:14.2}", 1.0 / (1.0 - quantile)) } else { writeln!(text, "{line}") }
            .expect("a string takes whatever is written to it");
    }
    let (mean, deviation, max) = (latency.mean() / 1e3, latency.stdev() / 1e3, us(latency.max()));
    // A sub-bucket count is twice the half that a histogram of three digits has.
    let buckets = (latency.high().max(1).ilog2() + 1).saturating_sub(10).max(1);
    writeln!(text, "#[Mean    = {mean:12.3}, StdDeviation   = {deviation:12.3}]")
        .and_then(|()| writeln!(text, "#[Max     = {max:12.3}, Total count    = {:12}]", latency.len()))
        .and_then(|()| writeln!(text, "#[Buckets = {buckets:12}, SubBuckets     = {:12}]", 2048))
        .expect("a string takes whatever is written to it");
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;
    use base64::Engine as _;
    use hdrhistogram::serialization::Deserializer;
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

    /// (tag, seconds, count) of each interval, and how many other entries there are.
    fn read(log: &[u8]) -> (Vec<(Option<String>, u64, u64)>, usize) {
        let entries: Vec<LogEntry<'_>> = IntervalLogIterator::new(log).map(|entry| entry.expect("it can be read")).collect();
        let interval = |entry: &LogEntry<'_>| match entry {
            LogEntry::Interval(interval) => {
                let packed = base64::engine::general_purpose::STANDARD.decode(interval.encoded_histogram()).unwrap();
                let histogram: Histogram<u64> = Deserializer::new().deserialize(&mut &packed[..]).unwrap();
                Some((interval.tag().map(|tag| tag.as_str().to_owned()), interval.start_timestamp().as_secs(), histogram.len()))
            }
            _ => None,
        };
        let intervals: Vec<_> = entries.iter().filter_map(interval).collect();
        let others = entries.len() - intervals.len();
        (intervals, others)
    }

    #[test]
    fn the_log_reads_back_with_every_request() {
        let run = &sample::reads().runs[0];
        let log = interval_log(run).unwrap();
        let (intervals, others) = read(&log);
        assert_eq!(intervals.len(), run.series.len());
        assert_eq!(others, 2, "a start and a base");
        assert!(intervals.iter().all(|(tag, ..)| tag.is_none()));
        assert_eq!(intervals.iter().map(|(.., count)| count).sum::<u64>(), run.all.requests);
        let text = String::from_utf8(log).unwrap();
        assert!(text.starts_with("#[Histogram log format version 1.3]\n"), "{text}");
        assert_eq!(text.matches("MaxValueDivisor").count(), 1);
        // Compressed histograms are the only ones that Java's reader takes.
        assert!(text.lines().last().unwrap().split(',').nth(3).unwrap().starts_with("HISTF"), "{text}");
    }

    #[test]
    fn kinds_are_tagged_beside_the_sum_of_all() {
        let mut run = sample::mixed().runs.remove(0);
        let (intervals, _) = read(&interval_log(&run).unwrap());
        let first: Vec<_> = intervals.iter().filter(|(_, second, _)| *second == 0).collect();
        let tags: Vec<_> = first.iter().map(|(tag, ..)| tag.as_deref()).collect();
        assert_eq!(tags, [None, Some("read"), Some("write"), Some("flush")]);
        assert_eq!(first[0].2, first[1..].iter().map(|(.., count)| count).sum::<u64>());
        run.ops.remove("flush");
        run.intervals.retain(|interval| interval.kind != "flush");
        assert_eq!(read(&interval_log(&run).unwrap()).0.len(), 3 * run.series.len());
    }

    #[test]
    fn the_percentile_table_has_its_known_form_and_ends_at_everything() {
        let run = &sample::reads().runs[0];
        let text = percentiles(run).unwrap();
        let mut lines = text.lines();
        let heading: Vec<&str> = lines.next().unwrap().split_whitespace().collect();
        assert_eq!(heading, ["Value", "Percentile", "TotalCount", "1/(1-Percentile)"]);
        let rows: Vec<Vec<f64>> = lines
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
            .map(|line| line.split_whitespace().map(|cell| cell.parse().unwrap()).collect())
            .collect();
        assert!(rows.is_sorted_by(|a, b| a[0] <= b[0] && a[1] <= b[1] && a[2] <= b[2]));
        let last = rows.last().unwrap();
        assert_eq!(last.len(), 3);
        assert!(last[1] == 1.0 && last[2] == run.all.requests as f64);
        let median = rows.iter().find(|row| row[1] >= 0.5).unwrap()[0];
        assert!((median - run.all.latency.p50_ns as f64 / 1e3).abs() < 0.1, "{median}");
        assert!(text.contains(&format!("Total count    = {:12}]", run.all.requests)));
    }

    #[test]
    fn a_run_without_requests_still_makes_both() {
        let run = &sample::hung().runs[0];
        assert_eq!(read(&interval_log(run).unwrap()), (vec![], 2));
        assert!(percentiles(run).unwrap().contains("Total count    =            0"));
    }
}
