//! Pages of Identify, 4,096 bytes each (base 5.17.2, NVM 4.1.5). Knows no subsystem.

mod controller;
mod lists;
mod namespace;

pub use controller::{Controller, ControllerKind, ControllerNvm, PowerState, flags};
pub use lists::{CommandSets, ControllerList, Descriptor, Descriptors, NamespaceList};
pub use namespace::{Format, Namespace, NamespaceCommon, NamespaceNvm, ns_flags};

/// A field of text that is filled with spaces, as those for serial numbers, models and revisions are: ASCII, cut where the
/// field ends.
#[must_use]
pub fn padded<const N: usize>(text: &str) -> [u8; N] {
    let mut field = [b' '; N];
    let ascii = text.bytes().map(|byte| if byte.is_ascii_graphic() || byte == b' ' { byte } else { b'?' });
    field.iter_mut().zip(ascii).for_each(|(to, from)| *to = from);
    field
}

/// Such a field without the spaces behind it (and the zeroes that some controllers fill it with).
#[must_use]
pub fn unpadded(field: &[u8]) -> String {
    let text: String = field.iter().map(|byte| if byte.is_ascii() { char::from(*byte) } else { '?' }).collect();
    text.trim_end_matches([' ', '\0']).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_text_are_filled_with_spaces_and_cut() {
        assert_eq!(padded::<6>("ab"), *b"ab    ");
        assert_eq!(padded::<3>("abcd"), *b"abc");
        assert_eq!(padded::<4>("ä\n"), *b"??? ");
        assert_eq!((unpadded(b" ab  \0"), unpadded(b"\xff")), (" ab".into(), "?".into()));
    }
}
