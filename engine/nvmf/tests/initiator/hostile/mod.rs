//! A target that means harm, or is broken: whatever it says, nothing here crashes or is done wrong, and as soon as it behaves
//! everything works.

mod cases;
pub(crate) mod scripted;

use std::time::Duration;

use spinel_core::mem::Segment;
use spinel_core::{Channel, Completions, Lba, Op, Request, Status, Tag};
use spinel_nvmf::initiator::{AttachError, OnTimeout, Settings};
use spinel_nvmf::target::Options;
use spinel_sim::{Prng, WireOptions, every_seed};

use super::world::{World, lab};
use cases::{Case, Then, cases};
pub(crate) use scripted::{At, Mischief, Say, Scripted, block};

fn world(case: &Case) -> World {
    let wire = WireOptions { sends: 4096, window_bytes: 1 << 20, stall_one_in: 0, ..WireOptions::default() };
    let settings = Settings {
        keep_alive: Duration::from_secs(1),
        admin_timeout: Duration::from_secs(3),
        connect_timeout: Duration::from_secs(2),
        timeout: Some(Duration::from_secs(2)),
        on_timeout: OnTimeout::Reset,
        ..Settings::default()
    };
    let world = World::new(1, Options::default(), settings, wire, 1);
    lab(|lab| {
        lab.scripted = Some(Vec::new());
        lab.mischief = Some(case.mischief());
    });
    world
}

/// One request after the other, and how it ended.
fn ask(world: &mut World, channel: &mut dyn Channel, op: Op, start: u64, blocks: u32, segments: &[Segment]) -> Status {
    let mut done = Completions::limited(2);
    channel.submit(Request { tag: Tag(1), op, at: world.now, start: Lba(start), blocks, segments });
    channel.kick();
    for _ in 0..100_000 {
        world.turn_at_most(1_000_000);
        channel.poll(world.now, &mut done);
        if let [completion] = done.as_slice() {
            assert_eq!(completion.tag, Tag(1));
            return completion.status;
        }
    }
    panic!("a request never ends: {:?}", world.initiator.controllers());
}

/// Reads and writes, small and large; what is read is right.
fn works(world: &mut World, name: &str) {
    let device = world.device("far", 1);
    let memory = world.memory(64 << 10);
    let mut channel = world.channel(&device, 0, 4);
    for round in 0..2 {
        // Time for a keep-alive.
        world.pass(Duration::from_millis(700 * round));
        for blocks in [1, 64] {
            let len_bytes = blocks * 512;
            let segment = memory.segment(0, len_bytes).unwrap();
            memory.zero(0, len_bytes.into()).unwrap();
            let status = ask(world, &mut *channel, Op::Read, 10 * round, blocks, &[segment]);
            assert_eq!(status, Status::Ok, "{name}: a read of {blocks}");
            let mut bytes = vec![0; len_bytes as usize];
            memory.read(0, &mut bytes).unwrap();
            let expected: Vec<u8> = (10 * round..10 * round + u64::from(blocks)).flat_map(block).collect();
            assert!(bytes == expected, "{name}: what was read is wrong");
            let status = ask(world, &mut *channel, Op::Write { fua: false }, 0, blocks, &[segment]);
            assert_eq!(status, Status::Ok, "{name}: a write of {blocks}");
        }
    }
}

fn run(case: &Case) {
    let mut world = world(case);
    let mut spec = world.spec("far", 0);
    (spec.header_digest, spec.data_digest) = (case.digests, case.digests);
    let attached = world.attach(spec.clone());
    let name = case.name;
    match (&case.then, attached) {
        (Then::Refused(why), Err(error @ AttachError::Failed { .. })) => {
            assert!(error.to_string().contains(why), "{name}: {error}");
            lab(|lab| lab.mischief = None);
            world.attach(spec).unwrap_or_else(|error| panic!("{name}: it behaves now, but: {error}"));
            world.turn();
            works(&mut world, name);
        }
        (Then::Works, Ok(_)) => {
            works(&mut world, name);
            let done = lab(|lab| lab.mischief.as_ref().map_or(0, |mischief| mischief.done));
            assert!(done > 0, "{name}: it was never done");
        }
        (Then::Nothing, Ok(attached)) => assert_eq!((attached.namespaces.len(), world.devices.len()), (0, 0), "{name}"),
        (then, attached) => panic!("{name}: {then:?} was expected, not {attached:?}"),
    }
}

#[test]
fn answers_that_are_spoilt_anywhere_do_no_harm() {
    let spoilt = std::cell::Cell::new(0);
    every_seed(150, |seed| {
        let mut world = world(&cases()[0]);
        lab(|lab| {
            lab.mischief = None;
            lab.prng = Some(Prng::new(seed));
            // In vain or not: it may be spoilt, too.
            lab.spoils_one_in = if seed % 3 == 0 { 10 } else { 40 };
        });
        let mut spec = world.spec("far", 0);
        (spec.header_digest, spec.data_digest) = (true, true);
        let mut there = false;
        for _ in 0..50 {
            there = world.attach(spec.clone()).is_ok() && world.devices.len() == 1;
            if there {
                break;
            }
            let _ = world.initiator.detach("far", None).map(|mut detaching| world.until("it has gone", |_| detaching.is_done()));
        }
        if !there {
            lab(|lab| lab.spoils_one_in = 0);
            world.attach(spec).unwrap();
        }
        works(&mut world, "spoilt");
        works(&mut world, "spoilt");
        spoilt.set(spoilt.get() + lab(|lab| lab.spoilt));
    });
    assert!(spoilt.get() > 0, "nothing was spoilt");
}

#[test]
fn whatever_a_target_says_nothing_is_done_wrong() {
    let cases = cases();
    assert!(cases.len() >= 60, "{} cases", cases.len());
    for case in &cases {
        run(case);
    }
}
