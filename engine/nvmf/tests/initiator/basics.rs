//! What works if nothing goes wrong.

use spinel_nvmf::initiator::Settings;
use spinel_nvmf::target::Options;
use spinel_sim::{WireOptions, every_seed};

use super::load::Load;
use super::world::{BLOCKS, World};

#[test]
fn a_namespace_is_a_device_that_is_written_and_read() {
    let mut world = World::new(1, Options::default(), Settings::default(), WireOptions::default(), 1);
    let attached = world.attach(world.spec("far", 0)).unwrap();
    assert_eq!(attached.namespaces, [1]);
    let device = world.device("far", 1);
    let geometry = device.geometry();
    assert_eq!((geometry.block_bytes, geometry.block_count, geometry.transfer_max_bytes), (512, BLOCKS, 128 << 10));
    assert!(geometry.features.discard && geometry.features.write_zeroes);
    let mut load = Load::new(&mut world, &device, 0, 1);
    load.run(&mut world, 500);
    load.drain(&mut world);
    assert_eq!(load.failed, []);
    assert!(load.checker.checked().stamps_read > 0);
}

#[test]
fn digests_and_any_cut_change_nothing() {
    every_seed(12, |seed| {
        let wire = WireOptions { cut_bytes: 1..=(1 << (seed % 14)).max(40), ..WireOptions::default() };
        let mut world = World::new(1, Options::default(), Settings::default(), wire, seed);
        let mut spec = world.spec("far", 0);
        (spec.header_digest, spec.data_digest) = (seed % 2 == 0, seed % 4 < 2);
        world.attach(spec).unwrap();
        let device = world.device("far", 1);
        let mut load = Load::new(&mut world, &device, 0, seed);
        load.run(&mut world, 60);
        load.drain(&mut world);
        assert_eq!(load.failed, []);
    });
}
