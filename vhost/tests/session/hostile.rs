//! Clients that mean harm: each loses its connection or its queue, with a logged reason, and nobody else notices.

use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use spinel_core::mem::Region;
use spinel_sim::guest::{GUEST_BASE, GuestRequest, USER_BASE};
use spinel_vhost::ControllerState;

use crate::client::*;
use crate::guest::*;
use crate::host::{Host, Served, memory_disk, name};
use crate::{PACKED, journal};

/// A guest of another disk on the same cores, which writes and reads back all the time.
struct Neighbour {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<u64>,
    _served: Served,
}

impl Neighbour {
    fn start(host: &Host) -> Self {
        let served = host.serve(memory_disk());
        let mut guest = Guest::new(2);
        let client = guest.attach(&served.path);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let body = move || {
            let mut rounds = 0_u64;
            // The last round is one after everything that happened.
            let mut last = false;
            while !last {
                last = stopped.load(Ordering::Relaxed);
                let fill = u8::try_from(rounds % 251).unwrap();
                guest.queues[0].check(8 * (rounds % 100), fill);
                guest.queues[1].check(800 + 8 * (rounds % 100), fill);
                rounds += 1;
            }
            drop(client);
            rounds
        };
        let thread = std::thread::Builder::new().name("neighbour".to_owned()).spawn(body).unwrap();
        Self { stop, thread, _served: served }
    }

    /// Asserts that it got on all the time, and still does. Every one of its checks would have failed its thread.
    fn finish(self) {
        self.stop.store(true, Ordering::Relaxed);
        let rounds = self.thread.join().expect("the neighbour noticed something");
        println!("the neighbour checked {rounds} rounds");
    }
}

fn memfd(len_bytes: u64) -> OwnedFd {
    let fd = memfd_create(name("hostile-"), MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&fd, len_bytes).unwrap();
    fd
}

/// A memory table of these regions (guest address, size, user address, offset), all in one file.
fn table(file: &OwnedFd, regions: &[[u64; 4]]) -> Packet {
    let count = u32::try_from(regions.len()).unwrap();
    let body = regions.iter().fold(words(&[count, 0]), |body, region| [body, longs(region)].concat());
    Packet::new(SET_MEM_TABLE, body, &vec![file; regions.len()])
}

/// Messages of good form that ask for the impossible, and what is logged about each.
fn impossible() -> Vec<(Packet, &'static str)> {
    let file = memfd(1 << 20);
    let event = new_eventfd();
    let (pipe, _) = rustix::pipe::pipe().unwrap();
    let read_only: OwnedFd = std::fs::File::open(std::env::current_exe().unwrap()).unwrap().into();
    let proc: OwnedFd = std::fs::File::open("/proc/self/mem").unwrap().into();
    let beyond = u32::from(u8::MAX);
    let mut cases = vec![
        (table(&file, &[[0, 2 << 20, 0, 0]]), "of a file that has 1048576 bytes"),
        (table(&file, &[[0, 4096, 0, 1 << 20]]), "of a file that has 1048576 bytes"),
        (table(&file, &[[0, u64::MAX, 0, 0]]), "bytes of shared memory"),
        (table(&file, &[[0, 1 << 43, 0, 0]]), "bytes of shared memory"),
        (table(&file, &[[0, 4096, 0, u64::MAX - 100]]), "overflows"),
        (table(&file, &[[0, 0, 0, 0]]), "is empty or overflows"),
        (table(&file, &[[u64::MAX - 100, 4096, 0, 0]]), "past the last address"),
        (table(&file, &[[0, 4096, u64::MAX - 100, 0]]), "past the last address"),
        (table(&file, &[[0, 8192, 0, 0], [4096, 8192, 0x10_0000, 0]]), "overlaps another"),
        (table(&read_only, &[[0, 4096, 0, 0]]), "cannot be mapped"),
        (table(&proc, &[[0, 4096, 0, 0]]), "lies on a file system of type"),
        (table(&event, &[[0, 4096, 0, 0]]), "lies on a file system of type"),
        (Packet::new(SET_VRING_NUM, words(&[0, 0]), &[]), "must be a power of two"),
        (Packet::new(SET_VRING_NUM, words(&[0, 100]), &[]), "must be a power of two"),
        (Packet::new(SET_VRING_NUM, words(&[0, 65536]), &[]), "must be a power of two"),
        (Packet::new(SET_VRING_NUM, words(&[0, u32::MAX]), &[]), "must be a power of two"),
        (Packet::new(SET_VRING_BASE, words(&[0, 65536]), &[]), "a ring base of 0x10000"),
        (Packet::new(SET_VRING_ADDR, [words(&[0, 2]), longs(&[0; 4])].concat(), &[]), "ring flags 0x2"),
        (Packet::new(SET_VRING_KICK, longs(&[0]), &[&file]), "is not an eventfd"),
        (Packet::new(SET_VRING_CALL, longs(&[0]), &[&pipe]), "is not an eventfd"),
        (Packet::new(SET_VRING_ERR, longs(&[0]), &[&read_only]), "is not an eventfd"),
        (Packet::new(SET_BACKEND_REQ_FD, vec![], &[&event]), "is not a stream socket"),
        (Packet::new(REM_MEM_REG, longs(&[0, 0, 4096, 0, 0]), &[]), "there is no memory region"),
        (Packet::new(SET_STATUS, longs(&[256]), &[]), "it has 8 bits"),
        (Packet::new(SET_FEATURES, longs(&[u64::MAX]), &[]), "were never offered"),
        (Packet::new(26, longs(&[0]), &[]), "does not serve it"),
        (Packet::new(0, vec![], &[]), "does not serve it"),
        (Packet::new(u32::MAX, vec![0; 1032], &[&file, &file]), "does not serve it"),
    ];
    for code in [SET_VRING_NUM, SET_VRING_BASE, GET_VRING_BASE, SET_VRING_ENABLE] {
        cases.push((Packet::new(code, words(&[2, 1]), &[]), "there is no queue 2"));
        cases.push((Packet::new(code, words(&[u32::MAX, 1]), &[]), "there is no queue 4294967295"));
    }
    for code in [SET_VRING_KICK, SET_VRING_CALL, SET_VRING_ERR] {
        cases.push((Packet::new(code, longs(&[u64::from(beyond)]), &[&event]), "there is no queue 255"));
    }
    cases
}

/// Bytes and descriptors of no good form, and what is logged about each.
fn malformed() -> Vec<(Vec<u8>, Vec<OwnedFd>, &'static str)> {
    let file = memfd(1 << 20);
    let fds = |count: usize| -> Vec<OwnedFd> { (0..count).map(|_| file.try_clone().unwrap()).collect() };
    let message = |code: u32, body: &[u8]| [header(code, PLAIN, u32::try_from(body.len()).unwrap()), body.to_vec()].concat();
    vec![
        (header(GET_FEATURES, 0, 0), fds(0), "protocol version 1"),
        (header(GET_FEATURES, 2, 0), fds(0), "protocol version 1"),
        (header(GET_FEATURES, 5, 0), fds(0), "protocol version 1"),
        (header(GET_FEATURES, 0xffff_fff1, 0), fds(0), "protocol version 1"),
        (header(GET_FEATURES, PLAIN, 1), fds(0), "which it cannot have"),
        (header(SET_FEATURES, PLAIN, 0), fds(0), "which it cannot have"),
        (header(SET_MEM_TABLE, PLAIN, u32::MAX), fds(0), "which it cannot have"),
        (header(SET_MEM_TABLE, PLAIN, 1 << 30), fds(0), "which it cannot have"),
        (header(99, PLAIN, 1 << 20), fds(0), "which it cannot have"),
        (header(GET_CONFIG, PLAIN, 269), fds(0), "which it cannot have"),
        (message(SET_MEM_TABLE, &words(&[1, 0])), fds(1), "and does not"),
        (message(SET_MEM_TABLE, &words(&[u32::MAX, 0])), fds(0), "and does not"),
        (message(SET_MEM_TABLE, &[0; 40]), fds(1), "and does not"),
        (message(SET_MEM_TABLE, &[words(&[1, 0]), longs(&[0, 4096, 0, 0])].concat()), fds(0), "and does not"),
        (message(SET_MEM_TABLE, &[words(&[1, 0]), longs(&[0, 4096, 0, 0])].concat()), fds(2), "and does not"),
        (message(ADD_MEM_REG, &longs(&[0, 0, 4096, 0, 0])), fds(0), "which it cannot carry"),
        (message(ADD_MEM_REG, &longs(&[0, 0, 4096, 0, 0])), fds(2), "which it cannot carry"),
        (message(SET_VRING_KICK, &longs(&[0])), fds(0), "contradict each other"),
        (message(SET_VRING_KICK, &longs(&[1 << 8])), fds(1), "contradict each other"),
        (message(SET_VRING_KICK, &longs(&[1 << 9])), fds(0), "bits that mean nothing"),
        (message(SET_VRING_CALL, &longs(&[0])), fds(2), "which it cannot carry"),
        (message(SET_VRING_ENABLE, &words(&[0, 7])), fds(0), "bits that mean nothing"),
        (message(SET_CONFIG, &words(&[32, 1, 0])), fds(0), "and does not"),
        (message(GET_FEATURES, &[]), fds(1), "which it cannot carry"),
        (message(GET_FEATURES, &[]), fds(253), "more file descriptors than any message may carry"),
        (message(SET_MEM_TABLE, &words(&[0, 0])), fds(253), "more file descriptors than any message may carry"),
    ]
}

fn open_fds() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn whoever_asks_for_the_impossible_is_disconnected_with_a_reason() {
    let host = Host::new();
    let neighbour = Neighbour::start(&host);
    for (packet, reason) in impossible() {
        for running in [false, true] {
            let served = host.serve(memory_disk());
            let guest = Guest::new(1);
            let client = if running {
                guest.attach(&served.path)
            } else {
                let mut client = Client::connect(&served.path);
                client.negotiate(PROTOCOL_ALL, FEATURES);
                client
            };
            client.send_packet(&packet, PLAIN);
            client.wait_closed();
            journal::assert_has(&served.name, reason);
            assert_eq!(served.controller.info().state, ControllerState::Listening);
            assert_eq!(guest.foreign_mappings(), 0);
        }
    }
    neighbour.finish();
}

#[test]
fn the_impossible_is_refused_and_changes_nothing_where_a_reply_was_asked_for() {
    let host = Host::new();
    let served = host.serve(memory_disk());
    let mut guest = Guest::new(2);
    let mut client = guest.attach(&served.path);
    let before = served.controller.info();
    for (packet, reason) in impossible() {
        if packet.code == GET_VRING_BASE {
            continue; // It has a reply of its own, in which there is no room for a refusal.
        }
        let fds: Vec<&OwnedFd> = packet.fds.iter().collect();
        assert_ne!(client.try_tell(packet.code, &packet.body, &fds), 0, "{reason}");
        journal::assert_has(&served.name, reason);
        guest.queues[0].check(0, 1);
        guest.queues[1].check(8, 2);
    }
    client.sync();
    assert_eq!(served.controller.info(), before);
}

#[test]
fn malformed_messages_end_the_connection_and_leak_nothing() {
    let host = Host::new();
    let neighbour = Neighbour::start(&host);
    let served = host.serve(memory_disk());
    Client::connect(&served.path).sync();
    for (bytes, fds, reason) in malformed() {
        let mut client = Client::connect(&served.path);
        client.negotiate(PROTOCOL_ALL, FEATURES);
        let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        client.send(&bytes, &borrowed);
        client.wait_closed();
        journal::assert_has(&served.name, reason);
    }
    neighbour.finish();
}

#[test]
fn a_flood_of_descriptors_leaves_none_behind() {
    // Other tests open and close descriptors meanwhile, but not thousands.
    let host = Host::new();
    let served = host.serve(memory_disk());
    let file = memfd(4096);
    let before = open_fds();
    for _ in 0..100 {
        let client = Client::connect(&served.path);
        let flood = [file.as_fd(); 32];
        for _ in 0..4 {
            // An unknown request, whose descriptors are nobody's; the first one ends the connection.
            client.try_send(&header(77, PLAIN, 0), &flood);
        }
        client.wait_closed();
        let mut client = Client::connect(&served.path);
        client.negotiate(PROTOCOL_ALL, FEATURES);
        for _ in 0..10 {
            assert_ne!(client.try_tell(77, &[], &[&file; 32]), 0);
        }
    }
    Client::connect(&served.path).sync();
    let left = open_fds().saturating_sub(before);
    assert!(left < 1000, "{left} descriptors are left of 44,800");
}

#[test]
fn a_client_may_vanish_at_any_message_or_in_the_middle_of_one() {
    let host = Host::new();
    let neighbour = Neighbour::start(&host);
    let served = host.serve(memory_disk());
    let steps = Guest::new(2).packets().len();
    for whole in 0..=steps {
        for part in [0, 1, 11, 12, 13] {
            let mut guest = Guest::new(2);
            let client = Client::connect(&served.path);
            let packets = guest.packets();
            for packet in &packets[..whole] {
                client.send_packet(packet, PLAIN);
            }
            if let Some(next) = packets.get(whole) {
                let fds: Vec<_> = next.fds.iter().map(AsFd::as_fd).collect();
                let bytes = next.bytes(PLAIN);
                client.send(&bytes[..part.min(bytes.len() - 1)], if part == 0 { &[] } else { &fds });
            }
            for queue in &mut guest.queues {
                queue.post((0..16).map(|at| GuestRequest::write(8 * at, 4096)));
            }
            drop(client);
            // Whoever comes next is served after the one before is gone for good.
            Client::connect(&served.path).sync();
            assert_eq!(guest.foreign_mappings(), 0, "{whole} messages and {part} bytes");
        }
    }
    neighbour.finish();
}

#[test]
fn bytes_at_random_never_get_further_than_a_closed_connection() {
    let host = Host::new();
    let neighbour = Neighbour::start(&host);
    let served = host.serve(memory_disk());
    let mut prng = spinel_sim::Prng::new(0x5e55);
    for _ in 0..300 {
        let mut client = Client::connect(&served.path);
        client.negotiate(PROTOCOL_ALL, FEATURES);
        for _ in 0..20 {
            let code = u32::try_from(prng.below(46)).unwrap();
            let mut body = vec![0; usize::try_from(prng.below(6)).unwrap() * 8];
            prng.fill(&mut body);
            // Small numbers get further than large ones.
            for byte in &mut body {
                *byte = if prng.one_in(3) { *byte % 4 } else { 0 };
            }
            let event = new_eventfd();
            let fds = [event.as_fd(); 2];
            let size = u32::try_from(body.len()).unwrap();
            let count = usize::try_from(prng.below(3)).unwrap();
            client.try_send(&[header(code, PLAIN, size), body].concat(), &fds[..count]);
        }
        drop(client);
    }
    Client::connect(&served.path).sync();
    neighbour.finish();
}

#[test]
fn a_guest_that_breaks_its_ring_loses_that_queue_and_keeps_its_session() {
    let host = Host::new();
    let neighbour = Neighbour::start(&host);
    type Break = fn(&mut Queue);
    let packed: [(&str, Break); 5] = [
        ("longer than the ring, or loops", |queue| (0..128).for_each(|_| queue.ring.offer_descriptor(GUEST_BASE, 16, 0, 1))),
        ("is outside its table", |queue| queue.ring.offer_descriptor(GUEST_BASE, 16, 128, 0)),
        ("are not all guest memory", |queue| queue.ring.offer_descriptor(u64::MAX - 4, 16, 0, 0)),
        ("ragged, too long, nested or not negotiated", |queue| queue.ring.offer_descriptor(GUEST_BASE, 47, 0, 4)),
        ("does not begin with 16 readable bytes", |queue| queue.ring.offer_descriptor(GUEST_BASE, 16, 0, 2)),
    ];
    let split: [(&str, Break); 4] = [
        ("longer than the ring, or loops", |queue| {
            queue.ring.descriptors.set(0, [GUEST_BASE, 16 | 1 << 32]);
            queue.ring.offer(0);
        }),
        ("is outside its table", |queue| queue.ring.offer(5000)),
        ("are not all guest memory", |queue| {
            queue.ring.descriptors.set(0, [u64::MAX - 4, 16]);
            queue.ring.offer(0);
        }),
        ("further than the ring is long", |queue| (0..200).for_each(|_| queue.ring.offer(1))),
    ];
    for &(reason, break_ring) in if PACKED { &packed[..] } else { &split[..] } {
        let served = host.serve(memory_disk());
        let mut guest = Guest::new(2);
        let mut client = guest.attach(&served.path);
        guest.queues[0].check(0, 1);
        break_ring(&mut guest.queues[0]);
        guest.queues[0].ring.publish();
        rustix::io::write(&guest.queues[0].kick, &1_u64.to_ne_bytes()).unwrap();
        take(&guest.queues[0].error);
        journal::assert_has(&served.name, reason);
        guest.queues[1].check(8, 2);
        client.sync();
        let ControllerState::Connected(session) = served.controller.info().state else { panic!("the session is over") };
        assert_eq!(session.queues.iter().map(|queue| queue.index).collect::<Vec<_>>(), [1]);
        // Set up afresh, as a guest does that resets its device, it works again.
        client.ask(GET_VRING_BASE, &words(&[0, 0]));
        let fresh = Guest::new(1);
        guest.queues[0].ring = spinel_sim::guest::SimGuest::new(Arc::clone(guest.queues[0].ring.region()), LAYOUT);
        guest.queues[0].ring.region().zero(0, 65536).unwrap();
        drop(fresh);
        for packet in guest.ring_packets(0) {
            let fds: Vec<&OwnedFd> = packet.fds.iter().collect();
            client.tell(packet.code, &packet.body, &fds);
        }
        guest.queues[0].check(16, 3);
    }
    neighbour.finish();
}

#[test]
fn a_ring_that_lies_nowhere_is_not_served_and_said_so() {
    let host = Host::new();
    let cases: [(u64, &str); 3] =
        [(0x1000, "are not all guest memory"), (USER_BASE + 1, "is not aligned"), (u64::MAX - 15, "are not all guest memory")];
    for (address, reason) in cases {
        let served = host.serve(memory_disk());
        let mut guest = Guest::new(1);
        let mut client = guest.attach(&served.path);
        client.tell(SET_VRING_ADDR, &[words(&[0, 0]), longs(&[address; 3]), longs(&[0])].concat(), &[]);
        take(&guest.queues[0].error);
        journal::assert_has(&served.name, reason);
        let packets = guest.ring_packets(0);
        let home = packets.iter().find(|packet| packet.code == SET_VRING_ADDR).unwrap();
        client.tell(SET_VRING_ADDR, &home.body, &[]);
        guest.queues[0].check(0, 9);
    }
}

#[test]
fn memory_that_shrinks_costs_its_own_guest_a_queue() {
    let host = Host::new();
    let neighbour = Neighbour::start(&host);
    for keep_bytes in [0, 64 << 10] {
        let served = host.serve(memory_disk());
        let mut guest = Guest::new(1);
        let mut client = guest.attach(&served.path);
        guest.queues[0].check(0, 1);
        ftruncate(&guest.memory, keep_bytes).unwrap();
        // Our own mapping is as broken as theirs and mended in the same way; with the rings gone, a kick is all there is left.
        if keep_bytes > 0 {
            guest.queues[0].post([GuestRequest::write(0, 4096)]);
        }
        rustix::io::write(&guest.queues[0].kick, &1_u64.to_ne_bytes()).unwrap();
        take(&guest.queues[0].error);
        journal::assert_has(&served.name, "has disappeared");
        client.sync();
    }
    neighbour.finish();
}

#[test]
fn a_front_end_that_reads_no_replies_is_disconnected() {
    let host = Host::new();
    let served = host.serve(memory_disk());
    let socket = std::os::unix::net::UnixStream::connect(&served.path).unwrap();
    let questions: Vec<u8> = header(GET_FEATURES, PLAIN, 0).repeat(1000);
    // Ends with a broken pipe once the back end has given up.
    while (&socket).write_all(&questions).is_ok() {}
    Client::connect(&served.path).sync();
    journal::assert_has(&served.name, "does not read what it is sent");
}

#[test]
fn a_client_has_as_many_regions_as_it_was_told_and_no_more() {
    let host = Host::new();
    let served = host.serve(memory_disk());
    let mut client = Client::connect(&served.path);
    client.negotiate(PROTOCOL_ALL, FEATURES);
    let file = memfd(1 << 20);
    let add = |at: u64| longs(&[0, at << 12, 4096, at << 12, at << 12]);
    let slots = client.ask_number(GET_MAX_MEM_SLOTS);
    for at in 0..slots {
        client.tell(ADD_MEM_REG, &add(at), &[&file]);
    }
    assert_ne!(client.try_tell(ADD_MEM_REG, &add(slots), &[&file]), 0);
    client.tell(REM_MEM_REG, &add(5), &[]);
    client.tell(ADD_MEM_REG, &add(slots), &[&file]);
    assert!(Region::anonymous(4096).is_ok(), "there are regions left for others");
}
