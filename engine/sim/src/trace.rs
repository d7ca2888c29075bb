//! What happened in a run, as one number. Knows no event's meaning.

use std::collections::VecDeque;
use std::fmt;

use spinel_load::mix;

/// How many events a trace can still show when a run has failed.
const TAIL_MAX: usize = 48;

/// A running hash of everything that happened: two runs of a seed are the same if and only if their hashes are.
///
/// The hash is defined by this file alone, so it does not change with a library or a machine.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    hash: u64,
    events: u64,
    tail: VecDeque<(&'static str, Vec<u64>)>,
}

impl Trace {
    /// Adds an event: what it was, and its numbers (times, tags, places).
    pub fn note(&mut self, what: &'static str, numbers: &[u64]) {
        self.fold(what.as_bytes());
        for number in numbers {
            self.hash = mix(self.hash ^ number);
        }
        self.events += 1;
        if self.tail.len() == TAIL_MAX {
            self.tail.pop_front();
        }
        self.tail.push_back((what, numbers.to_vec()));
    }

    /// Adds bytes, such as the data that a read returned.
    pub fn fold(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.hash = mix(self.hash ^ u64::from_le_bytes(word));
        }
        self.hash = mix(self.hash ^ u64::try_from(bytes.len()).expect("lengths fit 64 bits"));
    }

    /// The hash of all events so far.
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// How many events there were.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.events
    }
}

/// The last events, one in a line.
impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = u64::try_from(self.tail.len()).expect("a short tail");
        for ((what, numbers), event) in self.tail.iter().zip(self.events - shown..) {
            writeln!(f, "{event:>8}  {what} {numbers:?}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(events: &[(&'static str, &[u64])]) -> u64 {
        let mut trace = Trace::default();
        events.iter().for_each(|(what, numbers)| trace.note(what, numbers));
        trace.hash()
    }

    #[test]
    fn the_hash_depends_on_every_event_and_on_their_order() {
        let run = hash(&[("read", &[1, 2]), ("write", &[3])]);
        assert_eq!(run, hash(&[("read", &[1, 2]), ("write", &[3])]));
        assert_ne!(run, hash(&[("write", &[3]), ("read", &[1, 2])]));
        assert_ne!(run, hash(&[("read", &[1, 2]), ("write", &[4])]));
        assert_ne!(run, hash(&[("read", &[1, 2])]));
        assert_ne!(hash(&[("ab", &[])]), hash(&[("a", &[]), ("b", &[])]));
    }

    #[test]
    fn the_last_events_can_be_shown() {
        let mut trace = Trace::default();
        (0..100).for_each(|n| trace.note("tick", &[n]));
        let shown = trace.to_string();
        assert!(shown.starts_with("      52  tick [52]\n") && shown.ends_with("      99  tick [99]\n"), "{shown}");
    }
}
