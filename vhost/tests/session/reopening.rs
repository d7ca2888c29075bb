//! Queues that open their channels again while a guest uses them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use spinel_core::{Channel, Core, Device, Geometry, OpKind, OpenError};
use spinel_sim::guest::GuestRequest;
use spinel_volume::{Cap, Limit, MemoryDevice, Shape, Throttle};

use crate::guest::Guest;
use crate::host::Host;

/// A device that counts how often it was opened.
struct Counted(Throttle, AtomicU32);

impl Device for Counted {
    fn geometry(&self) -> Geometry {
        self.0.geometry()
    }

    fn open(&self, core: &mut Core, depth: u16) -> Result<Box<dyn Channel>, OpenError> {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.open(core, depth)
    }
}

#[test]
fn queues_reopen_under_load_and_paced_requests_are_not_lost() {
    let host = Host::new();
    let memory = MemoryDevice::new(Shape::new(512, 2048)).unwrap();
    let device = Arc::new(Counted(Throttle::new(Arc::new(memory)), AtomicU32::new(0)));
    let limits = device.0.limits();
    let served = host.serve(Arc::clone(&device) as _);
    let mut guest = Guest::new(2);
    let mut client = guest.attach(&served.path);
    let slow = Limit::new(1, 0).unwrap();
    for round in 0..20 {
        for queue in &mut guest.queues {
            queue.post((0..64).map(|at| GuestRequest::write(8 * at, 4096)));
        }
        // By turns a cap that closes the room, and one that holds completions.
        let cap = if round % 2 == 0 { Cap::Ios } else { Cap::WriteIos };
        limits.set([(cap, Some(slow))]);
        served.controller.reopen();
        client.sync();
        limits.set([(cap, None)]);
        served.controller.reopen();
        client.sync();
        assert_eq!(device.1.load(Ordering::Relaxed), 2 + 4 * (round + 1), "both queues, twice in each round");
        for (at, queue) in (0..).zip(&mut guest.queues) {
            assert!(queue.finish(64).iter().all(|finished| finished.status == 0));
            queue.check(8 * at, u8::try_from(round).unwrap());
        }
    }
    assert_eq!(served.meters.snapshot().of(OpKind::Write).ops(), 20 * 2 * 65);
}
