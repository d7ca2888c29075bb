//! Reservations as text that outlives the process. Knows no file.

use std::fmt::Write as _;

use super::{Held, HostId, Kind, REGISTRANTS_MAX, Registrant, Reservations};
use crate::nqn::Nqn;

/// What the text begins with.
const HEAD: &str = "spinel-reservations 1";
/// What it ends with, so that a piece of it is not taken for all of it.
const END: &str = "end";

/// A text that these reservations were not saved as.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("line {line} is not part of saved reservations")]
pub struct SavedError {
    /// Which line, from 1.
    pub line: usize,
}

impl Reservations {
    /// As text, for [`restored`](Self::restored).
    #[must_use]
    pub fn saved(&self) -> String {
        let mut text = format!("{HEAD}\ngeneration {}\n", self.generation);
        if let Some(Held { kind, by }) = self.held {
            let by = by.map_or_else(|| "all".into(), |by| by.to_string());
            let _ = writeln!(text, "held {} {by}", kind.code());
        }
        for Registrant { host, name, key } in &self.registrants {
            let _ = writeln!(text, "registrant {host} {key:016x} {name}");
        }
        text + END + "\n"
    }

    /// Reservations as they were saved. They persist.
    ///
    /// # Errors
    /// [`SavedError`] if the text is not such a one, whole.
    pub fn restored(text: &str) -> Result<Self, SavedError> {
        let mut restored = Self { persists: true, ..Self::default() };
        let mut lines = (1..).zip(text.lines());
        let refused = |line| SavedError { line };
        if lines.next().is_none_or(|(_, line)| line != HEAD) {
            return Err(refused(1));
        }
        for (number, line) in lines.by_ref() {
            if line == END {
                return if restored.is_sound() { Ok(restored) } else { Err(refused(number)) };
            }
            restored.take_line(line).ok_or(refused(number))?;
        }
        Err(refused(text.lines().count() + 1))
    }

    fn take_line(&mut self, line: &str) -> Option<()> {
        let (what, rest) = line.split_once(' ')?;
        match what {
            "generation" => self.generation = rest.parse().ok()?,
            "held" if self.held.is_none() => {
                let (kind, by) = rest.split_once(' ')?;
                let by = if by == "all" { None } else { Some(host(by)?) };
                self.held = Some(Held { kind: Kind::of(kind.parse().ok()?)?, by });
            }
            "registrant" if self.registrants.len() < REGISTRANTS_MAX => {
                let (id, rest) = rest.split_once(' ')?;
                let (key, name) = rest.split_once(' ')?;
                let key = u64::from_str_radix(key, 16).ok().filter(|key| *key != 0)?;
                self.registrants.push(Registrant { host: host(id)?, name: Nqn::of_peer(name.as_bytes()).ok()?, key });
            }
            _ => return None,
        }
        Some(())
    }

    /// Whoever holds is registered, once.
    fn is_sound(&self) -> bool {
        let mut hosts: Vec<HostId> = self.registrants.iter().map(|registrant| registrant.host).collect();
        hosts.sort();
        hosts.dedup();
        let holder_is = |held: Held| match held.by {
            Some(by) => !held.kind.all_hold() && hosts.contains(&by),
            None => held.kind.all_hold() && !hosts.is_empty(),
        };
        hosts.len() == self.registrants.len() && self.held.is_none_or(holder_is)
    }
}

fn host(text: &str) -> Option<HostId> {
    let id = u128::from_str_radix(text, 16).ok().filter(|_| text.len() == 32)?;
    Some(HostId(id.to_be_bytes()))
}
