//! Features, protocol features, configuration, status.

use std::sync::Arc;

use spinel_core::{Core, Device, Geometry, OpenError};
use spinel_vhost::ControllerState;
use spinel_volume::{MemoryDevice, Shape};

use crate::client::*;
use crate::guest::{FEATURES, Guest};
use crate::host::{Host, Options, Served, memory_disk};
use crate::journal;

fn session(served: &Served) -> spinel_vhost::SessionInfo {
    match served.controller.info().state {
        ControllerState::Connected(session) => session,
        other => panic!("nobody is connected: {other:?}"),
    }
}

#[test]
fn what_is_offered_is_what_is_served() {
    let host = Host::new();
    let served = host.serve_with(memory_disk(), Options { queues_max: 64, ..Options::default() });
    let mut client = Client::connect(&served.path);
    let features = client.ask_number(GET_FEATURES);
    for bit in [1, 2, 6, 9, 10, 11, 12, 13, 14, 26, 28, 29, 30, 32, 34] {
        assert!(features & (1 << bit) != 0, "feature bit {bit}");
    }
    for bit in [5, 27, 33, 35, 40] {
        assert!(features & (1 << bit) == 0, "feature bit {bit} is promised and not kept");
    }
    assert_eq!(client.ask_number(GET_PROTOCOL_FEATURES), PROTOCOL_ALL);
    assert_eq!(client.ask_number(GET_QUEUE_NUM), 64);
    client.negotiate(PROTOCOL_ALL, features);
    assert_eq!(client.ask_number(GET_MAX_MEM_SLOTS), 64);
    let config = client.ask(GET_CONFIG, &words(&[0, 60, 0]));
    assert_eq!(config.len(), 72);
    assert_eq!(config[12..20], 2048_u64.to_le_bytes(), "the capacity in sectors");
    assert_eq!(config[12 + 34..12 + 36], 64_u16.to_le_bytes(), "the number of queues");
}

#[test]
fn bits_that_were_never_offered_are_refused_and_change_nothing() {
    let host = Host::new();
    let served = host.serve(memory_disk());
    for (code, bits) in [(SET_FEATURES, 1 << 35), (SET_FEATURES, 1 << 33 | VERSION_1), (SET_PROTOCOL_FEATURES, 1 << 8)] {
        let client = Client::connect(&served.path);
        client.send_packet(&Packet::new(code, longs(&[bits]), &[]), PLAIN);
        client.wait_closed();
        journal::assert_has(&served.name, "were never offered");

        let mut client = Client::connect(&served.path);
        client.negotiate(PROTOCOL_ALL, FEATURES);
        assert_ne!(client.try_tell(code, &longs(&[bits]), &[]), 0);
        client.sync();
        let info = session(&served);
        assert_eq!((info.features, info.protocol_features), (FEATURES, PROTOCOL_ALL));
    }
}

#[test]
fn a_front_end_whose_guest_sits_behind_an_iommu_is_refused() {
    const ACCESS_PLATFORM: u64 = 1 << 33;
    const IOTLB_MSG: u32 = 22;
    let host = Host::new();
    let served = host.serve(memory_disk());
    let mut client = Client::connect(&served.path);
    assert_eq!(client.ask_number(GET_FEATURES) & ACCESS_PLATFORM, 0);
    client.negotiate(PROTOCOL_ALL, FEATURES);
    assert_ne!(client.try_tell(SET_FEATURES, &longs(&[FEATURES | ACCESS_PLATFORM]), &[]), 0);
    assert_ne!(client.try_tell(IOTLB_MSG, &[0; 32], &[]), 0, "there is nothing to translate with");
    client.sync();
    assert_eq!(session(&served).features, FEATURES, "what was agreed before stays");
    drop(client);
    let client = Client::connect(&served.path);
    client.send_packet(&Packet::new(SET_FEATURES, longs(&[FEATURES | ACCESS_PLATFORM]), &[]), PLAIN);
    client.wait_closed();
    journal::assert_has(&served.name, "feature bits 0x200000000 were never offered");
}

#[test]
fn a_migration_whose_memory_comes_later_is_refused() {
    const PAGEFAULT: u64 = 1 << 8;
    let host = Host::new();
    let served = host.serve(memory_disk());
    // VHOST_USER_POSTCOPY_ADVISE, _LISTEN and _END.
    for code in [28, 29, 30] {
        let mut guest = Guest::new(1);
        let mut client = guest.attach(&served.path);
        assert_eq!(client.ask_number(GET_PROTOCOL_FEATURES) & PAGEFAULT, 0);
        assert_ne!(client.try_tell(code, &[], &[]), 0);
        guest.queues[0].check(8, 1);
        drop(client);
        let client = Client::connect(&served.path);
        client.send_packet(&Packet::new(code, vec![], &[]), PLAIN);
        assert_eq!(client.wait_closed(), 0);
        journal::assert_has(&served.name, &format!("request {code} was refused: this back end does not serve it"));
    }
}

#[test]
fn requests_of_protocol_features_that_were_not_negotiated_end_the_connection() {
    let host = Host::new();
    let served = host.serve(memory_disk());
    let guest = Guest::new(1);
    let region = || [longs(&[0]), longs(&guest.region())].concat();
    let cases = [
        Packet::new(GET_CONFIG, words(&[0, 60, 0]), &[]),
        Packet::new(SET_CONFIG, [words(&[32, 1, 0]), vec![1]].concat(), &[]),
        Packet::new(GET_MAX_MEM_SLOTS, vec![], &[]),
        Packet::new(ADD_MEM_REG, region(), &[&guest.memory]),
        Packet::new(REM_MEM_REG, region(), &[]),
        Packet::new(GET_STATUS, vec![], &[]),
        Packet::new(SET_STATUS, longs(&[1]), &[]),
        Packet::new(RESET_DEVICE, vec![], &[]),
        Packet::new(SET_BACKEND_REQ_FD, vec![], &[&guest.memory]),
    ];
    for packet in cases {
        let mut client = Client::connect(&served.path);
        client.negotiate(MQ, FEATURES);
        client.send_packet(&packet, PLAIN);
        client.wait_closed();
    }
    let refused = journal::of(&served.name).iter().filter(|line| line.contains("was not negotiated")).count();
    assert_eq!(refused, 9);
}

#[test]
fn acknowledgements_are_given_exactly_when_negotiated_and_asked_for() {
    let host = Host::new();
    let served = host.serve(memory_disk());
    let mut client = Client::connect(&served.path);
    // Not negotiated: nothing may come but the reply to the question behind it.
    client.send(&header(SET_OWNER, NEED_REPLY, 0), &[]);
    client.ask_number(GET_FEATURES);
    client.negotiate(REPLY_ACK | CONFIG, VERSION_1 | PROTOCOL_FEATURES);
    client.tell(SET_OWNER, &[], &[]);
    client.send(&header(SET_OWNER, PLAIN, 0), &[]);
    client.ask_number(GET_FEATURES);
    // A request with a reply of its own gets that and no acknowledgement.
    client.send(&header(GET_QUEUE_NUM, NEED_REPLY, 0), &[]);
    assert_eq!(client.reply(GET_QUEUE_NUM), longs(&[2]));
    // A request that nobody serves is refused when asked, and the session goes on.
    assert_ne!(client.try_tell(19, &longs(&[0]), &[]), 0);
    client.ask_number(GET_FEATURES);
    // One with a reply of its own has none that says so, and a client that did not negotiate would not understand any.
    client.send_packet(&Packet::new(GET_VRING_BASE, words(&[9, 0]), &[]), NEED_REPLY);
    assert_eq!(client.wait_closed(), 0);
    let client = Client::connect(&served.path);
    client.send_packet(&Packet::new(19, longs(&[0]), &[]), NEED_REPLY);
    assert_eq!(client.wait_closed(), 0);
}

#[test]
fn the_configuration_is_read_in_parts_and_padded_with_zeroes() {
    let host = Host::new();
    let served = host.serve(memory_disk());
    let mut client = Client::connect(&served.path);
    client.negotiate(PROTOCOL_ALL, FEATURES);
    let mut read = |offset: u32, size: u32| client.ask(GET_CONFIG, &words(&[offset, size, 0]));
    let whole = read(0, 60)[12..].to_vec();
    assert_eq!(read(0, 60)[..12], words(&[0, 60, 0]));
    assert_eq!(read(20, 4)[12..], whole[20..24]);
    let longer = read(0, 256)[12..].to_vec();
    assert_eq!((&longer[..60], longer[60..].iter().all(|byte| *byte == 0)), (&whole[..], true));
    for (offset, size) in [(0, 0), (0, 257), (200, 57), (u32::MAX, 1), (1, u32::MAX)] {
        assert!(read(offset, size).is_empty(), "{offset}+{size}");
    }
}

/// A memory disk that says it has a write cache.
struct Cached(Arc<dyn Device>);

impl Device for Cached {
    fn geometry(&self) -> Geometry {
        Geometry { write_cache: true, ..self.0.geometry() }
    }
    fn open(&self, core: &mut Core, depth: u16) -> Result<Box<dyn spinel_core::Channel>, OpenError> {
        self.0.open(core, depth)
    }
}

#[test]
fn the_cache_mode_is_what_driver_and_device_agree_on() {
    let host = Host::new();
    let plain = host.serve(memory_disk());
    let cached = host.serve(Arc::new(Cached(memory_disk())));
    // Features, the byte the driver writes (if it does), and the mode that results.
    let cases = [
        (&cached, 0, None, false),
        (&cached, FLUSH, None, true),
        (&cached, FLUSH | CONFIG_WCE, None, true),
        (&cached, FLUSH | CONFIG_WCE, Some(0), false),
        (&cached, FLUSH | CONFIG_WCE, Some(1), true),
        (&cached, CONFIG_WCE, None, false),
        (&cached, CONFIG_WCE, Some(1), false),
        (&plain, FLUSH, None, false),
        (&plain, FLUSH | CONFIG_WCE, None, false),
        (&plain, FLUSH | CONFIG_WCE, Some(1), true),
    ];
    for (served, features, byte, writeback) in cases {
        let mut client = Client::connect(&served.path);
        client.negotiate(PROTOCOL_ALL, features | PROTOCOL_FEATURES | VERSION_1);
        if let Some(byte) = byte {
            client.tell(SET_CONFIG, &[words(&[32, 1, 0]), vec![byte]].concat(), &[]);
            assert_eq!(client.ask(GET_CONFIG, &words(&[32, 1, 0]))[12], byte);
        }
        if features == CONFIG_WCE && byte.is_none() {
            let shown = client.ask(GET_CONFIG, &words(&[32, 1, 0]))[12];
            assert_eq!(shown, 0, "a driver that cannot flush must not be shown a cache (virtio 1.2, 5.2.5.2)");
        }
        client.sync();
        assert_eq!(session(served).writeback, writeback, "features {features:#x}, byte {byte:?}");
    }
}

#[test]
fn only_the_writeback_byte_is_written_except_by_a_migration() {
    let host = Host::new();
    let served = host.serve(memory_disk());
    let mut client = Client::connect(&served.path);
    client.negotiate(PROTOCOL_ALL, FEATURES);
    let mut write = |offset: u32, content: &[u8], flags: u32| {
        let size = u32::try_from(content.len()).unwrap();
        client.try_tell(SET_CONFIG, &[words(&[offset, size, flags]), content.to_vec()].concat(), &[])
    };
    for (offset, content, flags, accepted) in [
        (32, &[1][..], 0, true),
        (32, &[2], 0, false),
        (0, &[0; 8], 0, false),
        (31, &[0; 2], 0, false),
        (32, &[0; 2], 0, false),
        (33, &[0], 0, false),
        (u32::MAX, &[0], 0, false),
        (32, &[1], 2, false),
        (0, &[0; 60], 1, true),
        (0, &[9; 60], 1, false),
        (40, &[0; 8], 1, true),
    ] {
        assert_eq!(write(offset, content, flags) == 0, accepted, "{content:?} at {offset} with flags {flags}");
    }
    client.negotiate(PROTOCOL_ALL, FEATURES & !CONFIG_WCE);
    assert_ne!(client.try_tell(SET_CONFIG, &[words(&[32, 1, 0]), vec![1]].concat(), &[]), 0);
}

#[test]
fn a_reset_stops_the_queues_and_forgets_what_was_negotiated_but_not_the_memory() {
    let host = Host::new();
    let served = host.serve(Arc::new(MemoryDevice::new(Shape::new(4096, 256)).unwrap()));
    let resets: [(u32, Vec<u8>); 2] = [(RESET_DEVICE, vec![]), (SET_STATUS, longs(&[0]))];
    for (code, body) in resets {
        let mut guest = Guest::new(1);
        let mut client = guest.attach(&served.path);
        client.tell(SET_STATUS, &longs(&[0xf]), &[]);
        assert_eq!(client.ask_number(GET_STATUS), 0xf);
        guest.queues[0].check(8, 1);
        client.tell(code, &body, &[]);
        client.sync();
        let info = session(&served);
        assert_eq!((info.features, info.status, info.queues.len(), info.memory.len()), (0, 0, 0, 1));
        assert_eq!(info.protocol_features, PROTOCOL_ALL, "what belongs to the connection stays");
        // The ring goes on where it was, once it is set up again.
        let base = guest.queues[0].ring.base();
        assert_eq!(client.ask(GET_VRING_BASE, &words(&[0, 0])), words(&[0, base]), "who resets first may still ask where that is");
        client.tell(SET_FEATURES, &longs(&[FEATURES]), &[]);
        for packet in guest.ring_packets(0) {
            let fds: Vec<_> = packet.fds.iter().collect();
            let body = if packet.code == SET_VRING_BASE { words(&[0, base]) } else { packet.body.clone() };
            client.tell(packet.code, &body, &fds);
        }
        guest.queues[0].check(16, 2);
        assert_ne!(client.try_tell(SET_STATUS, &longs(&[0x100]), &[]), 0);
    }
}
