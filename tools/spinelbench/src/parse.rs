//! Values of the command line as people write them. Knows no option's name.

use spinel_load::{Area, Order};
use spinel_units::{parse_microseconds, parse_size};

/// Bytes of the smallest and the largest request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SizeRange {
    pub(crate) min_bytes: u32,
    pub(crate) max_bytes: u32,
}

/// Where random requests go.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Distribution(pub(crate) Order);

/// Cores in the order in which they were named.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Cores(pub(crate) Vec<u16>);

/// `4K` or `4K-64K`.
pub(crate) fn size_range(text: &str) -> Result<SizeRange, String> {
    let one = |text: &str| u32::try_from(parse_size(text)?).map_err(|_| "a request must be below 4 GiB".to_owned());
    match text.split_once('-') {
        Some((min, max)) => Ok(SizeRange { min_bytes: one(min)?, max_bytes: one(max)? }),
        None => one(text).map(|bytes| SizeRange { min_bytes: bytes, max_bytes: bytes }),
    }
}

/// A time in nanoseconds.
pub(crate) fn time(text: &str) -> Result<u64, String> {
    parse_microseconds(text)?.checked_mul(1000).ok_or_else(|| "that is more than 584 years".to_owned())
}

/// Requests a second: `20000`, `20k`, `1.5M`.
pub(crate) fn rate(text: &str) -> Result<f64, String> {
    let wanted = || "a rate is a number above 0, such as 20000, 20k or 1.5M".to_owned();
    let (number, factor) = match text.char_indices().last() {
        Some((at, 'k' | 'K')) => (&text[..at], 1e3),
        Some((at, 'M' | 'm')) => (&text[..at], 1e6),
        _ => (text, 1.0),
    };
    let number: f64 = number.parse().map_err(|_| wanted())?;
    let rate = number * factor;
    if rate > 0.0 && rate <= 1e9 { Ok(rate) } else { Err(wanted()) }
}

/// `uniform`, `zipf:THETA`, `hot:REQUESTS/AREA`.
pub(crate) fn distribution(text: &str) -> Result<Distribution, String> {
    let wanted = || format!("'{text}' is none of uniform, zipf:0.99 and hot:90/10");
    let (name, values) = text.split_once(':').unwrap_or((text, ""));
    let order = match name {
        "uniform" if values.is_empty() => Order::Uniform,
        "zipf" => Order::Zipf { theta: if values.is_empty() { 0.99 } else { values.parse().map_err(|_| wanted())? } },
        "hot" => {
            let (requests, area) = if values.is_empty() { ("90", "10") } else { values.split_once('/').ok_or_else(wanted)? };
            Order::HotSpot { requests: requests.parse().map_err(|_| wanted())?, area: area.parse().map_err(|_| wanted())? }
        }
        _ => return Err(wanted()),
    };
    Ok(Distribution(order))
}

/// `LENGTH` or `LENGTH@START`.
pub(crate) fn area(text: &str) -> Result<Area, String> {
    let (len, start) = text.split_once('@').unwrap_or((text, "0"));
    Ok(Area { start_bytes: parse_size(start)?, len_bytes: Some(parse_size(len)?) })
}

/// `1,4-5`.
pub(crate) fn cores(text: &str) -> Result<Cores, String> {
    let mut cores = Vec::new();
    for part in text.split(',') {
        let number = |text: &str| {
            let number = text.trim().parse::<u16>().ok().filter(|number| *number < 1024);
            number.ok_or_else(|| format!("'{part}' is not a core's number, nor a range such as 4-5"))
        };
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        cores.extend(number(first)?..=number(last)?);
    }
    if cores.is_empty() { Err(format!("'{text}' names no core")) } else { Ok(Cores(cores)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_as_people_write_them() {
        assert_eq!(size_range("4K-64k"), Ok(SizeRange { min_bytes: 4096, max_bytes: 65536 }));
        assert_eq!(size_range("1M"), Ok(SizeRange { min_bytes: 1 << 20, max_bytes: 1 << 20 }));
        assert_eq!(time("10s"), Ok(10_000_000_000));
        assert_eq!((rate("20k"), rate("1.5M"), rate("7")), (Ok(20e3), Ok(1.5e6), Ok(7.0)));
        assert_eq!(distribution("zipf:1.2"), Ok(Distribution(Order::Zipf { theta: 1.2 })));
        assert_eq!(distribution("hot:80/20"), Ok(Distribution(Order::HotSpot { requests: 80, area: 20 })));
        assert_eq!(area("1G@10G"), Ok(Area { start_bytes: 10 << 30, len_bytes: Some(1 << 30) }));
        assert_eq!(cores("3,0-1"), Ok(Cores(vec![3, 0, 1])));
    }

    #[test]
    fn what_is_wrong_is_refused() {
        for text in ["", "4K-", "8G", "x"] {
            assert!(size_range(text).is_err(), "{text}");
        }
        for text in ["0", "-1", "k", "1e99", "nan", "inf", ""] {
            assert!(rate(text).is_err(), "{text}");
        }
        for text in ["", "zipf:x", "hot:90", "hot:a/b", "uniform:1", "pareto"] {
            assert!(distribution(text).is_err(), "{text}");
        }
        for text in ["", "a", "3-1", "1,,2", "9999", "0-99999"] {
            assert!(cores(text).is_err(), "{text}");
        }
        assert!(area("@5").is_err() && area("1G@x").is_err());
    }
}
