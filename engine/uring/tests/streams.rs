//! Bytes through streams: in order, whatever the cut, whoever is slow. Knows no protocol.

mod common;

use std::io::{ErrorKind, Read, Write};

use common::pattern;
use common::wire::{SMALL, both_ways, close, core, pair, region, sockets, stream, take_all, turn, until, until_woken};
use proptest::prelude::*;
use rustix::fs::{OFlags, fcntl_getfl};
use rustix::net::sockopt::{set_tcp_nodelay, tcp_nodelay};
use spinel_core::mem::Segment;
use spinel_core::{Armed, Stream, StreamState};
use spinel_uring::{Ring, StreamOptions, TcpStream};

const MIB: usize = 1 << 20;

/// Head, segments (offset and length) and tail of one send.
type Send = (usize, Vec<(usize, usize)>, usize);

fn sends() -> impl Strategy<Value = Vec<Send>> {
    let segments = prop::collection::vec((0..60_000_usize, prop_oneof![Just(0), 1..5_usize, 1..5000_usize]), 0..5);
    prop::collection::vec((prop_oneof![Just(0), 1..200_usize], segments, prop_oneof![Just(0), Just(4)]), 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, max_shrink_iters: 50, ..ProptestConfig::default() })]

    #[test]
    fn what_is_sent_comes_in_order_whatever_the_cut(
        sends in sends(),
        takes in prop::collection::vec(1..3000_usize, 1..20),
        multishot: bool,
    ) {
        let mut core = core();
        let (memory, bytes) = region(&mut core, 1, 65_536);
        let heads = pattern(2, 256);
        let [mut one, mut other] = pair(&mut core, &StreamOptions { multishot, ..SMALL });
        let mut expected = Vec::new();
        let mut got = Vec::new();
        let mut takes = takes.iter().cycle();
        let mut next = 0;
        let all: usize = sends.iter().map(|(head, body, tail)| head + body.iter().map(|(_, len)| len).sum::<usize>() + tail).sum();
        until(&mut core, || {
            while one.room() > 0 && next < sends.len() {
                let (head, body, tail) = &sends[next];
                let segments: Vec<Segment> =
                    body.iter().map(|&(at, len)| memory.segment(at as u64, u32::try_from(len).unwrap()).unwrap()).collect();
                one.send(&heads[..*head], &segments, &heads[200..200 + tail]);
                expected.extend_from_slice(&heads[..*head]);
                body.iter().for_each(|&(at, len)| expected.extend_from_slice(&bytes[at..at + len]));
                expected.extend_from_slice(&heads[200..200 + tail]);
                next += 1;
            }
            let count = other.incoming().len().min(*takes.next().unwrap());
            got.extend_from_slice(&other.incoming()[..count]);
            other.take(count);
            got.len() == all && next == sends.len()
        });
        prop_assert!(got == expected);
        until(&mut core, || one.sent() == u64::try_from(sends.len()).unwrap());
        prop_assert_eq!((one.state(), other.state()), (StreamState::Open, StreamState::Open));
        close(&mut core, [one, other]);
    }
}

#[test]
fn bodies_of_a_mebibyte_go_both_ways_at_once() {
    for options in both_ways(StreamOptions::default()) {
        let mut core = core();
        let (memory, bytes) = region(&mut core, 3, MIB + 4096);
        let mut streams = pair(&mut core, &options);
        let mut got = [Vec::new(), Vec::new()];
        let part = |at: u64, len| memory.segment(at, len).unwrap();
        let body = [part(7, 131_072), part(131_079, 1), part(131_080, 917_503)];
        for _ in 0..8 {
            for stream in &mut streams {
                stream.send(b"head", &body, b"tail");
            }
        }
        let mut expected = b"head".to_vec();
        expected.extend_from_slice(&bytes[7..131_080 + 917_503]);
        expected.extend_from_slice(b"tail");
        let expected = expected.repeat(8);
        until(&mut core, || {
            streams.iter_mut().zip(&mut got).for_each(|(stream, got)| take_all(stream, got));
            got.iter().all(|got| got.len() >= expected.len())
        });
        assert!(got.iter().all(|got| *got == expected));
        until(&mut core, || streams.iter().all(|stream| stream.sent() == 8));
        close(&mut core, streams);
    }
}

#[test]
fn a_peer_that_sends_one_byte_at_a_time_is_understood() {
    for options in both_ways(SMALL) {
        let mut core = core();
        let (mut stream, mut peer) = stream(&mut core, &options);
        peer.set_nodelay(true).unwrap();
        let bytes = pattern(4, 5000);
        let mut got = Vec::new();
        for byte in &bytes {
            peer.write_all(&[*byte]).unwrap();
            turn(&mut core);
            take_all(&mut stream, &mut got);
        }
        until(&mut core, || {
            take_all(&mut stream, &mut got);
            got.len() == bytes.len()
        });
        assert_eq!(got, bytes);
        close(&mut core, [stream]);
    }
}

#[test]
fn a_peer_that_stops_reading_holds_up_its_own_sends_and_nobody_elses() {
    let mut core = core();
    let (memory, bytes) = region(&mut core, 5, MIB);
    let (mut stuck, mut peer) = stream(&mut core, &SMALL);
    let [mut one, mut other] = pair(&mut core, &SMALL);
    let body = [memory.segment(0, 1 << 20).unwrap()];
    // Far more than the kernel's own buffers hold.
    let mut queued = 0;
    for _ in 0..1000 {
        while stuck.room() > 0 {
            stuck.send(b"", &body, b"");
            queued += 1;
        }
        turn(&mut core);
    }
    let went = stuck.sent();
    assert!(went < queued, "the rest waits");
    let mut got = Vec::new();
    for _ in 0..100 {
        one.send(b"aside", &[], &[]);
        until(&mut core, || {
            take_all(&mut other, &mut got);
            got.len() == 5
        });
        got.clear();
    }
    assert_eq!((stuck.sent(), stuck.room()), (went, 0));
    assert_eq!(core.arm(), Armed::Idle, "a core may sleep while somebody does not read");
    let enters = enters(&mut core);
    (0..100).for_each(|_| turn(&mut core));
    assert_eq!(self::enters(&mut core), enters, "and it costs no turn anything");
    // The peer goes on, and everything arrives.
    let mut left = usize::try_from(queued).unwrap() * MIB;
    let mut place = 0;
    let mut chunk = vec![0; 256 * 1024];
    until(&mut core, || {
        match peer.read(&mut chunk) {
            Ok(count) => {
                for piece in chunk[..count].chunks(4096) {
                    let first = piece.len().min(MIB - place);
                    assert!(piece[..first] == bytes[place..place + first] && piece[first..] == bytes[..piece.len() - first]);
                    place = (place + piece.len()) % MIB;
                }
                left -= count;
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
        left == 0 && stuck.sent() == queued
    });
    close(&mut core, [stuck, one, other]);
}

#[test]
fn a_stream_that_nobody_takes_from_holds_up_its_peer_and_costs_what_it_was_opened_with() {
    for options in both_ways(SMALL) {
        let mut core = core();
        let (mut full, mut peer) = stream(&mut core, &options);
        let [mut one, mut other] = pair(&mut core, &options);
        let bytes = pattern(6, 16 * MIB);
        let mut written = 0;
        let write = |peer: &mut std::net::TcpStream, written: &mut usize| match peer.write(&bytes[*written..]) {
            Ok(count) => *written += count,
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        };
        let memory_bytes = full.memory_bytes();
        for _ in 0..1000 {
            write(&mut peer, &mut written);
            turn(&mut core);
        }
        assert!(written < bytes.len(), "the peer has to wait");
        assert_eq!(full.incoming().len(), 4000, "as much as its buffers hold");
        assert_eq!(full.memory_bytes(), memory_bytes);
        let enters = enters(&mut core);
        for _ in 0..100 {
            turn(&mut core);
        }
        assert_eq!(self::enters(&mut core), enters, "it costs no turn anything");
        let mut aside = Vec::new();
        one.send(b"aside", &[], &[]);
        until_woken(&mut core, || {
            take_all(&mut other, &mut aside);
            aside == b"aside"
        });
        let mut got = Vec::new();
        until(&mut core, || {
            write(&mut peer, &mut written);
            take_all(&mut full, &mut got);
            got.len() == bytes.len()
        });
        assert!(got == bytes);
        close(&mut core, [full, one, other]);
    }
}

/// System calls of the core's ring so far.
fn enters(core: &mut spinel_core::Core) -> u64 {
    let ring = core.share(|_| -> Result<Ring, _> { unreachable!("the core has a ring") }).unwrap();
    ring.borrow().enters()
}

#[test]
fn what_a_turn_sends_goes_with_one_system_call_and_one_message_each() {
    let mut core = core();
    let (memory, bytes) = region(&mut core, 7, 4096);
    let (mut streams, mut peers): (Vec<TcpStream>, Vec<_>) = (0..8).map(|_| stream(&mut core, &StreamOptions::default())).unzip();
    turn(&mut core);
    let before = enters(&mut core);
    for _ in 0..10 {
        for stream in &mut streams {
            stream.send(b"answer", &[memory.segment(0, 4096).unwrap()], b"");
            stream.kick();
        }
    }
    core.flush();
    assert_eq!(enters(&mut core) - before, 1);
    let mut expected = b"answer".to_vec();
    expected.extend_from_slice(&bytes);
    for peer in &mut peers {
        let mut got = vec![0; 10 * expected.len()];
        assert_eq!(peer.read(&mut got).unwrap(), got.len(), "all of it is there");
        assert!(got.chunks(expected.len()).all(|one| one == expected));
    }
    until(&mut core, || streams.iter().all(|stream| stream.sent() == 10));
    close(&mut core, streams);
}

#[test]
fn bytes_and_room_wake_a_core_that_sleeps() {
    for options in both_ways(SMALL) {
        let mut core = core();
        let (memory, _) = region(&mut core, 8, 8 * MIB);
        let (mut stream, mut peer) = stream(&mut core, &options);
        peer.set_nonblocking(false).unwrap();
        let body = [memory.segment(0, 8 << 20).unwrap()];
        let worker = std::thread::Builder::new().spawn(move || {
            let mut got = vec![0; 8 * MIB];
            for _ in 0..20 {
                peer.write_all(b"go").unwrap();
                peer.read_exact(&mut got).unwrap();
            }
        });
        let mut got = Vec::new();
        for round in 1..=20 {
            until_woken(&mut core, || {
                take_all(&mut stream, &mut got);
                got == b"go"
            });
            got.clear();
            stream.send(b"", &body, b"");
            until_woken(&mut core, || stream.sent() == round);
        }
        worker.unwrap().join().unwrap();
        close(&mut core, [stream]);
    }
}

#[test]
fn sockets_are_made_not_to_hold_back_small_messages_and_to_wait_where_they_can() {
    let mut core = core();
    let (own, mut peer) = sockets();
    own.set_nonblocking(true).unwrap();
    set_tcp_nodelay(&own, false).unwrap();
    let looked_at = own.try_clone().unwrap();
    let mut stream = TcpStream::open(&mut core, own.into(), &SMALL).unwrap();
    assert!(tcp_nodelay(&looked_at).unwrap());
    assert!(!fcntl_getfl(&looked_at).unwrap().contains(OFlags::NONBLOCK));
    turn(&mut core);
    peer.write_all(b"later").unwrap();
    let mut got = Vec::new();
    until(&mut core, || {
        take_all(&mut stream, &mut got);
        got == b"later"
    });
    assert_eq!(stream.state(), StreamState::Open);
    let (no_tcp, _other) = std::os::unix::net::UnixStream::pair().unwrap();
    assert!(TcpStream::open(&mut core, no_tcp.into(), &SMALL).is_err());
    close(&mut core, [stream]);
}

#[test]
fn a_stream_says_how_much_it_holds_and_keeps_the_core_awake_until_it_was_submitted() {
    let mut core = core();
    let (stream, _peer) = stream(&mut core, &StreamOptions::default());
    println!("a stream of default options holds {} bytes; multishot: {}", stream.memory_bytes(), stream.multishot());
    assert!((128 << 10..256 << 10).contains(&stream.memory_bytes()));
    assert_eq!(core.arm(), Armed::Ready, "nobody has told the kernel yet");
    close(&mut core, [stream]);
}
