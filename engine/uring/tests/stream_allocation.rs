//! The way of a message, from and to both ends, allocates nothing once the streams are open. Knows no protocol.

mod common;

use common::wire::{both_ways, close, core, pair, region, turn, until};
use spinel_core::Stream;
use spinel_uring::StreamOptions;

#[test]
fn a_hundred_thousand_messages_allocate_nothing() {
    const MESSAGES: u64 = 100_000;
    for options in both_ways(StreamOptions { sends: 64, ..StreamOptions::default() }) {
        let mut core = core();
        let (memory, _) = region(&mut core, 1, 1 << 20);
        let [mut one, mut other] = pair(&mut core, &options);
        let bodies = [512, 4096, 131_072].map(|len_bytes| [memory.segment(0, len_bytes).unwrap(), memory.segment(131_072, 1).unwrap()]);
        turn(&mut core);
        let before = spinel_counting::by_this_thread();
        let (mut came, mut queued) = (0, 0);
        until(&mut core, || {
            while one.room() > 0 && queued < MESSAGES {
                // Most of them are short, some with more than what one buffer holds.
                let body = match queued % 64 {
                    0 => &bodies[2][..],
                    1..8 => &bodies[1],
                    8..32 => &bodies[0],
                    _ => &[],
                };
                one.send(b"a head of some bytes", body, b"tail");
                queued += 1;
            }
            while !other.incoming().is_empty() {
                let count = other.incoming().len();
                came += count;
                other.take(count);
            }
            one.sent() == MESSAGES
        });
        assert_eq!(spinel_counting::by_this_thread() - before, 0);
        assert!(came > 0);
        close(&mut core, [one, other]);
    }
}
