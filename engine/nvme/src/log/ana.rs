//! The log page of asymmetric namespace access (base 5.16.1.13, 8.1). Knows no namespace.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

codes! {
    /// How a controller reaches the namespaces of a group.
    AnaState: u8 {
        /// Well.
        Optimized = 0x01,
        /// Less well.
        NonOptimized = 0x02,
        /// Not at the moment.
        Inaccessible = 0x03,
        /// Never again.
        PersistentLoss = 0x04,
        /// It is changing.
        Change = 0x0f,
    }
}

/// Bit 0 of the specific field of Get Log Page: groups without their namespaces (RGO).
pub const GROUPS_ONLY: u8 = 1 << 0;

/// How the page begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct AnaHead {
    /// Counts changes; no change of it while the page was read in parts means that the parts fit (CHGCNT).
    pub changes: U64,
    /// Groups that follow (NGRPS).
    pub groups: U16,
    reserved_10: [u8; 6],
}

/// A group; the numbers of its namespaces follow, ascending, four bytes each.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct AnaGroup {
    /// The group's number.
    pub group: U32,
    /// Namespaces that follow.
    pub namespaces: U32,
    /// Counts changes of this group; 0 if it does not.
    pub changes: U64,
    state: u8,
    reserved_17: [u8; 15],
}

const _: () = assert!(size_of::<AnaHead>() == 16 && size_of::<AnaGroup>() == 32);

impl AnaHead {
    /// So many groups follow.
    #[must_use]
    pub fn new(changes: u64, groups: u16) -> Self {
        Self { changes: changes.into(), groups: groups.into(), ..Self::new_zeroed() }
    }
}

impl AnaGroup {
    /// A group in this state; so many namespaces follow.
    #[must_use]
    pub fn new(group: u32, state: AnaState, changes: u64, namespaces: u32) -> Self {
        let (group, namespaces, changes) = (group.into(), namespaces.into(), changes.into());
        Self { group, namespaces, changes, state: state.code(), ..Self::new_zeroed() }
    }

    /// Its state; `None` if it is a reserved one.
    #[must_use]
    pub fn state(&self) -> Option<AnaState> {
        AnaState::of(self.state & 0xf)
    }
}

/// The page as it was read, which is as long as it is and may say anything.
#[derive(Clone, Copy, Debug)]
pub struct AnaLog<'a> {
    head: &'a AnaHead,
    rest: &'a [u8],
}

impl<'a> AnaLog<'a> {
    /// Of these bytes; `None` if they are not even a head.
    #[must_use]
    pub fn of(bytes: &'a [u8]) -> Option<Self> {
        let (head, rest) = AnaHead::ref_from_prefix(bytes).ok()?;
        Some(Self { head, rest })
    }

    /// How it begins.
    #[must_use]
    pub fn head(&self) -> &'a AnaHead {
        self.head
    }

    /// The groups, each with its namespaces: as many as the head says. The first that is cut off ends them with an error.
    pub fn groups(&self) -> impl Iterator<Item = Result<(&'a AnaGroup, &'a [U32]), AnaCut>> + use<'a> {
        let (mut left, mut rest) = (self.head.groups.get(), self.rest);
        std::iter::from_fn(move || {
            left = left.checked_sub(1)?;
            let next = || {
                let (group, behind) = AnaGroup::ref_from_prefix(rest).ok()?;
                let count = usize::try_from(group.namespaces.get()).ok()?;
                let (namespaces, behind) = <[U32]>::ref_from_prefix_with_elems(behind, count).ok()?;
                Some((group, namespaces, behind))
            };
            let Some((group, namespaces, behind)) = next() else {
                left = 0;
                return Some(Err(AnaCut));
            };
            rest = behind;
            Some(Ok((group, namespaces)))
        })
    }
}

/// The page ends before its groups do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the log page of asymmetric access ends before its groups do; read more of it")]
pub struct AnaCut;
