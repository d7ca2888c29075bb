//! What connections and the control side tell each other. Knows neither.

use std::sync::Arc;

use spinel_core::{Channel, Meter, OpenError};

use super::reservation::{Act, HostId, Notice, Refusal};
use super::view::{Address, ConnectionId, PortId, Scene};
use crate::nqn::Nqn;

/// What a host asks for when it connects a queue (NVMe over Fabrics, Connect command).
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct ConnectRequest {
    /// Which queue: 0 is a new controller's.
    pub(crate) qid: u16,
    /// Of which controller; for a new one what the host would like, 0xffff being anything.
    pub(crate) cntlid: u16,
    /// How many entries it has.
    pub(crate) entries: u32,
    /// The host.
    pub(crate) host_id: HostId,
    /// Its name.
    pub(crate) host: Nqn,
    /// What it wants.
    pub(crate) subsystem: Nqn,
}

/// What a queue belongs to from now on.
#[derive(Clone, Debug)]
pub(crate) struct Admission {
    /// The controller.
    pub(crate) cntlid: u16,
    /// By which way it has come.
    pub(crate) port: PortId,
    /// Where it has arrived.
    pub(crate) arrived: Address,
    /// The subsystem.
    pub(crate) scene: Scene,
    /// The host has to prove who it is before anything else.
    pub(crate) authenticate: bool,
}

/// Why a queue is not connected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ConnectRefusal {
    /// A parameter will not do: which one.
    Parameter(Parameter),
    /// This host may not.
    Host,
    /// There are too many already.
    Busy,
    /// The controller is not enabled.
    Sequence,
}

/// A parameter of Connect, by its place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Parameter {
    /// In the command.
    QueueId,
    /// In the command.
    QueueSize,
    /// In the data.
    HostId,
    /// In the data.
    ControllerId,
    /// In the data.
    SubsystemName,
    /// In the data.
    HostName,
}

/// What a connection tells the control side.
#[derive(Debug)]
pub(crate) enum Said {
    /// A host wants a queue.
    Connect(Box<ConnectRequest>),
    /// The controller of this admin queue is enabled, or is not.
    Enabled(bool),
    /// A channel to this namespace is needed.
    Open {
        /// Which.
        nsid: u32,
        /// How deep.
        depth: u16,
    },
    /// A channel to this namespace is closed.
    Closed {
        /// Which.
        nsid: u32,
        /// At which of its instances.
        instance: u64,
    },
    /// A change has been made here, and what began before it has ended.
    Seen(ChangeId),
    /// Reservations are to change.
    Reserve {
        /// Comes back with the answer.
        token: u32,
        /// Of which namespace.
        nsid: u32,
        /// How.
        act: Act,
    },
    /// Whether reservations of a namespace survive a loss of power.
    Persist {
        /// Comes back with the answer.
        token: u32,
        /// Which.
        nsid: u32,
        /// Whether they do.
        persist: bool,
    },
    /// Others are not to change some blocks for a while.
    Hold {
        /// Comes back with the answer.
        token: u32,
        /// Of which namespace.
        nsid: u32,
        /// First block.
        start: u64,
        /// How many.
        blocks: u32,
    },
    /// They may again.
    Unhold {
        /// Of which namespace.
        nsid: u32,
    },
    /// A command of a queue is not wanted any more.
    Abort {
        /// Comes back with the answer.
        token: u32,
        /// Which queue of this controller.
        qid: u16,
        /// Which command.
        id: u16,
    },
    /// The answer to [`Told::Abort`].
    Aborted {
        /// Who has asked.
        by: ConnectionId,
        /// As it was asked.
        token: u32,
        /// Whether it was given up.
        aborted: bool,
    },
    /// A message of a host's that proves who it is.
    TakeProof {
        /// Comes back with the answer.
        token: u32,
        /// The message.
        message: Vec<u8>,
    },
    /// The next message for a host that does.
    GiveProof {
        /// Comes back with the answer.
        token: u32,
        /// How long it may be.
        room_bytes: u32,
    },
    /// It is over; nothing of it flies.
    Ended,
}

/// One change that connections confirm.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct ChangeId(pub(crate) u64);

/// What has to have happened before a change counts as made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Until {
    /// Nothing more.
    Seen,
    /// Requests to this namespace that began before it have ended.
    Drained(u32),
}

/// What the control side tells a connection.
pub(crate) enum Told {
    /// The answer to [`Said::Connect`].
    Connected(Result<Box<Admission>, ConnectRefusal>),
    /// What it belongs to is different now.
    Scene {
        /// How.
        scene: Scene,
        /// Who waits for that, and for what.
        change: Option<(ChangeId, Until)>,
    },
    /// The answer to [`Said::Open`].
    Opened {
        /// Which namespace.
        nsid: u32,
        /// At which of its instances.
        instance: u64,
        /// The way into it, and where to count.
        channel: Result<(Box<dyn Channel>, Arc<Meter>), OpenError>,
    },
    /// The answer to [`Said::Reserve`] and [`Said::Persist`].
    Reserved {
        /// As it was asked.
        token: u32,
        /// Whether it is so.
        result: Result<(), ReserveError>,
    },
    /// The answer to [`Said::Hold`].
    Held {
        /// As it was asked.
        token: u32,
        /// Whether it is so; it is not if there is no such namespace.
        granted: bool,
    },
    /// A command is not wanted any more.
    Abort {
        /// Who has asked.
        by: ConnectionId,
        /// Goes back with the answer.
        token: u32,
        /// Which command.
        id: u16,
    },
    /// The answer to [`Said::Abort`].
    Aborted {
        /// As it was asked.
        token: u32,
        /// Whether the command was given up.
        aborted: bool,
    },
    /// The answer to [`Said::TakeProof`].
    ProofTaken {
        /// As it was asked.
        token: u32,
        /// How the proof stands.
        standing: Standing,
    },
    /// The answer to [`Said::GiveProof`].
    ProofGiven {
        /// As it was asked.
        token: u32,
        /// The message; none if there was no room for it.
        message: Option<Vec<u8>>,
        /// How the proof stands.
        standing: Standing,
    },
    /// Another host has taken something away.
    Noticed {
        /// Of which namespace.
        nsid: u32,
        /// What.
        notice: Notice,
    },
    /// It is to end.
    Close(Closing),
}

/// How a host's proof of who it is stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Standing {
    /// There is more to say.
    Pending,
    /// It is who it says.
    Proven,
    /// It is not, or does not trust the target.
    Failed,
}

/// Why reservations do not change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ReserveError {
    /// By their rules.
    Refused(Refusal),
    /// There is no such namespace for this host.
    NoNamespace,
    /// They could not be saved.
    NotSaved,
}

/// Why a connection is to end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Closing {
    /// Too many others have come since, and it has said nothing.
    Crowded,
    /// Its controller has ended, or is reset.
    Controller,
    /// An administrator has taken something away: the subsystem, the listener, or the host's permission.
    Administrator,
}

/// What was said, and by whom.
#[derive(Debug)]
pub(crate) struct Note {
    pub(crate) from: ConnectionId,
    pub(crate) said: Said,
}
