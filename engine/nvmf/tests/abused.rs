//! What whoever knows the code well would try: the target's own moments of weakness, one by one.

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::host::{HOST, Host, OTHER, Talk};
use common::wire::HostEnd;
use common::world::{BLOCKS, SUBSYSTEM, World, address};
use spinel_core::{Channel, Core, Device, Geometry, OpenError};
use spinel_nvme::admin::Abort;
use spinel_nvme::command::{Fused, IoOpcode};
use spinel_nvme::io::Blocks;
use spinel_nvme::sgl::Sgl;
use spinel_nvme::status::StatusCode;
use spinel_nvmf::pool::PoolSize;
use spinel_nvmf::target::{NamespaceSpec, Options, STRANGERS_MAX};
use spinel_volume::{MemoryDevice, Shape};
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

#[test]
fn what_was_meant_for_a_namespace_is_not_done_to_the_next_one_of_its_number() {
    let mut world = World::new(Options::default());
    let (_admin, mut io) = world.pair(Talk::PLAIN);
    io.answers_r2ts = false;
    let write = io.write(5, &[0x77; 512], false);
    io.settle(&mut world);
    let r2t = io.r2ts[0];
    let removed = world.target.remove_namespace(SUBSYSTEM, 1).unwrap();
    world.made(&removed);
    assert_eq!(world.add_disk("another", BLOCKS), 1);
    io.answer_r2t(&r2t);
    assert_eq!(io.wait(&mut world, write).status.code(), StatusCode::INVALID_NAMESPACE);
    let read = io.read(5, 1);
    assert_eq!(io.wait(&mut world, read).data, [0; 512]);
}

/// A disk that nobody can open.
struct Shut(MemoryDevice);

impl Device for Shut {
    fn geometry(&self) -> Geometry {
        self.0.geometry()
    }

    fn open(&self, _: &mut Core, depth: u16) -> Result<Box<dyn Channel>, OpenError> {
        Err(OpenError::Depth { asked: depth, max: 0 })
    }
}

#[test]
fn a_disk_that_cannot_be_opened_costs_no_memory_however_often_it_is_asked_for() {
    let mut world = World::new(Options::default());
    let (_admin, mut io) = world.pair(Talk::PLAIN);
    let device = Arc::new(Shut(MemoryDevice::new(Shape::new(512, BLOCKS)).unwrap()));
    let spec = NamespaceSpec { device, ..world.spec("shut") };
    let (nsid, pending) = world.target.add_namespace(SUBSYSTEM, spec).unwrap();
    world.made(&pending);
    for _ in 0..20 {
        let read = Blocks::new(0, 1).command(IoOpcode::Read, nsid, Sgl::transport(512));
        assert_eq!(io.ask(&mut world, read, &[], &[]).status.code(), StatusCode::NAMESPACE_NOT_READY);
    }
    world.turns(5);
    assert_eq!(world.meters.live(), 0);
}

/// Time in which nothing comes but keep-alives.
fn pass_alive(world: &mut World, admins: &mut [&mut Host], seconds: u64) {
    for _ in 0..seconds.div_ceil(4) {
        world.pass(Duration::from_secs(4));
        for admin in &mut *admins {
            let id = admin.keep_alive();
            assert!(admin.wait(world, id).status.is_success());
        }
    }
}

#[test]
fn who_takes_nothing_of_what_it_is_sent_is_not_waited_for_and_gives_back_its_buffers() {
    let mut world = World::new(Options { pool: PoolSize { small_units: 4, large_units: 32 }, ..Options::default() });
    let (mut admin, mut deaf) = stuffed(&mut world);
    let (mut other, cntlid) = world.admin(&OTHER, 0, Talk::PLAIN);
    // On the same core as the first queue.
    world.rotate();
    let mut io = world.queue(&OTHER, 0, cntlid, 1, Talk::PLAIN);
    let read = io.read(0, 128);
    assert!(io.wait(&mut world, read).status.is_success(), "something is left");
    pass_alive(&mut world, &mut [&mut admin, &mut other], 50);
    assert!(!deaf.end.is_closed());
    pass_alive(&mut world, &mut [&mut admin, &mut other], 20);
    assert!(deaf.end.is_closed() && !io.end.is_closed());
    deaf.end.set_deaf(false);
    deaf.take();
}

#[test]
fn a_host_that_waited_for_buffers_of_ours_has_all_its_time_to_bring_data() {
    let mut world = World::new(Options { pool: PoolSize { small_units: 1, large_units: 4 }, ..Options::default() });
    let (mut admin, cntlid) = world.admin(&HOST, 0, Talk::PLAIN);
    world.rotate();
    let mut hog = world.queue(&HOST, 0, cntlid, 1, Talk::PLAIN);
    world.rotate();
    let mut io = world.queue(&HOST, 0, cntlid, 2, Talk::PLAIN);
    hog.answers_r2ts = false;
    hog.write(0, &[1; 512], false);
    hog.settle(&mut world);
    io.answers_r2ts = false;
    let write = io.write(1, &[2; 512], false);
    io.settle(&mut world);
    assert!(io.r2ts.is_empty(), "it waits");
    pass_alive(&mut world, &mut [&mut admin], 68);
    assert!(hog.end.is_closed());
    io.settle(&mut world);
    pass_alive(&mut world, &mut [&mut admin], 40);
    assert!(!io.end.is_closed());
    let r2t = io.r2ts[0];
    io.answer_r2t(&r2t);
    assert!(io.wait(&mut world, write).status.is_success());
}

#[test]
fn nothing_comes_behind_a_request_to_terminate() {
    let mut world = World::new(Options::default());
    let (_admin, mut io) = world.pair(Talk::PLAIN);
    let first = io.read(0, 1);
    io.wait(&mut world, first);
    for block in 0..20 {
        io.read(block, 64);
    }
    // What is no PDU, in the same turn as requests that end in it.
    io.end.send(&[0xff; 16]);
    io.settle(&mut world);
    assert!(io.terminated);
    world.pass(Duration::from_secs(3));
    assert!(io.end.is_closed());
}

#[test]
fn those_who_say_nothing_keep_nobody_out_however_many_they_are() {
    let mut world = World::new(Options::default());
    let (mut admin, mut io) = world.pair(Talk::PLAIN);
    let mut silent: Vec<HostEnd> = Vec::new();
    for number in 0..3 * STRANGERS_MAX {
        let end = HostEnd::default();
        let far = end.clone();
        let (port, from) = (world.ports[0], address(0));
        assert!(world.target.admit(world.mailbox(), port, "silent".into(), from, move |core| Ok(far.stream(core))), "{number}");
        silent.push(end);
        world.rotate();
        if number % 8 == 0 {
            world.turns(8);
        }
    }
    // A mailbox hands over one thing a turn.
    world.turns(4 * STRANGERS_MAX);
    let open = silent.iter().filter(|end| !end.is_closed()).count();
    assert!(open <= STRANGERS_MAX && silent[2 * STRANGERS_MAX + 1..].iter().all(|end| !end.is_closed()), "{open} are left");
    let id = admin.keep_alive();
    assert!(admin.wait(&mut world, id).status.is_success());
    let id = io.read(0, 1);
    assert!(io.wait(&mut world, id).status.is_success());
    drop(world.pair(Talk::PLAIN));
}

#[test]
fn data_that_come_with_a_command_do_not_wait_for_buffers_that_others_behind_them_would_free() {
    for fused in [false, true] {
        let mut world = World::new(Options { pool: PoolSize { small_units: 24, large_units: 4 }, ..Options::default() });
        let (_admin, mut io) = world.pair(Talk::PLAIN);
        io.answers_r2ts = false;
        let mut ids: Vec<u16> = (0..24).map(|block| io.write(block, &[3; 512], false)).collect();
        io.settle(&mut world);
        assert!((6..24).contains(&io.r2ts.len()), "{} have buffers, and the others wait", io.r2ts.len());
        if fused {
            let compare = Blocks::new(40, 1).command(IoOpcode::Compare, 1, Sgl::capsule(0, 512)).with_fused(Fused::First);
            ids.push(io.send(compare, &[0; 512], &[]));
            let write = Blocks::new(40, 1).command(IoOpcode::Write, 1, Sgl::capsule(0, 512)).with_fused(Fused::Second);
            ids.push(io.send(write, &[4; 512], &[]));
        } else {
            ids.extend((40..44).map(|block| io.write(block, &[4; 512], true)));
        }
        // What was asked for comes behind it.
        io.answers_r2ts = true;
        std::mem::take(&mut io.r2ts).iter().for_each(|r2t| io.answer_r2t(r2t));
        ids.into_iter().for_each(|id| assert!(io.wait(&mut world, id).status.is_success()));
    }
}
