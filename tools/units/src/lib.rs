//! Sizes, times and counts as people write and read them. It refuses to know what is measured.
#![forbid(unsafe_code)]

const SUFFIXES: [(&str, u32); 5] = [("K", 10), ("M", 20), ("G", 30), ("T", 40), ("P", 50)];

/// A size in bytes, from "4096", "64M", "10G", "10GiB": powers of 1024.
///
/// # Errors
/// What a size looks like, for the user.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let wanted = || "a size is a whole number of bytes, or one with K, M, G, T or P, such as 64M or 10G".to_owned();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| wanted())?;
    let suffix = suffix.to_ascii_uppercase();
    let suffix = suffix.strip_suffix("IB").or(suffix.strip_suffix('B')).unwrap_or(&suffix);
    let shift = match suffix {
        "" => 0,
        _ => SUFFIXES.iter().find(|(name, _)| *name == suffix).ok_or_else(wanted)?.1,
    };
    number.checked_mul(1 << shift).ok_or_else(|| "a size must be below 16 EiB".to_owned())
}

/// A time in microseconds, from "100us", "5ms", "2s".
///
/// # Errors
/// What a time looks like, for the user.
pub fn parse_microseconds(text: &str) -> Result<u64, String> {
    let wanted = || "a time is a whole number with us, ms or s, such as 100us or 5ms".to_owned();
    let digits = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wanted)?;
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| wanted())?;
    let factor = match unit {
        "us" => 1,
        "ms" => 1_000,
        "s" => 1_000_000,
        _ => return Err(wanted()),
    };
    number.checked_mul(factor).ok_or_else(wanted)
}

/// Bytes, in the largest unit of which there is at least one: "10 GiB", "1.5 MiB".
#[must_use]
pub fn size(bytes: u64) -> String {
    match SUFFIXES.iter().rev().find(|(_, shift)| bytes >> shift > 0) {
        None => format!("{bytes} B"),
        Some((suffix, shift)) if bytes.is_multiple_of(1 << shift) => format!("{} {suffix}iB", bytes >> shift),
        Some((suffix, shift)) => format!("{} {suffix}iB", digits(bytes as f64 / (1_u64 << shift) as f64)),
    }
}

/// A rate of bytes: "1.2 GB/s", in powers of 1000 as rates are given.
#[must_use]
pub fn bandwidth(bytes_per_s: f64) -> String {
    let (number, prefix) = scaled(bytes_per_s);
    format!("{number} {prefix}B/s")
}

/// A count or rate in at most five characters: "0", "950", "1.23M".
#[must_use]
pub fn count(number: f64) -> String {
    let (number, prefix) = scaled(number);
    format!("{number}{prefix}")
}

/// A time: "850 ns", "12.3 us", "4 ms", "1.5 s".
#[must_use]
pub fn time(ns: u64) -> String {
    let ns_float = ns as f64;
    match ns {
        0..1_000 => format!("{ns} ns"),
        1_000..999_500 => format!("{} us", digits(ns_float / 1e3)),
        999_500..999_500_000 => format!("{} ms", digits(ns_float / 1e6)),
        _ => format!("{} s", digits(ns_float / 1e9)),
    }
}

/// A share of one: "0 %", "0.04 %", "12.3 %", "100 %".
#[must_use]
pub fn percent(share: f64) -> String {
    let percent = share * 100.0;
    match percent {
        0.0 => "0 %".into(),
        ..0.095 => format!("{percent:.3} %"),
        ..9.95 => format!("{percent:.2} %"),
        ..99.95 => format!("{percent:.1} %"),
        _ => "100 %".into(),
    }
}

fn scaled(number: f64) -> (String, &'static str) {
    let prefixes = [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")];
    match prefixes.iter().find(|(factor, _)| number >= factor * 0.9995) {
        Some((factor, prefix)) => (digits(number / factor), prefix),
        // Less than one a second is still something.
        None if number > 0.0 && number < 9.95 => (digits(number), ""),
        None => (format!("{number:.0}"), ""),
    }
}

/// Three digits, without zeros after the point that say nothing.
fn digits(number: f64) -> String {
    let text = match number {
        ..9.995 => format!("{number:.2}"),
        ..99.95 => format!("{number:.1}"),
        _ => return format!("{number:.0}"),
    };
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::{bandwidth, count, parse_microseconds, parse_size, percent, size, time};

    #[test]
    fn sizes_are_read_with_and_without_suffixes() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("1K", 1024),
            ("64M", 64 << 20),
            ("64m", 64 << 20),
            ("10G", 10 << 30),
            ("10GiB", 10 << 30),
            ("10GB", 10 << 30),
            ("512B", 512),
            ("3T", 3 << 40),
            ("2P", 2 << 50),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "G", "1.5G", "-1", "1X", "1GG", "16384P", "99999999999999999999", "1 G"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn times_need_a_unit() {
        assert_eq!(parse_microseconds("100us"), Ok(100));
        assert_eq!(parse_microseconds("5ms"), Ok(5_000));
        assert_eq!(parse_microseconds("2s"), Ok(2_000_000));
        for text in ["", "5", "us", "5m", "5 us", "1.5ms", "99999999999999999999s", "18446744073709551615s"] {
            assert!(parse_microseconds(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_exact_where_they_can_be() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (10 << 30, "10 GiB"),
            (1536 << 20, "1.5 GiB"),
            ((1 << 40) + 1, "1 TiB"),
            (u64::MAX, "16384 PiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn rates_and_counts_have_three_digits() {
        for (number, text) in [
            (0.0, "0"),
            (0.25, "0.25"),
            (7.0, "7"),
            (42.4, "42"),
            (999.4, "999"),
            (999.6, "1k"),
            (1234.0, "1.23k"),
            (18_500_000.0, "18.5M"),
            (2e13, "20T"),
        ] {
            assert_eq!(count(number), text);
        }
        assert_eq!(bandwidth(2_500_000_000.0), "2.5 GB/s");
        assert_eq!(bandwidth(0.0), "0 B/s");
    }

    #[test]
    fn times_and_shares_fit_a_column() {
        for (ns, text) in [
            (0, "0 ns"),
            (999, "999 ns"),
            (1_000, "1 us"),
            (12_345, "12.3 us"),
            (999_499, "999 us"),
            (999_500, "1 ms"),
            (1_500_000_000, "1.5 s"),
            (3_600_000_000_000, "3600 s"),
        ] {
            assert_eq!(time(ns), text);
        }
        for (share, text) in [(0.0, "0 %"), (0.0004, "0.040 %"), (0.0123, "1.23 %"), (0.5, "50.0 %"), (0.9999, "100 %")] {
            assert_eq!(percent(share), text);
        }
    }
}
