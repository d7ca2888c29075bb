//! A core that sleeps between requests and while they are in flight, and whom nobody may forget to wake.

use std::sync::Arc;

use spinel_core::{Device, Op, Status};
use spinel_reactor::PaceLimits;
use spinel_sim::Prng;
use spinel_vhost_driver::{Options, VhostDisk};
use spinel_volume::{DelayDevice, Latencies};

use crate::front::Front;
use crate::host::{Host, memory};

/// How long the server's core spins before it sleeps; around it the gaps between requests are chosen.
const SPIN_NS: u64 = 20_000;

/// Bursts of `burst` requests at random distances. The core that sends them sleeps as soon as nothing comes, and no timer wakes it.
fn never_forgotten(device: Arc<dyn Device>, options: &Options, burst: u16, requests: u32) {
    let host = Host::spinning_for(PaceLimits { spin_min_ns: SPIN_NS, spin_max_ns: SPIN_NS });
    let _controller = host.serve(device, 1);
    let disk = VhostDisk::connect(&host.socket(), options).unwrap();
    let mut front = Front::open(&disk, burst);
    front.timer = false;
    let mut prng = Prng::new(u64::from(burst));
    let one = [front.segment(0, 512)];
    for _ in 0..requests / u32::from(burst) {
        let until = front.clock.now().after_ns(prng.below(3 * SPIN_NS));
        while front.clock.now() < until {
            std::hint::spin_loop();
        }
        for tag in 0..burst {
            front.submit(tag.into(), Op::Read, tag.into(), 1, &one);
        }
        assert!(front.wait_for(burst.into()).iter().all(|done| done.status == Status::Ok));
    }
    assert!(front.sleeps > 500 && host.sleeps() > 500, "{} and {} sleeps must be many to mean anything", front.sleeps, host.sleeps());
}

fn slow() -> Arc<dyn Device> {
    let latencies = Latencies { average_read_us: 30, p99_read_us: 60, average_write_us: 30, p99_write_us: 60 };
    Arc::new(DelayDevice::new(memory(), latencies).unwrap())
}

#[test]
fn no_wake_up_is_lost_in_twenty_thousand_requests_with_event_idx() {
    let options = Options { event_idx: true, ..Options::default() };
    never_forgotten(memory(), &options, 1, 20_000);
    never_forgotten(slow(), &options, 4, 20_000);
}

#[test]
fn no_wake_up_is_lost_in_twenty_thousand_requests_without_event_idx() {
    let options = Options { event_idx: false, ..Options::default() };
    never_forgotten(memory(), &options, 1, 20_000);
    never_forgotten(slow(), &options, 4, 20_000);
}

#[test]
fn no_wake_up_is_lost_in_twenty_thousand_requests_over_our_packed_rings() {
    let options = Options { packed: true, ..Options::default() };
    never_forgotten(memory(), &options, 1, 20_000);
    never_forgotten(slow(), &options, 4, 20_000);
}
