//! What an administrator changes, on either side.

use std::sync::Arc;
use std::time::Duration;

use spinel_core::Status;
use spinel_nvmf::initiator::{OnTimeout, PathState, Settings};
use spinel_nvmf::target::Options;
use spinel_sim::WireOptions;
use spinel_volume::{NullDevice, Shape};

use super::load::Load;
use super::world::{BLOCKS, SUBSYSTEM, World};

fn world(seed: u64) -> World {
    let mut world = World::new(2, Options::default(), Settings::default(), WireOptions::default(), seed);
    world.attach(world.spec("far", 0)).unwrap();
    world
}

#[test]
fn namespaces_appear_grow_and_vanish_while_it_is_connected() {
    let mut world = world(1);
    let null = Arc::new(NullDevice::new(Shape::new(512, 100)).unwrap());
    let nsid = world.add_namespace("null", Arc::clone(&null) as _);
    assert_eq!(nsid, 2);
    world.until("the second namespace is there", |world| world.devices.len() == 2);
    let device = world.device("far", 2);
    assert_eq!(device.geometry().block_count, 100);
    null.resize(2 * BLOCKS).unwrap();
    world.target.resized("null");
    world.until("it has grown", |world| world.told.contains(&"farn2 changed".into()));
    assert_eq!(device.geometry().block_count, 2 * BLOCKS);

    let first = world.device("far", 1);
    let mut load = Load::new(&mut world, &first, 0, 1);
    load.run(&mut world, 20);
    let pending = world.target.remove_namespace(SUBSYSTEM, 1).unwrap();
    world.made(&pending);
    world.until("the first namespace has gone", |world| world.devices.len() == 1);
    load.drain(&mut world);
    load.failed.clear();
    load.ask(world.now);
    load.drain(&mut world);
    assert_eq!(load.failed, [Status::Aborted]);
    assert_eq!(world.told, ["farn1 appeared", "farn2 appeared", "farn2 changed", "farn1 vanished"]);
}

#[test]
fn every_core_has_a_queue_of_its_own() {
    let mut world = world(2);
    let device = world.device("far", 1);
    let mut first = Load::new(&mut world, &device, 0, 2);
    first.run(&mut world, 50);
    first.drain(&mut world);
    assert_eq!(world.initiator.controllers()[0].io_queues, 1);
    let again = world.channel(&device, 0, 4);
    let mut second = Load::new(&mut world, &device, 1, 2);
    second.reads_only = true;
    second.checker = first.checker;
    second.run(&mut world, 50);
    second.drain(&mut world);
    assert_eq!(world.initiator.controllers()[0].io_queues, 2, "one for each core, not for each channel");
    drop(again);
}

#[test]
fn a_controller_that_is_reset_goes_on_and_one_that_is_detached_is_gone() {
    let mut world = world(3);
    let device = world.device("far", 1);
    let mut load = Load::new(&mut world, &device, 0, 3);
    load.run(&mut world, 50);
    world.initiator.reset("far", None).unwrap();
    assert_eq!(world.initiator.controllers()[0].state, PathState::Resetting);
    let reset = world.now;
    load.run(&mut world, 50);
    load.drain(&mut world);
    assert_eq!(load.failed, []);
    let took = Duration::from_nanos(world.now.since_ns(reset));
    assert!(took < Duration::from_secs(2), "a reset proves that all has ended, and nobody waits for time: {took:?}");
    (0..5).for_each(|_| {
        load.ask(world.now);
    });
    let mut detaching = world.initiator.detach("far", None).unwrap();
    world.until("it is detached", |_| detaching.is_done());
    load.drain(&mut world);
    assert!(world.devices.is_empty() && world.initiator.controllers().is_empty());
    assert!(device.open(&mut spare_core(), 1).is_err(), "it has gone");
}

fn spare_core() -> spinel_core::Core {
    let (sleeper, _bed) = spinel_sim::SimSleeper::new();
    spinel_core::Core::new(spinel_core::CoreId(9), Box::new(sleeper))
}

#[test]
fn a_command_that_takes_too_long_is_aborted_or_its_controller_reset() {
    for on_timeout in [OnTimeout::Abort, OnTimeout::Reset] {
        let settings = Settings { timeout: Some(Duration::from_secs(2)), on_timeout, ..Settings::default() };
        let mut world = World::new(1, Options::default(), settings, WireOptions::default(), 4);
        world.attach(world.spec("far", 0)).unwrap();
        let device = world.device("far", 1);
        let mut load = Load::new(&mut world, &device, 0, 4);
        load.run(&mut world, 20);
        load.drain(&mut world);
        let dialled = super::world::lab(|lab| lab.dialled);
        // The connection for I/O falls silent: the last one that was dialled.
        super::world::lab(|lab| lab.wires.last().unwrap().1.silence(true));
        load.ask(world.now);
        load.drain(&mut world);
        assert_eq!(load.failed, []);
        assert!(super::world::lab(|lab| lab.dialled) > dialled, "{on_timeout:?}");
    }
}
