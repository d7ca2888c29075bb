//! One controller as it is connected, lost and connected again. Knows no other controller and no device.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crossbeam_channel::Sender;
use spinel_core::Instant;

use super::super::note::{Association, HostId, LaneId};
use super::super::options::AttachSpec;
use super::script::Script;
use super::{AttachError, Attached};

/// The first attempt but one to connect comes after so long, the next after twice that, and so on.
const BACKOFF_NS: u64 = 100_000_000;
/// A connection for I/O that was refused is tried again after so long.
pub(super) const IO_AGAIN_NS: u64 = 1_000_000_000;

/// How a controller stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stage {
    /// Nothing is connected. The next attempt comes then.
    Resting(Instant),
    /// It is being connected.
    Starting,
    Live,
    /// It is being stopped by its admin queue, until then.
    Stopping(Instant),
    /// Its connections are being closed.
    Closing,
}

/// What a connection is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Use {
    Admin,
    Io { number: u16, serves: bool },
}

/// A connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wire {
    pub(super) host: HostId,
    pub(super) what: Use,
}

/// One controller.
pub(super) struct Path {
    pub(super) spec: AttachSpec,
    pub(super) stage: Stage,
    pub(super) association: Association,
    /// Its number, once it has one.
    pub(super) number: Option<u16>,
    pub(super) wires: BTreeMap<LaneId, Wire>,
    pub(super) script: Script,
    /// The question of the script that is outstanding, and until when.
    pub(super) asking: Option<(u64, Instant)>,
    /// The script goes on then.
    pub(super) again: Option<Instant>,
    /// Since when the same is asked again and again.
    pub(super) repeating: Option<Instant>,
    /// Event requests that are outstanding.
    pub(super) event_asks: BTreeSet<u64>,
    /// Attempts to connect since it worked last.
    pub(super) attempts: u32,
    /// Since when it does not work.
    pub(super) lost: Option<Instant>,
    /// Requests wait for it no more.
    pub(super) failing: bool,
    /// It is to go.
    pub(super) leaving: bool,
    pub(super) preferred: bool,
    /// Who waits for it to work for the first time.
    pub(super) awaited: Option<Sender<Result<Attached, AttachError>>>,
    /// Who waits for it to go.
    pub(super) missed: Vec<Sender<()>>,
    /// Connections for I/O are tried again then.
    pub(super) io_again: Option<Instant>,
    pub(super) next_number: u16,
    /// Why it does not work, in words.
    pub(super) trouble: Option<String>,
    /// Commands that were aborted because they took too long.
    pub(super) aborted: BTreeSet<(LaneId, u16)>,
}

impl Path {
    pub(super) fn new(spec: AttachSpec, now: Instant, awaited: Sender<Result<Attached, AttachError>>) -> Self {
        Self {
            spec,
            stage: Stage::Resting(now),
            association: Association(0),
            number: None,
            wires: BTreeMap::new(),
            script: Script::default(),
            asking: None,
            again: None,
            repeating: None,
            event_asks: BTreeSet::new(),
            attempts: 0,
            lost: Some(now),
            failing: false,
            leaving: false,
            preferred: false,
            awaited: Some(awaited),
            missed: Vec::new(),
            io_again: None,
            next_number: 1,
            trouble: None,
            aborted: BTreeSet::new(),
        }
    }

    pub(super) fn is_live(&self) -> bool {
        self.stage == Stage::Live
    }

    /// Its admin queue's connection, if there is one.
    pub(super) fn admin(&self) -> Option<(LaneId, HostId)> {
        self.wires.iter().find(|(_, wire)| wire.what == Use::Admin).map(|(lane, wire)| (*lane, wire.host))
    }

    /// Whether a core has a connection for I/O.
    pub(super) fn reaches(&self, host: HostId) -> bool {
        self.wires.values().any(|wire| wire.host == host && wire.what != Use::Admin)
    }

    /// A number for another queue, if the controller allows one.
    pub(super) fn free_number(&mut self) -> Option<u16> {
        let most = self.script.io_queues;
        let taken: BTreeSet<u16> =
            self.wires.values().filter_map(|wire| if let Use::Io { number, .. } = wire.what { Some(number) } else { None }).collect();
        let next = self.next_number;
        let found = (0..most).map(|step| (next - 1 + step) % most + 1).find(|number| !taken.contains(number))?;
        // The number of a queue that has just ended may be taken still, over there.
        self.next_number = found % most + 1;
        Some(found)
    }

    /// When it is connected again.
    pub(super) fn rest_until(&mut self, now: Instant) -> Instant {
        let most = u64::try_from(self.spec.patience.reconnect_delay.as_nanos()).unwrap_or(u64::MAX);
        let delay = match self.attempts {
            0 => 0,
            attempts => BACKOFF_NS.saturating_mul(1 << (attempts - 1).min(20)).min(most),
        };
        self.attempts = self.attempts.saturating_add(1);
        now.after_ns(delay)
    }

    /// When it is given up, if it does not work.
    pub(super) fn given_up_at(&self) -> Option<Instant> {
        let lost_after = self.spec.patience.lost_after.filter(|after| !after.is_zero() && !self.leaving && self.awaited.is_none());
        after(self.lost, lost_after)
    }

    /// When requests need not wait for it any more, if it does not work.
    pub(super) fn fails_at(&self) -> Option<Instant> {
        after(self.lost, self.spec.patience.fail_after.filter(|_| !self.failing))
    }

    /// When something is to be done about it.
    pub(super) fn next_at(&self) -> Option<Instant> {
        let stage = match self.stage {
            Stage::Resting(at) | Stage::Stopping(at) => Some(at),
            _ => None,
        };
        let asking = self.asking.map(|(_, until)| until);
        let lost = [self.given_up_at(), self.fails_at()];
        [stage, asking, self.again, self.io_again].into_iter().chain(lost).flatten().min()
    }
}

fn after(since: Option<Instant>, duration: Option<Duration>) -> Option<Instant> {
    Some(since?.after(duration?))
}
