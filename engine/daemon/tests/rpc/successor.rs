//! A process that is to take over, played by the test: it can vanish whenever it likes. Knows no test.

use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::time::Duration;

use serde_json::{Value, json};
use spinel_handover::{Link, VERSION};

use crate::harness::Daemon;

const PATIENCE: Duration = Duration::from_secs(60);

/// What a successor has at hand.
pub(crate) struct Played {
    link: Link,
    /// All that came with the last message.
    fds: Vec<OwnedFd>,
}

impl Played {
    /// Asks the daemon to hand over, once an earlier takeover that failed is over, and is there when it comes.
    pub(crate) fn meet(daemon: &Daemon) -> Self {
        let path = daemon.folder().join("played");
        let listener = UnixListener::bind(&path).unwrap();
        daemon.done_in_the_end("spinel_hand_over", json!({"socket": path, "version": VERSION}));
        std::fs::remove_file(&path).unwrap();
        Self { link: Link::new(listener.accept().unwrap().0).unwrap(), fds: Vec::new() }
    }

    /// The next message.
    pub(crate) fn hear(&mut self) -> Value {
        let (text, fds) = self.link.receive_raw(PATIENCE).unwrap();
        self.fds = fds;
        serde_json::from_slice(&text).unwrap()
    }

    /// How many descriptors came with it.
    pub(crate) fn fds(&self) -> usize {
        self.fds.len()
    }

    /// Says something.
    pub(crate) fn say(&self, message: Value) {
        self.link.send(&message, PATIENCE).unwrap();
    }

    /// Hears nothing any more, as if it were gone.
    pub(crate) fn deafen(&self) {
        self.link.shutdown(Shutdown::Read).unwrap();
    }
}
