//! Rings: when they run, where, and how they stop and go on.

use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::sync::Arc;

use spinel_core::{Channel, Core, Device, Geometry, OpKind, OpenError};
use spinel_sim::guest::GuestRequest;
use spinel_vhost::{ControllerState, QueueInfo};

use crate::client::*;
use crate::guest::*;
use crate::host::{Host, Options, Served, memory_disk};
use crate::journal;
use crate::teardown::{DEPTH, hung_disk, resume, writes};

pub(crate) fn queues(served: &Served) -> Vec<QueueInfo> {
    match served.controller.info().state {
        ControllerState::Connected(session) => session.queues,
        other => panic!("nobody is connected: {other:?}"),
    }
}

#[test]
fn two_queues_on_two_cores_serve_one_disk() {
    let host = Host::new();
    let served = host.serve(memory_disk());
    let mut guest = Guest::new(2);
    let _client = guest.attach(&served.path);
    let queues = queues(&served);
    assert_eq!(queues.iter().map(|queue| (queue.index, queue.size)).collect::<Vec<_>>(), [(0, 128), (1, 128)]);
    assert_ne!(queues[0].core, queues[1].core);
    guest.queues[0].check(0, 0xaa);
    guest.queues[1].check(8, 0xbb);
    guest.queues[1].post((0..64).map(|at| GuestRequest::write(8 * at, 4096)));
    assert!(guest.queues[1].finish(64).iter().all(|finished| finished.status == 0));
    assert_eq!(served.meters.snapshot().of(OpKind::Write).ops(), 66);
}

#[test]
fn a_disk_has_up_to_64_queues_and_a_client_may_use_them_all() {
    let host = Host::new();
    let served = host.serve_with(memory_disk(), Options { queues_max: 64, ..Options::default() });
    let mut guest = Guest::new(64);
    let _client = guest.attach(&served.path);
    assert_eq!(queues(&served).len(), 64);
    for (at, queue) in (0..).zip(&mut guest.queues) {
        queue.check(8 * at, u8::try_from(at).unwrap());
    }
}

/// A disk that no queue can be opened on.
struct Closed(Arc<dyn Device>);

impl Device for Closed {
    fn geometry(&self) -> Geometry {
        self.0.geometry()
    }
    fn open(&self, _: &mut Core, depth: u16) -> Result<Box<dyn Channel>, OpenError> {
        Err(OpenError::Depth { asked: depth, max: 1 })
    }
}

#[test]
fn a_queue_that_cannot_be_opened_ends_the_connection_and_leaves_nothing() {
    let host = Host::new();
    let served = host.serve(Arc::new(Closed(memory_disk())));
    let guest = Guest::new(2);
    let client = Client::connect(&served.path);
    for packet in guest.packets() {
        // The connection may be closed before the last of them is sent.
        let fds: Vec<_> = packet.fds.iter().map(AsFd::as_fd).collect();
        client.try_send(&packet.bytes(PLAIN), &fds);
    }
    client.wait_closed();
    journal::assert_has(&served.name, "queue 0 could not be opened: a queue of depth 128 was asked for, the device takes at most 1");
    assert_eq!(guest.foreign_mappings(), 0);
}

#[test]
fn disks_with_one_queue_spread_over_the_cores() {
    let host = Host::new();
    let cores = host.cores().len();
    let guests: Vec<_> = (0..2 * cores).map(|_| (Guest::new(1), host.serve(memory_disk()))).collect();
    let clients: Vec<_> = guests.iter().map(|(guest, served)| guest.attach(&served.path)).collect();
    // Other tests start controllers at the same time, which shifts the turns but not for all of these.
    let used: BTreeSet<_> = guests.iter().map(|(_, served)| queues(served)[0].core).collect();
    assert_eq!(used.len(), cores, "{used:?}");
    drop(clients);
}

#[test]
fn a_ring_runs_once_it_is_started_and_enabled_and_not_before() {
    let host = Host::new();
    let served = host.serve(memory_disk());
    let mut guest = Guest::new(1);
    let mut client = guest.attach(&served.path);
    client.tell(SET_VRING_ENABLE, &words(&[0, 0]), &[]);
    client.sync();
    assert!(queues(&served).is_empty());
    guest.queues[0].post([GuestRequest::read(0, 4096)]);
    client.tell(SET_VRING_ENABLE, &words(&[0, 1]), &[]);
    assert_eq!(guest.queues[0].finish(1)[0].status, 0, "what was posted meanwhile needs no further kick");
    client.tell(RESET_OWNER, &[], &[]);
    client.sync();
    assert!(queues(&served).is_empty(), "the deprecated request disables all rings");
}

#[test]
fn without_protocol_features_every_ring_is_enabled_from_the_start() {
    let host = Host::new();
    let served = host.serve(memory_disk());
    let mut guest = Guest::new(1);
    let mut client = Client::connect(&served.path);
    client.tell(SET_FEATURES, &longs(&[FEATURES & !PROTOCOL_FEATURES]), &[]);
    for packet in guest.packets().iter().skip_while(|packet| packet.code != SET_MEM_TABLE) {
        if packet.code != SET_VRING_ENABLE {
            client.send_packet(packet, PLAIN);
        }
    }
    guest.queues[0].check(0, 5);
}

#[test]
fn a_stopped_ring_has_drained_and_goes_on_where_it_stopped() {
    let host = Host::new();
    let served = host.serve(memory_disk());
    let mut guest = Guest::new(1);
    let mut client = guest.attach(&served.path);
    let mut bases = BTreeSet::new();
    for round in 0..20_u32 {
        guest.queues[0].post((0..32).map(|at| GuestRequest::write(8 * at, 4096)));
        assert_eq!(client.ask(GET_VRING_BASE, &words(&[0, 0]))[..4], words(&[0])[..]);
        let before = guest.queues[0].ring.base();
        client.sync();
        assert_eq!(guest.queues[0].ring.base(), before, "a stopped ring is left alone");
        let base = u32::from_ne_bytes(client.ask(GET_VRING_BASE, &words(&[0, 0]))[4..].try_into().unwrap());
        assert_eq!(base, before, "what was taken is finished");
        bases.insert(base);
        client.tell(SET_VRING_BASE, &words(&[0, base]), &[]);
        client.tell(SET_VRING_KICK, &longs(&[0]), &[&guest.queues[0].kick]);
        assert_eq!(guest.queues[0].finish(32).len(), 32, "round {round}");
    }
    assert!(bases.len() > 3, "{bases:x?}");
    assert_eq!(served.meters.live(), 1, "a queue that has stopped counts no longer");
}

#[test]
fn a_ring_that_is_stopped_with_requests_in_flight_drains_and_others_go_on_meanwhile() {
    let host = Host::new();
    let disk = hung_disk();
    let served = host.serve(Arc::clone(&disk) as _);
    let mut guest = Guest::new(2);
    let mut client = guest.attach(&served.path);
    guest.queues[0].post(writes());
    while served.meters.snapshot().in_flight < DEPTH {}
    client.send_packet(&Packet::new(GET_VRING_BASE, words(&[0, 0]), &[]), PLAIN);
    for sector in 0..50 {
        guest.queues[1].post([GuestRequest::read(sector, 4096)]);
        assert_eq!(guest.queues[1].finish(1)[0].status, 0);
    }
    assert!(guest.queues[0].ring.reap().is_none(), "the device has not answered yet");
    resume(&host, &disk);
    let base = u32::from_ne_bytes(client.reply(GET_VRING_BASE)[4..].try_into().unwrap());
    // Everything that was taken had been answered by then, and the base says so.
    let finished: Vec<_> = std::iter::from_fn(|| guest.queues[0].ring.reap()).collect();
    assert_eq!(finished.len(), usize::try_from(DEPTH).unwrap());
    assert_eq!(base, guest.queues[0].ring.base());
    guest.queues[0].post([GuestRequest::read(0, 4096)]);
    client.sync();
    assert!(guest.queues[0].ring.reap().is_none(), "a stopped ring is left alone");
    client.tell(SET_VRING_KICK, &longs(&[0]), &[&guest.queues[0].kick]);
    assert_eq!(guest.queues[0].finish(1)[0].status, 0, "and goes on there");
}

#[test]
fn a_running_ring_notifies_by_its_newest_eventfd() {
    let host = Host::new();
    let served = host.serve(memory_disk());
    let mut guest = Guest::new(1);
    let mut client = guest.attach(&served.path);
    guest.queues[0].check(0, 1);
    let old = std::mem::replace(&mut guest.queues[0].call, new_eventfd());
    for _ in 0..10 {
        // Several in a row, none of which the queue had a reason to take yet.
        client.tell(SET_VRING_CALL, &longs(&[0]), &[&old]);
    }
    client.tell(SET_VRING_CALL, &longs(&[0]), &[&guest.queues[0].call]);
    assert!(try_take(&guest.queues[0].call), "in case something completed during the change");
    try_take(&old);
    for _ in 0..10 {
        guest.queues[0].check(8, 2);
    }
    assert!(!try_take(&old));
    client.tell(SET_VRING_CALL, &longs(&[1 << 8]), &[]);
    try_take(&guest.queues[0].call);
    guest.queues[0].post([GuestRequest::read(0, 4096)]);
    while guest.queues[0].ring.reap().is_none() {
        client.sync();
    }
    assert!(!try_take(&guest.queues[0].call), "nobody is notified any more");
}

#[test]
fn a_ring_without_a_kick_is_polled() {
    let host = Host::new();
    let served = host.serve(memory_disk());
    let mut guest = Guest::new(1);
    let mut client = guest.attach(&served.path);
    client.tell(SET_VRING_KICK, &longs(&[1 << 8]), &[]);
    guest.queues[0].ring.post(GuestRequest::read(0, 4096));
    guest.queues[0].ring.publish();
    assert_eq!(guest.queues[0].finish(1)[0].status, 0);
}

#[test]
fn a_ring_may_be_moved_while_it_runs() {
    let host = Host::new();
    let served = host.serve(memory_disk());
    let mut guest = Guest::new(2);
    let mut client = guest.attach(&served.path);
    // The second queue's ring takes the place of the first one's, at the same index.
    client.ask(GET_VRING_BASE, &words(&[1, 0]));
    let [descriptors, available, used] = guest.queues[1].ring.addresses();
    client.tell(SET_VRING_ADDR, &[words(&[0, 0]), longs(&[descriptors, used, available, 0])].concat(), &[]);
    guest.queues[1].kick = guest.queues[0].kick.try_clone().unwrap();
    guest.queues[1].call = guest.queues[0].call.try_clone().unwrap();
    guest.queues[1].check(0, 4);
    // Its size may change too, here to what it is.
    client.tell(SET_VRING_NUM, &words(&[0, u32::from(LAYOUT.size)]), &[]);
    guest.queues[1].check(0, 5);
}
