//! The race between a device that goes to sleep and a driver that publishes, on two real threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use spinel_core::mem::Region;
use spinel_sim::guest::{GuestRequest, Layout, SimGuest};

use super::*;

/// Rounds a sound ring has to survive.
const ROUNDS: u32 = 100_000;
/// Rounds within which a ring that does not look again must be found out; it takes a few.
const ROUNDS_MAX: u32 = 1_000_000;

/// Waits for another thread's store, which is near unless that thread was put off its core.
fn wait_until(mut arrived: impl FnMut() -> bool) {
    for spins in 1_u64.. {
        if arrived() {
            return;
        }
        if spins.is_multiple_of(1024) {
            std::thread::yield_now();
        } else {
            std::hint::spin_loop();
        }
    }
}

/// Runs both sides at once, round after round, until a round ends with the device asleep, work waiting, and nobody kicking.
fn loses_a_wakeup(event_idx: bool, rounds: u32, falls_asleep: impl Fn(&mut SplitRing) -> bool) -> bool {
    let layout = Layout { size: 8, event_idx, indirect: true, data_bytes: 512 };
    let region = Region::anonymous(SimGuest::memory_bytes(layout)).unwrap();
    let mut guest = SimGuest::new(region, layout);
    let [descriptors, available, used] = guest.addresses();
    let addresses = RingAddresses { descriptors, available, used };
    let mut ring = SplitRing::new(&guest.map(), layout.size, addresses, event_idx, true).unwrap();
    let (begun, kicked, ended) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let driver = {
        let (begun, kicked, ended) = (Arc::clone(&begun), Arc::clone(&kicked), Arc::clone(&ended));
        let drive = move || {
            for round in 1..=rounds {
                guest.post(GuestRequest::read(0, 512));
                wait_until(|| begun.load(Ordering::Acquire) >= round);
                if begun.load(Ordering::Acquire) > rounds {
                    break;
                }
                kicked.store(guest.publish(), Ordering::Relaxed);
                ended.store(round, Ordering::Release);
                wait_until(|| guest.reap().is_some());
            }
        };
        std::thread::Builder::new().name("driver".to_owned()).spawn(drive).unwrap()
    };
    let mut lost = false;
    let mut delay: u32 = 100;
    for round in 1..=rounds {
        ring.refuse_kicks();
        begun.store(round, Ordering::Release);
        // The race is narrow: whoever came second in the last round is let off earlier, so that both keep meeting in it.
        for step in 0..delay + round % 8 {
            std::hint::black_box(step);
        }
        let asleep = falls_asleep(&mut ring);
        wait_until(|| ended.load(Ordering::Acquire) == round);
        let kicked = kicked.load(Ordering::Relaxed);
        lost = asleep && !kicked;
        match (asleep, kicked) {
            (true, true) => delay += 1,
            (false, false) => delay = delay.saturating_sub(1),
            _ => {}
        }
        assert_eq!(ring.waiting().unwrap(), 1);
        let head = ring.take();
        ring.put_used(head, 1);
        ring.publish();
        if lost {
            println!("event_idx {event_idx}: lost in round {round}");
            break;
        }
    }
    begun.store(u32::MAX, Ordering::Release);
    driver.join().unwrap();
    lost
}

/// One test, because two at a time would need four cores. What a missing fence does shows too rarely here for a test: the
/// model checker of `doze` finds it every time.
#[test]
fn no_wake_up_is_lost_and_without_the_second_look_some_are() {
    let sound = |ring: &mut SplitRing| !ring.want_kicks();
    let looks_once = |ring: &mut SplitRing| {
        doze::Bedside::wish(ring);
        true
    };
    for event_idx in [false, true] {
        assert!(!loses_a_wakeup(event_idx, ROUNDS, sound), "event_idx {event_idx}");
        assert!(loses_a_wakeup(event_idx, ROUNDS_MAX, looks_once), "this harness must see what a second look prevents");
    }
}
