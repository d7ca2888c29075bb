//! NVMe over Fabrics in this process: the target, the thread that serves it, and the sockets where hosts connect. Knows no
//! method's parameters.

mod listener;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::net::{IpAddr, SocketAddr};
use std::thread::JoinHandle;
use std::time::Duration;

use spinel_core::Mailbox;
use spinel_nvmf::auth::Policy;
use spinel_nvmf::target::{Address, Family, Options, PortId, Target};
use spinel_uring::Listener;

use crate::cores::CoreList;
use crate::engine::{Locked, locked};
use crate::kinds::chain;

/// How long requests under way are waited for when something is taken from hosts.
pub(crate) const DRAIN_TIME: Duration = Duration::from_secs(5);

/// The transport's own name.
pub(crate) const TRANSPORT: &str = "TCP";
/// The target's own name.
pub(crate) const TARGET: &str = "nvmf_tgt";

/// The transport as it was made.
#[derive(Clone, Debug)]
pub(crate) struct Transport {
    pub(crate) options: Options,
    /// What was asked for and has no meaning here.
    pub(crate) given: serde_json::Map<String, serde_json::Value>,
}

#[derive(Default)]
struct Fabric {
    transport: Option<Transport>,
    listeners: BTreeMap<PortId, Listener>,
    /// The cores that connections are spread over, if they are not all.
    cores: Option<CoreList>,
    /// How hosts prove who they are, if it was chosen.
    policy: Option<Policy>,
}

/// Everything about NVMe over Fabrics.
pub(crate) struct Nvmf {
    target: Target,
    thread: Option<JoinHandle<()>>,
    mailboxes: Vec<Mailbox>,
    fabric: Locked<Fabric>,
}

impl Nvmf {
    /// A target that nobody can reach yet, with its thread.
    pub(crate) fn start(mailboxes: Vec<Mailbox>) -> io::Result<Self> {
        let mut random = File::open("/dev/urandom")?;
        let target = Target::new(Options::default(), move |bytes| random.read_exact(bytes).expect("the system always has random bytes"));
        let served = target.clone();
        let thread = std::thread::Builder::new().name("nvmf-target".into()).spawn(move || served.run())?;
        Ok(Self { target, thread: Some(thread), mailboxes, fabric: Locked::default() })
    }

    /// The target.
    pub(crate) fn target(&self) -> &Target {
        &self.target
    }

    /// The transport, once there is one.
    pub(crate) fn transport(&self) -> Option<Transport> {
        locked(&self.fabric).transport.clone()
    }

    /// Makes the transport. False if there is one.
    pub(crate) fn create_transport(&self, transport: Transport) -> bool {
        let mut fabric = locked(&self.fabric);
        if fabric.transport.is_some() {
            return false;
        }
        self.target.set_options(transport.options.clone());
        fabric.transport = Some(transport);
        true
    }

    /// The cores that connections are spread over, if they were chosen.
    pub(crate) fn cores(&self) -> Option<CoreList> {
        locked(&self.fabric).cores.clone()
    }

    /// Spreads connections that come from now on over these cores.
    pub(crate) fn set_cores(&self, cores: CoreList) {
        locked(&self.fabric).cores = Some(cores);
    }

    /// How hosts prove who they are, if that was chosen.
    pub(crate) fn policy(&self) -> Option<Policy> {
        locked(&self.fabric).policy
    }

    /// Lets hosts prove who they are in these ways only, from now on.
    pub(crate) fn set_policy(&self, policy: Policy) {
        self.target.set_policy(policy);
        locked(&self.fabric).policy = Some(policy);
    }

    /// Listens at an address, if nobody does yet.
    pub(crate) fn listen(&self, address: &Address, advertised: Option<Address>) -> Result<PortId, ListenError> {
        let mut fabric = locked(&self.fabric);
        if let Some(port) = self.target.port(address) {
            return Ok(port);
        }
        let socket = socket_address(address)?;
        let port = self.target.add_port(address.clone(), advertised)?;
        let mailboxes = self.mailboxes.clone();
        let chosen = fabric.cores.clone();
        let mailboxes = mailboxes.into_iter().filter(|mailbox| chosen.as_ref().is_none_or(|cores| cores.ids().contains(&mailbox.core())));
        match listener::listen(socket, self.target.clone(), port, mailboxes.collect()) {
            Ok(listener) => {
                fabric.listeners.insert(port, listener);
                Ok(port)
            }
            Err(error) => {
                self.target.remove_port(port);
                Err(error.into())
            }
        }
    }

    /// Stops listening where no subsystem is reached any more.
    pub(crate) fn tidy_listeners(&self) {
        let mut fabric = locked(&self.fabric);
        let unused: Vec<PortId> = fabric.listeners.keys().copied().filter(|port| !self.target.port_is_used(*port)).collect();
        for port in unused {
            drop(fabric.listeners.remove(&port));
            self.target.remove_port(port);
        }
    }

    /// Takes no more connections, ends those there are, and waits until nothing of them flies.
    pub(crate) fn stop(&mut self) {
        locked(&self.fabric).listeners.clear();
        if !self.target.close_all().wait(DRAIN_TIME) {
            tracing::error!("connections of NVMe over Fabrics have requests under way that did not end");
        }
        self.target.quit();
        if let Some(thread) = self.thread.take() {
            assert!(thread.join().is_ok(), "the thread of NVMe over Fabrics panicked");
        }
    }
}

/// Why nobody listens at an address.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ListenError {
    /// No address.
    #[error("{what}")]
    Address {
        /// Which part is wrong, and how.
        what: String,
    },
    /// The target refuses another one.
    #[error(transparent)]
    Target(#[from] spinel_nvmf::target::TargetError),
    /// The system refuses it.
    #[error("{}", chain(.0))]
    System(#[from] spinel_uring::ListenError),
}

fn socket_address(address: &Address) -> Result<SocketAddr, ListenError> {
    let wrong = |what: String| ListenError::Address { what };
    let host: IpAddr =
        address.host.parse().map_err(|_| wrong(format!("'{}' is not an IP address, such as 192.0.2.7 or fd00::7", address.host)))?;
    if host.is_ipv4() != (address.family == Family::Ipv4) {
        return Err(wrong(format!("'{}' is not of the family that adrfam names", address.host)));
    }
    let service = address.service.parse().ok().filter(|port| *port != 0);
    let port = service.ok_or_else(|| wrong(format!("'{}' is not a port, such as 4420", address.service)))?;
    Ok(SocketAddr::new(host, port))
}

/// An address of a socket as hosts and clients have it.
fn address_of(socket: SocketAddr) -> Address {
    let family = if socket.is_ipv4() { Family::Ipv4 } else { Family::Ipv6 };
    Address { family, host: socket.ip().to_string(), service: socket.port().to_string() }
}

/// The mailbox whose core has the fewest connections.
fn least_loaded<'a>(target: &Target, mailboxes: &'a [Mailbox], next: usize) -> &'a Mailbox {
    let counts = target.connections_of_cores();
    let load = |mailbox: &&Mailbox| counts.get(&mailbox.core()).map_or((0, 0), |(admin, io)| (admin + io, *io));
    // Of those that have as few, each is the first once.
    let (behind, before) = mailboxes.split_at(next % mailboxes.len());
    before.iter().chain(behind).min_by_key(load).expect("there is a core")
}
