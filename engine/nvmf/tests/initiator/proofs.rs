//! Controllers that want this host to prove who it is, and have to prove who they are.

use spinel_nvmf::auth::{Key, Policy};
use spinel_nvmf::initiator::{AttachError, Secrets, Settings};
use spinel_nvmf::target::{HostSecrets, Options};
use spinel_sim::WireOptions;

use super::load::Load;
use super::world::{SUBSYSTEM, World};

const HOST_KEY: &str = "DHHC-1:01:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh+KfiaR:";
const CONTROLLER_KEY: &str = "DHHC-1:02:QEFCQ0RFRkdISUpLTE1OT1BRUlNUVVZXWFlaW1xdXl9gYWJjZGVmZ2hpamtsbW5voBXMjQ==:";
const OTHER_KEY: &str = "DHHC-1:00:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh+KfiaR:";

fn key(text: &str) -> Key {
    Key::parse(text).unwrap()
}

fn world(controller: Option<&str>) -> World {
    let world = World::new(1, Options::default(), Settings::default(), WireOptions::default(), 1);
    let secrets =
        HostSecrets { host: Some(("host".into(), key(HOST_KEY))), controller: controller.map(|text| ("controller".into(), key(text))) };
    world.target.add_host(SUBSYSTEM, &world.spec("far", 0).me.name, secrets).unwrap();
    world
}

fn secrets(host: &str, controller: Option<&str>) -> Option<Secrets> {
    Some(Secrets { host: key(host), controller: controller.map(key), policy: Policy::ALL })
}

#[test]
fn a_host_that_proves_who_it_is_is_let_in_with_all_its_queues() {
    for controller in [None, Some(CONTROLLER_KEY)] {
        let mut world = world(controller);
        let mut spec = world.spec("far", 0);
        spec.secrets = secrets(HOST_KEY, controller);
        world.attach(spec).unwrap();
        let device = world.device("far", 1);
        let mut load = Load::new(&mut world, &device, 0, 1);
        load.run(&mut world, 40);
        load.drain(&mut world);
        assert_eq!(load.failed, []);
    }
}

#[test]
fn wrong_and_missing_secrets_are_refused_by_either_side() {
    for (controller, own, why) in [
        (None, None, "there is no secret"),
        (None, secrets(OTHER_KEY, None), "refused by the other side"),
        (Some(CONTROLLER_KEY), secrets(HOST_KEY, Some(OTHER_KEY)), "refused here"),
        (None, secrets(HOST_KEY, Some(CONTROLLER_KEY)), "refused by the other side"),
    ] {
        let mut world = world(controller);
        let mut spec = world.spec("far", 0);
        spec.secrets = own;
        let error = world.attach(spec).unwrap_err();
        assert!(matches!(&error, AttachError::Failed { .. }) && error.to_string().contains(why), "{error}");
    }
}
