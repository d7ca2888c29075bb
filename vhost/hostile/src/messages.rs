//! Messages: of no good form, of good form that ask for the impossible, and cut anywhere. Knows no ring's content.

use std::os::fd::OwnedFd;

use crate::guest::{Guest, Kind, new_eventfd, new_memory};
use crate::wire::{
    ADD_MEM_REG, Client, FDS_MAX, GET_CONFIG, GET_FEATURES, GET_INFLIGHT_FD, GET_STATUS, GET_VRING_BASE, PLAIN, PROTOCOL_FEATURES, Packet,
    REM_MEM_REG, REPLY, RESET_DEVICE, SET_BACKEND_REQ_FD, SET_CONFIG, SET_FEATURES, SET_INFLIGHT_FD, SET_LOG_BASE, SET_LOG_FD,
    SET_MEM_TABLE, SET_OWNER, SET_PROTOCOL_FEATURES, SET_STATUS, SET_VRING_ADDR, SET_VRING_BASE, SET_VRING_CALL, SET_VRING_ENABLE,
    SET_VRING_ERR, SET_VRING_KICK, SET_VRING_NUM, header, longs, message, words,
};
use crate::{Act, Broken, Entry, Must, Outcome, Surprise, Target};

const VERSION: &str = "protocol version 1";
const SIZE: &str = "which it cannot have";
const CARRY: &str = "which it cannot carry";
const SAYS: &str = "and does not";
const FLOOD: &str = "more file descriptors than any message may carry";

type Free = fn(&Target) -> Outcome;

/// So many descriptors, of memory.
fn files(count: usize) -> Result<Vec<OwnedFd>, Surprise> {
    let memory = new_memory(1 << 20)?;
    (0..count).map(|_| Ok(memory.try_clone()?)).collect()
}

/// Bytes, how many descriptors come with them, and why the connection is closed.
pub(crate) fn malformed() -> Vec<Entry> {
    let one_region = [words(&[1, 0]), longs(&[0, 4096, 0, 0])].concat();
    let two_regions = [words(&[2, 0]), longs(&[0, 4096, 0, 0]), longs(&[4096, 4096, 4096, 0])].concat();
    let region = longs(&[0, 0, 4096, 0, 0]);
    let plain = |code: u32, body: &[u8]| message(code, PLAIN, body);
    let cases: Vec<(&str, Vec<u8>, usize, &'static str)> = vec![
        ("a header of version 0", header(GET_FEATURES, 0, 0), 0, VERSION),
        ("a header of version 2", header(GET_FEATURES, 2, 0), 0, VERSION),
        ("a header of version 3", header(GET_FEATURES, 3, 0), 0, VERSION),
        ("a header with all flags but the reply's", header(GET_FEATURES, 0xffff_fff1, 0), 0, VERSION),
        ("a header with all flags", header(GET_FEATURES, u32::MAX, 0), 0, VERSION),
        ("a reply sent as a request", message(GET_FEATURES, REPLY, &longs(&[7])), 0, VERSION),
        ("an acknowledgement of nothing", message(SET_MEM_TABLE, REPLY, &longs(&[0])), 0, VERSION),
        ("a reply of the back-end channel", message(2, REPLY, &longs(&[0])), 0, VERSION),
        ("GET_FEATURES with a byte", header(GET_FEATURES, PLAIN, 1), 0, SIZE),
        ("RESET_DEVICE with a number", header(RESET_DEVICE, PLAIN, 8), 0, SIZE),
        ("GET_STATUS with a number", header(GET_STATUS, PLAIN, 8), 0, SIZE),
        ("SET_FEATURES without a body", header(SET_FEATURES, PLAIN, 0), 0, SIZE),
        ("SET_FEATURES of 7 bytes", header(SET_FEATURES, PLAIN, 7), 0, SIZE),
        ("a table of 4 GiB less a byte", header(SET_MEM_TABLE, PLAIN, u32::MAX), 0, SIZE),
        ("a table of 1 GiB", header(SET_MEM_TABLE, PLAIN, 1 << 30), 0, SIZE),
        ("a table of 33 regions", header(SET_MEM_TABLE, PLAIN, 8 + 33 * 32), 0, SIZE),
        ("a table without a count", header(SET_MEM_TABLE, PLAIN, 4), 0, SIZE),
        ("an unknown request of 1 MiB", header(99, PLAIN, 1 << 20), 0, SIZE),
        ("GET_CONFIG of 257 bytes", header(GET_CONFIG, PLAIN, 269), 0, SIZE),
        ("SET_VRING_ADDR of 39 bytes", header(SET_VRING_ADDR, PLAIN, 39), 0, SIZE),
        ("an inflight description of 19 bytes", header(SET_INFLIGHT_FD, PLAIN, 19), 0, SIZE),
        ("an inflight description of 25 bytes", header(GET_INFLIGHT_FD, PLAIN, 25), 0, SIZE),
        ("a log of 8 bytes of description", header(SET_LOG_BASE, PLAIN, 8), 0, SIZE),
        ("a table that counts one region and has none", plain(SET_MEM_TABLE, &words(&[1, 0])), 1, SAYS),
        ("a table that counts 4 billion regions", plain(SET_MEM_TABLE, &words(&[u32::MAX, 0])), 0, SAYS),
        ("a table whose count overflows when multiplied", plain(SET_MEM_TABLE, &words(&[0x0800_0001, 0])), 1, SAYS),
        ("a table that counts none and has one", plain(SET_MEM_TABLE, &[0; 40]), 1, SAYS),
        ("a table of half a region", plain(SET_MEM_TABLE, &[words(&[1, 0]), longs(&[0, 4096])].concat()), 1, SAYS),
        ("a region without a descriptor", plain(SET_MEM_TABLE, &one_region), 0, SAYS),
        ("a region with two descriptors", plain(SET_MEM_TABLE, &one_region), 2, SAYS),
        ("two regions with one descriptor", plain(SET_MEM_TABLE, &two_regions), 1, SAYS),
        ("one more region without a descriptor", plain(ADD_MEM_REG, &region), 0, CARRY),
        ("one more region with two descriptors", plain(ADD_MEM_REG, &region), 2, CARRY),
        ("one region less with two descriptors", plain(REM_MEM_REG, &region), 2, CARRY),
        ("a kick without its descriptor", plain(SET_VRING_KICK, &longs(&[0])), 0, "contradict each other"),
        ("a kick with a descriptor that it says it lacks", plain(SET_VRING_KICK, &longs(&[1 << 8])), 1, "contradict each other"),
        ("a kick with unknown bits", plain(SET_VRING_KICK, &longs(&[1 << 9])), 0, "bits that mean nothing"),
        ("a call with the highest bit", plain(SET_VRING_CALL, &longs(&[1 << 63])), 1, "bits that mean nothing"),
        ("a call with two descriptors", plain(SET_VRING_CALL, &longs(&[0])), 2, CARRY),
        ("a ring enabled by 7", plain(SET_VRING_ENABLE, &words(&[0, 7])), 0, "bits that mean nothing"),
        ("a configuration of nothing", plain(SET_CONFIG, &words(&[32, 0, 0])), 0, SAYS),
        ("a configuration that says more than it has", plain(SET_CONFIG, &words(&[32, 1, 0])), 0, SAYS),
        ("a back-end channel without a socket", plain(SET_BACKEND_REQ_FD, &[]), 0, CARRY),
        ("a log without its file", plain(SET_LOG_BASE, &longs(&[4096, 0])), 0, CARRY),
        ("a log with two files", plain(SET_LOG_BASE, &longs(&[4096, 0])), 2, CARRY),
        ("a log's eventfd that is missing", plain(SET_LOG_FD, &[]), 0, CARRY),
        ("a record without its file", plain(SET_INFLIGHT_FD, &[0; 20]), 0, CARRY),
        ("a record asked for with a file", plain(GET_INFLIGHT_FD, &[0; 20]), 1, CARRY),
        ("a question with a descriptor", plain(GET_FEATURES, &[]), 1, CARRY),
        ("33 descriptors", plain(SET_MEM_TABLE, &words(&[0, 0])), 33, CARRY),
        ("253 descriptors with a question", plain(GET_FEATURES, &[]), FDS_MAX, FLOOD),
        ("253 descriptors with a table", plain(SET_MEM_TABLE, &words(&[0, 0])), FDS_MAX, FLOOD),
        ("the body of a message that has ended", vec![0xff; 12], 0, VERSION),
        ("twelve zeroes", vec![0; 12], 0, VERSION),
        ("an HTTP request", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(), 0, VERSION),
    ];
    let entry = |(name, bytes, count, reason): (&str, Vec<u8>, usize, &'static str)| Entry {
        name: format!("message: {name}"),
        must: Must::Close(reason),
        act: Act::Bytes(Box::new(move || Ok(Broken { bytes: bytes.clone(), fds: files(count)? }))),
    };
    cases.into_iter().map(entry).collect()
}

/// Requests of good form, without descriptors but for one eventfd where there has to be one.
pub(crate) fn impossible() -> Vec<Entry> {
    let wrong_ring = |index: u32| words(&[index, 1]);
    let cases: Vec<(&str, u32, Vec<u8>, &'static str)> = vec![
        ("a ring of no descriptors", SET_VRING_NUM, words(&[0, 0]), "must be a power of two"),
        ("a ring of 100 descriptors", SET_VRING_NUM, words(&[0, 100]), "must be a power of two"),
        ("a ring of 65,536 descriptors", SET_VRING_NUM, words(&[0, 65536]), "must be a power of two"),
        ("a ring of 2^31 descriptors", SET_VRING_NUM, words(&[0, 1 << 31]), "must be a power of two"),
        ("a ring of 2^32-1 descriptors", SET_VRING_NUM, words(&[0, u32::MAX]), "must be a power of two"),
        ("a split ring that begins at 65,536", SET_VRING_BASE, words(&[0, 65536]), "a ring base of 0x10000"),
        ("unknown flags of a ring", SET_VRING_ADDR, [words(&[0, 2]), longs(&[0; 4])].concat(), "ring flags 0x2"),
        ("one region less than none", REM_MEM_REG, longs(&[0, 0, 4096, 0, 0]), "there is no memory region"),
        ("a status of nine bits", SET_STATUS, longs(&[256]), "it has 8 bits"),
        ("every feature there is", SET_FEATURES, longs(&[u64::MAX]), "were never offered"),
        ("every protocol feature there is", SET_PROTOCOL_FEATURES, longs(&[u64::MAX]), "were never offered"),
        ("an IOTLB update", 22, longs(&[0; 4]), "does not serve it"),
        ("endianness", 23, words(&[0, 0]), "does not serve it"),
        ("a crypto session", 26, longs(&[0]), "does not serve it"),
        ("postcopy", 28, vec![], "does not serve it"),
        ("request 0", 0, vec![], "does not serve it"),
        ("request 41", 41, vec![], "does not serve it"),
        ("the highest request there is", u32::MAX, vec![0; 1032], "does not serve it"),
        ("a size of the disk", SET_CONFIG, [words(&[0, 8, 0]), longs(&[1 << 40])].concat(), "only the writeback byte"),
        ("a cache of mode 7", SET_CONFIG, [words(&[32, 1, 0]), vec![7]].concat(), "only the writeback byte"),
        ("configuration at the last offset", SET_CONFIG, [words(&[u32::MAX, 1, 0]), vec![1]].concat(), "only the writeback byte"),
        ("the size of ring 64", SET_VRING_NUM, wrong_ring(64), "there is no queue 64"),
        ("the size of ring 2^32-1", SET_VRING_NUM, wrong_ring(u32::MAX), "there is no queue 4294967295"),
        ("the base of ring 64", SET_VRING_BASE, wrong_ring(64), "there is no queue 64"),
        ("ring 64 enabled", SET_VRING_ENABLE, wrong_ring(64), "there is no queue 64"),
        ("the place of ring 64", SET_VRING_ADDR, [words(&[64, 0]), longs(&[0; 4])].concat(), "there is no queue 64"),
        ("a ring of 255 polled", SET_VRING_KICK, longs(&[255 | 1 << 8]), "there is no queue 255"),
    ];
    let mut entries: Vec<Entry> = Vec::new();
    for (name, code, body, reason) in cases {
        entries.push(Entry::request(&format!("request: {name}"), Must::Refuse(reason), move |_| Ok(Packet::new(code, body.clone()))));
    }
    for (name, code) in [("kick", SET_VRING_KICK), ("call", SET_VRING_CALL), ("error", SET_VRING_ERR)] {
        let name = format!("request: the {name} of ring 255");
        let packet = move |_: &Guest| Ok(Packet::with(code, longs(&[255]), vec![new_eventfd()?]));
        entries.push(Entry::request(&name, Must::Refuse("there is no queue 255"), packet));
    }
    for index in [64, u32::MAX] {
        let packet = move |_: &Guest| Ok(Packet::new(GET_VRING_BASE, words(&[index, 0])));
        entries.push(Entry::request(&format!("request: the end of ring {index}"), Must::Close("there is no queue"), packet));
    }
    entries.push(Entry::story("request: features without the protocol's", Must::Endure, Kind::Split, |visit| {
        visit.tell(SET_FEATURES, longs(&[Kind::Split.features() & !PROTOCOL_FEATURES]))
    }));
    entries.push(Entry::story("request: configuration where there is none", Must::Endure, Kind::Split, |visit| {
        for (offset, size) in [(256, 1), (0, 257), (u32::MAX, u32::MAX), (1, u32::MAX), (255, 2), (0, 0)] {
            let answer = visit.client.ask(GET_CONFIG, &words(&[offset, size, 0]))?;
            if !answer.is_empty() {
                return Err(Surprise::of(format!("{size} bytes at {offset} were answered with {}", answer.len())));
            }
        }
        Ok(())
    }));
    entries.push(Entry::story(
        "request: protocol features taken back one by one",
        Must::Close("was not negotiated"),
        Kind::Split,
        |visit| {
            visit.tell(SET_PROTOCOL_FEATURES, longs(&[1 << 3]))?;
            for (code, body) in [(RESET_DEVICE, vec![]), (SET_STATUS, longs(&[0])), (SET_CONFIG, [words(&[32, 1, 0]), vec![1]].concat())] {
                if visit.client.result_of(&Packet::new(code, body))? == 0 {
                    return Err(Surprise::of(format!("request {code} was done without its feature")));
                }
            }
            visit.client.send(&message(GET_STATUS, PLAIN, &[]), &[])
        },
    ));
    entries
}

/// The usual conversation of a guest that attaches, ended in the middle.
pub(crate) fn cut() -> Vec<Entry> {
    const PARTS: [(&str, Free); 5] = [
        ("before each message", |target| cut_at(target, 0)),
        ("after a byte of each message", |target| cut_at(target, 1)),
        ("before the last byte of each header", |target| cut_at(target, 11)),
        ("between header and body of each message", |target| cut_at(target, 12)),
        ("in the body of each message", |target| cut_at(target, 13)),
    ];
    let mut entries: Vec<Entry> =
        PARTS.into_iter().map(|(name, act)| Entry::free(&format!("cut: the connection ends {name}"), act)).collect();
    entries.push(Entry::free("cut: every message comes byte by byte", |target| {
        let guest = Guest::new(Kind::Split, 1)?;
        let mut client = Client::negotiated(&target.socket, Kind::Split.features())?;
        for packet in conversation(&guest)? {
            let bytes = packet.bytes(PLAIN);
            let fds: Vec<_> = packet.fds.iter().map(std::os::fd::AsFd::as_fd).collect();
            client.send(&bytes[..1], &fds)?;
            for byte in &bytes[1..] {
                client.send(std::slice::from_ref(byte), &[])?;
            }
        }
        client.sync()?;
        client.leave()
    }));
    entries.push(Entry::free("cut: descriptors come in the middle of a message", |target| {
        let client = Client::negotiated(&target.socket, Kind::Split.features())?;
        let (bytes, call) = (message(SET_VRING_CALL, PLAIN, &longs(&[0])), new_eventfd()?);
        let call = std::os::fd::AsFd::as_fd(&call);
        client.send(&bytes[..5], &[call])?;
        client.try_send(&bytes[5..], &[call]);
        client.wait_closed()
    }));
    entries
}

/// What a guest says that attaches.
fn conversation(guest: &Guest) -> Result<Vec<Packet>, Surprise> {
    let mut packets = vec![Packet::new(SET_OWNER, vec![]), guest.table()?];
    packets.extend(guest.ring_packets(0)?);
    Ok(packets)
}

/// Once for each message: all before it, and so many bytes of it. Then the client is gone, with requests in its ring.
fn cut_at(target: &Target, part: usize) -> Outcome {
    let steps = conversation(&Guest::new(Kind::Split, 1)?)?.len();
    for whole in 0..=steps {
        let mut guest = Guest::new(Kind::Split, 1)?;
        let client = Client::negotiated(&target.socket, Kind::Split.features())?;
        let packets = conversation(&guest)?;
        for packet in &packets[..whole] {
            client.send_packet(packet, PLAIN)?;
        }
        if let Some(next) = packets.get(whole).filter(|_| part > 0) {
            let fds: Vec<_> = next.fds.iter().map(std::os::fd::AsFd::as_fd).collect();
            let bytes = next.bytes(PLAIN);
            client.send(&bytes[..part.min(bytes.len() - 1)], &fds)?;
        }
        guest.queues[0].post((0..8).map(|at| spinel_sim::guest::GuestRequest::write(8 * at, 4096)))?;
        drop(client);
    }
    Ok(())
}
