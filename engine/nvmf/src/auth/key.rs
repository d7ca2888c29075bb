//! Secrets as administrators have them (base 8.13.5.8): `DHHC-1:HASH:BASE64:`. Never prints one.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use crc_fast::{CrcAlgorithm, checksum};
use zeroize::Zeroizing;

use super::hash::Hash;

/// How the text of a secret begins.
const PREFIX: &str = "DHHC-1";
/// What a secret is hashed with together with a name, before it is used.
const PURPOSE: &[u8] = b"NVMe-over-Fabrics";
/// Bytes of the checksum behind a secret.
const CHECKSUM_BYTES: usize = 4;

/// A secret.
#[derive(Clone)]
pub struct Key {
    /// What it is transformed with before use, if at all.
    hash: Option<Hash>,
    secret: Zeroizing<Vec<u8>>,
}

/// What is wrong with the text of a secret. Nothing of the text itself is repeated.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum KeyError {
    /// It does not have the form.
    #[error("a secret has the form DHHC-1:00:BASE64: (as `nvme gen-dhchap-key` prints it)")]
    Form,
    /// An unknown hash function.
    #[error("the second part of a secret is 00, 01, 02 or 03; this one names another hash function")]
    Hash,
    /// Not base64.
    #[error("the third part of a secret is base64; this one is not")]
    Base64,
    /// Not a length that secrets have.
    #[error("a secret has 32, 48 or 64 bytes and a checksum of 4; this one has {bytes} bytes in all")]
    Length {
        /// How long it is.
        bytes: usize,
    },
    /// It does not fit its checksum.
    #[error("the secret does not fit its own checksum: it was changed, or not copied whole")]
    Checksum,
}

impl Key {
    /// A secret as text. White space around it does not matter.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let mut parts = text.trim().split(':');
        let (prefix, hash, encoded) = (parts.next(), parts.next(), parts.next());
        let ends = (parts.next(), parts.next()) == (Some(""), None);
        let (Some(PREFIX), Some(hash), Some(encoded), true) = (prefix, hash, encoded, ends) else {
            return Err(KeyError::Form);
        };
        let hash = match hash {
            "00" => None,
            "01" => Some(Hash::Sha256),
            "02" => Some(Hash::Sha384),
            "03" => Some(Hash::Sha512),
            _ => return Err(KeyError::Hash),
        };
        let bytes = Zeroizing::new(BASE64.decode(encoded).map_err(|_| KeyError::Base64)?);
        let secret_bytes = bytes.len().checked_sub(CHECKSUM_BYTES).filter(|bytes| [32, 48, 64].contains(bytes));
        let secret_bytes = secret_bytes.ok_or(KeyError::Length { bytes: bytes.len() })?;
        let (secret, sum) = bytes.split_at(secret_bytes);
        if checksum(CrcAlgorithm::Crc32IsoHdlc, secret) != u64::from(u32::from_le_bytes(sum.try_into().expect("four bytes"))) {
            return Err(KeyError::Checksum);
        }
        Ok(Self { hash, secret: Zeroizing::new(secret.to_vec()) })
    }

    /// The secret as it is used by who has this name.
    pub(super) fn transformed(&self, name: &str) -> Zeroizing<Vec<u8>> {
        match self.hash {
            None => self.secret.clone(),
            Some(hash) => hash.keyed(&self.secret, &[name.as_bytes(), PURPOSE]),
        }
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a secret of {} bytes", self.secret.len())
    }
}
