//! A target with cores that a test turns, and disks in memory.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use spinel_core::{Core, CoreId, Device, Instant, Mailbox, Meters, mailbox};
use spinel_nvmf::nqn::Nqn;
use spinel_nvmf::target::{
    Address, AnaState, Family, Identity, ListenerSpec, NamespaceIds, NamespaceSpec, Options, Pending, PortId, SubsystemSpec, Target,
};
use spinel_reactor::{Reactor, Rest};
use spinel_sim::SimSleeper;
use spinel_volume::{DelayDevice, Latencies, MemoryDevice, Shape};

use super::host::{HOST, Host, Talk, Who, controller};
use super::wire::HostEnd;

pub(crate) const SUBSYSTEM: &str = "nqn.2026-11.io.spinel:test";
pub(crate) const BLOCKS: u64 = 8192;

pub(crate) struct World {
    pub(crate) target: Target,
    pub(crate) ports: Vec<PortId>,
    pub(crate) meters: Arc<Meters>,
    cores: VecDeque<(Reactor, Mailbox)>,
    pub(crate) now: Instant,
    /// How long a turn takes.
    pub(crate) turn_ns: u64,
}

pub(crate) fn address(number: u16) -> Address {
    Address { family: Family::Ipv4, host: "127.0.0.1".into(), service: (4420 + number).to_string() }
}

pub(crate) fn identity(nqn: &str) -> Identity {
    Identity {
        nqn: Nqn::parse(nqn).unwrap(),
        serial: "SN1".into(),
        model: "Spinel test".into(),
        namespaces_max: 32,
        ana: true,
        cntlids: (1, 0xffef),
    }
}

impl World {
    /// A target with a subsystem that everybody may connect to, reached by two ports, with one disk in memory.
    pub(crate) fn new(options: Options) -> Self {
        let mut seed = 1_u8;
        let target = Target::new(options, move |bytes| {
            for byte in bytes {
                seed = seed.wrapping_mul(141).wrapping_add(3);
                *byte = seed;
            }
        });
        let core = |id| {
            let (mailbox, inbox) = mailbox(CoreId(id)).unwrap();
            let (sleeper, _bed) = SimSleeper::new();
            (Reactor::new(Core::new(CoreId(id), Box::new(sleeper)), inbox), mailbox)
        };
        let now = Instant { ns: 1_000_000_000 };
        let mut world = Self { target, ports: Vec::new(), meters: Arc::default(), cores: [core(0), core(1)].into(), now, turn_ns: 10_000 };
        world.target.create_subsystem(SubsystemSpec { identity: identity(SUBSYSTEM), allow_any_host: true }).unwrap();
        for number in 0..2 {
            let port = world.target.add_port(address(number), None).unwrap();
            let listener = ListenerSpec { port, state: AnaState::Optimized };
            let pending = world.target.add_listener(SUBSYSTEM, &listener).unwrap();
            world.made(&pending);
            world.ports.push(port);
        }
        world.add_disk("disk1", BLOCKS);
        world
    }

    /// Adds a disk as a namespace.
    pub(crate) fn add_disk(&mut self, name: &str, blocks: u64) -> u32 {
        let device = Arc::new(MemoryDevice::new(Shape::new(512, blocks)).unwrap());
        let spec = NamespaceSpec { device, ..self.spec(name) };
        let (nsid, pending) = self.target.add_namespace(SUBSYSTEM, spec).unwrap();
        self.made(&pending);
        nsid
    }

    /// Puts another disk in the place of namespace 1, whose requests take so long.
    pub(crate) fn slow_down(&mut self, latency_us: u64) {
        let pending = self.target.remove_namespace(SUBSYSTEM, 1).unwrap();
        self.made(&pending);
        let base: Arc<dyn Device> = Arc::new(MemoryDevice::new(Shape::new(512, BLOCKS)).unwrap());
        let latencies =
            Latencies { average_read_us: latency_us, p99_read_us: latency_us, average_write_us: latency_us, p99_write_us: latency_us };
        let device = Arc::new(DelayDevice::new(base, latencies).unwrap());
        let spec = NamespaceSpec { device, ..self.spec("slow") };
        let (nsid, pending) = self.target.add_namespace(SUBSYSTEM, spec).unwrap();
        assert_eq!(nsid, 1);
        self.made(&pending);
    }

    pub(crate) fn spec(&self, name: &str) -> NamespaceSpec {
        let mut uuid = [7; 16];
        uuid[..name.len().min(16)].copy_from_slice(&name.as_bytes()[..name.len().min(16)]);
        NamespaceSpec {
            nsid: None,
            name: name.into(),
            device: Arc::new(MemoryDevice::new(Shape::new(512, BLOCKS)).unwrap()),
            meters: Arc::clone(&self.meters),
            ids: NamespaceIds { uuid, ..NamespaceIds::default() },
            group: None,
            visible: true,
            reservations_file: None,
        }
    }

    /// A turn of everything.
    pub(crate) fn turn(&mut self) {
        self.now = self.now.after_ns(self.turn_ns);
        for (reactor, _) in &mut self.cores {
            reactor.turn(self.now);
            reactor.arm();
            reactor.disarm();
        }
        self.target.turn();
    }

    pub(crate) fn turns(&mut self, count: usize) {
        (0..count).for_each(|_| self.turn());
    }

    /// Whether every core would sleep now.
    pub(crate) fn rests(&mut self) -> bool {
        self.cores.iter_mut().all(|(reactor, _)| {
            let rest = reactor.arm();
            reactor.disarm();
            matches!(rest, Rest::Granted(_))
        })
    }

    /// Turns until a change is made.
    pub(crate) fn made(&mut self, pending: &Pending) {
        assert!(
            (0..10_000).any(|_| pending.is_made() || {
                self.turn();
                false
            }),
            "a change is made in time"
        );
    }

    /// Lets everything pass that takes a while.
    pub(crate) fn pass(&mut self, time: Duration) {
        self.now = self.now.after(time);
        self.turns(10);
    }

    /// The way onto the next core.
    pub(crate) fn mailbox(&self) -> &Mailbox {
        &self.cores[0].1
    }

    /// Lets the next connection come to another core.
    pub(crate) fn rotate(&mut self) {
        self.cores.rotate_left(1);
    }

    /// Connections that are there.
    pub(crate) fn pollers(&self) -> usize {
        self.cores.iter().map(|(reactor, _)| reactor.pollers()).sum()
    }

    /// A host that has connected by a port, on the next core.
    pub(crate) fn dial(&mut self, port: usize, talk: Talk) -> Host {
        let end = HostEnd::default();
        let (_, mailbox) = &self.cores[0];
        let far = end.clone();
        let admitted = self
            .target
            .admit(mailbox, self.ports[port], "test".into(), address(u16::try_from(port).unwrap()), move |core| Ok(far.stream(core)));
        assert!(admitted);
        self.cores.rotate_left(1);
        let mut host = Host::new(end, talk);
        host.settle(self);
        host
    }

    /// A controller that works.
    pub(crate) fn admin(&mut self, who: &Who, port: usize, talk: Talk) -> (Host, u16) {
        let mut admin = self.dial(port, talk);
        let connected = admin.connect(self, who, SUBSYSTEM, 0, 0xffff);
        admin.enable(self);
        (admin, controller(&connected))
    }

    /// A queue for I/O of a controller.
    pub(crate) fn queue(&mut self, who: &Who, port: usize, cntlid: u16, queue: u16, talk: Talk) -> Host {
        let mut host = self.dial(port, talk);
        let connected = host.connect(self, who, SUBSYSTEM, queue, cntlid);
        assert_eq!(controller(&connected), cntlid);
        host
    }

    /// A controller and one queue for I/O.
    pub(crate) fn pair(&mut self, talk: Talk) -> (Host, Host) {
        let (admin, cntlid) = self.admin(&HOST, 0, talk);
        let io = self.queue(&HOST, 0, cntlid, 1, talk);
        (admin, io)
    }
}
