//! A server that goes away: what was in flight is aborted, and so is whatever comes after.

use std::sync::Arc;
use std::time::Duration;

use spinel_core::{Armed, Op, Status};
use spinel_vhost_driver::{Options, VhostDisk};
use spinel_volume::{ErrorDevice, Fault, Injection, Target};

use crate::front::Front;
use crate::host::{Host, memory};

#[test]
fn requests_in_flight_are_aborted_when_the_server_dies() {
    let host = Host::new();
    let device = Arc::new(ErrorDevice::new(memory()).unwrap());
    let controller = host.serve(Arc::clone(&device) as _, 1);
    let disk = VhostDisk::connect(&host.socket(), &Options::default()).unwrap();
    let mut front = Front::open(&disk, 8);
    device.inject(Injection { target: Target::Read, fault: Fault::Pending, count: 5, queue_depth: 0 }).unwrap();
    let one = [front.segment(0, 512)];
    for tag in 0..7 {
        front.submit(tag, Op::Read, tag.into(), 1, &one);
    }
    let done: Vec<_> = front.wait_for(2).iter().map(|done| (done.tag.0, done.status)).collect();
    assert_eq!(done, [(5, Status::Ok), (6, Status::Ok)], "those that do not hang");
    // It gives up its connection although five requests are out.
    assert_eq!(controller.stop(Duration::ZERO).unwrap_err().outstanding, 5);
    let mut aborted: Vec<_> = front.wait_for(5).iter().map(|done| (done.tag.0, done.status)).collect();
    aborted.sort_unstable_by_key(|done| done.0);
    assert_eq!(aborted, [0, 1, 2, 3, 4].map(|tag| (tag, Status::Aborted)));
    assert_eq!((front.channel.room(), front.channel.arm()), (8, Armed::Idle));
    for op in [Op::Read, Op::Write { fua: false }] {
        assert_eq!(front.ask(op, 0, 1, &one), Status::Aborted);
    }
    assert_eq!(front.ask(Op::Flush, 0, 0, &[]), Status::Aborted);
    device.resume_pending();
    host.turn();
}

#[test]
fn a_server_that_died_while_nothing_was_asked_is_noticed_by_the_next_request() {
    let host = Host::new();
    let controller = host.serve(memory(), 1);
    let disk = VhostDisk::connect(&host.socket(), &Options::default()).unwrap();
    let mut front = Front::open(&disk, 2);
    let one = [front.segment(0, 512)];
    assert_eq!(front.ask(Op::Read, 0, 1, &one), Status::Ok);
    controller.stop(Duration::from_secs(60)).unwrap();
    assert_eq!(front.ask(Op::Read, 0, 1, &one), Status::Aborted);
}

#[test]
fn a_disk_that_is_dropped_frees_its_server_once_its_channels_are() {
    let host = Host::new();
    let _controller = host.serve(memory(), 1);
    let disk = VhostDisk::connect(&host.socket(), &Options::default()).unwrap();
    let mut front = Front::open(&disk, 2);
    drop(disk);
    let one = [front.segment(0, 512)];
    assert_eq!(front.ask(Op::Read, 0, 1, &one), Status::Ok);
    drop(front);
    let disk = VhostDisk::connect(&host.socket(), &Options { patience: Duration::from_secs(30), ..Options::default() }).unwrap();
    assert_eq!(Front::open(&disk, 2).ask(Op::Flush, 0, 0, &[]), Status::Ok);
}
