//! The table of what hosts say that they should not: what it is answered with or how it ends, while another host's verified
//! requests go on beside it and do not notice.

#[path = "../common/mod.rs"]
mod common;

mod administration;
mod beginnings;
mod connects;
mod proofs;
mod requests;
mod stage;
mod transfers;

use common::world::World;
use spinel_nvmf::pool::PoolSize;
use spinel_nvmf::target::Options;
use stage::{Case, Neighbour, Stage};

/// So few buffers that any which were not given back would be missed before the table has been gone through often.
const POOL: PoolSize = PoolSize { small_units: 64, large_units: 32 };
/// How often the whole table is gone through in one and the same target.
const ROUNDS: usize = 4;
/// Turns that one of the neighbour's requests takes at most, whoever does what beside it: alone they take up to 17.
const TURNS_MAX: usize = 34;
/// What the process may grow by, once it has seen everything: less than a kilobyte for each row that is gone through.
const GROWTH_MAX_BYTES: u64 = 1 << 20;

fn table() -> Vec<Case> {
    [beginnings::cases(), connects::cases(), administration::cases(), requests::cases(), transfers::cases(), proofs::cases()]
        .into_iter()
        .flatten()
        .collect()
}

/// A target with all that the table is about.
fn world() -> World {
    let mut world = World::new(Options { pool: POOL, ..Options::default() });
    proofs::guard(&mut world);
    world
}

/// Memory of this process that is in use, in bytes.
fn resident_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

#[test]
fn the_table_is_long_enough_and_says_nothing_twice() {
    let names: Vec<&str> = table().iter().map(|case| case.name).collect();
    assert!(names.len() >= 80, "{} rows", names.len());
    let mut unique = names.clone();
    unique.sort_unstable();
    unique.dedup();
    assert_eq!(unique.len(), names.len());
}

#[test]
fn whatever_a_host_says_it_is_told_what_is_wrong_and_nobody_else_notices() {
    let mut world = world();
    let mut neighbour = Neighbour::new(&mut world);
    let before = world.pollers();
    let mut settled_bytes = 0;
    for round in 0..ROUNDS {
        for case in table() {
            Stage::set(&mut world, &mut neighbour, &case).run(&case);
            assert_eq!(world.pollers(), before, "{}: nothing is left", case.name);
            assert!(neighbour.longest <= TURNS_MAX, "{}: a neighbour waited for {} turns", case.name, neighbour.longest);
        }
        if round == 0 {
            settled_bytes = resident_bytes();
        }
    }
    let grown = resident_bytes().saturating_sub(settled_bytes);
    assert!(grown <= GROWTH_MAX_BYTES, "{grown} bytes more after {} rows", ROUNDS * table().len());
    assert!(neighbour.done > 100 * ROUNDS, "{} requests of the neighbour", neighbour.done);
    let controllers: Vec<usize> = world.target.subsystems().iter().map(|subsystem| subsystem.controllers.len()).collect();
    assert_eq!(controllers, [0, 1], "only the neighbour has one");
}

#[test]
fn a_host_may_vanish_behind_any_byte() {
    let mut world = world();
    let mut neighbour = Neighbour::new(&mut world);
    let before = world.pollers();
    let said = stage::conversation();
    // Behind every byte of what stands at the beginning, and of headers; behind some of the data.
    let cuts = (0..=said.len()).filter(|cut| *cut < 220 || *cut > 1200 || cut % 16 == 0);
    for cut in cuts {
        stage::vanish(&mut world, &mut neighbour, &said[..cut], cut % 5);
        assert_eq!(world.pollers(), before, "behind {cut} bytes");
        assert!(neighbour.longest <= TURNS_MAX, "behind {cut} bytes a neighbour waited for {} turns", neighbour.longest);
    }
}
