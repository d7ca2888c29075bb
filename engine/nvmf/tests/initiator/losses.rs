//! Connections that break, fall silent and come back.

use std::time::Duration;

use spinel_core::Status;
use spinel_nvmf::initiator::{AttachError, PathState, Patience, Policy, Settings};
use spinel_nvmf::target::{AnaState, Options};
use spinel_sim::{WireOptions, every_seed};

use super::load::Load;
use super::world::{FIRST_PORT, SUBSYSTEM, World, lab, wires};

fn quick() -> Settings {
    Settings { keep_alive: Duration::from_secs(1), ..Settings::default() }
}

/// Both ways of a subsystem, under one name.
fn two_ways(seed: u64) -> World {
    let mut world = World::new(1, Options::default(), quick(), WireOptions::default(), seed);
    for number in 0..2 {
        world.attach(world.spec("far", number)).unwrap();
    }
    assert_eq!(world.initiator.ways()[0].ways.len(), 2);
    world
}

#[test]
fn requests_wait_for_a_connection_that_broke_and_none_is_lost_or_done_wrong() {
    every_seed(10, |seed| {
        let mut world = World::new(1, Options::default(), quick(), WireOptions::default(), seed);
        world.attach(world.spec("far", 0)).unwrap();
        let device = world.device("far", 1);
        let mut load = Load::new(&mut world, &device, 0, seed);
        for _ in 0..3 {
            load.run(&mut world, 60);
            assert!(wires(FIRST_PORT, spinel_sim::SimWire::break_off) > 0);
            load.run(&mut world, 60);
        }
        load.drain(&mut world);
        assert_eq!(load.failed, []);
        assert!(load.longest_ns < 20_000_000_000, "{} ms", load.longest_ns / 1_000_000);
    });
}

#[test]
fn a_connection_that_breaks_at_any_byte_is_survived() {
    every_seed(20, |seed| {
        let wire = WireOptions { break_one_in: 400, ..WireOptions::default() };
        let mut world = World::new(1, Options::default(), quick(), wire, seed);
        // The first attempt may be in vain, which attaching tells.
        while world.attach(world.spec("far", 0)).is_err() {}
        world.until("the device is there", |world| !world.devices.is_empty());
        let device = world.device("far", 1);
        let mut load = Load::new(&mut world, &device, 0, seed);
        load.run(&mut world, 300);
        lab(|lab| lab.options.break_one_in = 0);
        wires(FIRST_PORT, spinel_sim::SimWire::break_off);
        load.drain(&mut world);
        assert_eq!(load.failed, []);
        assert!(lab(|lab| lab.dialled) > 4, "it broke now and then");
    });
}

#[test]
fn one_way_breaks_and_the_other_goes_on() {
    every_seed(10, |seed| {
        let mut world = two_ways(seed);
        let policy = [Policy::ActivePassive, Policy::RoundRobin { requests: 1 }, Policy::QueueDepth][usize::try_from(seed % 3).unwrap()];
        world.initiator.set_policy("far", policy).unwrap();
        let device = world.device("far", 1);
        let mut load = Load::new(&mut world, &device, 0, seed);
        load.run(&mut world, 100);
        lab(|lab| lab.down.push(FIRST_PORT));
        wires(FIRST_PORT, spinel_sim::SimWire::break_off);
        load.run(&mut world, 200);
        let states: Vec<PathState> = world.initiator.controllers().iter().map(|path| path.state).collect();
        assert!(states.contains(&PathState::Live) && states.iter().any(|state| *state != PathState::Live), "{states:?}");
        lab(|lab| {
            lab.down.clear();
            lab.down.push(FIRST_PORT + 1);
        });
        world.until("both work", |world| world.initiator.controllers().iter().all(|path| path.state == PathState::Live));
        wires(FIRST_PORT + 1, spinel_sim::SimWire::break_off);
        load.run(&mut world, 200);
        load.drain(&mut world);
        assert_eq!(load.failed, []);
    });
}

#[test]
fn a_silent_controller_is_noticed_by_its_keep_alive_and_writes_wait_until_it_has_certainly_ended() {
    let mut world = two_ways(3);
    let device = world.device("far", 1);
    let number = world.initiator.controllers()[0].number.unwrap();
    world.initiator.prefer("far", number).unwrap();
    let mut load = Load::new(&mut world, &device, 0, 3);
    load.run(&mut world, 100);
    let silent = world.now;
    wires(FIRST_PORT, |wire| wire.silence(true));
    lab(|lab| lab.down.push(FIRST_PORT));
    world.until("much is under way", |world| !load.ask(world.now));
    load.drain(&mut world);
    assert_eq!(load.failed, []);
    // A keep-alive that is not answered within 1 s, asked at most half a second later; and twice that before writes go again.
    let took = Duration::from_nanos(world.now.since_ns(silent));
    assert!(took >= Duration::from_secs(3) && took < Duration::from_secs(4), "{took:?}");
    wires(FIRST_PORT, |wire| wire.silence(false));
    load.run(&mut world, 100);
    load.drain(&mut world);
    assert_eq!(load.failed, []);
}

#[test]
fn asymmetric_access_that_changes_is_followed_without_an_error() {
    every_seed(10, |seed| {
        let mut world = two_ways(seed);
        let device = world.device("far", 1);
        let mut load = Load::new(&mut world, &device, 0, seed);
        let port = |number| lab(|lab| lab.ports[&(FIRST_PORT + number)]);
        let ports = [port(0), port(1)];
        for flip in 0..6 {
            let (to, from) = (ports[flip % 2], ports[1 - flip % 2]);
            let _ = world.target.set_ana_states(SUBSYSTEM, to, &[(None, AnaState::Optimized)]).unwrap();
            let state = if flip % 3 == 0 { AnaState::NonOptimized } else { AnaState::Inaccessible };
            let _ = world.target.set_ana_states(SUBSYSTEM, from, &[(None, state)]).unwrap();
            load.run(&mut world, 80);
        }
        load.drain(&mut world);
        assert_eq!(load.failed, []);
    });
}

#[test]
fn requests_fail_when_they_have_waited_as_long_as_they_may() {
    let mut world = World::new(1, Options::default(), quick(), WireOptions::default(), 5);
    let patience = Patience {
        fail_after: Some(Duration::from_secs(5)),
        lost_after: Some(Duration::from_secs(30)),
        reconnect_delay: Duration::from_secs(1),
    };
    let mut spec = world.spec("far", 0);
    spec.patience = patience;
    world.attach(spec).unwrap();
    let device = world.device("far", 1);
    let mut load = Load::new(&mut world, &device, 0, 5);
    load.run(&mut world, 50);
    lab(|lab| lab.down.push(FIRST_PORT));
    let down = world.now;
    wires(FIRST_PORT, spinel_sim::SimWire::break_off);
    let well = load.well;
    world.until("something waits", |world| {
        load.ask(world.now);
        load.in_flight() > 4
    });
    load.drain(&mut world);
    let took = Duration::from_nanos(world.now.since_ns(down));
    assert!(took >= Duration::from_secs(5) && took < Duration::from_millis(5_500), "{took:?}");
    assert!(!load.failed.is_empty() && load.failed.iter().all(|status| *status == Status::Medium), "{:?}", load.failed);
    assert!(load.well - well < 20);
    lab(|lab| lab.down.clear());
    world.until("it is there again", |world| world.initiator.controllers()[0].state == PathState::Live);
    load.failed.clear();
    world.pass(Duration::from_millis(1));
    load.run(&mut world, 50);
    assert_eq!(load.failed, []);
    lab(|lab| lab.down.push(FIRST_PORT));
    wires(FIRST_PORT, spinel_sim::SimWire::break_off);
    world.until("it is given up", |world| world.devices.is_empty());
    assert_eq!(world.initiator.controllers(), []);
    load.drain(&mut world);
    assert_eq!(world.told, ["farn1 appeared", "farn1 vanished"]);
}

#[test]
fn a_controller_that_is_not_there_is_not_attached() {
    let mut world = World::new(1, Options::default(), quick(), WireOptions::default(), 5);
    lab(|lab| lab.down.push(FIRST_PORT));
    let error = world.attach(world.spec("far", 0)).unwrap_err();
    assert!(matches!(&error, AttachError::Failed { why, .. } if why.contains("broke")), "{error}");
    assert_eq!(world.initiator.controllers(), []);
    lab(|lab| lab.down.clear());
    world.attach(world.spec("far", 0)).unwrap();
    assert!(matches!(world.attach(world.spec("far", 0)), Err(AttachError::Same { .. })));
    let mut second = world.spec("far", 1);
    second.multipath = false;
    assert!(matches!(world.attach(second), Err(AttachError::Exists { .. })));
}
