//! Hosts that have to prove who they are, and to whom the target does, on every queue.

mod common;

use std::time::Duration;

use common::host::{HOST, Host, OTHER, Talk, controller};
use common::world::{SUBSYSTEM, World};
use spinel_nvme::fabrics::{Authentication, Connected, PropertySize};
use spinel_nvme::registers::offset;
use spinel_nvme::sgl::Sgl;
use spinel_nvme::status::StatusCode;
use spinel_nvmf::auth::{Failure, HostAuth, Key, Parties, Policy, State, Step};
use spinel_nvmf::nqn::Nqn;
use spinel_nvmf::target::{HostSecrets, Options};

const HOST_KEY: &str = "DHHC-1:01:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh+KfiaR:";
const CONTROLLER_KEY: &str = "DHHC-1:02:QEFCQ0RFRkdISUpLTE1OT1BRUlNUVVZXWFlaW1xdXl9gYWJjZGVmZ2hpamtsbW5voBXMjQ==:";
const OTHER_KEY: &str = "DHHC-1:00:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh+KfiaR:";

fn key(text: &str) -> Key {
    Key::parse(text).unwrap()
}

fn host_name() -> Nqn {
    Nqn::of_peer(HOST.host.as_bytes()).unwrap()
}

/// A world whose subsystem wants this host to prove who it is.
fn guarded(controller: Option<&str>) -> World {
    let world = World::new(Options::default());
    let secrets = HostSecrets {
        host: Some(("host key".into(), key(HOST_KEY))),
        controller: controller.map(|text| ("controller key".into(), key(text))),
    };
    world.target.add_host(SUBSYSTEM, &host_name(), secrets).unwrap();
    world
}

/// Proves who the host is with these keys. Answers how that ended, as the host sees it.
fn prove(world: &mut World, host: &mut Host, own: &str, theirs: Option<&str>) -> State {
    let parties =
        Parties { host: host_name(), subsystem: Nqn::parse(SUBSYSTEM).unwrap(), host_key: key(own), controller_key: theirs.map(key) };
    let mut auth = HostAuth::new(parties, Policy::default(), 1);
    loop {
        match auth.step() {
            Step::End(state) => return state,
            Step::Send(bytes) => {
                let bytes = bytes.to_vec();
                let len = u32::try_from(bytes.len()).unwrap();
                let command = Authentication::new(len).send(Sgl::capsule(0, len));
                host.done(world, command, &bytes, &[]);
                auth.sent();
            }
            Step::Receive { room_bytes } => {
                let len = u32::try_from(room_bytes).unwrap();
                let answer = host.done(world, Authentication::new(len).receive(Sgl::transport(len)), &[], &[]);
                auth.received(&answer.data, &mut |bytes: &mut [u8]| bytes.fill(9));
            }
        }
    }
}

#[test]
fn a_host_that_proves_who_it_is_is_let_in_on_every_queue() {
    for (controller_key, mutual) in [(None, false), (Some(CONTROLLER_KEY), true)] {
        let mut world = guarded(controller_key);
        let mut admin = world.dial(0, Talk::PLAIN);
        let connected = admin.connect(&mut world, &HOST, SUBSYSTEM, 0, 0xffff);
        let cntlid = controller(&connected);
        assert!(Connected::of(connected.result).authenticate);
        let early = spinel_nvme::fabrics::Property { offset: offset::VERSION, size: PropertySize::Four };
        assert_eq!(admin.ask(&mut world, early.get(), &[], &[]).status.code(), StatusCode::AUTHENTICATION_REQUIRED);
        let keep_alive = admin.keep_alive();
        assert_eq!(admin.wait(&mut world, keep_alive).status.code(), StatusCode::AUTHENTICATION_REQUIRED);
        assert_eq!(prove(&mut world, &mut admin, HOST_KEY, controller_key), State::Done { mutual });
        admin.enable(&mut world);
        let mut io = world.dial(0, Talk::PLAIN);
        assert!(Connected::of(io.connect(&mut world, &HOST, SUBSYSTEM, 1, cntlid).result).authenticate);
        let id = io.read(0, 1);
        assert_eq!(io.wait(&mut world, id).status.code(), StatusCode::AUTHENTICATION_REQUIRED);
        assert_eq!(prove(&mut world, &mut io, HOST_KEY, controller_key), State::Done { mutual });
        let id = io.read(0, 1);
        assert!(io.wait(&mut world, id).status.is_success());
    }
}

#[test]
fn a_host_with_a_wrong_secret_stays_out() {
    let mut world = guarded(None);
    let mut admin = world.dial(0, Talk::PLAIN);
    admin.connect(&mut world, &HOST, SUBSYSTEM, 0, 0xffff);
    assert!(matches!(prove(&mut world, &mut admin, OTHER_KEY, None), State::Failed(Failure::There(_))));
    admin.settle(&mut world);
    assert!(admin.end.is_closed());
    assert_eq!(world.target.subsystems()[0].controllers.len(), 0);
}

#[test]
fn a_target_with_a_wrong_secret_is_not_believed() {
    let mut world = guarded(Some(CONTROLLER_KEY));
    let mut admin = world.dial(0, Talk::PLAIN);
    admin.connect(&mut world, &HOST, SUBSYSTEM, 0, 0xffff);
    assert!(matches!(prove(&mut world, &mut admin, HOST_KEY, Some(OTHER_KEY)), State::Failed(Failure::Here(_))));
    admin.settle(&mut world);
    assert!(admin.end.is_closed(), "and it knows");
}

#[test]
fn a_host_that_never_proves_who_it_is_is_not_waited_for() {
    let mut world = guarded(None);
    let mut admin = world.dial(0, Talk::PLAIN);
    admin.connect(&mut world, &HOST, SUBSYSTEM, 0, 0xffff);
    world.pass(Duration::from_secs(9));
    assert!(!admin.end.is_closed());
    world.pass(Duration::from_secs(70));
    admin.settle(&mut world);
    assert!(admin.end.is_closed());
}

#[test]
fn a_host_may_take_longer_to_prove_who_it_is_than_it_may_be_silent_afterwards() {
    let mut world = guarded(None);
    let mut admin = world.dial(0, Talk::PLAIN);
    // It says that it will be heard of within 10 s.
    admin.connect(&mut world, &HOST, SUBSYSTEM, 0, 0xffff);
    world.pass(Duration::from_secs(30));
    assert_eq!(prove(&mut world, &mut admin, HOST_KEY, None), State::Done { mutual: false });
    world.pass(Duration::from_secs(9));
    admin.settle(&mut world);
    assert!(!admin.end.is_closed());
    world.pass(Duration::from_secs(2));
    admin.settle(&mut world);
    assert!(admin.end.is_closed());
}

#[test]
fn who_has_nothing_to_prove_is_not_asked_and_may_not_try() {
    let mut world = guarded(None);
    let (mut admin, _) = world.admin(&OTHER, 0, Talk::PLAIN);
    let answer = admin.ask(&mut world, Authentication::new(64).receive(Sgl::transport(64)), &[], &[]);
    assert_eq!(answer.status.code(), StatusCode::SEQUENCE);
    world.target.set_secrets(SUBSYSTEM, &host_name(), HostSecrets::default()).unwrap();
    let mut host = world.dial(0, Talk::PLAIN);
    assert!(!Connected::of(host.connect(&mut world, &HOST, SUBSYSTEM, 0, 0xffff).result).authenticate);
}

#[test]
fn messages_that_make_no_sense_end_the_connection_and_nothing_else() {
    for (bytes, room) in [(vec![0; 64], 512), (vec![0xff; 300], 4096), (vec![1], 16), (vec![0; 4096], 4)] {
        let mut world = guarded(Some(CONTROLLER_KEY));
        let mut admin = world.dial(0, Talk::PLAIN);
        admin.connect(&mut world, &HOST, SUBSYSTEM, 0, 0xffff);
        let len = u32::try_from(bytes.len()).unwrap();
        admin.done(&mut world, Authentication::new(len).send(Sgl::capsule(0, len)), &bytes, &[]);
        admin.ask(&mut world, Authentication::new(room).receive(Sgl::transport(room)), &[], &[]);
        admin.settle(&mut world);
        assert!(room < 16 || admin.end.is_closed(), "{len} bytes");
        let mut again = world.dial(0, Talk::PLAIN);
        again.connect(&mut world, &HOST, SUBSYSTEM, 0, 0xffff);
        assert_eq!(prove(&mut world, &mut again, HOST_KEY, None), State::Done { mutual: false });
    }
}
