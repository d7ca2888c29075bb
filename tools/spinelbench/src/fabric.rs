//! A namespace of a controller on the network as a target: an initiator of our own in this program. Knows no job.

use std::fs::File;
use std::io::Read as _;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, unbounded};
use spinel_core::{Core, Device, OpenError};
use spinel_nvmf::initiator::{AttachSpec, Event, Initiator, Me, Network, Patience, Policy, Settings};
use spinel_nvmf::nqn::Nqn;
use spinel_reactor::Clock;
use spinel_uring::{StreamOptions, TcpDialer, TcpStream};

use crate::cli::Wait;
use crate::crew::{Seat, seats};
use crate::failure::{Failure, with_causes};
use crate::target::last_core;
use crate::url::Far;

/// How long a controller is waited for that is to be there, or to go.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long the kernel tries to connect.
const DIAL_TIME: Duration = Duration::from_secs(10);
/// What the controller is called here.
const NAME: &str = "far";

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

/// Keeps a namespace reachable until it is dropped.
pub(crate) struct Fabric {
    device: Arc<dyn Device>,
    initiator: Initiator<TcpNetwork>,
    thread: Option<JoinHandle<()>>,
    /// Where the admin queue is.
    seat: Option<Seat>,
}

impl Fabric {
    /// Attaches what a URL names, by all the ways that it names.
    ///
    /// # Errors
    /// What is in the way.
    pub(crate) fn attach(far: &Far) -> Result<Self, Failure> {
        let unreachable = |error: &dyn std::error::Error| Failure::Unreachable(with_causes(error));
        let mut random = File::open("/dev/urandom").map_err(|error| unreachable(&error))?;
        let random = move |bytes: &mut [u8]| random.read_exact(bytes).expect("the system always has random bytes");
        let settings = Settings { keep_alive: far.keep_alive.unwrap_or(Settings::default().keep_alive), ..Settings::default() };
        let initiator = Initiator::new(TcpNetwork, settings, random);
        let seat = seats(&[last_core(&[])?], Wait::Sleep)?.remove(0);
        let joining = initiator.clone();
        let joined = seat.mailbox().visit(move |core| joining.join(core)).unwrap_or(Err(OpenError::Gone));
        let (told, events) = unbounded();
        let running = initiator.clone();
        let run = move || {
            running.run(
                || Clock::system().now(),
                |event| {
                    if let Event::Appeared { nsid, device, .. } = event {
                        let _ = told.send((nsid, device));
                    }
                },
            );
        };
        let thread = std::thread::Builder::new().name("initiator".into()).spawn(run).map_err(|error| unreachable(&error))?;
        // From here on all of it is taken apart whatever happens.
        let mut fabric = Building { initiator, thread: Some(thread), seat: Some(seat) };
        joined.map_err(|error| unreachable(&error))?;
        let device = fabric.find(far, &events)?;
        let (initiator, thread, seat) = (fabric.initiator.clone(), fabric.thread.take(), fabric.seat.take());
        Ok(Self { device, initiator, thread, seat })
    }

    /// The namespace.
    pub(crate) fn device(&self) -> Arc<dyn Device> {
        Arc::clone(&self.device)
    }
}

/// A fabric whose namespace was not found yet.
struct Building {
    initiator: Initiator<TcpNetwork>,
    thread: Option<JoinHandle<()>>,
    seat: Option<Seat>,
}

impl Building {
    fn find(&mut self, far: &Far, events: &Receiver<(u32, Arc<dyn Device>)>) -> Result<Arc<dyn Device>, Failure> {
        for place in &far.places {
            let addresses = place.to_socket_addrs().map_err(|error| Failure::Unreachable(format!("{place}: {error}")))?;
            let address = addresses.into_iter().next().ok_or_else(|| Failure::Unreachable(format!("{place} has no address")))?;
            let spec = spec(far, address)?;
            let attaching = self.initiator.attach(spec).map_err(|error| Failure::unreachable(&error))?;
            match attaching.wait(PATIENCE) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(Failure::unreachable(&error)),
                None => return Err(Failure::Unreachable(format!("{place} does not become ready"))),
            }
        }
        let mut found = Vec::new();
        for (nsid, device) in events.try_iter() {
            if nsid == far.nsid {
                return Ok(device);
            }
            found.push(nsid.to_string());
        }
        let there = if found.is_empty() { "no namespace".to_owned() } else { format!("only {}", found.join(", ")) };
        Err(Failure::Unreachable(format!("{} has no namespace {} for this host, {there}", far.subsystem, far.nsid)))
    }
}

fn spec(far: &Far, address: SocketAddr) -> Result<AttachSpec, Failure> {
    let name = |text: &str| Nqn::parse(text).map_err(|error| Failure::usage(format!("'{text}' is no name: {error}")));
    let id = std::process::id().to_le_bytes();
    let mut host_id = [0x5b; 16];
    host_id[..4].copy_from_slice(&id);
    let host = far.host.clone().unwrap_or_else(|| "nqn.2026-11.io.spinel:spinelbench".to_owned());
    Ok(AttachSpec {
        name: NAME.into(),
        address,
        subsystem: name(&far.subsystem)?,
        me: Me { name: name(&host)?, id: host_id },
        header_digest: far.header_digest,
        data_digest: far.data_digest,
        io_queues: 64,
        patience: Patience { fail_after: far.fail_after, ..Patience::default() },
        secrets: None,
        namespaces_max: 1024,
        multipath: true,
        policy: far.round_robin.then_some(Policy::RoundRobin { requests: 1 }),
    })
}

fn take_apart(initiator: &Initiator<TcpNetwork>, thread: Option<JoinHandle<()>>, seat: Option<Seat>) {
    if let Some(thread) = thread {
        if let Ok(detaching) = initiator.detach(NAME, None) {
            let _ = detaching.wait(PATIENCE);
        }
        initiator.quit();
        let _ = thread.join();
    }
    if let Some(seat) = seat {
        seat.leave();
    }
}

impl Drop for Building {
    fn drop(&mut self) {
        take_apart(&self.initiator, self.thread.take(), self.seat.take());
    }
}

impl Drop for Fabric {
    fn drop(&mut self) {
        take_apart(&self.initiator, self.thread.take(), self.seat.take());
    }
}
