//! Sets of cores: SPDK's masks, lists, and which cores this process may use. Knows no thread.

use std::fmt;

use rustix::thread::CpuSet;
use spinel_core::CoreId;

/// Cores, each once and in ascending order; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CoreList(Vec<CoreId>);

/// Why a text names no cores.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CoresError {
    /// Neither a mask nor a list.
    #[error("'{0}' is neither a hexadecimal mask such as 0x6 nor a list such as [1,4-5]")]
    NotAMask(String),
    /// Not a list.
    #[error("'{0}' is not a core's number, nor a range such as 4-5")]
    NotACore(String),
    /// A core that no machine has.
    #[error("there is no core {0}; the last that can be named is {last}", last = CpuSet::MAX_CPU - 1)]
    TooHigh(usize),
    /// No core at all.
    #[error("it names no core")]
    Empty,
}

/// Why the cores cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DeniedError {
    /// Not all of them are this process's.
    #[error("this process may not run on core {wanted}: it may use {allowed}; name some of these, or widen its CPU affinity")]
    Cores {
        /// Those named that it may not use.
        wanted: CoreList,
        /// Those it may use.
        allowed: CoreList,
    },
    /// The system does not say, or does not let it choose.
    #[error("the system does not say which cores this process may use, or does not let it choose among them: {0}")]
    System(rustix::io::Errno),
}

impl CoreList {
    /// The cores of `numbers`.
    pub(crate) fn of(numbers: impl IntoIterator<Item = usize>) -> Result<Self, CoresError> {
        let mut cores = Vec::new();
        for number in numbers {
            let core = u16::try_from(number).ok().filter(|_| number < CpuSet::MAX_CPU);
            cores.push(CoreId(core.ok_or(CoresError::TooHigh(number))?));
        }
        cores.sort_unstable();
        cores.dedup();
        if cores.is_empty() { Err(CoresError::Empty) } else { Ok(Self(cores)) }
    }

    /// SPDK's forms: a mask in hexadecimal, with or without `0x`, or a list in brackets.
    pub(crate) fn parse_mask(text: &str) -> Result<Self, CoresError> {
        let text = text.trim();
        if let Some(list) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            return Self::parse_list(list);
        }
        let digits = text.strip_prefix("0x").or(text.strip_prefix("0X")).unwrap_or(text);
        let not_a_mask = || CoresError::NotAMask(text.to_owned());
        let mut numbers = Vec::new();
        for (place, digit) in digits.chars().rev().enumerate() {
            let bits = digit.to_digit(16).ok_or_else(not_a_mask)?;
            numbers.extend((0..4).filter(|bit| bits & 1 << bit != 0).map(|bit| place * 4 + bit));
        }
        if digits.is_empty() { Err(not_a_mask()) } else { Self::of(numbers) }
    }

    /// Numbers and ranges, such as `1,4-5`.
    pub(crate) fn parse_list(text: &str) -> Result<Self, CoresError> {
        let mut numbers = Vec::new();
        for part in text.split(',').map(str::trim) {
            let number = |text: &str| text.trim().parse::<usize>().map_err(|_| CoresError::NotACore(part.to_owned()));
            let (first, last) = match part.split_once('-') {
                Some((first, last)) => (number(first)?, number(last)?),
                None => (number(part)?, number(part)?),
            };
            if first > last {
                return Err(CoresError::NotACore(part.to_owned()));
            }
            // Checked before the range is walked, which might be endless otherwise.
            if last >= CpuSet::MAX_CPU {
                return Err(CoresError::TooHigh(last));
            }
            numbers.extend(first..=last);
        }
        Self::of(numbers)
    }

    /// The cores this process may use.
    pub(crate) fn allowed() -> Result<Self, DeniedError> {
        let set = rustix::thread::sched_getaffinity(None).map_err(DeniedError::System)?;
        let cores = Self::of((0..CpuSet::MAX_CPU).filter(|core| set.is_set(*core)));
        Ok(cores.expect("a process that runs may use a core"))
    }

    /// These cores, if this process may use all of them; the last that it may use if none are named.
    pub(crate) fn granted(named: Option<&Self>) -> Result<Self, DeniedError> {
        let allowed = Self::allowed()?;
        let Some(named) = named else {
            return Ok(Self(allowed.0.last().copied().into_iter().collect()));
        };
        let denied: Vec<CoreId> = named.0.iter().copied().filter(|core| !allowed.0.contains(core)).collect();
        if denied.is_empty() { Ok(named.clone()) } else { Err(DeniedError::Cores { wanted: Self(denied), allowed }) }
    }

    /// Has this thread, and those that it starts and that do not say otherwise, keep off these cores, if it may use others: a
    /// thread that a reactor wakes would else run where that one does, and hold it up for milliseconds.
    pub(crate) fn leave(&self) -> Result<(), DeniedError> {
        let mut rest = CpuSet::new();
        for core in Self::allowed()?.0.iter().filter(|core| !self.0.contains(core)) {
            rest.set(usize::from(core.0));
        }
        if rest.count() == 0 {
            return Ok(());
        }
        rustix::thread::sched_setaffinity(None, &rest).map_err(DeniedError::System)
    }

    /// Them all, in ascending order.
    pub(crate) fn ids(&self) -> &[CoreId] {
        &self.0
    }

    /// As a mask in hexadecimal, without `0x`, as SPDK writes it.
    pub(crate) fn mask(&self) -> String {
        let places = self.0.last().map_or(0, |last| usize::from(last.0) / 4);
        let digit = |place: usize| {
            let bits = self.0.iter().filter(|core| usize::from(core.0) / 4 == place).fold(0, |bits, core| bits | 1 << (core.0 % 4));
            char::from_digit(bits, 16).expect("four bits")
        };
        (0..=places).rev().map(digit).collect()
    }
}

/// As a list, such as `1,4-5`.
impl fmt::Display for CoreList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0.as_slice();
        let mut comma = "";
        while let Some(first) = rest.first() {
            let run = rest.iter().zip(first.0..).take_while(|(core, number)| core.0 == *number).count();
            let (cores, others) = rest.split_at(run);
            match cores {
                [.., last] if run > 1 => write!(f, "{comma}{}-{}", first.0, last.0)?,
                _ => write!(f, "{comma}{}", first.0)?,
            }
            comma = ",";
            rest = others;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_and_lists_name_the_same_cores() {
        for (mask, list, written) in [
            ("0x1", "0", "1"),
            ("6", "1-2", "6"),
            ("0XF0f", "8-11,0,1,2,3", "f0f"),
            ("[1,4-5, 5]", "1,4-5", "32"),
            ("0x100000000000000000000", "80", "100000000000000000000"),
        ] {
            let cores = CoreList::parse_mask(mask).unwrap();
            assert_eq!(cores, CoreList::parse_list(list).unwrap());
            assert_eq!(cores.mask(), written);
            assert_eq!(CoreList::parse_list(&cores.to_string()), Ok(cores));
        }
        assert_eq!(CoreList::parse_mask("0x36").unwrap().to_string(), "1-2,4-5");
    }

    #[test]
    fn what_names_no_cores_is_refused() {
        for mask in ["", "0x", "0", "0x0", "g", "[", "[]", "[1", "[-1]", "[2-1]", "-1", "0x1 0x2"] {
            assert!(CoreList::parse_mask(mask).is_err(), "{mask:?}");
        }
        for list in ["", ",", "1,", "a", "0x1", "1-", "-", "1-2-3", "18446744073709551616"] {
            assert!(CoreList::parse_list(list).is_err(), "{list:?}");
        }
        assert_eq!(CoreList::parse_list("0-18446744073709551615"), Err(CoresError::TooHigh(usize::MAX)));
        assert_eq!(CoreList::parse_list("1024"), Err(CoresError::TooHigh(1024)));
        let zeros = format!("1{}", "0".repeat(256));
        assert_eq!(CoreList::parse_mask(&zeros), Err(CoresError::TooHigh(1024)));
    }

    #[test]
    fn cores_of_others_are_refused_by_their_number() {
        let allowed = CoreList::allowed().unwrap();
        assert_eq!(CoreList::granted(Some(&allowed)).unwrap(), allowed);
        let one = CoreList::granted(None).unwrap();
        assert_eq!(one.ids(), &allowed.ids()[allowed.ids().len() - 1..]);
        let other = CoreList::of([1023]).unwrap();
        let denied = CoreList::granted(Some(&other)).unwrap_err();
        assert!(denied.to_string().contains("1023"), "{denied}");
    }
}
