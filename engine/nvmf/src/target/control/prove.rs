//! Hosts that prove who they are, and to whom the target does: one authentication for each connection. Knows no message's bytes.
//!
//! The arithmetic takes milliseconds, which is why it is done here and not on a core.

use super::super::note::{Standing, Told};
use super::super::view::ConnectionId;
use super::{Change, Link, State, Target, TargetError};
use crate::auth::{ControllerAuth, Key, Parties, Policy, State as AuthState};
use crate::nqn::Nqn;

/// What a host has to prove that it knows, and what the target then proves to it.
#[derive(Clone, Debug, Default)]
pub struct HostSecrets {
    /// The host's secret, and what it is called; without it the host proves nothing.
    pub host: Option<(String, Key)>,
    /// The subsystem's secret, for a host that asks the target to prove who it is.
    pub controller: Option<(String, Key)>,
}

/// Fills a slice with bytes that nobody can predict.
pub(super) type RandomSource = Box<dyn FnMut(&mut [u8]) + Send>;

impl Target {
    /// Which hash functions and groups authentications use that begin from now on.
    pub fn set_policy(&self, policy: Policy) {
        self.state().policy = policy;
    }

    /// Gives a named host other secrets, for connections that come from now on.
    ///
    /// # Errors
    /// [`TargetError`]
    pub fn set_secrets(&self, nqn: &str, host: &Nqn, secrets: HostSecrets) -> Change<()> {
        let mut state = self.state();
        let subsystem = state.subsystem(nqn)?;
        let nqn = subsystem.identity.nqn.clone();
        match subsystem.hosts.get_mut(host) {
            Some(present) => {
                *present = secrets;
                Ok(())
            }
            None => Err(TargetError::NoHost { host: host.clone(), nqn }),
        }
    }
}

impl Link {
    /// Says so if it ends while its host still has to prove who it is: one without a secret goes without a word.
    pub(super) fn note_unproven(&self) {
        if let Some(auth) = self.auth.as_ref().filter(|auth| auth.state() == AuthState::Pending) {
            tracing::warn!("{} has gone, and has not proved that it is host {}", self.peer, auth.host());
        }
    }
}

impl State {
    /// How a host that connects has to prove who it is, if it has to.
    pub(super) fn begin_proof(&self, subsystem: &Nqn, host: &Nqn) -> Option<ControllerAuth> {
        let secrets = self.subsystems.get(subsystem)?.hosts.get(host)?;
        let (_, host_key) = secrets.host.clone()?;
        let controller_key = secrets.controller.clone().map(|(_, key)| key);
        let parties = Parties { host: host.clone(), subsystem: subsystem.clone(), host_key, controller_key };
        Some(ControllerAuth::new(parties, self.policy))
    }

    /// A message of a host's.
    pub(super) fn take_proof(&mut self, from: ConnectionId, token: u32, message: &[u8]) {
        let Some(auth) = self.links.get_mut(&from).and_then(|link| link.auth.as_mut()) else { return };
        auth.send(message);
        let standing = self.standing(from);
        self.tell(from, move || Told::ProofTaken { token, standing });
    }

    /// A host asks for the next message.
    pub(super) fn give_proof(&mut self, from: ConnectionId, token: u32, room_bytes: u32) {
        let Self { links, random, .. } = self;
        let Some(auth) = links.get_mut(&from).and_then(|link| link.auth.as_mut()) else { return };
        let message = auth.receive(room_bytes as usize, random).ok();
        let standing = self.standing(from);
        self.tell(from, move || Told::ProofGiven { token, message, standing });
    }

    fn standing(&self, of: ConnectionId) -> Standing {
        let Some(link) = self.links.get(&of) else { return Standing::Failed };
        let Some(auth) = &link.auth else { return Standing::Pending };
        match auth.state() {
            AuthState::Done { .. } => Standing::Proven,
            AuthState::Failed(failure) => {
                tracing::warn!("{} does not prove that it is host {}: {failure}", link.peer, auth.host());
                Standing::Failed
            }
            AuthState::Pending => Standing::Pending,
        }
    }
}
