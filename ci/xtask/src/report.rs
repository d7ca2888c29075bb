//! Tables for people: latencies out of the engine's answers. It asks nobody.

use serde_json::Value;

const OPERATIONS: [(&str, &str); 5] =
    [("read", "read"), ("write", "write"), ("flush", "flush"), ("unmap", "discard"), ("write_zeroes", "write zeroes")];
const COLUMNS: [&str; 5] = ["p50", "p90", "p99", "p999", "max"];

/// The latencies of the first disk in an answer to bdev_get_iostat, one line an operation.
pub(crate) fn latencies(stats: &Value) -> String {
    let mut text = format!("  {:<13}{:>9}", "", "requests");
    for column in COLUMNS {
        text += &format!("{column:>11}");
    }
    for (name, shown) in OPERATIONS {
        let of = &stats["bdevs"][0]["percentiles"][name];
        text += &format!("\n  {shown:<13}{:>9}", of["count"].as_u64().unwrap_or(0));
        for column in COLUMNS {
            text += &format!("{:>11}", duration(of[column].as_u64().unwrap_or(0)));
        }
    }
    text
}

/// Nanoseconds in the unit that suits them.
fn duration(ns: u64) -> String {
    let tenths = |unit: u64, name: &str| format!("{}.{} {name}", ns / unit, ns % unit * 10 / unit);
    match ns {
        0 => "-".to_owned(),
        1..1_000 => format!("{ns} ns"),
        1_000..1_000_000 => tenths(1_000, "us"),
        1_000_000..1_000_000_000 => tenths(1_000_000, "ms"),
        _ => tenths(1_000_000_000, "s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn durations_keep_one_digit_behind_the_point() {
        let shown = [0, 999, 1_000, 1_234_567, 12_999_999, 2_500_000_000].map(duration);
        assert_eq!(shown, ["-", "999 ns", "1.0 us", "1.2 ms", "12.9 ms", "2.5 s"]);
    }

    #[test]
    fn an_operation_that_never_ran_is_shown_as_such() {
        let stats = json!({"bdevs": [{"percentiles": {"read": {"count": 3, "p50": 1500, "max": 2000}}}]});
        let text = latencies(&stats);
        assert!(text.lines().nth(1).unwrap().contains("3     1.5 us"), "{text}");
        assert!(text.lines().nth(2).unwrap().ends_with('-'), "{text}");
    }
}
