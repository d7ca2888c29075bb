//! A running guest is cut off, or held, and goes on. It knows nothing of what the guest does meanwhile.

use super::{Guest, GuestError, NETWORK};
use crate::qmp::Qmp;
use serde_json::{Value, json};

impl Guest {
    /// Lets nothing through the guest's network any more, in either direction. Whoever was connected is told nothing.
    ///
    /// # Errors
    /// [`GuestError::Control`] when QEMU refuses, or the guest has no network.
    pub fn cut_off(&self) -> Result<(), GuestError> {
        self.order("set_link", json!({"name": NETWORK, "up": false}))
    }

    /// Lets everything through again.
    ///
    /// # Errors
    /// As [`cut_off`](Self::cut_off).
    pub fn join_again(&self) -> Result<(), GuestError> {
        self.order("set_link", json!({"name": NETWORK, "up": true}))
    }

    /// Holds all of the guest's processors; what its network has sent to it waits.
    ///
    /// # Errors
    /// [`GuestError::Control`] when QEMU refuses.
    pub fn hold(&self) -> Result<(), GuestError> {
        self.order("stop", json!({}))
    }

    /// Lets a held guest go on, which has not noticed the time.
    ///
    /// # Errors
    /// As [`hold`](Self::hold).
    pub fn go_on(&self) -> Result<(), GuestError> {
        self.order("cont", json!({}))
    }

    fn order(&self, command: &str, arguments: Value) -> Result<(), GuestError> {
        let done = Qmp::connect(&self.files.control).and_then(|mut qmp| qmp.call(command, arguments));
        done.map(drop).map_err(|e| self.uncontrolled(e))
    }
}
