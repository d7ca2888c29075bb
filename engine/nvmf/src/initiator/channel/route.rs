//! Which way the next request of a channel takes. Knows no request.

use std::sync::Arc;

use spinel_core::Status;
use spinel_nvme::log::AnaState;

use super::super::host::{Host, Network};
use super::super::view::{DeviceId, Limits, Mood, PathId, Policy, View};

/// A way that is open.
#[derive(Clone, Copy, Debug)]
struct Route {
    path: PathId,
    lane: usize,
    nsid: u32,
}

/// What to do with the next request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Choice {
    /// It goes by the connection at this place, to this namespace.
    Go { lane: usize, nsid: u32 },
    /// Nothing goes now.
    Wait,
    /// Nothing will.
    Fail(Status),
}

/// The ways of one channel.
pub(super) struct Routes {
    device: DeviceId,
    epoch: Option<u64>,
    view: Option<Arc<View>>,
    /// The best ones there are now, all alike.
    open: Vec<Route>,
    /// Those that were said not to lead there, since the view was made.
    avoided: Vec<PathId>,
    /// The one that was taken last, and for how many requests.
    current: usize,
    taken: u32,
}

const NO_LIMITS: Limits = Limits { zeroes_blocks: 1, discard_blocks: 1, retries: 0 };

impl Routes {
    pub(super) fn new(device: DeviceId) -> Self {
        Self { device, epoch: None, view: None, open: Vec::new(), avoided: Vec::new(), current: 0, taken: 0 }
    }

    /// Whether there may be other ways by now.
    #[inline]
    pub(super) fn is_old<N: Network>(&self, host: &Host<N>) -> bool {
        self.epoch != Some(host.epoch())
    }

    /// Looks which ways there are, if there may be others by now. Whether there may be.
    #[inline]
    pub(super) fn renew<N: Network>(&mut self, host: &Host<N>) -> bool {
        let old = self.is_old(host);
        if old {
            self.look(host);
        }
        old
    }

    #[cold]
    fn look<N: Network>(&mut self, host: &Host<N>) {
        self.epoch = Some(host.epoch());
        let view = host.view(self.device);
        let same = match (&view, &self.view) {
            (Some(new), Some(old)) => Arc::ptr_eq(new, old),
            (None, None) => true,
            _ => false,
        };
        if !same {
            self.avoided.clear();
            self.view = view;
        }
        let before = self.open.get(self.current).map(|route| route.path);
        self.open.clear();
        let Some(view) = &self.view else { return };
        for wanted in [AnaState::Optimized, AnaState::NonOptimized] {
            let ways = view.ways.iter().filter(|way| way.state == wanted && !self.avoided.contains(&way.path));
            let open = ways.filter_map(|way| {
                let lane = host.lane_to(way.path)?;
                Some((!way.preferred, Route { path: way.path, lane, nsid: way.nsid }))
            });
            let mut open: Vec<(bool, Route)> = open.collect();
            if !open.is_empty() {
                open.sort_by_key(|(later, _)| *later);
                // Who prefers one means that one.
                let preferred = open.iter().any(|(later, _)| !later);
                let sticky = before.filter(|_| !preferred);
                self.open.extend(open.into_iter().map(|(_, route)| route));
                self.current = self.open.iter().position(|route| Some(route.path) == sticky).unwrap_or(0);
                return;
            }
        }
    }

    /// A controller says that it does not lead there. It is not asked again until the device is seen anew.
    #[cold]
    pub(super) fn avoid<N: Network>(&mut self, host: &Host<N>, path: PathId) {
        if !self.avoided.contains(&path) {
            self.avoided.push(path);
            host.trouble(path);
            self.look(host);
        }
    }

    /// The way of the next request.
    #[inline]
    pub(super) fn choose<N: Network>(&mut self, host: &Host<N>) -> Choice {
        let mood = self.mood();
        if mood == Mood::Gone {
            return Choice::Fail(Status::Aborted);
        }
        if self.open.is_empty() {
            return if mood == Mood::Failing { Choice::Fail(Status::Medium) } else { Choice::Wait };
        }
        let policy = self.view.as_ref().map_or(Policy::ActivePassive, |view| view.policy);
        let at = match policy {
            Policy::ActivePassive => Some(self.current).filter(|at| host.takes(self.open[*at].lane)),
            Policy::RoundRobin { requests } => {
                if self.taken >= requests {
                    self.current = (self.current + 1) % self.open.len();
                    self.taken = 0;
                }
                let from = self.current;
                (0..self.open.len()).map(|step| (from + step) % self.open.len()).find(|at| host.takes(self.open[*at].lane))
            }
            Policy::QueueDepth => {
                (0..self.open.len()).filter(|at| host.takes(self.open[*at].lane)).min_by_key(|at| host.held(self.open[*at].lane))
            }
        };
        let Some(at) = at else { return Choice::Wait };
        self.taken = if at == self.current { self.taken.saturating_add(1) } else { 1 };
        self.current = at;
        let Route { lane, nsid, .. } = self.open[at];
        Choice::Go { lane, nsid }
    }

    /// Whether requests may wait.
    #[inline]
    pub(super) fn mood(&self) -> Mood {
        self.view.as_ref().map_or(Mood::Patient, |view| view.mood)
    }

    #[inline]
    pub(super) fn limits(&self) -> Limits {
        self.view.as_ref().map_or(NO_LIMITS, |view| view.limits)
    }
}
