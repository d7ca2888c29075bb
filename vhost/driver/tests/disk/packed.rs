//! Packed rings, with a server that serves nothing else and shares no code with ours.

use spinel_core::{Op, Status};
use spinel_sim::Prng;
use spinel_vhost_driver::{Options, VhostDisk};

use crate::data::agree_with_a_model_over;
use crate::front::Front;
use crate::host::Host;
use crate::packed_server::serve;

const DATA_BYTES: usize = 4096 * 512;

#[test]
fn a_random_load_agrees_with_a_model_over_packed_rings() {
    for (depth, queue_size, segments_max) in [(1, 4, 1), (32, 128, 1), (32, 128, 2)] {
        let host = Host::new();
        let server = serve(&host.path("packed"), DATA_BYTES);
        let options = Options { packed: true, queue_size, segments_max, ..Options::default() };
        agree_with_a_model_over(&host.path("packed"), &options, depth, 9);
        let seen = server.join().unwrap();
        assert_eq!(seen.requests, 200 * u64::from(depth));
    }
}

#[test]
fn no_wake_up_is_lost_in_thirty_thousand_requests_over_packed_rings() {
    let host = Host::new();
    let server = serve(&host.path("packed"), DATA_BYTES);
    let disk = VhostDisk::connect(&host.path("packed"), &Options { packed: true, ..Options::default() }).unwrap();
    let mut front = Front::open(&disk, 8);
    front.timer = false;
    let mut prng = Prng::new(1);
    let one = [front.segment(0, 512)];
    let mut asked = 0_u64;
    while asked < 30_000 {
        let burst = u32::try_from(prng.within(1..=8)).unwrap();
        for tag in 0..burst {
            front.submit(tag, Op::Read, tag.into(), 1, &one);
        }
        assert!(front.wait_for(burst as usize).iter().all(|done| done.status == Status::Ok));
        asked += u64::from(burst);
        let until = front.clock.now().after_ns(prng.below(60_000));
        while front.clock.now() < until {
            std::hint::spin_loop();
        }
    }
    let sleeps = front.sleeps;
    drop((front, disk));
    let seen = server.join().unwrap();
    println!("{seen:?}, {sleeps} sleeps");
    assert_eq!(seen.requests, asked);
    assert!(sleeps > 500 && seen.calls > 500, "{sleeps} sleeps, {} calls", seen.calls);
}

#[test]
fn a_front_end_that_polls_is_not_called() {
    let host = Host::new();
    let server = serve(&host.path("packed"), DATA_BYTES);
    let disk = VhostDisk::connect(&host.path("packed"), &Options { packed: true, ..Options::default() }).unwrap();
    let mut front = Front::open(&disk, 4);
    let one = [front.segment(0, 512)];
    for round in 0..500 {
        for tag in 0..4 {
            front.submit(tag, Op::Read, tag.into(), 1, &one);
        }
        if round == 250 {
            // It wants to be called while it sleeps, and no longer.
            front.wait_for(4);
        } else {
            front.spin_for(4);
        }
    }
    drop((front, disk));
    let seen = server.join().unwrap();
    assert_eq!(seen.requests, 2_000);
    assert!(seen.calls <= 4, "{} calls", seen.calls);
}
