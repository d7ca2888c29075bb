//! Streams over loopback on a core that is turned by hand. Knows no protocol.

use std::net::{TcpListener, TcpStream as Socket};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use spinel_core::mem::Region;
use spinel_core::{Armed, Core, CoreId, Stream, StreamState};
use spinel_uring::{Options, StreamOptions, TcpStream};

use super::now;

/// Small buffers, so that everything wraps and fills soon.
pub(crate) const SMALL: StreamOptions = StreamOptions { receive_buffers: 4, receive_buffer_bytes: 1000, sends: 8, multishot: true };

/// Both ways to receive.
pub(crate) fn both_ways(options: StreamOptions) -> [StreamOptions; 2] {
    [true, false].map(|multishot| StreamOptions { multishot, ..options })
}

pub(crate) fn core() -> Core {
    spinel_uring::core(CoreId(0), Options::default()).unwrap()
}

pub(crate) fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}

/// Both ends of a connection.
pub(crate) fn sockets() -> (Socket, Socket) {
    let listener = listener();
    let one = Socket::connect(listener.local_addr().unwrap()).unwrap();
    (one, listener.accept().unwrap().0)
}

/// A stream, and a socket at the other end that does not wait.
pub(crate) fn stream(core: &mut Core, options: &StreamOptions) -> (TcpStream, Socket) {
    let (own, other) = sockets();
    other.set_nonblocking(true).unwrap();
    (TcpStream::open(core, OwnedFd::from(own), options).unwrap(), other)
}

/// Two streams that are connected.
pub(crate) fn pair(core: &mut Core, options: &StreamOptions) -> [TcpStream; 2] {
    let (one, other) = sockets();
    [one, other].map(|socket| TcpStream::open(core, OwnedFd::from(socket), options).unwrap())
}

/// A region this core knows, full of bytes that differ with their place.
pub(crate) fn region(core: &mut Core, seed: u64, len_bytes: usize) -> (Arc<Region>, Vec<u8>) {
    let region = Region::anonymous(u64::try_from(len_bytes).unwrap()).unwrap();
    let bytes = super::pattern(seed, len_bytes);
    region.write(0, &bytes).unwrap();
    core.map(Arc::clone(&region));
    (region, bytes)
}

/// A turn in which nobody but the streams does anything.
pub(crate) fn turn(core: &mut Core) {
    core.reap(now());
    core.flush();
}

/// Nothing here takes so many turns.
const TURNS_MAX: u32 = 1_000_000;

/// Turns until it is so.
pub(crate) fn until(core: &mut Core, mut so: impl FnMut() -> bool) {
    for _ in 0..TURNS_MAX {
        turn(core);
        if so() {
            return;
        }
    }
    panic!("it did not happen");
}

/// Nothing here takes so long, however busy the machine is.
const FOR_EVER_NS: u64 = 30_000_000_000;

/// Turns, asleep in between, until it is so. Whatever makes it so has to wake the core.
pub(crate) fn until_woken(core: &mut Core, mut so: impl FnMut() -> bool) {
    for _ in 0..TURNS_MAX {
        turn(core);
        if so() {
            return;
        }
        if core.arm() == Armed::Idle {
            let asleep = now();
            core.sleep(Some(asleep.after_ns(FOR_EVER_NS)), asleep);
            assert!(now().since_ns(asleep) < FOR_EVER_NS, "nothing woke the core");
        }
    }
    panic!("it did not happen");
}

/// Takes all that has come.
pub(crate) fn take_all(stream: &mut TcpStream, into: &mut Vec<u8>) {
    while !stream.incoming().is_empty() {
        let count = stream.incoming().len();
        into.extend_from_slice(stream.incoming());
        stream.take(count);
    }
}

/// Closes streams and waits for each of them.
pub(crate) fn close(core: &mut Core, streams: impl IntoIterator<Item = TcpStream>) {
    let mut streams: Vec<TcpStream> = streams.into_iter().collect();
    for stream in &mut streams {
        stream.close();
        assert!(matches!(stream.state(), StreamState::Broken(_)));
    }
    until_woken(core, || streams.iter().all(TcpStream::closed));
}
