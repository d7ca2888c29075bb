//! Proofs of who a host is that are out of order, cut, or none.

use spinel_nvme::admin::keep_alive;
use spinel_nvme::fabrics::{Authentication, Property, PropertySize};
use spinel_nvme::registers::offset;
use spinel_nvme::sgl::Sgl;
use spinel_nvme::status::StatusCode;
use spinel_nvmf::auth::{HostAuth, Key, Parties, Policy, Step};
use spinel_nvmf::nqn::Nqn;
use spinel_nvmf::target::{AnaState, HostSecrets, ListenerSpec, SubsystemSpec};

use super::stage::Start::Unproven;
use super::stage::{Case, Stage, Then};
use crate::common::host::HOST;
use crate::common::world::{World, identity};

/// A subsystem whose host has to prove who it is.
pub(crate) const GUARDED: &str = "nqn.2026-11.io.spinel:guarded";
const KEY: &str = "DHHC-1:01:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh+KfiaR:";
const REQUIRED: Then = Then::Is(StatusCode::AUTHENTICATION_REQUIRED);
const FIELD: Then = Then::Is(StatusCode::INVALID_FIELD);

/// Adds that subsystem.
pub(crate) fn guard(world: &mut World) {
    world.target.create_subsystem(SubsystemSpec { identity: identity(GUARDED), allow_any_host: false }).unwrap();
    let listener = ListenerSpec { port: world.ports[0], state: AnaState::Optimized };
    let pending = world.target.add_listener(GUARDED, &listener).unwrap();
    world.made(&pending);
    let secrets = HostSecrets { host: Some(("key".into(), Key::parse(KEY).unwrap())), controller: None };
    world.target.add_host(GUARDED, &Nqn::of_peer(HOST.host.as_bytes()).unwrap(), secrets).unwrap();
}

fn unproven(name: &'static str, then: Then, act: fn(&mut Stage<'_>)) -> Case {
    Case::new(name, Unproven, then, act)
}

fn send(stage: &mut Stage<'_>, bytes: &[u8]) {
    let len = u32::try_from(bytes.len()).unwrap();
    stage.ask_with(Authentication::new(len).send(Sgl::capsule(0, len)), bytes, &[]);
}

fn receive(stage: &mut Stage<'_>, room_bytes: u32) {
    stage.ask(Authentication::new(room_bytes).receive(Sgl::transport(room_bytes)));
}

/// The host's first message.
fn negotiation() -> Vec<u8> {
    let parties = Parties {
        host: Nqn::of_peer(HOST.host.as_bytes()).unwrap(),
        subsystem: Nqn::parse(GUARDED).unwrap(),
        host_key: Key::parse(KEY).unwrap(),
        controller_key: None,
    };
    match HostAuth::new(parties, Policy::default(), 1).step() {
        Step::Send(bytes) => bytes.to_vec(),
        _ => unreachable!("a host speaks first"),
    }
}

pub(crate) fn cases() -> Vec<Case> {
    vec![
        unproven("a property before the proof", REQUIRED, |s| {
            s.ask(Property { offset: offset::VERSION, size: PropertySize::Four }.get());
        }),
        unproven("it is enabled before the proof", REQUIRED, |s| {
            s.ask(Property { offset: offset::CONFIGURATION, size: PropertySize::Four }.set(0x46_0001));
        }),
        unproven("a keep-alive before the proof", REQUIRED, |s| _ = s.ask(keep_alive().with_data(Sgl::transport(0)))),
        unproven("a message of another protocol", FIELD, |s| {
            let envelope = Authentication { protocol: 0xea, ..Authentication::new(64) };
            s.ask_with(envelope.send(Sgl::capsule(0, 64)), &[0; 64], &[]);
        }),
        unproven("a message of another kind of it", FIELD, |s| {
            let envelope = Authentication { specific_0: 0, ..Authentication::new(64) };
            s.ask_with(envelope.send(Sgl::capsule(0, 64)), &[0; 64], &[]);
        }),
        unproven("a message shorter than it says", FIELD, |s| {
            s.ask_with(Authentication::new(128).send(Sgl::capsule(0, 64)), &[0; 64], &[]);
        }),
        unproven("a message of 16 KiB and a byte", FIELD, |s| {
            let len = (16 << 10) + 1;
            s.ask_with(Authentication::new(len).send(Sgl::transport(len)), &[], &vec![0; len as usize]);
        }),
        unproven("room for four gigabytes", FIELD, |s| receive(s, u32::MAX)),
        unproven("a proof that never comes", Then::Closes, |s| s.pass(75)),
        unproven("a negotiation and nothing more", Then::Closes, |s| {
            send(s, &negotiation());
            receive(s, 4096);
            s.pass(75);
        }),
        unproven("no message at all", Then::Closes, |s| {
            send(s, &[]);
            receive(s, 4096);
        }),
        unproven("a message of one byte", Then::Closes, |s| {
            send(s, &[1]);
            receive(s, 4096);
        }),
        unproven("nothing but ones", Then::Closes, |s| {
            send(s, &[0xff; 300]);
            receive(s, 4096);
        }),
        unproven("a negotiation without its end", Then::Closes, |s| {
            let whole = negotiation();
            send(s, &whole[..whole.len() - 1]);
            receive(s, 4096);
        }),
        unproven("a negotiation twice", Then::Closes, |s| {
            send(s, &negotiation());
            send(s, &negotiation());
            receive(s, 4096);
        }),
        unproven("it asks before it has said anything", Then::Closes, |s| receive(s, 4096)),
        unproven("a reply to nothing", Then::Closes, |s| {
            let mut reply = vec![0; 64];
            (reply[0], reply[1]) = (1, 2);
            send(s, &reply);
            receive(s, 4096);
        }),
        unproven("a challenge without room", Then::GoesOn, |s| {
            send(s, &negotiation());
            receive(s, 4);
        }),
    ]
}
