//! Arbitrary hosts against a target over memory: what they say, in which order, when they stop reading and when they vanish.
//!
//! An input says how far a host has come in good order, and then what it does: commands that mostly make sense, data for R2Ts,
//! bytes of its own, time that passes, changes of what it looks at. A neighbour of the same core writes secrets before that,
//! and nobody else may read them; afterwards everything has drained and the neighbour's data are as they were.
#![no_main]

mod commands;
mod peer;
#[path = "../../tests/common/wire.rs"]
#[allow(dead_code)]
mod wire;

use std::cell::RefCell;
use std::os::fd::RawFd;
use std::sync::Arc;

use libfuzzer_sys::arbitrary::{Result, Unstructured};
use spinel_core::{Core, CoreId, Instant, Mailbox, Meters, Sleeper, Watch, mailbox};
use spinel_nvme::command::IoOpcode;
use spinel_nvme::fabrics::Connected;
use spinel_nvme::io::Blocks;
use spinel_nvme::sgl::Sgl;
use spinel_nvmf::auth::{Group, Hash, Key, Policy};
use spinel_nvmf::nqn::Nqn;
use spinel_nvmf::pool::PoolSize;
use spinel_nvmf::target::{
    Address, AnaState, Family, HostSecrets, Identity, ListenerSpec, NamespaceIds, NamespaceSpec, Options, Pending, PortId, ReferralSpec,
    SubsystemSpec, Target,
};
use spinel_nvmf::tcp::{DataPdu, R2t};
use spinel_reactor::Reactor;
use spinel_volume::{MemoryDevice, Shape};

use commands::{DISCOVERY, GUARDED, HOST, NEIGHBOUR, SECOND, SUBSYSTEM, connect, enable, request};
use peer::{DATA_BYTES_MAX, Peer};
use wire::HostEnd;

const BLOCKS: u64 = 64;
const KEY: &str = "DHHC-1:01:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh+KfiaR:";
/// Connections of one host at most.
const PEERS_MAX: usize = 5;
const STEPS_MAX: usize = 96;
/// Turns after each step, and after the last one until everything has ended.
const TURNS: usize = 2;
const TURNS_TO_END: usize = 2000;
/// Bytes that a connection holds at most, of which nobody reads.
const WAITING_BYTES_MAX: usize = 512 << 10;

struct NeverSleeps;

impl Sleeper for NeverSleeps {
    fn watch(&mut self, _fd: RawFd) -> Watch {
        Watch(0)
    }
    fn unwatch(&mut self, _watch: Watch) {}
    fn sleep(&mut self, _until: Option<Instant>, _now: Instant) {}
}

/// What is reused from one input to the next.
struct Rig {
    target: Target,
    reactor: Reactor,
    mailbox: Mailbox,
    port: PortId,
    now: Instant,
    meters: Arc<Meters>,
    device: Arc<MemoryDevice>,
    neighbour: Vec<Peer>,
    inputs: u64,
    seen: u64,
}

fn address() -> Address {
    Address { family: Family::Ipv4, host: "127.0.0.1".into(), service: "4420".into() }
}

fn identity(nqn: &str) -> Identity {
    let nqn = Nqn::parse(nqn).expect("a name");
    Identity { nqn, serial: "SN1".into(), model: "Spinel".into(), namespaces_max: 4, ana: true, cntlids: (1, 0xffef) }
}

fn disk() -> Arc<MemoryDevice> {
    Arc::new(MemoryDevice::new(Shape::new(512, BLOCKS)).expect("memory"))
}

impl Rig {
    fn new() -> Self {
        let options = Options {
            io_queue_entries: 16,
            admin_queue_entries: 16,
            transfer_bytes: DATA_BYTES_MAX,
            pool: PoolSize { small_units: 24, large_units: 8 },
            ..Options::default()
        };
        let mut byte = 1_u8;
        let random = move |bytes: &mut [u8]| {
            for place in bytes {
                byte = byte.wrapping_mul(141).wrapping_add(3);
                *place = byte;
            }
        };
        let target = Target::new(options, random);
        // The larger groups take milliseconds.
        target.set_policy(Policy::new(&Hash::ALL, &[Group::Null]).expect("a policy"));
        let (mailbox, inbox) = mailbox(CoreId(0)).expect("a mailbox");
        let reactor = Reactor::new(Core::new(CoreId(0), Box::new(NeverSleeps)), inbox);
        let port = target.add_port(address(), None).expect("the first one");
        let (meters, device, now) = (Arc::default(), disk(), Instant { ns: 1_000_000_000 });
        let mut rig = Self { target, reactor, mailbox, port, now, meters, device, neighbour: Vec::new(), inputs: 0, seen: 0 };
        for (nqn, allow_any_host) in [(SUBSYSTEM, true), (GUARDED, false)] {
            rig.target.create_subsystem(SubsystemSpec { identity: identity(nqn), allow_any_host }).expect("a new one");
            let pending = rig.target.add_listener(nqn, &ListenerSpec { port, state: AnaState::Optimized }).expect("a new one");
            rig.made(&pending);
        }
        let secrets = HostSecrets { host: Some(("key".into(), Key::parse(KEY).expect("a key"))), controller: None };
        rig.target.add_host(GUARDED, &Nqn::parse(HOST).expect("a name"), secrets).expect("a new one");
        rig.add_disk(1, Arc::clone(&rig.device), true);
        rig.add_disk(2, disk(), false);
        let neighbour = Nqn::parse(NEIGHBOUR).expect("a name");
        let pending = rig.target.show_namespace(SUBSYSTEM, 2, &neighbour, true).expect("it is hidden");
        rig.made(&pending);
        rig.move_in();
        rig
    }

    fn add_disk(&mut self, nsid: u32, device: Arc<MemoryDevice>, visible: bool) {
        let ids = NamespaceIds { uuid: [u8::try_from(nsid).expect("small"); 16], ..NamespaceIds::default() };
        let meters = Arc::clone(&self.meters);
        let name = format!("disk{nsid}");
        let spec = NamespaceSpec { nsid: Some(nsid), name, device, meters, ids, group: None, visible, reservations_file: None };
        let (_, pending) = self.target.add_namespace(SUBSYSTEM, spec).expect("a vacant place");
        self.made(&pending);
    }

    /// The neighbour, on the same core.
    fn move_in(&mut self) {
        let mut cntlid = 0xffff;
        for queue in 0..2 {
            let mut peer = self.dial(0);
            peer.say(&request(0));
            self.settle(&mut peer);
            let said = peer.command(&connect(queue, 0).with_id(1), &commands::connect_data(NEIGHBOUR, SUBSYSTEM, cntlid), false);
            peer.say(&said);
            self.settle(&mut peer);
            let (_, answer) = peer.answers.pop().expect("a neighbour is let in");
            assert!(answer.status().is_success(), "{}", answer.status());
            cntlid = Connected::of(answer.result()).controller;
            if queue == 0 {
                let said = peer.command(&enable().with_id(2), &[], false);
                peer.say(&said);
                self.settle(&mut peer);
            }
            self.neighbour.push(peer);
        }
    }

    fn dial(&mut self, secret: u64) -> Peer {
        let end = HostEnd::default();
        let far = end.clone();
        assert!(self.target.admit(&self.mailbox, self.port, "fuzz".into(), address(), move |core| Ok(far.stream(core))));
        Peer::new(end, secret)
    }

    fn turn(&mut self) {
        self.now = self.now.after_ns(10_000);
        self.reactor.turn(self.now);
        self.target.turn();
        // Whether it would sleep makes no difference.
        let _ = self.reactor.arm();
        self.reactor.disarm();
    }

    fn settle(&mut self, peer: &mut Peer) {
        for _ in 0..8 {
            self.turn();
            peer.look();
        }
    }

    fn made(&mut self, pending: &Pending) {
        let made = (0..TURNS_TO_END).any(|_| {
            self.turn();
            pending.is_made()
        });
        assert!(made, "a change is made");
    }

    /// The neighbour writes secrets, and reads them: they lie in the core's buffers then.
    fn keep_secrets(&mut self, secret: u64) {
        let mut io = self.neighbour.pop().expect("it has a queue");
        let data = secret.to_le_bytes().repeat(512);
        let id = io.fresh_id() | 0x4000;
        let write = Blocks::new(8, 8).command(IoOpcode::Write, 2, Sgl::capsule(0, 4096)).with_id(id);
        let said = io.command(&write, &data, false);
        io.say(&said);
        self.settle(&mut io);
        let read = Blocks::new(8, 8).command(IoOpcode::Read, 2, Sgl::transport(4096)).with_id(id);
        for _ in 0..3 {
            let said = io.command(&read, &[], false);
            io.say(&said);
        }
        self.settle(&mut io);
        self.neighbour.push(io);
        self.verify(secret);
    }

    /// They are as they were.
    fn verify(&mut self, secret: u64) {
        let mut io = self.neighbour.pop().expect("it has a queue");
        let id = io.fresh_id() | 0x4000;
        let read = Blocks::new(8, 8).command(IoOpcode::Read, 2, Sgl::transport(4096)).with_id(id);
        let said = io.command(&read, &[], false);
        io.answers.clear();
        io.data.clear();
        io.say(&said);
        for _ in 0..400 {
            self.turn();
            io.look();
            if !io.answers.is_empty() {
                break;
            }
        }
        assert!(io.answers.pop().is_some_and(|(_, answer)| answer.status().is_success()), "a neighbour is answered");
        assert!(io.data == secret.to_le_bytes().repeat(512), "a neighbour's data");
        io.forget();
        self.neighbour.push(io);
    }

    fn run(&mut self, u: &mut Unstructured<'_>) {
        self.inputs += 1;
        let secret = self.inputs.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        self.keep_secrets(secret);
        let mut session = Session { rig: self, secret, peers: Vec::new(), gone: Vec::new(), cntlid: 0xffff, auth: commands::prover(KEY) };
        let _ = session.play(u);
        let (mut peers, gone) = (std::mem::take(&mut session.peers), std::mem::take(&mut session.gone));
        peers.extend(gone);
        self.end(peers);
        self.verify(secret);
    }

    /// Every connection ends, and everything that was theirs.
    fn end(&mut self, mut peers: Vec<Peer>) {
        for peer in &mut peers {
            peer.end.set_deaf(false);
            peer.end.cut(usize::MAX);
            peer.look();
            peer.end.end();
        }
        let ended = (0..TURNS_TO_END).any(|_| {
            self.turn();
            peers.iter_mut().for_each(Peer::look);
            // Some may not even have begun.
            self.reactor.pollers() == 2 && peers.iter().all(|peer| peer.end.is_closed())
        });
        assert!(ended, "a connection hangs");
        self.turn();
        let subsystems = self.target.subsystems();
        let controllers: usize = subsystems.iter().map(|subsystem| subsystem.controllers.len()).sum();
        assert_eq!((controllers, self.meters.live()), (1, 1), "only the neighbour's are left");
        self.seen += peers.iter().map(|peer| peer.seen).sum::<u64>();
        if self.inputs.is_multiple_of(1 << 16) {
            let kib =
                std::fs::read_to_string("/proc/self/statm").ok().and_then(|text| Some(text.split(' ').nth(1)?.parse::<u64>().ok()? * 4));
            eprintln!("{} sessions, {} PDUs were answered, {} KiB", self.inputs, self.seen, kib.unwrap_or(0));
        }
        // Reservations are as they were at first, and everybody is reached.
        let _ = self.target.set_ana_states(SUBSYSTEM, self.port, &[(None, AnaState::Optimized)]).expect("it reports them");
        self.renew();
    }

    /// Puts a new namespace in the place of the first one.
    fn renew(&mut self) {
        let pending = self.target.remove_namespace(SUBSYSTEM, 1).expect("it is there");
        self.made(&pending);
        self.add_disk(1, Arc::clone(&self.device), true);
    }
}

/// One input as it is played.
struct Session<'a> {
    rig: &'a mut Rig,
    secret: u64,
    peers: Vec<Peer>,
    /// Those that have vanished.
    gone: Vec<Peer>,
    cntlid: u16,
    auth: spinel_nvmf::auth::HostAuth,
}

impl Session<'_> {
    fn play(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        let (how, far) = (u.arbitrary::<u8>()?, u.int_in_range(0..=8_u8)?);
        self.begin(how, far);
        for _ in 0..STEPS_MAX {
            if u.is_empty() || self.peers.is_empty() {
                break;
            }
            self.step(u)?;
            self.turns(TURNS);
        }
        Ok(())
    }

    /// In good order: nothing, the set-up, an admin queue, an enabled one, one and two queues for I/O; or one that has to prove,
    /// one of discovery, two hosts.
    fn begin(&mut self, how: u8, far: u8) {
        self.open();
        if far == 0 {
            return;
        }
        self.agree(how);
        if far == 6 {
            return self.connect(0, GUARDED, HOST);
        }
        if far == 7 {
            self.connect(0, DISCOVERY, HOST);
            return self.done(|_| enable());
        }
        if far == 8 {
            self.connect(0, SUBSYSTEM, SECOND);
            self.done(|_| enable());
            self.open();
            self.agree(how);
            self.connect(1, SUBSYSTEM, SECOND);
            self.open();
            self.agree(how);
        }
        let far = if far == 8 { 4 } else { far };
        for queue in 0..far.saturating_sub(1).min(1) {
            self.connect(queue.into(), SUBSYSTEM, HOST);
        }
        if far >= 3 {
            self.done(|_| enable());
        }
        for queue in 1..=u16::from(far.saturating_sub(3)) {
            self.open();
            self.agree(how);
            self.connect(queue, SUBSYSTEM, HOST);
        }
    }

    fn open(&mut self) {
        let peer = self.rig.dial(self.secret);
        self.peers.push(peer);
        self.turns(2);
    }

    fn last(&mut self) -> &mut Peer {
        self.peers.last_mut().expect("there is one")
    }

    fn agree(&mut self, how: u8) {
        self.last().say(&request(how));
        self.turns(4);
    }

    fn connect(&mut self, queue: u16, subsystem: &str, host: &str) {
        let data = commands::connect_data(host, subsystem, if queue == 0 { 0xffff } else { self.cntlid });
        let peer = self.last();
        let id = peer.fresh_id();
        let said = peer.command(&connect(queue, 5000).with_id(id), &data, false);
        peer.say(&said);
        self.turns(6);
        if let Some((_, answer)) = self.last().answers.pop().filter(|(_, answer)| queue == 0 && answer.status().is_success()) {
            self.cntlid = Connected::of(answer.result()).controller;
        }
    }

    fn done(&mut self, command: impl FnOnce(u16) -> spinel_nvme::command::Command) {
        let peer = self.last();
        let id = peer.fresh_id();
        let said = peer.command(&command(id).with_id(id), &[], false);
        peer.say(&said);
        self.turns(4);
    }

    fn turns(&mut self, count: usize) {
        for _ in 0..count {
            self.rig.turn();
            for peer in &mut self.peers {
                peer.look();
                assert!(peer.end.waiting_bytes() <= WAITING_BYTES_MAX, "what nobody reads is bounded");
            }
        }
    }

    fn step(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        let which = u.choose_index(self.peers.len())?;
        let cntlid = self.cntlid;
        let peer = &mut self.peers[which];
        match u.int_in_range(0..=31_u8)? {
            0..=11 => {
                let said = commands::command(u, peer, cntlid)?;
                say(u, peer, &said)?;
            }
            12..=17 => {
                let Some(r2t) = take_r2t(u, peer)? else { return Ok(()) };
                let said = data(u, peer, &r2t)?;
                say(u, peer, &said)?;
            }
            18 => {
                // All that was asked for, as it was asked for.
                for r2t in std::mem::take(&mut peer.r2ts) {
                    let bytes = vec![0x5a; r2t.len_bytes as usize];
                    let R2t { command_id, transfer_tag, offset, len_bytes } = r2t;
                    let pdu = DataPdu { command_id, transfer_tag, offset, len_bytes, last: true, success: false };
                    let said = peer.pdu(|builder, head| builder.put_data_to_target(&pdu, head), &bytes, false);
                    peer.say(&said);
                }
            }
            19 => {
                let len = u.int_in_range(0..=80_usize)?.min(u.len());
                let bytes = u.bytes(len)?.to_vec();
                peer.say(&bytes);
            }
            20 => peer.end.set_deaf(u.arbitrary()?),
            21 => self.vanish(u, which)?,
            22 => {
                let (how, queue) = (u.arbitrary()?, u.int_in_range(0..=3)?);
                if self.peers.len() >= PEERS_MAX {
                    return Ok(());
                }
                self.open();
                if u.ratio(7, 8)? {
                    self.agree(how);
                    let host = *u.choose(&[HOST, HOST, SECOND])?;
                    self.connect(queue, SUBSYSTEM, host);
                }
            }
            23 => self.pass(u)?,
            24 | 25 => self.change(u)?,
            26 => self.prove(u, which)?,
            27 => {
                let said = commands::setup(u)?;
                peer.say(&said);
            }
            _ => {
                let count = u.int_in_range(1..=20)?;
                self.turns(count);
            }
        }
        Ok(())
    }

    fn vanish(&mut self, u: &mut Unstructured<'_>, which: usize) -> Result<()> {
        let peer = self.peers.swap_remove(which);
        if u.arbitrary()? {
            peer.end.break_off()
        } else {
            peer.end.end()
        }
        self.gone.push(peer);
        Ok(())
    }

    /// Seconds, in which nobody else says anything. The neighbour has no time to keep.
    fn pass(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        let seconds = u64::from(u.int_in_range(1..=80_u8)?);
        self.rig.now = self.rig.now.after_ns(seconds * 1_000_000_000);
        Ok(())
    }

    /// Something of what the host looks at is different.
    fn change(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        let Rig { target, port, .. } = &*self.rig;
        match u.int_in_range(0..=6_u8)? {
            0 => {
                let state = *u.choose(&[AnaState::Optimized, AnaState::NonOptimized, AnaState::Inaccessible])?;
                let group = if u.arbitrary()? { Some(u.int_in_range(1..=4)?) } else { None };
                let _ = target.set_ana_states(SUBSYSTEM, *port, &[(group, state)]).expect("it reports them");
            }
            1 => target.resized("disk1"),
            2 => target.reopen("disk1"),
            3 => {
                let _ = target.set_namespace_group(SUBSYSTEM, 1, u.int_in_range(1..=4)?).expect("it is there");
            }
            4 => self.rig.renew_now(),
            5 => {
                let elsewhere = Nqn::parse(DISCOVERY).expect("a name");
                let spec = ReferralSpec { subsystem: elsewhere.clone(), address: address(), secure: u.arbitrary()? };
                if target.add_referral(spec).is_err() {
                    target.remove_referral(&elsewhere, &address()).expect("it is there");
                }
            }
            _ => target.set_secrets(GUARDED, &Nqn::parse(HOST).expect("a name"), commands::secrets(KEY)).expect("it is named"),
        }
        Ok(())
    }

    /// The next message of a proof, which may be another one.
    fn prove(&mut self, u: &mut Unstructured<'_>, which: usize) -> Result<()> {
        let Self { auth, peers, .. } = self;
        let said = commands::proof(u, &mut peers[which], auth)?;
        peers[which].say(&said);
        Ok(())
    }
}

impl Rig {
    /// The same as [`renew`](Self::renew), without waiting in between: commands are under way.
    fn renew_now(&mut self) {
        let _ = self.target.remove_namespace(SUBSYSTEM, 1).expect("it is there");
        self.add_disk(1, Arc::clone(&self.device), true);
    }
}

/// Says a PDU: as it is, in pieces, without its end, or with another bit.
fn say(u: &mut Unstructured<'_>, peer: &mut Peer, said: &[u8]) -> Result<()> {
    match u.int_in_range(0..=23_u8)? {
        0 => {
            let cut = u.int_in_range(0..=said.len())?;
            peer.say(&said[..cut]);
        }
        1 => {
            let mut other = said.to_vec();
            let at = u.choose_index(other.len().min(80))?;
            other[at] ^= 1 << u.int_in_range(0..=7_u8)?;
            peer.say(&other);
        }
        2 => {
            peer.end.cut(1 + usize::from(u.arbitrary::<u8>()?));
            peer.say(said);
        }
        _ => peer.say(said),
    }
    Ok(())
}

fn take_r2t(u: &mut Unstructured<'_>, peer: &mut Peer) -> Result<Option<R2t>> {
    if peer.r2ts.is_empty() {
        return Ok(None);
    }
    let which = u.choose_index(peer.r2ts.len())?;
    Ok(Some(if u.ratio(7, 8)? { peer.r2ts.swap_remove(which) } else { peer.r2ts[which] }))
}

/// Data that were asked for, perhaps in pieces, perhaps not quite.
fn data(u: &mut Unstructured<'_>, peer: &mut Peer, r2t: &R2t) -> Result<Vec<u8>> {
    let mut all = Vec::new();
    let pieces = u.int_in_range(1..=3_u32)?;
    let mut at = 0;
    for number in 0..pieces {
        let last = number + 1 == pieces;
        let left = r2t.len_bytes.saturating_sub(at);
        let len = if last { left } else { (left / 2).max(1) };
        if len == 0 {
            break;
        }
        let mut pdu = DataPdu {
            command_id: r2t.command_id,
            transfer_tag: r2t.transfer_tag,
            offset: r2t.offset + at,
            len_bytes: len,
            last: at + len == r2t.len_bytes,
            success: false,
        };
        at += len;
        match u.int_in_range(0..=31_u8)? {
            0 => pdu.transfer_tag ^= u.arbitrary::<u16>()?,
            1 => pdu.command_id ^= u.arbitrary::<u16>()?,
            2 => pdu.offset = u.int_in_range(0..=u32::MAX - (64 << 10))?,
            3 => pdu.len_bytes = u.int_in_range(1..=DATA_BYTES_MAX + 4)?,
            4 => pdu.last ^= true,
            _ => {}
        }
        let bytes = vec![u.arbitrary()?; pdu.len_bytes as usize];
        let spoilt = u.ratio(1, 16)?;
        all.extend(peer.pdu(|builder, head| builder.put_data_to_target(&pdu, head), &bytes, spoilt));
    }
    Ok(all)
}

thread_local! {
    static RIG: RefCell<Rig> = RefCell::new(Rig::new());
}

libfuzzer_sys::fuzz_target!(|input: &[u8]| RIG.with_borrow_mut(|rig| rig.run(&mut Unstructured::new(input))));
