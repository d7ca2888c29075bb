//! What a verification found, merged into few sentences and counted in full. Knows neither requests nor registers.

use std::fmt;

use crate::checker::Violation;
use crate::stamp::{Found, SECTOR_BYTES, Wrong};

/// How many findings are kept in words.
pub const FINDINGS_KEPT: usize = 16;

/// The low bits of a write's sequence number it within its job; the others are the job.
pub(crate) const JOB_SEQUENCE_BITS: u32 = 40;

/// Every [`Wrong`] by its name, in the order of [`Findings::by_name`].
pub const WRONGS: [&str; 8] = ["misdirected", "lost", "stale", "torn", "rotten", "foreign", "uninitialised", "strange"];

/// A kind of damage's place in [`WRONGS`].
#[must_use]
pub fn wrong_index(wrong: Wrong) -> usize {
    match wrong {
        Wrong::Misdirected { .. } => 0,
        Wrong::Lost => 1,
        Wrong::Stale => 2,
        Wrong::Torn => 3,
        Wrong::Rotten { .. } => 4,
        Wrong::Foreign { .. } => 5,
        Wrong::Uninitialised => 6,
        Wrong::Strange => 7,
    }
}

/// Neighbouring sectors that are wrong in the same way. Its `Display` is a sentence for a person.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Finding {
    /// The first of them, and what is wrong with it.
    pub first: Violation,
    /// How many there are.
    pub sectors: u64,
    /// They hold different old writes where the same write is missing.
    pub mixed: bool,
    /// Where the missing write lies instead, if it was met there.
    pub elsewhere: Option<u64>,
    /// How many sectors were found like this, counted each time that one was read.
    pub times: u64,
}

/// What a verification found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Findings {
    /// The first ones.
    pub kept: Vec<Finding>,
    /// Sectors that were wrong when read, counted each time; in the order of [`WRONGS`].
    pub by_name: [u64; WRONGS.len()],
}

/// The write that a sector holds.
fn sequence(found: Found) -> Option<u64> {
    if let Found::Stamped(stamp) = found { Some(stamp.sequence) } else { None }
}

impl Finding {
    /// Whether this violation is one more of the same: in a sector that it has, or in the next.
    fn takes(&self, new: &Violation) -> bool {
        let Violation { sector, wrong, found, missing } = self.first;
        let Some(offset) = new.sector.checked_sub(sector).filter(|offset| *offset <= self.sectors) else { return false };
        let same_shift = match (wrong, new.wrong) {
            (Wrong::Misdirected { lba }, Wrong::Misdirected { lba: new }) => lba + offset == new,
            (Wrong::Rotten { .. }, Wrong::Rotten { .. }) => offset == 0 && wrong == new.wrong,
            _ => true,
        };
        let same_name = wrong_index(wrong) == wrong_index(new.wrong) || (self.elsewhere.is_some() && new.wrong == Wrong::Lost);
        // A missing write may have covered many older ones.
        let same_write = missing.is_some() || sequence(found) == sequence(new.found);
        same_name && same_shift && missing == new.missing && same_write
    }

    /// Whether it is the hole that a misdirected write left, which was met at `violation`.
    fn is_hole_of(&self, violation: &Violation) -> Option<u64> {
        let Wrong::Misdirected { lba } = violation.wrong else { return None };
        let same = self.first.missing.is_some() && self.first.missing == sequence(violation.found);
        let offset = lba.checked_sub(self.first.sector).filter(|offset| same && *offset < self.sectors)?;
        Some(violation.sector.saturating_sub(offset))
    }
}

impl Findings {
    /// How many sectors were wrong when read, counted each time.
    #[must_use]
    pub fn violations(&self) -> u64 {
        self.by_name.iter().sum()
    }

    /// Adds what another part of the area gave.
    pub fn add(&mut self, other: &Self) {
        let room = FINDINGS_KEPT.saturating_sub(self.kept.len());
        self.kept.extend(other.kept.iter().take(room));
        self.by_name.iter_mut().zip(other.by_name).for_each(|(own, other)| *own += other);
    }

    /// Counts a violation, and keeps it if it is new and among the first.
    pub(crate) fn note(&mut self, violation: Violation) {
        let known = self.kept.iter_mut().find(|finding| finding.takes(&violation));
        let wrong = known.as_ref().map_or(violation.wrong, |finding| finding.first.wrong);
        self.by_name[wrong_index(wrong)] += 1;
        if let Some(finding) = known {
            finding.sectors = finding.sectors.max(violation.sector - finding.first.sector + 1);
            finding.times += 1;
            finding.mixed |= sequence(finding.first.found) != sequence(violation.found);
            return;
        }
        // A misdirected write has two ends, which are met one after the other.
        if let Wrong::Misdirected { .. } = violation.wrong {
            let hole = self.kept.iter().position(|finding| finding.is_hole_of(&violation).is_some());
            if let Some(index) = hole {
                self.kept[index].elsewhere = self.kept[index].is_hole_of(&violation);
                let lba = self.kept[index].elsewhere.expect("it was looked for");
                self.rename(index, Wrong::Misdirected { lba });
            }
        }
        if self.kept.len() == FINDINGS_KEPT {
            return;
        }
        let mut finding = Finding { first: violation, sectors: 1, mixed: false, elsewhere: None, times: 1 };
        finding.elsewhere = self.kept.iter().find_map(|other| finding.is_hole_of(&other.first));
        self.kept.push(finding);
        if let Some(lba) = finding.elsewhere {
            self.rename(self.kept.len() - 1, Wrong::Misdirected { lba });
        }
    }

    /// Calls findings by another name, if what was read since has told.
    pub(crate) fn reconsider(&mut self, judge: impl Fn(Violation) -> Violation) {
        for index in 0..self.kept.len() {
            let wrong = judge(self.kept[index].first).wrong;
            self.rename(index, wrong);
        }
    }

    fn rename(&mut self, index: usize, wrong: Wrong) {
        let finding = &mut self.kept[index];
        self.by_name[wrong_index(finding.first.wrong)] -= finding.times;
        self.by_name[wrong_index(wrong)] += finding.times;
        finding.first.wrong = wrong;
    }
}

/// A write's number in words.
struct Name(u64);

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (job, number) = (self.0 >> JOB_SEQUENCE_BITS, self.0 & ((1 << JOB_SEQUENCE_BITS) - 1));
        write!(f, "write {number}")?;
        if job > 0 { write!(f, " of job {}", job + 1) } else { Ok(()) }
    }
}

/// What a sector holds, in words.
struct Content(Found, bool);

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            _ if self.1 => write!(f, "older data"),
            Found::Zeroes => write!(f, "zeroes"),
            Found::Stamped(stamp) => write!(f, "{}", Name(stamp.sequence)),
            Found::Untouched => write!(f, "nothing that the read has filled in"),
            Found::Torn { .. } | Found::Rotten { .. } => write!(f, "damaged data"),
            Found::Strange => write!(f, "what was there before"),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { first: Violation { sector, wrong, found, missing }, sectors, mixed, elsewhere, times } = *self;
        let content = Content(found, mixed);
        let byte = sector * 512;
        if sectors == 1 {
            write!(f, "sector {sector} (byte {byte}): ")?;
        } else {
            write!(f, "sectors {sector} to {} (from byte {byte}): ", sector + sectors - 1)?;
        }
        let missing = missing.map(Name);
        match (wrong, &missing, found) {
            (Wrong::Misdirected { .. }, Some(write), _) if let Some(lba) = elsewhere => {
                write!(f, "misdirected write: {write} was acknowledged, and lies at sector {lba} instead")?;
            }
            (Wrong::Misdirected { lba }, _, _) => {
                write!(f, "misdirected write: holds what was written to sector {lba} by {}", content)?;
            }
            (Wrong::Lost, Some(write), _) => write!(f, "lost write: {write} was acknowledged, and what is there is still {}", content)?,
            (Wrong::Lost, None, _) => write!(f, "lost write: the sector holds {}, which something newer had replaced", content)?,
            (Wrong::Stale, Some(write), _) => write!(f, "stale read: returned {}, although {write} is there", content)?,
            (Wrong::Stale, None, _) => write!(f, "stale read: returned {}, although something newer is there", content)?,
            (Wrong::Torn, _, Found::Torn { at }) => write!(f, "torn write: from byte {at} of the sector on it is of another write")?,
            (Wrong::Torn, Some(write), _) => {
                write!(f, "torn write: {write} was acknowledged as a whole, this part of it still holds {}", content)?;
            }
            (Wrong::Torn, None, _) => write!(f, "torn write: this part holds {}", content)?,
            (Wrong::Rotten { at }, _, _) => write!(f, "rotten data: from byte {at} of the sector on, single bytes have changed")?,
            (Wrong::Foreign { volume }, _, Found::Stamped(stamp)) => {
                write!(f, "foreign data: holds what was written to sector {} of volume {volume:016x}", stamp.lba)?;
            }
            (Wrong::Foreign { volume }, _, _) => write!(f, "foreign data: of volume {volume:016x}")?,
            (Wrong::Uninitialised, _, Found::Untouched) => write!(f, "uninitialised: the read ended well and did not fill its memory")?,
            (Wrong::Uninitialised, _, _) => write!(f, "uninitialised: holds {}, which were never written here", content)?,
            (Wrong::Strange, _, Found::Stamped(_)) => write!(f, "strange data: holds {}, which was never sent here", content)?,
            (Wrong::Strange, _, _) => write!(f, "strange data: holds what nobody wrote here")?,
        }
        if let (Wrong::Rotten { .. } | Wrong::Foreign { .. } | Wrong::Uninitialised | Wrong::Strange, Some(write)) = (wrong, &missing) {
            write!(f, "; {write} should be there")?;
        }
        if times > sectors { write!(f, " (found {times} times)") } else { Ok(()) }
    }
}

const _: () = assert!(SECTOR_BYTES == 512, "a sector's byte is its number times 512");

#[cfg(test)]
mod tests;
