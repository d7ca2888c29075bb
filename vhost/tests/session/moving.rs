//! Queues that move between cores while they run, and what the rest of a session notices of it.

use std::sync::Arc;
use std::time::Duration;

use spinel_core::{Channel, Core, CoreId, Device, Geometry, OpKind, OpenError};
use spinel_sim::guest::GuestRequest;
use spinel_vhost::{MoveError, QueueInfo};

use crate::client::*;
use crate::guest::*;
use crate::host::{Host, Options, Served, memory_disk};
use crate::rings::queues;
use crate::teardown::{DEPTH, hung_disk, resume, writes};

fn queue(served: &Served, index: u16) -> QueueInfo {
    queues(served).into_iter().find(|queue| queue.index == index).expect("it runs")
}

/// The other one of the two cores.
fn other(core: CoreId) -> CoreId {
    CoreId(1 - core.0)
}

#[test]
fn a_queue_moves_under_load_and_its_neighbour_notices_nothing() {
    let host = Host::new();
    let served = host.serve(memory_disk());
    let mut guest = Guest::new(2);
    let _client = guest.attach(&served.path);
    let neighbour = queue(&served, 1);
    let mover = served.controller.mover();
    for round in 0..40_u8 {
        let from = queue(&served, 0).core;
        guest.queues[0].post(writes());
        guest.queues[1].post(writes());
        mover.move_queue(0, other(from)).unwrap();
        assert_eq!(queue(&served, 0).core, other(from));
        for queue in &mut guest.queues {
            assert!(queue.finish(usize::try_from(DEPTH).unwrap()).iter().all(|finished| finished.status == 0));
        }
        guest.queues[0].check(8 * u64::from(round), round);
    }
    assert_eq!(queue(&served, 1), neighbour, "the same run of the same queue");
    let counted = served.meters.snapshot();
    assert_eq!((counted.of(OpKind::Write).ops(), counted.of(OpKind::Read).ops()), (40 * (2 * DEPTH + 1), 40), "all are counted once");
    assert_eq!(served.meters.live(), 2);
}

#[test]
fn where_a_queue_belongs_is_remembered_whether_it_runs_or_not() {
    let host = Host::new();
    let served = host.serve(memory_disk());
    let mover = served.controller.mover();
    for core in [CoreId(1), CoreId(0), CoreId(0), CoreId(1)] {
        // Nobody is there.
        mover.move_queue(1, core).unwrap();
        let mut guest = Guest::new(2);
        let mut client = guest.attach(&served.path);
        assert_eq!(queue(&served, 1).core, core);
        // The ring is stopped meanwhile, and started again.
        client.ask(GET_VRING_BASE, &words(&[1, 0]));
        mover.move_queue(1, other(core)).unwrap();
        client.tell(SET_VRING_KICK, &longs(&[1]), &[&guest.queues[1].kick]);
        client.sync();
        assert_eq!(queue(&served, 1).core, other(core));
        guest.queues[1].check(0, 7);
        client.ask(GET_VRING_BASE, &words(&[1, 0]));
        client.tell(SET_VRING_KICK, &longs(&[1]), &[&guest.queues[1].kick]);
        client.sync();
        assert_eq!(queue(&served, 1).core, other(core), "and it stays there");
        guest.queues[1].check(8, 8);
    }
}

#[test]
fn a_move_that_makes_no_sense_says_why() {
    let host = Host::new();
    let served = host.serve(memory_disk());
    let guest = Guest::new(2);
    let _client = guest.attach(&served.path);
    let mover = served.controller.mover();
    let before = queues(&served);
    let error = mover.move_queue(2, CoreId(0)).unwrap_err();
    assert_eq!(error.to_string(), format!("{} has no queue 2: it has 0 to 1", served.name));
    let error = mover.move_queue(0, CoreId(7)).unwrap_err();
    assert_eq!(error.to_string(), format!("{} does not run on core 7, but on 0, 1", served.name));
    mover.move_queue(0, before[0].core).unwrap();
    assert_eq!(queues(&served), before, "a queue that is there already is left alone");
    served.controller.stop(Duration::from_secs(60)).unwrap();
    assert!(matches!(mover.move_queue(0, CoreId(0)), Err(MoveError::Stopped(_))));
}

#[test]
fn requests_that_take_long_delay_the_move_and_nothing_else() {
    let host = Host::new();
    let disk = hung_disk();
    let served = host.serve_with(Arc::clone(&disk) as _, Options { drain_deadline: Duration::from_millis(200), ..Options::default() });
    let mut guest = Guest::new(2);
    let mut client = guest.attach(&served.path);
    let from = queue(&served, 0).core;
    guest.queues[0].post(writes());
    while served.meters.snapshot().in_flight < DEPTH {}
    served.controller.mover().move_queue(0, other(from)).unwrap();
    assert_eq!(queues(&served).len(), 1, "it is on neither core");
    // The session and the other queue go on, for longer than whoever stops a ring for good would be waited for.
    for _ in 0..50 {
        client.sync();
        guest.queues[1].post([GuestRequest::read(0, 4096)]);
        guest.queues[1].finish(1);
    }
    resume(&host, &disk);
    assert_eq!(guest.queues[0].finish(usize::try_from(DEPTH).unwrap()).len(), usize::try_from(DEPTH).unwrap());
    guest.queues[0].check(0, 1);
    client.sync();
    assert_eq!(queue(&served, 0).core, other(from));
}

/// A disk that one core cannot open.
struct Partial(Arc<dyn Device>, CoreId);

impl Device for Partial {
    fn geometry(&self) -> Geometry {
        self.0.geometry()
    }
    fn open(&self, core: &mut Core, depth: u16) -> Result<Box<dyn Channel>, OpenError> {
        if core.id() == self.1 { Err(OpenError::Queues { max: 1 }) } else { self.0.open(core, depth) }
    }
}

#[test]
fn a_queue_that_cannot_run_elsewhere_goes_on_where_it_was() {
    let host = Host::new();
    let served = host.serve(Arc::new(Partial(memory_disk(), CoreId(1))));
    let mover = served.controller.mover();
    for index in 0..2 {
        mover.move_queue(index, CoreId(0)).unwrap();
    }
    let mut guest = Guest::new(2);
    let _client = guest.attach(&served.path);
    guest.queues[0].post(writes());
    let error = mover.move_queue(0, CoreId(1)).unwrap_err();
    assert!(error.to_string().starts_with(&format!("queue 0 of {} cannot run on core 1: ", served.name)), "{error}");
    assert_eq!(queue(&served, 0).core, CoreId(0));
    guest.queues[0].finish(usize::try_from(DEPTH).unwrap());
    guest.queues[0].check(0, 9);
}
