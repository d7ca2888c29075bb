//! Hash functions of DH-HMAC-CHAP (base 8.13.5.3) and what is computed with them. Knows no message.

use hmac::digest::KeyInit;
use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256, Sha384, Sha512};
use zeroize::Zeroizing;

/// A hash function.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Hash {
    /// SHA-256.
    Sha256 = 1,
    /// SHA-384.
    Sha384 = 2,
    /// SHA-512.
    Sha512 = 3,
}

impl Hash {
    /// All of them, strongest first.
    pub const ALL: [Self; 3] = [Self::Sha512, Self::Sha384, Self::Sha256];

    /// The one of this identifier.
    #[must_use]
    pub fn of(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|hash| hash.code() == code)
    }

    /// Its identifier.
    #[must_use]
    pub fn code(self) -> u8 {
        self as u8
    }

    /// The one that administrators call so: `sha256`, `sha384` or `sha512`.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|hash| hash.name() == name)
    }

    /// What administrators call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
            Self::Sha512 => "sha512",
        }
    }

    /// How long its results are, in bytes.
    #[must_use]
    pub fn len_bytes(self) -> u8 {
        match self {
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }

    /// The hash of some bytes.
    pub(super) fn digest(self, bytes: &[u8]) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(match self {
            Self::Sha256 => Sha256::digest(bytes).to_vec(),
            Self::Sha384 => Sha384::digest(bytes).to_vec(),
            Self::Sha512 => Sha512::digest(bytes).to_vec(),
        })
    }

    /// The keyed hash of these parts, one behind the other.
    pub(super) fn keyed(self, key: &[u8], parts: &[&[u8]]) -> Zeroizing<Vec<u8>> {
        match self {
            Self::Sha256 => result(with_parts::<Hmac<Sha256>>(key, parts)),
            Self::Sha384 => result(with_parts::<Hmac<Sha384>>(key, parts)),
            Self::Sha512 => result(with_parts::<Hmac<Sha512>>(key, parts)),
        }
    }

    /// Whether that is the keyed hash of these parts. How long this takes does not tell where they differ.
    pub(super) fn is_keyed(self, key: &[u8], parts: &[&[u8]], claim: &[u8]) -> bool {
        match self {
            Self::Sha256 => with_parts::<Hmac<Sha256>>(key, parts).verify_slice(claim).is_ok(),
            Self::Sha384 => with_parts::<Hmac<Sha384>>(key, parts).verify_slice(claim).is_ok(),
            Self::Sha512 => with_parts::<Hmac<Sha512>>(key, parts).verify_slice(claim).is_ok(),
        }
    }
}

fn with_parts<M: Mac + KeyInit>(key: &[u8], parts: &[&[u8]]) -> M {
    let mut mac = <M as KeyInit>::new_from_slice(key).expect("a keyed hash takes keys of any length");
    parts.iter().for_each(|part| mac.update(part));
    mac
}

fn result(mac: impl Mac) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(mac.finalize().into_bytes().to_vec())
}
