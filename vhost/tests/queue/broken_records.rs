//! Records that no back end has left behind: refused with a reason, or no worse than their front end's own loss.

use spinel_core::mem::Region;
use spinel_sim::guest::Layout;
use spinel_vhost::{RecordError, RecordPlace, RingError};

use crate::LAYOUT;
use crate::recovery::{SIZE, World, read};

type Break = fn(&World);

/// Records that cannot be gone on with, and how that is called. Their guest has reads in flight at 10, 20 and 30.
fn broken() -> Vec<(&'static str, bool, Break, RecordError)> {
    vec![
        ("another version", false, |world| world.set(8, 2), RecordError::Foreign { version: 2, size: SIZE }),
        ("another version", true, |world| world.set(8, 0xffff), RecordError::Foreign { version: 0xffff, size: SIZE }),
        ("another size", false, |world| world.set(10, 64), RecordError::Foreign { version: 1, size: 64 }),
        ("another size", true, |world| world.set(10, 0), RecordError::Foreign { version: 1, size: 0 }),
        ("a used index far behind", false, |world| world.set(14, 0x8000), RecordError::Broken("the used ring went on without it")),
        ("a used index ahead", false, |world| world.set(14, 1), RecordError::Broken("the used ring went on without it")),
        (
            "a head outside",
            false,
            |world| {
                world.set(14, 0xffff);
                world.set(12, SIZE);
            },
            RecordError::Broken("it names a head outside the ring"),
        ),
        (
            "a head outside, further down",
            false,
            |world| {
                world.set(14, 0xfffe);
                world.set(12, 1);
                world.set(world.entry(1) + 6, 0xffff);
            },
            RecordError::Broken("it names a head outside the ring"),
        ),
        ("a free entry outside", true, |world| world.set(12, SIZE), RecordError::Broken("it names a descriptor outside the ring")),
        ("an old free entry outside", true, |world| world.set(14, SIZE), RecordError::Broken("it names a descriptor outside the ring")),
        ("a place outside", true, |world| world.set(16, SIZE), RecordError::Broken("it names a descriptor outside the ring")),
        ("an old place outside", true, |world| world.set(18, 0xffff), RecordError::Broken("it names a descriptor outside the ring")),
        (
            "a list that leads outside",
            true,
            |world| world.set(world.entry(9) + 2, SIZE),
            RecordError::Broken("its lists lead outside the ring"),
        ),
        (
            "chains that share an entry",
            true,
            |world| world.set(world.entry(0) + 6, SIZE),
            RecordError::Broken("two of its chains share an entry"),
        ),
        (
            "a chain in a circle",
            true,
            |world| world.set(world.entry(0) + 6, 0xffff),
            RecordError::Broken("two of its chains share an entry"),
        ),
        (
            "a chain of nothing",
            true,
            |world| world.set(world.entry(0) + 6, 0),
            RecordError::Broken("a chain of no descriptors is in flight"),
        ),
    ]
}

#[test]
fn a_record_that_cannot_be_is_refused_and_says_why() {
    for (what, packed, break_it, expected) in broken() {
        let (world, mut bench) = World::new(Layout { packed, ..LAYOUT });
        read(&mut bench, &[10, 20, 30]);
        break_it(&world);
        let refused = world.try_serve(bench.guest).err().unwrap_or_else(|| panic!("{what} was not noticed"));
        assert_eq!(refused, RingError::Record(expected), "{what}");
        println!("{what}: {refused}");
    }
}

#[test]
fn a_record_that_does_not_lie_in_its_memory_is_refused() {
    // A split ring's is half as long.
    for (packed, short) in [(false, 576), (true, 64)] {
        let (world, bench) = World::new(Layout { packed, ..LAYOUT });
        let needed = RecordPlace::bytes(SIZE);
        for (bytes, offset) in [(needed - short, 0), (needed, short), (needed + 64, 4), (needed, u64::MAX - 4096)] {
            let place = RecordPlace { region: Region::anonymous(bytes).unwrap(), offset };
            let refused = world.ring(&bench.guest).on_record(&place, false).err().unwrap();
            assert!(matches!(refused, RingError::Record(RecordError::Place(_))), "{refused}");
        }
    }
}

/// What is wrong with these is nobody's business but their front end's.
#[test]
fn a_record_that_lies_costs_its_own_queue_at_most() {
    let lies: [(&str, bool, Break); 9] = [
        ("everything is in flight", false, |world| (0..SIZE).for_each(|head| world.set(world.entry(head), 1))),
        ("nothing is in flight", false, |world| (0..SIZE).for_each(|head| world.set(world.entry(head), 0))),
        ("counters of all kinds", false, |world| (0..SIZE).for_each(|head| world.set(world.entry(head) + 14, head ^ 0xffff))),
        ("a circle of ended ones", false, |world| {
            world.set(14, 0u16.wrapping_sub(SIZE));
            world.set(12, 2);
            world.set(world.entry(2) + 6, 2);
        }),
        ("everything is in flight", true, |world| {
            for entry in 0..SIZE {
                world.set(world.entry(entry), 1);
                world.set(world.entry(entry) + 6, 1);
            }
        }),
        ("an id outside", true, |world| world.set(world.entry(0) + 16, 0xffff)),
        ("an id twice", true, |world| world.set(world.entry(1) + 16, world.get(world.entry(0) + 16))),
        ("a descriptor nowhere", true, |world| world.set(world.entry(1) + 30, 0x7fff)),
        ("another lap", true, |world| world.set(20, 0x0100)),
    ];
    for (what, packed, lie) in lies {
        for indirect in [true, false] {
            let (world, mut bench) = World::new(Layout { packed, indirect, ..LAYOUT });
            read(&mut bench, &[10, 20, 30]);
            lie(&world);
            let mut bench = world.kill(bench);
            for _ in 0..100 {
                bench.turn();
                world.device.finish_all();
            }
            println!("{what}: {:?}", bench.events.try_recv().ok());
            bench.stop();
        }
    }
}
