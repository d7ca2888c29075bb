//! What whoever knows the code well would try: the target's own moments of weakness, one by one.

mod common;

use common::host::{Host, Talk};
use common::world::World;
use spinel_nvme::admin::Abort;
use spinel_nvme::command::{Fused, IoOpcode};
use spinel_nvme::io::Blocks;
use spinel_nvme::sgl::Sgl;
use spinel_nvme::status::StatusCode;
use spinel_nvmf::target::Options;
use zerocopy::IntoBytes as _;

/// A host that takes nothing until the target has no room for another send.
fn stuffed(world: &mut World) -> (Host, Host) {
    let (admin, mut io) = world.pair(Talk::PLAIN);
    io.answers_r2ts = false;
    io.end.set_deaf(true);
    for block in 0..20 {
        io.read(block * 128, 128);
    }
    world.turns(20);
    (admin, io)
}

#[test]
fn the_first_of_two_that_is_given_up_takes_nothing_from_the_second_whose_data_are_coming() {
    let mut world = World::new(Options::default());
    let (mut admin, mut io) = stuffed(&mut world);
    // Its data are to be asked for, which waits.
    let compare = Blocks::new(0, 1).command(IoOpcode::Compare, 1, Sgl::transport(512)).with_fused(Fused::First);
    let first = io.send(compare, &[], &[0; 512]);
    let write = Blocks::new(0, 1).command(IoOpcode::Write, 1, Sgl::capsule(0, 512)).with_fused(Fused::Second).with_id(77);
    let mut second = [0_u8; 72 + 512];
    second[..8].copy_from_slice(&[0x04, 0, 72, 72, 0x48, 2, 0, 0]);
    second[8..72].copy_from_slice(write.as_bytes());
    io.end.send(&second[..300]);
    world.turns(10);
    let abort = Abort { queue: 1, id: first }.command().with_data(Sgl::transport(0));
    assert!(Abort::aborted(admin.ask(&mut world, abort, &[], &[]).result), "it only waits");
    io.end.send(&second[300..]);
    world.turns(10);
    io.end.set_deaf(false);
    assert_eq!(io.wait(&mut world, first).status.code(), StatusCode::ABORT_REQUESTED);
    let status = io.wait(&mut world, 77).status;
    assert!(matches!(status.code(), StatusCode::ABORTED_FUSED_FAILED | StatusCode::ABORT_REQUESTED), "{status}");
    let id = io.read(0, 1);
    assert!(io.wait(&mut world, id).status.is_success());
}
