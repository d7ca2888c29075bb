//! The control side of a target: what there is, who is connected, and what each connection is told. Knows no byte of a command.
//!
//! Everything here happens on control threads. Connections say what they need by a channel; what they are told is put onto
//! their seats by their cores' mailboxes. What is to be true everywhere before it is answered waits until every connection
//! of the subsystem has confirmed it, or has gone.

mod admin;
mod changes;
mod connect;
mod file;
mod info;
mod prove;
mod reserve;
mod subsystem;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, unbounded};
use spinel_core::{CoreId, Mailbox, Meter, Meters};

pub use admin::{ListenerSpec, ReferralSpec, SubsystemSpec, TargetError};
pub use changes::Pending;
pub use info::{ControllerInfo, CoreShare, HostInfo, ListenerInfo, NamespaceInfo, QueueInfo, ReferralInfo, SubsystemInfo};
pub use prove::HostSecrets;
pub use subsystem::NamespaceSpec;

use super::hub::tell;
use super::note::{ChangeId, Closing, Note, Said, Told, Until};
use super::options::Options;
use super::view::{Address, ConnectionId, DiscoveryRecord, DiscoveryView, PortId, Scene};
use crate::auth::{ControllerAuth, Policy};
use crate::nqn::Nqn;
use changes::{Changes, Then};
use prove::RandomSource;
use subsystem::{Controllers, Subsystem};

/// Most connections of all hosts together.
pub const CONNECTIONS_MAX: usize = 8192;
/// Most connections that have not said yet what they are for. One more, and the oldest of them goes: so many that say nothing
/// keep nobody out who does.
pub const STRANGERS_MAX: usize = 1024;
/// Most connections of one host.
pub const CONNECTIONS_OF_HOST_MAX: usize = 2048;
/// Most subsystems.
pub const SUBSYSTEMS_MAX: usize = 1024;
/// Most hosts that are named by one subsystem.
pub const HOSTS_MAX: usize = 1024;
/// Most places where hosts connect, and most referrals.
pub const PORTS_MAX: usize = 256;

#[allow(clippy::disallowed_types, reason = "control threads only; no reactor ever takes it")]
type Locked<T> = std::sync::Mutex<T>;

type Change<T> = Result<T, TargetError>;

/// What wakes the thread that serves a target.
enum Message {
    Note(Note),
    Quit,
}

/// How a connection speaks to the control side.
#[derive(Clone)]
pub(crate) struct Voice {
    from: ConnectionId,
    sender: Sender<Message>,
}

impl Voice {
    /// Says something. A target that is gone does not hear it.
    pub(crate) fn say(&self, said: Said) {
        let _ = self.sender.send(Message::Note(Note { from: self.from, said }));
    }

    /// Whose it is.
    pub(crate) fn id(&self) -> ConnectionId {
        self.from
    }
}

/// Everything that hosts can connect to. Cloned freely.
#[derive(Clone)]
pub struct Target {
    shared: Arc<Shared>,
}

struct Shared {
    state: Locked<State>,
    heard: Receiver<Message>,
    sender: Sender<Message>,
}

/// A place where hosts connect.
struct Port {
    address: Address,
    advertised: Option<Address>,
}

/// A connection as the control side knows it.
struct Link {
    mailbox: Mailbox,
    port: PortId,
    /// Where the host comes from, and where it has arrived.
    peer: String,
    arrived: Address,
    belongs: Option<Belongs>,
    /// How its host proves who it is, if it has to.
    auth: Option<Box<ControllerAuth>>,
    /// Of each channel: namespace and instance, and where it counts.
    meters: Vec<(u32, u64, Arc<Meters>, Arc<Meter>)>,
}

/// Which queue of which controller a connection is.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Belongs {
    /// None is discovery.
    subsystem: Option<Nqn>,
    cntlid: u16,
    qid: u16,
}

/// Another place of discovery.
struct Referral {
    subsystem: Nqn,
    address: Address,
    secure: bool,
}

struct State {
    options: Arc<Options>,
    connections: u64,
    instances: u64,
    links: BTreeMap<ConnectionId, Link>,
    /// Those that have not said yet what they are for, and were not told to go.
    strangers: BTreeSet<ConnectionId>,
    subsystems: BTreeMap<Nqn, Subsystem>,
    ports: BTreeMap<PortId, Port>,
    referrals: Vec<Referral>,
    discovery: Controllers,
    discovery_view: Arc<DiscoveryView>,
    changes: Changes,
    policy: Policy,
    random: RandomSource,
    /// What connections that ended, and queues that ended or not, have made of each core.
    shares: BTreeMap<CoreId, CoreShare>,
}

impl Target {
    /// A target without anything, whose transport allows this. `random` fills a slice with bytes that nobody can predict.
    #[must_use]
    pub fn new(options: Options, random: impl FnMut(&mut [u8]) + Send + 'static) -> Self {
        let (sender, heard) = unbounded();
        let state = State {
            options: Arc::new(options),
            connections: 0,
            instances: 0,
            links: BTreeMap::new(),
            strangers: BTreeSet::new(),
            subsystems: BTreeMap::new(),
            ports: BTreeMap::new(),
            referrals: Vec::new(),
            discovery: Controllers::new((1, 0xffef)),
            discovery_view: Arc::default(),
            changes: Changes::default(),
            policy: Policy::default(),
            random: Box::new(random),
            shares: BTreeMap::new(),
        };
        Self { shared: Arc::new(Shared { state: Locked::new(state), heard, sender }) }
    }

    /// Answers connections until it is told to [`quit`](Self::quit). A control thread's life.
    pub fn run(&self) {
        while let Ok(Message::Note(note)) = self.shared.heard.recv() {
            self.state().hear(note);
        }
    }

    /// Lets [`run`](Self::run) end.
    pub fn quit(&self) {
        let _ = self.shared.sender.send(Message::Quit);
    }

    /// Answers what connections have said up to now. Whether they had.
    pub fn turn(&self) -> bool {
        let mut any = false;
        while let Ok(Message::Note(note)) = self.shared.heard.try_recv() {
            any = true;
            self.state().hear(note);
        }
        any
    }

    /// What its transport allows.
    #[must_use]
    pub fn options(&self) -> Arc<Options> {
        Arc::clone(&self.state().options)
    }

    #[allow(clippy::disallowed_types, reason = "see the type")]
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// A new connection by a port, on the core of this mailbox; none if there are too many.
    pub(crate) fn link(&self, mailbox: Mailbox, port: PortId, peer: String, arrived: Address) -> Option<Voice> {
        let mut state = self.state();
        if state.links.len() >= CONNECTIONS_MAX || !state.ports.contains_key(&port) {
            return None;
        }
        let id = ConnectionId(state.connections);
        state.connections += 1;
        state.links.insert(id, Link { mailbox, port, peer, arrived, belongs: None, auth: None, meters: Vec::new() });
        state.strangers.insert(id);
        if state.strangers.len() > STRANGERS_MAX
            && let Some(oldest) = state.strangers.pop_first()
        {
            state.tell(oldest, || Told::Close(Closing::Crowded));
        }
        Some(Voice { from: id, sender: self.shared.sender.clone() })
    }
}

impl State {
    fn hear(&mut self, Note { from, said }: Note) {
        match said {
            Said::Connect(request) => {
                let result = self.connect(from, &request);
                if let Err(refusal) = &result {
                    tracing::warn!("host {} may not connect queue {} of {}: {refusal:?}", request.host, request.qid, request.subsystem);
                }
                self.tell(from, move || Told::Connected(result.map(Box::new)));
            }
            Said::Enabled(enabled) => self.enabled(from, enabled),
            Said::Open { nsid, depth } => self.open(from, nsid, depth),
            Said::Closed { nsid, instance } => self.closed(from, nsid, instance),
            Said::Seen(change) => {
                let then = self.changes.confirm(change, from);
                self.go_on(then);
            }
            Said::Reserve { token, nsid, act } => self.reserve(from, token, nsid, act),
            Said::Persist { token, nsid, persist } => self.persist(from, token, nsid, persist),
            Said::Hold { token, nsid, start, blocks } => self.hold(from, token, nsid, start, blocks),
            Said::Unhold { nsid } => self.unhold(from, nsid),
            Said::Abort { token, qid, id } => self.abort(from, token, qid, id),
            Said::Aborted { by, token, aborted } => self.tell(by, move || Told::Aborted { token, aborted }),
            Said::TakeProof { token, message } => self.take_proof(from, token, &message),
            Said::GiveProof { token, room_bytes } => self.give_proof(from, token, room_bytes),
            Said::Ended => self.ended(from),
        }
    }

    /// Tells a connection something.
    fn tell(&self, to: ConnectionId, make: impl FnOnce() -> Told + Send + 'static) {
        if let Some(link) = self.links.get(&to) {
            tell(&link.mailbox, to, |_| make());
        }
    }

    /// The subsystem with namespaces that a connection belongs to.
    fn home(&mut self, who: ConnectionId) -> Option<(&mut Subsystem, Belongs)> {
        let belongs = self.links.get(&who)?.belongs.clone()?;
        let subsystem = self.subsystems.get_mut(belongs.subsystem.as_ref()?)?;
        Some((subsystem, belongs))
    }

    /// A host gives a command up: its queue looks for it.
    fn abort(&mut self, from: ConnectionId, token: u32, qid: u16, id: u16) {
        let queue = self.home(from).and_then(|(subsystem, belongs)| {
            subsystem.controllers.by_id.get(&belongs.cntlid)?.queues.get(&qid).copied().filter(|_| qid > 0)
        });
        match queue {
            Some(queue) => self.tell(queue, move || Told::Abort { by: from, token, id }),
            None => self.tell(from, move || Told::Aborted { token, aborted: false }),
        }
    }

    fn go_on(&mut self, then: impl IntoIterator<Item = Then>) {
        for then in then {
            match then {
                Then::Answer(sender) => {
                    let _ = sender.send(());
                }
                Then::Reserved { to, token } => self.tell(to, move || Told::Reserved { token, result: Ok(()) }),
                Then::Held { to, token } => self.tell(to, move || Told::Held { token, granted: true }),
            }
        }
    }

    /// Shows every connection of a subsystem what it is now. `then` comes when all have made the change.
    fn publish(&mut self, nqn: &Nqn, until: Until, then: Option<Then>) {
        let Some(subsystem) = self.subsystems.get_mut(nqn) else { return };
        subsystem.refresh();
        let view = Arc::clone(&subsystem.view);
        let everybody = subsystem.controllers.connections(|_| true);
        let change = then.as_ref().map(|_| (self.changes.name(), until));
        for to in &everybody {
            let scene = Scene::Storage(Arc::clone(&view));
            self.tell(*to, move || Told::Scene { scene, change });
        }
        if let (Some((id, _)), Some(then)) = (change, then) {
            self.begin(id, everybody, then);
        }
    }

    fn begin(&mut self, id: ChangeId, waiting: BTreeSet<ConnectionId>, then: Then) {
        let made = self.changes.begin(id, waiting, then);
        self.go_on(made);
    }

    /// Makes what discovery says anew, and shows it.
    fn publish_discovery(&mut self) {
        let ports = &self.ports;
        let of_subsystem = |subsystem: &Subsystem| {
            let visible = subsystem.visible();
            let nqn = subsystem.identity.nqn.clone();
            let record = move |port: &PortId| DiscoveryRecord {
                subsystem: nqn.clone(),
                referral: false,
                secure: false,
                port: Some(*port),
                address: ports.get(port).and_then(advertised),
                visible: visible.clone(),
            };
            subsystem.ports.keys().map(record).collect::<Vec<_>>()
        };
        let referral = |referral: &Referral| DiscoveryRecord {
            subsystem: referral.subsystem.clone(),
            referral: true,
            secure: referral.secure,
            port: None,
            address: Some(referral.address.clone()),
            visible: super::view::Visibility::Everybody,
        };
        let subsystems = self.subsystems.values().filter(|subsystem| !subsystem.closing);
        let records: Vec<DiscoveryRecord> = subsystems.flat_map(of_subsystem).chain(self.referrals.iter().map(referral)).collect();
        if records == self.discovery_view.records {
            return;
        }
        self.discovery_view = Arc::new(DiscoveryView { generation: self.discovery_view.generation + 1, records });
        for to in self.discovery.connections(|_| true) {
            let scene = Scene::Discovery(Arc::clone(&self.discovery_view));
            self.tell(to, move || Told::Scene { scene, change: None });
        }
    }

    /// Ends these connections. `then` comes when nothing of them flies any more.
    fn close(&mut self, connections: BTreeSet<ConnectionId>, why: Closing, then: Then) {
        for to in &connections {
            self.tell(*to, move || Told::Close(why));
        }
        let id = self.changes.name();
        self.begin(id, connections, then);
    }
}

/// What discovery says of a port: what it was told to, or where it is; nothing of one that is everywhere.
fn advertised(port: &Port) -> Option<Address> {
    let everywhere = || port.address.host.parse().is_ok_and(|host: std::net::IpAddr| host.is_unspecified());
    port.advertised.clone().or_else(|| (!everywhere()).then(|| port.address.clone()))
}
