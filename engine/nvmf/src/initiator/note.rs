//! What cores and the control side tell each other. Knows neither.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_channel::{Receiver, Sender, unbounded};
use spinel_core::{Core, OpenError};
use spinel_nvme::command::Command;
use spinel_nvme::fabrics::{Connect, ConnectData, Connected};
use spinel_nvme::status::StatusField;

use super::queue::{End, Loss, Manner};
use super::view::{DeviceId, PathId, View};

/// Names a connection; never used again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct LaneId(pub(crate) u64);

/// Names what began with one connected admin queue and ends with it, in vain or not; never used again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Association(pub(crate) u64);

/// Names one core's part of the initiator.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct HostId(pub(crate) u64);

/// How a connection is to be made.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) lane: LaneId,
    pub(crate) path: PathId,
    pub(crate) association: Association,
    pub(crate) address: SocketAddr,
    pub(crate) manner: Manner,
    pub(crate) connect: Connect,
    pub(crate) data: Box<ConnectData>,
    /// The connection is set up, and Connect answered, within this time.
    pub(crate) within_ns: u64,
}

/// What a core is told.
#[derive(Debug)]
pub(crate) enum Told {
    /// Make a connection.
    Open(Box<Plan>),
    /// Ask the controller something. One question with data at a time.
    Ask {
        /// On which connection.
        lane: LaneId,
        /// Comes back with the answer.
        ask: u64,
        /// What.
        command: Command,
        /// Data that go with it.
        out: Vec<u8>,
        /// Bytes that it may bring.
        room_bytes: u32,
    },
    /// Requests may go this way from now on.
    Serve {
        /// Which way.
        lane: LaneId,
        /// Most bytes of data in a capsule.
        capsule_bytes: u32,
        /// Commands are to end within this time, if at all; who does not is told of.
        timeout_ns: Option<u64>,
    },
    /// Keep the controller alive from now on: ask in time, and give up if that is not answered within this time.
    KeepAlive {
        /// By which connection.
        lane: LaneId,
        /// Within which time.
        timeout_ns: u64,
    },
    /// End a connection.
    Close {
        /// Which one.
        lane: LaneId,
        /// Why.
        loss: Loss,
    },
    /// A device is to be seen like this from now on.
    View {
        /// Which one.
        device: DeviceId,
        /// How.
        view: Arc<View>,
    },
    /// Nothing that was sent in this association is done any more.
    Over(Association),
}

/// How a question was answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Reply {
    pub(crate) end: End,
    pub(crate) data: Vec<u8>,
}

/// What a core tells.
#[derive(Debug)]
pub(crate) enum Said {
    /// A core takes part.
    Here(HostId, Link),
    /// Admin queues may be on this core.
    Home(HostId),
    /// There is something to look at.
    Nothing,
    /// A core takes part no more; its connections have gone.
    Gone(HostId),
    /// The first channel of a device was opened on a core, or the last one closed.
    Wanted {
        /// Where.
        host: HostId,
        /// Of which device.
        device: DeviceId,
        /// Opened.
        wanted: bool,
    },
    /// Connect was answered.
    Connected {
        /// On which connection.
        lane: LaneId,
        /// How.
        answer: Result<Connected, (StatusField, u64)>,
    },
    /// A question was answered.
    Answer {
        /// On which connection.
        lane: LaneId,
        /// Which question.
        ask: u64,
        /// How.
        reply: Reply,
    },
    /// A connection has ended, and everything that was out has come back.
    Lost {
        /// Which one.
        lane: LaneId,
        /// Why.
        loss: Loss,
    },
    /// A connection begins to end.
    Ending {
        /// Which one.
        lane: LaneId,
    },
    /// A command is not answered in time.
    Overdue {
        /// On which connection.
        lane: LaneId,
        /// Which command.
        command_id: u16,
    },
    /// A controller says that a device is not reached by it.
    Trouble {
        /// Which controller.
        path: PathId,
    },
}

/// The control side's way to a core.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    told: Sender<Told>,
    bell: Arc<(AtomicU64, OwnedFd)>,
}

/// A core's end of it.
pub(crate) struct Hearing {
    told: Receiver<Told>,
    bell: Arc<(AtomicU64, OwnedFd)>,
    taken: u64,
}

impl Link {
    /// Both ends; what is told wakes the core.
    pub(crate) fn to(core: &mut Core) -> Result<(Self, Hearing), OpenError> {
        let system = |source: std::io::Error| OpenError::System { doing: "making an eventfd for an initiator", source };
        let flags = rustix::event::EventfdFlags::CLOEXEC | rustix::event::EventfdFlags::NONBLOCK;
        let fd = rustix::event::eventfd(0, flags).map_err(|errno| system(errno.into()))?;
        core.watch_owned(fd.try_clone().map_err(system)?);
        let bell = Arc::new((AtomicU64::new(0), fd));
        let (sender, told) = unbounded();
        Ok((Self { told: sender, bell: Arc::clone(&bell) }, Hearing { told, bell, taken: 0 }))
    }

    /// Tells the core something. One that has gone does not hear it.
    pub(crate) fn tell(&self, told: Told) {
        if self.told.send(told).is_ok() {
            self.bell.0.fetch_add(1, Ordering::Release);
            // Never read: each write wakes the core, and the counter does not fill in any lifetime.
            let _ = rustix::io::write(&self.bell.1, &1_u64.to_ne_bytes());
        }
    }
}

impl Hearing {
    /// What was told next. An idle turn looks at one number only.
    #[inline]
    pub(crate) fn next(&mut self) -> Option<Told> {
        if self.is_empty() {
            return None;
        }
        let told = self.told.try_recv().ok()?;
        self.taken += 1;
        Some(told)
    }

    /// Whether nothing was told.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.bell.0.load(Ordering::Acquire) == self.taken
    }
}
