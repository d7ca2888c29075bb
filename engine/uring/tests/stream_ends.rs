//! How streams begin and end: connecting, closing, breaking, and what is left behind. Knows no protocol.

mod common;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use common::wire::{SMALL, both_ways, close, core, listener, pair, region, sockets, stream, take_all, turn, until, until_woken};
use rustix::io::Errno;
use rustix::net::sockopt::set_socket_linger;
use rustix::net::{AddressFamily, SocketType, bind, getsockname, listen, socket};
use spinel_core::mem::Region;
use spinel_core::{Break, Core, Stream, StreamState};
use spinel_uring::{StreamOptions, TcpStream};

const MINUTE: Duration = Duration::from_secs(60);

fn broken(errno: Errno) -> StreamState {
    StreamState::Broken(Break::System(errno.raw_os_error()))
}

/// Queues as much as there is room for, over and over, until the kernel takes no more.
fn stuff(core: &mut Core, stream: &mut TcpStream) -> u64 {
    let (memory, _) = region(core, 1, 1 << 20);
    let mut queued = 0;
    for _ in 0..300 {
        while stream.room() > 0 {
            stream.send(b"head", &[memory.segment(0, 1 << 20).unwrap()], b"");
            queued += 1;
        }
        turn(core);
    }
    assert!(stream.sent() < queued);
    queued
}

#[test]
fn a_peer_that_vanishes_breaks_the_stream_and_every_send_is_counted() {
    for options in both_ways(SMALL) {
        let mut core = core();
        let (mut stream, peer) = stream(&mut core, &options);
        let queued = stuff(&mut core, &mut stream);
        // Without lingering a closed socket resets the connection at once.
        set_socket_linger(&peer, Some(Duration::ZERO)).unwrap();
        drop(peer);
        until_woken(&mut core, || stream.sent() == queued);
        assert!(matches!(stream.state(), StreamState::Broken(Break::System(_))), "{:?}", stream.state());
        let reason = stream.state();
        assert!(!stream.closed(), "nobody has closed it");
        // What is sent from then on is lost, and counted at once.
        stream.send(b"late", &[], &[]);
        assert_eq!(stream.sent(), queued + 1);
        assert!(stream.room() > 0);
        turn(&mut core);
        stream.close();
        until_woken(&mut core, || stream.closed());
        assert_eq!(stream.state(), reason, "the first reason stays");
    }
}

#[test]
fn an_idle_stream_learns_of_a_reset_while_the_core_sleeps() {
    for options in both_ways(SMALL) {
        let mut core = core();
        let (stream, peer) = stream(&mut core, &options);
        turn(&mut core);
        set_socket_linger(&peer, Some(Duration::ZERO)).unwrap();
        drop(peer);
        until_woken(&mut core, || stream.state() != StreamState::Open);
        assert_eq!(stream.state(), broken(Errno::CONNRESET));
        close(&mut core, [stream]);
    }
}

#[test]
fn after_the_others_last_byte_there_is_still_what_came_and_still_a_way_back() {
    for options in both_ways(SMALL) {
        let mut core = core();
        let (mut stream, mut peer) = stream(&mut core, &options);
        peer.write_all(b"the last").unwrap();
        peer.shutdown(Shutdown::Write).unwrap();
        until_woken(&mut core, || stream.state() == StreamState::Ended);
        assert_eq!(stream.incoming(), b"the last");
        stream.take(8);
        stream.send(b"an answer", &[], &[]);
        until_woken(&mut core, || stream.sent() == 1);
        let mut got = [0; 9];
        peer.read_exact(&mut got).unwrap();
        assert_eq!((&got, stream.state()), (b"an answer", StreamState::Ended));
        close(&mut core, [stream]);
    }
}

#[test]
fn closing_lets_go_of_everything_in_flight_and_the_peer_sees_the_end() {
    for options in both_ways(SMALL) {
        let mut core = core();
        let (mut stream, mut peer) = stream(&mut core, &options);
        peer.write_all(b"not taken").unwrap();
        let queued = stuff(&mut core, &mut stream);
        assert!(!stream.closed());
        stream.close();
        stream.close();
        until_woken(&mut core, || stream.closed());
        assert_eq!((stream.sent(), stream.state()), (queued, StreamState::Broken(Break::Closed)));
        drop(stream);
        peer.set_nonblocking(false).unwrap();
        let mut rest = Vec::new();
        // The end, or a reset if the peer's own bytes were not taken.
        let end = peer.read_to_end(&mut rest);
        assert!(end.as_ref().map_or_else(|error| error.raw_os_error() == Some(Errno::CONNRESET.raw_os_error()), |_| true), "{end:?}");
    }
}

#[test]
fn a_stream_may_be_closed_before_its_first_turn() {
    let mut core = core();
    let (mut stream, _peer) = stream(&mut core, &SMALL);
    stream.send(b"never", &[], &[]);
    stream.close();
    assert!(stream.closed());
    assert_eq!(stream.sent(), 1);
}

#[test]
fn a_stream_dropped_in_flight_ends_all_the_same() {
    for options in both_ways(SMALL) {
        let mut core = core();
        let (mut dropped, mut peer) = stream(&mut core, &options);
        stuff(&mut core, &mut dropped);
        drop(dropped);
        peer.set_nonblocking(false).unwrap();
        let mut rest = Vec::new();
        peer.read_to_end(&mut rest).unwrap();
        // Its place is taken again as soon as the kernel has let go of it.
        turn(&mut core);
        turn(&mut core);
        let [mut one, mut other] = pair(&mut core, &options);
        one.send(b"after", &[], &[]);
        until_woken(&mut core, || other.incoming() == b"after");
        other.take(5);
        close(&mut core, [one, other]);
    }
}

#[test]
fn memory_that_is_not_announced_breaks_the_stream_instead_of_going_out_shorter() {
    let mut core = core();
    let (mut stream, mut peer) = stream(&mut core, &SMALL);
    let stranger = Region::anonymous(4096).unwrap();
    stream.send(b"before", &[], &[]);
    until(&mut core, || stream.sent() == 1);
    stream.send(b"head", &[stranger.segment(0, 4096).unwrap()], &[]);
    assert_eq!((stream.state(), stream.sent()), (broken(Errno::FAULT), 2));
    stream.close();
    until_woken(&mut core, || stream.closed());
    peer.set_nonblocking(false).unwrap();
    let mut got = Vec::new();
    peer.read_to_end(&mut got).unwrap();
    assert_eq!(got, b"before");
}

#[test]
fn memory_whose_file_was_made_shorter_goes_out_as_zeroes_and_the_stream_lives_on() {
    let mut core = core();
    let (mut stream, mut peer) = stream(&mut core, &SMALL);
    let file = tempfile::tempfile().unwrap();
    file.set_len(64 << 10).unwrap();
    let region = Region::of_file(file.as_fd(), 0, 64 << 10).unwrap();
    region.write(0, &vec![7; 64 << 10]).unwrap();
    core.map(Arc::clone(&region));
    // Two pages and a byte are left of it, and a segment begins inside each part.
    file.set_len(8193).unwrap();
    let segments = [(4000, 20_000), (40_001, 5000), (0, 10)].map(|(at, len)| region.segment(at, len).unwrap());
    stream.send(b"head", &segments, b"tail");
    stream.send(b"another's", &[], &[]);
    let mut expected = b"head".to_vec();
    expected.extend_from_slice(&[7; 4193]);
    expected.resize(expected.len() + 15_807 + 5000, 0);
    expected.extend_from_slice(&[7; 10]);
    expected.extend_from_slice(b"tailanother's");
    until_woken(&mut core, || stream.sent() == 2);
    peer.set_nonblocking(false).unwrap();
    let mut got = vec![0; expected.len()];
    peer.read_exact(&mut got).unwrap();
    assert!(got == expected);
    assert!(region.poisoned());
    assert_eq!(stream.state(), StreamState::Open);
    close(&mut core, [stream]);
}

#[test]
fn connecting_waits_for_nobody_and_what_is_sent_meanwhile_goes_afterwards() {
    for (options, address) in both_ways(SMALL).into_iter().zip(["127.0.0.1:0", "[::1]:0"]) {
        let mut core = core();
        let Ok(listener) = std::net::TcpListener::bind(address) else { continue };
        let mut stream = TcpStream::connect(&mut core, listener.local_addr().unwrap(), MINUTE, &options).unwrap();
        assert_eq!((stream.connected(), stream.state()), (false, StreamState::Open));
        stream.send(b"hello", &[], &[]);
        until_woken(&mut core, || stream.sent() == 1);
        assert!(stream.connected());
        let mut peer = listener.accept().unwrap().0;
        peer.write_all(b"welcome").unwrap();
        let mut got = [0; 5];
        peer.read_exact(&mut got).unwrap();
        let mut answer = Vec::new();
        until_woken(&mut core, || {
            take_all(&mut stream, &mut answer);
            answer == b"welcome"
        });
        assert_eq!(&got, b"hello");
        close(&mut core, [stream]);
    }
}

#[test]
fn a_refused_connection_breaks_the_stream() {
    let mut core = core();
    let nobody = listener().local_addr().unwrap();
    let mut stream = TcpStream::connect(&mut core, nobody, MINUTE, &SMALL).unwrap();
    stream.send(b"hello", &[], &[]);
    until_woken(&mut core, || stream.state() != StreamState::Open);
    assert_eq!((stream.state(), stream.sent()), (broken(Errno::CONNREFUSED), 1));
    close(&mut core, [stream]);
}

/// A listener whose line is full: whoever connects gets no answer.
fn deaf() -> (OwnedFd, Vec<std::net::TcpStream>, SocketAddr) {
    let deaf = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&deaf, &SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
    listen(&deaf, 0).unwrap();
    let address = SocketAddr::try_from(getsockname(deaf.as_fd()).unwrap()).unwrap();
    let mut waiting = Vec::new();
    while let Ok(socket) = std::net::TcpStream::connect_timeout(&address, Duration::from_millis(200)) {
        waiting.push(socket);
    }
    (deaf, waiting, address)
}

#[test]
fn who_does_not_answer_in_time_breaks_the_stream_and_who_closes_before_need_not_wait() {
    let mut core = core();
    let (_deaf, _waiting, address) = deaf();
    let mut late = TcpStream::connect(&mut core, address, Duration::from_millis(50), &SMALL).unwrap();
    let mut given_up = TcpStream::connect(&mut core, address, MINUTE, &SMALL).unwrap();
    late.send(b"hello", &[], &[]);
    given_up.send(b"hello", &[], &[]);
    until_woken(&mut core, || late.state() != StreamState::Open);
    assert_eq!((late.state(), late.sent()), (broken(Errno::TIMEDOUT), 1));
    assert_eq!((given_up.state(), given_up.sent()), (StreamState::Open, 0));
    given_up.close();
    until_woken(&mut core, || given_up.closed());
    assert_eq!((given_up.state(), given_up.sent()), (StreamState::Broken(Break::Closed), 1));
    close(&mut core, [late]);
}

#[test]
fn a_thousand_streams_are_open_at_once() {
    let mut core = core();
    let mut pairs: Vec<[TcpStream; 2]> = (0..500).map(|_| pair(&mut core, &SMALL)).collect();
    for round in 1..4 {
        for [one, other] in &mut pairs {
            one.send(b"there", &[], &[]);
            other.send(b"back", &[], &[]);
        }
        until(&mut core, || {
            pairs.iter_mut().all(|pair| {
                let came = |stream: &mut TcpStream, what: &[u8]| stream.incoming() == what;
                pair.iter().all(|stream| stream.sent() == round) && came(&mut pair[0], b"back") && came(&mut pair[1], b"there")
            })
        });
        for [one, other] in &mut pairs {
            one.take(4);
            other.take(5);
        }
    }
    close(&mut core, pairs.into_iter().flatten());
}

#[test]
fn a_descriptor_handed_over_is_closed_with_its_stream() {
    let mut core = core();
    let (own, mut peer) = sockets();
    let mut stream = TcpStream::open(&mut core, own.into(), &StreamOptions::default()).unwrap();
    turn(&mut core);
    stream.close();
    until_woken(&mut core, || stream.closed());
    drop(stream);
    assert_eq!(peer.read(&mut [0; 8]).unwrap(), 0);
}
