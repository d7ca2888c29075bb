//! Requests and channels that are refused, on the spot or by the server.

use std::sync::Arc;

use spinel_core::mem::Region;
use spinel_core::{Op, OpenError, Status};
use spinel_vhost_driver::{Options, VhostDisk};
use spinel_volume::{ErrorDevice, Fault, Injection, Target};

use crate::front::Front;
use crate::host::{BLOCKS, Host, memory};

const WRITE: Op = Op::Write { fua: false };

#[test]
fn a_request_that_makes_no_sense_is_answered_on_the_spot() {
    let host = Host::new();
    let _controller = host.serve(memory(), 1);
    let disk = VhostDisk::connect(&host.socket(), &Options { segments_max: 2, ..Options::default() }).unwrap();
    let mut front = Front::open(&disk, 1);
    let strange = Region::anonymous(4096).unwrap();
    let one = front.segment(0, 512);
    let (half, none) = (front.segment(0, 256), front.segment(512, 0));
    for op in [Op::Read, WRITE] {
        assert_eq!(front.ask(op, 0, 1, &[strange.segment(0, 512).unwrap()]), Status::Malformed, "memory of others");
        assert_eq!(front.ask(op, 0, 2, &[one]), Status::Malformed, "too little memory");
        assert_eq!(front.ask(op, 0, 1, &[one, one]), Status::Malformed, "too much memory");
        assert_eq!(front.ask(op, 0, 1, &[half, none, half]), Status::Ok, "what is empty is not counted");
        assert_eq!(front.ask(op, 0, 3, &[one, one, one]), Status::Malformed, "too many segments");
        assert_eq!(front.ask(op, 0, 0, &[]), Status::Malformed);
        assert_eq!(front.ask(op, BLOCKS - 1, 1, &[one]), Status::Ok);
        assert_eq!(front.ask(op, BLOCKS, 1, &[one]), Status::Range);
        assert_eq!(front.ask(op, u64::MAX, 1, &[one]), Status::Range);
    }
    for op in [Op::Discard, Op::WriteZeroes { unmap: true, fua: false }] {
        assert_eq!(front.ask(op, 0, 0, &[]), Status::Malformed);
        assert_eq!(front.ask(op, BLOCKS - 1, 2, &[]), Status::Range);
    }
}

#[test]
fn fua_which_virtio_does_not_have_is_unsupported() {
    let host = Host::new();
    let _controller = host.serve(memory(), 1);
    let disk = VhostDisk::connect(&host.socket(), &Options::default()).unwrap();
    let mut front = Front::open(&disk, 1);
    let one = [front.segment(0, 512)];
    assert_eq!(front.ask(Op::Write { fua: true }, 0, 1, &one), Status::Unsupported);
    assert_eq!(front.ask(Op::WriteZeroes { unmap: false, fua: true }, 0, 1, &[]), Status::Unsupported);
    assert_eq!(front.ask(WRITE, 0, 1, &one), Status::Ok);
    assert_eq!(front.ask(Op::Flush, 0, 0, &[]), Status::Ok);
}

#[test]
fn a_read_only_disk_is_protected() {
    let host = Host::new();
    let _controller = host.serve_as(memory(), 1, true);
    let disk = VhostDisk::connect(&host.socket(), &Options::default()).unwrap();
    let mut front = Front::open(&disk, 1);
    let one = [front.segment(0, 512)];
    assert_eq!(front.ask(WRITE, 0, 1, &one), Status::Protected);
    assert_eq!(front.ask(Op::Discard, 0, 1, &[]), Status::Protected);
    assert_eq!(front.ask(Op::Read, 0, 1, &one), Status::Ok);
}

#[test]
fn what_the_server_could_not_do_is_the_mediums_fault() {
    let host = Host::new();
    let device = Arc::new(ErrorDevice::new(memory()).unwrap());
    let _controller = host.serve(Arc::clone(&device) as _, 1);
    let disk = VhostDisk::connect(&host.socket(), &Options::default()).unwrap();
    let mut front = Front::open(&disk, 2);
    device.inject(Injection { target: Target::Read, fault: Fault::Failure, count: 1, queue_depth: 0 }).unwrap();
    let one = [front.segment(0, 512)];
    assert_eq!(front.ask(Op::Read, 0, 1, &one), Status::Medium);
    assert_eq!(front.ask(Op::Read, 0, 1, &one), Status::Ok);
}

#[test]
fn a_queue_is_opened_once_and_only_as_deep_as_it_is() {
    let host = Host::new();
    let _controller = host.serve(memory(), 2);
    let disk = VhostDisk::connect(&host.socket(), &Options { queues: 2, ..Options::default() }).unwrap();
    assert_eq!(disk.depth_max(), 42);
    assert!(matches!(Front::try_open(&disk, 0), Err(OpenError::Depth { asked: 0, max: 42 })));
    assert!(matches!(Front::try_open(&disk, 43), Err(OpenError::Depth { asked: 43, max: 42 })));
    let first = Front::open(&disk, 42);
    assert_eq!(first.channel.room(), 42);
    drop(first);
    let _second = Front::open(&disk, 1);
    let Err(error) = Front::try_open(&disk, 1) else { panic!("there are two queues") };
    assert_eq!(error.to_string(), "another queue was asked for, and all of the device's queues were opened before: it has 2");
}
