//! The record of what is in flight: how it is made and kept, and clients that come back with it.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_get_seals, fstat, ftruncate, memfd_create};
use spinel_core::mem::Region;
use spinel_core::{Device, OpKind};
use spinel_sim::guest::GuestRequest;
use spinel_vhost::{ControllerState, RecordPlace};
use spinel_volume::{DelayDevice, ErrorDevice, Fault, Injection, Latencies, Target};

use crate::client::*;
use crate::guest::*;
use crate::host::{Host, Options, Served, memory_disk};
use crate::{PACKED, journal};

const DEPTH: u64 = 64;

/// A record's description: its size and place, and how many queues of which size it is of.
fn place(len_bytes: u64, offset: u64, queues: u16, size: u16) -> Vec<u8> {
    let mut body = longs(&[len_bytes, offset]);
    body.extend(queues.to_ne_bytes());
    body.extend(size.to_ne_bytes());
    body
}

/// A record as a front end keeps it.
struct Record {
    body: Vec<u8>,
    fd: OwnedFd,
}

impl Record {
    /// Asks for one for both queues of a guest.
    fn ask(client: &mut Client) -> Self {
        let (body, fd) = client.ask_for_fd(GET_INFLIGHT_FD, &place(0, 0, 2, LAYOUT.size));
        Self { body, fd }
    }

    fn set(&self, client: &mut Client) {
        client.tell(SET_INFLIGHT_FD, &self.body, &[&self.fd]);
    }

    /// A guest's record and a client that has attached with it.
    fn attach(guest: &Guest, served: &Served) -> (Self, Client) {
        let mut record = None;
        let client = guest.attach_after(&served.path, |client| {
            let made = Self::ask(client);
            made.set(client);
            record = Some(made);
        });
        (record.unwrap(), client)
    }

    /// A client that has attached with this record. It says that its rings are at their beginning.
    fn attach_again(&self, guest: &Guest, served: &Served) -> Client {
        guest.attach_after(&served.path, |client| self.set(client))
    }

    fn region(&self) -> Arc<Region> {
        Region::of_file(self.fd.as_fd(), 0, u64::try_from(fstat(&self.fd).unwrap().st_size).unwrap()).unwrap()
    }

    /// How many chains of a queue are on it.
    fn in_flight(&self, queue: u64) -> usize {
        let (first, step) = if PACKED { (32, 32) } else { (16, 16) };
        let mut bytes = vec![0; usize::try_from(RecordPlace::bytes(LAYOUT.size)).unwrap()];
        self.region().read(queue * RecordPlace::bytes(LAYOUT.size), &mut bytes).unwrap();
        bytes[first..].iter().step_by(step).take(LAYOUT.size.into()).filter(|flag| **flag == 1).count()
    }
}

fn contents(region: &Region) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(region.len_bytes()).unwrap()];
    region.read(0, &mut bytes).unwrap();
    bytes
}

fn writes() -> impl Iterator<Item = GuestRequest> {
    (0..DEPTH).map(|at| GuestRequest::write(8 * at, 4096))
}

/// Reads and writes take a tenth of a second each.
fn slow_disk() -> Arc<dyn Device> {
    let us = 100_000;
    let latencies = Latencies { average_read_us: us, p99_read_us: us, average_write_us: us, p99_write_us: us };
    Arc::new(DelayDevice::new(memory_disk(), latencies).unwrap())
}

/// The first `DEPTH` writes stay out until they are told to come back.
fn hung_disk() -> Arc<ErrorDevice> {
    let disk = Arc::new(ErrorDevice::new(memory_disk()).unwrap());
    let count = u32::try_from(DEPTH).unwrap();
    disk.inject(Injection { target: Target::Write, fault: Fault::Pending, count, queue_depth: 0 }).unwrap();
    disk
}

/// Lets the requests come back; a sleeping core has to be told to look.
fn resume(host: &Host, disk: &ErrorDevice) {
    disk.resume_pending();
    for core in host.cores() {
        core.visit(|_| ());
    }
}

fn wait_in_flight(served: &Served) {
    while served.meters.snapshot().in_flight < DEPTH {
        std::thread::yield_now();
    }
}

/// Everything posted completes once and well, the disk did each request so often, and the ring goes on.
fn finishes(guest: &mut Guest, served: &Served, writes: u64) {
    let finished = guest.queues[0].finish(usize::try_from(DEPTH).unwrap());
    assert!(finished.iter().all(|finished| finished.status == 0));
    assert_eq!(served.meters.snapshot().of(OpKind::Write).ops(), writes);
    for round in 0..5 {
        guest.queues[0].check(8 * round, u8::try_from(round).unwrap());
        guest.queues[1].check(800 + 8 * round, u8::try_from(round).unwrap());
    }
    assert!(guest.queues.iter_mut().all(|queue| queue.ring.reap().is_none()), "nothing completes twice");
}

#[test]
fn a_record_is_made_in_memory_that_cannot_shrink_and_answered_in_kind() {
    let host = Host::new();
    let served = host.serve_with(memory_disk(), Options { queues_max: 64, ..Options::default() });
    let mut client = Client::connect(&served.path);
    client.negotiate(PROTOCOL_ALL, FEATURES);
    for (queues, size) in [(1, 1), (2, 128), (64, 1024), (1, 32768), (64, 32768)] {
        // Front ends send the structure with or without its padding.
        for padding in [0, 4] {
            let mut asked = place(0, 0, queues, size);
            asked.resize(asked.len() + padding, 0xff);
            let (answer, fd) = client.ask_for_fd(GET_INFLIGHT_FD, &asked);
            let len_bytes = u64::from(queues) * RecordPlace::bytes(size);
            let mut expected = place(len_bytes, 0, queues, size);
            expected.resize(asked.len(), 0);
            assert_eq!(answer, expected);
            assert_eq!(u64::try_from(fstat(&fd).unwrap().st_size).unwrap(), len_bytes);
            assert!(fcntl_get_seals(&fd).unwrap().contains(SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL));
            assert!(ftruncate(&fd, 0).is_err());
            let region = Region::of_file(fd.as_fd(), 0, len_bytes).unwrap();
            assert!(contents(&region).iter().all(|byte| *byte == 0));
            client.tell(SET_INFLIGHT_FD, &answer, &[&fd]);
        }
    }
}

#[test]
fn a_record_of_a_shape_that_no_queues_have_is_not_made() {
    let host = Host::new();
    let served = host.serve(memory_disk());
    for (queues, size) in [(0, 128), (3, 128), (u16::MAX, 128), (1, 0), (1, 3), (2, 127), (1, 65535), (1, 32769)] {
        let mut client = Client::connect(&served.path);
        client.negotiate(PROTOCOL_ALL, FEATURES);
        client.send_packet(&Packet::new(GET_INFLIGHT_FD, place(0, 0, queues, size), &[]), PLAIN);
        assert_eq!(client.wait_closed(), 0);
        journal::assert_has(&served.name, &format!("a record of {queues} queues of {size} descriptors"));
    }
}

fn memfd(len_bytes: u64) -> OwnedFd {
    let fd = memfd_create("record", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&fd, len_bytes).unwrap();
    fd
}

#[test]
fn a_record_that_cannot_be_used_is_refused_and_the_session_goes_on() {
    let host = Host::new();
    let served = host.serve(memory_disk());
    let mut guest = Guest::new(1);
    let mut client = guest.attach(&served.path);
    let one = RecordPlace::bytes(128);
    let good = memfd(2 * one);
    let proc: OwnedFd = File::open("/proc/self/mem").unwrap().into();
    let event = new_eventfd();
    let read_only: OwnedFd = File::open(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&good))).unwrap().into();
    let cases = [
        (&good, place(one, 0, 2, 128), "of which 2 queues of 128 descriptors need"),
        (&good, place(0, 0, 1, 128), "of which 1 queues of 128 descriptors need"),
        (&good, place(4 * one, 0, 2, 256), "cannot be mapped"),
        (&good, place(one, 2 * one, 1, 128), "cannot be mapped"),
        (&good, place(u64::MAX, u64::MAX, 1, 128), "cannot be mapped"),
        (&good, place(one, u64::MAX - 64, 1, 128), "cannot be mapped"),
        (&good, place(one, 0, 0, 128), "a record of 0 queues"),
        (&good, place(one, 0, 3, 64), "a record of 3 queues"),
        (&good, place(one, 0, 1, 100), "a record of 1 queues of 100 descriptors"),
        (&proc, place(one, 0, 1, 128), "lies on a file system of type"),
        (&event, place(one, 0, 1, 128), "lies on a file system of type"),
        (&read_only, place(one, 0, 1, 128), "cannot be mapped"),
    ];
    for (fd, body, reason) in cases {
        assert_ne!(client.try_tell(SET_INFLIGHT_FD, &body, &[fd]), 0, "{reason}");
        journal::assert_has(&served.name, reason);
        guest.queues[0].check(0, 1);
    }
    client.tell(SET_INFLIGHT_FD, &place(u64::MAX, 0, 2, 128), &[&good]);
    guest.queues[0].check(0, 2);
}

#[test]
fn without_its_protocol_feature_there_is_no_record() {
    let host = Host::new();
    let served = host.serve(memory_disk());
    let record = memfd(RecordPlace::bytes(128));
    for (code, fds) in [(GET_INFLIGHT_FD, vec![]), (SET_INFLIGHT_FD, vec![&record])] {
        let mut client = Client::connect(&served.path);
        client.negotiate(PROTOCOL_ALL & !INFLIGHT_SHMFD, FEATURES);
        client.send_packet(&Packet::new(code, place(RecordPlace::bytes(128), 0, 1, 128), &fds), PLAIN);
        client.wait_closed();
        journal::assert_has(&served.name, "the protocol feature it belongs to was not negotiated");
    }
}

#[test]
fn a_record_that_lies_somewhere_in_its_file_is_found_there() {
    let host = Host::new();
    let served = host.serve(slow_disk());
    let mut guest = Guest::new(2);
    let len_bytes = 2 * RecordPlace::bytes(LAYOUT.size);
    let record = Record { body: place(len_bytes, 4096 + 64, 2, LAYOUT.size), fd: memfd(4096 + 64 + len_bytes) };
    let _client = record.attach_again(&guest, &served);
    guest.queues[1].post(writes());
    wait_in_flight(&served);
    let words = record.region().array::<u16>(4096 + 64, 8).unwrap();
    assert_eq!([words.get(4), words.get(5)], [1, LAYOUT.size], "version and size of the first queue's");
    guest.queues[1].finish(64);
}

/// A client whose memory disappears costs nobody else anything, not even if it is its record's.
#[test]
fn a_record_whose_file_shrinks_is_its_clients_own_loss() {
    let host = Host::new();
    let (served, other) = (host.serve(memory_disk()), host.serve(memory_disk()));
    let (mut guest, mut neighbour) = (Guest::new(2), Guest::new(2));
    let record = memfd(2 * RecordPlace::bytes(LAYOUT.size));
    let client = guest.attach_after(&served.path, |client| {
        client.tell(SET_INFLIGHT_FD, &place(2 * RecordPlace::bytes(LAYOUT.size), 0, 2, LAYOUT.size), &[&record]);
    });
    let _neighbour = neighbour.attach(&other.path);
    guest.queues[0].check(0, 1);
    ftruncate(&record, 0).unwrap();
    guest.queues[0].check(0, 2);
    guest.queues[1].check(8, 3);
    neighbour.queues[0].check(0, 4);
    drop(client);
    let (_, _client) = Record::attach(&guest, &served);
    neighbour.queues[1].check(0, 5);
}

#[test]
fn a_client_that_comes_back_while_its_requests_are_under_way_finds_them_done_once() {
    let host = Host::new();
    let served = host.serve(slow_disk());
    let mut guest = Guest::new(2);
    let (record, client) = Record::attach(&guest, &served);
    guest.queues[0].post(writes());
    wait_in_flight(&served);
    assert_eq!([0, 1].map(|queue| record.in_flight(queue)), [64, 0]);
    drop(client);
    // Its rings, it says, are at their beginning; there it would find what is done, or nothing at all.
    let _client = record.attach_again(&guest, &served);
    assert_eq!(record.in_flight(0), 0);
    finishes(&mut guest, &served, DEPTH);
}

#[test]
fn a_client_that_was_in_quarantine_finds_its_requests_done_once() {
    let host = Host::new();
    let disk = hung_disk();
    let options = Options { drain_deadline: Duration::from_millis(100), ..Options::default() };
    let served = host.serve_with(Arc::clone(&disk) as _, options);
    let mut guest = Guest::new(2);
    let (record, client) = Record::attach(&guest, &served);
    guest.queues[0].post(writes());
    wait_in_flight(&served);
    drop(client);
    while !matches!(served.controller.info().state, ControllerState::Quarantined { outstanding: DEPTH }) {
        std::thread::yield_now();
    }
    assert_eq!(record.in_flight(0), 64);
    resume(&host, &disk);
    let _client = record.attach_again(&guest, &served);
    finishes(&mut guest, &served, DEPTH);
}

#[test]
fn a_client_whose_back_end_was_replaced_finds_its_requests_done_once() {
    let device = slow_disk();
    let first = Host::new();
    let served = first.serve(Arc::clone(&device));
    let mut guest = Guest::new(2);
    let (record, client) = Record::attach(&guest, &served);
    guest.queues[0].post(writes());
    wait_in_flight(&served);
    assert_eq!(served.controller.stop(Duration::from_secs(60)), Ok(()));
    client.wait_closed();
    drop((served, first));
    let host = Host::new();
    let served = host.serve(device);
    let _client = record.attach_again(&guest, &served);
    finishes(&mut guest, &served, 0);
}

/// The guest's memory and the record are as they were when 64 writes were in flight, as a process that was killed there leaves them.
fn killed() -> (Guest, Record) {
    let host = Host::new();
    let disk = hung_disk();
    let served = host.serve(Arc::clone(&disk) as _);
    let mut guest = Guest::new(2);
    let (record, client) = Record::attach(&guest, &served);
    // Not at the beginning any more, so that whoever begins there is wrong.
    for sector in 0..DEPTH {
        guest.queues[0].post([GuestRequest::read(sector, 512)]);
        guest.queues[0].finish(1);
    }
    for at in 0..DEPTH {
        let ring = &mut guest.queues[0].ring;
        let head = ring.next_head().unwrap();
        ring.region().write(ring.data_at(head), &[u8::try_from(at).unwrap(); 4096]).unwrap();
        ring.post(GuestRequest::write(8 * at, 4096));
    }
    guest.queues[0].post([]);
    wait_in_flight(&served);
    let memory = Region::of_file(guest.memory.as_fd(), 0, guest.len_bytes).unwrap();
    let (before, on_record) = (contents(&memory), contents(&record.region()));
    resume(&host, &disk);
    drop(client);
    assert_eq!(served.controller.stop(Duration::from_secs(60)), Ok(()));
    memory.write(0, &before).unwrap();
    record.region().write(0, &on_record).unwrap();
    (guest, record)
}

#[test]
fn what_a_killed_back_end_had_in_flight_is_done_again_by_the_next_one() {
    let (mut guest, record) = killed();
    assert_eq!(record.in_flight(0), 64);
    let host = Host::new();
    let served = host.serve(memory_disk());
    let _client = record.attach_again(&guest, &served);
    let finished = guest.queues[0].finish(64);
    assert!(finished.iter().all(|finished| finished.status == 0));
    journal::assert_has(&served.name, "is done again queue=0 requests=64");
    assert_eq!(served.meters.snapshot().of(OpKind::Write).ops(), DEPTH);
    assert_eq!(record.in_flight(0), 0);
    for at in 0..DEPTH {
        let queue = &mut guest.queues[1];
        let head = queue.ring.next_head().unwrap();
        queue.post([GuestRequest::read(8 * at, 4096)]);
        queue.finish(1);
        let mut got = [0; 4096];
        queue.ring.region().read(queue.ring.data_at(head), &mut got).unwrap();
        assert_eq!(got, [u8::try_from(at).unwrap(); 4096]);
    }
    guest.queues[0].check(0, 1);
}

#[test]
fn a_back_end_that_is_asked_to_stop_while_it_owes_requests_does_them_first() {
    let (mut guest, record) = killed();
    let host = Host::new();
    let served = host.serve(slow_disk());
    let mut client = record.attach_again(&guest, &served);
    let reply = client.ask(GET_VRING_BASE, &words(&[0, 0]));
    assert_eq!(record.in_flight(0), 0);
    assert_eq!(reply, words(&[0, guest.queues[0].ring.base()]));
    assert!(guest.queues[0].finish(64).iter().all(|finished| finished.status == 0));
}

#[test]
fn a_record_that_lies_costs_its_ring_and_says_so() {
    let (mut guest, record) = killed();
    record.region().write(10, &64_u16.to_ne_bytes()).unwrap();
    let host = Host::new();
    let served = host.serve(memory_disk());
    let client = record.attach_again(&guest, &served);
    journal::assert_has(
        &served.name,
        "the record of what is in flight (VHOST_USER_SET_INFLIGHT_FD): it has version 1 and is of a ring of 64",
    );
    take(&guest.queues[0].error);
    guest.queues[1].check(0, 1);
    drop(client);
    // Put right, it is as good as before.
    record.region().write(10, &LAYOUT.size.to_ne_bytes()).unwrap();
    let _client = record.attach_again(&guest, &served);
    assert_eq!(guest.queues[0].finish(64).len(), 64);
}

/// Within a session the front end knows where its rings are: a guest that starts again has no requests in flight.
#[test]
fn a_ring_that_is_set_up_again_in_a_session_begins_where_its_front_end_says() {
    let host = Host::new();
    let served = host.serve(memory_disk());
    let mut guest = Guest::new(2);
    let (record, mut client) = Record::attach(&guest, &served);
    for how in [GET_VRING_BASE, RESET_DEVICE] {
        (0..5).for_each(|round| guest.queues[0].check(8 * round, 1));
        match how {
            GET_VRING_BASE => drop(client.ask(GET_VRING_BASE, &words(&[0, 0]))),
            _ => client.tell(RESET_DEVICE, &[], &[]),
        }
        // The guest makes its ring again; its front end keeps the record that it has.
        guest = Guest::new(2);
        client.tell(SET_FEATURES, &longs(&[FEATURES]), &[]);
        for packet in guest.packets().iter().skip_while(|packet| packet.code != SET_MEM_TABLE) {
            let fds: Vec<&OwnedFd> = packet.fds.iter().collect();
            client.tell(packet.code, &packet.body, &fds);
        }
        (0..5).for_each(|round| guest.queues[0].check(8 * round, 2));
        assert_eq!(record.in_flight(0), 0);
    }
}
