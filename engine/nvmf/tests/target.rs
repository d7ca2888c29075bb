//! A target as its hosts see it, over connections in memory.

mod common;

use common::host::{HOST, Talk, controller};
use common::world::{BLOCKS, SUBSYSTEM, World};
use spinel_nvme::admin::Cns;
use spinel_nvme::identify::{Controller, Namespace, NamespaceList};
use spinel_nvmf::target::Options;
use zerocopy::FromBytes as _;

fn bytes(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|at| u8::try_from((at * 7 + at / 512 * 13 + seed) % 251).unwrap()).collect()
}

#[test]
fn a_host_connects_identifies_writes_and_reads() {
    let mut world = World::new(Options::default());
    let (mut admin, mut io) = world.pair(Talk::PLAIN);
    let page = admin.identify(&mut world, Cns::Controller, 0).data;
    let page = Controller::read_from_bytes(&page).unwrap();
    assert_eq!((page.id.get(), page.namespace_max.get()), (1, 32));
    let list = admin.identify(&mut world, Cns::ActiveNamespaces, 0).data;
    assert_eq!(NamespaceList::read_from_bytes(&list).unwrap().ids().collect::<Vec<_>>(), [1]);
    let namespace = admin.identify(&mut world, Cns::Namespace, 1).data;
    let namespace = Namespace::read_from_bytes(&namespace).unwrap();
    assert_eq!((namespace.size_blocks.get(), namespace.block_bytes()), (BLOCKS, Some(512)));

    let small = bytes(4096, 1);
    let id = io.write(8, &small, true);
    assert!(io.wait(&mut world, id).status.is_success());
    let id = io.read(8, 8);
    assert_eq!(io.wait(&mut world, id).data, small);

    let large = bytes(128 << 10, 2);
    let id = io.write(100, &large, false);
    assert!(io.wait(&mut world, id).status.is_success());
    let id = io.read(100, 256);
    assert_eq!(io.wait(&mut world, id).data, large);
}

#[test]
fn an_unknown_subsystem_is_blamed() {
    let mut world = World::new(Options::default());
    let mut host = world.dial(0, Talk::PLAIN);
    let answer = host.connect(&mut world, &HOST, "nqn.2026-11.io.spinel:none", 0, 0xffff);
    assert_eq!(answer.status.code(), spinel_nvme::status::StatusCode::CONNECT_PARAMETERS);
    assert_eq!(answer.result, 256 | 1 << 16);
    let answer = host.connect(&mut world, &HOST, SUBSYSTEM, 0, 0xffff);
    assert_eq!(controller(&answer), 1, "it may try again");
}
