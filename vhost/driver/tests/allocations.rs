//! A core that drives the front end allocates nothing, whatever it asks for: counted, not believed.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::time::Duration;

use spinel_core::{Armed, Completions, Core, CoreId, Device, Lba, Meters, Op, Request, Status, Tag};
use spinel_reactor::{Clock, Mode, PaceLimits, ReactorConfig};
use spinel_vhost::{Controller, ControllerConfig, Disk};
use spinel_vhost_driver::{Options, VhostDisk};
use spinel_volume::{MemoryDevice, Shape};

const DEPTH: u32 = 32;

/// A mixture with every kind of request, and some that are refused here and by the server.
fn op(number: u32) -> (Op, u64, u32) {
    match number % 16 {
        0 => (Op::Flush, 0, 0),
        1 => (Op::Discard, 8, 8),
        2 => (Op::WriteZeroes { unmap: true, fua: false }, 8, 8),
        3 => (Op::Write { fua: true }, 0, 1),
        4 => (Op::Read, u64::MAX, 1),
        5..9 => (Op::Write { fua: false }, 16, 1),
        _ => (Op::Read, 16, 1),
    }
}

/// Rounds of requests, polled for or slept for in turn. How many of them succeeded.
fn run(disk: &VhostDisk, channel: &mut dyn spinel_core::Channel, core: &mut Core, rounds: u32) -> u64 {
    let (clock, mut done, mut good) = (Clock::system(), Completions::new(), 0);
    for round in 0..rounds {
        for slot in 0..DEPTH {
            let (op, start, blocks) = op(slot);
            let segment = [disk.region().segment(u64::from(slot) * 512, 512 * blocks.min(1)).unwrap()];
            let segments = if matches!(op, Op::Read | Op::Write { .. }) { &segment[..] } else { &[] };
            channel.submit(Request { tag: Tag(slot), op, at: clock.now(), start: Lba(start), blocks, segments });
        }
        channel.kick();
        let mut left = DEPTH as usize;
        while left > 0 {
            let now = clock.now();
            core.reap(now);
            done.clear();
            channel.poll(now, &mut done);
            left -= done.as_slice().len();
            good += u64::try_from(done.as_slice().iter().filter(|done| done.status == Status::Ok).count()).unwrap();
            core.flush();
            if round % 2 == 0 && left > 0 && done.as_slice().is_empty() && channel.arm() > Armed::Spin {
                core.flush();
                core.sleep(Some(now.after(Duration::from_secs(30))), now);
            }
        }
    }
    good
}

#[test]
fn a_hundred_thousand_requests_allocate_nothing() {
    let make_core = |id| spinel_uring::core(id, spinel_uring::Options::default());
    let (mode, limits) = (Mode::Adaptive, PaceLimits::default());
    let config = ReactorConfig { core: CoreId(0), mode, limits, pin: false, make_core: Box::new(make_core) };
    let reactor = spinel_reactor::start(config).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let socket_path = folder.path().join("disk");
    let device = Arc::new(MemoryDevice::new(Shape::new(512, 1024)).unwrap());
    let controller = Controller::start(ControllerConfig {
        name: "disk".to_owned(),
        socket_path: socket_path.clone(),
        disk: Disk { serial: String::new(), device, meters: Arc::new(Meters::default()), read_only: false },
        cores: vec![reactor.mailbox().clone()],
        queues_max: 1,
        drain_deadline: Duration::from_secs(60),
        pin_guest_memory: None,
    });
    let disk = VhostDisk::connect(&socket_path, &Options::default()).unwrap();
    let mut core = make_core(CoreId(1)).unwrap();
    let mut channel = disk.open(&mut core, 32).unwrap();
    run(&disk, &mut *channel, &mut core, 100);
    let (before, rounds) = (spinel_counting::by_this_thread(), 100_000 / DEPTH);
    let good = run(&disk, &mut *channel, &mut core, rounds);
    // What one run itself needs is its batch of completions.
    assert_eq!(spinel_counting::by_this_thread() - before, 1);
    assert_eq!(good, u64::from(rounds * 28), "two of sixteen are refused");
    drop((channel, disk, controller.unwrap()));
    reactor.quit();
}
