//! Persistent reservations of one namespace (NVMe base 2.0, 8.19): who is registered, who holds what, who may do what. A table
//! without a transport: it knows no command's bytes and no file.

mod saved;

use std::fmt;

use crate::nqn::Nqn;

pub use saved::SavedError;

/// Most hosts that are registered with one namespace.
pub const REGISTRANTS_MAX: usize = 128;

/// A host's 128-bit identifier.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct HostId(pub [u8; 16]);

impl fmt::Debug for HostId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Display for HostId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// A reservation's type (RTYPE).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Kind {
    /// Only the holder writes.
    WriteExclusive = 1,
    /// Only the holder reads and writes.
    ExclusiveAccess = 2,
    /// Only registrants write; one of them holds.
    WriteExclusiveRegistrantsOnly = 3,
    /// Only registrants read and write; one of them holds.
    ExclusiveAccessRegistrantsOnly = 4,
    /// Only registrants write; all of them hold.
    WriteExclusiveAllRegistrants = 5,
    /// Only registrants read and write; all of them hold.
    ExclusiveAccessAllRegistrants = 6,
}

impl Kind {
    /// The type of this number.
    #[must_use]
    pub fn of(code: u8) -> Option<Self> {
        use Kind::{
            ExclusiveAccess, ExclusiveAccessAllRegistrants, ExclusiveAccessRegistrantsOnly, WriteExclusive, WriteExclusiveAllRegistrants,
            WriteExclusiveRegistrantsOnly,
        };
        Some(match code {
            1 => WriteExclusive,
            2 => ExclusiveAccess,
            3 => WriteExclusiveRegistrantsOnly,
            4 => ExclusiveAccessRegistrantsOnly,
            5 => WriteExclusiveAllRegistrants,
            6 => ExclusiveAccessAllRegistrants,
            _ => return None,
        })
    }

    /// Its number.
    #[must_use]
    pub fn code(self) -> u8 {
        self as u8
    }

    fn all_hold(self) -> bool {
        matches!(self, Self::WriteExclusiveAllRegistrants | Self::ExclusiveAccessAllRegistrants)
    }

    fn lets_registrants_in(self) -> bool {
        !matches!(self, Self::WriteExclusive | Self::ExclusiveAccess)
    }

    fn lets_all_read(self) -> bool {
        matches!(self, Self::WriteExclusive | Self::WriteExclusiveRegistrantsOnly | Self::WriteExclusiveAllRegistrants)
    }
}

/// A host that has registered a key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Registrant {
    /// Which host.
    pub host: HostId,
    /// Its name, for those who look.
    pub name: Nqn,
    /// Its key, which is not zero.
    pub key: u64,
}

/// What is held.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Held {
    kind: Kind,
    /// Who holds it; nobody in particular if all registrants do.
    by: Option<HostId>,
}

/// What a host may do with a namespace.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rights {
    /// Read and compare.
    pub read: bool,
    /// Change what is there, and flush.
    pub write: bool,
}

impl Rights {
    /// Everything: nothing is reserved.
    pub const ALL: Self = Self { read: true, write: true };
}

/// A command that changes reservations.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Act {
    /// Reservation Register.
    Register {
        /// What to do.
        action: RegisterAction,
        /// Whether `current` is not looked at (IEKEY).
        ignore_key: bool,
        /// The key it has (CRKEY).
        current: u64,
        /// The key it wants (NRKEY).
        new: u64,
        /// Whether reservations are to survive a loss of power from now on; none leaves it as it is (CPTPL).
        persist: Option<bool>,
    },
    /// Reservation Acquire.
    Acquire {
        /// What to do.
        action: AcquireAction,
        /// The key it has (CRKEY).
        current: u64,
        /// What it wants.
        kind: Kind,
    },
    /// Reservation Release.
    Release {
        /// The key it has (CRKEY).
        current: u64,
        /// Of which type the reservation is to be released; none takes away every registration, too (clear).
        kind: Option<Kind>,
    },
}

/// RREGA.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RegisterAction {
    /// A new key.
    Register,
    /// No key any more.
    Unregister,
    /// Another key.
    Replace,
}

/// RACQA.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AcquireAction {
    /// What nobody has.
    Acquire,
    /// From those who have registered this key (PRKEY). Whether their commands are to be aborted makes no difference here: those
    /// that had begun have ended before this is answered.
    Preempt {
        /// The key.
        key: u64,
    },
}

/// Why such a command fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// Reservation Conflict.
    Conflict,
    /// Invalid Field in Command.
    Invalid,
}

/// What another host is told (NVM command set 1.0, Reservation Notification log page).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Notice {
    /// Its registration was taken away.
    RegistrationPreempted = 1,
    /// The reservation it took part in was released.
    ReservationReleased = 2,
    /// The reservation it took part in was taken away.
    ReservationPreempted = 3,
}

/// Registrants and reservation of one namespace.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Reservations {
    generation: u32,
    registrants: Vec<Registrant>,
    held: Option<Held>,
    persists: bool,
}

type Told = Vec<(HostId, Notice)>;

impl Reservations {
    /// How often registrations have changed (GEN).
    #[must_use]
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// Everybody who is registered.
    #[must_use]
    pub fn registrants(&self) -> &[Registrant] {
        &self.registrants
    }

    /// The type of the reservation, if there is one.
    #[must_use]
    pub fn kind(&self) -> Option<Kind> {
        self.held.map(|held| held.kind)
    }

    /// Whether this host holds the reservation.
    #[must_use]
    pub fn holds(&self, host: &HostId) -> bool {
        self.held.is_some_and(|held| held.by.map_or_else(|| self.registrant(host).is_some(), |by| by == *host))
    }

    /// Whether all of this is to survive a loss of power (PTPLS).
    #[must_use]
    pub fn persists(&self) -> bool {
        self.persists
    }

    /// Sets whether it is, as the feature of that name does.
    pub fn set_persists(&mut self, persists: bool) {
        self.persists = persists;
    }

    /// What a host may do now (NVMe base 2.0, figure "Command Behavior in the Presence of a Reservation").
    #[must_use]
    pub fn rights(&self, host: &HostId) -> Rights {
        let Some(held) = self.held else { return Rights::ALL };
        if self.holds(host) || (held.kind.lets_registrants_in() && self.registrant(host).is_some()) {
            return Rights::ALL;
        }
        Rights { read: held.kind.lets_all_read(), write: false }
    }

    /// Does what a host asks for, or nothing. Answers whom to tell what.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn apply(&mut self, host: HostId, name: &Nqn, act: Act, may_persist: bool) -> Result<Told, Refusal> {
        match act {
            Act::Register { action, ignore_key, current, new, persist } => {
                if persist == Some(true) && !may_persist {
                    return Err(Refusal::Invalid);
                }
                let told = self.register(host, name, action, (!ignore_key).then_some(current), new)?;
                self.persists = persist.unwrap_or(self.persists);
                Ok(told)
            }
            Act::Acquire { action, current, kind } => {
                self.check_key(&host, current)?;
                match action {
                    AcquireAction::Acquire => self.acquire(host, kind).map(|()| Told::new()),
                    AcquireAction::Preempt { key } => self.preempt(host, key, kind),
                }
            }
            Act::Release { current, kind } => {
                self.check_key(&host, current)?;
                match kind {
                    Some(kind) => self.release(&host, kind),
                    None => Ok(self.clear(&host)),
                }
            }
        }
    }

    fn registrant(&self, host: &HostId) -> Option<&Registrant> {
        self.registrants.iter().find(|registrant| registrant.host == *host)
    }

    fn check_key(&self, host: &HostId, key: u64) -> Result<(), Refusal> {
        self.registrant(host).filter(|registrant| registrant.key == key).map(|_| ()).ok_or(Refusal::Conflict)
    }

    fn others(&self, host: &HostId, notice: Notice) -> Told {
        self.registrants.iter().filter(|other| other.host != *host).map(|other| (other.host, notice)).collect()
    }

    fn register(&mut self, host: HostId, name: &Nqn, action: RegisterAction, expected: Option<u64>, new: u64) -> Result<Told, Refusal> {
        if action != RegisterAction::Unregister && new == 0 {
            return Err(Refusal::Invalid);
        }
        let found = self.registrants.iter().position(|registrant| registrant.host == host);
        match (action, found) {
            (RegisterAction::Register, None) => {
                if self.registrants.len() >= REGISTRANTS_MAX {
                    return Err(Refusal::Conflict);
                }
                self.registrants.push(Registrant { host, name: name.clone(), key: new });
            }
            // Registering the same key again changes nothing.
            (RegisterAction::Register, Some(at)) if self.registrants[at].key == new => return Ok(Told::new()),
            (RegisterAction::Register, Some(_)) | (_, None) => return Err(Refusal::Conflict),
            (_, Some(at)) if expected.is_some_and(|key| key != self.registrants[at].key) => return Err(Refusal::Conflict),
            (RegisterAction::Replace, Some(at)) => self.registrants[at].key = new,
            (RegisterAction::Unregister, Some(at)) => {
                self.generation = self.generation.wrapping_add(1);
                return Ok(self.unregister(at));
            }
        }
        self.generation = self.generation.wrapping_add(1);
        Ok(Told::new())
    }

    /// Takes one registrant out, and with it what it held.
    fn unregister(&mut self, at: usize) -> Told {
        let gone = self.registrants.remove(at).host;
        let Some(held) = self.held else { return Told::new() };
        let ends = held.by.map_or(self.registrants.is_empty(), |by| by == gone);
        if !ends {
            return Told::new();
        }
        self.held = None;
        if held.kind.lets_registrants_in() { self.others(&gone, Notice::ReservationReleased) } else { Told::new() }
    }

    fn acquire(&mut self, host: HostId, kind: Kind) -> Result<(), Refusal> {
        match self.held {
            Some(held) if !self.holds(&host) || held.kind != kind => Err(Refusal::Conflict),
            Some(_) => Ok(()),
            None => {
                self.hold(host, kind);
                Ok(())
            }
        }
    }

    fn hold(&mut self, host: HostId, kind: Kind) {
        self.held = Some(Held { kind, by: (!kind.all_hold()).then_some(host) });
    }

    fn preempt(&mut self, host: HostId, key: u64, kind: Kind) -> Result<Told, Refusal> {
        let holder_key = self.held.and_then(|held| held.by).and_then(|by| self.registrant(&by)).map(|holder| holder.key);
        // Of a reservation that all hold, zero means everybody; of any other it is no key.
        let (everybody, takes) = match self.held {
            None => (false, false),
            Some(held) if held.by.is_none() => (key == 0, key == 0),
            Some(_) => (false, holder_key == Some(key)),
        };
        if key == 0 && !everybody {
            return Err(Refusal::Invalid);
        }
        let before = self.held;
        let keeps = |other: &Registrant| other.host == host || !(everybody || other.key == key);
        let matched = |other: &Registrant| everybody || other.key == key;
        if !everybody && !self.registrants.iter().any(matched) {
            return Err(Refusal::Conflict);
        }
        let mut told: Told =
            self.registrants.iter().filter(|other| !keeps(other)).map(|o| (o.host, Notice::RegistrationPreempted)).collect();
        // Its own key leaves it registered: whoever preempts may want no more than another type.
        self.registrants.retain(keeps);
        self.generation = self.generation.wrapping_add(1);
        if takes {
            self.hold(host, kind);
            if before.is_some_and(|held| held.kind != kind) {
                told.extend(self.others(&host, Notice::ReservationReleased));
            }
        }
        Ok(told)
    }

    fn release(&mut self, host: &HostId, kind: Kind) -> Result<Told, Refusal> {
        let Some(held) = self.held.filter(|_| self.holds(host)) else { return Ok(Told::new()) };
        if held.kind != kind {
            return Err(Refusal::Invalid);
        }
        self.held = None;
        Ok(if kind.lets_registrants_in() { self.others(host, Notice::ReservationReleased) } else { Told::new() })
    }

    fn clear(&mut self, host: &HostId) -> Told {
        let told = self.others(host, Notice::ReservationPreempted);
        self.held = None;
        self.registrants.clear();
        self.generation = self.generation.wrapping_add(1);
        told
    }
}

#[cfg(test)]
mod tests;
