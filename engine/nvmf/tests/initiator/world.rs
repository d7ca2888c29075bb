//! A target and an initiator on cores that a test turns, with simulated connections between them.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use spinel_core::mem::Region;
use spinel_core::{Channel, Command, Core, CoreId, Device, Instant, Mailbox, Meters, OpenError, Progress, mailbox};
use spinel_nvmf::initiator::{AttachError, AttachSpec, Attached, Attaching, Event, Initiator, Me, Network, Patience, Settings};
use spinel_nvmf::nqn::Nqn;
use spinel_nvmf::target::{
    Address, AnaState, Family, Identity, ListenerSpec, NamespaceIds, NamespaceSpec, Options, Pending, PortId, SubsystemSpec, Target,
};
use spinel_reactor::{Reactor, Rest};
use spinel_sim::{Prng, SimNet, SimSleeper, SimStream, SimWire, WireOptions};
use spinel_volume::{MemoryDevice, Shape};

use super::hostile::{At, Mischief, Say, Scripted};

type Script = Box<dyn FnMut(At, &mut Say) -> bool>;

pub(crate) const SUBSYSTEM: &str = "nqn.2026-11.io.spinel:test";
pub(crate) const BLOCKS: u64 = 4096;
pub(crate) const FIRST_PORT: u16 = 4420;

/// What lies between hosts and the target. A test has one thread, so it has one of these.
#[derive(Default)]
pub(crate) struct Lab {
    target: Option<Target>,
    mailboxes: BTreeMap<u16, Mailbox>,
    pub(crate) ports: BTreeMap<u16, PortId>,
    pub(crate) options: WireOptions,
    pub(crate) prng: Option<Prng>,
    /// Ends that the target has not taken yet.
    pending: BTreeMap<u64, SimStream>,
    /// Connections, by the port they lead to.
    pub(crate) wires: Vec<(u16, SimWire)>,
    /// Ports where nobody answers.
    pub(crate) down: Vec<u16>,
    next: u64,
    pub(crate) dialled: u64,
    /// Connections of a target that does what a test says, if it is one.
    pub(crate) scripted: Option<Vec<Scripted>>,
    pub(crate) mischief: Option<Mischief>,
    /// Says something else in place of any answer, or says that it does not.
    pub(crate) script: Option<Script>,
    /// One answer in so many of them is spoilt.
    pub(crate) spoils_one_in: u64,
    pub(crate) spoilt: u64,
}

thread_local! {
    static LAB: RefCell<Lab> = RefCell::default();
}

pub(crate) fn lab<T>(run: impl FnOnce(&mut Lab) -> T) -> T {
    LAB.with(|lab| run(&mut lab.borrow_mut()))
}

/// Breaks, silences or lets through connections by a port.
pub(crate) fn wires(port: u16, each: impl Fn(&SimWire)) -> usize {
    lab(|lab| lab.wires.iter().filter(|(to, _)| *to == port).map(|(_, wire)| each(wire)).count())
}

pub(crate) struct SimNetwork;

pub(crate) struct SimDialer {
    core: CoreId,
    net: SimNet,
}

impl Network for SimNetwork {
    type Stream = SimStream;
    type Dialer = SimDialer;

    fn dialer(&self, core: &mut Core) -> Result<SimDialer, OpenError> {
        Ok(SimDialer { core: core.id(), net: SimNet::of(core) })
    }

    fn dial(dialer: &mut SimDialer, to: SocketAddr) -> Result<SimStream, OpenError> {
        let (options, prng) = lab(|lab| {
            lab.dialled += 1;
            (lab.options.clone(), lab.prng.get_or_insert_with(|| Prng::new(1)).fork())
        });
        let (wire, [near, far]) = dialer.net.connect(options, prng);
        let made = lab(|lab| {
            if let Some(scripted) = &mut lab.scripted {
                scripted.push(Scripted::new(far));
                lab.wires.push((to.port(), wire.clone()));
                return Err(true);
            }
            let port = lab.ports.get(&to.port()).copied().filter(|_| !lab.down.contains(&to.port())).ok_or(false)?;
            let number = lab.next;
            lab.next += 1;
            lab.pending.insert(number, far);
            lab.wires.push((to.port(), wire.clone()));
            Ok((lab.target.clone().ok_or(false)?, lab.mailboxes.get(&dialer.core.0).ok_or(false)?.clone(), port, number))
        });
        let (target, mailbox, port, number) = match made {
            Ok(made) => made,
            Err(served) => {
                if !served {
                    wire.break_off();
                }
                return Ok(near);
            }
        };
        let make = move |_: &mut Core| Ok(lab(|lab| lab.pending.remove(&number).expect("it was put there")));
        let admitted = target.admit(&mailbox, port, "sim".into(), address(to.port()), make);
        assert!(admitted, "the target takes another connection");
        Ok(near)
    }
}

/// Lets scripted targets answer. Whether there was anything.
fn poll_scripted() -> bool {
    let Some(mut scripted) = lab(|lab| lab.scripted.as_mut().map(std::mem::take)) else { return false };
    let busy = scripted.iter_mut().filter_map(|one| one.poll().then_some(())).count() > 0;
    lab(|lab| lab.scripted.as_mut().expect("it was there").splice(0..0, scripted).count());
    busy
}

pub(crate) fn address(port: u16) -> Address {
    Address { family: Family::Ipv4, host: "127.0.0.1".into(), service: port.to_string() }
}

pub(crate) struct World {
    pub(crate) target: Target,
    pub(crate) initiator: Initiator<SimNetwork>,
    pub(crate) cores: Vec<(Reactor, Mailbox)>,
    pub(crate) now: Instant,
    pub(crate) devices: BTreeMap<(String, u32), Arc<dyn Device>>,
    /// What became of namespaces, in words.
    pub(crate) told: Vec<String>,
    pub(crate) disks: BTreeMap<String, Arc<MemoryDevice>>,
    meters: Arc<Meters>,
}

fn bytes(seed: u8) -> impl FnMut(&mut [u8]) + Send + 'static {
    let mut next = seed;
    move |bytes| {
        for byte in bytes {
            next = next.wrapping_mul(141).wrapping_add(3);
            *byte = next;
        }
    }
}

impl World {
    /// A target with one disk by two ports, and an initiator without controllers, on so many cores.
    pub(crate) fn new(cores: u16, options: Options, settings: Settings, wire: WireOptions, seed: u64) -> Self {
        let target = Target::new(options, bytes(1));
        let initiator = Initiator::new(SimNetwork, settings, bytes(2));
        let core = |id| {
            let (mailbox, inbox) = mailbox(CoreId(id)).unwrap();
            let (sleeper, _bed) = SimSleeper::new();
            (Reactor::new(Core::new(CoreId(id), Box::new(sleeper)), inbox), mailbox)
        };
        let cores: Vec<(Reactor, Mailbox)> = (0..cores).map(core).collect();
        let mailboxes = cores.iter().map(|(_, mailbox)| (mailbox.core().0, mailbox.clone())).collect();
        let lab_of = Lab { target: Some(target.clone()), mailboxes, options: wire, prng: Some(Prng::new(seed)), ..Lab::default() };
        lab(|lab| *lab = lab_of);
        let now = Instant { ns: 1_000_000_000 };
        let (devices, told, disks) = Default::default();
        let mut world = Self { target, initiator, cores, now, devices, told, disks, meters: Arc::default() };
        let nqn = Nqn::parse(SUBSYSTEM).unwrap();
        let (serial, model, cntlids) = ("SN1".into(), "Spinel test".into(), (1, 0xffef));
        let identity = Identity { nqn, serial, model, namespaces_max: 32, ana: true, cntlids };
        world.target.create_subsystem(SubsystemSpec { identity, allow_any_host: true }).unwrap();
        for number in 0..2 {
            let port = world.target.add_port(address(FIRST_PORT + number), None).unwrap();
            let listener = ListenerSpec { port, state: AnaState::Optimized };
            let pending = world.target.add_listener(SUBSYSTEM, &listener).unwrap();
            world.made(&pending);
            lab(|lab| lab.ports.insert(FIRST_PORT + number, port));
        }
        world.add_disk("disk1", BLOCKS);
        for (_, mailbox) in &world.cores {
            let initiator = world.initiator.clone();
            mailbox.post(Command::Visit(Box::new(move |core| initiator.join(core).unwrap())));
        }
        world
    }

    /// Adds a disk as a namespace.
    pub(crate) fn add_disk(&mut self, name: &str, blocks: u64) -> u32 {
        let device = Arc::new(MemoryDevice::new(Shape::new(512, blocks)).unwrap());
        self.disks.insert(name.into(), Arc::clone(&device));
        self.add_namespace(name, device)
    }

    pub(crate) fn add_namespace(&mut self, name: &str, device: Arc<dyn Device>) -> u32 {
        let mut uuid = [7; 16];
        uuid[..name.len().min(16)].copy_from_slice(&name.as_bytes()[..name.len().min(16)]);
        let spec = NamespaceSpec {
            nsid: None,
            name: name.into(),
            device,
            meters: Arc::clone(&self.meters),
            ids: NamespaceIds { uuid, ..NamespaceIds::default() },
            group: None,
            visible: true,
            reservations_file: None,
        };
        let (nsid, pending) = self.target.add_namespace(SUBSYSTEM, spec).unwrap();
        self.made(&pending);
        nsid
    }

    /// A turn of everything. Where nothing is to be done, time passes until something is, at most `most_ns` of it.
    pub(crate) fn turn_at_most(&mut self, most_ns: u64) -> Progress {
        self.now = self.now.after_ns(2_000);
        let mut progress = Progress::Idle;
        for (reactor, _) in &mut self.cores {
            progress = progress.max(reactor.turn(self.now));
        }
        if self.target.turn() || poll_scripted() {
            progress = Progress::Busy;
        }
        let (devices, told) = (&mut self.devices, &mut self.told);
        let next = self.initiator.turn(self.now, &mut |event| match event {
            Event::Appeared { name, nsid, device, .. } => {
                told.push(format!("{name}n{nsid} appeared"));
                devices.insert((name, nsid), device);
            }
            Event::Changed { name, nsid } => told.push(format!("{name}n{nsid} changed")),
            Event::Vanished { name, nsid } => {
                told.push(format!("{name}n{nsid} vanished"));
                devices.remove(&(name, nsid));
            }
        });
        let mut until = next;
        let mut rests = progress < Progress::Busy;
        for (reactor, _) in &mut self.cores {
            match reactor.arm() {
                Rest::Refused => rests = false,
                Rest::Granted(at) => until = until.into_iter().chain(at).min(),
            }
            reactor.disarm();
        }
        if rests && most_ns > 0 {
            let latest = self.now.after_ns(most_ns);
            self.now = self.now.max(until.map_or(latest, |until| until.min(latest)));
        }
        progress
    }

    pub(crate) fn turn(&mut self) -> Progress {
        self.turn_at_most(50_000_000)
    }

    /// Turns until something holds.
    pub(crate) fn until(&mut self, what: &str, mut holds: impl FnMut(&mut Self) -> bool) {
        for _ in 0..400_000 {
            if holds(self) {
                return;
            }
            self.turn();
        }
        panic!("it never happens that {what}; {:?}", self.initiator.controllers());
    }

    pub(crate) fn made(&mut self, pending: &Pending) {
        self.until("a change is made", |_| pending.is_made());
    }

    /// Lets time pass.
    pub(crate) fn pass(&mut self, time: Duration) {
        let end = self.now.after(time);
        while self.now < end {
            self.turn();
        }
    }

    pub(crate) fn spec(&self, name: &str, number: u16) -> AttachSpec {
        AttachSpec {
            name: name.into(),
            address: SocketAddr::from(([127, 0, 0, 1], FIRST_PORT + number)),
            subsystem: Nqn::parse(SUBSYSTEM).unwrap(),
            me: Me { name: Nqn::parse("nqn.2014-08.org.nvmexpress:uuid:me").unwrap_or_else(|_| unreachable!()), id: [9; 16] },
            header_digest: false,
            data_digest: false,
            io_queues: 16,
            patience: Patience::default(),
            secrets: None,
            namespaces_max: 32,
            multipath: true,
            policy: None,
        }
    }

    pub(crate) fn attach(&mut self, spec: AttachSpec) -> Result<Attached, AttachError> {
        let attaching = self.initiator.attach(spec)?;
        self.decided(&attaching)
    }

    pub(crate) fn decided(&mut self, attaching: &Attaching) -> Result<Attached, AttachError> {
        let mut decided = None;
        self.until("a controller is attached or not", |_| {
            decided = attaching.decided();
            decided.is_some()
        });
        decided.unwrap()
    }

    pub(crate) fn device(&self, name: &str, nsid: u32) -> Arc<dyn Device> {
        Arc::clone(&self.devices[&(name.to_owned(), nsid)])
    }

    /// A channel of a device on a core.
    pub(crate) fn channel(&mut self, device: &Arc<dyn Device>, core: usize, depth: u16) -> Box<dyn Channel> {
        thread_local! {
            static OPENED: RefCell<Option<Box<dyn Channel>>> = const { RefCell::new(None) };
        }
        let device = Arc::clone(device);
        let visit = move |core: &mut Core| {
            let channel = device.open(core, depth).unwrap();
            OPENED.with(|opened| *opened.borrow_mut() = Some(channel));
        };
        self.cores[core].1.post(Command::Visit(Box::new(visit)));
        let mut found = None;
        self.until("a channel is opened", |_| {
            found = OPENED.with(|opened| opened.borrow_mut().take());
            found.is_some()
        });
        found.unwrap()
    }

    /// Memory that every core knows.
    pub(crate) fn memory(&mut self, len_bytes: u64) -> Arc<Region> {
        let region = Region::anonymous(len_bytes).unwrap();
        for (_, mailbox) in &self.cores {
            let region = Arc::clone(&region);
            mailbox.post(Command::Visit(Box::new(move |core| core.map(region))));
        }
        self.turn();
        self.turn();
        region
    }
}
