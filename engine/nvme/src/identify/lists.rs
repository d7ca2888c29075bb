//! Identify's lists: of namespaces (CNS 2, 7, 10h), controllers (CNS 12h, 13h), identifiers (CNS 3) and command sets (CNS 1Ch).

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::admin::CommandSet;

/// Numbers of namespaces, ascending, ended by a zero if they are less than fill it (base 4.4.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct NamespaceList {
    ids: [U32; 1024],
}

const _: () = assert!(size_of::<NamespaceList>() == 4096);

impl NamespaceList {
    /// Most namespaces on one page.
    pub const MAX: usize = 1024;

    /// The first of these: ascending numbers, all above the one that was asked with.
    #[must_use]
    pub fn new(ids: impl Iterator<Item = u32>) -> Self {
        let mut page = Self::new_zeroed();
        page.ids.iter_mut().zip(ids).for_each(|(place, id)| *place = id.into());
        page
    }

    /// The namespaces, up to the zero.
    pub fn ids(&self) -> impl Iterator<Item = u32> + '_ {
        self.ids.iter().map(|id| id.get()).take_while(|id| *id != 0)
    }

    /// Whether it is full, so that there may be more: ask again with the last number.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.ids.iter().all(|id| id.get() != 0)
    }
}

/// Numbers of controllers, ascending (base 4.4.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ControllerList {
    count: U16,
    ids: [U16; 2047],
}

const _: () = assert!(size_of::<ControllerList>() == 4096);

impl ControllerList {
    /// Most controllers on one page.
    pub const MAX: usize = 2047;

    /// The first of these: ascending numbers, from the one that was asked with on.
    #[must_use]
    pub fn new(ids: impl Iterator<Item = u16>) -> Self {
        let mut page = Self::new_zeroed();
        let mut count = 0_u16;
        for (place, id) in page.ids.iter_mut().zip(ids) {
            *place = id.into();
            count += 1;
        }
        page.count = count.into();
        page
    }

    /// The controllers; no more than fit, whatever the page says of their number.
    pub fn ids(&self) -> impl Iterator<Item = u16> + '_ {
        self.ids.iter().take(usize::from(self.count.get())).map(|id| id.get())
    }
}

/// Combinations of command sets that can be chosen (CNS 1Ch): of each its sets as bits. Zero is none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct CommandSets {
    /// Combinations.
    pub combinations: [U64; 512],
}

const _: () = assert!(size_of::<CommandSets>() == 4096);

impl CommandSets {
    /// One combination of one set.
    #[must_use]
    pub fn only(set: CommandSet) -> Self {
        let mut page = Self::new_zeroed();
        page.combinations[0] = (1 << set.code()).into();
        page
    }
}

/// One identifier of a namespace.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Descriptor {
    /// IEEE extended unique identifier.
    Eui64([u8; 8]),
    /// Namespace globally unique identifier.
    Nguid([u8; 16]),
    /// UUID, as RFC 9562 orders its bytes.
    Uuid([u8; 16]),
    /// The command set; see [`CommandSet`].
    CommandSet(u8),
}

/// Identifiers of a namespace (CNS 03h, base 5.17.2.3): each with its type and length, ended by a length of zero.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Descriptors {
    bytes: [u8; 4096],
}

/// Bytes before each identifier: type, length, two reserved ones.
const DESCRIPTOR_HEAD_BYTES: usize = 4;

impl Descriptors {
    /// These identifiers, in this order.
    ///
    /// # Panics
    /// If they do not fit on a page.
    #[must_use]
    pub fn new(descriptors: &[Descriptor]) -> Self {
        let mut page = Self::new_zeroed();
        let mut at = 0;
        for descriptor in descriptors {
            let (kind, id): (u8, &[u8]) = match descriptor {
                Descriptor::Eui64(id) => (1, id),
                Descriptor::Nguid(id) => (2, id),
                Descriptor::Uuid(id) => (3, id),
                Descriptor::CommandSet(set) => (4, std::slice::from_ref(set)),
            };
            let len = u8::try_from(id.len()).expect("identifiers have 16 bytes at most");
            page.bytes[at..at + 2].copy_from_slice(&[kind, len]);
            at += DESCRIPTOR_HEAD_BYTES;
            page.bytes[at..at + id.len()].copy_from_slice(id);
            at += id.len();
        }
        page
    }

    /// The identifiers of known types, as long as their lengths are right; those of unknown types are passed over.
    pub fn iter(&self) -> impl Iterator<Item = Descriptor> + '_ {
        let mut rest = &self.bytes[..];
        std::iter::from_fn(move || {
            let (head, behind) = rest.split_at_checked(DESCRIPTOR_HEAD_BYTES)?;
            let (id, behind) = behind.split_at_checked(usize::from(head[1]))?;
            rest = if id.is_empty() { &[] } else { behind };
            (!id.is_empty()).then_some((head[0], id))
        })
        .filter_map(|(kind, id)| match kind {
            1 => id.try_into().ok().map(Descriptor::Eui64),
            2 => id.try_into().ok().map(Descriptor::Nguid),
            3 => id.try_into().ok().map(Descriptor::Uuid),
            4 => <[u8; 1]>::try_from(id).ok().map(|[set]| Descriptor::CommandSet(set)),
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_namespaces_ends_with_a_zero() {
        let page = NamespaceList::new([1, 2, 0x0102_0304].into_iter());
        assert_eq!(page.as_bytes()[..16], [1, 0, 0, 0, 2, 0, 0, 0, 4, 3, 2, 1, 0, 0, 0, 0]);
        assert_eq!((page.ids().collect::<Vec<_>>(), page.is_full()), (vec![1, 2, 0x0102_0304], false));
        let full = NamespaceList::new(1..);
        assert_eq!((full.ids().count(), full.is_full()), (NamespaceList::MAX, true));
    }

    #[test]
    fn a_list_of_controllers_begins_with_their_number() {
        let page = ControllerList::new([1, 0x0203].into_iter());
        assert_eq!(page.as_bytes()[..8], [2, 0, 1, 0, 3, 2, 0, 0]);
        assert_eq!(page.ids().collect::<Vec<_>>(), [1, 0x0203]);
        assert_eq!(ControllerList::new(0..=u16::MAX).ids().count(), ControllerList::MAX);
        let mut bytes = [0; 4096];
        bytes[..2].fill(0xff);
        assert_eq!(ControllerList::ref_from_bytes(&bytes).unwrap().ids().count(), ControllerList::MAX);
    }

    #[test]
    fn identifiers_lie_one_behind_the_other() {
        let all = [Descriptor::Eui64([1; 8]), Descriptor::Nguid([2; 16]), Descriptor::Uuid([3; 16]), Descriptor::CommandSet(0)];
        let page = Descriptors::new(&all);
        let bytes = page.as_bytes();
        assert_eq!((&bytes[..5], &bytes[12..17]), (&[1, 8, 0, 0, 1][..], &[2, 16, 0, 0, 2][..]));
        assert_eq!((&bytes[32..37], &bytes[52..58]), (&[3, 16, 0, 0, 3][..], &[4, 1, 0, 0, 0, 0][..]));
        assert_eq!(page.iter().collect::<Vec<_>>(), all);
        assert_eq!(CommandSets::only(CommandSet::Nvm).as_bytes()[..9], [1, 0, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn identifiers_with_wrong_lengths_are_not_believed() {
        let mut page = Descriptors::new(&[Descriptor::Uuid([3; 16]), Descriptor::CommandSet(1)]);
        page.bytes[0] = 9;
        assert_eq!(page.iter().collect::<Vec<_>>(), [Descriptor::CommandSet(1)], "an unknown type");
        page.bytes[0] = 1;
        assert_eq!(page.iter().collect::<Vec<_>>(), [Descriptor::CommandSet(1)], "not as long as its type is");
        page.bytes[1] = 255;
        page.bytes[DESCRIPTOR_HEAD_BYTES + 255] = 0;
        assert_eq!(page.iter().count(), 0);
        // A page without an end: the last descriptor reaches behind it.
        let endless = Descriptors { bytes: [0xff; 4096] };
        assert_eq!(endless.iter().count(), 0);
    }
}
