//! NVMe command, completion, register and page structures: typed, checked, without a transport.
//!
//! Every structure is what travels, byte for byte: little-endian, without alignment, cast from bytes and back without a copy
//! (`zerocopy`), its size asserted. Reserved bytes are zero in what is made here, and are not looked at in what is received.
//!
//! Sections: "base" is the NVM Express Base Specification 2.0c (fields that 2.1 adds say so), "NVM" the NVM Command Set
//! Specification 1.0c.
#![forbid(unsafe_code)]

/// An enumeration of codes: known ones are variants, `of` says which one a number is, `code` is the number.
macro_rules! codes {
    ($(#[$meta:meta])* $name:ident: $int:ty { $($(#[$of:meta])* $variant:ident = $code:expr,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
        #[repr($int)]
        pub enum $name {
            $($(#[$of])* $variant = $code,)*
        }

        impl $name {
            /// Every one that is known here.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The one of this number.
            #[must_use]
            #[inline]
            pub const fn of(code: $int) -> Option<Self> {
                $(if code == $code { return Some(Self::$variant); })*
                None
            }

            /// Its number.
            #[must_use]
            #[inline]
            pub const fn code(self) -> $int {
                self as $int
            }
        }
    };
}

pub mod admin;
pub mod command;
pub mod completion;
pub mod dsm;
pub mod fabrics;
pub mod features;
pub mod identify;
pub mod io;
pub mod log;
pub mod registers;
pub mod reservation;
pub mod sgl;
pub mod status;
