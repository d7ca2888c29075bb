//! The log of written pages that a migration lives on.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use spinel_sim::guest::{GUEST_BASE, GuestRequest, USER_BASE};

use crate::client::*;
use crate::guest::*;
use crate::host::{Host, memory_disk};
use crate::{PACKED, journal};

const LOG_ALL: u64 = 1 << 26;
const PAGE_BYTES: u64 = 4096;
const GET_ID: GuestRequest = GuestRequest { kind: 8, sector: 0, len_bytes: 20, device_writes: true, pieces: 1 };

struct Log {
    fd: OwnedFd,
    len_bytes: u64,
}

impl Log {
    /// A log with a bit for every page up to a guest-physical address.
    fn up_to(address: u64) -> Self {
        let len_bytes = address.div_ceil(PAGE_BYTES).div_ceil(8);
        let fd = memfd_create("log", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&fd, len_bytes).unwrap();
        Self { fd, len_bytes }
    }

    fn of(guest: &Guest) -> Self {
        Self::up_to(GUEST_BASE + guest.len_bytes)
    }

    fn set(&self, client: &mut Client) {
        client.send_packet(&Packet::new(SET_LOG_BASE, longs(&[self.len_bytes, 0]), &[&self.fd]), PLAIN);
        assert_eq!(client.reply(SET_LOG_BASE), 0_u64.to_ne_bytes());
    }

    /// The pages that are marked, counted from the beginning of the guest's memory; their marks are taken back.
    fn take(&self) -> BTreeSet<u64> {
        let mut bytes = vec![0; usize::try_from(self.len_bytes).unwrap()];
        assert_eq!(rustix::io::pread(&self.fd, &mut bytes, 0).unwrap(), bytes.len());
        rustix::io::pwrite(&self.fd, &vec![0; bytes.len()], 0).unwrap();
        let bits = (0_u64..).zip(&bytes).flat_map(|(at, byte)| (0..8).filter(move |bit| byte >> bit & 1 == 1).map(move |bit| 8 * at + bit));
        bits.map(|page| page.checked_sub(GUEST_BASE / PAGE_BYTES).expect("a page of the guest's memory")).collect()
    }
}

/// Pages of the guest's memory that a device writes for requests at these heads.
fn written(guest: &Guest, statuses: &[u16], data: &[u16]) -> BTreeSet<u64> {
    let ring = &guest.queues[0].ring;
    let page = |offset: u64| offset / PAGE_BYTES;
    let [descriptors, _, used] = ring.addresses().map(|user| page(user - USER_BASE));
    let metas = ring.data_at(0) - u64::from(LAYOUT.size) * PAGE_BYTES;
    let mut pages = BTreeSet::from([used]);
    if PACKED {
        pages.insert(descriptors);
    }
    pages.extend(statuses.iter().map(|head| page(metas + u64::from(*head) * PAGE_BYTES)));
    pages.extend(data.iter().map(|head| page(ring.data_at(*head))));
    pages
}

#[test]
fn every_page_that_the_device_writes_is_marked_and_no_other() {
    let host = Host::new();
    let served = host.serve(memory_disk());
    let mut guest = Guest::new(1);
    let mut client = guest.attach(&served.path);
    let log = Log::of(&guest);
    log.set(&mut client);
    guest.queues[0].check(0, 1);
    assert!(log.take().is_empty(), "nothing is to be logged yet");

    client.tell(SET_FEATURES, &longs(&[FEATURES | LOG_ALL]), &[]);
    let requests =
        [GuestRequest::read(0, 4096), GuestRequest::write(8, 4096), GET_ID, GuestRequest::read(1 << 40, 512), GuestRequest::flush()];
    let heads = requests.map(|request| guest.queues[0].ring.post(request));
    guest.queues[0].post([]);
    guest.queues[0].finish(requests.len());
    let [read, _, id, failed, _] = heads;
    let marked = log.take();
    let data = [read, id, failed];
    // Of a read that fails anything may have been written.
    let least = written(&guest, &heads, &[read, id]);
    assert!(marked.is_superset(&least), "{:?} are not marked", least.difference(&marked));
    assert!(marked.is_subset(&written(&guest, &heads, &data)), "{marked:?} are marked");

    client.tell(SET_FEATURES, &longs(&[FEATURES]), &[]);
    log.take();
    guest.queues[0].check(0, 2);
    assert!(log.take().is_empty(), "nothing is to be logged any more");
}

#[test]
fn the_last_completions_are_marked_when_a_ring_has_stopped() {
    let host = Host::new();
    let served = host.serve(memory_disk());
    let mut guest = Guest::new(1);
    let mut client = guest.attach(&served.path);
    let log = Log::of(&guest);
    log.set(&mut client);
    client.tell(SET_FEATURES, &longs(&[FEATURES | LOG_ALL]), &[]);
    log.take();
    let heads: Vec<u16> = (0..64).map(|at| guest.queues[0].ring.post(GuestRequest::read(8 * at, 4096))).collect();
    guest.queues[0].post([]);
    client.ask(GET_VRING_BASE, &words(&[0, 0]));
    // Some were taken and some were not; those that were have ended, and all they wrote is marked.
    let marked = log.take();
    let ended: Vec<u16> = std::iter::from_fn(|| guest.queues[0].ring.reap()).map(|finished| finished.head).collect();
    assert!(ended.iter().all(|head| heads.contains(head)));
    assert!(marked.is_superset(&written(&guest, &ended, &ended)), "{} ended", ended.len());
}

#[test]
fn another_log_takes_the_place_of_the_first() {
    let host = Host::new();
    let served = host.serve(memory_disk());
    let mut guest = Guest::new(1);
    let mut client = guest.attach(&served.path);
    let [first, second] = [(); 2].map(|()| Log::of(&guest));
    first.set(&mut client);
    client.tell(SET_FEATURES, &longs(&[FEATURES | LOG_ALL]), &[]);
    guest.queues[0].check(0, 1);
    second.set(&mut client);
    assert!(!first.take().is_empty());
    guest.queues[0].check(0, 2);
    assert!(first.take().is_empty() && !second.take().is_empty());
}

#[test]
fn a_ring_is_not_served_without_a_log_of_all_memory_when_all_is_to_be_logged() {
    let host = Host::new();
    let served = host.serve(memory_disk());
    let mut guest = Guest::new(1);
    let mut client = guest.attach(&served.path);
    client.tell(SET_FEATURES, &longs(&[FEATURES | LOG_ALL]), &[]);
    client.sync();
    journal::assert_has(&served.name, "there is no log of all memory");
    Log::up_to(GUEST_BASE + guest.len_bytes - 8 * PAGE_BYTES).set(&mut client);
    guest.queues[0].post([GuestRequest::read(0, 4096)]);
    client.sync();
    assert!(guest.queues[0].ring.reap().is_none(), "a log that is too short does not do");
    Log::of(&guest).set(&mut client);
    assert_eq!(guest.queues[0].finish(1)[0].status, 0);
}

#[test]
fn a_log_that_is_none_ends_the_connection() {
    let host = Host::new();
    let served = host.serve(memory_disk());
    let log = Log::up_to(1 << 30);
    for (body, expected) in [
        (longs(&[0, 0]), "a log of 0 bytes"),
        (longs(&[log.len_bytes + 1, 0]), "ends at byte"),
        (longs(&[1 << 40, 0]), "a log of 1099511627776 bytes"),
        (longs(&[4096, u64::MAX]), "overflows"),
    ] {
        let mut client = Client::connect(&served.path);
        client.negotiate(PROTOCOL_ALL, FEATURES);
        client.send_packet(&Packet::new(SET_LOG_BASE, body, &[&log.fd]), PLAIN);
        client.wait_closed();
        journal::assert_has(&served.name, expected);
    }
    let mut client = Client::connect(&served.path);
    client.negotiate(PROTOCOL_ALL & !(1 << 1), FEATURES);
    client.send_packet(&Packet::new(SET_LOG_BASE, longs(&[4096, 0]), &[&log.fd]), PLAIN);
    client.wait_closed();
    journal::assert_has(&served.name, "was not negotiated");
}
