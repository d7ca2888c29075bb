//! One core's part of the initiator: its connections, and the inboxes of its channels. Knows no device's blocks.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_channel::Sender;
use spinel_core::mem::{Region, RegionId, Regions, Segment};
use spinel_core::{Armed, Core, Driver, Instant, OpenError, Progress, Stream};
use spinel_nvme::command::Command;

use super::lane::{DESK_BYTES, Lane, Owner};
use super::note::{Association, Hearing, HostId, LaneId, Link, Plan, Said, Told};
use super::queue::{End, Loss, Payload};
use super::view::{DeviceId, PathId, View};
use spinel_core::Break;

/// Most connections of one core.
const LANES_MAX: u32 = 1024;

/// Makes connections.
pub trait Network: Send + Sync + 'static {
    /// A connection.
    type Stream: Stream + 'static;
    /// What makes them on one core.
    type Dialer: 'static;

    /// What makes them on this core.
    ///
    /// # Errors
    /// When the core cannot.
    fn dialer(&self, core: &mut Core) -> Result<Self::Dialer, OpenError>;

    /// A connection, which may be used at once; if it does not come about it breaks.
    ///
    /// # Errors
    /// When the system refuses even to try.
    fn dial(dialer: &mut Self::Dialer, to: SocketAddr) -> Result<Self::Stream, OpenError>;
}

/// What a channel is told of its requests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Ended {
    pub(super) slot: u32,
    pub(super) end: End,
    /// Which way it had gone.
    pub(super) path: PathId,
    pub(super) association: Association,
}

/// Where a channel finds the ends of its requests.
struct Inbox {
    device: DeviceId,
    ended: VecDeque<Ended>,
}

/// A core's part.
pub(super) struct Host<N: Network> {
    id: HostId,
    dialer: N::Dialer,
    regions: Rc<Regions>,
    desk: Arc<Region>,
    units: Vec<u32>,
    hearing: Hearing,
    said: Sender<Said>,
    lanes: Vec<Lane<N::Stream>>,
    inboxes: Vec<Option<Inbox>>,
    views: BTreeMap<DeviceId, Arc<View>>,
    /// Associations that have ended here, while what was sent in them may still be done.
    ghosts: BTreeSet<Association>,
    /// Counts everything that may give a waiting request another way.
    epoch: u64,
    now: Instant,
}

/// Numbers of cores' parts, in one process.
static NEXT: AtomicU64 = AtomicU64::new(0);

impl<N: Network> Host<N> {
    /// The part of this core, made on first use.
    ///
    /// # Errors
    /// When the system has no memory or no descriptor left.
    pub(super) fn of(core: &mut Core, network: &N, said: &Sender<Said>) -> Result<Rc<RefCell<Self>>, OpenError> {
        core.share(|core| {
            let dialer = network.dialer(core)?;
            let (link, hearing) = Link::to(core)?;
            let desk = Region::anonymous(u64::from(LANES_MAX) * u64::from(DESK_BYTES))
                .map_err(|error| OpenError::System { doing: "mapping memory for an initiator", source: std::io::Error::other(error) })?;
            core.map(Arc::clone(&desk));
            let id = HostId(NEXT.fetch_add(1, Ordering::Relaxed));
            let _ = said.send(Said::Here(id, link));
            Ok(Self {
                id,
                dialer,
                regions: core.regions(),
                desk,
                units: (0..LANES_MAX).rev().collect(),
                hearing,
                said: said.clone(),
                lanes: Vec::new(),
                inboxes: Vec::new(),
                views: BTreeMap::new(),
                ghosts: BTreeSet::new(),
                epoch: 0,
                now: Instant::default(),
            })
        })
    }

    /// Which one it is.
    pub(super) fn id(&self) -> HostId {
        self.id
    }

    /// An inbox for a channel of this device.
    pub(super) fn join(&mut self, device: DeviceId, depth: u16) -> u32 {
        if !self.wants(device) {
            let _ = self.said.send(Said::Wanted { host: self.id, device, wanted: true });
        }
        let inbox = Inbox { device, ended: VecDeque::with_capacity(usize::from(depth)) };
        let place = self.inboxes.iter().position(Option::is_none).unwrap_or_else(|| {
            self.inboxes.push(None);
            self.inboxes.len() - 1
        });
        self.inboxes[place] = Some(inbox);
        u32::try_from(place).expect("there are few channels")
    }

    /// A channel goes.
    pub(super) fn leave(&mut self, inbox: u32) {
        if let Some(inbox) = self.inboxes[inbox as usize].take()
            && !self.wants(inbox.device)
        {
            self.views.remove(&inbox.device);
            let _ = self.said.send(Said::Wanted { host: self.id, device: inbox.device, wanted: false });
        }
    }

    fn wants(&self, device: DeviceId) -> bool {
        self.inboxes.iter().flatten().any(|inbox| inbox.device == device)
    }

    /// Any segment, to fill tables with.
    pub(super) fn filler(&self) -> Segment {
        self.desk.segment(0, 0).expect("inside the region")
    }

    /// The next request of a channel that has ended.
    #[inline]
    pub(super) fn next_ended(&mut self, inbox: u32) -> Option<Ended> {
        self.inboxes[inbox as usize].as_mut().and_then(|inbox| inbox.ended.pop_front())
    }

    /// Whether one of its requests has ended.
    pub(super) fn has_ended(&self, inbox: u32) -> bool {
        self.inboxes[inbox as usize].as_ref().is_some_and(|inbox| !inbox.ended.is_empty())
    }

    /// Changes whenever there may be other ways than before.
    #[inline]
    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// A device as it is to be seen; none if nobody has said yet.
    pub(super) fn view(&self, device: DeviceId) -> Option<Arc<View>> {
        self.views.get(&device).cloned()
    }

    /// Whether what was sent in this association may still be done.
    pub(super) fn is_ghost(&self, association: Association) -> bool {
        self.ghosts.contains(&association)
    }

    /// The place of the connection to a controller by which requests may go now.
    pub(super) fn lane_to(&self, path: PathId) -> Option<usize> {
        self.lanes.iter().position(|lane| lane.path() == path && lane.serves())
    }

    /// The connection at a place, which is right until the epoch changes.
    #[inline]
    pub(super) fn takes(&self, lane: usize) -> bool {
        self.lanes[lane].takes()
    }

    #[inline]
    pub(super) fn held(&self, lane: usize) -> usize {
        self.lanes[lane].held()
    }

    /// Sends a request by the connection at a place.
    #[inline]
    pub(super) fn submit(&mut self, lane: usize, inbox: u32, slot: u32, command: &Command, payload: Payload<'_>, at: Instant) {
        self.lanes[lane].submit(Owner::Channel { inbox, slot }, command, payload, at);
    }

    /// Has everything go that was put together.
    #[inline]
    pub(super) fn kick(&mut self) {
        self.lanes.iter_mut().filter(|lane| lane.serves()).for_each(Lane::flush);
    }

    /// A controller says that a device is not reached by it.
    pub(super) fn trouble(&self, path: PathId) {
        let _ = self.said.send(Said::Trouble { path });
    }
}

/// What is told.
impl<N: Network> Host<N> {
    fn hear(&mut self, told: Told) {
        self.epoch += 1;
        let now = self.now;
        match told {
            Told::Open(plan) => self.open(plan),
            Told::Ask { lane, ask, command, out, room_bytes } => match self.lane(lane) {
                Some(lane) => lane.ask(ask, command, out, room_bytes),
                None => {
                    let reply = super::note::Reply { end: End::Lost, data: Vec::new() };
                    let _ = self.said.send(Said::Answer { lane, ask, reply });
                }
            },
            Told::Serve { lane, capsule_bytes, timeout_ns } => {
                if let Some(lane) = self.lane(lane) {
                    lane.serve(capsule_bytes, timeout_ns);
                }
            }
            Told::KeepAlive { lane, timeout_ns } => {
                if let Some(lane) = self.lane(lane) {
                    lane.keep_alive(timeout_ns, now);
                }
            }
            Told::Close { lane, loss } => {
                if let Some(lane) = self.lane(lane) {
                    lane.close(loss);
                }
            }
            Told::View { device, view } => {
                if self.wants(device) {
                    self.views.insert(device, view);
                }
            }
            Told::Over(association) => {
                self.ghosts.remove(&association);
            }
        }
    }

    fn lane(&mut self, id: LaneId) -> Option<&mut Lane<N::Stream>> {
        self.lanes.iter_mut().find(|lane| lane.id() == id)
    }

    fn open(&mut self, plan: Box<Plan>) {
        let id = plan.lane;
        let stream = match (self.units.last(), N::dial(&mut self.dialer, plan.address)) {
            (Some(_), Ok(stream)) => stream,
            (unit, made) => {
                let code = if unit.is_none() { rustix::io::Errno::NOMEM } else { rustix::io::Errno::NETUNREACH };
                tracing::warn!("no connection to {} can be made: {:?}", plan.address, made.err().map(|error| error.to_string()));
                let loss = Loss::Broke(Break::System(code.raw_os_error()));
                let _ = self.said.send(Said::Ending { lane: id });
                let _ = self.said.send(Said::Lost { lane: id, loss });
                return;
            }
        };
        let unit = self.units.pop().expect("looked at");
        self.lanes.push(Lane::new(stream, Rc::clone(&self.regions), plan, self.said.clone(), Arc::clone(&self.desk), unit));
    }

    /// Forgets connections that have ended.
    fn tidy(&mut self) {
        let (units, epoch) = (&mut self.units, &mut self.epoch);
        self.lanes.retain(|lane| {
            let over = lane.is_over();
            if over {
                units.push(lane.unit());
                *epoch += 1;
            }
            !over
        });
    }
}

impl<N: Network> Driver for Host<N> {
    #[inline]
    fn reap(&mut self, now: Instant) -> Progress {
        self.now = now;
        let mut busy = false;
        while let Some(told) = self.hearing.next() {
            self.hear(told);
            busy = true;
        }
        let (mut served, mut over) = (true, false);
        for lane in &mut self.lanes {
            let before = lane.serves();
            let (path, association) = (lane.path(), lane.association());
            let (inboxes, ghosts) = (&mut self.inboxes, &mut self.ghosts);
            busy |= lane.poll(now, &mut |inbox, slot, end| {
                if end == End::Lost {
                    ghosts.insert(association);
                }
                let inbox = inboxes[inbox as usize].as_mut().expect("a channel waits for its requests before it goes");
                inbox.ended.push_back(Ended { slot, end, path, association });
            });
            served &= before == lane.serves();
            over |= lane.is_over();
        }
        if !served {
            self.epoch += 1;
        }
        if over {
            self.tidy();
        }
        if busy { Progress::Busy } else { Progress::Idle }
    }

    fn flush(&mut self) {}

    fn map(&mut self, _region: &Arc<Region>) {}

    fn unmap(&mut self, _id: RegionId) {}

    fn arm(&mut self) -> Armed {
        let told = if self.hearing.is_empty() { Armed::Idle } else { Armed::Ready };
        self.lanes.iter_mut().map(Lane::arm).min().unwrap_or(Armed::Idle).min(told)
    }
}

impl<N: Network> Drop for Host<N> {
    fn drop(&mut self) {
        let _ = self.said.send(Said::Gone(self.id));
    }
}
