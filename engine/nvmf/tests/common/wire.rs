//! Two ends of a connection in memory: one is a target's stream, the other one a test's.

use std::cell::OnceCell;
use std::collections::VecDeque;
use std::sync::{Arc, MutexGuard, PoisonError};

use spinel_core::mem::Segment;
use spinel_core::{Armed, Break, Core, Stream, StreamState};

/// Bytes that one direction holds at most; whoever sends more waits.
const PIPE_BYTES: usize = 256 << 10;
/// Sends that a stream holds.
const SENDS: usize = 16;

#[derive(Default)]
struct Pipes {
    to_target: VecDeque<u8>,
    to_host: VecDeque<u8>,
    host_ended: bool,
    broken: bool,
    target_closed: bool,
    /// How many bytes at a time come through; everything if none is set.
    cut: Option<usize>,
    /// The host takes nothing.
    host_deaf: bool,
}

#[allow(clippy::disallowed_types, reason = "a test's two ends; nobody waits for it")]
type Locked<T> = std::sync::Mutex<T>;

/// The test's end.
#[derive(Clone, Default)]
pub(crate) struct HostEnd {
    pipes: Arc<Locked<Pipes>>,
}

impl HostEnd {
    #[allow(clippy::disallowed_types, reason = "see the type")]
    fn pipes(&self) -> MutexGuard<'_, Pipes> {
        self.pipes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends bytes, whatever room there is.
    pub(crate) fn send(&self, bytes: &[u8]) {
        self.pipes().to_target.extend(bytes);
    }

    /// Everything that has come.
    pub(crate) fn receive(&self) -> Vec<u8> {
        let mut pipes = self.pipes();
        if pipes.host_deaf { Vec::new() } else { pipes.to_host.drain(..).collect() }
    }

    /// Lets so many bytes come through at a time from now on.
    pub(crate) fn cut(&self, bytes: usize) {
        self.pipes().cut = Some(bytes);
    }

    /// Takes nothing from now on, or takes again.
    pub(crate) fn set_deaf(&self, deaf: bool) {
        self.pipes().host_deaf = deaf;
    }

    /// Sends no more.
    pub(crate) fn end(&self) {
        self.pipes().host_ended = true;
    }

    /// Breaks the connection.
    pub(crate) fn break_off(&self) {
        self.pipes().broken = true;
    }

    /// Whether the target has closed its end.
    pub(crate) fn is_closed(&self) -> bool {
        self.pipes().target_closed
    }

    /// How much the target has sent that was not taken.
    pub(crate) fn waiting_bytes(&self) -> usize {
        self.pipes().to_host.len()
    }

    /// The other end, on a core.
    pub(crate) fn stream(&self, core: &mut Core) -> TargetEnd {
        TargetEnd {
            host: self.clone(),
            regions: core.regions(),
            front: OnceCell::new(),
            taken: 0,
            sends: VecDeque::new(),
            sent: 0,
            closed: false,
        }
    }
}

/// The target's end.
pub(crate) struct TargetEnd {
    host: HostEnd,
    regions: std::rc::Rc<spinel_core::mem::Regions>,
    /// The bytes that are looked at, and how many of them were taken.
    front: OnceCell<Vec<u8>>,
    taken: usize,
    /// What was sent and does not fit yet.
    sends: VecDeque<Vec<u8>>,
    sent: u64,
    closed: bool,
}

impl TargetEnd {
    /// Lets bytes go, as far as they fit.
    fn pump(&mut self) {
        let mut pipes = self.host.pipes();
        while let Some(send) = self.sends.front()
            && (pipes.to_host.len() + send.len() <= PIPE_BYTES || pipes.to_host.is_empty())
        {
            pipes.to_host.extend(send);
            self.sends.pop_front();
            self.sent += 1;
        }
    }
}

impl Stream for TargetEnd {
    fn incoming(&self) -> &[u8] {
        let come = || {
            let mut pipes = self.host.pipes();
            let most = pipes.cut.unwrap_or(usize::MAX).min(pipes.to_target.len());
            (most > 0).then(|| pipes.to_target.drain(..most).collect())
        };
        if self.front.get().is_none()
            && let Some(bytes) = come()
        {
            let _ = self.front.set(bytes);
        }
        self.front.get().map_or(&[], |bytes| &bytes[self.taken..])
    }

    fn take(&mut self, count: usize) {
        self.taken += count;
        if self.incoming().is_empty() {
            self.front.take();
            self.taken = 0;
        }
        self.pump();
    }

    fn room(&self) -> usize {
        SENDS - self.sends.len()
    }

    fn send(&mut self, head: &[u8], body: &[Segment], tail: &[u8]) {
        assert!(self.room() > 0 && head.len() + tail.len() <= spinel_core::STREAM_HEAD_BYTES_MAX, "as the contract says");
        let mut bytes = head.to_vec();
        for segment in body {
            let at = bytes.len();
            bytes.resize(at + segment.len_bytes() as usize, 0);
            self.regions.read(segment, 0, &mut bytes[at..]).expect("segments of announced memory");
        }
        bytes.extend_from_slice(tail);
        self.sends.push_back(bytes);
        self.pump();
    }

    fn sent(&self) -> u64 {
        self.sent
    }

    fn kick(&mut self) {}

    fn state(&self) -> StreamState {
        let pipes = self.host.pipes();
        match (self.closed, pipes.broken, pipes.host_ended) {
            (true, ..) => StreamState::Broken(Break::Closed),
            // ECONNRESET.
            (false, true, _) => StreamState::Broken(Break::System(104)),
            (false, false, true) => StreamState::Ended,
            (false, false, false) => StreamState::Open,
        }
    }

    fn arm(&mut self) -> Armed {
        self.pump();
        Armed::Idle
    }

    fn close(&mut self) {
        self.closed = true;
        self.sent += u64::try_from(self.sends.len()).unwrap();
        self.sends.clear();
        self.host.pipes().target_closed = true;
    }

    fn closed(&self) -> bool {
        self.closed
    }
}
