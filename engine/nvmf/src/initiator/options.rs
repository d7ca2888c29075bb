//! What an administrator says of controllers to be reached. Knows none of them.

use std::net::SocketAddr;
use std::time::Duration;

use super::view::Policy;
use crate::auth::{Key, Policy as AuthPolicy};
use crate::nqn::Nqn;

/// Who this host is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Me {
    /// Its name.
    pub name: Nqn,
    /// Its 128-bit identifier.
    pub id: [u8; 16],
}

/// What is to be proved by DH-HMAC-CHAP.
#[derive(Clone, Debug)]
pub struct Secrets {
    /// What this host proves to know.
    pub host: Key,
    /// What the controller has to prove to know, if it has to.
    pub controller: Option<Key>,
    /// Which hash functions and groups will do.
    pub policy: AuthPolicy,
}

/// How long a controller that cannot be reached is tried for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Patience {
    /// After so long it is given up; `None` is never, zero after the first attempt to connect again.
    pub lost_after: Option<Duration>,
    /// Most time between attempts to connect.
    pub reconnect_delay: Duration,
    /// After so long requests fail instead of waiting; `None` is when it is given up.
    pub fail_after: Option<Duration>,
}

impl Default for Patience {
    /// Ten minutes, with attempts two seconds apart.
    fn default() -> Self {
        Self { lost_after: Some(Duration::from_mins(10)), reconnect_delay: Duration::from_secs(2), fail_after: None }
    }
}

/// A controller to be reached.
#[derive(Clone, Debug)]
pub struct AttachSpec {
    /// What it is called here; several of one name are ways to the same namespaces.
    pub name: String,
    /// Where it is.
    pub address: SocketAddr,
    /// Its subsystem.
    pub subsystem: Nqn,
    /// Who asks.
    pub me: Me,
    /// Digests of headers.
    pub header_digest: bool,
    /// Digests of data.
    pub data_digest: bool,
    /// Most queues for I/O: one for each core that has a use for one.
    pub io_queues: u16,
    /// How long it is tried for.
    pub patience: Patience,
    /// Secrets, if it wants to know any.
    pub secrets: Option<Secrets>,
    /// Most namespaces that become devices.
    pub namespaces_max: u32,
    /// Whether it may be another way to the namespaces of one that has this name.
    pub multipath: bool,
    /// Which of several ways is taken.
    pub policy: Option<Policy>,
}

/// What is done about commands that take too long.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum OnTimeout {
    /// It is logged.
    #[default]
    Nothing,
    /// The controller is reset.
    Reset,
    /// The command is aborted; if that does not help, the controller is reset.
    Abort,
}

/// What holds for every controller.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// A controller that hears nothing for so long gives this host up, and the other way round.
    pub keep_alive: Duration,
    /// Commands for I/O end within this time, if at all.
    pub timeout: Option<Duration>,
    /// What is done if they do not.
    pub on_timeout: OnTimeout,
    /// Commands of this side's own end within this time.
    pub admin_timeout: Duration,
    /// A connection is set up within this time.
    pub connect_timeout: Duration,
    /// How often a request is sent again that failed without a word that this is in vain.
    pub retries: u32,
    /// Requests of one queue at a time.
    pub queue_requests: u16,
    /// Patience where a controller's own is not said.
    pub patience: Patience,
    /// Which of several ways is taken, if it is not said.
    pub policy: Policy,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            keep_alive: Duration::from_secs(5),
            timeout: None,
            on_timeout: OnTimeout::Nothing,
            admin_timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(10),
            retries: 4,
            queue_requests: 127,
            patience: Patience::default(),
            policy: Policy::ActivePassive,
        }
    }
}
