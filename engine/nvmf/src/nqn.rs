//! Names of hosts and subsystems (NVMe base 2.0, 4.5). Knows nobody who has one.

use std::fmt;

/// The longest name, in bytes.
pub const NQN_BYTES_MAX: usize = 223;
/// The name of every discovery subsystem.
pub const DISCOVERY_NQN: &str = "nqn.2014-08.org.nvmexpress.discovery";

/// An NVMe qualified name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Nqn(Box<str>);

/// What is wrong with a name.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NqnError {
    /// No name, or too long a one.
    #[error("it has {bytes} bytes; a name has 1 to {NQN_BYTES_MAX}")]
    Length {
        /// How long it is.
        bytes: usize,
    },
    /// Not of the form that names have.
    #[error("a name has the form nqn.YYYY-MM.REVERSED.DOMAIN:ANYTHING, such as nqn.2026-11.io.spinel:disk1")]
    Form,
    /// Not text.
    #[error("a name is UTF-8 without control characters")]
    Text,
}

impl Nqn {
    /// A name as an administrator gives it, which has to have the form of one.
    ///
    /// # Errors
    /// [`NqnError`].
    pub fn parse(text: &str) -> Result<Self, NqnError> {
        let name = Self::of_peer(text.as_bytes())?;
        let dated = || {
            let (date, domain) = text.strip_prefix("nqn.")?.split_once('.')?;
            let (year, month) = date.split_once('-')?;
            let digits = |text: &str, count| text.len() == count && text.bytes().all(|byte| byte.is_ascii_digit());
            let month_is = matches!(month.parse::<u8>(), Ok(1..=12));
            let domain = domain.split_once(':').map_or(domain, |(domain, _)| domain);
            let label = |label: &str| {
                let inner = label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
                !label.is_empty() && inner && !label.starts_with('-') && !label.ends_with('-')
            };
            (digits(year, 4) && digits(month, 2) && month_is && domain.split('.').all(label)).then_some(())
        };
        dated().map(|()| name).ok_or(NqnError::Form)
    }

    /// A name as a peer gives it, which may be any text.
    ///
    /// # Errors
    /// [`NqnError`] if it is not even that.
    pub fn of_peer(bytes: &[u8]) -> Result<Self, NqnError> {
        if bytes.is_empty() || bytes.len() > NQN_BYTES_MAX {
            return Err(NqnError::Length { bytes: bytes.len() });
        }
        let text = std::str::from_utf8(bytes).ok().filter(|text| !text.chars().any(char::is_control));
        text.map(|text| Self(text.into())).ok_or(NqnError::Text)
    }

    /// A name in a field of a structure, which a zero ends. Nothing is said of what comes behind that.
    ///
    /// # Errors
    /// [`NqnError`] also if nothing ends it.
    pub fn of_field(field: &[u8]) -> Result<Self, NqnError> {
        let end = field.iter().position(|byte| *byte == 0).ok_or(NqnError::Length { bytes: field.len() })?;
        Self::of_peer(&field[..end])
    }

    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is the name of discovery.
    #[must_use]
    pub fn is_discovery(&self) -> bool {
        &*self.0 == DISCOVERY_NQN
    }

    /// As a field of a structure of `N` bytes, filled with zeroes.
    ///
    /// # Panics
    /// If `N` does not leave room for the zero behind the longest name.
    #[must_use]
    pub fn field<const N: usize>(&self) -> [u8; N] {
        const { assert!(N > NQN_BYTES_MAX) };
        let mut field = [0; N];
        field[..self.0.len()].copy_from_slice(self.0.as_bytes());
        field
    }
}

impl fmt::Display for Nqn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Nqn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_administrators_have_the_form_of_names() {
        for name in [
            DISCOVERY_NQN,
            "nqn.2014-08.org.nvmexpress:uuid:1f0e7b64-3c0a-4b55-9d6e-0d2f6c1a7e90",
            "nqn.2016-06.io.spdk:cnode1",
            "nqn.2026-11.io.spinel:disk with a space",
        ] {
            assert_eq!(Nqn::parse(name).unwrap().as_str(), name);
        }
        for name in [
            "nqn.2016-13.io.spdk:x",
            "nqn.216-06.io.spdk:x",
            "iqn.2016-06.io.spdk:x",
            "nqn.2016-06",
            "nqn.2016-06.-a.b:c",
            "nqn.2016-06..b:c",
        ] {
            assert_eq!(Nqn::parse(name), Err(NqnError::Form), "{name}");
        }
        assert_eq!(Nqn::parse(""), Err(NqnError::Length { bytes: 0 }));
        assert_eq!(Nqn::parse(&format!("nqn.2016-06.io.spdk:{}", "x".repeat(204))), Err(NqnError::Length { bytes: 224 }));
        assert_eq!(Nqn::parse("nqn.2016-06.io.spdk:\n"), Err(NqnError::Text));
    }

    #[test]
    fn a_field_that_nothing_ends_is_no_name() {
        assert_eq!(Nqn::of_field(b"host\0rest").unwrap().as_str(), "host");
        assert_eq!(Nqn::of_field(&[b'x'; 256]), Err(NqnError::Length { bytes: 256 }));
        assert_eq!(Nqn::of_field(&[0; 256]), Err(NqnError::Length { bytes: 0 }));
        assert_eq!(Nqn::of_field(b"\xff\0"), Err(NqnError::Text));
        let field: [u8; 256] = Nqn::of_field(b"host\0").unwrap().field();
        assert_eq!((&field[..4], field[4..].iter().all(|byte| *byte == 0)), (&b"host"[..], true));
    }
}
