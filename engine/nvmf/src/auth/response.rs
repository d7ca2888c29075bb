//! What a challenge is answered with (base 8.13.5.4, 8.13.5.5). Knows no message.

use zeroize::Zeroizing;

use super::Parties;
use super::hash::Hash;

/// Whose answer it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Role {
    /// The host's, to the controller's challenge.
    Host,
    /// The controller's, to the host's challenge.
    Controller,
}

/// A challenge, with all that its answer depends on but the secrets.
#[derive(Clone)]
pub(super) struct Challenge {
    pub(super) hash: Hash,
    /// The challenge itself, as long as the hash function's results.
    pub(super) value: Vec<u8>,
    /// Its sequence number.
    pub(super) sequence: u32,
    /// The transaction.
    pub(super) transaction: u16,
    /// What both sides share through the group; `None` for the NULL group.
    pub(super) shared: Option<Zeroizing<Vec<u8>>>,
}

impl Challenge {
    /// The answer.
    pub(super) fn answer(&self, role: Role, parties: &Parties) -> Option<Zeroizing<Vec<u8>>> {
        self.with_parts(role, parties, |key, parts| self.hash.keyed(key, parts))
    }

    /// Whether that is the answer.
    pub(super) fn is_answer(&self, role: Role, parties: &Parties, claim: &[u8]) -> bool {
        self.with_parts(role, parties, |key, parts| self.hash.is_keyed(key, parts, claim)).unwrap_or(false)
    }

    /// Calls `with` with the secret of this role and with what it is hashed with; `None` if there is no such secret.
    fn with_parts<T>(&self, role: Role, parties: &Parties, with: impl FnOnce(&[u8], &[&[u8]]) -> T) -> Option<T> {
        let (host, subsystem) = (parties.host.as_str(), parties.subsystem.as_str());
        let (key, from, label, to) = match role {
            Role::Host => (Some(&parties.host_key), host, &b"HostHost"[..], subsystem),
            Role::Controller => (parties.controller_key.as_ref(), subsystem, &b"Controller"[..], host),
        };
        let key = key?.transformed(from);
        let value = match &self.shared {
            Some(shared) => self.hash.keyed(&self.hash.digest(shared), &[&self.value]),
            None => Zeroizing::new(self.value.clone()),
        };
        let (sequence, transaction) = (self.sequence.to_le_bytes(), self.transaction.to_le_bytes());
        // Without a secure channel that is concatenated (SC_C is zero), which is never asked for here.
        let concatenation = [0];
        Some(with(&key, &[&value, &sequence, &transaction, &concatenation, label, from.as_bytes(), &[0], to.as_bytes()]))
    }
}
