//! Messages that are right each by itself, in an order in which no front end sends them. Knows no ring's content.

use spinel_sim::guest::GuestRequest;

use crate::guest::{Guest, Kind, RING_SIZE, new_memory, ring_up};
use crate::wire::{
    ADD_MEM_REG, Client, GET_VRING_BASE, LOG_ALL, PLAIN, Packet, RESET_DEVICE, RESET_OWNER, RING_PACKED, SET_BACKEND_REQ_FD, SET_CONFIG,
    SET_FEATURES, SET_OWNER, SET_STATUS, SET_VRING_ADDR, SET_VRING_BASE, SET_VRING_CALL, SET_VRING_ENABLE, SET_VRING_ERR, SET_VRING_KICK,
    SET_VRING_NUM, longs, words,
};
use crate::{Entry, Must, Outcome, Surprise, Target, Visit};

type Story = fn(&mut Visit) -> Outcome;

const NOWHERE: Must = Must::Fault("are not all guest memory");

pub(crate) fn entries() -> Vec<Entry> {
    let mut entries = vec![
        Entry::free("sequence: rings started before there is memory", before_memory),
        Entry::free("sequence: everything backwards", backwards),
        Entry::free("sequence: a second client, which waits until the first has left", second_client),
        Entry::free("sequence: a ring without features", |target| {
            let guest = Guest::new(Kind::Split, 1)?;
            let mut client = Client::connect(&target.socket)?;
            for packet in std::iter::once(guest.table()?).chain(guest.ring_packets(0)?) {
                client.send_packet(&packet, PLAIN)?;
            }
            client.sync()?;
            client.leave()
        }),
        Entry::story("sequence: all 64 rings in the same place", Must::Endure, Kind::Packed, all_rings),
        Entry::story("sequence: 64 rings of 32,768 descriptors", Must::Endure, Kind::Split, large_rings),
        Entry::story("sequence: a packed ring that begins in two places", Must::Close("a ring base of"), Kind::Packed, |visit| {
            visit.client.send_packet(&Packet::new(SET_VRING_BASE, words(&[0, 0x8003_8007])), PLAIN)
        }),
        Entry::story("sequence: a packed ring that begins behind its end", Must::Fault("cannot begin at"), Kind::Packed, |visit| {
            visit.tell(SET_VRING_BASE, words(&[0, 0x8040_8040]))
        }),
        Entry::story("sequence: the connection itself as the back-end channel", Must::Endure, Kind::Split, |visit| {
            let own = visit.client.socket().try_clone_to_owned()?;
            visit.tell_with(SET_BACKEND_REQ_FD, vec![], own)
        }),
        Entry::story("sequence: a log of all writes, and no log", Must::Fault("there is no log of all memory"), Kind::Split, |visit| {
            visit.tell(SET_FEATURES, longs(&[Kind::Split.features() | LOG_ALL]))
        }),
    ];
    let both: [(&str, Must, Story); 18] = [
        ("the end of a ring, twice", Must::Endure, ends_twice),
        ("another size under a running ring", Must::Endure, |visit| visit.tell(SET_VRING_NUM, words(&[0, 8]))),
        ("the largest size under a running ring", Must::Endure, |visit| visit.tell(SET_VRING_NUM, words(&[0, 32768]))),
        ("a running ring at address 0", NOWHERE, |visit| visit.tell(SET_VRING_ADDR, [words(&[0, 0]), longs(&[0; 4])].concat())),
        ("a running ring at the last address", NOWHERE, |visit| at(visit, u64::MAX - 15)),
        ("a running ring at an odd address", Must::Fault("is not aligned"), |visit| at(visit, visit.guest.scratch_user() + 1)),
        ("a running ring across the end of memory", NOWHERE, |visit| at(visit, visit.guest.scratch_user() + (1 << 20) - 16)),
        ("the three parts of a running ring in one place", Must::Endure, |visit| at(visit, visit.guest.scratch_user())),
        ("the other layout under running rings", Must::Endure, |visit| {
            visit.tell(SET_FEATURES, longs(&[visit.guest.kind.features() ^ RING_PACKED]))?;
            ring_up(&visit.guest.queues[0].kick)
        }),
        ("no features at all under running rings", Must::Endure, |visit| {
            visit.tell(SET_FEATURES, longs(&[0]))?;
            ring_up(&visit.guest.queues[0].kick)
        }),
        ("a reset under load", Must::Endure, |visit| reset(visit, RESET_DEVICE, vec![])),
        ("a status of 0 under load", Must::Endure, |visit| reset(visit, SET_STATUS, longs(&[0]))),
        ("the owner's reset under load", Must::Endure, owner_reset),
        ("the base set back under load", Must::Endure, base_set_back),
        ("rings stopped and started under load, 100 times", Must::Endure, stop_and_start),
        ("1,000 kicks' descriptors under load", Must::Endure, |visit| exchange(visit, SET_VRING_KICK)),
        ("1,000 calls' descriptors under load", Must::Endure, |visit| exchange(visit, SET_VRING_CALL)),
        ("one eventfd for everything", Must::Endure, one_eventfd),
    ];
    for (name, must, act) in both {
        entries.extend(Entry::stories(&format!("sequence: {name}"), must, act));
    }
    entries.extend(Entry::stories("sequence: a ring that is polled, and never kicked", Must::Endure, |visit| {
        visit.tell(SET_VRING_KICK, longs(&[1 << 8]))?;
        visit.guest.queues[0].check(0, 5)
    }));
    entries.extend(Entry::stories("sequence: the cache switched 100 times under load", Must::Endure, |visit| {
        load(visit)?;
        for value in 0..100 {
            visit.tell(SET_CONFIG, [words(&[32, 1, 0]), vec![value % 2]].concat())?;
        }
        Ok(())
    }));
    entries
}

fn before_memory(target: &Target) -> Outcome {
    let mut guest = Guest::new(Kind::Split, 1)?;
    let mut client = Client::negotiated(&target.socket, Kind::Split.features())?;
    for packet in guest.ring_packets(0)? {
        client.tell(&packet)?;
    }
    ring_up(&guest.queues[0].kick)?;
    client.tell(&guest.table()?)?;
    guest.queues[0].check(0, 1)?;
    client.leave()
}

fn backwards(target: &Target) -> Outcome {
    let mut guest = Guest::new(Kind::Packed, 1)?;
    let client = Client::negotiated(&target.socket, 0)?;
    for packet in guest.ring_packets(0)?.iter().rev() {
        client.send_packet(packet, PLAIN | 1 << 3)?;
    }
    client.leave()?;
    // The other way round it is a ring again.
    let client = guest.attach(&target.socket)?;
    guest.queues[0].check(0, 1)?;
    client.leave()
}

fn second_client(target: &Target) -> Outcome {
    let guest = Guest::new(Kind::Split, 1)?;
    let first = guest.attach(&target.socket)?;
    let mut second = Client::connect(&target.socket)?;
    first.leave()?;
    second.sync()?;
    second.leave()
}

/// Every ring of the disk, in the place of the first, with load in it.
fn all_rings(visit: &mut Visit) -> Outcome {
    let [descriptors, available, used] = visit.guest.queues[0].ring.addresses();
    for index in 1..64 {
        start(visit, index, RING_SIZE, [descriptors, used, available])?;
    }
    load(visit)?;
    visit.client.sync()
}

/// Where rings lie that are too large for the guest's own memory: the same address for the guest and for its front end.
const LARGE_AT: u64 = 1 << 40;
const LARGEST: u16 = 32768;

/// Memory for rings of the largest size, which many of them may lie in.
fn large_memory(visit: &mut Visit) -> Outcome {
    visit.tell_with(ADD_MEM_REG, longs(&[0, LARGE_AT, 4 << 20, LARGE_AT, 0]), new_memory(4 << 20)?)
}

/// A ring of the largest size in place of one that runs.
pub(crate) fn large_ring(visit: &mut Visit, index: u32) -> Outcome {
    large_memory(visit)?;
    start(visit, index, LARGEST, [LARGE_AT, LARGE_AT + (2 << 20), LARGE_AT + (1 << 20)])
}

fn large_rings(visit: &mut Visit) -> Outcome {
    large_ring(visit, 0)?;
    (1..64).try_for_each(|index| start(visit, index, LARGEST, [LARGE_AT, LARGE_AT + (2 << 20), LARGE_AT + (1 << 20)]))
}

/// Starts a ring of a size in a place: descriptors, used and available ring.
fn start(visit: &mut Visit, index: u32, size: u16, place: [u64; 3]) -> Outcome {
    visit.tell(SET_VRING_NUM, words(&[index, u32::from(size)]))?;
    visit.tell(SET_VRING_ADDR, [words(&[index, 0]), longs(&place), longs(&[0])].concat())?;
    visit.tell_with(SET_VRING_KICK, longs(&[u64::from(index)]), visit.guest.queues[0].kick.try_clone()?)?;
    visit.tell(SET_VRING_ENABLE, words(&[index, 1]))
}

fn at(visit: &mut Visit, address: u64) -> Outcome {
    visit.tell(SET_VRING_ADDR, [words(&[0, 0]), longs(&[address; 3]), longs(&[0])].concat())
}

/// Fills both rings with writes, and waits for none of them.
fn load(visit: &mut Visit) -> Outcome {
    for queue in &mut visit.guest.queues {
        let room = u64::try_from(queue.ring.room()).expect("a ring");
        queue.post((0..room).map(|at| GuestRequest::write(8 * at, 4096)))?;
    }
    Ok(())
}

fn ends_twice(visit: &mut Visit) -> Outcome {
    load(visit)?;
    let first = visit.client.ask(GET_VRING_BASE, &words(&[0, 0]))?;
    let second = visit.client.ask(GET_VRING_BASE, &words(&[0, 0]))?;
    if first == second { Ok(()) } else { Err(Surprise::of("a ring that has stopped is somewhere else a moment later".to_owned())) }
}

fn reset(visit: &mut Visit, code: u32, body: Vec<u8>) -> Outcome {
    load(visit)?;
    visit.tell(code, body)?;
    visit.tell(SET_OWNER, vec![])?;
    visit.tell(SET_FEATURES, longs(&[visit.guest.kind.features()]))?;
    anew(visit)
}

/// Sets up fresh rings, and sees that they are served.
fn anew(visit: &mut Visit) -> Outcome {
    for index in 0..2 {
        visit.guest.renew(index);
        for packet in visit.guest.ring_packets(u32::try_from(index).expect("two rings"))? {
            visit.client.tell(&packet)?;
        }
        visit.guest.queues[index].check(0, 7)?;
    }
    Ok(())
}

fn owner_reset(visit: &mut Visit) -> Outcome {
    load(visit)?;
    visit.tell(RESET_OWNER, vec![])?;
    for index in 0..2 {
        visit.tell(SET_VRING_ENABLE, words(&[index, 1]))?;
    }
    visit.client.sync()
}

fn base_set_back(visit: &mut Visit) -> Outcome {
    load(visit)?;
    for base in [0, 1, 7] {
        visit.tell(SET_VRING_BASE, words(&[0, base]))?;
        ring_up(&visit.guest.queues[0].kick)?;
    }
    visit.client.sync()
}

fn stop_and_start(visit: &mut Visit) -> Outcome {
    load(visit)?;
    for round in 0..100 {
        visit.tell(SET_VRING_ENABLE, words(&[0, round % 2]))?;
        visit.client.ask(GET_VRING_BASE, &words(&[1, 0]))?;
        visit.tell_with(SET_VRING_KICK, longs(&[1]), visit.guest.queues[1].kick.try_clone()?)?;
        ring_up(&visit.guest.queues[1].kick)?;
    }
    Ok(())
}

fn exchange(visit: &mut Visit, code: u32) -> Outcome {
    load(visit)?;
    for _ in 0..1000 {
        let file = if code == SET_VRING_KICK { &visit.guest.queues[0].kick } else { &visit.guest.queues[0].call };
        visit.client.tell(&Packet::with(code, longs(&[0]), vec![file.try_clone()?]))?;
    }
    Ok(())
}

fn one_eventfd(visit: &mut Visit) -> Outcome {
    for code in [SET_VRING_CALL, SET_VRING_ERR, SET_VRING_KICK] {
        for index in 0..2 {
            visit.tell_with(code, longs(&[index]), visit.guest.queues[0].kick.try_clone()?)?;
        }
    }
    load(visit)
}
