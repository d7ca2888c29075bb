//! Disks of other hosts: the initiator of NVMe over Fabrics in this process, its thread, and the bdevs that its namespaces are.
//! Knows no method's parameters.

use std::fs::File;
use std::io::{self, Read as _};
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::Value;
use spinel_core::{Core, Mailbox, OpenError};
use spinel_nvmf::initiator::{Event, Initiator, Network, Settings};
use spinel_reactor::Clock;
use spinel_uring::{StreamOptions, TcpDialer, TcpStream};
use uuid::Uuid;

use crate::disks::{Bdev, Disks};
use crate::engine::{Locked, locked};
use crate::kinds::{Kind, chain};

/// How long controllers are waited for when the daemon stops.
const LEAVE_TIME: Duration = Duration::from_secs(5);
/// How long the kernel tries to connect; a controller has less time than that.
const DIAL_TIME: Duration = Duration::from_secs(30);

/// Connections over TCP.
pub(crate) struct TcpNetwork;

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

/// A call that attached something, to be made again.
#[derive(Clone, Debug)]
pub(crate) struct Attachment {
    pub(crate) name: String,
    pub(crate) address: SocketAddr,
    pub(crate) params: Value,
}

/// A call that followed a discovery controller, to be made again.
#[derive(Clone, Debug)]
pub(crate) struct Followed {
    pub(crate) name: String,
    pub(crate) params: Value,
}

/// What was asked for, to be saved.
#[derive(Default)]
pub(crate) struct Asked {
    pub(crate) attachments: Vec<Attachment>,
    pub(crate) followed: Vec<Followed>,
    pub(crate) options: Option<Value>,
    /// By the controllers' name.
    pub(crate) policies: Vec<(String, Value)>,
}

/// Everything about disks of other hosts.
pub(crate) struct Remote {
    initiator: Initiator<TcpNetwork>,
    thread: Option<JoinHandle<()>>,
    /// Who this host is, unless somebody says otherwise.
    host_id: Uuid,
    asked: Locked<Asked>,
}

impl Remote {
    /// An initiator without controllers, on these cores. Its namespaces become disks.
    pub(crate) fn start(mailboxes: Vec<Mailbox>, disks: Arc<Locked<Disks>>) -> io::Result<Self> {
        let mut random = File::open("/dev/urandom")?;
        let random = move |bytes: &mut [u8]| random.read_exact(bytes).expect("the system always has random bytes");
        let initiator = Initiator::new(TcpNetwork, Settings::default(), random);
        for mailbox in mailboxes {
            let joining = initiator.clone();
            let joined = mailbox.visit(move |core| joining.join(core)).unwrap_or(Err(OpenError::Gone));
            joined.map_err(|error| io::Error::other(chain(&error)))?;
        }
        let running = initiator.clone();
        let run = move || running.run(|| Clock::system().now(), |event| follow(&disks, event));
        let thread = std::thread::Builder::new().name("nvme-initiator".into()).spawn(run)?;
        Ok(Self { initiator, thread: Some(thread), host_id: Uuid::new_v4(), asked: Locked::default() })
    }

    pub(crate) fn initiator(&self) -> &Initiator<TcpNetwork> {
        &self.initiator
    }

    /// This host's own identifier.
    pub(crate) fn host_id(&self) -> Uuid {
        self.host_id
    }

    /// What was asked for, for one caller at a time.
    #[allow(clippy::disallowed_types, reason = "see the type")]
    pub(crate) fn asked(&self) -> std::sync::MutexGuard<'_, Asked> {
        locked(&self.asked)
    }

    /// The calls that make all of it again.
    pub(crate) fn creation(&self) -> Vec<(&'static str, Value)> {
        let asked = self.asked();
        let options = asked.options.iter().map(|params| ("bdev_nvme_set_options", params.clone()));
        let attachments = asked.attachments.iter().map(|attachment| ("bdev_nvme_attach_controller", attachment.params.clone()));
        let policies = asked.policies.iter().map(|(_, params)| ("bdev_nvme_set_multipath_policy", params.clone()));
        let followed = asked.followed.iter().map(|followed| ("bdev_nvme_start_discovery", followed.params.clone()));
        options.chain(attachments).chain(followed).chain(policies).collect()
    }

    /// Detaches everything, and waits for that a little.
    pub(crate) fn stop(&mut self) {
        let followed = self.initiator.discoveries();
        let following: Vec<_> = followed.iter().filter_map(|discovery| self.initiator.stop_discovery(&discovery.name).ok()).collect();
        let names: std::collections::BTreeSet<String> = self.initiator.controllers().into_iter().map(|path| path.name).collect();
        let leaving: Vec<_> = names.iter().filter_map(|name| self.initiator.detach(name, None).ok()).collect();
        for detaching in leaving.into_iter().chain(following) {
            if !detaching.wait(LEAVE_TIME) {
                tracing::warn!("a controller was not told that this host goes");
            }
        }
        self.initiator.quit();
        if let Some(thread) = self.thread.take() {
            assert!(thread.join().is_ok(), "the thread of the initiator panicked");
        }
    }
}

/// What a namespace is called as a bdev.
pub(crate) fn bdev_name(controller: &str, nsid: u32) -> String {
    format!("{controller}n{nsid}")
}

/// Lets disks be what namespaces are.
fn follow(disks: &Locked<Disks>, event: Event) {
    let mut disks = locked(disks);
    match event {
        Event::Appeared { name, nsid, uuid, device } => {
            let bdev = bdev_name(&name, nsid);
            // One that nobody uses any more makes room; one in use keeps its name and its dead device.
            disks.remove_vanished(&bdev);
            // A namespace of our own may come back to us with the UUID of the disk it is.
            let uuid = uuid.map(Uuid::from_bytes).filter(|uuid| disks.check_vacant("name", &bdev, Some(*uuid)).is_ok());
            match disks.check_vacant("name", &bdev, None) {
                Ok(()) => drop(disks.add(Bdev::new(bdev, uuid, Kind::Nvme { device, controller: name, nsid, gone: false }))),
                Err(error) => tracing::error!("namespace {nsid} of '{name}' becomes no bdev: {error}"),
            }
        }
        Event::Changed { name, nsid } => disks.announce_size(&bdev_name(&name, nsid)),
        Event::Vanished { name, nsid } => {
            let bdev = bdev_name(&name, nsid);
            disks.vanished(&bdev);
            if !disks.remove_vanished(&bdev) {
                tracing::warn!("bdev '{bdev}' has gone, and is still in use: its requests fail");
            }
        }
    }
}
