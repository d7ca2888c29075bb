//! A namespace on the network as a device of a program that is no engine: an initiator with a core and a thread of its own. Knows no server.
//!
//! [`FarDisk::attach`] does what a daemon does with `bdev_nvme_attach_controller`: it connects, and reconnects for as long as
//! the disk lives. The disk's device opens I/O queues on whatever core its channels are opened on.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{self, Read as _};
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, unbounded};
use spinel_core::{Core, CoreId, Device, OpenError};
use spinel_nvmf::initiator::{AttachError, AttachSpec, Event, Initiator, Me, Network, Patience, Policy, Settings};
use spinel_nvmf::nqn::Nqn;
use spinel_reactor::{Clock, Handle, Mode, PaceLimits, ReactorConfig, StartError, start};
use spinel_uring::{StreamOptions, TcpDialer, TcpStream};

/// How long a controller is waited for that is to be there, or to go.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long the kernel tries to connect.
const DIAL_TIME: Duration = Duration::from_secs(10);
/// What the controller is called here.
const NAME: &str = "far";

/// Which namespace, and how it is reached.
#[derive(Clone, Debug)]
pub struct FarSpec {
    /// Where the subsystem listens; several are several ways to one namespace.
    pub addresses: Vec<SocketAddr>,
    /// The subsystem's name.
    pub subsystem: Nqn,
    /// The namespace's number in it.
    pub nsid: u32,
    /// What this host calls itself.
    pub host: Nqn,
    /// The host's identifier.
    pub host_id: [u8; 16],
    /// Headers carry a digest.
    pub header_digest: bool,
    /// Data carry a digest.
    pub data_digest: bool,
    /// Requests fail when it was out of reach for so long; without, they wait.
    pub fail_after: Option<Duration>,
    /// How often the controller hears of this host at least; the initiator's own default without.
    pub keep_alive: Option<Duration>,
    /// One way after the other, instead of one of them.
    pub round_robin: bool,
}

/// Why a namespace cannot be attached.
#[derive(Debug, thiserror::Error)]
pub enum FarError {
    /// The system gives no random bytes, or no thread.
    #[error("the system refuses what an initiator needs")]
    System(#[source] io::Error),
    /// The admin queue's core cannot be used.
    #[error("the admin queue has no core")]
    Core(#[source] StartError),
    /// That core's rings cannot be set up.
    #[error("the admin queue's core cannot connect")]
    Join(#[source] OpenError),
    /// A controller refused, or is not to be reached.
    #[error("{address} cannot be attached")]
    Attach {
        /// Whose.
        address: SocketAddr,
        /// Why.
        source: AttachError,
    },
    /// It connects for too long.
    #[error("{0} does not become ready")]
    NotReady(SocketAddr),
    /// The subsystem has other namespaces, or none.
    #[error("{subsystem} has no namespace {nsid} for this host, {there}")]
    NoNamespace {
        /// Which subsystem.
        subsystem: String,
        /// What was asked for.
        nsid: u32,
        /// What there is.
        there: String,
    },
}

struct TcpNetwork;

impl Network for TcpNetwork {
    type Stream = TcpStream;
    type Dialer = TcpDialer;

    fn dialer(&self, core: &mut Core) -> Result<TcpDialer, OpenError> {
        TcpDialer::of(core)
    }

    fn dial(dialer: &mut TcpDialer, to: SocketAddr) -> Result<TcpStream, OpenError> {
        dialer.connect(to, DIAL_TIME, &StreamOptions::default())
    }
}

/// A namespace that is reachable until this is dropped.
pub struct FarDisk {
    device: Arc<dyn Device>,
    _host: Host,
}

impl FarDisk {
    /// Attaches a namespace by all the ways to it; `core` is where the admin queue is, asleep most of the time.
    ///
    /// # Errors
    /// [`FarError`]
    pub fn attach(spec: &FarSpec, core: CoreId) -> Result<Self, FarError> {
        let (host, events) = Host::start(spec, core)?;
        let device = host.find(spec, &events)?;
        Ok(Self { device, _host: host })
    }

    /// The namespace.
    #[must_use]
    pub fn device(&self) -> Arc<dyn Device> {
        Arc::clone(&self.device)
    }
}

/// The initiator, its thread, and the core of its admin queues. Dropping it takes all of it apart.
struct Host {
    initiator: Initiator<TcpNetwork>,
    thread: Option<JoinHandle<()>>,
    reactor: Option<Handle>,
}

/// Namespaces that have appeared.
type Appeared = Receiver<(u32, Arc<dyn Device>)>;

impl Host {
    fn start(spec: &FarSpec, core: CoreId) -> Result<(Self, Appeared), FarError> {
        let mut random = File::open("/dev/urandom").map_err(FarError::System)?;
        let random = move |bytes: &mut [u8]| random.read_exact(bytes).expect("the system always has random bytes");
        let defaults = Settings::default();
        let settings = Settings { keep_alive: spec.keep_alive.unwrap_or(defaults.keep_alive), ..defaults };
        let initiator = Initiator::new(TcpNetwork, settings, random);
        let make_core = Box::new(|id| spinel_uring::core(id, spinel_uring::Options::default()));
        let limits = PaceLimits { spin_min_ns: 0, spin_max_ns: 0 };
        let reactor = start(ReactorConfig { core, mode: Mode::Adaptive, limits, pin: true, make_core }).map_err(FarError::Core)?;
        let joining = initiator.clone();
        let joined = reactor.mailbox().visit(move |core| joining.join(core)).unwrap_or(Err(OpenError::Gone));
        let mut host = Self { initiator: initiator.clone(), thread: None, reactor: Some(reactor) };
        joined.map_err(FarError::Join)?;
        let (told, events) = unbounded();
        let run = move || {
            initiator.run(
                || Clock::system().now(),
                |event| {
                    if let Event::Appeared { nsid, device, .. } = event {
                        let _ = told.send((nsid, device));
                    }
                },
            );
        };
        host.thread = Some(std::thread::Builder::new().name("initiator".into()).spawn(run).map_err(FarError::System)?);
        Ok((host, events))
    }

    fn find(&self, spec: &FarSpec, events: &Appeared) -> Result<Arc<dyn Device>, FarError> {
        for address in &spec.addresses {
            let failed = |source| FarError::Attach { address: *address, source };
            let attaching = self.initiator.attach(attach_spec(spec, *address)).map_err(failed)?;
            attaching.wait(PATIENCE).ok_or(FarError::NotReady(*address))?.map_err(failed)?;
        }
        let mut found = Vec::new();
        for (nsid, device) in events.try_iter() {
            if nsid == spec.nsid {
                return Ok(device);
            }
            found.push(nsid.to_string());
        }
        let there = if found.is_empty() { "no namespace".to_owned() } else { format!("only {}", found.join(", ")) };
        Err(FarError::NoNamespace { subsystem: spec.subsystem.to_string(), nsid: spec.nsid, there })
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            if let Ok(detaching) = self.initiator.detach(NAME, None) {
                let _ = detaching.wait(PATIENCE);
            }
            self.initiator.quit();
            let _ = thread.join();
        }
        if let Some(reactor) = self.reactor.take() {
            reactor.quit();
        }
    }
}

fn attach_spec(spec: &FarSpec, address: SocketAddr) -> AttachSpec {
    AttachSpec {
        name: NAME.into(),
        address,
        subsystem: spec.subsystem.clone(),
        me: Me { name: spec.host.clone(), id: spec.host_id },
        header_digest: spec.header_digest,
        data_digest: spec.data_digest,
        io_queues: 64,
        patience: Patience { fail_after: spec.fail_after, ..Patience::default() },
        secrets: None,
        namespaces_max: 1024,
        multipath: true,
        policy: spec.round_robin.then_some(Policy::RoundRobin { requests: 1 }),
    }
}
