//! Nothing is left of streams that were opened and closed. Alone in its process, whose descriptors and mappings it counts.

mod common;

use std::io::Write;
use std::time::Duration;

use common::wire::{SMALL, both_ways, close, core, listener, turn, until};
use rustix::net::sockopt::set_socket_linger;
use spinel_core::Stream;
use spinel_uring::TcpStream;

const MINUTE: Duration = Duration::from_secs(60);

/// Descriptors and mappings of this process.
fn held() -> (usize, usize) {
    let descriptors = std::fs::read_dir("/proc/self/fd").unwrap().count();
    (descriptors, std::fs::read_to_string("/proc/self/maps").unwrap().lines().count())
}

#[test]
fn a_thousand_connections_leave_nothing_behind() {
    for options in both_ways(SMALL) {
        let mut core = core();
        let listener = listener();
        let address = listener.local_addr().unwrap();
        let mut multishot = None;
        let mut hold = |open: usize, total: usize, vanish: bool| {
            let mut streams = Vec::new();
            for number in 0..total {
                let mut stream = TcpStream::connect(&mut core, address, MINUTE, &options).unwrap();
                // Where the kernel does not know it, none of them does; but what one gives back the next one gets.
                assert_eq!(stream.multishot(), *multishot.get_or_insert(stream.multishot()));
                stream.send(b"hello", &[], &[]);
                until(&mut core, || stream.sent() == 1);
                let peer = listener.accept().unwrap().0;
                if vanish && number % 2 == 0 {
                    set_socket_linger(&peer, Some(Duration::ZERO)).unwrap();
                } else {
                    (&peer).write_all(b"hello").unwrap();
                }
                streams.push((stream, peer));
                if streams.len() == open {
                    let (gone, peers): (Vec<_>, Vec<_>) = streams.drain(..).unzip();
                    drop(peers);
                    if number % 4 < 2 {
                        close(&mut core, gone);
                    }
                }
            }
        };
        // Tables grow once.
        hold(50, 50, false);
        let before = held();
        hold(1, 500, true);
        hold(50, 500, true);
        // Those that were dropped in flight go with their last answers, which a close has waited for else.
        (0..10).for_each(|_| turn(&mut core));
        let after = held();
        assert_eq!(after.0, before.0, "descriptors");
        // Each stream would leave two; mappings side by side may count as one.
        assert!(after.1 < before.1 + 10, "mappings: {before:?}, {after:?}");
    }
}
