//! Discovery controllers are followed.

use std::net::SocketAddr;

use spinel_nvmf::initiator::{DiscoverSpec, PathState, Patience, Settings};
use spinel_nvmf::target::{AnaState, ListenerSpec, Options};
use spinel_sim::WireOptions;

use super::world::{FIRST_PORT, SUBSYSTEM, World, lab, wires};

#[test]
fn what_a_discovery_controller_names_is_attached_and_what_it_names_no_more_is_detached() {
    let mut world = World::new(1, Options::default(), Settings::default(), WireOptions::default(), 1);
    let me = world.spec("far", 0).me;
    let address = SocketAddr::from(([127, 0, 0, 1], FIRST_PORT));
    let spec = DiscoverSpec { name: "auto".into(), address, me, patience: Patience::default(), wait: true };
    let attaching = world.initiator.discover(spec.clone()).unwrap();
    world.decided(&attaching).unwrap();
    assert!(world.initiator.discover(spec).is_err(), "the name is taken");
    // Two ways to one subsystem, which are controllers of one name.
    let controllers = world.initiator.controllers();
    assert_eq!(controllers.len(), 2);
    assert!(controllers.iter().all(|path| path.name == "auto0" && path.state == PathState::Live && path.subsystem == SUBSYSTEM));
    assert_eq!(world.initiator.ways()[0].ways.len(), 2);
    assert!(world.devices.contains_key(&("auto0".into(), 1)));

    let second = lab(|lab| lab.ports[&(FIRST_PORT + 1)]);
    let pending = world.target.remove_listener(SUBSYSTEM, second).unwrap();
    world.made(&pending);
    world.until("the second way is gone", |world| world.initiator.controllers().len() == 1);
    let pending = world.target.add_listener(SUBSYSTEM, &ListenerSpec { port: second, state: AnaState::Optimized }).unwrap();
    world.made(&pending);
    world.until("the second way is back", |world| {
        let controllers = world.initiator.controllers();
        controllers.len() == 2 && controllers.iter().all(|path| path.state == PathState::Live)
    });
    // The discovery controller itself is lost, and found again.
    wires(FIRST_PORT, spinel_sim::SimWire::break_off);
    world.until("all is back", |world| {
        world.initiator.discoveries()[0].connected && world.initiator.controllers().iter().all(|path| path.state == PathState::Live)
    });
    let info = world.initiator.discoveries();
    assert_eq!((info[0].name.as_str(), info[0].controllers.len()), ("auto", 2));
    let mut stopping = world.initiator.stop_discovery("auto").unwrap();
    world.until("all has gone", |_| stopping.is_done());
    assert!(world.initiator.controllers().is_empty() && world.initiator.discoveries().is_empty() && world.devices.is_empty());
}

#[test]
fn a_discovery_controller_that_is_not_there_is_not_followed() {
    let mut world = World::new(1, Options::default(), Settings::default(), WireOptions::default(), 1);
    lab(|lab| lab.down.push(FIRST_PORT));
    let me = world.spec("far", 0).me;
    let address = SocketAddr::from(([127, 0, 0, 1], FIRST_PORT));
    for wait in [false, true] {
        let spec = DiscoverSpec { name: "auto".into(), address, me: me.clone(), patience: Patience::default(), wait };
        let attaching = world.initiator.discover(spec).unwrap();
        assert!(world.decided(&attaching).is_err());
        world.turn();
        assert!(world.initiator.discoveries().is_empty());
    }
}
